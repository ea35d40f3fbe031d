//! The lender's side: the ledger over the store, copies that borrowers send, instances that serve them, and emptying afterwards.
//!
//! Enters: requests of members, the state of instances. Leaves: grants, signed leases, proof that nothing is left.
//! Always holds: the ledger decides inside the transaction that records it; what a borrower sends stays inside its lease's directory.

pub mod copies;
pub mod dossier;
mod emptying;
pub mod heir;
mod hosts;
mod lents;
mod settling;
mod told;
mod warm;

pub use copies::Copies;
pub use emptying::{emptiness, reconcile};
pub use hosts::{check_sent, names};
pub use lents::{Lents, Stand};
pub use settling::{accept_settlement, dispute_settlement, open_settlements, settle};
pub use told::Told;
pub use warm::Warm;

use crate::node::{Note, TxError, store_problem};
use crate::object::{
    HOLD, LENT, LENT_APPLICATION, LentApplication, SERVICE, SIGNED_LEASE, ServiceRecord, owner_of_lease,
};
use crate::pact::PactView;
use crate::takeover::room;
use crate::uploads::Size;
use crate::{Node, clock, home, register, witness};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_engine::{InstanceState, InstanceStatus};
use pumasi_lease::message::{LeaseStatus, ReservationGrant, ReservationRequest};
use pumasi_lease::{Book, Capacity, Code, Hold, Lease, LentLease, LentState, Refused, Transition, ledger};
use pumasi_ownership::State;
use pumasi_store::{Expect, Tx};
use pumasi_terms::offer::Offer;
use pumasi_terms::{CloudName, Digest, Epoch, LeaseId, Now, ReservationId, Resources};
use pumasi_trust::SignedDocument;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Until the first instance of a bundle is ready, as told to borrowers before it was ever measured, ms.
const ESTIMATED_START_MS: u64 = 500;

pub fn refused(refused: Refused) -> Problem {
    let status = match refused.code {
        Code::BadRequest => 422,
        Code::NotABorrower | Code::NotYours => 403,
        Code::NoHold => 404,
        Code::HoldExpired | Code::LeaseEnded => 410,
        _ => 409,
    };
    Problem {
        retry: refused.retry_after_ms.is_some(),
        retry_after_ms: refused.retry_after_ms,
        ..Problem::new(status, refused.code.as_str(), Fault::Input, refused.text)
    }
}

/// Every lease that is lent, with its renewals, in order of id.
pub fn lents(node: &Node) -> Result<Vec<Arc<LentLease>>, Problem> {
    node.lents.with(&node.store, |stand| stand.book().leases().cloned().collect())
}

/// One of them; an error where it is there and cannot be read.
pub fn lent(node: &Node, id: &LeaseId) -> Result<Option<Arc<LentLease>>, Problem> {
    node.lents.with(&node.store, |stand| match stand.unread(id) {
        Some(unreadable) => Err(store_problem(&unreadable.into())),
        None => Ok(stand.book().lease(id).cloned()),
    })?
}

/// Writes the ledger's decision down.
fn record(tx: &mut Tx<'_>, transition: Transition) -> Result<(), TxError> {
    match transition {
        Transition::Hold(hold) => {
            tx.put(HOLD, hold.id.as_str(), &*hold, Expect::Any)?;
        }
        Transition::DropHold(id) => {
            tx.delete(HOLD, id.as_str(), Expect::Any)?;
        }
        Transition::Lease(lent) => {
            tx.delete(HOLD, lent.lease.reservation.as_str(), Expect::Any)?;
            tx.put(LENT, lent.id().as_str(), &*lent, Expect::Any)?;
        }
    }
    Ok(())
}

/// What its own services have now, or are about to have once something has made room.
pub fn home_use(node: &Node, services: &[Arc<ServiceRecord>]) -> Resources {
    let count = |s: &ServiceRecord| node.takeover.room.claims(&s.owner(), home::all(node, s));
    services
        .iter()
        .map(|s| s.document.spec.application.resources.times(count(s)))
        .fold(Resources::default(), Resources::plus)
}

