//! What consensus keeps, in the words of the store.
//!
//! Enters: what is to be kept, what was kept. Leaves: rows of the store, and the same back. Always holds: one [`Persist`] is written within
//! one transaction, which the caller's own rows share.

use pumasi_ownership::state::BadState;
use pumasi_ownership::{BadEntry, State};
use pumasi_quorum::message::{Entry, HardState, Kind};
use pumasi_quorum::storage::At;
use pumasi_quorum::{Conf, Kept, MessageError, Persist, RaftId, Snapshot};
use pumasi_store::{RaftEntry, RaftHardState, RaftKept, RaftSnapshot, Store, StoreError, Tx};

/// Why the vote cannot go on from what is kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log of the pact's vote in this store: {0}; the store is damaged, or a newer program wrote it")]
    Message(#[from] MessageError),
    #[error("the log of the pact's vote in this store names no voter; the store is damaged")]
    Nobody,
    #[error(transparent)]
    State(#[from] BadState),
    #[error(transparent)]
    Entry(#[from] BadEntry),
}

fn entry_out(entry: &Entry) -> Result<RaftEntry, KeepError> {
    let (kind, data) = entry.kind.stored()?;
    Ok(RaftEntry { term: entry.term, kind, data })
}

fn entries_out(entries: &[Entry]) -> Result<Vec<RaftEntry>, KeepError> {
    entries.iter().map(entry_out).collect()
}

fn hard_out(hard: &HardState) -> RaftHardState {
    RaftHardState { term: hard.term, vote: hard.vote.map(RaftId::get), commit: hard.commit }
}

fn snapshot_out(snapshot: &Snapshot) -> Result<RaftSnapshot, KeepError> {
    let (meta, state) = (&snapshot.meta, snapshot.state.clone());
    Ok(RaftSnapshot { index: meta.index, term: meta.term, conf: meta.conf.stored()?, state })
}

pub fn kept_out(kept: &Kept) -> Result<RaftKept, KeepError> {
    Ok(RaftKept {
        raft_id: kept.id.get(),
        hard: hard_out(&kept.hard),
        conf: kept.conf.stored()?,
        applied: kept.applied,
        floor_index: kept.floor.index,
        floor_term: kept.floor.term,
        entries: entries_out(&kept.entries)?,
        snapshot: kept.snapshot.as_ref().map(snapshot_out).transpose()?,
    })
}

fn kept_in(kept: RaftKept) -> Result<Kept, KeepError> {
    let entry = |e: RaftEntry| Ok::<_, KeepError>(Entry { term: e.term, kind: Kind::from_stored(e.kind, &e.data)? });
    let snapshot = |s: RaftSnapshot| {
        Ok::<_, KeepError>(Snapshot::of(At { index: s.index, term: s.term }, Conf::from_stored(&s.conf)?, s.state))
    };
    let RaftHardState { term, vote, commit } = kept.hard;
    Ok(Kept {
        id: RaftId::new(kept.raft_id).ok_or(KeepError::Nobody)?,
        hard: HardState { term, vote: vote.and_then(RaftId::new), commit },
        conf: Conf::from_stored(&kept.conf)?,
        applied: kept.applied,
        floor: At { index: kept.floor_index, term: kept.floor_term },
        entries: kept.entries.into_iter().map(entry).collect::<Result<_, _>>()?,
        snapshot: kept.snapshot.map(snapshot).transpose()?,
    })
}

pub fn load(store: &Store, key: &str) -> Result<Option<Kept>, KeepError> {
    store.raft(key)?.map(kept_in).transpose()
}

/// What a transaction writes of one or more batches: encoded before, so that nothing but the store can fail in it.
#[derive(Debug)]
pub struct Writes {
    truncate_after: Option<u64>,
    floor: Option<At>,
    entries: Option<(u64, Vec<RaftEntry>)>,
    hard: Option<RaftHardState>,
    applied: Option<(u64, Option<Vec<u8>>)>,
    snapshot: Option<RaftSnapshot>,
}

impl Writes {
    pub fn of(persist: &Persist) -> Result<Self, KeepError> {
        let conf = persist.conf.as_ref().map(Conf::stored).transpose()?;
        Ok(Self {
            truncate_after: persist.truncate_after,
            floor: persist.floor,
            entries: persist.entries.as_ref().map(|(n, e)| Ok::<_, KeepError>((*n, entries_out(e)?))).transpose()?,
            hard: persist.hard.as_ref().map(hard_out),
            applied: persist.applied.map(|n| (n, conf)),
            snapshot: persist.snapshot.as_ref().map(snapshot_out).transpose()?,
        })
    }

    pub fn write(&self, tx: &mut Tx<'_>, key: &str) -> Result<(), StoreError> {
        if let Some(after) = self.truncate_after {
            tx.raft_truncate(key, after)?;
        }
        if let Some(snapshot) = &self.snapshot {
            tx.raft_snapshot(key, snapshot)?;
        }
        if let Some(floor) = self.floor {
            tx.raft_compact(key, floor.index, floor.term)?;
        }
        if let Some((first, entries)) = &self.entries {
            tx.raft_append(key, *first, entries)?;
        }
        if let Some(hard) = self.hard {
            tx.raft_hard_state(key, hard)?;
        }
        if let Some((applied, conf)) = &self.applied {
            tx.raft_applied(key, *applied, conf.as_deref())?;
        }
        Ok(())
    }
}

/// The register as of `applied`: what a snapshot has and what was applied since. None: this voter has yet to be sent one.
pub fn state_of(kept: &Kept, rules: pumasi_ownership::Rules<'_>) -> Result<Option<State>, KeepError> {
    let Some(snapshot) = &kept.snapshot else { return Ok(None) };
    let mut state = State::from_json(&snapshot.state)?;
    for (index, entry) in (kept.floor.index + 1..).zip(&kept.entries) {
        if index <= snapshot.meta.index || index > kept.applied {
            continue;
        }
        if let Kind::Command(bytes) = &entry.kind {
            (state, _) = pumasi_ownership::apply_bytes(state, index, bytes, rules)?;
        }
    }
    Ok(Some(state))
}
