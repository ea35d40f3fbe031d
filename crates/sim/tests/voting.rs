//! A pact that votes, in virtual time: leaders, rights and registers under kills, cuts, power cuts and bad networks.
#![allow(clippy::unwrap_used)]

use pumasi_sim::net::Weather;
use pumasi_sim::voting::{Fault, Outcome, Setup, Who, play};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn played(setup: &Setup) -> Outcome {
    let outcome = play(setup).unwrap();
    assert!(outcome.wrong.is_empty(), "{:?}: {:?}\n{}", setup, outcome.wrong, outcome.story.text());
    outcome
}

/// Nobody who is well is ever without a right, and in the end everybody has one.
fn well(setup: &Setup) -> Outcome {
    let outcome = played(setup);
    assert!(outcome.fenced.is_empty(), "{setup:?}: {:?}\n{}", outcome.fenced, outcome.story.text());
    assert_eq!(outcome.with_right.len(), setup.clouds, "{setup:?}\n{}", outcome.story.text());
    outcome
}

const PROFILES: [(&str, u64); 3] = [("default", 1), ("default", 15), ("lan", 1)];

fn kills(times: u64) -> Vec<(u64, Fault)> {
    (0..times).map(|n| (5_000 + n * 15_000, Fault::Kill { who: Who::Leader, down_ms: 700 })).collect()
}

#[test]
fn a_leader_is_found_and_everybody_has_a_right_soon() {
    for (profile, delay_ms) in PROFILES {
        for seed in 0..2 {
            let outcome = well(&Setup { profile, delay_ms, ..Setup::quiet(seed) });
            let bound_ms = if profile == "lan" { 1_000 } else { 3_500 };
            assert!(outcome.first_right_ms.unwrap() < bound_ms, "{profile}: {:?}", outcome.first_right_ms);
        }
    }
}

#[test]
fn the_death_of_a_leader_fences_nobody() {
    for (profile, delay_ms) in PROFILES {
        for seed in 0..2 {
            let setup = Setup { profile, delay_ms, faults: kills(3), end_ms: 50_000, ..Setup::quiet(seed) };
            let outcome = well(&setup);
            assert_eq!(outcome.renewed_after_ms.len(), 3, "{setup:?}\n{}", outcome.story.text());
            eprintln!(
                "{profile}, {delay_ms} ms one way, seed {seed}: first right {:?} ms, renewed after a kill of the leader in {:?} ms, term {}",
                outcome.first_right_ms.unwrap(),
                outcome.renewed_after_ms,
                outcome.terms
            );
        }
    }
}

#[test]
fn cuts_and_power_cuts_take_the_right_of_nobody_else() {
    for seed in 0..3 {
        let faults = vec![
            (2_000, Fault::Cut { who: Who::Leader, for_ms: 4_000 }),
            (20_000, Fault::Mute { who: Who::Leader, for_ms: 4_000 }),
            (40_000, Fault::PowerCut { who: Who::Leader, down_ms: 3_000 }),
            (60_000, Fault::Cut { who: Who::Follower, for_ms: 4_000 }),
            (80_000, Fault::PowerCut { who: Who::Follower, down_ms: 3_000 }),
        ];
        let setup = Setup { faults, end_ms: 100_000, drifts_ppm: vec![400, -400, 0], ..Setup::quiet(seed) };
        well(&setup);
    }
}

/// As `bridge` of `pumasi lab play split`: its renewals are in the log, and it does not see the log.
#[test]
fn who_does_not_see_the_leader_keeps_its_right_as_long_as_a_third_sees_both() {
    for (profile, delay_ms) in PROFILES {
        for seed in 0..3 {
            let faults = vec![(2_000, Fault::Bridge { for_ms: 20_000 }), (30_000, Fault::Bridge { for_ms: 2_000 })];
            well(&Setup { profile, delay_ms, faults, end_ms: 40_000, ..Setup::quiet(seed) });
        }
    }
}

/// As `gateway` of `pumasi lab play split`: nobody but itself would propose the loss.
#[test]
fn whose_gateway_is_dead_is_lost_once_even_if_it_leads_and_returns_with_it() {
    for who in [Who::Leader, Who::Follower] {
        let faults = vec![(2_000, Fault::Wedge { who, for_ms: 20_000 })];
        let outcome = well(&Setup { faults, end_ms: 40_000, ..Setup::quiet(4) });
        let times: Vec<usize> = outcome.lost.values().map(|revs| revs.len()).collect();
        assert_eq!(times, [1], "{who:?}: {:?}\n{}", outcome.lost, outcome.story.text());
    }
}

#[test]
fn a_bad_network_keeps_one_register() {
    for seed in 0..3 {
        let weather = Weather { lost: 1_000, doubled: 500, late: 1_500, late_ms_max: 300 };
        let faults = vec![
            (1_000, Fault::Weather { weather, for_ms: 30_000 }),
            (10_000, Fault::Kill { who: Who::Leader, down_ms: 1_000 }),
            (20_000, Fault::Kill { who: Who::Follower, down_ms: 1_000 }),
        ];
        let setup = Setup { delay_ms: 10, faults, end_ms: 60_000, ..Setup::quiet(seed) };
        well(&setup);
    }
}

#[test]
fn who_has_no_vote_reads_along_and_renews_all_the_same() {
    for seed in 0..2 {
        let setup = Setup { clouds: 4, faults: kills(2), end_ms: 40_000, ..Setup::quiet(seed) };
        well(&setup);
    }
}

#[test]
fn a_store_that_was_put_back_votes_again_only_when_accepted_and_as_another() {
    for seed in 0..2 {
        let faults = vec![
            (1_000, Fault::Keep { at: 2 }),
            (6_000, Fault::PutBack { at: 2, machine: seed % 2 == 1, accept_after_ms: 8_000 }),
            // Now it is needed: a majority is it and one more.
            (30_000, Fault::Kill { who: Who::Cloud(0), down_ms: 20_000 }),
        ];
        let outcome = well(&Setup { faults, end_ms: 70_000, ..Setup::quiet(seed) });
        let text = outcome.story.text();
        assert!(text.contains("its store is accepted"), "{text}");
    }
}

#[test]
fn voters_change_and_the_vote_ends() {
    let change = vec![
        (3_000, Fault::Vote { voters: vec![0, 1, 3] }),
        (15_000, Fault::Kill { who: Who::Leader, down_ms: 1_000 }),
    ];
    let setup = Setup { clouds: 4, faults: change, end_ms: 40_000, ..Setup::quiet(1) };
    well(&setup);
    let stop = vec![(3_000, Fault::Vote { voters: Vec::new() })];
    let outcome = played(&Setup { faults: stop.clone(), end_ms: 10_000, ..Setup::quiet(2) });
    assert_eq!((outcome.on, outcome.with_right.len()), (0, 0));
    let mut again = stop;
    again.push((8_000, Fault::Vote { voters: vec![0, 1, 2] }));
    let outcome = played(&Setup { faults: again, end_ms: 30_000, ..Setup::quiet(3) });
    assert_eq!((outcome.on, outcome.with_right.len()), (3, 3), "{}", outcome.story.text());
}

#[test]
fn one_seed_tells_one_story() {
    let setup = Setup { faults: kills(1), end_ms: 20_000, ..Setup::quiet(9) };
    let (one, two) = (played(&setup), played(&setup));
    assert_eq!(one.story.text(), two.story.text());
    assert_eq!((one.revision, one.messages), (two.revision, two.messages));
}
