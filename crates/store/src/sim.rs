//! A store for a simulator: the same writer, transactions, journal and standing on a database in memory, without threads,
//! files or a clock of its own. Opened by [`Store::open_inline`](crate::Store::open_inline) only; no daemon gets here.
//!
//! Enters: closures, on the caller's thread. Leaves: their results, before the caller goes on.
//!
//! Always holds:
//! - A [`MemoryDisk`] outlives the stores opened on it: what was committed is there at the next opening, and nothing else.
//! - The same calls with the same entropy and clock give the same bytes.
//! - What was killed stays dead: its transactions never return, its watches yield nothing more, its reads are refused.

use crate::anchor::{Anchor, compare_with};
use crate::error::{OpenError, StoreError};
use crate::schema::{Medium, prepare};
use crate::standing::StoreIdentity;
use crate::store::{Options, settle_standing, store_id};
use crate::watch::{Change, Hub};
use crate::writer::{Clock, Job, Shared, Writer};
use pumasi_terms::{Revision, WallMs};
use rusqlite::Connection;
use rusqlite::backup::Backup;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::thread::ThreadId;

/// What a transaction left on the disk.
#[derive(Debug, Clone)]
pub struct CommitInfo {
    /// The store's revision and last journal row now.
    pub revision: Revision,
    pub journal_seq: u64,
    /// What was put and deleted, in order. Empty where only the journal, the outbox or the standing changed.
    pub changes: Vec<Arc<Change>>,
}

/// What becomes of a process right after its commit, before its next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    GoOn,
    /// Other tasks run first: the answer comes at the second poll.
    Yield,
    /// As by `kill -9`: the disk keeps the commit, nobody is told.
    Crash,
}

/// What becomes of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Keep,
    /// Its writer believes that it was made.
    Drop,
    /// It fails, and its transaction with it.
    Fail,
}

pub type OnCommit = Arc<dyn Fn(&CommitInfo) -> Verdict + Send + Sync>;
pub type OnPut = Arc<dyn Fn(&str, &str, &mut Value) -> Fate + Send + Sync>;
pub type OnRead = Arc<dyn Fn(&str, Option<&str>) -> bool + Send + Sync>;
pub type OnDelete = Arc<dyn Fn(&str, &str) -> Fate + Send + Sync>;

/// What a simulator does to a store: crash points, and planted bugs that its oracles must find.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Called after each commit that wrote something. It may read the store, snapshot the disk or kill it.
    pub on_commit: Option<OnCommit>,
    /// Called with kind, name and value before a put; it may change the value. It may not call the store.
    pub on_put: Option<OnPut>,
    /// Called with kind and name before a deletion of what is there. It may not call the store.
    pub on_delete: Option<OnDelete>,
    /// Called with the kind before one object, or all of the kind (no name), is read; `false`: the read fails. It may not call the store.
    pub on_read: Option<OnRead>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_commit", &self.on_commit.is_some())
            .field("on_put", &self.on_put.is_some())
            .field("on_delete", &self.on_delete.is_some())
            .field("on_read", &self.on_read.is_some())
            .finish()
    }
}

impl Hooks {
    /// Text that the hook did not change stays as it was encoded.
    pub(crate) fn alter(&self, kind: &str, name: &str, text: &mut String) -> Result<Fate, StoreError> {
        let Some(hook) = &self.on_put else { return Ok(Fate::Keep) };
        let encode =
            |e: serde_json::Error| StoreError::Encode { what: format!("{kind}/{name}"), detail: e.to_string() };
        let before: Value = serde_json::from_str(text).map_err(encode)?;
        let mut value = before.clone();
        let fate = hook(kind, name, &mut value);
        if value != before {
            *text = serde_json::to_string(&value).map_err(encode)?;
        }
        Ok(fate)
    }

    pub(crate) fn read(&self, kind: &str, name: Option<&str>) -> Result<(), StoreError> {
        if self.on_read.as_ref().is_none_or(|hook| hook(kind, name)) {
            return Ok(());
        }
        let detail = format!("database is locked (reading {kind}; made up by a simulator)");
        Err(StoreError::Database { doing: "reading an object", detail, retryable: true })
    }

