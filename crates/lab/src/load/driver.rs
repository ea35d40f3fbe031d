//! The generator's thread: one timer, one task a request, plain HTTP/1.1 connections that users keep.

use super::record::{Outcome, Record, Run, Stats};
use super::schedule::{Arrival, Schedule};
use super::user::User;
use super::{LoadError, LoadOptions, OUTCOME_HEADER, Planned, Progress, SERVED_BY_HEADER, SHED_HEADER, Workload};
use crate::machine::{CpuTicks, FULL, Validity, thread_cpu};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

const ANSWER_BYTES_MAX: usize = 32 << 20;
const REDIRECTS_MAX: u8 = 3;
const SAMPLES_MAX: usize = 20;
/// Requests dispatched in a row before the network gets its turn.
const BURST_MAX: u32 = 32;

/// A run under way on its own thread.
#[derive(Debug)]
pub struct Running {
    started: std::time::Instant,
    stop: Arc<AtomicBool>,
    progress: watch::Receiver<Progress>,
    result: oneshot::Receiver<Run>,
}

impl Running {
    /// When the schedule began.
    pub fn started(&self) -> std::time::Instant {
        self.started
    }
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
    /// Sends nothing more; what is outstanding still ends. The rest of the schedule gets no records.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
    /// The same, for another task.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stop))
    }
    /// Until the schedule ended and every request has its outcome.
    pub async fn wait(self) -> Result<Run, LoadError> {
        self.result.await.map_err(|_| LoadError::Ended)
    }
}

