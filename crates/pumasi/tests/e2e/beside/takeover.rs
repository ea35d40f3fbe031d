//! A pact of two, one of which is gone: real daemons, an operator who says so.

use crate::played;

#[test]
fn a_person_takes_over_where_nobody_votes() {
    let _stage = played::beside();
    let played = played::lab(&["play", "takeover"]);
    played.must_be_correct(5);
    assert_eq!(played.code, Some(0), "{}\n{}", played.story, played.report);
}
