//! Limits that only hindsight knows: a policy that knew the load, and the best of a family tuned on the very same load, which
//! sees the true rate or, as every real policy, what came so far.
//!
//! Enters: arrivals, the start delay. Leaves: instances for each second. Always holds: what was ordered serves no sooner than
//! the start delay after its order, as for every other policy; a policy that counts decides by seconds that are over.

use super::Setting;
use super::arrivals::{Arrivals, TICKS_PER_S};

/// Instances for each second: serving, and held (with those that start).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    pub ready: Vec<u32>,
    pub held: Vec<u32>,
    pub scale_ups: u64,
}

impl Schedule {
    pub fn instance_seconds(&self) -> u64 {
        self.held.iter().map(|n| u64::from(*n)).sum()
    }

    /// Keeps what is wanted `start_s` later from now on: the orders behind the wants.
    fn of_wanted(wanted: &[u32], first: u32, start_s: usize) -> Self {
        let mut out = Self::default();
        for (s, now) in wanted.iter().enumerate() {
            // Serving: no more than was held without a break since the order.
            let from = s.saturating_sub(start_s);
            let kept = wanted[from..=s].iter().copied().min().unwrap_or(*now);
            let kept = if s < start_s { kept.min(first) } else { kept };
            out.scale_ups += u64::from(*now > s.checked_sub(1).map_or(first, |b| wanted[b]));
            out.ready.push(kept);
            out.held.push(*now);
        }
        out
    }
}

/// What a policy would do that knows every arrival beforehand: exactly enough in every second, ordered the start delay before,
/// and kept over a pause that is shorter than ordering anew.
pub fn clairvoyant(arrivals: &Arrivals<'_>, setting: &Setting, start_s: u64) -> Schedule {
    let start = start_s as usize;
    let need: Vec<u32> = (0..arrivals.seconds())
        .map(|s| {
            let ticks = s * TICKS_PER_S..(s + 1) * TICKS_PER_S;
            // Within the wait that is allowed the queue evens a second out; half of it must do.
            let half = (TICKS_PER_S / 2) as usize;
            let all: Vec<u64> = ticks.map(|t| arrivals.at(t)).collect();
            let most =
                all.chunks(half).map(|c| c.iter().sum::<u64>() * TICKS_PER_S / c.len() as u64).max().unwrap_or(0);
            u32::try_from((most * 1_000).div_ceil(setting.instance_mps.max(1))).unwrap_or(u32::MAX).max(setting.home)
        })
        .collect();
    let most = need.iter().copied().max().unwrap_or(setting.home);
    let mut held = vec![setting.home; need.len()];
    let mut ready = held.clone();
    let mut scale_ups = 0;
    // Each instance above home for itself: where it serves, and where it is held for that.
    for level in setting.home + 1..=most {
        let mut end: Option<usize> = None;
        for s in 0..need.len() {
            if need[s] < level {
                continue;
            }
            let from = match end {
                Some(end) if s - end <= start => end,
                _ => {
                    scale_ups += 1;
                    s.saturating_sub(start)
                }
            };
            held[from..=s].iter_mut().for_each(|n| *n += 1);
            let serves = if end == Some(from) { from } else { s };
            ready[serves..=s].iter_mut().for_each(|n| *n += 1);
            end = Some(s + 1);
        }
    }
    Schedule { ready, held, scale_ups }
}

/// What a policy of the family sees of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The rate behind the arrivals, each second as it begins.
    Rate,
    /// The arrivals of the seconds that are over.
    Counts,
}

/// A policy of the family: it looks each second.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Tuning {
    /// How full instances may be, percent.
    pub target_percent: u64,
    /// For how many start delays growth is carried on.
    pub carry: f64,
    /// How long a want is kept, s.
    pub hold_s: u64,
    /// Over how long a rate is taken, s.
    pub over_s: usize,
}

