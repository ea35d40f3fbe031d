//! Leaving: by this cloud's own signature, when nothing of others is here and nothing of its own there.

use super::adopt::forget;
use super::{held, load, may_sign, notices, one_at_a_time, overtaken, state, view};
use crate::node::Note;
use crate::object::{JOURNEY, LENT};
use crate::{Node, clock};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_journey::Journey;
use pumasi_lease::LentLease;

/// Nothing of others' runs here, and nothing of ours there.
pub(super) fn nothing_open(node: &Node) -> Result<(), Problem> {
    let problem = |e: pumasi_store::StoreError| crate::node::store_problem(&e);
    let lent = node.store.list::<LentLease>(LENT).map_err(problem)?;
    let journeys = node.store.list::<Journey>(JOURNEY).map_err(problem)?;
    let lent = lent.iter().filter(|l| l.body.binds()).map(|l| format!("{} (lent)", l.body.id()));
    let open = journeys.iter().filter(|j| j.body.is_open());
    // A lease whose time is over by this cloud's clock holds nobody, even where its lender never answers again.
    let runs = |p: &&pumasi_journey::Part| !p.is_over() && (p.is_hopeful() || p.expires_at > clock::boot());
    let rented = open.flat_map(|j| &j.body.parts).filter(runs).map(|p| format!("{} (rented)", p.lease));
    let owned = node.voting.state().map_or(0, |s| s.owned_by(node.name()).count());
    if owned > 0 {
        let text = format!(
            "the register says that this cloud owns {owned} services that it protects; move them, or end their protection, then leave"
        );
        return Err(Problem::new(409, "owns_services", Fault::Input, text));
    }
    let all: Vec<String> = lent.chain(rented).collect();
    if all.is_empty() {
        return Ok(());
    }
    let text = format!("leases are open: {}; recall or cancel them, then leave", all.join(", "));
    Err(Problem::new(409, "leases_open", Fault::Input, text))
}

/// Nobody is asked; the last member just goes.
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
    notices::part(node, who, &view).await
}
