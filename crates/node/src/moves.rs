//! The source's side of a planned handover: a customer moves its service to another cloud.
//!
//! Enters: the wish, what copies, gateway and heir say. Leaves: the record of the move, questions to the heir, what the gateway holds.
//! Always holds: the pure machine (`journey::moving`) decides, inside the transaction that stores the decision; what the heir has signed
//! is written down in the transaction that believes it.

pub mod abandon;
pub mod freeze;
mod transfer;

use crate::node::{Locked, Note, TxError};
use crate::object::{MOVE, SERVICE, ServiceRecord};
use crate::wire::{CancelHandover, HandoverCancelled, HandoverState, Signed};
use crate::{Node, certificates, clock, gateway, lender, register, routes};
use pumasi_api::message::MoveOutlook;
use pumasi_api::{CallError, Client, Fault, Problem};
use pumasi_engine::{InstanceState, InstanceStatus};
use pumasi_journey::moving::{
    Answer, Ask, HOLD_MS_MAX, Move, READS_MS_MAX, Sight, Step, answered, cancel as cancelled, tick,
};
use pumasi_journey::{Journey, Part, PartState, Told};
use pumasi_lease::handover::{Handover, KIND, SIGNED_AS};
use pumasi_store::{Expect, Tx};
use pumasi_terms::{
    API_VERSION, BootMs, CloudName, DatasetName, Epoch, FieldError, LeaseId, MoveId, Now, Position, Serial, ServiceName,
};
use pumasi_trust::SignedDocument;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// For one answer of the heir.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Preparing reads the whole application there.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);
/// For the first word of a former owner after this daemon's start.
const WORD_MS_MAX: u64 = 5_000;
/// After an answer that was none.
const RETRY_MS: u64 = 50;
/// Between looks while somebody waits.
const LOOK_MS: u64 = 2;
/// Between looks of a heir whose first instance starts, and between questions whether it is ready.
const OPENING_MS: u64 = 5;
/// One question waits for so long at the heir.
const OPEN_WAIT_MS: u64 = 1_000;
/// For so long at most.
const OPENING_MS_MAX: u64 = 10_000;

/// Questions that are under way, by service.
#[derive(Debug, Default)]
pub struct Moves {
    asked: Locked<BTreeSet<ServiceName>>,
    /// Services that became this cloud's own and are not served yet, and until when that is looked at closely.
    opening: Locked<BTreeMap<ServiceName, BootMs>>,
    /// A look is coming that need not be asked for.
    looks_soon: AtomicBool,
    /// Requests of a service that moves away wait, and not for long yet.
    holds: AtomicBool,
    /// Held while directories of services change their meaning: one becomes the service's own, or is put away.
    pub files: tokio::sync::Mutex<()>,
    /// When this daemon looked for the first time.
    began: OnceLock<BootMs>,
    /// What comes in here for services that are handed over to this cloud waits until then: the owner would let it wait as well.
    alerted: Locked<BTreeMap<ServiceName, (Epoch, BootMs)>>,
    /// Instances that stand ready for services that come here.
    pub warm: lender::Warm,
}

impl Moves {
    /// Its users wait.
    pub fn opens_here(&self, service: &ServiceName) {
        self.opening.lock().insert(service.clone(), clock::boot().after(OPENING_MS_MAX));
    }

    /// It is this cloud's own, its users wait, and it is not served yet; for a while.
    pub fn is_opening(&self, service: &ServiceName) -> bool {
        self.opening.lock().get(service).is_some_and(|until| clock::boot() < *until)
    }

    /// At an entrance, of a service whose ownership at this epoch is about to end.
    pub fn alert(&self, service: &ServiceName, epoch: Epoch) {
        self.alerted.lock().insert(service.clone(), (epoch, clock::boot().after(HOLD_MS_MAX)));
    }

    /// Whether somebody waits for the next look, because a service moves away or comes.
    pub fn hurries(&self) -> bool {
        let opens = || !self.opening.lock().is_empty();
        self.holds.load(Ordering::Relaxed) || opens() || !self.alerted().is_empty()
    }

