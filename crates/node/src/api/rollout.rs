//! Deployments: several services at once, what ran before, back to it, everything anew, more or fewer.
//!
//! Enters: manifests, and wishes about a service as it is stored. Leaves: new generations.
//! Always holds: each of these passes the same checks as a manifest that is applied; several services are stored all or none.

use super::body::{Answer, Json};
use super::params::{For, Path, Query};
use super::services::{self, store_all, theirs, wish};
use crate::node::Note;
use crate::object::ServiceRecord;
use crate::tenancy::{self, Estate};
use crate::{Node, clock, generations, register};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{ApplyServices, GenerationView, List, ScaleService, ServiceView, UndoService, Why};
use pumasi_api::{Principal, Problem};
use pumasi_store::Stored;
use pumasi_terms::ServiceName;
use pumasi_terms::manifest::DOCUMENTS_MAX;
use pumasi_terms::service::{HomeInstances, Service};
use std::collections::BTreeSet;
use std::sync::Arc;

pub async fn apply(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Query(asked): Query<For>,
    Json(body): Json<ApplyServices>,
) -> Answer<List<ServiceView>> {
    let mut names = BTreeSet::new();
    if body.services.len() > DOCUMENTS_MAX {
        return Err(Problem::bad_request(format!("at most {DOCUMENTS_MAX} services at once")).into());
    }
    if let Some(twice) = body.services.iter().map(|s| &s.metadata.name).find(|n| !names.insert((*n).clone())) {
        return Err(Problem::bad_request(format!("service {twice} is there twice")).into());
    }
    let mut wishes = Vec::new();
    for service in body.services {
        let (name, customer) = (service.metadata.name.clone(), asked.customer.clone());
        let made = wish(&node, &who, &name, For { customer }, service, None);
        wishes.push(made.map_err(|p| p.during(&format!("service {name}")))?);
    }
    store_all(&node, wishes).await?;
    let mut items = Vec::new();
    for name in names {
        let shown = services::get(State(node.clone()), Extension(who.clone()), Path(name)).await?;
        items.push(shown.0);
    }
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

pub async fn generations(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
) -> Answer<List<GenerationView>> {
    let record = theirs(&node, &who, &name)?.body;
    let shows = Estate::of(&node, &who)?.shows_values(&who, &record, false);
    let kept = generations::of(&node, &record)?.map(|g| g.kept).unwrap_or_default();
    let view = |g: generations::Generation| {
        let mut service = g.document;
        if !shows {
            tenancy::redact(&mut service);
        }
        let current = g.generation == record.generation;
        GenerationView { generation: g.generation, current, at: g.at, by: g.by, why: g.why, service }
    };
    let items = kept.into_iter().rev().map(view).collect();
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

/// The document as it is stored, changed by `change`, and stored again unless somebody else was faster.
async fn amend(
    node: Arc<Node>,
    who: Principal,
    stored: Stored<ServiceRecord>,
    why: String,
    change: impl FnOnce(&mut Service),
) -> Answer<ServiceView> {
    let mut service = stored.body.document.clone();
    change(&mut service);
    service.metadata.revision = Some(stored.revision);
    let name = service.metadata.name.clone();
    let wish = wish(&node, &who, &name, For::default(), service, Some(why))?;
    store_all(&node, vec![wish]).await?;
    services::get(State(node), Extension(who), Path(name)).await
}

fn reason(did: String, why: &str) -> String {
    if why.trim().is_empty() { did } else { format!("{did}: {}", why.trim()) }
}

pub async fn undo(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(asked): Json<UndoService>,
) -> Answer<ServiceView> {
    let stored = theirs(&node, &who, &name)?;
    let record = &stored.body;
    let kept = generations::of(&node, record)?;
    let hint = format!("`pumasi rollout history {name}` lists what is kept");
    let to = match asked.to {
        Some(n) => kept.as_ref().and_then(|k| k.get(n)),
        None => kept.as_ref().and_then(|k| k.before(record)),
    };
    let Some(to) = to else {
        let which = asked.to.map_or("an earlier generation".to_owned(), |n| format!("generation {n}"));
        return Err(Problem::conflict(format!("{which} of service {name} is not kept; {hint}")).into());
    };
    if to.document.spec.datasets != record.document.spec.datasets {
        let text = format!(
            "generation {} of service {name} had other datasets: data do not go back with an application; apply a manifest",
            to.generation
        );
        return Err(Problem::conflict(text).into());
    }
    let why = reason(format!("back to generation {}", to.generation), &asked.why);
    let application = to.document.spec.application.clone();
    amend(node, who, stored, why, |service| service.spec.application = application).await
}

pub async fn scale(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(asked): Json<ScaleService>,
) -> Answer<ServiceView> {
    let stored = theirs(&node, &who, &name)?;
    let home = HomeInstances { min: asked.min, max: asked.max.unwrap_or(asked.min) };
    let range = if home.min == home.max { home.min.to_string() } else { format!("{} to {}", home.min, home.max) };
    let why = reason(format!("scaled to {range} at home"), &asked.why);
    amend(node, who, stored, why, |service| service.spec.instances.home = home).await
}

pub async fn restart(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<ServiceName>,
    Json(asked): Json<Why>,
) -> Answer<ServiceView> {
    let stored = theirs(&node, &who, &name)?;
    register::must_be_ours(&node, &stored.body)?;
    let (actor, key) = (who.to_string(), name.clone());
    node.transact(move |tx| {
        if stored.body.deleting {
            return Err(Problem::conflict(format!("service {key} is being deleted")).into());
        }
        let why = reason("every instance is exchanged".to_owned(), &asked.why);
        let now = clock::wall();
        let record = generations::next(tx, &stored, &actor, &why, now)?;
        let note = Note::new("service_restarted", "service", &key)
            .because(format!("generation {}", record.generation))
            .because(why);
        tx.journal(note.entry(&actor, now))?;
        Ok(())
    })
    .await?;
    services::get(State(node), Extension(who), Path(name)).await
}
