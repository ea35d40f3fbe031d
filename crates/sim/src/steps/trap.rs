//! The trap: waits for one step of one run, and does one fault to it, once.
//!
//! Enters: everything that clouds say, write and do, as it happens. Leaves: the fault, where the step is met for the first time
//! since the trap was set; and a count of every step of the table.
//! Always holds: a fault strikes at most once a run; a daemon that is killed does nothing more.

use super::table::{Fault, STEPS, Side};
use crate::net::copy_of;
use bytes::Bytes;
use http::{Request, Response};
use pumasi_api::Problem;
use pumasi_engine::{
    BoxFuture, Capabilities, Engine, EngineError, Freeze, InstanceSpec, InstanceStatus, Prepare, Remains,
};
use pumasi_gateway::{ControlError, GatewayStatus, MeterReport, Question, Reloaded, Reply, WantedReport};
use pumasi_node::ground::{Asked, GatewayPort};
use pumasi_route::Tenure;
use pumasi_route::table::{Positions, RouteTable};
use pumasi_store::sim::Fate;
use pumasi_terms::{CloudName, InstanceId};
use pumasi_transfer::EraseError;
use serde_json::Value;
use std::collections::BTreeSet;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How the owner of instances of the service is called that moves.
const MOVED: &str = "service-shop-0";
/// When a repetition comes late: the journey is a step or two further on.
const LATE: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Prepare,
    Start,
    List,
    Stop,
    Remove,
    Logs,
    Remains,
}

/// Something that may be a step.
#[derive(Debug)]
pub enum Seen<'a> {
    Message { method: &'a str, path: &'a str, body: &'a [u8] },
    Put { kind: &'a str, value: &'a Value },
    Deleted { kind: &'a str },
    Engine(Call),
    Table(&'a RouteTable),
    Positions { any: bool },
    Tenure(&'a Tenure),
    Erase,
}

/// Planted: right while nothing fails, wrong after one fault. The table must find each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A write that failed is taken for done.
    HushedWrite,
    /// A lender refuses to settle what it has settled: the answer that was lost is lost for good.
    SettlesOnce,
    /// A daemon that starts anew does not adopt what an earlier one had started for others.
    Orphans,
}

#[derive(Debug, Default)]
struct State {
    set: bool,
    fired: Option<String>,
    counts: Vec<u64>,
    /// Clouds that have started an instance for a lease: before that, an engine's answers are of no journey.
    lending: BTreeSet<CloudName>,
    /// Settled once, where that is a planted bug.
    settled: BTreeSet<String>,
    /// `DiesAfter` a commit: at this cloud, of this kind.
    after_commit: Option<CloudName>,
}

type Doing<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;
type Kill = dyn Fn(&CloudName) + Send + Sync;
type Tell = dyn Fn(&CloudName, String) + Send + Sync;

pub struct Trap {
    borrower: CloudName,
    planned: Option<(usize, Fault)>,
    bug: Option<Bug>,
    state: Mutex<State>,
    hands: OnceLock<(Arc<Kill>, Arc<Tell>)>,
}

impl std::fmt::Debug for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trap({:?})", self.planned)
    }
}

impl Trap {
    pub fn new(borrower: CloudName, planned: Option<(usize, Fault)>, bug: Option<Bug>) -> Arc<Self> {
        let state = State { counts: vec![0; STEPS.len()], ..State::default() };
        Arc::new(Self { borrower, planned, bug, state: Mutex::new(state), hands: OnceLock::new() })
    }

