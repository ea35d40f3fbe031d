//! What clouds say to each other about holds and leases. Protocol version 1, JSON over mutual TLS. A neighbouring version may
//! add to it: what is told is taken as far as it is understood ([`pumasi_terms::told`]), what is asked is understood whole or refused.

use crate::record::{LentState, Usage};
use pumasi_terms::offer::{Offer, Requirement};
use pumasi_terms::told;
use pumasi_terms::{Digest, Epoch, LeaseId, Money, ReservationId, Serial, ServiceId};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// `POST /v1/reservations`. The id is the borrower's, so that a repeated request is the same request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReservationRequest {
    pub id: ReservationId,
    pub requirement: Requirement,
    pub ttl_ms: u64,
}

/// The hold as granted. Times are relative: two clouds share no clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReservationGrant {
    pub id: ReservationId,
    pub instances: u32,
    pub price_per_instance_hour: Money,
    pub expires_in_ms: u64,
    pub lease_ttl_ms_max: u64,
    pub recall_notice_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_percent: Option<u32>,
    /// What the lender estimates until the first instance is ready, ms.
    pub estimated_start_ms: u64,
}

/// `POST /v1/heartbeat`: one a second to each member: offers, renewals and news in one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Heartbeat {
    pub protocol: u32,
    pub pact_serial: Serial,
    /// The sender's store: lets the other side tell a restored one that it is old.
    pub incarnation: u64,
    pub revision: u64,
    /// The sender's own proof of these two, to be kept and brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Of the pact as it is in force at the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pact_digest: Option<Digest>,
    /// Leases the sender rents from the receiver and wants renewed.
    pub renew: Vec<Renewal>,
    /// Services that the sender owned once, and the epoch at which it knows their owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fronts: BTreeMap<ServiceId, Epoch>,
    /// Those of them that the sender gave up on purpose and wants back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub wants_back: BTreeSet<ServiceId>,
}

/// How far the store of the cloud that made it was once. Only that cloud can make or verify it: whoever brings it back proves
/// something, whoever only names numbers does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Receipt {
    pub incarnation: u64,
    pub revision: u64,
    /// Over both numbers and the names of both clouds, hex.
    pub mac: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Renewal {
    pub lease: LeaseId,
    /// An older one is refused.
    pub epoch: Epoch,
    /// Instances wanted now.
    pub instances: u32,
    /// How far its copies there are behind, at most: what a standby can say of itself once its borrower is silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HeartbeatAnswer {
    pub protocol: u32,
    pub pact_serial: Serial,
    pub incarnation: u64,
    pub revision: u64,
    /// What the receiver has seen of the sender's store at most: its word, which `receipt` proves.
    pub seen_incarnation: u64,
    pub seen_revision: u64,
    /// The newest receipt that the sender ever gave to the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Of the pact as it is in force at the receiver: another one than the sender's tells it to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pact_digest: Option<Digest>,
    /// Where the receiver is, for people's maps.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "told::readable")]
    pub place: Option<pumasi_terms::Place>,
    /// What the receiver offers to the sender now; none where it cannot be read.
    #[serde(default, deserialize_with = "told::readable")]
    pub offer: Option<Offer>,
    /// Newer handovers of services that the asker owned once, as both sides signed them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handovers: Vec<serde_json::Value>,
    /// One for each renewal asked, and for each lease of the sender that still binds.
    pub leases: Vec<LeaseStatus>,
}

/// A lease as its lender sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeaseStatus {
    pub lease: LeaseId,
    /// None: the lender knows no such lease.
    #[serde(default, deserialize_with = "state_told")]
    pub state: Option<LentState>,
    pub expires_in_ms: u64,
    /// Time left of a recall's notice.
    pub recall_in_ms: Option<u64>,
    pub instances_ready: u32,
    pub instances_starting: u32,
    /// Why instances do not get ready.
    pub trouble: Option<String>,
    /// The end of what the application said, where there is trouble: for whoever may read its log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_line: String,
    /// Application generation that runs there.
    pub generation: u64,
    pub usage: Usage,
    /// It is kept ready for the borrower: the last copy may be in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
}

/// A state of a later version: the lender knows the lease, and says by its time how long it still binds.
fn state_told<'de, D: Deserializer<'de>>(from: D) -> Result<Option<LentState>, D::Error> {
    let told = Option::<serde_json::Value>::deserialize(from)?;
    Ok(told.map(|value| serde_json::from_value(value).unwrap_or(LentState::Active)))
}

/// Proof that nothing is left of a lease at its lender: every count is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Emptiness {
    pub processes: u64,
    pub routes: u64,
    pub files: u64,
    pub bytes: u64,
    pub keys: u64,
    pub holds: u64,
    /// What a later version counts too: a proof is one of these as well.
    #[serde(flatten, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, serde_json::Value>,
}

impl Emptiness {
    pub fn is_empty(&self) -> bool {
        let others = self.others.values().all(|count| count.as_f64().is_none_or(|count| count == 0.0));
        others && Self { others: BTreeMap::new(), ..self.clone() } == Self::default()
    }
}
