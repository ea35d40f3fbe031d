//! The borrower's side: verdicts become plans, plans become journeys, journeys become acts on peers.
//!
//! Enters: verdicts, approvals, answers of peers, the state of gateway and instances. Leaves: stored plans and journeys, acts.
//! Always holds: the pure crates decide, inside the transaction that stores the decision; ceilings and people stand above automation.

mod acts;
mod continuity;
mod dossier;
mod rehearsal;
pub(crate) mod ship;
pub mod wanted;

pub use acts::{Acts, settle_open};
pub use continuity::Keeping;
pub use dossier::digest as dossier_of;
pub use rehearsal::rehearse;
pub use ship::{Shipping, pump_positions, shipping};

use crate::node::{Note, TxError};
use crate::object::{JOURNEY, PLAN, PlanRecord, PlanState, SERVICE, ServiceRecord};
use crate::{Node, bundles, clock, gateway, growth, register};
use pumasi_api::Problem;
use pumasi_engine::InstanceState;
use pumasi_journey::record::{Outcome, Phase};
use pumasi_journey::{Event, Facts, Journey, Part, PartFacts, Told, standby, step};
use pumasi_judge::{Cause, Reason, Verdict};
use pumasi_lease::message::{LeaseStatus, Renewal};
use pumasi_plan::make::{CurrentPart, Ids, Parent, PlanInput, Spent};
use pumasi_plan::{NoPlan, Plan, plan};
use pumasi_store::{Expect, Tx};
use pumasi_terms::service::AutomationMode;
use pumasi_terms::{CloudName, JourneyId, LeaseId, Now, PlanId, ReservationId};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HOUR_MS: u64 = 3_600_000;
/// A lender that failed is not asked again by this service for so long.
const FAILED_MS: u64 = 30_000;
/// After a journey that could not begin, the next one waits so long, doubled with each failure in a row.
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 30_000;
/// Closed journeys that are kept, of all services.
const CLOSED_MAX: usize = 200;

/// Turns a verdict into a plan and lets it begin, wait or only be seen, as the service says.
pub async fn judged(node: &Node, service: &ServiceRecord, mut verdict: Verdict) -> Result<(), Problem> {
    let growing = verdict.cause != Cause::Recovery;
    if let Err(why) = may_change(node) {
        return unheeded(node, service, growing, &why).await;
    }
    let rented = rented(&node.open_journeys()?, service);
    let grew = growth::take(node, service, &mut verdict, rented, growing).await?;
    if verdict.borrowed_wanted == rented && grew {
        return Ok(());
    }
    if node.pact().is_none() {
        let why = "this cloud is in no pact: there is nobody to borrow from";
        return unheeded(node, service, growing, why).await;
    }
    let plans = node.items::<PlanRecord>(PLAN)?;
    let waits = |p: &PlanRecord| p.state == PlanState::Waiting && p.plan.verdict.cause != Cause::Continuity;
    if growing && plans.iter().any(|p| waits(p) && &p.plan.service == service.name()) {
        return Ok(());
    }
    let all = node.journeys()?;
    // A rehearsal that is over is no experience with the load, and what keeps standbys is none at all.
    let counts =
        |j: &&Journey| &j.service == service.name() && !j.is_continuity() && (j.is_open() || !j.is_rehearsal());
    let journeys: Vec<&Journey> = all.iter().map(|j| &**j).filter(counts).collect();
    if !growing && journeys.iter().any(|j| j.is_open() && j.is_rehearsal()) {
        // It ends by itself.
        return Ok(());
    }
    if journeys.iter().any(|j| j.phase == Phase::Waiting) || (growing && backing_off(&journeys, clock::now())) {
        return Ok(());
    }
    let open = journeys.iter().find(|j| j.is_open()).copied().cloned();
    let opened = node.open_journeys()?;
    let own = open.iter().flat_map(|j| &j.parts).filter(|p| p.is_hopeful());
    let parts = own.chain(continuity::able(&opened, service.name())).map(|p| current(node, p)).collect();
    let input = input(node, service, verdict.clone(), open.as_ref(), &journeys, parts).await;
    let made = match input.map(|i| plan(&i)) {
        Ok(Ok(plan)) => plan,
        Ok(Err(NoPlan { reasons })) => {
            if growing {
                let obstacles: Vec<String> = reasons.into_iter().map(|r| r.text).collect();
                let mut note = Note::new("no_plan", "service", service.name())
                    .caused_by(format!("{:?}", verdict.cause).to_lowercase());
                note.reasons = verdict.reasons.iter().map(|r| r.text.clone()).chain(obstacles.clone()).collect();
                node.acts.tell_once(node, service.name(), &obstacles.join("; "), note).await;
            }
            return Ok(());
        }
        Err(problem) => return Err(problem),
    };
    let mode = if growing { made.mode } else { AutomationMode::Automatic };
    let next = open.map_or(Next::Open, |journey| Next::GoesOn(Box::new(journey)));
    begin(node, service, made, mode, next).await
}

