//! Taking over a pact that all have signed, and telling it to the others.
//!
//! Always holds: it is in the store before it takes effect; an own step counts only while nothing has overtaken it.

use super::enter::INVITED;
use super::notices::FAREWELL;
use super::propose::{Stop, abandoned, collect, others, step_aside};
use super::{
    JOINING, Joining, PROPOSAL, Proposal, anonymous_client, held, load, may_sign, one_at_a_time, overtaken, refused,
    state, stored,
};
use crate::node::{Note, TxError};
use crate::object::{INVITATION, ONLY, PACT};
use crate::wire::Signed;
use crate::{Node, clock};
use futures_util::future::join_all;
use pumasi_api::client::CallError;
use pumasi_api::{Principal, Problem};
use pumasi_pact::{Invitations, PactState, Policy};
use pumasi_store::{Expect, Tx};
use pumasi_terms::CloudName;
use pumasi_terms::pact::{Member, Pact};
use pumasi_trust::{SignedDocument, digest};
use std::collections::BTreeSet;

pub(super) async fn take_over_if_newer(node: &Node, document: SignedDocument) -> Result<(), Problem> {
    match take_over(node, &Principal::Daemon, document, Basis::Told).await {
        Err(p) if p.code == "pact_newer" => Ok(()),
        result => result,
    }
}

/// Why a complete pact is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// It is the step that this cloud proposed.
    Ours,
    /// Somebody brought it.
    Told,
    /// The operator's invitation led to it.
    Invited,
}

/// What changed, in words.
pub(super) fn difference(old: Option<&Pact>, new: &Pact) -> Vec<String> {
    let Some(old) = old else { return vec![format!("entered a pact of {} members", new.members.len())] };
    let mut told: Vec<String> = Vec::new();
    for member in &new.members {
        match old.member(&member.cloud) {
            None => told.push(format!("{} entered", member.cloud)),
            Some(was) if was != member => told.push(format!("{} changed its entry", member.cloud)),
            Some(_) => {}
        }
    }
    if old.voting != new.voting {
        told.push(super::vote::in_words(new.voting.as_ref()));
    }
    told.extend(old.members.iter().filter(|m| new.member(&m.cloud).is_none()).map(|m| format!("{} left", m.cloud)));
    told
}

/// Into the store, then into effect. A pact that does not name this cloud any more ends its membership.
pub(super) async fn take_over(
    node: &Node,
    who: &Principal,
    document: SignedDocument,
    basis: Basis,
) -> Result<(), Problem> {
    let (own, key, actor) = (node.name().clone(), node.identity.key.public().clone(), who.to_string());
    let changed = node
        .transact(move |tx| {
            let state = state(tx)?;
            let digest = document.digest();
            if state.current().is_some_and(|c| c.digest() == digest) {
                return Ok(false);
            }
            if basis == Basis::Ours {
                still_ours(&state, &document)?;
            }
            if state.current().is_none() && basis != Basis::Invited {
                let joining = tx.get::<Joining>(PACT, JOINING)?;
                if joining.is_none_or(|j| j.body.digest != digest) {
                    return Err(
                        Problem::forbidden("this cloud is in no pact and has not asked to enter this one").into()
                    );
                }
            }
            let after = state.adopt(document, &own, &key).map_err(refused)?;
            let pact = &held(&after)?.pact;
            let mut note = Note::new("pact_changed", "pact", &pact.id).because(format!("serial {}", pact.serial));
            note.reasons.extend(difference(state.current().map(|c| &c.pact), pact));
            if pact.member(&own).is_some() {
                tx.put(PACT, ONLY, &after, Expect::Any)?;
                let proposal = tx.get::<Proposal>(PACT, PROPOSAL)?;
                let serial = proposal.and_then(|p| pumasi_pact::read(p.body.payload.as_bytes()).ok()).map(|p| p.serial);
                if serial.is_some_and(|s| s <= pact.serial) {
                    tx.delete(PACT, PROPOSAL, Expect::Any)?;
                }
                tx.delete(PACT, JOINING, Expect::Any)?;
                tx.delete(PACT, FAREWELL, Expect::Any)?;
                super::words::spent(tx, pact)?;
                let was: Vec<CloudName> = state
                    .current()
                    .map(|c| c.pact.members.iter().map(|m| m.cloud.clone()).collect())
                    .unwrap_or_default();
                used_up(tx, &was.into_iter().filter(|cloud| pact.member(cloud).is_none()).collect())?;
            } else {
                forget(tx)?;
            }
            tx.journal(note.entry(&actor, clock::wall()))?;
            Ok(true)
        })
        .await?;
    if changed { load(node) } else { Ok(()) }
}

