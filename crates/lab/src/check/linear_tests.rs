//! The checker against histories that are wrong, histories that a register made, and another checker.

use super::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

fn wrote(n: u64, called: u64, answered: u64) -> Op {
    Op { key: 0, did: Did::Wrote(n), called, answered: Some(answered) }
}
fn read(seen: Value, called: u64, answered: u64) -> Op {
    Op { key: 0, did: Did::Read(seen), called, answered: Some(answered) }
}
fn lost(n: u64, called: u64) -> Op {
    Op { key: 0, did: Did::Wrote(n), called, answered: None }
}

#[test]
fn twelve_wrong_histories_are_found() {
    let wrong: [(&str, Vec<Op>); 12] = [
        ("a read of what nobody wrote", vec![read(Some(7), 0, 1)]),
        ("a read that misses a write that was acknowledged", vec![wrote(1, 0, 1), read(None, 2, 3)]),
        ("a stale read", vec![wrote(1, 0, 1), wrote(2, 2, 3), read(Some(1), 4, 5)]),
        ("a read of a write that comes later", vec![read(Some(1), 0, 1), wrote(1, 2, 3)]),
        ("a value that comes back", vec![wrote(1, 0, 9), read(Some(1), 2, 3), wrote(2, 4, 5), read(Some(1), 10, 11)]),
        (
            "two readers one after the other who see two writes in the other order",
            vec![wrote(1, 0, 1), wrote(2, 2, 10), read(Some(2), 3, 4), read(Some(1), 5, 6)],
        ),
        (
            "two pairs of readers who disagree about the order of two writes",
            vec![
                wrote(1, 0, 20),
                wrote(2, 0, 20),
                read(Some(1), 1, 2),
                read(Some(2), 3, 4),
                read(Some(1), 5, 6),
                read(Some(2), 21, 22),
            ],
        ),
        (
            "an acknowledged write that is lost",
            vec![wrote(1, 0, 1), wrote(2, 2, 3), read(Some(1), 4, 5), read(Some(1), 6, 7)],
        ),
        ("a write without an answer seen before it was asked for", vec![read(Some(1), 0, 1), lost(1, 2)]),
        (
            "a write without an answer that is seen, and then not any more",
            vec![wrote(1, 0, 1), lost(2, 2), read(Some(2), 3, 4), read(Some(1), 5, 6)],
        ),
        (
            "a write without an answer that takes effect twice",
            vec![lost(1, 0), read(Some(1), 1, 2), wrote(2, 3, 4), read(Some(2), 5, 6), read(Some(1), 7, 8)],
        ),
        ("emptiness that comes back", vec![lost(1, 0), read(Some(1), 1, 2), read(None, 3, 4)]),
    ];
    for (what, history) in wrong {
        let judged = check(&history);
        assert!(matches!(judged, Judged::Violated(_)), "{what}: {judged}");
    }
}

#[test]
fn what_may_have_been_is_no_violation() {
    let right: [(&str, Vec<Op>); 6] = [
        ("nothing at all", vec![]),
        ("a read beside a write sees either", vec![wrote(1, 0, 10), read(None, 1, 2), read(Some(1), 3, 4)]),
        (
            "a write without an answer takes effect late",
            vec![lost(1, 0), wrote(2, 1, 2), read(Some(2), 3, 4), read(Some(1), 5, 6)],
        ),
        ("or never", vec![lost(1, 0), wrote(2, 1, 2), read(Some(2), 3, 4)]),
        (
            "two that overlap, in the order in which they were seen",
            vec![wrote(1, 0, 10), wrote(2, 0, 10), read(Some(2), 1, 2), read(Some(1), 3, 4), read(Some(1), 11, 12)],
        ),
        ("another register's value is its own affair", vec![wrote(1, 0, 1), Op { key: 9, ..read(None, 2, 3) }]),
    ];
    for (what, history) in right {
        assert_eq!(check(&history), Judged::Linearizable, "{what}");
    }
}

#[test]
fn the_place_is_told() {
    let judged = check(&[wrote(1, 0, 1), wrote(2, 2, 3), read(Some(1), 4, 5)]);
    let Judged::Violated(stuck) = &judged else { panic!("{judged}") };
    assert_eq!((stuck.value, stuck.done, stuck.pending.len()), (Some(2), 2, 1));
    assert_eq!(judged.to_string(), "register 0: with 2 after 2 operations none of these can be next: read of 1 [4, 5]");
}

