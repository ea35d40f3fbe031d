//! Instances of a service stand still while this cloud's right to it is over: what they do by themselves would be done twice.
//!
//! Enters: the end of the right, the instances that run. Leaves: frozen instances, which go on once there is a right again.
//! Always holds: what is frozen here goes on only by a daemon that has a right for it (or ends, where another cloud owns it by now); a
//! restart of this daemon alone, with its voters in reach, freezes nothing.

use crate::moves::freeze;
use crate::object::ServiceRecord;
use crate::{Node, clock, register};
use pumasi_engine::{Freeze, InstanceStatus};
use pumasi_terms::BootMs;
use std::time::Duration;

/// The gateway has its table without them after so long; who reads meanwhile waits in vain.
const TABLE_MS_MAX: u64 = 40;
const TABLE_LOOK_MS: u64 = 4;

/// Whether nothing of a service may run on here, since others may own it at any moment.
pub fn is_shut(node: &Node, service: &ServiceRecord) -> bool {
    let Some(group) = node.voting.group() else { return false };
    let Some(until) = register::right_until(node, service) else { return false };
    let since = node.takeover.since.get().unwrap_or_else(clock::boot);
    let settled = is_settled(since, group.timers().ttl_ms, clock::boot());
    freeze::can(node) && settled && clock::boot() >= until && register::is_ours(node, service)
}

/// A process that began just now has asked for a right and has no answer yet.
fn is_settled(since: BootMs, ttl_ms: u64, now: BootMs) -> bool {
    now.since(since) >= ttl_ms
}

/// When it must be looked at again, as far as that is known: the end of the right.
pub(super) fn look_within(node: &Node, at_most: Duration) -> Duration {
    let left_ms = node.voting.right_until().map(|until| until.since(clock::boot())).filter(|ms| *ms > 0);
    left_ms.map_or(at_most, |ms| at_most.min(Duration::from_millis(ms)))
}

pub(super) async fn reconcile(node: &Node) {
    let Ok(services) = node.services() else { return };
    for service in services.iter().filter(|s| s.registered && is_shut(node, s)) {
        let runs: Vec<String> = {
            let instances = node.instances.lock();
            let moves = |i: &&InstanceStatus| i.address.is_some() && !i.frozen && !i.prepared;
            let of = |owner: &String| instances.iter().filter(moves).any(|i| &i.owner == owner);
            service.writers().into_iter().filter(of).collect()
        };
        if runs.is_empty() {
            continue;
        }
        out_of_the_table(node, service).await;
        let freeze = Freeze { name: format!("right-{}", service.epoch), at_most_ms: None };
        for owner in &runs {
            match node.engine.freeze(owner, &freeze).await {
                Ok(()) => {
                    tracing::warn!(service = %service.name(), %owner, "this cloud's right to write is over: its instances stand still until it has one again");
                }
                Err(e) => {
                    tracing::warn!(service = %service.name(), %owner, error = %e, "its instances do not stand still yet; tried again")
                }
            }
        }
        crate::fleet::refresh(node).await;
    }
}

/// Who reads is refused, instead of waiting for an instance that does not run.
async fn out_of_the_table(node: &Node, service: &ServiceRecord) {
    node.wake.notify_one();
    let until = tokio::time::Instant::now() + Duration::from_millis(TABLE_MS_MAX);
    while node.routes.serves(service.name()) && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(TABLE_LOOK_MS)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_just_began_waits_for_its_first_right() {
        let settled = |now| is_settled(BootMs(1_000), 2_200, BootMs(now));
        assert_eq!([1_000, 3_199, 3_200].map(settled), [false, false, true]);
    }
}
