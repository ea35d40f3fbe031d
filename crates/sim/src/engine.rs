//! A host's engine: the `sim` driver, brought up to the host's time before each answer. It outlives daemons.

use crate::ledger;
use crate::life::HostClock;
use crate::mutant::Mutant;
use pumasi_engine::BoxFuture;
use pumasi_engine::{
    Access, Capabilities, Engine, EngineError, Freeze, InstanceSpec, InstanceStatus, Prepare, Remains, SimEngine,
};
use pumasi_terms::{InstanceId, WallMs};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A line for each request that wrote, in the first dataset of a service.
pub const WRITES: &str = "writes";

#[derive(Debug)]
pub struct TimedEngine {
    clock: Arc<HostClock>,
    at_ms: AtomicU64,
    pub inner: SimEngine,
    mutant: Option<Mutant>,
    /// Instances that a planted bug says are stopped.
    stopped: Mutex<BTreeSet<InstanceId>>,
    /// Where instances write their data, and whether it is a database.
    mounts: Mutex<BTreeMap<InstanceId, (PathBuf, bool)>>,
    /// What another engine, which runs in its place, listed last.
    shown: Mutex<Option<Vec<InstanceStatus>>>,
}

impl TimedEngine {
    pub fn new(clock: Arc<HostClock>, inner: SimEngine, mutant: Option<Mutant>) -> Self {
        Self {
            clock,
            at_ms: AtomicU64::new(0),
            inner,
            mutant,
            stopped: Mutex::default(),
            mounts: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    fn lent(&self, id: &InstanceId) -> bool {
        let listed = crate::gateway::now_or_never(self.catch_up().list()).and_then(Result::ok).unwrap_or_default();
        listed.iter().any(|i| &i.id == id && i.owner.starts_with("lease-"))
    }

    pub fn show(&self, listed: Vec<InstanceStatus>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(listed);
    }

    /// The application in an instance adds a line to its data; whether that was done, which it is not while it stands still. None:
    /// it has no data of its own.
    pub fn write(&self, id: &InstanceId, line: &str) -> Option<bool> {
        let (dir, is_ledger) = self.mounts.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.clone();
        let listed = crate::gateway::now_or_never(self.catch_up().list()).and_then(Result::ok).unwrap_or_default();
        if !listed.iter().any(|i| &i.id == id && i.pid.is_some() && !i.frozen && !i.prepared) {
            return Some(false);
        }
        if is_ledger {
            return Some(ledger::add(&dir, line).is_ok());
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(WRITES));
        Some(file.and_then(|mut f| writeln!(f, "{line}")).is_ok())
    }

    pub fn catch_up(&self) -> &SimEngine {
        let now_ms = self.clock.true_ms();
        let before_ms = self.at_ms.swap(now_ms, Ordering::Relaxed);
        self.inner.advance(now_ms.saturating_sub(before_ms));
        &self.inner
    }
}

impl Engine for TimedEngine {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn start(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        let own = spec.data.iter().find(|(_, mount)| mount.access == Access::ReadWrite);
        if let Some((name, mount)) = own {
            let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
            mounts.insert(spec.id.clone(), (mount.path.clone(), name.eq_ignore_ascii_case(ledger::DATASET)));
        }
        self.catch_up().start(spec)
    }
    fn prepare(&self, spec: InstanceSpec, how: Prepare) -> BoxFuture<'_, Result<(), EngineError>> {
        if self.mutant == Some(Mutant::Eager) {
            return self.start(spec);
        }
        // Its data are where they are only when it is started.
        self.catch_up().prepare(spec, how)
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceStatus>, EngineError>> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(shown) = shown {
            return Box::pin(async { Ok(shown) });
        }
        let listed = self.catch_up().list();
        Box::pin(async move {
            let mut all = listed.await?;
            // The driver knows the world's time, and a host tells its own.
            let (now_ms, wall) = (self.clock.true_ms(), self.clock.now().wall);
            for i in &mut all {
                let age_ms = i.started_at.map(|at| now_ms.saturating_sub(u64::try_from(at.0).unwrap_or(0)));
                i.started_at = age_ms.map(|ms| WallMs(wall.0.saturating_sub_unsigned(ms)));
            }
            if !matches!(self.mutant, Some(Mutant::Zombie | Mutant::Leftover)) {
                return Ok(all);
            }
            let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|i| !stopped.contains(&i.id));
            Ok(all)
        })
    }
    fn stop<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        if self.mutant == Some(Mutant::Zombie) && self.lent(id) {
            self.stopped.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
            return Box::pin(async { Ok(()) });
        }
        self.catch_up().stop(id)
    }
    fn hold<'a>(&'a self, owner: &'a str, why: Option<&'a str>) -> BoxFuture<'a, Result<(), EngineError>> {
        self.catch_up().hold(owner, why)
    }
    fn freeze<'a>(&'a self, owner: &'a str, freeze: &'a Freeze) -> BoxFuture<'a, Result<(), EngineError>> {
        self.catch_up().freeze(owner, freeze)
    }
    fn thaw<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        self.catch_up().thaw(owner)
    }
    fn remove<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        if self.mutant == Some(Mutant::Leftover) && self.lent(id) {
            self.stopped.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
            return Box::pin(async { Ok(()) });
        }
        self.catch_up().remove(id)
    }
    fn renew_layers<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        self.catch_up().renew_layers(owner)
    }
    fn logs<'a>(&'a self, id: &'a InstanceId, tail_bytes: usize) -> BoxFuture<'a, Result<Vec<u8>, EngineError>> {
        self.catch_up().logs(id, tail_bytes)
    }
    fn remains<'a>(&'a self, owner: Option<&'a str>) -> BoxFuture<'a, Result<Remains, EngineError>> {
        if matches!(self.mutant, Some(Mutant::Zombie | Mutant::Leftover))
            && owner.is_some_and(|o| o.starts_with("lease-"))
        {
            return Box::pin(async { Ok(Remains::default()) });
        }
        self.catch_up().remains(owner)
    }
}
