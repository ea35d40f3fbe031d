//! What no record explains, for operators.

use super::body::{Answer, Json};
use super::params::Path;
use crate::{Node, quarantine};
use axum::Extension;
use axum::extract::State;
use pumasi_api::Principal;
use pumasi_api::message::{List, Quarantined, Why};
use std::sync::Arc;

pub async fn list(State(node): State<Arc<Node>>) -> Answer<List<Quarantined>> {
    Ok(axum::Json(List { revision: node.store.revision(), items: quarantine::list(&node)? }))
}

pub async fn restore(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(entry): Path<String>,
    Json(_): Json<Why>,
) -> Answer<()> {
    Ok(axum::Json(quarantine::restore(&node, &who.to_string(), &entry).await?))
}

pub async fn empty(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(entry): Path<String>,
) -> Answer<()> {
    Ok(axum::Json(quarantine::empty(&node, &who.to_string(), &entry).await?))
}
