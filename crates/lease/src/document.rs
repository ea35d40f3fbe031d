//! The Lease document: what both sides sign. Its bytes are signed as stored (RFC 7515).

use pumasi_terms::offer::Requirement;
use pumasi_terms::{
    CloudName, DatasetName, Digest, Epoch, LeaseId, Money, PactId, ReservationId, Serial, ServiceName, WallMs,
};
use serde::{Deserialize, Serialize};

pub const KIND: &str = "Lease";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    pub id: LeaseId,
    pub serial: Serial,
    pub pact: PactId,
    pub pact_serial: Serial,
    pub reservation: ReservationId,
    pub borrower: CloudName,
    pub lender: CloudName,
    pub service: ServiceName,
    pub epoch: Epoch,
    pub requirement: Requirement,
    /// Granted.
    pub instances: u32,
    pub price_per_instance_hour: Money,
    /// It ends so long after the last renewal.
    pub ttl_ms: u64,
    pub recall_notice_ms: u64,
    /// Of a standby: what its room costs while it is kept, in percent of the price in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_percent: Option<u32>,
    /// The application and the data that may be sent under it.
    pub application: Digest,
    pub datasets: Vec<DatasetName>,
    /// Host names of the service, under which the lender may be asked to answer. Leases of before have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    pub created_at: WallMs,
}

/// What both sides sign when a lease is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settlement {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    pub lease: LeaseId,
    pub borrower: CloudName,
    pub lender: CloudName,
    /// As the lender metered it.
    pub lender_usage: super::Usage,
    /// As the borrower metered it.
    pub borrower_usage: super::Usage,
    /// Whether the two agree within the tolerance of the protocol.
    pub agreed: bool,
    /// By the lesser of the two usages.
    pub amount: Money,
    pub created_at: WallMs,
}

pub const SETTLEMENT_KIND: &str = "Settlement";
