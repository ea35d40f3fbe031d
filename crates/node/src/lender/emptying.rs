//! Reconciles what was lent: ends what ran out, runs what is wanted, empties what is over and proves it.

use super::Copies;
use super::record;
use crate::fleet::{self, Desired};
use crate::node::{Note, TxError};
use crate::object::{
    DOSSIER, DOSSIER_KEYS, HEIR, HOLD, LENT, LENT_APPLICATION, LENT_RENEWAL, LentApplication, owner_of_lease,
};
use crate::{Node, clock, keys, quarantine, secrets, stray};
use pumasi_api::Problem;
use pumasi_engine::{Access, DataMount, InstanceSpec};
use pumasi_lease::message::Emptiness;
use pumasi_lease::record::Silence;
use pumasi_lease::{Hold, LentLease, LentState, Transition, ledger};
use pumasi_store::{Expect, Tx};
use pumasi_terms::service::DatasetKind;
use pumasi_terms::template::data_suffix;
use pumasi_terms::{CloudName, LeaseId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub async fn reconcile(node: &Arc<Node>) -> Result<(), Problem> {
    // A store that may be old does not know what was lent since, nor what was renewed: instances go on as they are.
    if node.may_act().is_err() {
        return Ok(());
    }
    let mut done = expire(node).await;
    let lents = super::lents(node)?;
    let applications = node.items::<LentApplication>(LENT_APPLICATION)?;
    let unknown =
        |s: &super::Stand| lents.iter().map(|l| &l.lease.borrower).filter(|b| s.wish_unknown(b)).cloned().collect();
    let wish_unknown: BTreeSet<CloudName> = node.lents.with(&node.store, unknown)?;
    let unread: BTreeSet<&str> = applications.unreadable().iter().map(|u| u.name.as_str()).collect();
    let applications: BTreeMap<&LeaseId, &LentApplication> = applications.iter().map(|a| (&a.lease, &**a)).collect();
    for lent in lents.iter().filter(|l| l.binds()) {
        match &lent.state {
            // Its instances stay as they are.
            LentState::Active | LentState::Recalled { .. }
                if unread.contains(lent.id().as_str()) || wish_unknown.contains(&lent.lease.borrower) => {}
            LentState::Active | LentState::Recalled { .. } => {
                run(node, lent, applications.get(lent.id()).copied()).await
            }
            _ => {
                let emptied = empty(node, lent).await;
                done = done.and(emptied);
            }
        }
    }
    done.and(strays(node).await)
}

async fn expire(node: &Node) -> Result<(), Problem> {
    let now = clock::now();
    let due = node.lents.with(&node.store, |s| !ledger::expire(s.book(), now).is_empty() || !s.spent().is_empty());
    if !due? {
        return Ok(());
    }
    let (lents, told) = (node.lents.clone(), node.holds_told.clone());
    let behind = node.copies.told_behind();
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
                Transition::Lease(lent) if lent.usable() => {
                    let lent = dated(&behind, LentLease::clone(lent));
                    let note = standby_note(tx, &lent)?;
                    record(tx, Transition::Lease(Box::new(lent)))?;
                    if let Some(note) = note {
                        tx.journal(note.entry("daemon", now.wall))?;
                    }
                    continue;
                }
                Transition::Lease(lent) => Note::new("lease_ended", "lease", lent.id())
                    .caused_by(&lent.lease.service)
                    .because("it was not renewed in time, or its notice ran out"),
                Transition::Hold(_) => continue,
            };
            record(tx, transition)?;
            tx.journal(note.entry("daemon", now.wall))?;
        }
        Ok(())
    })
    .await
}

/// With what its borrower said last of its copies.
fn dated(behind: &BTreeMap<LeaseId, u64>, lent: LentLease) -> LentLease {
    let behind_ms = behind.get(lent.id()).copied();
    let silence = lent.silence.clone().map(|s| Silence { behind_ms: s.behind_ms.or(behind_ms), ..s });
    LentLease { silence, ..lent }
}

/// A standby's silence begins or ends.
fn standby_note(tx: &mut Tx<'_>, lent: &LentLease) -> Result<Option<Note>, TxError> {
    let before = tx.get::<LentLease>(LENT, lent.id().as_str())?.and_then(|l| l.body.silence);
    let note = |action| Note::new(action, "lease", lent.id()).caused_by(&lent.lease.service);
    let borrower = &lent.lease.borrower;
    Ok(match (before, &lent.silence) {
        (None, Some(silence)) => {
            let behind = silence.behind_ms.map_or("not known how far".to_owned(), |ms| format!("{ms} ms"));
            let hours = lent.standby().map_or(0, |s| s.retain_ms / 3_600_000);
            let text = format!(
                "{borrower} is not heard; what is kept for it stays for {hours} hours at least. Its copies were {behind} behind"
            );
            Some(note("standby_silent").because(text))
        }
        (Some(_), None) => Some(note("standby_heard").because(format!("{borrower} is heard again"))),
        _ => None,
    })
}

