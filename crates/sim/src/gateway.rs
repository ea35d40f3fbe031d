//! A host's gateway: the real one's duties without its sockets. It queues, shares by weight, serves leases, drains and meters.
//!
//! Enters: route tables, the users' load. Leaves: meter windows and a status, in the formats of the real one.
//! Always holds: it outlives daemons; nothing new is sent to what drains or is past its time; its counts are of whole requests.

use crate::life::HostClock;
use crate::mutant::Mutant;
use crate::net::Net;
use crate::traffic::Load;
use pumasi_engine::{Engine, InstanceState};
use pumasi_gateway::{
    BackendStatus, ControlError, GatewayStatus, HeldStatus, MeterReport, PlaceStatus, Question, Reply,
};
use pumasi_node::ground::{Asked, GatewayPort};
use pumasi_route::Tenure;
use pumasi_route::table::{Positions, RouteTable, ServiceRoute, Writes};
use pumasi_sense::meter::{BackendKey, BackendMeter, MeterWindow, ServiceMeter};
use pumasi_terms::{CloudName, InstanceId, LeaseId, ServiceName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Requests that one instance works on at a time, and for how long, mean.
pub const PLACES: usize = 4;
pub const WORK_MS: f64 = 60.0;
/// What one instance answers in a second.
pub const PER_SECOND: f64 = PLACES as f64 * 1_000.0 / WORK_MS;
const QUEUE_MAX: usize = 256;
const WAIT_MAX_MS: f64 = 500.0;
const ANSWER_BYTES: u64 = 1_000;
const SET_ASIDE_MS: u64 = 2_000;
const WINDOWS_MAX: usize = 600;

/// Who may answer: told of each request before it is given to an instance (oracle 5).
pub trait Witness: Send + Sync {
    fn home(&self, at: &CloudName, service: &ServiceName, instance: &InstanceId);
    fn lent(&self, at: &CloudName, lease: &LeaseId, instance: &InstanceId);
}

struct Working {
    done_ms: f64,
    began_ms: f64,
    key: BackendKey,
    /// Where it works: here, or there for a lease.
    instance: InstanceId,
    writes: bool,
}

#[derive(Default)]
struct Place {
    waiting: VecDeque<(f64, bool)>,
    working: Vec<Working>,
    meter: ServiceMeter,
    backends: BTreeMap<BackendKey, BackendMeter>,
    saturated_ms: f64,
    set_aside: BTreeMap<LeaseId, u64>,
    next_ms: f64,
    /// The load that `next_ms` was drawn for.
    per_second: f64,
}

/// Totals over the run, for reports and oracles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub arrivals: u64,
    pub completed: u64,
    pub shed: u64,
    pub lost: u64,
    pub rented: u64,
}

struct Inner {
    rng: StdRng,
    run: u64,
    table: Option<RouteTable>,
    positions: Positions,
    /// Gone with each life.
    tenure: Option<Tenure>,
    services: BTreeMap<ServiceName, Place>,
    leases: BTreeMap<LeaseId, BTreeMap<InstanceId, u32>>,
    lease_meters: BTreeMap<LeaseId, BackendMeter>,
    windows: VecDeque<MeterWindow>,
    seq: u64,
    ticked_ms: f64,
    totals: Totals,
    loads: BTreeMap<ServiceName, Load>,
    lives: u32,
}

pub struct SimGateway {
    pub cloud: CloudName,
    clock: Arc<HostClock>,
    net: Arc<Net>,
    engine: Arc<dyn Engine>,
    witness: Arc<dyn Witness>,
    mutant: Option<Mutant>,
    peers: OnceLock<BTreeMap<CloudName, Arc<SimGateway>>>,
    inner: Mutex<Inner>,
    closed: Notify,
}

impl std::fmt::Debug for SimGateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimGateway({})", self.cloud)
    }
}

impl Inner {
    fn held(&self) -> Vec<HeldStatus> {
        let held = self.tenure.iter().flat_map(|t| &t.held);
        held.map(|(service, held)| {
            let place = self.services.get(service);
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            HeldStatus {
                service: service.clone(),
                until: held.until,
                in_flight: count(place.map_or(0, |p| p.working.iter().filter(|w| w.writes).count())),
                waiting: count(place.map_or(0, |p| p.waiting.iter().filter(|(_, writes)| *writes).count())),
            }
        })
        .collect()
    }
}

