//! When requests are due: phases of a rate, level or rising, with even or Poisson gaps.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    pub name: String,
    pub duration: Duration,
    /// Requests a second at its beginning and end; the rate changes evenly between.
    pub rate_from: f64,
    pub rate_to: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    Even,
    /// Exponential gaps, as from many independent users.
    Poisson,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub phases: Vec<Phase>,
    pub gaps: Gaps,
    pub seed: u64,
}

/// One request is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Since the start of the run.
    pub at: Duration,
    pub phase: u16,
}

impl Schedule {
    pub fn new(gaps: Gaps, seed: u64) -> Self {
        Self { phases: Vec::new(), gaps, seed }
    }

    #[must_use]
    pub fn level(self, name: &str, duration: Duration, rate: f64) -> Self {
        self.ramp(name, duration, rate, rate)
    }

    #[must_use]
    pub fn ramp(mut self, name: &str, duration: Duration, rate_from: f64, rate_to: f64) -> Self {
        let (rate_from, rate_to) = (rate_from.max(0.0), rate_to.max(0.0));
        self.phases.push(Phase { name: name.into(), duration, rate_from, rate_to });
        self
    }

    pub fn duration(&self) -> Duration {
        self.phases.iter().map(|p| p.duration).sum()
    }

    /// When the phase of that name begins.
    pub fn begins(&self, name: &str) -> Option<Duration> {
        let index = self.phases.iter().position(|p| p.name == name)?;
        Some(self.phases.iter().take(index).map(|p| p.duration).sum())
    }

    /// The phase at a time since the start, and its number; None when all are over.
    pub fn phase_at(&self, at: Duration) -> Option<(usize, &Phase)> {
        let mut end = Duration::ZERO;
        self.phases.iter().enumerate().find(|(_, p)| {
            end += p.duration;
            at < end
        })
    }

    /// The same arrivals each time, in order.
    pub fn arrivals(&self) -> Arrivals<'_> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let next = gap(self.gaps, &mut rng);
        Arrivals { schedule: self, rng, phase: 0, begins: Duration::ZERO, next }
    }
}

fn gap(gaps: Gaps, rng: &mut SmallRng) -> f64 {
    match gaps {
        Gaps::Even => 1.0,
        Gaps::Poisson => -(1.0 - rng.random::<f64>()).ln(),
    }
}

#[derive(Debug)]
pub struct Arrivals<'a> {
    schedule: &'a Schedule,
    rng: SmallRng,
    phase: usize,
    begins: Duration,
    /// Expected requests from the phase's beginning to the next arrival.
    next: f64,
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            let phase = self.schedule.phases.get(self.phase)?;
            let seconds = phase.duration.as_secs_f64();
            let whole = (phase.rate_from + phase.rate_to) / 2.0 * seconds;
            if self.next < whole {
                let at = self.begins + Duration::from_secs_f64(phase.when(self.next).clamp(0.0, seconds));
                self.next += gap(self.schedule.gaps, &mut self.rng);
                return Some(Arrival { at, phase: u16::try_from(self.phase).unwrap_or(u16::MAX) });
            }
            self.next -= whole;
            self.begins += phase.duration;
            self.phase += 1;
        }
    }
}

impl Phase {
    /// Seconds after which `n` requests are expected.
    fn when(&self, n: f64) -> f64 {
        let half_slope = (self.rate_to - self.rate_from) / (2.0 * self.duration.as_secs_f64());
        if half_slope.abs() < 1e-9 {
            return n / self.rate_from;
        }
        let root = (self.rate_from * self.rate_from + 4.0 * half_slope * n).max(0.0).sqrt();
        (root - self.rate_from) / (2.0 * half_slope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn even_gaps_follow_the_rate() {
        let schedule = Schedule::new(Gaps::Even, 1).level("a", 2 * S, 10.0).level("none", S, 0.0).level("b", S, 100.0);
        let all: Vec<_> = schedule.arrivals().collect();
        assert_eq!(all.iter().filter(|a| a.phase == 0).count(), 19, "the first is due one gap after the start");
        assert_eq!(all.iter().filter(|a| a.phase == 1).count(), 0);
        assert_eq!(all.iter().filter(|a| a.phase == 2).count(), 100);
        assert!(all.windows(2).all(|w| w[0].at <= w[1].at));
        assert_eq!(schedule.begins("b"), Some(3 * S));
    }

    #[test]
    fn a_ramp_rises_evenly() {
        let schedule = Schedule::new(Gaps::Even, 1).ramp("up", 10 * S, 0.0, 100.0);
        let at: Vec<_> = schedule.arrivals().map(|a| a.at).collect();
        assert_eq!(at.len(), 499);
        let first_half = at.iter().filter(|&&a| a < 5 * S).count();
        assert!((123..=126).contains(&first_half), "{first_half}");
    }

    #[test]
    fn poisson_is_seeded_and_has_the_rate() {
        let schedule = |seed| Schedule::new(Gaps::Poisson, seed).level("a", 100 * S, 100.0);
        let (one, same, other) = (schedule(1), schedule(1), schedule(2));
        assert!(one.arrivals().eq(same.arrivals()));
        assert!(!one.arrivals().eq(other.arrivals()));
        let n = one.arrivals().count();
        assert!((9_500..=10_500).contains(&n), "{n}");
    }
}
