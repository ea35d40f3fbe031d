//! What follows a daemon tries again when the connection is lost.

use crate::failure::Failure;
use crate::output::note;
use std::time::Duration;

const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// After so many attempts in a row without an answer it gives up.
const ATTEMPTS_MAX: u32 = 30;

/// Waits between attempts: longer each time, and not for ever.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// How long until the next look: `usual` while nothing is lost.
    pub fn wait_or(&self, usual: Duration) -> Duration {
        match self.attempts {
            0 => usual,
            n => (WAIT_FIRST * 2u32.saturating_pow((n - 1).min(16))).min(WAIT_MAX),
        }
    }

    /// One attempt more was in vain. The first is told, the last is the end.
    pub fn next(&mut self, failure: Failure) -> Result<(), Failure> {
        self.attempts += 1;
        if self.attempts == 1 {
            note(&format!("connection lost, trying again: {}", failure.message));
        }
        match self.attempts {
            n if n >= ATTEMPTS_MAX => Err(failure.during(format!("given up after {ATTEMPTS_MAX} attempts"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let (mut lost, usual) = (Backoff::default(), Duration::from_millis(700));
        assert_eq!(lost.wait_or(usual), usual);
        let mut waits = Vec::new();
        while lost.next(Failure::failed("no answer")).is_ok() {
            waits.push(lost.wait_or(usual));
        }
        assert_eq!(waits[..4], [250, 500, 1_000, 2_000].map(Duration::from_millis));
        assert_eq!((waits.len(), waits[28]), (29, WAIT_MAX));
    }
}
