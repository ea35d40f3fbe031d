//! The bill at the lender: signed by itself where both ledgers agree, by a person where they do not.
//!
//! Enters: a borrower's settlement, an operator's word. Leaves: the settlement that both signed.
//! Always holds: a reading that falls short of ours beyond the tolerance is never countersigned by the daemon alone; a borrower whose open
//! ones fall short by more than an instance-hour gets nothing more here until an operator has accepted them.

use super::{owned, pact, refused};
use crate::node::{Note, TxError};
use crate::object::{DISPUTE, Dispute, LENT, SETTLEMENT};
use crate::{Node, clock};
use pumasi_api::message::SettlementView;
use pumasi_api::{Fault, Principal, Problem};
use pumasi_lease::document::Settlement;
use pumasi_lease::{LentLease, ledger, meter};
use pumasi_store::{Expect, Tx};
use pumasi_terms::{CloudName, LeaseId};
use pumasi_trust::SignedDocument;
use std::collections::BTreeSet;

/// The borrower's proposal, countersigned, or why not.
pub async fn settle(
    node: &Node,
    borrower: CloudName,
    id: LeaseId,
    document: SignedDocument,
) -> Result<SignedDocument, Problem> {
    let lent = owned(node, &borrower, &id)?;
    if let Some(done) = node.get::<SignedDocument>(SETTLEMENT, id.as_str())? {
        return Ok(done);
    }
    // Before it has ended both readings still grow: a word about it now would stand for all that comes.
    ledger::settle(&lent, clock::now()).map_err(refused)?;
    let view = pact(node)?;
    let verified = document
        .verify("settlement", &view.keys, &BTreeSet::from([borrower.clone()]))
        .map_err(|e| Problem::new(403, "bad_signature", Fault::Peer, format!("settlement of {id}: {e}")))?;
    let said: Settlement = serde_json::from_slice(&verified.payload)
        .map_err(|e| Problem::bad_request(format!("settlement of {id}: {e}")))?;
    // The proposal must be the one that this side's ledger gives for both readings; the borrower's reading is its own word.
    let ours = meter::settlement(&lent.lease, lent.usage, said.borrower_usage, said.created_at);
    if said != ours {
        return Err(Problem::new(
            409,
            "ledgers_differ",
            Fault::Peer,
            format!("{id}: this side metered {:?}; settle over that", lent.usage),
        ));
    }
    let actor = Principal::Peer(borrower.clone()).to_string();
    if meter::falls_short(lent.lease.instances, &ours.lender_usage, &ours.borrower_usage) {
        return Err(hold_back(node, &lent, &ours, document, &actor).await?);
    }
    sign(node, &actor, &lent, &ours, document, None).await
}

/// Written down for a person.
async fn hold_back(
    node: &Node,
    lent: &LentLease,
    said: &Settlement,
    document: SignedDocument,
    actor: &str,
) -> Result<Problem, Problem> {
    let text = readings(said);
    let dispute = Dispute {
        version: 1,
        said: said.clone(),
        service: lent.lease.service.clone(),
        document,
        since: clock::wall(),
        disputed: None,
    };
    let (actor, id) = (actor.to_owned(), said.lease.clone());
    let problem = Problem::new(
        409,
        "settlement_open",
        Fault::Peer,
        format!("{id}: {text}; that is beyond the tolerance, so the lender's operator decides"),
    );
    let cause = lent.lease.service.clone();
    node.transact(move |tx| {
        let old = tx.get::<Dispute>(DISPUTE, id.as_str())?.map(|d| d.body);
        if let Some(old) = old.as_ref().filter(|o| o.said != dispute.said) {
            let newer = Dispute { since: old.since, disputed: old.disputed.clone(), ..dispute.clone() };
            tx.put(DISPUTE, id.as_str(), &newer, Expect::Any)?;
        }
        if old.is_none() {
            tx.put(DISPUTE, id.as_str(), &dispute, Expect::Any)?;
            let note = Note::new("settlement_open", "lease", &id).caused_by(cause).because(text);
            let hint = format!("`pumasi settlement accept {id}` or `pumasi settlement dispute {id}`; what is open of {} may fall short by one instance-hour, then it gets no lease here", dispute.said.borrower);
            tx.journal(note.because(hint).entry(&actor, clock::wall()))?;
        }
        Ok(())
    })
    .await?;
    Ok(problem)
}

fn readings(said: &Settlement) -> String {
    format!(
        "instance time {} ms here, {} ms there; {} to be paid; agreed: {}",
        said.lender_usage.instance_ms, said.borrower_usage.instance_ms, said.amount, said.agreed
    )
}