impl SimGateway {
    pub fn new(
        cloud: CloudName,
        seed: u64,
        clock: Arc<HostClock>,
        net: Arc<Net>,
        engine: Arc<dyn Engine>,
        witness: Arc<dyn Witness>,
        mutant: Option<Mutant>,
    ) -> Arc<Self> {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            run: seed | 1,
            table: None,
            positions: Positions::default(),
            tenure: None,
            services: BTreeMap::new(),
            leases: BTreeMap::new(),
            lease_meters: BTreeMap::new(),
            windows: VecDeque::new(),
            seq: 0,
            ticked_ms: clock.true_ms() as f64,
            totals: Totals::default(),
            loads: BTreeMap::new(),
            lives: 1,
        };
        let (peers, inner, closed) = (OnceLock::new(), Mutex::new(inner), Notify::new());
        Arc::new(Self { cloud, clock, net, engine, witness, mutant, peers, inner, closed })
    }

    /// The other clouds' gateways, once.
    pub fn meet(&self, peers: BTreeMap<CloudName, Arc<SimGateway>>) {
        let _ = self.peers.set(peers);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_load(&self, service: ServiceName, load: Load) {
        self.lock().loads.insert(service, load);
    }

    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    pub fn lives(&self) -> u32 {
        self.lock().lives
    }

    pub fn table(&self) -> Option<RouteTable> {
        self.lock().table.clone()
    }

    /// Killed and started again: its table is on disk, its counts and connections are gone.
    pub fn crash(&self) {
        let mut inner = self.lock();
        inner.run = inner.rng.random::<u64>() | 1;
        let lost: u64 = inner.services.values().map(|p| (p.working.len() + p.waiting.len()) as u64).sum();
        inner.totals.lost += lost;
        inner.lives += 1;
        // Its connections break, and the other side sees that.
        for working in inner.services.values().flat_map(|p| &p.working) {
            if let BackendKey::Lease(cloud, lease) = &working.key
                && let Some(peer) = self.peers.get().and_then(|p| p.get(cloud))
            {
                peer.gave_back(lease, &working.instance, false);
            }
        }
        inner.tenure = None;
        inner.services.clear();
        inner.leases.clear();
        inner.lease_meters.clear();
        inner.windows.clear();
        inner.seq = 0;
    }

    /// After a power cut the table's boot times are void, and it is not used.
    pub fn reboot(&self) {
        self.crash();
        self.lock().table = None;
    }

    /// A tenth of a second of users.
    pub fn tick(&self) {
        let until_ms = self.clock.true_ms() as f64;
        if until_ms <= self.lock().ticked_ms {
            return;
        }
        let ready = self.ready();
        let mut guard = self.lock();
        let inner = &mut *guard;
        let from_ms = inner.ticked_ms;
        inner.ticked_ms = until_ms;
        let table = inner.table.clone();
        for (name, load) in &inner.loads {
            let place = inner.services.entry(name.clone()).or_default();
            let route = table.as_ref().and_then(|t| t.services.get(name));
            let mut street = Street {
                gateway: self,
                name,
                route,
                tenure: inner.tenure.as_ref(),
                ready: &ready,
                place,
                rng: &mut inner.rng,
                totals: &mut inner.totals,
                now_ms: from_ms,
            };
            street.pass(load, until_ms);
        }
        self.close(inner, until_ms - from_ms);
        drop(guard);
        self.closed.notify_waiters();
    }

    fn ready(&self) -> Vec<InstanceId> {
        // The driver answers at once: it is a look into memory.
        let listed = now_or_never(self.engine.list()).and_then(Result::ok).unwrap_or_default();
        listed.into_iter().filter(|i| i.state == InstanceState::Ready).map(|i| i.id).collect()
    }

    fn close(&self, inner: &mut Inner, span_ms: f64) {
        inner.seq += 1;
        let revision = inner.table.as_ref().map_or(0, |t| t.revision);
        let mut services = BTreeMap::new();
        for (name, place) in &mut inner.services {
            let mut meter = std::mem::take(&mut place.meter);
            meter.queued = place.waiting.len() as u64;
            meter.in_flight = place.working.len() as u64;
            let route = inner.table.as_ref().and_then(|t| t.services.get(name));
            for (key, places) in route.iter().flat_map(|r| keys(r)) {
                let backend = place.backends.entry(key.clone()).or_default();
                backend.limit = places as u64;
                backend.in_flight = place.working.iter().filter(|w| w.key == key).count() as u64;
                backend.saturated = place.saturated_ms > span_ms / 2.0;
                meter.limit += places as u64;
            }
            place.saturated_ms = 0.0;
            meter.backends = std::mem::take(&mut place.backends);
            services.insert(name.clone(), meter);
        }
        let leases = std::mem::take(&mut inner.lease_meters);
        let window = MeterWindow {
            version: 1,
            gateway_run: inner.run,
            seq: inner.seq,
            at: self.clock.now().boot,
            span_ms: span_ms as u64,
            table_revision: revision,
            services,
            leases,
        };
        inner.windows.push_back(window);
        if inner.windows.len() > WINDOWS_MAX {
            inner.windows.pop_front();
        }
    }

    /// A request of another cloud's gateway, for a lease: the instance that takes it.
    fn take(&self, lease: &LeaseId) -> Result<InstanceId, &'static str> {
        let now = self.clock.now().boot;
        let ready = self.ready();
        let mut inner = self.lock();
        let table = inner.table.as_ref().ok_or("no table")?;
        let route = table.leases.get(lease).ok_or("no such lease")?;
        if now >= route.expires_at {
            return Err("the lease is over");
        }
        let open: Vec<InstanceId> =
            route.instances.iter().filter(|i| !i.draining).map(|i| i.instance.clone()).collect();
        let held = inner.leases.entry(lease.clone()).or_default();
        let room = |i: &&InstanceId| held.get(*i).copied().unwrap_or(0) < PLACES as u32 * 2;
        let instance = open.iter().filter(room).min_by_key(|i| held.get(*i).copied().unwrap_or(0)).ok_or("no place")?;
        if !ready.contains(instance) {
            return Err("the instance does not answer");
        }
        *held.entry(instance.clone()).or_default() += 1;
        let instance = instance.clone();
        drop(inner);
        self.witness.lent(&self.cloud, lease, &instance);
        Ok(instance)
    }

    fn gave_back(&self, lease: &LeaseId, instance: &InstanceId, answered: bool) {
        let mut inner = self.lock();
        if let Some(held) = inner.leases.get_mut(lease).and_then(|l| l.get_mut(instance)) {
            *held = held.saturating_sub(1);
        }
        if answered {
            let meter = inner.lease_meters.entry(lease.clone()).or_default();
            meter.completed += 1;
            meter.bytes_out += ANSWER_BYTES;
        }
    }

    /// One request over a lease, for this host's daemon.
    fn ask(&self, question: &Question) -> Reply {
        let none = |why: &str| Reply::None { why: why.to_owned() };
        let Some(peer) =
            self.peers.get().and_then(|p| p.get(&question.cloud)).filter(|_| self.reaches(&question.cloud))
        else {
            return none("unreachable");
        };
        match peer.take(&question.lease) {
            Ok(instance) => {
                peer.gave_back(&question.lease, &instance, true);
                Reply::Answer { status: 200, body_bytes: ANSWER_BYTES, took_ms: WORK_MS as u64 }
            }
            Err(why) => none(why),
        }
    }

    fn reaches(&self, other: &CloudName) -> bool {
        !self.net.is_cut(&self.cloud, other) && !self.net.is_cut(other, &self.cloud)
    }

    fn status_now(&self) -> GatewayStatus {
        let inner = self.lock();
        let at = self.clock.now().boot;
        let status = |place: Option<&Place>, key: &BackendKey, draining: bool, limit: usize| {
            let in_flight = place.map_or(0, |p| p.working.iter().filter(|w| &w.key == key).count());
            let aside = match key {
                BackendKey::Lease(_, lease) => {
                    place.and_then(|p| p.set_aside.get(lease)).is_some_and(|t| *t > self.clock.true_ms())
                }
                BackendKey::Home(_) | BackendKey::Front(_) => false,
            };
            BackendStatus {
                backend: key.clone(),
                in_flight: in_flight as u32,
                streams: 0,
                tunnels: 0,
                limit: limit as u32,
                draining,
                drained: draining && in_flight == 0,
                set_aside: aside,
            }
        };
        let table = inner.table.as_ref();
        let mut services = Vec::new();
        let mut leaving = Vec::new();
        for (name, route) in table.iter().flat_map(|t| &t.services) {
            let place = inner.services.get(name);
            let backends =
                keys(route).into_iter().map(|(k, places)| status(place, &k, draining(route, &k), places)).collect();
            services.push(PlaceStatus {
                name: name.to_string(),
                queued: place.map_or(0, |p| p.waiting.len() as u64),
                backends,
            });
        }
        for (name, place) in &inner.services {
            let route = table.and_then(|t| t.services.get(name));
            let known: Vec<BackendKey> = route.map(keys).unwrap_or_default().into_iter().map(|(k, _)| k).collect();
            let mut gone: Vec<BackendKey> =
                place.working.iter().map(|w| w.key.clone()).filter(|k| !known.contains(k)).collect();
            gone.sort();
            gone.dedup();
            if !gone.is_empty() {
                let backends = gone.iter().map(|k| status(Some(place), k, true, 0)).collect();
                leaving.push(PlaceStatus { name: name.to_string(), queued: 0, backends });
            }
        }
        let held =
            |lease: &LeaseId, i: &InstanceId| inner.leases.get(lease).and_then(|l| l.get(i)).copied().unwrap_or(0);
        let lent = |i: &InstanceId, draining: bool, in_flight: u32| BackendStatus {
            backend: BackendKey::Home(i.clone()),
            in_flight,
            streams: 0,
            tunnels: 0,
            limit: PLACES as u32,
            draining,
            drained: draining && in_flight == 0,
            set_aside: false,
        };
        let mut leases = Vec::new();
        for (lease, route) in table.iter().flat_map(|t| &t.leases) {
            let backends =
                route.instances.iter().map(|i| lent(&i.instance, i.draining, held(lease, &i.instance))).collect();
            leases.push(PlaceStatus { name: lease.to_string(), queued: 0, backends });
        }
        for (lease, instances) in &inner.leases {
            let known = table.and_then(|t| t.leases.get(lease));
            let gone = |i: &InstanceId| !known.is_some_and(|r| r.instances.iter().any(|k| &k.instance == i));
            let backends: Vec<BackendStatus> =
                instances.iter().filter(|(i, n)| **n > 0 && gone(i)).map(|(i, n)| lent(i, true, *n)).collect();
            if !backends.is_empty() {
                leaving.push(PlaceStatus { name: lease.to_string(), queued: 0, backends });
            }
        }
        GatewayStatus {
            version: 1,
            cloud: self.cloud.clone(),
            gateway_run: inner.run,
            pid: 1,
            table_revision: table.map_or(0, |t| t.revision),
            at,
            uptime_ms: 0,
            stopping: false,
            listening: Vec::new(),
            peer_listening: None,
            connections: 0,
            tunnels: 0,
            services,
            leases,
            leaving,
            held: inner.held(),
        }
    }
}

