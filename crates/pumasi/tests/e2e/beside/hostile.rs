//! Everything foreign attacks: an application at home and rented, its files, what it uses up, a member that lies, strangers. Without
//! root there is no isolation to attack: such a host lends nothing unless its operator signs.

use crate::played;

#[test]
fn nothing_foreign_gets_what_is_not_its_own() {
    if !is_root() {
        eprintln!("not root: the isolation of instances cannot be attacked here");
        return;
    }
    let _stage = played::beside();
    let played = played::lab(&["play", "hostile"]);
    played.must_be_correct_whenever(1);
    for part in ["at home: ", "rented: ", "files: ", "processes: ", "partner: ", "stranger: "] {
        let judged = played.promises().iter().any(|p| p["name"].as_str().is_some_and(|n| n.starts_with(part)));
        assert!(judged, "{part} was not judged:\n{}", played.report);
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0")))
}
