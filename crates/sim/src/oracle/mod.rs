//! The oracles: what must always hold, one file each, judged from what is durable and what the hosts really do.
//!
//! Enters: every commit of every cloud as it lands on its disk, every request given to an instance, the true state of engines,
//! gateways and directories. Leaves: what was broken, when and how.
//! Always holds: an oracle believes no daemon's word about itself.

mod capacity;
mod durable;
mod foreign;
mod kept;
mod ledgers;
mod prepared;
mod release;
mod routes;
mod writers;

use crate::cloud::{Host, Observer};
use crate::gateway::{Witness, Write};
use crate::life::HostClock;
use pumasi_journey::Journey;
use pumasi_journey::moving::Move;
use pumasi_lease::document::Lease;
use pumasi_lease::handover::Handover;
use pumasi_lease::{Hold, LentLease};
use pumasi_node::object::{
    CLOUD, CloudRecord, HOLD, JOURNEY, LENT, LENT_RENEWAL, MOVE, ONLY, SERVICE, SETTLEMENT, SIGNED_LEASE,
    ServiceRecord, TENURE,
};
use pumasi_store::sim::CommitInfo;
use pumasi_terms::pact::Terms;
use pumasi_terms::{BootMs, CloudName, Epoch, InstanceId, LeaseId, Resources, Revision, ServiceName};
use pumasi_trust::SignedDocument;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its number in the design, and its name.
    pub oracle: &'static str,
    pub at_ms: u64,
    pub what: String,
}

/// What one cloud has on its disk, decoded as it lands there.
#[derive(Debug, Default)]
pub struct Disk {
    lents: BTreeMap<LeaseId, (Revision, LentLease)>,
    /// What renewals changed, and the revision of the record that they were decided over.
    renewals: BTreeMap<String, BTreeMap<LeaseId, Renewal>>,
    holds: BTreeMap<String, Hold>,
    journeys: BTreeMap<String, Journey>,
    services: BTreeMap<String, ServiceRecord>,
    moves: BTreeMap<String, Move>,
    /// By the service's id.
    tenures: BTreeMap<String, SignedDocument>,
    /// The rest that is asked for.
    others: BTreeMap<(String, String), String>,
}

/// Revision of the record, end, instances wanted, newest epoch.
type Renewal = (Revision, BootMs, u32, Epoch);

/// A row of renewals, as stored.
#[derive(serde::Deserialize)]
struct Row {
    leases: BTreeMap<LeaseId, Renewal>,
}

impl Disk {
    fn apply(&mut self, info: &CommitInfo) {
        for change in &info.changes {
            let (name, body) = (change.name.clone(), change.body.as_ref().map(|b| b.get()));
            match change.kind.as_str() {
                HOLD => keep(&mut self.holds, name, body),
                JOURNEY => keep(&mut self.journeys, name, body),
                SERVICE => keep(&mut self.services, name, body),
                MOVE => keep(&mut self.moves, name, body),
                TENURE => keep(&mut self.tenures, name, body),
                LENT => {
                    let Ok(id) = LeaseId::parse(name) else { continue };
                    match body.and_then(|b| serde_json::from_str(b).ok()) {
                        Some(lent) => self.lents.insert(id, (change.revision, lent)),
                        None => self.lents.remove(&id),
                    };
                }
                LENT_RENEWAL => {
                    let row = body.and_then(|b| serde_json::from_str::<Row>(b).ok());
                    self.renewals.insert(name, row.map(|r| r.leases).unwrap_or_default());
                }
                SETTLEMENT | SIGNED_LEASE | CLOUD => {
                    let key = (change.kind.clone(), name);
                    match body {
                        Some(body) => self.others.insert(key, body.to_owned()),
                        None => self.others.remove(&key),
                    };
                }
                _ => {}
            }
        }
    }

    fn one<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Option<T> {
        serde_json::from_str(self.others.get(&(kind.to_owned(), name.to_owned()))?).ok()
    }

