//! The last hour of each service in memory, so that whoever opens a chart because of an alarm sees what it was about.
//!
//! Enters: what was seen of a service, several times a second. Leaves: a point each five seconds.
//! Always holds: at most an hour of at most [`SERVICES_MAX`] services; it hangs on a service's id, so that a later one of the same name
//! begins empty; points are in the order of their time, also after the clock was set back.

use super::served_by;
use pumasi_api::console::TrafficPoint;
use pumasi_sense::Observation;
use pumasi_terms::{CloudName, WallMs};
use std::collections::{BTreeMap, VecDeque};

pub const EVERY_MS: u64 = 5_000;
const SPAN_MS: u64 = 3_600_000;
const POINTS_MAX: usize = (SPAN_MS / EVERY_MS) as usize;
/// About 100 KB each where three clouds serve. One more, and the service that was silent the longest is forgotten.
const SERVICES_MAX: usize = 256;

/// One look at a service.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub arrivals_mps: u64,
    pub shed_mps: u64,
    pub failed_mps: u64,
    /// None: no delay was measured.
    pub queue_delay_p95_us: Option<u64>,
    pub served_by: BTreeMap<CloudName, u64>,
}

impl Seen {
    pub fn of(seen: &Observation, here: &CloudName) -> Self {
        Self {
            arrivals_mps: seen.arrivals_mps,
            shed_mps: seen.shed_mps,
            failed_mps: seen.failed_mps.saturating_add(seen.errors_mps),
            queue_delay_p95_us: (seen.queue_delay_samples > 0).then_some(seen.queue_delay_p95_us),
            served_by: served_by(seen, here),
        }
    }
}

#[derive(Debug, Default)]
pub struct History {
    lines: BTreeMap<String, Line>,
}

#[derive(Debug, Default)]
struct Line {
    points: VecDeque<TrafficPoint>,
    /// The span under way: when it began, sums, and of how many looks they are.
    at_ms: i64,
    sums: Seen,
    looks: u64,
}

impl Line {
    /// The span under way as it stands.
    fn point(&self) -> Option<TrafficPoint> {
        let mean = |sum: u64| sum.checked_div(self.looks);
        Some(TrafficPoint {
            at: WallMs(self.at_ms),
            arrivals_mps: mean(self.sums.arrivals_mps)?,
            shed_mps: mean(self.sums.shed_mps)?,
            failed_mps: mean(self.sums.failed_mps)?,
            queue_delay_p95_us: self.sums.queue_delay_p95_us,
            served_by: self.sums.served_by.iter().filter_map(|(c, sum)| Some((c.clone(), mean(*sum)?))).collect(),
        })
    }

    fn saw(&mut self, at_ms: i64, seen: &Seen) {
        if self.at_ms != at_ms {
            self.points.extend(self.point());
            (self.at_ms, self.sums, self.looks) = (at_ms, Seen::default(), 0);
            // The clock was set back: what it said before is in nobody's past.
            while self.points.back().is_some_and(|p| p.at.0 >= at_ms) {
                self.points.pop_back();
            }
            while self.points.len() >= POINTS_MAX {
                self.points.pop_front();
            }
        }
        self.looks += 1;
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.sums.arrivals_mps, seen.arrivals_mps);
        add(&mut self.sums.shed_mps, seen.shed_mps);
        add(&mut self.sums.failed_mps, seen.failed_mps);
        self.sums.queue_delay_p95_us = self.sums.queue_delay_p95_us.max(seen.queue_delay_p95_us);
        for (cloud, more) in seen.served_by.iter().filter(|(_, mps)| **mps > 0) {
            add(self.sums.served_by.entry(cloud.clone()).or_default(), *more);
        }
    }
}

impl History {
    pub fn saw(&mut self, owner: &str, now: WallMs, seen: &Seen) {
        let every = EVERY_MS as i64;
        let at_ms = now.0.div_euclid(every) * every;
        if !self.lines.contains_key(owner) && self.lines.len() >= SERVICES_MAX {
            let silent = self.lines.iter().min_by_key(|(_, line)| line.at_ms).map(|(owner, _)| owner.clone());
            silent.and_then(|owner| self.lines.remove(&owner));
        }
        self.lines.entry(owner.to_owned()).or_default().saw(at_ms, seen);
    }

    /// The span under way is the last point.
    pub fn of(&self, owner: &str, now: WallMs) -> Vec<TrafficPoint> {
        let Some(line) = self.lines.get(owner) else { return Vec::new() };
        line.points.iter().cloned().chain(line.point()).filter(|p| now.since(p.at) < SPAN_MS).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: i64 = EVERY_MS as i64;

    fn seen(arrivals_mps: u64, delay: Option<u64>) -> Seen {
        let served_by = [("a".parse().unwrap(), arrivals_mps)].into();
        Seen { arrivals_mps, queue_delay_p95_us: delay, served_by, ..Seen::default() }
    }

    #[test]
    fn a_point_is_the_mean_of_its_rates_and_the_worst_of_its_delays() {
        let mut history = History::default();
        let at = 1_000 * EVERY;
        for (after, rate, delay) in [(0, 1_000, None), (1_200, 3_000, Some(70)), (4_999, 2_000, Some(9))] {
            history.saw("svc-1", WallMs(at + after), &seen(rate, delay));
        }
        history.saw("svc-1", WallMs(at + EVERY), &seen(500, None));
        let points = history.of("svc-1", WallMs(at + EVERY));
        assert_eq!(
            points.iter().map(|p| (p.at.0, p.arrivals_mps)).collect::<Vec<_>>(),
            [(at, 2_000), (at + EVERY, 500)]
        );
        assert_eq!((points[0].queue_delay_p95_us, points[1].queue_delay_p95_us), (Some(70), None));
        assert_eq!(points[0].served_by.values().copied().collect::<Vec<_>>(), [2_000]);
        assert!(history.of("svc-2", WallMs(at)).is_empty());
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut history = History::default();
        for n in 0..2_000 {
            history.saw("svc-1", WallMs(n * EVERY), &seen(n as u64, None));
        }
        let points = history.of("svc-1", WallMs(1_999 * EVERY));
        assert_eq!((points.len(), points[0].arrivals_mps, points[POINTS_MAX - 1].arrivals_mps), (720, 1_280, 1_999));
        // Of a service that nobody hears of any more the past goes, too.
        assert!(history.of("svc-1", WallMs(1_999 * EVERY + 3_600_000)).is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_the_points_in_order() {
        let mut history = History::default();
        for n in [10, 11, 12, 13, 11, 12] {
            history.saw("svc-1", WallMs(n * EVERY), &seen(n as u64, None));
        }
        let at: Vec<_> = history.of("svc-1", WallMs(13 * EVERY)).iter().map(|p| p.at.0 / EVERY).collect();
        assert_eq!(at, [10, 11, 12]);
    }

    #[test]
    fn of_too_many_services_the_longest_silent_is_forgotten() {
        let mut history = History::default();
        for n in 0..=SERVICES_MAX as i64 {
            history.saw(&format!("svc-{n}"), WallMs(n * EVERY), &seen(1, None));
        }
        assert_eq!(history.lines.len(), SERVICES_MAX);
        assert!(history.of("svc-0", WallMs(EVERY)).is_empty() && !history.of("svc-1", WallMs(EVERY)).is_empty());
    }
}
