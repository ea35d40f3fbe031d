//! Who owns a service, at which epoch. Everything that acts for a service asks here.
//!
//! Enters: a service's record, the handovers that both sides signed, and what a former owner took back. Leaves: its owner, which is whoever
//! the greatest epoch names.
//! Always holds: a service that was never handed over is its own cloud's; what cannot be read is nobody's, so that nothing is started,
//! written or sent for it here; what runs runs on, for readers.
//!
//! Two things are asked, and the greater epoch counts: what both clouds signed of a handover, and the register of a pact that votes.

use crate::Node;
use crate::node::{Note, TxError};
use crate::object::{HANDOVER, MOVE, RECLAIM, ServiceRecord, TAKEOVER, TENURE};
use crate::takeover::by_hand;
use pumasi_api::Problem;
use pumasi_journey::moving::Move;
use pumasi_lease::handover::{Handover, SIGNED_AS};
use pumasi_lease::reclaim::{self, Reclaim};
use pumasi_lease::takeover::{self, Takeover};
use pumasi_ownership::State;
use pumasi_ownership::state::Phase;
use pumasi_store::{Expect, Tx};
use pumasi_terms::{BootMs, CloudName, Epoch, LeaseId, MoveId, ServiceId};
use pumasi_trust::SignedDocument;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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

pub fn read_reclaim(document: &SignedDocument) -> Result<Reclaim, Problem> {
    serde_json::from_slice(document.unverified_payload()).map_err(|e| Problem::ours(format!("a reclaim: {e}")))
}

fn read_takeover(document: &SignedDocument) -> Result<Takeover, Problem> {
    serde_json::from_slice(document.unverified_payload()).map_err(|e| Problem::ours(format!("a takeover: {e}")))
}

/// The newest of what was signed.
fn newest(handover: Option<Handover>, reclaim: Option<Reclaim>, taken: Option<Takeover>) -> Option<Tenure> {
    let given = handover.map(|h| Tenure { owner: h.to, epoch: h.epoch, before: Some(h.from) });
    let back = reclaim.map(|r| Tenure { owner: r.owner, epoch: r.epoch, before: Some(r.heir) });
    let taken = taken.map(|t| Tenure { owner: t.to, epoch: t.epoch, before: Some(t.from) });
    given.into_iter().chain(back).chain(taken).max_by_key(|t| t.epoch)
}

/// Who owns a service, as far as anything was ever signed about it, or committed by the pact's voters.
pub fn known(node: &Node, id: &ServiceId) -> Result<Option<Tenure>, Problem> {
    let reclaim = node.item::<SignedDocument>(RECLAIM, id.as_str())?.map(|d| read_reclaim(&d)).transpose()?;
    let taken = node.item::<SignedDocument>(TAKEOVER, id.as_str())?.map(|d| read_takeover(&d)).transpose()?;
    let signed = newest(handover(node, id)?, reclaim, taken);
    Ok(later(signed, committed(node, id)))
}

/// Whom the register of the pact names, as this cloud has applied it.
fn committed(node: &Node, id: &ServiceId) -> Option<Tenure> {
    committed_in(&*node.voting.state()?, id)
}

fn committed_in(state: &State, id: &ServiceId) -> Option<Tenure> {
    let owned = state.services.get(id)?;
    let before = state.last_move(id).map(|m| m.from.clone());
    Some(Tenure { owner: owned.owner.clone(), epoch: owned.epoch, before })
}

/// Of the same epoch, what was signed says more.
fn later(signed: Option<Tenure>, committed: Option<Tenure>) -> Option<Tenure> {
    match (signed, committed) {
        (Some(signed), Some(committed)) if committed.epoch > signed.epoch => Some(committed),
        (signed, committed) => signed.or(committed),
    }
}

fn signed_in(tx: &Tx<'_>, id: &ServiceId) -> Result<Option<Tenure>, TxError> {
    let handover = tx.get::<SignedDocument>(TENURE, id.as_str())?.map(|d| read(&d.body)).transpose()?;
    let reclaim = tx.get::<SignedDocument>(RECLAIM, id.as_str())?.map(|d| read_reclaim(&d.body)).transpose()?;
    let taken = tx.get::<SignedDocument>(TAKEOVER, id.as_str())?.map(|d| read_takeover(&d.body)).transpose()?;
    Ok(newest(handover, reclaim, taken))
}

