//! The set of clouds in step, under every order of looks, delayed commands, tables, copies and new processes: whoever is in the register's
//! set has every write that was acknowledged. Planted faults are found.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

mod kit;

use kit::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use pumasi_ownership::in_sync::{Ask, Copy, Keeper, Waits};
use pumasi_ownership::state::{Class, Mode};
use pumasi_ownership::*;
use pumasi_terms::{BootMs, CloudName, Epoch};
use std::collections::BTreeMap;

/// A copy that moves no more is given up after so long, ms.
const SILENT_MS: u64 = 20;
const KINDS: u8 = 11;

struct World {
    r: Register,
    /// As the owner has applied it.
    local: Owned,
    keeper: Keeper,
    process: u32,
    now: u64,
    as_of: BTreeMap<CloudName, u64>,
    stalled: BTreeMap<CloudName, bool>,
    /// Commands that were sent and did not arrive yet.
    sent: Vec<(Ask, u32)>,
    table: Waits,
    made: Option<Waits>,
    /// Instants of writes whose users wait, and of the last one that has its answer.
    writes: Vec<u64>,
    acknowledged: Option<u64>,
    alone: bool,
    planted: Option<Mutant>,
}

impl World {
    fn new(alone: bool, planted: Option<Mutant>) -> Self {
        let mut r = Register::new(&["a", "b", "c", "d"]);
        let shop = Agreed { mode: Mode::Sync, ..agreed("shop", Class::Guaranteed, 1, (1, 1), &["b", "c"]) };
        r.protects("a", 1, &shop);
        let local = r.state.services[&service(1)].clone();
        let keeper = Keeper::begin(&local).planted(planted);
        let clouds = || ["b", "c"].into_iter().map(cloud);
        Self {
            local,
            keeper,
            r,
            process: 0,
            now: 100,
            as_of: clouds().map(|c| (c, 0)).collect(),
            stalled: clouds().map(|c| (c, false)).collect(),
            sent: Vec::new(),
            table: Waits::default(),
            made: None,
            writes: Vec::new(),
            acknowledged: None,
            alone,
            planted,
        }
    }

    fn owned(&self) -> &Owned {
        &self.r.state.services[&service(1)]
    }

    fn copies(&self) -> BTreeMap<CloudName, Copy> {
        let copy = |(c, at): (&CloudName, &u64)| {
            let silent = self.stalled[c] && self.now - at > SILENT_MS;
            (c.clone(), Copy { as_of: Some(BootMs(*at)), silent })
        };
        self.as_of.iter().map(copy).collect()
    }

    fn look(&mut self) {
        self.keeper.heard(&self.local);
        if let Some(ask) = self.keeper.wish(&self.copies(), self.alone, BootMs(self.now)) {
            self.keeper.asks(&ask);
            if self.sent.len() < 6 {
                self.sent.push((ask, self.process));
            }
        }
    }

    fn deliver(&mut self, at: usize, heard: bool) {
        if self.sent.is_empty() {
            return;
        }
        let (ask, by) = self.sent.remove(at % self.sent.len());
        let command = Command::InSync { service: service(1), epoch: Epoch(1), set: ask.set, after: Some(ask.after) };
        let index = self.r.state.revision + 1;
        let entry = Entry::new(cloud("a"), command);
        (self.r.state, self.r.told) = apply(self.r.state.clone(), index, &entry, rules().planted(self.planted));
        if heard && by == self.process && self.r.refused().is_none() {
            self.keeper.taken();
        }
    }

    fn renew_process(&mut self, table_lands: bool) {
        let made = self.made.take();
        if let Some(made) = made.filter(|_| table_lands) {
            self.table = made;
        }
        self.process += 1;
        self.keeper = Keeper::begin(&self.local).planted(self.planted);
    }

    fn answer(&mut self) {
        let waits = &self.table;
        let released = |at: &u64| match waits.clouds.is_empty() {
            true => waits.alone && self.alone,
            false => waits.clouds.iter().all(|c| self.as_of[c] > *at),
        };
        let (out, rest): (Vec<u64>, _) = std::mem::take(&mut self.writes).into_iter().partition(released);
        self.acknowledged = self.acknowledged.max(out.into_iter().max());
        self.writes = rest;
    }

