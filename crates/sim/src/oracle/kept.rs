//! Oracle 2, as far as standbys are concerned: what is kept ready is not lost because somebody was silent, slow or rebooted.
//!
//! A standby may hold the last copy there is. Only its owner's release, or the time that was promised, lets its lender end it.

use super::Seen;
use crate::cloud::Host;
use pumasi_lease::LentState;
use pumasi_lease::record::EndedBy;
use std::sync::Arc;

const ORACLE: &str = "2 kept";

pub(super) fn check(seen: &mut Seen, now_ms: u64, host: &Arc<Host>) {
    let Some(disk) = seen.disks.get(&host.name) else { return };
    let mut wrong = Vec::new();
    for lent in disk.lents() {
        let Some(standby) = lent.standby() else { continue };
        match lent.state {
            LentState::Ending { why } | LentState::Ended { why, .. } => match why {
                EndedBy::Release => {}
                // It is the service itself now.
                EndedBy::Handover if seen.handovers.values().any(|l| l == lent.id()) => {}
                EndedBy::Handover if seen.taken.contains(lent.id()) => {}
                // No run is as long as that.
                EndedBy::Retention if standby.retain_ms < now_ms => {}
                _ => wrong.push(format!("{} ended the standby {}: {why:?}", host.name, lent.id())),
            },
            LentState::Active | LentState::Recalled { .. } => {
                let complete = seen.complete.contains(lent.id());
                if complete && !host.dir.join("leases").join(lent.id().as_str()).exists() {
                    wrong.push(format!("{} has lost what it kept under {}", host.name, lent.id()));
                }
            }
            LentState::Settled { .. } => {}
        }
    }
    for what in wrong {
        seen.breaks(ORACLE, now_ms, what);
    }
}
