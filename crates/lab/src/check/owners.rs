//! A history over several owners of a service whose copies follow a moment later: what was acknowledged within a bound before an owner was
//! lost may be missing at the next one, as one cut and once; everything else is linearizable.
//!
//! Enters: operations with the number of the ownership that they belong to, and for each change of owner the instant before which everything
//! acknowledged is kept. Leaves: the same judgement as of `linear`. Always holds: nothing is called a violation that such a cut explains.

use super::linear::{Did, Judged, Op, Value, check_register};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub op: Op,
    /// Of an operation without an answer: the ownership in which it was called. It may take effect in any later one.
    pub ownership: usize,
}

/// `kept_before`: one for each change of owner, in their order. A change without loss has the greatest number.
pub fn check(history: &[Owned], kept_before: &[u64]) -> Judged {
    let mut keys: BTreeMap<u32, Vec<&Owned>> = BTreeMap::new();
    for owned in history {
        keys.entry(owned.op.key).or_default().push(owned);
    }
    keys.values().map(|of| check_key(of, kept_before)).find(|judged| !judged.is_fine()).unwrap_or(Judged::Linearizable)
}

fn check_key(history: &[&Owned], kept_before: &[u64]) -> Judged {
    let mut firsts: BTreeSet<Value> = BTreeSet::from([None]);
    for ownership in 0..=kept_before.len() {
        let within = |o: &&&Owned| match o.op.answered {
            Some(_) => o.ownership == ownership,
            None => o.ownership <= ownership,
        };
        let ops: Vec<Op> = history.iter().filter(within).map(|o| o.op.clone()).collect();
        let mut worst = Judged::Linearizable;
        firsts.retain(|first| {
            let judged = check_register(*first, &ops);
            let fine = judged.is_fine();
            if !fine {
                worst = judged;
            }
            fine
        });
        if firsts.is_empty() {
            return worst;
        }
        let Some(kept_before) = kept_before.get(ownership) else { break };
        firsts = begins_with(&ops, &firsts, *kept_before);
    }
    Judged::Linearizable
}

/// What the next owner may begin with: every value that was not certainly overwritten by what is kept.
fn begins_with(ops: &[Op], firsts: &BTreeSet<Value>, kept_before: u64) -> BTreeSet<Value> {
    let writes = || ops.iter().filter(|op| matches!(op.did, Did::Wrote(_)));
    let kept = |op: &&Op| op.answered.is_some_and(|at| at <= kept_before);
    // The latest call of a write that is kept: what was answered before it is overwritten.
    let newest = writes().filter(kept).map(|op| op.called).max();
    let survives = |op: &&Op| match (op.answered, newest) {
        (Some(at), Some(newest)) => at >= newest,
        _ => true,
    };
    let mut values: BTreeSet<Value> = writes()
        .filter(survives)
        .filter_map(|op| match op.did {
            Did::Wrote(n) => Some(Some(n)),
            Did::Read(_) => None,
        })
        .collect();
    if newest.is_none() {
        values.extend(firsts);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(ownership: usize, did: Did, called: u64, answered: u64) -> Owned {
        Owned { op: Op { key: 0, did, called, answered: Some(answered) }, ownership }
    }

    /// One owner until 100, when it is lost; the next one from 200.
    fn history(seen: Value) -> Vec<Owned> {
        vec![
            op(0, Did::Wrote(1), 0, 5),
            op(0, Did::Wrote(2), 40, 45),
            op(0, Did::Wrote(3), 90, 95),
            op(0, Did::Read(Some(3)), 96, 99),
            op(1, Did::Read(seen), 200, 205),
        ]
    }

    #[test]
    fn what_is_lost_is_the_newest_and_within_the_bound() {
        for (seen, kept_before, fine) in [
            (Some(3), 80, true),
            (Some(2), 80, true),
            (Some(1), 80, false),
            (None, 80, false),
            (Some(1), 30, true),
            (Some(2), u64::MAX, false),
            (Some(3), u64::MAX, true),
        ] {
            assert_eq!(check(&history(seen), &[kept_before]).is_fine(), fine, "{seen:?} {kept_before}");
        }
    }

    #[test]
    fn the_cut_is_one_and_once() {
        let mut history = history(Some(2));
        history.push(op(1, Did::Read(Some(3)), 210, 215));
        assert!(!check(&history, &[80]).is_fine(), "what was lost comes back");
        history.pop();
        let late = Op { key: 0, did: Did::Wrote(4), called: 98, answered: None };
        history.push(Owned { op: late, ownership: 0 });
        history.push(op(1, Did::Read(Some(4)), 210, 215));
        assert!(check(&history, &[80]).is_fine(), "nobody knows what became of it");
    }
}