/// All that are tried.
pub fn family(sight: Sight) -> Vec<Tuning> {
    let lengths: &[usize] = match sight {
        Sight::Rate => &[1],
        Sight::Counts => &[1, 3, 6, 12, 30],
    };
    let mut all = Vec::new();
    for over_s in lengths.iter().copied() {
        for target_percent in (30..=95).step_by(5) {
            for carry in [0.0, 0.5, 1.0, 1.5, 2.0, 3.0] {
                for hold_s in [15, 60, 150, 300, 600, 1_200] {
                    all.push(Tuning { target_percent, carry, hold_s, over_s });
                }
            }
        }
    }
    all
}

/// The rate in the middle of each second.
pub fn rates(arrivals: &Arrivals<'_>) -> Vec<f64> {
    (0..arrivals.seconds()).map(|s| arrivals.rate(s * TICKS_PER_S + TICKS_PER_S / 2)).collect()
}

/// Rate and growth a second as they look at the beginning of each second, never less than no growth.
pub fn seen(arrivals: &Arrivals<'_>, rates: &[f64], sight: Sight, over_s: usize) -> Vec<(f64, f64)> {
    let growth = |now: f64, before: f64, apart_s: usize| f64::max(now - before, 0.0) / apart_s as f64;
    match sight {
        Sight::Rate => {
            let before = |s: usize| s.checked_sub(1).map_or(rates[s], |b| rates[b]);
            rates.iter().enumerate().map(|(s, rate)| (*rate, growth(*rate, before(s), 1))).collect()
        }
        Sight::Counts => {
            let count = |s: u64| (s * TICKS_PER_S..(s + 1) * TICKS_PER_S).map(|t| arrivals.at(t)).sum::<u64>() as f64;
            let mut sums = vec![0.0];
            for s in 0..arrivals.seconds() {
                sums.push(sums[s as usize] + count(s));
            }
            // Before the load came its first rate, as for all.
            let first = rates.first().copied().unwrap_or(0.0);
            let sum = |s: isize| usize::try_from(s).map_or(first * s as f64, |s| sums[s]);
            let mean = |end: isize| (sum(end) - sum(end - over_s as isize)) / over_s as f64;
            (0..rates.len() as isize).map(|s| (mean(s), growth(mean(s), mean(s - over_s as isize), over_s))).collect()
        }
    }
}

/// `seen`: rate and growth of each second.
pub fn tuned(seen: &[(f64, f64)], setting: &Setting, start_s: u64, tuning: Tuning) -> Schedule {
    let each = setting.instance_mps as f64 / 1_000.0 * tuning.target_percent as f64 / 100.0;
    let mut wanted = Vec::with_capacity(seen.len());
    let mut recent: std::collections::VecDeque<(usize, u32)> = Default::default();
    for (s, (rate, growth)) in seen.iter().enumerate() {
        let expected = rate + growth * tuning.carry * start_s as f64;
        let need = ((expected / each).ceil() as u32).max(setting.home);
        while recent.back().is_some_and(|(_, n)| *n <= need) {
            recent.pop_back();
        }
        recent.push_back((s, need));
        while recent.front().is_some_and(|(then, _)| (s - then) as u64 > tuning.hold_s) {
            recent.pop_front();
        }
        wanted.push(recent.front().map_or(need, |(_, n)| *n));
    }
    let first = wanted.first().copied().unwrap_or(setting.home);
    Schedule::of_wanted(&wanted, first, start_s as usize)
}

/// What is lost without noise: enough to choose by.
pub fn lost_without_noise(rates: &[f64], setting: &Setting, schedule: &Schedule) -> f64 {
    let (mut queue, mut lost) = (0.0, 0.0);
    for (rate, ready) in rates.iter().zip(&schedule.ready) {
        let can = f64::from(*ready) * setting.instance_mps as f64 / 1_000.0;
        queue = f64::max(queue + rate - can, 0.0);
        let may_wait = can * setting.wait_max_ms as f64 / 1_000.0;
        lost += f64::max(queue - may_wait, 0.0);
        queue = queue.min(may_wait);
    }
    lost
}
