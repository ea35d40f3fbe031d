//! What a voter of a pact must keep: its promises, its log, a snapshot. Rows of their own beside the objects, in the same transactions.
//!
//! Enters: numbers and bytes; what they mean is `pumasi-quorum`'s. Leaves: all of it, as of the last commit.
//! Always holds: a log has no gap; every write raises the store's revision, so that a store that was put back to an older copy is
//! found out (an old promise is as dangerous as an old object); a snapshot's bytes are written only when there is a new one.

use crate::Store;
use crate::error::{StoreError, during};
use crate::numbers::{from_sql, to_sql};
use crate::sim::Fate;
use crate::tx::Tx;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// The most that one entry's bytes or a snapshot may have; the writers' own bounds are lower.
pub const RAFT_ENTRY_BYTES_MAX: usize = 1 << 20;
pub const RAFT_SNAPSHOT_BYTES_MAX: usize = 64 << 20;

/// What hooks see as the kind of these writes.
pub const RAFT_HARD_STATE: &str = "raft_hard_state";
pub const RAFT_ENTRIES: &str = "raft_entries";

/// What a voter has promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftHardState {
    pub term: u64,
    pub vote: Option<u64>,
    pub commit: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftEntry {
    pub term: u64,
    pub kind: u8,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftSnapshot {
    pub index: u64,
    pub term: u64,
    pub conf: Vec<u8>,
    pub state: Vec<u8>,
}

/// All of one pact's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftKept {
    pub raft_id: u64,
    pub hard: RaftHardState,
    /// As of `applied`.
    pub conf: Vec<u8>,
    pub applied: u64,
    pub floor_index: u64,
    pub floor_term: u64,
    /// Those after the floor, in order.
    pub entries: Vec<RaftEntry>,
    pub snapshot: Option<RaftSnapshot>,
}

/// All 64 bits of a number, in an integer of SQLite's.
fn bits(n: u64) -> i64 {
    i64::from_ne_bytes(n.to_ne_bytes())
}

fn from_bits(n: i64) -> u64 {
    u64::from_ne_bytes(n.to_ne_bytes())
}

fn unfit(pact: &str, detail: String) -> StoreError {
    StoreError::Decode { what: format!("the voter's log of pact {pact}"), detail }
}

