//! How many instances a load needs.

/// A load and what one instance can do, thousandths a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub arrivals_mps: u64,
    /// Of these, what must be answered at home.
    pub home_only_mps: u64,
    /// Of one instance; not 0.
    pub capacity_mps: u64,
    pub home_instances: u32,
}

impl Load {
    pub fn may_leave_mps(&self) -> u64 {
        self.arrivals_mps.saturating_sub(self.home_only_mps)
    }

    /// Borrowed instances with which every instance runs at `percent` of its capacity at most. The home answers what must
    /// stay first, and takes of the rest what it has room for.
    pub fn borrowed(&self, percent: u64) -> u32 {
        let each = u128::from(self.capacity_mps.max(1)) * u128::from(percent.max(1));
        let room = (each * u128::from(self.home_instances)).saturating_sub(u128::from(self.home_only_mps) * 100);
        let away = (u128::from(self.may_leave_mps()) * 100).saturating_sub(room);
        u32::try_from(away.div_ceil(each)).unwrap_or(u32::MAX)
    }

    /// Whether the home could answer what must stay, once all the rest has left.
    pub fn home_keeps_up(&self) -> bool {
        let home = u128::from(self.capacity_mps) * u128::from(self.home_instances);
        u128::from(self.home_only_mps) * 100 < home * 95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn need_is_counted_beyond_home() {
        let load = |arrivals_mps, home_only_mps| Load {
            arrivals_mps,
            home_only_mps,
            capacity_mps: 100_000,
            home_instances: 1,
        };
        assert_eq!(load(70_000, 0).borrowed(72), 0);
        assert_eq!(load(73_000, 0).borrowed(72), 1);
        assert_eq!(load(320_000, 0).borrowed(72), 4);
        // Writes fill the home; readers must all leave.
        assert_eq!(load(320_000, 80_000).borrowed(72), 4);
        assert!(load(320_000, 80_000).home_keeps_up());
        assert!(!load(320_000, 96_000).home_keeps_up());
        assert_eq!(Load { capacity_mps: 0, ..load(u64::MAX, 0) }.borrowed(72), u32::MAX);
    }
}
