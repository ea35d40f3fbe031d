//! Room that gives way at one cloud to services that it took over and that were promised more.
//!
//! Enters: the room that is free or short, what could give way, the services that were taken over. Leaves: how many instances of each may
//! run, and what gives way for them.
//! Always holds: a plan of recovery and the cloud that carries it out count by the same list in the same order; nothing gives way but by
//! the cloud's own terms, or because it ends anyway; nothing gives way for a service of which it would not make one instance more.

use crate::recover::GivesWay;
use crate::state::Class;
use pumasi_terms::pact::GiveWay;
use pumasi_terms::{CloudName, LeaseId, Resources, ServiceId, ServiceName};
use std::cmp::Reverse;

/// Instances and leases that are looked at.
const WAYS_MAX: usize = 64;

/// A deferred service of the cloud's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub service: ServiceName,
    pub priority: u32,
    /// Of one instance.
    pub unit: Resources,
    pub count: u32,
    /// Until an instance has ended, at most.
    pub in_ms: u64,
}

/// A lease that it lent and that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rented {
    pub lease: LeaseId,
    pub service: ServiceName,
    pub borrower: CloudName,
    pub room: Resources,
    pub in_ms: u64,
    /// It ends whatever the terms say: it was called back, or its borrower is lost.
    pub goes: bool,
}

/// One instance, or one lease, that would give way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub gives: GivesWay,
    /// None: an instance of the service that `gives` names.
    pub lease: Option<LeaseId>,
    /// It ends anyway.
    pub goes: bool,
}

/// The soonest first; of the cloud's own the lowest priority first.
pub fn ways(rule: GiveWay, own: &[Own], rented: &[Rented]) -> Vec<Way> {
    let leases = rented.iter().filter(|r| r.goes || rule.rented()).map(|r| {
        let gives =
            GivesWay { what: r.service.clone(), rented_to: Some(r.borrower.clone()), room: r.room, in_ms: r.in_ms };
        ((r.in_ms, !r.goes, 0, r.service.clone()), Way { gives, lease: Some(r.lease.clone()), goes: r.goes })
    });
    let instances = own.iter().filter(|_| rule.own_deferred()).flat_map(|o| {
        let gives = GivesWay { what: o.service.clone(), rented_to: None, room: o.unit, in_ms: o.in_ms };
        let way = ((o.in_ms, true, o.priority, o.service.clone()), Way { gives, lease: None, goes: false });
        std::iter::repeat_n(way, (o.count as usize).min(WAYS_MAX))
    });
    let mut all: Vec<_> = leases.chain(instances).collect();
    all.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.lease.cmp(&y.lease)));
    all.into_iter().map(|(_, way)| way).take(WAYS_MAX).collect()
}

/// What is promised beyond what there is comes off what would give way, the first of it first: that room is nobody's.
pub fn beyond(ways: Vec<Way>, mut short: Resources) -> Vec<Way> {
    let less = |mut way: Way| {
        let off = least(way.gives.room, short);
        (way.gives.room, short) = (way.gives.room.minus(off), short.minus(off));
        way
    };
    ways.into_iter().map(less).collect()
}

fn least(a: Resources, b: Resources) -> Resources {
    Resources { cpu_millis: a.cpu_millis.min(b.cpu_millis), memory_mib: a.memory_mib.min(b.memory_mib) }
}

/// A service that was taken over here, guaranteed or early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    pub id: ServiceId,
    pub class: Class,
    pub priority: u32,
    pub unit: Resources,
    pub full: u32,
    pub least: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Instances of each guest, in the order in which they were given.
    pub counts: Vec<u32>,
    /// What gives way, the first of the ways, and for which guest.
    pub given: Vec<(usize, usize)>,
}

