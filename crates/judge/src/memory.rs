//! What a judge remembers of one service between two observations. Bounded, and void after a reboot.

use crate::Refusal;
use crate::calm::Calm;
use crate::forecast::Trend;
use crate::scatter::Scatter;
use crate::standing::Queue;
use pumasi_terms::BootMs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    pub(crate) last_at: Option<BootMs>,
    pub(crate) generation: u64,
    /// What one home instance was seen to answer for seconds without waiting, thousandths a second. Ages over ten minutes.
    pub(crate) handled_mps: u64,
    /// What one home instance answers, smoothed.
    pub(crate) home_mps: Option<u64>,
    /// Last capacity of one instance that was told.
    pub(crate) capacity_mps: Option<u64>,
    /// Ready at home whatever the load is, and beyond that; since when.
    pub(crate) ready: (u32, u32),
    pub(crate) ready_at: BootMs,
    pub(crate) queue: Queue,
    pub(crate) hot: Option<Hot>,
    /// When it was pressed last.
    pub(crate) pressed_at: Option<BootMs>,
    /// Smoothed arrivals, and those that must stay, thousandths a second: what a shrink is measured by.
    pub(crate) load: Option<(u64, u64)>,
    /// Fewer instances would do with room to spare, or just so.
    pub(crate) calm: Option<Calm>,
    pub(crate) tight: Option<Calm>,
    pub(crate) failing_since: Option<BootMs>,
    pub(crate) slow_since: Option<BootMs>,
    pub(crate) far_since: Option<BootMs>,
    pub(crate) well_since: Option<BootMs>,
    /// The refusals that were told and may still hold.
    pub(crate) told: BTreeSet<Refusal>,
    pub(crate) grown_at: Option<BootMs>,
    pub(crate) shrunk_at: Option<BootMs>,
    /// Growths in a row that brought nothing.
    pub(crate) fruitless: u32,
    /// Shrinks that were taken back soon, as powers of two.
    pub(crate) caution: u32,
    pub(crate) caution_at: BootMs,
    /// What was asked for first and has not come yet, since when.
    pub(crate) asked_at: Option<BootMs>,
    /// From a verdict until what was borrowed served, as measured, ms.
    pub(crate) start_ms: Option<u64>,
    pub(crate) trend: Trend,
    pub(crate) scatter: Scatter,
}

/// The service is pressed: more waits than was promised, and it does not go away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hot {
    pub(crate) since: BootMs,
    pub(crate) idle_ms: u64,
    /// Arrivals since the evidence began, thousandths of a request.
    pub(crate) arrivals: u64,
    /// Of these, above nine tenths of what the instances can do.
    pub(crate) excess: u64,
    /// What an instance was known to do when it began, and what of it was seen without waiting.
    pub(crate) reference_mps: u64,
    pub(crate) handled_mps: u64,
    pub(crate) last_arrivals_mps: u64,
    pub(crate) answers: Answers,
    /// The same without what came before the queue did: for those who do not come until they are answered.
    pub(crate) settled: Answers,
}

/// Over the last ten seconds, fading, thousandths of a request: came, completed, completed at home, and what the instances (and
/// those at home) would have completed before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answers {
    pub(crate) came: u64,
    pub(crate) done: u64,
    pub(crate) done_home: u64,
    pub(crate) before: u64,
    pub(crate) before_home: u64,
}

/// What was completed while pressed is remembered for so long, ms.
pub(crate) const HOT_FADES_MS: u64 = 10_000;

impl Answers {
    pub(crate) fn add(&mut self, more: &Answers, span_ms: u64) {
        let fade = |sum: u64, more: u64| {
            let lost = u128::from(sum) * u128::from(span_ms.min(HOT_FADES_MS)) / u128::from(HOT_FADES_MS);
            (sum - u64::try_from(lost).unwrap_or(sum)).saturating_add(more)
        };
        *self = Self {
            came: fade(self.came, more.came),
            done: fade(self.done, more.done),
            done_home: fade(self.done_home, more.done_home),
            before: fade(self.before, more.before),
            before_home: fade(self.before_home, more.before_home),
        };
    }
}

impl Hot {
    /// How improbable so many arrivals are where nine tenths of what the instances can do were meant, nats (of a Poisson number).
    pub(crate) fn flood_nats(&self) -> f64 {
        let (came, excess) = (self.arrivals as f64 / 1e3, self.excess as f64 / 1e3);
        let meant = f64::max(came - excess, 0.5);
        came * f64::max(came / meant, 1.0).ln() - f64::max(came - meant, 0.0)
    }

    /// The part of a sum over `reference_mps` that was seen to be answered without waiting.
    pub(crate) fn handled_of(&self, sum: u64) -> u64 {
        let part = u128::from(sum) * u128::from(self.handled_mps) / u128::from(self.reference_mps.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}

impl Memory {
    /// Whether the service is pressed now, and since when.
    pub fn pressed_since(&self) -> Option<BootMs> {
        self.hot.as_ref().map(|h| h.since)
    }
}