    /// Nobody here waits for longer, whatever becomes of it.
    pub fn alerted(&self) -> BTreeMap<ServiceName, (Epoch, BootMs)> {
        let mut alerted = self.alerted.lock();
        let now = clock::boot();
        alerted.retain(|_, (_, until)| now < *until);
        alerted.clone()
    }
}

/// Whether a service is not started yet: who had it before may have taken it back while this daemon was away, who keeps it ready may have
/// taken it over, and says so in its first answer. One that is not heard is not waited for long.
pub fn awaits_word(node: &Node, service: &ServiceRecord) -> bool {
    let waited_ms = clock::boot().since(*node.moves.began.get_or_init(clock::boot));
    // One that is prepared has not begun, and one whose processes are gone would begin anew.
    let alive = |i: &InstanceStatus| !matches!(i.state, InstanceState::Stopped { .. } | InstanceState::Failed { .. });
    let writers = service.writers();
    let runs = || node.instances.lock().iter().any(|i| writers.contains(&i.owner) && !i.prepared && alive(i));
    if !register::is_heard(node, service) && !service.deleting && !runs() {
        return true;
    }
    if waited_ms >= WORD_MS_MAX || service.deleting || runs() {
        return false;
    }
    let Ok(known) = register::known(node, &service.id) else { return false };
    let before = known.filter(|known| &known.owner == node.name()).and_then(|known| known.before);
    let member = |c: &CloudName| node.pact().is_some_and(|v| v.pact.member(c).is_some());
    let mut asked = before.into_iter().chain(keepers(node, service));
    asked.any(|cloud| member(&cloud) && node.peers.of(&cloud).heard_at.is_none())
}

/// Where it is kept ready, and may have been taken over by hand: who votes would have said so.
fn keepers(node: &Node, service: &ServiceRecord) -> Vec<CloudName> {
    let journeys = if node.voting.is_on() { Vec::new() } else { node.open_journeys().unwrap_or_default() };
    let parts = journeys.iter().filter(|j| &j.service == service.name()).flat_map(|j| &j.parts);
    parts.filter(|p| p.standby.is_some() && p.is_hopeful()).map(|p| p.lender.clone()).collect()
}

fn bad(field: &str, problem: String) -> Problem {
    Problem::fields("this service cannot be moved there", vec![FieldError { field: field.into(), problem }])
}

/// What would come of it; an error says what stands against it.
pub fn check(node: &Node, service: &ServiceRecord, to: &CloudName) -> Result<(), Problem> {
    register::must_be_ours(node, service)?;
    let name = service.name();
    if service.deleting || service.taking.is_some() {
        return Err(Problem::conflict(format!("{name} is being deleted, or was handed over here just now")));
    }
    if to == node.name() {
        return Err(bad("to", format!("{name} is at {to} already")));
    }
    let view = lender::pact(node)?;
    if view.pact.member(to).is_none() {
        let members: Vec<&str> = view.pact.members.iter().map(|m| m.cloud.as_str()).collect();
        return Err(bad("to", format!("{to} is no member of the pact; there are {}", members.join(", "))));
    }
    let allowed = &service.document.spec.borrowing.clouds;
    if !allowed.is_empty() && !allowed.contains(to) {
        return Err(bad("to", format!("{to} may not hold {name}: it is not among borrowing.clouds")));
    }
    node.may_act().map_err(Problem::unavailable)
}

