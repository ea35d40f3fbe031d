//! Users who sign in, over the end of their cloud: real daemons, gateways and sign-in processes.

use crate::played;

#[test]
fn users_are_the_same_wherever_their_service_is_served() {
    let _stage = played::beside();
    let played = played::lab(&["play", "identity"]);
    played.must_be_correct(12);
    assert_eq!(played.code, Some(0), "{}\n{}", played.story, played.report);
}
