//! Log lines that strangers cause, told a few at a time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);
const LINES_MAX: u32 = 5;

/// Lets a few lines a window through and counts the others.
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<State>);

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { since: None, told: 0, untold: 0 }))
    }

    /// How many were not told since the last that was; `None`: nor is this one.
    pub(crate) fn may_tell(&self) -> Option<u64> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            (state.since, state.told) = (Some(now), 0);
        }
        if state.told >= LINES_MAX {
            state.untold += 1;
            return None;
        }
        state.told += 1;
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let (seldom, begun) = (Seldom::new(), Instant::now());
        let told = (0..10_000).filter(|_| seldom.at(begun).is_some()).count();
        assert_eq!(told, LINES_MAX as usize);
        assert_eq!(seldom.at(begun + WINDOW), Some(10_000 - u64::from(LINES_MAX)));
        assert_eq!(seldom.at(begun + WINDOW), Some(0));
    }
}
