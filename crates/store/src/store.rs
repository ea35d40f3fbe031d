//! The handle that everybody holds.

use crate::anchor::{self, AnchorKeeper};
use crate::backup::{self, BackupError, BackupProgress, Force};
use crate::error::{OpenError, StoreError};
use crate::journal::{self, Entry, JournalFilter, JournalHead, JournalRow, Retained, VerifyError};
use crate::outbox::{self, OutboxItem};
use crate::readers::{ReaderPool, Readers};
use crate::reserve::{Reserve, ReserveState};
use crate::schema::{open_reader, open_writer};
use crate::sim::{self, Hooks, MemoryDisk, Session, Verdict};
use crate::standing::{Head, RestoredWhy, Standing, StoreIdentity};
use crate::tx::{self, Listed, Stored, Tx, Unreadable};
use crate::view::Views;
use crate::watch::{Hub, Watch};
use crate::writer::{Call, Clock, Message, Shared, Writer};
use pumasi_terms::{Revision, WallMs};
use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// What may differ between stores.
#[derive(Clone)]
pub struct Options {
    /// Stamps objects and messages; the system's clock unless a simulator has its own.
    pub clock: Arc<dyn Fn() -> WallMs + Send + Sync>,
    /// Changes kept for watches that come later.
    pub log_changes_max: usize,
    pub log_bytes_max: u64,
    /// Transactions that wait for the writer.
    pub queue_max: usize,
    pub readers_max: usize,
    /// Disk space held for the store alone; 0: none.
    pub reserve_bytes: u64,
    /// The anchor file is written at most this often.
    pub anchor_interval_ms: u64,
    /// Attempts after which a message becomes a dead letter.
    pub outbox_attempts_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(wall_clock),
            log_changes_max: 10_000,
            log_bytes_max: 64 << 20,
            queue_max: 1024,
            readers_max: 4,
            reserve_bytes: 0,
            anchor_interval_ms: 1_000,
            outbox_attempts_max: 20,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("log_changes_max", &self.log_changes_max)
            .field("queue_max", &self.queue_max)
            .field("readers_max", &self.readers_max)
            .finish_non_exhaustive()
    }
}

fn wall_clock() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// One process has a store at a time; the kernel lets go when that process dies.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held for its lifetime")] File);

impl Lock {
    pub fn take(database: &Path) -> Result<Self, OpenError> {
        let path = database.with_extension("lock");
        let io = |doing| move |source| OpenError::Io { path: database.to_owned(), doing, source };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(io("opening its lock file"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: database.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io("locking")(source)),
        }
    }
}

pub(crate) fn store_id(entropy: u128) -> String {
    let id = blake3::derive_key("pumasi store id v1", &entropy.to_le_bytes());
    format!("store-{}", hex::encode(&id[..16]))
}

/// Marks a store that its anchor calls old; the first anchor of one that is current.
pub(crate) fn settle_standing(
    path: &Path,
    conn: &Connection,
    head: &mut Head,
    compared: rusqlite::Result<Option<RestoredWhy>>,
) -> Result<Option<StoreIdentity>, OpenError> {
    let damaged = |detail: String| OpenError::Damaged { path: path.to_owned(), detail };
    if let Some(why) = compared.map_err(|e| damaged(e.to_string()))? {
        head.mark_restored(why);
        head.save(conn).map_err(|e| damaged(e.to_string()))?;
    }
    let Some(why) = &head.restored else { return Ok(Some(head.identity())) };
    tracing::warn!(path = %path.display(), %why, "this store may be old; it acts on nobody until it is accepted");
    Ok(None)
}

/// All objects of one kind and the revision at which they were so: watch from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing<T> {
    pub revision: Revision,
    pub items: Vec<Stored<T>>,
    pub unreadable: Vec<Unreadable>,
}

/// Who runs the transactions.
enum Engine {
    Threads {
        queue: mpsc::Sender<Message>,
        writer: Mutex<Option<JoinHandle<()>>>,
        anchor: Arc<AnchorKeeper>,
        lock: Mutex<Option<Lock>>,
        hub: Arc<Hub>,
    },
    Inline(Arc<Session>),
}

