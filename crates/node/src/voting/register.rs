//! The register as this cloud has applied it, and the last entries, for those who follow without a vote.
//!
//! Enters: commands in the order of the log, snapshots. Leaves: states, what they tell. Pure.
//! Always holds: what is shown is on disk here, or committed elsewhere; one state is never changed once it is shown.

use super::wire::ENTRIES_BYTES_MAX;
use pumasi_ownership::state::BadState;
use pumasi_ownership::{BadEntry, Rules, Signatures, State, Told, apply_bytes};
use pumasi_quorum::Apply;
use std::collections::VecDeque;
use std::sync::Arc;

/// Entries that are kept for followers, and their bytes together.
const RING_MAX: usize = 2_048;
const RING_BYTES_MAX: usize = 4 << 20;

pub fn rules() -> Rules<'static> {
    Rules::new(&Signatures)
}

/// Why nothing more can be applied here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error("{0}")]
    Newer(String),
    #[error("a snapshot of the register: {0}")]
    Snapshot(String),
    #[error("entry {0} of the register came before any snapshot of it")]
    NoState(u64),
}

/// What one command told, and at which place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub index: u64,
    pub term: u64,
    pub told: Vec<Told>,
}

/// What a batch leads to.
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub state: Option<Arc<State>>,
    pub done: Vec<Done>,
    pub entries: Vec<(u64, Arc<[u8]>)>,
    /// What was there before is no beginning of this.
    pub restored: bool,
}

impl From<BadState> for Stop {
    fn from(e: BadState) -> Self {
        Self::Snapshot(e.to_string())
    }
}

/// Applies in order. `state` is what the batch before left, also where that is not on disk yet.
pub fn step(state: Option<Arc<State>>, apply: &[Apply]) -> Result<Step, Stop> {
    let mut step = Step { state, ..Step::default() };
    for what in apply {
        match what {
            Apply::Restore { state, .. } => {
                (step.state, step.restored) = (Some(Arc::new(State::from_json(state)?)), true);
                step.entries.clear();
            }
            Apply::Command { index, term, command } => {
                let before = step.state.take().ok_or(Stop::NoState(*index))?;
                let applied = apply_bytes(Arc::unwrap_or_clone(before), *index, command, rules());
                let (after, told) = applied.map_err(|e: BadEntry| Stop::Newer(e.to_string()))?;
                step.state = Some(Arc::new(after));
                step.done.push(Done { index: *index, term: *term, told });
                step.entries.push((*index, command.as_slice().into()));
            }
        }
    }
    Ok(step)
}

/// The last entries.
#[derive(Debug, Default)]
pub struct Ring {
    /// All entries after this one are here.
    floor: u64,
    entries: VecDeque<(u64, Arc<[u8]>)>,
    bytes: usize,
}

impl Ring {
    /// Begins anew: entries up to here are not there.
    pub fn begin(&mut self, floor: u64) {
        *self = Self { floor, ..Self::default() };
    }

    pub fn push(&mut self, index: u64, entry: Arc<[u8]>) {
        self.bytes += entry.len();
        self.entries.push_back((index, entry));
        while self.entries.len() > RING_MAX || self.bytes > RING_BYTES_MAX {
            let Some((gone, entry)) = self.entries.pop_front() else { break };
            self.bytes -= entry.len();
            self.floor = gone;
        }
    }

    /// Those after a revision, as many as go into one answer. None: it lies too far back.
    pub fn after(&self, revision: u64) -> Option<Vec<(u64, Vec<u8>)>> {
        if revision < self.floor {
            return None;
        }
        let (from, mut bytes) = (self.entries.partition_point(|(index, _)| *index <= revision), 0);
        let fits = |(_, entry): &&(u64, Arc<[u8]>)| {
            bytes += entry.len() + 16;
            bytes <= ENTRIES_BYTES_MAX
        };
        Some(self.entries.iter().skip(from).take_while(fits).map(|(n, e)| (*n, e.to_vec())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_get_what_is_there_or_hear_that_it_is_gone() {
        let mut ring = Ring::default();
        ring.begin(10);
        for index in [12, 13, 17] {
            ring.push(index, vec![0; 8].into());
        }
        let after = |ring: &Ring, n| ring.after(n).map(|e| e.iter().map(|(n, _)| *n).collect::<Vec<_>>());
        assert_eq!(after(&ring, 9), None);
        assert_eq!(after(&ring, 10), Some(vec![12, 13, 17]));
        assert_eq!(after(&ring, 13), Some(vec![17]));
        assert_eq!(after(&ring, 99), Some(Vec::new()));
        for index in 18..18 + RING_MAX as u64 {
            ring.push(index, vec![0; 8].into());
        }
        assert_eq!(after(&ring, 13), None, "bounded");
        assert_eq!(after(&ring, 17).map(|e| e.len()), Some(RING_MAX));
    }
}