/// What it comes to, as far as it can be told now.
pub async fn outlook(node: &Node, service: &ServiceRecord, to: &CloudName) -> Result<MoveOutlook, Problem> {
    let open = node.open_journeys()?;
    let spec = &service.document.spec;
    let kept = |p: &&Part| &p.lender == to && p.standby.is_some() && p.is_complete() && p.is_hopeful();
    let mut own = open.iter().filter(|j| &j.service == service.name()).flat_map(|j| &j.parts);
    let kept = own.find(kept);
    let is_ready = kept.is_some();
    let bytes = if is_ready { 0 } else { crate::borrower::sent_bytes(node, service).await? };
    let rtt_ms = node.peers.of(to).rtt_us().map(|us| us / 1_000);
    let offer = node.peers.offers().into_iter().map(|(offer, _)| offer).find(|o| &o.cloud == to);
    let price = offer.as_ref().map(|o| o.price_per_instance_hour(spec.application.resources));
    let kept_percent = offer.as_ref().and_then(|o| o.standby_percent);
    let mut risks = vec![
        "open WebSockets are closed, so that their clients connect again".to_owned(),
        certificates::told(node, service, to, kept).await,
        format!(
            "what this cloud has of its data stays on its disk for {} h, then it is erased",
            node.config.store.moved_data_kept_hours
        ),
    ];
    risks.insert(0, match freeze::can(node) {
        true => format!("answers that take longer than {READS_MS_MAX} ms then, and event streams, are cut off"),
        false => "this host cannot freeze instances: what the application writes by itself while requests wait, and not by a request, may be lost".into(),
    });
    if kept_percent.is_none() && !is_ready {
        risks.push(format!("{to} does not offer to keep it ready now: the move waits until it does"));
    }
    Ok(MoveOutlook {
        service: service.name().clone(),
        from: node.name().clone(),
        to: to.clone(),
        is_ready,
        bytes,
        // The last of the data, both signatures, the word that it is open; and one start.
        pause_ms: rtt_ms.zip(node.starts.of(&service.owner())).map(|(rtt, start)| rtt * 4 + start),
        cost_per_hour: price.zip(kept_percent).map(|(p, percent)| {
            let least = u64::from(spec.instances.home.min.max(1));
            pumasi_terms::Money(p.percent(percent).0.saturating_mul(least))
        }),
        risks,
    })
}

/// Writes the wish down; everything else follows from it.
pub async fn begin(node: &Node, who: &str, service: &ServiceRecord, to: CloudName) -> Result<Move, Problem> {
    check(node, service, &to)?;
    let wish = MoveId::from_entropy(clock::entropy());
    let (id, name, who) = (service.id.clone(), service.name().clone(), who.to_owned());
    node.transact(move |tx| {
        let now = clock::now();
        if let Some(open) = tx.get::<Move>(MOVE, name.as_str())?.filter(|m| m.body.is_open()) {
            let text = format!("{name} is being moved to {} already; see {}", open.body.to, open.body.wish);
            return Err(Problem::conflict(text).into());
        }
        let fresh = Move::new(wish, (id, name.clone()), to.clone(), who.clone(), now);
        tx.put(MOVE, name.as_str(), &fresh, Expect::Any)?;
        let note = Note::new("move_asked", "service", &name).caused_by(&fresh.wish).because(format!("to {to}"));
        tx.journal(note.entry(&who, now.wall))?;
        Ok(fresh)
    })
    .await
}

pub async fn cancel(node: &Node, who: &str, name: ServiceName, why: &str) -> Result<Move, Problem> {
    let text = if why.is_empty() { format!("{who} cancelled it") } else { format!("{who}: {why}") };
    node.transact(move |tx| {
        let now = clock::now();
        let stored = tx.get::<Move>(MOVE, name.as_str())?.ok_or_else(|| Problem::not_found("move of", &name))?;
        let Some((next, told)) = cancelled(&stored.body, &text, now) else {
            let what = format!(
                "the move of {name} to {} cannot be cancelled any more: {:?}",
                stored.body.to, stored.body.step
            );
            return Err(Problem::conflict(what).into());
        };
        put(tx, &next, told, now)?;
        Ok(next)
    })
    .await
}

pub fn of(node: &Node, name: &ServiceName) -> Result<Option<Arc<Move>>, Problem> {
    node.item::<Move>(MOVE, name.as_str())
}

/// Where a service is to be ready, because it is to move there.
pub fn heading_for(node: &Node, service: &ServiceRecord) -> Option<CloudName> {
    let open = of(node, service.name()).ok().flatten().filter(|m| m.is_open() && m.id == service.id)?;
    Some(open.to.clone())
}

/// What waits at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    pub until: BootMs,
    /// Those that only read as well.
    pub reads: bool,
}

