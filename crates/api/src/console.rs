//! What a console asks beside the objects: who looks, the last hour of each service, what is wrong with a manifest.

use crate::Role;
use pumasi_terms::service::Service;
use pumasi_terms::{CloudName, CustomerName, PrincipalName, ServiceName, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhoAmI {
    pub name: PrincipalName,
    pub role: Role,
    /// Whom a viewer or customer acts for; an operator has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<CustomerName>,
}

/// `GET /v1/traffic/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrafficHistory {
    pub at: WallMs,
    /// From one point to the next.
    pub every_ms: u64,
    /// The oldest point first. Where nothing was seen there is none.
    pub services: BTreeMap<ServiceName, Vec<TrafficPoint>>,
}

/// A service over one span; rates are the span's mean, the delay is its worst.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrafficPoint {
    /// When the span began.
    pub at: WallMs,
    /// Thousandths a second.
    pub arrivals_mps: u64,
    pub shed_mps: u64,
    pub failed_mps: u64,
    /// None: nobody waited, for nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_delay_p95_us: Option<u64>,
    /// By cloud: where answers came from, thousandths a second.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub served_by: BTreeMap<CloudName, u64>,
}

/// `POST /v1/manifests/read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadManifest {
    /// YAML or JSON, one document or more.
    pub text: String,
}

/// Every service of a manifest, or every fault of it; never both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ManifestRead {
    pub services: Vec<Service>,
    pub faults: Vec<ManifestFault>,
    /// There are more than are told.
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ManifestFault {
    /// From 1; 0: it has no place in the text.
    pub line: u64,
    pub column: u64,
    /// Empty: the text as a whole.
    pub field: String,
    pub problem: String,
}
