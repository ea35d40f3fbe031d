use crate::played;

/// One service alone is given up, by a cloud that lives; without root there is no file system to fill.
#[test]
fn a_service_that_cannot_be_taken_or_written_goes_alone() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let _beside = played::beside();
    let played = played::lab(&["play", "yields"]);
    played.must_be_correct_whenever(5);
}
