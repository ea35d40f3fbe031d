//! Secrets of customers, on their way to the instances that need them.
//!
//! Enters: what a service names. Leaves: the values, for the engine alone.
//! Always holds: a service that names secrets stays at home; no plan, journal, message, answer or log holds a value.

use crate::Node;
use crate::clock;
use crate::node::{Note, TxError};
use crate::object::{SERVICE, ServiceRecord};
use pumasi_api::{Principal, Problem};
use pumasi_engine::Secrets;
use pumasi_store::{Expect, Tx};
use pumasi_terms::{CustomerName, SecretName, ServiceName};
use pumasi_trust::VaultError;

pub fn problem(e: &VaultError) -> Problem {
    match e {
        VaultError::BadValue => Problem::bad_request(e.to_string()),
        VaultError::TooMany(_) => Problem::conflict(e.to_string()),
        _ => Problem::ours(format!("the secrets of this cloud: {e}")),
    }
}

/// The values that an instance of this service gets.
pub fn of_service(node: &Node, service: &ServiceRecord) -> Result<Secrets, Problem> {
    let mut values = std::collections::BTreeMap::new();
    for (key, name) in &service.document.spec.application.secrets {
        let value = node.identity.vault.get(&service.customer, name).map_err(|e| problem(&e))?;
        let value = value.ok_or_else(|| missing(name))?;
        values.insert(key.clone(), value.expose().clone());
    }
    Ok(Secrets::new(values))
}

fn missing(name: &SecretName) -> Problem {
    Problem::bad_request(format!("secret {name} is not set; 'pumasi secret set {name}' sets it"))
}

/// Refuses a service that names what is not there.
pub fn check(node: &Node, customer: &CustomerName, service: &pumasi_terms::service::Service) -> Result<(), Problem> {
    for name in service.spec.application.secrets.values() {
        // Opened, so that one that cannot be read is told now and not at the next start.
        if node.identity.vault.get(customer, name).map_err(|e| problem(&e))?.is_none() {
            return Err(missing(name));
        }
    }
    Ok(())
}

/// Why a service cannot be lent, known before it must be.
pub fn not_lendable(service: &pumasi_terms::service::Service) -> Option<String> {
    let names = &service.spec.application.secrets;
    (!names.is_empty()).then(|| {
        let list: Vec<&str> = names.values().map(SecretName::as_str).collect();
        format!("it uses secrets ({}), and secrets do not leave this cloud", list.join(", "))
    })
}

fn names(service: &ServiceRecord, name: &SecretName) -> bool {
    service.document.spec.application.secrets.values().any(|n| n == name)
}

/// A new value is a new generation of every service that uses it.
pub fn renew_users(
    tx: &mut Tx<'_>,
    who: &Principal,
    customer: &CustomerName,
    name: &SecretName,
    version: u64,
) -> Result<Vec<ServiceName>, TxError> {
    let mut renewed = Vec::new();
    for stored in tx.list::<ServiceRecord>(SERVICE)? {
        if stored.body.customer != *customer || !names(&stored.body, name) {
            continue;
        }
        let record = ServiceRecord { generation: stored.body.generation + 1, ..stored.body };
        renewed.push(record.name().clone());
        tx.put(SERVICE, &stored.name, &record, Expect::Revision(stored.revision))?;
        let note = Note::new("service_changed", "service", record.name())
            .because(format!("generation {}: version {version} of secret {name}", record.generation));
        tx.journal(note.entry(&who.to_string(), clock::wall()))?;
    }
    Ok(renewed)
}

/// Which of the customer's services would miss it.
pub fn users(node: &Node, customer: &CustomerName, name: &SecretName) -> Result<Vec<ServiceName>, Problem> {
    let services = node.services()?;
    let using = services.iter().filter(|s| s.customer == *customer && names(s, name));
    Ok(using.map(|s| s.name().clone()).collect())
}