/// Services whose unsafe requests wait, until when at most.
pub fn held(node: &Node) -> Result<BTreeMap<ServiceName, Waits>, Problem> {
    let moves = node.items::<Move>(MOVE)?;
    // Nobody waits longer; and nobody is let in either, until the hold is lifted or the table has another owner.
    let waits = |m: &Move| Waits { until: m.held_at.unwrap_or_default().after(HOLD_MS_MAX), reads: m.freezes() };
    Ok(moves.iter().filter(|m| m.holds()).map(|m| (m.service.clone(), waits(m))).collect())
}

fn put(tx: &mut Tx<'_>, next: &Move, told: Vec<Told>, now: Now) -> Result<(), TxError> {
    tx.put(MOVE, next.service.as_str(), next, Expect::Any)?;
    for t in told {
        let mut note = Note::new(t.action, t.subject_kind, t.subject).caused_by(&next.wish);
        note.reasons = t.reasons;
        tx.journal(note.entry("daemon", now.wall))?;
    }
    Ok(())
}

/// Moves every open move by what is seen, and asks its heir. Called at every look.
pub async fn reconcile(node: &Arc<Node>) -> Result<(), Problem> {
    let (mut done, mut holds) = (Ok(()), false);
    for open in node.items::<Move>(MOVE)?.iter().filter(|m| m.is_open()) {
        let looked = look(node, open).await;
        done = done.and(looked);
        holds |= open.holds() && !holds_long(open);
    }
    node.moves.holds.store(holds, Ordering::Relaxed);
    look_at_openings(node);
    // Before a table or a word lets requests in.
    done.and(freeze::let_go(node).await)
}

/// Services that are this cloud's own since a moment are looked at closely until they are served.
fn look_at_openings(node: &Arc<Node>) {
    let now = clock::boot();
    let mut opening = node.moves.opening.lock();
    opening.retain(|name, until| now < *until && !node.routes.serves(name));
    if !opening.is_empty() {
        look_again(node, OPENING_MS);
    }
}

async fn look(node: &Arc<Node>, open: &Move) -> Result<(), Problem> {
    let Some(service) = node.item::<ServiceRecord>(SERVICE, open.service.as_str())? else { return Ok(()) };
    if open.step == Step::Catching {
        // Not before: a look at many files that was begun too early would have to end first.
        node.datasets.hurry();
    }
    if open.holds() {
        routes::tell_tenure(node).await?;
    }
    let drained = open.step == Step::Holding && gateway::is_drained(node, &open.service).await;
    let seen = sight(node, open, &service)?;
    let now = freeze::advance(node, open, &service, seen.caught).await;
    let sight = Sight { drained, can_freeze: now.can, still: now.still, sealed: now.sealed, ..seen };
    let (next, told) = tick(open, &sight, clock::now());
    if next != *open || !told.is_empty() {
        let name = open.service.clone();
        let wish = open.wish.clone();
        node.transact(move |tx| {
            let Some(stored) = tx.get::<Move>(MOVE, name.as_str())?.filter(|m| m.body.wish == wish) else {
                return Ok(());
            };
            let now = clock::now();
            let (next, told) = tick(&stored.body, &sight, now);
            put(tx, &next, told, now)
        })
        .await?;
    }
    let Some(now) = of(node, &open.service)? else { return Ok(()) };
    ask_beside(node, &now);
    look_soon(node, &now);
    Ok(())
}

/// While somebody waits the next look comes soon; less often where that lasts, because the heir is away, and while the heir is asked: a look
/// follows its answer.
fn look_soon(node: &Arc<Node>, m: &Move) {
    if m.held_at.is_some() && m.holds() {
        look_again(node, if holds_long(m) || m.ask().is_some() { RETRY_MS } else { LOOK_MS });
    }
}

fn holds_long(m: &Move) -> bool {
    m.held_at.is_some_and(|at| clock::boot().since(at) > 2 * HOLD_MS_MAX)
}

fn look_again(node: &Arc<Node>, after_ms: u64) {
    if node.moves.looks_soon.swap(true, Ordering::Relaxed) {
        return;
    }
    let (node, after) = (node.clone(), Duration::from_millis(after_ms));
    crate::world::spawn(async move {
        tokio::time::sleep(after).await;
        node.moves.looks_soon.store(false, Ordering::Relaxed);
        node.wake.notify_one();
    });
}

