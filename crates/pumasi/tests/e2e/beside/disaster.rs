//! A cloud is lost: real daemons that vote, killed with everything on them.

use crate::played;

#[test]
fn services_of_a_lost_cloud_go_on_at_others_and_go_back() {
    let _stage = played::beside();
    played::lab(&["play", "disaster"]).must_be_correct_whenever(13);
}
