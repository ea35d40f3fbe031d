//! A load generator. Open loop: requests leave when they are due, whatever became of those before. Closed loop: each user waits for
//! his answer, thinks, and asks again, for as long as the schedule lasts.
//!
//! Enters: a schedule, a workload (what users ask, and whether an answer is right), an address. Leaves: a record of every request.
//! Always holds: latency counts from the intended time; each arrival of the schedule has one record; outstanding requests are
//! bounded, and what the bound held back is counted as unsent; the generator measures its own lateness and the machine.

mod driver;
pub mod record;
pub mod schedule;
mod user;

pub use driver::{Answered, Running, Stopper, ask, ask_whole, fetch, start};
pub use record::{Outcome, Record, Run, Stats, Summary};
pub use schedule::{Gaps, Phase, Schedule};
pub use user::USER_COOKIE;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Carried by a 503 that the gateway gave at admission.
pub const SHED_HEADER: &str = "pumasi-shed";
/// `unknown`: an unsafe request was handed over and its answer was lost.
pub const OUTCOME_HEADER: &str = "pumasi-outcome";
/// Which cloud answered.
pub const SERVED_BY_HEADER: &str = "pumasi-served-by";

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("starting the load generator: {0}")]
    Start(#[source] io::Error),
    #[error("{0}")]
    Options(String),
    #[error("the load generator ended before its run did")]
    Ended,
    /// Nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    #[error("asking {address} for {target}: {problem}")]
    Answer { address: SocketAddr, target: String, problem: String },
}

/// One request, before it is sent.
#[derive(Debug, Clone)]
pub struct Planned {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    /// Header fields of its own, besides those that every request has.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The workload's own note for its check.
    pub token: u64,
    /// Set by the generator.
    pub user: u32,
}

impl Planned {
    pub fn new(method: Method, target: impl Into<String>, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { method, target: target.into(), content_type, body, fields: Vec::new(), token: 0, user: 0 }
    }
    pub fn get(target: String) -> Self {
        Self::new(Method::GET, target, "", Vec::new())
    }
}

/// What users do, and what they may expect. Called on the generator's thread: it must be quick.
pub trait Workload: Send + Sync + 'static {
    /// Called when the request leaves.
    fn plan(&self, user: u32, rng: &mut SmallRng) -> Planned;
    /// Called for each answer below 500.
    fn check(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String>;
    /// It was certainly not executed.
    fn refused(&self, _planned: &Planned) {}
    /// Whether it was executed is not known.
    fn unknown(&self, _planned: &Planned) {}
    /// Whether an answer that redirects is followed; if not, it is checked like any other.
    fn follows(&self, _planned: &Planned) -> bool {
        true
    }
}

#[derive(Debug, Clone)]
pub struct LoadOptions {
    pub schedule: Schedule,
    pub target: SocketAddr,
    pub host: String,
    /// Where other hosts are, for redirects: host name without port.
    pub hosts: BTreeMap<String, SocketAddr>,
    pub users: u32,
    /// Closed loop: every user asks again so long after his answer; the schedule says how long it goes on, its rates count for nothing.
    pub think: Option<Duration>,
    /// User `n` calls from this address plus `n` (loopback needs no set-up for that); `None`: from any.
    pub users_from: Option<Ipv4Addr>,
    pub outstanding_max: usize,
    pub timeout: Duration,
    pub seed: u64,
    /// Users that come again bring what they had: a load that goes on after another one shares its jars.
    pub jars: Jars,
}

/// Cookies by user.
pub type Jars = Arc<Mutex<BTreeMap<u32, Vec<(String, String)>>>>;

impl LoadOptions {
    pub fn new(schedule: Schedule, target: SocketAddr, host: impl Into<String>) -> Self {
        Self {
            schedule,
            target,
            host: host.into(),
            hosts: BTreeMap::new(),
            users: 200,
            think: None,
            users_from: None,
            outstanding_max: 4000,
            timeout: Duration::from_secs(10),
            seed: 1,
            jars: Jars::default(),
        }
    }
}

/// Published about once a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    pub at: Duration,
    pub phase: String,
    /// Ended within the last second.
    pub offered: u64,
    pub right: u64,
    pub shed: u64,
    pub failures: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub outstanding: usize,
    /// Part of the machine's CPU time, 0 to 1.
    pub machine_cpu_busy: f64,
}

#[cfg(test)]
mod tests;
