//! Fail every step of the journey, on files and processes in real time. Needs root, as lending does.
//!
//! The whole table: `cargo test -p pumasi-sim --test steps_real -- --ignored`; with `STEP=reserve FAULT=ReceiverDies` before it one case.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Case, every_case, fail_each, step};
use pumasi_sim::steps::{Fault, Programs, play_real};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Worlds beside each other on two cores; they mostly wait, but more would wait for each other at the packet filter. `WORLDS` is another number.
const AT_ONCE: usize = 6;

fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not built: cargo build -p pumasi-sim --examples", path.display());
    path
}

/// Memory, where programs can be run from it: the files are real ones there too, and a disk that stands still for seconds, as one of a
/// shared machine does, does not draw out every commit. The whole table plays on the disk.
fn memory() -> Option<PathBuf> {
    let dir = tempfile::tempdir_in("/dev/shm").ok()?;
    let copy = dir.path().join("host");
    std::fs::copy(example("pumasi-sim-host"), &copy).ok()?;
    std::process::Command::new(copy).output().ok()?;
    Some(PathBuf::from("/dev/shm"))
}

/// Says at its end how the machine did meanwhile: what went wrong on one that stood still may be no fault of ours.
struct Machine {
    over: Arc<AtomicBool>,
    watch: Option<std::thread::JoinHandle<(Duration, Duration)>>,
}

impl Machine {
    const EVERY: Duration = Duration::from_millis(250);

    fn watched(at: &Path) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (until, mut file) = (over.clone(), tempfile::tempfile_in(at).unwrap());
        let watch = std::thread::spawn(move || {
            let (mut still, mut sync) = (Duration::ZERO, Duration::ZERO);
            while !until.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(Self::EVERY);
                let woken = Instant::now();
                still = still.max((woken - begun).saturating_sub(Self::EVERY));
                file.write_all(b"well").and_then(|()| file.sync_data()).unwrap();
                sync = sync.max(woken.elapsed());
            }
            (still, sync)
        });
        Self { over, watch: Some(watch) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(Ok((still, sync))) = self.watch.take().map(std::thread::JoinHandle::join) {
            eprintln!(
                "meanwhile a thread woke up late by at most {still:.1?}, and a file was synced within {sync:.1?}"
            );
        }
    }
}

fn fail_each_for_real(at: &Path, todo: &[Case]) {
    // Unlike those of other tests of this process, and of other processes that play at this moment.
    static WORLDS: AtomicU32 = AtomicU32::new(0);
    const WORLDS_MAX: u32 = 320;
    let at_once = std::env::var("WORLDS").map_or(AT_ONCE, |n| n.parse().unwrap());
    let programs = Programs { host: example("pumasi-sim-host"), app: example("pumasi-sim-app") };
    let first = std::process::id() % 256 * WORLDS_MAX;
    let _machine = Machine::watched(at);
    let world = || first + WORLDS.fetch_add(1, Ordering::Relaxed) % WORLDS_MAX;
    fail_each(&|what, fault| play_real(&programs, at, world(), what, fault), todo, at_once);
}

#[test]
fn a_fault_of_each_kind_ends_as_without_it_or_is_refused_with_a_reason() {
    let todo: Vec<Case> = SELECTION.iter().map(|(name, fault)| (step(name), *fault)).collect();
    fail_each_for_real(&memory().unwrap_or_else(std::env::temp_dir), &todo);
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
    ("sign the handover", Fault::AnswerLost),
    ("tenure taken", Fault::DiesAfter),
    ("data made its own", Fault::DiesBefore),
    ("tenure given", Fault::DiesAfter),
];

#[test]
#[ignore = "minutes: the whole table"]
fn every_fault_at_every_step_ends_as_without_it_or_is_refused_with_a_reason() {
    fail_each_for_real(&std::env::temp_dir(), &every_case());
}
