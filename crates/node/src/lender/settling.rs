//! The bill at the lender: signed by itself where both ledgers agree, by a person where they do not.
//!
//! Enters: a borrower's settlement, an operator's word. Leaves: the settlement that both signed.
//! Always holds: a reading that falls short of ours beyond the tolerance is never countersigned by the daemon alone; a borrower that owes
//! more than an instance-hour, by readings that fall short or by leases for which it sent none, gets nothing more here until an operator
//! has accepted that.

use super::{Lents, pact, refused};
use crate::node::{Note, TxError};
use crate::object::{DISPUTE, Dispute, LENT, SETTLEMENT};
use crate::{Node, clock};
use pumasi_api::message::SettlementView;
use pumasi_api::{Fault, Principal, Problem};
use pumasi_lease::document::Settlement;
use pumasi_lease::{LentLease, LentState, Usage, ledger, meter};
use pumasi_store::{Expect, Tx};
use pumasi_terms::{CloudName, LeaseId, WallMs};
use pumasi_trust::SignedDocument;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The borrower's proposal, countersigned, or why not.
pub async fn settle(
    node: &Node,
    borrower: CloudName,
    lent: Arc<LentLease>,
    document: SignedDocument,
) -> Result<SignedDocument, Problem> {
    let id = lent.id().clone();
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
            format!("{id}: this side metered {}; settle over that", lent.usage),
        ));
    }
    let actor = Principal::Peer(borrower.clone()).to_string();
    // What was written off already is lost: whatever is offered for it is more.
    let written_off = matches!(lent.state, LentState::Settled { .. });
    if !written_off && meter::falls_short(lent.lease.instances, &ours.lender_usage, &ours.borrower_usage) {
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
        if old.as_ref().is_some_and(|o| o.said == dispute.said) {
            return Ok(());
        }
        let (since, disputed) = old.as_ref().map_or((dispute.since, None), |o| (o.since, o.disputed.clone()));
        let borrower = dispute.said.borrower.clone();
        tx.put(DISPUTE, id.as_str(), &Dispute { since, disputed, ..dispute }, Expect::Any)?;
        if old.is_none() {
            let note = Note::new("settlement_open", "lease", &id).caused_by(cause).because(text);
            let hint = format!("`pumasi settlement accept {id}` or `pumasi settlement dispute {id}`; what is open of {borrower} may fall short by one instance-hour, then it gets no lease here");
            tx.journal(note.because(hint).entry(&actor, clock::wall()))?;
        }
        Ok(())
    })
    .await?;
    Ok(problem)
}

