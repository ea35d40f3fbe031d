//! A cloud that keeps a service ready becomes its owner: the heir's side of a planned handover.
//!
//! Enters: the owner's signed word. Leaves: this cloud's signature under it, and the service as one of its own.
//! Always holds: the signature and the service's record are written in one transaction, after which there is no way back; what was
//! cancelled is never signed; nothing of the service is started before its data are this cloud's own; each step may be cut off and
//! taken again.

use super::copies::APPLICATION;
use super::{dossier, pact, record, refused, warm};
use crate::bundles::{self, short};
use crate::keys::{self, Package};
use crate::node::{Note, TxError};
use crate::object::{
    CUSTOMER, CustomerRecord, HEIR, Heir, LENT_APPLICATION, LentApplication, SERVICE, ServiceRecord, TAKEOVER,
};
use crate::{Node, clock, home, moves, register, routes, secrets, tenancy, world};
use pumasi_api::message::CustomerGrant;
use pumasi_api::{Fault, Principal, Problem};
use pumasi_engine::InstanceState;
use pumasi_lease::dossier::Dossier;
use pumasi_lease::handover::{Handover, SIGNED_AS};
use pumasi_lease::{LentLease, LentState, Transition, ledger};
use pumasi_ownership::state::Base;
use pumasi_store::{Expect, Tx};
use pumasi_terms::{CloudName, CustomerName, Epoch, LeaseId, MoveId, SecretName, ServiceId, ServiceName};
use pumasi_trust::{Secret, SignedDocument};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Somebody who asks whether it is open waits for the answer for so long at most, looked for so often.
const OPEN_WAIT_MS_MAX: u64 = 1_000;
const OPEN_LOOK_MS: u64 = 2;
/// Cancelled wishes that one lease remembers.
const CANCELLED_MAX: usize = 64;
/// The register may be a moment behind here, ms.
const REGISTER_WITHIN: std::time::Duration = std::time::Duration::from_millis(1_000);

fn not_ready(text: impl Into<String>) -> Problem {
    Problem { retry: true, ..Problem::new(409, "not_ready", Fault::Us, text) }
}

fn cannot(text: impl Into<String>) -> Problem {
    Problem::new(409, "cannot_own", Fault::Us, text)
}

/// How a service becomes this cloud's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: ServiceId,
    pub service: ServiceName,
    pub from: CloudName,
    pub to: CloudName,
    pub epoch: Epoch,
    /// The standby that it lives in.
    pub lease: LeaseId,
    /// The pact's voters look after it.
    pub registered: bool,
    /// Whoever had it could not go on with it: others may have to make room.
    pub rescued: bool,
}

/// What it would go on with by its owner's word, if all of it is here and the owner is heard.
fn whole(node: &Node, lent: &LentLease) -> Result<(Dossier, LentApplication), Problem> {
    if lent.silence.is_some() {
        return Err(cannot(format!("{} has not been heard", lent.lease.borrower)));
    }
    kept(node, lent)
}

/// The same, whether or not its owner is heard.
pub fn kept(node: &Node, lent: &LentLease) -> Result<(Dossier, LentApplication), Problem> {
    let id = lent.id();
    if lent.standby().is_none() || !lent.usable() {
        return Err(cannot(format!("{id} keeps nothing ready here now")));
    }
    let told =
        dossier::of(node, id)?.ok_or_else(|| not_ready(format!("no dossier of {} is here", lent.lease.service)))?;
    let sent = node.get::<LentApplication>(LENT_APPLICATION, id.as_str())?;
    let sent = sent.ok_or_else(|| not_ready("its application is not here"))?;
    let dir = node.lease_dir(id);
    if let Some(set) = sent.sent.datasets.iter().find(|s| !node.copies.ready(&dir, &s.name)) {
        return Err(not_ready(format!("the first copy of dataset {} is not whole", set.name)));
    }
    Ok((told, sent))
}

/// Everything that takes time is done before anybody waits for it.
pub async fn prepare(node: &Node, lent: &LentLease) -> Result<(), Problem> {
    let (dossier, sent) = whole(node, lent)?;
    node.may_act().map_err(Problem::unavailable)?;
    make_ready(node, lent, &dossier, &sent).await
}

