//! A live read-only copy of a database.
//!
//! Enters: a base (all pages of a snapshot) and batches of changed pages. Leaves: a database file that stock applications
//! open read-only.
//! Always holds: pages change only inside one SQLite transaction, so every reader sees one snapshot of the home; the copy never
//! claims a position it does not hold, also after a crash or a power cut.
//!
//! The copy is in WAL mode whatever mode the home has: readers then never wait for the writer nor the writer for them, and
//! `PRAGMA journal_mode=WAL` of an application is no change. Readers need read access only: as long as this object lives,
//! SQLite (since 3.22) reads with a shared-memory file that it may not write. Keep it so: a process that may write that file
//! can also cut it short and so kill every process that has it mapped, us included.

use super::{DB_PAGES_MAX, PageBatch, first_page, is_lock_page, page_size_of};
use crate::disk::{self, beside, write_state};
use crate::materialise::Access;
use crate::store::{ChunkSource, StoreError};
use crate::tree::{EntryKind, TreeManifest};
use pumasi_terms::Position;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct ReplicaOptions {
    pub access: Access,
    /// Let the group write the shared-memory file, for applications with an SQLite older than 3.22. See the module on the risk.
    pub shm_group_writable: bool,
    /// Each batch is on disk before `apply` returns, and positions survive a reboot. Without it a reboot asks for a new base.
    pub durable: bool,
    /// The database may not grow beyond this.
    pub bytes_max: u64,
    /// Batches are refused while readers keep the log from shrinking below this.
    pub wal_bytes_max: u64,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        Self {
            access: Access::Owner,
            shm_group_writable: false,
            durable: false,
            bytes_max: 64 << 30,
            wal_bytes_max: 512 << 20,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error("copy at {held:?}: the batch leads from {from} to {to} and does not fit; send a base")]
    NeedsBase { held: Option<Position>, from: Position, to: Position },
    #[error("the copy has pages of {held} bytes, the home now of {offered}; make a new copy and restart its readers")]
    PageSize { held: u32, offered: u32 },
    #[error("the copy is at {held}; going back to {offered} is refused")]
    Older { held: Position, offered: Position },
    #[error("the base is not a database: {problem}; the sender is at fault")]
    Base { problem: &'static str },
    #[error("the database has {bytes} bytes; this copy may have {bytes_max}")]
    TooLarge { bytes: u64, bytes_max: u64 },
    #[error("a reader keeps an old snapshot: the log of {path} has {wal_bytes} bytes; end that reader, then retry")]
    ReaderHoldsLog { path: PathBuf, wal_bytes: u64 },
    #[error("{path} is no whole copy, so that it cannot be promoted; take another copy, or send it a base")]
    NotWhole { path: PathBuf },
    #[error(transparent)]
    Batch(#[from] super::BatchError),
    #[error("base of {path}: {source}")]
    Chunk { path: PathBuf, source: StoreError },
    #[error("copy {path}: {source}; our disk is at fault, retry")]
    Io { path: PathBuf, source: io::Error },
    #[error("copy {path}: {source}; retry, and if that fails send a base")]
    Sqlite { path: PathBuf, source: rusqlite::Error },
}

/// What a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub at: Position,
    pub pages: usize,
    pub wal_bytes: u64,
}

/// Version 2; of version 1 was one that did not know the mode.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    at: Position,
    /// Without `durable` a power cut may have taken what the position claims; then only the same boot may trust it.
    boot_id: Option<String>,
    /// The database's at home, when the last base was taken; 0: not known.
    #[serde(default)]
    mode: u16,
}

const STATE_VERSION: u32 = 2;

impl State {
    fn read(path: &Path) -> Option<Self> {
        let state: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        ((1..=STATE_VERSION).contains(&state.version) && disk::still_counts(&state.boot_id)).then_some(state)
    }
}

#[derive(Debug)]
pub struct SqliteReplica {
    path: PathBuf,
    options: ReplicaOptions,
    db: Connection,
    page_size: u32,
    at: Option<Position>,
    mode: u16,
}