    pub(crate) fn spare(&self, kind: &str, name: &str) -> Fate {
        self.on_delete.as_ref().map_or(Fate::Keep, |hook| hook(kind, name))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The database and, while a store is open on it, that store's writer.
#[derive(Default)]
pub(crate) struct Core {
    idle: Option<Connection>,
    writer: Option<Writer>,
}

impl Core {
    fn conn(&self) -> Option<&Connection> {
        self.writer.as_ref().map(Writer::conn).or(self.idle.as_ref())
    }

    /// Ends the writer; the database stays. Also lets go of the simulator's hooks and clock.
    fn settle(&mut self) {
        if let Some(writer) = self.writer.take() {
            self.idle = Some(writer.into_conn());
        }
    }
}

/// What the anchor file would hold, and what its keeper would write next.
#[derive(Debug, Default)]
struct AnchorSlot {
    written: Option<StoreIdentity>,
    pending: Option<StoreIdentity>,
    next_at: WallMs,
}

pub(crate) struct Disk {
    path: PathBuf,
    core: Mutex<Core>,
    /// The thread inside `core`: it must not wait for itself.
    holder: Mutex<Option<ThreadId>>,
    anchor: Arc<Mutex<AnchorSlot>>,
    session: Mutex<Weak<Session>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).finish_non_exhaustive()
    }
}

struct Holding<'a>(&'a Mutex<Option<ThreadId>>);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

impl Disk {
    /// `None`: this thread is inside already, in a closure or a hook of a transaction.
    fn enter<T>(&self, f: impl FnOnce(&mut Core) -> T) -> Option<T> {
        let me = std::thread::current().id();
        if *lock(&self.holder) == Some(me) {
            return None;
        }
        let mut core = lock(&self.core);
        *lock(&self.holder) = Some(me);
        let _holding = Holding(&self.holder);
        Some(f(&mut core))
    }

    fn failed(&self, doing: &'static str) -> impl Fn(rusqlite::Error) -> OpenError + '_ {
        move |e| OpenError::Database { path: self.path.clone(), doing, detail: e.to_string() }
    }

    fn entered<T>(
        &self,
        doing: &'static str,
        f: impl FnOnce(&mut Core) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        let inside = || OpenError::Database { path: self.path.clone(), doing, detail: INSIDE.into() };
        self.enter(f).unwrap_or_else(|| Err(inside()))
    }

    fn unused(&self) -> Result<(), OpenError> {
        match lock(&self.session).upgrade() {
            Some(session) if session.is_open() => Err(OpenError::InUse { path: self.path.clone() }),
            _ => Ok(()),
        }
    }

    fn memory(&self, doing: &'static str) -> Result<Connection, OpenError> {
        Connection::open_in_memory().map_err(self.failed(doing))
    }
}

const INSIDE: &str = "asked from inside a transaction; use the transaction itself";

fn inside() -> StoreError {
    StoreError::Database { doing: "using the store", detail: INSIDE.into(), retryable: false }
}

/// A database in memory that outlives the stores opened on it. A clone is the same disk.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    pub(crate) disk: Arc<Disk>,
}

/// What a disk held at one moment.
#[derive(Clone)]
pub struct Snapshot {
    database: Option<Arc<Mutex<Connection>>>,
    anchor: Option<StoreIdentity>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("anchor", &self.anchor).finish_non_exhaustive()
    }
}

fn copy(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    // All pages at once: nothing may come in between.
    Backup::new(from, to)?.step(-1).map(drop)
}

impl MemoryDisk {
    /// An empty disk; `name` is for messages.
    pub fn new(name: &str) -> Self {
        let disk = Disk {
            path: PathBuf::from(format!("memory:{name}")),
            core: Mutex::default(),
            holder: Mutex::default(),
            anchor: Arc::default(),
            session: Mutex::default(),
        };
        Self { disk: Arc::new(disk) }
    }

    /// The process that has the store open dies now. The anchor is as old as its keeper would have left it.
    pub fn kill(&self) {
        let session = lock(&self.disk.session).upgrade();
        if let Some(session) = session {
            session.kill();
        }
    }