    /// Every lease lent, with its renewal.
    pub fn lents(&self) -> impl Iterator<Item = LentLease> + '_ {
        self.lents.keys().filter_map(|id| self.lent(id))
    }

    pub fn lent(&self, id: &LeaseId) -> Option<LentLease> {
        let (revision, lent) = self.lents.get(id)?;
        let mut lent = lent.clone();
        let renewal = self.renewals.get(lent.lease.borrower.as_str()).and_then(|r| r.get(id));
        if let Some((_, expires_at, wanted, epoch)) = renewal.filter(|r| r.0 == *revision) {
            (lent.expires_at, lent.instances_wanted, lent.epoch) = (*expires_at, *wanted, *epoch);
        }
        Some(lent)
    }

    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.holds.values()
    }
    pub fn journeys(&self) -> impl Iterator<Item = &Journey> {
        self.journeys.values()
    }
    pub fn moves(&self) -> impl Iterator<Item = &Move> {
        self.moves.values()
    }
    pub fn services(&self) -> impl Iterator<Item = &ServiceRecord> {
        self.services.values()
    }
    /// The handover of a service that counts here.
    pub fn handover(&self, service: &ServiceRecord) -> Option<Handover> {
        serde_json::from_slice(self.tenures.get(service.id.as_str())?.unverified_payload()).ok()
    }
    fn handovers(&self) -> impl Iterator<Item = Handover> {
        self.tenures.values().filter_map(|d| serde_json::from_slice(d.unverified_payload()).ok())
    }
    /// At which epoch this cloud owns it, by what it has written down.
    pub fn owned_at(&self, cloud: &CloudName, service: &ServiceRecord) -> Option<Epoch> {
        match self.handover(service) {
            Some(handover) => (&handover.to == cloud).then_some(handover.epoch),
            None => Some(service.epoch),
        }
    }
    /// Boot times on it are of the host's present boot: after a power cut they are void until the daemon has started again.
    pub fn is_of_this_boot(&self, clock: &HostClock) -> bool {
        self.one::<CloudRecord>(CLOUD, ONLY).is_some_and(|r| r.boot_id == clock.boot_id())
    }
    pub fn settlement(&self, lease: &LeaseId) -> Option<SignedDocument> {
        self.one(SETTLEMENT, lease.as_str())
    }
    /// The lease as both signed it.
    pub fn signed(&self, lease: &LeaseId) -> Option<Lease> {
        let document: SignedDocument = self.one(SIGNED_LEASE, lease.as_str())?;
        serde_json::from_slice(document.unverified_payload()).ok()
    }
}

fn keep<T: DeserializeOwned>(all: &mut BTreeMap<String, T>, name: String, body: Option<&str>) {
    match body.and_then(|b| serde_json::from_str(b).ok()) {
        Some(value) => all.insert(name, value),
        None => all.remove(&name),
    };
}

/// What is known of one cloud besides its disk.
#[derive(Debug, Clone)]
pub struct Known {
    pub clock: Arc<HostClock>,
    pub terms: Terms,
    pub physical: Resources,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub disks: BTreeMap<CloudName, Disk>,
    pub broken: Vec<Broken>,
    /// Leases that a cloud's disk ever showed in force, for the reports.
    pub leases: BTreeSet<LeaseId>,
    pub journeys: BTreeSet<String>,
    /// Handovers that any cloud has written down, and the standby that each made the primary.
    pub handovers: BTreeMap<pumasi_terms::MoveId, LeaseId>,
    /// Standbys that became the service itself by the register of the pact.
    pub taken: BTreeSet<LeaseId>,
    /// Standbys that had everything once.
    pub complete: BTreeSet<LeaseId>,
    /// Nothing was done to the world that may cost a reading.
    pub faultless: bool,
    /// Nothing but reads of stores fail, under a steady load.
    pub only_reads_fail: bool,
    /// A cloud is away, and leases last for so long without it; 0: none is.
    pub away_ms: u64,
    writers: writers::Writers,
    pub durable: durable::Durable,
    /// When a borrower began to rely on a lease that its lender does not show, by lease.
    odd_since: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
pub struct Oracles {
    seen: Mutex<Seen>,
    known: OnceLock<BTreeMap<CloudName, Known>>,
}

const BROKEN_MAX: usize = 20;

impl Seen {
    pub(crate) fn breaks(&mut self, oracle: &'static str, at_ms: u64, what: String) {
        if self.broken.len() < BROKEN_MAX && !self.broken.iter().any(|b| b.oracle == oracle && b.what == what) {
            self.broken.push(Broken { oracle, at_ms, what });
        }
    }

    /// True once it has been so for longer than `for_ms`: what is told over a network is never the same at both ends at once.
    pub(crate) fn lasts(&mut self, what: &str, is: bool, now_ms: u64, for_ms: u64) -> bool {
        if !is {
            self.odd_since.remove(what);
            return false;
        }
        now_ms - *self.odd_since.entry(what.to_owned()).or_insert(now_ms) > for_ms
    }
}

impl Oracles {
    pub fn know(&self, clouds: BTreeMap<CloudName, Known>) {
        let _ = self.known.set(clouds);
    }

    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, cloud: &CloudName) -> Option<&Known> {
        self.known.get()?.get(cloud)
    }

