//! Reconciles what was lent: ends what ran out, runs what is wanted, empties what is over and proves it.

use super::record;
use crate::fleet::{self, Desired};
use crate::node::Note;
use crate::object::{HOLD, LENT, LENT_APPLICATION, LENT_RENEWAL, LentApplication, owner_of_lease};
use crate::{Node, clock};
use pumasi_api::Problem;
use pumasi_engine::{Access, DataMount, InstanceSpec};
use pumasi_lease::message::Emptiness;
use pumasi_lease::{Hold, LentLease, LentState, Transition, ledger};
use pumasi_store::Expect;
use pumasi_terms::LeaseId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub async fn reconcile(node: &Node) -> Result<(), Problem> {
    let mut done = expire(node).await;
    let lents = super::lents(node)?;
    let applications = node.items::<LentApplication>(LENT_APPLICATION)?;
    let applications: BTreeMap<&LeaseId, &LentApplication> = applications.iter().map(|a| (&a.lease, &**a)).collect();
    for lent in lents.iter().filter(|l| l.binds()) {
        match &lent.state {
            LentState::Active | LentState::Recalled { .. } => {
                run(node, lent, applications.get(lent.id()).copied()).await
            }
            _ => {
                let emptied = empty(node, lent).await;
                done = done.and(emptied);
            }
        }
    }
    strays(node, &lents).await;
    done
}

async fn expire(node: &Node) -> Result<(), Problem> {
    let now = clock::now();
    let due = node.lents.with(&node.store, |s| !ledger::expire(s.book(), now).is_empty() || !s.spent().is_empty());
    if !due? {
        return Ok(());
    }
    let (lents, told) = (node.lents.clone(), node.holds_told.clone());
    node.transact(move |tx| {
        let (over, spent) = lents.within(tx, |_, _| true, |s| (ledger::expire(s.book(), now), s.spent()))?;
        for borrower in spent {
            tx.delete(LENT_RENEWAL, borrower.as_str(), Expect::Any)?;
        }
        for transition in over {
            let note = match &transition {
                Transition::DropHold(id) => {
                    let borrower = tx.get::<Hold>(HOLD, id.as_str())?.map(|hold| hold.body.borrower);
                    let note = Note::new("hold_expired", "reservation", id);
                    record(tx, transition)?;
                    if let Some(borrower) = borrower {
                        told.journal(tx, &borrower, note, "daemon", now)?;
                    }
                    continue;
                }
                Transition::Lease(lent) => Note::new("lease_ended", "lease", lent.id())
                    .caused_by(&lent.lease.service)
                    .because(format!("{:?}: it was not renewed in time, or its notice ran out", lent.state)),
                Transition::Hold(_) => continue,
            };
            record(tx, transition)?;
            tx.journal(note.entry("daemon", now.wall))?;
        }
        Ok(())
    })
    .await
}

/// Keeps as many instances as the borrower wants, of the application it sent last.
async fn run(node: &Node, lent: &LentLease, application: Option<&LentApplication>) {
    let id = lent.id();
    let Some(application) = application else { return };
    let dir = node.lease_dir(id);
    node.copies.reopen(lent, &dir, &application.sent.datasets);
    let copied = application.sent.datasets.iter().all(|d| node.copies.ready(&dir, &d.name));
    let count = if copied { lent.instances_wanted.min(lent.lease.instances) } else { 0 };
    let app = &application.sent.application;
    let spec = |instance| InstanceSpec {
        id: instance,
        owner: owner_of_lease(id),
        generation: application.sent.generation,
        bundle_dir: dir.join("application").join(crate::bundles::short(&application.digest)),
        command: app.command.clone(),
        env: app.env.clone(),
        resources: lent.lease.requirement.resources,
        readiness: app.readiness.clone(),
        liveness: app.liveness.clone(),
        stop_grace_ms: app.stop_grace_ms,
        egress: app.egress.clone(),
        data: application
            .sent
            .datasets
            .iter()
            .map(|d| {
                (
                    fleet::data_suffix(&d.name),
                    DataMount { path: node.copies.dir(&dir, &d.name), access: Access::ReadOnly },
                )
            })
            .collect(),
        listen_ip: node.config.engine.instance_ip,
        lent: true,
    };
    fleet::reconcile(
        node,
        &Desired { owner: owner_of_lease(id), count, generation: application.sent.generation },
        spec,
    )
    .await;
}

