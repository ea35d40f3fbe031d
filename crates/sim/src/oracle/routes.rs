//! Oracle 5: no route leads to an instance without an active lease or local right.

use super::{Known, Seen};
use pumasi_lease::record::EndedBy;
use pumasi_lease::{LentLease, LentState};
use pumasi_terms::{CloudName, InstanceId, LeaseId};

const ORACLE: &str = "5 routes";
/// The gateway's table follows the ledger by this much at most: a look of the reconciler and a write.
const TABLE_MS: u64 = 1_500;

/// What was handed over is read on as it was, within the time that was renewed: nothing is written before the heir opens, and the
/// heir stops these instances first.
fn is_handed_over(lent: &LentLease) -> bool {
    matches!(lent.state, LentState::Ending { why: EndedBy::Handover })
}

/// A request reached an instance at a lender.
pub(super) fn served(seen: &mut Seen, at: &CloudName, lease: &LeaseId, instance: &InstanceId, known: &Known) {
    let (now_ms, boot) = (known.clock.true_ms(), known.clock.now().boot);
    let lent = seen.disks.get(at).and_then(|d| d.lent(lease));
    let wrong = match &lent {
        None => Some("it is not in the ledger".to_owned()),
        // Its own end binds at once: the gateway knows it without its daemon.
        Some(l) if (l.usable() || is_handed_over(l)) && boot > l.expires_at => {
            Some(format!("it ran out {} ms ago", boot.since(l.expires_at)))
        }
        Some(l) if !l.usable() && !is_handed_over(l) => Some(format!("it is {:?}", l.state)),
        Some(_) => None,
    };
    let grace_ms = if lent.as_ref().is_some_and(|l| !l.usable()) { TABLE_MS } else { 0 };
    let lasts = seen.lasts(&format!("routes {at} {lease}"), wrong.is_some(), now_ms, grace_ms);
    if let (Some(wrong), true) = (wrong, lasts || grace_ms == 0) {
        seen.breaks(ORACLE, now_ms, format!("{at}: a request reached {instance} under {lease}: {wrong}"));
    }
}
