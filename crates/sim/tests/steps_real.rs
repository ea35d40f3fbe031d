//! Fail every step of the journey, on files and processes in real time. Needs root, as lending does.
//!
//! The whole table: `cargo test -p pumasi-sim --test steps_real -- --ignored`; with `STEP=reserve FAULT=ReceiverDies` before it one case.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Case, every_case, fail_each, step};
use pumasi_sim::steps::{Fault, Programs, play_real};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Worlds beside each other on two cores; they mostly wait. `WORLDS` is another number.
const AT_ONCE: usize = 8;

fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not built: cargo build -p pumasi-sim --examples", path.display());
    path
}

fn fail_each_for_real(todo: &[Case]) {
    // Unlike those of other tests of this process, and of other processes that play at this moment.
    static WORLDS: AtomicU32 = AtomicU32::new(0);
    const WORLDS_MAX: u32 = 320;
    let at_once = std::env::var("WORLDS").map_or(AT_ONCE, |n| n.parse().unwrap());
    let programs = Programs { host: example("pumasi-sim-host"), app: example("pumasi-sim-app") };
    let first = std::process::id() % 256 * WORLDS_MAX;
    let world = || first + WORLDS.fetch_add(1, Ordering::Relaxed) % WORLDS_MAX;
    fail_each(&|recall, fault| play_real(&programs, world(), recall, fault), todo, at_once);
}

#[test]
fn a_fault_of_each_kind_ends_as_without_it_or_is_refused_with_a_reason() {
    let todo: Vec<Case> = SELECTION.iter().map(|(name, fault)| (step(name), *fault)).collect();
    fail_each_for_real(&todo);
}

/// Of each kind of step and of each fault, those that a real store and real instances make different.
const SELECTION: &[(&str, Fault)] = &[
    ("reserve", Fault::ReceiverDies),
    ("sign", Fault::Refused),
    ("sign", Fault::AnswerLost),
    ("send application", Fault::ReceiverDies),
    ("renew", Fault::ReceiverDies),
    ("settle", Fault::ReceiverDies),
    ("switched over", Fault::DiesAfter),
    ("lease lent", Fault::DiesBefore),
    ("lease emptied", Fault::DiesAfter),
    ("recalled", Fault::DiesAfter),
    ("start instance", Fault::DiesAfter),
    ("start instance", Fault::Twice),
    ("stop instance", Fault::AnswerLost),
    ("erase files", Fault::DiesAfter),
];

#[test]
#[ignore = "minutes: the whole table"]
fn every_fault_at_every_step_ends_as_without_it_or_is_refused_with_a_reason() {
    fail_each_for_real(&every_case());
}
