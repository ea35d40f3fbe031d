//! A cloud that was lost and has returned gets its services back, by the planned road; so does one that gave a service up on purpose.
//!
//! Enters: services that this cloud took over, how their former owners stand. Leaves: moves.
//! Always holds: nothing goes back to a cloud on probation; a service whose move back was cancelled by a person stays.

use crate::object::ServiceRecord;
use crate::{Node, clock, moves, register};
use pumasi_api::Problem;
use pumasi_journey::moving::{Move, Step};
use pumasi_ownership::State;
use pumasi_ownership::state::{Cause, Standing};
use pumasi_terms::CloudName;

/// Who asks for these moves, in the journal.
pub const ASKED_BY: &str = "recovery";
/// After a move back that came to nothing.
const AGAIN_MS: u64 = 60_000;

pub(super) async fn reconcile(node: &Node) {
    if node.may_act().is_err() || node.automation_stopped() {
        return;
    }
    if let Err(e) = look(node).await {
        tracing::warn!(error = %e, "whether services go back to a cloud that returned was not looked at; tried again");
    }
}

async fn look(node: &Node) -> Result<(), Problem> {
    let Some(state) = node.voting.state() else { return Ok(()) };
    let services = node.services()?;
    for service in services.iter().filter(|s| register::is_ours(node, s) && s.taking.is_none() && !s.deleting) {
        let Some(to) = came_from(node, &state, service).filter(|to| is_back(node, &state, to)) else { continue };
        if may_begin(moves::of(node, service.name())?.as_deref(), service)
            && moves::check(node, service, &to).is_ok()
            && node.routes.serves(service.name())
        {
            moves::begin(node, ASKED_BY, service, to).await?;
        }
    }
    Ok(())
}

/// From whom it was taken at this epoch.
fn came_from(node: &Node, state: &State, service: &ServiceRecord) -> Option<CloudName> {
    let moved = state.last_move(&service.id).filter(|m| m.epoch == service.epoch)?;
    let returns = match moved.cause {
        Cause::Disaster => true,
        // Whoever could not go on with it says itself when it can.
        Cause::Failure => node.takeover.wanted.wants(&moved.from, &service.id),
        Cause::Handover => false,
    };
    returns.then(|| moved.from.clone())
}

fn is_back(node: &Node, state: &State, cloud: &CloudName) -> bool {
    let alive = state.clouds.get(cloud).is_some_and(|c| c.standing == Standing::Alive);
    alive && node.peers.of(cloud).trouble.is_none() && node.peers.of(cloud).heard_at.is_some()
}

fn may_begin(last: Option<&Move>, service: &ServiceRecord) -> bool {
    let Some(last) = last.filter(|m| m.id == service.id) else { return true };
    match &last.step {
        Step::Fronted { .. } => true,
        Step::Cancelled { .. } => last.asked_by == ASKED_BY && clock::boot().since(last.since) >= AGAIN_MS,
        _ => false,
    }
}
