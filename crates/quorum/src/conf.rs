//! Who votes, and how that changes.
//!
//! Enters: a configuration, the voters that the pact wants. Leaves: the one next change, or none.
//! Always holds: a change is one step; voters are replaced by a joint change only, after the new ones have caught up; their number
//! is odd, 7 at most.

use crate::bounded;
use crate::id::RaftId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub const VOTERS_MAX: usize = 7;
/// In any one set of a configuration: in the midst of a change, those who come stand beside those who go.
pub const NODES_MAX: usize = 2 * VOTERS_MAX;

/// Why so many voters, or these, are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadVoters {
    #[error("voters of a pact: there are none; name 3 or 5 clouds or witnesses")]
    None,
    #[error(
        "voters of a pact: {count} is an even number: {count} survive no more failures than {one_less} and are more often without a majority; \
         take one away or add one (a witness will do)",
        one_less = count - 1
    )]
    Even { count: usize },
    #[error(
        "voters of a pact: {count} are more than {VOTERS_MAX}, and each change would wait for more of them; the other members read along without a vote"
    )]
    TooMany { count: usize },
}

/// 3 or 5 are meant; one votes alone where nothing needs to survive it.
pub fn check_voters(voters: &BTreeSet<RaftId>) -> Result<(), BadVoters> {
    match voters.len() {
        0 => Err(BadVoters::None),
        count if count.is_multiple_of(2) => Err(BadVoters::Even { count }),
        count if count > VOTERS_MAX => Err(BadVoters::TooMany { count }),
        _ => Ok(()),
    }
}

/// Who takes part, as of one point of the log. `outgoing` is empty but in the midst of a joint change, where both majorities count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conf {
    #[serde(with = "bounded::ids")]
    pub voters: BTreeSet<RaftId>,
    #[serde(with = "bounded::ids")]
    pub learners: BTreeSet<RaftId>,
    #[serde(with = "bounded::ids")]
    pub outgoing: BTreeSet<RaftId>,
    /// Voters of before that stay as learners once the joint change is over. We make no such change; the form has room for it.
    #[serde(with = "bounded::ids")]
    pub learners_next: BTreeSet<RaftId>,
}

impl Conf {
    pub fn of(voters: BTreeSet<RaftId>) -> Result<Self, BadVoters> {
        check_voters(&voters)?;
        Ok(Self { voters, ..Self::default() })
    }

    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn votes(&self, id: RaftId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    pub fn has(&self, id: RaftId) -> bool {
        self.votes(id) || self.learners.contains(&id)
    }

    /// All that vote now, in their order.
    pub fn voting(&self) -> BTreeSet<RaftId> {
        self.voters.union(&self.outgoing).copied().collect()
    }

    /// What no configuration may be, whoever sent it: nobody votes, or one learns and votes at once.
    pub fn problem(&self) -> Option<&'static str> {
        if self.voters.is_empty() {
            return Some("nobody votes");
        }
        if self.voters.len() > VOTERS_MAX || self.outgoing.len() > VOTERS_MAX {
            return Some("more voters than 7");
        }
        if self.learners.iter().any(|id| self.votes(*id)) {
            return Some("somebody votes and learns at once");
        }
        // Those become learners who vote until then, and voted before only.
        if self.learners_next.iter().any(|id| !self.outgoing.contains(id) || self.voters.contains(id)) {
            return Some("somebody is to learn who did not vote before");
        }
        None
    }
}

/// One change of a configuration, as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Reads along, votes on nothing.
    Learn(RaftId),
    /// A learner goes.
    Forget(RaftId),
    /// Both majorities count from here on.
    Enter {
        #[serde(with = "bounded::ids")]
        add: BTreeSet<RaftId>,
        #[serde(with = "bounded::ids")]
        remove: BTreeSet<RaftId>,
    },
    /// The majority of before counts no longer.
    Leave,
}

/// The next step from `conf` to `voters`, none when it is reached or a learner has yet to catch up.
pub fn next_change(conf: &Conf, voters: &BTreeSet<RaftId>, caught_up: impl Fn(RaftId) -> bool) -> Option<Change> {
    if conf.is_joint() {
        return Some(Change::Leave);
    }
    if let Some(gone) = conf.learners.iter().find(|id| !voters.contains(id)) {
        return Some(Change::Forget(*gone));
    }
    let add: BTreeSet<RaftId> = voters.difference(&conf.voters).copied().collect();
    if let Some(new) = add.iter().find(|id| !conf.learners.contains(id)) {
        return Some(Change::Learn(*new));
    }
    let remove: BTreeSet<RaftId> = conf.voters.difference(voters).copied().collect();
    let ready = add.iter().all(|id| caught_up(*id)) && (!add.is_empty() || !remove.is_empty());
    ready.then_some(Change::Enter { add, remove })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u64]) -> BTreeSet<RaftId> {
        numbers.iter().map(|n| RaftId::new(*n).unwrap()).collect()
    }

    #[test]
    fn even_numbers_are_refused_with_the_reason() {
        for good in [1, 3, 5, 7] {
            check_voters(&(1..=good).map(|n| RaftId::new(n).unwrap()).collect()).unwrap();
        }
        assert_eq!(check_voters(&ids(&[])), Err(BadVoters::None));
        let even = check_voters(&ids(&[1, 2, 3, 4])).unwrap_err().to_string();
        assert!(even.contains("4 survive no more failures than 3"), "{even}");
        assert_eq!(check_voters(&ids(&[1, 2, 3, 4, 5, 6, 7, 8, 9])), Err(BadVoters::TooMany { count: 9 }));
    }

    /// Steps by hand: what the changes do to a configuration is `raft`'s own word in the tests of the whole.
    #[test]
    fn one_step_at_a_time_until_nothing_is_left() {
        let target = ids(&[2, 3, 4]);
        let mut conf = Conf::of(ids(&[1, 2, 3])).unwrap();
        assert_eq!(next_change(&conf, &target, |_| true), Some(Change::Learn(RaftId::new(4).unwrap())));
        conf.learners = ids(&[4]);
        assert_eq!(next_change(&conf, &target, |_| false), None, "it has yet to catch up");
        let enter = Change::Enter { add: ids(&[4]), remove: ids(&[1]) };
        assert_eq!(next_change(&conf, &target, |_| true), Some(enter));
        conf = Conf { voters: target.clone(), outgoing: ids(&[1, 2, 3]), ..Conf::default() };
        assert_eq!(next_change(&conf, &target, |_| true), Some(Change::Leave));
        conf = Conf::of(target.clone()).unwrap();
        assert_eq!(next_change(&conf, &target, |_| true), None);
        conf.learners = ids(&[9]);
        assert_eq!(next_change(&conf, &target, |_| true), Some(Change::Forget(RaftId::new(9).unwrap())));
    }
}
