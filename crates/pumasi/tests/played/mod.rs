//! One run of the lab by this program, and its report.

#![allow(clippy::expect_used, clippy::panic, dead_code, reason = "each test uses a part of it")]

use serde_json::Value;
use std::process::Command;

pub struct Played {
    pub story: String,
    pub report: String,
    pub parsed: Value,
    pub code: Option<i32>,
}

/// `pumasi lab WORDS --json`.
pub fn lab(words: &[&str]) -> Played {
    let done = Command::new(env!("CARGO_BIN_EXE_pumasi"))
        .arg("lab")
        .args(words)
        .arg("--json")
        .output()
        .expect("the lab starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (story, report) = (text(&done.stderr), text(&done.stdout));
    let parsed = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("no report: {e}\n{story}\n{report}"));
    Played { story, report, parsed, code: done.status.code() }
}

impl Played {
    pub fn promises(&self) -> &[Value] {
        self.parsed["promises"].as_array().expect("a report has promises")
    }
    /// Promises about correctness that were not kept.
    pub fn wrong(&self) -> Vec<&Value> {
        self.promises().iter().filter(|p| p["kept"] == false && p["about"] == "correctness").collect()
    }
}
