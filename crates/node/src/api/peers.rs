//! What members may ask of a lender.

use super::allowance::Allowance;
use super::body::{Answer, ApiError, Json, Raw};
use super::on_lease::{OnLease, OnUsable, peer};
use super::params::{Path, Query};
use crate::object::{LENT_APPLICATION, LentApplication};
use crate::wire::{
    CancelHandover, CopyState, HandoverCancelled, HandoverState, Inform, PROTOCOL, SealingKey, SendApplication,
    SendTree, Signed,
};
use crate::{Node, certificates, lender, secrets};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{List, Missing, SettlementView, Why};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_lease::LentLease;
use pumasi_lease::message::{Emptiness, Heartbeat, HeartbeatAnswer, ReservationGrant, ReservationRequest};
use pumasi_terms::{DatasetName, LeaseId, ReservationId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The most log bytes that one answer carries.
const LOG_BYTES_MAX: usize = 256 << 10;

pub async fn heartbeat(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(beat): Json<Heartbeat>,
) -> Answer<HeartbeatAnswer> {
    let borrower = peer(who)?;
    if beat.protocol.abs_diff(PROTOCOL) > 1 {
        return Err(Problem::new(
            422,
            "protocol",
            Fault::Peer,
            format!("protocol {} is not spoken here; this daemon speaks {PROTOCOL}", beat.protocol),
        )
        .into());
    }
    let offer = lender::offer_to(&node, &borrower)?;
    let leases = lender::renew(&node, borrower.clone(), beat.renew).await?;
    let receipt = node.peers.saw(&borrower, beat.receipt);
    node.takeover.wanted.told(&borrower, beat.wants_back);
    let identity = node.store.identity();
    Ok(axum::Json(HeartbeatAnswer {
        protocol: PROTOCOL,
        pact_serial: lender::pact(&node)?.pact.serial,
        incarnation: identity.incarnation,
        revision: node.store.revision().0,
        seen_incarnation: receipt.as_ref().map_or(0, |r| r.incarnation),
        seen_revision: receipt.as_ref().map_or(0, |r| r.revision),
        receipt,
        pact_digest: node.pact().map(|v| v.digest),
        place: node.config.cloud.place.clone(),
        offer: Some(offer),
        handovers: crate::register::newer(&node, &borrower, &beat.fronts)?,
        leases,
    }))
}

pub async fn reserve(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(request): Json<ReservationRequest>,
) -> Answer<ReservationGrant> {
    node.disk.admits(0)?;
    Ok(axum::Json(lender::reserve(&node, peer(who)?, request).await?))
}

pub async fn let_go(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<ReservationId>,
) -> Answer<()> {
    Ok(axum::Json(lender::let_go(&node, peer(who)?, id).await?))
}

pub async fn sign(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(signed): Json<Signed>,
) -> Answer<Signed> {
    let document = lender::sign(&node, peer(who)?, signed.document).await?;
    Ok(axum::Json(Signed { document }))
}

pub async fn missing(State(node): State<Arc<Node>>, OnUsable(on): OnUsable, Raw(manifest): Raw) -> Answer<Missing> {
    let chunks = node.copies.missing(&node, &on.lent, manifest.into()).await?;
    Ok(axum::Json(Missing { chunks }))
}

pub async fn chunks(
    State(node): State<Arc<Node>>,
    OnUsable(on): OnUsable,
    allowance: Option<Extension<Arc<Allowance>>>,
    Raw(pack): Raw,
) -> Answer<()> {
    node.disk.admits(pack.len() as u64)?;
    node.copies.receive(&node, &on.lent, pack.into(), allowance.map(|a| a.0)).await?;
    Ok(axum::Json(()))
}

pub async fn sealing_key(State(node): State<Arc<Node>>, OnUsable(on): OnUsable) -> Answer<SealingKey> {
    let id = on.lent.id();
    let vault = &node.identity.vault;
    let public = vault.lease_key(id).map_err(|e| secrets::problem(&e))?;
    // It may have been emptied meanwhile, and its key with it: none is left behind.
    let again = lender::owned(&node, &on.borrower, on.epoch, id);
    if let Err(over) = again.and_then(|lent| lender::still_usable(&lent)) {
        vault.forget_lease(id).map_err(|e| secrets::problem(&e))?;
        return Err(over.into());
    }
    Ok(axum::Json(SealingKey { public }))
}

pub async fn application(
    State(node): State<Arc<Node>>,
    OnUsable(OnLease { lent, borrower, .. }): OnUsable,
    Json(sent): Json<SendApplication>,
) -> Answer<()> {
    let id = lent.id().clone();
    if sent.epoch < lent.lease.epoch {
        return Err(Problem::new(
            409,
            "older_epoch",
            Fault::Peer,
            format!("epoch {} is older than the lease's {}", sent.epoch, lent.lease.epoch),
        )
        .into());
    }
    if let Some(set) = sent.datasets.iter().find(|d| !lent.lease.datasets.contains(&d.name)) {
        return Err(Problem::forbidden(format!("dataset {} is not covered by the signed lease", set.name)).into());
    }
    let mut faults = Vec::new();
    pumasi_terms::Validate::validate(&sent.application, "application", &mut faults);
    if !faults.is_empty() {
        return Err(Problem::fields("the application is not valid", faults).into());
    }
    let covered = &lent.lease.requirement.egress;
    if let Some(to) = sent.application.destinations().into_iter().find(|to| !covered.contains(to)) {
        let text = format!("egress {to} is not covered by the signed lease; it names {covered:?}");
        return Err(Problem::new(409, pumasi_lease::Code::Egress.as_str(), Fault::Peer, text).into());
    }
    let size = node.copies.asked(&lent, &sent.digest)?;
    node.disk.admits(size.bytes)?;
    lender::check_sent(&node, &lent.lease, &sent)?;
    secrets::of_lease(&node.identity.vault, &lent.lease, &sent)?;
    // Nothing is unpacked that would be refused afterwards.
    let current = lender::check_generation(&node, &id, &sent)?;
    node.copies.unpack(&node, &lent, (&sent.digest, size), current.as_ref()).await?;
    let digest = sent.digest;
    let taken = lender::set_application(&node, borrower, id.clone(), sent, size).await;
    if taken.is_err() && lender::current_application(&node, &id)? != Some(digest) {
        node.copies.discard(&node, &lent, &digest).await?;
    }
    Ok(axum::Json(taken?))
}

pub async fn dossier(
    State(node): State<Arc<Node>>,
    OnUsable(OnLease { lent, borrower, .. }): OnUsable,
    Json(sent): Json<Inform>,
) -> Answer<()> {
    Ok(axum::Json(lender::dossier::inform(&node, borrower, &lent, sent).await?))
}

pub async fn prepare_handover(
    State(node): State<Arc<Node>>,
    OnUsable(OnLease { lent, .. }): OnUsable,
    Json(_): Json<serde_json::Value>,
) -> Answer<()> {
    Ok(axum::Json(lender::heir::prepare(&node, &lent).await?))
}

pub async fn hold_at_heir(
    State(node): State<Arc<Node>>,
    OnUsable(OnLease { lent, .. }): OnUsable,
    Json(_): Json<serde_json::Value>,
) -> Answer<()> {
    Ok(axum::Json(lender::heir::hold(&node, &lent).await?))
}

/// Also of a lease that is over: the same word again is answered as it was.
pub async fn handover(
    State(node): State<Arc<Node>>,
    OnLease { lent, borrower, .. }: OnLease,
    Json(signed): Json<Signed>,
) -> Answer<Signed> {
    let document = lender::heir::commit(&node, borrower, &lent, signed.document).await?;
    node.wake.notify_one();
    Ok(axum::Json(Signed { document }))
}

pub async fn cancel_handover(
    State(node): State<Arc<Node>>,
    on: OnLease,
    Json(asked): Json<CancelHandover>,
) -> Answer<HandoverCancelled> {
    Ok(axum::Json(HandoverCancelled { committed: lender::heir::cancel(&node, &on.lent, asked.wish).await? }))
}

/// How long the owner is kept waiting for its answer, while its users wait for what it says.
#[derive(Debug, Default, serde::Deserialize)]
pub struct Patience {
    #[serde(default)]
    wait_ms: u64,
}

pub async fn handover_state(
    State(node): State<Arc<Node>>,
    on: OnLease,
    Query(asked): Query<Patience>,
) -> Answer<HandoverState> {
    let why = lender::heir::opens(&node, &on.lent, asked.wait_ms).await?;
    let uncertified = if on.lent.usable() { certificates::missing(&node, &on.lent).ok() } else { None };
    Ok(axum::Json(HandoverState { open: why.is_none(), why: why.unwrap_or_default(), uncertified }))
}

fn dataset_of(node: &Node, id: &LeaseId, name: &DatasetName) -> Result<crate::wire::SentDataset, Problem> {
    let application = node.get::<LentApplication>(LENT_APPLICATION, id.as_str())?;
    let application = application
        .ok_or_else(|| Problem { retry: true, ..Problem::conflict("the application comes before its data") })?;
    let set = application.sent.datasets.into_iter().find(|d| &d.name == name);
    set.ok_or_else(|| Problem::not_found("dataset of this lease", name))
}

pub async fn dataset(
    State(node): State<Arc<Node>>,
    OnUsable(OnLease { lent, .. }): OnUsable,
    Path((id, name)): Path<(LeaseId, DatasetName)>,
    Json(sent): Json<SendTree>,
) -> Answer<CopyState> {
    let set = dataset_of(&node, &id, &name)?;
    node.disk.admits(node.copies.asked(&lent, &sent.digest)?.bytes)?;
    let state = node.copies.put(&node, &lent, &set, sent).await?;
    node.wake.notify_one();
    Ok(axum::Json(state))
}

pub async fn batch(
    State(node): State<Arc<Node>>,
    OnUsable(OnLease { lent, .. }): OnUsable,
    Path((id, name)): Path<(LeaseId, DatasetName)>,
    allowance: Option<Extension<Arc<Allowance>>>,
    Raw(bytes): Raw,
) -> Answer<CopyState> {
    let set = dataset_of(&node, &id, &name)?;
    node.disk.admits(bytes.len() as u64)?;
    Ok(axum::Json(node.copies.batch(&node, &lent, &set, bytes.into(), allowance.map(|a| a.0)).await?))
}

pub async fn logs(State(node): State<Arc<Node>>, on: OnLease) -> Result<String, ApiError> {
    Ok(crate::home::logs_of(&node, on.lent.id().as_str(), LOG_BYTES_MAX).await)
}

/// The answer to a release: how much is left. The borrower asks again until it is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    pub left: Emptiness,
    pub usage: pumasi_lease::Usage,
}