/// One step of a client of a simulated register, at an instant of its own within its call.
fn made(rng: &mut SmallRng, clients: u64, registers: u32, until: u64, unknown: f64) -> Vec<Op> {
    let mut events: Vec<(u64, usize)> = Vec::new();
    let mut ops: Vec<Op> = Vec::new();
    let mut number = 0;
    for _ in 0..clients {
        let mut at = rng.random_range(0..50);
        while at < until {
            let (called, takes) = (at, rng.random_range(1..40));
            number += 1;
            let did = if rng.random_bool(0.5) { Did::Wrote(number) } else { Did::Read(None) };
            let answered = (!rng.random_bool(unknown)).then_some(called + takes);
            let late = if answered.is_none() { rng.random_range(0..2_000) } else { 0 };
            events.push((called + rng.random_range(0..=takes) + late, ops.len()));
            ops.push(Op { key: rng.random_range(0..registers), did, called, answered });
            at += takes + rng.random_range(1..60);
        }
    }
    events.sort_unstable();
    let mut values: BTreeMap<u32, Value> = BTreeMap::new();
    for (_, which) in events {
        let op = &mut ops[which];
        let value = values.entry(op.key).or_default();
        match &mut op.did {
            // Half of those without an answer never arrive.
            Did::Wrote(_) if op.answered.is_none() && rng.random_bool(0.5) => {}
            Did::Wrote(n) => *value = Some(*n),
            Did::Read(seen) => *seen = *value,
        }
    }
    ops
}

#[test]
fn what_a_register_made_is_linearizable_and_one_false_read_is_found() {
    let mut rng = SmallRng::seed_from_u64(7);
    for round in 0..200 {
        let mut ops = made(&mut rng, 5, 2, 2_000, 0.05);
        assert_eq!(check(&ops), Judged::Linearizable, "round {round}");
        // The newest answered read of each history sees the future.
        let read = |op: &&mut Op| op.answered.is_some() && matches!(op.did, Did::Read(_));
        if let Some(op) = ops.iter_mut().filter(read).max_by_key(|op| op.called) {
            op.did = Did::Read(Some(u64::MAX));
            assert!(matches!(check(&ops), Judged::Violated(_)), "round {round}");
        }
    }
}

#[test]
fn a_minute_of_twenty_clients_is_judged_quickly() {
    let mut rng = SmallRng::seed_from_u64(11);
    let ops = made(&mut rng, 20, 5, 60_000, 0.02);
    assert!(ops.len() > 15_000, "{}", ops.len());
    let began = std::time::Instant::now();
    assert_eq!(check(&ops), Judged::Linearizable);
    // A bound against growth by the square, not a figure.
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

/// The same history, as stateright's tester is told it: events one after the other, each operation without an answer by a thread of its own.
fn by_stateright(ops: &[Op]) -> bool {
    let mut events: Vec<(u64, usize, bool)> = Vec::new();
    for (which, op) in ops.iter().enumerate() {
        events.push((op.called, which, true));
        events.extend(op.answered.map(|at| (at, which, false)));
    }
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Register(None::<u64>));
    for (_, which, calls) in events {
        let told = match (ops[which].did, calls) {
            (Did::Wrote(n), true) => tester.on_invoke(which, RegisterOp::Write(Some(n))).map(drop),
            (Did::Read(_), true) => tester.on_invoke(which, RegisterOp::Read).map(drop),
            (Did::Wrote(_), false) => tester.on_return(which, RegisterRet::WriteOk).map(drop),
            (Did::Read(seen), false) => tester.on_return(which, RegisterRet::ReadOk(seen)).map(drop),
        };
        told.unwrap();
    }
    tester.is_consistent()
}

#[test]
fn ten_thousand_small_histories_are_judged_as_stateright_judges_them() {
    let mut rng = SmallRng::seed_from_u64(23);
    let (mut fine, mut wrong) = (0, 0);
    for round in 0..10_000 {
        let count = rng.random_range(1..=8usize);
        // Instants that all differ, so that both see the same order of events.
        let mut instants: Vec<u64> = (0..2 * count as u64).collect();
        for at in (1..instants.len()).rev() {
            instants.swap(at, rng.random_range(0..=at));
        }
        let ops: Vec<Op> = instants
            .chunks(2)
            .map(|pair| {
                let (called, answered) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
                // Few values, so that reads often fit and often nearly fit; some are written twice.
                let value = rng.random_range(1..=3u64);
                let did = match rng.random_range(0..10) {
                    0..5 => Did::Wrote(value),
                    5 => Did::Read(None),
                    _ => Did::Read(Some(value)),
                };
                Op { key: 0, did, called, answered: rng.random_bool(0.8).then_some(answered) }
            })
            .collect();
        let (ours, theirs) = (check(&ops), by_stateright(&ops));
        assert_eq!(ours.is_fine(), theirs, "round {round}: {ours}\n{ops:#?}");
        if theirs { fine += 1 } else { wrong += 1 }
    }
    assert!(fine > 1_000 && wrong > 1_000, "{fine} fine, {wrong} wrong: one kind is hardly there");
}
