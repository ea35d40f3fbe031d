//! The Reclaim document: who handed a service over takes it back, because the heir that signed does not serve and cannot say so. Signed
//! by the former owner alone over its bytes as stored (RFC 7515).
//!
//! It names the one handover that it undoes, and an epoch so far above it that whatever was built on that handover is older. A person
//! answers for it: nothing but the greater epoch, once it is heard, stops a heir that served all the same.

use pumasi_terms::{API_VERSION, CloudName, Epoch, MoveId, ServiceId, ServiceName, WallMs};
use serde::{Deserialize, Serialize};

pub const KIND: &str = "Reclaim";
/// As documents are signed.
pub const SIGNED_AS: &str = "reclaim";
/// Above the owner's epoch: no heir of the heir has come so far.
pub const EPOCHS: u64 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reclaim {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    /// The wish whose handover it undoes.
    #[serde(rename = "move")]
    pub wish: MoveId,
    pub id: ServiceId,
    pub service: ServiceName,
    /// Who owned it before that handover, and does again.
    pub owner: CloudName,
    pub from_epoch: Epoch,
    /// To whom it was to go.
    pub heir: CloudName,
    pub epoch: Epoch,
    pub asked_by: String,
    pub why: String,
    pub created_at: WallMs,
}

impl Reclaim {
    /// The epoch of an owner that takes back what it had at this one.
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
        if self.owner == self.heir {
            return Err(format!("{} takes {} back from itself", self.owner, self.service));
        }
        if self.epoch != Self::epoch_after(self.from_epoch) {
            return Err(format!("epoch {} is not {EPOCHS} above {}", self.epoch, self.from_epoch));
        }
        Ok(())
    }

    /// Whether it undoes that by which `owner` owns it at `epoch`, having it from `before`; or is news to whoever never heard of the
    /// handover. Nobody takes back what was not his: whoever owns it from somebody else, or from the beginning, keeps it.
    pub fn undoes(&self, owner: &CloudName, epoch: Epoch, before: Option<&CloudName>) -> bool {
        let given = owner == &self.heir && epoch == self.from_epoch.next() && before == Some(&self.owner);
        given || (owner == &self.owner && epoch == self.from_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: &str) -> CloudName {
        CloudName::parse(n).unwrap()
    }

    fn good() -> Reclaim {
        Reclaim {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            wish: MoveId::from_entropy(1),
            id: ServiceId::from_entropy(1),
            service: ServiceName::parse("notes").unwrap(),
            owner: name("city-a"),
            from_epoch: Epoch(3),
            heir: name("city-b"),
            epoch: Epoch(1_003),
            asked_by: "root".into(),
            why: "its disk is gone".into(),
            created_at: WallMs(0),
        }
    }

    #[test]
    fn it_is_far_above_the_handover_that_it_undoes() {
        assert_eq!(good().check(), Ok(()));
        assert!(Reclaim { heir: name("city-a"), ..good() }.check().is_err());
        assert!(Reclaim { epoch: Epoch(4), ..good() }.check().is_err());
        assert!(Reclaim { kind: "Handover".into(), ..good() }.check().is_err());
    }

    #[test]
    fn it_undoes_one_handover_and_no_other() {
        let (a, b, c) = (name("city-a"), name("city-b"), name("city-c"));
        assert!(good().undoes(&b, Epoch(4), Some(&a)), "the heir's");
        assert!(good().undoes(&a, Epoch(3), None), "who never heard of it");
        for (owner, epoch) in [(&b, 3), (&b, 5), (&b, 1_003), (&a, 4), (&a, 1_003), (&c, 4), (&c, 5)] {
            assert!(!good().undoes(owner, Epoch(epoch), Some(&a)), "{owner} {epoch}");
        }
        assert!(!good().undoes(&b, Epoch(4), None), "what somebody had from the beginning");
        assert!(!good().undoes(&b, Epoch(4), Some(&c)), "what somebody has from another one");
    }

    #[test]
    fn its_form_stays() {
        let text = serde_json::to_string_pretty(&good()).unwrap();
        let golden = include_str!("../tests/golden/reclaim-v1.json");
        assert_eq!(text, golden.trim_end());
        assert_eq!(serde_json::from_str::<Reclaim>(golden).unwrap(), good());
    }
}
