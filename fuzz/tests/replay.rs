//! Every target over its corpus and over all that was ever found, then over changes of both: the same ones in every run.

#![allow(clippy::unwrap_used)]

use peak_alloc::PeakAlloc;
use pumasi_fuzz::mutate::{Random, mutate};
use pumasi_fuzz::{TARGETS, Target};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn dir(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

/// Inputs by name, in order.
fn inputs(kind: &str, target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(items) = std::fs::read_dir(dir(kind).join(target.name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = items.map(|i| i.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect()
}

/// Writes down which input failed, for `fuzz/regressions`.
struct Failing<'a>(&'a Target, &'a [u8]);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", self.0.name));
            std::fs::write(&path, self.1).unwrap();
            eprintln!("{}: the failing input is {}", self.0.name, path.display());
        }
    }
}

fn run(target: &Target, input: &[u8]) {
    let failing = Failing(target, input);
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    (target.run)(input);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(
        taken <= target.memory_bytes_max + 16 * input.len(),
        "{} took {taken} bytes for an input of {}",
        target.name,
        input.len()
    );
    drop(failing);
}

/// The known inputs of a target, then changes of them.
fn exercise(number: usize, target: &Target) {
    let begun = std::time::Instant::now();
    let known: Vec<_> = ["corpus", "regressions"].iter().flat_map(|kind| inputs(kind, target)).collect();
    assert!(!known.is_empty(), "{} has no corpus", target.name);
    // What is made at the first use and kept is not the input's.
    (target.run)(&known[0].1);
    for (path, input) in &known {
        let failing = Named(path);
        run(target, input);
        drop(failing);
    }
    let seeds: Vec<Vec<u8>> = known.into_iter().map(|(_, input)| input).collect();
    let mut random = Random::new(0x7075_6d61 + number as u64);
    for _ in 0..target.rounds {
        run(target, &mutate(&seeds, target.words, target.input_bytes_max, &mut random));
    }
    println!("{}: {} inputs, {} changes, {:?}", target.name, seeds.len(), target.rounds, begun.elapsed());
}

struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it is {}", self.0.display());
        }
    }
}

// One test for all of them: memory is measured for the whole process.
#[test]
fn every_target_keeps_its_promises() {
    let exercise = |(number, target)| std::panic::catch_unwind(|| exercise(number, target)).err().map(|_| target.name);
    let broken: Vec<&str> = TARGETS.iter().enumerate().filter_map(exercise).collect();
    assert!(broken.is_empty(), "promises were broken by {broken:?}; see above");
}

/// A corpus says something only if it is taken: what should be read is read.
#[test]
fn inputs_belong_to_targets() {
    let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "a name stands twice");
    for kind in ["corpus", "regressions"] {
        for item in std::fs::read_dir(dir(kind)).unwrap() {
            let name = item.unwrap().file_name().into_string().unwrap();
            assert!(names.contains(&name), "{kind}/{name} belongs to no target");
        }
    }
    let thin = std::fs::read_to_string(dir("libfuzzer/Cargo.toml")).unwrap();
    for name in &names {
        assert!(thin.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/libfuzzer");
    }
}