/// One step of emptying; called again until nothing is left.
async fn empty(node: &Node, lent: &LentLease) -> Result<(), Problem> {
    let id = lent.id().clone();
    // The route is out of the table since the lease stopped being usable; requests in flight end first, within the fleet's bound.
    fleet::reconcile_to_nothing(node, &owner_of_lease(&id)).await;
    let left = node.engine.remains(Some(&owner_of_lease(&id))).await.map(|r| r.processes + r.directories + r.cgroups);
    if left.is_ok_and(|n| n == 0) {
        node.copies.close(&id);
        let dir = node.lease_dir(&id);
        let erased = crate::world::blocking(move || crate::world::erase(&dir)).await;
        if let Ok(Err(e)) = erased {
            tracing::warn!(lease = %id, error = %e, "a lent lease's directory is not erased yet; tried again");
        }
        let key = id.clone();
        if node.get::<LentApplication>(LENT_APPLICATION, id.as_str())?.is_some() {
            node.transact(move |tx| Ok(tx.delete(LENT_APPLICATION, key.as_str(), Expect::Any)?)).await?;
        }
    }
    let left = emptiness(node, &id).await;
    if !left.is_empty() {
        return Ok(());
    }
    node.transact(move |tx| {
        let now = clock::now();
        let Some(lent) = tx.get::<LentLease>(LENT, id.as_str())? else { return Ok(()) };
        let ended = ledger::ended(&lent.body, &left, now).map_err(super::refused)?;
        record(tx, Transition::Lease(Box::new(ended)))?;
        tx.journal(
            Note::new("lease_emptied", "lease", &id)
                .caused_by(&lent.body.lease.service)
                .because("no process, route, file, key or hold of it is left")
                .entry("daemon", now.wall),
        )?;
        Ok(())
    })
    .await
}

/// Counts what is left of a lease here. Everything at zero is the proof.
pub async fn emptiness(node: &Node, id: &LeaseId) -> Emptiness {
    let owner = owner_of_lease(id);
    let engine = node.engine.remains(Some(&owner)).await;
    let dir = node.lease_dir(id);
    let data = crate::world::blocking(move || pumasi_transfer::remains(&dir)).await;
    let (files, bytes) = match data {
        Ok(Ok(left)) => (left.files, left.bytes),
        // What cannot be counted is not proven gone.
        _ => (1, 0),
    };
    Emptiness {
        processes: engine.map_or(1, |r| u64::from(r.processes + r.directories + r.cgroups)),
        routes: u64::from(crate::gateway::has_route(node, id)),
        files,
        bytes,
        // What cannot be read is not proven gone.
        keys: node.get::<LentApplication>(LENT_APPLICATION, id.as_str()).map_or(1, |a| u64::from(a.is_some())),
        holds: 0,
    }
}

/// Instances and directories of leases that the ledger does not know (a crash between two lines, an old store) go as well.
async fn strays(node: &Node, lents: &[Arc<LentLease>]) {
    let binding: BTreeSet<&str> = lents.iter().filter(|l| l.binds()).map(|l| l.id().as_str()).collect();
    let known = |lease: &str| binding.contains(lease);
    let owners: Vec<String> = node
        .instances
        .lock()
        .iter()
        .map(|i| i.owner.clone())
        .filter(|o| o.starts_with("lease-") && !known(o))
        .collect();
    for owner in owners {
        fleet::reconcile_to_nothing(node, &owner).await;
    }
    let Ok(dirs) = std::fs::read_dir(node.dir("leases")) else { return };
    for dir in dirs.flatten() {
        let Some(name) = dir.file_name().to_str().map(str::to_owned) else { continue };
        let running = node.instances.lock().iter().any(|i| i.owner == name);
        if !known(&name) && !running {
            let _ = crate::world::blocking(move || pumasi_transfer::erase(&dir.path())).await;
        }
    }
}
