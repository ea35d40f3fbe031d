//! Whether anything is under way in this cloud. Where nothing is, whoever only looks looks seldom, and all at the same instants.
//!
//! Enters: records, instances, the gateway's last word, words of change. Leaves: how long a loop rests.
//! Always holds: whatever moves without anybody's word counts as under way; where the engine tells of no changes, everything does; a
//! change that came while a loop was at work is not missed by its next rest.

use crate::object::{HOLD, MOVE};
use crate::{Node, clock, home, lender};
use pumasi_api::Problem;
use pumasi_engine::InstanceState;
use pumasi_journey::moving::Move;
use pumasi_lease::Hold;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks of those that a change would call, while nothing is under way.
pub const IDLE_MS: u64 = 2_000;
/// Changes come in bursts.
const BURST_MS: u64 = 5;

/// What calls a loop before its time.
#[derive(Debug)]
pub struct Rests {
    engine: Option<watch::Receiver<u64>>,
    store: watch::Receiver<u64>,
    stirred: watch::Receiver<u64>,
}

impl Rests {
    pub fn new(node: &Node) -> Self {
        Self { engine: node.engine.changes(), store: node.store.changed(), stirred: node.stirred.subscribe() }
    }

    /// `busy_ms` while anything is under way. Else until something changes, or the next whole `idle_ms` of the boot clock.
    pub async fn rest(&mut self, node: &Node, busy_ms: u64, idle_ms: u64) {
        self.rest_for(node, busy_ms, whole(idle_ms)).await;
    }

    pub async fn rest_for(&mut self, node: &Node, busy_ms: u64, idle: Duration) {
        let Some(engine) = self.engine.as_mut().filter(|_| is_quiet(node)) else {
            return tokio::time::sleep(Duration::from_millis(busy_ms)).await;
        };
        tokio::select! {
            biased;
            _ = engine.changed() => {}
            _ = self.store.changed() => {}
            _ = self.stirred.changed() => {}
            () = tokio::time::sleep(idle) => return,
        }
        tokio::time::sleep(Duration::from_millis(BURST_MS)).await;
        engine.borrow_and_update();
        self.store.borrow_and_update();
        self.stirred.borrow_and_update();
    }
}

/// To the next whole `ms` of the boot clock.
pub fn whole(ms: u64) -> Duration {
    Duration::from_millis(ms - clock::boot().0 % ms.max(1))
}

/// Whether nothing moves here unless somebody says so.
pub fn is_quiet(node: &Node) -> bool {
    node.gateway_down.lock().is_none() && !node.voting.is_on() && at_rest(node).unwrap_or(false)
}

fn at_rest(node: &Node) -> Result<bool, Problem> {
    let routed = node.gateway_status.lock().as_ref().is_some_and(|s| {
        s.table_revision == node.routes.revision() && !s.stopping && s.held.is_empty() && s.leaving.is_empty()
    });
    if !routed || !node.open_journeys()?.is_empty() || !lender::lents(node)?.is_empty() {
        return Ok(false);
    }
    let moves = node.items::<Move>(MOVE)?;
    if !node.items::<Hold>(HOLD)?.is_empty() || moves.iter().any(|m| m.is_open()) {
        return Ok(false);
    }
    let (services, instances) = (node.services()?, node.instances.get());
    let mut wanted = 0;
    for service in services.iter() {
        let want = home::wanted(node, service);
        let runs = |i: &&pumasi_engine::InstanceStatus| {
            i.owner == want.owner && i.generation == want.generation && i.state == InstanceState::Ready && !i.prepared
        };
        let ready = instances.iter().filter(runs).count();
        if service.deleting || service.taking.is_some() || ready != want.count as usize {
            return Ok(false);
        }
        wanted += ready;
    }
    Ok(services.unreadable().is_empty() && instances.len() == wanted)
}
