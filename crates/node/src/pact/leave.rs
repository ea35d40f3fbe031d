//! Leaving: with the signatures of all others, and not before one of them knows.

use super::adopt::{Basis, forget, still_ours, take_over, tell};
use super::propose::{Step, propose};
use super::{
    PROPOSAL, Proposal, held, load, may_sign, no_pact, one_at_a_time, overtaken, refused, state, stored, view,
};
use crate::node::Note;
use crate::object::{JOURNEY, LENT, PACT};
use crate::{Node, clock};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_journey::Journey;
use pumasi_lease::LentLease;
use pumasi_store::Expect;
use pumasi_trust::SignedDocument;

/// Nothing of others' runs here, and nothing of ours there.
pub(super) fn nothing_open(node: &Node) -> Result<(), Problem> {
    let problem = |e: pumasi_store::StoreError| crate::node::store_problem(&e);
    let lent = node.store.list::<LentLease>(LENT).map_err(problem)?;
    let journeys = node.store.list::<Journey>(JOURNEY).map_err(problem)?;
    let lent = lent.iter().filter(|l| l.body.binds()).map(|l| format!("{} (lent)", l.body.id()));
    let open = journeys.iter().filter(|j| j.body.is_open());
    let rented = open.flat_map(|j| &j.body.parts).filter(|p| !p.is_over()).map(|p| format!("{} (rented)", p.lease));
    let all: Vec<String> = lent.chain(rented).collect();
    if all.is_empty() {
        return Ok(());
    }
    let text = format!("leases are open: {}; recall or cancel them, then leave", all.join(", "));
    Err(Problem::new(409, "leases_open", Fault::Input, text))
}

/// With the signatures of all others; the last member just goes.
pub async fn leave(node: &Node, who: &Principal, why: String) -> Result<(), Problem> {
    may_sign(node)?;
    nothing_open(node)?;
    let _one = one_at_a_time(node).await?;
    let view = view(node)?;
    let wish = Note::new("leave_asked", "pact", &view.pact.id);
    node.note(&who.to_string(), if why.is_empty() { wish } else { wish.because(why) }).await;
    if view.pact.members.len() == 1 {
        let (actor, id) = (who.to_string(), view.pact.id.clone());
        node.transact(move |tx| {
            if held(&state(tx)?)?.pact.members.len() > 1 {
                return Err(overtaken("another cloud has just entered; try again").into());
            }
            forget(tx)?;
            tx.journal(
                Note::new("pact_ended", "pact", &id).because("its last member left").entry(&actor, clock::wall()),
            )?;
            Ok(())
        })
        .await?;
        return load(node);
    }
    let document = match leave_begun(node)? {
        Some(document) => document,
        None => {
            let full = propose(node, who, Step::Leave(node.name().clone())).await?;
            keep_leave(node, full.clone()).await?;
            full
        }
    };
    // Whoever has left can tell nobody: one of the others must know it first.
    if tell(node, &document).await?.is_empty() {
        let text = "all have signed, but none could be told; repeat the command to go on from there";
        return Err(Problem::new(503, "peer_unreachable", Fault::Peer, text));
    }
    take_over(node, who, document, Basis::Ours).await
}

/// A leave that all have signed and that still follows from the pact held.
pub(super) fn leave_begun(node: &Node) -> Result<Option<SignedDocument>, Problem> {
    let proposal = node.store.get::<Proposal>(PACT, PROPOSAL).map_err(|e| crate::node::store_problem(&e))?;
    let complete = proposal.and_then(|p| p.body.complete);
    let state = stored(node)?;
    Ok(complete.filter(|d| still_ours(&state, d).is_ok()))
}

pub(super) async fn keep_leave(node: &Node, document: SignedDocument) -> Result<(), Problem> {
    let (own, key) = (node.name().clone(), node.identity.key.public().clone());
    node.transact(move |tx| {
        let state = state(tx)?;
        still_ours(&state, &document)?;
        state.adopt(document.clone(), &own, &key).map_err(refused)?;
        let proposal = tx.get::<Proposal>(PACT, PROPOSAL)?.ok_or_else(no_pact)?;
        tx.put(PACT, PROPOSAL, &Proposal { complete: Some(document), ..proposal.body }, Expect::Any)?;
        Ok(())
    })
    .await
}
