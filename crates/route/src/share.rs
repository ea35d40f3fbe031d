//! The ramp: how large a share of new users a borrowed part gets.
//!
//! Weights are relative: the home's is a whole, a part's fair one is its instances against the home's.

use pumasi_terms::Ppm;

/// A part in trouble keeps one in so many of its fair share, so that it can show that it is well again.
const TROUBLE_FLOOR: u32 = 100;

/// The fair weight of a part, where the home's ready instances together weigh a whole. Above a whole for a part larger than
/// the home. Without a home instance the parts share by their instances alone.
pub fn fair(instances: u32, home_instances: u32) -> Ppm {
    let weight = u64::from(instances) * u64::from(Ppm::WHOLE.0) / u64::from(home_instances.max(1));
    Ppm(u32::try_from(weight).unwrap_or(u32::MAX))
}

/// The weight of the home: a whole, or none where nothing is ready there.
pub fn home(home_instances: u32) -> Ppm {
    if home_instances > 0 { Ppm::WHOLE } else { Ppm(0) }
}

/// A part that serves, and how it is to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    pub current: Ppm,
    pub fair: Ppm,
    /// First weight and growth a step, relative to the fair one.
    pub start: Ppm,
    pub step: Ppm,
    pub step_ms: u64,
    pub since_last_step_ms: u64,
    /// It has answered since the last step, or had nothing to answer; and nothing failed.
    pub healthy: bool,
}

/// The next weight. Whoever asks counts `since_last_step_ms` anew whenever `step_ms` have passed.
/// It begins at the start, grows by steps while the part is well, halves by steps in trouble, and shrinks at once with its fair
/// weight. A part that shall serve nobody new is drained in the table, not ramped down.
pub fn next_weight(ramp: &Ramp) -> Ppm {
    let fair = ramp.fair.0;
    let of_fair = |part: Ppm| {
        let weight = u64::from(fair) * u64::from(part.0.min(Ppm::WHOLE.0)) / u64::from(Ppm::WHOLE.0);
        u32::try_from(weight).unwrap_or(fair).clamp(1, fair)
    };
    if fair == 0 {
        return Ppm(0);
    }
    if ramp.current.0 == 0 {
        return Ppm(of_fair(ramp.start));
    }
    let current = ramp.current.0.min(fair);
    if ramp.since_last_step_ms < ramp.step_ms {
        return Ppm(current);
    }
    if ramp.healthy {
        return Ppm(current.saturating_add(of_fair(ramp.step)).min(fair));
    }
    let floor = (fair / TROUBLE_FLOOR).max(1);
    Ppm((current / 2).max(floor.min(current)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ramp(current: u32, since_last_step_ms: u64, healthy: bool) -> Ramp {
        Ramp {
            current: Ppm(current),
            fair: fair(3, 4),
            start: Ppm(200_000),
            step: Ppm(400_000),
            step_ms: 200,
            since_last_step_ms,
            healthy,
        }
    }

    #[test]
    fn fair_is_instances_against_the_home() {
        assert_eq!([fair(3, 4), fair(4, 1), fair(2, 0), fair(0, 4)].map(|p| p.0), [750_000, 4_000_000, 2_000_000, 0]);
        assert_eq!([home(0), home(3)].map(|p| p.0), [0, 1_000_000]);
    }

    #[test]
    fn a_well_part_grows_by_steps_and_a_sick_one_goes_back() {
        let next = |current, ms, healthy| next_weight(&ramp(current, ms, healthy)).0;
        assert_eq!(next(0, 0, true), 150_000);
        assert_eq!(next(150_000, 199, true), 150_000);
        assert_eq!(next(150_000, 200, true), 450_000);
        assert_eq!(next(450_000, 200, true), 750_000);
        assert_eq!(next(750_000, 200, true), 750_000);
        assert_eq!(next(450_000, 200, false), 225_000);
        assert_eq!(next(8_000, 200, false), 7_500);
        // One of three instances is gone: its share shrinks at once.
        assert_eq!(next_weight(&Ramp { fair: Ppm(500_000), ..ramp(750_000, 0, true) }).0, 500_000);
        assert_eq!(next_weight(&Ramp { fair: Ppm(0), ..ramp(750_000, 0, true) }).0, 0);
    }

    proptest! {
        #[test]
        fn a_weight_stays_within_its_fair_share(
            fair in 0u32..=8_000_000, start in 0u32..2_000_000, step in 10_000u32..2_000_000, healths in prop::collection::vec(any::<bool>(), 1..200),
        ) {
            let mut weight = Ppm(0);
            let at = |current, healthy| Ramp { current, fair: Ppm(fair), start: Ppm(start), step: Ppm(step), ..ramp(0, 200, healthy) };
            for healthy in healths {
                weight = next_weight(&at(weight, healthy));
                prop_assert!(weight.0 <= fair && (weight.0 > 0 || fair == 0));
            }
            for _ in 0..120 {
                weight = next_weight(&at(weight, true));
            }
            prop_assert_eq!(weight.0, fair, "a part that stays well gets its fair share");
        }
    }
}