async fn unheeded(node: &Node, service: &ServiceRecord, growing: bool, why: &str) -> Result<(), Problem> {
    if growing {
        let note = Note::new("verdict_unheeded", "service", service.name()).because(why);
        node.acts.tell_once(node, service.name(), why, note).await;
    }
    Ok(())
}

/// Borrowed instances that were asked for and are to stay.
fn rented(open: &[Arc<Journey>], service: &ServiceRecord) -> u32 {
    let own = open.iter().filter(|j| &j.service == service.name());
    own.map(|j| j.serving().saturating_add(j.coming())).fold(0, u32::saturating_add)
}

fn may_change(node: &Node) -> Result<(), String> {
    node.may_act()?;
    // Fails closed: whether an operator has stopped it must be known.
    let record = node.cloud_record().map_err(|e| format!("whether automation is stopped cannot be read: {e}"))?;
    let automation = &record.automation;
    if automation.stopped {
        return Err(format!("automation is stopped: {}", automation.why));
    }
    Ok(())
}

fn backing_off(journeys: &[&Journey], now: Now) -> bool {
    let failed = |j: &Journey| match j.phase {
        Phase::Closed { at, outcome: Outcome::NotBegun, .. } => Some(at),
        _ => None,
    };
    let recent: Vec<_> =
        journeys.iter().filter_map(|j| failed(j)).filter(|at| now.wall.since(*at) < 2 * RETRY_MS_MAX).collect();
    let wait_ms = (RETRY_MS << recent.len().saturating_sub(1).min(5)).min(RETRY_MS_MAX);
    recent.iter().max().is_some_and(|last| now.wall.since(*last) < wait_ms)
}

/// A lease of a journey as plans see it.
fn current(node: &Node, p: &Part) -> CurrentPart {
    CurrentPart {
        lease: p.lease.clone(),
        cloud: p.lender.clone(),
        instances: p.wanted,
        granted: p.granted,
        price_per_instance_hour: p.price_per_instance_hour,
        rtt_us: node.peers.of(&p.lender).rtt_us().unwrap_or(0),
        recalled: p.recalled.is_some(),
        standby: continuity::kept_part(p),
    }
}

/// `parts`: the leases that the plan is to say something of.
async fn input(
    node: &Node,
    service: &ServiceRecord,
    verdict: Verdict,
    open: Option<&Journey>,
    journeys: &[&Journey],
    parts: Vec<CurrentPart>,
) -> Result<PlanInput, Problem> {
    let now = clock::now();
    let bundle = bundles::owned(node, &service.customer).size(node, &service.bundle())?;
    let data = crate::tenancy::service_dir(node, service).join("data");
    let (dataset_bytes, files) = crate::world::blocking(move || measure(&data)).await.unwrap_or_default();
    let hold = |_| (ReservationId::from_entropy(clock::entropy()), LeaseId::from_entropy(clock::entropy()));
    let lately = |j: &&&Journey| match j.phase {
        Phase::Closed { at, .. } => now.wall.since(at) < FAILED_MS,
        _ => true,
    };
    let excluded = journeys
        .iter()
        .filter(lately)
        .flat_map(|j| &j.failed)
        .map(|c| (c.clone(), format!("{c} failed this service lately")));
    Ok(PlanInput {
        service: service.document.clone(),
        home: node.name().clone(),
        verdict,
        epoch: service.epoch,
        parts,
        offers: node.peers.offers(),
        spent: Spent {
            moves_last_hour: journeys.iter().filter(|j| now.wall.since(j.opened_at) < HOUR_MS).count() as u32,
            new_journey: open.is_none(),
        },
        parent: open.map(|j| Parent { id: j.plan.clone(), number: j.plan_number }),
        ids: Ids {
            plan: PlanId::from_entropy(clock::entropy()),
            journey: open.map_or_else(|| JourneyId::from_entropy(clock::entropy()), |j| j.id.clone()),
            holds: (0..pumasi_plan::make::CANDIDATES_MAX).map(hold).collect(),
        },
        application: service.bundle(),
        bundle_bytes: bundle.bytes,
        dataset_bytes,
        files: files.saturating_add(bundle.files),
        excluded: excluded.collect(),
        now: now.wall,
    })
}