/// What leases and holds bind.
pub fn lent_use(node: &Node) -> Result<Resources, Problem> {
    let now = clock::now();
    node.lents.with(&node.store, |s| s.book().bound(None, now).resources)
}

fn capacity(node: &Node, view: &PactView) -> Result<Capacity, Problem> {
    let me = view
        .pact
        .member(node.name())
        .ok_or_else(|| Problem::forbidden("this cloud is no member of its pact any more"))?;
    let capabilities = node.engine.capabilities();
    let missing = capabilities.isolation.missing_for_lending();
    let mut terms = me.terms.clone();
    if !missing.is_empty() && node.config.engine.lend_without_isolation != crate::config::ACCEPT_RISK {
        // What this host cannot isolate it does not lend, whatever the pact says.
        terms.lends = Resources::default();
    }
    let services = node.services()?;
    let now = clock::now();
    let unclear = node.lents.with(&node.store, |s| s.unclear(terms.hold_ttl_ms_max, now).cloned())?;
    if let Some(unreadable) = unclear.as_ref().or_else(|| services.unreadable().first()) {
        tracing::debug!(kind = %unreadable.kind, name = %unreadable.name, "nothing more is lent: what it binds is not known");
        terms.lends = Resources::default();
    }
    Ok(Capacity {
        terms,
        physical: node.config.physical(),
        home_use: home_use(node, &services),
        gives_way: room::for_standbys(node, &services),
        platforms: capabilities.platforms,
        storage_free_bytes: storage_free(node),
        egress: node.config.lend.egress.clone(),
        own_addresses: node.config.own_addresses(),
        standby_percent: (node.config.lend.standbys && !witness::is(&node.config))
            .then_some(node.config.lend.standby_percent),
    })
}

fn storage_free(node: &Node) -> u64 {
    let free =
        nix::sys::statvfs::statvfs(&node.config.cloud.data_dir).map_or(0, |s| s.blocks_available() * s.fragment_size());
    match node.config.capacity.storage_bytes {
        0 => free,
        set => set.min(free),
    }
}

pub fn pact(node: &Node) -> Result<Arc<PactView>, Problem> {
    node.pact().ok_or_else(|| Problem::conflict("this cloud is in no pact; found one or join one first"))
}

pub fn offer_to(node: &Node, borrower: &CloudName) -> Result<Offer, Problem> {
    let view = pact(node)?;
    let capacity = capacity(node, &view)?;
    node.lents.with(&node.store, |s| ledger::offer(s.book(), &capacity, borrower, node.name(), clock::now()))
}

pub async fn reserve(
    node: &Node,
    borrower: CloudName,
    request: ReservationRequest,
) -> Result<ReservationGrant, Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let view = pact(node)?;
    let mut capacity = capacity(node, &view)?;
    // Also those of the host that the configuration does not name.
    let of_host = |ip: &std::net::IpAddr| pumasi_engine::is_of_this_host(*ip);
    capacity.own_addresses.extend(request.requirement.egress.iter().map(|to| to.ip()).filter(of_host));
    let terms = capacity.terms.clone();
    let (lents, told) = (node.lents.clone(), node.holds_told.clone());
    let hold = node
        .transact(move |tx| {
            settling::within_trust(tx, &lents, &borrower)?;
            let now = clock::now();
            let hold =
                lents.book(tx, |book| ledger::reserve(book, &capacity, &borrower, &request, now))?.map_err(refused)?;
            let note = Note::new("hold_granted", "reservation", &hold.id).caused_by(&hold.requirement.service).because(
                format!("{borrower} holds {} instances for {} ms", hold.instances, hold.expires_at.since(now.boot)),
            );
            record(tx, Transition::Hold(Box::new(hold.clone())))?;
            told.journal(tx, &borrower, note, &Principal::Peer(borrower.clone()).to_string(), now)?;
            Ok(hold)
        })
        .await?;
    Ok(ledger::grant(&hold, &terms, ESTIMATED_START_MS, clock::now()))
}

