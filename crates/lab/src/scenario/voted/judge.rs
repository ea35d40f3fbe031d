//! What a service's users saw, held against what its pact promises.
//!
//! Enters: all their requests, who owned the service at which epoch, what the surviving copy has, which cloud was struck when. Leaves:
//! counts, times, and every contradiction in words. Always holds: pure; a write is called lost only if it was acknowledged.
//!
//! What may be demanded. Users read registers under `routing.home_only`: such a read is answered by the owner alone, within its right to
//! write, and checked again before its answer leaves. (A plain read may come from a copy; there the service promises each user its own
//! writes, by a cookie, and nothing about others'.) So every register is linearizable as long as no owner is lost. When one is, the copies of
//! an `async` service are a moment behind: one cut, once, at the newest end, not older than `FOLLOWED` before the loss, and everything after
//! it is linearizable from there. A `sync` service has no such cut.

use super::users::{Asked, Became};
use crate::check::linear::{self, Op};
use crate::check::owners::{self, Owned};
use crate::check::tenures::{Acknowledged, attribute};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What was acknowledged so long before a loss is at the heir: copies follow within a fraction of it.
pub const FOLLOWED: Duration = Duration::from_secs(1);
/// A cloud that was struck may be replaced until so long after the fault's end: what was decided meanwhile is carried out.
const CARRIED_OUT: Duration = Duration::from_secs(10);
const TOLD_MAX: usize = 3;

/// Microseconds of the users' clock.
#[derive(Debug, Clone)]
pub struct Struck {
    pub cloud: String,
    pub at: u64,
    pub until: u64,
}

/// What there is to judge by.
#[derive(Debug)]
pub struct Evidence<'a> {
    pub asked: &'a [Asked],
    pub owners: &'a BTreeMap<u64, String>,
    pub surviving: &'a BTreeSet<u64>,
    pub struck: &'a [Struck],
    /// Whether a takeover may lose what is newest.
    pub may_lose: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Acknowledged by a cloud that cannot have owned the service then.
    pub overlaps: Vec<String>,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Acknowledged and not in the surviving copy.
    pub lost: u64,
    /// The oldest of them was answered so long before the loss that explains it (negative: after it), ms.
    pub oldest_lost_ms: i64,
    /// Those that no takeover explains.
    pub lost_beyond: Vec<String>,
    /// None: linearizable, as far as may be demanded.
    pub not_linear: Option<String>,
    pub reads: u64,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn by(asked: &Asked) -> Option<&str> {
    match &asked.became {
        Became::Done { by } => Some(by),
        Became::Refused { .. } | Became::NoEntrance | Became::Unknown { .. } => None,
    }
}