fn keys(route: &ServiceRoute) -> Vec<(BackendKey, usize)> {
    let home = route.home.iter().map(|h| (BackendKey::Home(h.instance.clone()), PLACES));
    let away = route
        .leases
        .iter()
        .map(|l| (BackendKey::Lease(l.cloud.clone(), l.lease.clone()), PLACES * l.instances as usize));
    home.chain(away).collect()
}

fn draining(route: &ServiceRoute, key: &BackendKey) -> bool {
    match key {
        BackendKey::Home(i) => route.home.iter().any(|h| &h.instance == i && h.draining),
        BackendKey::Lease(_, lease) => route.leases.iter().any(|l| &l.lease == lease && l.draining),
        BackendKey::Front(_) => false,
    }
}

pub(crate) fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// They wait.
    Held,
    Shut,
}

/// One service's requests within one tick.
struct Street<'a> {
    gateway: &'a SimGateway,
    name: &'a ServiceName,
    route: Option<&'a ServiceRoute>,
    tenure: Option<&'a Tenure>,
    ready: &'a [InstanceId],
    place: &'a mut Place,
    rng: &'a mut StdRng,
    totals: &'a mut Totals,
    now_ms: f64,
}

impl Street<'_> {
    fn pass(&mut self, load: &Load, until_ms: f64) {
        self.call_in();
        while self.now_ms < until_ms {
            let per_second = load.at(self.now_ms as u64).map_or(0.0, |p| p.per_second);
            // At a change of phase the next arrival is drawn anew: the stream has no memory.
            if self.place.next_ms < self.now_ms || self.place.per_second != per_second {
                self.place.per_second = per_second;
                self.place.next_ms = self.now_ms + self.exponential(1_000.0 / per_second.max(0.001));
            }
            let first = (0..self.place.working.len())
                .min_by(|a, b| self.place.working[*a].done_ms.total_cmp(&self.place.working[*b].done_ms));
            let done_ms = first.map_or(f64::INFINITY, |k| self.place.working[k].done_ms);
            let at_ms = done_ms.min(self.place.next_ms).min(until_ms);
            if !self.place.waiting.is_empty() {
                self.place.saturated_ms += at_ms - self.now_ms;
            }
            self.now_ms = at_ms;
            if at_ms >= until_ms {
                break;
            }
            match first {
                Some(k) if done_ms <= self.place.next_ms => self.finish(k),
                _ => {
                    let home_only = load.at(at_ms as u64).map_or(0.0, |p| p.home_only);
                    let home_only = self.rng.random_bool(home_only.clamp(0.0, 1.0));
                    self.arrive(home_only);
                    self.place.next_ms = at_ms + self.exponential(1_000.0 / per_second.max(0.001));
                }
            }
        }
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.rng.random::<f64>()).ln()
    }

    /// For requests that write.
    fn gate(&self) -> Gate {
        let (Some(route), now) = (self.route, self.gateway.clock.now().boot) else { return Gate::Shut };
        let held = self.tenure.and_then(|t| t.held.get(self.name));
        if let Some(held) = held.filter(|held| held.epoch == route.epoch) {
            return if now < held.until { Gate::Held } else { Gate::Shut };
        }
        let within = |t: &Tenure| t.until.is_some_and(|u| now < u) && t.epochs.get(self.name) == Some(&route.epoch);
        match route.writes == Writes::Unbound || self.tenure.is_some_and(within) {
            true => Gate::Open,
            false => Gate::Shut,
        }
    }

    fn arrive(&mut self, home_only: bool) {
        self.totals.arrivals += 1;
        self.place.meter.arrivals += 1;
        self.place.meter.arrivals_home_only += u64::from(home_only);
        if home_only && self.route.is_some() && self.gate() == Gate::Shut {
            self.place.meter.errors += 1;
            self.totals.shed += 1;
            return;
        }
        if self.place.waiting.is_empty() && self.give(self.now_ms, home_only) {
            return;
        }
        if self.place.waiting.len() < QUEUE_MAX {
            self.place.waiting.push_back((self.now_ms, home_only));
        } else {
            self.place.meter.shed += 1;
            self.totals.shed += 1;
        }
    }

    /// Hands a request to a backend with a free place; by weight where there are several.
    fn give(&mut self, arrived_ms: f64, home_only: bool) -> bool {
        let Some(route) = self.route.filter(|_| !home_only || self.gate() == Gate::Open) else { return false };
        let boot = self.gateway.clock.now().boot;
        let busy = |place: &Place, key: &BackendKey| place.working.iter().filter(|w| &w.key == key).count();
        let mut open: Vec<(u64, BackendKey, InstanceId)> = Vec::new();
        for h in route.home.iter().filter(|h| !h.draining && self.ready.contains(&h.instance)) {
            let key = BackendKey::Home(h.instance.clone());
            if busy(self.place, &key) < PLACES {
                open.push((u64::from(route.home_weight.0).max(1), key, h.instance.clone()));
            }
        }
        if !home_only {
            for l in route.leases.iter().filter(|l| !l.draining && boot < l.usable_until && l.instances > 0) {
                let key = BackendKey::Lease(l.cloud.clone(), l.lease.clone());
                let aside = self.place.set_aside.get(&l.lease).is_some_and(|t| *t as f64 > self.now_ms);
                if aside || busy(self.place, &key) >= PLACES * l.instances as usize {
                    continue;
                }
                if let Some(instance) = self.ask(&l.cloud, &l.lease) {
                    open.push((u64::from(l.weight.0).max(1), key, instance));
                }
            }
        }
        let total: u64 = open.iter().map(|(w, ..)| w).sum();
        if total == 0 {
            return false;
        }
        let mut at = self.rng.random_range(0..total);
        let chosen = open.iter().position(|(w, ..)| {
            let here = at < *w;
            at = at.saturating_sub(*w);
            here
        });
        let Some(chosen) = chosen else { return false };
        // Places that were asked for and not taken.
        for (k, (_, key, instance)) in open.iter().enumerate() {
            if let (BackendKey::Lease(cloud, lease), true) = (key, k != chosen) {
                self.peer(cloud, |p| p.gave_back(lease, instance, false));
            }
        }
        let (_, key, instance) = open.swap_remove(chosen);
        if let BackendKey::Home(i) = &key {
            self.gateway.witness.home(&self.gateway.cloud, self.name, i);
        }
        self.place.meter.admitted += 1;
        self.place.meter.queue_delay.record(((self.now_ms - arrived_ms) * 1_000.0) as u64);
        let mut work_ms = self.exponential(WORK_MS);
        if let BackendKey::Lease(cloud, _) = &key {
            self.totals.rented += 1;
            work_ms += 2.0 * self.gateway.net.delay_ms(&self.gateway.cloud, cloud) as f64;
        }
        let done_ms = self.now_ms + work_ms;
        self.place.working.push(Working { done_ms, began_ms: self.now_ms, key, instance, writes: home_only });
        true
    }

    fn peer(&self, cloud: &CloudName, f: impl FnOnce(&SimGateway)) {
        if let Some(peer) = self.gateway.peers.get().and_then(|p| p.get(cloud)) {
            f(peer);
        }
    }

    /// Whether the other side takes one more; a refusal sets it aside for a while.
    fn ask(&mut self, cloud: &CloudName, lease: &LeaseId) -> Option<InstanceId> {
        let peer = self.gateway.peers.get()?.get(cloud)?.clone();
        let taken = if self.gateway.reaches(cloud) { peer.take(lease) } else { Err("unreachable") };
        match taken {
            Ok(instance) => Some(instance),
            Err("no place") => None,
            Err(_) => {
                self.place.meter.retries += 1;
                self.place.set_aside.insert(lease.clone(), self.now_ms as u64 + SET_ASIDE_MS);
                None
            }
        }
    }

    fn finish(&mut self, k: usize) {
        let done = self.place.working.swap_remove(k);
        let backend = self.place.backends.entry(done.key.clone()).or_default();
        let well = match &done.key {
            BackendKey::Home(i) => self.ready.contains(i),
            BackendKey::Front(owner) => self.gateway.reaches(owner),
            BackendKey::Lease(cloud, lease) => {
                let reaches = self.gateway.reaches(cloud);
                if let Some(peer) = self.gateway.peers.get().and_then(|p| p.get(cloud)) {
                    peer.gave_back(lease, &done.instance, reaches);
                }
                reaches
            }
        };
        if well {
            backend.completed += 1;
            backend.bytes_out += ANSWER_BYTES;
            self.place.meter.completed += 1;
            self.totals.completed += 1;
            self.place.meter.app_time.record(((self.now_ms - done.began_ms) * 1_000.0) as u64);
            self.place.meter.user_rtt.record(20_000);
        } else {
            backend.failed += 1;
            self.place.meter.errors += 1;
            self.totals.lost += 1;
        }
        self.call_in();
    }

    /// Those who wait: too long ones are refused, the next that fits a free place goes in.
    fn call_in(&mut self) {
        let held = self.gate() == Gate::Held;
        let too_long = |(arrived, writes): &(f64, bool)| self.now_ms - arrived > WAIT_MAX_MS && !(held && *writes);
        while let Some(at) = self.place.waiting.iter().position(too_long) {
            self.place.waiting.remove(at);
            self.place.meter.shed += 1;
            self.totals.shed += 1;
        }
        for home_only in [false, true] {
            while let Some(at) = self.place.waiting.iter().position(|(_, h)| *h == home_only) {
                let (arrived_ms, _) = self.place.waiting[at];
                if !self.give(arrived_ms, home_only) {
                    break;
                }
                self.place.waiting.remove(at);
            }
        }
    }
}

