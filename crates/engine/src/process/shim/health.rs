//! What the probes find.
//!
//! Enters: the spec's probes, answers of the application. Leaves: findings.
//! Always holds: at most one question of each kind is in flight, and none of them holds up the shim.

use super::super::probe;
use super::ticks::Ticks;
use crate::port::InstanceSpec;
use pumasi_door::Place;
use pumasi_terms::Protocol;
use pumasi_terms::service::Probe;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// A fast start is noticed fast; a slow one is asked for less often.
const FIRST_PROBE_MS: u64 = 5;
const FAST_START_MS: u64 = 200;
const STARTING_PROBE_MS_MAX: u64 = 50;
/// After a probe that failed.
const DOUBT_MS: u64 = 100;
/// After so long at its start, why it is not ready is told: a borrower hears of it a heartbeat and a look later.
const START_UNTOLD_MS: u64 = 500;

#[derive(Debug)]
pub(super) enum Finding {
    Ready,
    Unready { why: String },
    Dead { why: String },
}

pub(super) struct Health {
    place: Place,
    /// Of the instance, where it has one of its own.
    uid: Option<u32>,
    protocol: Protocol,
    readiness: Probe,
    liveness: Option<Probe>,
    ticks: Ticks,
    began: Instant,
    was_ready: bool,
    readiness_failures: u32,
    liveness_failures: u32,
    readiness_at: Instant,
    readiness_step_ms: u64,
    liveness_at: Instant,
    asking: JoinSet<(Kind, Result<(), String>)>,
    readiness_asked: bool,
    liveness_asked: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Readiness,
    Liveness,
}

impl Health {
    pub(super) fn new(place: Place, uid: Option<u32>, spec: &InstanceSpec, ticks: Ticks) -> Self {
        let now = Instant::now();
        Self {
            place,
            uid,
            protocol: spec.protocol,
            readiness: spec.readiness.clone(),
            liveness: spec.liveness.clone(),
            ticks,
            began: now,
            was_ready: false,
            readiness_failures: 0,
            liveness_failures: 0,
            readiness_at: now + Duration::from_millis(FIRST_PROBE_MS),
            readiness_step_ms: FIRST_PROBE_MS,
            liveness_at: now,
            asking: JoinSet::new(),
            readiness_asked: false,
            liveness_asked: false,
        }
    }

    /// Answers that are under way say nothing: it stood still meanwhile.
    pub(super) fn forget(&mut self) {
        self.asking.abort_all();
        self.asking = JoinSet::new();
        (self.readiness_asked, self.liveness_asked) = (false, false);
        (self.readiness_at, self.liveness_at) = (Instant::now(), Instant::now());
    }

    /// Asks as often as the spec says, until there is something to tell. May be dropped and called again at any time.
    pub(super) async fn next(&mut self) -> Finding {
        loop {
            let ask_liveness = self.liveness.is_some() && self.was_ready && !self.liveness_asked;
            tokio::select! {
                () = sleep_until(self.readiness_at), if !self.readiness_asked => {
                    self.readiness_asked = true;
                    let (probe, place, protocol) = (self.readiness.clone(), self.place.clone(), self.protocol);
                    self.asking.spawn(async move { (Kind::Readiness, probe::ask(&place, protocol, &probe).await) });
                }
                () = sleep_until(self.liveness_at), if ask_liveness => {
                    if let Some(probe) = self.liveness.clone() {
                        self.liveness_asked = true;
                        let (place, protocol) = (self.place.clone(), self.protocol);
                        self.asking.spawn(async move { (Kind::Liveness, probe::ask(&place, protocol, &probe).await) });
                    }
                }
                Some(answer) = self.asking.join_next() => {
                    let found = match answer {
                        Ok((Kind::Readiness, answer)) => {
                            self.readiness_asked = false;
                            self.take_readiness(answer)
                        }
                        Ok((Kind::Liveness, answer)) => {
                            self.liveness_asked = false;
                            self.take_liveness(answer)
                        }
                        Err(_) => {
                            (self.readiness_asked, self.liveness_asked) = (false, false);
                            None
                        }
                    };
                    if let Some(found) = found {
                        return found;
                    }
                }
            }
        }
    }

