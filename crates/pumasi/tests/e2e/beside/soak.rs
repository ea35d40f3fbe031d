//! A short soak: load, faults and a rest at which everything must have come back. `pumasi lab soak --minutes 60` is the long one.

use crate::played::{self, Played};

#[test]
fn after_faults_under_load_everything_comes_back_and_the_books_agree() {
    let _stage = played::beside();
    // By this seed the first phase of load is a campaign with two faults.
    let Played { story, report, parsed, code } = played::lab(&["soak", "--minutes", "0.2", "--seed", "1"]);
    let figure = |name: &str| -> u64 {
        let figures = parsed["figures"].as_array().expect("a report has figures");
        let found = figures.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name}:\n{report}"));
        found["value"].as_str().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{found}"))
    };
    assert_eq!(code, Some(0), "{story}\n{report}");
    assert!(figure("faults") > 0 && figure("looks at ledgers") > 50, "it judged nothing:\n{report}");
    assert!(figure("leases audited") > 0, "nothing was lent:\n{report}");
}
