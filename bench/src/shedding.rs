//! Shedding: what is still answered in time when four times as much is asked as an instance can do, beside Envoy's adaptive concurrency.
//!
//! Enters: the number of pairs. Leaves: goodput under overload as a part of the capacity, how long it took to get there, the worst second
//! of a steady load; ours only: what the more important class gets while the other grows twelvefold.
//! Always holds: the same backend, which works on a fixed number of requests at a time and lets the others wait; an answer counts if it is
//! right and came within [`IN_TIME`] of when it was due; nobody is told the capacity.

use crate::gateway::{Side, envoy, install, ours};
use crate::row::{Row, median};
use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pumasi_lab::load::{self, Gaps, LoadOptions, Outcome, Planned, Run, Schedule, Workload};
use pumasi_route::table::Admission;
use pumasi_terms::class::LessImportant;
use rand::Rng;
use rand::rngs::SmallRng;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Of the backend: so many at a time, each for so long.
const PLACES: usize = 8;
const WORK: Duration = Duration::from_millis(10);
const HOST: &str = "shop.example";
const BODY: &[u8] = b"hello, twenty bytes!";
const LESSER: &str = "/report/";
const IN_TIME: Duration = Duration::from_millis(1_000);
const WINDOW: Duration = Duration::from_millis(500);
const CALIBRATION: Duration = Duration::from_secs(3);
const WARM: Duration = Duration::from_secs(8);
/// Longer than the rival's time between two measurements of its best round trip.
const STEADY: Duration = Duration::from_secs(40);
const FLOOD: Duration = Duration::from_secs(15);
const STEADY_PART: f64 = 0.8;
const FLOOD_TIMES: f64 = 4.0;
/// Of the capacity: the more important class, and what the other begins and ends with.
const UPPER_PART: f64 = 0.4;
const LOWER_PARTS: (f64, f64) = (0.3, 3.6);

#[derive(Default)]
struct Users {
    /// Part of them that asks for what is less important.
    lower: f64,
    /// Of the others: what they asked for, and what of it was answered.
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Workload for Users {
    fn plan(&self, _: u32, rng: &mut SmallRng) -> Planned {
        let lower = self.lower > 0.0 && rng.random_bool(self.lower.min(1.0));
        if !lower {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        let path = if lower { format!("{LESSER}1") } else { "/x".to_owned() };
        Planned { token: u64::from(lower), ..Planned::new(Method::GET, path, "", Vec::new()) }
    }
    fn check(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
        if status != StatusCode::OK || body != BODY {
            return Err(status.to_string());
        }
        if planned.token == 0 {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

async fn serve(listener: TcpListener) {
    let places = Arc::new(Semaphore::new(PLACES));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let places = places.clone();
        tokio::spawn(async move {
            let work = service_fn(move |_: Request<hyper::body::Incoming>| {
                let places = places.clone();
                async move {
                    let place = places.acquire().await;
                    tokio::time::sleep(WORK).await;
                    drop(place);
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(BODY))))
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), work).await;
        });
    }
}

/// The filter as its documentation sets it, measuring its best round trip twice as often, so that a race meets it.
fn adaptive() -> serde_json::Value {
    serde_json::json!({
        "name": "envoy.filters.http.adaptive_concurrency",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
            "gradient_controller_config": {
                "sample_aggregate_percentile": { "value": 90 },
                "concurrency_limit_params": { "concurrency_update_interval": "0.1s" },
                "min_rtt_calc_params": { "jitter": { "value": 10 }, "interval": "30s", "request_count": 50 },
            },
            "enabled": { "default_value": true, "runtime_key": "adaptive_concurrency.enabled" },
        },
    })
}

/// What one side did in one turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    goodput: f64,
    settled_ms: f64,
    worst_second: f64,
    p95_ms: f64,
}

pub fn race(pairs: u32) -> anyhow::Result<Vec<Row>> {
    install()?;
    let dir = tempfile::tempdir().context("making a directory for the race")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let backend = listener.local_addr()?;
    runtime.spawn(serve(listener));
    let less_important = LessImportant { paths: vec![LESSER.into()], ..LessImportant::default() };
    let admission = Admission { less_important, ..Admission::default() };
    let sides = [ours(dir.path(), backend, admission)?, envoy(dir.path(), backend, &[adaptive()])?];
    let capacity = runtime.block_on(capacity(backend))?;
    eprintln!("   the backend does {capacity:.0} a second");
    let mut turns: [Vec<Turn>; 2] = Default::default();
    let mut uppers = Vec::new();
    for pair in 0..pairs.clamp(1, 3) {
        for (side, turns) in sides.iter().zip(&mut turns) {
            let turn = runtime.block_on(turn(side, capacity)).with_context(|| format!("loading {}", side.name))?;
            eprintln!("   {}: {turn:.3?} (pair {})", side.name, pair + 1);
            turns.push(turn);
        }
        uppers.push(runtime.block_on(classes(&sides[0], capacity))?);
    }
    Ok(rows(&sides, &turns, median(uppers)))
}

