//! What a member keeps about its pact: the adopted document, and the serial that it has promised.
//!
//! The promise must be on disk before the signature leaves: whoever forgets it may sign two pacts of one serial.

use crate::adopt::{Adopted, adopt};
use crate::change::{Change, Policy, check_successor, serial_is_free};
use crate::entry::PactError;
use pumasi_terms::{CloudName, Digest, Serial};
use pumasi_trust::{PublicKey, SignedDocument};
use serde::{Deserialize, Serialize};

/// This cloud signed, or is about to sign, this and no other document of this serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    pub serial: Serial,
    pub digest: Digest,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PactState {
    current: Option<Adopted>,
    promise: Option<Promise>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<SignedDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promise: Option<Promise>,
}

const VERSION: u32 = 1;

impl Serialize for PactState {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let current = self.current.as_ref().map(|a| a.document.clone());
        Stored { version: VERSION, current, promise: self.promise }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for PactState {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let stored = Stored::deserialize(d)?;
        if stored.version != VERSION {
            return Err(D::Error::custom(format!("pact state of version {}, expected {VERSION}", stored.version)));
        }
        let current = stored.current.map(Adopted::restore).transpose().map_err(D::Error::custom)?;
        Ok(Self { current, promise: stored.promise })
    }
}

impl PactState {
    pub fn current(&self) -> Option<&Adopted> {
        self.current.as_ref()
    }
    pub fn promise(&self) -> Option<Promise> {
        self.promise
    }

    fn held_serial(&self) -> Serial {
        self.current.as_ref().map_or(Serial(0), |c| c.pact.serial)
    }

    /// The serial to propose next: above what is held and above what was promised.
    pub fn next_serial(&self) -> Serial {
        self.promise.map_or(self.held_serial(), |p| p.serial.max(self.held_serial())).next()
    }

    /// Promises a document that this cloud proposes itself. Keep the state, then sign.
    pub fn promise_own(&self, serial: Serial, digest: Digest) -> Result<Self, PactError> {
        let wanted = Promise { serial, digest };
        if self.promise != Some(wanted) {
            serial_is_free(self.held_serial(), self.promise.map(|p| p.serial), serial)?;
        }
        Ok(Self { current: self.current.clone(), promise: Some(wanted) })
    }

    /// Somebody's proposal: what it changes, and the state to be kept before it is signed. The same proposal may come again.
    pub fn consider(
        &self,
        proposal: &SignedDocument,
        own: &CloudName,
        policy: &Policy,
    ) -> Result<(Change, Self), PactError> {
        let held = self.current.as_ref().ok_or_else(|| PactError::NotOurs(own.clone()))?;
        let change = check_successor(held, proposal, own, policy)?;
        Ok((change, self.promise_own(proposal.serial(), proposal.digest())?))
    }

    /// With a complete pact taken over. An older promise is void by it.
    pub fn adopt(&self, document: SignedDocument, own: &CloudName, own_key: &PublicKey) -> Result<Self, PactError> {
        let adopted = adopt(self.current.as_ref(), document, own, own_key)?;
        let promise = self.promise.filter(|p| p.serial > adopted.pact.serial);
        Ok(Self { current: Some(adopted), promise })
    }
}
