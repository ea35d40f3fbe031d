//! How often one member may ask: a bucket for what is written down, one for heartbeats, one for the rest.

use crate::config::Limits;
use pumasi_api::{Endpoint, Fault, Method, Problem};
use pumasi_terms::{BootMs, CloudName};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Each leaves rows in the journal.
    Acts,
    Heartbeats,
    /// Words about the pact's vote: some a tick.
    Votes,
    Rest,
}

fn class(endpoint: &Endpoint) -> Class {
    match (endpoint.method, endpoint.path) {
        (Method::Post, "/v1/reservations" | "/v1/leases" | "/v1/pact/signatures" | "/v1/pact/admissions") => {
            Class::Acts
        }
        (Method::Put, "/v1/pact/current") => Class::Acts,
        (_, "/v1/heartbeat") => Class::Heartbeats,
        (_, "/v1/pacts/{id}/messages") => Class::Votes,
        _ => Class::Rest,
    }
}

#[derive(Debug)]
struct Bucket {
    /// Thousandths.
    left: u64,
    at: BootMs,
}

#[derive(Debug)]
pub struct Rates {
    limits: Limits,
    buckets: Mutex<BTreeMap<(Option<CloudName>, Class), Bucket>>,
}

impl Rates {
    pub fn of(limits: &Limits) -> Self {
        Self { limits: limits.clone(), buckets: Mutex::default() }
    }

    /// A second, and how many at once.
    fn bound(&self, class: Class) -> (u64, u64) {
        let acts = u64::from(self.limits.acts_per_second);
        let beats = u64::from(self.limits.heartbeats_per_second);
        match class {
            // Many services may need help in the same moment.
            Class::Acts => (acts, acts.saturating_mul(60)),
            Class::Heartbeats => (beats, beats.saturating_mul(2)),
            Class::Votes => (2_000, 4_000),
            Class::Rest => (500, 1_000),
        }
    }

    /// `who`: a member, or all strangers together.
    pub fn spend(&self, who: Option<&CloudName>, endpoint: &Endpoint, now: BootMs) -> Result<(), Problem> {
        let class = class(endpoint);
        let (rate, burst) = self.bound(class);
        let full = burst * 1_000;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        // A full bucket says nothing: those of members that have left go.
        if buckets.len() > 1_024 {
            buckets.retain(|_, b| now.since(b.at) < 600_000);
        }
        let bucket = buckets.entry((who.cloned(), class)).or_insert(Bucket { left: full, at: now });
        bucket.left = bucket.left.saturating_add(now.since(bucket.at).saturating_mul(rate)).min(full);
        bucket.at = now;
        if bucket.left >= 1_000 {
            bucket.left -= 1_000;
            return Ok(());
        }
        let wait_ms = (1_000 - bucket.left) / rate + 1;
        let text = format!("more than {rate} a second is not taken from one cloud: {}", endpoint.summary);
        Err(Problem { retry_after_ms: Some(wait_ms), ..Problem::new(429, "too_often", Fault::Input, text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_holds_is_held_back_and_nobody_else_with_it() {
        let (rates, b, c) =
            (Rates::of(&Limits::default()), CloudName::parse("city-b").unwrap(), CloudName::parse("city-c").unwrap());
        let hold = pumasi_api::endpoint::find("POST", "/v1/reservations").unwrap();
        let beat = pumasi_api::endpoint::find("POST", "/v1/heartbeat").unwrap();
        // A thousand a second for 15 s.
        let taken = (0..15_000).filter(|ms| rates.spend(Some(&b), hold, BootMs(*ms)).is_ok()).count();
        assert!((300..=380).contains(&taken), "{taken}");
        let late = (0..2).find_map(|_| rates.spend(Some(&b), hold, BootMs(15_000)).err()).unwrap();
        assert_eq!((late.status, late.retry), (429, true));
        let wait_ms = late.retry_after_ms.unwrap();
        assert!(rates.spend(Some(&b), hold, BootMs(15_000 + wait_ms)).is_ok());
        assert!(rates.spend(Some(&b), beat, BootMs(15_000)).is_ok(), "its heartbeats go on");
        assert!(rates.spend(Some(&c), hold, BootMs(15_000)).is_ok(), "and others' holds");
        assert!(rates.spend(None, hold, BootMs(15_000)).is_ok());
    }

    #[test]
    fn heartbeats_as_they_are_sent_are_never_held_back() {
        let (rates, b) = (Rates::of(&Limits::default()), CloudName::parse("city-b").unwrap());
        let beat = pumasi_api::endpoint::find("POST", "/v1/heartbeat").unwrap();
        assert!((0..600).all(|n| rates.spend(Some(&b), beat, BootMs(n * 100)).is_ok()));
    }
}
