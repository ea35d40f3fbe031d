//! Keys of a service: real daemons, gateways and HTTPS, there and back.

use crate::played;

#[test]
fn users_keep_their_cookies_and_https_when_a_service_moves() {
    let _stage = played::beside();
    let played = played::lab(&["play", "keys"]);
    played.must_be_correct(16);
    assert_eq!(played.code, Some(0), "{}\n{}", played.story, played.report);
}