/// The standby at the heir.
fn part(open: &[Arc<Journey>], m: &Move) -> Option<(Journey, Part)> {
    let fits = |p: &&Part| p.lender == m.to && p.standby.is_some() && p.is_hopeful() && p.is_complete();
    let own = open.iter().filter(|j| j.service == m.service);
    own.flat_map(|j| j.parts.iter().filter(fits).map(move |p| (Journey::clone(j), p.clone())))
        .find(|(_, p)| m.lease.as_ref().is_none_or(|l| l == &p.lease))
}

fn sight(node: &Node, m: &Move, service: &ServiceRecord) -> Result<Sight, Problem> {
    let open = node.open_journeys()?;
    let Some((_, p)) = part(&open, m) else { return Ok(Sight::default()) };
    let dossier = crate::borrower::dossier_of(node, service, &open);
    let informed = dossier.is_some() && p.dossier == dossier && p.generation_sent >= service.generation;
    let known = register::knows_standby(node, service, &p.lender, &p.lease);
    let kept = p.state == PartState::Kept && p.expires_at > clock::boot() && informed && known;
    let has_data = !service.document.spec.datasets.is_empty();
    let behind_ms = if has_data { node.datasets.behind_ms().get(&p.lease).copied() } else { Some(0) };
    let positions = node.datasets.positions_of(&p.lease);
    let generation = node.generation(service.epoch);
    let after = |(p, said): &(Position, Option<Position>)| {
        p.generation == generation && p.as_of_ms > m.since.0 && said.is_some()
    };
    let sets = service.document.spec.datasets.iter();
    Ok(Sight {
        standby: kept.then(|| p.lease.clone()),
        behind_ms,
        caught: sets.map(|d| positions.get(&d.name)).all(|p| p.is_some_and(after)),
        ..Sight::default()
    })
}

/// One question at a time.
fn ask_beside(node: &Arc<Node>, m: &Arc<Move>) {
    let Some(ask) = m.ask() else { return };
    if node.may_act().is_err() || !node.moves.asked.lock().insert(m.service.clone()) {
        return;
    }
    let (node, m) = (node.clone(), m.clone());
    crate::world::spawn(async move {
        let answer = perform(&node, &m, ask).await;
        let failed = matches!(answer, Answer::Refused { .. });
        if let Err(e) = believe(&node, &m, answer).await {
            tracing::error!(service = %m.service, error = %e, "what the heir answered was not recorded; it is asked again");
        }
        if failed {
            tokio::time::sleep(Duration::from_millis(if m.opens() { OPENING_MS } else { RETRY_MS })).await;
        }
        node.moves.asked.lock().remove(&m.service);
        node.wake.notify_one();
    });
}

fn refused(e: &CallError) -> Answer {
    let fatal = e.problem().is_some_and(|p| !p.retry && p.status != 500 && p.status != 401);
    Answer::Refused { why: e.to_string(), fatal }
}

fn ours(e: &Problem) -> Answer {
    Answer::Refused { why: e.to_string(), fatal: false }
}

/// Where the heir is asked about it.
fn ask_path(m: &Move) -> Option<String> {
    m.lease.as_ref().map(|lease| format!("/v1/leases/{lease}/handover"))
}