pub fn tenure(node: &Node, service: &ServiceRecord) -> Result<Tenure, Problem> {
    if service.registered && node.voting.is_on() && node.voting.state().is_none() {
        return Err(Problem::unavailable("the register of the pact is not known here yet: whose it is cannot be said"));
    }
    let own = || Tenure { owner: node.name().clone(), epoch: service.epoch, before: None };
    Ok(known(node, &service.id)?.unwrap_or_else(own))
}

/// Whether this process has been heard by the pact's voters, which would have said that another cloud owns it.
pub fn is_heard(node: &Node, service: &ServiceRecord) -> bool {
    !service.registered || !node.voting.is_on() || node.voting.right_until().is_some()
}

/// Whether the register of the pact has it as this cloud's.
pub fn is_entered(node: &Node, service: &ServiceRecord) -> bool {
    let state = node.voting.state().filter(|_| service.registered);
    state.and_then(|s| s.services.get(&service.id).map(|o| &o.owner == node.name())).unwrap_or(false)
}

/// Whether the pact's voters, where they look after the service, know that it could live there: else they do not let it go there.
pub fn knows_standby(node: &Node, service: &ServiceRecord, at: &CloudName, lease: &LeaseId) -> bool {
    let state = node.voting.state().filter(|_| service.registered);
    let owned = state.as_ref().and_then(|s| s.services.get(&service.id));
    owned.is_none_or(|o| o.agreed.standby(at).is_some_and(|s| &s.lease == lease))
}

/// Until when this cloud may write for a service by the register of the pact; None: nothing there bounds it.
pub fn right_until(node: &Node, service: &ServiceRecord) -> Option<BootMs> {
    let bounds = service.registered && node.voting.is_on();
    let right = || node.voting.right_until().filter(|_| !is_given_up(node, service));
    bounds.then(|| right().unwrap_or_default())
}

