//! Holds an application to its rate of writing: what wrote more than its share stands still until that is paid for.
//!
//! Enters: what the kernel counted for its processes, the limits. Leaves: an application that is frozen or not.
//! Always holds: it never stands still for longer than [`REST_MS_MAX`] at a time, so that probes and users are answered meanwhile; what
//! is held by order stays held, whatever the rate says.

use super::cgroup::Place;
use super::freeze::Brake;
use crate::limits::{Bucket, Rate};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

const LOOK_MS: u64 = 100;
/// At one that wrote nothing and has its whole burst left: that lasts as long where a disk takes a gigabyte a second.
const LOOK_MS_IDLE: u64 = 250;
/// So much of a processor writes some tens of megabytes at most.
const STILL_CPU_US: u64 = 10_000;
/// It is looked at so often all the same, so that children which end are counted by whoever reaps them.
const STILL_US_MAX: u64 = 1_000_000;
/// What is expected of a disk at most, where nothing was seen yet: a gigabyte a second.
const IDLE_BYTES_PER_MS: u64 = 1 << 20;
/// Sooner where the burst would be used up by then at the speed seen, so that a fast disk gets hardly more than it.
const LOOK_MS_MIN: u64 = 10;
/// While in debt: between two rests.
const BREATH_MS: u64 = 20;
const REST_MS_MIN: u64 = 250;
/// Each rest while in debt is twice as long as the one before, so that even the fastest disk is written to during few breaths.
const REST_MS_MAX: u64 = 2_000;
/// Looking costs the shim at most a twentieth of its time, however many processes there are.
const COST_SHARE: u32 = 20;

/// Sums up what processes wrote while they come and go.
#[derive(Debug, Default)]
struct Meter {
    last: BTreeMap<u32, u64>,
}

impl Meter {
    /// Bytes since the last look. A parent inherits the count of a child it reaped: what one that vanished had written already is not
    /// counted again with those that were there before.
    fn grown(&mut self, now: BTreeMap<u32, u64>) -> u64 {
        let (mut old, mut new) = (0u64, 0u64);
        for (pid, bytes) in &now {
            match self.last.get(pid) {
                Some(before) if before <= bytes => old = old.saturating_add(bytes - before),
                _ => new = new.saturating_add(*bytes),
            }
        }
        let gone = self.last.iter().filter(|(pid, _)| !now.contains_key(*pid));
        let inherited = gone.fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        self.last = now;
        new.saturating_add(old.saturating_sub(inherited))
    }
}

fn written_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok())
}

pub(super) struct Throttle {
    /// `None`: this host cannot do it.
    place: Option<Place>,
    bucket: Bucket,
    meter: Meter,
    began: Instant,
    looked_us: u64,
    /// What the application had used of processors at the last look, where the kernel says.
    cpu_us: Option<u64>,
    next_at: Instant,
    resting: bool,
    rest_ms: u64,
    held: bool,
    frozen: bool,
    /// For a freeze, which every host can do by some means.
    brake: Brake,
    ordered: bool,
}

impl Throttle {
    pub(super) fn new(place: Option<Place>, brake: Brake, rate: Rate) -> Self {
        let now = Instant::now();
        let mut throttle = Self {
            place: place.filter(Place::can_freeze),
            bucket: Bucket::new(rate, 0),
            meter: Meter::default(),
            began: now,
            looked_us: 0,
            cpu_us: None,
            next_at: now + Duration::from_millis(LOOK_MS),
            resting: false,
            rest_ms: REST_MS_MIN,
            held: false,
            frozen: true,
            brake,
            ordered: false,
        };
        // A shim that was killed may have left it frozen; without a group nothing of it is left.
        throttle.frozen = throttle.place.is_some();
        throttle.apply();
        throttle
    }

    pub(super) fn can_hold(&self) -> bool {
        self.place.is_some()
    }

    /// Whether the application stands still now, for whatever reason.
    pub(super) fn stands_still(&self) -> bool {
        self.frozen
    }

    pub(super) fn hold(&mut self, on: bool) {
        self.held = on;
        self.apply();
    }