async fn perform(node: &Node, m: &Move, ask: Ask) -> Answer {
    let Some(path) = ask_path(m) else {
        return Answer::Refused { why: "there is no standby at the heir".into(), fatal: true };
    };
    let client = match client(node, m) {
        Ok(client) => client,
        Err(e) => return ours(&e),
    };
    match ask {
        Ask::Prepare => {
            let sent: Result<(), CallError> =
                client.with_timeout(PREPARE_TIMEOUT).post(&format!("{path}/prepare"), &serde_json::json!({})).await;
            sent.map_or_else(|e| refused(&e), |()| Answer::Prepared)
        }
        Ask::Alert => {
            let sent: Result<(), CallError> = client.post(&format!("{path}/hold"), &serde_json::json!({})).await;
            sent.map_or_else(|e| refused(&e), |()| Answer::Alerted)
        }
        Ask::Commit => commit(node, m, &client, &path).await,
        Ask::Open => {
            // An older heir answers at once, and is asked again.
            let state: Result<HandoverState, CallError> = client.get(&format!("{path}?wait_ms={OPEN_WAIT_MS}")).await;
            match state {
                Ok(HandoverState { open: true, .. }) => Answer::Opened,
                Ok(HandoverState { why, .. }) => Answer::Refused { why, fatal: false },
                Err(e) => Answer::Refused { why: e.to_string(), fatal: false },
            }
        }
        Ask::Cancel => {
            match transfer::cancel(node, m).await {
                transfer::Fate::Here => {}
                transfer::Fate::Heirs => return commit(node, m, &client, &path).await,
                transfer::Fate::Unknown(why) => return Answer::Refused { why, fatal: false },
            }
            let asked = CancelHandover { wish: m.wish.clone() };
            let heard: Result<HandoverCancelled, CallError> = client.post(&format!("{path}/cancel"), &asked).await;
            match heard {
                Ok(HandoverCancelled { committed: true }) => commit(node, m, &client, &path).await,
                Ok(HandoverCancelled { committed: false }) => Answer::NotCommitted,
                Err(e) => Answer::Refused { why: e.to_string(), fatal: false },
            }
        }
    }
}

fn client(node: &Node, m: &Move) -> Result<Client, Problem> {
    let service = node.item::<ServiceRecord>(SERVICE, m.service.as_str())?;
    let service = service.ok_or_else(|| Problem::not_found("service", &m.service))?;
    Ok(node.peers.clients.of(node, &m.to)?.with_timeout(ASK_TIMEOUT).at_epoch(service.epoch))
}

/// This cloud signs, and asks the heir to; where the pact's voters look after the service, after they have named the heir.
async fn commit(node: &Node, m: &Move, client: &Client, path: &str) -> Answer {
    let committed = match transfer::commit(node, m).await {
        transfer::Committed::No { why, fatal } => return Answer::Refused { why, fatal },
        transfer::Committed::Yes => true,
        transfer::Committed::NotAsked => false,
    };
    let document = match document(node, m) {
        Ok(document) => document,
        Err(e) => return ours(&e),
    };
    let answer: Result<Signed, CallError> = client.put(path, &Signed { document }).await;
    let signed = match answer {
        Ok(signed) => signed.document,
        // The voters named it: there is no way back by what it says now.
        Err(e) if committed => return Answer::Refused { why: e.to_string(), fatal: false },
        Err(e) => return refused(&e),
    };
    match written_down(node, m, signed).await {
        Ok(()) => Answer::Committed,
        Err(e) => ours(&e),
    }
}

fn document(node: &Node, m: &Move) -> Result<SignedDocument, Problem> {
    let service = node.item::<ServiceRecord>(SERVICE, m.service.as_str())?;
    let service = service.ok_or_else(|| Problem::not_found("service", &m.service))?;
    // Also one that is over: the heir ends it as it signs, and its answer may have been lost.
    let all = node.journeys()?;
    let p = m.lease.as_ref().and_then(|lease| all.iter().find_map(|j| j.part(lease)));
    let p = p.ok_or_else(|| Problem::unavailable(format!("{} keeps it ready no more", m.to)))?;
    let positions = answered_positions(node, &p.lease);
    if p.is_hopeful() && positions.len() < service.document.spec.datasets.len() {
        return Err(Problem::unavailable(format!("{} has not said yet what its copies hold", m.to)));
    }
    let said = Handover {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        wish: m.wish.clone(),
        id: m.id.clone(),
        service: m.service.clone(),
        from: node.name().clone(),
        from_epoch: service.epoch,
        to: m.to.clone(),
        epoch: service.epoch.next(),
        lease: p.lease.clone(),
        dossier: p.dossier.ok_or_else(|| Problem::unavailable(format!("{} has no dossier", m.to)))?,
        positions,
        asked_by: m.asked_by.clone(),
        created_at: m.asked_at,
    };
    let payload = serde_json::to_vec(&said).map_err(|e| Problem::ours(e.to_string()))?;
    let serial = Serial(said.epoch.0);
    SignedDocument::sign_new(&payload, SIGNED_AS, node.name(), serial, &node.identity.key)
        .map_err(|e| Problem::ours(e.to_string()))
}

