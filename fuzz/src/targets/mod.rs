pub mod answer;
pub mod documents;
pub mod exec;
pub mod http_head;
pub mod messages;
pub mod quorum;
pub mod signin;
pub mod socket;
pub mod state;
pub mod transfer;
pub mod trust;
pub mod update;

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input).ok()
}

/// What was read is the same after it was written and read again, and is written in one way only.
fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let written = serde_json::to_vec(value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(&again, value, "it means something else when it was written and read");
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);
}

fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(input).ok()?;
    same_again(&value);
    Some(value)
}
