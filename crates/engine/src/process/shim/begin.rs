//! An instance that was prepared begins, or is not wanted any more.
//!
//! Enters: what is wished of it, now. Leaves: its data in its view, the word to begin; or its end.
//! Always holds: it is told to begin only after its data are in its view; one whose time is over never begins.

use super::running::Running;
use super::{End, Shim};
use crate::InstanceState;
use crate::process::launch;
use crate::process::layout::{boot_now_ms, wall_now};
use crate::process::view::late;
use std::fs::File;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Wait,
    Begin,
    Over,
}

/// `stands`: before its first instruction already.
fn turn(until_ms: Option<u64>, stands: bool, now_ms: u64) -> Turn {
    match until_ms {
        Some(until) if until <= now_ms => Turn::Over,
        Some(_) => Turn::Wait,
        None if stands => Turn::Begin,
        None => Turn::Wait,
    }
}

impl Shim {
    /// Carries out what is wished of one that `waits`. True: it begins now.
    pub(super) async fn turn_of_prepared(&mut self, waits: &mut bool, running: &mut Running) -> Result<bool, End> {
        if !*waits {
            return Ok(false);
        }
        match turn(self.wish.prepared_until_ms, self.status.pid.is_some(), boot_now_ms()) {
            Turn::Wait => Ok(false),
            Turn::Over => Err(End::Unwanted),
            Turn::Begin => {
                let ended = |why| End::Ended { exit: None, why };
                self.put_data(running).map_err(ended)?;
                running.go().await.map_err(|e| ended(format!("telling it to begin: {e}")))?;
                *waits = false;
                self.status.started_at = Some(wall_now());
                self.say(InstanceState::Starting);
                Ok(true)
            }
        }
    }

    /// A millisecond or two, in which nothing else of this instance is looked at.
    fn put_data(&self, running: &Running) -> Result<(), String> {
        let failed = |e: String| format!("its data were not put into its view: {e}");
        let binds = launch::late_binds(&self.record);
        if binds.is_empty() {
            return Ok(());
        }
        let init = running.init.id().ok_or_else(|| failed("its init is gone".into()))?;
        let namespace = File::open(format!("/proc/{init}/ns/mnt")).map_err(|e| failed(e.to_string()))?;
        let put = std::thread::spawn(move || late::put(&namespace, &binds)).join();
        put.unwrap_or_else(|_| Err("its thread ended".into())).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_prepared_begins_when_it_stands_ready_and_never_after_its_time() {
        assert_eq!(turn(Some(1_000), true, 999), Turn::Wait);
        assert_eq!(turn(Some(1_000), true, 1_000), Turn::Over);
        assert_eq!(turn(Some(1_000), false, 1_000), Turn::Over);
        assert_eq!(turn(None, false, 0), Turn::Wait);
        assert_eq!(turn(None, true, u64::MAX), Turn::Begin);
    }
}
