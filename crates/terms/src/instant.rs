//! Two kinds of time, never mixed: boot time decides, wall time is shown and written into documents.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Milliseconds of CLOCK_BOOTTIME: monotonic, goes on during suspend, meaningless on another machine or after a reboot.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct BootMs(pub u64);

impl BootMs {
    pub fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
    /// Milliseconds from `earlier` to `self`; 0 if `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Milliseconds since 1970-01-01 UTC; written as RFC 3339 where people read it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct WallMs(pub i64);

impl WallMs {
    pub fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add_unsigned(ms))
    }
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl fmt::Display for WallMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// The instant at which a pure function is asked: the caller reads the clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    pub boot: BootMs,
    pub wall: WallMs,
}

impl Now {
    pub fn plus(self, ms: u64) -> Self {
        Self { boot: self.boot.after(ms), wall: self.wall.after(ms) }
    }
}
