//! The pact, for operators, members and newcomers.

use super::body::{Answer, Json};
use crate::Node;
use crate::pact::{self, Shown, SignAnswer};
use crate::wire::{AskAdmission, Signed};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{FoundPact, Invite, Invited, Join, Why};
use pumasi_api::{Principal, Problem};
use pumasi_terms::pact::Terms;
use std::sync::Arc;

fn shown(node: &Node) -> Answer<Shown> {
    let view = node.pact().ok_or_else(pact::no_pact)?;
    Ok(axum::Json(Shown { pact: view.pact.clone(), signed: view.signed.clone() }))
}

pub async fn show(State(node): State<Arc<Node>>) -> Answer<Shown> {
    shown(&node)
}

pub async fn found(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<FoundPact>,
) -> Answer<Shown> {
    pact::found(&node, &who, wish.currency, wish.terms).await?;
    shown(&node)
}

pub async fn invite(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<Invite>,
) -> Answer<Invited> {
    Ok(axum::Json(pact::invite(&node, &who, wish.cloud, wish.ttl_ms).await?))
}

pub async fn join(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<Join>,
) -> Answer<Shown> {
    pact::join(&node, &who, &wish.invitation, wish.terms).await?;
    shown(&node)
}

pub async fn leave(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(why): Json<Why>,
) -> Answer<()> {
    Ok(axum::Json(pact::leave(&node, &who, why.why).await?))
}

pub async fn terms(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(terms): Json<Terms>,
) -> Answer<Shown> {
    pact::set_terms(&node, &who, terms).await?;
    shown(&node)
}

pub async fn admit(State(node): State<Arc<Node>>, Json(ask): Json<AskAdmission>) -> Answer<Signed> {
    let document = pact::admit(&node, &ask.secret, ask.member).await?;
    Ok(axum::Json(Signed { document }))
}

pub async fn sign(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(asked): Json<Signed>,
) -> Answer<SignAnswer> {
    let Principal::Peer(from) = who else {
        return Err(Problem::forbidden(format!("{who} is no member of the pact")).into());
    };
    Ok(axum::Json(pact::sign(&node, &from, asked.document).await?))
}

pub async fn bring(State(node): State<Arc<Node>>, Json(brought): Json<Signed>) -> Answer<Signed> {
    let document = pact::bring(&node, brought.document).await?;
    Ok(axum::Json(Signed { document }))
}
