//! What customers own: services, their bundles, their logs.

use super::body::{Answer, Json, Raw, blocking};
use super::params::{For, Path, Query};
use super::service_view::view;
use crate::node::{Note, TxError, store_problem};
use crate::object::{LENT, SERVICE, ServiceRecord, service_named_by};
use crate::tenancy::{self, Estate};
use crate::{Node, bundles, clock, generations, lendable, lender, moves, register, routes, secrets, trouble, witness};
use axum::Extension;
use axum::extract::State;
use bytes::Bytes;
use pumasi_api::message::{CheckService, InstanceView, Lending, List, Missing, ServiceView, Uploaded};
use pumasi_api::{Principal, Problem};
use pumasi_engine::{InstanceState, InstanceStatus};
use pumasi_lease::LentLease;
use pumasi_store::{Expect, Stored, Tx};
use pumasi_terms::document::Validate;
use pumasi_terms::egress::check_home;
use pumasi_terms::service::{BundleRef, KIND, Service};
use pumasi_terms::{CloudName, CustomerName, LeaseId, ServiceId, ServiceName};
use pumasi_transfer::TreeManifest;
use std::collections::BTreeSet;
use std::sync::Arc;

pub async fn list(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<List<ServiceView>> {
    let listing = node.store.listing::<ServiceRecord>(SERVICE)?;
    let (journeys, estate) = (node.open_journeys()?, Estate::of(&node, &who)?);
    let theirs = listing.items.into_iter().filter(|s| estate.record(&s.body));
    let items = theirs.map(|mut s| {
        if !estate.shows_values(&who, &s.body, true) {
            tenancy::redact(&mut s.body.document);
        }
        view(&node, &who, s.body, s.revision, &journeys)
    });
    Ok(axum::Json(List { revision: listing.revision, items: items.collect() }))
}

/// The stored record, if it is theirs; what is not does not exist.
pub(super) fn theirs(node: &Node, who: &Principal, name: &ServiceName) -> Result<Stored<ServiceRecord>, Problem> {
    let estate = Estate::of(node, who)?;
    let stored = node.store.get::<ServiceRecord>(SERVICE, name.as_str()).map_err(|e| store_problem(&e))?;
    stored.filter(|s| estate.record(&s.body)).ok_or_else(|| Problem::not_found("service", name))
}

pub async fn get(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
) -> Answer<ServiceView> {
    let mut stored = theirs(&node, &who, &name)?;
    if !Estate::of(&node, &who)?.shows_values(&who, &stored.body, false) {
        tenancy::redact(&mut stored.body.document);
    }
    let journeys = node.open_journeys()?;
    Ok(axum::Json(view(&node, &who, stored.body, stored.revision, &journeys)))
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
    service.metadata.validate("metadata", &mut faults);
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

/// Whether the engine here can run it at all.
fn check_platform(node: &Node, service: &Service) -> Result<(), Problem> {
    let platforms = node.engine.capabilities().platforms;
    let need = &service.spec.application.platform;
    let runs = platforms
        .iter()
        .any(|p| p.os == need.os && p.arch == need.arch && need.runtimes.iter().all(|r| p.runtimes.contains(r)));
    if runs {
        return Ok(());
    }
    Err(Problem::fields(
        "this cloud cannot run the application",
        vec![pumasi_terms::FieldError {
            field: "spec.application.platform".into(),
            problem: format!("{} {} with {:?} is not among {:?}", need.os, need.arch, need.runtimes, platforms),
        }],
    ))
}

/// Names are unique on a cloud, whoever's they are: one that is taken by somebody else is told to be so, and nothing more.
fn taken(name: &ServiceName) -> Problem {
    Problem::conflict(format!("the name {name} is taken on this cloud; choose another one"))
}

/// Who asks for a service, for whom, and what it was.
struct Asked {
    digest: pumasi_terms::Digest,
    customer: CustomerName,
    old: Option<ServiceRecord>,
}

/// Everything that is checked before a service is stored, but its bundle and what depends on the others.
fn admitted(node: &Node, who: &Principal, name: &ServiceName, asked: For, service: &Service) -> Result<Asked, Problem> {
    witness::may_own(node)?;
    check(name, service)?;
    tenancy::refuse_redacted(service)?;
    let digest = match &service.spec.application.bundle {
        BundleRef::Digest(digest) => *digest,
        BundleRef::Path(path) => {
            return Err(Problem::bad_request(format!(
                "spec.application.bundle: the daemon takes a digest; upload {path:?} first, as 'pumasi apply' does"
            )));
        }
    };
    let old = node.get::<ServiceRecord>(SERVICE, name.as_str())?;
    if let Some(old) = old.as_ref().filter(|old| Estate::of(node, who).is_ok_and(|e| e.record(old))) {
        register::must_be_ours(node, old)?;
    }
    let customer = match (&old, asked.customer) {
        (Some(old), _) if !Estate::of(node, who)?.record(old) => return Err(taken(name)),
        (Some(old), Some(other)) if other != old.customer => {
            return Err(Problem::conflict(format!("service {name} belongs to customer {} for good", old.customer)));
        }
        (Some(old), _) => old.customer.clone(),
        (None, asked) => tenancy::named(who, asked)?,
    };
    may_call(node, service)?;
    check_platform(node, service)?;
    secrets::check(node, &customer, service)?;
    Ok(Asked { digest, customer, old })
}

fn check_program(tree: &TreeManifest, service: &Service) -> Result<(), Problem> {
    let checked = bundles::check_program(tree, &service.spec.application.command);
    checked.map_err(|fault| Problem::fields(format!("service {} cannot run", service.metadata.name), vec![fault]))
}

/// As `put`, and nothing is stored. The bundle need not be here.
pub async fn check_only(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Query(asked): Query<For>,
    Json(asked_for): Json<CheckService>,
) -> Answer<Lending> {
    let CheckService { service, bundle_bytes, bundle_files } = asked_for;
    let Asked { digest, old, customer } = admitted(&node, &who, &name, asked, &service)?;
    let mut bundle = lendable::Bundle { digest, bytes: bundle_bytes, files: bundle_files };
    if let Ok(tree) = bundles::owned(&node, &customer).tree(&digest) {
        check_program(&tree, &service)?;
        (bundle.bytes, bundle.files) = (tree.total_bytes, tree.entries.len() as u64);
    }
    Ok(axum::Json(lendable::would_be(&node, old.as_ref(), &service, bundle).await?))
}

/// Everything that is checked before a service is stored, its bundle too.
pub(super) fn wish(
    node: &Node,
    who: &Principal,
    name: &ServiceName,
    asked: For,
    service: Service,
    why: Option<String>,
) -> Result<Wish, Problem> {
    let Asked { digest, customer, .. } = admitted(node, who, name, asked, &service)?;
    let tree = bundles::owned(node, &customer).tree(&digest)?;
    check_program(&tree, &service)?;
    let (cloud, who) = (node.name().clone(), who.to_string());
    let id = ServiceId::from_entropy(clock::entropy());
    Ok(Wish { cloud, service, customer, digest, who, why, id })
}

/// Stores all of them in one transaction, or none.
pub(super) async fn store_all(node: &Arc<Node>, wishes: Vec<Wish>) -> Result<(), Problem> {
    let names: Vec<ServiceName> = wishes.iter().map(|w| w.service.metadata.name.clone()).collect();
    let many = names.len() > 1;
    node.transact(move |tx| {
        for wish in wishes {
            let name = wish.service.metadata.name.clone();
            store(tx, wish).map_err(|e| if many { e.during(&format!("service {name}")) } else { e })?;
        }
        Ok(())
    })
    .await?;
    for name in &names {
        if let Some(record) = node.get::<ServiceRecord>(SERVICE, name.as_str())? {
            lendable::told(node, &record).await;
        }
    }
    routes::named(node, &names).await;
    Ok(())
}

pub async fn put(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Query(asked): Query<For>,
    Json(service): Json<Service>,
) -> Answer<ServiceView> {
    let wish = wish(&node, &who, &name, asked, service, None)?;
    store_all(&node, vec![wish]).await?;
    get(State(node), Extension(who), Path(name)).await
}

/// A service as it shall be.
pub(super) struct Wish {
    cloud: CloudName,
    service: Service,
    customer: CustomerName,
    digest: pumasi_terms::Digest,
    who: String,
    /// What it is a consequence of, if it is not a manifest that was applied.
    why: Option<String>,
    /// If it is a new one.
    id: ServiceId,
}

fn store(tx: &mut Tx<'_>, mut wish: Wish) -> Result<(), TxError> {
    let (now, name) = (clock::now(), wish.service.metadata.name.clone());
    let expected = wish.service.metadata.revision.take();
    let old = tx.get::<ServiceRecord>(SERVICE, name.as_str())?;
    let expect = match (&old, expected) {
        (_, Some(revision)) => Expect::Revision(revision),
        (Some(old), None) => Expect::Revision(old.revision),
        (None, None) => Expect::Absent,
    };
    // Looked at again: it may have been made by somebody else since.
    if old.as_ref().is_some_and(|o| o.body.customer != wish.customer) {
        return Err(taken(&name).into());
    }
    if old.as_ref().is_some_and(|o| o.body.deleting) {
        return Err(
            Problem::conflict(format!("service {name} is being deleted; apply it again when it is gone")).into()
        );
    }
    if old.as_ref().is_some_and(|o| o.body.document == wish.service && expect == Expect::Revision(o.revision)) {
        return Ok(());
    }
    moves::leaves_alone(tx, &name)?;
    let all = tx.list::<ServiceRecord>(SERVICE)?;
    let claims = |h: &String| !old.as_ref().is_some_and(|o| o.body.document.spec.hosts.contains(h));
    if !all.unreadable.is_empty() && wish.service.spec.hosts.iter().any(claims) {
        let text =
            "the record of a service cannot be read, so that it is not known which host names are free; see /readyz";
        return Err(Problem::unavailable(text).into());
    }
    let others: Vec<ServiceRecord> = all.into_iter().map(|s| s.body).filter(|s| *s.name() != name).collect();
    let lent = tx.list::<LentLease>(LENT)?;
    let binding = lent.iter().map(|l| &l.body).filter(|l| l.binds());
    let lent_out: BTreeSet<String> = binding.flat_map(|l| lender::names(&l.lease, &wish.cloud)).collect();
    if let Some(host) = wish.service.spec.hosts.iter().find(|h| claims(h) && lent_out.contains(&h.to_ascii_lowercase()))
    {
        let text = format!("spec.hosts: {host} is answered here for another cloud's service while that is lent to");
        return Err(Problem::conflict(text).into());
    }
    let grant = tenancy::grant(tx, &wish.customer)?;
    tenancy::admit(&grant, &wish.customer, &wish.service, old.as_ref().map(|o| &o.body.document), &others)?;
    let action = if old.is_none() { "service_created" } else { "service_changed" };
    let generation = old
        .as_ref()
        .map_or(1, |o| o.body.generation + u64::from(!makes_same_instances(&o.body.document, &wish.service)));
    let mut note =
        Note::new(action, "service", &name).because(format!("generation {generation}, bundle {}", wish.digest));
    note.reasons.extend(wish.why.clone());
    let seq = tx.journal(note.entry(&wish.who, now.wall))?;
    let old = old.map(|o| o.body);
    let record = match &old {
        Some(old) => ServiceRecord { document: wish.service, generation, ..old.clone() },
        None => ServiceRecord::new(wish.service, wish.id, wish.customer, seq.saturating_sub(1)),
    };
    tx.put(SERVICE, name.as_str(), &record, expect)?;
    if old.as_ref().is_none_or(|o| o.generation != generation) {
        let why = wish.why.unwrap_or_else(|| "a manifest was applied".into());
        generations::began(tx, old.as_ref(), &record, &wish.who, why, now.wall)?;
    }
    Ok(())
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
    let record = theirs(&node, &who, &name)?.body;
    register::must_be_ours(&node, &record)?;
    let id = record.id;
    node.transact(move |tx| {
        let stored = tx.get::<ServiceRecord>(SERVICE, name.as_str())?.filter(|s| s.body.id == id);
        let stored = stored.ok_or_else(|| Problem::not_found("service", &name))?;
        if stored.body.deleting {
            return Ok(());
        }
        moves::end_for_deletion(tx, &name)?;
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

fn store_of(node: &Node, who: &Principal, asked: For) -> Result<bundles::Bundles, Problem> {
    Ok(bundles::owned(node, &tenancy::named_here(node, who, asked.customer)?))
}

/// A manifest may be of a million files.
async fn manifest(body: Bytes) -> Result<TreeManifest, Problem> {
    let parse = move || TreeManifest::parse(&body).map_err(|e| Problem::bad_request(format!("the manifest: {e}")));
    blocking(parse).await
}

pub async fn bundle_missing(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Query(asked): Query<For>,
    Raw(body): Raw,
) -> Answer<Missing> {
    let tree = manifest(body).await?;
    node.disk.admits(tree.total_bytes)?;
    let bundles = store_of(&node, &who, asked)?;
    Ok(axum::Json(Missing { chunks: blocking(move || bundles.missing(&node, &who.to_string(), &tree)).await? }))
}

pub async fn bundle_chunks(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Query(asked): Query<For>,
    Raw(pack): Raw,
) -> Answer<()> {
    node.disk.admits(pack.len() as u64)?;
    let bundles = store_of(&node, &who, asked)?;
    blocking(move || bundles.receive(&node, &who.to_string(), &pack)).await?;
    Ok(axum::Json(()))
}

pub async fn bundle_complete(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Query(asked): Query<For>,
    Raw(body): Raw,
) -> Answer<Uploaded> {
    let tree = manifest(body).await?;
    node.disk.admits(tree.total_bytes)?;
    let bundles = store_of(&node, &who, asked)?;
    Ok(axum::Json(blocking(move || bundles.complete(&node, &who.to_string(), &tree)).await?))
}

pub async fn instances(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
) -> Answer<List<InstanceView>> {
    let (lents, services, estate) = (crate::lender::lents(&node)?, node.services()?, Estate::of(&node, &who)?);
    let shown = |i: &InstanceStatus| {
        let own = services.iter().find(|s| s.owner() == i.owner);
        let name = own.map(|s| s.name().clone()).or_else(|| ServiceName::parse(service_named_by(&i.owner)?).ok());
        if !estate.is_operator() && !own.is_some_and(|s| estate.record(s)) {
            return None;
        }
        instance(&node, &who, i, &lents, name)
    };
    let items = node.instances.lock().iter().filter_map(shown).collect();
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

fn instance(
    node: &Node,
    who: &Principal,
    i: &InstanceStatus,
    lents: &[Arc<LentLease>],
    own: Option<ServiceName>,
) -> Option<InstanceView> {
    let lease = LeaseId::parse(i.owner.clone()).ok();
    let lent = lents.iter().find(|l| l.id().as_str() == i.owner);
    let service = lent.map(|l| l.lease.service.clone()).or(own)?;
    let (state, why) = match &i.state {
        InstanceState::Starting => ("starting", String::new()),
        InstanceState::Ready => ("ready", String::new()),
        InstanceState::Unready { why } => ("unready", why.clone()),
        InstanceState::BackingOff { why, .. } => ("backing_off", why.clone()),
        InstanceState::Stopped { exit } => ("stopped", exit.as_ref().map(ToString::to_string).unwrap_or_default()),
        InstanceState::Failed { why } => ("failed", why.clone()),
    };
    let why = i.trouble.as_ref().map_or(why, |t| trouble::words(t, trouble::reads_logs(who)));
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