/// Ends a run early.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Begins at once.
pub fn start(options: LoadOptions, workload: Arc<dyn Workload>) -> Result<Running, LoadError> {
    if options.users == 0 || options.outstanding_max == 0 || options.schedule.phases.is_empty() {
        return Err(LoadError::Options("a load needs users, room for outstanding requests and a phase".into()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::Start)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (publish, progress) = watch::channel(Progress::default());
    let (send, result) = oneshot::channel();
    let started = std::time::Instant::now();
    let stopped = Arc::clone(&stop);
    std::thread::Builder::new()
        .name("lab-load".into())
        .spawn(move || {
            let local = tokio::task::LocalSet::new();
            let run = local.block_on(&runtime, drive(options, workload, started, stopped, publish));
            let _ = send.send(run);
        })
        .map_err(LoadError::Start)?;
    Ok(Running { started, stop, progress, result })
}

struct Shared {
    options: LoadOptions,
    workload: Arc<dyn Workload>,
    start: Instant,
    users: RefCell<Vec<User>>,
    rng: RefCell<SmallRng>,
    records: RefCell<Vec<Record>>,
    servers: RefCell<Vec<String>>,
    samples: RefCell<Vec<String>>,
    second: RefCell<Stats>,
    outstanding: Cell<usize>,
}

async fn drive(
    options: LoadOptions,
    workload: Arc<dyn Workload>,
    started: std::time::Instant,
    stop: Arc<AtomicBool>,
    publish: watch::Sender<Progress>,
) -> Run {
    let shared = Rc::new(Shared {
        users: RefCell::new((0..options.users).map(|n| User::new(n, &options.jars)).collect()),
        rng: RefCell::new(SmallRng::seed_from_u64(options.seed)),
        options,
        workload,
        start: Instant::from_std(started),
        records: RefCell::default(),
        servers: RefCell::new(vec![String::new()]),
        samples: RefCell::default(),
        second: RefCell::default(),
        outstanding: Cell::new(0),
    });
    let cpu_before = thread_cpu();
    let busy = Rc::new(RefCell::new(Vec::new()));
    let watcher = tokio::task::spawn_local(watch_machine(Rc::clone(&shared), Rc::clone(&busy), publish));
    let schedule = shared.options.schedule.clone();
    match shared.options.think {
        None => shared.open_loop(&schedule, &stop).await,
        Some(think) => shared.closed_loop(&schedule, think, &stop).await,
    }
    // Each request ends within its time-out, so this does too.
    while shared.outstanding.get() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let elapsed = shared.start.elapsed();
    watcher.abort();
    let records = shared.records.take();
    let mut run = Run {
        schedule,
        records,
        servers: shared.servers.take(),
        validity: Validity::default(),
        samples: shared.samples.take(),
    };
    let all = run.all();
    let busy = busy.take();
    let seconds = busy.len().max(1) as f64;
    run.validity = Validity {
        send_lag_p99_ms: all.send_lag_ms(0.99),
        machine_cpu_busy: busy.iter().sum::<f64>() / seconds,
        seconds_full: busy.iter().filter(|&&b| b >= FULL).count() as f64 / seconds,
        generator_cores: thread_cpu().saturating_sub(cpu_before).as_secs_f64() / elapsed.as_secs_f64().max(1e-3),
        unsent: all.count(Outcome::Unsent),
    };
    run
}

async fn watch_machine(shared: Rc<Shared>, busy: Rc<RefCell<Vec<f64>>>, publish: watch::Sender<Progress>) {
    let mut before = CpuTicks::now();
    let mut tick = tokio::time::interval_at(Instant::now() + Duration::from_secs(1), Duration::from_secs(1));
    loop {
        tick.tick().await;
        let now = CpuTicks::now();
        let machine_cpu_busy = now.busy_since(before);
        before = now;
        busy.borrow_mut().push(machine_cpu_busy);
        let stats = shared.second.take();
        let at = shared.start.elapsed();
        let phase = shared.options.schedule.phase_at(at);
        publish.send_replace(Progress {
            at,
            phase: phase.map(|(_, p)| p.name.clone()).unwrap_or_default(),
            offered: stats.offered(),
            right: stats.right(),
            shed: stats.shed(),
            failures: stats.failures(),
            p50_ms: stats.latency_ms(0.5),
            p95_ms: stats.latency_ms(0.95),
            outstanding: shared.outstanding.get(),
            machine_cpu_busy,
        });
    }
}

/// What came back, or how it ended.
struct Ended {
    outcome: Outcome,
    status: u16,
    first_byte_us: u64,
    body_bytes: u32,
    served_by: u16,
    redirects: u8,
    problem: Option<String>,
}

impl Ended {
    fn without_answer(outcome: Outcome, problem: String) -> Self {
        let problem = Some(problem);
        Self { outcome, status: 0, first_byte_us: 0, body_bytes: 0, served_by: 0, redirects: 0, problem }
    }
}

#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    first_byte_us: u64,
}

enum Fault {
    Unreachable(String),
    Broken(String),
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    async fn open_loop(self: &Rc<Self>, schedule: &Schedule, stop: &AtomicBool) {
        let mut burst = 0;
        for arrival in schedule.arrivals() {
            let due = self.start + arrival.at;
            if Instant::now() < due {
                sleep_until(due).await;
                burst = 0;
            } else if burst == BURST_MAX {
                tokio::task::yield_now().await;
                burst = 0;
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
            burst += 1;
            let user = self.rng.borrow_mut().random_range(0..self.options.users);
            tokio::task::spawn_local(Rc::clone(self).request(arrival, user));
        }
    }

    async fn closed_loop(self: &Rc<Self>, schedule: &Schedule, think: Duration, stop: &Arc<AtomicBool>) {
        let user = |user: u32| {
            let (shared, schedule, stop) = (Rc::clone(self), schedule.clone(), Arc::clone(stop));
            tokio::task::spawn_local(async move {
                while !stop.load(Ordering::Relaxed) {
                    let at = shared.start.elapsed();
                    let Some((phase, _)) = schedule.phase_at(at) else { return };
                    let arrival = Arrival { at, phase: u16::try_from(phase).unwrap_or(u16::MAX) };
                    Rc::clone(&shared).request(arrival, user).await;
                    match think.is_zero() {
                        true => tokio::task::yield_now().await,
                        false => tokio::time::sleep(think).await,
                    }
                }
            })
        };
        let users: Vec<_> = (0..self.options.users).map(user).collect();
        for user in users {
            // A user who broke off has left his last request without a record; the others go on.
            let _ = user.await;
        }
    }

    /// One request and its record. It counts as outstanding from the call, not from the first poll.
    fn request(self: Rc<Self>, arrival: Arrival, user: u32) -> impl Future<Output = ()> {
        let planned = match self.outstanding.get() >= self.options.outstanding_max {
            true => None,
            false => Some(Planned { user, ..self.workload.plan(user, &mut self.rng.borrow_mut()) }),
        };
        let sent_us = self.now_us();
        if planned.is_some() {
            self.outstanding.set(self.outstanding.get() + 1);
        }
        async move {
            let Some(planned) = planned else {
                let ended = Ended::without_answer(Outcome::Unsent, "not sent: too many outstanding".into());
                self.record(arrival, user, false, sent_us, ended);
                return;
            };
            let write = !pumasi_terms::method::is_safe(planned.method.as_str());
            let ended = match timeout(self.options.timeout, self.ask(&planned)).await {
                Ok(ended) => ended,
                Err(_) => Ended::without_answer(Outcome::TimedOut, "no whole answer in time".into()),
            };
            match ended.outcome {
                Outcome::Shed | Outcome::Unreachable | Outcome::Unsent => self.workload.refused(&planned),
                Outcome::Unknown | Outcome::Failed | Outcome::Broken | Outcome::TimedOut => {
                    self.workload.unknown(&planned)
                }
                Outcome::Right | Outcome::Wrong => {}
            }
            self.sample(&planned, &ended);
            self.record(arrival, user, write, sent_us, ended);
            self.outstanding.set(self.outstanding.get() - 1);
        }
    }

    fn sample(&self, planned: &Planned, ended: &Ended) {
        let mut samples = self.samples.borrow_mut();
        if let Some(problem) = &ended.problem
            && samples.len() < SAMPLES_MAX
        {
            let at = self.start.elapsed().as_secs_f64();
            samples.push(format!("+{at:.3} s {} {}: {:?}: {problem}", planned.method, planned.target, ended.outcome));
        }
    }

    fn record(&self, arrival: Arrival, user: u32, write: bool, sent_us: u64, ended: Ended) {
        let record = Record {
            intended_us: u64::try_from(arrival.at.as_micros()).unwrap_or(u64::MAX),
            sent_us,
            first_byte_us: ended.first_byte_us,
            done_us: self.now_us(),
            user,
            body_bytes: ended.body_bytes,
            phase: arrival.phase,
            status: ended.status,
            served_by: ended.served_by,
            outcome: ended.outcome,
            write,
            redirects: ended.redirects,
        };
        self.second.borrow_mut().add(&record);
        self.records.borrow_mut().push(record);
    }

    async fn ask(&self, planned: &Planned) -> Ended {
        let (mut address, mut host) = (self.options.target, self.options.host.clone());
        let (mut method, mut target) = (planned.method.clone(), planned.target.clone());
        let mut redirects = 0;
        loop {
            let answered = match self.exchange(planned, address, &host, &method, &target).await {
                Ok(answered) => answered,
                Err(Fault::Unreachable(problem)) => return Ended::without_answer(Outcome::Unreachable, problem),
                Err(Fault::Broken(problem)) => return Ended::without_answer(Outcome::Broken, problem),
            };
            if let Some(user) = self.users.borrow_mut().get_mut(planned.user as usize) {
                user.take_cookies(&answered.headers, &self.options.jars);
            }
            let follows = redirects < REDIRECTS_MAX && self.workload.follows(planned);
            let next = if follows { self.follow(&answered) } else { None };
            let Some((next_address, next_host, next_target)) = next else {
                return self.judge(planned, answered, redirects);
            };
            redirects += 1;
            if answered.status == StatusCode::SEE_OTHER {
                method = Method::GET;
            }
            (address, host, target) = (next_address, next_host, next_target);
        }
    }

    fn follow(&self, answered: &Answered) -> Option<(SocketAddr, String, String)> {
        if !matches!(answered.status.as_u16(), 302 | 303 | 307 | 308) {
            return None;
        }
        let location: Uri = answered.headers.get(header::LOCATION)?.to_str().ok()?.parse().ok()?;
        let host = location.host().unwrap_or(&self.options.host);
        let address = match host == self.options.host {
            true => self.options.target,
            false => *self.options.hosts.get(host)?,
        };
        Some((address, host.to_owned(), location.path_and_query()?.to_string()))
    }

    fn judge(&self, planned: &Planned, answered: Answered, redirects: u8) -> Ended {
        let Answered { status, headers, body, first_byte_us } = answered;
        let (outcome, problem) = if status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key(SHED_HEADER) {
            (Outcome::Shed, None)
        } else if status.is_server_error() {
            let text: String = String::from_utf8_lossy(&body).chars().take(120).collect();
            let unknown = headers.get(OUTCOME_HEADER).is_some_and(|v| v == "unknown");
            (
                if unknown { Outcome::Unknown } else { Outcome::Failed },
                Some(format!("status {status}: {}", text.trim())),
            )
        } else {
            match self.workload.check(planned, status, &body) {
                Ok(()) => (Outcome::Right, None),
                Err(problem) => (Outcome::Wrong, Some(problem)),
            }
        };
        let served_by = headers.get(SERVED_BY_HEADER).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Ended {
            outcome,
            status: status.as_u16(),
            first_byte_us,
            body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            served_by: self.intern(served_by),
            redirects,
            problem,
        }
    }

    fn intern(&self, server: &str) -> u16 {
        let mut servers = self.servers.borrow_mut();
        let known = servers.iter().position(|s| s == server);
        let index = known.unwrap_or_else(|| {
            if servers.len() < 256 {
                servers.push(server.to_owned());
            }
            servers.len() - 1
        });
        u16::try_from(index).unwrap_or(0)
    }

    async fn exchange(
        &self,
        planned: &Planned,
        address: SocketAddr,
        host: &str,
        method: &Method,
        target: &str,
    ) -> Result<Answered, Fault> {
        let cookies = self.users.borrow().get(planned.user as usize).map(User::cookie_header).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, host)
            .header(header::COOKIE, cookies)
            .body(Full::new(Bytes::from(planned.body.clone())))
            .map_err(|e| Fault::Unreachable(format!("not a request: {e}")))?;
        if !planned.body.is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(planned.content_type));
        }
        request.headers_mut().extend(planned.fields.iter().cloned());
        loop {
            let idle = self.users.borrow_mut().get_mut(planned.user as usize).and_then(|u| u.take_idle(address));
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => connect(address, self.source_of(planned.user)).await.map_err(Fault::Unreachable)?,
            };
            if connection.ready().await.is_err() {
                if reused {
                    continue;
                }
                return Err(Fault::Broken("the connection closed as soon as it was open".into()));
            }
            let response = match connection.try_send_request(request).await {
                Ok(response) => response,
                Err(mut error) => match error.take_message() {
                    // An idle connection was closed under us before a byte was written: any client takes another.
                    Some(unsent) if reused => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(Fault::Broken(describe(error.error()))),
                },
            };
            let first_byte_us = self.now_us();
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|e| Fault::Broken(format!("within the body: {e}")))?.to_bytes();
            if let Some(user) = self.users.borrow_mut().get_mut(planned.user as usize) {
                user.keep_idle(address, connection);
            }
            return Ok(Answered { status: head.status, headers: head.headers, body, first_byte_us });
        }
    }

    fn source_of(&self, user: u32) -> Option<Ipv4Addr> {
        self.options.users_from.map(|base| Ipv4Addr::from(u32::from(base).wrapping_add(user)))
    }
}

fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> Result<SendRequest<Full<Bytes>>, String> {
    let dial = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        std::io::Result::Ok(stream)
    };
    let stream = dial.await.map_err(|e| format!("connecting to {address}: {e}"))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// One request on a connection of its own; whatever is answered.
pub async fn ask(address: SocketAddr, host: &str, planned: &Planned) -> Result<(StatusCode, Bytes), LoadError> {
    ask_whole(address, host, planned).await.map(|a| (a.status, a.body))
}

/// The same, with the answer's header fields.
pub async fn ask_whole(address: SocketAddr, host: &str, planned: &Planned) -> Result<Answered, LoadError> {
    let fault = |problem: String| LoadError::Answer { address, target: planned.target.clone(), problem };
    let ask = async {
        let mut connection = connect(address, None).await.map_err(LoadError::Unreachable)?;
        send(&mut connection, host, planned).await.map_err(&fault)
    };
    match timeout(Duration::from_secs(10), ask).await {
        Ok(result) => result,
        Err(_) => Err(fault("no answer within 10 s".into())),
    }
}

async fn send(connection: &mut SendRequest<Full<Bytes>>, host: &str, planned: &Planned) -> Result<Answered, String> {
    let mut request = Request::builder().method(&planned.method).uri(&planned.target).header(header::HOST, host);
    if !planned.body.is_empty() {
        request = request.header(header::CONTENT_TYPE, planned.content_type);
    }
    let mut request = request.body(Full::new(Bytes::from(planned.body.clone()))).map_err(|e| e.to_string())?;
    request.headers_mut().extend(planned.fields.iter().cloned());
    let response = connection.send_request(request).await.map_err(|e| describe(&e))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok(Answered { status: head.status, headers: head.headers, body, first_byte_us: 0 })
}

/// One GET on a connection of its own; the body of a 200.
pub async fn fetch(address: SocketAddr, host: &str, target: &str) -> Result<Bytes, LoadError> {
    match ask(address, host, &Planned::get(target.to_owned())).await? {
        (StatusCode::OK, body) => Ok(body),
        (status, _) => {
            Err(LoadError::Answer { address, target: target.to_owned(), problem: format!("status {status}") })
        }
    }
}
