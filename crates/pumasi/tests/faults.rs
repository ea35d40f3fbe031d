//! What breaks while one cloud lends to another: real processes killed, links cut, stores put back, as `pumasi lab play faults` plays
//! it. Every promise there is about correctness; none is about time.

use std::process::Command;

#[test]
fn every_fault_ends_as_promised() {
    let done = Command::new(env!("CARGO_BIN_EXE_pumasi"))
        .args(["lab", "play", "faults", "--json"])
        .output()
        .expect("the lab starts");
    let (story, report) = (String::from_utf8_lossy(&done.stderr), String::from_utf8_lossy(&done.stdout));
    let parsed: serde_json::Value =
        serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("no report: {e}\n{story}\n{report}"));
    let promises = parsed["promises"].as_array().expect("a report has promises");
    let broken: Vec<_> = promises.iter().filter(|p| p["kept"] == false).collect();
    assert!(broken.is_empty(), "{broken:#?}\n{story}");
    assert!(promises.len() > 25, "cases are missing:\n{report}");
    assert!(done.status.success(), "exit {:?}\n{report}", done.status.code());
}
