//! Dossiers of services that are kept ready here.
//!
//! Enters: documents of borrowers. Leaves: nothing, or why not.
//! Always holds: a dossier is its owner's word about its own service; an older one replaces no newer one; the keys that are kept beside it
//! are those that it names, sealed as they came.

use super::pact;
use crate::node::Note;
use crate::object::{DOSSIER, DOSSIER_KEYS, LENT};
use crate::wire::Inform;
use crate::{Node, clock, keys};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_lease::LentLease;
use pumasi_lease::dossier::{Dossier, SIGNED_AS};
use pumasi_store::{Expect, StoreError, Tx};
use pumasi_terms::{CloudName, Digest, LeaseId, Serial, Validate};
use pumasi_trust::SignedDocument;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Takes what the owner of a standby sends.
pub async fn inform(node: &Node, owner: CloudName, lent: &LentLease, sent: Inform) -> Result<(), Problem> {
    let (lease, Inform { document, keys: sealed }) = (&lent.lease, sent);
    if lent.standby().is_none() {
        return Err(Problem::forbidden(format!("{} keeps nothing ready: it has no use for a dossier", lease.id)));
    }
    let view = pact(node)?;
    let verified = document
        .verify(SIGNED_AS, &view.keys, &BTreeSet::from([owner.clone()]))
        .map_err(|e| Problem::new(403, "bad_signature", Fault::Peer, format!("the dossier of {owner}: {e}")))?;
    let dossier: Dossier = serde_json::from_slice(&verified.payload)
        .map_err(|e| Problem::bad_request(format!("the dossier of {}: {e}", lease.service)))?;
    let mut faults = Vec::new();
    dossier.validate("dossier", &mut faults);
    if !faults.is_empty() {
        return Err(Problem::fields("the dossier is not valid", faults));
    }
    if dossier.owner != owner || dossier.service.metadata.name != lease.service {
        let about = &dossier.service.metadata.name;
        let text = format!("the dossier is about {about} of {}, the lease about {}", dossier.owner, lease.service);
        return Err(Problem::new(403, "not_yours", Fault::Peer, text));
    }
    match &sealed {
        // What does not open is of no use later either: its owner is told now.
        Some(sealed) => {
            let digest = pumasi_transfer::digest_of(&verified.payload);
            keys::open(&node.identity.vault, lease, sealed, &digest, dossier.keys)?;
        }
        None if dossier.keys.is_some() => {
            let text = "the dossier names keys of the service, and none came with it";
            return Err(Problem::new(422, "bad_keys", Fault::Peer, text));
        }
        None => {}
    }
    let (id, seats) = (lease.id.clone(), dossier.seats.len());
    node.transact(move |tx| {
        if !tx.get::<LentLease>(LENT, id.as_str())?.is_some_and(|l| l.body.usable()) {
            return Err(Problem::new(410, "lease_ended", Fault::Input, format!("{id} is over")).into());
        }
        let old = stored(tx, &id)?;
        let newness = (dossier.epoch, verified.serial);
        if old.as_ref().is_some_and(|old| old.newness() > newness) {
            let text = format!("a newer dossier of {} is here already", dossier.service.metadata.name);
            return Err(Problem::new(409, "older_serial", Fault::Peer, text).into());
        }
        tx.put(DOSSIER, id.as_str(), &document, Expect::Any)?;
        match &sealed {
            Some(sealed) => drop(tx.put(DOSSIER_KEYS, id.as_str(), sealed, Expect::Any)?),
            None => drop(tx.delete(DOSSIER_KEYS, id.as_str(), Expect::Any)?),
        }
        if old.is_none() {
            let text = format!("what {owner} says must be known of it, and of {seats} clouds that keep it ready");
            let note =
                Note::new("dossier_received", "lease", &id).caused_by(&dossier.service.metadata.name).because(text);
            tx.journal(note.entry(&Principal::Peer(owner).to_string(), clock::wall()))?;
        }
        Ok(())
    })
    .await
}

/// A dossier that was verified when it came.
#[derive(Debug)]
pub struct Kept {
    pub dossier: Dossier,
    serial: Serial,
}

impl Kept {
    fn newness(&self) -> (pumasi_terms::Epoch, Serial) {
        (self.dossier.epoch, self.serial)
    }
}

impl<'de> serde::Deserialize<'de> for Kept {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let document = SignedDocument::deserialize(d)?;
        read(&document).ok_or_else(|| serde::de::Error::custom("the dossier does not read"))
    }
}

/// `of`, for what is read often.
pub fn item(node: &Node, id: &LeaseId) -> Result<Option<Arc<Kept>>, Problem> {
    node.item(DOSSIER, id.as_str())
}

/// Whether some of them cannot be read.
pub fn some_are_unknown(node: &Node) -> Result<bool, Problem> {
    Ok(!node.items::<Kept>(DOSSIER)?.unreadable().is_empty())
}

fn read(document: &SignedDocument) -> Option<Kept> {
    let dossier = serde_json::from_slice(document.unverified_payload()).ok()?;
    Some(Kept { dossier, serial: document.serial() })
}

fn stored(tx: &Tx<'_>, id: &LeaseId) -> Result<Option<Kept>, StoreError> {
    Ok(tx.get::<SignedDocument>(DOSSIER, id.as_str())?.and_then(|d| read(&d.body)))
}

/// Of its bytes as they were signed.
pub fn digest(node: &Node, id: &LeaseId) -> Result<Option<Digest>, Problem> {
    let kept = node.get::<SignedDocument>(DOSSIER, id.as_str())?;
    Ok(kept.map(|d| pumasi_transfer::digest_of(d.unverified_payload())))
}

/// That of a lease, if its owner sent one.
pub fn of(node: &Node, id: &LeaseId) -> Result<Option<Dossier>, Problem> {
    Ok(node.get::<SignedDocument>(DOSSIER, id.as_str())?.and_then(|d| read(&d)).map(|kept| kept.dossier))
}
