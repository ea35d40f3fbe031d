//! What a judge remembers of one service between two observations. Bounded, and void after a reboot.

use crate::Refusal;
use crate::calm::Calm;
use crate::forecast::Trend;
use pumasi_terms::BootMs;
use serde::{Deserialize, Serialize};

/// Queue readings kept: those of the last third of a second, this many at most.
pub(crate) const READINGS_MAX: usize = 16;

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
    /// Ready at home and away, and since when.
    pub(crate) ready: (u32, u32),
    pub(crate) ready_at: BootMs,
    /// Recent gauges of the queue.
    pub(crate) queued: Vec<(BootMs, u64)>,
    pub(crate) hot: Option<Hot>,
    /// Smoothed arrivals, and those that must stay, thousandths a second: what a shrink is measured by.
    pub(crate) load: Option<(u64, u64)>,
    /// Fewer instances would do with room to spare, or just so.
    pub(crate) calm: Option<Calm>,
    pub(crate) tight: Option<Calm>,
    pub(crate) failing_since: Option<BootMs>,
    pub(crate) slow_since: Option<BootMs>,
    pub(crate) far_since: Option<BootMs>,
    pub(crate) well_since: Option<BootMs>,
    /// The refusal that was told and still holds.
    pub(crate) told: Option<Refusal>,
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
    /// What an instance was known to do when it began.
    pub(crate) reference_mps: u64,
    pub(crate) last_arrivals_mps: u64,
    /// Over the last ten seconds, fading, thousandths of a request: came, completed, completed at home, and what the
    /// instances (and those at home) would have completed before.
    pub(crate) came: u64,
    pub(crate) done: u64,
    pub(crate) done_home: u64,
    pub(crate) before: u64,
    pub(crate) before_home: u64,
}

impl Memory {
    /// The refusal that was told and still holds.
    pub fn told(&self) -> Option<Refusal> {
        self.told
    }
    /// Whether the service is pressed now, and since when.
    pub fn pressed_since(&self) -> Option<BootMs> {
        self.hot.as_ref().map(|h| h.since)
    }
}