async fn make_ready(node: &Node, lent: &LentLease, dossier: &Dossier, sent: &LentApplication) -> Result<(), Problem> {
    can_run(node, dossier)?;
    free(&node.services()?.iter().map(|s| &**s).collect::<Vec<_>>(), dossier)?;
    let package = keys::kept(node, lent, dossier.keys)?;
    came_along(node, lent, dossier, sent, package.as_ref())?;
    let (bundle, digest) = (bundles::owned(node, &dossier.customer), sent.digest);
    let unpacked = unpacked(node, lent, sent);
    let taken = world::blocking(move || bundle.take_in(&digest, &unpacked)).await;
    taken.map_err(|e| Problem::ours(e.to_string()))??;
    warm::prepare(node, lent, dossier, sent).await;
    Ok(())
}

/// The owner is about to let unsafe requests wait: those that come in here wait here, and are this cloud's own afterwards.
pub async fn hold(node: &Node, lent: &LentLease) -> Result<(), Problem> {
    let (dossier, sent) = whole(node, lent)?;
    // From this word on they are kept for longer than the owner lets anybody wait.
    warm::prepare(node, lent, &dossier, &sent).await;
    let known =
        register::known(node, &dossier.id)?.is_some_and(|t| t.owner == dossier.owner && t.epoch == dossier.epoch);
    if known {
        node.moves.alert(&dossier.service.metadata.name, dossier.epoch);
        routes::tell_tenure(node).await?;
    }
    Ok(())
}

/// Whether this cloud could run it as its own.
fn can_run(node: &Node, dossier: &Dossier) -> Result<(), Problem> {
    let need = &dossier.service.spec.application.platform;
    let runs = |p: &pumasi_terms::service::Platform| {
        p.os == need.os && p.arch == need.arch && need.runtimes.iter().all(|r| p.runtimes.contains(r))
    };
    match node.engine.capabilities().platforms.iter().any(runs) {
        true => Ok(()),
        false => Err(cannot(format!("nothing here runs {need}"))),
    }
}

/// Its name and its hosts are nobody else's here.
fn free(services: &[&ServiceRecord], dossier: &Dossier) -> Result<(), Problem> {
    let name = &dossier.service.metadata.name;
    let mut others = services.iter().filter(|s| s.id != dossier.id);
    let claims = |s: &ServiceRecord| {
        let theirs = &s.document.spec.hosts;
        dossier.service.spec.hosts.iter().find(|h| theirs.iter().any(|t| t.eq_ignore_ascii_case(h))).cloned()
    };
    others.try_for_each(|s| match (s.name() == name, claims(s)) {
        (true, _) => Err(cannot(format!("this cloud has a service {name} of its own; rename one of them"))),
        (_, Some(host)) => Err(cannot(format!("{host} is a host of {}, which is another service here", s.name()))),
        _ => Ok(()),
    })
}

/// Values that came sealed to the lease and are to become the customer's here, who has none or another: the application needs them as before.
fn came_along(
    node: &Node,
    lent: &LentLease,
    dossier: &Dossier,
    sent: &LentApplication,
    package: Option<&Package>,
) -> Result<BTreeMap<SecretName, Secret<String>>, Problem> {
    let values = secrets::of_lease(&node.identity.vault, &lent.lease, &sent.sent)?;
    let mut new = BTreeMap::new();
    let named = sent.sent.application.secrets.iter();
    let values = named.filter_map(|(variable, name)| Some((name, values.expose().get(variable)?)));
    let tls = dossier.service.spec.tls.as_ref();
    let certificate = tls.and_then(|tls| Some((&tls.secret, package?.tls.as_ref()?)));
    for (name, value) in values.chain(certificate) {
        let value = Secret::new(value.clone());
        let vault = &node.identity.vault;
        let old = vault.get(&dossier.customer, name).map_err(|e| secrets::problem(&e))?;
        if old.as_ref().is_some_and(|old| old.expose() == value.expose()) {
            continue;
        }
        let users = secrets::users(node, &dossier.customer, name)?;
        if old.is_some() && users.iter().any(|u| u != &dossier.service.metadata.name) {
            return Err(cannot(format!(
                "customer {} has another secret {name} here, which {users:?} use",
                dossier.customer
            )));
        }
        new.insert(name.clone(), value);
    }
    Ok(new)
}

/// Only once the service is this cloud's own: of a move that comes to nothing no secret stays.
fn keep_what_came(node: &Node, lent: &LentLease, sent: &LentApplication) -> Result<(), Problem> {
    let dossier = dossier::of(node, lent.id())?;
    let dossier = dossier.ok_or_else(|| Problem::ours(format!("the dossier of {} is not here", lent.id())))?;
    let package = keys::kept(node, lent, dossier.keys)?;
    for (name, value) in came_along(node, lent, &dossier, sent, package.as_ref())? {
        let kept = node.identity.vault.set(&dossier.customer, &name, &value, clock::wall());
        kept.map_err(|e| secrets::problem(&e))?;
    }
    match package {
        Some(package) => keys::take_over(node, &dossier.id, &package),
        None => Ok(()),
    }
}