pub async fn release(
    State(node): State<Arc<Node>>,
    OnLease { lent, borrower, epoch }: OnLease,
    Json(_): Json<serde_json::Value>,
) -> Answer<Released> {
    let id = lent.id().clone();
    // What it answered in its last moments is in the reading that is told.
    crate::sensing::flush(&node).await;
    let lent = lender::owned(&node, &borrower, epoch, &id)?;
    let lent = if lent.usable() { Arc::new(lender::release(&node, borrower, epoch, id.clone()).await?) } else { lent };
    // Once it is recorded as ended, the proof has been made and stands in the journal.
    let left =
        if lent.binds() { Emptiness { holds: 1, ..lender::emptiness(&node, &id).await } } else { Emptiness::default() };
    Ok(axum::Json(Released { left, usage: lent.usage }))
}

pub async fn settle(State(node): State<Arc<Node>>, on: OnLease, Json(signed): Json<Signed>) -> Answer<Signed> {
    let document = lender::settle(&node, on.borrower, on.lent, signed.document).await?;
    Ok(axum::Json(Signed { document }))
}

pub async fn settlements(State(node): State<Arc<Node>>) -> Answer<List<SettlementView>> {
    Ok(axum::Json(List { revision: node.store.revision(), items: lender::open_settlements(&node)? }))
}

pub async fn accept_settlement(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<LeaseId>,
    Json(why): Json<Why>,
) -> Answer<SettlementView> {
    Ok(axum::Json(lender::accept_settlement(&node, &who, id, why.why).await?))
}

pub async fn dispute_settlement(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<LeaseId>,
    Json(why): Json<Why>,
) -> Answer<SettlementView> {
    Ok(axum::Json(lender::dispute_settlement(&node, &who, id, why.why).await?))
}

pub async fn recall(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<LeaseId>,
    Json(why): Json<Why>,
) -> Answer<LentLease> {
    let why = if why.why.is_empty() { "no reason given".to_owned() } else { why.why };
    Ok(axum::Json(lender::recall(&node, &who, id, why).await?))
}