    /// Looks at everything that can be judged at any time.
    pub fn look(&self, now_ms: u64, hosts: &[Arc<Host>]) {
        let mut seen = self.lock();
        for host in hosts {
            let Some(known) = self.known(&host.name) else { continue };
            if !seen.disks.get(&host.name).is_some_and(|d| d.is_of_this_boot(&known.clock)) {
                continue;
            }
            capacity::check(&mut seen, now_ms, host, known);
            foreign::check(&mut seen, now_ms, host);
            prepared::check(&mut seen, now_ms, host);
            kept::check(&mut seen, now_ms, host);
            release::check(&mut seen, now_ms, host, known);
            ledgers::check(&mut seen, now_ms, host, known, self);
        }
    }

    /// Everything is over: nothing may be left. The first that is not, for those who wait.
    pub fn unfinished(&self, now_ms: u64, hosts: &[Arc<Host>]) -> Option<String> {
        let seen = self.lock();
        writers::unfinished(&seen, hosts)
            .or_else(|| {
                hosts.iter().find_map(|host| {
                    let now = self.known(&host.name)?.clock.now();
                    let left = release::unfinished(&seen, host, now).or_else(|| foreign::unfinished(host));
                    left.or_else(|| prepared::unfinished(host))
                })
            })
            .map(|what| format!("at {now_ms} ms: {what}"))
    }

    pub fn at_end(&self, now_ms: u64, hosts: &[Arc<Host>]) {
        if let Some(what) = self.unfinished(now_ms, hosts) {
            self.lock().breaks("4 release", now_ms, what);
        }
        let mut seen = self.lock();
        durable::at_end(&mut seen, now_ms, hosts);
        let unhurt =
            hosts.iter().filter(|h| h.lives() == 1 && h.gateway.lives() == 1).map(|h| h.name.clone()).collect();
        for host in hosts {
            ledgers::at_end(&mut seen, now_ms, host, &unhurt);
        }
    }
}

impl Observer for Oracles {
    fn committed(&self, cloud: &CloudName, info: &CommitInfo) {
        let mut seen = self.lock();
        let at_ms = self.known(cloud).map_or(0, |k| k.clock.true_ms());
        let disk = seen.disks.entry(cloud.clone()).or_default();
        disk.apply(info);
        let lease_names =
            info.changes.iter().filter(|c| c.kind == LENT).filter_map(|c| LeaseId::parse(c.name.clone()).ok());
        let leases: Vec<LeaseId> = lease_names.collect();
        let journeys: Vec<String> = info.changes.iter().filter(|c| c.kind == JOURNEY).map(|c| c.name.clone()).collect();
        let current = |k: &&Known| seen.disks.get(cloud).is_some_and(|d| d.is_of_this_boot(&k.clock));
        if let Some(known) = self.known(cloud).filter(current).cloned() {
            if info.changes.iter().any(|c| c.kind == LENT || c.kind == HOLD) {
                capacity::ledger(&mut seen, at_ms, cloud, &known);
            }
            for lease in &leases {
                release::bounded(&mut seen, at_ms, cloud, lease, &known);
            }
        }
        let complete: Vec<LeaseId> = seen
            .disks
            .get(cloud)
            .into_iter()
            .flat_map(Disk::journeys)
            .flat_map(|j| &j.parts)
            .filter(|p| p.standby.is_some() && p.is_complete())
            .map(|p| p.lease.clone())
            .collect();
        seen.complete.extend(complete);
        let disks = &seen.disks;
        let taking = disks.get(cloud).into_iter().flat_map(Disk::services).filter(|s| s.registered);
        let taking: Vec<LeaseId> = taking.filter_map(|s| s.taking.clone()).collect();
        seen.taken.extend(taking);
        if info.changes.iter().any(|c| c.kind == TENURE) {
            let known: Vec<_> =
                seen.disks.get(cloud).into_iter().flat_map(Disk::handovers).map(|h| (h.wish, h.lease)).collect();
            seen.handovers.extend(known);
        }
        seen.leases.extend(leases);
        seen.journeys.extend(journeys);
    }
}

impl Witness for Oracles {
    fn home(&self, at: &CloudName, service: &ServiceName, instance: &InstanceId) {
        let _ = (at, service, instance);
    }
    fn wrote(&self, at: &CloudName, service: &ServiceName, write: &Write) {
        let at_ms = self.known(at).map_or(0, |k| k.clock.true_ms());
        let mut seen = self.lock();
        writers::check(&mut seen, at_ms, at, service, write);
        seen.durable.wrote(service);
    }
    fn acknowledged(&self, at: &CloudName, service: &ServiceName, write: &Write) {
        let at_ms = self.known(at).map_or(0, |k| k.clock.true_ms());
        let mut seen = self.lock();
        writers::check(&mut seen, at_ms, at, service, write);
        seen.durable.acknowledged(service, write);
    }
    fn lent(&self, at: &CloudName, lease: &LeaseId, instance: &InstanceId) {
        if let Some(known) = self.known(at).cloned() {
            let mut seen = self.lock();
            routes::served(&mut seen, at, lease, instance, &known);
        }
    }
}
