//! What a member keeps about its pact: the adopted document, the notices since, and the serial that it has promised.
//!
//! The promise must be on disk before the signature leaves: whoever forgets it may sign two pacts of one serial.

use crate::adopt::{Adopted, adopt, open};
use crate::change::{Change, Policy, check_successor, serial_is_free};
use crate::entry::PactError;
use crate::notice::{NOTICES_MAX, Notice, check, in_force, read_notice};
use pumasi_terms::pact::Member;
use pumasi_terms::{CloudName, Digest, Serial, WallMs};
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
    /// The newest of each cloud, also of those that are gone.
    notices: Vec<SignedDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<SignedDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promise: Option<Promise>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notices: Vec<SignedDocument>,
}

const VERSION: u32 = 1;

impl Serialize for PactState {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let current = self.current.as_ref().map(|a| a.document.clone());
        Stored { version: VERSION, current, promise: self.promise, notices: self.notices.clone() }.serialize(s)
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
        Self { current, promise: stored.promise, notices: stored.notices }.with_force().map_err(D::Error::custom)
    }
}

impl PactState {
    pub fn current(&self) -> Option<&Adopted> {
        self.current.as_ref()
    }
    pub fn promise(&self) -> Option<Promise> {
        self.promise
    }
    /// For members that were away.
    pub fn notices(&self) -> &[SignedDocument] {
        &self.notices
    }

    fn with_force(mut self) -> Result<Self, PactError> {
        if let Some(current) = &mut self.current {
            current.pact = in_force(&open(&current.document)?, &self.notices);
        }
        Ok(self)
    }

    fn notice_of(&self, cloud: &CloudName) -> Option<(&SignedDocument, Notice)> {
        self.notices.iter().filter_map(|d| Some((d, read_notice(d).ok()?))).find(|(_, n)| &n.cloud == cloud)
    }

    /// This cloud's own next notice and its serial, to be vouched for, signed, and taken as anybody's. `now` makes serials
    /// rise also over a lost store.
    pub fn next_notice(
        &self,
        own: &CloudName,
        entry: Option<Member>,
        now: WallMs,
    ) -> Result<(Serial, Notice), PactError> {
        let held = self.current.as_ref().ok_or_else(|| PactError::NotOurs(own.clone()))?;
        let through = self.promise.map_or(held.pact.serial, |p| p.serial.max(held.pact.serial));
        let known = self.notice_of(own).map_or(Serial(0), |(d, _)| d.serial());
        let serial = known.next().max(Serial(u64::try_from(now.0).unwrap_or(0)));
        Ok((serial, Notice::new(&held.pact, through, own, entry, now)))
    }

    /// Takes a notice into force. `None`: it is here already.
    pub fn take_notice(&self, document: &SignedDocument) -> Result<Option<(Notice, Self)>, PactError> {
        let cloud = read_notice(document)?.cloud;
        let held = self.current.as_ref().ok_or_else(|| PactError::NotOurs(cloud.clone()))?;
        let known = self.notice_of(&cloud).map(|(d, _)| (d.digest(), d.serial()));
        if known.is_some_and(|(digest, _)| digest == document.digest()) {
            return Ok(None);
        }
        let notice = check(&held.pact, document, known.map(|(_, serial)| serial))?;
        let mut after = self.clone();
        after.notices.retain(|d| read_notice(d).is_ok_and(|n| n.cloud != cloud));
        if after.notices.len() >= NOTICES_MAX {
            after.notices.remove(0);
        }
        after.notices.push(document.clone());
        Ok(Some((notice, after.with_force()?)))
    }

    /// A cloud that left enters again only above the serials that its leave counts for: nobody sends it home with that.
    pub fn floor_of(&self, newcomer: &CloudName) -> Serial {
        self.notice_of(newcomer).map_or(Serial(0), |(_, notice)| notice.through)
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
        Ok(Self { promise: Some(wanted), ..self.clone() })
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
        if let Change::Admitted { cloud, .. } = &change {
            let floor = self.floor_of(cloud);
            if proposal.serial() <= floor {
                return Err(PactError::SerialTaken { offered: proposal.serial(), next: floor.next() });
            }
        }
        Ok((change, self.promise_own(proposal.serial(), proposal.digest())?))
    }

    /// With a complete pact taken over. An older promise is void by it.
    pub fn adopt(&self, document: SignedDocument, own: &CloudName, own_key: &PublicKey) -> Result<Self, PactError> {
        let adopted = adopt(self.current.as_ref(), document, own, own_key)?;
        let promise = self.promise.filter(|p| p.serial > adopted.pact.serial);
        Self { current: Some(adopted), promise, notices: self.notices.clone() }.with_force()
    }
}
