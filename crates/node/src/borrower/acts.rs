//! Acts on peers: each runs at most once at a time, is repeated with growing pauses while its journey still asks for it,
//! and brings its answer back as an event.

use super::{dossier, rehearsal, ship};
use crate::node::{Locked, Note};
use crate::object::{DISPUTE, Dispute, JOURNEY, PLAN, PlanRecord, SERVICE, SETTLEMENT, SIGNED_LEASE, ServiceRecord};
use crate::wire::{SendApplication, SentDataset, Signed};
use crate::{Node, bundles, clock, lender, routes, secrets, sensing, trace};
use bytes::Bytes;
use pumasi_api::message::Missing;
use pumasi_api::{CallError, Client, Problem};
use pumasi_journey::{Act, Event, Journey, Part, acts};
use pumasi_lease::document::{KIND, Lease, Settlement};
use pumasi_lease::message::{ReservationGrant, ReservationRequest};
use pumasi_lease::meter;
use pumasi_plan::Plan;
use pumasi_store::Expect;
use pumasi_terms::service::RouteMode;
use pumasi_terms::{API_VERSION, BootMs, CloudName, Digest, JourneyId, LeaseId, ReservationId, Serial, ServiceName};
use pumasi_transfer::{TreeManifest, encode_pack};
use pumasi_trust::SignedDocument;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const RETRY_MS: u64 = 100;
const RETRY_MS_MAX: u64 = 2_000;
/// Chunks are sent in packs of about so many bytes.
const PACK_BYTES: usize = 4 << 20;
/// Small files have a chunk each.
const PACK_CHUNKS: usize = 16_384;
/// Of asking what is missing and sending it.
const ROUNDS_MAX: usize = 64;
/// For one pack, also on a slow link.
const PACK_TIMEOUT: Duration = Duration::from_secs(60);
/// First copies of all datasets.
const FIRST_COPY_MS_MAX: u64 = 1_800_000;