    pub fn give_hands(&self, kill: Arc<Kill>, tell: Arc<Tell>) {
        let _ = self.hands.set((kill, tell));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on.
    pub fn set(&self) {
        self.lock().set = true;
    }

    /// What it struck.
    pub fn fired(&self) -> Option<String> {
        self.lock().fired.clone()
    }

    pub fn counts(&self) -> Vec<u64> {
        self.lock().counts.clone()
    }

    fn kill(&self, cloud: &CloudName) {
        if let Some((kill, _)) = self.hands.get() {
            kill(cloud);
        }
    }

    fn side(&self, cloud: &CloudName) -> Side {
        if *cloud == self.borrower { Side::Borrower } else { Side::Lender }
    }

    /// Counts it, and answers the fault that is to be done to it.
    pub fn meets(&self, cloud: &CloudName, seen: &Seen<'_>) -> Option<Fault> {
        let side = self.side(cloud);
        let mut state = self.lock();
        if !state.set {
            return None;
        }
        for (step, count) in STEPS.iter().zip(0..) {
            if step.is(side, seen) {
                state.counts[count] += 1;
            }
        }
        let (at, fault) = self.planned?;
        if state.fired.is_some() || !STEPS[at].is(side, seen) {
            return None;
        }
        let what = format!("{:?}: {fault:?} at {cloud}", STEPS[at].name);
        state.fired = Some(what.clone());
        drop(state);
        if let Some((_, tell)) = self.hands.get() {
            tell(cloud, format!("FAULT {what}"));
        }
        Some(fault)
    }

    /// One message of `from` to `to`, through the trap.
    pub async fn pass<F>(
        self: Arc<Self>,
        from: CloudName,
        to: CloudName,
        request: Request<Bytes>,
        send: impl Fn(Request<Bytes>) -> F + Send + 'static,
    ) -> Result<Response<Bytes>, String>
    where
        F: Future<Output = Result<Response<Bytes>, String>> + Send + 'static,
    {
        let seen =
            Seen::Message { method: request.method().as_str(), path: request.uri().path(), body: request.body() };
        let fault = if from == self.borrower { self.meets(&from, &seen) } else { None };
        let broken = || Err("the connection broke".to_owned());
        let path = request.uri().path();
        if self.bug == Some(Bug::SettlesOnce)
            && path.ends_with("/settlement")
            && !self.lock().settled.insert(path.to_owned())
        {
            return Ok(answer(&Problem::conflict("it is settled")));
        }
        let Some(fault) = fault else { return send(request).await };
        match fault {
            Fault::Fails => Ok(answer(&Problem::unavailable("made up by a simulator: asked again it may go well"))),
            Fault::Refused => Ok(answer(&Problem::forbidden("made up by a simulator: not with us"))),
            Fault::Breaks => broken(),
            Fault::AnswerLost => {
                let _ = send(request).await;
                broken()
            }
            Fault::Twice => {
                let (one, two) = tokio::join!(send(copy_of(&request)), send(request));
                one.or(two)
            }
            Fault::TwiceLate => {
                let again = send(copy_of(&request));
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    let _ = again.await;
                });
                send(request).await
            }
            Fault::DiesBefore => {
                self.kill(&from);
                pending().await
            }
            Fault::DiesAfter => {
                let _ = send(request).await;
                self.kill(&from);
                pending().await
            }
            Fault::ReceiverDies => {
                let _ = send(request).await;
                self.kill(&to);
                broken()
            }
        }
    }

    /// Before a write inside its transaction.
    pub fn on_put(&self, cloud: &CloudName, kind: &str, value: &Value) -> Fate {
        self.on_write(cloud, &Seen::Put { kind, value })
    }

    pub fn on_delete(&self, cloud: &CloudName, kind: &str) -> Fate {
        self.on_write(cloud, &Seen::Deleted { kind })
    }

    fn on_write(&self, cloud: &CloudName, seen: &Seen<'_>) -> Fate {
        match self.meets(cloud, seen) {
            Some(Fault::DiesAfter) => {
                self.lock().after_commit = Some(cloud.clone());
                Fate::Keep
            }
            Some(Fault::DiesBefore) => {
                self.kill(cloud);
                Fate::Fail
            }
            Some(_) if self.bug == Some(Bug::HushedWrite) => Fate::Drop,
            Some(_) => Fate::Fail,
            None => Fate::Keep,
        }
    }

    /// Right after a commit: whether this cloud has to die of it.
    pub fn on_commit(&self, cloud: &CloudName) -> bool {
        let mut state = self.lock();
        let dies = state.after_commit.as_ref() == Some(cloud);
        if dies {
            state.after_commit = None;
        }
        dies
    }

    /// A step that this cloud does by itself.
    async fn local<'a, T, E>(
        &self,
        cloud: &CloudName,
        seen: &Seen<'_>,
        act: impl Fn() -> Doing<'a, T, E>,
        failed: impl FnOnce() -> E,
    ) -> Result<T, E> {
        match self.meets(cloud, seen) {
            None => act().await,
            Some(Fault::Twice | Fault::TwiceLate) => {
                let first = act().await;
                let _ = act().await;
                first
            }
            Some(Fault::DiesBefore | Fault::ReceiverDies) => {
                self.kill(cloud);
                pending().await
            }
            Some(Fault::DiesAfter) => {
                let _ = act().await;
                self.kill(cloud);
                pending().await
            }
            Some(Fault::AnswerLost) => {
                let _ = act().await;
                Err(failed())
            }
            Some(Fault::Fails | Fault::Refused | Fault::Breaks) => Err(failed()),
        }
    }

    pub fn erase(&self, cloud: &CloudName, dir: &Path) -> Result<(), EraseError> {
        let failed = || {
            let source = std::io::Error::other("made up by a simulator");
            Err(EraseError::Io { path: dir.to_owned(), source })
        };
        match self.meets(cloud, &Seen::Erase) {
            None => pumasi_transfer::erase(dir),
            Some(Fault::Fails | Fault::Refused | Fault::Breaks) => failed(),
            Some(Fault::DiesBefore) => {
                self.kill(cloud);
                failed()
            }
            Some(fault) => {
                pumasi_transfer::erase(dir)?;
                match fault {
                    Fault::DiesAfter | Fault::ReceiverDies => self.kill(cloud),
                    Fault::AnswerLost => return failed(),
                    _ => pumasi_transfer::erase(dir)?,
                }
                Ok(())
            }
        }
    }
}

