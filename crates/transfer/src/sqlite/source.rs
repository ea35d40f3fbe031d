//! The home's side: which pages of a live database changed since the last time.
//!
//! The application is not touched: this reads as one more connection. What was committed before the clock was read is in
//! what is shipped with that time.
//!
//! Changed pages are found in one of two ways. In WAL mode: from the frames of the log since the last time. A read
//! transaction held from delta to delta keeps the log from beginning anew unseen; while the log is long the transaction is
//! let go, so that the application's own checkpoints can finish. In every other case, and whenever in doubt: by comparing all pages with
//! their digests of last time. Either way a page is shipped only if its digest changed, and its bytes come from SQLite.

use super::wal::{self, Place};
use super::{BATCH_BYTES_MAX, PageBatch, is_lock_page};
use crate::chunk::ChunkRef;
use crate::disk::beside;
use crate::store::{ChunkStore, StoreError};
use crate::tree::{Entry, TreeError, TreeManifest};
use pumasi_terms::{Generation, Position};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A base is cut at fixed places: pages change where they are, so that whatever did not change is found again.
const BASE_CHUNK_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub struct SourceOptions {
    /// Changes of more bytes than this go as a base.
    pub batch_bytes_max: usize,
    /// The log may be kept from beginning anew up to this length, or an eighth of the database if that is more.
    pub hold_wal_bytes_max: u64,
    /// How long a busy database is waited for.
    pub busy_timeout_ms: u32,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { batch_bytes_max: 64 << 20, hold_wal_bytes_max: 16 << 20, busy_timeout_ms: 1_000 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(
        "database {path}: it is a link, has a second name or is no file; only a file of the dataset's own is copied"
    )]
    NotOwn { path: PathBuf },
    #[error("database {path}: its group may not write it, so that reading it could lock the application out; retry")]
    Denied { path: PathBuf },
    #[error(
        "database {path}: the application holds it locked; retry, and if it always does (locking_mode=EXCLUSIVE) it cannot be copied live"
    )]
    Busy { path: PathBuf },
    #[error("database {path}: {source}; the application's file is at fault")]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("database {path}: {source}; check that it is there and readable")]
    Io { path: PathBuf, source: io::Error },
    #[error("database {path}: its base is refused: {source}")]
    Store { path: PathBuf, source: StoreError },
    #[error("database {path}: {source}")]
    Tree { path: PathBuf, source: TreeError },
}

impl SourceError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Denied { .. } | Self::Io { .. })
    }

    /// Whether the reader lacks a right that the dataset's owner could give.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Denied { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly)
            ),
            _ => false,
        }
    }
}

/// What a look at the database found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// There is no database yet, or it is empty.
    Absent,
    /// Nothing was committed since `content` (the last batch or base): copies of it are at `as_of` now.
    Unchanged {
        content: Position,
        as_of: Position,
    },
    Changed,
}

#[derive(Debug)]
pub enum Delta {
    Unchanged {
        content: Position,
        as_of: Position,
    },
    Batch(PageBatch),
    /// No batch leads from what was shipped to what is there; the reason. Call `snapshot`.
    NeedsBase(&'static str),
}

/// All pages of the database, in the chunk store.
#[derive(Debug)]
pub struct Snapshot {
    pub at: Position,
    pub page_size: u32,
    pub db_pages: u32,
    /// One file; its chunks are in the store that was given.
    pub tree: TreeManifest,
    /// What brings copies that had followed so far to `at`; none if they need the base too.
    pub batch: Option<PageBatch>,
}

type PageDigest = [u8; 16];

fn page_digest(page: &[u8]) -> PageDigest {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(page).as_bytes()[..16]);
    out
}

/// What was shipped last.
#[derive(Debug)]
struct Shipped {
    page_size: u32,
    digests: Vec<PageDigest>,
    /// The position of the last batch or base.
    content: Position,
    /// The last position that anybody was told.
    told: Position,
    /// Every change since `content` has its frames behind this place, in the log of that generation.
    place: Option<Place>,
}

/// The connections. Two take turns in holding a snapshot, the third asks whether anything changed.
#[derive(Debug)]
struct Connections {
    poll: Connection,
    readers: [Connection; 2],
    /// Which reader is in a transaction that began when `Shipped` was taken, or later with nothing committed between.
    holding: Option<usize>,
    identity: (u64, u64),
    /// `data_version` of `poll` before the last snapshot began.
    version: Option<i64>,
}

