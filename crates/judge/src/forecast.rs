//! Where the arrivals go: growth that chance does not explain, carried on for as long as starting takes.
//!
//! Enters: readings of arrivals, now, how far to look. Leaves: a [`Forecast`]. Always holds: bounded memory; a stream without
//! growth has none; growth is carried on for at most twice as long as it has lasted; a jump is not taken for growth.

use pumasi_terms::BootMs;
use serde::{Deserialize, Serialize};

/// Readings kept: a minute of half seconds.
const READINGS_MAX: usize = 128;
const KEEP_MS: u64 = 60_000;
/// Growth shows in so many readings at least.
const READINGS_MIN: usize = 6;
/// Standard deviations that chance does not reach, of growth and of level.
const GROWTH_SIGMAS: f64 = 5.0;
/// How much better than by one jump the growth explains the readings, in variances.
const JUMP_MARGIN: f64 = 1.0;
/// Growth that pauses for so long has ended, ms.
const PAUSE_MS: u64 = 5_000;
/// The level is taken over so long at most, ms.
const LEVEL_MS: u64 = 10_000;
/// A level is forgotten over so long, ms.
const FLOOR_AGES_MS: u64 = 600_000;
/// A level so far above what came lately has risen, percent.
const RISEN_PERCENT: u64 = 110;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reading {
    at: BootMs,
    span_ms: u64,
    arrivals_mps: u64,
}

/// What is remembered of the arrivals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trend {
    readings: Vec<Reading>,
    grows_since: Option<BootMs>,
    grew_at: BootMs,
    /// What came at least lately; rises slowly to what comes, thousandths a second.
    floor_mps: Option<u64>,
    /// How much the arrivals scatter (index of dispersion), thousandths; 0: as those of independent users.
    scatter_milli: u64,
}

/// What is expected, arrivals in thousandths a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Now, smoothed.
    pub level_mps: u64,
    /// The level is above this for certain.
    pub level_low_mps: u64,
    /// The level has risen lately, however slowly.
    pub risen: bool,
    /// Growth, thousandths a second each second; 0 where chance explains it.
    pub growth_mps2: u64,
    pub expected_mps: u64,
}

impl Trend {
    /// Takes what arrived in the `span_ms` before `at`. Overlapping readings are passed over.
    pub fn read(&mut self, at: BootMs, span_ms: u64, arrivals_mps: u64) {
        if self.readings.last().is_some_and(|last| at.since(last.at) < span_ms) || span_ms == 0 {
            return;
        }
        self.readings.retain(|r| at.since(r.at) < KEEP_MS);
        if self.readings.len() >= READINGS_MAX {
            self.readings.remove(0);
        }
        self.readings.push(Reading { at, span_ms, arrivals_mps });
        self.follow(at);
        self.sink(at, span_ms);
    }

    /// How much the arrivals scatter beside those of independent users, from now on.
    pub fn scatters(&mut self, index: f64) {
        self.scatter_milli = (index * 1e3) as u64;
    }

