//! Giving back: how many instances beyond the least at home would do, and whether they have done for long enough.

use crate::calm::enough_for;
use crate::judge::{Case, per_second, reason, seconds};
use crate::size::Load;
use crate::{Cause, Judgement};

impl Case<'_> {
    /// Instances beyond the least at home that would do at the smoothed load; None where nothing is known of capacity.
    /// An instance runs at `percent` of its capacity at most, or at `handled_mps` where it was seen to do more.
    fn enough(&self, percent: u64, handled_mps: u64) -> Option<u32> {
        let (arrivals_mps, home_only_mps) = self.m.load?;
        let capacity = u128::from(self.m.capacity_mps.filter(|c| *c > 0)?) * u128::from(percent) / 100;
        let capacity_mps = u64::try_from(capacity).unwrap_or(u64::MAX).max(handled_mps).max(1);
        let (home_instances, home_room) = (self.situation.least(), self.situation.home_room());
        Some(Load { arrivals_mps, home_only_mps, capacity_mps, home_instances, home_room }.beyond(100))
    }

    /// Without a known capacity, as in a daemon that lost its memory, the places that are busy say how many instances are enough; at most
    /// half is given back by that alone.
    fn enough_by_places(&self, percent: u64) -> u32 {
        let (seen, current) = (self.seen, self.situation.beyond());
        let home = self.situation.least();
        let places_each = seen.limit / u64::from(home + current).max(1);
        if seen.queued > 0 || places_each == 0 {
            return current;
        }
        // Little's law; the mean answer takes longer than the median one.
        let busy_milli = u128::from(seen.arrivals_mps) * u128::from(seen.app_time_p50_us) * 3 / 2 / 1_000_000;
        let instances = busy_milli.div_ceil(u128::from(places_each) * 10 * u128::from(percent.max(1)));
        u32::try_from(instances).unwrap_or(u32::MAX).saturating_sub(home).clamp(current / 2, current)
    }

    pub(crate) fn recovery(&mut self) -> Judgement {
        let (seen, policy, current) = (self.seen, self.policy, self.situation.beyond());
        let broken = self.over_objective() && (!self.scattered() || seen.shed_mps > 0);
        if current == 0 || broken || self.situation.home_instances_ready == 0 || self.m.trend.grows() {
            (self.m.calm, self.m.tight) = (None, None);
            return Judgement::Steady;
        }
        let (calm_ms, slow_ms) = self.patience_ms();
        let (calm_percent, tight_percent) = self.give_back_percents();
        let (calm, tight) = (self.enough(calm_percent, 0), self.enough(tight_percent, self.m.handled_mps / 100 * 105));
        let tight = tight.unwrap_or_else(|| self.enough_by_places(tight_percent));
        let calm = calm.unwrap_or(current);
        let fewer = enough_for(&mut self.m.calm, calm, current, calm_ms, seen.at).map(|n| (n, calm_percent, calm_ms));
        let slower =
            enough_for(&mut self.m.tight, tight, current, slow_ms, seen.at).map(|n| (n, tight_percent, slow_ms));
        let changed = self.ago(self.m.grown_at).min(self.ago(self.m.shrunk_at)).min(seen.at.since(self.m.ready_at));
        let Some((wanted, percent, held_ms)) = fewer.or(slower).filter(|_| changed >= policy.hold_ms) else {
            return Judgement::Steady;
        };
        let arrivals_mps = self.m.load.map_or(seen.arrivals_mps, |l| l.0);
        let mut reasons = vec![reason("arrivals", format!("{} arrive", per_second(arrivals_mps)))];
        if let Some(capacity) = self.m.capacity_mps {
            let text = format!("an instance completes {} when saturated", per_second(capacity));
            reasons.push(reason("capacity_per_instance", text));
        }
        let text = format!(
            "with {} instead of {current}, load would have been {percent} % of what they serve at most, for {}",
            self.so_many(wanted),
            seconds(held_ms)
        );
        reasons.push(reason("need", text));
        (self.m.calm, self.m.tight) = (None, None);
        self.m.shrunk_at = Some(seen.at);
        self.change(Cause::Recovery, wanted, reasons)
    }
}
