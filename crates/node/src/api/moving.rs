//! A customer moves its service to another cloud.

use super::body::{Answer, Json};
use super::params::Path;
use super::services::theirs;
use crate::{Node, moves};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{AbandonMove, MoveOutlook, MoveService, Why};
use pumasi_api::{Principal, Problem};
use pumasi_journey::moving::Move;
use pumasi_terms::ServiceName;
use std::sync::Arc;

pub async fn get(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
) -> Answer<Move> {
    let service = theirs(&node, &who, &name)?.body;
    let found = moves::of(&node, &name)?.filter(|m| m.id == service.id);
    let found = found.ok_or_else(|| Problem::not_found("move of service", &name))?;
    Ok(axum::Json(Move::clone(&found)))
}

/// What would come of it; without `dry_run` it begins, and `GET` tells how far it is.
pub async fn begin(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(asked): Json<MoveService>,
) -> Answer<MoveOutlook> {
    let service = theirs(&node, &who, &name)?.body;
    moves::check(&node, &service, &asked.to)?;
    let outlook = moves::outlook(&node, &service, &asked.to).await?;
    if !asked.dry_run {
        moves::begin(&node, &who.to_string(), &service, asked.to).await?;
    }
    Ok(axum::Json(outlook))
}

pub async fn cancel(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(why): Json<Why>,
) -> Answer<Move> {
    theirs(&node, &who, &name)?;
    Ok(axum::Json(moves::cancel(&node, &who.to_string(), name, &why.why).await?))
}

pub async fn abandon(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(asked): Json<AbandonMove>,
) -> Answer<Move> {
    let service = theirs(&node, &who, &name)?.body;
    Ok(axum::Json(moves::abandon::abandon(&node, &who.to_string(), &service, asked).await?))
}
