//! When an answer may leave of a service whose copies are kept in step: when each copy that the table names has what the application
//! committed before it answered.
//!
//! Enters: the right to write, what the table in force names, the instant after which nothing of the answer was committed, how far copies
//! are. Leaves: whether the answer leaves, waits, or may not leave at all. Always holds: the table and the right of this moment count, and
//! not those under which the request came in; with nobody to wait for and nobody's word that the service may be written alone, nothing leaves.
//!
//! Pure: no clock, no sockets. The real gateway and the simulator's both decide by it.

use crate::right::Right;
use pumasi_terms::{BootMs, Epoch, LeaseId, Position};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Leaves,
    Waits,
    /// This cloud has no right to write any more: another one may have the service, without this write.
    Gone,
}

pub fn fate(right: &Right, epoch: Epoch, at: Position, copies: &BTreeMap<LeaseId, Position>, now: BootMs) -> Fate {
    if !right.may_write(epoch, now) {
        return Fate::Gone;
    }
    let Some(in_step) = &right.in_step else { return Fate::Leaves };
    let has_it = |lease: &LeaseId| copies.get(lease).is_some_and(|copy| *copy >= at);
    match in_step.leases.is_empty() {
        true if in_step.alone => Fate::Leaves,
        true => Fate::Waits,
        false if in_step.leases.iter().all(has_it) => Fate::Leaves,
        false => Fate::Waits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::right::Entry;
    use pumasi_route::table::{InStep, Writes};
    use pumasi_terms::Generation;

    const EPOCH: Epoch = Epoch(2);

    fn right(in_step: Option<InStep>) -> Right {
        let mut right = Right::default();
        (right.entry, right.in_step) = (Some(Entry { owner: true, writes: Writes::Unbound, epoch: EPOCH }), in_step);
        right
    }

    fn of(leases: &[u128]) -> InStep {
        InStep {
            leases: leases.iter().map(|n| LeaseId::from_entropy(*n)).collect(),
            wait_ms: 1_000,
            ..InStep::default()
        }
    }

    fn at(ms: u64) -> Position {
        Position::new(Generation(7), ms)
    }

    #[test]
    fn an_answer_leaves_when_every_copy_has_what_was_committed_before_it() {
        let copies = |list: &[(u128, Position)]| list.iter().map(|(n, p)| (LeaseId::from_entropy(*n), *p)).collect();
        let both = right(Some(of(&[1, 2])));
        let cases = [
            (vec![], Fate::Waits),
            (vec![(1, at(50))], Fate::Waits),
            (vec![(1, at(50)), (2, at(49))], Fate::Waits),
            (vec![(1, at(50)), (2, at(50))], Fate::Leaves),
            (vec![(1, at(90)), (2, Position::new(Generation(6), 99))], Fate::Waits),
            (vec![(1, at(90)), (2, Position::new(Generation(8), 0))], Fate::Leaves),
        ];
        for (have, becomes) in cases {
            assert_eq!(fate(&both, EPOCH, at(50), &copies(&have), BootMs(60)), becomes, "{have:?}");
        }
        assert_eq!(fate(&both, Epoch(3), at(50), &copies(&[(1, at(90)), (2, at(90))]), BootMs(60)), Fate::Gone);
    }

    #[test]
    fn with_nobody_to_wait_for_it_leaves_only_where_the_service_may_be_written_alone() {
        let none = BTreeMap::new();
        let becomes = |in_step| fate(&right(in_step), EPOCH, at(50), &none, BootMs(60));
        assert_eq!(becomes(None), Fate::Leaves);
        assert_eq!(becomes(Some(of(&[]))), Fate::Waits);
        assert_eq!(becomes(Some(InStep { alone: true, ..of(&[]) })), Fate::Leaves);
        assert_eq!(becomes(Some(InStep { alone: true, ..of(&[1]) })), Fate::Waits);
    }

    #[test]
    fn what_writes_is_refused_on_entry_while_nobody_is_in_step() {
        use crate::right::Turn;
        let enter = |in_step| right(in_step).enter(EPOCH, BootMs(60));
        assert_eq!(enter(Some(of(&[]))), Turn::Unkept);
        assert_eq!(enter(Some(InStep { shut: true, ..of(&[1]) })), Turn::Unkept);
        assert_eq!(enter(Some(InStep { alone: true, ..of(&[]) })), Turn::In);
        assert_eq!(enter(Some(of(&[1]))), Turn::In);
    }
}
