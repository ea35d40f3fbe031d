//! Seeds: those that once broke an oracle, fresh ones, planted bugs that must be found, and a load that must leave everybody alone.
#![allow(clippy::unwrap_used)]

use pumasi_sim::mutant::Mutant;
use pumasi_sim::script::Script;
use pumasi_sim::{Outcome, Setup, play};
use std::sync::atomic::{AtomicU64, Ordering};

/// As in the binary, which plays them too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Each of these broke an oracle once, on the code of its day.
const KEPT: &[u64] = &[
    10,     // an old boot's times taken for this one's (the oracle's own fault)
    68,     // a restarted borrower knew no capacity and never gave back
    84,     // a lender's power cut and what it had metered
    127,    // the last second at a lender was not metered
    139,    // as 68
    188,    // a heartbeat from before the lease made it longer
    214,    // the lender's signature never came, and nothing could be settled
    294,    // a hold that ran out before it was signed
    371,    // as 127
    520,    // as 294
    536,    // a lease signed at the second asking counted from the second
    742,    // as 188
    10_461, // instances were metered until the answer to the release came, and it was lost
    10_618, // as 10_461
    10_863, // and until the word was heard that they had stopped
    10_934, // as 10_863
    10_081, // a standby given up while it was signed: the signature came late, and it was kept for nobody
];

/// And these, of a service that moves.
const KEPT_MOVING: &[u64] = &[
    3,   // what a former owner had borrowed for the service was never given back
    29,  // a standby was lost while requests waited: the move looked for that one for ever
    84,  // while a heir was away the source looked again and again, and did nothing else
    207, // the service was back before its first owner heard that the first heir had opened: requests waited for ever
];

fn told(outcome: &Outcome) -> String {
    let broken: Vec<String> =
        outcome.broken.iter().map(|b| format!("{} at {} ms: {}", b.oracle, b.at_ms, b.what)).collect();
    format!("seed {}: {}\nthe story: pumasi lab sim --seed {}", outcome.seed, broken.join("\n"), outcome.seed)
}

/// Plays seeds on all processors; the first that breaks is told.
fn all_hold(setup: fn(u64) -> Setup, seeds: impl Fn(u64) -> Option<u64> + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = play(&setup(seed)).unwrap();
                    assert!(outcome.broken.is_empty(), "{}", told(&outcome));
                }
            });
        }
    });
}

#[test]
fn kept_seeds_hold() {
    all_hold(Setup::random, |i| KEPT.get(i as usize).copied());
    all_hold(Setup::moving, |i| KEPT_MOVING.get(i as usize).copied());
}

/// As many as `PUMASI_SIM_SEEDS` says; `pumasi lab sim` plays more.
#[test]
fn fresh_seeds_hold() {
    let count: u64 = std::env::var("PUMASI_SIM_SEEDS").ok().map_or(2_000, |n| n.parse().unwrap());
    all_hold(Setup::random, |i| (i < count).then_some(10_000 + i));
    all_hold(Setup::moving, |i| (i < count / 10).then_some(10_000 + i));
    all_hold(Setup::losing, |i| (i < count / 200).then_some(10_000 + i));
}

/// An oracle that never sees a write or a handover judges nothing.
#[test]
fn moving_seeds_move_and_write() {
    let (mut moved, mut written) = (0, 0);
    for seed in 1..=16 {
        let outcome = play(&Setup::moving(seed)).unwrap();
        assert!(outcome.broken.is_empty(), "{}", told(&outcome));
        (moved, written) = (moved + outcome.moved, written + outcome.written);
    }
    assert!(moved >= 8 && written >= 200, "{moved} handovers, {written} acknowledged writes");
}

/// A pact that votes loses a cloud: one writer at a time, nothing lost but what was not copied, and everything comes back.
#[test]
fn losing_seeds_take_over_and_come_back() {
    let (mut taken_over, mut written) = (0, 0);
    for seed in 1..=8 {
        let outcome = play(&Setup::losing(seed)).unwrap();
        assert!(outcome.broken.is_empty(), "{} --losses", told(&outcome));
        (taken_over, written) = (taken_over + outcome.taken_over, written + outcome.written);
    }
    assert!(taken_over >= 4 && written >= 400, "{taken_over} takeovers, {written} acknowledged writes");
}

#[test]
fn the_same_seed_is_the_same_story() {
    for (setup, seed) in
        [(Setup::random as fn(u64) -> Setup, 3), (Setup::random, 18), (Setup::moving, 2), (Setup::losing, 1)]
    {
        let (one, two) = (play(&setup(seed)).unwrap(), play(&setup(seed)).unwrap());
        assert!(one.story.told() > 20);
        assert_eq!(one.story.fingerprint(), two.story.fingerprint(), "{}\n---\n{}", one.story.text(), two.story.text());
    }
}

/// Numbers up to the greatest, receipts forged, replayed, of others: nobody stops and nobody's store is spoiled.
#[test]
fn a_lying_member_stops_nobody() {
    let (mut leases, mut rented) = (0, 0);
    for seed in 40..80 {
        for liar in [1, 2] {
            let outcome = play(&Setup { liar: Some(liar), ..Setup::random(seed) }).unwrap();
            assert!(outcome.broken.is_empty(), "liar {liar}, {}", told(&outcome));
            leases += outcome.leases;
            rented += outcome.rented;
        }
    }
    assert!(leases > 40 && rented > 0, "they went on lending: {leases} leases, {rented} answered by rented instances");
}

/// The canary: oracles that find nothing prove nothing.
#[test]
fn every_planted_bug_is_found() {
    for mutant in Mutant::ALL {
        // What a freezer hides, or needs a word that is late, shows in fewer seeds.
        let (setup, most): (fn(u64) -> Setup, _) = match (mutant.is_of_moves(), mutant.is_of_losses()) {
            (true, _) => (Setup::moving, 120),
            (_, true) => (Setup::losing, 60),
            _ => (Setup::random, 60),
        };
        let found = (1..=most).find(|seed| {
            let outcome = play(&Setup { mutant: Some(*mutant), ..setup(*seed) }).unwrap();
            !outcome.broken.is_empty()
        });
        assert!(found.is_some(), "{} ({}) was not found in {most} seeds", mutant.name(), mutant.about());
    }
}

/// Four fifths of what the home does, for ten virtual minutes.
#[test]
fn a_steady_load_brings_no_lease() {
    let per_second = 0.8 * pumasi_sim::gateway::PER_SECOND;
    for seed in [1, 2] {
        let script = Script::steady(per_second, 600_000);
        let outcome = play(&Setup { script, ..Setup::random(seed) }).unwrap();
        assert!(outcome.virtual_ms >= 600_000, "{} ms", outcome.virtual_ms);
        assert!(outcome.completed > (per_second * 540.0) as u64, "{} answered", outcome.completed);
        assert_eq!((outcome.journeys, outcome.leases), (0, 0), "{}", outcome.story.text());
    }
}
