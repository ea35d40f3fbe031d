//! Secrets of customers: set, listed by name, deleted. A value goes in and never comes out.

use super::body::{Answer, Json, blocking};
use super::params::{For, Path, Query};
use crate::node::Note;
use crate::secrets::{self, problem};
use crate::tenancy;
use crate::{Node, clock};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{List, NewSecret, SecretView};
use pumasi_api::{Principal, Problem};
use pumasi_terms::SecretName;
use pumasi_trust::Secret;
use std::sync::Arc;

pub async fn list(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Query(asked): Query<For>,
) -> Answer<List<SecretView>> {
    let customer = tenancy::named_here(&node, &who, asked.customer)?;
    let mut items = Vec::new();
    for label in node.identity.vault.list(&customer).map_err(|e| problem(&e))? {
        let used_by = secrets::users(&node, &customer, &label.name)?;
        let (name, version, set_at) = (label.name, label.version, label.set_at);
        items.push(SecretView { name, customer: customer.clone(), version, set_at, used_by });
    }
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

pub async fn set(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<SecretName>,
    Query(asked): Query<For>,
    Json(new): Json<NewSecret>,
) -> Answer<SecretView> {
    let customer = tenancy::named_here(&node, &who, asked.customer)?;
    let (keeper, value) = (node.clone(), Secret::new(new.value));
    secrets::check_new(&node, &customer, &name, &value)?;
    let (owner, called) = (customer.clone(), name.clone());
    let label =
        blocking(move || keeper.identity.vault.set(&owner, &called, &value, clock::wall()).map_err(|e| problem(&e)))
            .await?;
    // The value first: a crash in between leaves instances with the old one, and setting it again renews them.
    let (owner, version) = (customer.clone(), label.version);
    node.transact(move |tx| {
        tx.journal(
            Note::new("secret_set", "secret", &name)
                .because(format!("version {version} of customer {owner}"))
                .entry(&who.to_string(), clock::wall()),
        )?;
        secrets::renew_users(tx, &who, &owner, &name, version)
    })
    .await?;
    let used_by = secrets::users(&node, &customer, &label.name)?;
    Ok(axum::Json(SecretView { name: label.name, customer, version, set_at: label.set_at, used_by }))
}

pub async fn delete(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<SecretName>,
    Query(asked): Query<For>,
) -> Answer<()> {
    let customer = tenancy::named_here(&node, &who, asked.customer)?;
    let users = secrets::users(&node, &customer, &name)?;
    if let Some(user) = users.first() {
        return Err(Problem::conflict(format!("service {user} uses secret {name}; change the service first")).into());
    }
    if !node.identity.vault.delete(&customer, &name).map_err(|e| problem(&e))? {
        return Err(Problem::not_found("secret", &name).into());
    }
    let note = Note::new("secret_deleted", "secret", &name).because(format!("of customer {customer}"));
    node.note(&who.to_string(), note).await;
    Ok(axum::Json(()))
}
