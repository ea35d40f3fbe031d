//! The route table in force: compiled for look-up, kept on disk, replaced whole.
//!
//! Always holds: revisions only rise; a table is on disk before it is in force; requests that began under an older table
//! end under it; what it says in boot time counts only under the boot in which it was written.

use crate::admission::{Admission, BackendSpec, By, Destination};
use crate::clock;
use crate::gate::Gate;
use crate::identity::{self, Identity};
use crate::peers::{Peers, PeersError};
use crate::position;
use pumasi_door::Place;
use pumasi_route::table::{
    Admission as Bounds, LeaseRoute, Positions, Role, RouteTable, ServiceRoute, TABLE_VERSION, TABLE_VERSION_OLDEST,
    is_read,
};
use pumasi_route::tenure::{TENURE_VERSION, Tenure};
use pumasi_sense::meter::BackendKey;
use pumasi_terms::{BootMs, CloudName, Epoch, LeaseId, Position, ServiceName};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub const TABLE_FILE: &str = "table.json";
pub const TABLE_BYTES_MAX: usize = 16 << 20;
/// How many instances an owner is taken to have, where a front bounds what it sends there.
const OWNER_INSTANCES: u32 = 16;

/// Why a table was refused; the one before it stays in force.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("table version {found} is not known; this gateway reads {TABLE_VERSION_OLDEST} to {TABLE_VERSION}")]
    Version { found: u32 },
    #[error("the table is of {found}, this is the gateway of {expected}")]
    OtherCloud { expected: CloudName, found: CloudName },
    #[error("revision {offered} does not follow {current}, which is in force")]
    Old { offered: u64, current: u64 },
    #[error(transparent)]
    Peers(#[from] PeersError),
    #[error("the table cannot be kept at {path}, so it is not in force: {source}")]
    Keep { path: PathBuf, source: std::io::Error },
}

/// Why a tenure counts for nothing; what was said before stands.
#[derive(Debug, thiserror::Error)]
pub enum TenureError {
    #[error("tenure version {found} is not known; this gateway reads {TENURE_VERSION}")]
    Version { found: u32 },
    #[error("the tenure is of another boot, its instants mean nothing here")]
    OtherBoot,
    #[error("the tenure says that it was made at an instant that is still to come")]
    Ahead,
    #[error("the tenure was overtaken by a later one")]
    Overtaken,
}

/// A service of this cloud.
#[derive(Debug)]
pub struct Service {
    pub name: ServiceName,
    pub route: ServiceRoute,
    pub admission: Arc<Admission>,
    /// Of all tables that name it one after another.
    pub gate: Arc<Gate>,
    pub position_key: Option<position::Key>,
    /// Its users sign in.
    pub identity: Option<Identity>,
}

/// Another cloud's service, served here under a lease.
#[derive(Debug)]
pub struct LeaseHere {
    pub id: LeaseId,
    pub route: LeaseRoute,
    pub admission: Arc<Admission>,
    /// Back to the borrower's gateway, for users of an alias.
    pub homeward: Arc<Admission>,
}

impl LeaseHere {
    pub fn expired(&self) -> bool {
        clock::boot_ms() >= self.route.expires_at
    }
}

#[derive(Debug, Clone)]
pub enum Target {
    Service(Arc<Service>),
    /// An alias of `redirect` mode.
    Alias(Arc<LeaseHere>),
}

#[derive(Debug, Default)]
pub struct Live {
    pub revision: u64,
    hosts: HashMap<String, Target>,
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    pub leases: BTreeMap<LeaseId, Arc<LeaseHere>>,
}

impl Live {
    /// `host` without a port, in lower case.
    pub fn host(&self, host: &str) -> Option<&Target> {
        self.hosts.get(host)
    }
}

/// Services and leases that left the table with requests in flight.
type Leaving = Vec<(String, Arc<Admission>)>;

