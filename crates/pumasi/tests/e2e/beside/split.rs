//! Links between clouds break: real daemons that vote, behind relays.

use crate::played;

#[test]
fn whatever_links_break_nobody_writes_twice_and_all_heals() {
    let _stage = played::beside();
    played::lab(&["play", "split"]).must_be_correct_whenever(13);
}