fn answer(problem: &Problem) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(serde_json::to_vec(problem).unwrap_or_default()));
    *answer.status_mut() = http::StatusCode::from_u16(problem.status).unwrap_or_default();
    let kind = http::HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}

/// An engine behind the trap.
pub struct TrappedEngine {
    pub cloud: CloudName,
    pub inner: Arc<dyn Engine>,
    pub trap: Arc<Trap>,
    /// Not the host's first daemon.
    pub again: bool,
}

impl std::fmt::Debug for TrappedEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrappedEngine({})", self.cloud)
    }
}

impl TrappedEngine {
    fn failed(&self) -> EngineError {
        EngineError::Host { doing: "asking the engine".into(), source: std::io::Error::other("made up by a simulator") }
    }

    async fn call<'a, T>(&self, call: Call, act: impl Fn() -> Doing<'a, T, EngineError>) -> Result<T, EngineError> {
        if !self.trap.lock().lending.contains(&self.cloud) {
            return act().await;
        }
        self.trap.local(&self.cloud, &Seen::Engine(call), act, || self.failed()).await
    }
}

impl Engine for TrappedEngine {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn start(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        let is_heirs = spec.owner.starts_with(MOVED) && self.trap.side(&self.cloud) == Side::Lender;
        if !spec.owner.starts_with("lease-") && !is_heirs {
            return self.inner.start(spec);
        }
        self.trap.lock().lending.insert(self.cloud.clone());
        Box::pin(self.call(Call::Start, move || self.inner.start(spec.clone())))
    }
    fn prepare(&self, spec: InstanceSpec, how: Prepare) -> BoxFuture<'_, Result<(), EngineError>> {
        if self.trap.side(&self.cloud) != Side::Lender {
            return self.inner.prepare(spec, how);
        }
        self.trap.lock().lending.insert(self.cloud.clone());
        Box::pin(self.call(Call::Prepare, move || self.inner.prepare(spec.clone(), how.clone())))
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceStatus>, EngineError>> {
        let orphans = self.again && self.trap.bug == Some(Bug::Orphans);
        Box::pin(async move {
            let mut all = self.call(Call::List, move || self.inner.list()).await?;
            all.retain(|i| !orphans || !i.owner.starts_with("lease-"));
            Ok(all)
        })
    }
    fn stop<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(self.call(Call::Stop, move || self.inner.stop(id)))
    }
    fn hold<'a>(&'a self, owner: &'a str, why: Option<&'a str>) -> BoxFuture<'a, Result<(), EngineError>> {
        self.inner.hold(owner, why)
    }
    fn freeze<'a>(&'a self, owner: &'a str, freeze: &'a Freeze) -> BoxFuture<'a, Result<(), EngineError>> {
        self.inner.freeze(owner, freeze)
    }
    fn thaw<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        self.inner.thaw(owner)
    }
    fn remove<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(self.call(Call::Remove, move || self.inner.remove(id)))
    }
    fn renew_layers<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        self.inner.renew_layers(owner)
    }
    fn logs<'a>(&'a self, id: &'a InstanceId, tail_bytes: usize) -> BoxFuture<'a, Result<Vec<u8>, EngineError>> {
        Box::pin(self.call(Call::Logs, move || self.inner.logs(id, tail_bytes)))
    }
    fn remains<'a>(&'a self, owner: Option<&'a str>) -> BoxFuture<'a, Result<Remains, EngineError>> {
        let orphans = self.again && self.trap.bug == Some(Bug::Orphans);
        Box::pin(self.call(Call::Remains, move || -> Doing<'_, _, _> {
            if orphans { Box::pin(async { Ok(Remains::default()) }) } else { self.inner.remains(owner) }
        }))
    }
}

