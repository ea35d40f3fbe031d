//! Who owns a service, at which epoch. Everything that acts for a service asks here.
//!
//! Enters: a service's record, the handovers that both sides signed. Leaves: its owner.
//! Always holds: a service that was never handed over is its own cloud's; what cannot be read is nobody's, so that nothing is started,
//! written or sent for it here; what runs runs on, for readers.
//!
//! This is the register of clouds that hand over by both signatures. Where a pact votes, it answers instead, by the same question.

use crate::Node;
use crate::node::{Note, TxError};
use crate::object::{HANDOVER, MOVE, ServiceRecord, TENURE};
use pumasi_api::Problem;
use pumasi_journey::moving::Move;
use pumasi_lease::handover::{Handover, SIGNED_AS};
use pumasi_store::{Expect, Tx};
use pumasi_terms::{CloudName, Epoch, MoveId, ServiceId};
use pumasi_trust::SignedDocument;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    pub owner: CloudName,
    pub epoch: Epoch,
    /// Who had it before, if it was handed over.
    pub before: Option<CloudName>,
}

fn read(document: &SignedDocument) -> Result<Handover, Problem> {
    serde_json::from_slice(document.unverified_payload()).map_err(|e| Problem::ours(format!("a handover: {e}")))
}

/// The handover that counts, if there was one. What this store holds was verified before.
pub fn handover(node: &Node, id: &ServiceId) -> Result<Option<Handover>, Problem> {
    node.item::<SignedDocument>(TENURE, id.as_str())?.map(|d| read(&d)).transpose()
}

pub fn tenure(node: &Node, service: &ServiceRecord) -> Result<Tenure, Problem> {
    Ok(match handover(node, &service.id)? {
        Some(h) => Tenure { owner: h.to, epoch: h.epoch, before: Some(h.from) },
        None => Tenure { owner: node.name().clone(), epoch: service.epoch, before: None },
    })
}

fn owns(node: &Node, service: &ServiceRecord) -> Result<bool, Problem> {
    let t = tenure(node, service)?;
    Ok(&t.owner == node.name() && t.epoch == service.epoch)
}

/// Whether this cloud may act as the owner: not while that cannot be read.
pub fn is_ours(node: &Node, service: &ServiceRecord) -> bool {
    owns(node, service).unwrap_or(false)
}

/// Whether its instances run here: as the owner, or until the heir has opened.
pub fn runs_here(node: &Node, service: &ServiceRecord) -> Result<bool, Problem> {
    let opens = || Ok::<_, Problem>(node.item::<Move>(MOVE, service.name().as_str())?.is_some_and(|m| m.opens()));
    Ok((owns(node, service)? || opens()?) && service.taking.is_none())
}

/// What this cloud is to a service, for its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    pub epoch: Epoch,
    /// It may write only while the gateway is told so: from before another cloud can own it.
    pub bound: bool,
    /// Who owns it and serves; none: this cloud does, or did until the heir has opened.
    pub front: Option<CloudName>,
    /// Who owns it already, and does not serve yet.
    pub heir: Option<CloudName>,
}

pub fn stand(node: &Node, service: &ServiceRecord) -> Stand {
    let moving = node.item::<Move>(MOVE, service.name().as_str());
    let moves = !matches!(&moving, Ok(None)) && !matches!(&moving, Ok(Some(m)) if !m.is_open());
    let opens = matches!(&moving, Ok(Some(m)) if m.opens());
    match tenure(node, service) {
        Ok(Tenure { owner, epoch, .. }) if &owner != node.name() && !opens => {
            Stand { epoch, bound: true, front: Some(owner), heir: None }
        }
        Ok(Tenure { before, owner, .. }) => {
            let heir = Some(owner).filter(|o| o != node.name());
            let bound = moves || before.is_some() || heir.is_some();
            Stand { epoch: service.epoch, bound, front: None, heir }
        }
        // Whose it is cannot be read: nobody writes here.
        Err(_) => Stand { epoch: service.epoch, bound: true, front: None, heir: None },
    }
}

/// Whom to ask instead.
///
/// # Errors
/// `moved` where another cloud owns it.
pub fn must_be_ours(node: &Node, service: &ServiceRecord) -> Result<(), Problem> {
    let t = tenure(node, service)?;
    if &t.owner == node.name() {
        return Ok(());
    }
    let text = format!("{} is served by {} since it was moved there; ask that cloud", service.name(), t.owner);
    Err(Problem { code: "moved".into(), ..Problem::conflict(text) })
}

/// Who owns it since it was handed over, as a transaction sees it.
pub fn owner_in(tx: &Tx<'_>, id: &ServiceId) -> Result<Option<CloudName>, TxError> {
    let kept = tx.get::<SignedDocument>(TENURE, id.as_str())?;
    Ok(kept.map(|d| read(&d.body)).transpose()?.map(|h| h.to))
}

