//! The realm on disk: one thread writes, several requests' changes with one sync; readers see committed state only.
//!
//! Enters: closures. Leaves: their results, after what they wrote is on disk. Always holds: a closure's changes are kept together or
//! not at all; what ended is told to the gateways after it is on disk, and before the closure's caller goes on.

pub mod app_passwords;
pub mod end;
pub mod invitations;
pub mod passkeys;
pub mod passwords;
mod schema;
pub mod sessions;
pub mod users;

use crate::clock;
use crate::ended::Ring;
use pumasi_realm::settings::DATABASE;
use rusqlite::Connection;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use tokio::sync::oneshot;

/// What stays at this cloud, within its directory.
pub const OWN_DATABASE: &str = "own.sqlite";
const WAITING_MAX: usize = 1_024;
/// Changes that one sync brings to disk.
const TOGETHER_MAX: usize = 64;
const READERS: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("more changes wait than this process takes at a time")]
    Busy,
    #[error("the database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the change could not be brought to disk")]
    NotKept,
}

/// A connection to the realm, and to what stays here, if there is a place for it.
#[derive(Debug)]
pub struct View {
    pub realm: Connection,
    pub own: Option<Connection>,
}

/// What a change may use, within its transaction.
#[derive(Debug)]
pub struct Tx<'a> {
    pub realm: &'a Connection,
    /// Not part of the transaction: what is written here is on disk at once ([`passwords`] says in which order).
    pub own: Option<&'a Connection>,
    pub at_ms: u64,
    pub epoch: u64,
    /// Digests that count no more.
    ended: Vec<String>,
    /// Users whose passwords but for the given one are to be erased at this cloud, once the transaction is on disk.
    forget: Vec<(String, u64)>,
    forget_all: bool,
}

impl Tx<'_> {
    pub fn ended(&mut self, digests: impl IntoIterator<Item = String>) {
        self.ended.extend(digests);
    }

    /// Every password at this cloud is to be erased, once the transaction is on disk.
    fn forget_all(&mut self) {
        self.forget_all = true;
    }
}

type Finish = Box<dyn FnOnce(bool) + Send>;
/// Says whether its changes are to be kept, and whom to tell that they are.
type Job = Box<dyn FnOnce(&mut Tx<'_>) -> (bool, Finish) + Send>;

#[derive(Debug)]
pub struct Db {
    jobs: mpsc::SyncSender<Job>,
    readers: Vec<Mutex<View>>,
    next: AtomicUsize,
}

impl Db {
    /// `settle` runs first, alone.
    pub fn open(
        data: &Path,
        own: Option<&Path>,
        epoch: u64,
        ring: Arc<Ring>,
        settle: impl FnOnce(&mut Tx<'_>) -> Result<(), DbError>,
    ) -> Result<Self, String> {
        let (realm_path, own_path) = (data.join(DATABASE), own.map(|dir| dir.join(OWN_DATABASE)));
        let realm = schema::open_realm(&realm_path)?;
        let own = own_path.as_deref().map(schema::open_own).transpose()?;
        let mut writer = Writer { view: View { realm, own }, epoch, ring };
        writer.alone(settle).map_err(|e| format!("settling {}: {e}", realm_path.display()))?;
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let own = own_path.as_deref().map(schema::open_reader).transpose()?;
            readers.push(Mutex::new(View { realm: schema::open_reader(&realm_path)?, own }));
        }
        let (jobs, queue) = mpsc::sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("realm-writer".into());
        thread.spawn(move || writer.run(&queue)).map_err(|e| format!("starting the realm's writer: {e}"))?;
        Ok(Self { jobs, readers, next: AtomicUsize::new(0) })
    }

    /// A short read: it blocks for the time of a page-cache read.
    pub fn read<T, E: From<rusqlite::Error>>(&self, f: impl FnOnce(&View) -> Result<T, E>) -> Result<T, E> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.readers.len();
        let free = self.readers.iter().cycle().skip(turn).take(READERS).find_map(|r| r.try_lock().ok());
        let view = free.unwrap_or_else(|| self.readers[turn].lock().unwrap_or_else(PoisonError::into_inner));
        f(&view)
    }

    /// A change: it is on disk when this returns with `Ok`, and nothing of it is after an error, but for [`DbError::NotKept`].
    pub async fn write<T, E>(&self, f: impl FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            let result = f(tx);
            let keep = result.is_ok();
            let finish = move |kept: bool| {
                let result = if keep && !kept { Err(DbError::NotKept.into()) } else { result };
                // Who asked may have gone; what was asked is done all the same.
                let _ = tell.send(result);
            };
            (keep, Box::new(finish))
        });
        self.jobs.try_send(job).map_err(|_| DbError::Busy)?;
        told.await.map_err(|_| DbError::NotKept)?
    }

    /// A change that nobody waits for, and that may be left out where there is too much to do.
    pub fn write_soon(&self, f: impl FnOnce(&mut Tx<'_>) -> Result<(), DbError> + Send + 'static) {
        let job: Job = Box::new(move |tx| {
            let result = f(tx);
            if let Err(e) = &result {
                tracing::warn!("a change that nobody waits for: {e}");
            }
            (result.is_ok(), Box::new(|_| ()))
        });
        let _ = self.jobs.try_send(job);
    }
}

