//! The instances that a heir will need stand before their first instruction before anybody waits for them.
//!
//! Enters: what a standby has of a service that is about to move here. Leaves: instances of the service as this cloud would run it as its
//! own, prepared by the engine (`Engine::prepare`).
//! Always holds: they are of the service's own name and have no data until the service is this cloud's own, when the fleet lets them
//! begin; what comes to nothing is kept for [`WARM_MS`] at most, by this daemon or, where it is gone, by the shims; a heir that cannot
//! prepare them starts them afterwards, as ever.

use super::heir;
use crate::node::Locked;
use crate::object::{LentApplication, ServiceRecord, owner_of_lease};
use crate::{Node, clock, fleet, home, secrets};
use pumasi_api::Problem;
use pumasi_engine::{EngineError, InstanceSpec, InstanceState, InstanceStatus, Prepare};
use pumasi_lease::LentLease;
use pumasi_lease::dossier::Dossier;
use pumasi_terms::{BootMs, InstanceId, LeaseId};
use std::collections::BTreeMap;
use std::time::Duration;

/// From the last word of the owner on: longer than it lets anybody wait before it asks to commit.
pub const WARM_MS: u64 = 6_000;
/// They are looked after for so long; nobody waits for that but the owner, before it holds anything.
const STAND_MS_MAX: u64 = 2_000;
const LOOK_MS: u64 = 10;

/// Owners whose instances are prepared, under which lease and until when.
#[derive(Debug, Default)]
pub struct Warm {
    kept: Locked<BTreeMap<String, (LeaseId, BootMs)>>,
    /// One at a time, so that a repeated question prepares no second set.
    one: tokio::sync::Mutex<()>,
}

impl Warm {
    fn keep(&self, owner: &str, lease: &LeaseId, now: BootMs) {
        self.kept.lock().insert(owner.to_owned(), (lease.clone(), now.after(WARM_MS)));
    }

    /// Whether prepared instances of this owner are wanted, though the service is not this cloud's own.
    pub fn keeps(&self, owner: &str, now: BootMs) -> bool {
        let mut kept = self.kept.lock();
        kept.retain(|_, (_, until)| now < *until);
        kept.contains_key(owner)
    }

    /// The handover that they were prepared for will not be.
    pub fn let_go(&self, lease: &LeaseId) {
        self.kept.lock().retain(|_, (of, _)| of != lease);
    }
}

/// Prepares them, and returns when they stand. What fails is told, and costs the users of the move a start.
pub async fn prepare(node: &Node, lent: &LentLease, dossier: &Dossier, sent: &LentApplication) {
    let _one = node.moves.warm.one.lock().await;
    let service = &dossier.service.metadata.name;
    match set_up(node, lent, dossier, sent).await {
        Ok((owner, count)) if !stand(node, &owner, count).await => {
            tracing::warn!(%service, ms = STAND_MS_MAX, "instances do not stand ready for the move to here; they are started after it");
        }
        Ok(_) => {}
        Err(e) => {
            tracing::warn!(%service, error = %e, "no instance was prepared for the move to here; it is started after it");
        }
    }
}

/// The service as it will be this cloud's own.
fn becoming(node: &Node, dossier: &Dossier) -> Result<ServiceRecord, Problem> {
    let services = node.services()?;
    let old = services.iter().find(|s| s.id == dossier.id);
    let fresh = ServiceRecord::new(dossier.service.clone(), dossier.id.clone(), dossier.customer.clone(), 0);
    Ok(ServiceRecord { generation: heir::generation(old.map(|s| &**s), dossier), ..fresh })
}

async fn set_up(
    node: &Node,
    lent: &LentLease,
    dossier: &Dossier,
    sent: &LentApplication,
) -> Result<(String, usize), Problem> {
    let service = becoming(node, dossier)?;
    let (owner, least) = (service.owner(), service.document.spec.instances.home.min);
    // As many as the lease has room for here.
    let count = least.min(lent.lease.instances) as usize;
    let values = secrets::of_lease(&node.identity.vault, &lent.lease, &sent.sent)?;
    let spec = home::spec(node, &service, &values);
    node.moves.warm.keep(&owner, lent.id(), clock::boot());
    fleet::refresh(node).await;
    let all = node.instances.get();
    let own = all.iter().filter(|i| i.owner == owner && i.prepared);
    let fits = |i: &&InstanceStatus| i.generation == service.generation && i.state == InstanceState::Starting;
    let (fit, old): (Vec<_>, Vec<_>) = own.partition(fits);
    for i in old {
        node.engine.stop(&i.id).await.map_err(failed)?;
    }
    let mut standing = 0;
    for i in fit.into_iter().take(count) {
        standing += usize::from(one(node, lent, spec(i.id.clone())).await?);
    }
    for _ in standing..count {
        one(node, lent, spec(InstanceId::from_entropy(clock::entropy()))).await?;
    }
    Ok((owner, count))
}

fn failed(e: EngineError) -> Problem {
    Problem::ours(e.to_string())
}

/// False: it is of another time, and goes.
async fn one(node: &Node, lent: &LentLease, spec: InstanceSpec) -> Result<bool, Problem> {
    let id = spec.id.clone();
    let how = Prepare { at_most_ms: WARM_MS, heir_of: Some(owner_of_lease(lent.id())) };
    match node.engine.prepare(spec, how).await {
        Ok(()) => Ok(true),
        Err(EngineError::Conflict { .. } | EngineError::Ended { .. }) => {
            node.engine.stop(&id).await.map_err(failed)?;
            Ok(false)
        }
        Err(e) => Err(failed(e)),
    }
}

/// Whether all of them do, in time.
async fn stand(node: &Node, owner: &str, count: usize) -> bool {
    let begun = clock::boot();
    loop {
        fleet::refresh(node).await;
        let standing =
            node.instances.lock().iter().filter(|i| i.owner == owner && i.prepared && i.pid.is_some()).count();
        if standing >= count {
            return true;
        }
        if clock::boot().since(begun) >= STAND_MS_MAX {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_kept_for_a_while_from_the_last_word_and_not_after_a_cancel() {
        let (warm, lease) = (Warm::default(), LeaseId::from_entropy(1));
        warm.keep("service-a", &lease, BootMs(1_000));
        assert!(warm.keeps("service-a", BootMs(1_000 + WARM_MS - 1)) && !warm.keeps("service-b", BootMs(1_000)));
        warm.keep("service-a", &lease, BootMs(2_000));
        assert!(warm.keeps("service-a", BootMs(1_000 + WARM_MS)));
        assert!(!warm.keeps("service-a", BootMs(2_000 + WARM_MS)));
        warm.keep("service-a", &lease, BootMs(9_000));
        warm.let_go(&LeaseId::from_entropy(2));
        assert!(warm.keeps("service-a", BootMs(9_000)));
        warm.let_go(&lease);
        assert!(!warm.keeps("service-a", BootMs(9_000)));
    }
}