    fn step(&mut self, (kind, n): (u8, u8)) {
        let one = cloud(if n % 2 == 0 { "b" } else { "c" });
        match kind {
            0 => self.now += u64::from(n % 8) * 4,
            1 if !self.stalled[&one] => _ = self.as_of.insert(one, self.now),
            2 => _ = self.stalled.entry(one).and_modify(|s| *s = n & 2 == 0),
            3 | 4 => self.look(),
            5 => self.deliver(usize::from(n / 2), n % 2 == 0),
            6 => self.local = self.owned().clone(),
            7 => self.made = Some(self.keeper.waits()),
            8 => {
                if let Some(made) = self.made.take() {
                    self.table = made;
                    self.keeper.in_force(&self.table.clouds, BootMs(self.now));
                }
            }
            9 if n % 4 == 0 => self.renew_process(n & 8 == 0),
            10 => {
                self.writes.push(self.now);
                self.answer();
            }
            _ => self.answer(),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let Some(last) = self.acknowledged else { return Ok(()) };
        for c in &self.owned().in_sync {
            prop_assert!(self.as_of[c] > last, "{c} is in the set and lacks the write of {last}");
        }
        Ok(())
    }
}

fn play(alone: bool, planted: Option<Mutant>, cases: u32) -> Result<(), String> {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let steps = prop::collection::vec((0..KINDS, any::<u8>()), 1..160);
    let run = runner.run(&steps, |steps| {
        let mut world = World::new(alone, planted);
        for step in steps {
            world.step(step);
            world.check()?;
        }
        Ok(())
    });
    run.map_err(|e| e.to_string())
}

#[test]
fn whoever_is_in_the_set_has_every_acknowledged_write() {
    for alone in [false, true] {
        play(alone, None, 3_000).unwrap();
    }
}

#[test]
fn planted_faults_of_the_order_are_found() {
    for planted in [Mutant::SetsNotCounted, Mutant::ShrinksBeforeCommitted, Mutant::JoinsUnwaitedFor] {
        assert!(play(true, Some(planted), 20_000).is_err(), "{planted:?} was not found");
    }
}

#[test]
fn a_standby_comes_into_the_set_and_leaves_it_in_order() {
    let mut w = World::new(true, None);
    let clouds = |w: &World| w.keeper.waits().clouds.iter().map(|c| c.to_string()).collect::<Vec<_>>();
    assert_eq!(
        (clouds(&w), w.keeper.waits().alone),
        (vec!["b".to_owned(), "c".to_owned()], false),
        "it knows nothing yet"
    );
    // Its first command is taken: nobody is in the set, both are fresh enough to come in, and are waited for.
    w.as_of.values_mut().for_each(|at| *at = 99);
    w.look();
    w.deliver(0, true);
    w.local = w.owned().clone();
    w.keeper.heard(&w.local);
    assert_eq!(clouds(&w), ["b", "c"]);
    w.keeper.in_force(&w.keeper.waits().clouds, BootMs(100));
    w.look();
    assert!(w.sent.is_empty(), "their copies have not all that was acknowledged without them");
    w.as_of.values_mut().for_each(|at| *at = 101);
    w.look();
    w.deliver(0, true);
    assert_eq!(w.owned().in_sync.len(), 2);
    w.local = w.owned().clone();
    w.look();
    assert!(w.sent.is_empty());
    // One falls silent: it is waited for until the register has it out of the set.
    w.stalled.insert(cloud("c"), true);
    (w.now, w.as_of) = (150, [(cloud("b"), 150), (cloud("c"), 101)].into());
    w.look();
    assert_eq!(clouds(&w), ["b", "c"]);
    w.deliver(0, true);
    w.local = w.owned().clone();
    w.keeper.heard(&w.local);
    assert_eq!(clouds(&w), ["b"]);
    // The last one stays in the set where nobody may write alone.
    w.stalled.insert(cloud("b"), true);
    w.now = 300;
    w.alone = false;
    w.look();
    assert!(w.sent.is_empty() && clouds(&w) == ["b"]);
    w.alone = true;
    w.look();
    w.deliver(0, true);
    w.local = w.owned().clone();
    w.keeper.heard(&w.local);
    assert_eq!(w.keeper.waits(), Waits { clouds: Default::default(), alone: true });
}
