//! Numbers with units. Integers only: what two ledgers must agree on may not round.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub u64);
        impl $name {
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter!(
    /// Fencing number of a service's ownership; an older one is refused.
    Epoch);
counter!(
    /// Number of a signed document; it only rises.
    Serial);
counter!(
    /// Number of a stored object's version.
    Revision);

/// Parts per million of a whole.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Ppm(pub u32);

impl Ppm {
    pub const WHOLE: Ppm = Ppm(1_000_000);
    pub fn of(part: u64, whole: u64) -> Self {
        if whole == 0 {
            return Ppm(0);
        }
        let ppm = u128::from(part) * 1_000_000 / u128::from(whole);
        Ppm(u32::try_from(ppm).unwrap_or(u32::MAX).min(1_000_000))
    }
}

/// An amount in millionths of the pact's currency.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Money(pub u64);

impl Money {
    /// Such a part of it, rounded down.
    pub fn percent(self, percent: u32) -> Money {
        Money(u64::try_from(u128::from(self.0) * u128::from(percent) / 100).unwrap_or(u64::MAX))
    }
    /// What `instance_ms` of use cost at `self` an instance-hour; rounded down, so that both sides agree.
    pub fn for_instance_ms(self, instance_ms: u64) -> Money {
        Money(u64::try_from(u128::from(self.0) * u128::from(instance_ms) / 3_600_000).unwrap_or(u64::MAX))
    }
}
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// What one instance uses at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Thousandths of one CPU.
    pub cpu_millis: u32,
    /// MiB of resident memory.
    pub memory_mib: u32,
}

impl Resources {
    pub fn times(self, n: u32) -> Self {
        Self { cpu_millis: self.cpu_millis.saturating_mul(n), memory_mib: self.memory_mib.saturating_mul(n) }
    }
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
        }
    }
    pub fn minus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
        }
    }
    pub fn fits_in(self, room: Self) -> bool {
        self.cpu_millis <= room.cpu_millis && self.memory_mib <= room.memory_mib
    }
    /// How many of `self` fit into `room`.
    pub fn count_in(self, room: Self) -> u32 {
        let per = |room: u32, one: u32| room.checked_div(one).unwrap_or(u32::MAX);
        per(room.cpu_millis, self.cpu_millis).min(per(room.memory_mib, self.memory_mib))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_by_the_scarcer_resource() {
        let one = Resources { cpu_millis: 100, memory_mib: 64 };
        assert_eq!(one.count_in(Resources { cpu_millis: 1000, memory_mib: 200 }), 3);
        assert_eq!(one.count_in(Resources::default()), 0);
        let of = |cpu_millis, memory_mib| Resources { cpu_millis, memory_mib };
        assert_eq!(of(250, 100).count_in(of(1_000, 1_000)), 4);
        assert_eq!(of(250, 100).count_in(of(1_000, 150)), 1);
        assert_eq!(of(250, 100).count_in(of(0, 0)), 0);
    }

    #[test]
    fn money_is_the_same_on_both_sides() {
        assert_eq!(Money(3_600_000).for_instance_ms(1500), Money(1500));
    }
}
