//! What clouds say to each other, as version 1 said it: files of then must keep being understood.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pumasi_lease::message::{Heartbeat, HeartbeatAnswer, ReservationGrant, ReservationRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn pinned<T: Serialize + DeserializeOwned>(golden: &str) {
    let read: T = serde_json::from_str(golden).expect("a message of version 1 is understood");
    let (written, before): (serde_json::Value, serde_json::Value) =
        (serde_json::to_value(&read).unwrap(), serde_json::from_str(golden).unwrap());
    assert_eq!(written, before, "and written as it was");
}

#[test]
fn messages_of_version_1() {
    pinned::<Heartbeat>(include_str!("golden/heartbeat-v1.json"));
    pinned::<HeartbeatAnswer>(include_str!("golden/heartbeat-answer-v1.json"));
    pinned::<ReservationRequest>(include_str!("golden/reservation-v1.json"));
    pinned::<ReservationGrant>(include_str!("golden/grant-v1.json"));
}

#[test]
fn a_field_of_a_later_version_is_passed_over() {
    let mut beat: serde_json::Value = serde_json::from_str(include_str!("golden/heartbeat-v1.json")).unwrap();
    beat["weather"] = "fine".into();
    assert!(serde_json::from_value::<Heartbeat>(beat).is_ok());
}