#[derive(Debug)]
pub struct Tables {
    path: PathBuf,
    cloud: CloudName,
    boot_id: String,
    peers: Arc<Peers>,
    live: RwLock<Arc<Live>>,
    positions: RwLock<BTreeMap<LeaseId, Position>>,
    /// How far those are that answers wait for.
    in_step: RwLock<BTreeMap<LeaseId, Position>>,
    /// A copy moved, a table or a tenure came: whoever waits for copies looks again.
    moved: Notify,
    /// In memory only: after a restart nobody knows what this cloud may write.
    tenure: Mutex<Option<Tenure>>,
    /// Held while a table is put in force, disk write included: never by whoever serves a request.
    writing: Mutex<Leaving>,
}

impl Tables {
    pub fn new(dir: &Path, cloud: CloudName, boot_id: String, peers: Arc<Peers>) -> Self {
        Self {
            path: dir.join(TABLE_FILE),
            cloud,
            boot_id,
            peers,
            live: RwLock::default(),
            positions: RwLock::default(),
            in_step: RwLock::default(),
            moved: Notify::new(),
            tenure: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    pub fn live(&self) -> Arc<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The table of the run before, if there is one.
    pub fn load(&self) -> Result<bool, String> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(format!("{}: {e}", self.path.display())),
        };
        if text.len() > TABLE_BYTES_MAX {
            return Err(format!("{}: larger than {TABLE_BYTES_MAX} bytes", self.path.display()));
        }
        let table: RouteTable = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", self.path.display()))?;
        self.put(table, None).map_err(|e| format!("{}: {e}", self.path.display()))?;
        Ok(true)
    }