    /// It is to stand still whole, or to go on.
    pub(super) fn order(&mut self, on: bool) {
        self.ordered = on;
        self.apply();
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Whether the order is carried out.
    pub(super) fn is_still(&mut self) -> bool {
        self.ordered && self.frozen && self.brake.is_still()
    }

    /// As it stands, so that it does nothing more.
    pub(super) fn kill(&self) {
        self.brake.kill();
    }

    /// For good: it is to end, and must be able to.
    pub(super) fn let_go(&mut self) {
        (self.held, self.resting, self.ordered) = (false, false, false);
        self.apply();
        self.place = None;
    }

    /// Waits for the next look and takes it; `true` when the application was made to rest just now. May be dropped and called again.
    pub(super) async fn next(&mut self, init: Option<u32>) -> bool {
        if self.place.is_none() {
            return std::future::pending().await;
        }
        sleep_until(self.next_at).await;
        self.look(init)
    }

    fn look(&mut self, init: Option<u32>) -> bool {
        let Some(place) = &self.place else { return false };
        let begun = Instant::now();
        let cpu_us = place.cpu_us();
        let since_us =
            u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_sub(self.looked_us);
        if !self.resting && is_still(self.cpu_us, cpu_us, since_us) {
            self.next_at = Instant::now() + Duration::from_millis(LOOK_MS_IDLE);
            return false;
        }
        self.cpu_us = cpu_us;
        let was_resting = std::mem::take(&mut self.resting);
        let counts = place.processes().into_iter().chain(init).filter_map(|pid| Some((pid, written_bytes(pid)?)));
        let counts: BTreeMap<u32, u64> = counts.collect();
        let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (grown, span_us) = (self.meter.grown(counts), now_us.saturating_sub(self.looked_us));
        self.looked_us = now_us;
        self.bucket.take(grown, now_us);
        let debt_ms = self.bucket.wait_us(now_us) / 1_000;
        let cost = begun.elapsed() * COST_SHARE;
        let wait = match (debt_ms, was_resting) {
            (0, _) => {
                self.rest_ms = REST_MS_MIN;
                let room = self.bucket.room_bytes(now_us);
                let ms = if grown == 0 { idle_ms(room) } else { look_ms(room, grown, span_us) };
                Duration::from_millis(ms).max(cost)
            }
            (_, true) => Duration::from_millis(BREATH_MS).max(cost),
            (ms, false) => {
                self.resting = true;
                let rest_ms = ms.clamp(1, self.rest_ms);
                self.rest_ms = (self.rest_ms * 2).min(REST_MS_MAX);
                Duration::from_millis(rest_ms)
            }
        };
        self.next_at = Instant::now() + wait;
        self.apply();
        self.resting
    }

    fn apply(&mut self) {
        let wanted = self.held || self.resting || self.ordered;
        if wanted == self.frozen {
            return;
        }
        let done = match &self.place {
            Some(place) => place.freeze(wanted),
            None => self.brake.set(wanted),
        };
        match done {
            Ok(()) => self.frozen = wanted,
            Err(e) => eprintln!("shim: freeze the application ({wanted}): {e}"),
        }
    }
}

/// Until the next look, where `grown` bytes in the last `span_us` leave `room_bytes`.
fn look_ms(room_bytes: u64, grown: u64, span_us: u64) -> u64 {
    let used_up_us = u128::from(room_bytes) * u128::from(span_us) / u128::from(grown.max(1));
    u64::try_from(used_up_us / 1_000).unwrap_or(LOOK_MS).clamp(LOOK_MS_MIN, LOOK_MS)
}

/// Whether an application did too little since the last look, `since_us` ago, to have written much: what it did is counted by the next.
fn is_still(before_us: Option<u64>, now_us: Option<u64>, since_us: u64) -> bool {
    let used = before_us.zip(now_us).map(|(before, now)| now.abs_diff(before));
    since_us < STILL_US_MAX && used.is_some_and(|us| us < STILL_CPU_US)
}

/// Until the next look at one that wrote nothing lately.
fn idle_ms(room_bytes: u64) -> u64 {
    (room_bytes / IDLE_BYTES_PER_MS).clamp(LOOK_MS, LOOK_MS_IDLE)
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_the_burst_is_used_up_the_sooner_it_looks_again() {
        const MIB: u64 = 1 << 20;
        assert_eq!(look_ms(256 * MIB, 0, 100_000), LOOK_MS);
        assert_eq!(look_ms(256 * MIB, 64 * MIB, 100_000), LOOK_MS);
        assert_eq!(look_ms(128 * MIB, 256 * MIB, 100_000), 50);
        assert_eq!(look_ms(MIB, 256 * MIB, 100_000), LOOK_MS_MIN);
        assert_eq!(look_ms(u64::MAX, u64::MAX, u64::MAX), LOOK_MS);
    }

    #[test]
    fn one_that_writes_nothing_is_looked_at_less_often_as_far_as_its_burst_lasts() {
        const MIB: u64 = 1 << 20;
        assert_eq!(
            [1, 64, 150, 256, 4_096].map(|room| idle_ms(room * MIB)),
            [LOOK_MS, LOOK_MS, 150, LOOK_MS_IDLE, LOOK_MS_IDLE]
        );
    }

    #[test]
    fn one_that_does_next_to_nothing_is_not_looked_through_each_time() {
        assert!(is_still(Some(500), Some(500 + STILL_CPU_US - 1), STILL_US_MAX - 1));
        assert!(!is_still(Some(500), Some(500 + STILL_CPU_US), 1) && !is_still(Some(500), Some(500), STILL_US_MAX));
        assert!(
            !is_still(None, Some(500), 1) && !is_still(Some(500), None, 1),
            "where nothing is known it is looked at"
        );
        assert!(!is_still(Some(900_000), Some(0), 1), "another group");
    }

    #[test]
    fn what_a_child_wrote_counts_once_whoever_inherits_it() {
        let mut meter = Meter::default();
        assert_eq!(meter.grown(BTreeMap::from([(1, 0), (2, 100)])), 100);
        assert_eq!(meter.grown(BTreeMap::from([(1, 0), (2, 150)])), 50);
        // 2 wrote 30 more, ended, and was reaped by 1.
        assert_eq!(meter.grown(BTreeMap::from([(1, 180)])), 30);
        // Nobody reaped this one: it hides nothing of what a new one writes.
        assert_eq!(meter.grown(BTreeMap::from([(1, 180), (3, 70)])), 70);
        assert_eq!(meter.grown(BTreeMap::from([(1, 180), (4, 70)])), 70);
        // A number that was given out again begins anew.
        assert_eq!(meter.grown(BTreeMap::from([(1, 180), (4, 20)])), 20);
    }
}
