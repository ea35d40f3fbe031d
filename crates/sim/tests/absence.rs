//! Absence destroys nothing: while a cloud borrows, the stores of home and lender cannot be read in every way there is, a kind at a time.
//! Nothing may be stopped, erased or lose its route for it, and afterwards everything must come back as ever.
#![allow(clippy::unwrap_used)]

use pumasi_node::object::KINDS;
use pumasi_sim::script::{Fault, Script};
use pumasi_sim::{Setup, play};
use std::sync::atomic::{AtomicUsize, Ordering};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// In the middle of a campaign that rents.
const AT_MS: u64 = 7_000;
const FOR_MS: u64 = 1_500;

fn broken(fault: Fault) -> Vec<String> {
    let name = format!("{fault:?}");
    let mut script = Script::steady(250.0, 12_000);
    script.faults.push((AT_MS, fault));
    let outcome = play(&Setup { seed: 7, clouds: 3, script, mutant: None, liar: None, freezes: true }).unwrap();
    let mut wrong: Vec<String> = outcome.broken.iter().map(|b| format!("{name}: {}: {}", b.oracle, b.what)).collect();
    if outcome.rented == 0 {
        wrong.push(format!("{name}: nothing was rented: this proves nothing"));
    }
    if !wrong.is_empty() {
        wrong.push(outcome.story.text());
    }
    wrong
}

fn all(faults: Vec<Fault>) {
    let next = AtomicUsize::new(0);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut wrong = Vec::new();
            while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                wrong.extend(broken(fault.clone()));
            }
            wrong
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_store_that_cannot_be_read_stops_and_erases_nothing() {
    let mut faults = Vec::new();
    for cloud in 0..3 {
        faults.push(Fault::Unread { cloud, kind: None, reads: u32::MAX, for_ms: FOR_MS });
        for kind in KINDS {
            faults.push(Fault::Unread { cloud, kind: Some(kind), reads: u32::MAX, for_ms: FOR_MS });
            faults.push(Fault::Unread { cloud, kind: Some(kind), reads: 1, for_ms: FOR_MS });
        }
    }
    all(faults);
}

#[test]
fn one_record_of_another_version_stops_and_erases_nothing() {
    all((0..3).flat_map(|cloud| KINDS.map(|kind| Fault::Garble { cloud, kind, for_ms: FOR_MS })).collect());
}

/// `SEED=10003 cargo test -p pumasi-sim --test absence -- --ignored` tells one seed as a story.
#[test]
#[ignore = "tells the story of one seed"]
fn story_of_a_seed() {
    let seed = std::env::var("SEED").unwrap().parse().unwrap();
    let outcome = play(&Setup::random(seed)).unwrap();
    println!("{:?}\n{}\n{:?}", Setup::random(seed).script.faults, outcome.story.text(), outcome.broken);
}