/// Keeps as many instances as the borrower wants, of the application it sent last.
async fn run(node: &Arc<Node>, lent: &LentLease, application: Option<&LentApplication>) {
    let id = lent.id();
    let Some(application) = application else { return };
    let dir = node.lease_dir(id);
    Copies::reopen_beside(node, lent, &application.sent.datasets);
    let copied = application.sent.datasets.iter().all(|d| node.copies.ready(&dir, &d.name));
    let count = if copied { lent.instances_wanted.min(lent.lease.instances) } else { 0 };
    let app = &application.sent.application;
    let secrets = match secrets::of_lease(&node.identity.vault, &lent.lease, &application.sent) {
        Ok(secrets) => secrets,
        Err(e) => {
            let why = format!("nothing is started until its secrets can be opened: {e}");
            return node.troubles.refused(&owner_of_lease(id), application.sent.generation, why, clock::boot());
        }
    };
    let layers = super::copies::layers(node);
    let access = |kind| match kind {
        DatasetKind::Files if layers => Access::Layered,
        _ => Access::ReadOnly,
    };
    let spec = |instance| InstanceSpec {
        id: instance,
        owner: owner_of_lease(id),
        generation: application.sent.generation,
        bundle_dir: dir.join(super::copies::APPLICATION).join(crate::bundles::short(&application.digest)),
        command: app.command.clone(),
        env: app.env.clone(),
        resources: lent.lease.requirement.resources,
        protocol: app.protocol,
        readiness: app.readiness.clone(),
        liveness: app.liveness.clone(),
        stop_grace_ms: app.stop_grace_ms,
        egress: app.egress.clone(),
        data: application
            .sent
            .datasets
            .iter()
            // Who the users are is for the sign-in process of the service's owner, which no lender is.
            .filter(|d| !d.name.is_realm())
            .map(|d| {
                (
                    data_suffix(d.name.as_str()),
                    DataMount { path: node.copies.dir(&dir, &d.name), access: access(d.kind) },
                )
            })
            .collect(),
        listen_ip: node.config.engine.instance_ip,
        lent: true,
        secrets: secrets.clone(),
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
    if super::heir::was_handed_over(lent) {
        let promoted = super::heir::promote(node, lent).await;
        node.takeover.probes.promoted(&lent.lease.service, promoted.as_ref().map(|_| ()));
        if !promoted? || node.moves.is_opening(&lent.lease.service) {
            // Users wait for its service: what erasing takes, this look does not have.
            return Ok(());
        }
    }
    // The route is out of the table since the lease stopped being usable; requests in flight end first, within the fleet's bound.
    fleet::reconcile_to_nothing(node, &owner_of_lease(&id), false).await;
    let left = node.engine.remains(Some(&owner_of_lease(&id))).await.map(|r| r.processes + r.directories + r.cgroups);
    if left.is_ok_and(|n| n == 0) {
        node.copies.close(&id).await;
        node.identity.vault.forget_lease(&id).map_err(|e| secrets::problem(&e))?;
        let dir = node.lease_dir(&id);
        let erased = crate::world::blocking(move || crate::world::erase(&dir)).await;
        if let Ok(Err(e)) = erased {
            tracing::warn!(lease = %id, error = %e, "a lent lease's directory is not erased yet; tried again");
        }
        let key = id.clone();
        let sent = [LENT_APPLICATION, DOSSIER, DOSSIER_KEYS];
        if sent.into_iter().any(|kind| node.exists(kind, id.as_str()).unwrap_or(true)) {
            node.transact(move |tx| {
                tx.delete(DOSSIER, key.as_str(), Expect::Any)?;
                tx.delete(DOSSIER_KEYS, key.as_str(), Expect::Any)?;
                tx.delete(HEIR, key.as_str(), Expect::Any)?;
                Ok(tx.delete(LENT_APPLICATION, key.as_str(), Expect::Any)?)
            })
            .await?;
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
        processes: engine.map_or(1, |r| u64::from(r.processes + r.directories + r.cgroups + r.helpers)),
        routes: u64::from(crate::gateway::has_route(node, id)),
        files,
        bytes,
        // What cannot be read is not proven gone.
        keys: node.exists(LENT_APPLICATION, id.as_str()).map_or(1, u64::from)
            + node.exists(DOSSIER, id.as_str()).map_or(1, u64::from)
            + keys::left_of(node, id)
            + u64::from(node.identity.vault.has_lease_key(id)),
        holds: 0,
        ..Emptiness::default()
    }
}

/// What lies here under the name of a lease, beside the leases that bind. Of one whose record says that it is over it goes; one whose record
/// cannot be read keeps everything; what no record explains is stray.
async fn strays(node: &Node) -> Result<(), Problem> {
    enum Record {
        Binds,
        Over,
        None,
    }
    let owners: BTreeSet<String> =
        node.instances.lock().iter().map(|i| i.owner.clone()).filter(|o| o.starts_with("lease-")).collect();
    let mut dirs = BTreeMap::new();
    for dir in std::fs::read_dir(node.dir("leases")).into_iter().flatten().flatten() {
        if let Some(name) = dir.file_name().to_str() {
            dirs.insert(name.to_owned(), dir.path());
        }
    }
    let mut unexplained = BTreeSet::new();
    let names: BTreeSet<&String> = owners.iter().chain(dirs.keys()).collect();
    for name in names {
        let record = node.lents.with(&node.store, |stand| {
            let lent = LeaseId::parse(name.clone()).ok().and_then(|id| stand.book().lease(&id).cloned());
            match lent {
                Some(lent) if lent.binds() => Record::Binds,
                _ if stand.hides(name) => Record::Binds,
                Some(_) => Record::Over,
                None => Record::None,
            }
        })?;
        let over = match record {
            Record::Binds => continue,
            Record::Over => true,
            Record::None => stray::is_over(node, name)?,
        };
        match (over, owners.contains(name), dirs.get(name).cloned()) {
            (true, true, _) => fleet::reconcile_to_nothing(node, name, false).await,
            (true, false, Some(dir)) => {
                let _ = crate::world::blocking(move || crate::world::erase(&dir)).await;
            }
            (false, true, _) => drop(unexplained.insert(name.clone())),
            (false, false, Some(dir)) => quarantine::put(node, name, &[&dir], "no lease explains it").await?,
            (_, false, None) => {}
        }
    }
    stray::tell(node, stray::found(node, unexplained, "lease-")).await;
    Ok(())
}
