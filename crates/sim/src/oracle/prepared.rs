//! Oracle 1 and 4, of instances that a heir prepares: nothing of a service runs at a cloud that never owned it, and what was prepared for a
//! handover that came to nothing goes.

use super::Seen;
use crate::cloud::Host;
use pumasi_engine::InstanceStatus;
use pumasi_node::object::service_named_by;
use std::sync::Arc;

/// Every try of a move may prepare anew.
const STANDS_MS_MAX: u64 = 60_000;

pub(super) fn check(seen: &mut Seen, now_ms: u64, host: &Arc<Host>) {
    for i in host.own_instances() {
        let stands = i.prepared && i.pid.is_some();
        if seen.lasts(&format!("{} prepared", i.id), stands, now_ms, STANDS_MS_MAX) {
            let what = format!("{}: {} of {} stands before its first instruction for ever", host.name, i.id, i.owner);
            seen.breaks("4 release", now_ms, what);
        }
        if !i.prepared && i.pid.is_some() && !was_here(seen, host, &i) {
            let what = format!("{}: {} of {} runs, and this cloud never owned that", host.name, i.id, i.owner);
            seen.breaks("1 no two writers", now_ms, what);
        }
    }
}

/// Whoever owned it has a record of it, also afterwards.
fn was_here(seen: &Seen, host: &Arc<Host>, i: &InstanceStatus) -> bool {
    let Some(disk) = seen.disks.get(&host.name) else { return true };
    let name = service_named_by(&i.owner);
    disk.services().any(|s| Some(s.name().as_str()) == name)
}

pub(super) fn unfinished(host: &Arc<Host>) -> Option<String> {
    let left = host.own_instances().into_iter().find(|i| i.prepared)?;
    Some(format!("{}: {} of {} was prepared and is left: {:?}", host.name, left.id, left.owner, left.state))
}
