//! How much arrivals scatter beside those of independent users.
//!
//! The index of dispersion of counts: their variance by their mean. It is 1 where each request comes for itself, and about n where
//! requests come n at once (a page with all that is on it, retries, batches). Chance is as much greater, and so is what it hides.
//!
//! Enters: readings of arrivals. Leaves: the index. Always holds: at least 1; steady growth is no scatter; a jump counts little.

use pumasi_terms::BootMs;
use serde::{Deserialize, Serialize};

/// What is remembered fades over so many readings: a minute.
const FADES: f64 = 120.0;
/// Without this part of what is remembered arrivals count as those of independent users.
const READINGS_PART: f64 = 2.0;
/// A difference counts as one of so many standard deviations at most: the rest is a jump.
const SIGMAS_MAX: f64 = 3.0;
/// The index is that of independent users if it differs from theirs by less than so many of an estimate's own deviations.
const NOTICED: f64 = 5.0;
/// Counts are also compared over so many readings: what scatters slowly.
const SLOW: u32 = 4;

/// Counts of one length, in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Scale {
    /// The last two counts, the older first.
    before: [Option<u64>; 2],
    /// Fading mean of the squares of second differences, each by what it would be for independent users.
    mean: u64,
    seen: u32,
}

impl Scale {
    fn read(&mut self, count: u64, fades: f64) {
        if let [Some(a), Some(b)] = self.before {
            let (a, b, now) = (a as f64 / 1e3, b as f64 / 1e3, count as f64 / 1e3);
            // Of independent counts: (1 + 4 + 1) times their variance; of a straight line: nothing.
            let expected = f64::max(a + 4.0 * b + now, 1.0);
            let (times, most) = ((a - 2.0 * b + now).powi(2) / expected, SIGMAS_MAX.powi(2) * self.index());
            self.seen = self.seen.saturating_add(1);
            let mean = self.mean as f64 / 1e3;
            self.mean = ((mean + (times.min(most) - mean) / f64::from(self.seen).min(fades)) * 1e3) as u64;
            if times > most {
                // Else a jump would count in each difference that it is part of.
                self.before = [None; 2];
            }
        }
        self.before = [self.before[1], Some(count)];
    }

    fn index(&self) -> f64 {
        f64::max(self.mean as f64 / 1e3, 1.0)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scatter {
    last_at: Option<BootMs>,
    fast: Scale,
    slow: Scale,
    /// Summed for the slow scale, and of how many readings.
    sum: u64,
    summed: u32,
}

impl Scatter {
    /// Takes what arrived in the `span_ms` before `at`. Overlapping readings are passed over.
    pub(crate) fn read(&mut self, at: BootMs, span_ms: u64, arrivals_mps: u64) {
        if self.last_at.is_some_and(|last| at.since(last) < span_ms) || span_ms == 0 {
            return;
        }
        self.last_at = Some(at);
        let count = u64::try_from(u128::from(arrivals_mps) * u128::from(span_ms) / 1_000).unwrap_or(u64::MAX);
        self.fast.read(count, FADES);
        (self.sum, self.summed) = (self.sum.saturating_add(count), self.summed + 1);
        if self.summed >= SLOW {
            self.slow.read(self.sum, FADES / f64::from(SLOW));
            (self.sum, self.summed) = (0, 0);
        }
    }

    /// What comes now is not what comes usually: comparing begins anew afterwards, what is known stays.
    pub(crate) fn pause(&mut self) {
        (self.fast.before, self.slow.before) = ([None; 2], [None; 2]);
        (self.last_at, self.sum, self.summed) = (None, 0, 0);
    }

    pub(crate) fn index(&self) -> f64 {
        let of = |scale: &Scale, fades: f64| {
            let noticed = 1.0 + NOTICED / f64::from(scale.seen).min(fades).sqrt();
            if scale.index() < noticed || f64::from(scale.seen) < fades / READINGS_PART { 1.0 } else { scale.index() }
        };
        f64::max(of(&self.fast, FADES), of(&self.slow, FADES / f64::from(SLOW)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Chance(u64);
    impl Chance {
        fn unit(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        }
        fn poisson(&mut self, mean: f64) -> u64 {
            let (limit, mut product, mut n) = ((-mean).exp(), self.unit(), 0);
            while product > limit {
                (product, n) = (product * self.unit(), n + 1);
            }
            n
        }
    }

    fn index(seed: u64, seconds: u64, bunch: u64, rate: impl Fn(f64) -> f64) -> f64 {
        let (mut scatter, mut chance) = (Scatter::default(), Chance(seed));
        for n in 1..=seconds * 2 {
            let arrived = chance.poisson(rate(n as f64 / 2.0) / 2.0 / bunch as f64) * bunch;
            scatter.read(BootMs(n * 500), 500, arrived * 2_000);
        }
        scatter.index()
    }

    #[test]
    fn bunches_scatter_and_independent_users_do_not() {
        for seed in 1..20 {
            for rate in [5.0, 80.0, 600.0] {
                assert!(index(seed, 300, 1, |_| rate) < 1.8, "seed {seed}, {rate}/s");
            }
            for bunch in [4, 10, 30] {
                let seen = index(seed, 300, bunch, |_| 80.0) / bunch as f64;
                assert!((0.5..2.0).contains(&seen), "seed {seed}, {bunch} at once: {seen}");
            }
        }
    }

    #[test]
    fn growth_and_jumps_are_no_scatter() {
        for seed in 1..20 {
            let grown = index(seed, 120, 1, |t| 20.0 + 10.0 * f64::max(t - 60.0, 0.0));
            assert!(grown < 1.8, "seed {seed}: {grown}");
            let jumped = index(seed, 70, 1, |t| if t < 60.0 { 50.0 } else { 400.0 });
            assert!(jumped < 5.0, "seed {seed}: {jumped}");
        }
    }
}