/// What is sent to a cloud that has nothing of the service yet.
pub async fn sent_bytes(node: &Node, service: &ServiceRecord) -> Result<u64, Problem> {
    let bundle = bundles::owned(node, &service.customer).size(node, &service.bundle())?;
    let data = crate::tenancy::service_dir(node, service).join("data");
    let (bytes, _) = crate::world::blocking(move || measure(&data)).await.unwrap_or_default();
    Ok(bundle.bytes.saturating_add(bytes))
}

/// Bytes and entries of a directory.
fn measure(dir: &Path) -> (u64, u64) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => measure(&e.path()),
        // Without holes.
        Ok(m) if m.is_file() => (m.len().min(m.blocks().saturating_mul(512)), 0),
        _ => (0, 0),
    };
    entries.map(size).fold((0, 0), |(bytes, files), (b, f)| (bytes.saturating_add(b), files.saturating_add(f + 1)))
}

/// What a plan does to the journeys there are.
enum Next {
    Open,
    /// By this path.
    Rehearse(String),
    GoesOn(Box<Journey>),
}

/// Stores the plan and lets it begin as `mode` says. Giving back needs nobody's approval: it is what was agreed.
async fn begin(
    node: &Node,
    service: &ServiceRecord,
    mut made: Plan,
    mode: AutomationMode,
    next: Next,
) -> Result<(), Problem> {
    let service_id = Some(service.id.clone());
    if let Some(borrow) = &mut made.borrow {
        borrow.lease_ttl_ms = borrow.lease_ttl_ms.min(node.config.timing.lease_ttl_ms);
        borrow.hold_ttl_ms = borrow.hold_ttl_ms.min(node.config.timing.hold_ttl_ms);
    }
    let cause = format!("{:?}", made.verdict.cause).to_lowercase();
    let mut note = Note::new("verdict", "service", &made.service).caused_by(&cause);
    note.reasons = made.verdict.reasons.iter().map(|r| r.text.clone()).collect();
    note.data = serde_json::json!({ "borrowed_wanted": made.verdict.borrowed_wanted, "journey": made.journey, "plan": made.id });
    node.transact(move |tx| {
        let now = clock::now();
        tx.journal(note.entry("daemon", now.wall))?;
        let state = match mode {
            AutomationMode::Automatic => PlanState::Adopted,
            AutomationMode::Ask => PlanState::Waiting,
            AutomationMode::Observe => PlanState::Observed,
        };
        let mut made_note = Note::new("plan_made", "plan", &made.id).caused_by(&made.service);
        made_note.reasons = pumasi_plan::describe(&made).lines().map(|l| l.trim().to_owned()).collect();
        tx.journal(made_note.entry("daemon", now.wall))?;
        let record = PlanRecord { plan: made, state, decided_by: None, why: String::new(), service_id };
        tx.put(PLAN, record.plan.id.as_str(), &record, Expect::Absent)?;
        if state == PlanState::Observed {
            return Ok(());
        }
        let (id, plan) = (record.plan.journey.clone(), &record.plan);
        if !matches!(next, Next::GoesOn(_)) {
            one_at_a_time(tx, &record.plan)?;
        }
        let (journey, told) = match next {
            Next::Open => {
                let adopted = state == PlanState::Adopted;
                let seats = if adopted { continuity::take(tx, &[], plan)? } else { Vec::new() };
                step::open(id, plan, seats, now)
            }
            Next::Rehearse(path) => step::rehearse(id, plan, path, now),
            Next::GoesOn(journey) if state == PlanState::Adopted => return adopt(tx, &journey.id, plan, now),
            Next::GoesOn(_) => return Ok(()),
        };
        tx.put(JOURNEY, journey.id.as_str(), &journey, Expect::Absent)?;
        tell(tx, &journey.id, told, now)
    })
    .await?;
    prune(node).await
}