pub async fn let_go(node: &Node, borrower: CloudName, id: ReservationId) -> Result<(), Problem> {
    let told = node.holds_told.clone();
    node.transact(move |tx| {
        let Some(hold) = tx.get::<Hold>(HOLD, id.as_str())? else { return Ok(()) };
        if hold.body.borrower != borrower {
            return Err(Problem::forbidden(format!("{id} belongs to another cloud")).into());
        }
        record(tx, Transition::DropHold(id.clone()))?;
        let note = Note::new("hold_let_go", "reservation", &id);
        told.journal(tx, &borrower, note, &Principal::Peer(borrower.clone()).to_string(), clock::now())
    })
    .await
}

/// Checks the borrower's signature and the document against the hold, and signs as well.
pub async fn sign(node: &Node, borrower: CloudName, document: SignedDocument) -> Result<SignedDocument, Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let view = pact(node)?;
    let verified = document
        .verify("lease", &view.keys, &BTreeSet::from([borrower.clone()]))
        .map_err(|e| Problem::new(403, "bad_signature", Fault::Input, format!("the lease of {borrower}: {e}")))?;
    let lease: Lease = serde_json::from_slice(&verified.payload)
        .map_err(|e| Problem::bad_request(format!("the signed lease is not one of this version: {e}")))?;
    if lease.serial != verified.serial || lease.borrower != borrower || &lease.lender != node.name() {
        return Err(Problem::bad_request("the lease names other parties or another serial than its signatures"));
    }
    if lease.pact != view.pact.id || lease.pact_serial != view.pact.serial {
        let text = format!(
            "the lease rests on serial {} of {}; serial {} of {} is in force here",
            lease.pact_serial, lease.pact, view.pact.serial, view.pact.id
        );
        return Err(Problem { retry: true, ..Problem::new(409, "pact_differs", Fault::Peer, text) });
    }
    let capacity = capacity(node, &view)?;
    let countersigned = match document.signed_by(node.name()) {
        true => document,
        false => document.countersign(node.name(), &node.identity.key).map_err(|e| Problem::ours(e.to_string()))?,
    };
    let kept = countersigned.clone();
    let (lents, state) = (node.lents.clone(), node.voting.state());
    node.transact(move |tx| {
        let now = clock::now();
        let known = tx.get::<LentLease>(LENT, lease.id.as_str())?.is_some();
        if !known {
            settling::within_trust(tx, &lents, &borrower)?;
            let mut services: Vec<ServiceRecord> = tx.list(SERVICE)?.into_iter().map(|s| s.body).collect();
            // What this cloud had, and its owner of now wants kept ready here, is that owner's.
            let mut theirs = Vec::new();
            for s in services.iter().filter(|s| s.name() == &lease.service) {
                theirs.extend(register::owner_in(tx, state.as_deref(), &s.id)?.filter(|o| o == &borrower).map(|_| s.id.clone()));
            }
            services.retain(|s| !theirs.contains(&s.id));
            // In a pact that votes a name is one service's: what an earlier owner had kept ready here is the same one's.
            let owns = |s: &State| s.services.values().any(|o| o.owner == borrower && o.agreed.name == lease.service);
            let is_owner = state.as_deref().is_some_and(owns);
            let leases =
                |book: &Book| hosts::check_agreed(&lease, is_owner, services.iter(), book.leases().map(|l| &**l));
            lents.book(tx, leases)??;
            // The borrower chooses the id: it must not be that of a lease that this cloud rents, or another's that is over.
            if tx.get::<SignedDocument>(SIGNED_LEASE, lease.id.as_str())?.is_some() {
                let text = format!("{} is the id of another lease; choose a new one", lease.id);
                return Err(Problem::new(409, "id_conflict", Fault::Peer, text).into());
            }
        }
        let lent = lents.book(tx, |book| ledger::confirm(book, &capacity, &lease, now))?.map_err(refused)?;
        record(tx, Transition::Lease(Box::new(lent)))?;
        tx.put(SIGNED_LEASE, lease.id.as_str(), &kept, Expect::Any)?;
        if !known {
            let what = match lease.requirement.standby {
                Some(standby) => format!(
                    "{borrower} has it kept ready: room for {} instances at {} % of {} an hour each, {} of them running",
                    lease.instances,
                    lease.standby_percent.unwrap_or(0),
                    lease.price_per_instance_hour,
                    standby.warm
                ),
                None => format!(
                    "{borrower} rents {} instances at {} an hour each",
                    lease.instances, lease.price_per_instance_hour
                ),
            };
            let note = Note::new("lease_lent", "lease", &lease.id).caused_by(&lease.service).because(what);
            tx.journal(note.entry(&Principal::Peer(borrower).to_string(), now.wall))?;
        }
        Ok(())
    })
    .await?;
    Ok(countersigned)
}

