//! Positions of datasets, as instants of their home's clock, in one order over all homes that a service ever has.

use crate::Epoch;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bits of a generation that count boots.
const BOOTS_BITS: u32 = 32;
const BOOTS_MAX: u64 = (1 << BOOTS_BITS) - 1;
/// An epoch beyond this one makes no later generation: above 2^53 a number is not the same in every JSON reader.
const EPOCH_MAX: u64 = (1 << (53 - BOOTS_BITS)) - 1;

/// One home's clock from one boot to the next: the epoch under which that home owns the service, then the boots of its machine.
/// Ownership that moves makes a later generation whatever the boots of the two homes. Written as one number, epoch * 2^32 + boots.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// Both saturate, the epoch at 2^21 - 1 and the boots at 2^32 - 1, so that the number stays below 2^53.
    pub fn of(epoch: Epoch, boots: u64) -> Self {
        Self(epoch.0.min(EPOCH_MAX) << BOOTS_BITS | boots.min(BOOTS_MAX))
    }

    pub fn epoch(self) -> Epoch {
        Epoch(self.0 >> BOOTS_BITS)
    }

    pub fn boots(self) -> u64 {
        self.0 & BOOTS_MAX
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::str::FromStr for Generation {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// A copy at this position holds everything that was committed at the home before `as_of_ms` of the home's CLOCK_BOOTTIME.
///
/// A reader's token is a position too (`token`). A copy may serve the reader if its position is not below the token.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Position {
    pub generation: Generation,
    pub as_of_ms: u64,
}

impl Position {
    pub const fn new(generation: Generation, as_of_ms: u64) -> Self {
        Self { generation, as_of_ms }
    }

    /// The token of whoever is answered at `home_now_ms`. The clock is rounded up: what was committed within its current
    /// millisecond is not in a copy of that millisecond.
    pub fn token(generation: Generation, home_now_ms: u64) -> Self {
        Self { generation, as_of_ms: home_now_ms.saturating_add(1) }
    }

    /// How far a copy at this position may be behind, at `home_now_ms` of the home's clock: the data that would be lost
    /// if the home vanished then.
    pub fn lag_ms(self, home_now_ms: u64) -> u64 {
        home_now_ms.saturating_sub(self.as_of_ms)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.as_of_ms)
    }
}

impl std::str::FromStr for Position {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parsed =
            s.split_once('.').and_then(|(g, t)| Some(Self { generation: g.parse().ok()?, as_of_ms: t.parse().ok()? }));
        parsed.filter(|w| w.to_string() == s).ok_or_else(|| {
            format!(
                "{:?} is not a position; it is written <generation>.<milliseconds>",
                s.chars().take(60).collect::<String>()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, boots: u64, as_of_ms: u64) -> Position {
        Position { generation: Generation::of(Epoch(epoch), boots), as_of_ms }
    }

    #[test]
    fn a_new_owner_is_later_whatever_its_boots_and_a_new_boot_whatever_its_clock() {
        let old = at(1, 57, 9_000_000);
        assert!(at(1, 58, 5) > old && at(2, 3, 5) > at(1, 58, 9_000_000));
        assert_eq!(old.lag_ms(9_000_250), 250);
        assert_eq!(Position::token(old.generation, 7), at(1, 57, 8));
        // What was written before epochs were in it is older than all that follows.
        assert!(Position::new(Generation(57), 9_000_000) < at(1, 1, 0));
    }

    #[test]
    fn the_number_is_the_same_in_every_reader() {
        let last = Generation::of(Epoch(u64::MAX), u64::MAX);
        assert_eq!((last.0, last.boots()), ((1 << 53) - 1, u64::from(u32::MAX)));
        assert_eq!(last.epoch(), Epoch((1 << 21) - 1));
        let one = Generation::of(Epoch(3), 9);
        assert_eq!((one.epoch(), one.boots(), one.0), (Epoch(3), 9, (3 << 32) + 9));
        let json = serde_json::to_string(&Position::new(one, 4)).unwrap();
        assert_eq!(json, r#"{"generation":12884901897,"as_of_ms":4}"#);
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), Position::new(one, 4));
    }

    #[test]
    fn one_position_has_one_spelling() {
        let new = at(2, 0, 5);
        assert_eq!(new.to_string().parse(), Ok(new));
        for bad in ["", "1", "1.", "01.2", "1.2.3", "+1.2"] {
            assert!(bad.parse::<Position>().is_err(), "{bad:?}");
        }
    }
}
