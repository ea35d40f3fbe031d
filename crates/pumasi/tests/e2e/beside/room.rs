use crate::played;

/// The standby of a guaranteed service is full, with a service of its own that stands back for it.
#[test]
fn what_counts_less_makes_room_and_comes_back() {
    let _beside = played::beside();
    let played = played::lab(&["play", "room"]);
    played.must_be_correct_whenever(8);
}
