//! A host's gateway: the real one's duties without its sockets. It queues, shares by weight, serves leases, drains and meters.
//!
//! Enters: route tables, the users' load. Leaves: meter windows and a status, in the formats of the real one.
//! Always holds: it outlives daemons; nothing new is sent to what drains or is past its time; its counts are of whole requests.

mod port;
mod status;
mod street;

pub use port::Port;

use crate::engine::TimedEngine;
use crate::life::HostClock;
use crate::mutant::Mutant;
use crate::net::Net;
use crate::traffic::Load;
use pumasi_engine::{Engine, InstanceState};
use pumasi_gateway::right::{Right, Turn};
use pumasi_gateway::{Question, Reply, Wanted};
use pumasi_route::Tenure;
use pumasi_route::table::{Positions, RouteTable, ServiceRoute};
use pumasi_sense::meter::{BackendKey, BackendMeter, MeterWindow, ServiceMeter};
use pumasi_terms::{BootMs, CloudName, Epoch, InstanceId, LeaseId, Position, ServiceName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use street::Street;
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

/// Who may answer, and who may write: told of each request before it is given to an instance (oracle 5), of each write when an
/// instance has executed it (oracle 1), and when its user has the answer (oracle 2).
pub trait Witness: Send + Sync {
    fn home(&self, at: &CloudName, service: &ServiceName, instance: &InstanceId);
    fn lent(&self, at: &CloudName, lease: &LeaseId, instance: &InstanceId);
    fn wrote(&self, at: &CloudName, service: &ServiceName, write: &Write);
    fn acknowledged(&self, at: &CloudName, service: &ServiceName, write: &Write);
}

/// A request that writes: a line in the service's data, where it has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub id: String,
    /// The ownership under which it was let in.
    pub epoch: Epoch,
}

/// A place that a request of another cloud's entrance has here.
#[derive(Debug, Clone)]
struct Entered {
    instance: InstanceId,
    epoch: Epoch,
    /// Of the gateway that gave it: another life knows nothing of it.
    run: u64,
}

struct Working {
    done_ms: f64,
    began_ms: f64,
    key: BackendKey,
    /// Where it works: here, or there for a lease.
    instance: InstanceId,
    write: Option<Write>,
    /// At the owner, for a request that came in here.
    entered: Option<Entered>,
}

/// An answer that may not leave before the copies have what it tells of.
#[derive(Debug)]
struct Committing {
    write: Write,
    at: Position,
    since: BootMs,
    wait_ms: u64,
    /// The entrance where its user waits; none: here.
    front: Option<CloudName>,
}

/// A request without a place.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    arrived_ms: f64,
    writes: bool,
    /// The ownership under which it passed the gate.
    epoch: Option<Epoch>,
}

#[derive(Default)]
struct Place {
    right: Right,
    /// When those came that wait at the gate.
    held: VecDeque<f64>,
    waiting: VecDeque<Waiting>,
    /// Executed, and waiting for the copies.
    committing: Vec<Committing>,
    working: Vec<Working>,
    /// Requests that came in at other clouds.
    guests: BTreeMap<InstanceId, usize>,
    meter: ServiceMeter,
    backends: BTreeMap<BackendKey, BackendMeter>,
    saturated_ms: f64,
    set_aside: BTreeMap<LeaseId, u64>,
    next_ms: f64,
    /// The load that `next_ms` was drawn for.
    per_second: f64,
}

impl Place {
    fn busy(&self, key: &BackendKey) -> usize {
        let guests = if let BackendKey::Home(i) = key { self.guests.get(i).copied().unwrap_or(0) } else { 0 };
        self.working.iter().filter(|w| &w.key == key).count() + guests
    }
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
    /// Gone with each life, like what they wait for.
    wanted: Arc<Wanted>,
    services: BTreeMap<ServiceName, Place>,
    leases: BTreeMap<LeaseId, BTreeMap<InstanceId, u32>>,
    lease_meters: BTreeMap<LeaseId, BackendMeter>,
    windows: VecDeque<MeterWindow>,
    seq: u64,
    ticked_ms: f64,
    totals: Totals,
    loads: BTreeMap<ServiceName, Load>,
    lives: u32,
    written: u64,
}

pub struct SimGateway {
    pub cloud: CloudName,
    clock: Arc<HostClock>,
    net: Arc<Net>,
    engine: Arc<TimedEngine>,
    witness: Arc<dyn Witness>,
    mutant: Option<Mutant>,
    peers: OnceLock<BTreeMap<CloudName, Arc<SimGateway>>>,
    inner: Mutex<Inner>,
    closed: Notify,
    /// It answers its daemon nothing.
    pub wedged: std::sync::atomic::AtomicBool,
}

