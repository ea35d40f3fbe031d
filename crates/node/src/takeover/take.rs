//! What the register gives to this cloud becomes its own: the heir's side of a takeover.
//!
//! Enters: services that the register says are this cloud's, the standbys that are here. Leaves: their records, which promotion and
//! instances follow from.
//! Always holds: a service is entered at the epoch of the register and no other, in the transaction that ends the standby's lease; what
//! this cloud had of it from an earlier time, and never handed on, is set aside for good.

use crate::lender::{self, heir};
use crate::node::Note;
use crate::object::ServiceRecord;
use crate::{Node, clock};
use pumasi_api::Problem;
use pumasi_ownership::state::{Cause, Standing};
use pumasi_ownership::{Owned, State};
use pumasi_terms::ServiceId;

/// A handover is completed by both clouds' signatures; if the former owner does not ask for so long, or is lost, the register is enough.
const SIGNED_WITHIN_MS: u64 = 3_000;

pub(super) async fn reconcile(node: &Node) {
    let Some(state) = node.voting.state() else { return };
    if node.may_act().is_err() {
        return;
    }
    let services = match node.services() {
        Ok(services) => services,
        Err(e) => {
            return tracing::warn!(error = %e, "what the register gives to this cloud was not looked at; tried again");
        }
    };
    let given = state.owned_by(node.name()).filter(|(id, owned)| {
        services.iter().find(|s| &s.id == *id).is_none_or(|s: &std::sync::Arc<ServiceRecord>| s.epoch < owned.epoch)
    });
    for (id, owned) in given {
        if !is_due(node, &state, id) {
            continue;
        }
        let taken = take(node, &state, id, owned).await;
        let mut told = node.takeover.told.lock();
        match taken {
            Ok(()) => drop(told.remove(id)),
            Err(e) if told.get(id) == Some(&e.to_string()) => {}
            Err(e) => {
                tracing::error!(service = %owned.agreed.name, error = %e, "this cloud is to take over a service and cannot; tried again");
                told.insert(id.clone(), e.to_string());
            }
        }
    }
    node.takeover.awaited.lock().retain(|id, _| state.services.get(id).is_some_and(|o| &o.owner == node.name()));
}

fn is_due(node: &Node, state: &State, id: &ServiceId) -> bool {
    let Some(moved) = state.last_move(id).filter(|m| m.cause == Cause::Handover) else { return true };
    let now = clock::boot();
    let since = *node.takeover.awaited.lock().entry(id.clone()).or_insert(now);
    let is_lost = state.clouds.get(&moved.from).is_none_or(|c| !matches!(c.standing, Standing::Alive));
    is_lost || now.since(since) >= SIGNED_WITHIN_MS
}

async fn take(node: &Node, state: &State, id: &ServiceId, owned: &Owned) -> Result<(), Problem> {
    let name = &owned.agreed.name;
    let seat = owned.agreed.standby(node.name());
    let seat = seat
        .ok_or_else(|| Problem::ours(format!("the register gives {name} to this cloud, which is no standby of it")))?;
    let lent = lender::lent(node, &seat.lease)?;
    let lent =
        lent.ok_or_else(|| Problem::ours(format!("{}, which kept {name} ready here, is not known", seat.lease)))?;
    let moved = state.last_move(id);
    let from = moved.map_or_else(|| lent.lease.borrower.clone(), |m| m.from.clone());
    let why = match moved.map(|m| m.cause) {
        Some(Cause::Failure) => format!("{from} has stopped writing for it"),
        Some(Cause::Handover) => format!("{from} hands it over"),
        Some(Cause::Disaster) | None => format!("the pact's voters agree that {from} is lost"),
    };
    let entry = heir::Entry {
        id: id.clone(),
        service: name.clone(),
        from,
        to: node.name().clone(),
        epoch: owned.epoch,
        lease: seat.lease.clone(),
        registered: true,
    };
    let note = Note::new("tenure_taken", "service", name)
        .because(format!("{why}: this cloud owns it at epoch {}", owned.epoch));
    heir::enter(node, &lent, entry, note).await?;
    node.moves.opens_here(name);
    node.wake.notify_one();
    Ok(())
}