    /// A copy of the database and its anchor as committed, also under an open store.
    pub fn snapshot(&self) -> Result<Snapshot, OpenError> {
        let doing = "taking a snapshot";
        let database = self.disk.entered(doing, |core| {
            let Some(conn) = core.conn() else { return Ok(None) };
            let mut to = self.disk.memory(doing)?;
            copy(conn, &mut to).map_err(self.disk.failed(doing))?;
            Ok(Some(Arc::new(Mutex::new(to))))
        })?;
        Ok(Snapshot { database, anchor: lock(&self.disk.anchor).written.clone() })
    }

    /// An operator puts an old database back; the anchor beside it stays, so that the store can find out.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), OpenError> {
        let doing = "putting a snapshot back";
        self.disk.unused()?;
        self.disk.entered(doing, |core| {
            let mut database = None;
            if let Some(from) = &snapshot.database {
                let mut to = self.disk.memory(doing)?;
                copy(&lock(from), &mut to).map_err(self.disk.failed(doing))?;
                database = Some(to);
            }
            *core = Core { idle: database, writer: None };
            Ok(())
        })
    }

    /// A whole machine is put back, with the anchor: only what peers remember can tell.
    pub fn restore_machine(&self, snapshot: &Snapshot) -> Result<(), OpenError> {
        self.restore(snapshot)?;
        let mut slot = lock(&self.disk.anchor);
        *slot = AnchorSlot { written: snapshot.anchor.clone(), ..AnchorSlot::default() };
        Ok(())
    }

    /// Somebody changes the database behind the store's back.
    pub fn tamper(&self, sql: &str) -> Result<(), OpenError> {
        let doing = "changing the database by hand";
        self.disk.entered(doing, |core| match core.conn() {
            Some(conn) => conn.execute_batch(sql).map_err(self.disk.failed(doing)),
            None => Ok(()),
        })
    }
}

/// The anchor of a store in memory: written at most once an interval of the given clock, like the file.
struct MemoryAnchor {
    slot: Arc<Mutex<AnchorSlot>>,
    clock: Clock,
    interval_ms: i64,
}

impl MemoryAnchor {
    /// `first` is written before any commit.
    fn start(disk: &Disk, options: &Options, first: Option<StoreIdentity>) -> Self {
        let interval_ms = i64::try_from(options.anchor_interval_ms).unwrap_or(i64::MAX);
        let mut slot = lock(&disk.anchor);
        slot.pending = None;
        slot.next_at = WallMs((options.clock)().0.saturating_add(interval_ms));
        if first.is_some() {
            slot.written = first;
        }
        Self { slot: Arc::clone(&disk.anchor), clock: Arc::clone(&options.clock), interval_ms }
    }

    /// What the keeper would have written until now.
    fn settle(&self, slot: &mut AnchorSlot, now: WallMs) {
        if now >= slot.next_at
            && let Some(identity) = slot.pending.take()
        {
            slot.written = Some(identity);
            slot.next_at = WallMs(slot.next_at.0.saturating_add(self.interval_ms));
        }
    }

    fn die(&self) {
        let now = (self.clock)();
        let mut slot = lock(&self.slot);
        self.settle(&mut slot, now);
        slot.pending = None;
    }

    fn stop(&self) {
        let mut slot = lock(&self.slot);
        if let Some(identity) = slot.pending.take() {
            slot.written = Some(identity);
        }
    }
}

impl Anchor for MemoryAnchor {
    fn post(&self, identity: StoreIdentity) {
        let now = (self.clock)();
        let mut slot = lock(&self.slot);
        self.settle(&mut slot, now);
        if now >= slot.next_at {
            slot.written = Some(identity);
            slot.next_at = WallMs(now.0.saturating_add(self.interval_ms));
        } else {
            slot.pending = Some(identity);
        }
    }
}

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const DEAD: u8 = 2;

