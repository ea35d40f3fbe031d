//! The Handover document: one cloud gives the tenure of a service to another one. Signed by both over its bytes as stored (RFC 7515).
//!
//! With both signatures it says who owns the service, and at which epoch, until a newer one does. The heir signs last: what it has
//! written down then is what counts, and there is no way back but another handover.

use pumasi_terms::{
    API_VERSION, CloudName, DatasetName, Digest, Epoch, LeaseId, MoveId, Position, ServiceId, ServiceName, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const KIND: &str = "Handover";
/// As documents are signed.
pub const SIGNED_AS: &str = "handover";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    /// The wish that it fulfils: one that was cancelled is fulfilled by none.
    #[serde(rename = "move")]
    pub wish: MoveId,
    pub id: ServiceId,
    pub service: ServiceName,
    /// Who owns it until now, and at which epoch.
    pub from: CloudName,
    pub from_epoch: Epoch,
    /// Who owns it then, at the epoch after that.
    pub to: CloudName,
    pub epoch: Epoch,
    /// The standby under which the heir has everything.
    pub lease: LeaseId,
    /// What the heir goes on with: of the dossier as it was signed.
    pub dossier: Digest,
    /// Every write that was acknowledged is in copies of these positions.
    pub positions: BTreeMap<DatasetName, Position>,
    pub asked_by: String,
    pub created_at: WallMs,
}

impl Handover {
    /// What is wrong with it, whoever signed it.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        if self.api_version != API_VERSION || self.kind != KIND {
            return Err(format!("{} {} is not a {API_VERSION} {KIND}", self.api_version, self.kind));
        }
        if self.from == self.to {
            return Err(format!("{} hands {} to itself", self.from, self.service));
        }
        if self.epoch.0 != self.from_epoch.0.saturating_add(1) {
            return Err(format!("epoch {} does not follow {}", self.epoch, self.from_epoch));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leads_to_another_cloud_and_to_the_next_epoch() {
        let name = |n: &str| CloudName::parse(n).unwrap();
        let good = Handover {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            wish: MoveId::from_entropy(1),
            id: ServiceId::from_entropy(1),
            service: ServiceName::parse("notes").unwrap(),
            from: name("city-a"),
            from_epoch: Epoch(1),
            to: name("city-b"),
            epoch: Epoch(2),
            lease: LeaseId::from_entropy(1),
            dossier: Digest([1; 32]),
            positions: BTreeMap::new(),
            asked_by: "root".into(),
            created_at: WallMs(0),
        };
        assert_eq!(good.check(), Ok(()));
        assert!(Handover { to: name("city-a"), ..good.clone() }.check().is_err());
        assert!(Handover { epoch: Epoch(3), ..good.clone() }.check().is_err());
        assert!(Handover { epoch: Epoch(1), ..good.clone() }.check().is_err());
        assert!(Handover { kind: "Lease".into(), ..good }.check().is_err());
    }
}
