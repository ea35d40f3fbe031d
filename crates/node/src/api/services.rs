//! What customers own: services, their bundles, their logs.

use super::body::{Answer, ApiError, Json, Raw, blocking};
use super::params::Path;
use crate::node::Note;
use crate::object::{SERVICE, ServiceRecord};
use crate::{Node, borrower, bundles, clock, home};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{InstanceView, List, Missing, ServiceStatus, ServiceView, Uploaded};
use pumasi_api::{Principal, Problem};
use pumasi_engine::{InstanceState, InstanceStatus};
use pumasi_journey::{Journey, PartState};
use pumasi_lease::LentLease;
use pumasi_store::Expect;
use pumasi_terms::document::Validate;
use pumasi_terms::egress::check_home;
use pumasi_terms::service::{BundleRef, KIND, Service};
use pumasi_terms::{Epoch, LeaseId, ServiceName};
use pumasi_transfer::TreeManifest;
use std::sync::Arc;

const LOG_BYTES_MAX: usize = 256 << 10;

fn view(node: &Node, record: ServiceRecord, revision: pumasi_terms::Revision, open: &[Arc<Journey>]) -> ServiceView {
    let owner = record.owner();
    let ready =
        node.instances.lock().iter().filter(|i| i.owner == owner && i.state == InstanceState::Ready).count() as u32;
    let wanted = home::wanted(&record).count;
    let own: Vec<&Arc<Journey>> = open.iter().filter(|j| &j.service == record.name()).collect();
    let borrowed_ready =
        own.iter().flat_map(|j| &j.parts).filter(|p| p.state == PartState::Serving).map(|p| p.ready).sum();
    let borrowed_wanted = own.iter().flat_map(|j| &j.parts).filter(|p| p.is_hopeful()).map(|p| p.wanted).sum();
    let trouble = node.instances.lock().iter().filter(|i| i.owner == owner).find_map(|i| match &i.state {
        InstanceState::Failed { why } | InstanceState::BackingOff { why, .. } | InstanceState::Unready { why } => {
            Some(why.clone())
        }
        _ => None,
    });
    let (phase, why) = match (record.deleting, ready, own.is_empty()) {
        (true, ..) => ("deleting", "what it rented is given back first".to_owned()),
        (_, 0, _) => ("starting", trouble.unwrap_or_default()),
        (_, n, _) if n < wanted => {
            ("degraded", trouble.unwrap_or_else(|| format!("{n} of {wanted} instances at home are ready")))
        }
        (_, _, false) => ("borrowing", own.iter().map(|j| j.id.to_string()).collect::<Vec<_>>().join(", ")),
        _ => ("serving", String::new()),
    };
    let mut service = record.document;
    service.metadata.revision = Some(revision);
    ServiceView {
        service,
        status: ServiceStatus {
            phase: phase.into(),
            why,
            home_ready: ready,
            home_wanted: wanted,
            borrowed_ready,
            borrowed_wanted,
            generation: record.generation,
            deleting: record.deleting,
        },
    }
}

pub async fn list(State(node): State<Arc<Node>>) -> Answer<List<ServiceView>> {
    let listing = node.store.listing::<ServiceRecord>(SERVICE)?;
    let journeys = node.open_journeys()?;
    let items = listing.items.into_iter().map(|s| view(&node, s.body, s.revision, &journeys)).collect();
    Ok(axum::Json(List { revision: listing.revision, items }))
}

pub async fn get(State(node): State<Arc<Node>>, Path(name): Path<ServiceName>) -> Answer<ServiceView> {
    let stored =
        node.store.get::<ServiceRecord>(SERVICE, name.as_str())?.ok_or_else(|| Problem::not_found("service", &name))?;
    let journeys = node.open_journeys()?;
    Ok(axum::Json(view(&node, stored.body, stored.revision, &journeys)))
}

fn check(name: &ServiceName, service: &Service) -> Result<(), Problem> {
    if let Err(newer) = pumasi_terms::manifest::check_version(&service.api_version) {
        let hint = if newer { "it is newer than this daemon" } else { "write pumasi/v1" };
        return Err(Problem::bad_request(format!("apiVersion {:?}: {hint}", service.api_version)));
    }
    if service.kind != KIND || &service.metadata.name != name {
        return Err(Problem::bad_request(format!(
            "kind must be {KIND} and metadata.name must be {name}, as in the path"
        )));
    }
    let mut faults = Vec::new();
    service.spec.validate("spec", &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(Problem::fields(format!("service {name} is not valid"), faults)) }
}