/// Nobody overtook the proposal between its promise and its last signature.
pub(super) fn still_ours(state: &PactState, document: &SignedDocument) -> Result<(), Problem> {
    let promised = state.promise().is_some_and(|p| p.digest == document.digest());
    let pact = pumasi_pact::read(document.unverified_payload()).map_err(refused)?;
    if promised && pact.parent == Some(held(state)?.digest()) {
        return Ok(());
    }
    Err(overtaken("another change of the pact came first; try again"))
}

/// A member's invitation lets it fetch the pact again until it ends; whoever left needs a new one.
pub(super) fn used_up(tx: &mut Tx<'_>, gone: &BTreeSet<CloudName>) -> Result<(), TxError> {
    if let Some(open) = tx.get::<Invitations>(INVITATION, ONLY)?.filter(|_| !gone.is_empty()) {
        let mut open = open.body;
        gone.iter().for_each(|cloud| open.finish(cloud));
        tx.put(INVITATION, ONLY, &open, Expect::Any)?;
    }
    Ok(())
}

pub(super) fn forget(tx: &mut Tx<'_>) -> Result<(), TxError> {
    for (kind, name) in [(PACT, ONLY), (PACT, PROPOSAL), (PACT, JOINING), (INVITATION, ONLY), (INVITATION, INVITED)] {
        tx.delete(kind, name, Expect::Any)?;
    }
    super::words::forget_words(tx)
}

/// Brings a complete pact to all others that it names. Those who know it now.
pub(super) async fn tell(node: &Node, document: &SignedDocument) -> Result<BTreeSet<CloudName>, Problem> {
    let pact = pumasi_pact::read(document.unverified_payload()).map_err(refused)?;
    let bring = |member: Member| async move {
        let body = Signed { document: document.clone() };
        let answer = match anonymous_client(node, &member) {
            Ok(client) => client.put::<Signed>("/v1/pact/current", &body).await.map(|_| ()),
            Err(problem) => Err(CallError::Refused(problem)),
        };
        match answer {
            Ok(()) => Ok(member.cloud),
            // It has gone on from there already.
            Err(CallError::Refused(p)) if p.code == "pact_newer" => Ok(member.cloud),
            Err(e) => Err(format!("{}: {e}", member.cloud)),
        }
    };
    let mut told = BTreeSet::new();
    let mut note = Note::new("pact_not_told", "pact", &pact.id).because("fetched after the next heartbeat");
    for answer in join_all(others(node, &pact).into_iter().map(bring)).await {
        match answer {
            Ok(cloud) => drop(told.insert(cloud)),
            Err(why) => note.reasons.push(why),
        }
    }
    if note.reasons.len() > 1 {
        node.note("daemon", note).await;
    }
    Ok(told)
}

/// A complete pact, or this cloud's own proposal with the newcomer's signature, which it then completes.
pub async fn bring(node: &Node, document: SignedDocument) -> Result<SignedDocument, Problem> {
    let state = stored(node)?;
    let who = Principal::Daemon;
    let Some(current) = state.current() else {
        take_over(node, &who, document.clone(), Basis::Told).await?;
        return Ok(document);
    };
    if current.digest() == document.digest() {
        return Ok(current.document.clone());
    }
    let proposed = node.store.get::<Proposal>(PACT, PROPOSAL).map_err(|e| crate::node::store_problem(&e))?;
    let is_ours = |p: &Proposal| digest(p.payload.as_bytes()) == document.digest();
    if !proposed.is_some_and(|p| is_ours(&p.body)) {
        take_over(node, &who, document.clone(), Basis::Told).await?;
        return Ok(document);
    }
    may_sign(node)?;
    let _one = one_at_a_time(node).await?;
    // While waiting, the same newcomer may have gone through.
    let state = stored(node)?;
    if let Some(same) = state.current().filter(|c| c.digest() == document.digest()) {
        return Ok(same.document.clone());
    }
    still_ours(&state, &document)?;
    // Whom it invited, its operator has agreed to.
    pumasi_pact::check_successor(held(&state)?, &document, node.name(), &Policy::approved()).map_err(refused)?;
    let full = match collect(node, &document, "").await {
        Ok(full) => full,
        Err(Stop::Failed(problem)) => {
            abandoned(node, &document, &problem.detail).await;
            return Err(problem);
        }
        Err(Stop::Overtaken { next, why }) => {
            abandoned(node, &document, &why).await;
            step_aside(node, next).await?;
            return Err(overtaken(format!("{why}; ask for admission again")));
        }
    };
    take_over(node, &who, full.clone(), Basis::Ours).await?;
    tell(node, &full).await?;
    Ok(full)
}