#[derive(Debug)]
pub struct SqliteSource {
    path: PathBuf,
    generation: Generation,
    options: SourceOptions,
    connections: Option<Connections>,
    shipped: Option<Shipped>,
    stats: SourceStats,
}

/// How changes were found so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceStats {
    pub by_log: u64,
    pub by_comparison: u64,
}

/// What a snapshot says, while it is open.
struct View<'a> {
    db: &'a Connection,
    page_size: u32,
    db_pages: u32,
}

impl SqliteSource {
    /// Nothing is opened before the first poll; the database need not exist. `generation` must rise when the home's clock
    /// starts anew or the home changes.
    pub fn open(path: impl Into<PathBuf>, generation: Generation, options: SourceOptions) -> Self {
        let stats = SourceStats::default();
        Self { path: path.into(), generation, options, connections: None, shipped: None, stats }
    }

    pub fn stats(&self) -> SourceStats {
        self.stats
    }

    /// The position of the last batch or base.
    pub fn content(&self) -> Option<Position> {
        self.shipped.as_ref().map(|s| s.content)
    }

    fn fault(&self, source: rusqlite::Error) -> SourceError {
        fault(&self.path, source)
    }

    /// Opens the database if it is there; opens it again if it is another file now. False: there is none.
    fn connect(&mut self) -> Result<bool, SourceError> {
        let found = match fs::symlink_metadata(&self.path) {
            // A link, a pipe or a file with a second name is not the application's database but a way to somebody else's.
            Ok(m) if !m.is_file() || m.nlink() > 1 => return Err(SourceError::NotOwn { path: self.path.clone() }),
            Ok(m) if !may_share(&m) => return Err(SourceError::Denied { path: self.path.clone() }),
            Ok(m) => Some(((m.dev(), m.ino()), m.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(SourceError::Io { path: self.path.clone(), source }),
        };
        let Some((identity, len)) = found else {
            self.connections = None;
            return Ok(false);
        };
        if self.connections.as_ref().is_some_and(|c| c.identity != identity) {
            self.connections = None;
        }
        if self.connections.is_some() {
            return Ok(true);
        }
        // Another file may come with a copy of the same log.
        if let Some(shipped) = &mut self.shipped {
            shipped.place = None;
        }
        // An empty file has no mode and no page size yet. (In WAL mode the first page goes into the file itself.)
        if len == 0 {
            return Ok(false);
        }
        let open = || -> rusqlite::Result<Connection> {
            let db = read_only(&self.path)?;
            db.busy_timeout(Duration::from_millis(self.options.busy_timeout_ms.into()))?;
            Ok(db)
        };
        let made = open().and_then(|poll| Ok((poll, [open()?, open()?])));
        let (poll, readers) = made.map_err(|e| self.fault(e))?;
        self.connections = Some(Connections { poll, readers, holding: None, identity, version: None });
        Ok(true)
    }

    /// Asks cheaply whether anything was committed since the last delta. `home_now_ms` reads the home's CLOCK_BOOTTIME.
    pub fn poll(&mut self, home_now_ms: impl Fn() -> u64) -> Result<Polled, SourceError> {
        let now_ms = home_now_ms();
        if !self.connect()? {
            return Ok(Polled::Absent);
        }
        let path = self.path.clone();
        let (Some(c), Some(shipped)) = (&mut self.connections, &mut self.shipped) else { return Ok(Polled::Changed) };
        let version = data_version(&c.poll).map_err(|e| fault(&path, e))?;
        if c.version != Some(version) {
            return Ok(Polled::Changed);
        }
        let as_of = Position { generation: self.generation, as_of_ms: now_ms };
        if as_of > shipped.told {
            shipped.told = as_of;
        }
        c.hold_again(shipped).map_err(|e| fault(&path, e))?;
        Ok(Polled::Unchanged { content: shipped.content, as_of: shipped.told })
    }

    /// The pages that changed since the last batch or base.
    pub fn delta(&mut self, home_now_ms: impl Fn() -> u64) -> Result<Delta, SourceError> {
        let to = Position { generation: self.generation, as_of_ms: home_now_ms() };
        if !self.connect()? {
            return Ok(Delta::NeedsBase("there is no database"));
        }
        let Some(shipped) = &self.shipped else { return Ok(Delta::NeedsBase("nothing was shipped yet")) };
        // Within one millisecond two contents would have one position.
        if to <= shipped.told {
            return Ok(Delta::Unchanged { content: shipped.content, as_of: shipped.told });
        }
        self.take(to, None).map(|(delta, _)| delta)
    }

    /// A base: all pages of a snapshot, cut into chunks that are put into `store`.
    /// None: there is no database yet, or the clock stands where it was; retry in a millisecond.
    pub fn snapshot(
        &mut self,
        home_now_ms: impl Fn() -> u64,
        store: &mut ChunkStore,
    ) -> Result<Option<Snapshot>, SourceError> {
        let to = Position { generation: self.generation, as_of_ms: home_now_ms() };
        if !self.connect()? || self.shipped.as_ref().is_some_and(|s| to <= s.told) {
            return Ok(None);
        }
        let (delta, base) = self.take(to, Some(store))?;
        let Some((tree, page_size, db_pages)) = base else { return Ok(None) };
        let batch = if let Delta::Batch(batch) = delta { Some(batch) } else { None };
        Ok(Some(Snapshot { at: to, page_size, db_pages, tree, batch }))
    }

    /// Takes the snapshot `to`, the difference to what was shipped, and with a `store` all of it.
    #[allow(clippy::type_complexity)]
    fn take(
        &mut self,
        to: Position,
        store: Option<&mut ChunkStore>,
    ) -> Result<(Delta, Option<(TreeManifest, u32, u32)>), SourceError> {
        let path = self.path.clone();
        let Some(c) = &mut self.connections else { return Ok((Delta::NeedsBase("there is no database"), None)) };
        let sqlite = |e| fault(&path, e);
        let version = data_version(&c.poll).map_err(sqlite)?;
        let log_path = beside(&path, "-wal");
        // Before the snapshot begins: what is settled by now is in it, so the next walk may begin there.
        let settled = settled(&log_path, self.shipped.as_ref().and_then(|s| s.place));
        let fresh = c.holding.map_or(0, |h| 1 - h);
        let (page_size, db_pages, journal) = c.begin(fresh).map_err(sqlite)?;
        let in_log = journal == "wal";
        let taken = difference(
            View { db: &c.readers[fresh], page_size, db_pages },
            self.shipped.as_ref(),
            if in_log { Some(&log_path) } else { None },
            c.holding.is_some(),
            self.options.batch_bytes_max.min(BATCH_BYTES_MAX),
            store,
            &path,
        );
        let taken = match taken {
            Ok(taken) => taken,
            Err(e) => {
                // The older snapshot, if held, still stands for what was shipped.
                let _ = c.end(fresh);
                return Err(e);
            }
        };
        if let Some(older) = c.holding.take() {
            c.end(older).map_err(sqlite)?;
        }
        c.holding = Some(fresh);
        c.version = Some(version);
        let log_bytes = fs::metadata(&log_path).map_or(0, |m| m.len());
        let bound = self.options.hold_wal_bytes_max.max(u64::from(page_size) * u64::from(db_pages) / 8);
        if !in_log || log_bytes > bound {
            c.release().map_err(sqlite)?;
        }
        let Taken { digests, changed, by_log, base } = taken;
        match by_log {
            true => self.stats.by_log += 1,
            false => self.stats.by_comparison += 1,
        }
        let from = self.shipped.as_ref().map(|s| (s.content, s.page_size));
        self.shipped = Some(Shipped { page_size, digests, content: to, told: to, place: settled.filter(|_| in_log) });
        let delta = match (from, changed) {
            (Some((_, held)), _) if held != page_size => Delta::NeedsBase("the page size changed"),
            (Some((from, _)), Some(pages)) => Delta::Batch(PageBatch { from, to, page_size, db_pages, pages }),
            (Some(_), None) => Delta::NeedsBase("too much changed for one batch"),
            (None, _) => Delta::NeedsBase("nothing was shipped yet"),
        };
        Ok((delta, base.map(|tree| (tree, page_size, db_pages))))
    }
}

/// As one more reader of whatever is there. The schema of a tenant is trusted with nothing.
pub(crate) fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(real_path(path), flags | OpenFlags::SQLITE_OPEN_NOFOLLOW)?;
    db.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA cache_size=-1024;")?;
    Ok(db)
}

pub(super) fn fault(path: &Path, source: rusqlite::Error) -> SourceError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SourceError::Busy { path: path.to_owned() },
        _ => SourceError::Sqlite { path: path.to_owned(), source },
    }
}

