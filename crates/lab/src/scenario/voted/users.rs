//! Users of registers at every entrance, all the time: each writes and reads, and keeps book of what it was told and when.
//!
//! Enters: entrances, a host name. Leaves: every request with its instants, who answered, and what became of it. Always holds: a user stays
//! at its entrance; each value is written once; whatever was not certainly refused counts as possibly done.

use super::{CLOUDS, REGISTERS_AT, Stage, host};
use crate::check::linear::Did;
use crate::load::{self, LoadError, OUTCOME_HEADER, Planned, SERVED_BY_HEADER};
use http::{HeaderMap, Method, StatusCode};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

pub const REGISTERS: u32 = 4;
const USERS_EACH: u64 = 2;
/// Between an answer and the next request.
const THINK: Duration = Duration::from_millis(20);
/// The same, where nobody knows the service.
const ELSEWHERE: Duration = Duration::from_millis(200);
/// Users wait no longer; what became of the request they do not know then.
const PATIENCE: Duration = Duration::from_millis(1_000);
const READS: f64 = 0.3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// By this cloud's instance.
    Done {
        by: String,
    },
    /// Certainly not done, and why; without a status: nobody was there.
    Refused {
        status: u16,
        reason: String,
    },
    /// This cloud does not answer for the host.
    NoEntrance,
    Unknown {
        what: String,
    },
}

/// One request of one user.
#[derive(Debug, Clone)]
pub struct Asked {
    pub entrance: &'static str,
    pub key: u32,
    pub did: Did,
    /// Microseconds since the users began.
    pub called: u64,
    pub answered: u64,
    pub became: Became,
}