/// One life of a store on a disk: from its opening until it is closed or killed.
pub(crate) struct Session {
    disk: Arc<Disk>,
    life: AtomicU8,
    on_commit: Option<OnCommit>,
    anchor: Arc<MemoryAnchor>,
    hub: Arc<Hub>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("disk", &self.disk).field("life", &self.life).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens the disk's database in place and makes its writer; a failed opening leaves it as it was.
    pub fn begin(
        disk: &MemoryDisk,
        now: WallMs,
        entropy: u128,
        options: &Options,
        hooks: Hooks,
    ) -> Result<(Arc<Self>, Shared), OpenError> {
        let disk = &disk.disk;
        let doing = "opening the database";
        disk.unused()?;
        disk.entered(doing, |core| {
            core.settle();
            let mut conn = core.idle.take().map_or_else(|| disk.memory(doing), Ok)?;
            let mut opened = || {
                let mut head = prepare(&mut conn, Medium::Memory, &disk.path, now, &store_id(entropy))?;
                let anchored = lock(&disk.anchor).written.clone();
                let compared = compare_with(Ok(anchored), &head, &conn);
                let first = settle_standing(&disk.path, &conn, &mut head, compared)?;
                Ok((head, first))
            };
            let (head, first) = match opened() {
                Ok(opened) => opened,
                Err(error) => {
                    core.idle = Some(conn);
                    return Err(error);
                }
            };
            let anchor = Arc::new(MemoryAnchor::start(disk, options, first));
            let on_commit = hooks.on_commit.clone();
            let shared = Shared::new(options, entropy, &head, Arc::clone(&anchor) as Arc<dyn Anchor>, hooks);
            let damaged = |e: StoreError| OpenError::Damaged { path: disk.path.clone(), detail: e.to_string() };
            core.writer = Some(Writer::new(conn, head, shared.clone()).map_err(damaged)?);
            let session = Arc::new(Self {
                disk: Arc::clone(disk),
                life: AtomicU8::new(OPEN),
                on_commit,
                anchor,
                hub: Arc::clone(&shared.hub),
            });
            *lock(&disk.session) = Arc::downgrade(&session);
            Ok((session, shared))
        })
    }

    fn is_open(&self) -> bool {
        self.life.load(Ordering::SeqCst) == OPEN
    }

    pub fn is_dead(&self) -> bool {
        self.life.load(Ordering::SeqCst) == DEAD
    }

    pub fn path(&self) -> PathBuf {
        self.disk.path.clone()
    }

    /// Runs, commits and answers a closure. After `Crash` nobody may hear the answer.
    pub fn run(&self, job: Box<dyn Job>) -> Verdict {
        match self.life.load(Ordering::SeqCst) {
            OPEN => {}
            CLOSED => {
                job.answer(Err(StoreError::Closed));
                return Verdict::GoOn;
            }
            _ => return Verdict::Crash,
        }
        let mut waiting = Some(job);
        let committed = self.disk.enter(|core| match (core.writer.as_mut(), waiting.take()) {
            (Some(writer), Some(job)) => writer.run_now(job),
            _ => None,
        });
        if let Some(job) = waiting {
            job.answer(Err(inside()));
        }
        let verdict = match (committed.flatten(), &self.on_commit) {
            (Some(committed), Some(hook)) => hook(&committed),
            _ => Verdict::GoOn,
        };
        if verdict == Verdict::Crash {
            self.kill();
        }
        if self.is_dead() { Verdict::Crash } else { verdict }
    }

    pub fn read<T>(&self, f: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.is_dead() {
            return Err(StoreError::Closed);
        }
        self.disk.enter(|core| f(core.conn().ok_or(StoreError::Closed)?)).unwrap_or_else(|| Err(inside()))
    }

    fn end(&self, as_what: u8) -> bool {
        let ended = self.life.compare_exchange(OPEN, as_what, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if ended {
            // A closure that drops the last handle is inside: then the next opening settles it.
            self.disk.enter(Core::settle);
        }
        ended
    }

    fn kill(&self) {
        if self.end(DEAD) {
            self.anchor.die();
        }
    }

    pub fn close(&self) {
        if self.end(CLOSED) {
            self.anchor.stop();
            self.hub.close();
        }
    }
}

/// Lets every other task that is ready run once.
pub(crate) async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