pub(super) fn state_path(path: &Path) -> PathBuf {
    beside(path, ".position")
}

/// Gives the pages of a base one after the other.
struct BasePages<'a> {
    chunks: std::slice::Iter<'a, crate::ChunkRef>,
    source: &'a dyn ChunkSource,
    path: &'a Path,
    left: Vec<u8>,
}

impl BasePages<'_> {
    fn next(&mut self, page_size: usize) -> Result<Option<Vec<u8>>, ReplicaError> {
        while self.left.len() < page_size {
            let Some(chunk) = self.chunks.next() else { break };
            let bytes = self.source.chunk(&chunk.digest);
            self.left.extend(bytes.map_err(|source| ReplicaError::Chunk { path: self.path.to_owned(), source })?);
        }
        match self.left.len() {
            0 => Ok(None),
            n if n < page_size => Err(ReplicaError::Base { problem: "it ends in the middle of a page" }),
            _ => {
                let rest = self.left.split_off(page_size);
                Ok(Some(std::mem::replace(&mut self.left, rest)))
            }
        }
    }
}

/// What a base says of itself: page size, number of pages, its mode, and its pages.
fn open_base<'a>(
    tree: &'a TreeManifest,
    source: &'a dyn ChunkSource,
    path: &'a Path,
    bytes_max: u64,
) -> Result<(u32, u32, u16, BasePages<'a>), ReplicaError> {
    let bad = |problem| ReplicaError::Base { problem };
    tree.check().map_err(|_| bad("its manifest is not valid"))?;
    let [entry] = tree.entries.as_slice() else { return Err(bad("it is not one file")) };
    let EntryKind::File { size, chunks, .. } = &entry.kind else { return Err(bad("it is not one file")) };
    if *size > bytes_max {
        return Err(ReplicaError::TooLarge { bytes: *size, bytes_max });
    }
    let mut pages = BasePages { chunks: chunks.iter(), source, path, left: Vec::new() };
    // Any database has at least 512 bytes; the smallest page is enough to know the real size.
    let head = pages.next(512)?.ok_or_else(|| bad("it is empty"))?;
    let page_size = page_size_of(&head).ok_or_else(|| bad("it does not begin like one"))?;
    let rest = std::mem::replace(&mut pages.left, head);
    pages.left.extend(rest);
    if size % u64::from(page_size) != 0 {
        return Err(bad("it ends in the middle of a page"));
    }
    let db_pages = u32::try_from(size / u64::from(page_size)).ok().filter(|n| *n <= DB_PAGES_MAX);
    Ok((page_size, db_pages.ok_or_else(|| bad("it has too many pages"))?, entry.mode, pages))
}

impl SqliteReplica {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> ReplicaError + use<> {
        let path = path.to_owned();
        move |source| ReplicaError::Io { path, source }
    }

    fn sqlite(path: &Path) -> impl Fn(rusqlite::Error) -> ReplicaError + use<> {
        let path = path.to_owned();
        move |source| ReplicaError::Sqlite { path: path.clone(), source }
    }

    /// Makes the copy at `path` from a base. Whatever is there is replaced, so it must have no readers.
    pub fn create(
        tree: &TreeManifest,
        source: &dyn ChunkSource,
        at: Position,
        path: impl Into<PathBuf>,
        options: ReplicaOptions,
    ) -> Result<Self, ReplicaError> {
        let path = path.into();
        let (page_size, db_pages, mode, mut pages) = open_base(tree, source, &path, options.bytes_max)?;
        let part = beside(&path, ".part");
        for stale in
            [&part, &state_path(&path), &beside(&path, "-wal"), &beside(&path, "-shm"), &beside(&path, "-journal")]
        {
            disk::remove_file(stale).map_err(Self::io(stale))?;
        }
        let mut fill = || -> Result<(), ReplicaError> {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
            let mut file = io::BufWriter::with_capacity(1 << 20, file.map_err(Self::io(&part))?);
            let mut first = true;
            while let Some(mut page) = pages.next(page_size as usize)? {
                if std::mem::take(&mut first) {
                    first_page::adapt(&mut page, db_pages);
                }
                file.write_all(&page).map_err(Self::io(&part))?;
            }
            let file = file.into_inner().map_err(|e| Self::io(&part)(e.into_error()))?;
            if options.durable {
                file.sync_all().map_err(Self::io(&part))?;
            }
            // SQLite gives the log and the shared memory the owner, group and mode of the database.
            options.access.set(&part, options.access.mode(mode & !0o111, false)).map_err(Self::io(&part))?;
            disk::rename(&part, &path).map_err(Self::io(&path))
        };
        fill().inspect_err(|_| {
            let _ = fs::remove_file(&part);
        })?;
        Self::open_at(&path, at, mode, options)
    }

