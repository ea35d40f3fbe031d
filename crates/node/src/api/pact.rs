//! The pact, for operators, members and newcomers.

use super::body::{Answer, Json};
use super::params::{Path, Query};
use crate::pact::{self, Shown, SignAnswer};
use crate::takeover::approve::{self, Approval};
use crate::takeover::{by_hand, game_day, in_sync, rehearse};
use crate::wire::{AskAdmission, AskSignature, Notices, Signed};
use crate::{Node, clock};
use axum::Extension;
use axum::extract::State;
use pumasi_api::game_day::{AskGameDay, GameDayView};
use pumasi_api::message::{
    Dismiss, FoundPact, Invite, Invited, Join, List, PactProposal, RehearsalView, TakeOver, TakenOver, Vote, Why,
};
use pumasi_api::{Principal, Problem};
use pumasi_terms::pact::Terms;
use pumasi_terms::{CloudName, ServiceName};
use serde::Deserialize;
use std::sync::Arc;

fn shown(node: &Node, who: &Principal) -> Answer<Shown> {
    let view = node.pact().ok_or_else(pact::no_pact)?;
    let proposals = match who {
        Principal::Person { .. } => pact::proposals(node)?,
        _ => Vec::new(),
    };
    let (pact, signed) = (view.pact.clone(), view.signed.clone());
    let vote = match who {
        Principal::Person { .. } => {
            let mut status = node.voting.status(&pact, clock::boot());
            status.remarks.extend(node.takeover.remarks());
            status.remarks.extend(in_sync::remarks(node));
            Some(status)
        }
        _ => None,
    };
    Ok(axum::Json(Shown { pact, signed, notices: view.notices.clone(), proposals, vote }))
}

pub async fn show(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<Shown> {
    shown(&node, &who)
}

pub async fn dismiss(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<Dismiss>,
) -> Answer<String> {
    Ok(axum::Json(pact::dismiss(&node, &who, wish.cloud, wish.why).await?))
}

pub async fn approve(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
    Json(why): Json<Why>,
) -> Answer<PactProposal> {
    Ok(axum::Json(pact::say(&node, &who, id, true, why.why).await?))
}

pub async fn refuse(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
    Json(why): Json<Why>,
) -> Answer<PactProposal> {
    Ok(axum::Json(pact::say(&node, &who, id, false, why.why).await?))
}

pub async fn notices(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(brought): Json<Notices>,
) -> Answer<()> {
    Ok(axum::Json(pact::take(&node, &who, brought.notices).await?))
}

pub async fn found(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<FoundPact>,
) -> Answer<Shown> {
    pact::found(&node, &who, wish.currency, wish.terms).await?;
    shown(&node, &who)
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
    shown(&node, &who)
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
    shown(&node, &who)
}

pub async fn vote(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<Vote>,
) -> Answer<Shown> {
    pact::vote(&node, &who, wish).await?;
    shown(&node, &who)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lose {
    lose: CloudName,
}

pub async fn rehearse(State(node): State<Arc<Node>>, Query(asked): Query<Lose>) -> Answer<RehearsalView> {
    Ok(axum::Json(rehearse::rehearse(&node, &asked.lose).await?))
}

pub async fn recover(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(cloud): Path<CloudName>,
    Json(why): Json<Why>,
) -> Answer<Approval> {
    Ok(axum::Json(approve::approve(&node, &who.to_string(), &cloud, &why.why).await?))
}

pub async fn take_over(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(wish): Json<TakeOver>,
) -> Answer<Vec<TakenOver>> {
    Ok(axum::Json(by_hand::take_over(&node, &who.to_string(), wish).await?))
}

pub async fn admit(State(node): State<Arc<Node>>, Json(ask): Json<AskAdmission>) -> Answer<Signed> {
    let document = pact::admit(&node, &ask.secret, ask.member).await?;
    Ok(axum::Json(Signed { document }))
}

pub async fn sign(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Json(asked): Json<AskSignature>,
) -> Answer<SignAnswer> {
    let Principal::Peer(from) = who else {
        return Err(Problem::forbidden(format!("{who} is no member of the pact")).into());
    };
    Ok(axum::Json(pact::sign(&node, &from, asked).await?))
}

pub async fn bring(State(node): State<Arc<Node>>, Json(brought): Json<Signed>) -> Answer<Signed> {
    let document = pact::bring(&node, brought.document).await?;
    Ok(axum::Json(Signed { document }))
}

pub async fn game_days(State(node): State<Arc<Node>>) -> Answer<List<GameDayView>> {
    Ok(axum::Json(List { revision: node.store.revision(), items: game_day::list(&node)? }))
}

pub async fn game_day(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(service): Path<ServiceName>,
    Json(asked): Json<AskGameDay>,
) -> Answer<GameDayView> {
    Ok(axum::Json(game_day::ask(&node, &who.to_string(), &service, asked).await?))
}
