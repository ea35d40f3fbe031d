//! Places for connections from other clouds: strangers share a small pot, members have their own.
//!
//! Always holds: nobody waits for a place. Whoever comes where a pot is full takes the place of the one that has been there longest,
//! so that strangers cost at most their pot, and a member at most its own connections.

use pumasi_terms::CloudName;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Connections before a certificate was shown, from addresses that no member has called from.
const STRANGERS_MAX: usize = 128;
/// The same from addresses that members have called from lately: strangers elsewhere do not push them out.
const RETURNING_MAX: usize = 128;
const PER_ADDRESS_MAX: usize = 16;
/// Connections of one member.
const PER_MEMBER_MAX: usize = 32;
const KNOWN_MAX: usize = 256;

/// Whoever holds one IPv6 address usually holds its /64.
fn net_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[derive(Debug)]
struct Guest {
    from: IpAddr,
    /// Of a member, once it has proven to be one.
    member: Option<CloudName>,
    returning: bool,
    leave: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// By arrival.
    guests: BTreeMap<u64, Guest>,
    /// Where members have called from, the latest last.
    known: VecDeque<IpAddr>,
}

impl Inner {
    /// Asks the longest there to leave where `max` are there of those that count.
    fn make_room(&mut self, max: usize, counts: impl Fn(&Guest) -> bool) {
        let there: Vec<u64> = self.guests.iter().filter(|(_, g)| counts(g)).map(|(id, _)| *id).collect();
        for id in there.iter().take((there.len() + 1).saturating_sub(max)) {
            if let Some(guest) = self.guests.remove(id) {
                guest.leave.notify_one();
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<Inner>>);

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    id: u64,
    leave: Arc<Notify>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn arrive(&self, address: IpAddr) -> Place {
        let from = net_of(address);
        let mut inner = self.lock();
        let returning = inner.known.contains(&from);
        inner.make_room(PER_ADDRESS_MAX, |g| g.member.is_none() && g.from == from);
        let max = if returning { RETURNING_MAX } else { STRANGERS_MAX };
        inner.make_room(max, |g| g.member.is_none() && g.returning == returning);
        let (id, leave) = (inner.next, Arc::new(Notify::new()));
        inner.next += 1;
        inner.guests.insert(id, Guest { from, member: None, returning, leave: leave.clone() });
        drop(inner);
        Place { places: self.clone(), id, leave }
    }

    #[cfg(test)]
    fn strangers(&self) -> usize {
        self.lock().guests.values().filter(|g| g.member.is_none()).count()
    }
}

impl Place {
    /// It has proven to be a member: strangers do not count against it any more.
    pub fn is_of(&self, member: &CloudName) {
        let mut inner = self.places.lock();
        let Some(guest) = inner.guests.remove(&self.id) else { return };
        inner.make_room(PER_MEMBER_MAX, |g| g.member.as_ref() == Some(member));
        inner.known.retain(|a| *a != guest.from);
        inner.known.push_back(guest.from);
        if inner.known.len() > KNOWN_MAX {
            inner.known.pop_front();
        }
        inner.guests.insert(self.id, Guest { member: Some(member.clone()), ..guest });
    }

    /// Until another one takes the place.
    pub async fn taken(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().guests.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((0x7f40_0000 + n).into())
    }
    fn is_out(place: &Place) -> bool {
        place.taken().now_or_never().is_some()
    }

    #[test]
    fn strangers_push_out_each_other_and_never_a_member() {
        let (places, city) = (Places::default(), CloudName::parse("city-b").unwrap());
        let member = places.arrive(address(0));
        member.is_of(&city);
        // It calls again while strangers of its own address and of 2,000 others come.
        let again = places.arrive(address(0));
        let flood: Vec<Place> = (1..2_001).map(|n| places.arrive(address(n))).collect();
        assert_eq!(places.strangers(), STRANGERS_MAX + 1);
        assert!(!is_out(&member) && !is_out(&again));
        assert!(is_out(&flood[0]) && !is_out(&flood[1_999]), "the longest there leaves first");
        drop(flood);
        assert_eq!(places.strangers(), 1);
    }

    #[test]
    fn one_address_and_one_member_are_bounded_by_themselves() {
        let (places, city) = (Places::default(), CloudName::parse("city-b").unwrap());
        let other = places.arrive(address(9));
        let many: Vec<Place> = (0..500).map(|_| places.arrive(address(1))).collect();
        assert_eq!(places.strangers(), PER_ADDRESS_MAX + 1);
        assert!(!is_out(&other));
        drop(many);
        let mine: Vec<Place> = (0..40).map(|_| places.arrive(address(2))).inspect(|p| p.is_of(&city)).collect();
        assert_eq!(mine.iter().filter(|p| is_out(p)).count(), 40 - PER_MEMBER_MAX);
        let v6 = |text: &str| net_of(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:1"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
    }
}