impl Evidence<'_> {
    pub fn findings(&self) -> Findings {
        let done: Vec<&Asked> = self.asked.iter().filter(|a| a.is_done()).collect();
        let acknowledged: Vec<Acknowledged> = done
            .iter()
            .filter_map(|a| by(a).map(|by| Acknowledged { called: a.called, answered: a.answered, by: by.to_owned() }))
            .collect();
        let epochs = attribute(&acknowledged, self.owners).epochs;
        let overlap = |a: &&Asked| format!("{:?} at {} ms by {}", a.did, a.answered / 1000, by(a).unwrap_or_default());
        let strange = done.iter().zip(&epochs).filter(|(_, epoch)| epoch.is_none());
        let overlaps = strange.map(|(a, _)| overlap(a)).take(TOLD_MAX).collect();
        let count = |fits: fn(&Asked) -> bool| self.asked.iter().filter(|a| fits(a)).count() as u64;
        let mut found = Findings {
            overlaps,
            acknowledged: count(|a| a.acknowledged().is_some()),
            refused: count(|a| matches!(a.became, Became::Refused { .. })),
            unknown: count(|a| matches!(a.became, Became::Unknown { .. })),
            reads: count(|a| a.is_done() && !a.is_write()),
            oldest_lost_ms: i64::MIN,
            ..Findings::default()
        };
        self.losses(&done, &mut found);
        found.not_linear = self.not_linear(&done, &epochs);
        found
    }

    /// The loss that explains why a later owner does not have what `owner` acknowledged at that time.
    fn loss_of(&self, owner: &str, answered: u64) -> Option<&Struck> {
        let explains = |s: &&Struck| {
            s.cloud == owner
                && answered.saturating_add(micros(FOLLOWED)) >= s.at
                && answered <= s.until.saturating_add(micros(CARRIED_OUT))
        };
        self.struck.iter().find(explains)
    }

    fn losses(&self, done: &[&Asked], found: &mut Findings) {
        for asked in done {
            let Some(value) = asked.acknowledged().filter(|n| !self.surviving.contains(n)) else { continue };
            found.lost += 1;
            let owner = by(asked).unwrap_or_default();
            match self.loss_of(owner, asked.answered).filter(|_| self.may_lose) {
                Some(struck) => {
                    let before =
                        i64::try_from(struck.at).unwrap_or(i64::MAX) - i64::try_from(asked.answered).unwrap_or(0);
                    found.oldest_lost_ms = found.oldest_lost_ms.max(before / 1000);
                }
                None if found.lost_beyond.len() < TOLD_MAX => {
                    found.lost_beyond.push(format!("{value} by {owner} at {} ms", asked.answered / 1000));
                }
                None => {}
            }
        }
    }

    fn not_linear(&self, done: &[&Asked], epochs: &[Option<u64>]) -> Option<String> {
        let op =
            |a: &Asked| Op { key: a.key, did: a.did, called: a.called, answered: a.is_done().then_some(a.answered) };
        let open = self.asked.iter().filter(|a| matches!(a.became, Became::Unknown { .. }) && a.is_write());
        let judged = if self.may_lose {
            let number: BTreeMap<u64, usize> = self.owners.keys().copied().zip(0..).collect();
            // What nobody could have acknowledged is told as such, once.
            let known = done.iter().zip(epochs).filter_map(|(a, epoch)| Some((a, *number.get(&(*epoch)?)?)));
            let mut history: Vec<Owned> = known.map(|(a, ownership)| Owned { op: op(a), ownership }).collect();
            history.extend(open.map(|a| Owned { op: op(a), ownership: 0 }));
            owners::check(&history, &self.kept_before(done, epochs))
        } else {
            let history: Vec<Op> = done.iter().copied().chain(open).map(op).collect();
            linear::check(&history)
        };
        (!judged.is_fine()).then(|| judged.to_string())
    }

    /// For each change of owner the instant before which everything acknowledged is kept.
    fn kept_before(&self, done: &[&Asked], epochs: &[Option<u64>]) -> Vec<u64> {
        let all: Vec<(&u64, &String)> = self.owners.iter().collect();
        let change = |pair: &[(&u64, &String)]| {
            let [(_, from), (to, _)] = pair else { return u64::MAX };
            let first = done.iter().zip(epochs).filter(|(_, e)| **e == Some(**to)).map(|(a, _)| a.answered).min();
            let loss = self.struck.iter().rev().find(|s| {
                let carried_out = s.until.saturating_add(micros(CARRIED_OUT));
                s.cloud == **from && first.is_none_or(|first| s.at <= first && first <= carried_out)
            });
            loss.map_or(u64::MAX, |s| s.at.saturating_sub(micros(FOLLOWED)))
        };
        all.windows(2).map(change).collect()
    }
}

/// Shorter times without a good answer are no interruption.
const INTERRUPTED_US: u64 = 1_000_000;

/// Of the acknowledged writes that the surviving copy has, whoever asked where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goods {
    /// The longest time without one, ms.
    pub gap_ms: f64,
    /// From the fault to the first one after the interruption, or to the first one where there was none; none: it never came.
    pub again_ms: Option<f64>,
}

