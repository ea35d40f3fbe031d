//! What a voter must keep, and the port to where it is kept.
//!
//! Enters: one [`Persist`] after the other. Leaves: [`Kept`], as of the last one that is on disk.
//! Always holds: a persist is one transaction: all of it or nothing, together with what its commands changed in the caller's tables.

use crate::conf::{BadVoters, Conf};
use crate::id::RaftId;
use crate::message::{Entry, HardState, SnapshotMeta};
use pumasi_terms::Digest;
use std::collections::BTreeSet;

/// What one transaction has to keep. Empty fields change nothing. In this order: entries after `truncate_after` go, entries at or
/// below `floor` go, `entries` are added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Persist {
    pub hard: Option<HardState>,
    /// Entries after this index are void.
    pub truncate_after: Option<u64>,
    /// What is at or below it stands in a snapshot, and is not needed any more.
    pub floor: Option<At>,
    /// Index of the first one, and all that follow it without a gap.
    pub entries: Option<(u64, Vec<Entry>)>,
    pub snapshot: Option<Snapshot>,
    pub conf: Option<Conf>,
    /// Commands up to here have changed the caller's tables once this is kept.
    pub applied: Option<u64>,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub index: u64,
    pub term: u64,
}

/// The state after all commands up to `meta.index`: bytes that only the caller understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub meta: SnapshotMeta,
    pub state: Vec<u8>,
}

impl Snapshot {
    pub fn of(at: At, conf: Conf, state: Vec<u8>) -> Self {
        let (digest, bytes) = (digest_of(&state), state.len() as u64);
        Self { meta: SnapshotMeta { index: at.index, term: at.term, conf, digest, bytes }, state }
    }
}

pub fn digest_of(state: &[u8]) -> Digest {
    Digest(*blake3::hash(state).as_bytes())
}

/// Everything that a voter begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Under which number all of this was voted.
    pub id: RaftId,
    pub hard: HardState,
    /// As of `applied`.
    pub conf: Conf,
    pub applied: u64,
    pub floor: At,
    /// Those that follow `floor`, without a gap.
    pub entries: Vec<Entry>,
    pub snapshot: Option<Snapshot>,
}

impl Kept {
    /// What all first voters of a group begin with, to the letter: a snapshot at index 1, term 1.
    pub fn first(id: RaftId, voters: BTreeSet<RaftId>, state: Vec<u8>) -> Result<Self, BadVoters> {
        let (at, conf) = (At { index: 1, term: 1 }, Conf::of(voters)?);
        Ok(Self {
            id,
            hard: HardState { term: 1, vote: None, commit: 1 },
            conf: conf.clone(),
            applied: 1,
            floor: at,
            entries: Vec::new(),
            snapshot: Some(Snapshot::of(at, conf, state)),
        })
    }

    /// What one begins with who joins a group that there is: nothing, until the leader sends a snapshot. It stands for no election.
    pub fn joining(id: RaftId) -> Self {
        Self {
            id,
            hard: HardState { term: 1, ..HardState::default() },
            conf: Conf::default(),
            applied: 0,
            floor: At::default(),
            entries: Vec::new(),
            snapshot: None,
        }
    }

    pub fn last_index(&self) -> u64 {
        self.floor.index + self.entries.len() as u64
    }

    /// Does what a transaction with this does. `Err`: it does not fit onto what is there, and nothing was changed.
    pub fn keep(&mut self, persist: &Persist) -> Result<(), NoFit> {
        let floor = persist.floor.unwrap_or(self.floor);
        let mut last = self.last_index();
        if let Some(after) = persist.truncate_after {
            last = last.min(after);
        }
        if floor.index < self.floor.index {
            return Err(NoFit { what: "a log's floor falls" });
        }
        if persist.entries.as_ref().is_some_and(|(first, _)| *first != last.max(floor.index) + 1) {
            return Err(NoFit { what: "entries leave a gap or overlap" });
        }
        self.entries.truncate(usize::try_from(last.saturating_sub(self.floor.index)).unwrap_or(usize::MAX));
        let gone = usize::try_from(floor.index - self.floor.index).unwrap_or(usize::MAX);
        self.entries.drain(..gone.min(self.entries.len()));
        self.floor = floor;
        self.entries.extend(persist.entries.iter().flat_map(|(_, entries)| entries.iter().cloned()));
        self.hard = persist.hard.unwrap_or(self.hard);
        self.applied = persist.applied.unwrap_or(self.applied);
        self.conf = persist.conf.as_ref().unwrap_or(&self.conf).clone();
        self.snapshot = persist.snapshot.as_ref().or(self.snapshot.as_ref()).cloned();
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "what a voter must keep does not fit onto what was kept before: {what}; the store is damaged or not this voter's"
)]
pub struct NoFit {
    pub what: &'static str,
}