/// `free`: with every way still in use, and without the guests.
pub fn settle(mut free: Resources, guests: &[Guest], ways: &[Way]) -> Settled {
    let mut order: Vec<usize> = (0..guests.len()).collect();
    order.sort_by_key(|i| guests.get(*i).map(|g| (g.class, Reverse(g.priority), &g.id)));
    let mut settled = Settled { counts: vec![0; guests.len()], given: Vec::new() };
    let mut next = 0;
    for i in order {
        let Some(guest) = guests.get(i) else { continue };
        let left = ways.get(next..).unwrap_or_default();
        let all = left.iter().fold(free, |sum, way| sum.plus(way.gives.room));
        let direct = guest.unit.count_in(free).min(guest.full);
        let most = guest.unit.count_in(all).min(guest.full);
        // An early service that would stay below its least is not worth what it costs others.
        let count = if guest.class == Class::Guaranteed || most >= guest.least { most } else { direct };
        let need = guest.unit.times(count);
        while !need.fits_in(free) {
            let Some(way) = ways.get(next) else { break };
            free = free.plus(way.gives.room);
            settled.given.push((next, i));
            next += 1;
        }
        free = free.minus(need);
        if let Some(at) = settled.counts.get_mut(i) {
            *at = count;
        }
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(n: u32) -> Resources {
        Resources { cpu_millis: n * 100, memory_mib: n * 100 }
    }

    fn own(name: &str, priority: u32, count: u32) -> Own {
        Own { service: ServiceName::parse(name).unwrap(), priority, unit: room(1), count, in_ms: 9_000 }
    }

    fn rented(n: u128, goes: bool, in_ms: u64) -> Rented {
        let service = ServiceName::parse("shop").unwrap();
        let borrower = CloudName::parse("city-c").unwrap();
        Rented { lease: LeaseId::from_entropy(n), service, borrower, room: room(2), in_ms, goes }
    }

    fn guest(n: u128, class: Class, full: u32) -> Guest {
        Guest { id: ServiceId::from_entropy(n), class, priority: 1, unit: room(1), full, least: 1 }
    }

    fn names(ways: &[Way]) -> Vec<String> {
        let name = |w: &Way| match &w.gives.rented_to {
            Some(to) => format!("{} of {to} {}", w.gives.what, w.gives.in_ms),
            None => w.gives.what.to_string(),
        };
        ways.iter().map(name).collect()
    }

    #[test]
    fn only_what_the_terms_say_gives_way_or_what_ends_anyway() {
        let (own, lent) = ([own("b", 5, 1), own("a", 1, 2)], [rented(1, false, 5_000), rented(2, true, 7_000)]);
        let of = |rule| names(&ways(rule, &own, &lent));
        assert_eq!(of(GiveWay::Nothing), ["shop of city-c 7000"]);
        assert_eq!(of(GiveWay::OwnDeferred), ["shop of city-c 7000", "a", "a", "b"]);
        assert_eq!(of(GiveWay::Rented), ["shop of city-c 5000", "shop of city-c 7000"]);
        assert_eq!(of(GiveWay::Both), ["shop of city-c 5000", "shop of city-c 7000", "a", "a", "b"]);
    }

    #[test]
    fn what_counts_more_is_served_first_and_no_more_gives_way_than_it_takes() {
        let ways = ways(GiveWay::OwnDeferred, &[own("a", 1, 3)], &[]);
        let both = [guest(1, Class::Early, 2), guest(2, Class::Guaranteed, 2)];
        let settled = settle(room(1), &both, &ways);
        assert_eq!(settled.counts, [2, 2]);
        assert_eq!(settled.given, [(0, 1), (1, 0), (2, 0)]);
        assert_eq!(settle(room(4), &both, &ways).given, []);
        assert_eq!(settle(room(1), &[], &ways), Settled::default());
        // Not all of it can be had: as much as there is.
        assert_eq!(settle(room(0), &both, &ways).counts, [1, 2]);
        // An instance more of it cannot be made: nothing gives way for it.
        let large = Guest { unit: room(9), ..guest(3, Class::Guaranteed, 1) };
        assert_eq!(settle(room(0), &[large], &ways), Settled { counts: vec![0], given: Vec::new() });
    }

    #[test]
    fn an_early_service_below_its_least_costs_nobody_anything() {
        let ways = ways(GiveWay::OwnDeferred, &[own("a", 1, 1)], &[]);
        let early = Guest { least: 2, ..guest(1, Class::Early, 3) };
        assert_eq!(settle(room(0), &[early], &ways), Settled { counts: vec![0], given: Vec::new() });
    }

    #[test]
    fn a_debt_is_paid_first() {
        let short = beyond(ways(GiveWay::OwnDeferred, &[own("a", 1, 3)], &[]), room(1));
        let settled = settle(room(0), &[guest(1, Class::Guaranteed, 1)], &short);
        assert_eq!((settled.counts, settled.given.len()), (vec![1], 2));
    }
}