/// About what and by which word: the obstacle's sense, and when it was met last.
type Told = BTreeMap<(String, &'static str), (String, BootMs)>;

#[derive(Debug, Default)]
pub struct Acts {
    running: Locked<BTreeSet<(JourneyId, Act)>>,
    /// Not before, after so many failures.
    pauses: Locked<BTreeMap<(JourneyId, Act), (BootMs, u32)>>,
    told: Locked<Told>,
}

/// An obstacle that was not met for so long is over.
const OBSTACLE_OVER_MS: u64 = 30_000;

fn is_news(told: &mut Told, key: (String, &'static str), obstacle: &str, now: BootMs) -> bool {
    let sense: String = obstacle.chars().filter(|c| !c.is_ascii_digit()).collect();
    told.retain(|_, (_, met)| now.since(*met) < OBSTACLE_OVER_MS);
    told.insert(key, (sense.clone(), now)).is_none_or(|(before, _)| before != sense)
}

impl Acts {
    /// Writes the note unless this obstacle stands since it was written: it stands while it is met again and again, and another one
    /// is one of another sense, whatever its figures.
    pub async fn tell_once(&self, node: &Node, about: impl std::fmt::Display, obstacle: &str, note: Note) {
        let key = (about.to_string(), note.action);
        if is_news(&mut self.told.lock(), key, obstacle, clock::boot()) {
            node.note("daemon", note).await;
        }
    }

    fn take(&self, key: &(JourneyId, Act)) -> bool {
        let paused = self.pauses.lock().get(key).is_some_and(|(until, _)| clock::boot() < *until);
        !paused && self.running.lock().insert(key.clone())
    }

    fn done(&self, key: &(JourneyId, Act), failed: bool) {
        let mut pauses = self.pauses.lock();
        if failed {
            let failures = pauses.get(key).map_or(0, |(_, n)| *n) + 1;
            let pause_ms = (RETRY_MS << failures.min(6)).min(RETRY_MS_MAX);
            pauses.insert(key.clone(), (clock::boot().after(pause_ms), failures));
        } else {
            pauses.remove(key);
        }
        let now = clock::boot();
        pauses.retain(|_, (until, _)| now.since(*until) < 60_000);
        self.running.lock().remove(key);
    }
}

/// Sets going what the journey asks for and what does not run yet.
pub fn begin(node: &Arc<Node>, journey: &Journey, generation: u64, dossier: Option<Digest>) {
    for act in acts(journey, generation, dossier) {
        let key = (journey.id.clone(), act.clone());
        if !node.acts.take(&key) {
            continue;
        }
        let (node, journey) = (node.clone(), journey.clone());
        crate::world::spawn(async move {
            let trace = trace::of_journey(&journey.id);
            let events = match trace::within(trace, perform(&node, &journey, &act)).await {
                Ok(events) => events,
                Err(trouble) => {
                    tracing::warn!(journey = %journey.id, ?act, error = %trouble, "an act failed; tried again");
                    Vec::new()
                }
            };
            let failed = events.is_empty();
            for event in events {
                super::happened(&node, &journey.id, event).await;
            }
            node.acts.done(&key, failed);
            node.wake.notify_one();
        });
    }
}

fn client(node: &Node, cloud: &CloudName) -> Result<Client, Problem> {
    let client = node.peers.clients.of(node, cloud)?;
    Ok(trace::current().map_or_else(|| client.clone(), |id| client.with_trace(&id)))
}

/// For acts on a lease of this journey.
pub(super) fn client_on(node: &Node, journey: &Journey, part: &Part) -> Result<Client, Problem> {
    Ok(client(node, &part.lender)?.at_epoch(journey.epoch))
}

/// Whether asking again may help.
fn is_final(e: &CallError) -> bool {
    e.problem().is_some_and(|p| !p.retry && p.status != 500 && p.status != 401)
}

async fn perform(node: &Arc<Node>, journey: &Journey, act: &Act) -> Result<Vec<Event>, Problem> {
    let part = |lease: &LeaseId| {
        journey.part(lease).cloned().ok_or_else(|| Problem::ours(format!("{lease} is not in {}", journey.id)))
    };
    match act {
        Act::Reserve { cloud, reservation } => reserve(node, journey, cloud, reservation).await,
        Act::LetGo { cloud, reservation } => {
            let answer: Result<(), _> = client(node, cloud)?.delete(&format!("/v1/reservations/{reservation}")).await;
            match answer {
                Err(e) if !is_final(&e) => Err(Problem::unavailable(e.to_string())),
                _ => Ok(vec![Event::LetGo { reservation: reservation.clone() }]),
            }
        }
        Act::Sign { lease } => sign(node, journey, &part(lease)?).await,
        Act::Send { lease, generation } => send(node, journey, &part(lease)?, *generation).await,
        Act::Inform { lease, dossier } => dossier::send(node, journey, &part(lease)?, *dossier).await,
        Act::Ask { lease } => rehearsal::ask(node, journey, &part(lease)?).await,
        Act::Return { lease } => bring_logs(node, journey, &part(lease)?).await,
        Act::Release { lease } => release(node, journey, &part(lease)?).await,
        Act::Settle { lease } => settle(node, journey, &part(lease)?).await,
    }
}

fn plan_of(node: &Node, id: &pumasi_terms::PlanId) -> Result<Plan, Problem> {
    node.get::<PlanRecord>(PLAN, id.as_str())?.map(|p| p.plan).ok_or_else(|| Problem::not_found("plan", id))
}

async fn reserve(node: &Node, journey: &Journey, cloud: &CloudName, id: &ReservationId) -> Result<Vec<Event>, Problem> {
    let plan = plan_of(node, &journey.plan)?;
    let Some(borrow) = &plan.borrow else { return Err(Problem::ours("the plan borrows nothing")) };
    let request =
        ReservationRequest { id: id.clone(), requirement: borrow.requirement.clone(), ttl_ms: borrow.hold_ttl_ms };
    let timeout = Duration::from_millis(borrow.answer_timeout_ms);
    let refused = |why: String| Event::NotGranted { reservation: id.clone(), why };
    let client = match client(node, cloud) {
        Ok(client) => client.with_timeout(timeout),
        Err(e) => return Ok(vec![refused(e.to_string())]),
    };
    let answer: Result<ReservationGrant, CallError> = client.post("/v1/reservations", &request).await;
    Ok(vec![match answer {
        Ok(grant) => Event::Granted { reservation: id.clone(), grant },
        Err(e) => refused(e.to_string()),
    }])
}

/// Everything in it is fixed by the plan and the grant, so that a repeated signing offers the same lease.
pub(super) fn lease_of(node: &Node, journey: &Journey, part: &Part) -> Result<Lease, Problem> {
    let view = lender::pact(node)?;
    let plan = plan_of(node, &part.plan)?;
    let Some(borrow) = &plan.borrow else { return Err(Problem::ours("the plan borrows nothing")) };
    Ok(Lease {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        id: part.lease.clone(),
        serial: Serial(1),
        pact: view.pact.id.clone(),
        pact_serial: view.pact.serial,
        reservation: part.reservation.clone(),
        borrower: node.name().clone(),
        lender: part.lender.clone(),
        service: journey.service.clone(),
        epoch: journey.epoch,
        requirement: borrow.requirement.clone(),
        instances: part.granted,
        price_per_instance_hour: part.price_per_instance_hour,
        ttl_ms: part.ttl_ms,
        recall_notice_ms: part.recall_notice_ms,
        standby_percent: part.standby_percent,
        application: plan.application,
        datasets: plan.datasets.clone(),
        hosts: hosts_of(node, &journey.service)?,
        created_at: plan.created_at,
    })
}

/// What the lender may be asked to answer for. A lease that was signed keeps those that it names.
fn hosts_of(node: &Node, service: &ServiceName) -> Result<Vec<String>, Problem> {
    Ok(node.get::<ServiceRecord>(SERVICE, service.as_str())?.map(|s| s.document.spec.hosts).unwrap_or_default())
}

async fn sign(node: &Node, journey: &Journey, part: &Part) -> Result<Vec<Event>, Problem> {
    let view = lender::pact(node)?;
    let lease = lease_of(node, journey, part)?;
    let payload = serde_json::to_vec(&lease).map_err(|e| Problem::ours(e.to_string()))?;
    let document = SignedDocument::sign_new(&payload, "lease", node.name(), lease.serial, &node.identity.key)
        .map_err(|e| Problem::ours(e.to_string()))?;
    let answer: Result<Signed, CallError> =
        client(node, &part.lender)?.post("/v1/leases", &Signed { document: document.clone() }).await;
    let no = |why: String| Ok(vec![Event::NotSigned { lease: part.lease.clone(), why }]);
    let signed = match answer {
        Ok(signed) => signed.document,
        Err(e) if is_final(&e) => return no(e.to_string()),
        Err(e) => return Err(Problem::unavailable(e.to_string())),
    };
    let both = BTreeSet::from([node.name().clone(), part.lender.clone()]);
    match signed.verify("lease", &view.keys, &both) {
        Ok(verified) if verified.payload == payload => {}
        Ok(_) => return no(format!("{} signed another lease than was offered", part.lender)),
        Err(e) => return no(format!("the signature of {} is not good: {e}", part.lender)),
    }
    let id = part.lease.clone();
    node.transact(move |tx| Ok(tx.put(SIGNED_LEASE, id.as_str(), &signed, Expect::Any).map(|_| ())?)).await?;
    Ok(vec![Event::Signed { lease: part.lease.clone() }])
}

/// Brings a manifest to the lender, and the chunks that it has not. What is so complete there can be named by its digest.
pub async fn send_chunks<F, P>(
    client: &Client,
    lease: &LeaseId,
    (manifest, tree): (Bytes, &TreeManifest),
    pack: F,
) -> Result<u64, CallError>
where
    F: Fn(Vec<Digest>) -> P,
    P: Future<Output = Result<Vec<u8>, String>>,
{
    let client = client.with_timeout(PACK_TIMEOUT);
    let garbled = |problem: String| CallError::Garbled { url: client.base().to_owned(), problem };
    let lens: BTreeMap<Digest, u64> = tree.chunks().map(|c| (c.digest, u64::from(c.len))).collect();
    let mut sent = 0;
    // Of very many it names some at a time.
    for _ in 0..ROUNDS_MAX {
        let path = format!("/v1/leases/{lease}/chunks/missing");
        let missing: Missing = client.send_bytes("POST", &path, manifest.clone()).await?;
        if missing.chunks.is_empty() {
            return Ok(sent);
        }
        let mut rest = missing.chunks.into_iter().peekable();
        while rest.peek().is_some() {
            let mut bytes = 0;
            let mut batch = Vec::new();
            while let Some(digest) = rest.next_if(|_| bytes < PACK_BYTES && batch.len() < PACK_CHUNKS) {
                bytes += lens.get(&digest).copied().unwrap_or(0) as usize;
                batch.push(digest);
            }
            let pack = pack(batch).await.map_err(|e| garbled(format!("reading what is to be sent: {e}")))?;
            sent += pack.len() as u64;
            let path = format!("/v1/leases/{lease}/chunks");
            let () = client.send_bytes("POST", &path, Bytes::from(pack)).await?;
        }
    }
    Err(garbled(format!("after {ROUNDS_MAX} rounds chunks are missing still")))
}

async fn send(node: &Arc<Node>, journey: &Journey, part: &Part, generation: u64) -> Result<Vec<Event>, Problem> {
    let service = node
        .get::<ServiceRecord>(SERVICE, journey.service.as_str())?
        .ok_or_else(|| Problem::not_found("service", &journey.service))?;
    if service.generation != generation {
        return Err(Problem::conflict("a newer application is there; that one is sent"));
    }
    let spec = &service.document.spec;
    let digest = service.bundle();
    let bundles = bundles::owned(node, &service.customer);
    let (bundle, unpacked) = (bundles.clone(), bundles.unpacked(&digest));
    let read = move || {
        let tree = bundle.tree(&digest)?;
        let source = pumasi_transfer::TreeChunks::new(unpacked, &tree);
        Ok::<_, Problem>((Bytes::from(tree.to_bytes()), tree, Arc::new(source)))
    };
    let (manifest, tree, source) = crate::world::blocking(read).await.map_err(|e| Problem::ours(e.to_string()))??;
    let client = client_on(node, journey, part)?;
    let trouble = |e: CallError| Event::NotSent { lease: part.lease.clone(), fatal: is_final(&e), why: e.to_string() };
    let redirect = spec.routing.mode == RouteMode::Redirect;
    let mut sent = SendApplication {
        epoch: journey.epoch,
        generation,
        digest,
        application: spec.application.clone(),
        hosts: spec.hosts.clone(),
        aliases: spec.hosts.first().filter(|_| redirect).map(|h| routes::alias(h, &part.lender)).into_iter().collect(),
        home_only: spec.routing.home_only.clone(),
        safe_methods: spec.routing.safe_methods.clone(),
        user_cookie: spec.routing.user_cookie.clone(),
        admission: routes::admission(node, spec),
        datasets: ship::of_part(spec, part)
            .map(|d| SentDataset { name: d.name.clone(), kind: d.kind, file: d.file.clone() })
            .collect(),
        ticket_key: redirect.then(|| node.identity.ticket_key(&part.lease)),
        secrets: None,
    };
    let pack = |digests: Vec<Digest>| {
        let from = source.clone();
        async move {
            let pack = crate::world::blocking(move || encode_pack(&*from, &digests)).await;
            pack.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        }
    };
    if let Err(e) = send_chunks(&client, &part.lease, (manifest, &tree), pack).await {
        return retry_or_end(node, journey, trouble(e)).await;
    }
    if secrets::are_used(&service) {
        let key = client.get(&format!("/v1/leases/{}/sealing-key", part.lease)).await;
        let key = match key {
            Ok(key) => key,
            Err(e) => return retry_or_end(node, journey, trouble(e)).await,
        };
        let lease = signed_lease(node, &part.lease)?.map_or_else(|| lease_of(node, journey, part), Ok)?;
        let values = secrets::of_service(node, &service)?;
        sent.secrets = Some(secrets::seal(&values, &lease, generation, &digest, &key)?);
    }
    let put: Result<(), CallError> =
        client.with_timeout(PACK_TIMEOUT).put(&format!("/v1/leases/{}/application", part.lease), &sent).await;
    if let Err(e) = put {
        return retry_or_end(node, journey, trouble(e)).await;
    }
    ship::start(node, &service, part);
    let begun = clock::boot();
    while !node.datasets.all_copied(&part.lease, ship::of_part(spec, part).map(|d| &d.name)) {
        let leased =
            node.get::<Journey>(JOURNEY, journey.id.as_str())?.and_then(|j| j.part(&part.lease).map(Part::is_hopeful));
        if leased != Some(true) || clock::boot().since(begun) > FIRST_COPY_MS_MAX {
            return Err(Problem::unavailable("the first copies were not complete in time"));
        }
        node.datasets.moved(Duration::from_millis(100)).await;
    }
    Ok(vec![Event::Sent { lease: part.lease.clone(), generation }])
}

/// A final refusal ends the part; anything else is told and tried again.
async fn retry_or_end(node: &Node, journey: &Journey, event: Event) -> Result<Vec<Event>, Problem> {
    match &event {
        Event::NotSent { fatal: false, why, .. } => {
            let trouble = Problem::unavailable(why.clone());
            super::happened(node, &journey.id, event).await;
            Err(trouble)
        }
        _ => Ok(vec![event]),
    }
}

/// The lender left the pact or was dismissed: nobody there answers this cloud any more.
fn is_gone(node: &Node, part: &Part) -> bool {
    node.pact().is_none_or(|v| v.pact.member(&part.lender).is_none())
}

async fn bring_logs(node: &Node, journey: &Journey, part: &Part) -> Result<Vec<Event>, Problem> {
    if is_gone(node, part) {
        return Ok(vec![Event::Returned { lease: part.lease.clone() }]);
    }
    let text = client_on(node, journey, part)?.text(&format!("/v1/leases/{}/logs", part.lease)).await;
    match text {
        Ok(text) => {
            // A service's record outlives its journeys.
            let Some(service) = node.get::<ServiceRecord>(SERVICE, journey.service.as_str())? else {
                return Err(Problem::not_found("service", &journey.service));
            };
            let path = super::returned_log(node, &service, &part.lease);
            let write = || {
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                std::fs::write(&path, text)
            };
            write().map_err(|e| Problem::ours(format!("writing {}: {e}", path.display())))?;
        }
        Err(e) if is_final(&e) => {}
        Err(e) => return Err(Problem::unavailable(e.to_string())),
    }
    Ok(vec![Event::Returned { lease: part.lease.clone() }])
}

async fn release(node: &Node, journey: &Journey, part: &Part) -> Result<Vec<Event>, Problem> {
    ship::stop(node, &part.lease);
    let lease = part.lease.clone();
    // Its time has to be over by our own clock: until then it may run there.
    if is_gone(node, part) && part.expires_at <= clock::boot() {
        return Ok(vec![Event::Unknown { lease }]);
    }
    let answer: Result<crate::api::Released, CallError> =
        client_on(node, journey, part)?.post(&format!("/v1/leases/{lease}/release"), &serde_json::json!({})).await;
    match answer {
        Ok(released) if released.left.is_empty() => {
            Ok(vec![Event::Emptied { lease, left: released.left, usage: released.usage }])
        }
        // Recorded, and asked again soon: emptying takes its time there.
        Ok(released) => {
            super::happened(
                node,
                &journey_of(node, &lease)?,
                Event::Emptied { lease, left: released.left, usage: released.usage },
            )
            .await;
            Err(Problem::unavailable("the lender is still emptying it"))
        }
        Err(e) if e.problem().is_some_and(|p| p.status == 404) => Ok(vec![Event::Unknown { lease }]),
        Err(e) => Err(Problem::unavailable(e.to_string())),
    }
}

fn journey_of(node: &Node, lease: &LeaseId) -> Result<JourneyId, Problem> {
    let journeys = node.journeys()?;
    journeys
        .iter()
        .find(|j| j.part(lease).is_some())
        .map(|j| j.id.clone())
        .ok_or_else(|| Problem::not_found("journey of", lease))
}

/// A lease as both signed it. What this store holds was verified before.
pub fn signed_lease(node: &Node, id: &LeaseId) -> Result<Option<Lease>, Problem> {
    let Some(signed) = node.get::<SignedDocument>(SIGNED_LEASE, id.as_str())? else { return Ok(None) };
    serde_json::from_slice(signed.unverified_payload()).map(Some).map_err(|e| Problem::ours(format!("lease {id}: {e}")))
}

async fn settle(node: &Node, journey: &Journey, part: &Part) -> Result<Vec<Event>, Problem> {
    if is_gone(node, part) {
        return Ok(vec![Event::Settled { lease: part.lease.clone(), agreed: false }]);
    }
    sensing::flush(node).await;
    let fresh = node
        .get::<Journey>(JOURNEY, journey.id.as_str())?
        .and_then(|j| j.part(&part.lease).cloned())
        .unwrap_or_else(|| part.clone());
    // Without one the lender signed, and its answer never came: it is settled over what was offered.
    let lease = signed_lease(node, &part.lease)?.map_or_else(|| lease_of(node, journey, &fresh), Ok)?;
    let ordered = meter::Ordered::of(&lease, clock::wall());
    let own = meter::claim(fresh.usage, &fresh.lender_usage, fresh.unmetered_ms, ordered);
    let settlement = meter::settlement(&lease, fresh.lender_usage, own, clock::wall());
    let payload = serde_json::to_vec(&settlement).map_err(|e| Problem::ours(e.to_string()))?;
    let document = SignedDocument::sign_new(&payload, "settlement", node.name(), Serial(1), &node.identity.key)
        .map_err(|e| Problem::ours(e.to_string()))?;
    let answer: Result<Signed, CallError> = client_on(node, journey, part)?
        .post(&format!("/v1/leases/{}/settlement", part.lease), &Signed { document: document.clone() })
        .await;
    let document = match answer {
        Ok(signed) => signed.document,
        // Its reading has moved since: ask for it again, and settle over that.
        Err(e) if e.problem().is_some_and(|p| p.code == "ledgers_differ") => return release(node, journey, part).await,
        // People decide over there; this cloud's word is kept, and asked for again.
        Err(e) if e.problem().is_some_and(|p| p.code == "settlement_open") => {
            let (service, id) = (journey.service.clone(), part.lease.clone());
            let dispute =
                Dispute { version: 1, said: settlement, service, document, since: clock::wall(), disputed: None };
            node.transact(move |tx| Ok(tx.put(DISPUTE, id.as_str(), &dispute, Expect::Any).map(|_| ())?)).await?;
            return Ok(vec![Event::Settled { lease: part.lease.clone(), agreed: false }]);
        }
        Err(e) => return Err(Problem::unavailable(e.to_string())),
    };
    let said = signed_by_both(node, &part.lease, &part.lender, &document)?;
    let id = part.lease.clone();
    node.transact(move |tx| Ok(tx.put(SETTLEMENT, id.as_str(), &document, Expect::Any).map(|_| ())?)).await?;
    let agreed = meter::same_time(part.granted, &said.lender_usage, &said.borrower_usage);
    Ok(vec![Event::Settled { lease: part.lease.clone(), agreed }])
}

/// What the lender countersigned: this cloud's own word about the lease, of now or of an earlier try.
fn signed_by_both(
    node: &Node,
    lease: &LeaseId,
    lender: &CloudName,
    document: &SignedDocument,
) -> Result<Settlement, Problem> {
    let bad = |e: String| Problem::unavailable(format!("the settlement of {lease} by {lender}: {e}"));
    let both = BTreeSet::from([node.name().clone(), lender.clone()]);
    let view = lender::pact(node)?;
    let verified = document.verify("settlement", &view.keys, &both).map_err(|e| bad(e.to_string()))?;
    let said: Settlement = serde_json::from_slice(&verified.payload).map_err(|e| bad(e.to_string()))?;
    if &said.lease == lease { Ok(said) } else { Err(bad(format!("it is about {}", said.lease))) }
}

/// Settlements that a lender's operator had to decide over: asked for again, seldom. A lender that is gone stands in no other's way.
pub async fn settle_open(node: &Node) -> Result<(), Problem> {
    let open = node.store.list::<Dispute>(DISPUTE).map_err(|e| crate::node::store_problem(&e))?;
    for dispute in open.into_iter().map(|d| d.body).filter(|d| &d.said.borrower == node.name()) {
        if let Err(e) = settle_again(node, dispute).await {
            tracing::debug!(error = %e, "a settlement is open still; asked for again");
        }
    }
    Ok(())
}

async fn settle_again(node: &Node, dispute: Dispute) -> Result<(), Problem> {
    let (lease, lender) = (dispute.said.lease, dispute.said.lender);
    let path = format!("/v1/leases/{lease}/settlement");
    let answer: Result<Signed, CallError> =
        client(node, &lender)?.post(&path, &Signed { document: dispute.document }).await;
    let document = answer.map_err(|e| Problem::unavailable(e.to_string()))?.document;
    signed_by_both(node, &lease, &lender, &document)?;
    node.transact(move |tx| {
        tx.put(SETTLEMENT, lease.as_str(), &document, Expect::Any)?;
        Ok(tx.delete(DISPUTE, lease.as_str(), Expect::Any).map(drop)?)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obstacle_is_news_until_it_changes() {
        let mut told = Told::new();
        let mut news =
            |about: &str, obstacle: &str, at| is_news(&mut told, (about.to_owned(), "no_plan"), obstacle, BootMs(at));
        // Met ten times a second for half an hour, with other figures each time.
        let often = (0..18_000).filter(|n| news("shop", &format!("city-b has no room: {n} MiB are free"), n * 100));
        assert_eq!(often.count(), 1);
        assert!(news("shop", "city-b failed lately", 1_800_000));
        assert!(!news("shop", "city-b failed lately", 1_801_000));
        assert!(news("mail", "city-b failed lately", 1_801_000));
        assert!(news("shop", "city-b failed lately", 1_801_000 + OBSTACLE_OVER_MS), "it was over, and is met again");
    }
}
