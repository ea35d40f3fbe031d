//! A fleet: the instances of one owner, here. The same for a service at home and for a lent lease.
//!
//! Enters: how many of which generation are wanted, what the engine says, what the gateway still sends. Leaves: starts, drains, stops.
//! Always holds: an instance is stopped only after the gateway sends it nothing more, or after the drain's bound; a new generation takes
//! over one by one, and never by stopping the last instance that is ready.

use crate::{Node, clock, gateway};
use pumasi_engine::{EngineError, InstanceSpec, InstanceState, InstanceStatus};
use pumasi_terms::InstanceId;
use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub owner: String,
    pub count: u32,
    pub generation: u64,
}

/// What to do about a fleet now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Instances to be started anew.
    pub start: u32,
    /// Given no new requests.
    pub drain: BTreeSet<InstanceId>,
    /// Let begin: they were prepared for this.
    pub begin: BTreeSet<InstanceId>,
    /// Revived: their shim was lost.
    pub revive: BTreeSet<InstanceId>,
    /// Stopped already, or never to run: to be erased.
    pub remove: BTreeSet<InstanceId>,
}

/// Pure: from what is wanted and what is there.
pub fn decide(want: &Desired, actual: &[InstanceStatus]) -> Decision {
    let own: Vec<&InstanceStatus> = actual.iter().filter(|i| i.owner == want.owner).collect();
    let mut decision = Decision::default();
    let gone = |i: &InstanceStatus| matches!(i.state, InstanceState::Stopped { .. });
    decision.remove.extend(own.iter().filter(|i| gone(i)).map(|i| i.id.clone()));
    let live: Vec<&InstanceStatus> = own.into_iter().filter(|i| !gone(i)).collect();
    let (mut current, old): (Vec<_>, Vec<_>) = live.into_iter().partition(|i| i.generation == want.generation);
    // Those that serve are kept before those that do not, and those that can begin at once before the others; ids make it deterministic.
    let waits = |i: &InstanceStatus| i.prepared && i.state == InstanceState::Starting;
    current.sort_by_key(|i| (i.state != InstanceState::Ready, !waits(i), i.id.clone()));
    let count = want.count as usize;
    let ready = current.iter().take(count).filter(|i| i.state == InstanceState::Ready).count();
    decision.drain.extend(current.iter().skip(count).map(|i| i.id.clone()));
    let failed = |i: &&&InstanceStatus| matches!(i.state, InstanceState::Failed { .. });
    decision.begin.extend(current.iter().take(count).filter(|i| waits(i)).map(|i| i.id.clone()));
    decision.revive.extend(current.iter().take(count).filter(failed).map(|i| i.id.clone()));
    let missing = count.saturating_sub(current.len());
    let coming = current.len().min(count) - ready;
    // Beside an old generation one at a time comes up, so that the room for a whole second fleet is not needed.
    decision.start = match old.is_empty() {
        true => missing as u32,
        false => u32::from(missing > 0 && coming == 0),
    };
    let mut old = old;
    old.sort_by_key(|i| (i.state == InstanceState::Ready, i.id.clone()));
    let keep = count.saturating_sub(ready);
    decision.drain.extend(old.iter().take(old.len().saturating_sub(keep)).map(|i| i.id.clone()));
    decision
}

/// Instances that the gateway may send new requests to.
pub fn routable<'a>(want: &Desired, actual: &'a [InstanceStatus]) -> Vec<(&'a InstanceStatus, bool)> {
    let decision = decide(want, actual);
    actual
        .iter()
        .filter(|i| i.owner == want.owner && i.state == InstanceState::Ready && i.address.is_some())
        .map(|i| (i, decision.drain.contains(&i.id)))
        .collect()
}

/// Does what `decide` says; safe to be cut off and called again.
pub async fn reconcile(node: &Node, want: &Desired, spec: impl Fn(InstanceId) -> InstanceSpec) {
    let actual = node.instances.get();
    let decision = decide(want, &actual);
    if node.troubles.may_start(&want.owner, want.generation, clock::boot()) {
        let fresh = (0..decision.start).map(|_| InstanceId::from_entropy(clock::entropy()));
        let known = decision.begin.iter().chain(&decision.revive).cloned();
        let ids: Vec<InstanceId> = known.chain(fresh).collect();
        match start_all(node, ids, spec).await {
            Ok(()) => node.troubles.accepted(&want.owner),
            Err(e) => node.troubles.refused(&want.owner, want.generation, e.reason(), clock::boot()),
        }
    }
    end(node, &decision).await;
}

/// `but_prepared`: those that stand before their first instruction stay so.
pub async fn reconcile_to_nothing(node: &Node, owner: &str, but_prepared: bool) {
    let mut actual = node.instances.get();
    actual.retain(|i| !(but_prepared && i.prepared));
    end(node, &decide(&Desired { owner: owner.to_owned(), count: 0, generation: 0 }, &actual)).await;
}

