use crate::played;

/// A canary is given up on purpose and comes back; where nobody may take it, that is told.
#[test]
fn a_canary_is_given_up_on_purpose_and_comes_back() {
    let _beside = played::beside();
    let played = played::lab(&["play", "game-day"]);
    played.must_be_correct_whenever(7);
}