fn rows(sides: &[Side; 2], [ours, theirs]: &[Vec<Turn>; 2], upper: f64) -> Vec<Row> {
    let middle = |turns: &[Turn], of: fn(&Turn) -> f64| median(turns.iter().map(of).collect());
    let row = |what: &str, of: fn(&Turn) -> f64, shown: fn(f64) -> String, note: String| {
        let (mine, other) = (middle(ours, of), middle(theirs, of));
        Row {
            what: what.into(),
            ours: shown(mine),
            rival: format!("{}, adaptive concurrency", sides[1].name),
            theirs: shown(other),
            ratio: mine / other.max(f64::MIN_POSITIVE),
            note,
        }
    };
    let percent = |part: f64| format!("{:.1} %", 100.0 * part);
    let ms = |ms: f64| if ms.is_finite() { format!("{ms:.0} ms") } else { "never".into() };
    vec![
        row(
            "shedding, answered in time at 4 times the load, of the capacity",
            |t| t.goodput,
            percent,
            format!("p95 {:.0} ms beside {:.0} ms", middle(ours, |t| t.p95_ms), middle(theirs, |t| t.p95_ms)),
        ),
        row("... until 95 % of the capacity are", |t| t.settled_ms, ms, String::new()),
        row(
            "... the worst second at four fifths of the capacity",
            |t| t.worst_second,
            percent,
            format!("upper class {} answered while the lower one grows twelvefold (ours only)", percent(upper)),
        ),
    ]
}

async fn play(to: SocketAddr, schedule: Schedule, users: Arc<Users>, think: Option<Duration>) -> anyhow::Result<Run> {
    let count = if think.is_some() { 64 } else { 400 };
    let options = LoadOptions { think, users: count, ..LoadOptions::new(schedule, to, HOST) };
    Ok(load::start(options, users)?.wait().await?)
}

/// With everything that it can bear inside, and nobody between.
async fn capacity(backend: SocketAddr) -> anyhow::Result<f64> {
    let schedule = Schedule::new(Gaps::Even, 1).level("all", CALIBRATION, 0.0);
    let run = play(backend, schedule, Arc::default(), Some(Duration::ZERO)).await?;
    let from = CALIBRATION / 3;
    Ok(run.between(from, CALIBRATION).right() as f64 / (CALIBRATION - from).as_secs_f64())
}

/// In time, a second, in a window.
fn good(run: &Run, from: Duration, to: Duration) -> f64 {
    let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let good = run.records.iter().filter(|r| {
        (us(from)..us(to)).contains(&r.intended_us) && r.outcome == Outcome::Right && r.latency_us() <= us(IN_TIME)
    });
    good.count() as f64 / (to - from).as_secs_f64()
}

async fn turn(side: &Side, capacity: f64) -> anyhow::Result<Turn> {
    let schedule = Schedule::new(Gaps::Poisson, 7)
        .level("warm", WARM, capacity * STEADY_PART)
        .level("steady", STEADY, capacity * STEADY_PART)
        .level("flood", FLOOD, capacity * FLOOD_TIMES);
    let run = play(side.address, schedule, Arc::default(), None).await?;
    let flood = WARM + STEADY;
    let end = flood + FLOOD;
    let steps: u32 = u32::try_from(FLOOD.as_millis() / WINDOW.as_millis()).unwrap_or(1);
    let bad = (0..steps).rev().find(|n| good(&run, flood + WINDOW * *n, flood + WINDOW * (*n + 1)) < 0.95 * capacity);
    let settled_ms = match bad {
        None => 0.0,
        Some(last) if last + 1 == steps => f64::INFINITY,
        Some(last) => (WINDOW * (last + 1)).as_secs_f64() * 1e3,
    };
    let seconds = u32::try_from(STEADY.as_secs()).unwrap_or(1);
    let second = |n: u32| {
        let (from, to) = (WARM + Duration::from_secs(n.into()), WARM + Duration::from_secs(u64::from(n) + 1));
        let asked = run.between(from, to).offered() as f64;
        good(&run, from, to) / asked.max(1.0)
    };
    let flooded = run.between(flood + Duration::from_secs(1), end);
    Ok(Turn {
        goodput: good(&run, flood + Duration::from_secs(1), end) / capacity,
        settled_ms,
        worst_second: (0..seconds).map(second).fold(1.0, f64::min),
        p95_ms: flooded.latency_ms(0.95),
    })
}

/// The part of the more important class that is answered in time, while the other grows.
async fn classes(side: &Side, capacity: f64) -> anyhow::Result<f64> {
    let mut worst: f64 = 1.0;
    let steps = 4u8;
    for step in 0..=steps {
        let part = LOWER_PARTS.0 + (LOWER_PARTS.1 - LOWER_PARTS.0) * f64::from(step) / f64::from(steps);
        let schedule =
            Schedule::new(Gaps::Poisson, 9 + u64::from(step)).level("on", WARM, capacity * (UPPER_PART + part));
        let users = Arc::new(Users { lower: part / (UPPER_PART + part), ..Users::default() });
        play(side.address, schedule, users.clone(), None).await?;
        let (asked, answered) = (users.asked.load(Ordering::Relaxed), users.answered.load(Ordering::Relaxed));
        worst = worst.min(answered as f64 / asked.max(1) as f64);
    }
    Ok(worst)
}
