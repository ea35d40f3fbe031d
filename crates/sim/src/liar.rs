//! A member whose heartbeats say of the others' stores what it likes: the greatest numbers, proofs that it made up, proofs that others
//! got, proofs of long ago. Nobody may stop for it.
//!
//! Enters: its answers. Leaves: them with lies in. Always holds: the same messages get the same lies.

use bytes::Bytes;
use http::{Request, Response};
use pumasi_lease::message::Receipt;
use pumasi_terms::CloudName;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub struct Liar {
    pub cloud: CloudName,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    lies: u64,
    /// The first receipts that went over the wire, by who gave them and to whom.
    overheard: BTreeMap<(CloudName, CloudName), Receipt>,
}

impl Liar {
    pub fn new(cloud: CloudName) -> Self {
        Self { cloud, told: Mutex::default() }
    }

    /// It listens to everything: as if it had broken into the other members too.
    pub fn overhear(&self, from: &CloudName, to: &CloudName, request: &Request<Bytes>) {
        let body: Option<Value> = serde_json::from_slice(request.body()).ok();
        let receipt = body.and_then(|b| serde_json::from_value(b.get("receipt")?.clone()).ok());
        if let Some(receipt) = receipt {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.overheard.entry((from.clone(), to.clone())).or_insert(receipt);
        }
    }

    /// The answer to a heartbeat of `asker`.
    pub fn lie(&self, asker: &CloudName, answer: &mut Response<Bytes>) {
        let Ok(mut body) = serde_json::from_slice::<Value>(answer.body()) else { return };
        if body.get("seen_revision").is_none() {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.lies += 1;
        let numbers = [u64::MAX, 1 << 63, (1 << 63) - 1, 9_000_000_000_000, 1 << 53];
        let number = numbers.get((told.lies / 4) as usize % numbers.len()).copied().unwrap_or(u64::MAX);
        (body["seen_incarnation"], body["seen_revision"]) = (json!(number), json!(number));
        let own = told.overheard.get(&(asker.clone(), self.cloud.clone()));
        let others = told.overheard.iter().find(|((from, to), _)| from != asker || *to != self.cloud).map(|(_, r)| r);
        let forged = |mac: &str| json!({ "incarnation": number, "revision": number, "mac": mac });
        body["receipt"] = match told.lies % 5 {
            0 => Value::Null,
            // A true proof under other numbers.
            1 => forged(own.map_or("00", |r| &r.mac)),
            // What somebody else was given, or gave.
            2 => others.map_or(Value::Null, |r| json!(r)),
            // The oldest that it got.
            3 => own.map_or(Value::Null, |r| json!(r)),
            _ => forged(&"f".repeat(64)),
        };
        *answer.body_mut() = serde_json::to_vec(&body).unwrap_or_default().into();
    }
}
