//! How long instances took from their start until they were ready, as measured here last.
//!
//! Always holds: it is observation only, lost with the daemon; only starts that this daemon saw from the beginning count.

use crate::clock;
use crate::node::Locked;
use pumasi_engine::{InstanceState, InstanceStatus};
use pumasi_terms::InstanceId;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Starts(Locked<Seen>);

#[derive(Debug, Default)]
struct Seen {
    starting: BTreeSet<InstanceId>,
    took_ms: BTreeMap<String, u64>,
}

impl Starts {
    /// What the engine listed now.
    pub fn saw(&self, instances: &[InstanceStatus]) {
        let mut seen = self.0.lock();
        let Seen { starting, took_ms } = &mut *seen;
        for i in instances.iter().filter(|i| i.state == InstanceState::Ready && starting.contains(&i.id)) {
            let Some(at) = i.started_at else { continue };
            took_ms.insert(i.owner.clone(), clock::wall().since(at));
        }
        let starts = |i: &&InstanceStatus| i.state == InstanceState::Starting;
        *starting = instances.iter().filter(starts).map(|i| i.id.clone()).collect();
        let owners: BTreeSet<&str> = instances.iter().map(|i| i.owner.as_str()).collect();
        took_ms.retain(|owner, _| owners.contains(owner.as_str()));
    }

    /// The last start of this owner's instances, ms.
    pub fn of(&self, owner: &str) -> Option<u64> {
        self.0.lock().took_ms.get(owner).copied()
    }
}