fn readings(said: &Settlement) -> String {
    format!(
        "instance time {} ms here, {} ms there; {} to be paid",
        said.lender_usage.instance_ms, said.borrower_usage.instance_ms, said.amount
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

/// What a borrower may owe before it gets nothing more: one instance for one hour. Without it a crash on either side would part honest
/// neighbours; with more, not paying would pay.
const SHORTFALL_MS_MAX: u64 = 3_600_000;

/// A daemon proposes the settlement seconds after the end. One that was away and is back needs a while.
const UNSETTLED_MS_MAX: u64 = 3_600_000;

/// Since when a settlement is overdue: the lease is over, and its borrower proposes none.
fn overdue(lent: &LentLease, now: WallMs) -> Option<WallMs> {
    match lent.state {
        LentState::Ended { at, .. } if now.since(at) >= UNSETTLED_MS_MAX => Some(at),
        _ => None,
    }
}

/// Leases of which the borrower sent no settlement in time.
fn unsettled<'a>(
    lents: impl Iterator<Item = &'a Arc<LentLease>>,
    open: &[Dispute],
    now: WallMs,
) -> Vec<(Arc<LentLease>, WallMs)> {
    let proposed: BTreeSet<&LeaseId> = open.iter().map(|d| &d.said.lease).collect();
    let late = lents.filter_map(|l| overdue(l, now).map(|at| (l.clone(), at)));
    late.filter(|(l, _)| !proposed.contains(l.id())).collect()
}

/// A borrower that owes too much gets nothing more.
pub(super) fn within_trust(tx: &Tx<'_>, lents: &Lents, borrower: &CloudName) -> Result<(), TxError> {
    let open: Vec<Dispute> = tx.list::<Dispute>(DISPUTE)?.into_iter().map(|d| d.body).collect();
    let short_by = |said: &Settlement| said.lender_usage.instance_ms.saturating_sub(said.borrower_usage.instance_ms);
    let disputes = open.iter().map(|d| &d.said).filter(|said| &said.borrower == borrower);
    let mut owed: Vec<(LeaseId, u64)> = disputes.map(|said| (said.lease.clone(), short_by(said))).collect();
    let late = lents.book(tx, |book| unsettled(book.leases_of(borrower), &open, clock::wall()))?;
    owed.extend(late.into_iter().map(|(l, _)| (l.id().clone(), l.usage.instance_ms)));
    let owed_ms = owed.iter().fold(0u64, |sum, (_, ms)| sum.saturating_add(*ms));
    match owed.into_iter().max_by_key(|(_, ms)| *ms) {
        Some((lease, _)) if owed_ms > SHORTFALL_MS_MAX => {
            let text = format!(
                "{owed_ms} ms of instance time are not settled, those of {lease} among them: propose the settlement, or ask this cloud's operator to accept"
            );
            Err(Problem::new(403, "settlement_open", Fault::Peer, text).into())
        }
        _ => Ok(()),
    }
}

/// What waits for an operator, or for a borrower that is late.
pub fn open_settlements(node: &Node) -> Result<Vec<SettlementView>, Problem> {
    let open = node.store.list::<Dispute>(DISPUTE).map_err(|e| crate::node::store_problem(&e))?;
    let open: Vec<Dispute> = open.into_iter().map(|d| d.body).collect();
    let lents = super::lents(node)?;
    let late = unsettled(lents.iter(), &open, clock::wall());
    let late = late.into_iter().map(|(l, at)| missing(&l, at));
    Ok(open.iter().map(Dispute::view).chain(late).collect())
}

/// A settlement that was not proposed.
fn missing(lent: &LentLease, since: WallMs) -> SettlementView {
    let said = meter::settlement(&lent.lease, lent.usage, Usage::default(), since);
    SettlementView {
        lease: said.lease,
        service: lent.lease.service.clone(),
        borrower: said.borrower,
        lender: said.lender,
        lender_instance_ms: said.lender_usage.instance_ms,
        borrower_instance_ms: None,
        amount: said.amount,
        since,
        disputed: None,
    }
}

fn dispute_of(node: &Node, id: &LeaseId) -> Result<Dispute, Problem> {
    node.get::<Dispute>(DISPUTE, id.as_str())?.ok_or_else(|| Problem::not_found("open settlement", id))
}

/// An operator takes the lesser reading; where the borrower sent none in time, nothing is paid and the lease is closed.
pub async fn accept_settlement(
    node: &Node,
    who: &Principal,
    id: LeaseId,
    why: String,
) -> Result<SettlementView, Problem> {
    let lent = super::lent(node, &id)?.ok_or_else(|| Problem::not_found("lent lease", &id))?;
    let why = if why.is_empty() { "accepted by an operator".to_owned() } else { why };
    let Some(dispute) = node.get::<Dispute>(DISPUTE, id.as_str())? else {
        let since = overdue(&lent, clock::wall()).ok_or_else(|| Problem::not_found("open settlement", &id))?;
        write_off(node, who, &lent, why).await?;
        return Ok(missing(&lent, since));
    };
    let said = &dispute.said;
    if *said != meter::settlement(&lent.lease, lent.usage, said.borrower_usage, said.created_at) {
        let text = format!(
            "{id}: this side's reading is {} now and the proposal names another; the borrower is asked for a new one when it calls",
            lent.usage
        );
        return Err(Problem::conflict(text));
    }
    sign(node, &who.to_string(), &lent, said, dispute.document.clone(), Some(why)).await?;
    Ok(dispute.view())
}

/// Closed by this side alone.
async fn write_off(node: &Node, who: &Principal, lent: &LentLease, why: String) -> Result<(), Problem> {
    let (actor, id, service) = (who.to_string(), lent.id().clone(), lent.lease.service.clone());
    node.transact(move |tx| {
        let now = clock::now();
        let lent = tx.get::<LentLease>(LENT, id.as_str())?.ok_or_else(|| Problem::not_found("lent lease", &id))?;
        let text = format!("{} ms of instance time are not paid: no settlement came", lent.body.usage.instance_ms);
        tx.put(LENT, id.as_str(), &ledger::settle(&lent.body, now).map_err(refused)?, Expect::Any)?;
        let note = Note::new("settlement_written_off", "lease", &id).caused_by(&service).because(text).because(why);
        tx.journal(note.entry(&actor, now.wall))?;
        Ok(())
    })
    .await
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
