//! A standby: real daemons, everything of its home killed, its own daemon too, load.

use crate::played;

#[test]
fn a_standby_outlives_its_home_and_helps_under_load() {
    let _stage = played::alone();
    played::correct_and_in_time(&["play", "standby"], 11, 2);
}
