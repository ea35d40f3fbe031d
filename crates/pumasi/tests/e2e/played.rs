//! One run of the lab by this program, and its report.

use serde_json::Value;
use std::process::{Command, Output};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static STAGE: RwLock<()> = RwLock::new(());

/// While it is held nothing else is played.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    STAGE.write().unwrap_or_else(PoisonError::into_inner)
}

/// While it is held nothing is played that must be alone.
pub fn beside() -> RwLockReadGuard<'static, ()> {
    STAGE.read().unwrap_or_else(PoisonError::into_inner)
}

pub struct Played {
    pub story: String,
    pub report: String,
    pub parsed: Value,
    pub code: Option<i32>,
}

/// `pumasi lab WORDS --json`.
pub fn lab(words: &[&str]) -> Played {
    let pumasi = Command::new(env!("CARGO_BIN_EXE_pumasi")).arg("lab").args(words).arg("--json").output();
    let Output { status, stdout, stderr } = pumasi.expect("the lab starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (story, report) = (text(&stderr), text(&stdout));
    let parsed = serde_json::from_slice(&stdout).unwrap_or_else(|e| panic!("no report: {e}\n{story}\n{report}"));
    Played { story, report, parsed, code: status.code() }
}

impl Played {
    pub fn promises(&self) -> &[Value] {
        self.parsed["promises"].as_array().expect("a report has promises")
    }

    /// Promises about correctness that were not kept.
    pub fn wrong(&self) -> Vec<&Value> {
        self.promises().iter().filter(|p| p["kept"] == false && p["about"] == "correctness").collect()
    }

    /// Every promise about correctness was kept, and there were as many as that.
    pub fn must_be_correct(&self, promises_min: usize) {
        let (story, report, broken) = (&self.story, &self.report, self.wrong());
        assert!(broken.is_empty(), "{broken:#?}\n{story}\n{report}");
        assert!(self.promises().len() >= promises_min, "the scenario judged nothing:\n{report}");
    }

    /// That, and the machine gave no other reason to end. A promise of time gets no word here.
    pub fn must_be_correct_whenever(&self, promises_min: usize) {
        self.must_be_correct(promises_min);
        assert!(self.code.is_some_and(|c| [0, 1, 3].contains(&c)), "{}\n{}", self.story, self.report);
    }
}

/// Every run must be correct. A promise about time that one run broke, or of which a busy machine let it say nothing, is played for again.
pub fn correct_and_in_time(words: &[&str], promises_min: usize, runs_max: u32) {
    for run in 1..=runs_max {
        let played = lab(words);
        played.must_be_correct(promises_min);
        let (story, report) = (&played.story, &played.report);
        match played.code {
            Some(0) => return,
            Some(3) => eprintln!("run {run}: the machine was the bottleneck; {}", played.parsed["invalid_because"]),
            Some(1) if run < runs_max => eprintln!("run {run}: a time was not kept\n{story}\n{report}"),
            other => panic!("run {run}: exit {other:?}\n{story}\n{report}"),
        }
    }
    eprintln!("correct in every run; the machine was too busy for a word about time");
}