/// SQLite gives the log and the shared memory that it makes the mode of the database: without the group's right to write, what this
/// process makes would be closed to the application. (SQLite as root makes them in the database's owner's name.)
fn may_share(meta: &fs::Metadata) -> bool {
    let uid = rustix::process::geteuid();
    uid.is_root() || uid.as_raw() == meta.uid() || meta.mode() & 0o060 == 0o060
}

/// The directory is the caller's and may be reached by links; below it there are none.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(dir)), Some(name)) => dir.join(name),
        _ => path.to_owned(),
    }
}

fn data_version(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA data_version", [], |r| r.get(0))
}

/// Where the next walk through the log may begin; none: there is no log to walk, or it cannot be read just now.
fn settled(log_path: &Path, last: Option<Place>) -> Option<Place> {
    let read = || -> io::Result<Option<Place>> {
        let Some(file) = wal::open(log_path)? else { return Ok(None) };
        let Some(header) = wal::header(&file)? else { return Ok(None) };
        let start = last.filter(|p| p.header == header).unwrap_or(Place::beginning(header));
        let walk = wal::walk(&file, start)?;
        // Begun anew while it was walked: its beginning is always a right place, though not the nearest.
        Ok(wal::header(&file)?.map(|now| if now == header { walk.settled } else { Place::beginning(now) }))
    };
    read().unwrap_or_default()
}

