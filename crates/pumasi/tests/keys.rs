//! Keys of a service end to end: real daemons, gateways and HTTPS, there and back, as `pumasi lab play keys` plays it.

mod played;

#[test]
fn users_keep_their_cookies_and_https_when_a_service_moves() {
    let played = played::lab(&["play", "keys"]);
    let (story, report) = (&played.story, &played.report);
    let broken = played.wrong();
    assert!(broken.is_empty(), "{broken:#?}\n{story}\n{report}");
    assert!(played.promises().len() > 15, "the scenario judged nothing:\n{report}");
    assert_eq!(played.code, Some(0), "{story}\n{report}");
}