/// Whoever opens a journey looked before; a person's rehearsal and a verdict may have looked at the same time.
/// What keeps standbys goes on beside.
fn one_at_a_time(tx: &mut Tx<'_>, plan: &Plan) -> Result<(), TxError> {
    let service = &plan.service;
    let keeps = plan.verdict.cause == Cause::Continuity;
    let same = |j: &Journey| &j.service == service && j.is_open() && j.is_continuity() == keeps;
    let open = tx.list::<Journey>(JOURNEY)?.into_iter().map(|j| j.body).find(same);
    match open {
        Some(open) => Err(Problem::conflict(format!("{} of {service} was opened meanwhile", open.id)).into()),
        None => Ok(()),
    }
}

fn adopt(tx: &mut Tx<'_>, id: &JourneyId, plan: &Plan, now: Now) -> Result<(), TxError> {
    let Some(stored) = tx.get::<Journey>(JOURNEY, id.as_str())? else { return Ok(()) };
    // Adopted by comparison: a plan whose parent is no longer in force was made for another state of things.
    if plan.parent.as_ref().is_some_and(|p| *p != stored.body.plan) || !stored.body.is_open() {
        return Err(Problem::conflict(format!(
            "{} is no longer the plan that {} follows; a new one will be made",
            stored.body.plan, plan.id
        ))
        .into());
    }
    put_into_force(tx, id, stored.body, plan, now)
}

fn put_into_force(tx: &mut Tx<'_>, id: &JourneyId, mut old: Journey, plan: &Plan, now: Now) -> Result<(), TxError> {
    let seats = continuity::take(tx, &old.parts, plan)?;
    standby::receive(&mut old, seats);
    let (journey, told) = step::adopt(&old, plan, now);
    tx.put(JOURNEY, id.as_str(), &journey, Expect::Any)?;
    tell(tx, id, told, now)
}

fn tell(tx: &mut Tx<'_>, journey: &JourneyId, told: Vec<Told>, now: Now) -> Result<(), TxError> {
    for t in told {
        let note = Note {
            action: t.action,
            subject_kind: t.subject_kind,
            subject: t.subject,
            cause: Some(journey.to_string()),
            reasons: t.reasons,
            data: serde_json::Value::Null,
            last_line: t.last_line,
        };
        let entry = note.entry("daemon", now.wall);
        tx.journal(pumasi_store::Entry { trace_id: Some(crate::trace::of_journey(journey)), ..entry })?;
    }
    Ok(())
}

/// Runs a pure step on a stored journey and stores what it became, with what it tells.
async fn stepped(
    node: &Node,
    id: &JourneyId,
    f: impl FnOnce(&Journey, &Plan, Now) -> (Journey, Vec<Told>) + Send + 'static,
) -> Result<(), Problem> {
    let id = id.clone();
    node.transact(move |tx| {
        let now = clock::now();
        let Some(stored) = tx.get::<Journey>(JOURNEY, id.as_str())? else { return Ok(()) };
        let plan = tx.get::<PlanRecord>(PLAN, stored.body.plan.as_str())?;
        let plan =
            plan.ok_or_else(|| Problem::ours(format!("{} of {id} is not in the store", stored.body.plan)))?.body.plan;
        let (journey, told) = f(&stored.body, &plan, now);
        if journey != stored.body {
            tx.put(JOURNEY, id.as_str(), &journey, Expect::Revision(stored.revision))?;
        }
        tell(tx, &id, told, now)
    })
    .await
}

