//! Makes the route table from what the store and the engine say, and gives it to the gateway when it changed.

use crate::borrower::ship;
use crate::fleet::{self, Desired};
use crate::moves::Waits;
use crate::node::Locked;
use crate::object::{LENT_APPLICATION, LentApplication, ServiceRecord, owner_of_lease, service_named_by};
use crate::takeover::{fence, in_sync};
use crate::{Node, clock, entrances, home, keys, lender, moves, realm, register};
use pumasi_api::Problem;
use pumasi_engine::{InstanceState, InstanceStatus};
use pumasi_gateway::ControlError;
use pumasi_journey::{Journey, Part, PartState};
use pumasi_lease::LentLease;
use pumasi_route::build::{
    LentInput, PartInput, PartState as Serves, RouteInput, ServiceInput, build_told, table_differs, without_doubles,
};
use pumasi_route::keep::{Aside, AsideLease, keep};
use pumasi_route::table::{Admission, HomeBackend, InStep, PeerLink, Role, RouteTable, Writes};
use pumasi_route::tenure::{Held, TENURE_VERSION, Tenure};
use pumasi_store::Items;
use pumasi_terms::service::{RouteMode, ServiceSpec};
use pumasi_terms::sync::SyncRule;
use pumasi_terms::{BootMs, CloudName, Epoch, InstanceId, LeaseId, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Requests in flight are waited for so long before an instance is stopped all the same.
pub const DRAIN_MS_MAX: u64 = 30_000;
/// For the table in force to name a service that was just stored.
const NAMED_MS_MAX: u64 = 500;
const NAMED_LOOK_MS: u64 = 5;
/// A year.
const TENURE_MS: u64 = 31_536_000_000;
/// Nothing is sent to a lease so long before its end.
const LEASE_MARGIN_MS: u64 = 500;

/// What this cloud may write, as one life of the gateway was told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    run: Option<u64>,
    registered: BTreeMap<ServiceName, BootMs>,
    epochs: BTreeMap<ServiceName, Epoch>,
    held: BTreeMap<ServiceName, Held>,
}

/// What the gateway was given last.
#[derive(Debug, Default)]
pub struct Routes {
    pushed: Locked<Option<RouteTable>>,
    /// What it was told last of what this cloud may write.
    word: Locked<Option<Word>>,
    telling: tokio::sync::Mutex<()>,
    /// Whether the gateway that runs knows of services that are kept in step; none: it was not asked yet.
    knows_step: Locked<Option<bool>>,
    /// What the last table left out.
    dropped: Locked<Vec<String>>,
    /// Since when a backend gets nothing new, by instance or lease id.
    draining: Locked<BTreeMap<String, BootMs>>,
}

impl Routes {
    pub fn revision(&self) -> u64 {
        self.pushed.lock().as_ref().map_or(u64::MAX, |t| t.revision)
    }
    pub fn knows_step(&self) -> Option<bool> {
        *self.knows_step.lock()
    }
    pub fn tell_knows_step(&self, knows: bool) {
        self.knows_step.set(Some(knows));
    }
    /// For whom answers of a service wait by the table in force.
    pub fn in_step(&self, service: &ServiceName) -> Option<InStep> {
        self.pushed.lock().as_ref()?.services.get(service)?.in_step.clone()
    }
    /// Instances of a lent lease in the table in force that take requests.
    pub fn serving(&self, lease: &LeaseId) -> u32 {
        let pushed = self.pushed.lock();
        let route = pushed.as_ref().and_then(|t| t.leases.get(lease));
        route.map_or(0, |l| l.instances.iter().filter(|i| !i.draining).count() as u32)
    }
    /// Whether the table in force leads to an instance of this cloud's own.
    pub fn serves(&self, service: &ServiceName) -> bool {
        let pushed = self.pushed.lock();
        let route = pushed.as_ref().and_then(|t| t.services.get(service));
        route.is_some_and(|s| s.home.iter().any(|i| !i.draining))
    }
    /// Whether the table in force sends new requests to this instance of a service.
    pub fn leads_to(&self, service: &ServiceName, instance: &InstanceId) -> bool {
        let pushed = self.pushed.lock();
        let route = pushed.as_ref().and_then(|t| t.services.get(service));
        route.is_some_and(|s| s.home.iter().any(|i| &i.instance == instance && !i.draining))
    }
    /// Whether the table in force lets a service be written only as far as this cloud is told that it may.
    pub fn is_bound(&self, service: &ServiceName) -> bool {
        let pushed = self.pushed.lock();
        pushed.as_ref().and_then(|t| t.services.get(service)).is_some_and(|s| s.writes == Writes::Bound)
    }
    /// Whether the table in force sends everything about a service to its owner.
    fn fronts(&self, service: &ServiceName) -> bool {
        let pushed = self.pushed.lock();
        pushed.as_ref().and_then(|t| t.services.get(service)).is_some_and(|s| !s.role.is_owner())
    }
    pub fn draining_since(&self, name: &str) -> Option<BootMs> {
        self.draining.lock().get(name).copied()
    }

