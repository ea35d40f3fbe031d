//! The last words of a gateway that could not go on, for the daemon that starts the next one.
//!
//! Enters: why a gateway ends. Leaves: one file in its directory, format version 1.
//! Always holds: the file speaks of the last run that ended by itself; one that serves has none.

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::path::Path;

const ENDED_FILE: &str = "ended.json";
const ENDED_VERSION: u32 = 1;
const ENDED_BYTES_MAX: u64 = 64 << 10;
const WHY_CHARS_MAX: usize = 500;
pub(crate) const LOCK_FILE: &str = "gateway.lock";
/// How a gateway ends that finds another one in its directory.
pub const TAKEN: u8 = 75;

#[derive(Debug, Serialize, Deserialize)]
struct Ended {
    version: u32,
    pid: u32,
    why: String,
}

/// Nothing is said where the disk takes nothing more: the exit status is all that is left then.
pub(crate) fn say(dir: &Path, why: &str) {
    let why = why.chars().take(WHY_CHARS_MAX).collect();
    let ended = Ended { version: ENDED_VERSION, pid: std::process::id(), why };
    let _ = std::fs::write(dir.join(ENDED_FILE), serde_json::to_vec(&ended).unwrap_or_default());
}

pub(crate) fn forget(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(ENDED_FILE));
}

/// What the gateway with this process id said last, if it said anything.
pub fn last_words(dir: &Path, pid: u32) -> Option<String> {
    let path = dir.join(ENDED_FILE);
    if std::fs::metadata(&path).ok()?.len() > ENDED_BYTES_MAX {
        return None;
    }
    let ended: Ended = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
    (ended.version == ENDED_VERSION && ended.pid == pid).then_some(ended.why)
}

/// Whether a gateway runs in this directory, or one ends there that still has the listeners.
pub fn is_served(dir: &Path) -> bool {
    let held = || {
        let file = std::fs::OpenOptions::new().write(true).open(dir.join(LOCK_FILE)).ok()?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).err()
    };
    dir.join(crate::handover::SOCKET).exists() || held().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_those_of_the_process_that_said_them() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id();
        assert_eq!(last_words(dir.path(), me), None);
        say(dir.path(), &"x".repeat(9_000));
        assert_eq!(last_words(dir.path(), me).map(|w| w.len()), Some(WHY_CHARS_MAX));
        assert_eq!(last_words(dir.path(), me + 1), None);
        for bad in ["", "{", r#"{"version":2,"pid":1,"why":"x"}"#] {
            std::fs::write(dir.path().join(ENDED_FILE), bad).unwrap();
            assert_eq!(last_words(dir.path(), 1), None);
        }
        forget(dir.path());
        assert_eq!(last_words(dir.path(), me), None);
    }

    #[test]
    fn a_directory_is_served_as_long_as_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_served(dir.path()));
        let file = std::fs::File::create(dir.path().join(LOCK_FILE)).unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(is_served(dir.path()));
        drop(lock);
        assert!(!is_served(dir.path()));
    }
}
