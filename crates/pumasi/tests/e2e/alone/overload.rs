//! The overload case: real daemons, gateways, instances, sockets and load.

use crate::played;

#[test]
fn a_campaign_is_carried_by_a_partner_and_everything_comes_back() {
    let _stage = played::alone();
    played::correct_and_in_time(&["play", "overload"], 11, 3);
}
