//! Standbys: is the service kept ready where its customer wants it?
//!
//! Enters: the customer's wish, the seats that there are. Leaves: what stays, what goes, how many are missing, in words as well.
//! Always holds: what goes and was as good as what stays is surplus; anything else goes only once enough others rest.

use crate::verdict::Reason;
use pumasi_terms::{CloudName, Continuity, LeaseId, Standby};

/// A lease under which a cloud keeps the service ready, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub lease: LeaseId,
    pub cloud: CloudName,
    pub agreed: Standby,
    /// It has everything that it needs: it would be missed.
    pub complete: bool,
    /// Its lender wants it back.
    pub recalled: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standbys {
    pub stay: Vec<LeaseId>,
    pub go: Vec<LeaseId>,
    pub missing: u32,
    pub reasons: Vec<Reason>,
}

impl Standbys {
    pub fn is_as_wished(&self) -> bool {
        self.go.is_empty() && self.missing == 0
    }
}

pub fn standbys(wish: &Continuity, seats: &[Seat]) -> Standbys {
    let wanted = wish.wanted();
    let mut good: Vec<(usize, &Seat)> =
        seats.iter().filter(|s| flaw(wish, s).is_none()).filter_map(|s| Some((wish.rank(&s.cloud)?, s))).collect();
    good.sort_by_key(|(rank, s)| (!s.complete, *rank, s.lease.clone()));
    let surplus = good.split_off(good.len().min(wanted as usize));
    let missing = wanted - u32::try_from(good.len()).unwrap_or(wanted);
    let mut standbys = Standbys { missing, ..Standbys::default() };
    for (_, seat) in surplus {
        let text = format!("{} standbys are wanted and there are more: {} is not needed", wanted, seat.cloud);
        standbys.part_with(seat, text);
    }
    let replaced = good.iter().filter(|(_, s)| s.complete).count() >= wanted as usize;
    for (seat, flaw) in seats.iter().filter_map(|s| Some((s, flaw(wish, s)?))) {
        if replaced {
            standbys.part_with(seat, flaw);
        }
    }
    if missing > 0 {
        let text = format!("{} of {wanted} standbys are there or on their way", good.len());
        standbys.reasons.push(Reason { measure: "standbys".into(), text });
    }
    standbys.stay = good.into_iter().map(|(_, s)| s.lease.clone()).collect();
    standbys
}

impl Standbys {
    fn part_with(&mut self, seat: &Seat, text: String) {
        self.go.push(seat.lease.clone());
        self.reasons.push(Reason { measure: "standbys".into(), text });
    }
}

/// Why it is not what the customer wishes.
fn flaw(wish: &Continuity, seat: &Seat) -> Option<String> {
    let cloud = &seat.cloud;
    if wish.wanted() == 0 {
        Some(format!("no standby is wanted any more: {cloud} is not needed"))
    } else if wish.rank(cloud).is_none() {
        Some(format!("{cloud} is not among the clouds that shall keep it ready"))
    } else if seat.recalled {
        Some(format!("{cloud} calls its room back"))
    } else if seat.agreed != wish.standby() {
        Some(format!("{cloud} keeps it by other terms than are wanted now"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(name: &str) -> CloudName {
        CloudName::parse(name).unwrap()
    }
    fn wish(clouds: &[&str], standbys: Option<u32>) -> Continuity {
        Continuity { standbys, clouds: clouds.iter().map(|c| cloud(c)).collect(), ..Continuity::default() }
    }
    fn seat(n: u128, at: &str, complete: bool) -> Seat {
        let agreed = Continuity::default().standby();
        Seat { lease: LeaseId::from_entropy(n), cloud: cloud(at), agreed, complete, recalled: false }
    }
    fn ids(of: &[u128]) -> Vec<LeaseId> {
        of.iter().map(|n| LeaseId::from_entropy(*n)).collect()
    }

    #[test]
    fn what_is_missing_is_counted_and_told() {
        let none = standbys(&wish(&["b", "c"], None), &[seat(1, "b", false)]);
        assert_eq!((none.missing, none.stay, none.reasons.len()), (1, ids(&[1]), 1));
        assert!(standbys(&wish(&["b"], None), &[seat(1, "b", false)]).is_as_wished());
        assert!(standbys(&Continuity::default(), &[]).is_as_wished());
    }

    #[test]
    fn the_best_that_are_complete_stay() {
        let seats = [seat(1, "b", false), seat(2, "c", true), seat(3, "d", true)];
        let three = standbys(&wish(&["b", "c", "d"], Some(1)), &seats);
        assert_eq!((three.stay, three.go), (ids(&[2]), ids(&[3, 1])));
    }

    #[test]
    fn what_is_not_as_wished_goes_only_when_enough_others_are_complete() {
        let recalled = Seat { recalled: true, ..seat(1, "b", true) };
        let odd = standbys(&wish(&["b", "c"], Some(1)), std::slice::from_ref(&recalled));
        assert_eq!((odd.missing, odd.go.len()), (1, 0), "it is the only one");
        let coming = standbys(&wish(&["b", "c"], Some(1)), &[recalled.clone(), seat(2, "c", false)]);
        assert_eq!((coming.missing, coming.go.len()), (0, 0));
        let there = standbys(&wish(&["b", "c"], Some(1)), &[recalled, seat(2, "c", true)]);
        assert_eq!(there.go, ids(&[1]));
        let longer = Continuity { retain_hours: 9, ..wish(&["b"], None) };
        assert_eq!(standbys(&longer, &[seat(1, "b", true)]).missing, 1, "by other terms");
        assert_eq!(standbys(&Continuity::default(), &[seat(1, "b", true)]).go, ids(&[1]), "none is wanted any more");
    }
}
