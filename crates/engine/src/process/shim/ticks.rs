//! When the timers of an idle shim come: several at one instant, so that they wake it once.
//!
//! Enters: now, after how long. Leaves: an instant of a grid.
//! Always holds: what is asked for at least a tick ahead comes at most half a tick sooner or later.

use std::time::Duration;
use tokio::time::Instant;

/// tokio keeps timers of more than 64 ms in slots of 64 ms, counted from the runtime's start: one that is due at the start of a slot
/// needs one wake-up, any other two.
const TICK_MS: u64 = 256;

#[derive(Debug, Clone, Copy)]
pub(in crate::process) struct Ticks(Instant);

impl Ticks {
    /// Just before the runtime is made.
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }

    pub(in crate::process) fn after(self, now: Instant, ms: u64) -> Instant {
        if ms < TICK_MS {
            return now + Duration::from_millis(ms);
        }
        let due_ms = u64::try_from(now.duration_since(self.0).as_millis()).unwrap_or(u64::MAX).saturating_add(ms);
        let tick = due_ms.saturating_add(TICK_MS / 2) / TICK_MS;
        self.0 + Duration::from_millis(tick.saturating_mul(TICK_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_about_one_time_is_due_at_one_instant() {
        let ticks = Ticks::begin();
        let at = |ms| ticks.0 + Duration::from_millis(ms);
        assert_eq!(ticks.after(at(0), 256), at(256));
        assert_eq!(ticks.after(at(3), 1_000), at(1_024));
        assert_eq!(ticks.after(at(1_030), 1_000), at(2_048));
        assert_eq!(ticks.after(at(770), 256), at(1_024));
        assert_eq!(ticks.after(at(5), 100), at(105), "what is due soon is not put off");
        for (now, ms) in [(0, 256), (127, 300), (128, 999), (1_000, 60_000)] {
            let off = ticks.after(at(now), ms).duration_since(ticks.0).as_millis().abs_diff(u128::from(now + ms));
            assert!(off <= u128::from(TICK_MS / 2), "{now} + {ms}: {off} ms off");
        }
    }
}
