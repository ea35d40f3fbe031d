//! Taking over a pact that all its members signed, and the trust that follows from it.

use crate::entry::{PactError, bundle, clouds, keys, read};
use crate::{Invitation, KIND};
use pumasi_terms::pact::{Member, Pact};
use pumasi_terms::{CloudName, Digest};
use pumasi_trust::{PublicKey, SignedDocument, SpiffeId, TrustStore};
use std::collections::{BTreeMap, BTreeSet};

/// A pact with the document that proves it. Made by `adopt`, or from this cloud's own store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// As it is in force: where `PactState` hands it out, with the notices of its members.
    pub pact: Pact,
    pub document: SignedDocument,
}

impl Adopted {
    /// From this cloud's own store, where only adopted documents are.
    pub fn restore(document: SignedDocument) -> Result<Self, PactError> {
        Ok(Self { pact: open(&document)?, document })
    }
    /// What the next pact names as its parent.
    pub fn digest(&self) -> Digest {
        self.document.digest()
    }
}

/// The content of a document whose signatures nobody has verified yet.
pub(crate) fn open(document: &SignedDocument) -> Result<Pact, PactError> {
    let pact = read(document.unverified_payload())?;
    if pact.serial != document.serial() {
        return Err(PactError::SerialMismatch { signed: document.serial(), written: pact.serial });
    }
    Ok(pact)
}

/// Who may sign, with which key: members of the old pact with the key that the old pact names, newcomers with that of the new.
pub(crate) fn continuing_keys(old: Option<&Pact>, new: &Pact) -> Result<BTreeMap<CloudName, PublicKey>, PactError> {
    let mut all = keys(new)?;
    if let Some(old) = old {
        all.extend(keys(old)?);
    }
    Ok(all)
}

/// Takes over a complete pact: higher serial, signed by every member, each with the key known before.
///
/// Without a held pact (a founder, or a newcomer after `check_invited`) the keys are those that the pact itself names, but
/// `own_key` for `own`. A pact that names us carries our own signature, which is why serials may be passed over. One that
/// does not name us is believed only as the next step of the held one, signed by everybody else: a single member could
/// otherwise send all the others home. The caller looks for `own` in what it adopted, and acts as one who has left.
///
/// Where steps were missed and this refuses, fetch the documents since the held serial and adopt them in order.
pub fn adopt(
    held: Option<&Adopted>,
    document: SignedDocument,
    own: &CloudName,
    own_key: &PublicKey,
) -> Result<Adopted, PactError> {
    let pact = open(&document)?;
    let members = clouds(&pact);
    let mut known = continuing_keys(held.map(|h| &h.pact), &pact)?;
    if let Some(held) = held {
        if pact.id != held.pact.id {
            return Err(PactError::OtherPact { held: held.pact.id.clone(), found: pact.id });
        }
        if pact.serial <= held.pact.serial {
            return Err(PactError::NotNewer { held: held.pact.serial, offered: pact.serial });
        }
    } else {
        known.insert(own.clone(), own_key.clone());
    }
    if !members.contains(own) {
        let held = held.ok_or_else(|| PactError::NotOurs(own.clone()))?;
        if pact.parent != Some(held.digest()) {
            return Err(PactError::OtherParent { held: held.pact.serial });
        }
        let mut others = clouds(&held.pact);
        others.remove(own);
        if members != others {
            return Err(PactError::NotOurs(own.clone()));
        }
    }
    document.verify(KIND, &known, &members)?;
    Ok(Adopted { pact, document })
}

/// What a newcomer checks before it signs: the pact is that of the invitation, the inviter is in it with the root that was
/// pinned and has signed, and our entry is the one that we sent.
pub fn check_invited(proposal: &SignedDocument, invitation: &Invitation, own: &Member) -> Result<Pact, PactError> {
    let pact = open(proposal)?;
    if pact.id != invitation.pact {
        return Err(PactError::NotInvited("it has another id"));
    }
    let inviter = pact.member(&invitation.inviter).ok_or(PactError::NotInvited("the inviter is no member of it"))?;
    if !bundle(inviter)?.fingerprints().contains(&invitation.root) {
        return Err(PactError::NotInvited("the inviter's bundle does not hold the root that the invitation names"));
    }
    match pact.member(&own.cloud) {
        Some(entry) if entry == own => {}
        Some(_) => return Err(PactError::OurEntryDiffers),
        None => return Err(PactError::NotOurs(own.cloud.clone())),
    }
    proposal.verify(KIND, &keys(&pact)?, &BTreeSet::from([invitation.inviter.clone()]))?;
    Ok(pact)
}

/// The members' roots, each for its own domain, and their daemons and gateways as the only welcome peers.
pub fn trust_store(pact: &Pact) -> Result<TrustStore, PactError> {
    let mut bundles = BTreeMap::new();
    let mut allow = BTreeSet::new();
    for member in &pact.members {
        bundles.insert(member.cloud.clone(), bundle(member)?);
        allow.extend([SpiffeId::daemon(&member.cloud), SpiffeId::gateway(&member.cloud)]);
    }
    // `bundle` has checked each domain; the name in the error is then never used.
    TrustStore::new(bundles, allow).map_err(|e| PactError::Unreadable(e.to_string()))
}
