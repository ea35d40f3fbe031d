//! Oracle 4: whatever was acquired is released in the end, at both ends, also after crashes. And nothing is acquired without an end.

use super::{Known, Seen};
use crate::cloud::Host;
use pumasi_journey::PartState;
use pumasi_lease::LentState;
use pumasi_terms::{CloudName, LeaseId, Now};
use std::sync::Arc;

const ORACLE: &str = "4 release";
/// Between two ends a state is known a heartbeat or two later.
const TOLD_MS: u64 = 3_000;

/// A lease ends a bounded time from now, whatever happens.
pub(super) fn bounded(seen: &mut Seen, now_ms: u64, cloud: &CloudName, lease: &LeaseId, known: &Known) {
    let Some(lent) = seen.disks.get(cloud).and_then(|d| d.lent(lease)) else {
        return;
    };
    let boot = known.clock.now().boot;
    let left_ms = lent.expires_at.since(boot);
    if lent.usable() && left_ms > lent.lease.ttl_ms + 1 {
        seen.breaks(
            ORACLE,
            now_ms,
            format!("{cloud}: {lease} is good for {left_ms} ms more, {} were signed", lent.lease.ttl_ms),
        );
    }
    if let LentState::Recalled { deadline, .. } = &lent.state {
        let notice_ms = deadline.since(boot);
        if notice_ms > lent.lease.recall_notice_ms + 1 {
            seen.breaks(
                ORACLE,
                now_ms,
                format!("{cloud}: {lease} is recalled in {notice_ms} ms, {} were signed", lent.lease.recall_notice_ms),
            );
        }
    }
}

/// What a borrower holds for given back is given back.
pub(super) fn check(seen: &mut Seen, now_ms: u64, host: &Arc<Host>, _known: &Known) {
    let Some(disk) = seen.disks.get(&host.name) else { return };
    let mut wrong = Vec::new();
    for part in disk.journeys().flat_map(|j| &j.parts) {
        if let PartState::Ended { proven: true, .. } = part.state {
            let there = seen.disks.get(&part.lender).and_then(|d| d.lent(&part.lease));
            if there.is_some_and(|l| l.binds()) {
                wrong
                    .push(format!("{} holds {} for proven empty; {} still has it", host.name, part.lease, part.lender));
            }
        }
    }
    for what in wrong {
        seen.breaks(ORACLE, now_ms, what);
    }
    let _ = TOLD_MS;
}

pub(super) fn unfinished(seen: &Seen, host: &Arc<Host>, now: Now) -> Option<String> {
    let disk = seen.disks.get(&host.name)?;
    if let Some(journey) = disk.journeys().find(|j| j.is_open()) {
        return Some(format!(
            "{}: {} is still open: {:?}",
            host.name,
            journey.id,
            journey.parts.iter().map(|p| &p.state).collect::<Vec<_>>()
        ));
    }
    if let Some(lent) = disk.lents().find(|l| l.binds()) {
        return Some(format!("{}: {} still binds: {:?}", host.name, lent.id(), lent.state));
    }
    disk.holds().next().map(|hold| {
        let left_ms = hold.expires_at.since(now.boot);
        format!("{}: {} is still in the ledger, {left_ms} ms left", host.name, hold.id)
    })
}
