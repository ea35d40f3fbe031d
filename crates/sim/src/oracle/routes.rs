//! Oracle 5: no route leads to an instance without an active lease or local right.

use super::{Known, Seen};
use pumasi_terms::{CloudName, InstanceId, LeaseId};

const ORACLE: &str = "5 routes";
/// The gateway's table follows the ledger by this much at most: a look of the reconciler and a write.
const TABLE_MS: u64 = 1_500;

/// A request reached an instance at a lender.
pub(super) fn served(seen: &mut Seen, at: &CloudName, lease: &LeaseId, instance: &InstanceId, known: &Known) {
    let (now_ms, boot) = (known.clock.true_ms(), known.clock.now().boot);
    let lent = seen.disks.get(at).and_then(|d| d.lent(lease));
    let wrong = match &lent {
        None => Some("it is not in the ledger".to_owned()),
        // Its own end binds at once: the gateway knows it without its daemon.
        Some(l) if l.usable() && boot > l.expires_at => Some(format!("it ran out {} ms ago", boot.since(l.expires_at))),
        Some(l) if !l.usable() => Some(format!("it is {:?}", l.state)),
        Some(_) => None,
    };
    let grace_ms = if lent.as_ref().is_some_and(|l| !l.usable()) { TABLE_MS } else { 0 };
    let lasts = seen.lasts(&format!("routes {at} {lease}"), wrong.is_some(), now_ms, grace_ms);
    if let (Some(wrong), true) = (wrong, lasts || grace_ms == 0) {
        seen.breaks(ORACLE, now_ms, format!("{at}: a request reached {instance} under {lease}: {wrong}"));
    }
}