impl Connections {
    /// Begins a snapshot on a reader: page size, number of pages, journal mode.
    fn begin(&self, reader: usize) -> rusqlite::Result<(u32, u32, String)> {
        let db = &self.readers[reader];
        let begin = || {
            db.execute_batch("BEGIN")?;
            // The snapshot begins with the first read.
            db.query_row("SELECT pgno FROM sqlite_dbpage WHERE pgno=1", [], |_| Ok(()))?;
            let db_pages = db.query_row("PRAGMA page_count", [], |r| r.get(0))?;
            let page_size = db.query_row("PRAGMA page_size", [], |r| r.get(0))?;
            Ok((page_size, db_pages, db.query_row("PRAGMA journal_mode", [], |r| r.get(0))?))
        };
        begin().inspect_err(|_| {
            let _ = self.end(reader);
        })
    }

    fn end(&self, reader: usize) -> rusqlite::Result<()> {
        if self.readers[reader].is_autocommit() { Ok(()) } else { self.readers[reader].execute_batch("ROLLBACK") }
    }

    fn release(&mut self) -> rusqlite::Result<()> {
        self.holding.take().map_or(Ok(()), |h| self.end(h))
    }

    /// Moves the held snapshot forwards while nothing changes, so that checkpoints of the application are not kept waiting.
    fn hold_again(&mut self, shipped: &Shipped) -> rusqlite::Result<()> {
        if shipped.place.is_none() {
            return Ok(());
        }
        let fresh = self.holding.map_or(0, |h| 1 - h);
        self.begin(fresh)?;
        // Only if nothing was committed before it began does the new one stand for what was shipped.
        if data_version(&self.poll)? != self.version.unwrap_or(i64::MIN) {
            return self.end(fresh);
        }
        if let Some(older) = self.holding.replace(fresh) {
            self.end(older)?;
        }
        Ok(())
    }
}

struct Taken {
    digests: Vec<PageDigest>,
    /// None: too many.
    changed: Option<Vec<(u32, Vec<u8>)>>,
    by_log: bool,
    base: Option<TreeManifest>,
}

/// Pages that may have changed since `shipped`, by the log; none: the log cannot tell.
fn by_log(log_path: &Path, shipped: &Shipped, held: bool, view: &View<'_>) -> Option<BTreeSet<u32>> {
    let place = shipped.place?;
    // More than one new beginning while it is read would be strange enough to give up.
    for _ in 0..2 {
        let file = wal::open(log_path).ok()??;
        let header = wal::header(&file).ok()??;
        // Begun anew: with a snapshot held from the last time on, all changes since are in the new log.
        let start = match header == place.header {
            true => place,
            false if held => Place::beginning(header),
            false => return None,
        };
        let walk = wal::walk(&file, start).ok()?;
        if wal::header(&file).ok()? == Some(header) && header.page_size == view.page_size {
            let grown = (shipped.digests.len() as u32).saturating_add(1)..=view.db_pages;
            let mut pages: BTreeSet<u32> = walk.pages.into_iter().chain(grown).collect();
            // With another length the first page differs too, whoever wrote it.
            pages.insert(1);
            return Some(pages);
        }
    }
    None
}