impl Asked {
    pub fn is_done(&self) -> bool {
        matches!(self.became, Became::Done { .. })
    }
    pub fn is_write(&self) -> bool {
        matches!(self.did, Did::Wrote(_))
    }
    /// The value of a write that was acknowledged.
    pub fn acknowledged(&self) -> Option<u64> {
        match self.did {
            Did::Wrote(n) if self.is_done() => Some(n),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Users {
    pub name: String,
    began: Instant,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Asked>>>,
}

impl Users {
    pub fn begin(stage: &Stage, name: &str) -> anyhow::Result<Self> {
        let (stop, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let mut tasks = Vec::new();
        let life = u64::from(rand::random::<u16>());
        for (number, cloud) in (0u64..).zip(CLOUDS) {
            let address = stage.cluster.place(cloud)?.users;
            for user in 0..USERS_EACH {
                let values = (life << 40) | ((number * USERS_EACH + user) << 32);
                let one = User { entrance: cloud, address, host: host(name), life, values, began };
                tasks.push(tokio::spawn(one.live(stop.clone())));
            }
        }
        Ok(Self { name: name.to_owned(), began, stop, tasks })
    }

    /// Now, by their clock.
    pub fn now(&self) -> u64 {
        micros(self.began)
    }

    pub fn at(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }

    /// What all of them saw, in the order of asking.
    pub async fn end(self) -> anyhow::Result<Vec<Asked>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await?);
        }
        all.sort_by_key(|asked| asked.called);
        Ok(all)
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

struct User {
    entrance: &'static str,
    address: SocketAddr,
    host: String,
    /// Registers of these users' own, which nobody wrote before.
    life: u64,
    /// Its values begin here.
    values: u64,
    began: Instant,
}

impl User {
    async fn live(self, stop: Arc<AtomicBool>) -> Vec<Asked> {
        let (mut rng, mut all, mut next) = (SmallRng::seed_from_u64(self.values), Vec::new(), self.values);
        while !stop.load(Ordering::Relaxed) {
            let key = rng.random_range(0..REGISTERS);
            let reads = rng.random_bool(READS);
            let planned = match reads {
                true => Planned::get(self.register(key)),
                false => {
                    next += 1;
                    Planned::new(Method::PUT, self.register(key), "text/plain", next.to_string().into_bytes())
                }
            };
            let called = micros(self.began);
            let asked = tokio::time::timeout(PATIENCE, load::ask_whole(self.address, &self.host, &planned)).await;
            let answered = micros(self.began);
            let (did, became) = match asked {
                Err(_) => (None, Became::Unknown { what: "no answer in time".into() }),
                Ok(Err(LoadError::Unreachable(_))) => {
                    (None, Became::Refused { status: 0, reason: "unreachable".into() })
                }
                Ok(Err(e)) => (None, Became::Unknown { what: e.to_string() }),
                Ok(Ok(answer)) => read(reads, answer.status, &answer.headers, &answer.body),
            };
            let did = did.unwrap_or(if reads { Did::Read(None) } else { Did::Wrote(next) });
            let think = if became == Became::NoEntrance { ELSEWHERE } else { THINK };
            all.push(Asked { entrance: self.entrance, key, did, called, answered, became });
            tokio::time::sleep(think).await;
        }
        all
    }
}

impl User {
    fn register(&self, key: u32) -> String {
        format!("{REGISTERS_AT}{:x}-{key}", self.life)
    }
}

/// What an answer says; of a read also what was seen.
fn read(reads: bool, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> (Option<Did>, Became) {
    let text = String::from_utf8_lossy(body);
    let field = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let by = field(SERVED_BY_HEADER);
    match (status, by) {
        // An instance's own answer; one without a name is the gateway's.
        (StatusCode::NOT_FOUND, Some(by)) if reads => (Some(Did::Read(None)), Became::Done { by }),
        (status, Some(by)) if status.is_success() => match (reads, text.trim().parse()) {
            (false, _) => (None, Became::Done { by }),
            (true, Ok(value)) => (Some(Did::Read(Some(value))), Became::Done { by }),
            (true, Err(_)) => (None, Became::Unknown { what: format!("a value that was never written: {text}") }),
        },
        (StatusCode::MISDIRECTED_REQUEST, None) => (None, Became::NoEntrance),
        (status, by) => {
            let reason = reason(&text);
            // Not what an instance said, and not what was handed over.
            let refused = status == StatusCode::SERVICE_UNAVAILABLE && by.is_none() && field(OUTCOME_HEADER).is_none();
            let status = status.as_u16();
            let became = match refused {
                true => Became::Refused { status, reason },
                false => Became::Unknown { what: format!("{status} {reason}") },
            };
            (None, became)
        }
    }
}

/// As the gateway's problems say it, or the beginning of whatever was said.
fn reason(text: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let said = problem.and_then(|p| p["reason"].as_str().map(str::to_owned));
    said.unwrap_or_else(|| text.chars().take(60).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(reads: bool, status: u16, fields: &[(&'static str, &str)], body: &str) -> (Option<Did>, Became) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        read(reads, StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn what_was_not_certainly_refused_may_have_been_done() {
        let by = [("pumasi-served-by", "city-b")];
        let shut = r#"{"status":503,"reason":"not-writable","detail":"x"}"#;
        let done = Became::Done { by: "city-b".into() };
        assert_eq!(said(false, 201, &by, "{\"id\":1}"), (None, done.clone()));
        assert_eq!(said(true, 200, &by, "7\n"), (Some(Did::Read(Some(7))), done.clone()));
        assert_eq!(said(true, 404, &by, "nobody"), (Some(Did::Read(None)), done));
        let refused = Became::Refused { status: 503, reason: "not-writable".into() };
        assert_eq!(said(false, 503, &[], shut), (None, refused));
        assert_eq!(said(false, 421, &[], "unknown-host"), (None, Became::NoEntrance));
        let unsure = |status, fields: &[_], body| {
            assert!(matches!(said(true, status, fields, body).1, Became::Unknown { .. }), "{status} {body}");
        };
        unsure(503, &[("pumasi-outcome", "unknown")], shut);
        unsure(503, &by, "the application's own");
        unsure(500, &by, "the database");
        unsure(504, &[], "");
        unsure(404, &[], "a gateway's");
    }
}
