//! A short soak: load, faults and a rest at which everything must have come back. `pumasi lab soak --minutes 60` is the long one.

use std::process::Command;

#[test]
fn after_faults_under_load_everything_comes_back_and_the_books_agree() {
    let done = Command::new(env!("CARGO_BIN_EXE_pumasi"))
        // By this seed the first phase of load is a campaign with two faults.
        .args(["lab", "soak", "--minutes", "0.2", "--seed", "1", "--json"])
        .output()
        .expect("the lab starts");
    let (story, report) = (String::from_utf8_lossy(&done.stderr), String::from_utf8_lossy(&done.stdout));
    let parsed: serde_json::Value =
        serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("no report: {e}\n{story}\n{report}"));
    let figure = |name: &str| -> u64 {
        let figures = parsed["figures"].as_array().expect("a report has figures");
        let found = figures.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name}:\n{report}"));
        found["value"].as_str().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{found}"))
    };
    assert!(done.status.success(), "exit {:?}\n{story}\n{report}", done.status.code());
    assert!(figure("faults") > 0 && figure("looks at ledgers") > 50, "it judged nothing:\n{report}");
    assert!(figure("leases audited") > 0, "nothing was lent:\n{report}");
}
