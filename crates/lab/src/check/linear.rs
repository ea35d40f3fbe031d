//! Whether a history of registers is linearizable: whether every operation may have taken effect at one instant between its call and its
//! answer.
//!
//! Enters: operations with the instants at which they were called and answered; an operation without an answer may have taken effect at any
//! later time, or never. Leaves: yes, the place where no order goes on, or that the search was given up.
//! Always holds: registers are judged apart (linearizability is local); the search ends after a bounded number of steps.
//!
//! The search is Wing and Gong's with Lowe's memo: what has taken effect, and the value then, is never looked at twice. Two things keep it
//! short on real histories: a read that fits is taken at once, since it changes nothing for what follows; and a write without an answer
//! whose value nobody read is left out, since it may as well never have happened.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// What a register holds; none: nobody wrote yet. Writers number their values, so that each is written once.
pub type Value = Option<u64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    Wrote(u64),
    /// And saw this. Without an answer nothing was seen.
    Read(Value),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub key: u32,
    pub did: Did,
    /// Any unit, of one clock.
    pub called: u64,
    /// None: whether it took effect is not known.
    pub answered: Option<u64>,
}

/// From this state no operation can be the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    pub key: u32,
    /// The value in the farthest state that was reached.
    pub value: Value,
    /// So many of the answered operations had taken effect.
    pub done: usize,
    /// Those that would have had to be next.
    pub pending: Vec<Op>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    Linearizable,
    Violated(Stuck),
    /// More states than `STATES_MAX`: no word.
    GaveUp {
        key: u32,
    },
}

