//! The `sim` driver: instances in memory, in virtual time, with the same rules as real ones.
//!
//! Enters: specs, and applications described by [`SimApp`], found by the first word of the command. Leaves: statuses.
//! Always holds: nothing happens but in [`SimEngine::advance`]; the same calls give the same history.

use crate::port::BoxFuture;
use crate::rules::{BackOff, Here, Start, on_start};
use crate::{
    Capabilities, CgroupVersion, Engine, EngineError, Exit, Freeze, FreezeBy, InstanceSpec, InstanceState,
    InstanceStatus, Isolation, Prepare, Remains, Trouble,
};
use pumasi_terms::service::Platform;
use pumasi_terms::{InstanceId, WallMs};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a simulated application behaves, counted from each of its starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimApp {
    pub ready_after_ms: u64,
    /// Ends by itself.
    pub ends: Option<SimExit>,
    /// Its liveness probe fails from then on, if the spec has one.
    pub sick_after_ms: Option<u64>,
    /// From SIGTERM to its end; `None`: it ignores SIGTERM.
    pub stops_in_ms: Option<u64>,
    /// Used while it runs.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimExit {
    pub after_ms: u64,
    pub exit: Exit,
}

impl Default for SimApp {
    fn default() -> Self {
        Self {
            ready_after_ms: 20,
            ends: None,
            sick_after_ms: None,
            stops_in_ms: Some(1),
            cpu_millis: 0,
            memory_bytes: 16 << 20,
        }
    }
}

/// Clones share one world, as two daemons in a row share one host.
#[derive(Debug, Clone)]
pub struct SimEngine {
    world: Arc<Mutex<World>>,
}

#[derive(Debug)]
struct World {
    now_ms: u64,
    apps: BTreeMap<String, SimApp>,
    /// Programs whose specs are refused, and why.
    refused: BTreeMap<String, String>,
    starts_asked: u64,
    instances: BTreeMap<InstanceId, SimInstance>,
    next_port: u16,
    next_pid: u32,
    capabilities: Capabilities,
}

#[derive(Debug)]
struct SimInstance {
    spec: InstanceSpec,
    app: SimApp,
    run: bool,
    /// Not only prepared.
    begun: bool,
    phase: Phase,
    back_off: BackOff,
    restarts: u32,
    was_ready: bool,
    port: u16,
    pid: u32,
    cpu_used_us: u64,
    log: Vec<u8>,
    held_why: Option<String>,
    frozen: Option<Frozen>,
    /// The last freeze whose bound was reached.
    lapsed: Option<String>,
    /// Why it ended last, until it is ready.
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone)]
struct Frozen {
    name: String,
    since_ms: u64,
    until_ms: Option<u64>,
}

#[derive(Debug, Clone)]
enum Phase {
    Prepared { until_ms: u64 },
    Running { since_ms: u64 },
    Resting { until_ms: u64, why: String },
    Stopping { since_ms: u64, ends_ms: u64, exit: Exit },
    Stopped { exit: Option<Exit> },
    ShimGone,
}

impl Default for SimEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl SimEngine {
    pub fn new() -> Self {
        let platform = Platform { runtimes: vec!["python3".into()], ..Platform::default() };
        let isolation = Isolation {
            own_uid: true,
            namespaces: true,
            capabilities: true,
            cgroup: Some(CgroupVersion::V2),
            seccomp: true,
            network: true,
            egress: true,
            freezer: true,
            layers: false,
            uids_of_others: false,
            why: Vec::new(),
        };
        Self {
            world: Arc::new(Mutex::new(World {
                now_ms: 0,
                apps: BTreeMap::new(),
                refused: BTreeMap::new(),
                starts_asked: 0,
                instances: BTreeMap::new(),
                next_port: 20_000,
                next_pid: 1_000,
                capabilities: Capabilities { platforms: vec![platform], isolation, freeze: Some(FreezeBy::CgroupV2) },
            })),
        }
    }

    pub fn with_capabilities(capabilities: Capabilities) -> Self {
        let engine = Self::new();
        engine.world().capabilities = capabilities;
        engine
    }

