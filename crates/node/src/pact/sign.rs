//! Signing another member's proposal.

use super::{SignAnswer, catch_up, held, may_sign, ours, refused, state, vote, words};
use crate::node::Note;
use crate::object::{ONLY, PACT};
use crate::wire::AskSignature;
use crate::{Node, clock};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_pact::{Change, PactError, Policy};
use pumasi_store::Expect;
use pumasi_terms::CloudName;
use pumasi_trust::SignedDocument;

/// A member asks for this cloud's signature under its proposal.
pub async fn sign(node: &Node, from: &CloudName, asked: AskSignature) -> Result<SignAnswer, Problem> {
    may_sign(node)?;
    let AskSignature { document, notices, why } = asked;
    if !document.signed_by(from) {
        return Err(Problem::new(403, "bad_signature", Fault::Peer, format!("{from} has not signed its own proposal")));
    }
    if !notices.is_empty()
        && let Err(e) = super::take(node, &Principal::Peer(from.clone()), notices).await
    {
        tracing::debug!(error = %e, %from, "a notice beside its proposal was not taken");
    }
    let first = consider(node, from, document.clone(), why.clone()).await?;
    // Its parent may be a pact that we signed and were not told of.
    if let SignAnswer::Behind { held } = first
        && document.serial() > held
        && catch_up(node, from).await.is_ok()
    {
        return consider(node, from, document, why).await;
    }
    Ok(first)
}

pub(super) async fn consider(
    node: &Node,
    from: &CloudName,
    document: SignedDocument,
    why: String,
) -> Result<SignAnswer, Problem> {
    let (own, actor) = (node.name().clone(), Principal::Peer(from.clone()).to_string());
    let (asked, from, admit) = (document.clone(), from.clone(), node.config.pact.admit);
    let (incarnation, protected) = (node.store.identity().incarnation, vote::protected(node));
    let refusal = node
        .transact(move |tx| {
            let state = state(tx)?;
            let current = held(&state)?;
            if current.digest() == asked.digest() {
                return Ok(Some(Ok(SignAnswer::Signed { document: current.document.clone() })));
            }
            // Whether an operator must agree is asked below: the rules of the pact come first.
            let (change, promised) = match state.consider(&asked, &own, &Policy::approved()) {
                Ok(fine) => fine,
                Err(PactError::SerialTaken { next, .. }) => return Ok(Some(Ok(SignAnswer::Taken { next }))),
                Err(PactError::OtherParent { held } | PactError::NotNewer { held, .. }) => {
                    return Ok(Some(Ok(SignAnswer::Behind { held })));
                }
                Err(e) => return Err(refused(e).into()),
            };
            let new = pumasi_pact::read(asked.unverified_payload()).map_err(refused)?;
            if change == Change::Voting {
                vote::fits(&new, &own, incarnation, protected)?;
            }
            if let Some(no) = words::word_on(tx, (&own, admit), &from, &change, &new, &why)? {
                return Ok(Some(Err(no)));
            }
            if promised != state {
                tx.put(PACT, ONLY, &promised, Expect::Any)?;
                let note = Note::new("pact_signed", "pact", &current.pact.id).because(in_words(&change));
                tx.journal(note.because(format!("serial {}", asked.serial())).entry(&actor, clock::wall()))?;
            }
            Ok(None)
        })
        .await?;
    if let Some(refusal) = refusal {
        return refusal;
    }
    if document.signed_by(node.name()) {
        return Ok(SignAnswer::Signed { document });
    }
    let document = document.countersign(node.name(), &node.identity.key).map_err(ours)?;
    Ok(SignAnswer::Signed { document })
}

pub(super) fn in_words(change: &Change) -> String {
    match change {
        Change::Admitted { cloud, sponsors } => {
            let sponsors: Vec<&str> = sponsors.iter().map(CloudName::as_str).collect();
            format!("{cloud} enters, invited by {}", sponsors.join(", "))
        }
        Change::Left { cloud } => format!("{cloud} leaves"),
        Change::Dismissed { cloud } => format!("the others part from {cloud}"),
        Change::Updated { cloud } => format!("{cloud} changes its entry"),
        Change::Voting => "who votes on ownership, or by which times, changes".into(),
    }
}
