//! Whether two clouds acknowledged writes of one service at the same time: whether every acknowledgement can be given an epoch of the cloud
//! that made it, so that epochs never fall.
//!
//! Enters: acknowledged writes (asked, answered, by whom), and which cloud owned the service at which epoch. Leaves: an epoch for each, or
//! those that have none. Always holds: what is called a violation has no other explanation, whatever the order within a write's time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub called: u64,
    pub answered: u64,
    /// The cloud whose instance answered.
    pub by: String,
}

/// What was found of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributed {
    /// The least epoch that each can have had, in the order given; none: there is none.
    pub epochs: Vec<Option<u64>>,
}

impl Attributed {
    /// Those that no epoch explains.
    pub fn unexplained(&self) -> impl Iterator<Item = usize> {
        self.epochs.iter().enumerate().filter(|(_, e)| e.is_none()).map(|(at, _)| at)
    }
}

/// `owners`: by epoch. Of two writes of which one was answered before the other was asked, the later one has no lesser epoch.
pub fn attribute(acknowledged: &[Acknowledged], owners: &BTreeMap<u64, String>) -> Attributed {
    let mut order: Vec<usize> = (0..acknowledged.len()).collect();
    order.sort_by_key(|at| acknowledged.get(*at).map(|a| a.called));
    let mut epochs = vec![None; acknowledged.len()];
    let mut answered: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut floor = 0;
    for at in order {
        let Some(ack) = acknowledged.get(at) else { continue };
        while let Some(Reverse((_, epoch))) = answered.peek().copied().filter(|Reverse((when, _))| *when < ack.called) {
            answered.pop();
            floor = floor.max(epoch);
        }
        let found = owners.range(floor..).find(|(_, owner)| **owner == ack.by).map(|(epoch, _)| *epoch);
        if let Some(epoch) = found {
            answered.push(Reverse((ack.answered, epoch)));
        }
        if let Some(place) = epochs.get_mut(at) {
            *place = found;
        }
    }
    Attributed { epochs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(called: u64, answered: u64, by: &str) -> Acknowledged {
        Acknowledged { called, answered, by: by.into() }
    }

    fn unexplained(acks: &[Acknowledged]) -> Vec<usize> {
        let owners = [(1, "a".to_owned()), (2, "b".to_owned()), (4, "a".to_owned())].into();
        attribute(acks, &owners).unexplained().collect()
    }

    #[test]
    fn owners_one_after_the_other_are_explained() {
        let acks = [ack(0, 5, "a"), ack(4, 9, "a"), ack(10, 12, "b"), ack(20, 22, "a"), ack(13, 14, "b")];
        assert!(unexplained(&acks).is_empty());
        // Under way at the same time: which was first, nobody can say.
        assert!(unexplained(&[ack(0, 20, "a"), ack(5, 6, "b"), ack(7, 30, "a")]).is_empty());
        let owners = [(1, "a".to_owned()), (2, "b".to_owned())].into();
        assert_eq!(attribute(&[ack(0, 1, "a"), ack(2, 3, "b")], &owners).epochs, [Some(1), Some(2)]);
    }

    #[test]
    fn an_older_owner_after_a_newer_one_is_found() {
        let owners: BTreeMap<u64, String> = [(1, "a".to_owned()), (2, "b".to_owned())].into();
        let acks = [ack(0, 1, "a"), ack(2, 3, "b"), ack(4, 5, "a")];
        assert_eq!(attribute(&acks, &owners).unexplained().collect::<Vec<_>>(), [2]);
        // Turns taken after the last change of owner.
        assert_eq!(unexplained(&[ack(0, 1, "b"), ack(2, 3, "a"), ack(4, 5, "b")]), [2]);
        assert_eq!(unexplained(&[ack(0, 1, "c")]), [0], "one that never owned it");
    }
}
