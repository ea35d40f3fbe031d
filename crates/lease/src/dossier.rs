//! The dossier: what a cloud that keeps a service ready must know to go on without the service's own cloud.
//!
//! Signed by the owner, sent to each standby whenever it changes. Its bytes are signed as stored (RFC 7515).
//! Always holds: it names who owned the service and at which epoch; a newer one replaces it, an older one is refused; no secret is in it: keys of the service come sealed beside it, and it says which.

use pumasi_terms::service::Service;
use pumasi_terms::{CloudName, CustomerName, Digest, Epoch, FieldError, LeaseId, ServiceId, Validate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub const KIND: &str = "Dossier";
/// As documents are signed.
pub const SIGNED_AS: &str = "dossier";
/// Seats that it names.
const SEATS_MAX: usize = 64;

/// It is told: what a later version adds is passed over. Only the service in it is read whole, since somebody is to act on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Dossier {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    pub owner: CloudName,
    pub epoch: Epoch,
    pub id: ServiceId,
    pub customer: CustomerName,
    pub service: Service,
    /// Generation of the application.
    pub generation: u64,
    /// All clouds that keep it ready.
    pub seats: Vec<Seat>,
    /// Those that owned it before, and forward whoever still comes to them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub entrances: BTreeSet<CloudName>,
    /// Digest of the keys that come sealed beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Seat {
    pub cloud: CloudName,
    pub lease: LeaseId,
}

impl Validate for Dossier {
    fn validate(&self, at: &str, e: &mut Vec<FieldError>) {
        let mut fault = |field: &str, problem: String| e.push(FieldError { field: format!("{at}.{field}"), problem });
        if self.kind != KIND || self.api_version != pumasi_terms::API_VERSION {
            fault("kind", format!("{} {} is not a {} {KIND}", self.api_version, self.kind, pumasi_terms::API_VERSION));
        }
        if self.seats.len() > SEATS_MAX {
            fault("seats", format!("are {}, at most {SEATS_MAX}", self.seats.len()));
        }
        if self.entrances.len() > SEATS_MAX {
            fault("entrances", format!("are {}, at most {SEATS_MAX}", self.entrances.len()));
        }
        self.service.spec.validate(&format!("{at}.service.spec"), e);
    }
}
