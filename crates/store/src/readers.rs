//! A few read-only connections, lent one at a time; or the one connection of a store without threads.

use crate::error::{StoreError, during};
use crate::schema::open_reader;
use crate::sim::Session;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const WAIT_MAX: Duration = Duration::from_millis(5_000);

#[derive(Debug)]
struct Pool {
    idle: Vec<Connection>,
    open: usize,
}

#[derive(Debug)]
pub(crate) enum Readers {
    Pool(ReaderPool),
    Inline(Arc<Session>),
}

impl Readers {
    /// Runs `f` on one consistent, committed state of the store.
    pub fn read<T>(&self, f: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self {
            Self::Pool(pool) => pool.read(f),
            Self::Inline(session) => session.read(f),
        }
    }
}

#[derive(Debug)]
pub(crate) struct ReaderPool {
    path: PathBuf,
    max: usize,
    pool: Mutex<Pool>,
    returned: Condvar,
}

/// Gives the connection back, or its place if the reader panicked.
struct Lent<'a> {
    readers: &'a ReaderPool,
    conn: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut pool = self.readers.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match self.conn.take() {
            Some(conn) if conn.is_autocommit() => pool.idle.push(conn),
            _ => pool.open -= 1,
        }
        self.readers.returned.notify_one();
    }
}

impl ReaderPool {
    pub fn new(path: PathBuf, max: usize) -> Self {
        Self { path, max, pool: Mutex::new(Pool { idle: Vec::new(), open: 0 }), returned: Condvar::new() }
    }

    fn lend(&self) -> Result<Lent<'_>, StoreError> {
        let until = Instant::now() + WAIT_MAX;
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(conn) = pool.idle.pop() {
                return Ok(Lent { readers: self, conn: Some(conn) });
            }
            if pool.open < self.max {
                pool.open += 1;
                drop(pool);
                let mut lent = Lent { readers: self, conn: None };
                lent.conn = Some(open_reader(&self.path)?);
                return Ok(lent);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Busy { waited_ms: 5_000 });
            }
            pool = self.returned.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn read<T>(&self, f: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut lent = self.lend()?;
        let Some(conn) = lent.conn.as_mut() else { return Err(StoreError::Closed) };
        let tx = conn.transaction().map_err(during("beginning to read"))?;
        let out = f(&tx);
        tx.finish().map_err(during("ending to read"))?;
        out
    }
}
