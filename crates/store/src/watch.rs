//! Following the changes: first from the log, then live, without a gap between the two.
//!
//! A watch is only a position. Recent changes are kept in memory and shared; a watch that is further behind reads the log
//! in the database; one that is behind even that ends. The writer never waits for a watch.

use crate::error::{StoreError, during};
use crate::numbers::{bound, from_sql};
use crate::readers::Readers;
use crate::standing::Head;
use crate::tx::Unreadable;
use pumasi_terms::{Revision, WallMs};
use rusqlite::{Connection, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

/// Changes handed to one watch at a time.
const PAGE: usize = 256;
const RECENT_MAX: usize = 4096;
const RECENT_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Put,
    Delete,
}

/// One committed change.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    pub revision: Revision,
    pub kind: String,
    pub name: String,
    pub op: Op,
    /// The object after a put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<RawValue>>,
}

impl Change {
    /// The body as `T`; `None` after a deletion.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        let decode = |raw: &RawValue| {
            serde_json::from_str(raw.get()).map_err(|e| StoreError::Decode {
                what: format!("{}/{} at revision {}", self.kind, self.name, self.revision),
                detail: e.to_string(),
            })
        };
        self.body.as_deref().map(decode).transpose()
    }

    pub fn unreadable(&self, error: &StoreError, at: WallMs) -> Unreadable {
        let why = match error {
            StoreError::Decode { detail, .. } => detail.clone(),
            other => other.to_string(),
        };
        Unreadable { kind: self.kind.clone(), name: self.name.clone(), updated_at: at, why }
    }

    fn bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |b| b.get().len())
    }
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("changes are kept from revision {oldest} on; list again, then watch from there")]
    TooOld { oldest: Revision },
    #[error(
        "this watch fell behind the changes kept, which begin at revision {oldest}; list again, then watch from there"
    )]
    Lagged { oldest: Revision },
    #[error("revision {asked} was not given out by this store, which is at {head}; list again, then watch from there")]
    Unknown { asked: Revision, head: Revision },
    #[error("the store was closed")]
    Closed,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The changes of late, shared by all watches.
#[derive(Debug)]
struct Recent {
    /// Every change above this revision is here.
    floor: u64,
    head: u64,
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Hub {
    recent: RwLock<Recent>,
    wake: tokio::sync::watch::Sender<u64>,
}

impl Hub {
    pub fn new(head: u64) -> Self {
        let recent = Recent { floor: head, head, changes: VecDeque::new(), bytes: 0, closed: false };
        Self { recent: RwLock::new(recent), wake: tokio::sync::watch::Sender::new(head) }
    }

    pub fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.wake.subscribe()
    }

    pub fn publish(&self, head: u64, changes: Vec<Arc<Change>>) {
        if changes.is_empty() {
            return;
        }
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.bytes += changes.iter().map(|c| c.bytes()).sum::<usize>();
        recent.changes.extend(changes);
        recent.head = head;
        while recent.changes.len() > RECENT_MAX || recent.bytes > RECENT_BYTES_MAX {
            let Some(gone) = recent.changes.pop_front() else { break };
            recent.bytes -= gone.bytes();
            recent.floor = gone.revision.0;
        }
        drop(recent);
        self.wake.send_replace(head);
    }

    /// The changes after a revision and where they end; `None` where they are not all here.
    pub fn after(&self, after: Revision) -> Option<(Vec<Arc<Change>>, Revision)> {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        if after.0 < recent.floor {
            return None;
        }
        let from = recent.changes.partition_point(|c| c.revision <= after);
        // Whoever read the database itself may know of a commit that is about to be published.
        Some((recent.changes.range(from..).cloned().collect(), after.max(Revision(recent.head))))
    }

    pub fn close(&self) {
        self.recent.write().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.send_modify(|_| ());
    }

    pub fn watch(self: &Arc<Self>, readers: &Arc<Readers>, kind: Option<&str>, after: Revision) -> Watch {
        Watch {
            hub: Arc::downgrade(self),
            wake: self.wake.subscribe(),
            readers: Arc::clone(readers),
            kind: kind.map(Arc::from),
            position: after.0,
            begun: false,
            page: VecDeque::new(),
        }
    }
}

/// A page of changes, and the revision up to which nothing was left out.
struct Page {
    changes: Vec<Arc<Change>>,
    position: u64,
}