/// An answer of a peer about a journey.
pub async fn happened(node: &Node, id: &JourneyId, event: Event) {
    let recalled = matches!(&event, Event::Heard { status, .. } if status.recall_in_ms.is_some());
    let result = stepped(node, id, move |journey, plan, now| pumasi_journey::apply(journey, plan, event, now)).await;
    if let Err(e) = result {
        tracing::error!(journey = %id, error = %e, "what a peer answered was not recorded; it is asked again");
    }
    if recalled && let Err(e) = replace_recalled(node, id).await {
        tracing::warn!(journey = %id, error = %e, "no replacement for a recalled part was planned");
    }
}

/// A recall is a cause of its own: the same number of instances is wanted, elsewhere.
async fn replace_recalled(node: &Node, id: &JourneyId) -> Result<(), Problem> {
    let Some(journey) = node.get::<Journey>(JOURNEY, id.as_str())? else { return Ok(()) };
    let recalled: u32 = journey.parts.iter().filter(|p| p.is_hopeful() && p.recalled.is_some()).map(|p| p.wanted).sum();
    let Some(service) = node.get::<ServiceRecord>(SERVICE, journey.service.as_str())? else { return Ok(()) };
    let replacing =
        node.get::<PlanRecord>(PLAN, journey.plan.as_str())?.is_some_and(|p| p.plan.verdict.cause == Cause::Recall);
    let serves_nobody = journey.is_rehearsal() || journey.is_continuity();
    if recalled == 0 || replacing || journey.coming() > 0 || serves_nobody {
        return Ok(());
    }
    let wanted = journey.serving() + recalled;
    let reason = Reason {
        measure: "recall".into(),
        text: format!("{recalled} rented instances are called back; {wanted} are still wanted"),
    };
    let verdict = Verdict {
        service: journey.service.clone(),
        cause: Cause::Recall,
        at: clock::wall(),
        borrowed_wanted: wanted.saturating_add(growth::grown(node, &service)),
        reasons: vec![reason],
    };
    judged(node, &service, verdict).await
}

pub async fn cancel(node: &Node, who: &str, id: &JourneyId, why: &str) -> Result<(), Problem> {
    let text = if why.is_empty() { format!("{who} asked") } else { format!("{who}: {why}") };
    stepped(node, id, move |journey, _, now| step::cancel(journey, &text, now)).await
}

/// A person decides about a waiting plan.
pub async fn decide(node: &Node, who: String, id: PlanId, approve: bool, why: String) -> Result<PlanRecord, Problem> {
    node.transact(move |tx| {
        let now = clock::now();
        let stored = tx.get::<PlanRecord>(PLAN, id.as_str())?.ok_or_else(|| Problem::not_found("plan", &id))?;
        if stored.body.state != PlanState::Waiting {
            return Err(
                Problem::conflict(format!("{id} does not wait: it is {:?}", stored.body.state).to_lowercase()).into()
            );
        }
        let state = if approve { PlanState::Adopted } else { PlanState::Refused };
        let record = PlanRecord { state, decided_by: Some(who.clone()), why: why.clone(), ..stored.body };
        tx.put(PLAN, id.as_str(), &record, Expect::Revision(stored.revision))?;
        let action = if approve { "plan_approved" } else { "plan_refused" };
        tx.journal(
            Note::new(action, "plan", &id).caused_by(&record.plan.service).because(why.clone()).entry(&who, now.wall),
        )?;
        let journey = &record.plan.journey;
        if approve {
            adopt_waiting(tx, journey, &record.plan, now)?;
        } else if let Some(waiting) =
            tx.get::<Journey>(JOURNEY, journey.as_str())?.filter(|j| j.body.phase == Phase::Waiting)
        {
            let (closed, told) = step::cancel(&waiting.body, &format!("{who} refused its plan: {why}"), now);
            tx.put(JOURNEY, journey.as_str(), &closed, Expect::Any)?;
            tell(tx, journey, told, now)?;
        }
        Ok(record)
    })
    .await
}