fn unpacked(node: &Node, lent: &LentLease, sent: &LentApplication) -> PathBuf {
    node.lease_dir(lent.id()).join(APPLICATION).join(short(&sent.digest))
}

/// The owner has signed; this cloud signs as well, and owns the service from then on.
pub async fn commit(
    node: &Node,
    from: CloudName,
    lent: &LentLease,
    document: SignedDocument,
) -> Result<SignedDocument, Problem> {
    let view = pact(node)?;
    let verified = document
        .verify(SIGNED_AS, &view.keys, &BTreeSet::from([from.clone()]))
        .map_err(|e| Problem::new(403, "bad_signature", Fault::Peer, format!("the handover of {from}: {e}")))?;
    let said: Handover = serde_json::from_slice(&verified.payload)
        .map_err(|e| Problem::bad_request(format!("the handover is not one of this version: {e}")))?;
    said.check().map_err(Problem::bad_request)?;
    if said.from != from || &said.to != node.name() || &said.lease != lent.id() || said.service != lent.lease.service {
        return Err(Problem::bad_request("the handover names other parties, another lease or another service"));
    }
    if let Some(done) = already(node, &said).await? {
        return Ok(done);
    }
    let registered = named_by_register(node, &said).await?;
    if registered && is_entered(node, &said)? {
        return countersign_late(node, document, said).await;
    }
    let (dossier, _) = whole(node, lent)?;
    ready_for(node, lent, &said, &dossier)?;
    node.may_act().map_err(Problem::unavailable)?;
    let signed = document.countersign(node.name(), &node.identity.key).map_err(|e| Problem::ours(e.to_string()))?;
    let (kept, lents) = (signed.clone(), node.lents.clone());
    node.transact(move |tx| {
        if cancelled(tx, &said)? {
            return Err(cannot(format!("{} was cancelled", said.wish)).into());
        }
        let Some(lent) = lents.lease(tx, &said.lease)? else {
            return Err(Problem::not_found("lent lease", &said.lease).into());
        };
        let over = ledger::hand_over(&lent, clock::now()).map_err(refused)?;
        own(tx, &dossier, &Entry { registered, ..entry_of(&said) })?;
        register::enter(tx, &said.id, &kept, &said)?;
        record(tx, Transition::Lease(Box::new(over)))?;
        let text =
            format!("{from} hands {} over at epoch {}; {} asked for it", said.service, said.epoch, said.asked_by);
        let note = Note::new("tenure_taken", "service", &said.service).because(text);
        tx.journal(note.entry(&Principal::Peer(from).to_string(), clock::wall()))?;
        Ok(())
    })
    .await?;
    Ok(signed)
}

fn entry_of(said: &Handover) -> Entry {
    Entry {
        id: said.id.clone(),
        service: said.service.clone(),
        from: said.from.clone(),
        to: said.to.clone(),
        epoch: said.epoch,
        lease: said.lease.clone(),
        registered: false,
        rescued: false,
    }
}

/// Whether the pact's voters look after the service; then nothing is signed before they have named this cloud.
async fn named_by_register(node: &Node, said: &Handover) -> Result<bool, Problem> {
    let mut changed = node.voting.changed();
    let until = tokio::time::Instant::now() + REGISTER_WITHIN;
    loop {
        changed.borrow_and_update();
        let state = node.voting.state();
        let owned = state.as_ref().and_then(|s| s.services.get(&said.id));
        let Some(owned) = owned else { return Ok(false) };
        if &owned.owner == node.name() && owned.epoch == said.epoch {
            return Ok(true);
        }
        if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
            let (owner, epoch) = (&owned.owner, owned.epoch);
            return Err(not_ready(format!("the register of the pact names {owner} at epoch {epoch} as its owner")));
        }
    }
}

/// It was entered by the register alone, before its former owner asked.
fn is_entered(node: &Node, said: &Handover) -> Result<bool, Problem> {
    let own = node.item::<ServiceRecord>(SERVICE, said.service.as_str())?;
    Ok(own.is_some_and(|own| own.id == said.id && own.epoch == said.epoch))
}