    fn scatter(&self) -> f64 {
        f64::max(self.scatter_milli as f64 / 1e3, 1.0)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn grows(&self) -> bool {
        self.grows_since.is_some()
    }

    /// Keeps since when it grows.
    fn follow(&mut self, at: BootMs) {
        match self.growth() {
            Some(line) => {
                let seen_since = BootMs(at.0.saturating_sub(line.span_ms));
                self.grows_since = Some(self.grows_since.map_or(seen_since, |since| since.min(seen_since)));
                self.grew_at = at;
            }
            None if at.since(self.grew_at) > PAUSE_MS => self.grows_since = None,
            None => {}
        }
    }

    fn sink(&mut self, at: BootMs, span_ms: u64) {
        if self.readings.first().is_none_or(|first| at.since(first.at) < LEVEL_MS) {
            return;
        }
        let (mean_mps, _) = self.level();
        let level = mean_mps as u64;
        let floor = self.floor_mps.unwrap_or(level).min(level);
        let rise = u128::from(level - floor) * u128::from(span_ms.min(FLOOR_AGES_MS)) / u128::from(FLOOR_AGES_MS);
        self.floor_mps = Some(floor.saturating_add(u64::try_from(rise).unwrap_or(0)));
    }

    /// Mean of the last readings, and the mean that they show for certain.
    fn level(&self) -> (f64, f64) {
        let last = self.readings.last().map_or(BootMs(0), |r| r.at);
        let recent = self.readings.iter().rev().take_while(|r| last.since(r.at) < LEVEL_MS);
        let (mut events, mut span_ms) = (0.0, 0.0);
        for r in recent {
            events += r.arrivals_mps as f64 * r.span_ms as f64 / 1e6;
            span_ms += r.span_ms as f64;
        }
        let per = 1e6 / f64::max(span_ms, 1.0);
        (events * per, (events - GROWTH_SIGMAS * (events * self.scatter()).sqrt()) * per)
    }

    /// The shortest past that shows growth.
    fn growth(&self) -> Option<Line> {
        let lengths = std::iter::successors(Some(READINGS_MIN), |n| Some(n + n.div_ceil(4)));
        lengths
            .take_while(|n| *n <= self.readings.len())
            .map(|n| Line::through(&self.readings[self.readings.len() - n..], self.scatter()))
            .find(|line| line.is_growth())
    }

    /// The highest second of the last minute, thousandths a second.
    pub fn highest_mps(&self) -> u64 {
        let pairs = self.readings.windows(2).map(|w| {
            let spans = w[0].span_ms.saturating_add(w[1].span_ms).max(1);
            let sum = u128::from(w[0].arrivals_mps) * u128::from(w[0].span_ms)
                + u128::from(w[1].arrivals_mps) * u128::from(w[1].span_ms);
            u64::try_from(sum / u128::from(spans)).unwrap_or(u64::MAX)
        });
        pairs.max().unwrap_or(0)
    }

    /// What arrives `ahead_ms` after the last reading; None before there are readings.
    pub fn forecast(&self, ahead_ms: u64) -> Option<Forecast> {
        let last = self.readings.last()?;
        let (mean_mps, low_mps) = self.level();
        let flat = Forecast {
            level_mps: mean_mps as u64,
            level_low_mps: low_mps as u64,
            risen: self.floor_mps.is_some_and(|floor| low_mps * 100.0 > floor as f64 * RISEN_PERCENT as f64),
            growth_mps2: 0,
            expected_mps: mean_mps as u64,
        };
        let Some((line, since)) = self.growth().zip(self.grows_since) else { return Some(flat) };
        let lasted_ms = last.at.since(since);
        let carried_s = ahead_ms.min(lasted_ms.saturating_mul(2)) as f64 / 1_000.0;
        let level = f64::max(line.level_mps, mean_mps);
        Some(Forecast {
            level_mps: level as u64,
            growth_mps2: line.slope_mps2 as u64,
            expected_mps: (level + line.certain_mps2() * carried_s) as u64,
            ..flat
        })
    }
}

/// A line through readings, by least squares.
#[derive(Debug, Clone, Copy)]
struct Line {
    span_ms: u64,
    /// At the end.
    level_mps: f64,
    slope_mps2: f64,
    /// Slope in its standard deviations.
    sigmas: f64,
    /// What the best single jump leaves unexplained more than the line, in variances.
    over_jump: f64,
}

impl Line {
    fn through(readings: &[Reading], scatter: f64) -> Self {
        let n = readings.len() as f64;
        let end = readings.last().map_or(BootMs(0), |r| r.at);
        let x = |r: &Reading| -(end.since(r.at) as f64 + r.span_ms as f64 / 2.0) / 1_000.0;
        let y = |r: &Reading| r.arrivals_mps as f64;
        let span_s = readings.iter().map(|r| r.span_ms as f64).sum::<f64>() / n / 1_000.0;
        let (mx, my) = (readings.iter().map(x).sum::<f64>() / n, readings.iter().map(y).sum::<f64>() / n);
        let (mut sxx, mut sxy, mut syy) = (0.0, 0.0, 0.0);
        for r in readings {
            let (dx, dy) = (x(r) - mx, y(r) - my);
            (sxx, sxy, syy) = (sxx + dx * dx, sxy + dx * dy, syy + dy * dy);
        }
        let slope = if sxx > 0.0 { sxy / sxx } else { 0.0 };
        let left_by_line = f64::max(syy - slope * sxy, 0.0);
        // Counts of a second vary by their own number at least; what comes in bunches varies more.
        let by_count = scatter * f64::max(my, 1_000.0) * 1_000.0 / f64::max(span_s, 0.001);
        let variance = f64::max(by_count, left_by_line / (n - 2.0));
        let (mut left_sum, mut by_jump) = (0.0, 0.0_f64);
        for (i, r) in readings.iter().enumerate().take(readings.len() - 1) {
            left_sum += y(r) - my;
            let k = i as f64 + 1.0;
            by_jump = by_jump.max(left_sum * left_sum * n / (k * (n - k)));
        }
        Self {
            span_ms: readings.first().map_or(0, |r| end.since(r.at).saturating_add(r.span_ms)),
            level_mps: my - slope * mx,
            slope_mps2: slope,
            sigmas: slope * (sxx / variance).sqrt(),
            over_jump: (syy - by_jump - left_by_line) / by_count,
        }
    }

    /// The growth less its standard deviation. The shortest past that shows growth was chosen for showing much of it: its slope errs
    /// upwards, and what is carried on would grow with that error.
    fn certain_mps2(&self) -> f64 {
        self.slope_mps2 * (1.0 - 1.0 / f64::max(self.sigmas, 1.0))
    }

    fn is_growth(&self) -> bool {
        self.slope_mps2 > 0.0 && self.sigmas >= GROWTH_SIGMAS && self.over_jump >= JUMP_MARGIN
    }
}
