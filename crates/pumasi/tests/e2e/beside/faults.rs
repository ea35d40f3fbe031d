//! What breaks while one cloud lends to another: real processes killed, links cut, stores put back. Every promise there is about
//! correctness; none is about time.

use crate::played;

#[test]
fn every_fault_ends_as_promised() {
    let _stage = played::beside();
    let played = played::lab(&["play", "faults"]);
    let broken: Vec<_> = played.promises().iter().filter(|p| p["kept"] == false).collect();
    assert!(broken.is_empty(), "{broken:#?}\n{}", played.story);
    played.must_be_correct(26);
    assert_eq!(played.code, Some(0), "{}", played.report);
}
