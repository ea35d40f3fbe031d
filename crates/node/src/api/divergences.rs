//! What services wrote here before this cloud was found lost, for their customers: seen, downloaded, discarded.

use super::body::{Answer, ApiError, Json};
use super::params::Path;
use crate::object::Divergence;
use crate::tenancy::Estate;
use crate::{Node, diverged};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use pumasi_api::message::{DivergenceView, List, Why};
use pumasi_api::{Principal, Problem};
use pumasi_terms::{Epoch, ServiceName};
use std::sync::Arc;

fn view(found: &Divergence) -> DivergenceView {
    DivergenceView {
        service: found.service.clone(),
        id: found.id.clone(),
        customer: found.customer.clone(),
        epoch: found.epoch,
        set_aside_at: found.at,
        bytes: found.bytes,
        files: found.files,
        only_here: found.only_here(),
        summary: found.summary(),
        datasets: serde_json::to_value(&found.compared).ok().filter(|v| !v.is_null()),
    }
}

pub async fn list(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<List<DivergenceView>> {
    let (all, estate) = (diverged::all(&node)?, Estate::of(&node, &who)?);
    let items = all.iter().filter(|d| estate.owned_by(&d.customer)).map(|d| view(d)).collect();
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

/// The one of a service at an epoch, if it is theirs; what is not does not exist.
fn theirs(node: &Node, who: &Principal, name: &ServiceName, epoch: u64) -> Result<Arc<Divergence>, Problem> {
    let (all, estate) = (diverged::all(node)?, Estate::of(node, who)?);
    let mut own = all.iter().filter(|d| &d.service == name && estate.owned_by(&d.customer));
    let found = own.find(|d| d.epoch == Epoch(epoch)).cloned();
    found.ok_or_else(|| Problem::not_found("divergence", format!("{name} at epoch {epoch}")))
}

pub async fn download(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path((name, epoch)): Path<(ServiceName, u64)>,
) -> Result<Response, ApiError> {
    let found = theirs(&node, &who, &name, epoch)?;
    let stream = diverged::archive(&node, &found).await?;
    let file = format!("attachment; filename=\"{name}-epoch-{epoch}.tar\"");
    let fields = [(CONTENT_TYPE, "application/x-tar".to_owned()), (CONTENT_DISPOSITION, file)];
    Ok((fields, Body::from_stream(stream)).into_response())
}

pub async fn discard(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path((name, epoch)): Path<(ServiceName, u64)>,
    Json(why): Json<Why>,
) -> Answer<()> {
    let found = theirs(&node, &who, &name, epoch)?;
    if why.why.trim().is_empty() {
        return Err(Problem::bad_request("say why: it is erased for good, and the journal keeps the reason").into());
    }
    Ok(axum::Json(diverged::discard(&node, &who.to_string(), &found, &why.why).await?))
}