/// Between the instant of a fault and a later one.
pub fn goods(asked: &[Asked], from: u64, until: u64, surviving: &BTreeSet<u64>) -> Goods {
    let good = asked.iter().filter(|a| a.acknowledged().is_some_and(|n| surviving.contains(&n)));
    let mut at: Vec<u64> = good.map(|a| a.answered).filter(|at| (from..until).contains(at)).collect();
    at.sort_unstable();
    let first = at.first().copied();
    let ends = at.iter().copied().chain([until]);
    let begins = [from].into_iter().chain(at.iter().copied());
    let longest = begins.zip(ends).max_by_key(|(begin, end)| end - begin);
    let gap = longest.map_or(0, |(begin, end)| end - begin);
    let again = match longest {
        Some((_, end)) if gap >= INTERRUPTED_US => Some(end).filter(|end| *end < until),
        _ => first,
    };
    Goods { gap_ms: gap as f64 / 1e3, again_ms: again.map(|at| (at - from) as f64 / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::linear::Did;

    fn wrote(value: u64, ms: u64, by: &str) -> Asked {
        let became = Became::Done { by: by.into() };
        let (called, answered) = (ms * 1000, ms * 1000 + 900);
        Asked { entrance: "city-a", key: 0, did: Did::Wrote(value), called, answered, became }
    }

    /// City A owns it until it is struck at 10 s, city B from 13 s on.
    fn judged(asked: &[Asked], surviving: &[u64], may_lose: bool) -> Findings {
        let owners = [(1, "city-a".to_owned()), (2, "city-b".to_owned())].into();
        let struck = [Struck { cloud: "city-a".into(), at: 10_000_000, until: 20_000_000 }];
        let surviving = surviving.iter().copied().collect();
        Evidence { asked, owners: &owners, surviving: &surviving, struck: &struck, may_lose }.findings()
    }

    #[test]
    fn the_newest_may_be_lost_once_where_copies_follow_later_and_nothing_else() {
        let asked = [
            wrote(1, 5_000, "city-a"),
            wrote(2, 9_990, "city-a"),
            wrote(3, 11_000, "city-a"),
            wrote(4, 13_000, "city-b"),
        ];
        let found = judged(&asked, &[1, 4], true);
        assert!(found.overlaps.is_empty() && found.lost_beyond.is_empty() && found.not_linear.is_none(), "{found:?}");
        assert_eq!((found.lost, found.oldest_lost_ms), (2, 9));
        assert_eq!(judged(&asked, &[1, 4], false).lost_beyond.len(), 2, "a sync service");
        assert_eq!(judged(&asked, &[2, 3, 4], true).lost_beyond.len(), 1, "too old");
        assert_eq!(judged(&asked, &[1, 2, 3], true).lost_beyond.len(), 1, "of the new owner");
        let late = [asked[3].clone(), wrote(5, 14_000, "city-a")];
        assert_eq!(judged(&late, &[4, 5], true).overlaps.len(), 1, "the old owner goes on");
    }

    #[test]
    fn what_the_new_owner_shows_must_be_one_cut() {
        let read = |seen, ms| Asked { did: Did::Read(Some(seen)), ..wrote(0, ms, "city-b") };
        let before = [wrote(1, 5_000, "city-a"), wrote(2, 9_990, "city-a")];
        let with = |reads: &[Asked], may_lose| {
            let asked = [&before[..], reads].concat();
            judged(&asked, &[1, 2], may_lose).not_linear
        };
        assert_eq!(with(&[read(1, 13_000)], true), None);
        assert!(with(&[read(1, 13_000)], false).is_some());
        assert!(with(&[read(1, 13_000), read(2, 14_000)], true).is_some());
    }

    #[test]
    fn gaps_are_between_writes_that_last() {
        let asked = [wrote(1, 5_000, "a"), wrote(2, 6_000, "a"), wrote(3, 9_000, "b")];
        let surviving = [1, 3].into();
        assert_eq!(
            goods(&asked, 5_500_000, 10_000_000, &surviving),
            Goods { gap_ms: 3_500.9, again_ms: Some(3_500.9) }
        );
        assert_eq!(
            goods(&asked, 5_000_000, 10_000_000, &surviving),
            Goods { gap_ms: 4_000.0, again_ms: Some(4_000.9) }
        );
        assert_eq!(goods(&asked, 5_000_000, 8_000_000, &surviving).again_ms, None);
        assert_eq!(goods(&asked, 5_000_000, 5_950_000, &surviving).again_ms, Some(0.9), "no interruption");
    }
}
