//! The one thread that writes. It takes what is queued, runs each closure under a savepoint, and commits all with one
//! fsync; nobody is answered before that.

use crate::anchor::Anchor;
use crate::error::{StoreError, during};
use crate::journal;
use crate::numbers::{from_sql, to_sql};
use crate::sim::{CommitInfo, Hooks, Verdict};
use crate::standing::{Head, Standing};
use crate::store::Options;
use crate::tx::{Tx, Work};
use crate::watch::Hub;
use pumasi_terms::{Revision, WallMs};
use rusqlite::Connection;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Reads the wall clock.
pub(crate) type Clock = Arc<dyn Fn() -> WallMs + Send + Sync>;

/// A queued closure. It keeps its own result until the batch is on disk.
pub(crate) trait Job: Send {
    /// `false`: it refused, undo what it did.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Replaces its result.
    fn fail(&mut self, error: StoreError);
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

pub(crate) struct Call<F, T, E> {
    pub closure: Option<F>,
    pub result: Option<Result<T, E>>,
    pub reply: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Job for Call<F, T, E>
where
    F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let Some(closure) = self.closure.take() else { return false };
        let result =
            catch_unwind(AssertUnwindSafe(|| closure(tx))).unwrap_or_else(|_| Err(StoreError::Panicked.into()));
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn fail(&mut self, error: StoreError) {
        self.result = Some(Err(error.into()));
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let result = match (committed, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(StoreError::Closed.into()),
            (Err(error), _) => Err(error.into()),
        };
        // The caller may have gone away; the transaction counts all the same.
        drop(self.reply.send(result));
    }
}

pub(crate) enum Message {
    Job(Box<dyn Job>),
    Stop,
}

/// How much of the change log is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLimits {
    pub changes_max: usize,
    pub bytes_max: u64,
}

pub(crate) struct Writer {
    conn: Connection,
    head: Head,
    /// Revision and bytes of every change in the log.
    log: VecDeque<(u64, u64)>,
    log_bytes: u64,
    pub limits: LogLimits,
    pub clock: Clock,
    pub salt_key: [u8; 32],
    pub attempts_max: u32,
    pub published: Arc<RwLock<Head>>,
    pub hub: Arc<Hub>,
    pub outbox_wake: Arc<tokio::sync::watch::Sender<u64>>,
    pub anchor: Arc<dyn Anchor>,
    /// None but a simulator has any.
    pub hooks: Hooks,
    broken: Option<StoreError>,
    truncate_log: bool,
}

/// What the writer shares with the rest of the store.
#[derive(Clone)]
pub(crate) struct Shared {
    pub limits: LogLimits,
    pub clock: Clock,
    pub salt_key: [u8; 32],
    pub attempts_max: u32,
    pub published: Arc<RwLock<Head>>,
    pub hub: Arc<Hub>,
    pub outbox_wake: Arc<tokio::sync::watch::Sender<u64>>,
    pub anchor: Arc<dyn Anchor>,
    /// None but a simulator has any.
    pub hooks: Hooks,
}

impl Shared {
    pub fn new(options: &Options, entropy: u128, head: &Head, anchor: Arc<dyn Anchor>, hooks: Hooks) -> Self {
        Self {
            limits: LogLimits { changes_max: options.log_changes_max.max(1), bytes_max: options.log_bytes_max },
            clock: Arc::clone(&options.clock),
            salt_key: blake3::derive_key("pumasi store salt v1", &entropy.to_le_bytes()),
            attempts_max: options.outbox_attempts_max.max(1),
            published: Arc::new(RwLock::new(head.clone())),
            hub: Arc::new(Hub::new(head.revision)),
            outbox_wake: Arc::new(tokio::sync::watch::Sender::new(0)),
            anchor,
            hooks,
        }
    }
}

impl Writer {
    pub fn new(conn: Connection, head: Head, shared: Shared) -> Result<Self, StoreError> {
        let Shared { limits, clock, salt_key, attempts_max, published, hub, outbox_wake, anchor, hooks } = shared;
        let mut writer = Self {
            conn,
            head,
            log: VecDeque::new(),
            log_bytes: 0,
            limits,
            clock,
            salt_key,
            attempts_max,
            published,
            hub,
            outbox_wake,
            anchor,
            hooks,
            broken: None,
            truncate_log: false,
        };
        writer.load_log()?;
        Ok(writer)
    }