struct Writer {
    view: View,
    epoch: u64,
    ring: Arc<Ring>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut jobs = vec![first];
            jobs.extend(queue.try_iter().take(TOGETHER_MAX - 1));
            self.together(jobs);
        }
        // The last sender has gone: an empty log makes the next start quicker, and is no more than that.
        let _ = self.view.realm.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn tx(&self) -> Tx<'_> {
        let View { realm, own } = &self.view;
        let own = own.as_ref();
        Tx {
            realm,
            own,
            at_ms: clock::now_ms(),
            epoch: self.epoch,
            ended: Vec::new(),
            forget: Vec::new(),
            forget_all: false,
        }
    }

    fn alone(&mut self, f: impl FnOnce(&mut Tx<'_>) -> Result<(), DbError>) -> Result<(), DbError> {
        let mut tx = self.tx();
        tx.realm.execute_batch("BEGIN IMMEDIATE")?;
        f(&mut tx)?;
        tx.realm.execute_batch("COMMIT")?;
        if let (Some(own), true) = (tx.own, tx.forget_all) {
            own.execute("DELETE FROM password", [])?;
        }
        self.forget(&tx.forget);
        Ok(())
    }

    fn together(&mut self, jobs: Vec<Job>) {
        let mut tx = self.tx();
        let begun = tx.realm.execute_batch("BEGIN IMMEDIATE");
        let mut finishes = Vec::with_capacity(jobs.len());
        let mut well = begun.is_ok();
        for job in jobs {
            let (ended, forget) = (tx.ended.len(), tx.forget.len());
            well = well && tx.realm.execute_batch("SAVEPOINT job").is_ok();
            if !well {
                // Dropped: its caller hears that it was not kept.
                continue;
            }
            let (keep, finish) = job(&mut tx);
            finishes.push(finish);
            if !keep {
                tx.ended.truncate(ended);
                tx.forget.truncate(forget);
                well = tx.realm.execute_batch("ROLLBACK TO job").is_ok();
            }
            well = well && tx.realm.execute_batch("RELEASE job").is_ok();
        }
        let kept = well && tx.realm.execute_batch("COMMIT").is_ok();
        if !kept {
            tracing::error!("changes of the realm could not be brought to disk");
            let _ = tx.realm.execute_batch("ROLLBACK");
        }
        let (ended, forget) = (std::mem::take(&mut tx.ended), std::mem::take(&mut tx.forget));
        if kept {
            self.ring.push(ended);
            self.forget(&forget);
        }
        for finish in finishes {
            finish(kept);
        }
    }

    fn forget(&self, passwords: &[(String, u64)]) {
        let Some(own) = &self.view.own else { return };
        for (subject, but) in passwords {
            if let Err(e) = own.execute("DELETE FROM password WHERE subject = ?1 AND no <> ?2", (subject, but)) {
                tracing::warn!("a password that counts no more is erased after the next start only: {e}");
            }
        }
    }
}

/// Lists of groups are kept as JSON.
fn groups_text(groups: &[String]) -> String {
    serde_json::Value::from(groups).to_string()
}

fn groups_of(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_default()
}