/// Renewals of one heartbeat, on disk when this returns. A refused one shows in the status that is answered.
pub async fn renew(
    node: &Node,
    borrower: CloudName,
    renewals: Vec<pumasi_lease::message::Renewal>,
) -> Result<Vec<LeaseStatus>, Problem> {
    let asked: BTreeSet<LeaseId> = renewals.iter().map(|r| r.lease.clone()).collect();
    let behind: Vec<(LeaseId, u64)> = renewals.iter().filter_map(|r| Some((r.lease.clone(), r.behind_ms?))).collect();
    if !renewals.is_empty() {
        node.health.whole()?;
    }
    if !renewals.is_empty() {
        // What is committed is taken in here, so that the transaction has the least to do.
        node.lents.with(&node.store, |_| ())?;
        let (lents, who) = (node.lents.clone(), borrower.clone());
        let result = node.store.transact(move |tx| lents.renew(tx, &who, &renewals, clock::now())).await;
        // Later ends alone are nothing to act on before the next tick.
        if result.map_err(Problem::from)? {
            node.wake.notify_one();
        }
    }
    let running = Running::of(node)?;
    let now = clock::now();
    node.lents.with(&node.store, |stand| {
        let mine = |l: &&Arc<LentLease>| l.binds() || asked.contains(l.id());
        let known: BTreeMap<&LeaseId, &Arc<LentLease>> =
            stand.book().leases_of(&borrower).filter(mine).map(|l| (l.id(), l)).collect();
        node.copies.tell_behind(behind.into_iter().filter(|(id, _)| known.get(id).is_some_and(|l| l.usable())));
        // Of one whose record cannot be read nothing is said: not known would mean that it is over.
        let told = |id: &&LeaseId| !known.contains_key(id) && !stand.hides(id.as_str());
        let unknown = asked.iter().filter(told).map(|lease| LeaseStatus {
            lease: lease.clone(),
            state: None,
            expires_in_ms: 0,
            recall_in_ms: None,
            instances_ready: 0,
            instances_starting: 0,
            trouble: None,
            last_line: String::new(),
            generation: 0,
            usage: Default::default(),
            standby: false,
        });
        known.values().map(|l| running.status(node, l, now)).chain(unknown).collect()
    })
}

/// What runs of the lent leases.
struct Running {
    instances: Vec<InstanceStatus>,
    generations: BTreeMap<LeaseId, u64>,
}

impl Running {
    fn of(node: &Node) -> Result<Self, Problem> {
        let applications = node.items::<LentApplication>(LENT_APPLICATION)?;
        let generations = applications.iter().map(|a| (a.lease.clone(), a.sent.generation)).collect();
        Ok(Self { instances: node.instances.get(), generations })
    }

