//! Positions of datasets, as instants of the home machine's clock.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A copy at this position holds everything that was committed at the home before `as_of_ms` of the home's
/// CLOCK_BOOTTIME. The generation rises when that clock starts anew or the home changes, so that order is total.
///
/// A reader's token is a watermark too (`token`). A copy may serve the reader if its watermark is not below the token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermark {
    pub generation: u64,
    pub as_of_ms: u64,
}

impl Watermark {
    /// The token of whoever is answered at `home_now_ms`. The clock is rounded up: what was committed within its current
    /// millisecond is not in a copy of that millisecond.
    pub fn token(generation: u64, home_now_ms: u64) -> Self {
        Self { generation, as_of_ms: home_now_ms.saturating_add(1) }
    }

    /// How far a copy at this position may be behind, at `home_now_ms` of the home's clock: the data that would be lost
    /// if the home vanished then.
    pub fn lag_ms(self, home_now_ms: u64) -> u64 {
        home_now_ms.saturating_sub(self.as_of_ms)
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.as_of_ms)
    }
}

impl std::str::FromStr for Watermark {
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

    #[test]
    fn a_new_generation_is_later_whatever_its_clock_says() {
        let old = Watermark { generation: 1, as_of_ms: 9_000_000 };
        let new = Watermark { generation: 2, as_of_ms: 5 };
        assert!(new > old);
        assert_eq!(new.to_string().parse(), Ok(new));
        for bad in ["", "1", "1.", "01.2", "1.2.3", "+1.2"] {
            assert!(bad.parse::<Watermark>().is_err(), "{bad:?}");
        }
        assert_eq!(old.lag_ms(9_000_250), 250);
    }
}