impl Tx<'_> {
    /// Begins with this, whatever there was.
    pub fn raft_begin(&mut self, pact: &str, kept: &RaftKept) -> Result<(), StoreError> {
        self.raft_forget(pact)?;
        let written = self.raft_write(
            "INSERT INTO raft_state (pact, raft_id, term, vote, commit_index, applied, conf, floor_index, floor_term)
             VALUES (?1, ?2, 0, NULL, 0, ?3, ?4, ?5, ?6)",
            params![
                pact,
                bits(kept.raft_id),
                sql(kept.applied)?,
                kept.conf,
                sql(kept.floor_index)?,
                sql(kept.floor_term)?
            ],
        );
        self.whole(written)?;
        self.raft_hard_state(pact, kept.hard)?;
        kept.snapshot.as_ref().map_or(Ok(()), |snapshot| self.raft_snapshot(pact, snapshot))?;
        self.raft_append(pact, kept.floor_index + 1, &kept.entries)
    }

    /// Nothing of this pact is left.
    pub fn raft_forget(&mut self, pact: &str) -> Result<(), StoreError> {
        for delete in [
            "DELETE FROM raft_state WHERE pact = ?1",
            "DELETE FROM raft_entry WHERE pact = ?1",
            "DELETE FROM raft_snapshot WHERE pact = ?1",
        ] {
            let written = self.raft_write(delete, [pact]);
            self.whole(written)?;
        }
        Ok(())
    }

    pub fn raft_hard_state(&mut self, pact: &str, hard: RaftHardState) -> Result<(), StoreError> {
        let encode = |e: serde_json::Error| StoreError::Encode {
            what: format!("{RAFT_HARD_STATE}/{pact}"),
            detail: e.to_string(),
        };
        let mut text = serde_json::to_string(&hard).map_err(encode)?;
        if !self.raft_fate(RAFT_HARD_STATE, pact, &mut text)? {
            return Ok(());
        }
        let hard: RaftHardState = serde_json::from_str(&text).map_err(encode)?;
        let written = self.raft_write(
            "UPDATE raft_state SET term = ?2, vote = ?3, commit_index = ?4 WHERE pact = ?1",
            params![pact, sql(hard.term)?, hard.vote.map(bits), sql(hard.commit)?],
        );
        self.changed_one(pact, written)
    }

    /// From `first` on the log is this; what stood there is void.
    pub fn raft_append(&mut self, pact: &str, first: u64, entries: &[RaftEntry]) -> Result<(), StoreError> {
        let bytes: usize = entries.iter().map(|e| e.data.len()).sum();
        let mut text = format!(r#"{{"first":{first},"count":{},"bytes":{bytes}}}"#, entries.len());
        if !self.raft_fate(RAFT_ENTRIES, pact, &mut text)? {
            return Ok(());
        }
        self.raft_truncate(pact, first.saturating_sub(1))?;
        let last = last_index(self.conn, pact)?;
        if !entries.is_empty() && last.checked_add(1) != Some(first) {
            return Err(unfit(pact, format!("entries from {first} on do not follow {last}")));
        }
        for (index, entry) in (first..).zip(entries) {
            if entry.data.len() > RAFT_ENTRY_BYTES_MAX {
                let (what, bytes) = (format!("entry {index} of pact {pact}"), entry.data.len());
                return Err(StoreError::TooLarge { what, bytes, max_bytes: RAFT_ENTRY_BYTES_MAX });
            }
            let written = self.raft_write(
                "INSERT INTO raft_entry (pact, idx, term, kind, data) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![pact, sql(index)?, sql(entry.term)?, entry.kind, entry.data],
            );
            self.whole(written)?;
        }
        self.work.bytes += bytes;
        Ok(())
    }

    /// What stands after this index is void.
    pub fn raft_truncate(&mut self, pact: &str, after: u64) -> Result<(), StoreError> {
        let written =
            self.raft_write("DELETE FROM raft_entry WHERE pact = ?1 AND idx > ?2", params![pact, sql(after)?]);
        self.whole(written).map(drop)
    }

    /// What stands at or before this index goes: a snapshot has it.
    pub fn raft_compact(&mut self, pact: &str, floor_index: u64, floor_term: u64) -> Result<(), StoreError> {
        let (index, term) = (sql(floor_index)?, sql(floor_term)?);
        let written = self.raft_write("DELETE FROM raft_entry WHERE pact = ?1 AND idx <= ?2", params![pact, index]);
        self.whole(written)?;
        let written = self.raft_write(
            "UPDATE raft_state SET floor_index = ?2, floor_term = ?3 WHERE pact = ?1 AND floor_index <= ?2",
            params![pact, index, term],
        );
        self.changed_one(pact, written)
    }

    /// Up to here commands have changed what this transaction and those before it have written.
    pub fn raft_applied(&mut self, pact: &str, applied: u64, conf: Option<&[u8]>) -> Result<(), StoreError> {
        let written = self.raft_write(
            "UPDATE raft_state SET applied = ?2, conf = coalesce(?3, conf) WHERE pact = ?1",
            params![pact, sql(applied)?, conf],
        );
        self.changed_one(pact, written)
    }

    pub fn raft_snapshot(&mut self, pact: &str, snapshot: &RaftSnapshot) -> Result<(), StoreError> {
        if snapshot.state.len() > RAFT_SNAPSHOT_BYTES_MAX {
            let (what, bytes) = (format!("the snapshot of pact {pact}"), snapshot.state.len());
            return Err(StoreError::TooLarge { what, bytes, max_bytes: RAFT_SNAPSHOT_BYTES_MAX });
        }
        let written = self.raft_write(
            "INSERT INTO raft_snapshot (pact, idx, term, conf, state) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (pact) DO UPDATE
             SET idx = excluded.idx, term = excluded.term, conf = excluded.conf, state = excluded.state",
            params![pact, sql(snapshot.index)?, sql(snapshot.term)?, snapshot.conf, snapshot.state],
        );
        self.work.bytes += snapshot.state.len();
        self.whole(written).map(drop)
    }

    pub fn raft(&self, pact: &str) -> Result<Option<RaftKept>, StoreError> {
        read(self.conn, pact)
    }

    /// Rows that were changed. Whatever it is, an older copy of the store lacks it.
    fn raft_write(&mut self, statement: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        let written = self.conn.prepare_cached(statement).and_then(|mut s| s.execute(values));
        let written = written.map_err(during("writing a voter's log"))?;
        if written > 0 {
            self.next_revision()?;
        }
        Ok(written)
    }

    fn changed_one(&mut self, pact: &str, written: Result<usize, StoreError>) -> Result<(), StoreError> {
        match self.whole(written)? {
            0 => Err(unfit(pact, "this store keeps none, or a later one".into())),
            _ => Ok(()),
        }
    }

    /// Whether a simulator lets the write be.
    fn raft_fate(&mut self, kind: &str, pact: &str, text: &mut String) -> Result<bool, StoreError> {
        match self.hooks.alter(kind, pact, text)? {
            Fate::Keep => Ok(true),
            Fate::Drop => Ok(false),
            Fate::Fail => {
                let detail = format!("database or disk is full (writing {kind}; made up by a simulator)");
                let failed = StoreError::Database { doing: "writing a voter's log", detail, retryable: true };
                self.whole(Err(failed))
            }
        }
    }
}

