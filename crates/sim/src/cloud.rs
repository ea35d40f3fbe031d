//! One simulated host: what outlives a daemon (disk, engine, gateway, clock), and the daemon's lives on it.
//!
//! Always holds: a daemon is started as the product starts it, on this ground; what a crash leaves is what was committed.

use crate::engine::TimedEngine;
use crate::gateway::{Port, SimGateway, Witness, now_or_never};
use crate::life::{HostClock, Life};
use crate::mutant::Mutant;
use crate::net::{Listener, Net, NetWire};
use crate::steps::{Drivers, There, Trap, TrappedEngine, TrappedPort};
use crate::story::Story;
use anyhow::Context;
use pumasi_api::{Principal, Role};
use pumasi_engine::{Capabilities, Engine, InstanceStatus, SimApp, SimEngine};
use pumasi_node::ground::{GatewayPort, Ground, Hands};
use pumasi_node::object::{OWNER_OF_SERVICES, SERVICE, ServiceRecord};
use pumasi_node::world::{World, within};
use pumasi_node::{Config, Node, api, bundles, pact, serve};
use pumasi_store::sim::{CommitInfo, Fate, Hooks, MemoryDisk, Snapshot, Verdict};
use pumasi_store::{Expect, Options, Store};
use pumasi_terms::CloudName;
use pumasi_terms::pact::Terms;
use pumasi_terms::service::{BundleRef, Service};
use pumasi_transfer::{ChunkCache, ScanLimits, TreeChunks, encode_pack};
use pumasi_trust::Secret;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Changes that a watch may come back for.
const LOG_CHANGES_MAX: usize = 500;

/// What the world hears of a host, at once.
pub trait Observer: Send + Sync {
    fn committed(&self, cloud: &CloudName, info: &CommitInfo);
}

struct Running {
    life: Arc<Life>,
    node: Arc<Node>,
    _stop: watch::Sender<bool>,
}

pub struct Host {
    pub name: CloudName,
    pub dir: PathBuf,
    pub clock: Arc<HostClock>,
    pub engine: Arc<TimedEngine>,
    pub gateway: Arc<SimGateway>,
    pub disk: MemoryDisk,
    config: Config,
    net: Arc<Net>,
    story: Arc<Story>,
    observer: Arc<dyn Observer>,
    mutant: Option<Mutant>,
    seed: u64,
    lives: AtomicU64,
    running: Mutex<Option<Running>>,
    /// Commits until it dies of one; negative: it does not.
    fuse: AtomicI64,
    /// It dies right after it wrote this kind.
    fuse_on: Mutex<Option<&'static str>>,
    /// Hosts whose daemon died of a commit.
    died: mpsc::UnboundedSender<CloudName>,
    /// The life that runs, or is being started.
    life: Mutex<Weak<Life>>,
    trap: OnceLock<Arc<Trap>>,
    /// Which reads of the store fail, and how many more.
    unread: Mutex<Option<(Option<&'static str>, u32)>>,
    drivers: OnceLock<Arc<dyn Drivers>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({})", self.name)
    }
}

/// What a host has that an act could take away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Belongings {
    pub instances: BTreeSet<String>,
    pub directories: BTreeSet<PathBuf>,
    /// Of services that are served at home, and of leases.
    pub routes: BTreeSet<String>,
}

impl Belongings {
    /// What was there before and is not there now.
    pub fn missing(&self, now: &Self) -> Vec<String> {
        let instances = self.instances.difference(&now.instances).map(|i| format!("instance {i}"));
        let directories = self.directories.difference(&now.directories).map(|d| format!("directory {}", d.display()));
        let routes = self.routes.difference(&now.routes).map(|r| format!("route of {r}"));
        instances.chain(directories).chain(routes).collect()
    }
}

/// What all hosts of a world share.
#[derive(Clone)]
pub struct Common {
    pub seed: u64,
    pub begin: Instant,
    pub dir: PathBuf,
    pub net: Arc<Net>,
    pub story: Arc<Story>,
    pub observer: Arc<dyn Observer>,
    pub witness: Arc<dyn Witness>,
    pub mutant: Option<Mutant>,
    pub freezes: bool,
    pub died: mpsc::UnboundedSender<CloudName>,
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Common(seed {})", self.seed)
    }
}