    /// From now on a command that begins with `program` behaves so; a program never taught is well.
    pub fn teach(&self, program: impl Into<String>, app: SimApp) {
        self.world().apps.insert(program.into(), app);
    }

    /// From now on a spec whose command begins with `program` is refused, or with `None` no longer.
    pub fn refuse(&self, program: &str, problem: Option<&str>) {
        let refused = &mut self.world().refused;
        match problem {
            Some(problem) => drop(refused.insert(program.to_owned(), problem.to_owned())),
            None => drop(refused.remove(program)),
        }
    }

    /// How often a start was asked for.
    pub fn starts(&self) -> u64 {
        self.world().starts_asked
    }

    /// Virtual time goes on, and with it every instance.
    pub fn advance(&self, ms: u64) {
        let mut world = self.world();
        let until_ms = world.now_ms.saturating_add(ms);
        for instance in world.instances.values_mut() {
            instance.live_until(until_ms);
        }
        world.now_ms = until_ms;
    }

    /// As if somebody killed it: the application goes with it. `false` if there is none.
    pub fn kill_shim(&self, id: &InstanceId) -> bool {
        match self.world().instances.get_mut(id) {
            Some(instance) if instance.held() => {
                instance.phase = Phase::ShimGone;
                true
            }
            _ => false,
        }
    }