fn sql(n: u64) -> Result<i64, StoreError> {
    to_sql(n).map_err(during("writing a voter's log"))
}

/// Of the entries, or where there are none of what a snapshot has.
fn last_index(conn: &Connection, pact: &str) -> Result<u64, StoreError> {
    conn.prepare_cached(
        "SELECT coalesce((SELECT max(idx) FROM raft_entry WHERE pact = ?1),
                         (SELECT floor_index FROM raft_state WHERE pact = ?1), 0)",
    )
    .and_then(|mut s| s.query_row([pact], |r| r.get(0)))
    .map(from_sql)
    .map_err(during("reading a voter's log"))
}

fn read(conn: &Connection, pact: &str) -> Result<Option<RaftKept>, StoreError> {
    let doing = during("reading a voter's log");
    let state = conn
        .prepare_cached(
            "SELECT raft_id, term, vote, commit_index, applied, conf, floor_index, floor_term
             FROM raft_state WHERE pact = ?1",
        )
        .and_then(|mut s| {
            s.query_row([pact], |r| {
                let vote: Option<i64> = r.get(2)?;
                Ok(RaftKept {
                    raft_id: from_bits(r.get(0)?),
                    hard: RaftHardState {
                        term: from_sql(r.get(1)?),
                        vote: vote.map(from_bits),
                        commit: from_sql(r.get(3)?),
                    },
                    applied: from_sql(r.get(4)?),
                    conf: r.get(5)?,
                    floor_index: from_sql(r.get(6)?),
                    floor_term: from_sql(r.get(7)?),
                    entries: Vec::new(),
                    snapshot: None,
                })
            })
            .optional()
        })
        .map_err(&doing)?;
    let Some(mut kept) = state else { return Ok(None) };
    let mut statement = conn
        .prepare_cached("SELECT idx, term, kind, data FROM raft_entry WHERE pact = ?1 ORDER BY idx")
        .map_err(&doing)?;
    let entry = |r: &rusqlite::Row<'_>| {
        let entry = RaftEntry { term: from_sql(r.get(1)?), kind: r.get(2)?, data: r.get(3)? };
        Ok((from_sql(r.get(0)?), entry))
    };
    for row in statement.query_map([pact], entry).map_err(&doing)? {
        let (index, entry) = row.map_err(&doing)?;
        let expected = kept.floor_index + 1 + kept.entries.len() as u64;
        if index != expected {
            return Err(unfit(pact, format!("entry {expected} is missing, {index} is there")));
        }
        kept.entries.push(entry);
    }
    kept.snapshot = conn
        .prepare_cached("SELECT idx, term, conf, state FROM raft_snapshot WHERE pact = ?1")
        .and_then(|mut s| {
            s.query_row([pact], |r| {
                let (index, term) = (from_sql(r.get(0)?), from_sql(r.get(1)?));
                Ok(RaftSnapshot { index, term, conf: r.get(2)?, state: r.get(3)? })
            })
            .optional()
        })
        .map_err(&doing)?;
    Ok(Some(kept))
}

impl Store {
    /// Of which a voter's log is kept.
    pub fn raft_pacts(&self) -> Result<Vec<String>, StoreError> {
        self.hooks().read(RAFT_HARD_STATE, None)?;
        self.read_with(|conn| {
            conn.prepare_cached("SELECT pact FROM raft_state ORDER BY pact")
                .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
                .map_err(during("reading the voters' logs"))
        })
    }

    /// What a voter of this pact begins with, if it ever began.
    pub fn raft(&self, pact: &str) -> Result<Option<RaftKept>, StoreError> {
        self.hooks().read(RAFT_HARD_STATE, Some(pact))?;
        self.read_with(|conn| read(conn, pact))
    }
}