    /// Checks, keeps and puts in force. `keep`: the bytes for the disk.
    pub fn put(&self, mut table: RouteTable, keep: Option<&[u8]>) -> Result<u64, TableError> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.live();
        if !is_read(table.version) {
            return Err(TableError::Version { found: table.version });
        }
        if table.cloud != self.cloud {
            return Err(TableError::OtherCloud { expected: self.cloud.clone(), found: table.cloud });
        }
        if keep.is_some() && table.revision <= before.revision {
            return Err(TableError::Old { offered: table.revision, current: before.revision });
        }
        let store = Peers::check(&table.peers)?;
        for dropped in pumasi_route::build::without_doubles(&mut table) {
            tracing::warn!(%dropped, "an entry of the table is passed over; the others count");
        }
        if let Some(bytes) = keep {
            keep_at(&self.path, bytes).map_err(|source| TableError::Keep { path: self.path.clone(), source })?;
        }
        self.peers.update(store, &table.peers)?;
        let live = compile(&before, table, &self.boot_id);
        let revision = live.revision;
        let admissions =
            || live.services.values().map(|s| &s.admission).chain(live.leases.values().map(|l| &l.admission));
        let positions = Positions { leases: self.read_positions().clone(), ..Positions::default() };
        for admission in admissions() {
            admission.set_positions(&positions);
        }
        for (name, service) in &before.services {
            if !live.services.contains_key(name) {
                service.gate.set(name, None, None);
                service.admission.update(service.route.admission.clone(), 0, Vec::new());
                writing.push((name.to_string(), service.admission.clone()));
            }
        }
        for (id, lease) in &before.leases {
            if !live.leases.contains_key(id) {
                lease.admission.update(lease.route.admission.clone(), 0, Vec::new());
                writing.push((id.to_string(), lease.admission.clone()));
            }
        }
        writing.retain(|(_, a)| !a.is_idle());
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
        self.set_gates(self.lock_tenure().as_ref());
        self.moved.notify_waiters();
        Ok(revision)
    }

    /// What this cloud may write from now on.
    pub fn put_tenure(&self, tenure: Tenure) -> Result<(), TenureError> {
        if tenure.version != TENURE_VERSION {
            return Err(TenureError::Version { found: tenure.version });
        }
        if tenure.boot_id != self.boot_id {
            return Err(TenureError::OtherBoot);
        }
        if tenure.at > clock::boot_ms() {
            return Err(TenureError::Ahead);
        }
        let mut held = self.lock_tenure();
        if held.as_ref().is_some_and(|before| before.at > tenure.at) {
            return Err(TenureError::Overtaken);
        }
        *held = Some(tenure);
        self.set_gates(held.as_ref());
        self.moved.notify_waiters();
        Ok(())
    }

    fn lock_tenure(&self) -> MutexGuard<'_, Option<Tenure>> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the tenure's lock, so that whoever is last has both the newest table and the newest tenure.
    fn set_gates(&self, tenure: Option<&Tenure>) {
        for (name, service) in &self.live().services {
            service.gate.set(name, Some(&service.route), tenure);
        }
    }

    /// The furthest position of each lease wins.
    pub fn put_positions(&self, positions: Positions) {
        let live = self.live();
        self.put_in_step(&live, positions.in_step);
        let all = {
            let mut held = self.positions.write().unwrap_or_else(PoisonError::into_inner);
            for (lease, position) in positions.leases {
                let at = held.entry(lease).or_default();
                *at = (*at).max(position);
            }
            held.retain(|lease, _| {
                live.leases.contains_key(lease)
                    || live.services.values().any(|s| s.route.leases.iter().any(|l| l.lease == *lease))
            });
            Positions { leases: held.clone(), ..Positions::default() }
        };
        for service in live.services.values() {
            service.admission.set_positions(&all);
        }
    }

    /// As above. A lease that no table has yet may be in the next one: so many are remembered as there may be standbys.
    fn put_in_step(&self, live: &Live, positions: BTreeMap<LeaseId, Position>) {
        if positions.is_empty() {
            return;
        }
        let mut held = self.in_step.write().unwrap_or_else(PoisonError::into_inner);
        let named = |lease: &LeaseId| {
            live.services.values().any(|s| s.route.in_step.as_ref().is_some_and(|i| i.leases.contains(lease)))
        };
        held.retain(|lease, _| positions.contains_key(lease) || named(lease));
        for (lease, position) in positions {
            let at = held.entry(lease).or_default();
            *at = (*at).max(position);
        }
        drop(held);
        self.moved.notify_waiters();
    }

    /// How far the copies are that answers wait for.
    pub fn in_step(&self) -> RwLockReadGuard<'_, BTreeMap<LeaseId, Position>> {
        self.in_step.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a copy moved, or a table or a tenure came.
    pub fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// How far the copies of a lease here are.
    pub fn position(&self, lease: &LeaseId) -> Option<Position> {
        self.read_positions().get(lease).copied()
    }

    fn read_positions(&self) -> RwLockReadGuard<'_, BTreeMap<LeaseId, Position>> {
        self.positions.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Services and leases no longer in the table that still have requests in flight.
    pub fn leaving(&self) -> Leaving {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.retain(|(_, a)| !a.is_idle());
        writing.clone()
    }
}

