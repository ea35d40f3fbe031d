//! How many instances a load needs.

/// A load and what one instance can do, thousandths a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub arrivals_mps: u64,
    /// Of these, what must be answered at home.
    pub home_only_mps: u64,
    /// Of one instance; not 0.
    pub capacity_mps: u64,
    /// Those that are at home whatever the load is.
    pub home_instances: u32,
    /// How many more can be there.
    pub home_room: u32,
}

impl Load {
    pub fn may_leave_mps(&self) -> u64 {
        self.arrivals_mps.saturating_sub(self.home_only_mps)
    }

    /// Instances beyond those at home with which every instance runs at `percent` of its capacity at most. The home answers what must
    /// stay first, and takes of the rest what it has room for; what must stay and finds no room wants more at home, as far as there is.
    pub fn beyond(&self, percent: u64) -> u32 {
        let each = u128::from(self.capacity_mps.max(1)) * u128::from(percent.max(1));
        let (home, stays) = (each * u128::from(self.home_instances), u128::from(self.home_only_mps) * 100);
        let away = (u128::from(self.may_leave_mps()) * 100).saturating_sub(home.saturating_sub(stays));
        let stays = stays.saturating_sub(home).min(each * u128::from(self.home_room));
        u32::try_from((away + stays).div_ceil(each)).unwrap_or(u32::MAX)
    }

    /// Whether the home could answer what must stay, once all the rest has left and it has grown.
    pub fn home_keeps_up(&self) -> bool {
        let instances = u128::from(self.home_instances) + u128::from(self.home_room);
        let home = u128::from(self.capacity_mps) * instances;
        u128::from(self.home_only_mps) * 100 < home * 95
    }
}

/// Instances at most so many times as many, where what will come is not known: what was seen then says more.
const STEP_TIMES: u32 = 2;

/// Clients that ask again when they are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// Waiting and at work.
    pub inside: u64,
    /// Places of one instance.
    pub places_each: u64,
    /// Of one instance, thousandths a second.
    pub capacity_mps: u64,
    /// The promise.
    pub wait_ms: u64,
}

impl Crowd {
    /// How many an instance bears: those at its places, and those it answers within half the promised wait.
    pub fn each(&self) -> u64 {
        let within = u128::from(self.capacity_mps) * u128::from(self.wait_ms) / 2_000_000;
        self.places_each.saturating_add(u64::try_from(within).unwrap_or(u64::MAX)).max(1)
    }

    /// Instances in all with which the wait is as promised, or a step towards them: who thinks before he asks again is inside
    /// the less the sooner he is answered.
    pub fn instances(&self, ready: u32) -> u32 {
        let needed = u32::try_from(self.inside.div_ceil(self.each())).unwrap_or(u32::MAX);
        needed.min(ready.saturating_mul(STEP_TIMES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_sized_in_steps() {
        let crowd = Crowd { inside: 64, places_each: 4, capacity_mps: 100_000, wait_ms: 50 };
        assert_eq!(crowd.each(), 6);
        assert_eq!([1, 2, 4, 8, 11, 20].map(|ready| crowd.instances(ready)), [2, 4, 8, 11, 11, 11]);
        assert_eq!(Crowd { places_each: 0, capacity_mps: 0, ..crowd }.instances(u32::MAX), 64);
    }

    #[test]
    fn need_is_counted_beyond_home() {
        let load = |arrivals_mps, home_only_mps| Load {
            arrivals_mps,
            home_only_mps,
            capacity_mps: 100_000,
            home_instances: 1,
            home_room: 0,
        };
        assert_eq!(load(70_000, 0).beyond(72), 0);
        assert_eq!(load(73_000, 0).beyond(72), 1);
        assert_eq!(load(320_000, 0).beyond(72), 4);
        // Writes fill the home; readers must all leave.
        assert_eq!(load(320_000, 80_000).beyond(72), 4);
        assert!(load(320_000, 80_000).home_keeps_up());
        assert!(!load(320_000, 96_000).home_keeps_up());
        assert_eq!(Load { capacity_mps: 0, ..load(u64::MAX, 0) }.beyond(72), u32::MAX);
        // Writes alone: nothing of them may leave, and the home may have one more.
        assert_eq!([0, 1, 9].map(|home_room| Load { home_room, ..load(140_000, 140_000) }.beyond(72)), [0, 1, 1]);
        assert!(Load { home_room: 1, ..load(140_000, 140_000) }.home_keeps_up());
    }
}
