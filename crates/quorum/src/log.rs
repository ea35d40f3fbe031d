//! The log as `raft` reads it: a window in memory over what is kept or about to be.
//!
//! Enters: what `raft` appends, before it is on disk. Leaves: entries, terms, the snapshot for who is too far behind.
//! Always holds: nothing here waits for a disk; entries follow `floor` without a gap.

use crate::convert::{self, Unsaid};
use crate::message::{ENTRIES_MAX, SnapshotMeta};
use crate::storage::{At, Kept};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};
use std::cell::Cell;

/// No index of a log is as far from another as memory is large.
fn place(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

pub(crate) struct Log {
    hard: HardState,
    conf: ConfState,
    floor: At,
    entries: Vec<Entry>,
    snapshot: Option<SnapshotMeta>,
    /// Somebody needs a snapshot that there is not yet. `raft` asks through a shared reference.
    wanted: Cell<bool>,
}

impl Log {
    pub(crate) fn new(kept: &Kept) -> Result<Self, Unsaid> {
        let entries: Result<Vec<_>, _> =
            (kept.floor.index + 1..).zip(&kept.entries).map(|(index, e)| convert::entry_out(index, e)).collect();
        Ok(Self {
            hard: convert::hard_out(&kept.hard),
            conf: convert::conf_out(&kept.conf),
            floor: kept.floor,
            entries: entries?,
            snapshot: kept.snapshot.as_ref().map(|s| s.meta.clone()),
            wanted: Cell::new(false),
        })
    }

    pub(crate) fn floor(&self) -> At {
        self.floor
    }

    pub(crate) fn last(&self) -> u64 {
        self.floor.index + self.entries.len() as u64
    }

    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.floor.index)? {
            0 => Some(self.floor.term),
            n => self.entries.get(place(n - 1)).map(|e| e.term),
        }
    }

    pub(crate) fn snapshot_wanted(&self) -> bool {
        self.wanted.get()
    }

    /// `first` follows what is there, or replaces it from there on.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            self.entries.truncate(place(first.index.saturating_sub(self.floor.index + 1)));
            self.entries.extend_from_slice(entries);
        }
    }

    /// All of the log is replaced by a snapshot from elsewhere.
    pub(crate) fn restore(&mut self, meta: &SnapshotMeta) {
        self.floor = At { index: meta.index, term: meta.term };
        self.entries.clear();
        self.conf = convert::conf_out(&meta.conf);
        self.snapshot = Some(meta.clone());
        self.wanted.set(false);
    }

    /// What is at or below `floor` goes, since there is a snapshot that is not older.
    pub(crate) fn compact(&mut self, meta: SnapshotMeta, floor: At) {
        self.entries.drain(..place(floor.index.saturating_sub(self.floor.index)).min(self.entries.len()));
        self.floor = floor;
        self.snapshot = Some(meta);
        self.wanted.set(false);
    }
}

impl raft::Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.floor.index {
            return Err(StorageError::Compacted.into());
        }
        let from = place(low - self.floor.index - 1);
        let to = place(high.saturating_sub(self.floor.index + 1));
        let found = self.entries.get(from..to).ok_or(StorageError::Unavailable)?;
        // What goes into a message is what one takes; who is given fewer asks again. Whoever looks for changes must see all.
        let count_max = if context.can_async() { ENTRIES_MAX } else { usize::MAX };
        let mut found = found[..found.len().min(count_max)].to_vec();
        raft::util::limit_size(&mut found, bytes_max.into());
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_at(index) {
            Some(term) => Ok(term),
            None if index < self.floor.index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.floor.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // Whoever is not in a snapshot's configuration refuses it.
        let fits = |meta: &&SnapshotMeta| {
            meta.index >= request_index.max(self.floor.index) && raft_id(to).is_some_and(|to| meta.conf.has(to))
        };
        match self.snapshot.as_ref().filter(fits) {
            Some(meta) => Ok(convert::snapshot_out(meta)),
            None => {
                self.wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

fn raft_id(number: u64) -> Option<crate::id::RaftId> {
    crate::id::RaftId::new(number)
}
