//! Journeys, plans, leases and offers: to be seen, and to be decided by people.

use super::body::{Answer, Json};
use super::params::Path;
use super::services;
use crate::node::Note;
use crate::object::{JOURNEY, PLAN, PlanRecord, SIGNED_LEASE, owner_of_lease};
use crate::tenancy::Estate;
use crate::{Node, borrower, clock, trouble};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{LeaseView, List, RehearseService, Why};
use pumasi_api::{Principal, Problem};
use pumasi_engine::InstanceState;
use pumasi_journey::{Journey, Part, PartState};
use pumasi_lease::document::Lease;
use pumasi_lease::{LentLease, LentState};
use pumasi_terms::offer::Offer;
use pumasi_terms::{JourneyId, LeaseId, PlanId, ServiceName, WallMs};
use pumasi_trust::SignedDocument;
use std::sync::Arc;

pub async fn list(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<List<Journey>> {
    let (listing, estate) = (node.store.listing::<Journey>(JOURNEY)?, Estate::of(&node, &who)?);
    let mut items: Vec<Journey> = listing.items.into_iter().map(|j| j.body).filter(|j| estate.journey(j)).collect();
    items.sort_by_key(|j| std::cmp::Reverse(j.opened_at));
    Ok(axum::Json(List { revision: listing.revision, items }))
}

fn journey(node: &Node, who: &Principal, id: &JourneyId) -> Result<Journey, Problem> {
    let estate = Estate::of(node, who)?;
    let found = node.get::<Journey>(JOURNEY, id.as_str())?.filter(|j| estate.journey(j));
    found.ok_or_else(|| Problem::not_found("journey", id))
}

pub async fn get(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<JourneyId>,
) -> Answer<Journey> {
    Ok(axum::Json(journey(&node, &who, &id)?))
}

pub async fn rehearse(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(wish): Json<RehearseService>,
) -> Answer<Journey> {
    let service = services::theirs(&node, &who, &name)?.body;
    crate::register::must_be_ours(&node, &service)?;
    let id = borrower::rehearse(&node, &who.to_string(), &service, wish).await?;
    get(State(node), Extension(who), Path(id)).await
}

pub async fn cancel(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<JourneyId>,
    Json(why): Json<Why>,
) -> Answer<Journey> {
    let found = journey(&node, &who, &id)?;
    if !found.is_open() {
        return Err(Problem::conflict(format!("{id} is over already")).into());
    }
    node.note(
        &who.to_string(),
        Note::new("cancel_asked", "journey", &id).caused_by(&found.service).because(why.why.clone()),
    )
    .await;
    borrower::cancel(&node, &who.to_string(), &id, &why.why).await?;
    get(State(node), Extension(who), Path(id)).await
}

pub async fn plans(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<List<PlanRecord>> {
    let (listing, estate) = (node.store.listing::<PlanRecord>(PLAN)?, Estate::of(&node, &who)?);
    let mut items: Vec<PlanRecord> = listing.items.into_iter().map(|p| p.body).filter(|p| estate.plan(p)).collect();
    items.sort_by_key(|p| std::cmp::Reverse(p.plan.created_at));
    Ok(axum::Json(List { revision: listing.revision, items }))
}

fn plan_of(node: &Node, who: &Principal, id: &PlanId) -> Result<PlanRecord, Problem> {
    let estate = Estate::of(node, who)?;
    let found = node.get::<PlanRecord>(PLAN, id.as_str())?.filter(|p| estate.plan(p));
    found.ok_or_else(|| Problem::not_found("plan", id))
}

pub async fn plan(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<PlanId>,
) -> Answer<PlanRecord> {
    Ok(axum::Json(plan_of(&node, &who, &id)?))
}

pub async fn approve(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<PlanId>,
    Json(why): Json<Why>,
) -> Answer<PlanRecord> {
    plan_of(&node, &who, &id)?;
    Ok(axum::Json(borrower::decide(&node, who.to_string(), id, true, why.why).await?))
}

pub async fn refuse(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<PlanId>,
    Json(why): Json<Why>,
) -> Answer<PlanRecord> {
    plan_of(&node, &who, &id)?;
    Ok(axum::Json(borrower::decide(&node, who.to_string(), id, false, why.why).await?))
}

/// When it was signed, as the lender tells it, too; before it is, when its journey began.
fn since(node: &Node, journey: &Journey, part: &Part) -> WallMs {
    let signed = node.item::<SignedDocument>(SIGNED_LEASE, part.lease.as_str()).ok().flatten();
    // It was verified before it was stored.
    let lease = signed.and_then(|s| serde_json::from_slice::<Lease>(s.unverified_payload()).ok());
    lease.map_or(journey.opened_at, |l| l.created_at)
}

fn rented(node: &Node, who: &Principal, journey: &Journey, part: &Part) -> LeaseView {
    let trouble =
        || node.troubles.of_part(part).map(|t| trouble::words(&t, trouble::reads_logs(who))).unwrap_or_default();
    let (state, why) = match &part.state {
        PartState::Signing => ("signing", String::new()),
        PartState::Sending => ("sending", trouble()),
        PartState::Starting => ("starting", trouble()),
        PartState::Serving if part.recalled.is_some() => ("recalled", "the lender calls it back".into()),
        PartState::Serving => ("serving", trouble()),
        PartState::Resting => ("resting", trouble()),
        PartState::Kept if part.expires_at <= clock::boot() => ("kept", format!("{} is not heard", part.lender)),
        PartState::Kept => ("kept", trouble()),
        PartState::Ending { why, .. } => ("ending", why.clone()),
        PartState::Ended { why, proven: true, .. } => ("ended", why.clone()),
        PartState::Ended { why, .. } => ("ended_unproven", why.clone()),
    };
    LeaseView {
        id: part.lease.clone(),
        side: "rented".into(),
        borrower: node.name().clone(),
        lender: part.lender.clone(),
        service: journey.service.clone(),
        state: state.into(),
        instances_granted: part.granted,
        instances_wanted: part.wanted.max(part.warm()),
        instances_ready: part.ready,
        price_per_instance_hour: part.price_per_instance_hour,
        expires_in_ms: part.expires_at.since(clock::boot()),
        instance_ms: part.usage.instance_ms,
        requests: part.usage.requests,
        since: since(node, journey, part),
        why,
    }
}

fn lent(node: &Node, lent: &LentLease) -> LeaseView {
    let (state, why) = match &lent.state {
        LentState::Active if lent.silence.is_some() => ("kept", format!("{} is not heard", lent.lease.borrower)),
        LentState::Active => {
            let trouble = node.troubles.of(&owner_of_lease(lent.id()), &node.instances.get());
            ("active", trouble.map(|t| t.why).unwrap_or_default())
        }
        LentState::Recalled { why, .. } => ("recalled", why.clone()),
        LentState::Ending { why } => ("ending", format!("{why:?}").to_lowercase()),
        LentState::Ended { why, .. } => ("ended", format!("{why:?}").to_lowercase()),
        LentState::Settled { .. } => ("settled", String::new()),
    };
    let ready = node
        .instances
        .lock()
        .iter()
        .filter(|i| i.owner == lent.id().as_str() && i.state == InstanceState::Ready)
        .count() as u32;
    LeaseView {
        id: lent.id().clone(),
        side: "lent".into(),
        borrower: lent.lease.borrower.clone(),
        lender: node.name().clone(),
        service: lent.lease.service.clone(),
        state: state.into(),
        instances_granted: lent.lease.instances,
        instances_wanted: lent.instances_wanted,
        instances_ready: ready,
        price_per_instance_hour: lent.lease.price_per_instance_hour,
        expires_in_ms: if lent.usable() { lent.expires_at.since(clock::boot()) } else { 0 },
        instance_ms: lent.usage.instance_ms,
        requests: lent.usage.requests,
        since: lent.lease.created_at,
        why,
    }
}

/// A customer sees what is rented for its services; what is lent to other clouds is the operator's.
pub(super) fn all(node: &Node, who: &Principal) -> Result<Vec<LeaseView>, Problem> {
    let (journeys, estate) = (node.journeys()?, Estate::of(node, who)?);
    let theirs = journeys.iter().filter(|j| estate.journey(j));
    let mut items: Vec<LeaseView> = theirs.flat_map(|j| j.parts.iter().map(|p| rented(node, who, j, p))).collect();
    if estate.is_operator() {
        items.extend(crate::lender::lents(node)?.iter().map(|l| lent(node, l)));
    }
    items.sort_by_key(|l| std::cmp::Reverse(l.since));
    Ok(items)
}

pub async fn leases(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<List<LeaseView>> {
    Ok(axum::Json(List { revision: node.store.revision(), items: all(&node, &who)? }))
}

pub async fn lease(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<LeaseId>,
) -> Answer<LeaseView> {
    let found = all(&node, &who)?.into_iter().find(|l| l.id == id);
    Ok(axum::Json(found.ok_or_else(|| Problem::not_found("lease", &id))?))
}

pub async fn offers(State(node): State<Arc<Node>>) -> Answer<List<Offer>> {
    let items = node.peers.offers().into_iter().map(|(offer, _)| offer).collect();
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}
