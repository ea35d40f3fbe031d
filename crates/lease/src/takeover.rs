//! The Takeover document: a cloud that keeps a service ready owns it from now on, since the service's own cloud is gone and nobody votes
//! on it. Signed by the new owner alone over its bytes as stored (RFC 7515); a person answers for it.
//!
//! It counts at the former owner because that one agreed to the standby beforehand: the lease that is named is signed by both.

use crate::reclaim::EPOCHS;
use pumasi_terms::{API_VERSION, CloudName, Epoch, LeaseId, ServiceId, ServiceName, WallMs};
use serde::{Deserialize, Serialize};

pub const KIND: &str = "Takeover";
/// As documents are signed.
pub const SIGNED_AS: &str = "takeover";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Takeover {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    pub id: ServiceId,
    pub service: ServiceName,
    /// Who is gone.
    pub from: CloudName,
    pub from_epoch: Epoch,
    /// Who owns it now.
    pub to: CloudName,
    pub epoch: Epoch,
    /// The standby that it lives in.
    pub lease: LeaseId,
    pub asked_by: String,
    pub why: String,
    pub created_at: WallMs,
}

impl Takeover {
    /// So far above the former owner's that whatever that one signed meanwhile is older.
    pub fn epoch_after(from: Epoch) -> Epoch {
        Epoch(from.0.saturating_add(EPOCHS))
    }

    /// What is wrong with it, whoever signed it.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        if self.api_version != API_VERSION || self.kind != KIND {
            return Err(format!("{} {} is not a {API_VERSION} {KIND}", self.api_version, self.kind));
        }
        if self.from == self.to {
            return Err(format!("{} takes {} over from itself", self.to, self.service));
        }
        if self.epoch != Self::epoch_after(self.from_epoch) {
            return Err(format!("epoch {} is not {EPOCHS} above {}", self.epoch, self.from_epoch));
        }
        Ok(())
    }

    /// Whether it ends that by which `owner` owns the service at `epoch`.
    pub fn follows(&self, owner: &CloudName, epoch: Epoch) -> bool {
        owner == &self.from && epoch >= self.from_epoch && epoch < self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: &str) -> CloudName {
        CloudName::parse(n).unwrap()
    }

    fn good() -> Takeover {
        Takeover {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            id: ServiceId::from_entropy(1),
            service: ServiceName::parse("notes").unwrap(),
            from: name("city-a"),
            from_epoch: Epoch(3),
            to: name("city-b"),
            epoch: Epoch(1_003),
            lease: LeaseId::from_entropy(1),
            asked_by: "root".into(),
            why: "its site burnt".into(),
            created_at: WallMs(0),
        }
    }

    #[test]
    fn it_is_far_above_what_it_ends() {
        assert_eq!(good().check(), Ok(()));
        assert!(Takeover { to: name("city-a"), ..good() }.check().is_err());
        assert!(Takeover { epoch: Epoch(4), ..good() }.check().is_err());
        assert!(Takeover { kind: "Reclaim".into(), ..good() }.check().is_err());
    }

    #[test]
    fn it_ends_the_ownership_of_the_lost_cloud_and_no_later_one() {
        let (a, b) = (name("city-a"), name("city-b"));
        // Its owner may have had an epoch that the standby did not hear of.
        assert_eq!([2, 3, 4, 1_002, 1_003].map(|e| good().follows(&a, Epoch(e))), [false, true, true, true, false]);
        assert!(!good().follows(&b, Epoch(3)));
    }

    #[test]
    fn its_form_stays() {
        let text = serde_json::to_string_pretty(&good()).unwrap();
        let golden = include_str!("../tests/golden/takeover-v1.json");
        assert_eq!(text, golden.trim_end());
        assert_eq!(serde_json::from_str::<Takeover>(golden).unwrap(), good());
    }
}
