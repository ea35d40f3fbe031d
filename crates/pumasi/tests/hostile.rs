//! Everything foreign attacks: an application at home and rented, its files, what it uses up, a member that lies, strangers; as
//! `pumasi lab play hostile` plays it. Without root there is no isolation to attack: such a host lends nothing unless its operator signs.

mod played;

/// Every promise kept; one of time was not; the machine was too busy for a word about time.
const CORRECT: [i32; 3] = [0, 1, 3];

#[test]
fn nothing_foreign_gets_what_is_not_its_own() {
    if !is_root() {
        eprintln!("not root: the isolation of instances cannot be attacked here");
        return;
    }
    let played = played::lab(&["play", "hostile"]);
    let (story, report, promises) = (&played.story, &played.report, played.promises());
    let broken = played.wrong();
    assert!(broken.is_empty(), "{broken:#?}\n{story}\n{report}");
    for part in ["at home: ", "rented: ", "files: ", "processes: ", "partner: ", "stranger: "] {
        let judged = promises.iter().any(|p| p["name"].as_str().is_some_and(|n| n.starts_with(part)));
        assert!(judged, "{part} was not judged:\n{report}");
    }
    let code = played.code;
    assert!(code.is_some_and(|c| CORRECT.contains(&c)), "exit {code:?}\n{story}\n{report}");
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0")))
}
