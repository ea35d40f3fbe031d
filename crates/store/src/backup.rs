//! Copies of a live store, and putting one back.
//!
//! A copy carries the mark of a restore from the moment it is made: whoever opens it, knows that it may be old.

use crate::anchor::sync_directory_of;
use crate::error::{OpenError, StoreError};
use crate::schema::{check_ours, tune};
use crate::standing::RestoredWhy;
use crate::store::Lock;
use pumasi_terms::WallMs;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const PAGES_PER_STEP: i32 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupProgress {
    pub pages_done: u64,
    pub pages: u64,
}

/// What a restore does where a store is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Refuse.
    No,
    /// Keep the old database under the name `<file>.replaced-<time>` and go on.
    SetAside,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path} exists already; choose another name, or force a restore", path = .0.display())]
    Exists(PathBuf),
    #[error("{path} cannot be used as a backup: {detail}", path = .path.display())]
    Unfit { path: PathBuf, detail: String },
    #[error("{path}: {doing}: {detail}", path = .path.display())]
    Failed { path: PathBuf, doing: &'static str, detail: String },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn failed<E: std::fmt::Display>(path: &Path, doing: &'static str) -> impl Fn(E) -> BackupError {
    move |e| BackupError::Failed { path: path.to_owned(), doing, detail: e.to_string() }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes an unfinished copy unless it got its name.
struct Partial(PathBuf);
impl Drop for Partial {
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let path = with_suffix(&self.0, suffix);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished copy");
            }
        }
    }
}

/// Copies what one read transaction sees, marks the copy, and checks it. Nothing is at `to` before all of that is on disk.
fn copy(
    from: &Connection,
    to: &Path,
    mark: &RestoredWhy,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<Partial, BackupError> {
    let partial = Partial(with_suffix(to, ".partial"));
    let fail = failed::<rusqlite::Error>;
    let path = partial.0.as_path();
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed(path, "creating the copy"))?;
    let mut copy = Connection::open(path).map_err(fail(path, "creating the copy"))?;
    // A held read transaction keeps the copy from starting anew at every commit.
    let snapshot = from.unchecked_transaction().map_err(fail(path, "beginning to read"))?;
    snapshot.query_row("SELECT store_id FROM store", [], |_| Ok(())).map_err(fail(path, "beginning to read"))?;
    {
        let backup = Backup::new(from, &mut copy).map_err(fail(path, "beginning to copy"))?;
        loop {
            let step = backup.step(PAGES_PER_STEP).map_err(fail(path, "copying"))?;
            let at = backup.progress();
            let pages = u64::try_from(at.pagecount).unwrap_or(0);
            let left = u64::try_from(at.remaining).unwrap_or(0);
            progress(BackupProgress { pages_done: pages.saturating_sub(left), pages });
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => return Err(failed(path, "copying")("the store was locked; try again")),
            }
        }
    }
    snapshot.finish().map_err(fail(path, "ending to read"))?;
    let mark = serde_json::to_string(mark).map_err(failed(path, "marking the copy"))?;
    tune(&copy)
        .and_then(|()| copy.pragma_update_and_check(None, "journal_mode", "delete", |r| r.get::<_, String>(0)))
        .and_then(|_| copy.pragma_update(None, "synchronous", "full"))
        .and_then(|()| copy.execute("UPDATE store SET restored = ?1", [mark]))
        .map_err(fail(path, "marking the copy"))?;
    check(&copy, path)?;
    copy.close().map_err(|(_, e)| fail(path, "closing the copy")(e))?;
    File::open(path).and_then(|f| f.sync_all()).map_err(failed(path, "syncing the copy"))?;
    Ok(partial)
}

fn check(conn: &Connection, path: &Path) -> Result<(), BackupError> {
    let found: String = conn
        .query_row("PRAGMA integrity_check(1)", [], |r| r.get(0))
        .map_err(failed(path, "checking the integrity"))?;
    if found == "ok" {
        return Ok(());
    }
    Err(BackupError::Unfit { path: path.to_owned(), detail: format!("its integrity check says {found:?}") })
}

fn name_it(partial: Partial, to: &Path) -> Result<(), BackupError> {
    std::fs::rename(&partial.0, to).map_err(failed(to, "naming the copy"))?;
    sync_directory_of(to).map_err(failed(to, "syncing the directory"))
}

pub(crate) fn backup(
    from: &Connection,
    to: &Path,
    now: WallMs,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<(), BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let partial = copy(from, to, &RestoredWhy::Backup { taken_at: now }, progress)?;
    name_it(partial, to)
}

pub(crate) fn restore(from: &Path, to: &Path, force: Force, now: WallMs) -> Result<(), BackupError> {
    let unfit = |detail: String| BackupError::Unfit { path: from.to_owned(), detail };
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|e| unfit(e.to_string()))?;
    if check_ours(&source, from)? == 0 {
        return Err(unfit("it is empty".into()));
    }
    check(&source, from)?;
    let mark: Option<String> =
        source.query_row("SELECT restored FROM store", [], |r| r.get(0)).map_err(|e| unfit(e.to_string()))?;
    // A plain copy of a database does not say when it was made.
    let mark = mark.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(RestoredWhy::Backup { taken_at: now });
    let _lock = Lock::take(to)?;
    if to.exists() && force == Force::No {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let partial = copy(&source, to, &mark, &mut |_| {})?;
    if to.exists() {
        set_aside(to, now)?;
    }
    name_it(partial, to)
}

/// The write-ahead log leaves first: left behind, it would be replayed into the new database.
fn set_aside(database: &Path, now: WallMs) -> Result<(), BackupError> {
    let emptied =
        Connection::open(database).and_then(|old| old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    if let Err(error) = emptied {
        tracing::warn!(path = %database.display(), %error, "the replaced database cannot be opened; it is kept as it is");
    }
    let aside = format!(".replaced-{}", now.0);
    for suffix in ["-wal", "-shm", ""] {
        let old = with_suffix(database, suffix);
        if old.exists() {
            let new = with_suffix(&with_suffix(database, &aside), suffix);
            std::fs::rename(&old, &new).map_err(failed(&old, "setting the old database aside"))?;
        }
    }
    sync_directory_of(database).map_err(failed(database, "syncing the directory"))
}