/// The engine checks it again; here it can still be told to whoever wrote it.
fn may_call(node: &Node, service: &Service) -> Result<(), Problem> {
    let own = node.config.own_addresses();
    let mut faults = Vec::new();
    for (i, to) in service.spec.application.destinations().into_iter().enumerate() {
        let is_own = own.contains(&to.ip().to_canonical()) || pumasi_engine::is_of_this_host(to.ip());
        if let Err(problem) = check_home(to, &node.config.engine.home_egress, is_own) {
            faults.push(pumasi_terms::FieldError { field: format!("spec.application.egress[{i}]"), problem });
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Problem::fields("this cloud's operator does not let the application call what it lists", faults))
}

pub async fn put(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(mut service): Json<Service>,
) -> Answer<ServiceView> {
    check(&name, &service)?;
    let digest = match &service.spec.application.bundle {
        BundleRef::Digest(digest) => *digest,
        BundleRef::Path(path) => {
            return Err(Problem::bad_request(format!(
                "spec.application.bundle: the daemon takes a digest; upload {path:?} first, as 'pumasi apply' does"
            ))
            .into());
        }
    };
    bundles::of(&node).tree(&digest)?;
    may_call(&node, &service)?;
    let platforms = node.engine.capabilities().platforms;
    let need = &service.spec.application.platform;
    let runs = platforms
        .iter()
        .any(|p| p.os == need.os && p.arch == need.arch && need.runtimes.iter().all(|r| p.runtimes.contains(r)));
    if !runs {
        return Err(Problem::fields(
            "this cloud cannot run the application",
            vec![pumasi_terms::FieldError {
                field: "spec.application.platform".into(),
                problem: format!("{} {} with {:?} is not among {:?}", need.os, need.arch, need.runtimes, platforms),
            }],
        )
        .into());
    }
    let expected = service.metadata.revision.take();
    let read = name.clone();
    node.transact(move |tx| {
        let now = clock::now();
        for other in tx.list::<ServiceRecord>(SERVICE)?.into_iter().filter(|s| s.name != name.as_str()) {
            if let Some(host) = service.spec.hosts.iter().find(|h| other.body.document.spec.hosts.contains(h)) {
                return Err(Problem::conflict(format!("spec.hosts: {host} belongs to service {}", other.name)).into());
            }
        }
        let old = tx.get::<ServiceRecord>(SERVICE, name.as_str())?;
        let expect = match (&old, expected) {
            (_, Some(revision)) => Expect::Revision(revision),
            (Some(old), None) => Expect::Revision(old.revision),
            (None, None) => Expect::Absent,
        };
        if old.as_ref().is_some_and(|o| o.body.deleting) {
            return Err(
                Problem::conflict(format!("service {name} is being deleted; apply it again when it is gone")).into()
            );
        }
        let (generation, epoch) = old.as_ref().map_or((1, Epoch(1)), |o| {
            let same = makes_same_instances(&o.body.document, &service);
            (o.body.generation + u64::from(!same), o.body.epoch)
        });
        if old.as_ref().is_some_and(|o| o.body.document == service && expect == Expect::Revision(o.revision)) {
            return Ok(());
        }
        let record = ServiceRecord { document: service, generation, epoch, deleting: false };
        tx.put(SERVICE, name.as_str(), &record, expect)?;
        let action = if old.is_none() { "service_created" } else { "service_changed" };
        tx.journal(
            Note::new(action, "service", &name)
                .because(format!("generation {generation}, bundle {digest}"))
                .entry(&who.to_string(), now.wall),
        )?;
        Ok(())
    })
    .await?;
    get(State(node), Path(read)).await
}

/// Whether running instances can stay as they are.
fn makes_same_instances(old: &Service, new: &Service) -> bool {
    old.spec.application == new.spec.application && old.spec.datasets == new.spec.datasets
}

pub async fn delete(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
) -> Answer<()> {
    node.transact(move |tx| {
        let stored =
            tx.get::<ServiceRecord>(SERVICE, name.as_str())?.ok_or_else(|| Problem::not_found("service", &name))?;
        if stored.body.deleting {
            return Ok(());
        }
        tx.put(
            SERVICE,
            name.as_str(),
            &ServiceRecord { deleting: true, ..stored.body },
            Expect::Revision(stored.revision),
        )?;
        tx.journal(Note::new("service_deletion", "service", &name).entry(&who.to_string(), clock::wall()))?;
        Ok(())
    })
    .await?;
    Ok(axum::Json(()))
}

pub async fn logs(State(node): State<Arc<Node>>, Path(name): Path<ServiceName>) -> Result<String, ApiError> {
    let record =
        node.get::<ServiceRecord>(SERVICE, name.as_str())?.ok_or_else(|| Problem::not_found("service", &name))?;
    let mut text = home::logs_of(&node, &record.owner(), LOG_BYTES_MAX).await;
    let journeys = node.journeys()?;
    for part in journeys.iter().filter(|j| j.service == name).flat_map(|j| &j.parts) {
        if !part.is_over() {
            let asked = match node.peers.clients.of(&node, &part.lender) {
                Ok(client) => client.text(&format!("/v1/leases/{}/logs", part.lease)).await.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            text.push_str(&asked.unwrap_or_else(|e| format!("== {} at {}: not read: {e}\n", part.lease, part.lender)));
        } else if let Ok(kept) = std::fs::read_to_string(borrower::returned_log(&node, &name, &part.lease))
            && text.len() < 4 * LOG_BYTES_MAX
        {
            text.push_str(&kept);
        }
    }
    Ok(text)
}

pub async fn bundle_missing(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(tree): Json<TreeManifest>,
) -> Answer<Missing> {
    node.disk.admits(tree.total_bytes)?;
    let chunks = blocking(move || bundles::of(&node).missing(&node, &who.to_string(), &tree)).await?;
    Ok(axum::Json(Missing { chunks }))
}

pub async fn bundle_chunks(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Raw(pack): Raw,
) -> Answer<()> {
    node.disk.admits(pack.len() as u64)?;
    blocking(move || bundles::of(&node).receive(&node, &who.to_string(), &pack)).await?;
    Ok(axum::Json(()))
}

pub async fn bundle_complete(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(tree): Json<TreeManifest>,
) -> Answer<Uploaded> {
    node.disk.admits(tree.total_bytes)?;
    Ok(axum::Json(blocking(move || bundles::of(&node).complete(&node, &who.to_string(), &tree)).await?))
}

pub async fn instances(State(node): State<Arc<Node>>) -> Answer<List<InstanceView>> {
    let lents = crate::lender::lents(&node)?;
    let items = node.instances.lock().iter().filter_map(|i| instance(&node, i, &lents)).collect();
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

fn instance(node: &Node, i: &InstanceStatus, lents: &[Arc<LentLease>]) -> Option<InstanceView> {
    let lease = LeaseId::parse(i.owner.clone()).ok();
    let lent = lents.iter().find(|l| l.id().as_str() == i.owner);
    let service = match (lent, i.owner.strip_prefix("service-")) {
        (Some(lent), _) => lent.lease.service.clone(),
        (None, Some(name)) => ServiceName::parse(name).ok()?,
        (None, None) => return None,
    };
    let (state, why) = match &i.state {
        InstanceState::Starting => ("starting", String::new()),
        InstanceState::Ready => ("ready", String::new()),
        InstanceState::Unready { why } => ("unready", why.clone()),
        InstanceState::BackingOff { why, .. } => ("backing_off", why.clone()),
        InstanceState::Stopped { exit } => ("stopped", exit.as_ref().map(ToString::to_string).unwrap_or_default()),
        InstanceState::Failed { why } => ("failed", why.clone()),
    };
    Some(InstanceView {
        id: i.id.clone(),
        lease,
        service,
        cloud: lent.map_or_else(|| node.name().clone(), |l| l.lease.borrower.clone()),
        state: state.into(),
        why,
        address: i.address.map(|a| a.to_string()),
        generation: i.generation,
        restarts: i.restarts,
        cpu_used_us: i.cpu_used_us,
        memory_bytes: i.memory_bytes,
    })
}