/// A planted bug: what was lent and rented stays, and never ends.
fn keep_leases(table: &mut RouteTable, old: Option<&RouteTable>) {
    let never = pumasi_terms::BootMs(u64::MAX / 2);
    for (lease, route) in old.iter().flat_map(|t| &t.leases) {
        let kept = table.leases.entry(lease.clone()).or_insert_with(|| route.clone());
        kept.expires_at = never;
    }
    for (name, service) in &mut table.services {
        for backend in old.iter().filter_map(|t| t.services.get(name)).flat_map(|s| &s.leases) {
            if !service.leases.iter().any(|l| l.lease == backend.lease) {
                service.leases.push(backend.clone());
            }
        }
        for lease in &mut service.leases {
            (lease.draining, lease.usable_until) = (false, never);
        }
    }
}

/// What a daemon holds of its host's gateway.
#[derive(Debug, Clone)]
pub struct Port(pub Arc<SimGateway>);

impl GatewayPort for Port {
    fn put_table<'a>(&'a self, table: &'a RouteTable) -> Asked<'a, ()> {
        Box::pin(async move {
            // The real one answers after a write to disk.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut inner = self.0.lock();
            if let Some(current) = inner.table.as_ref().map(|t| t.revision).filter(|r| *r > table.revision) {
                return Err(ControlError::Old { current });
            }
            let mut table = table.clone();
            if self.0.mutant == Some(Mutant::StaleRoutes) {
                keep_leases(&mut table, inner.table.as_ref());
            }
            inner.table = Some(table);
            Ok(())
        })
    }
    fn table(&self) -> Pin<Box<dyn Future<Output = Option<RouteTable>> + Send + '_>> {
        Box::pin(async move { self.0.table() })
    }
    fn put_positions<'a>(&'a self, positions: &'a Positions) -> Asked<'a, ()> {
        Box::pin(async move {
            self.0.lock().positions = positions.clone();
            Ok(())
        })
    }
    fn put_tenure<'a>(&'a self, tenure: &'a Tenure) -> Asked<'a, ()> {
        Box::pin(async move {
            let mut inner = self.0.lock();
            if inner.tenure.as_ref().is_some_and(|before| before.at > tenure.at) {
                return Err(ControlError::Refused("the tenure was overtaken by a later one".into()));
            }
            inner.tenure = Some(tenure.clone());
            Ok(())
        })
    }
    /// Nobody here reads a cookie.
    fn put_keys<'a>(&'a self, _: &'a pumasi_route::Keys) -> Asked<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn meter(&self, after: u64) -> Asked<'_, MeterReport> {
        Box::pin(async move {
            for _ in 0..10 {
                let closed = self.0.closed.notified();
                {
                    let inner = self.0.lock();
                    let windows: Vec<_> = inner.windows.iter().filter(|w| w.seq > after).cloned().collect();
                    // Another run begins its numbers anew.
                    if !windows.is_empty() || inner.seq < after {
                        return Ok(MeterReport { gateway_run: inner.run, windows });
                    }
                }
                closed.await;
            }
            Err(ControlError::Unreachable { socket: PathBuf::from("gateway"), problem: "no window in time".into() })
        })
    }
    fn status(&self) -> Asked<'_, GatewayStatus> {
        Box::pin(async move { Ok(self.0.status_now()) })
    }
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a, Reply> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(WORK_MS as u64)).await;
            Ok(self.0.ask(question))
        })
    }
    fn reload_identity(&self) -> Asked<'_, ()> {
        Box::pin(async move { Ok(()) })
    }
    fn metrics(&self) -> Asked<'_, String> {
        Box::pin(async move { Ok(String::new()) })
    }
    fn look_after(&self, _answers: bool) {}
}
