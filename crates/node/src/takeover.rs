//! Services that the voters of a pact look after: their owners enter them into the register, the others take them over from a cloud that
//! is lost, and give them back when it has returned.
//!
//! Enters: the register, the standbys that there are, what clouds hear and have. Leaves: commands for the register, services that
//! become this cloud's own, moves that bring them back.
//!
//! Always holds:
//! - A service is bound to the right that the register gives before it is entered there, so that its owner cannot write past its loss.
//! - A loss is proposed with the word of a majority of voters that heard nothing; others than the leader propose none.
//! - What a cloud takes it takes by the committed register alone, in one transaction; each step may be cut off and taken again.
//!
//! `protect` is the owner's side, `in_sync` keeps the set of those that have every acknowledged write, `judge` the leader's, `take` the
//! heir's, `back` what follows when the lost cloud returns; `rehearse` asks what would happen, `daily` does so by itself, `approve` lets an
//! operator agree where the pact asks, `by_hand` act where it does not vote; `fence` holds still what has lost its right; `room` makes way
//! for what was taken over; `stalled` gives up a service whose disk takes no write; `game_day`
//! gives one up on purpose.

pub mod approve;
pub mod back;
pub mod by_hand;
pub mod daily;
pub mod fence;
pub mod game_day;
pub mod in_sync;
pub mod judge;
pub mod protect;
pub mod rehearse;
pub mod report;
pub mod room;
pub mod stalled;
pub mod take;

use crate::node::Locked;
use crate::{Node, clock, quiet, routes};
use pumasi_terms::{BootMs, CloudName, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What does not follow from the register is looked at so often.
const LOOK_MS: u64 = 250;
/// After a command that was refused, or came to nothing.
const RETRY_MS: u64 = 2_000;

#[derive(Debug, Default)]
pub struct Takeover {
    /// Why a service is not entered as it should be, and when it is tried again.
    refused: Locked<BTreeMap<ServiceId, (String, BootMs)>>,
    /// Commands of the owner are under way.
    busy: AtomicBool,
    /// Services that were handed over to this cloud and are not its own yet, since when.
    awaited: Locked<BTreeMap<ServiceId, BootMs>>,
    /// Services that this cloud is to take over and cannot.
    stuck: Locked<BTreeMap<ServiceId, take::Stuck>>,
    /// What would become of this cloud's services, as it was asked last.
    pub(crate) rehearsed: daily::Last,
    /// What stands back for services that were taken over.
    pub(crate) room: room::Room,
    /// What other clouds want back from this one after a game day.
    pub(crate) wanted: game_day::Wanted,
    /// Whether datasets take writes.
    pub(crate) probes: stalled::Probes,
    /// Services of this cloud that are kept in step.
    pub(crate) kept: Locked<BTreeMap<ServiceId, in_sync::Kept>>,
    pub(crate) inquiries: judge::Inquiries,
    /// Services, and whose word it was that they were taken over by hand: it was not believed.
    pub(crate) disbelieved: Locked<BTreeSet<(ServiceId, CloudName)>>,
    /// When this process began to look.
    pub(crate) since: Locked<Option<BootMs>>,
}

impl Takeover {
    /// Why the pact does not look after services as it should, for people.
    pub fn remarks(&self) -> Vec<String> {
        let refused = self.refused.lock().values().map(|(why, _)| why.clone()).collect::<Vec<_>>();
        refused
            .into_iter()
            .chain(self.stuck.lock().values().map(|s| s.why.clone()))
            .chain(self.room.remarks())
            .chain(self.probes.remarks())
            .chain(self.rehearsed.remarks())
            .collect()
    }
}

/// Follows the register.
pub async fn run(node: Arc<Node>) {
    let (mut stopping, mut changed) = (node.stopping.clone(), node.voting.changed());
    node.takeover.since.lock().get_or_insert_with(clock::boot);
    while !*stopping.borrow() {
        let is_on = node.voting.is_on();
        if is_on {
            // The end of the right moves with each answered renewal.
            if let Err(e) = routes::tell_tenure(&node).await {
                tracing::warn!(error = %e, "the gateway was not told until when this cloud may write; told again");
            }
            fence::reconcile(&node).await;
            take::reconcile(&node).await;
            beside(&node);
        }
        let rest = match is_on {
            true => fence::look_within(&node, Duration::from_millis(LOOK_MS)),
            false => quiet::whole(RETRY_MS),
        };
        tokio::select! {
            biased;
            _ = stopping.changed() => return,
            _ = changed.changed() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// What waits for the register's answers does not hold up what follows from it.
fn beside(node: &Arc<Node>) {
    if node.takeover.busy.swap(true, Ordering::Relaxed) {
        return;
    }
    let node = node.clone();
    crate::world::spawn(async move {
        protect::reconcile(&node).await;
        back::reconcile(&node).await;
        daily::reconcile(&node).await;
        game_day::reconcile(&node).await;
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        node.takeover.busy.store(false, Ordering::Relaxed);
    });
}

fn waits(node: &Node, service: &ServiceId) -> bool {
    node.takeover.refused.lock().get(service).is_some_and(|(_, until)| clock::boot() < *until)
}
