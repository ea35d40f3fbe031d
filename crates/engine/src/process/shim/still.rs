//! Whether an ordered freeze is in force.
//!
//! Enters: the order, which one is over, now. Leaves: what to do.
//! Always holds: a freeze that went on once by its bound is over for good, whatever is said of it later.

use super::super::layout::Order;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    Free,
    Frozen(Order),
    /// Its bound is reached just now.
    Lapsed(Order),
}

pub(super) fn turn(order: Option<&Order>, lapsed: Option<&str>, now_ms: u64) -> Turn {
    match order {
        Some(order) if Some(order.name.as_str()) == lapsed => Turn::Free,
        Some(order) if order.until_ms.is_some_and(|until| until <= now_ms) => Turn::Lapsed(order.clone()),
        Some(order) => Turn::Frozen(order.clone()),
        None => Turn::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(name: &str, until_ms: Option<u64>) -> Order {
        Order { name: name.into(), until_ms }
    }

    #[test]
    fn a_freeze_ends_at_its_bound_and_never_begins_again() {
        let bound = order("move-1", Some(1_000));
        assert_eq!(turn(None, None, 0), Turn::Free);
        assert_eq!(turn(Some(&bound), None, 999), Turn::Frozen(bound.clone()));
        assert_eq!(turn(Some(&bound), None, 1_000), Turn::Lapsed(bound.clone()));
        // Too late to say that it has no bound: it ran in between.
        assert_eq!(turn(Some(&order("move-1", None)), Some("move-1"), 1_001), Turn::Free);
        // Said in time, it has none.
        let unbound = order("move-1", None);
        assert_eq!(turn(Some(&unbound), None, u64::MAX), Turn::Frozen(unbound.clone()));
        let next = order("move-2", Some(5_000));
        assert_eq!(turn(Some(&next), Some("move-1"), 1_001), Turn::Frozen(next.clone()));
    }
}