/// What the heir has said that it holds. Since then nothing was written, as `caught` saw.
fn answered_positions(node: &Node, lease: &LeaseId) -> BTreeMap<DatasetName, Position> {
    let all = node.datasets.positions_of(lease);
    all.into_iter().filter_map(|(set, (_, said))| Some((set, said?))).collect()
}

/// What both signed counts here as well, from the same transaction on that lets the move go on.
async fn written_down(node: &Node, m: &Move, signed: SignedDocument) -> Result<(), Problem> {
    let bad =
        |e: String| Problem::new(502, "bad_signature", Fault::Peer, format!("the handover signed by {}: {e}", m.to));
    let view = lender::pact(node)?;
    let both = BTreeSet::from([node.name().clone(), m.to.clone()]);
    let verified = signed.verify(SIGNED_AS, &view.keys, &both).map_err(|e| bad(e.to_string()))?;
    let said: Handover = serde_json::from_slice(&verified.payload).map_err(|e| bad(e.to_string()))?;
    if said.wish != m.wish || said.to != m.to || said.id != m.id || &said.from != node.name() {
        return Err(bad("it is about another handover".into()));
    }
    let name = m.service.clone();
    node.transact(move |tx| {
        let now = clock::now();
        register::enter(tx, &said.id, &signed, &said)?;
        let Some(stored) = tx.get::<Move>(MOVE, name.as_str())?.filter(|s| s.body.wish == said.wish) else {
            return Ok(());
        };
        let (next, told) = answered(&stored.body, Answer::Committed, now);
        put(tx, &next, told, now)
    })
    .await
}

async fn believe(node: &Node, m: &Move, answer: Answer) -> Result<(), Problem> {
    let (name, wish) = (m.service.clone(), m.wish.clone());
    node.transact(move |tx| {
        let now = clock::now();
        let Some(stored) = tx.get::<Move>(MOVE, name.as_str())?.filter(|s| s.body.wish == wish) else { return Ok(()) };
        let (next, told) = answered(&stored.body, answer, now);
        if next == stored.body {
            return Ok(());
        }
        put(tx, &next, told, now)
    })
    .await
}

/// While requests wait the service's record stays as it is: the heir signs for what it was told before.
///
/// # Errors
/// Unavailable, for the seconds that a handover takes.
pub fn leaves_alone(tx: &Tx<'_>, name: &ServiceName) -> Result<(), TxError> {
    match tx.get::<Move>(MOVE, name.as_str())?.filter(|m| m.body.holds()) {
        Some(m) => {
            let text = format!("{name} is being handed over to {} at this moment; nothing was changed", m.body.to);
            Err(Problem::unavailable(text).into())
        }
        None => Ok(()),
    }
}

/// It came back here before this cloud heard that the heir had opened: what was asked for is done.
pub fn superseded(tx: &mut Tx<'_>, name: &ServiceName) -> Result<(), TxError> {
    let now = clock::now();
    match tx.get::<Move>(MOVE, name.as_str())?.filter(|m| m.body.is_open()) {
        Some(open) => {
            let (next, told) = pumasi_journey::moving::superseded(&open.body, now);
            put(tx, &next, told, now)
        }
        None => Ok(()),
    }
}

/// A service that is being deleted is moved no more.
pub fn end_for_deletion(tx: &mut Tx<'_>, name: &ServiceName) -> Result<(), TxError> {
    leaves_alone(tx, name)?;
    let open = tx.get::<Move>(MOVE, name.as_str())?.filter(|m| m.body.is_open());
    let now = clock::now();
    match open.and_then(|m| cancelled(&m.body, "the service is being deleted", now)) {
        Some((next, told)) => put(tx, &next, told, now),
        None => Ok(()),
    }
}

/// After a reboot: boot times are void.
pub fn forfeit(tx: &mut Tx<'_>) -> Result<(), TxError> {
    for stored in tx.list::<Move>(MOVE)?.into_iter().filter(|m| m.body.is_open()) {
        let next = pumasi_journey::moving::after_reboot(&stored.body, clock::now());
        tx.put(MOVE, &stored.name, &next, Expect::Revision(stored.revision))?;
    }
    Ok(())
}