fn difference(
    view: View<'_>,
    shipped: Option<&Shipped>,
    log_path: Option<&PathBuf>,
    held: bool,
    bytes_max: usize,
    store: Option<&mut ChunkStore>,
    path: &Path,
) -> Result<Taken, SourceError> {
    let sqlite = |e| fault(path, e);
    let known = shipped.filter(|s| s.page_size == view.page_size);
    let mut digests: Vec<PageDigest> = known.map(|s| s.digests.clone()).unwrap_or_default();
    let before = digests.len();
    digests.resize(view.db_pages as usize, [0; 16]);
    let mut changed = known.map(|_| Vec::new());
    let mut changed_bytes = 0usize;
    let mut visit = |pgno: u32, page: &[u8]| {
        let (digest, at) = (page_digest(page), pgno as usize - 1);
        if at < before && digests[at] == digest {
            return;
        }
        digests[at] = digest;
        changed_bytes += page.len();
        if changed_bytes > bytes_max {
            changed = None;
        }
        if let Some(pages) = &mut changed {
            pages.push((pgno, page.to_vec()));
        }
    };
    let candidates = match (known, log_path, &store) {
        (Some(shipped), Some(log_path), None) => by_log(log_path, shipped, held, &view),
        _ => None,
    };
    let found_by_log = candidates.is_some();
    let mut base = None;
    if let Some(candidates) = candidates {
        let mut read = view.db.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno=?1").map_err(sqlite)?;
        let wanted =
            candidates.into_iter().filter(|n| (1..=view.db_pages).contains(n) && !is_lock_page(*n, view.page_size));
        for pgno in wanted {
            read.query_row([pgno], |r| {
                visit(pgno, r.get_ref(0)?.as_blob()?);
                Ok(())
            })
            .map_err(sqlite)?;
        }
    } else {
        let mut cutter =
            store.map(|store| Cutter { store, chunks: Vec::new(), buffer: Vec::with_capacity(BASE_CHUNK_BYTES) });
        let mut all = view.db.prepare_cached("SELECT pgno, data FROM sqlite_dbpage").map_err(sqlite)?;
        let mut rows = all.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let pgno: u32 = row.get(0).map_err(sqlite)?;
            let page = row.get_ref(1).map_err(sqlite)?.as_blob().map_err(|e| sqlite(e.into()))?;
            if !is_lock_page(pgno, view.page_size) {
                visit(pgno, page);
            }
            if let Some(cutter) = &mut cutter {
                cutter.push(page).map_err(|source| SourceError::Store { path: path.to_owned(), source })?;
            }
        }
        if let Some(cutter) = cutter {
            let chunks = cutter.finish().map_err(|source| SourceError::Store { path: path.to_owned(), source })?;
            // Whoever promotes a copy gives it the mode again.
            let mode = fs::symlink_metadata(path).map_or(0o600, |m| (m.mode() & 0o777) as u16);
            let tree = TreeManifest::new(vec![Entry { mode, ..Entry::file("base", chunks) }]);
            base = Some(tree.map_err(|source| SourceError::Tree { path: path.to_owned(), source })?);
        }
    }
    Ok(Taken { digests, changed, by_log: found_by_log, base })
}

/// Cuts pages into chunks of one length.
struct Cutter<'a> {
    store: &'a mut ChunkStore,
    chunks: Vec<ChunkRef>,
    buffer: Vec<u8>,
}

impl Cutter<'_> {
    fn push(&mut self, page: &[u8]) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(page);
        if self.buffer.len() >= BASE_CHUNK_BYTES { self.cut() } else { Ok(()) }
    }
    fn cut(&mut self) -> Result<(), StoreError> {
        let chunk = ChunkRef::of(&self.buffer);
        self.store.put(chunk.digest, &self.buffer)?;
        self.chunks.push(chunk);
        self.buffer.clear();
        Ok(())
    }
    fn finish(mut self) -> Result<Vec<ChunkRef>, StoreError> {
        if !self.buffer.is_empty() {
            self.cut()?;
        }
        Ok(self.chunks)
    }
}