    /// Once, until it is something else.
    fn tell_dropped(&self, dropped: Vec<String>) {
        let mut told = self.dropped.lock();
        if *told != dropped {
            dropped
                .iter()
                .for_each(|what| tracing::warn!(%what, "a host is claimed twice; one entry is left out of the table"));
            *told = dropped;
        }
    }

    fn gave(&self, table: RouteTable) {
        let now = clock::boot();
        let mut open = BTreeMap::new();
        let homes =
            table.services.values().flat_map(|s| &s.home).chain(table.leases.values().flat_map(|l| &l.instances));
        for b in homes {
            open.insert(b.instance.to_string(), b.draining);
        }
        for b in table.services.values().flat_map(|s| &s.leases) {
            open.insert(b.lease.to_string(), b.draining);
        }
        let mut draining = self.draining.lock();
        // Those that take requests are not draining; those that left the table keep the instant at which they were first known to.
        draining.retain(|name, since| open.get(name) != Some(&false) && now.since(*since) < 10 * DRAIN_MS_MAX);
        let before = self.pushed.lock().replace(table);
        let gone = before.iter().flat_map(all_names).filter(|n| !open.contains_key(n)).collect::<Vec<_>>();
        for name in open.iter().filter(|(_, d)| **d).map(|(n, _)| n.clone()).chain(gone) {
            draining.entry(name).or_insert(now);
        }
    }

    /// What never was in a table drains from the first time it is asked about.
    fn mark_absent(&self, names: impl Iterator<Item = String>) {
        let known: Vec<String> = self.pushed.lock().iter().flat_map(all_names).collect();
        let mut draining = self.draining.lock();
        for name in names.filter(|n| !known.contains(n)) {
            draining.entry(name).or_insert(clock::boot());
        }
    }
}

fn all_names(table: &RouteTable) -> Vec<String> {
    let homes = table.services.values().flat_map(|s| &s.home).chain(table.leases.values().flat_map(|l| &l.instances));
    let leases = table.services.values().flat_map(|s| &s.leases).map(|l| l.lease.to_string());
    homes.map(|b| b.instance.to_string()).chain(leases).collect()
}

/// Returns once the table in force names these services, so that nobody is told that a host is unknown which was told to be there. Not
/// waited for long: a gateway that is down holds up no operator.
pub async fn named(node: &Node, services: &[ServiceName]) {
    node.wake.notify_one();
    let until = clock::boot().after(NAMED_MS_MAX);
    let known = |name: &ServiceName| {
        let pushed = node.routes.pushed.lock();
        pushed.as_ref().is_some_and(|table| table.services.contains_key(name))
    };
    while node.gateway_status.lock().is_some() && !services.iter().all(known) && clock::boot() < until {
        tokio::time::sleep(std::time::Duration::from_millis(NAMED_LOOK_MS)).await;
    }
}

