//! Services at home: their data directories, their instances, their end.

use crate::fleet::{self, Desired};
use crate::moves::{self, freeze};
use crate::object::{OWNER_OF_SERVICES, SERVICE, ServiceRecord, service_named_by};
use crate::takeover::{fence, room};
use crate::{Node, borrower, bundles, clock, growth, realm, register, secrets, stray, tenancy};
use pumasi_api::Problem;
use pumasi_engine::{Access, DataMount, InstanceSpec, Secrets};
use pumasi_terms::service::Dataset;
use pumasi_terms::template::data_suffix;
use pumasi_terms::{DatasetName, InstanceId, ServiceName};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Where a service's dataset lives: by the service's id, so that a later one of the same name does not inherit it.
pub fn data_dir(node: &Node, service: &ServiceRecord, dataset: &DatasetName) -> PathBuf {
    tenancy::service_dir(node, service).join("data").join(dataset.as_str())
}

/// What is to run now.
pub fn wanted(node: &Node, service: &ServiceRecord) -> Desired {
    let owner = service.owner();
    let count = node.takeover.room.at_most(&owner, all(node, service));
    Desired { owner, count, generation: service.generation }
}

/// What would run if there were room for everything.
pub fn all(node: &Node, service: &ServiceRecord) -> u32 {
    let least = service.document.spec.instances.home.min;
    let (owner, all) = (service.owner(), least.saturating_add(growth::grown(node, service)));
    match register::runs_here(node, service) {
        _ if service.deleting => 0,
        Ok(runs) => {
            if runs {
                all
            } else {
                0
            }
        }
        // Whose it is cannot be read: nothing is started for it, and nothing stopped.
        Err(_) => all.min(node.instances.lock().iter().filter(|i| i.owner == owner && !i.prepared).count() as u32),
    }
}

pub async fn reconcile(node: &Node) -> Result<(), Problem> {
    let services = node.services()?;
    let mut done = room::reconcile(node, &services).await;
    for service in services.iter() {
        if !waits(node, service) {
            run(node, service).await;
            realm::run(node, service).await;
        }
        if service.deleting {
            let finished = finish_deletion(node, service).await;
            done = done.and(finished);
        }
    }
    // Instances of services without a record. A record that cannot be read is one.
    let known = |owner: &str| {
        services.iter().any(|s| s.owner() == owner) || service_named_by(owner).is_some_and(|name| services.hides(name))
    };
    growth::keep(node, known);
    let owners: BTreeSet<String> = node.instances.lock().iter().map(|i| i.owner.clone()).collect();
    let mut strays = BTreeSet::new();
    for owner in owners.into_iter().filter(|o| o.starts_with(OWNER_OF_SERVICES) && !known(o)) {
        if is_prepared(node, &owner) {
            // Of a service that was to come here: nothing of it has begun, and nothing it could lose.
            end_prepared(node, &owner).await;
            continue;
        }
        match stray::is_over(node, &owner)? && node.may_act().is_ok() {
            true => fleet::reconcile_to_nothing(node, &owner, false).await,
            false => drop(strays.insert(owner)),
        }
    }
    done = done.and(realm::end_strays(node, &services).await);
    stray::tell(node, stray::found(node, strays, OWNER_OF_SERVICES)).await;
    done
}

/// Its data are being made this cloud's own, or another's; or they may be another's already.
fn waits(node: &Node, service: &ServiceRecord) -> bool {
    let moves = service.taking.is_some() || freeze::stands_still(node, service) || moves::awaits_word(node, service);
    moves || fence::is_shut(node, service)
}

/// One service, by what is stored of it now.
pub async fn run_now(node: &Node, name: &ServiceName) -> Result<(), Problem> {
    room::reconcile(node, &node.services()?).await?;
    if let Some(service) = node.item::<ServiceRecord>(SERVICE, name.as_str())?.filter(|s| !waits(node, s)) {
        run(node, &service).await;
        realm::run(node, &service).await;
    }
    Ok(())
}