    /// Opens what was just made, and says where it is.
    pub(super) fn open_at(path: &Path, at: Position, mode: u16, options: ReplicaOptions) -> Result<Self, ReplicaError> {
        let mut copy = Self::open(path, options)?;
        copy.mode = mode;
        copy.persist(at)?;
        copy.at = Some(at);
        Ok(copy)
    }

    /// Opens a copy made before, e.g. after a restart. A position that cannot be trusted counts as none: then only a base fits.
    pub fn open(path: impl Into<PathBuf>, options: ReplicaOptions) -> Result<Self, ReplicaError> {
        let path = path.into();
        let sqlite = Self::sqlite(&path);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let flags = flags | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let db = Connection::open_with_flags(super::source::real_path(&path), flags).map_err(&sqlite)?;
        let setup = |db: &Connection| -> rusqlite::Result<u32> {
            db.busy_timeout(Duration::from_secs(2))?;
            db.execute_batch(&format!(
                "PRAGMA trusted_schema=OFF; PRAGMA cache_size=-4096; PRAGMA synchronous={};
                 PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=16777216;",
                if options.durable { "FULL" } else { "NORMAL" }
            ))?;
            // The first read opens the log and takes the lock that lets others read with shared memory they may not write.
            db.query_row("SELECT pgno FROM sqlite_dbpage WHERE pgno=1", [], |_| Ok(()))?;
            db.query_row("PRAGMA page_size", [], |r| r.get(0))
        };
        let page_size = setup(&db).map_err(&sqlite)?;
        if options.shm_group_writable {
            let shm = beside(&path, "-shm");
            options.access.set(&shm, 0o660).map_err(Self::io(&shm))?;
        }
        let state = State::read(&state_path(&path));
        let (at, mode) = (state.as_ref().map(|s| s.at), state.map_or(0, |s| s.mode));
        Ok(Self { path, options, db, page_size, at, mode })
    }

