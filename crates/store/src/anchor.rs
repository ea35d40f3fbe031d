//! The anchor file: a small memory of the store's latest state, kept outside the database.
//!
//! A database that is older than its anchor was put back from somewhere. The anchor is written after commits, by a thread
//! of its own, at most once an interval; it may lag behind the database and is never ahead of it.

use crate::numbers::{COUNT_MAX, bound};
use crate::standing::{Head, RestoredWhy, StoreIdentity};
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const VERSION: u32 = 1;
const FILE_BYTES_MAX: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct AnchorFile {
    version: u32,
    #[serde(flatten)]
    identity: StoreIdentity,
}

/// `store.sqlite` has `store.anchor.json` beside it.
pub(crate) fn path_of(database: &Path) -> PathBuf {
    database.with_extension("anchor.json")
}

pub(crate) fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn write(path: &Path, identity: &StoreIdentity) -> std::io::Result<()> {
    let file = AnchorFile { version: VERSION, identity: identity.clone() };
    let text = serde_json::to_vec_pretty(&file)?;
    let temporary = path.with_extension("json.partial");
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    out.write_all(&text)?;
    out.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_directory_of(path)
}

fn read(path: &Path) -> Result<Option<StoreIdentity>, String> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
        Ok(m) if m.len() > FILE_BYTES_MAX => return Err(format!("{} bytes are too many", m.len())),
        Ok(_) => {}
    }
    let text = std::fs::read(path).map_err(|e| e.to_string())?;
    let file: AnchorFile = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if file.version > VERSION {
        return Err(format!("version {} is newer than this program", file.version));
    }
    Ok(Some(file.identity))
}

/// Compares the database with its anchor file; `None` where the database is at least as new.
pub(crate) fn compare(path: &Path, head: &Head, conn: &Connection) -> rusqlite::Result<Option<RestoredWhy>> {
    compare_with(read(path), head, conn)
}

pub(crate) fn compare_with(
    anchor: Result<Option<StoreIdentity>, String>,
    head: &Head,
    conn: &Connection,
) -> rusqlite::Result<Option<RestoredWhy>> {
    let anchor = match anchor {
        Err(detail) => return Ok(Some(RestoredWhy::AnchorUnreadable { detail })),
        // A store that died between its creation and its first anchor has nothing to lose.
        Ok(None) if head.revision == 0 && head.journal_seq == 0 => return Ok(None),
        Ok(None) => return Ok(Some(RestoredWhy::AnchorMissing)),
        Ok(Some(anchor)) => anchor,
    };
    if anchor.store_id != *head.store_id {
        return Ok(Some(RestoredWhy::AnchorForeign { store_id: anchor.store_id }));
    }
    let mut point = anchor.anchor;
    let mut incarnation = anchor.incarnation;
    // An older version wrote here what a member had made up. The journal's row and link are this store's own word.
    if incarnation.max(point.revision.0) > COUNT_MAX {
        (incarnation, point.revision.0) = (incarnation.min(head.incarnation), 0);
    }
    // The database was accepted after this anchor was written, and died before the next one.
    if incarnation < head.incarnation {
        return Ok(None);
    }
    if incarnation > head.incarnation || point.journal_seq > head.journal_seq || point.revision.0 > head.revision {
        return Ok(Some(RestoredWhy::AnchorAhead {
            incarnation,
            revision: point.revision,
            journal_seq: point.journal_seq,
        }));
    }
    let link: Option<[u8; 32]> = if point.journal_seq == head.base_seq {
        Some(head.base_link)
    } else {
        conn.query_row("SELECT link FROM journal_links WHERE last_seq = ?1", [bound(point.journal_seq)], |r| r.get(0))
            .optional()?
    };
    let same = match link {
        Some(link) => hex::encode(link) == point.journal_link,
        // Dropped by retention since: nothing left to compare.
        None => point.journal_seq < head.base_seq,
    };
    Ok((!same).then_some(RestoredWhy::AnchorDiffers { journal_seq: point.journal_seq }))
}

#[derive(Debug, Default)]
struct Pending {
    identity: Option<StoreIdentity>,
    stop: bool,
}

/// Who is told of every commit and remembers the latest outside the database.
pub(crate) trait Anchor: Send + Sync {
    fn post(&self, identity: StoreIdentity);
}

/// The thread that keeps the anchor file.
#[derive(Debug)]
pub(crate) struct AnchorKeeper {
    pending: Arc<(Mutex<Pending>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AnchorKeeper {
    /// Writes `first` before it returns, so that no commit is ever without an anchor.
    pub fn start(path: PathBuf, interval: Duration, first: Option<&StoreIdentity>) -> std::io::Result<Self> {
        if let Some(identity) = first {
            write(&path, identity)?;
        }
        let pending = Arc::new((Mutex::new(Pending::default()), Condvar::new()));
        let shared = Arc::clone(&pending);
        let thread =
            std::thread::Builder::new().name("store-anchor".into()).spawn(move || keep(&path, interval, &shared))?;
        Ok(Self { pending, thread: Mutex::new(Some(thread)) })
    }

    /// Writes what is pending and ends the thread.
    pub fn stop(&self) {
        lock(&self.pending.0).stop = true;
        self.pending.1.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the store's anchor thread panicked");
        }
    }
}

impl Anchor for AnchorKeeper {
    fn post(&self, identity: StoreIdentity) {
        lock(&self.pending.0).identity = Some(identity);
        self.pending.1.notify_one();
    }
}

fn keep(path: &Path, interval: Duration, shared: &(Mutex<Pending>, Condvar)) {
    let (mutex, wake) = shared;
    let mut next = Instant::now() + interval;
    let mut pending = lock(mutex);
    loop {
        let wait = next.saturating_duration_since(Instant::now());
        if pending.identity.is_some() && (pending.stop || wait.is_zero()) {
            let identity = pending.identity.take();
            let stopping = pending.stop;
            drop(pending);
            let written = identity.as_ref().map_or(Ok(()), |i| write(path, i));
            next = Instant::now() + interval;
            pending = lock(mutex);
            if let Err(error) = written {
                tracing::error!(path = %path.display(), %error, "cannot write the store's anchor; an old restore may go unnoticed");
                if !stopping && pending.identity.is_none() {
                    pending.identity = identity;
                }
            }
        } else if pending.stop {
            return;
        } else if pending.identity.is_none() {
            pending = wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
        } else {
            pending = wake.wait_timeout(pending, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