/// The changes after a revision, one by one. An error is the end.
#[derive(Debug)]
pub struct Watch {
    hub: std::sync::Weak<Hub>,
    wake: tokio::sync::watch::Receiver<u64>,
    readers: Arc<Readers>,
    kind: Option<Arc<str>>,
    position: u64,
    begun: bool,
    page: VecDeque<Arc<Change>>,
}

impl Watch {
    /// The next change. It may be dropped while it waits without losing one.
    pub async fn next(&mut self) -> Result<Arc<Change>, WatchError> {
        loop {
            if let Readers::Inline(session) = &*self.readers
                && session.is_dead()
            {
                std::future::pending::<()>().await;
            }
            if let Some(change) = self.page.pop_front() {
                return Ok(change);
            }
            self.wake.mark_unchanged();
            let page = match self.read_memory()? {
                Some(page) => page,
                None => self.read_behind().await?,
            };
            self.begun = true;
            self.position = page.position;
            if page.changes.is_empty() {
                self.wake.changed().await.map_err(|_| WatchError::Closed)?;
            }
            self.page.extend(page.changes);
        }
    }

    /// Everything up to here was yielded, or is of another kind.
    pub fn position(&self) -> Revision {
        self.page.front().map_or(Revision(self.position), |next| Revision(next.revision.0 - 1))
    }

    fn read_memory(&self) -> Result<Option<Page>, WatchError> {
        let hub = self.hub.upgrade().ok_or(WatchError::Closed)?;
        let recent = hub.recent.read().unwrap_or_else(PoisonError::into_inner);
        if self.position < recent.floor || self.position > recent.head {
            return Ok(None);
        }
        let mut page = Page { changes: Vec::new(), position: self.position };
        let from = recent.changes.partition_point(|c| c.revision.0 <= self.position);
        for change in recent.changes.iter().skip(from) {
            if page.changes.len() == PAGE {
                return Ok(Some(page));
            }
            page.position = change.revision.0;
            if self.kind.as_deref().is_none_or(|k| k == change.kind) {
                page.changes.push(Arc::clone(change));
            }
        }
        page.position = recent.head;
        if recent.closed && page.changes.is_empty() {
            return Err(WatchError::Closed);
        }
        Ok(Some(page))
    }

    async fn read_behind(&self) -> Result<Page, WatchError> {
        let (readers, kind, position, begun) =
            (Arc::clone(&self.readers), self.kind.clone(), self.position, self.begun);
        let read = move || {
            readers.read(|tx| {
                let head = Head::load(tx)?.ok_or(StoreError::Closed)?;
                if position < head.log_floor {
                    let oldest = Revision(head.log_floor + 1);
                    return Ok(Err(if begun { WatchError::Lagged { oldest } } else { WatchError::TooOld { oldest } }));
                }
                if position > head.revision {
                    let (asked, head) = (Revision(position), Revision(head.revision));
                    return Ok(Err(WatchError::Unknown { asked, head }));
                }
                read_log(tx, kind.as_deref(), position, head.revision).map(Ok)
            })
        };
        if let Readers::Inline(_) = &*self.readers {
            return read()?;
        }
        match tokio::task::spawn_blocking(read).await {
            Ok(read) => read?,
            Err(_) => Err(WatchError::Closed),
        }
    }
}

fn read_log(conn: &Connection, kind: Option<&str>, position: u64, head: u64) -> Result<Page, StoreError> {
    let doing = during("reading the change log");
    let mut statement = conn
        .prepare_cached(
            "SELECT revision, kind, name, body FROM changes
             WHERE revision > ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY revision LIMIT ?3",
        )
        .map_err(&doing)?;
    let rows = statement
        .query_map(params![bound(position), kind, i64::try_from(PAGE).unwrap_or(i64::MAX)], |r| {
            Ok((from_sql(r.get(0)?), r.get::<_, String>(1)?, r.get::<_, String>(2)?, r.get::<_, Option<String>>(3)?))
        })
        .map_err(&doing)?;
    let mut changes = Vec::new();
    for row in rows {
        let (revision, kind, name, text) = row.map_err(&doing)?;
        let op = if text.is_some() { Op::Put } else { Op::Delete };
        let body = text.map(RawValue::from_string).transpose().map_err(|e| StoreError::Decode {
            what: format!("change {revision} of {kind}/{name}"),
            detail: e.to_string(),
        })?;
        changes.push(Arc::new(Change { revision: Revision(revision), kind, name, op, body }));
    }
    let position = match changes.last() {
        Some(last) if changes.len() == PAGE => last.revision.0,
        _ => head,
    };
    Ok(Page { changes, position })
}
