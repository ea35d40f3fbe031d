//! What breaks while one cloud lends to another: real processes killed, links cut, stores put back, as `pumasi lab play faults` plays
//! it. Every promise there is about correctness; none is about time.

mod played;

#[test]
fn every_fault_ends_as_promised() {
    let played = played::lab(&["play", "faults"]);
    let (story, report, promises) = (&played.story, &played.report, played.promises());
    let broken: Vec<_> = promises.iter().filter(|p| p["kept"] == false).collect();
    assert!(broken.is_empty(), "{broken:#?}\n{story}");
    assert!(promises.len() > 25, "cases are missing:\n{report}");
    assert_eq!(played.code, Some(0), "{report}");
}