/// Whether the register has it that this cloud writes nothing for the service, so that another may take it at any moment.
fn is_given_up(node: &Node, service: &ServiceRecord) -> bool {
    let state = node.voting.state();
    let owned = state.as_ref().and_then(|s| s.services.get(&service.id));
    owned.is_some_and(|o| o.phase == Phase::Yielded && o.epoch == service.epoch)
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
    let opens =
        || Ok::<_, Problem>(node.item::<Move>(MOVE, service.name().as_str())?.is_some_and(|m| m.is_beyond_recall()));
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
    let opens = matches!(&moving, Ok(Some(m)) if m.is_beyond_recall());
    match tenure(node, service) {
        Ok(Tenure { owner, epoch, .. }) if &owner != node.name() && !opens => {
            Stand { epoch, bound: true, front: Some(owner), heir: None }
        }
        Ok(Tenure { before, owner, .. }) => {
            let heir = Some(owner).filter(|o| o != node.name());
            let bound = moves || before.is_some() || heir.is_some() || service.registered;
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

/// Who owns it since it left its first owner, as a transaction sees it, and the register of the pact.
pub fn owner_in(tx: &Tx<'_>, state: Option<&State>, id: &ServiceId) -> Result<Option<CloudName>, TxError> {
    Ok(later(signed_in(tx, id)?, state.and_then(|s| committed_in(s, id))).map(|t| t.owner))
}

/// Services that one question asks about, and handovers that one answer tells of.
const TOLD_MAX: usize = 64;
/// Handovers of one service that are kept: a cloud that was away for longer asks a person.
const CHAIN_MAX: usize = 64;

/// What this cloud owned once, or was given, and the epoch at which it knows the owner: whoever is asked tells of a newer one.
pub fn fronts(node: &Node) -> Result<BTreeMap<ServiceId, Epoch>, Problem> {
    let services = node.services()?;
    let known = services.iter().filter_map(|s| Some((s.id.clone(), tenure(node, s).ok()?)));
    let was_given = |t: &Tenure| &t.owner != node.name() || t.before.is_some();
    Ok(known.filter(|(_, t)| was_given(t)).map(|(id, t)| (id, t.epoch)).take(TOLD_MAX).collect())
}

/// For a cloud that knows these. One whose services were taken over by hand is told unasked: it knows of no other owner.
pub fn newer(
    node: &Node,
    asks: &CloudName,
    known: &BTreeMap<ServiceId, Epoch>,
) -> Result<Vec<serde_json::Value>, Problem> {
    let mut told = Vec::new();
    let newest = node.items::<SignedDocument>(TENURE)?;
    let all = node.items::<SignedDocument>(HANDOVER)?;
    let mut made = BTreeMap::new();
    for document in newest.iter().chain(all.iter()) {
        let said = read(document)?;
        made.insert((said.id, said.epoch), document.clone());
    }
    for document in node.items::<SignedDocument>(RECLAIM)?.iter() {
        let said = read_reclaim(document)?;
        made.insert((said.id, said.epoch), document.clone());
    }
    let mut unasked = BTreeSet::new();
    for document in node.items::<SignedDocument>(TAKEOVER)?.iter() {
        let said = read_takeover(document)?;
        if &said.from == asks && !known.contains_key(&said.id) {
            unasked.insert((said.id.clone(), said.epoch));
        }
        made.insert((said.id, said.epoch), document.clone());
    }
    // In the order in which they were made: each is believed by whoever believed the one before.
    for ((id, epoch), document) in made {
        let news = known.get(&id).is_some_and(|at| epoch > *at) || unasked.contains(&(id.clone(), epoch));
        if told.len() < TOLD_MAX && news {
            told.push(serde_json::to_value(&*document).map_err(|e| Problem::ours(e.to_string()))?);
        }
    }
    Ok(told)
}

/// What this cloud signed to fulfil a wish, also where the service was handed on since.
pub fn fulfilled(tx: &Tx<'_>, id: &ServiceId, wish: &MoveId) -> Result<Option<SignedDocument>, TxError> {
    let newest = tx.get::<SignedDocument>(TENURE, id.as_str())?.map(|d| d.body);
    let all = tx.list::<SignedDocument>(HANDOVER)?.into_iter().map(|d| d.body);
    let fits = |d: &SignedDocument| read(d).is_ok_and(|h| &h.id == id && &h.wish == wish);
    Ok(newest.into_iter().chain(all).find(fits))
}

/// Whether the ownership of this epoch ended by its owner's word.
pub fn was_handed_on(tx: &Tx<'_>, id: &ServiceId, epoch: Epoch) -> Result<bool, TxError> {
    let newest = tx.get::<SignedDocument>(TENURE, id.as_str())?.map(|d| d.body);
    let all = tx.list::<SignedDocument>(HANDOVER)?.into_iter().map(|d| d.body);
    let ends = |d: SignedDocument| read(&d).is_ok_and(|h| &h.id == id && h.from_epoch == epoch);
    Ok(newest.into_iter().chain(all).any(ends))
}

/// The same, for what is looked at often.
pub fn is_handed_on(node: &Node, id: &ServiceId, epoch: Epoch) -> Result<bool, Problem> {
    let newest = node.item::<SignedDocument>(TENURE, id.as_str())?;
    let all = node.items::<SignedDocument>(HANDOVER)?;
    let ends = |d: &Arc<SignedDocument>| read(d).is_ok_and(|h| &h.id == id && h.from_epoch == epoch);
    Ok(newest.iter().chain(all.iter()).any(ends))
}

/// Names sort by service, then by epoch.
fn key(id: &ServiceId, epoch: Epoch) -> String {
    format!("{id}.{:020}", epoch.0)
}

/// The owner that this cloud knows has handed it on: both of them say so. Anything else is no news.
pub async fn learn(node: &Node, told: serde_json::Value) -> Result<(), Problem> {
    let bad = |e: String| Problem::bad_request(format!("a handover: {e}"));
    let document: SignedDocument = serde_json::from_value(told).map_err(|e| bad(e.to_string()))?;
    match kind_of(&document).as_deref() {
        Some(reclaim::KIND) => return learn_reclaim(node, document).await,
        Some(takeover::KIND) => return learn_takeover(node, document).await,
        _ => {}
    }
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

fn kind_of(document: &SignedDocument) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Head {
        kind: String,
    }
    serde_json::from_slice::<Head>(document.unverified_payload()).ok().map(|head| head.kind)
}

/// The former owner has taken back what it had handed over: by the greater epoch this counts, also at the heir that owned it till now.
async fn learn_reclaim(node: &Node, document: SignedDocument) -> Result<(), Problem> {
    let bad = |e: String| Problem::bad_request(format!("a reclaim: {e}"));
    let said = read_reclaim(&document)?;
    said.check().map_err(bad)?;
    let services = node.services()?;
    let Some(service) = services.iter().find(|s| s.id == said.id) else { return Ok(()) };
    let known = tenure(node, service)?;
    // Where the pact's voters look after it, they alone say who owns it.
    let voted = service.registered && node.voting.is_on();
    if voted || &said.owner == node.name() || !said.undoes(&known.owner, known.epoch, known.before.as_ref()) {
        return Ok(());
    }
    let view = crate::lender::pact(node)?;
    let by = BTreeSet::from([said.owner.clone()]);
    document.verify(reclaim::SIGNED_AS, &view.keys, &by).map_err(|e| bad(e.to_string()))?;
    let was_ours = &known.owner == node.name();
    if was_ours {
        tracing::error!(service = %said.service, owner = %said.owner, epoch = %said.epoch,
            "this service was taken back while this cloud could not be asked: what was written here since it came is kept aside");
    }
    node.transact(move |tx| {
        if !signed_in(tx, &said.id)?.is_none_or(|t| said.undoes(&t.owner, t.epoch, t.before.as_ref())) {
            return Ok(());
        }
        tx.put(RECLAIM, said.id.as_str(), &document, Expect::Any)?;
        let action = if was_ours { "tenure_lost" } else { "tenure_heard" };
        let text = format!(
            "{} owns it again at epoch {}: {} answers for it that {} does not serve ({})",
            said.owner, said.epoch, said.asked_by, said.heir, said.why
        );
        let note = Note::new(action, "service", &said.service).caused_by(&said.wish).because(text);
        tx.journal(note.entry("daemon", crate::clock::wall()))?;
        Ok(())
    })
    .await
}

/// A standby of this cloud's was taken over by hand while this cloud could not be asked. This cloud agreed to that standby, so it counts.
async fn learn_takeover(node: &Node, document: SignedDocument) -> Result<(), Problem> {
    let bad = |e: String| Problem::bad_request(format!("a takeover: {e}"));
    let said = read_takeover(&document)?;
    said.check().map_err(bad)?;
    let services = node.services()?;
    let Some(service) = services.iter().find(|s| s.id == said.id) else { return Ok(()) };
    let known = tenure(node, service)?;
    let voted = service.registered && node.voting.is_on();
    if voted || &said.from != node.name() || !said.follows(&known.owner, known.epoch) {
        return Ok(());
    }
    let view = crate::lender::pact(node)?;
    document
        .verify(takeover::SIGNED_AS, &view.keys, &BTreeSet::from([said.to.clone()]))
        .map_err(|e| bad(e.to_string()))?;
    let agreed = by_hand::was_agreed(node, &said)?;
    if let Err(why) = by_hand::may_be_believed(agreed, by_hand::served_all_along(node, service)) {
        by_hand::refused(node, &said, why).await;
        return Ok(());
    }
    tracing::error!(service = %said.service, owner = %said.to, epoch = %said.epoch,
        "this service was taken over by hand while this cloud could not be asked: what was written here and is not at its new owner is kept aside");
    node.transact(move |tx| {
        if !signed_in(tx, &said.id)?.is_none_or(|t| said.follows(&t.owner, t.epoch)) {
            return Ok(());
        }
        tx.put(TAKEOVER, said.id.as_str(), &document, Expect::Any)?;
        let note = Note::new("tenure_lost", "service", &said.service).because(by_hand::in_words(&said));
        tx.journal(note.entry("daemon", crate::clock::wall()))?;
        Ok(())
    })
    .await
}

/// Both have signed: from this transaction on it counts. An older one replaces no newer one.
pub fn enter(tx: &mut Tx<'_>, id: &ServiceId, document: &SignedDocument, handover: &Handover) -> Result<(), TxError> {
    let old = tx.get::<SignedDocument>(TENURE, id.as_str())?.map(|d| read(&d.body)).transpose()?;
    let taken = tx.get::<SignedDocument>(RECLAIM, id.as_str())?.map(|d| read_reclaim(&d.body)).transpose()?;
    if let Some(taken) = taken.filter(|taken| taken.epoch >= handover.epoch) {
        let text = format!("{} was taken back by {} at epoch {}", taken.service, taken.owner, taken.epoch);
        return Err(Problem::conflict(text).into());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_epoch_counts_and_of_one_epoch_what_was_signed() {
        let of = |owner: &str, epoch: u64| {
            Some(Tenure { owner: CloudName::parse(owner).unwrap(), epoch: Epoch(epoch), before: None })
        };
        let cases = [
            (of("city-a", 2), of("city-b", 3), of("city-b", 3)),
            (of("city-a", 3), of("city-b", 2), of("city-a", 3)),
            (of("city-a", 3), of("city-b", 3), of("city-a", 3)),
            (None, of("city-b", 1), of("city-b", 1)),
            (of("city-a", 1), None, of("city-a", 1)),
            (None, None, None),
        ];
        for (signed, committed, counts) in cases {
            assert_eq!(later(signed.clone(), committed.clone()), counts, "{signed:?} and {committed:?}");
        }
    }
}