/// Where it is kept. The daemon's is its store, where the caller's own rows are in the same transaction.
pub trait Storage {
    type Error: std::error::Error;

    /// None: nothing was ever kept.
    fn load(&self) -> Result<Option<Kept>, Self::Error>;
    /// Begins from this.
    fn begin(&mut self, kept: Kept) -> Result<(), Self::Error>;
    /// Written, but perhaps not on disk before [`Storage::sync`].
    fn write(&mut self, persist: &Persist) -> Result<(), Self::Error>;
    /// All that was written is on disk.
    fn sync(&mut self) -> Result<(), Self::Error>;
}

/// A disk in memory: it forgets in a power cut what was not synced, and can be put back to what it was once.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    synced: Option<Kept>,
    written: Vec<Persist>,
}

impl Memory {
    /// What was written since the last sync is lost.
    pub fn power_cut(&mut self) {
        self.written.clear();
    }

    /// The first so many transactions that wait are on disk.
    pub fn sync_some(&mut self, transactions: usize) -> Result<(), NoFit> {
        for persist in self.written.drain(..transactions.min(self.written.len())) {
            let kept = self.synced.as_mut().ok_or(NoFit { what: "it never began" })?;
            kept.keep(&persist)?;
        }
        Ok(())
    }

    /// A backup is put back: everything since is unknown to it.
    pub fn restore(&mut self, older: Option<Kept>) {
        *self = Self { synced: older, written: Vec::new() };
    }
}

impl Storage for Memory {
    type Error = NoFit;

    fn load(&self) -> Result<Option<Kept>, NoFit> {
        Ok(self.synced.clone())
    }

    fn begin(&mut self, kept: Kept) -> Result<(), NoFit> {
        self.restore(Some(kept));
        Ok(())
    }

    fn write(&mut self, persist: &Persist) -> Result<(), NoFit> {
        self.written.push(persist.clone());
        Ok(())
    }

    fn sync(&mut self) -> Result<(), NoFit> {
        self.sync_some(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Kind;

    fn entry(term: u64) -> Entry {
        Entry { term, kind: Kind::Empty }
    }

    fn begun() -> Memory {
        let id = RaftId::new(1).unwrap();
        let mut disk = Memory::default();
        disk.begin(Kept::first(id, [id].into(), b"state".to_vec()).unwrap()).unwrap();
        disk
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
        let mut disk = begun();
        let one = Persist { entries: Some((2, vec![entry(1), entry(1)])), ..Persist::default() };
        let two = Persist { truncate_after: Some(2), entries: Some((3, vec![entry(2)])), ..Persist::default() };
        disk.write(&one).unwrap();
        disk.sync().unwrap();
        let before = disk.load().unwrap().unwrap();
        assert_eq!(before.last_index(), 3);
        disk.write(&two).unwrap();
        disk.power_cut();
        assert_eq!(disk.load().unwrap().unwrap(), before);
        disk.write(&two).unwrap();
        disk.sync().unwrap();
        assert_eq!(disk.load().unwrap().unwrap().entries, [entry(1), entry(2)]);
    }

    #[test]
    fn what_leaves_a_gap_is_refused_and_changes_nothing() {
        let mut kept = begun().load().unwrap().unwrap();
        let before = kept.clone();
        let gap = Persist { entries: Some((4, vec![entry(1)])), ..Persist::default() };
        assert!(kept.keep(&gap).is_err());
        assert_eq!(kept, before);
        let floor = Persist { floor: Some(At { index: 9, term: 3 }), truncate_after: Some(9), ..Persist::default() };
        kept.keep(&floor).unwrap();
        assert_eq!((kept.floor.index, kept.last_index()), (9, 9), "a snapshot from elsewhere replaces the log");
        assert!(kept.keep(&Persist { floor: Some(At { index: 1, term: 1 }), ..Persist::default() }).is_err());
    }
}