async fn countersign_late(node: &Node, document: SignedDocument, said: Handover) -> Result<SignedDocument, Problem> {
    let signed = document.countersign(node.name(), &node.identity.key).map_err(|e| Problem::ours(e.to_string()))?;
    let kept = signed.clone();
    node.transact(move |tx| register::enter(tx, &said.id, &kept, &said)).await?;
    Ok(signed)
}

/// It becomes this cloud's own without its owner's word: the register of the pact gives it, or a person does, by a document that this
/// cloud signed.
pub async fn enter(
    node: &Node,
    lent: &LentLease,
    entry: Entry,
    note: Note,
    by_hand: Option<SignedDocument>,
) -> Result<(), Problem> {
    let (dossier, sent) = kept(node, lent)?;
    if dossier.id != entry.id || dossier.epoch >= entry.epoch {
        return Err(cannot(format!(
            "{} is kept ready for {} at epoch {}, not for {}",
            lent.id(),
            dossier.id,
            dossier.epoch,
            entry.id
        )));
    }
    make_ready(node, lent, &dossier, &sent).await?;
    let lents = node.lents.clone();
    node.transact(move |tx| {
        let Some(lent) = lents.lease(tx, &entry.lease)? else {
            return Err(Problem::not_found("lent lease", &entry.lease).into());
        };
        let over = ledger::hand_over(&lent, clock::now()).map_err(refused)?;
        own(tx, &dossier, &entry)?;
        if let Some(signed) = &by_hand {
            tx.put(TAKEOVER, entry.id.as_str(), signed, Expect::Any)?;
        }
        record(tx, Transition::Lease(Box::new(over)))?;
        tx.journal(note.entry("daemon", clock::wall()))?;
        Ok(())
    })
    .await
}

/// The same word again is answered as it was, also where the service was handed on since.
async fn already(node: &Node, said: &Handover) -> Result<Option<SignedDocument>, Problem> {
    let (id, wish) = (said.id.clone(), said.wish.clone());
    node.transact(move |tx| register::fulfilled(tx, &id, &wish)).await
}

fn ready_for(node: &Node, lent: &LentLease, said: &Handover, dossier: &Dossier) -> Result<(), Problem> {
    if dossier.id != said.id || dossier.epoch != said.from_epoch {
        return Err(not_ready(format!("the dossier here is of epoch {} of {}", dossier.epoch, dossier.id)));
    }
    if dossier::digest(node, lent.id())? != Some(said.dossier) {
        return Err(not_ready("the dossier here is not the one that is handed over"));
    }
    let here = node.copies.positions_of(lent.id());
    for (set, wanted) in &said.positions {
        let held = here.get(set).copied().unwrap_or_default();
        if held < *wanted {
            return Err(not_ready(format!("the copy of dataset {set} is at {held}, {wanted} is handed over")));
        }
    }
    Ok(())
}

fn cancelled(tx: &Tx<'_>, said: &Handover) -> Result<bool, TxError> {
    let heir = tx.get::<Heir>(HEIR, said.lease.as_str())?.map(|h| h.body).unwrap_or_default();
    Ok(heir.cancelled.contains(&said.wish))
}

/// The service becomes one of this cloud's own, or again so.
fn own(tx: &mut Tx<'_>, dossier: &Dossier, said: &Entry) -> Result<(), TxError> {
    let services: Vec<ServiceRecord> = tx.list::<ServiceRecord>(SERVICE)?.into_iter().map(|s| s.body).collect();
    free(&services.iter().collect::<Vec<_>>(), dossier)?;
    know_customer(tx, &dossier.customer)?;
    let name = &dossier.service.metadata.name;
    let old = services.into_iter().find(|s| s.id == dossier.id);
    let born_seq = match &old {
        Some(old) => old.born_seq,
        None => tx
            .journal(
                Note::new("service_created", "service", name)
                    .because("it was handed over")
                    .entry("daemon", clock::wall()),
            )?
            .saturating_sub(1),
    };
    let fresh = ServiceRecord::new(dossier.service.clone(), dossier.id.clone(), dossier.customer.clone(), born_seq);
    let generation = generation(old.as_ref(), dossier);
    // What it served last and never handed on was taken from it: the others may have gone on from less.
    let never_handed_on = match &old {
        Some(old) => !register::was_handed_on(tx, &old.id, old.epoch)?,
        None => false,
    };
    let diverged = old.as_ref().and_then(|o| if never_handed_on { Some(o.epoch) } else { o.diverged });
    let registered = said.registered || old.as_ref().is_some_and(|o| o.registered);
    // Users may come in at every cloud that kept it ready with this one, and will hold on to its name for a while.
    let mut entrances = dossier.entrances.clone();
    entrances.extend(dossier.seats.iter().map(|seat| seat.cloud.clone()));
    entrances.insert(said.from.clone());
    entrances.remove(&said.to);
    let taking = Some(said.lease.clone());
    let rescued_from = said.rescued.then(|| said.from.clone());
    let epoch = said.epoch;
    let taken = ServiceRecord { epoch, generation, entrances, taking, registered, diverged, rescued_from, ..fresh };
    tx.put(SERVICE, name.as_str(), &taken, Expect::Any)?;
    moves::superseded(tx, name)
}