/// A gateway behind the trap.
pub struct TrappedPort {
    pub cloud: CloudName,
    pub inner: Arc<dyn GatewayPort>,
    pub trap: Arc<Trap>,
}

impl std::fmt::Debug for TrappedPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrappedPort({})", self.cloud)
    }
}

fn unreachable() -> ControlError {
    ControlError::Unreachable { socket: PathBuf::from("gateway"), problem: "made up by a simulator".into() }
}

impl GatewayPort for TrappedPort {
    fn put_table<'a>(&'a self, table: &'a RouteTable) -> Asked<'a, ()> {
        let act = move || self.inner.put_table(table);
        Box::pin(async move { self.trap.local(&self.cloud, &Seen::Table(table), act, unreachable).await })
    }
    fn table(&self) -> std::pin::Pin<Box<dyn Future<Output = Option<RouteTable>> + Send + '_>> {
        self.inner.table()
    }
    fn put_positions<'a>(&'a self, positions: &'a Positions) -> Asked<'a, ()> {
        let seen = Seen::Positions { any: !positions.leases.is_empty() };
        let act = move || self.inner.put_positions(positions);
        Box::pin(async move { self.trap.local(&self.cloud, &seen, act, unreachable).await })
    }
    fn put_tenure<'a>(&'a self, tenure: &'a Tenure) -> Asked<'a, ()> {
        let act = move || self.inner.put_tenure(tenure);
        Box::pin(async move { self.trap.local(&self.cloud, &Seen::Tenure(tenure), act, unreachable).await })
    }
    fn put_keys<'a>(&'a self, keys: &'a pumasi_route::Keys) -> Asked<'a, ()> {
        self.inner.put_keys(keys)
    }
    fn meter(&self, after: u64) -> Asked<'_, MeterReport> {
        self.inner.meter(after)
    }
    fn wanted(&self, after: Option<u64>) -> Asked<'_, WantedReport> {
        self.inner.wanted(after)
    }
    fn status(&self) -> Asked<'_, GatewayStatus> {
        self.inner.status()
    }
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a, Reply> {
        self.inner.ask(question)
    }
    fn reload_identity(&self) -> Asked<'_, Reloaded> {
        self.inner.reload_identity()
    }
    fn metrics(&self) -> Asked<'_, String> {
        self.inner.metrics()
    }
    fn look_after(&self, answers: bool) -> Option<String> {
        self.inner.look_after(answers)
    }
}