/// Tells the gateway what this cloud may write, before a table says what rests on that.
pub async fn tell_tenure(node: &Node) -> Result<(), Problem> {
    // One after the other: a word that was made before another one never comes after it.
    let _turn = node.routes.telling.lock().await;
    let run = node.gateway_status.lock().as_ref().map(|s| s.gateway_run);
    let services = node.services()?;
    let held = moves::held(node)?;
    let ours = || services.iter().filter(|s| register::is_ours(node, s));
    // Those that wait are sent on by a table that has the new owner. Until it is in force the hold stays, or they would be refused.
    let before = node.routes.word.get().map(|w| w.held).unwrap_or_default();
    let late = |s: &ServiceRecord| {
        let fronted = register::stand(node, s).front.is_some() && !node.routes.fronts(s.name());
        before.get(s.name()).filter(|_| fronted).map(|held| Waits { until: held.until, reads: held.reads })
    };
    // The owner lets those that only read wait, where it has to.
    let alerted = node.moves.alerted().into_iter();
    let alerted = alerted.map(|(name, (epoch, until))| (name, Held { epoch, until, reads: false }));
    let word = Word {
        run,
        registered: ours().filter_map(|s| Some((s.name().clone(), register::right_until(node, s)?))).collect(),
        epochs: ours().map(|s| (s.name().clone(), s.epoch)).collect(),
        held: services
            .iter()
            .filter_map(|s| Some((s, held.get(s.name()).copied().or_else(|| late(s))?)))
            .map(|(s, w)| (s.name().clone(), Held { epoch: s.epoch, until: w.until, reads: w.reads }))
            .chain(alerted)
            .collect(),
    };
    if run.is_none() || node.routes.word.lock().as_ref() == Some(&word) {
        return Ok(());
    }
    let at = clock::boot();
    let tenure = Tenure {
        version: TENURE_VERSION,
        boot_id: node.boot_id.clone(),
        at,
        // Nothing bounds it where no pact votes: what was handed over is not named any more.
        until: Some(at.after(TENURE_MS)),
        registered: word.registered.clone(),
        epochs: word.epochs.clone(),
        held: word.held.clone(),
    };
    match node.gateway.put_tenure(&tenure).await {
        Ok(()) => node.routes.word.set(Some(word)),
        Err(e) => tracing::warn!(error = %e, "the gateway did not take what this cloud may write; tried again"),
    }
    Ok(())
}

/// Tells the gateway as above. Whether it knows the end of this cloud's right as it is now, or has nothing that rests on it.
pub async fn told_right(node: &Node) -> bool {
    let right = node.voting.right_until().unwrap_or_default();
    let told = tell_tenure(node).await;
    let knows = |word: &Word| word.registered.values().all(|end| *end <= right);
    told.is_ok() && node.routes.word.get().as_ref().is_none_or(knows)
}

pub async fn reconcile(node: &Node) -> Result<(), Problem> {
    tell_tenure(node).await?;
    keys::tell(node).await?;
    let Some(in_force) = node.gateway_status.lock().as_ref().map(|s| s.table_revision) else { return Ok(()) };
    let keeps_step = |s: &Arc<ServiceRecord>| SyncRule::of(&s.document.spec.datasets).is_some();
    if node.routes.knows_step().is_none() && node.services()?.iter().any(keeps_step) {
        // It serves by the table before until it has said whether it can keep a service in step.
        return Ok(());
    }
    // All of it or nothing: a table that leaves out what could not be read would take the routes from those that serve.
    let (input, aside) = input(node)?;
    let (mut table, mut dropped) = build_told(&input);
    if entrances::is_unknown(node)? {
        // Whose standbys this cloud has is not known yet: it answers for them as it did.
        let last = last_known(node).await;
        entrances::as_before(&mut table, last.as_ref());
    }
    if !aside.is_empty()
        && let Some(last) = last_known(node).await
    {
        keep(&mut table, &last, &aside);
        dropped.extend(without_doubles(&mut table));
    }
    node.routes.tell_dropped(dropped);
    let same =
        node.routes.pushed.lock().as_ref().is_some_and(|old| !table_differs(old, &table) && in_force == old.revision);
    if !same {
        let last = node.routes.pushed.lock().as_ref().map_or(0, |t| t.revision);
        table.revision = in_force.max(last) + 1;
        let put = node.gateway.put_table(&table).await;
        let put = match put {
            Err(ControlError::Refused(_)) if entrances::without_absences(&mut table) => {
                // A gateway of before, which knows of no absence: it forwards, and its users wait longer.
                node.gateway.put_table(&table).await
            }
            put => put,
        };
        match put {
            Ok(()) => node.routes.gave(table),
            Err(e) => tracing::warn!(error = %e, "the gateway did not take the new table; tried again"),
        }
    }
    let instances: Vec<String> = node.instances.lock().iter().map(|i| i.id.to_string()).collect();
    let journeys = node.open_journeys()?;
    let parts: Vec<String> = journeys.iter().flat_map(|j| &j.parts).map(|p| p.lease.to_string()).collect();
    node.routes.mark_absent(instances.into_iter().chain(parts));
    Ok(())
}

/// The table that was given last, by this daemon or by the one before.
async fn last_known(node: &Node) -> Option<RouteTable> {
    let pushed = node.routes.pushed.lock().clone();
    match pushed {
        Some(table) => Some(table),
        None => node.gateway.table().await,
    }
}

