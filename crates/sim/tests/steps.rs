//! Fail every step of the journey, on the simulator's drivers in virtual time.
//!
//! One case: `STEP='send chunks' FAULT=Twice cargo test -p pumasi-sim --test steps`.

#![allow(clippy::unwrap_used)]

mod common;

use common::{every_case, fail_each, plainly_wrong, step};
use pumasi_sim::steps::{Bug, Fault, Play, Verdict, cases, play, play_slow, play_with_bug, uncovered};

/// One world for each core.
const AT_ONCE: usize = 2;

#[test]
fn every_message_and_every_act_of_a_journey_stands_in_the_table() {
    assert_eq!(uncovered(), Vec::<String>::new());
}

#[test]
fn every_fault_at_every_step_ends_as_without_it_or_is_refused_with_a_reason() {
    let todo = every_case();
    let verdicts = fail_each(&play, &todo, AT_ONCE);
    if todo.len() == cases().count() {
        // A lender that signs nothing, and another that is asked then.
        assert!(verdicts.contains_key("refused with a reason"), "{verdicts:?}");
    }
}

/// Bugs that no journey without a fault shows: an error that is passed over, a repetition that is not the same, a crash that forgets.
#[test]
fn planted_bugs_are_found_by_the_table_and_by_nothing_less() {
    let canaries = [
        (Bug::HushedWrite, "settlement kept there", Fault::Fails),
        (Bug::SettlesOnce, "settle", Fault::AnswerLost),
        (Bug::Orphans, "start instance", Fault::DiesAfter),
    ];
    for (bug, name, fault) in canaries {
        let plain = play_with_bug(Play::Borrowed, None, Some(bug)).unwrap();
        assert_eq!(plainly_wrong(&plain, Play::Borrowed, &[]), Vec::<String>::new(), "{bug:?} shows without a fault");
        let played = play_with_bug(Play::Borrowed, Some((step(name), fault)), Some(bug)).unwrap();
        let verdict = played.end.beside(&plain.end, fault.kills());
        let found = !played.broken.is_empty() || matches!(verdict, Verdict::Broken(_));
        assert!(found, "{bug:?} is not found by {name:?} {fault:?}: {verdict:?}\n{}", played.story.text());
    }
}

/// The new daemon reads the windows of the time that the lease was made ready in again, and must not take them for use.
#[test]
fn a_borrower_that_dies_at_the_switchover_meters_nothing_from_before_it() {
    let plain = play_slow(None).unwrap();
    assert_eq!(plainly_wrong(&plain, Play::Borrowed, &[]), Vec::<String>::new());
    let played = play_slow(Some((step("switched over"), Fault::DiesAfter))).unwrap();
    assert!(played.fired.is_some() && played.broken.is_empty(), "{:?}\n{}", played.broken, played.story.text());
    let verdict = played.end.beside(&plain.end, true);
    assert!(matches!(verdict, Verdict::Same | Verdict::Reading(_)), "{verdict:?}\n{}", played.story.text());
    let gaps: Vec<u64> = played.end.leases.values().filter(|l| l.served).map(|l| l.gap_ms).collect();
    assert!(gaps.iter().all(|gap_ms| *gap_ms < 1_500), "the readings differ by {gaps:?} ms");
}