async fn sign(
    node: &Node,
    actor: &str,
    lent: &LentLease,
    said: &Settlement,
    document: SignedDocument,
    why: Option<String>,
) -> Result<SignedDocument, Problem> {
    let document = document.countersign(node.name(), &node.identity.key).map_err(|e| Problem::ours(e.to_string()))?;
    let (kept, id, text, actor) = (document.clone(), said.lease.clone(), readings(said), actor.to_owned());
    let service = lent.lease.service.clone();
    node.transact(move |tx| {
        let now = clock::now();
        let lent = tx.get::<LentLease>(LENT, id.as_str())?.ok_or_else(|| Problem::not_found("lent lease", &id))?;
        let settled = ledger::settle(&lent.body, now).map_err(refused)?;
        tx.put(LENT, id.as_str(), &settled, Expect::Any)?;
        tx.put(SETTLEMENT, id.as_str(), &kept, Expect::Any)?;
        tx.delete(DISPUTE, id.as_str(), Expect::Any)?;
        let mut note = Note::new("settled", "lease", &id).caused_by(&service).because(text);
        note.reasons.extend(why);
        tx.journal(note.entry(&actor, now.wall))?;
        Ok(())
    })
    .await?;
    Ok(document)
}

/// What a borrower's open settlements may fall short by, all together, before it gets nothing more: one instance for one hour. Without it
/// a crash on either side would part honest neighbours; with more, not paying would pay.
const SHORTFALL_MS_MAX: u64 = 3_600_000;

/// A borrower whose open settlements fall short by too much gets nothing more.
pub(super) fn within_trust(tx: &Tx<'_>, borrower: &CloudName) -> Result<(), TxError> {
    let open = tx.list::<Dispute>(DISPUTE)?;
    let short_by = |said: &Settlement| said.lender_usage.instance_ms.saturating_sub(said.borrower_usage.instance_ms);
    let theirs = || open.iter().map(|d| &d.body.said).filter(|said| &said.borrower == borrower);
    let shortfall_ms = theirs().fold(0u64, |sum, said| sum.saturating_add(short_by(said)));
    match theirs().next() {
        Some(said) if shortfall_ms > SHORTFALL_MS_MAX => {
            let text = format!(
                "settlements are open that fall short by {shortfall_ms} ms of instance time, that of {} among them: this cloud's operator has not accepted them",
                said.lease
            );
            Err(Problem::new(403, "settlement_open", Fault::Peer, text).into())
        }
        _ => Ok(()),
    }
}

pub fn open_settlements(node: &Node) -> Result<Vec<SettlementView>, Problem> {
    let open = node.store.list::<Dispute>(DISPUTE).map_err(|e| crate::node::store_problem(&e))?;
    Ok(open.into_iter().map(|d| d.body.view()).collect())
}

fn dispute_of(node: &Node, id: &LeaseId) -> Result<Dispute, Problem> {
    node.get::<Dispute>(DISPUTE, id.as_str())?.ok_or_else(|| Problem::not_found("open settlement", id))
}

/// An operator takes the lesser reading.
pub async fn accept_settlement(
    node: &Node,
    who: &Principal,
    id: LeaseId,
    why: String,
) -> Result<SettlementView, Problem> {
    let dispute = dispute_of(node, &id)?;
    let lent = super::lent(node, &id)?.ok_or_else(|| Problem::not_found("lent lease", &id))?;
    let why = if why.is_empty() { "accepted by an operator".to_owned() } else { why };
    sign(node, &who.to_string(), &lent, &dispute.said, dispute.document.clone(), Some(why)).await?;
    Ok(dispute.view())
}

/// An operator does not: nothing is signed, and it counts against the borrower until it is settled between people.
pub async fn dispute_settlement(
    node: &Node,
    who: &Principal,
    id: LeaseId,
    why: String,
) -> Result<SettlementView, Problem> {
    let mut dispute = dispute_of(node, &id)?;
    let actor = who.to_string();
    dispute.disputed = Some(why.clone());
    let view = dispute.view();
    node.transact(move |tx| {
        tx.put(DISPUTE, id.as_str(), &dispute, Expect::Any)?;
        let note = Note::new("settlement_disputed", "lease", &id).caused_by(&dispute.service).because(why);
        tx.journal(note.entry(&actor, clock::wall()))?;
        Ok(())
    })
    .await?;
    Ok(view)
}
