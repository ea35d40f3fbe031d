//! The pact's vote, among its members.

use super::body::{Answer, ApiError, Json, Raw};
use super::on_lease::peer;
use super::params::{Path, Query};
use crate::Node;
use crate::takeover::report::{self, AskSilence, Silence};
use crate::voting;
use crate::voting::wire::{Applied, AskCommand, Batch, Heard};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use pumasi_api::{Principal, Problem};
use pumasi_terms::{Digest, PactId, Serial};
use serde::Deserialize;
use std::sync::Arc;

/// A member speaks of the pact in force only.
fn ours(node: &Node, id: &PactId) -> Result<(), Problem> {
    match node.pact() {
        Some(view) if &view.pact.id == id => Ok(()),
        _ => Err(Problem::not_found("pact", id)),
    }
}

pub async fn messages(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<PactId>,
    Raw(bytes): Raw,
) -> Answer<Heard> {
    let from = peer(who)?;
    ours(&node, &id)?;
    let batch = Batch::decode(&bytes).map_err(|e| Problem::bad_request(e.to_string()))?;
    Ok(axum::Json(voting::receive(&node, &from, batch)?))
}

pub async fn commands(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<PactId>,
    Json(asked): Json<AskCommand>,
) -> Answer<Applied> {
    let by = peer(who)?;
    ours(&node, &id)?;
    Ok(axum::Json(voting::command(&node, &by, asked).await?))
}

/// Of a voter: what is told here is a list of this cloud's standbys.
pub async fn silence(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<PactId>,
    Json(asked): Json<AskSilence>,
) -> Answer<Silence> {
    let from = peer(who)?;
    ours(&node, &id)?;
    let group = node.voting.group().filter(|g| g.since == asked.since);
    let group = group.ok_or_else(|| Problem::conflict("the pact does not vote, or not by this serial"))?;
    if !group.named().contains(&from) {
        return Err(Problem::forbidden(format!("{from} has no vote in the pact")).into());
    }
    Ok(axum::Json(report::silence(&node, &asked)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    since: Serial,
    /// Unsaid: the whole register.
    after: Option<u64>,
}

pub async fn register(
    State(node): State<Arc<Node>>,
    Path(id): Path<PactId>,
    Query(asked): Query<After>,
) -> Result<Bytes, ApiError> {
    ours(&node, &id)?;
    Ok(voting::followed(&node, asked.since, asked.after).await?.encode().into())
}

pub async fn snapshot(
    State(node): State<Arc<Node>>,
    Path((id, digest)): Path<(PactId, Digest)>,
) -> Result<Bytes, ApiError> {
    ours(&node, &id)?;
    let bytes = voting::snapshot(&node, digest).await?;
    Ok(Bytes::from_owner(bytes))
}
