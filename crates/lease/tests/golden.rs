//! What clouds say to each other, as version 1 said it: files of then must keep being understood.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pumasi_lease::LentState;
use pumasi_lease::message::{Emptiness, Heartbeat, HeartbeatAnswer, ReservationGrant, ReservationRequest};
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

/// With a field that no version 1 knows in every object, however deep.
fn grown(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(fields) => {
            let mut fields: serde_json::Map<_, _> = fields.iter().map(|(k, v)| (k.clone(), grown(v))).collect();
            fields.insert("of_a_later_version".into(), serde_json::json!({ "wild": [1, "x"] }));
            fields.into()
        }
        serde_json::Value::Array(items) => items.iter().map(grown).collect(),
        other => other.clone(),
    }
}

fn read<T: DeserializeOwned>(golden: &str) -> (T, Result<T, serde_json::Error>) {
    let value: serde_json::Value = serde_json::from_str(golden).unwrap();
    (serde_json::from_value(value.clone()).unwrap(), serde_json::from_value(grown(&value)))
}

#[test]
fn what_is_told_is_read_whatever_a_later_version_adds() {
    let (before, after) = read::<Heartbeat>(include_str!("golden/heartbeat-v1.json"));
    assert_eq!(after.unwrap(), before);
    let (before, after) = read::<ReservationGrant>(include_str!("golden/grant-v1.json"));
    assert_eq!(after.unwrap(), before);
    let (mut before, after) = read::<HeartbeatAnswer>(include_str!("golden/heartbeat-answer-v1.json"));
    // A platform with a demand that is not understood is not offered to us.
    before.offer.as_mut().unwrap().platforms.clear();
    before.place = None;
    assert_eq!(after.unwrap(), before);
}

#[test]
fn what_is_asked_is_understood_whole_or_refused_by_name() {
    let (_, after) = read::<ReservationRequest>(include_str!("golden/reservation-v1.json"));
    let why = after.unwrap_err().to_string();
    assert!(why.contains("of_a_later_version"), "{why}");
}

#[test]
fn a_later_versions_word_ends_no_lease() {
    let mut answer: serde_json::Value = serde_json::from_str(include_str!("golden/heartbeat-answer-v1.json")).unwrap();
    answer["leases"][0]["state"] = serde_json::json!({ "state": "moving", "to": "city-c" });
    answer["offer"] = serde_json::json!("by auction");
    let read: HeartbeatAnswer = serde_json::from_value(answer).unwrap();
    assert_eq!(read.offer, None);
    assert_eq!((&read.leases[0].state, read.leases[0].expires_in_ms), (&Some(LentState::Active), 4_000));
}

#[test]
fn what_a_later_version_counts_is_left_as_well() {
    let empty = |more: serde_json::Value| {
        let mut left = serde_json::to_value(Emptiness::default()).unwrap();
        left.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value::<Emptiness>(left).unwrap().is_empty()
    };
    assert!(empty(serde_json::json!({})) && empty(serde_json::json!({ "realms": 0, "note": "x" })));
    assert!(!empty(serde_json::json!({ "realms": 1 })) && !empty(serde_json::json!({ "files": 1 })));
}