fn adopt_waiting(tx: &mut Tx<'_>, id: &JourneyId, plan: &Plan, now: Now) -> Result<(), TxError> {
    let Some(stored) = tx.get::<Journey>(JOURNEY, id.as_str())? else { return Ok(()) };
    if stored.body.phase != Phase::Waiting {
        return adopt(tx, id, plan, now);
    }
    put_into_force(tx, id, stored.body, plan, now)
}

/// What helps a service that another cloud owns and serves comes back: the owner borrows for itself.
async fn let_go(node: &Node, services: &[Arc<ServiceRecord>]) -> Result<(), Problem> {
    let helps = |j: &&Arc<Journey>| {
        let is_hopeful = j.parts.iter().any(Part::is_hopeful) || j.seeking.is_some() || j.phase == Phase::Waiting;
        is_hopeful && !j.is_continuity()
    };
    let mut done = Ok(());
    for journey in node.open_journeys()?.iter().filter(helps) {
        let Some(service) = services.iter().find(|s| s.name() == &journey.service) else { continue };
        let Some(owner) = register::stand(node, service).front else { continue };
        let why = format!("{owner} owns {} now", journey.service);
        done = done.and(cancel(node, "daemon", &journey.id, &why).await);
    }
    done
}

/// Moves every open journey by time and facts, then sets its acts going. Called at every look.
pub async fn reconcile(node: &Arc<Node>) -> Result<(), Problem> {
    let services = node.services()?;
    let mut done = continuity::keep(node).await;
    done = done.and(let_go(node, &services).await);
    let open = node.open_journeys()?;
    for journey in open.iter().cloned() {
        let service = services.iter().find(|s| s.name() == &journey.service);
        let facts = facts(node, &journey, service.map(|s| s.owner()));
        let plan = match node.item::<PlanRecord>(PLAN, journey.plan.as_str()) {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                tracing::error!(journey = %journey.id, plan = %journey.plan, "its plan is not in the store");
                continue;
            }
            Err(e) => {
                done = done.and(Err(e));
                continue;
            }
        };
        // Asked outside the transaction first: most looks change nothing, and nothing is then written.
        let (next, told) = step::tick(&journey, &plan.plan, &facts, clock::now());
        if next != *journey || !told.is_empty() {
            let result =
                stepped(node, &journey.id, move |journey, plan, now| step::tick(journey, plan, &facts, now)).await;
            if let Err(e) = result {
                tracing::error!(journey = %journey.id, error = %e, "a journey was not moved; tried again");
                continue;
            }
        }
        if node.may_act().is_err() {
            continue;
        }
        // Not without the service's record: what is sent, and whether, rests on it. Renewals go on.
        if services.hides(journey.service.as_str()) {
            continue;
        }
        let Some(journey) = node.item::<Journey>(JOURNEY, journey.id.as_str())? else { continue };
        done = done.and(continuity::give_back(node, &journey).await);
        let informed = service.filter(|_| journey.parts.iter().any(|p| p.standby.is_some()));
        let dossier = informed.and_then(|s| dossier::digest(node, s, &open));
        acts::begin(node, &journey, service.map_or(0, |s| s.generation), dossier);
        ship::keep_shipping(node, &journey);
    }
    done
}

fn facts(node: &Node, journey: &Journey, owner: Option<String>) -> Facts {
    let home_ready = node
        .instances
        .lock()
        .iter()
        .filter(|i| Some(&i.owner) == owner.as_ref() && i.state == InstanceState::Ready)
        .count() as u32;
    let part = |p: &Part| {
        let facts = PartFacts {
            drained: gateway::lease_is_quiet(node, &p.lease),
            healthy: gateway::lease_is_healthy(node, &p.lease),
        };
        (p.lease.clone(), facts)
    };
    Facts { home_ready, parts: journey.parts.iter().map(part).collect() }
}