/// Services that one question asks about, and handovers that one answer tells of.
const TOLD_MAX: usize = 64;
/// Handovers of one service that are kept: a cloud that was away for longer asks a person.
const CHAIN_MAX: usize = 64;

/// What this cloud owned once, and the epoch at which it knows the owner: whoever is asked tells of a newer one.
pub fn fronts(node: &Node) -> Result<BTreeMap<ServiceId, Epoch>, Problem> {
    let services = node.services()?;
    let known = services.iter().filter_map(|s| Some((s.id.clone(), tenure(node, s).ok()?)));
    Ok(known.filter(|(_, t)| &t.owner != node.name()).map(|(id, t)| (id, t.epoch)).take(TOLD_MAX).collect())
}

/// For a cloud that knows these.
pub fn newer(node: &Node, known: &BTreeMap<ServiceId, Epoch>) -> Result<Vec<serde_json::Value>, Problem> {
    let mut told = Vec::new();
    let all = node.items::<SignedDocument>(HANDOVER)?;
    // One after another: it believes each of the owner whom it knows by the one before.
    for document in all.iter() {
        let said = read(document)?;
        if told.len() < TOLD_MAX && known.get(&said.id).is_some_and(|epoch| said.epoch > *epoch) {
            told.push(serde_json::to_value(&**document).map_err(|e| Problem::ours(e.to_string()))?);
        }
    }
    Ok(told)
}

/// What this cloud signed to fulfil a wish, also where the service was handed on since.
pub fn signed_in(tx: &Tx<'_>, id: &ServiceId, wish: &MoveId) -> Result<Option<SignedDocument>, TxError> {
    let newest = tx.get::<SignedDocument>(TENURE, id.as_str())?.map(|d| d.body);
    let all = tx.list::<SignedDocument>(HANDOVER)?.into_iter().map(|d| d.body);
    let fits = |d: &SignedDocument| read(d).is_ok_and(|h| &h.id == id && &h.wish == wish);
    Ok(newest.into_iter().chain(all).find(fits))
}

/// Names sort by service, then by epoch.
fn key(id: &ServiceId, epoch: Epoch) -> String {
    format!("{id}.{:020}", epoch.0)
}

/// The owner that this cloud knows has handed it on: both of them say so. Anything else is no news.
pub async fn learn(node: &Node, told: serde_json::Value) -> Result<(), Problem> {
    let bad = |e: String| Problem::bad_request(format!("a handover: {e}"));
    let document: SignedDocument = serde_json::from_value(told).map_err(|e| bad(e.to_string()))?;
    let said = read(&document)?;
    said.check().map_err(bad)?;
    let services = node.services()?;
    let Some(service) = services.iter().find(|s| s.id == said.id) else { return Ok(()) };
    let known = tenure(node, service)?;
    if known.owner != said.from || known.epoch != said.from_epoch || &known.owner == node.name() {
        return Ok(());
    }
    let view = crate::lender::pact(node)?;
    let both = BTreeSet::from([said.from.clone(), said.to.clone()]);
    document.verify(SIGNED_AS, &view.keys, &both).map_err(|e| bad(e.to_string()))?;
    node.transact(move |tx| {
        let note = Note::new("tenure_heard", "service", &said.service);
        let note = note.because(format!("{} owns it at epoch {}, as {} and it say", said.to, said.epoch, said.from));
        enter(tx, &said.id, &document, &said)?;
        tx.journal(note.entry("daemon", crate::clock::wall()))?;
        Ok(())
    })
    .await
}

/// Both have signed: from this transaction on it counts. An older one replaces no newer one.
pub fn enter(tx: &mut Tx<'_>, id: &ServiceId, document: &SignedDocument, handover: &Handover) -> Result<(), TxError> {
    let old = tx.get::<SignedDocument>(TENURE, id.as_str())?.map(|d| read(&d.body)).transpose()?;
    if let Some(old) = old.filter(|old| old.epoch >= handover.epoch && old != handover) {
        let text = format!("epoch {} of {} is not newer than {}, which counts", handover.epoch, old.service, old.epoch);
        return Err(Problem::conflict(text).into());
    }
    tx.put(TENURE, id.as_str(), document, Expect::Any)?;
    tx.put(HANDOVER, &key(id, handover.epoch), document, Expect::Any)?;
    let all: Vec<String> = tx.list::<SignedDocument>(HANDOVER)?.into_iter().map(|d| d.name).collect();
    let own: Vec<&String> = all.iter().filter(|name| name.starts_with(&format!("{id}."))).collect();
    for old in own.iter().take(own.len().saturating_sub(CHAIN_MAX)) {
        tx.delete(HANDOVER, old, Expect::Any)?;
    }
    Ok(())
}