/// Never less than what this cloud had of it in an earlier time.
pub(super) fn generation(old: Option<&ServiceRecord>, dossier: &Dossier) -> u64 {
    old.map_or(dossier.generation, |o| o.generation.max(dossier.generation))
}

/// Its customer comes along, without any token.
fn know_customer(tx: &mut Tx<'_>, name: &CustomerName) -> Result<(), TxError> {
    if tenancy::grant(tx, name).is_ok() {
        return Ok(());
    }
    let customer =
        CustomerRecord { version: 1, name: name.clone(), grant: CustomerGrant::default(), created_at: clock::wall() };
    tx.put(CUSTOMER, name.as_str(), &customer, Expect::Absent)?;
    let note = Note::new("customer_created", "customer", name).because("a service of it was handed over");
    tx.journal(note.entry("daemon", clock::wall()))?;
    Ok(())
}

/// The owner changed its mind. Whether this cloud has signed already; if not, it never will.
pub async fn cancel(node: &Node, lent: &LentLease, wish: MoveId) -> Result<bool, Problem> {
    let (id, service) = (lent.id().clone(), lent.lease.service.clone());
    let committed = node.transact(move |tx| {
        if has_signed(tx, &service, &wish)? {
            return Ok(true);
        }
        let mut heir = tx.get::<Heir>(HEIR, id.as_str())?.map(|h| h.body).unwrap_or_default();
        if !heir.cancelled.contains(&wish) {
            heir.version = 1;
            heir.cancelled.push(wish.clone());
            let surplus = heir.cancelled.len().saturating_sub(CANCELLED_MAX);
            heir.cancelled.drain(..surplus);
            tx.put(HEIR, id.as_str(), &heir, Expect::Any)?;
        }
        Ok(false)
    });
    let committed = committed.await?;
    if !committed {
        node.moves.warm.let_go(lent.id());
    }
    Ok(committed)
}

fn has_signed(tx: &Tx<'_>, service: &ServiceName, wish: &MoveId) -> Result<bool, TxError> {
    let Some(own) = tx.get::<ServiceRecord>(SERVICE, service.as_str())? else { return Ok(false) };
    Ok(register::fulfilled(tx, &own.body.id, wish)?.is_some())
}

/// Whether the service that came under this lease serves here; why not yet.
pub fn is_open(node: &Node, lent: &LentLease) -> Result<Option<String>, Problem> {
    let services = node.services()?;
    let Some(service) = services.iter().find(|s| s.name() == &lent.lease.service) else {
        return Ok(Some("it was not handed over here".into()));
    };
    if register::handover(node, &service.id)?.is_some_and(|h| &h.to != node.name()) {
        // It was open, and was handed on since.
        return Ok(None);
    }
    if service.taking.is_some() {
        return Ok(Some("its data are being made this cloud's own".into()));
    }
    let owner = service.owner();
    let ready = node.instances.lock().iter().any(|i| i.owner == owner && i.state == InstanceState::Ready);
    Ok(if ready && node.routes.serves(service.name()) { None } else { Some("no instance of it is ready yet".into()) })
}

/// The same, as soon as it serves; at the latest after so long.
pub async fn opens(node: &Node, lent: &LentLease, wait_ms: u64) -> Result<Option<String>, Problem> {
    let begun = clock::boot();
    let why = is_open(node, lent)?;
    if why.is_none() {
        return Ok(None);
    }
    // Users wait for it.
    node.wake.notify_one();
    loop {
        let why = is_open(node, lent)?;
        if why.is_none() || clock::boot().since(begun) >= wait_ms.min(OPEN_WAIT_MS_MAX) {
            return Ok(why);
        }
        tokio::time::sleep(Duration::from_millis(OPEN_LOOK_MS)).await;
    }
}

