//! Oracle 9: both ledgers of a lease agree: while it runs, on whether it runs; at its end, on what was used.

use super::{Known, Oracles, Seen};
use crate::cloud::Host;
use pumasi_journey::PartState;
use pumasi_lease::LentState;
use pumasi_lease::document::Settlement;
use pumasi_terms::{BootMs, CloudName};
use std::collections::BTreeSet;
use std::sync::Arc;

const ORACLE: &str = "9 ledgers";
/// Clocks of two hosts may drift apart by this much within one lease's time.
const DRIFT_MS: u64 = 50;
const LOST_MS: u64 = 3_000;
/// Answers on their way.
const REQUESTS: u64 = 16;

/// What a borrower relies on is in its lender's ledger, and not for longer than there.
pub(super) fn check(seen: &mut Seen, now_ms: u64, host: &Arc<Host>, known: &Known, oracles: &Oracles) {
    let Some(disk) = seen.disks.get(&host.name) else { return };
    let mut wrong = Vec::new();
    for part in disk.journeys().flat_map(|j| &j.parts) {
        let relies = matches!(part.state, PartState::Sending | PartState::Starting | PartState::Serving);
        if !relies || part.expires_at <= known.clock.now().boot {
            continue;
        }
        let (Some(there), Some(lender)) = (seen.disks.get(&part.lender), oracles.known(&part.lender)) else { continue };
        if !there.is_of_this_boot(&lender.clock) {
            continue;
        }
        let Some(lent) = there.lent(&part.lease) else {
            wrong.push(format!("{} relies on {}, which {} has not written down", host.name, part.lease, part.lender));
            continue;
        };
        let there_ms = lent.expires_at.since(lender.clock.now().boot);
        // Read later, in real time: what passes in between is not held against it.
        let here_ms = part.expires_at.since(known.clock.now().boot);
        // A reboot made its use void, as it ends other leases; that is told with the next heartbeat.
        let forfeit = lent.standby().is_some() && lent.expires_at == BootMs(0);
        if matches!(lent.state, LentState::Active) && !forfeit && here_ms > there_ms + DRIFT_MS {
            wrong.push(format!(
                "{} takes {} for good for {here_ms} ms more, at {} it has {there_ms}",
                host.name, part.lease, part.lender
            ));
        }
    }
    for what in wrong {
        seen.breaks(ORACLE, now_ms, what);
    }
}

fn differ(settlement: &Settlement, slack_ms: u64) -> bool {
    let (there, here) = (settlement.lender_usage, settlement.borrower_usage);
    here.instance_ms > there.instance_ms + slack_ms || here.requests > there.requests + REQUESTS
}

fn usage(settlement: &Settlement) -> String {
    format!("{:?} there, {:?} here", settlement.lender_usage, settlement.borrower_usage)
}

/// What was signed at the end is the same at both ends, and says what both metered.
pub(super) fn at_end(seen: &mut Seen, now_ms: u64, host: &Arc<Host>, unhurt: &BTreeSet<CloudName>) {
    let Some(disk) = seen.disks.get(&host.name) else { return };
    // Who is cut off goes on counting by the last word, until the lease's time is over.
    let slack_ms = LOST_MS.max(seen.away_ms);
    let mut wrong = Vec::new();
    for part in disk.journeys().flat_map(|j| &j.parts) {
        if !matches!(part.state, PartState::Ended { settled: true, .. }) {
            continue;
        }
        let lease = &part.lease;
        let there = seen.disks.get(&part.lender);
        match (disk.settlement(lease), there.and_then(|d| d.settlement(lease))) {
            (Some(here), Some(there)) => {
                if here.unverified_payload() != there.unverified_payload() {
                    wrong.push(format!("{lease}: {} and {} keep different settlements", host.name, part.lender));
                    continue;
                }
                match serde_json::from_slice::<Settlement>(here.unverified_payload()) {
                    Err(e) => wrong.push(format!("{lease}: the settlement of {} does not read: {e}", host.name)),
                    // What faults took from the meters is told as a difference; without faults there must be none.
                    Ok(s) if !s.agreed && seen.faultless => {
                        wrong.push(format!("{lease}: the readings differ: {}", usage(&s)))
                    }
                    // What is heard of the other side is a heartbeat old, and a borrower's crash may cost its last second.
                    Ok(s) if unhurt.contains(&part.lender) && differ(&s, u64::from(part.granted) * slack_ms) => {
                        wrong.push(format!("{lease}: the readings differ too much: {}", usage(&s)));
                    }
                    Ok(_) => {}
                }
            }
            // Refused before it began: there is nothing to settle.
            (None, None) if there.is_none_or(|d| d.lents().all(|l| l.id() != lease)) => {}
            _ => wrong.push(format!("{lease} is settled at {}, and the document is not at both ends", host.name)),
        }
    }
    for what in wrong {
        seen.breaks(ORACLE, now_ms, what);
    }
}
