//! What is to be done outside: messages, one transaction, commands.
//!
//! Enters: what `raft` says is ready, one after the other. Leaves: batches. Always holds: a batch has the effect of all that went
//! into it in a row, without a crash in between; so it is as safe as they are.

use crate::conf::Conf;
use crate::id::RaftId;
use crate::message::{Entry, HardState, Message, SnapshotMeta};
use crate::storage::{At, Persist, Snapshot};
use pumasi_terms::BootMs;

/// What the caller does next, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// To be sent at once, whatever the disk does.
    pub messages: Vec<Outgoing>,
    /// One transaction; when it is on disk, `Driver::persisted` with its number.
    pub work: Option<Work>,
    /// A snapshot that the leader has and this voter needs. Asked again each time the leader repeats itself: leave out what is under way.
    pub fetch: Option<Fetch>,
    /// The state as of `Status::applied` is wanted by `Driver::snapshot`, soon.
    pub snapshot_due: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub to: RaftId,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub number: u64,
    pub persist: Persist,
    /// In order, within the same transaction.
    pub apply: Vec<Apply>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Apply {
    /// Replaces all that commands have made so far.
    Restore {
        index: u64,
        state: Vec<u8>,
    },
    Command {
        index: u64,
        term: u64,
        command: Vec<u8>,
    },
}

/// Where a snapshot's bytes are, and what they must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub from: RaftId,
    pub meta: SnapshotMeta,
}

/// A batch that grows until it is taken.
#[derive(Debug, Default)]
pub(crate) struct Open {
    pub(crate) persist: Persist,
    pub(crate) apply: Vec<Apply>,
    /// Leave once it is on disk.
    pub(crate) held: Vec<Message>,
    /// `raft`'s number of the last that went into it; 0: none.
    pub(crate) ready: u64,
    /// There is something to write, since then.
    pub(crate) since: Option<BootMs>,
}

/// A batch that was taken.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) number: u64,
    pub(crate) ready: u64,
    pub(crate) since: BootMs,
    pub(crate) held: Vec<Message>,
    pub(crate) applied: Option<u64>,
    pub(crate) conf: Option<Conf>,
    pub(crate) restores: bool,
}

impl Open {
    pub(crate) fn must(&mut self, now: BootMs) {
        self.since.get_or_insert(now);
    }

    /// A commit alone is not worth a write: it goes along with the next.
    pub(crate) fn hard(&mut self, before: HardState, hard: HardState, now: BootMs) {
        if (hard.term, hard.vote) != (before.term, before.vote) {
            self.must(now);
        }
        self.persist.hard = Some(hard);
    }

    /// `overwrites`: the log reaches to `first` or beyond.
    pub(crate) fn entries(&mut self, first: u64, entries: Vec<Entry>, overwrites: bool, now: BootMs) {
        self.must(now);
        if overwrites {
            let after = self.persist.truncate_after.map_or(first - 1, |before| before.min(first - 1));
            self.persist.truncate_after = Some(after);
        }
        match &mut self.persist.entries {
            Some((begin, list)) if *begin < first => {
                list.truncate(usize::try_from(first - *begin).unwrap_or(usize::MAX));
                list.extend(entries);
            }
            other => *other = Some((first, entries)),
        }
    }

    pub(crate) fn restore(&mut self, snapshot: Snapshot, now: BootMs) {
        self.must(now);
        let SnapshotMeta { index, term, .. } = snapshot.meta;
        self.apply = vec![Apply::Restore { index, state: snapshot.state.clone() }];
        self.persist = Persist {
            hard: self.persist.hard,
            truncate_after: Some(index),
            floor: Some(At { index, term }),
            entries: None,
            conf: Some(snapshot.meta.conf.clone()),
            applied: Some(index),
            snapshot: Some(snapshot),
        };
    }

    pub(crate) fn restores(&self) -> bool {
        matches!(self.apply.first(), Some(Apply::Restore { .. }))
    }

    /// None while there is nothing to write; then what is held back waits for those before.
    pub(crate) fn take(&mut self, number: u64) -> Option<(Work, Waiting)> {
        let since = self.since?;
        let open = std::mem::take(self);
        let waiting = Waiting {
            number,
            ready: open.ready,
            since,
            held: open.held,
            applied: open.persist.applied,
            conf: open.persist.conf.clone(),
            restores: matches!(open.apply.first(), Some(Apply::Restore { .. })),
        };
        Some((Work { number, persist: open.persist, apply: open.apply }, waiting))
    }
}