    fn status(&self, node: &Node, lent: &LentLease, now: Now) -> LeaseStatus {
        let owner = owner_of_lease(lent.id());
        // Also those whose probes find them not ready yet.
        let starting = |i: &&InstanceStatus| match &i.state {
            InstanceState::Starting => true,
            InstanceState::Unready { .. } => i.trouble.is_some(),
            _ => false,
        };
        let instances_starting = self.instances.iter().filter(|i| i.owner == owner).filter(starting).count() as u32;
        let trouble = node.troubles.of(&owner, &self.instances);
        LeaseStatus {
            lease: lent.id().clone(),
            state: Some(lent.state.clone()),
            expires_in_ms: lent.expires_at.since(now.boot),
            recall_in_ms: match &lent.state {
                LentState::Recalled { deadline, .. } => Some(deadline.since(now.boot)),
                _ => None,
            },
            // Ready for the borrower is what this cloud's gateway already sends requests to: an earlier word would bring it
            // refusals.
            instances_ready: node.routes.serving(lent.id()),
            instances_starting,
            last_line: trouble.as_ref().map(|t| t.last_line.clone()).unwrap_or_default(),
            trouble: trouble.map(|t| t.why),
            generation: self.generations.get(lent.id()).copied().unwrap_or(0),
            usage: lent.used(now),
            standby: lent.standby().is_some(),
        }
    }
}

pub async fn recall(node: &Node, who: &Principal, id: LeaseId, why: String) -> Result<LentLease, Problem> {
    let who = who.to_string();
    let lents = node.lents.clone();
    node.transact(move |tx| {
        let now = clock::now();
        let Some(lent) = lents.lease(tx, &id)? else {
            return Err(Problem::not_found("lent lease", &id).into());
        };
        let recalled = ledger::recall(&lent, &why, now).map_err(refused)?;
        record(tx, Transition::Lease(Box::new(recalled.clone())))?;
        tx.journal(
            Note::new("lease_recalled", "lease", &id).caused_by(&lent.lease.service).because(why).entry(&who, now.wall),
        )?;
        Ok(recalled)
    })
    .await
}

/// The lease that a member acts on, if it may.
pub fn owned(node: &Node, borrower: &CloudName, epoch: Option<Epoch>, id: &LeaseId) -> Result<Arc<LentLease>, Problem> {
    let lent = lent(node, id)?.ok_or_else(|| Problem::not_found("lent lease", id))?;
    pumasi_lease::authority(&lent, borrower, epoch).map_err(refused)?;
    Ok(lent)
}

/// Whether the borrower owns what is kept here under this lease, as far as the register of the pact goes: one that was lost sends nothing
/// more into its old standbys.
///
/// # Errors
/// `older_epoch`, which the sender mends by reading the register.
pub fn still_its_owners(node: &Node, lent: &LentLease) -> Result<(), Problem> {
    let Some(state) = node.voting.state().filter(|_| lent.standby().is_some()) else { return Ok(()) };
    let Some(dossier) = dossier::of(node, lent.id())? else { return Ok(()) };
    match state.services.get(&dossier.id) {
        Some(owned) if owned.owner != lent.lease.borrower => {
            let (owner, epoch) = (&owned.owner, owned.epoch);
            let text = format!("{owner} owns {} at epoch {epoch}, by the register of the pact", owned.agreed.name);
            Err(Problem { retry: true, ..Problem::new(409, "older_epoch", Fault::Peer, text) })
        }
        _ => Ok(()),
    }
}

pub fn still_usable(lent: &LentLease) -> Result<(), Problem> {
    let late = lent.is_late(clock::now()) && lent.standby().is_none();
    match lent.usable() && !late {
        true => Ok(()),
        false => Err(Problem::new(410, Code::LeaseEnded.as_str(), Fault::Input, format!("{} is over", lent.id()))),
    }
}

/// Before anything of it is unpacked. What has changed until it is stored is refused there.
pub fn check_generation(
    node: &Node,
    id: &LeaseId,
    sent: &crate::wire::SendApplication,
) -> Result<Option<LentApplication>, Problem> {
    let Some(old) = node.get::<LentApplication>(LENT_APPLICATION, id.as_str())? else { return Ok(None) };
    not_older(&old.sent, sent)?;
    Ok(Some(old))
}

/// The bundle that the instances of a lease run from.
pub fn current_application(node: &Node, id: &LeaseId) -> Result<Option<Digest>, Problem> {
    Ok(node.get::<LentApplication>(LENT_APPLICATION, id.as_str())?.map(|a| a.digest))
}