struct Inner {
    path: PathBuf,
    engine: Engine,
    readers: Arc<Readers>,
    published: Arc<RwLock<Head>>,
    hub: Arc<Hub>,
    views: Views,
    outbox_wake: Arc<tokio::sync::watch::Sender<u64>>,
    clock: Clock,
    hooks: Hooks,
    /// Last: its descriptor of the database outlives all of SQLite's.
    reserve: Option<Reserve>,
}

/// A cheap handle; the store closes with the last one, or at `close`.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the database file; `<stem>.anchor.json` and `<stem>.lock` lie beside it. `entropy` is fresh
    /// randomness: it names a new store and salts personal digests.
    pub fn open(path: impl AsRef<Path>, now: WallMs, entropy: u128) -> Result<Self, OpenError> {
        Self::open_with(path, now, entropy, Options::default())
    }

    pub fn open_with(path: impl AsRef<Path>, now: WallMs, entropy: u128, options: Options) -> Result<Self, OpenError> {
        Self::open_hooked(path, now, entropy, options, Hooks::default())
    }

    /// With a simulator's hooks. They are called on the writer's thread; `Yield` means nothing here, and after `Crash` no
    /// transaction of this store answers any more.
    pub fn open_hooked(
        path: impl AsRef<Path>,
        now: WallMs,
        entropy: u128,
        options: Options,
        hooks: Hooks,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let io = |doing: &'static str| {
            let path = path.clone();
            move |source| OpenError::Io { path, doing, source }
        };
        let lock = Lock::take(&path)?;
        // SQLite gives its own files the mode of this one.
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io("creating the database"))?;
        let reserve = match options.reserve_bytes {
            0 => None,
            bytes => Some(Reserve::open(&path, bytes).map_err(io("opening the database"))?),
        };
        let (conn, mut head) = open_writer(&path, now, &store_id(entropy))?;
        let anchor_path = anchor::path_of(&path);
        let compared = anchor::compare(&anchor_path, &head, &conn);
        let first = settle_standing(&path, &conn, &mut head, compared)?;
        let interval = Duration::from_millis(options.anchor_interval_ms);
        let anchor = AnchorKeeper::start(anchor_path, interval, first.as_ref()).map_err(io("writing its anchor"))?;
        let anchor = Arc::new(anchor);
        let shared = Shared::new(&options, entropy, &head, Arc::clone(&anchor) as _, hooks);
        let damaged = |e: StoreError| OpenError::Damaged { path: path.clone(), detail: e.to_string() };
        let writer = Writer::new(conn, head, shared.clone()).map_err(damaged)?;
        let (queue, jobs) = mpsc::channel(options.queue_max.max(1));
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(jobs))
            .map_err(io("starting its writer"))?;
        let engine = Engine::Threads {
            queue,
            writer: Mutex::new(Some(thread)),
            anchor,
            lock: Mutex::new(Some(lock)),
            hub: Arc::clone(&shared.hub),
        };
        let readers = Readers::Pool(ReaderPool::new(path.clone(), options.readers_max.max(1)));
        let store = Self::assemble(path, engine, readers, shared, reserve);
        if let Some(problem) = store.fill_reserve().problem {
            tracing::warn!(%problem, "the store's reserve on disk is not whole; it is tried again");
        }
        Ok(store)
    }

    /// A store without threads and files, for a simulator: a transaction is committed when its future is first polled.
    /// Two at a time on a disk are refused, like two on a file. Of the options, queue and readers have no meaning here.
    pub fn open_inline(
        disk: &MemoryDisk,
        now: WallMs,
        entropy: u128,
        options: Options,
        hooks: Hooks,
    ) -> Result<Self, OpenError> {
        let (session, shared) = Session::begin(disk, now, entropy, &options, hooks)?;
        let readers = Readers::Inline(Arc::clone(&session));
        Ok(Self::assemble(session.path(), Engine::Inline(session), readers, shared, None))
    }

    fn assemble(path: PathBuf, engine: Engine, readers: Readers, shared: Shared, reserve: Option<Reserve>) -> Self {
        let Shared { published, hub, outbox_wake, clock, hooks, .. } = shared;
        Self {
            inner: Arc::new(Inner {
                path,
                engine,
                readers: Arc::new(readers),
                published,
                hub,
                views: Views::default(),
                outbox_wake,
                clock,
                reserve,
                // The others are the writer's.
                hooks: Hooks { on_read: hooks.on_read, ..Hooks::default() },
            }),
        }
    }

    /// Runs `f` in a transaction and answers when it is on disk. An `Err` of `f` undoes what it did and nothing else.
    ///
    /// Once queued it runs, even if the caller stops waiting. `f` runs on the writer's thread: it must not wait for
    /// anything, least of all for this store.
    pub async fn transact<T, E, F>(&self, f: F) -> Result<T, E>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Call { closure: Some(f), result: None, reply });
        match &self.inner.engine {
            Engine::Threads { queue, .. } => {
                queue.send(Message::Job(job)).await.map_err(|_| StoreError::Closed)?;
            }
            Engine::Inline(session) => match session.run(job) {
                Verdict::GoOn => {}
                Verdict::Yield => {
                    sim::yield_once().await;
                    if session.is_dead() {
                        std::future::pending::<()>().await;
                    }
                }
                Verdict::Crash => std::future::pending().await,
            },
        }
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// `transact` for a plain thread; panics on an async task, as everything that blocks should.
    pub fn transact_blocking<T, E, F>(&self, f: F) -> Result<T, E>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Call { closure: Some(f), result: None, reply });
        match &self.inner.engine {
            Engine::Threads { queue, .. } => {
                queue.blocking_send(Message::Job(job)).map_err(|_| StoreError::Closed)?;
            }
            // There is no later to wait for: a killed process is told that the store is closed.
            Engine::Inline(session) => {
                if session.run(job) == Verdict::Crash {
                    return Err(StoreError::Closed.into());
                }
            }
        }
        answer.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    pub fn get<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Result<Option<Stored<T>>, StoreError> {
        self.inner.hooks.read(kind, Some(name))?;
        self.inner.readers.read(|conn| tx::get(conn, kind, name))
    }

    /// Whether there is such an object, readable or not.
    pub fn exists(&self, kind: &str, name: &str) -> Result<bool, StoreError> {
        self.inner.hooks.read(kind, Some(name))?;
        self.inner.readers.read(|conn| tx::exists(conn, kind, name))
    }

    /// In order of name.
    pub fn list<T: DeserializeOwned>(&self, kind: &str) -> Result<Listed<T>, StoreError> {
        self.inner.hooks.read(kind, None)?;
        self.inner.readers.read(|conn| tx::list(conn, kind, None, usize::MAX))
    }

    pub fn list_raw(&self, kind: &str) -> Result<Listed<Value>, StoreError> {
        self.list(kind)
    }

    /// At most `limit` objects whose names come after `after`.
    pub fn list_page<T: DeserializeOwned>(
        &self,
        kind: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<T>, StoreError> {
        self.inner.hooks.read(kind, None)?;
        self.inner.readers.read(|conn| {
            let revision = Revision(Head::load(conn)?.ok_or(StoreError::Closed)?.revision);
            let Listed { items, unreadable } = tx::list(conn, kind, after, limit)?;
            Ok(Listing { revision, items, unreadable })
        })
    }

    /// Everything of a kind, and the revision to watch from.
    pub fn listing<T: DeserializeOwned>(&self, kind: &str) -> Result<Listing<T>, StoreError> {
        self.list_page(kind, None, usize::MAX)
    }

    /// The changes after `after`, of one kind or of all.
    pub fn watch(&self, kind: Option<&str>, after: Revision) -> Watch {
        self.inner.hub.watch(&self.inner.readers, kind, after)
    }

    /// Changes whenever something was committed.
    pub fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.hub.changed()
    }

    /// Messages to send now: none while the store is not `Current`.
    pub fn outbox_due(&self, now: WallMs, limit: usize) -> Result<Vec<OutboxItem>, StoreError> {
        if self.standing() != Standing::Current {
            return Ok(Vec::new());
        }
        self.inner.readers.read(|conn| outbox::due(conn, now, limit))
    }

    /// When the next waiting message is due.
    pub fn outbox_next_due(&self) -> Result<Option<WallMs>, StoreError> {
        self.inner.readers.read(outbox::next_due)
    }

    /// Changes whenever a message was queued.
    pub fn outbox_changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.outbox_wake.subscribe()
    }

    /// Messages that were given up, oldest first.
    pub fn outbox_dead(&self, limit: usize) -> Result<Vec<OutboxItem>, StoreError> {
        self.inner.readers.read(|conn| outbox::dead(conn, limit))
    }

    pub async fn outbox_done(&self, id: u64) -> Result<bool, StoreError> {
        self.transact(move |tx| tx.outbox_done(id)).await
    }

    /// `true` where the message is a dead letter now.
    pub async fn outbox_failed(
        &self,
        id: u64,
        error: impl Into<String>,
        next_attempt_at: WallMs,
    ) -> Result<bool, StoreError> {
        let error = error.into();
        self.transact(move |tx| tx.outbox_failed(id, &error, next_attempt_at)).await
    }

    pub async fn outbox_retry(&self, id: u64) -> Result<bool, StoreError> {
        self.transact(move |tx| tx.outbox_retry(id)).await
    }

    pub async fn outbox_discard(&self, id: u64) -> Result<bool, StoreError> {
        self.transact(move |tx| tx.outbox_discard(id)).await
    }

    /// Rows after `after_seq`, oldest first.
    pub fn journal_page(
        &self,
        after_seq: u64,
        limit: usize,
        filter: &JournalFilter,
    ) -> Result<Vec<JournalRow>, StoreError> {
        self.inner.readers.read(|conn| journal::page(conn, after_seq, limit, filter))
    }

    pub fn journal_head(&self) -> JournalHead {
        let head = self.head();
        JournalHead { seq: head.journal_seq, link: hex::encode(head.journal_link) }
    }

    /// Recomputes the chain. Takes as long as the journal is long.
    pub fn verify_journal(&self) -> Result<JournalHead, VerifyError> {
        self.inner.readers.read(|conn| match journal::verify(conn) {
            Err(VerifyError::Store(error)) => Err(error),
            verified => Ok(verified),
        })?
    }

    /// Erases a row's personal payload, also from the write-ahead log. Backups keep theirs.
    pub async fn erase_personal(&self, seq: u64) -> Result<bool, StoreError> {
        self.transact(move |tx| tx.erase_personal(seq)).await
    }

    pub async fn seal_segment(&self) -> Result<bool, StoreError> {
        self.transact(|tx| tx.seal_segment()).await
    }

    /// Drops the oldest sealed segments, keeps at least `rows_max` rows, and says so in the journal.
    pub async fn retain(&self, rows_max: u64, actor: impl Into<String>) -> Result<Retained, StoreError> {
        let actor = actor.into();
        self.transact(move |tx| tx.retain(rows_max, &actor)).await
    }

    /// Holds again what commits used of the reserve; to be called now and then. Blocks for at most some milliseconds.
    pub fn fill_reserve(&self) -> ReserveState {
        self.inner.reserve.as_ref().map(Reserve::fill).unwrap_or_default()
    }

    /// By the clock that stamps objects.
    pub fn now(&self) -> WallMs {
        (self.inner.clock)()
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// What is committed, by one of the readers.
    pub(crate) fn read_with<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.inner.readers.read(read)
    }

    pub(crate) fn hooks(&self) -> &Hooks {
        &self.inner.hooks
    }

    pub(crate) fn views(&self) -> &Views {
        &self.inner.views
    }

    fn head(&self) -> Head {
        self.inner.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last committed revision.
    pub fn revision(&self) -> Revision {
        Revision(self.head().revision)
    }

    pub fn identity(&self) -> StoreIdentity {
        self.head().identity()
    }

    pub fn standing(&self) -> Standing {
        self.head().standing()
    }

    /// The newest state of this store that a receipt of this cloud's own proves: the caller has verified it. Newer than ours:
    /// we are an old copy. A number without such a proof never comes here.
    pub async fn peer_saw(&self, incarnation: u64, revision: Revision) -> Result<Standing, StoreError> {
        if !self.head().is_behind(incarnation, revision) {
            return Ok(self.standing());
        }
        self.transact(move |tx| {
            tx.peer_saw(incarnation, revision);
            Ok(tx.standing())
        })
        .await
    }

    /// Somebody has made sure that nothing newer acts: a new incarnation begins, above every revision ever given out.
    pub async fn accept_restored(
        &self,
        now: WallMs,
        above: Revision,
        actor: impl Into<String>,
    ) -> Result<StoreIdentity, StoreError> {
        let actor = actor.into();
        self.transact(move |tx| {
            let Standing::Restored { why } = tx.standing() else { return Ok(()) };
            tx.work.head.accept(above)?;
            let (id, incarnation) = (tx.work.head.store_id.to_string(), tx.work.head.incarnation);
            tx.journal(Entry {
                at: now,
                actor,
                action: "store.accepted".into(),
                subject_kind: "store".into(),
                subject: id,
                reasons: vec![format!("the store was suspect: {why}")],
                data: serde_json::json!({ "incarnation": incarnation, "above": above }),
                ..Entry::default()
            })?;
            Ok::<_, StoreError>(())
        })
        .await?;
        Ok(self.identity())
    }

    /// Writes a checked copy to `to` while the store goes on. Blocks for as long as the copy takes.
    pub fn backup_to(&self, to: impl AsRef<Path>, mut progress: impl FnMut(BackupProgress)) -> Result<(), BackupError> {
        let (to, now) = (to.as_ref(), (self.inner.clock)());
        match &self.inner.engine {
            // A copy takes long: it borrows no connection from the others.
            Engine::Threads { .. } => backup::backup(&open_reader(&self.inner.path)?, to, now, &mut progress),
            Engine::Inline(session) => session.read(|conn| Ok(backup::backup(conn, to, now, &mut progress)))?,
        }
    }

    /// Puts a checked copy at `to`, which no daemon may have open. The store that opens there is `Restored`.
    pub fn restore(from: impl AsRef<Path>, to: impl AsRef<Path>, force: Force, now: WallMs) -> Result<(), BackupError> {
        backup::restore(from.as_ref(), to.as_ref(), force, now)
    }

    /// Commits what is queued, writes the anchor, and lets go of the files. Blocks; the other handles are refused then.
    pub fn close(&self) {
        self.inner.engine.close();
    }
}

impl Engine {
    fn close(&self) {
        let (queue, writer, anchor, lock, hub) = match self {
            Self::Threads { queue, writer, anchor, lock, hub } => (queue, writer, anchor, lock, hub),
            Self::Inline(session) => return session.close(),
        };
        let writer = writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A closure may hold the last handle: the writer can neither wait for itself nor empty its queue meanwhile.
            let on_writer = writer.thread().id() == std::thread::current().id();
            let mut stop = Message::Stop;
            // The writer empties a full queue by itself; `blocking_send` would panic on an async task.
            while let Err(mpsc::error::TrySendError::Full(message)) = queue.try_send(stop) {
                if on_writer {
                    break;
                }
                stop = message;
                std::thread::yield_now();
            }
            if !on_writer && writer.join().is_err() {
                tracing::error!("the store's writer panicked");
            }
        }
        anchor.stop();
        hub.close();
        lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.engine.close();
    }
}
