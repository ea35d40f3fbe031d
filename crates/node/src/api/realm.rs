//! The users of a service that sign in, for whoever looks after them.

use super::body::{Answer, Json};
use super::params::{Path, Query};
use super::services::theirs;
use crate::Node;
use crate::node::Note;
use crate::realm::ask::{ask, segment};
use axum::Extension;
use axum::extract::State;
use http::Method;
use pumasi_api::Principal;
use pumasi_realm::Login;
use pumasi_realm::admin::{Change, Invitation, Invite, User, Users};
use pumasi_terms::ServiceName;
use std::sync::Arc;

/// A page of users.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    after: Option<Login>,
    limit: Option<u32>,
}

const NOTHING: Option<&()> = None;

pub async fn list(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Query(asked): Query<Page>,
) -> Answer<Users> {
    let service = theirs(&node, &who, &name)?.body;
    let after = asked.after.map(|login| format!("&after={}", segment(&login))).unwrap_or_default();
    let limit = asked.limit.unwrap_or(pumasi_realm::admin::USERS_MAX).clamp(1, pumasi_realm::admin::USERS_MAX);
    Ok(axum::Json(ask(&node, &service, Method::GET, &format!("users?limit={limit}{after}"), NOTHING).await?))
}

pub async fn get(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path((name, login)): Path<(ServiceName, Login)>,
) -> Answer<User> {
    let service = theirs(&node, &who, &name)?.body;
    Ok(axum::Json(ask(&node, &service, Method::GET, &format!("users/{}", segment(&login)), NOTHING).await?))
}

pub async fn change(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path((name, login)): Path<(ServiceName, Login)>,
    Json(change): Json<Change>,
) -> Answer<User> {
    let service = theirs(&node, &who, &name)?.body;
    let user: User = ask(&node, &service, Method::POST, &format!("users/{}", segment(&login)), Some(&change)).await?;
    let what = match change.disabled {
        Some(true) => "disabled and signed out",
        Some(false) => "enabled",
        None if change.sign_out => "signed out",
        None => "its groups were set",
    };
    told(&node, &who, "user_changed", &name, &user, what).await;
    Ok(axum::Json(user))
}

pub async fn delete(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path((name, login)): Path<(ServiceName, Login)>,
) -> Answer<User> {
    let service = theirs(&node, &who, &name)?.body;
    let user: User = ask(&node, &service, Method::DELETE, &format!("users/{}", segment(&login)), NOTHING).await?;
    told(&node, &who, "user_deleted", &name, &user, "with everything that it signed in by").await;
    Ok(axum::Json(user))
}

pub async fn invite(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(wish): Json<Invite>,
) -> Answer<Invitation> {
    let service = theirs(&node, &who, &name)?.body;
    let made: Invitation = ask(&node, &service, Method::POST, "invitations", Some(&wish)).await?;
    let kind = if wish.recovery { "an existing user gets in by it" } else { "somebody becomes a user by it" };
    let note = Note::new("user_invited", "service", &name).because(format!("for {} h; {kind}", wish.ttl_hours));
    node.note(&who.to_string(), note).await;
    Ok(axum::Json(made))
}

/// By the subject: what a person is called is not for the journal.
async fn told(node: &Node, who: &Principal, action: &'static str, name: &ServiceName, user: &User, what: &str) {
    let note = Note::new(action, "service", name).because(format!("user {}: {what}", user.subject));
    node.note(&who.to_string(), note).await;
}