    /// What the copy holds; none after a crash or reboot that left it in doubt.
    pub fn position(&self) -> Option<Position> {
        self.at
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far the copy may be behind at `home_now_ms` of the home's clock.
    pub fn lag_ms(&self, home_now_ms: u64) -> Option<u64> {
        self.at.map(|at| at.lag_ms(home_now_ms))
    }

    fn persist(&self, at: Position) -> Result<(), ReplicaError> {
        let path = state_path(&self.path);
        let state =
            State { version: STATE_VERSION, at, boot_id: disk::written_in(self.options.durable), mode: self.mode };
        let bytes = serde_json::to_vec(&state).unwrap_or_default();
        write_state(&path, &bytes, self.options.durable).map_err(Self::io(&path))
    }

    fn wal_bytes(&self) -> u64 {
        fs::metadata(beside(&self.path, "-wal")).map_or(0, |m| m.len())
    }

    /// Applies a batch in one transaction. One that the copy holds already changes nothing.
    pub fn apply(&mut self, batch: &PageBatch) -> Result<Applied, ReplicaError> {
        batch.check()?;
        let misfit = ReplicaError::NeedsBase { held: self.at, from: batch.from, to: batch.to };
        let Some(at) = self.at.filter(|at| at.generation == batch.from.generation && *at >= batch.from) else {
            return Err(misfit);
        };
        if at >= batch.to {
            return Ok(Applied { at, pages: 0, wal_bytes: self.wal_bytes() });
        }
        if batch.page_size != self.page_size {
            return Err(ReplicaError::PageSize { held: self.page_size, offered: batch.page_size });
        }
        self.room(batch.db_pages)?;
        let mut pages = batch.pages.iter();
        self.write(batch.db_pages, || Ok(pages.next().map(|(n, b)| (*n, b.clone()))), false)?;
        self.finish(batch.to, batch.pages.len())
    }

    /// Brings a live copy to a base, under its readers: they go from their snapshot to the new one.
    pub fn rebase(
        &mut self,
        tree: &TreeManifest,
        source: &dyn ChunkSource,
        to: Position,
    ) -> Result<Applied, ReplicaError> {
        if let Some(held) = self.at.filter(|at| *at > to) {
            return Err(ReplicaError::Older { held, offered: to });
        }
        let path = self.path.clone();
        let (page_size, db_pages, mode, mut pages) = open_base(tree, source, &path, self.options.bytes_max)?;
        if page_size != self.page_size {
            return Err(ReplicaError::PageSize { held: self.page_size, offered: page_size });
        }
        self.room(db_pages)?;
        let mut pgno = 0;
        let next = || {
            pgno += 1;
            Ok(pages.next(page_size as usize)?.map(|b| (pgno, b)))
        };
        let written = self.write(db_pages, next, true)?;
        self.mode = mode;
        self.finish(to, written)
    }

    /// The home says that nothing changed from `content` (the position of the last batch or base) up to `to`.
    /// False if the copy does not hold that content.
    pub fn advance(&mut self, content: Position, to: Position) -> bool {
        match &mut self.at {
            Some(at) if at.generation == to.generation && *at >= content => {
                *at = to.max(*at);
                true
            }
            _ => false,
        }
    }

    fn room(&self, db_pages: u32) -> Result<(), ReplicaError> {
        let bytes = u64::from(db_pages) * u64::from(self.page_size);
        if bytes > self.options.bytes_max {
            return Err(ReplicaError::TooLarge { bytes, bytes_max: self.options.bytes_max });
        }
        if self.wal_bytes() > self.options.wal_bytes_max {
            // Perhaps the reader is gone by now.
            self.shrink_log();
            let wal_bytes = self.wal_bytes();
            if wal_bytes > self.options.wal_bytes_max {
                return Err(ReplicaError::ReaderHoldsLog { path: self.path.clone(), wal_bytes });
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        db_pages: u32,
        mut next: impl FnMut() -> Result<Option<(u32, Vec<u8>)>, ReplicaError>,
        compare: bool,
    ) -> Result<usize, ReplicaError> {
        let sqlite = Self::sqlite(&self.path);
        let page_size = self.page_size;
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&sqlite)?;
        let mut written = 0;
        {
            let before: u32 = tx.query_row("PRAGMA page_count", [], |r| r.get(0)).map_err(&sqlite)?;
            let mut read = tx.prepare("SELECT data FROM sqlite_dbpage WHERE pgno=?1").map_err(&sqlite)?;
            let mut insert = tx.prepare("INSERT INTO sqlite_dbpage(pgno,data) VALUES(?1,?2)").map_err(&sqlite)?;
            let mut first = None;
            while let Some((pgno, mut page)) = next()? {
                if is_lock_page(pgno, page_size) {
                    continue;
                }
                if pgno == 1 {
                    first_page::adapt(&mut page, db_pages);
                    first = Some(page);
                    continue;
                }
                let same = compare
                    && pgno <= before
                    && read
                        .query_row([pgno], |r| Ok(r.get_ref(0)?.as_blob().is_ok_and(|b| b == page)))
                        .map_err(&sqlite)?;
                if !same {
                    insert.execute(params![pgno, page]).map_err(&sqlite)?;
                    written += 1;
                }
            }
            // The first page comes after all others, for it tells SQLite to read the schema again; and the cut after that, for
            // a page written later would cancel it. One statement for both, so that nothing is read between them: this
            // connection's decoded pages are those of before. (The file itself stays as long as it was: SQLite, which looks into the
            // page again at the end of such a statement, then finds nothing to be cut off. Its header tells readers where it ends.)
            let cut = db_pages < before;
            if let Some(page) = &first {
                written += 1;
                match cut {
                    true => {
                        let both = "INSERT INTO sqlite_dbpage(pgno,data) VALUES(1,?1),(?2,NULL)";
                        tx.execute(both, params![page, db_pages + 1])
                    }
                    false => insert.execute(params![1, page]),
                }
                .map_err(&sqlite)?;
            } else if cut {
                insert.execute(params![db_pages + 1, rusqlite::types::Null]).map_err(&sqlite)?;
            }
        }
        tx.commit().map_err(&sqlite)?;
        // The pages changed behind the back of this connection's decoded ones: forget those.
        self.db.execute_batch("PRAGMA shrink_memory").map_err(&sqlite)?;
        Ok(written)
    }

    /// After the commit: a crash between the two leaves a copy that claims less than it holds.
    fn finish(&mut self, to: Position, pages: usize) -> Result<Applied, ReplicaError> {
        // In memory first: if only the file cannot be written, the copy is still at `to`.
        self.at = Some(to);
        self.persist(to)?;
        if self.wal_bytes() > self.options.wal_bytes_max / 4 {
            self.shrink_log();
        }
        Ok(Applied { at: to, pages, wal_bytes: self.wal_bytes() })
    }

    /// Begins the log anew if no reader needs it; waits only for a moment.
    fn shrink_log(&self) {
        let brief = self.db.busy_timeout(Duration::from_millis(20));
        let done =
            brief.and_then(|()| self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0)));
        if !matches!(done, Ok(0)) {
            tracing::debug!(path = %self.path.display(), ?done, "readers keep the log of a copy");
        }
        let _ = self.db.busy_timeout(Duration::from_secs(2));
    }