    /// As if the host had been switched off and on.
    pub fn restart_host(&self) {
        for instance in self.world().instances.values_mut().filter(|i| i.held()) {
            instance.phase = Phase::ShimGone;
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_now(&self, spec: InstanceSpec) -> Result<(), EngineError> {
        let mut world = self.world();
        world.starts_asked += 1;
        let missing = world.capabilities.isolation.missing_for_lending();
        if spec.lent && !missing.is_empty() {
            return Err(EngineError::NotIsolated { id: spec.id, missing: missing.join(", ") });
        }
        let here = world.instances.get(&spec.id);
        let here = here.map(|i| Here { spec: &i.spec, run: i.run, held: i.held(), alive: i.held() });
        let decided = on_start(&spec, here.as_ref())?;
        let now_ms = world.now_ms;
        match decided {
            Start::Keep => {
                if let Some(instance) = world.instances.get_mut(&spec.id).filter(|i| !i.begun) {
                    (instance.begun, instance.phase) = (true, Phase::Running { since_ms: now_ms });
                }
            }
            Start::Revive => {
                if let Some(instance) = world.instances.get_mut(&spec.id) {
                    (instance.begun, instance.phase) = (true, Phase::Running { since_ms: now_ms });
                }
            }
            Start::StopOlder => {
                let Some(instance) = world.instances.get_mut(&spec.id) else { return Ok(()) };
                instance.stop(now_ms);
                return Err(EngineError::Replacing { id: spec.id, older: instance.spec.generation });
            }
            Start::Create | Start::Replace => world.create(spec, Phase::Running { since_ms: now_ms })?,
        }
        Ok(())
    }

    fn prepare_now(&self, spec: InstanceSpec, at_most_ms: u64) -> Result<(), EngineError> {
        let mut world = self.world();
        let until_ms = world.now_ms.saturating_add(at_most_ms);
        let here = world.instances.get(&spec.id);
        let here = here.map(|i| Here { spec: &i.spec, run: i.run, held: i.held(), alive: i.held() });
        match on_start(&spec, here.as_ref())? {
            Start::Create => world.create(spec, Phase::Prepared { until_ms }),
            Start::Keep => {
                if let Some(SimInstance { phase: Phase::Prepared { until_ms: until }, .. }) =
                    world.instances.get_mut(&spec.id)
                {
                    *until = until_ms;
                }
                Ok(())
            }
            _ => Err(EngineError::Ended { id: spec.id, generation: spec.generation }),
        }
    }

    fn remove_now(&self, id: &InstanceId) -> Result<(), EngineError> {
        let mut world = self.world();
        let Some(instance) = world.instances.get(id) else { return Ok(()) };
        if instance.held() || instance.run {
            let what = if instance.run { "nobody asked it to stop" } else { "it is stopping" };
            return Err(EngineError::Running { id: id.clone(), what: what.into() });
        }
        world.instances.remove(id);
        Ok(())
    }

    fn remains_now(&self, owner: Option<&str>) -> Remains {
        let mut left = Remains::default();
        for (id, instance) in &self.world().instances {
            if owner.is_some_and(|o| o != instance.spec.owner) {
                continue;
            }
            let running = matches!(instance.phase, Phase::Running { .. } | Phase::Stopping { .. });
            left.processes += u32::from(instance.held()) + u32::from(running);
            left.directories += 1;
            left.cgroups += 1;
            left.name(format!("instance {id}"));
        }
        left
    }
}

impl World {
    fn create(&mut self, spec: InstanceSpec, phase: Phase) -> Result<(), EngineError> {
        let program = spec.command.first().cloned().unwrap_or_default();
        if program.is_empty() {
            return Err(EngineError::Spec { id: spec.id, problem: "command is empty".into() });
        }
        if let Some(problem) = self.refused.get(&program) {
            return Err(EngineError::Spec { id: spec.id, problem: problem.clone() });
        }
        let app = self.apps.get(&program).copied().unwrap_or_default();
        let (port, pid, now_ms) = (self.next_port, self.next_pid, self.now_ms);
        self.next_port = self.next_port.checked_add(1).unwrap_or(20_000);
        self.next_pid += 1;
        let begun = !matches!(phase, Phase::Prepared { .. });
        let made = SimInstance { begun, phase, ..SimInstance::new(spec.clone(), app, now_ms, port, pid) };
        self.instances.insert(spec.id, made);
        Ok(())
    }
}

impl SimInstance {
    fn new(spec: InstanceSpec, app: SimApp, now_ms: u64, port: u16, pid: u32) -> Self {
        Self {
            spec,
            app,
            run: true,
            begun: true,
            phase: Phase::Running { since_ms: now_ms },
            back_off: BackOff::new(),
            restarts: 0,
            was_ready: false,
            port,
            pid,
            cpu_used_us: 0,
            log: format!("start at {now_ms} ms\n").into_bytes(),
            held_why: None,
            frozen: None,
            lapsed: None,
            trouble: None,
        }
    }

    fn freeze(&mut self, freeze: &Freeze, now_ms: u64) -> Result<(), EngineError> {
        let id = || self.spec.id.clone();
        if self.lapsed.as_ref() == Some(&freeze.name) {
            return Err(EngineError::Thawed { id: id(), name: freeze.name.clone() });
        }
        if matches!(self.phase, Phase::Stopping { .. }) {
            return Err(EngineError::Stirs { id: id(), what: "it is stopping".into() });
        }
        let until_ms = freeze.at_most_ms.map(|ms| now_ms + ms);
        match &mut self.frozen {
            // The bound counts from the first call, and does not come back once it was lifted.
            Some(frozen) if frozen.name == freeze.name => frozen.until_ms = until_ms.and(frozen.until_ms),
            Some(frozen) => (frozen.name, frozen.until_ms) = (freeze.name.clone(), until_ms),
            frozen => *frozen = Some(Frozen { name: freeze.name.clone(), since_ms: now_ms, until_ms }),
        }
        Ok(())
    }

    /// What passed meanwhile did not pass for it.
    fn thaw(&mut self, now_ms: u64) {
        let Some(frozen) = self.frozen.take() else { return };
        if let Phase::Running { since_ms } = &mut self.phase {
            *since_ms += now_ms.saturating_sub(frozen.since_ms.max(*since_ms));
        }
    }

    fn held(&self) -> bool {
        !matches!(self.phase, Phase::Stopped { .. } | Phase::ShimGone)
    }

    /// When and how a run ends if nobody stops it.
    fn end_of_run(&self, since_ms: u64) -> Option<(u64, String)> {
        let own = self.app.ends.map(|e| (since_ms + e.after_ms, e.exit.to_string()));
        let sick = match (self.app.sick_after_ms, &self.spec.liveness) {
            (Some(after_ms), Some(probe)) => {
                let believed_ms = probe.interval_ms * u64::from(probe.failures);
                Some((
                    since_ms + after_ms.max(self.app.ready_after_ms) + believed_ms,
                    "not alive: its probe fails".to_owned(),
                ))
            }
            _ => None,
        };
        own.into_iter().chain(sick).min()
    }

    fn live_until(&mut self, until_ms: u64) {
        if let Some(Frozen { name, until_ms: bound, .. }) = self.frozen.clone() {
            match bound {
                Some(bound) if bound <= until_ms => {
                    self.thaw(bound);
                    self.lapsed = Some(name);
                }
                _ => return,
            }
        }
        loop {
            match self.phase.clone() {
                Phase::Running { since_ms } => match self.end_of_run(since_ms) {
                    Some((at_ms, why)) if at_ms <= until_ms => {
                        self.used(at_ms - since_ms);
                        self.back_off.was_well_for((at_ms - since_ms).saturating_sub(self.app.ready_after_ms));
                        self.restarts += 1;
                        self.was_ready |= at_ms >= since_ms + self.app.ready_after_ms;
                        self.log.extend(format!("{why} at {at_ms} ms\n").into_bytes());
                        self.trouble = Some(self.ended(&why));
                        self.phase = Phase::Resting { until_ms: at_ms + self.back_off.take_ms(), why };
                    }
                    _ => return,
                },
                Phase::Resting { until_ms: at_ms, .. } if at_ms <= until_ms => {
                    self.phase = Phase::Running { since_ms: at_ms };
                }
                // Nobody let it begin.
                Phase::Prepared { until_ms: at_ms } if at_ms <= until_ms => self.phase = Phase::ShimGone,
                Phase::Stopping { since_ms, ends_ms, exit } if ends_ms <= until_ms => {
                    self.used(ends_ms - since_ms);
                    self.phase = Phase::Stopped { exit: Some(exit) };
                }
                _ => return,
            }
        }
    }

    fn ended(&self, why: &str) -> Trouble {
        let log = String::from_utf8_lossy(&self.log);
        Trouble { why: why.to_owned(), last_line: log.lines().next_back().unwrap_or_default().to_owned() }
    }

    fn used(&mut self, ms: u64) {
        self.cpu_used_us += ms * self.app.cpu_millis.min(u64::from(self.spec.resources.cpu_millis));
    }

    fn stop(&mut self, now_ms: u64) {
        self.run = false;
        if self.frozen.take().is_some() && self.held() {
            self.phase = Phase::Stopped { exit: Some(Exit { signal: Some(9), ..Exit::default() }) };
        }
        self.phase = match self.phase.clone() {
            Phase::Running { since_ms } => {
                let grace_ms = self.spec.stop_grace_ms;
                let (takes_ms, exit) = match self.app.stops_in_ms {
                    Some(ms) if ms <= grace_ms => (ms, Exit { signal: Some(15), ..Exit::default() }),
                    _ => (grace_ms, Exit { signal: Some(9), ..Exit::default() }),
                };
                Phase::Stopping { since_ms, ends_ms: now_ms + takes_ms, exit }
            }
            Phase::Prepared { .. } | Phase::Resting { .. } | Phase::ShimGone => Phase::Stopped { exit: None },
            other => other,
        };
    }

    fn status(&self, now_ms: u64) -> InstanceStatus {
        // Of a frozen one: as it was.
        let now_ms = self.frozen.as_ref().map_or(now_ms, |f| f.since_ms);
        let (state, since_ms) = match &self.phase {
            Phase::Prepared { .. } => (InstanceState::Starting, None),
            Phase::Running { since_ms } if self.held_why.is_some() => {
                (InstanceState::Unready { why: self.held_why.clone().unwrap_or_default() }, Some(*since_ms))
            }
            Phase::Running { since_ms } if now_ms < since_ms + self.app.ready_after_ms => {
                (InstanceState::Starting, Some(*since_ms))
            }
            Phase::Running { since_ms } => (InstanceState::Ready, Some(*since_ms)),
            Phase::Resting { why, .. } => {
                (InstanceState::BackingOff { restarts: self.restarts, why: why.clone() }, None)
            }
            Phase::Stopping { since_ms, .. } => (InstanceState::Unready { why: "stopping".into() }, Some(*since_ms)),
            Phase::Stopped { exit } => (InstanceState::Stopped { exit: *exit }, None),
            Phase::ShimGone => (InstanceState::Failed { why: "its shim is gone".into() }, None),
        };
        let is_ready = state == InstanceState::Ready;
        let running_ms = since_ms.map_or(0, |s| now_ms.saturating_sub(s));
        let rate = self.app.cpu_millis.min(u64::from(self.spec.resources.cpu_millis));
        InstanceStatus {
            id: self.spec.id.clone(),
            owner: self.spec.owner.clone(),
            generation: self.spec.generation,
            trouble: match &state {
                _ if !self.run => None,
                InstanceState::Failed { why }
                | InstanceState::BackingOff { why, .. }
                | InstanceState::Unready { why } => Some(self.ended(why)),
                InstanceState::Starting => self.trouble.clone(),
                InstanceState::Ready | InstanceState::Stopped { .. } => None,
            },
            state,
            address: self.held().then(|| SocketAddr::new(self.spec.listen_ip, self.port)),
            door: None,
            protocol: self.spec.protocol,
            frozen: self.frozen.is_some() && self.held(),
            prepared: !self.begun,
            pid: (since_ms.is_some() || matches!(self.phase, Phase::Prepared { .. })).then_some(self.pid),
            started_at: since_ms.map(|ms| WallMs(i64::try_from(ms).unwrap_or(i64::MAX))),
            restarts: self.restarts,
            was_ready: self.was_ready || is_ready,
            last_exit: None,
            cpu_used_us: self.cpu_used_us + running_ms * rate,
            memory_bytes: if since_ms.is_some() { self.app.memory_bytes } else { 0 },
            memory_max_bytes: u64::from(self.spec.resources.memory_mib) << 20,
        }
    }
}

impl Engine for SimEngine {
    fn capabilities(&self) -> Capabilities {
        self.world().capabilities.clone()
    }
    fn start(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { self.start_now(spec) })
    }
    fn prepare(&self, spec: InstanceSpec, how: Prepare) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { self.prepare_now(spec, how.at_most_ms) })
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceStatus>, EngineError>> {
        Box::pin(async move {
            let world = self.world();
            Ok(world.instances.values().map(|i| i.status(world.now_ms)).collect())
        })
    }
    fn stop<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            let mut world = self.world();
            let now_ms = world.now_ms;
            if let Some(instance) = world.instances.get_mut(id) {
                instance.stop(now_ms);
            }
            Ok(())
        })
    }
    fn hold<'a>(&'a self, owner: &'a str, why: Option<&'a str>) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            for instance in self.world().instances.values_mut().filter(|i| i.spec.owner == owner) {
                instance.held_why = why.map(str::to_owned);
            }
            Ok(())
        })
    }
    fn freeze<'a>(&'a self, owner: &'a str, freeze: &'a Freeze) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            let mut world = self.world();
            let now_ms = world.now_ms;
            let mut own = world.instances.values_mut().filter(|i| i.spec.owner == owner);
            own.try_for_each(|i| i.freeze(freeze, now_ms))
        })
    }
    fn thaw<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            let mut world = self.world();
            let now_ms = world.now_ms;
            world.instances.values_mut().filter(|i| i.spec.owner == owner).for_each(|i| i.thaw(now_ms));
            Ok(())
        })
    }
    fn renew_layers<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
    fn remove<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { self.remove_now(id) })
    }
    fn logs<'a>(&'a self, id: &'a InstanceId, tail_bytes: usize) -> BoxFuture<'a, Result<Vec<u8>, EngineError>> {
        Box::pin(async move {
            let world = self.world();
            let instance = world.instances.get(id).ok_or_else(|| EngineError::Unknown { id: id.clone() })?;
            Ok(instance.log[instance.log.len().saturating_sub(tail_bytes)..].to_vec())
        })
    }
    fn remains<'a>(&'a self, owner: Option<&'a str>) -> BoxFuture<'a, Result<Remains, EngineError>> {
        Box::pin(async move { Ok(self.remains_now(owner)) })
    }
}