    fn take_readiness(&mut self, answer: Result<(), String>) -> Option<Finding> {
        let answer = match answer {
            // Another one's server on the port that this application wanted.
            Ok(()) if !self.was_ready && !self.listens_itself() => Err("another process answers on its port".into()),
            other => other,
        };
        let found = match answer {
            Ok(()) => {
                self.readiness_failures = 0;
                if !self.was_ready {
                    self.was_ready = true;
                    self.liveness_at = Instant::now();
                }
                Some(Finding::Ready)
            }
            Err(why) => {
                self.readiness_failures = self.readiness_failures.saturating_add(1);
                let over = match self.was_ready {
                    true => self.readiness_failures >= self.readiness.failures,
                    false => self.began.elapsed() >= Duration::from_millis(START_UNTOLD_MS),
                };
                over.then_some(Finding::Unready { why })
            }
        };
        let interval_ms = self.readiness.interval_ms.max(1);
        let step_ms = if self.was_ready && self.readiness_failures > 0 {
            // Whether it is so is known soon, however seldom one that is well is asked.
            interval_ms.min(DOUBT_MS)
        } else if self.was_ready {
            interval_ms
        } else {
            if self.began.elapsed() > Duration::from_millis(FAST_START_MS) {
                self.readiness_step_ms = (self.readiness_step_ms * 3 / 2).min(STARTING_PROBE_MS_MAX);
            }
            self.readiness_step_ms.min(interval_ms)
        };
        self.readiness_at = self.ticks.after(Instant::now(), step_ms);
        found
    }

    fn take_liveness(&mut self, answer: Result<(), String>) -> Option<Finding> {
        let probe = self.liveness.as_ref()?;
        self.liveness_at = self.ticks.after(Instant::now(), probe.interval_ms.max(1));
        match answer {
            Ok(()) => {
                self.liveness_failures = 0;
                None
            }
            Err(why) => {
                self.liveness_failures = self.liveness_failures.saturating_add(1);
                (self.liveness_failures >= probe.failures).then(|| Finding::Dead { why: format!("not alive: {why}") })
            }
        }
    }

    /// Whether the socket that answers is of the instance's own uid; true where it has none, or a network to itself.
    fn listens_itself(&self) -> bool {
        let on_host = self.uid.filter(|_| self.place.door.is_none());
        on_host.is_none_or(|uid| listener_uid(self.place.address).is_none_or(|found| found == uid))
    }
}

/// The uid of the socket that listens there, by /proc/net/tcp; a listener on all addresses counts.
fn listener_uid(address: SocketAddr) -> Option<u32> {
    let port = format!(":{:04X}", address.port());
    let mut any = None;
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(file).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(state), Some(uid)) = (fields.get(1), fields.get(3), fields.get(7)) else { continue };
            if *state == "0A" && local.ends_with(&port) {
                let uid = uid.parse().ok();
                if local.strip_suffix(&port) == Some(hex_ip(address.ip()).as_str()) {
                    return uid;
                }
                any = any.or(uid);
            }
        }
    }
    any
}

/// As the kernel prints it: 32-bit words in the order of the host.
fn hex_ip(ip: IpAddr) -> String {
    let words = |bytes: &[u8]| {
        bytes
            .chunks_exact(4)
            .map(|w| format!("{:08X}", u32::from_ne_bytes([w[0], w[1], w[2], w[3]])))
            .collect::<String>()
    };
    match ip {
        IpAddr::V4(v4) => words(&v4.octets()),
        IpAddr::V6(v6) => words(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_owner_of_a_listener_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uid = listener_uid(listener.local_addr().unwrap());
        assert_eq!(uid, Some(nix::unistd::geteuid().as_raw()));
    }
}
