use crate::played;

/// Two clouds and a witness without a gateway: one is killed, and the other takes over.
#[test]
fn a_witness_makes_two_clouds_enough() {
    let _beside = played::beside();
    let played = played::lab(&["play", "witness"]);
    played.must_be_correct_whenever(8);
}