impl Judged {
    pub fn is_fine(&self) -> bool {
        *self == Judged::Linearizable
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |v: &Value| v.map_or("nothing".to_owned(), |n| n.to_string());
        match self {
            Judged::Linearizable => write!(f, "linearizable"),
            Judged::GaveUp { key } => write!(f, "register {key}: given up after {STATES_MAX} states"),
            Judged::Violated(stuck) => {
                write!(
                    f,
                    "register {}: with {} after {} operations none of these can be next: ",
                    stuck.key,
                    told(&stuck.value),
                    stuck.done
                )?;
                let each = stuck.pending.iter().map(|op| {
                    let did = match op.did {
                        Did::Wrote(n) => format!("write {n}"),
                        Did::Read(seen) => format!("read of {}", told(&seen)),
                    };
                    format!("{did} [{}, {}]", op.called, op.answered.map_or("?".to_owned(), |at| at.to_string()))
                });
                f.write_str(&each.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// States of one register.
pub const STATES_MAX: usize = 2_000_000;
/// Told of a state where nothing goes on.
const PENDING_MAX: usize = 8;

/// Every register begins empty.
pub fn check(history: &[Op]) -> Judged {
    let mut keys: BTreeMap<u32, Vec<Op>> = BTreeMap::new();
    for op in history {
        keys.entry(op.key).or_default().push(op.clone());
    }
    keys.values().map(|ops| check_register(None, ops)).find(|judged| !judged.is_fine()).unwrap_or(Judged::Linearizable)
}

/// One register that held `first` before anything of this was called.
pub fn check_register(first: Value, ops: &[Op]) -> Judged {
    Search::new(ops).run(first)
}

/// What has taken effect: of the answered ones all before `base` and those in `beyond`, and which of the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Done {
    base: u32,
    beyond: Vec<u32>,
    open: Vec<u32>,
    value: Value,
}

impl Done {
    fn has(&self, at: u32) -> bool {
        at < self.base || self.beyond.binary_search(&at).is_ok()
    }

    fn take(&mut self, at: u32) {
        if let Err(place) = self.beyond.binary_search(&at) {
            self.beyond.insert(place, at);
        }
        let steps = self.beyond.iter().zip(self.base..).take_while(|(have, next)| *have == next).count();
        self.beyond.drain(..steps);
        self.base += steps as u32;
    }

    fn count(&self) -> usize {
        self.base as usize + self.beyond.len()
    }
}

struct Search<'a> {
    /// Answered, in the order of their calls.
    ops: Vec<&'a Op>,
    /// Writes without an answer whose value was read.
    open: Vec<(u64, u64)>,
    key: u32,
}

impl<'a> Search<'a> {
    fn new(all: &'a [Op]) -> Self {
        let mut ops: Vec<&Op> = all.iter().filter(|op| op.answered.is_some()).collect();
        ops.sort_by_key(|op| (op.called, op.answered));
        let read: HashSet<u64> = ops
            .iter()
            .filter_map(|op| match op.did {
                Did::Read(seen) => seen,
                Did::Wrote(_) => None,
            })
            .collect();
        let open = all.iter().filter(|op| op.answered.is_none()).filter_map(|op| match op.did {
            Did::Wrote(n) if read.contains(&n) => Some((op.called, n)),
            _ => None,
        });
        let open = open.collect();
        let key = all.first().map_or(0, |op| op.key);
        Self { ops, open, key }
    }

    fn op(&self, at: u32) -> Option<&'a Op> {
        self.ops.get(at as usize).copied()
    }

    /// The answered ones that may be next, and the instant before which a call has to lie for that.
    fn next(&self, done: &Done) -> (Vec<u32>, u64) {
        let (mut least, mut next, mut at) = (u64::MAX, Vec::new(), done.base);
        while let Some(op) = self.op(at) {
            if op.called > least {
                break;
            }
            if !done.has(at) {
                least = least.min(op.answered.unwrap_or(u64::MAX));
                next.push(at);
            }
            at += 1;
        }
        (next, least)
    }

    /// Takes every read that fits; they change nothing, so no order is lost by it.
    fn settle(&self, done: &mut Done) -> (Vec<u32>, u64) {
        loop {
            let (next, least) = self.next(done);
            let value = done.value;
            let fits: Vec<u32> =
                next.iter().copied().filter(|at| self.op(*at).is_some_and(|op| op.did == Did::Read(value))).collect();
            if fits.is_empty() {
                return (next, least);
            }
            fits.into_iter().for_each(|at| done.take(at));
        }
    }

    fn run(&self, first: Value) -> Judged {
        let mut seen: HashSet<Done> = HashSet::new();
        let start = Done { base: 0, beyond: Vec::new(), open: Vec::new(), value: first };
        let (mut stack, mut farthest) = (vec![start], None::<(usize, Value, Vec<u32>)>);
        while let Some(mut done) = stack.pop() {
            let (next, least) = self.settle(&mut done);
            if done.count() == self.ops.len() {
                return Judged::Linearizable;
            }
            if !seen.insert(done.clone()) {
                continue;
            }
            if seen.len() > STATES_MAX {
                return Judged::GaveUp { key: self.key };
            }
            if farthest.as_ref().is_none_or(|(count, ..)| done.count() > *count) {
                farthest = Some((done.count(), done.value, next.clone()));
            }
            self.branch(&done, &next, least, &mut stack);
        }
        let (done, value, next) = farthest.unwrap_or_default();
        let pending = next.into_iter().filter_map(|at| self.op(at).cloned()).take(PENDING_MAX).collect();
        Judged::Violated(Stuck { key: self.key, value, done, pending })
    }

    /// Each write that may be the next one. Those that were called first are looked at first: most real orders are that of the calls.
    fn branch(&self, done: &Done, next: &[u32], least: u64, stack: &mut Vec<Done>) {
        for (number, (called, written)) in (0u32..).zip(&self.open) {
            let taken = done.open.binary_search(&number);
            if let (true, Err(place)) = (*called <= least, taken) {
                let mut after = Done { value: Some(*written), ..done.clone() };
                after.open.insert(place, number);
                stack.push(after);
            }
        }
        for at in next.iter().rev() {
            if let Some(Did::Wrote(written)) = self.op(*at).map(|op| op.did) {
                let mut after = Done { value: Some(written), ..done.clone() };
                after.take(*at);
                stack.push(after);
            }
        }
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