async fn run(node: &Node, service: &ServiceRecord) {
    let want = wanted(node, service);
    if want.count == 0 && !register::is_ours(node, service) {
        // What there was of its data may be erased by now: no directory is made anew.
        return end_prepared(node, &want.owner).await;
    }
    if register::runs_here(node, service).is_err() && is_prepared(node, &want.owner) {
        // Whose it is cannot be read: what has not begun does not begin now.
        return;
    }
    for set in &service.document.spec.datasets {
        let path = data_dir(node, service, &set.name);
        let made = std::fs::create_dir_all(&path).and_then(|()| match set.kind {
            // The daemon reads what the application writes; nobody else does.
            _ if path.metadata()?.permissions().mode() & 0o777 == 0o755 => {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o770))
            }
            _ => Ok(()),
        });
        if let Err(e) = made {
            return refuse(node, service, format!("the directory of dataset {} could not be made: {e}", set.name));
        }
    }
    let secrets = match secrets::of_service(node, service) {
        Ok(secrets) => secrets,
        Err(e) => {
            return refuse(node, service, format!("nothing is started until its secrets can be read: {e}"));
        }
    };
    fleet::reconcile(node, &want, spec(node, service, &secrets)).await;
}

/// An instance of a service as its owner runs it. The same also before it is: what is prepared then is what is started.
pub fn spec(node: &Node, service: &ServiceRecord, secrets: &Secrets) -> impl Fn(InstanceId) -> InstanceSpec {
    let app = &service.document.spec.application;
    let own = |set: &Dataset| DataMount { path: data_dir(node, service, &set.name), access: Access::ReadWrite };
    let sets = service.document.spec.own_datasets();
    let made = InstanceSpec {
        id: InstanceId::from_entropy(0),
        owner: service.owner(),
        generation: service.generation,
        bundle_dir: bundles::owned(node, &service.customer).unpacked(&service.bundle()),
        command: app.command.clone(),
        env: app.env.clone(),
        resources: app.resources,
        protocol: app.protocol,
        readiness: app.readiness.clone(),
        liveness: app.liveness.clone(),
        stop_grace_ms: app.stop_grace_ms,
        egress: app.egress.clone(),
        data: sets.map(|set| (data_suffix(set.name.as_str()), own(set))).collect(),
        listen_ip: node.config.engine.instance_ip,
        lent: false,
        secrets: secrets.clone(),
    };
    move |id| InstanceSpec { id, ..made.clone() }
}

/// Whether all that is here of an owner, if anything, stands before its first instruction.
fn is_prepared(node: &Node, owner: &str) -> bool {
    let instances = node.instances.lock();
    let mut own = instances.iter().filter(|i| i.owner == owner).peekable();
    own.peek().is_some() && own.all(|i| i.prepared)
}

/// Of a service that is not this cloud's: whatever runs ends, and what is prepared stays while it is about to come.
async fn end_prepared(node: &Node, owner: &str) {
    let keep = node.moves.warm.keeps(owner, clock::boot());
    fleet::reconcile_to_nothing(node, owner, keep).await;
}

fn refuse(node: &Node, service: &ServiceRecord, why: String) {
    node.troubles.refused(&service.owner(), service.generation, why, clock::boot());
}

/// What is rented comes back first, then the instances end, then the record goes.
async fn finish_deletion(node: &Node, service: &ServiceRecord) -> Result<(), Problem> {
    let mut open = node.open_journeys()?;
    open.retain(|j| &j.service == service.name());
    for journey in &open {
        if journey.parts.iter().any(pumasi_journey::Part::is_hopeful) || journey.seeking.is_some() {
            let _ = borrower::cancel(node, "daemon", &journey.id, "the service is being deleted").await;
        }
    }
    let writers = service.writers();
    let running = node.instances.lock().iter().any(|i| writers.contains(&i.owner));
    // The pact's voters would look after what is not there any more.
    if running || !open.is_empty() || register::is_entered(node, service) {
        return Ok(());
    }
    let kept_ms = u64::from(node.config.store.deleted_data_kept_hours) * 3_600_000;
    let service = service.clone();
    node.transact(move |tx| tenancy::retire(tx, &service, kept_ms)).await
}

/// The last lines of an owner's instances.
pub async fn logs_of(node: &Node, owner: &str, bytes_max: usize) -> String {
    let instances: Vec<_> = node.instances.lock().iter().filter(|i| i.owner == owner).map(|i| i.id.clone()).collect();
    let each = bytes_max / instances.len().max(1);
    let mut text = String::new();
    for id in instances {
        text.push_str(&format!("== {id} at {}\n", node.name()));
        match node.engine.logs(&id, each).await {
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            Err(e) => text.push_str(&format!("(not read: {e})\n")),
        }
    }
    text
}