fn not_older(old: &crate::wire::SendApplication, sent: &crate::wire::SendApplication) -> Result<(), Problem> {
    let older = old.epoch > sent.epoch || old.generation > sent.generation;
    // Another bundle is another generation: else each repeat could bring one more.
    let other = old.generation == sent.generation && old.digest != sent.digest;
    if older || other {
        let text = format!("generation {} of epoch {} is here already", old.generation, old.epoch);
        return Err(Problem::new(409, Code::OlderEpoch.as_str(), Fault::Input, text));
    }
    Ok(())
}

/// The application of a lease, whole: its bundle lies unpacked, its instances may start.
pub async fn set_application(
    node: &Node,
    borrower: CloudName,
    id: LeaseId,
    sent: crate::wire::SendApplication,
    size: Size,
) -> Result<(), Problem> {
    let record = LentApplication {
        lease: id.clone(),
        digest: sent.digest,
        bundle_bytes: size.bytes,
        bundle_files: size.files,
        sent,
        since: clock::boot(),
    };
    node.transact(move |tx| {
        let lent = tx.get::<LentLease>(LENT, id.as_str())?.map(|l| l.body);
        if !lent.as_ref().is_some_and(LentLease::usable) {
            return Err(Problem::new(410, Code::LeaseEnded.as_str(), Fault::Input, format!("{id} is over")).into());
        }
        let old = tx.get::<LentApplication>(LENT_APPLICATION, id.as_str())?.map(|a| a.body.sent);
        if let Some(old) = &old {
            not_older(old, &record.sent)?;
        }
        let news = old.is_none_or(|o| o.generation != record.sent.generation);
        tx.put(LENT_APPLICATION, id.as_str(), &record, Expect::Any)?;
        if news {
            let note = Note::new("application_received", "lease", &id).because(format!(
                "generation {}, {}, {} bytes",
                record.sent.generation, record.digest, record.bundle_bytes
            ));
            tx.journal(note.entry(&Principal::Peer(borrower).to_string(), clock::wall()))?;
        }
        Ok(())
    })
    .await
}

/// The borrower is done: it is emptied from now on.
///
/// # Errors
/// Where the register gives its service to this cloud: what is kept here is about to be this cloud's own, and may be the last copy.
pub async fn release(
    node: &Node,
    borrower: CloudName,
    epoch: Option<Epoch>,
    id: LeaseId,
) -> Result<LentLease, Problem> {
    if let Some(kept) = lent(node, &id)?.filter(|l| l.standby().is_some() && l.usable())
        && let Some(dossier) = dossier::of(node, &id)?
        && let Some(owned) = node.voting.state().and_then(|s| s.services.get(&dossier.id).cloned())
        && &owned.owner == node.name()
    {
        let (name, epoch) = (&owned.agreed.name, owned.epoch);
        let text =
            format!("{} keeps {name}, which is this cloud's at epoch {epoch}: it is about to be taken over", kept.id());
        return Err(Problem { retry: true, ..Problem::new(409, "being_taken", Fault::Us, text) });
    }
    let lents = node.lents.clone();
    node.transact(move |tx| {
        let now = clock::now();
        let Some(lent) = lents.lease(tx, &id)? else {
            return Err(Problem::not_found("lent lease", &id).into());
        };
        // Looked at again: it may have been superseded since.
        pumasi_lease::authority(&lent, &borrower, epoch).map_err(refused)?;
        let released = ledger::release(&lent, now);
        if released != lent {
            record(tx, Transition::Lease(Box::new(released.clone())))?;
            tx.journal(
                Note::new("lease_released", "lease", &id)
                    .caused_by(&lent.lease.service)
                    .entry(&Principal::Peer(borrower).to_string(), now.wall),
            )?;
        }
        Ok(released)
    })
    .await
}

/// After a reboot: boot times in the records are void, so everything that was lent is over.
pub fn forfeit(tx: &mut Tx<'_>) -> Result<(), TxError> {
    let now = clock::now();
    for transition in ledger::after_reboot(Stand::of_tx(tx)?.book(), now) {
        record(tx, transition)?;
    }
    Ok(())
}
