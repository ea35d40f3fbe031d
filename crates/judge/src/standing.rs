//! A queue that stands: evidence of overload that needs no more arrivals than answers.
//!
//! Clients that wait for their answers before they ask again never send more than is answered, however many they are: what tells
//! them from chance is a queue that does not go away. A load of four fifths also has queues. How improbable a queue is for it is
//! counted in nats, from three things that are independent of each other: how high it is, for how long it stands, and how evenly.
//!
//! Enters: gauges of the queue. Leaves: whether it drains, how much it weighs. Always holds: bounded memory; no clock.

use pumasi_terms::BootMs;
use serde::{Deserialize, Serialize};

/// Readings kept: those of so long, this many at most.
const KEEP_MS: u64 = 5_000;
const READINGS_MAX: usize = 64;
/// It drains if it is below this part of its height in so long, percent.
const DRAINING_PERCENT: u64 = 90;
const DRAINING_MS: u64 = 300;
/// It also drains if it sinks for so long by this part of what comes.
const SINKING_MS: u64 = 2_000;
const SINKING: f64 = 0.05;
/// A queue stands for so many readings at least.
const STANDING_READINGS: usize = 4;
/// The load that is left alone: so much of what the instances can do.
const STEADY: f64 = 0.8;
/// Differences that are smaller than chance makes them count down to this part.
const EVENNESS_MIN: f64 = 0.02;
/// Arrivals that make a difference worth comparing with chance.
const ARRIVALS_A_READING: f64 = 4.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reading {
    at: BootMs,
    queued: u64,
    /// Waiting and at work.
    inside: u64,
    arrivals_mps: u64,
}

/// The last gauges of the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Queue {
    readings: Vec<Reading>,
}

impl Queue {
    pub(crate) fn read(&mut self, at: BootMs, queued: u64, in_flight: u64, arrivals_mps: u64) {
        self.readings.retain(|r| at.since(r.at) <= KEEP_MS);
        if self.readings.len() >= READINGS_MAX {
            self.readings.remove(0);
        }
        let inside = queued.saturating_add(in_flight);
        self.readings.push(Reading { at, queued, inside, arrivals_mps });
    }

    /// It sinks: by a part of its height at once, or slowly, by a twentieth of what is answered and more than chance makes.
    pub(crate) fn draining(&self) -> bool {
        let Some(last) = self.readings.last() else { return false };
        let within = |ms: u64| self.readings.iter().filter(move |r| last.at.since(r.at) <= ms);
        let height = within(DRAINING_MS).map(|r| r.queued).max().unwrap_or(0);
        let Some(first) = within(SINKING_MS).next() else { return false };
        let came = last.arrivals_mps as f64 * last.at.since(first.at) as f64 / 1e6;
        let sank = first.queued as f64 - last.queued as f64;
        u128::from(last.queued) * 100 < u128::from(height) * u128::from(DRAINING_PERCENT)
            || (sank > came * SINKING && sank > (2.0 * came).sqrt())
    }

    /// How improbable the queue since `since` is under a load of four fifths that is as scattered as `scatter` says (variance of
    /// counts by their mean), nats: that of the most telling of its last parts.
    pub(crate) fn weight(&self, since: BootMs, scatter: f64) -> f64 {
        let hot = self.readings.partition_point(|r| r.at < since);
        let readings = &self.readings[hot..];
        let (mut weight, mut least) = (0.0, u64::MAX);
        let (mut differences, mut came) = (0.0, 0.0);
        for (n, pair) in readings.windows(2).rev().enumerate() {
            let (before, now) = (pair[0], pair[1]);
            least = least.min(before.queued).min(now.queued);
            differences += (now.inside as f64 - before.inside as f64).powi(2);
            came += now.arrivals_mps as f64 * now.at.since(before.at) as f64 / 1e6;
            if n + 1 < STANDING_READINGS {
                continue;
            }
            // Of M/M/c: a queue of n has the chance ρ^n, and stands by that of a random walk that ought to sink. What comes
            // in bunches makes higher ones.
            let height = least as f64 * (1.0 / STEADY).ln();
            let time = came * (1.0 - STEADY.sqrt()).powi(2);
            // Who asks again as soon as he is answered makes no difference at all; independent users make one of √came.
            let even = (differences / came.max(1.0)).clamp(EVENNESS_MIN, 1.0);
            let compared = ((n + 1) as f64).min(came / ARRIVALS_A_READING);
            let evenness = compared / 2.0 * (even - 1.0 - even.ln());
            weight = f64::max(weight, (height + time) * 2.0 / (1.0 + scatter.max(1.0)) + evenness);
        }
        weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(queued: &[u64], arrivals_per_second: u64) -> f64 {
        let mut queue = Queue::default();
        for (n, waiting) in queued.iter().enumerate() {
            queue.read(BootMs(100 * n as u64), *waiting, 4, arrivals_per_second * 1_000);
        }
        queue.weight(BootMs(0), 1.0)
    }

    #[test]
    fn height_time_and_evenness_weigh() {
        assert!(weight(&[60; 5], 100) > 16.0, "{}", weight(&[60; 5], 100));
        assert!(weight(&[6; 5], 100) < 10.0, "{}", weight(&[6; 5], 100));
        assert!(weight(&[6; 20], 100) > 16.0, "{}", weight(&[6; 20], 100));
        let scattered = [12, 17, 9, 14, 6, 11, 16, 8, 13, 18];
        assert!(weight(&scattered, 100) < 4.0, "{}", weight(&scattered, 100));
        assert!(weight(&[6; 60], 0).abs() < 2.0, "where nobody comes nothing is even: {}", weight(&[6; 60], 0));
        assert!(weight(&[60, 60], 100).abs() < f64::EPSILON, "two readings are none");
    }

    #[test]
    fn it_is_bounded() {
        let mut queue = Queue::default();
        (0..10_000).for_each(|n| queue.read(BootMs(n), u64::MAX, u64::MAX, u64::MAX));
        assert!(queue.readings.len() <= READINGS_MAX && queue.weight(BootMs(0), 1.0).is_finite());
    }
}
