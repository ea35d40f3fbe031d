//! A planned move: real daemons, gateways and load, there and back.

use crate::played;

#[test]
fn services_move_there_and_back_and_nobody_notices() {
    let _stage = played::alone();
    let played = played::lab(&["play", "move"]);
    // Its times are figures of the scenario: a write waits for two processes to start, on whatever machine this is.
    played.must_be_correct_whenever(16);
    if played.code != Some(0) {
        eprintln!("a time was not kept, or the machine was too busy for a word about it\n{}", played.report);
    }
}
