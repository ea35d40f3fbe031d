//! The ramp: how large a share of new users a borrowed part gets. Weights are relative to each other.

use pumasi_plan::document::Switchover;
use pumasi_terms::Ppm;

/// How a part has done since the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered, and none of its answers failed.
    Well,
    /// It has answered nothing yet.
    Unknown,
    /// Answers failed, or its peer link broke.
    Trouble,
}

/// A part in trouble keeps this part of its fair share, so that it can show that it is well again.
const TROUBLE_FLOOR: u32 = 100;

/// The share of `instances` among `total` ready ones, at home and away.
pub fn fair(instances: u32, total: u32) -> Ppm {
    Ppm::of(u64::from(instances), u64::from(total))
}

/// The next weight of a part that serves, and whether this was a step (the caller then counts time anew).
/// It begins at `ramp.start` of its fair weight, grows by `ramp.step` of it while the part is well, halves in trouble, and
/// shrinks at once with its fair weight.
pub fn next_weight(current: Ppm, fair: Ppm, ramp: &Switchover, since_step_ms: u64, health: Health) -> (Ppm, bool) {
    let of_fair = |part: Ppm| {
        let weight = u64::from(fair.0) * u64::from(part.0.min(Ppm::WHOLE.0)) / u64::from(Ppm::WHOLE.0);
        Ppm(u32::try_from(weight).unwrap_or(fair.0).max(1).min(fair.0))
    };
    if fair.0 == 0 {
        return (Ppm(0), current.0 != 0);
    }
    if current.0 == 0 {
        return (of_fair(ramp.start), true);
    }
    let current = current.min(fair);
    if since_step_ms < ramp.step_ms {
        return (current, false);
    }
    match health {
        Health::Well if current == fair => (current, false),
        Health::Well => (Ppm(current.0.saturating_add(of_fair(ramp.step).0).min(fair.0)), true),
        Health::Unknown => (current, false),
        Health::Trouble => {
            let floor = (fair.0 / TROUBLE_FLOOR).max(1);
            (Ppm((current.0 / 2).max(floor.min(current.0))), true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pumasi_terms::service::RouteMode;

    fn ramp() -> Switchover {
        Switchover { mode: RouteMode::Proxy, start: Ppm(200_000), step: Ppm(400_000), step_ms: 200 }
    }

    #[test]
    fn a_well_part_grows_by_steps_and_a_sick_one_goes_back() {
        let fair = fair(3, 4);
        assert_eq!(fair, Ppm(750_000));
        let next = |w, ms, health| next_weight(w, fair, &ramp(), ms, health);
        assert_eq!(next(Ppm(0), 0, Health::Unknown), (Ppm(150_000), true));
        assert_eq!(next(Ppm(150_000), 199, Health::Well), (Ppm(150_000), false));
        assert_eq!(next(Ppm(150_000), 200, Health::Unknown), (Ppm(150_000), false));
        assert_eq!(next(Ppm(150_000), 200, Health::Well), (Ppm(450_000), true));
        assert_eq!(next(Ppm(450_000), 200, Health::Well), (Ppm(750_000), true));
        assert_eq!(next(Ppm(750_000), 200, Health::Well), (Ppm(750_000), false));
        assert_eq!(next(Ppm(450_000), 200, Health::Trouble), (Ppm(225_000), true));
        assert_eq!(next(Ppm(8_000), 200, Health::Trouble), (Ppm(7_500), true));
        // One of three instances is gone: its share shrinks at once.
        assert_eq!(next_weight(Ppm(750_000), Ppm(500_000), &ramp(), 0, Health::Well), (Ppm(500_000), false));
        assert_eq!(next_weight(Ppm(750_000), Ppm(0), &ramp(), 0, Health::Well), (Ppm(0), true));
    }

    proptest! {
        #[test]
        fn a_weight_stays_within_its_fair_share(
            fair in 0u32..=1_000_000, start in 0u32..2_000_000, step in 0u32..2_000_000,
            healths in prop::collection::vec(0u8..3, 1..200),
        ) {
            let ramp = Switchover { start: Ppm(start), step: Ppm(step), ..ramp() };
            let mut weight = Ppm(0);
            for health in healths {
                let health = [Health::Well, Health::Unknown, Health::Trouble][health as usize];
                weight = next_weight(weight, Ppm(fair), &ramp, 200, health).0;
                prop_assert!(weight.0 <= fair && (weight.0 > 0 || fair == 0));
            }
            let end = (0..1_000_100).try_fold(weight, |w, _| match next_weight(w, Ppm(fair), &ramp, 200, Health::Well) {
                (_, false) => Err(w),
                (w, true) => Ok(w),
            });
            prop_assert_eq!(end.err().unwrap_or_default().0, fair, "a part that stays well gets its fair share");
        }
    }
}
