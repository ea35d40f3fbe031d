//! Release: drain, return what belongs home, prove that nothing is left behind, settle.
//!
//! Enters: what is known of a part that shall end, now. Leaves: the step it is at; what to do follows from the step.
//! Always holds: nothing is stopped before it is drained; nothing is forgotten before it is proven empty, or its lender is known to be
//! gone past the lease's end; every step ends in bounded time.

use pumasi_lease::message::Emptiness;
use pumasi_terms::{BootMs, Now};
use serde::{Deserialize, Serialize};

/// Requests in flight are waited for so long.
pub const DRAIN_MS_MAX: u64 = 30_000;
/// Instances there are given so long to stop before the release is asked anyway.
pub const STOP_MS_MAX: u64 = 15_000;
/// Logs are worth so long.
pub const RETURN_MS_MAX: u64 = 5_000;
/// A lender that is silent past the lease's end is asked for proof so long.
pub const ERASE_MS_MAX: u64 = 600_000;
/// And for its signature.
pub const SETTLE_MS_MAX: u64 = 600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// No new requests; those in flight end.
    Draining,
    /// The lender stops the instances: renewals say that none is wanted.
    Stopping,
    /// Logs, and whatever else belongs home.
    Returning,
    /// The release is asked until the answer proves that nothing is left.
    Erasing,
    /// Both ledgers are compared and signed.
    Settling,
    Done,
}

/// What the lender has said since the end began. Only grows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Heard {
    pub returned: bool,
    /// The last answer to the release.
    pub emptiness: Option<Emptiness>,
    /// It knows no such lease: there is nothing to empty or to settle.
    pub unknown_there: bool,
    pub settled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseState {
    pub step: Step,
    /// When this step began.
    pub since: BootMs,
    pub heard: Heard,
}

/// What is observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The gateway sends it nothing more and waits for nothing from it.
    pub drained: bool,
    pub lender_instances: u32,
    /// Since its last word about this lease.
    pub lender_silent_ms: u64,
    /// By this side's clock: the lender has ended it by itself.
    pub lease_expired: bool,
}

impl ReleaseState {
    pub fn begin(now: Now) -> Self {
        Self { step: Step::Draining, since: now.boot, heard: Heard::default() }
    }

    /// Whether the lender has shown that nothing is left.
    pub fn proven(&self) -> bool {
        self.heard.unknown_there || self.heard.emptiness.as_ref().is_some_and(Emptiness::is_empty)
    }
}

/// The state after what is known now. It moves one way, possibly several steps at once.
#[must_use]
pub fn advance(state: &ReleaseState, facts: &Facts, now: Now) -> ReleaseState {
    let mut state = state.clone();
    // A clock that went back is another boot: the step's bound begins anew instead of lying far ahead.
    state.since = state.since.min(now.boot);
    while let Some(step) = next(&state, facts, now) {
        state.step = step;
        state.since = now.boot;
    }
    state
}

fn next(state: &ReleaseState, facts: &Facts, now: Now) -> Option<Step> {
    let spent_ms = now.boot.since(state.since);
    match state.step {
        // An expired lease serves nothing: waiting would only keep requests from their retry.
        Step::Draining => (facts.drained || facts.lease_expired || spent_ms >= DRAIN_MS_MAX).then_some(Step::Stopping),
        Step::Stopping => {
            (facts.lender_instances == 0 || facts.lease_expired || state.heard.unknown_there || spent_ms >= STOP_MS_MAX)
                .then_some(Step::Returning)
        }
        Step::Returning => {
            (state.heard.returned || state.heard.unknown_there || facts.lease_expired || spent_ms >= RETURN_MS_MAX)
                .then_some(Step::Erasing)
        }
        Step::Erasing if state.heard.unknown_there => Some(Step::Done),
        Step::Erasing if state.proven() => Some(Step::Settling),
        Step::Erasing => (facts.lease_expired && spent_ms >= ERASE_MS_MAX).then_some(Step::Done),
        Step::Settling => (state.heard.settled || spent_ms >= SETTLE_MS_MAX).then_some(Step::Done),
        Step::Done => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pumasi_terms::WallMs;

    fn at(ms: u64) -> Now {
        Now { boot: BootMs(ms), wall: WallMs(0) }
    }

    #[test]
    fn the_usual_way() {
        let mut state = ReleaseState::begin(at(0));
        let facts = Facts { lender_instances: 2, ..Facts::default() };
        assert_eq!(advance(&state, &facts, at(10)).step, Step::Draining);
        state = advance(&state, &Facts { drained: true, ..facts }, at(20));
        assert_eq!(state.step, Step::Stopping);
        state = advance(&state, &Facts { drained: true, ..Facts::default() }, at(30));
        assert_eq!(state.step, Step::Returning);
        state.heard.returned = true;
        state.heard.emptiness = Some(Emptiness { processes: 1, ..Emptiness::default() });
        state = advance(&state, &Facts::default(), at(40));
        assert_eq!(state.step, Step::Erasing, "a process is left");
        state.heard.emptiness = Some(Emptiness::default());
        state = advance(&state, &Facts::default(), at(50));
        assert_eq!(state.step, Step::Settling);
        state.heard.settled = true;
        state = advance(&state, &Facts::default(), at(60));
        assert!(state.step == Step::Done && state.proven());
    }

    #[test]
    fn a_reboot_does_not_put_the_bounds_off() {
        let late = ReleaseState::begin(at(9_000_000_000));
        let facts = Facts { lender_instances: 1, ..Facts::default() };
        let rebooted = advance(&late, &facts, at(5_000));
        assert_eq!((rebooted.step, rebooted.since), (Step::Draining, BootMs(5_000)));
        assert_eq!(advance(&rebooted, &facts, at(5_000 + DRAIN_MS_MAX)).step, Step::Stopping);
    }

    proptest! {
        #[test]
        fn whatever_is_known_it_ends_in_order(
            facts in prop::collection::vec((any::<[bool; 5]>(), 0u32..3, 0u64..20_000), 1..60),
        ) {
            let (mut state, mut now_ms) = (ReleaseState::begin(at(0)), 0);
            for ([drained, expired, returned, empty, settled], instances, ms) in facts {
                now_ms += ms;
                state.heard.returned |= returned;
                state.heard.settled |= settled && state.step == Step::Settling;
                let left = Emptiness { files: u64::from(!empty), ..Emptiness::default() };
                if state.step == Step::Erasing { state.heard.emptiness = Some(left) }
                let facts = Facts { drained, lender_instances: instances, lender_silent_ms: 0, lease_expired: expired };
                let before = state.clone();
                state = advance(&before, &facts, at(now_ms));
                prop_assert!(state.step >= before.step);
                if before.step == Step::Draining && state.step > Step::Draining {
                    prop_assert!(drained || expired || now_ms - before.since.0 >= DRAIN_MS_MAX);
                }
                if before.step <= Step::Erasing && state.step == Step::Settling {
                    prop_assert!(state.proven());
                }
            }
            let gone = Facts { lease_expired: true, ..Facts::default() };
            for _ in 0..6 {
                now_ms += ERASE_MS_MAX.max(SETTLE_MS_MAX);
                state = advance(&state, &gone, at(now_ms));
            }
            prop_assert_eq!(state.step, Step::Done);
        }
    }
}
