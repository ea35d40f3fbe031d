//! Oracle 8: after release nothing foreign is left: processes, routes, data, keys.

use super::Seen;
use crate::cloud::Host;
use pumasi_lease::LentState;
use std::sync::Arc;

const ORACLE: &str = "8 nothing foreign";

fn left(host: &Arc<Host>, lease: &str) -> Option<String> {
    if let Some(there) = host.there().into_iter().find(|t| t.owner == lease && !t.left.is_empty()) {
        return Some(there.left.join(", "));
    }
    if host.dir.join("leases").join(lease).exists() {
        return Some("its directory".into());
    }
    let table = host.gateway.table();
    table.is_some_and(|t| t.leases.keys().any(|l| l.as_str() == lease)).then(|| "its route".into())
}

/// A lease that the lender's ledger shows as ended is empty at that moment.
pub(super) fn check(seen: &mut Seen, now_ms: u64, host: &Arc<Host>) {
    let Some(disk) = seen.disks.get(&host.name) else { return };
    let over = |s: &LentState| matches!(s, LentState::Ended { .. } | LentState::Settled { .. });
    let ended: Vec<_> = disk.lents().filter(|l| over(&l.state)).map(|l| l.id().clone()).collect();
    for lease in ended {
        if let Some(what) = left(host, lease.as_str()) {
            seen.breaks(ORACLE, now_ms, format!("{}: {lease} is recorded as empty; left is {what}", host.name));
        }
    }
}

/// Of any lease, known or forgotten.
pub(super) fn unfinished(host: &Arc<Host>) -> Option<String> {
    if let Some(there) = host.there().into_iter().find(|t| !t.left.is_empty()) {
        return Some(format!("{}: of {} is left: {}", host.name, there.owner, there.left.join(", ")));
    }
    let dirs = std::fs::read_dir(host.dir.join("leases")).into_iter().flatten().flatten().next();
    if let Some(dir) = dirs {
        return Some(format!("{}: {} is left", host.name, dir.path().display()));
    }
    let table = host.gateway.table()?;
    let lease = table.leases.keys().chain(table.services.values().flat_map(|s| &s.leases).map(|l| &l.lease)).next()?;
    Some(format!("{}: the route of {lease} is left", host.name))
}