/// What a table rests on, and what of it cannot be read.
fn input(node: &Node) -> Result<(RouteInput, Aside), Problem> {
    let (services, lents) = (node.services()?, lender::lents(node)?);
    let journeys = node.open_journeys()?;
    let applications = node.items::<LentApplication>(LENT_APPLICATION)?;
    let aside = aside(node, &services, &lents, &applications)?;
    let applications: BTreeMap<&LeaseId, &LentApplication> = applications.iter().map(|a| (&a.lease, &**a)).collect();
    let view = node.pact();
    let members = view.iter().flat_map(|v| &v.pact.members).filter(|m| &m.cloud != node.name());
    let link = |m: &pumasi_terms::pact::Member| PeerLink {
        gateway_address: m.gateway_address.clone(),
        bundle: m.bundle.clone(),
    };
    let input = RouteInput {
        cloud: node.name().clone(),
        boot_id: node.boot_id.clone(),
        revision: 0,
        now: clock::now(),
        services: services.iter().filter(|s| can_serve(node, s)).map(|s| service(node, s, &journeys)).collect(),
        guests: entrances::guests(node, &services, &lents),
        // What is aside goes by the table before.
        lent: lents
            .iter()
            .filter(|l| !aside.leases.contains_key(l.id()))
            .filter_map(|l| lent(node, l, &applications))
            .collect(),
        members: members.map(|m| (m.cloud.clone(), link(m))).collect(),
    };
    Ok((input, aside))
}

/// A gateway that cannot keep a service in step would acknowledge what may be lost.
fn can_serve(node: &Node, service: &ServiceRecord) -> bool {
    node.routes.knows_step() != Some(false) || SyncRule::of(&service.document.spec.datasets).is_none()
}

fn aside(
    node: &Node,
    services: &Items<ServiceRecord>,
    lents: &[Arc<LentLease>],
    applications: &Items<LentApplication>,
) -> Result<Aside, Problem> {
    let mut aside = Aside::default();
    for name in services.unreadable().iter().filter_map(|u| ServiceName::parse(u.name.clone()).ok()) {
        // Its id cannot be read. Instances of one service alone may be meant.
        let owners: BTreeSet<String> = node.instances.lock().iter().map(|i| i.owner.clone()).collect();
        let mut named = owners.iter().filter(|o| service_named_by(o) == Some(name.as_str()));
        let home = match (named.next(), named.next()) {
            (Some(owner), None) => ready_of(node, owner),
            _ => Vec::new(),
        };
        aside.services.insert(name, home);
    }
    let (hidden, vague) = node.lents.with(&node.store, |s| {
        let vague = lents.iter().map(|l| &l.lease.borrower).filter(|b| s.wish_unknown(b)).cloned();
        (s.hidden(), vague.collect::<BTreeSet<_>>())
    })?;
    let unknown = |l: &LentLease| vague.contains(&l.lease.borrower);
    for id in hidden {
        let instances = ready_of(node, &owner_of_lease(&id));
        aside.leases.insert(id, AsideLease { instances, end: None });
    }
    for lent in lents.iter().filter(|l| l.usable() && (applications.hides(l.id().as_str()) || unknown(l))) {
        let instances = ready_of(node, &owner_of_lease(lent.id()));
        let end = Some((lent.expires_at, lent.epoch.max(lent.lease.epoch)));
        aside.leases.insert(lent.id().clone(), AsideLease { instances, end });
    }
    let journeys = node.journeys()?;
    if !journeys.unreadable().is_empty() {
        let usable = |at: BootMs| BootMs(at.0.saturating_sub(LEASE_MARGIN_MS));
        aside.renewed = node.peers.kept().into_iter().map(|(id, at)| (id, usable(at))).collect();
        aside.journeys = Some(journeys.iter().flat_map(|j| &j.parts).map(|p| p.lease.clone()).collect());
    }
    Ok(aside)
}

fn ready_of(node: &Node, owner: &str) -> Vec<HomeBackend> {
    let instances = node.instances.lock();
    let ready = instances.iter().filter(|i| i.owner == owner && i.state == InstanceState::Ready);
    ready.filter_map(|i| backend(i, false)).collect()
}

pub fn backend(i: &InstanceStatus, draining: bool) -> Option<HomeBackend> {
    let (instance, address, door) = (i.id.clone(), i.address?, i.door.clone());
    Some(HomeBackend { instance, address, door, protocol: i.protocol, generation: i.generation, draining })
}

fn backends(node: &Node, want: &Desired) -> Vec<HomeBackend> {
    let instances = node.instances.lock();
    fleet::routable(want, &instances).into_iter().filter_map(|(i, draining)| backend(i, draining)).collect()
}