    fn load_log(&mut self) -> Result<(), StoreError> {
        let doing = during("measuring the change log");
        let mut statement = self
            .conn
            .prepare_cached("SELECT revision, ifnull(length(CAST(body AS BLOB)), 0) FROM changes ORDER BY revision")
            .map_err(&doing)?;
        self.log = statement
            .query_map([], |r| Ok((from_sql(r.get(0)?), from_sql(r.get(1)?))))
            .and_then(Iterator::collect)
            .map_err(&doing)?;
        self.log_bytes = self.log.iter().map(|(_, bytes)| bytes).sum();
        Ok(())
    }

    pub fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut stopping = false;
        while !stopping {
            let mut work = Work::new(self.head.clone());
            let mut jobs = Vec::new();
            let mut next = queue.blocking_recv();
            let begun = match next {
                None | Some(Message::Stop) => break,
                Some(Message::Job(_)) => self.begin(),
            };
            while let Some(message) = next {
                match message {
                    Message::Stop => {
                        stopping = true;
                        break;
                    }
                    Message::Job(mut job) => {
                        if begun.is_ok() {
                            self.run_one(job.as_mut(), &mut work);
                        }
                        jobs.push(job);
                    }
                }
                let full = jobs.len() >= BATCH_MAX || work.bytes >= BATCH_BYTES_MAX;
                next = if full { None } else { queue.try_recv().ok() };
            }
            let changes = if self.hooks.on_commit.is_some() { work.changes.clone() } else { Vec::new() };
            let committed = begun.and_then(|()| self.commit(work));
            if let (Some(hook), true, false) = (&self.hooks.on_commit, committed.is_ok(), changes.is_empty()) {
                let (revision, journal_seq) = (Revision(self.head.revision), self.head.journal_seq);
                if hook(&CommitInfo { revision, journal_seq, changes }) == Verdict::Crash {
                    // As by kill -9: neither these nor those that wait hear of it.
                    return;
                }
            }
            for job in jobs {
                job.answer(committed.clone());
            }
        }
        queue.close();
        while let Some(message) = queue.blocking_recv() {
            if let Message::Job(job) = message {
                job.answer(Err(StoreError::Closed));
            }
        }
        drop(self.conn);
    }

    /// Runs, commits and answers one closure on the caller's thread; what was committed, if anything was.
    pub fn run_now(&mut self, mut job: Box<dyn Job>) -> Option<CommitInfo> {
        let mut work = Work::new(self.head.clone());
        let rows_before = self.conn.total_changes();
        let begun = self.begin();
        let kept = begun.is_ok() && self.run_one(job.as_mut(), &mut work);
        let wrote = kept && (work.head != self.head || self.conn.total_changes() != rows_before);
        let changes = work.changes.clone();
        let committed = begun.and_then(|()| self.commit(work));
        let done = committed.is_ok();
        job.answer(committed);
        (wrote && done).then_some(CommitInfo {
            revision: Revision(self.head.revision),
            journal_seq: self.head.journal_seq,
            changes,
        })
    }

    pub fn conn(&self) -> &Connection {
        &self.conn
    }

    /// The connection outlives the writer; nothing of an open transaction does.
    pub fn into_conn(self) -> Connection {
        self.abandon();
        self.conn
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.control("BEGIN IMMEDIATE").map_err(during("beginning a transaction"))
    }

    /// `false` where nothing of it is kept.
    fn run_one(&self, job: &mut dyn Job, work: &mut Work) -> bool {
        // An earlier failure made SQLite give the whole transaction up; the commit will say so.
        if self.conn.is_autocommit() {
            return false;
        }
        let (head, changes, rows) = (work.head.clone(), work.changes.len(), work.row_digests.len());
        if self.control("SAVEPOINT job").is_err() {
            self.abandon();
            return false;
        }
        let mut tx = Tx {
            conn: &self.conn,
            work: &mut *work,
            salt_key: &self.salt_key,
            attempts_max: self.attempts_max,
            hooks: &self.hooks,
            now: (self.clock)(),
        };
        let mut kept = job.run(&mut tx);
        if let Some(error) = work.failed.take()
            && kept
        {
            job.fail(error);
            kept = false;
        }
        if !kept {
            work.head = head;
            work.changes.truncate(changes);
            work.row_digests.truncate(rows);
            if self.control("ROLLBACK TO job").is_err() {
                self.abandon();
                return false;
            }
        }
        if self.control("RELEASE job").is_err() {
            self.abandon();
        }
        kept
    }

    fn control(&self, sql: &str) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn abandon(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "cannot roll back the store's transaction");
        }
    }

    fn commit(&mut self, mut work: Work) -> Result<(), StoreError> {
        let sealed = self.seal(&mut work);
        if let Err(error) = sealed {
            self.abandon();
            self.load_log()?;
            return Err(error);
        }
        if let Err(error) = self.control("COMMIT") {
            let failed = self.commit_failed(&error);
            self.abandon();
            self.load_log()?;
            return Err(failed);
        }
        self.head = work.head;
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = self.head.clone();
        if self.head.standing() == Standing::Current {
            self.anchor.post(self.head.identity());
        }
        self.hub.publish(self.head.revision, work.changes);
        if work.outbox_grew {
            self.outbox_wake.send_modify(|n| *n = n.wrapping_add(1));
        }
        self.truncate_log |= work.erased;
        if self.truncate_log {
            self.truncate_log = !self.empty_write_ahead_log();
        }
        Ok(())
    }

    /// After a failed fsync nobody knows what is on disk: only a new start finds out.
    fn commit_failed(&mut self, error: &rusqlite::Error) -> StoreError {
        use rusqlite::ErrorCode as C;
        match error.sqlite_error_code() {
            Some(C::DatabaseBusy | C::DatabaseLocked | C::DiskFull) => {
                StoreError::Database { doing: "committing", detail: error.to_string(), retryable: true }
            }
            _ => {
                let detail = error.to_string();
                tracing::error!(%detail, "the store's commit failed; it refuses to write until the next start");
                self.broken = Some(StoreError::Broken { detail: detail.clone() });
                StoreError::CommitUnknown { detail }
            }
        }
    }

    fn seal(&mut self, work: &mut Work) -> Result<(), StoreError> {
        if self.conn.is_autocommit() {
            return Err(StoreError::Database {
                doing: "writing a batch",
                detail: "SQLite gave the transaction up (disk full, out of memory or an I/O error)".into(),
                retryable: true,
            });
        }
        let now = (self.clock)();
        journal::seal_batch(&self.conn, &mut work.head, &work.row_digests, now)?;
        for change in &work.changes {
            let bytes = change.body.as_ref().map_or(0, |b| b.get().len() as u64);
            self.log.push_back((change.revision.0, bytes));
            self.log_bytes += bytes;
        }
        let floor = work.head.log_floor;
        while self.log.len() > self.limits.changes_max || self.log_bytes > self.limits.bytes_max {
            let Some((revision, bytes)) = self.log.pop_front() else { break };
            self.log_bytes -= bytes;
            work.head.log_floor = revision;
        }
        if work.head.log_floor > floor {
            self.conn
                .prepare_cached("DELETE FROM changes WHERE revision <= ?1")
                .and_then(|mut s| s.execute([to_sql(work.head.log_floor)?]))
                .map_err(during("trimming the change log"))?;
        }
        // A batch that only read writes nothing and costs no fsync.
        if work.head == self.head { Ok(()) } else { work.head.save(&self.conn) }
    }

    /// Erased content must not survive in the write-ahead log. `false`: a reader was in the way, try after the next batch.
    fn empty_write_ahead_log(&self) -> bool {
        let brief = Duration::from_millis(200);
        let usual = Duration::from_millis(5_000);
        let emptied = self
            .conn
            .busy_timeout(brief)
            .and_then(|()| self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0)));
        if let Err(error) = self.conn.busy_timeout(usual) {
            tracing::error!(%error, "cannot set the store's busy timeout");
        }
        match emptied {
            Ok(busy) => busy == 0,
            Err(error) => {
                tracing::warn!(%error, "cannot empty the write-ahead log after an erasure; it is tried again");
                false
            }
        }
    }
}
