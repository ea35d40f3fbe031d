//! The instances of a service that is handed over stand still, so that nothing is written but by requests that wait.
//!
//! Enters: what the record of the move says, what gateway and engine do. Leaves: frozen instances, and those that go on again.
//! Always holds: until the heir is asked to commit the engine's own bound lets them go on, should this daemon die; from then on nothing
//! does but the heir's word, since they would write to data that may be another cloud's. What is not this cloud's any more never goes on.

use crate::object::ServiceRecord;
use crate::takeover::fence;
use crate::{Node, clock, moves, register};
use pumasi_api::Problem;
use pumasi_engine::Freeze;
use pumasi_journey::moving::{HOLD_MS_MAX, Move, READS_MS_MAX, Step};
use pumasi_sense::BackendKey;
use pumasi_terms::ServiceName;
use std::collections::BTreeSet;

/// After the hold would have ended: the daemon lets them go on by then, if it lives.
const MARGIN_MS: u64 = 500;

/// What is seen of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stillness {
    pub can: bool,
    pub still: bool,
    pub sealed: bool,
}

pub fn can(node: &Node) -> bool {
    node.engine.capabilities().freeze.is_some()
}

/// Freezes what the record says is to stand still. `caught`: the last of the data is at the heir.
pub async fn advance(node: &Node, m: &Move, service: &ServiceRecord, caught: bool) -> Stillness {
    let can = can(node);
    let (still, sealed) = match m.step {
        Step::Freezing if can && reads_ended(node, m).await => {
            let left_ms = HOLD_MS_MAX.saturating_sub(m.held_at.map_or(0, |at| clock::boot().since(at)));
            (freeze(node, m, service, Some(left_ms + MARGIN_MS)).await, false)
        }
        // It says as well whether they stood still all the time.
        Step::Catching if m.frozen && caught => (true, freeze(node, m, service, None).await),
        _ => (false, false),
    };
    Stillness { can, still, sealed }
}

async fn freeze(node: &Node, m: &Move, service: &ServiceRecord, at_most_ms: Option<u64>) -> bool {
    let asked = Freeze { name: m.freeze_name(), at_most_ms };
    let mut still = true;
    for owner in service.writers() {
        if let Err(e) = node.engine.freeze(&owner, &asked).await {
            tracing::debug!(service = %m.service, error = %e, "its instances do not stand still yet");
            still = false;
        }
    }
    still
}

/// Those that only read and were let in before have their answers, or had their time.
async fn reads_ended(node: &Node, m: &Move) -> bool {
    clock::boot().since(m.since) >= READS_MS_MAX || nothing_in_flight(node, &m.service).await
}

async fn nothing_in_flight(node: &Node, service: &ServiceName) -> bool {
    let Ok(status) = node.gateway.status().await else { return false };
    let own = status.services.iter().filter(|s| s.name == service.as_str()).flat_map(|s| &s.backends);
    let mut home = own.filter(|b| matches!(b.backend, BackendKey::Home(_)));
    home.all(|b| b.in_flight == 0 && b.streams == 0 && b.tunnels == 0)
}

/// Whether nothing of it may be started here: it would write.
pub fn stands_still(node: &Node, service: &ServiceRecord) -> bool {
    let holds = moves::of(node, service.name()).map(|m| m.is_some_and(|m| m.id == service.id && m.freezes()));
    // A record that cannot be read may be one.
    can(node) && !service.deleting && holds.unwrap_or(true)
}

/// Whether instances that were found frozen are to go on. Of what cannot be read nothing does.
fn goes_on(may_write: bool, held_by_a_move: Result<bool, Problem>) -> bool {
    may_write && !held_by_a_move.unwrap_or(true)
}

/// Lets go what neither a move nor the end of this cloud's right holds any more, whoever froze it.
pub async fn let_go(node: &Node) -> Result<(), Problem> {
    let frozen: BTreeSet<String> = node.instances.lock().iter().filter(|i| i.frozen).map(|i| i.owner.clone()).collect();
    if frozen.is_empty() {
        return Ok(());
    }
    for service in node.services()?.iter().filter(|s| s.writers().iter().any(|owner| frozen.contains(owner))) {
        let held = moves::of(node, service.name()).map(|m| m.is_some_and(|m| m.id == service.id && m.freezes()));
        let may = register::is_ours(node, service) && !fence::is_shut(node, service);
        if !goes_on(may, held) {
            continue;
        }
        for owner in service.writers().iter().filter(|owner| frozen.contains(*owner)) {
            if let Err(e) = node.engine.thaw(owner).await {
                tracing::warn!(service = %service.name(), error = %e, "its instances stand still and do not go on; tried again");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_go_on_only_where_it_is_known_that_they_may_write() {
        let unreadable = || Err(Problem::ours("unreadable"));
        assert!(goes_on(true, Ok(false)));
        for (owns, held) in [(true, Ok(true)), (false, Ok(false)), (false, Ok(true)), (true, unreadable())] {
            assert!(!goes_on(owns, held));
        }
    }
}