/// A lease that a lender keeps for this cloud and that this store does not know is given back. Where that is not sure, it is kept: the
/// answer is its renewal, over the lease as both signed it.
pub async fn disown(node: &Node, lender: &CloudName, status: &LeaseStatus) -> Option<Renewal> {
    let lease = &status.lease;
    let of = |j: &Journey| j.part(lease).map(|p| p.is_over());
    let given_up = node.journeys().is_ok_and(|all| all.iter().any(|j| of(j) == Some(true)));
    if status.standby && !given_up {
        // What this store lost, the standby may be the last to have.
        let text =
            format!("{lender} keeps a service ready under it, and this store does not know it: it is not given back");
        let note = Note::new("standby_unknown", "lease", lease).because(&text);
        node.acts.tell_once(node, lease, &text, note).await;
        return None;
    }
    let unclear = match node.journeys() {
        Ok(all) if all.iter().any(|j| j.is_open() && of(j) == Some(false)) => return None,
        // It may stand in a journey that cannot be read.
        Ok(all) => all.unreadable().first().map(|u| format!("{} cannot be read", u.name)),
        Err(e) => Some(e.to_string()),
    };
    let old = node.may_act().err();
    if let Some(why) = unclear.as_ref().or(old.as_ref()) {
        let text = format!("this store does not know it, but is not sure: {why}; it is not given back");
        let note = Note::new("lease_unclear", "lease", lease).because(&text);
        node.acts.tell_once(node, lease, &text, note).await;
        // A store that may be old renews nothing that it does not know.
        return if old.is_some() { None } else { renewal(node, lender, status) };
    }
    let Ok(client) = node.peers.clients.of(node, lender) else { return None };
    let asked: Result<serde_json::Value, _> =
        client.post(&format!("/v1/leases/{lease}/release"), &serde_json::json!({})).await;
    let text = match asked {
        Ok(_) => "given back: this store does not know it".to_owned(),
        Err(e) => format!("this store does not know it, and giving it back failed: {e}"),
    };
    node.note("daemon", Note::new("lease_disowned", "lease", lease).because(text)).await;
    None
}

fn renewal(node: &Node, lender: &CloudName, status: &LeaseStatus) -> Option<Renewal> {
    let lease = acts::signed_lease(node, &status.lease).ok().flatten()?;
    let ours = lease.id == status.lease && &lease.lender == lender && &lease.borrower == node.name();
    let instances = status.instances_ready.saturating_add(status.instances_starting).min(lease.instances);
    ours.then_some(Renewal { lease: lease.id, epoch: lease.epoch, instances, behind_ms: None })
}

/// Old closed journeys and their plans make room.
async fn prune(node: &Node) -> Result<(), Problem> {
    let all = node.journeys()?;
    let mut closed: Vec<&Journey> = all.iter().map(|j| &**j).filter(|j| !j.is_open()).collect();
    if closed.len() <= CLOSED_MAX + CLOSED_MAX / 4 {
        return Ok(());
    }
    closed.sort_by_key(|j| j.opened_at);
    let old: Vec<JourneyId> = closed.iter().take(closed.len() - CLOSED_MAX).map(|j| j.id.clone()).collect();
    let plans: Vec<PlanId> = node
        .items::<PlanRecord>(PLAN)?
        .iter()
        .filter(|p| old.contains(&p.plan.journey))
        .map(|p| p.plan.id.clone())
        .collect();
    node.transact(move |tx| {
        for id in &old {
            tx.delete(JOURNEY, id.as_str(), Expect::Any)?;
        }
        for id in &plans {
            tx.delete(PLAN, id.as_str(), Expect::Any)?;
        }
        Ok(())
    })
    .await
}

/// Where logs of rented instances are kept when they have come home.
pub fn returned_log(node: &Node, service: &ServiceRecord, lease: &LeaseId) -> PathBuf {
    crate::tenancy::service_dir(node, service).join("logs").join(format!("{lease}.log"))
}

/// After a reboot: boot times in the records are void, so nothing that was rented counts as valid any more. It is given back in
/// order, and settled with lenders that still know it.
pub fn forfeit(tx: &mut Tx<'_>) -> Result<(), TxError> {
    for stored in tx.list::<Journey>(JOURNEY)?.into_iter().filter(|j| j.body.is_open()) {
        let journey = step::after_reboot(&stored.body, clock::now());
        tx.put(JOURNEY, &stored.name, &journey, Expect::Revision(stored.revision))?;
    }
    Ok(())
}