impl std::fmt::Debug for SimGateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimGateway({})", self.cloud)
    }
}

impl Inner {
    /// What table and tenure say of each service is in force at its gate.
    fn put_rights(&mut self, now: pumasi_terms::BootMs) {
        let table = self.table.as_ref();
        for name in table.iter().flat_map(|t| t.services.keys()) {
            self.services.entry(name.clone()).or_default();
        }
        for (name, place) in &mut self.services {
            let route = table.and_then(|t| t.services.get(name));
            place.right.set(name, route, self.tenure.as_ref(), now);
        }
    }
}

impl SimGateway {
    pub fn new(
        cloud: CloudName,
        seed: u64,
        clock: Arc<HostClock>,
        net: Arc<Net>,
        engine: Arc<TimedEngine>,
        witness: Arc<dyn Witness>,
        mutant: Option<Mutant>,
    ) -> Arc<Self> {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            run: seed | 1,
            table: None,
            positions: Positions::default(),
            tenure: None,
            wanted: Arc::new(Wanted::new(seed | 1)),
            services: BTreeMap::new(),
            leases: BTreeMap::new(),
            lease_meters: BTreeMap::new(),
            windows: VecDeque::new(),
            seq: 0,
            ticked_ms: clock.true_ms() as f64,
            totals: Totals::default(),
            loads: BTreeMap::new(),
            lives: 1,
            written: 0,
        };
        let (peers, inner, closed) = (OnceLock::new(), Mutex::new(inner), Notify::new());
        let wedged = Default::default();
        Arc::new(Self { cloud, clock, net, engine, witness, mutant, peers, inner, closed, wedged })
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
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.run = inner.rng.random::<u64>() | 1;
        let lost: u64 =
            inner.services.values().map(|p| (p.working.len() + p.waiting.len() + p.held.len()) as u64).sum();
        inner.totals.lost += lost;
        inner.lives += 1;
        // Its connections break, and the other side sees that. What an instance works on is executed all the same.
        for (name, place) in &inner.services {
            for working in &place.working {
                match (&working.key, &working.write) {
                    (BackendKey::Lease(cloud, lease), _) => {
                        if let Some(peer) = self.peer_of(cloud) {
                            peer.gave_back(lease, &working.instance, false);
                        }
                    }
                    (BackendKey::Home(i), Some(write)) => drop(self.execute(name, i, write)),
                    (BackendKey::Front(owner), write) => {
                        if let (Some(peer), Some(entered)) = (self.peer_of(owner), &working.entered) {
                            peer.left(&self.cloud, name, entered, write.as_ref());
                        }
                    }
                    _ => {}
                }
            }
        }
        inner.tenure = None;
        inner.wanted = Arc::new(Wanted::new(inner.run));
        inner.services.clear();
        inner.leases.clear();
        inner.lease_meters.clear();
        inner.windows.clear();
        inner.seq = 0;
        inner.put_rights(self.clock.now().boot);
    }

    /// After a power cut the table's boot times are void, and it is not used.
    pub fn reboot(&self) {
        self.crash();
        let mut inner = self.lock();
        inner.table = None;
        inner.put_rights(self.clock.now().boot);
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
        let calm = Load(Vec::new());
        // Also of services that have their users at other clouds alone.
        let guests: Vec<ServiceName> =
            inner.services.keys().filter(|n| !inner.loads.contains_key(*n)).cloned().collect();
        let all = inner.loads.iter().chain(guests.iter().map(|name| (name, &calm)));
        for (name, load) in all {
            let place = inner.services.entry(name.clone()).or_default();
            let route = table.as_ref().and_then(|t| t.services.get(name));
            let mut street = Street {
                gateway: self,
                name,
                route,
                ready: &ready,
                place,
                rng: &mut inner.rng,
                totals: &mut inner.totals,
                written: &mut inner.written,
                copies: &inner.positions.in_step,
                wanted: &inner.wanted,
                now_ms: from_ms,
            };
            match load.0.is_empty() {
                true => street.commit(),
                false => street.pass(load, until_ms),
            }
        }
        self.close(inner, until_ms - from_ms);
        drop(guard);
        self.closed.notify_waiters();
    }

    fn ready(&self) -> Vec<InstanceId> {
        // The driver answers at once: it is a look into memory.
        let listed = now_or_never(self.engine.list()).and_then(Result::ok).unwrap_or_default();
        listed.into_iter().filter(|i| i.state == InstanceState::Ready && !i.frozen).map(|i| i.id).collect()
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
    fn take(&self, lease: &LeaseId, epoch: Option<Epoch>) -> Result<InstanceId, &'static str> {
        let now = self.clock.now().boot;
        let ready = self.ready();
        let mut inner = self.lock();
        let table = inner.table.as_ref().ok_or("no table")?;
        let route = table.leases.get(lease).ok_or("no such lease")?;
        if now >= route.expires_at {
            return Err("the lease is over");
        }
        if epoch.is_some_and(|e| e != route.epoch) {
            return Err("another epoch");
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
        let Some(peer) = self.peer_of(&question.cloud).filter(|_| self.reaches(&question.cloud)) else {
            return none("unreachable");
        };
        match peer.take(&question.lease, None) {
            Ok(instance) => {
                peer.gave_back(&question.lease, &instance, true);
                Reply::Answer { status: 200, body_bytes: ANSWER_BYTES, took_ms: WORK_MS as u64 }
            }
            Err(why) => none(why),
        }
    }

    /// A request that came in at another cloud, for a service that this one owns: its place. None: there is none now.
    fn enter(
        &self,
        from: &CloudName,
        service: &ServiceName,
        epoch: Epoch,
        writes: bool,
    ) -> Result<Option<Entered>, &'static str> {
        let (ready, now) = (self.ready(), self.clock.now().boot);
        let mut guard = self.lock();
        let inner = &mut *guard;
        let table = inner.table.as_ref().ok_or("no table")?;
        let route = table.services.get(service).ok_or("no such service")?;
        if !route.entrances.contains(from) {
            return Err("not an entrance");
        }
        if route.epoch != epoch || !route.role.is_owner() {
            return Err("moved");
        }
        let place = inner.services.entry(service.clone()).or_default();
        let open = route.home.iter().filter(|h| !h.draining && ready.contains(&h.instance)).map(|h| &h.instance);
        let free = open.filter(|i| place.busy(&BackendKey::Home((*i).clone())) < PLACES);
        let Some(instance) = free.min_by_key(|i| place.busy(&BackendKey::Home((*i).clone()))).cloned() else {
            return Ok(None);
        };
        if writes {
            match place.right.turn(now) {
                Some(Turn::In) => {}
                Some(Turn::Wait) => return Ok(None),
                Some(Turn::Shut | Turn::Unkept) | None => return Err("not writable"),
            }
        }
        *place.guests.entry(instance.clone()).or_default() += 1;
        let run = inner.run;
        drop(guard);
        self.witness.home(&self.cloud, service, &instance);
        Ok(Some(Entered { instance, epoch, run }))
    }

    /// It was worked on; whether its answer left.
    fn left(&self, from: &CloudName, service: &ServiceName, entered: &Entered, write: Option<&Write>) -> Left {
        let ready = self.ready();
        let well = ready.contains(&entered.instance);
        let executed = well && write.is_none_or(|w| self.execute(service, &entered.instance, w));
        let mut inner = self.lock();
        if inner.run != entered.run {
            return Left::Lost;
        }
        let inner = &mut *inner;
        let now = self.clock.now().boot;
        let place = inner.services.entry(service.clone()).or_default();
        if let Some(guests) = place.guests.get_mut(&entered.instance) {
            *guests = guests.saturating_sub(1);
        }
        let route = inner.table.as_ref().and_then(|t| t.services.get(service));
        if let (Some(write), Some(route), true) = (write, route, executed)
            && let Some(wait_ms) = waits_ms(route, self.mutant)
        {
            let at = Position::token(route.position_generation.unwrap_or_default(), now.0);
            inner.wanted.want(service, BootMs(at.as_of_ms));
            let front = Some(from.clone());
            place.committing.push(Committing { write: write.clone(), at, since: now, wait_ms, front });
            return Left::Later;
        }
        let may = write.is_none_or(|w| place.right.may_write(w.epoch, now));
        if write.is_some() {
            place.right.leave();
        }
        if executed && may { Left::Out } else { Left::Lost }
    }

    /// The application does what the request says. False: it did not answer.
    fn execute(&self, service: &ServiceName, instance: &InstanceId, write: &Write) -> bool {
        let done = self.engine.write(instance, &write.id);
        if done == Some(true) {
            self.witness.wrote(&self.cloud, service, write);
        }
        done.unwrap_or(true)
    }

    fn peer_of(&self, cloud: &CloudName) -> Option<Arc<SimGateway>> {
        self.peers.get()?.get(cloud).cloned()
    }

    fn reaches(&self, other: &CloudName) -> bool {
        !self.net.is_cut(&self.cloud, other) && !self.net.is_cut(other, &self.cloud)
    }
}

/// What became of a request that came in at another cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Out,
    /// Its answer waits here.
    Later,
    Lost,
}

/// How long answers of a service wait for copies; none: they do not.
fn waits_ms(route: &ServiceRoute, mutant: Option<Mutant>) -> Option<u64> {
    let in_step = route.in_step.as_ref().filter(|_| mutant != Some(Mutant::Rash))?;
    Some(in_step.wait_ms)
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
