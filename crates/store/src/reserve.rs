//! Disk space that is the store's already, so that it commits when the disk is full for everybody else.
//!
//! Enters: how much. Leaves: what is held, and why not all of it.
//! Always holds: the space lies behind the ends of the store's own files, where nobody else can take it, whoever fills the disk however
//! fast; what commits use of it is filled up again as soon as there is room.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The write-ahead log takes every commit first, is a few MiB long, and is reused from its beginning.
const LOG_SHARE: u64 = 4;

/// How much of the reserve there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReserveState {
    pub held_bytes: u64,
    pub wanted_bytes: u64,
    /// Why not all of it is held.
    pub problem: Option<String>,
}

impl ReserveState {
    pub fn is_whole(&self) -> bool {
        self.problem.is_none()
    }
}

#[derive(Debug)]
pub(crate) struct Reserve {
    /// Opened before SQLite opens it and closed after: closing any descriptor of a file drops all locks that the process has on it.
    database: File,
    /// Nobody locks the log itself; it may be opened and closed at any time.
    log: PathBuf,
    bytes: u64,
}

impl Reserve {
    pub fn open(database: &Path, bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(database)?;
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        Ok(Self { database: file, log: log.into(), bytes })
    }

    /// Takes what is missing. Cheap where nothing is.
    pub fn fill(&self) -> ReserveState {
        let for_log = self.bytes / LOG_SHARE;
        // The log first: without it nothing is committed at all.
        let log = match OpenOptions::new().write(true).open(&self.log) {
            Ok(file) => reach(&file, for_log),
            // There is none before the first write.
            Err(e) if e.kind() == io::ErrorKind::NotFound => (0, Ok(())),
            Err(e) => (0, Err(e)),
        };
        let database = match self.database.metadata() {
            Ok(meta) => {
                let (allocated, done) = reach(&self.database, meta.len() + self.bytes - for_log);
                (allocated.saturating_sub(meta.len()), done)
            }
            Err(e) => (0, Err(e)),
        };
        let problem = log.1.and(database.1).err().map(|e| e.to_string());
        ReserveState { held_bytes: log.0 + database.0, wanted_bytes: self.bytes, problem }
    }
}

/// Makes the file own its first `bytes`, without making it longer; what it owns then.
fn reach(file: &File, bytes: u64) -> (u64, io::Result<()>) {
    let allocated = || file.metadata().map_or(0, |m| m.blocks() * 512);
    if allocated() >= bytes {
        return (allocated(), Ok(()));
    }
    let done = fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes).map_err(io::Error::from);
    (allocated(), done)
}