/// Makes what was kept the service's own: each dataset where it is, then all of it where this cloud's own services have theirs. True: done.
pub async fn promote(node: &Node, lent: &LentLease) -> Result<bool, Problem> {
    let services = node.services()?;
    let Some(service) = services.iter().find(|s| s.taking.as_ref() == Some(lent.id())) else { return Ok(true) };
    let sent = node.get::<LentApplication>(LENT_APPLICATION, lent.id().as_str())?;
    let Some(sent) = sent else { return Err(Problem::ours(format!("the application of {} is not here", lent.id()))) };
    if !stopped(node, lent).await {
        return Ok(false);
    }
    keep_what_came(node, lent, &sent)?;
    let from = node.lease_dir(lent.id());
    let to = tenancy::service_dir(node, service);
    // What was cut off before its end was written down: a copy that is the service's own already is not made anew.
    let mut base = BTreeMap::new();
    for set in sent.sent.datasets.iter().filter(|set| !is_moved(&from, &to, set.name.as_str())) {
        let began = node.copies.promote(node, lent, set).await?;
        base.insert(set.name.clone(), Base { position: began.at, digest: began.digest });
    }
    node.copies.close(lent.id()).await;
    let aside = match service.diverged {
        // Nobody but a person erases it.
        Some(epoch) => to.join("diverged").join(format!("epoch-{epoch}")),
        None => to.join("before").join(format!("epoch-{}", service.epoch)),
    };
    let sets: Vec<String> = sent.sent.datasets.iter().map(|s| s.name.to_string()).collect();
    let files = node.moves.files.lock().await;
    let moved = world::blocking(move || move_all(&from, &to, &aside, &sets)).await;
    drop(files);
    moved
        .map_err(|e| Problem::ours(e.to_string()))?
        .map_err(|e| Problem::ours(format!("moving what was kept: {e}")))?;
    let name = service.name().clone();
    node.transact(move |tx| {
        let Some(stored) = tx.get::<ServiceRecord>(SERVICE, name.as_str())? else { return Ok(()) };
        // What was set aside is entered by `diverged`, which finds it.
        let record = ServiceRecord { taking: None, diverged: None, base, ..stored.body };
        tx.put(SERVICE, name.as_str(), &record, Expect::Revision(stored.revision))?;
        let note = Note::new("service_opened", "service", &name).because("its data are this cloud's own now");
        tx.journal(note.entry("daemon", clock::wall()))?;
        Ok(())
    })
    .await?;
    node.moves.opens_here(service.name());
    // Its users wait: what is prepared begins now, and not at the next look.
    home::run_now(node, service.name()).await?;
    node.wake.notify_one();
    Ok(true)
}

/// Instances of the lease end: they only read.
async fn stopped(node: &Node, lent: &LentLease) -> bool {
    let owner = lent.id().as_str();
    let own: Vec<_> = node.instances.lock().iter().filter(|i| i.owner == owner).cloned().collect();
    for i in &own {
        let done = match i.state {
            InstanceState::Stopped { .. } => node.engine.remove(&i.id).await,
            _ => node.engine.stop(&i.id).await,
        };
        if let Err(e) = done {
            tracing::warn!(instance = %i.id, error = %e, "an instance of a lease that is handed over did not end; tried again");
        }
    }
    own.is_empty()
}

fn is_moved(from: &Path, to: &Path, set: &str) -> bool {
    let (kept, own) = (from.join("data").join(set), to.join("data").join(set));
    !kept.exists() && own.exists()
}

/// By renaming: nothing is copied, and what was cut off goes on. What this cloud had of an earlier time is set aside.
fn move_all(from: &Path, to: &Path, aside: &Path, sets: &[String]) -> std::io::Result<()> {
    let data = to.join("data");
    std::fs::create_dir_all(&data)?;
    for set in sets {
        let (kept, own) = (from.join("data").join(set), data.join(set));
        if !kept.exists() {
            continue;
        }
        // One that is empty is nobody's.
        if own.exists() && std::fs::remove_dir(&own).is_err() {
            std::fs::create_dir_all(aside)?;
            std::fs::rename(&own, aside.join(set))?;
        }
        std::fs::rename(&kept, &own)?;
    }
    std::fs::File::open(&data)?.sync_all()
}

/// Whether the lease ended by its service's being handed over here.
pub fn was_handed_over(lent: &LentLease) -> bool {
    matches!(lent.state, LentState::Ending { why: pumasi_lease::record::EndedBy::Handover })
}