fn keep_at(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn compile(before: &Live, table: RouteTable, boot_id: &str) -> Live {
    // Boot times of another boot mean nothing: whatever is bounded by one counts as over.
    let void = table.boot_id != boot_id;
    let mut live = Live { revision: table.revision, ..Live::default() };
    for (name, mut route) in table.services {
        if void {
            route.leases.iter_mut().for_each(|l| l.usable_until = BootMs(0));
        }
        let (admission, gate) = match before.services.get(&name) {
            Some(known) => (known.admission.clone(), known.gate.clone()),
            None => (Admission::new(route.admission.clone()), Arc::default()),
        };
        admission.update(bounds(&route), route.home_weight.0, specs(&route));
        let position_key = position_key(&name, &route);
        let identity = before.services.get(&name).and_then(|known| known.identity.as_ref());
        let identity = route.identity.clone().map(|of| Identity::new(of, &name, identity));
        if let Some(identity) = &identity {
            let process = identity.route.signin.iter().map(home_spec).collect();
            identity.pages.update(identity::bounds(), 0, process);
        }
        let service = Arc::new(Service { name: name.clone(), position_key, route, admission, gate, identity });
        for host in &service.route.hosts {
            live.hosts.insert(host.to_ascii_lowercase(), Target::Service(service.clone()));
        }
        live.services.insert(name, service);
    }
    for (id, mut route) in table.leases {
        if void {
            route.expires_at = BootMs(0);
        }
        let (admission, homeward) = match before.leases.get(&id) {
            Some(known) => (known.admission.clone(), known.homeward.clone()),
            None => (Admission::new(route.admission.clone()), Admission::new(route.admission.clone())),
        };
        homeward.update(of_another(&route.admission), 0, vec![homeward_spec(&id, &route)]);
        admission.update(route.admission.clone(), 1, route.instances.iter().map(home_spec).collect());
        let lease = Arc::new(LeaseHere { id: id.clone(), route, admission, homeward });
        for alias in &lease.route.aliases {
            live.hosts.insert(alias.to_ascii_lowercase(), Target::Alias(lease.clone()));
        }
        live.leases.insert(id, lease);
    }
    live
}

/// One that does not read is passed over: users then read older copies at the worst, and only where another cloud signed.
fn position_key(name: &ServiceName, route: &ServiceRoute) -> Option<position::Key> {
    let key = position::Key::from_hex(route.position_key.as_deref()?);
    if key.is_none() {
        tracing::warn!(service = %name, "the key for positions is not 32 bytes in hex; this gateway's own is used");
    }
    key
}

/// Another cloud's gateway admits for itself: the link there only bounds how much is under way.
fn of_another(bounds: &Bounds) -> Bounds {
    Bounds { limit_initial: bounds.limit_max, ..bounds.clone() }
}

fn bounds(route: &ServiceRoute) -> Bounds {
    match route.role {
        Role::Owner => route.admission.clone(),
        Role::Front { .. } => of_another(&route.admission),
    }
}

fn homeward_spec(id: &LeaseId, route: &LeaseRoute) -> BackendSpec {
    BackendSpec {
        key: BackendKey::Lease(route.borrower.clone(), id.clone()),
        destination: Arc::new(Destination::Peer { cloud: route.borrower.clone(), by: By::Homeward(id.clone()) }),
        instances: 1,
        weight: 1,
        draining: false,
        usable_until: Some(route.expires_at),
        has_datasets: false,
    }
}

fn home_spec(home: &pumasi_route::table::HomeBackend) -> BackendSpec {
    let place = Place::new(home.address, home.door.as_deref());
    BackendSpec {
        key: BackendKey::Home(home.instance.clone()),
        destination: Arc::new(Destination::Instance(place, home.protocol)),
        instances: 1,
        weight: 0,
        draining: home.draining,
        usable_until: None,
        has_datasets: false,
    }
}

fn front_spec(owner: &CloudName, epoch: Epoch) -> BackendSpec {
    BackendSpec {
        key: BackendKey::Front(owner.clone()),
        destination: Arc::new(Destination::Peer { cloud: owner.clone(), by: By::Entrance(epoch) }),
        instances: OWNER_INSTANCES,
        weight: 1,
        draining: false,
        usable_until: None,
        has_datasets: false,
    }
}

fn specs(route: &ServiceRoute) -> Vec<BackendSpec> {
    if route.absent.as_ref().is_some_and(|why| !why.may_read()) {
        return Vec::new();
    }
    if let Role::Front { owner } = &route.role {
        return vec![front_spec(owner, route.epoch)];
    }
    let leases = route.leases.iter().map(|l| BackendSpec {
        key: BackendKey::Lease(l.cloud.clone(), l.lease.clone()),
        destination: Arc::new(Destination::Peer { cloud: l.cloud.clone(), by: By::Lease(l.lease.clone()) }),
        instances: l.instances,
        weight: l.weight.0,
        draining: l.draining || l.instances == 0,
        usable_until: Some(l.usable_until),
        has_datasets: !l.datasets.is_empty(),
    });
    route.home.iter().map(home_spec).chain(leases).collect()
}
