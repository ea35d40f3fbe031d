//! Oracle 3: active leases and live holds never exceed what was offered.

use super::{Known, Seen};
use crate::cloud::Host;
use pumasi_terms::{CloudName, Resources};
use std::sync::Arc;

const ORACLE: &str = "3 capacity";

fn fits(used: Resources, known: &Known) -> bool {
    let lends = known.terms.lends;
    used.cpu_millis <= lends.cpu_millis.min(known.physical.cpu_millis)
        && used.memory_mib <= lends.memory_mib.min(known.physical.memory_mib)
}

/// The ledger as it is on the disk; leases count as they were signed, not as they were written down.
pub(super) fn ledger(seen: &mut Seen, now_ms: u64, cloud: &CloudName, known: &Known) {
    let Some(disk) = seen.disks.get(cloud) else { return };
    let now = known.clock.now();
    let holds = disk.holds().filter(|h| h.expires_at > now.boot);
    let held = holds.map(|h| h.requirement.resources.times(h.instances)).fold(Resources::default(), Resources::plus);
    let mut broken = Vec::new();
    let mut used = held;
    for lent in disk.lents().filter(|l| l.binds()) {
        let signed = disk.signed(lent.id()).unwrap_or_else(|| lent.lease.clone());
        used = used.plus(signed.requirement.resources.times(signed.instances.max(lent.lease.instances)));
        if lent.lease.instances > signed.instances {
            broken.push(format!(
                "{cloud} lends {} instances under {}, {} are signed",
                lent.lease.instances,
                lent.id(),
                signed.instances
            ));
        }
    }
    if !fits(used, known) {
        broken.push(format!("{cloud} promised {used:?}, it lends {:?}", known.terms.lends));
    }
    for what in broken {
        seen.breaks(ORACLE, now_ms, what);
    }
}

/// What really runs for others.
pub(super) fn check(seen: &mut Seen, now_ms: u64, host: &Arc<Host>, known: &Known) {
    let runs: Vec<_> = host.there().into_iter().filter(|t| t.runs).collect();
    let memory_mib = runs.iter().map(|t| t.memory_mib).fold(0, u32::saturating_add);
    if memory_mib > known.terms.lends.memory_mib {
        seen.breaks(
            ORACLE,
            now_ms,
            format!(
                "{} runs {memory_mib} MiB for others, it lends {}: {runs:?}",
                host.name, known.terms.lends.memory_mib
            ),
        );
    }
}