/// The first that is refused ends it: the others are of the same spec.
async fn start_all(
    node: &Node,
    ids: Vec<InstanceId>,
    spec: impl Fn(InstanceId) -> InstanceSpec,
) -> Result<(), EngineError> {
    for id in ids {
        let started = node.engine.start(spec(id.clone())).await;
        refresh(node).await;
        match started {
            Ok(()) => node.wake.notify_one(),
            Err(EngineError::Replacing { .. }) => {}
            // Its shim is gone, and its spec was made by another version of this daemon: another instance takes its place.
            Err(EngineError::Conflict { .. }) => node.engine.stop(&id).await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

async fn end(node: &Node, decision: &Decision) {
    let frozen: BTreeSet<InstanceId> =
        node.instances.lock().iter().filter(|i| i.frozen).map(|i| i.id.clone()).collect();
    for id in &decision.drain {
        // What stands still for a move that is over answers nobody any more: who waits for it is answered by the heir.
        if (frozen.contains(id) || gateway::instance_is_quiet(node, id))
            && let Err(e) = node.engine.stop(id).await
        {
            tracing::warn!(instance = %id, error = %e, "an instance was not stopped; tried again");
        }
    }
    for id in &decision.remove {
        if let Err(e) = node.engine.remove(id).await {
            tracing::warn!(instance = %id, error = %e, "a stopped instance was not erased; tried again");
        }
    }
}

/// Asks the engine what there is. The answer is what every decision of this round rests on.
pub async fn refresh(node: &Node) {
    match node.engine.list().await {
        Ok(instances) => {
            node.starts.saw(&instances);
            node.instances.set(instances);
        }
        Err(e) => tracing::warn!(error = %e, "the engine did not list its instances; the last list is used"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn status(id: u128, generation: u64, state: InstanceState) -> InstanceStatus {
        InstanceStatus {
            id: InstanceId::from_entropy(id),
            owner: "service-x".into(),
            generation,
            state,
            trouble: None,
            address: None,
            door: None,
            protocol: Default::default(),
            frozen: false,
            prepared: false,
            pid: None,
            started_at: None,
            restarts: 0,
            was_ready: false,
            last_exit: None,
            cpu_used_us: 0,
            memory_bytes: 0,
            memory_max_bytes: 0,
        }
    }

    fn want(count: u32, generation: u64) -> Desired {
        Desired { owner: "service-x".into(), count, generation }
    }

    #[test]
    fn an_empty_fleet_is_started_at_once() {
        assert_eq!(decide(&want(3, 1), &[]).start, 3);
    }

    #[test]
    fn a_new_generation_takes_over_one_by_one() {
        let mut fleet = vec![status(1, 1, InstanceState::Ready), status(2, 1, InstanceState::Ready)];
        let first = decide(&want(2, 2), &fleet);
        assert_eq!((first.start, first.drain.len()), (1, 0));
        fleet.push(status(3, 2, InstanceState::Starting));
        let waiting = decide(&want(2, 2), &fleet);
        assert_eq!((waiting.start, waiting.drain.len()), (0, 0));
        fleet[2].state = InstanceState::Ready;
        let second = decide(&want(2, 2), &fleet);
        assert_eq!((second.start, second.drain.len()), (1, 1));
    }

    #[test]
    fn the_surplus_drains_and_the_stopped_are_erased() {
        let fleet = [
            status(1, 1, InstanceState::Ready),
            status(2, 1, InstanceState::Starting),
            status(3, 1, InstanceState::Stopped { exit: None }),
        ];
        let decision = decide(&want(1, 1), &fleet);
        assert_eq!(decision.drain, BTreeSet::from([InstanceId::from_entropy(2)]));
        assert_eq!(decision.remove, BTreeSet::from([InstanceId::from_entropy(3)]));
    }

    #[test]
    fn what_is_prepared_begins_before_anything_is_started() {
        let prepared = |id| InstanceStatus { prepared: true, ..status(id, 1, InstanceState::Starting) };
        let fleet = [
            status(1, 1, InstanceState::Unready { why: "stopping".into() }),
            prepared(2),
            status(3, 1, InstanceState::Ready),
            prepared(4),
        ];
        let ids = |ids: &[u128]| ids.iter().map(|id| InstanceId::from_entropy(*id)).collect::<BTreeSet<_>>();
        let decision = decide(&want(2, 1), &fleet);
        assert_eq!((decision.begin, decision.start, decision.drain), (ids(&[2]), 0, ids(&[1, 4])));
        // What nobody wants any more ends like anything else, and what is of another time does not begin.
        let decision = decide(&want(0, 1), &fleet[1..2]);
        assert_eq!((decision.begin, decision.drain), (ids(&[]), ids(&[2])));
        assert_eq!(decide(&want(1, 2), &fleet[1..2]).begin, ids(&[]));
    }

    #[test]
    fn an_old_generation_that_alone_is_ready_stays() {
        let fleet = [
            status(1, 1, InstanceState::Ready),
            status(2, 2, InstanceState::BackingOff { restarts: 3, why: "it exits".into() }),
        ];
        assert!(decide(&want(1, 2), &fleet).drain.is_empty());
    }
}