    /// Everything in the file, nothing in the log.
    pub(super) fn empty_log(&self) -> Result<(), ReplicaError> {
        disk::step().map_err(Self::io(&self.path))?;
        let sqlite = Self::sqlite(&self.path);
        let busy: i64 = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0)).map_err(sqlite)?;
        match (busy, self.wal_bytes()) {
            (0, 0) => Ok(()),
            (_, wal_bytes) => Err(ReplicaError::ReaderHoldsLog { path: self.path.clone(), wal_bytes }),
        }
    }

    /// Ends it as a copy: where it was, and its mode at home. Nothing of it is open afterwards.
    pub(super) fn close(self) -> Result<(Position, u16), ReplicaError> {
        let at = self.at.ok_or_else(|| ReplicaError::NotWhole { path: self.path.clone() })?;
        self.empty_log()?;
        let (path, mode) = (self.path, self.mode);
        self.db.close().map_err(|(_, source)| ReplicaError::Sqlite { path, source })?;
        Ok((at, mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_terms::Generation;

    #[test]
    fn older_states_are_read_and_newer_ones_and_those_of_another_boot_count_as_none() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("app.db.position");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            State::read(&path).map(|s| (s.at, s.mode))
        };
        let at = Position::new(Generation(1), 7);
        let v1 = r#"{"version":1,"at":{"generation":1,"as_of_ms":7},"boot_id":null}"#;
        assert_eq!(read(v1), Some((at, 0)));
        let v2 = r#"{"version":2,"at":{"generation":1,"as_of_ms":7},"boot_id":null,"mode":432}"#;
        assert_eq!(read(v2), Some((at, 0o660)));
        assert_eq!(read(&v2.replace("2,", "3,")), None);
        assert_eq!(read(&v2.replace("null", "\"another\"")), None);
        let state = State { version: STATE_VERSION, at, boot_id: None, mode: 0o660 };
        assert_eq!(serde_json::to_string(&state).unwrap(), v2);
    }
}