/// How requests of a service find places: what the operator set, and what the service calls less important.
pub fn admission(node: &Node, spec: &ServiceSpec) -> Admission {
    Admission { less_important: spec.routing.less_important.clone(), ..node.config.gateway.admission.clone() }
}

fn service(node: &Node, record: &ServiceRecord, journeys: &[Arc<Journey>]) -> ServiceInput {
    // No user is sent to a rehearsal.
    let serves = |j: &&Arc<Journey>| &j.service == record.name() && !j.is_rehearsal();
    let parts = journeys.iter().filter(serves).flat_map(|j| &j.parts);
    let mut stand = register::stand(node, record);
    // What stands still answers nobody.
    let shut = fence::is_shut(node, record);
    let home = if shut { Vec::new() } else { backends(node, &home::wanted(node, record)) };
    if stand.front.is_none() && home.is_empty() && node.routes.fronts(record.name()) {
        // It was handed over here, and nothing of it is ready: who had it before still answers what only reads. Who is lost does not.
        if let Ok(Some(h)) = register::handover(node, &record.id)
            && h.epoch == record.epoch
        {
            (stand.front, stand.epoch) = (Some(h.from), h.from_epoch);
        }
    }
    let seats = journeys.iter().filter(|j| &j.service == record.name()).flat_map(|j| &j.parts);
    let keepers = seats.filter(|p| p.standby.is_some() && p.is_hopeful()).map(|p| p.lender.clone());
    ServiceInput {
        epoch: stand.epoch,
        writes: if stand.bound { Writes::Bound } else { Writes::Unbound },
        absent: stand.front.as_ref().and_then(|_| entrances::absent(node, &record.id)),
        role: stand.front.map_or(Role::Owner, |owner| Role::Front { owner }),
        entrances: record
            .entrances
            .iter()
            .cloned()
            .chain(stand.heir)
            .chain(keepers)
            .chain(entrances::agreed(node, record))
            .filter(|c| c != node.name())
            .collect(),
        home,
        parts: parts.filter_map(|p| rented(node, record, p)).collect(),
        admission: admission(node, &record.document.spec),
        position_generation: record
            .document
            .spec
            .own_datasets()
            .next()
            .is_some()
            .then(|| node.generation(record.epoch)),
        in_step: in_sync::in_step(node, record),
        // Told in a message of its own, see `keys`.
        identity: realm::route(node, record),
        position_key: None,
        service: record.document.clone(),
    }
}

/// The alias of a service at a lender, below the service's own host name.
pub fn alias(host: &str, lender: &CloudName) -> String {
    format!("{lender}.{host}")
}

fn rented(node: &Node, record: &ServiceRecord, part: &Part) -> Option<PartInput> {
    use pumasi_release::Step;
    let spec = &record.document.spec;
    let state = match &part.state {
        PartState::Serving => Serves::Serving,
        PartState::Resting => Serves::Draining,
        // It stays known to the gateway a little longer than it drains: what it answered last is still to be metered.
        PartState::Ending { release, .. } if release.step <= Step::Returning => Serves::Draining,
        _ => return None,
    };
    let redirect = spec.routing.mode == RouteMode::Redirect && state == Serves::Serving;
    Some(PartInput {
        lease: part.lease.clone(),
        cloud: part.lender.clone(),
        instances_ready: part.ready,
        state,
        weight: part.weight,
        usable_until: BootMs(part.expires_at.0.saturating_sub(LEASE_MARGIN_MS)),
        alias: spec.hosts.first().filter(|_| redirect).map(|host| alias(host, &part.lender)),
        datasets: ship::of_part(spec, part).map(|d| d.name.clone()).collect(),
        ticket_key: redirect.then(|| node.identity.ticket_key(&part.lease)),
    })
}

fn lent(node: &Node, lent: &LentLease, applications: &BTreeMap<&LeaseId, &LentApplication>) -> Option<LentInput> {
    let sent = &applications.get(lent.id())?.sent;
    let count = lent.instances_wanted.min(lent.lease.instances);
    let want = Desired { owner: owner_of_lease(lent.id()), count, generation: sent.generation };
    Some(LentInput {
        instances: backends(node, &want),
        hosts: sent.hosts.clone(),
        aliases: sent.aliases.clone(),
        home_only: sent.home_only.clone(),
        safe_methods: sent.safe_methods.clone(),
        protocol: sent.application.protocol,
        admission: sent.admission.clone(),
        ticket_key: sent.ticket_key.clone(),
        lent: lent.clone(),
    })
}
