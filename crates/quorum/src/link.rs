//! Datagrams overtake each other: of appends and of their answers only those count that are later than what was heard already.
//!
//! Enters: stamps of messages. Leaves: whether to take one. Always holds: within a lane of one peer stamps rise.
//!
//! Why: `raft` 0.7.0 believes an answer that was overtaken, and then moves a follower's `next_idx` below what it is known to have
//! (raft-rs #557). A message that is dropped here counts as lost, which Raft survives by itself. Votes and heartbeats are not
//! ordered: an old one is as good as a new one.

use crate::id::RaftId;
use crate::message::Stamp;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Append,
    Answer,
}

/// Senders that are remembered, far more than can take part; of more, those with the least numbers go.
const LANES_MAX: usize = 128;

#[derive(Debug)]
pub struct Link {
    run: u64,
    /// One counter for all peers: it rises for each of them.
    sent: u64,
    heard: BTreeMap<(RaftId, Lane), Stamp>,
    overtaken: u64,
}

impl Link {
    /// `run` rises with each start.
    pub fn new(run: u64) -> Self {
        Self { run, sent: 0, heard: BTreeMap::new(), overtaken: 0 }
    }

    /// For the next message that leaves.
    pub fn stamp(&mut self) -> Stamp {
        self.sent += 1;
        Stamp { run: self.run, seq: self.sent }
    }

    /// Whether this is the latest of its lane. The same one twice is not.
    pub fn takes(&mut self, from: RaftId, lane: Lane, stamp: Stamp) -> bool {
        if self.heard.len() >= LANES_MAX && !self.heard.contains_key(&(from, lane)) {
            self.heard.pop_first();
        }
        let last = self.heard.entry((from, lane)).or_insert(Stamp { run: 0, seq: 0 });
        let later = stamp > *last;
        if later {
            *last = stamp;
        } else {
            self.overtaken += 1;
        }
        later
    }

    /// How many were dropped since the start.
    pub fn overtaken(&self) -> u64 {
        self.overtaken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_overtaken_is_dropped_by_peer_and_lane() {
        let (a, b) = (RaftId::new(1).unwrap(), RaftId::new(2).unwrap());
        let mut link = Link::new(7);
        let stamp = |run, seq| Stamp { run, seq };
        assert!(link.takes(a, Lane::Append, stamp(3, 2)));
        assert!(!link.takes(a, Lane::Append, stamp(3, 1)), "overtaken");
        assert!(!link.takes(a, Lane::Append, stamp(3, 2)), "heard twice");
        assert!(link.takes(a, Lane::Answer, stamp(3, 1)), "another lane");
        assert!(link.takes(b, Lane::Append, stamp(1, 1)), "another peer");
        assert!(link.takes(a, Lane::Append, stamp(4, 1)), "the peer was started again");
        assert!(!link.takes(a, Lane::Append, stamp(3, 9)), "of its life before");
        assert_eq!(link.overtaken(), 3);
        assert_eq!([link.stamp(), link.stamp()], [stamp(7, 1), stamp(7, 2)]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut link = Link::new(1);
        for n in 1..500 {
            link.takes(RaftId::new(n).unwrap(), Lane::Append, Stamp { run: 1, seq: 1 });
        }
        assert_eq!(link.heard.len(), LANES_MAX);
    }
}
