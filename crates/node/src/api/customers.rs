//! Customers of this cloud, as its operator grants them room; and what is kept of services that they deleted.

use super::body::{Answer, Json, blocking};
use super::params::Path;
use crate::node::Note;
use crate::object::{CUSTOMER, CustomerRecord, RETIRED, Retired, SERVICE, ServiceRecord, TOKEN, TokenRecord};
use crate::tenancy::{self, Estate};
use crate::{Node, bundles, clock, former, quarantine, secrets};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{CustomerGrant, CustomerView, List, RetiredView};
use pumasi_api::{Principal, Problem};
use pumasi_store::Expect;
use pumasi_terms::{CustomerName, ServiceId};
use std::sync::Arc;

const CUSTOMERS_MAX: usize = 10_000;

fn view(node: &Node, name: &CustomerName, grant: CustomerGrant) -> Result<CustomerView, Problem> {
    let (services, tokens) = (node.services()?, node.items::<TokenRecord>(TOKEN)?);
    let own: Vec<_> = services.iter().filter(|s| s.customer == *name).collect();
    Ok(CustomerView {
        name: name.clone(),
        grant,
        services: own.iter().map(|s| s.name().clone()).collect(),
        tokens: tokens.iter().filter(|t| t.customer.as_ref() == Some(name)).count() as u32,
        used: tenancy::used(own.iter().map(|s| &***s)),
    })
}

pub async fn list(State(node): State<Arc<Node>>) -> Answer<List<CustomerView>> {
    let records = node.list::<CustomerRecord>(CUSTOMER)?;
    let default = CustomerName::default_customer();
    let mut items = Vec::with_capacity(records.len() + 1);
    if !records.iter().any(|r| r.name == default) {
        items.push(view(&node, &default, CustomerGrant::default())?);
    }
    for record in records {
        items.push(view(&node, &record.name, record.grant)?);
    }
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

/// Makes a customer, or changes what it is granted. What it has already may stay.
pub async fn put(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<CustomerName>,
    Json(grant): Json<CustomerGrant>,
) -> Answer<CustomerView> {
    tenancy::check_grant(&grant)?;
    if name != CustomerName::default_customer() && node.item::<CustomerRecord>(CUSTOMER, name.as_str())?.is_none() {
        begin_anew(&node, &name).await?;
    }
    let (stored, granted) = (name.clone(), grant.clone());
    node.transact(move |tx| {
        let now = clock::wall();
        let old = tx.get::<CustomerRecord>(CUSTOMER, stored.as_str())?;
        if old.is_none() && tx.list::<CustomerRecord>(CUSTOMER)?.len() >= CUSTOMERS_MAX {
            return Err(Problem::conflict(format!("there are {CUSTOMERS_MAX} customers already")).into());
        }
        let action = if old.is_none() { "customer_created" } else { "customer_changed" };
        let created_at = old.map_or(now, |o| o.body.created_at);
        let note = Note::new(action, "customer", &stored).with(serde_json::json!({ "grant": granted }));
        let record = CustomerRecord { version: 1, name: stored, grant: granted, created_at };
        tx.put(CUSTOMER, record.name.as_str(), &record, Expect::Any)?;
        tx.journal(note.entry(&who.to_string(), now))?;
        Ok(())
    })
    .await?;
    Ok(axum::Json(view(&node, &name, grant)?))
}

/// A customer inherits nothing from one that had its name: neither bundles nor secrets.
async fn begin_anew(node: &Arc<Node>, name: &CustomerName) -> Result<(), Problem> {
    let bundles = bundles::dir_of(node, name);
    if bundles.symlink_metadata().is_ok() {
        node.uploads.forget(&bundles);
        let what = format!("bundles-of-{name}");
        quarantine::put(node, &what, &[&bundles], "they were an earlier customer's of this name").await?;
    }
    let (node, name) = (node.clone(), name.clone());
    blocking(move || node.identity.vault.set_aside(&name, clock::wall()).map_err(|e| secrets::problem(&e))).await
}

/// Only one that has nothing left here: nothing is destroyed on the way.
pub async fn delete(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(name): Path<CustomerName>,
) -> Answer<()> {
    let kept = node.identity.vault.list(&name).map_err(|e| secrets::problem(&e))?;
    if let Some(secret) = kept.first() {
        return Err(Problem::conflict(format!(
            "customer {name} still has {} secrets; 'pumasi secret delete {} --customer {name}' deletes one",
            kept.len(),
            secret.name
        ))
        .into());
    }
    let gone = name.clone();
    node.transact(move |tx| {
        let services = tx.list::<ServiceRecord>(SERVICE)?.iter().filter(|s| s.body.customer == name).count();
        let retired = tx.list::<Retired>(RETIRED)?.iter().filter(|r| r.body.customer == name).count();
        let tokens = tx.list::<TokenRecord>(TOKEN)?.iter().filter(|t| t.body.customer.as_ref() == Some(&name)).count();
        if services + retired + tokens > 0 {
            return Err(Problem::conflict(format!(
                "customer {name} still has {services} services, data of {retired} deleted services and {tokens} tokens; end those first"
            ))
            .into());
        }
        if tx.delete(CUSTOMER, name.as_str(), Expect::Any)?.is_none() {
            return Err(Problem::not_found("customer", &name).into());
        }
        tx.journal(Note::new("customer_deleted", "customer", &name).entry(&who.to_string(), clock::wall()))?;
        Ok(())
    })
    .await?;
    begin_anew(&node, &gone).await?;
    Ok(axum::Json(()))
}

pub async fn retired(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<List<RetiredView>> {
    let (all, estate) = (node.items::<Retired>(RETIRED)?, Estate::of(&node, &who)?);
    let items = all.iter().filter(|r| estate.owned_by(&r.customer)).map(|r| RetiredView {
        id: r.id.clone(),
        name: r.name.clone(),
        customer: r.customer.clone(),
        retired_at: r.retired_at,
        erase_after: r.erase_after,
        bytes: None,
    });
    let mut items: Vec<RetiredView> = items.collect();
    for service in node.services()?.iter().filter(|s| estate.owned_by(&s.customer)) {
        // What cannot be told of one hides nothing of the others.
        items.extend(former::kept(&node, service).await.unwrap_or_default());
    }
    Ok(axum::Json(List { revision: node.store.revision(), items }))
}

/// Its owner need not wait for the end of the retention.
pub async fn erase(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<ServiceId>,
) -> Answer<()> {
    let estate = Estate::of(&node, &who)?;
    let services = node.services()?;
    if let Some(service) = services.iter().find(|s| s.id == id && estate.owned_by(&s.customer)) {
        return match former::erase_now(&node, &who.to_string(), service).await? {
            true => Ok(axum::Json(())),
            false => Err(Problem::not_found("data that may be erased of service", service.name()).into()),
        };
    }
    let found = node.item::<Retired>(RETIRED, id.as_str())?.filter(|r| estate.owned_by(&r.customer));
    let name = found.ok_or_else(|| Problem::not_found("deleted service", &id))?.name.clone();
    node.transact(move |tx| {
        let Some(stored) = tx.get::<Retired>(RETIRED, id.as_str())? else { return Ok(()) };
        let now = clock::wall();
        tx.put(RETIRED, id.as_str(), &Retired { erase_after: now, ..stored.body }, Expect::Revision(stored.revision))?;
        tx.journal(Note::new("erasure_asked", "service", &name).because(id.to_string()).entry(&who.to_string(), now))?;
        Ok(())
    })
    .await?;
    Ok(axum::Json(tenancy::erase_retired(&node).await?))
}