impl Host {
    pub fn new(common: &Common, name: CloudName, config: Config, clock: HostClock) -> Arc<Self> {
        let clock = Arc::new(clock);
        let able = SimEngine::new();
        let freeze = able.capabilities().freeze.filter(|_| common.freezes);
        let sim = SimEngine::with_capabilities(Capabilities { freeze, ..able.capabilities() });
        sim.teach("shop", SimApp { ready_after_ms: 300, stops_in_ms: Some(50), ..SimApp::default() });
        let engine = Arc::new(TimedEngine::new(clock.clone(), sim, common.mutant));
        let own = name.as_str().bytes().fold(common.seed, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
        let (net, witness) = (common.net.clone(), common.witness.clone());
        let gateway =
            SimGateway::new(name.clone(), own ^ 0x9a7e, clock.clone(), net, engine.clone(), witness, common.mutant);
        Arc::new(Self {
            dir: common.dir.join(name.as_str()),
            disk: MemoryDisk::new(name.as_str()),
            name,
            clock,
            engine,
            gateway,
            config,
            net: common.net.clone(),
            story: common.story.clone(),
            observer: common.observer.clone(),
            mutant: common.mutant,
            seed: own,
            lives: AtomicU64::new(0),
            running: Mutex::new(None),
            fuse: AtomicI64::new(-1),
            fuse_on: Mutex::new(None),
            died: common.died.clone(),
            life: Mutex::new(Weak::new()),
            trap: OnceLock::new(),
            unread: Mutex::new(None),
            drivers: OnceLock::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, what: impl Into<String>) {
        self.story.tell(self.clock.true_ms(), self.name.as_str(), what);
    }

    pub fn node(&self) -> Option<Arc<Node>> {
        self.lock().as_ref().map(|r| r.node.clone())
    }

    pub fn lives(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// One planned fault is done to what its daemons do.
    pub fn set_trap(&self, trap: Arc<Trap>) {
        let _ = self.trap.set(trap);
    }

    /// Its daemons run on these instead of the simulator's.
    pub fn set_drivers(&self, drivers: Arc<dyn Drivers>) {
        let _ = self.drivers.set(drivers);
    }

    /// kill -9 from within one of the daemon's own tasks; the world buries it.
    pub fn die(&self) {
        self.tell("daemon killed");
        self.net.listen(&self.name, None);
        if let Some(life) = self.life.lock().unwrap_or_else(PoisonError::into_inner).upgrade() {
            life.end();
        }
        self.disk.kill();
        let _ = self.died.send(self.name.clone());
    }

    /// It dies right after so many more commits.
    pub fn light_fuse(&self, commits: u32) {
        self.fuse.store(i64::from(commits), Ordering::Relaxed);
    }

    /// It dies right after it next writes this kind; `None`: of nothing.
    pub fn light_fuse_on(&self, kind: Option<&'static str>) {
        *self.fuse_on.lock().unwrap_or_else(PoisonError::into_inner) = kind;
    }

    /// Whether it has to die of this commit.
    fn burns(&self, info: &CommitInfo) -> bool {
        let counted = self.fuse.load(Ordering::Relaxed) > 0 && self.fuse.fetch_sub(1, Ordering::Relaxed) == 1;
        let mut on = self.fuse_on.lock().unwrap_or_else(PoisonError::into_inner);
        let named = on.is_some_and(|kind| info.changes.iter().any(|c| c.kind == kind));
        if named {
            *on = None;
        }
        counted || named
    }

    /// Reads of the store fail from now on, of one kind or of all; `None`: no more.
    pub fn set_unread(&self, what: Option<(Option<&'static str>, u32)>) {
        *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn reads(&self, kind: &str) -> bool {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        match unread.as_mut() {
            Some((of, left)) if *left > 0 && of.is_none_or(|of| of == kind) => {
                *left -= 1;
                false
            }
            _ => true,
        }
    }

    /// The newest record of a kind becomes what this program cannot read, as another version's would be.
    pub fn garble(&self, kind: &str) -> anyhow::Result<()> {
        self.disk.tamper(&format!(
            "UPDATE objects SET body = '[\"of another version\",' || body || ']' WHERE kind = '{kind}' AND id =
             (SELECT id FROM objects WHERE kind = '{kind}' ORDER BY revision DESC LIMIT 1)"
        ))?;
        Ok(())
    }

    /// It is what it was.
    pub fn mend(&self, kind: &str) -> anyhow::Result<()> {
        self.disk.tamper(&format!(
            "UPDATE objects SET body = json_extract(body, '$[1]') WHERE kind = '{kind}'
             AND json_extract(body, '$[0]') = 'of another version'"
        ))?;
        Ok(())
    }

    /// What is here now, and would be missed.
    pub fn belongings(&self) -> Belongings {
        let engine = self.engine.catch_up();
        let all = now_or_never(engine.list()).and_then(Result::ok).unwrap_or_default();
        let below = |part: &str| {
            let entries = std::fs::read_dir(self.dir.join(part)).into_iter().flatten().flatten();
            entries.map(|e| e.path()).collect::<BTreeSet<_>>()
        };
        let table = self.gateway.table();
        let routes = table.iter().flat_map(|t| {
            let services = t.services.iter().filter(|(_, s)| !s.home.is_empty());
            let away = t.services.values().flat_map(|s| &s.leases).map(|l| format!("{} away", l.lease));
            services.map(|(n, _)| n.to_string()).chain(t.leases.keys().map(ToString::to_string)).chain(away)
        });
        Belongings {
            instances: all
                .into_iter()
                .filter(|i| i.pid.is_some())
                .map(|i| format!("{} of {}", i.id, i.owner))
                .collect(),
            directories: ["leases", "bundles/unpacked", "bundles/trees"].into_iter().flat_map(below).collect(),
            routes: routes.collect(),
        }
    }

    fn hooks(self: &Arc<Self>, life: &Arc<Life>) -> Hooks {
        let (host, life) = (Arc::downgrade(self), Arc::downgrade(life));
        let (writes, deletes) = (life.clone(), life.clone());
        let on_commit = move |info: &CommitInfo| {
            let Some(host) = Weak::upgrade(&host) else { return Verdict::GoOn };
            host.observer.committed(&host.name, info);
            if host.burns(info) {
                let what = info.changes.last().map_or_else(String::new, |c| format!(" of {} {}", c.kind, c.name));
                host.tell(format!("killed right after its commit{what}"));
                host.net.listen(&host.name, None);
                if let Some(life) = life.upgrade() {
                    life.end();
                }
                let _ = host.died.send(host.name.clone());
                return Verdict::Crash;
            }
            if host.trap.get().is_some_and(|t| t.on_commit(&host.name)) {
                host.die();
                return Verdict::Crash;
            }
            Verdict::GoOn
        };
        let reader = Arc::downgrade(self);
        let on_read = move |kind: &str, _: Option<&str>| Weak::upgrade(&reader).is_none_or(|host| host.reads(kind));
        let mut hooks =
            Hooks { on_commit: Some(Arc::new(on_commit)), on_read: Some(Arc::new(on_read)), ..Hooks::default() };
        let (mutant, trap) = (self.mutant, self.trap.get().cloned());
        if mutant.is_some() || trap.is_some() {
            // A store on files writes on a thread of its own: what a dead daemon had queued is not written either.
            let dead = |life: &Weak<Life>| life.upgrade().is_none_or(|l| World::is_over(&*l));
            let (put, of) = (trap.clone(), self.name.clone());
            hooks.on_put = Some(Arc::new(move |kind, name, value| match (mutant, &put) {
                _ if dead(&writes) => Fate::Fail,
                (Some(mutant), _) => mutant.on_put(kind, name, value),
                (None, Some(trap)) => trap.on_put(&of, kind, value),
                (None, None) => Fate::Keep,
            }));
            let of = self.name.clone();
            hooks.on_delete = Some(Arc::new(move |kind, _| match (mutant, &trap) {
                _ if dead(&deletes) => Fate::Fail,
                (Some(mutant), _) => mutant.on_delete(kind),
                (None, Some(trap)) => trap.on_delete(&of, kind),
                (None, None) => Fate::Keep,
            }));
        }
        hooks
    }

    /// Starts a daemon on whatever is there.
    pub async fn start(self: &Arc<Self>) -> anyhow::Result<()> {
        let number = self.lives.fetch_add(1, Ordering::Relaxed);
        let life = Life::new(self.clock.clone(), self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&life);
        let hooks = self.hooks(&life);
        let (stop, stopping) = watch::channel(false);
        let clock = self.clock.clone();
        let options = Options {
            clock: Arc::new(move || clock.now().wall),
            log_changes_max: LOG_CHANGES_MAX,
            anchor_interval_ms: 0,
            ..Options::default()
        };
        let entropy = u128::from(self.seed) << 64 | u128::from(number);
        let mut engine: Arc<dyn Engine> = self.engine.clone();
        let mut gateway: Arc<dyn GatewayPort> = Arc::new(Port(self.gateway.clone()));
        let store = match self.drivers.get() {
            None => Store::open_inline(&self.disk, self.clock.now().wall, entropy, options, hooks)?,
            Some(drivers) => {
                engine = drivers.engine(&self.dir).await?;
                drivers.store(&self.dir, self.clock.now().wall, entropy, options, hooks)?
            }
        };
        if let Some(trap) = self.trap.get().cloned() {
            let (of, name, at) = (trap.clone(), self.name.clone(), self.name.clone());
            life.on_erase(Arc::new(move |dir| of.erase(&name, dir)));
            engine =
                Arc::new(TrappedEngine { cloud: at.clone(), inner: engine, trap: trap.clone(), again: number > 0 });
            gateway = Arc::new(TrappedPort { cloud: at, inner: gateway, trap });
        }
        let ground = Ground {
            store,
            engine,
            hands: Hands::Here,
            gateway,
            wire: Some(Arc::new(NetWire(self.net.clone()))),
            signin: None,
        };
        let config = self.config.clone();
        let opened = tokio::spawn(within(life.clone(), async move { serve::open(config, ground, stopping).await }));
        World::spawned(&*life, opened.abort_handle());
        // It may die of its first commits: then this never answers, and the death is told elsewhere.
        let node = tokio::select! {
            biased;
            opened = opened => opened.context("the daemon's start was cut off")??,
            () = ended(&life) => anyhow::bail!("killed while it started"),
        };
        {
            let node = node.clone();
            within(life.clone(), async move { drop(serve::work(&node)) }).await;
        }
        let router = api::router(node.clone(), pumasi_api::Door::Members, axum::Router::new());
        self.net.listen(&self.name, Some(Listener { life: life.clone(), router }));
        self.tell(format!("daemon started, life {}", number + 1));
        *self.lock() = Some(Running { life, node, _stop: stop });
        Ok(())
    }

    /// kill -9.
    pub fn kill(&self) {
        let Some(running) = self.lock().take() else { return };
        self.net.listen(&self.name, None);
        self.disk.kill();
        running.life.bury();
        self.tell("daemon killed");
    }

    /// What is left of a daemon that died of its own commit.
    pub fn bury(&self) {
        if let Some(running) = self.lock().take() {
            running.life.bury();
        }
    }

    /// Power off and on: instances and gateway go with it.
    pub fn power_cut(&self) {
        self.kill();
        self.engine.catch_up().restart_host();
        self.clock.reboot();
        self.gateway.reboot();
        self.tell("the host lost power");
    }

    /// What runs here for others, or ran and left something: by the host's word, not by a daemon's.
    pub fn there(&self) -> Vec<There> {
        if let Some(drivers) = self.drivers.get() {
            return drivers.there(&self.dir);
        }
        let engine = self.engine.catch_up();
        let all = now_or_never(engine.list()).and_then(Result::ok).unwrap_or_default();
        let lent = all.into_iter().filter(|i| i.owner.starts_with("lease-"));
        lent.map(|i| There {
            runs: i.pid.is_some(),
            memory_mib: u32::try_from(i.memory_max_bytes >> 20).unwrap_or(u32::MAX),
            left: vec![format!("instance {}: {:?}", i.id, i.state)],
            owner: i.owner,
        })
        .collect()
    }

    /// Instances of services that are to be this cloud's own, by the host's word.
    pub fn own_instances(&self) -> Vec<InstanceStatus> {
        if self.drivers.get().is_some() {
            return Vec::new();
        }
        let all = now_or_never(self.engine.catch_up().list()).and_then(Result::ok).unwrap_or_default();
        all.into_iter().filter(|i| i.owner.starts_with(OWNER_OF_SERVICES)).collect()
    }

    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        Ok(self.disk.snapshot()?)
    }

    /// Deploys a service as an operator does, its bundle from `from`.
    pub async fn deploy(&self, mut service: Service, from: &Path) -> anyhow::Result<()> {
        let (node, life) = {
            let running = self.lock();
            let running = running.as_ref().context("no daemon runs")?;
            (running.node.clone(), running.life.clone())
        };
        let from = from.to_owned();
        within(life, async move {
            let tree = pumasi_transfer::scan(&from, &mut ChunkCache::default(), ScanLimits::default())?;
            let bundles = bundles::of(&node);
            let missing = bundles.missing(&node, "lab", &tree)?;
            bundles.receive(&node, "lab", &encode_pack(&TreeChunks::new(from, &tree), &missing)?)?;
            service.spec.application.bundle = BundleRef::Digest(bundles.complete(&node, "lab", &tree)?.bundle);
            let id = pumasi_terms::ServiceId::from_entropy(pumasi_node::clock::entropy());
            let owner = pumasi_terms::CustomerName::default_customer();
            for name in service.spec.application.secrets.values() {
                let value = Secret::new(format!("value of {name}"));
                node.identity.vault.set(&owner, name, &value, pumasi_node::clock::wall())?;
            }
            let record = ServiceRecord::new(service, id, owner, 0);
            let name = record.name().clone();
            node.transact(move |tx| Ok(tx.put(SERVICE, name.as_str(), &record, Expect::Any).map(|_| ())?)).await?;
            Ok(())
        })
        .await
    }

    /// Runs an operator's act inside the daemon's world.
    pub async fn act<T>(&self, f: impl AsyncFnOnce(Arc<Node>) -> T) -> Option<T> {
        let (node, life) = self.lock().as_ref().map(|r| (r.node.clone(), r.life.clone()))?;
        let mut done = std::pin::pin!(within(life.clone(), f(node)));
        tokio::select! {
            biased;
            value = &mut done => Some(value),
            () = ended(&life) => None,
        }
    }
}

async fn ended(life: &Life) {
    while !World::is_over(life) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub fn operator() -> Principal {
    match "operator".parse() {
        Ok(name) => Principal::Person { name, role: Role::Operator, customer: None },
        Err(_) => Principal::Daemon,
    }
}

/// Starts all clouds; the first founds a pact, and the others join it.
pub(crate) async fn found_pact(hosts: &[Arc<Host>], terms: &Terms) -> anyhow::Result<()> {
    for host in hosts {
        host.start().await.with_context(|| format!("starting {}", host.name))?;
    }
    let (first, others) = hosts.split_first().context("no cloud")?;
    let t = terms.clone();
    let founded = first.act(async move |node| pact::found(&node, &operator(), "EUR".into(), t).await).await;
    founded.context("it died")??;
    for other in others {
        let name = other.name.clone();
        let invited = first.act(async move |node| pact::invite(&node, &operator(), name, 60_000).await).await;
        let token = invited.context("it died")??.invitation;
        let t = terms.clone();
        let joined = other.act(async move |node| pact::join(&node, &operator(), &token, t).await).await;
        joined.context("it died")??;
    }
    Ok(())
}
