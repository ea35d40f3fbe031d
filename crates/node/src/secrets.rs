//! Secrets of customers, on their way to the instances that need them.
//!
//! Enters: what a service names. Leaves: the values, for the engine alone.
//! Always holds: a value leaves this cloud only sealed to the key of one lease; no plan, journal, answer or log holds one.

use crate::Node;
use crate::clock;
use crate::node::{Note, TxError};
use crate::object::{SERVICE, ServiceRecord};
use crate::wire::{SealingKey, SendApplication};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_engine::Secrets;
use pumasi_lease::Lease;
use pumasi_store::{Expect, Tx};
use pumasi_terms::{CustomerName, Digest, SecretName, ServiceName};
use pumasi_trust::{HpkeError, Sealed, Secret, VALUE_BYTES_MAX, VaultError};
use std::collections::BTreeMap;

pub fn problem(e: &VaultError) -> Problem {
    match e {
        VaultError::BadValue => Problem::bad_request(e.to_string()),
        VaultError::TooMany(_) => Problem::conflict(e.to_string()),
        _ => Problem::ours(format!("the secrets of this cloud: {e}")),
    }
}

/// The values that an instance of this service gets.
pub fn of_service(node: &Node, service: &ServiceRecord) -> Result<Secrets, Problem> {
    let mut values = BTreeMap::new();
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

const SEALED_FOR: &[u8] = b"pumasi-lease-secrets-v1";

/// What must not be swapped: values of another lease, or of an older generation.
fn bound_to(lease: &Lease, generation: u64, digest: &Digest) -> Vec<u8> {
    format!("{}/{}/{}/{generation}/{digest}", lease.id, lease.borrower, lease.lender).into_bytes()
}

/// Whether instances of this service at a lender need the lease's key.
pub fn are_used(service: &ServiceRecord) -> bool {
    !service.document.spec.application.secrets.is_empty()
}

/// At the borrower: the values of a service, for the lender of this lease alone.
pub fn seal(node: &Node, service: &ServiceRecord, lease: &Lease, key: &SealingKey) -> Result<Sealed, Problem> {
    let values = of_service(node, service)?;
    let bytes = serde_json::to_vec(values.expose()).map_err(|e| Problem::ours(e.to_string()))?;
    let aad = bound_to(lease, service.generation, &service.bundle());
    Sealed::to(&key.public, SEALED_FOR, &aad, &Secret::new(bytes)).map_err(|e| match e {
        HpkeError::BadKey => Problem::new(422, "bad_sealing_key", Fault::Peer, format!("{}: {e}", lease.lender)),
        _ => Problem::ours(format!("sealing the service's secrets: {e}")),
    })
}

/// At the lender: the values that the instances of a lease get. Exactly those that the application names.
pub fn of_lease(node: &Node, lease: &Lease, sent: &SendApplication) -> Result<Secrets, Problem> {
    let bad = |text: String| Problem::new(422, "bad_secrets", Fault::Peer, text);
    let named = &sent.application.secrets;
    let Some(sealed) = &sent.secrets else {
        return match named.is_empty() {
            true => Ok(Secrets::default()),
            false => Err(bad("the application names secrets, and no values came with it".into())),
        };
    };
    let aad = bound_to(lease, sent.generation, &sent.digest);
    let opened = node.identity.vault.open_for_lease(&lease.id, sealed, SEALED_FOR, &aad).map_err(|e| match e {
        VaultError::Hpke(e) => bad(e.to_string()),
        e => problem(&e),
    })?;
    let values: BTreeMap<String, String> =
        serde_json::from_slice(opened.expose()).map_err(|_| bad("the sealed values are no map of text".into()))?;
    if !values.keys().eq(named.keys()) {
        return Err(bad("the sealed values are not those that the application names".into()));
    }
    if values.values().any(|v| v.len() > VALUE_BYTES_MAX || v.contains('\0')) {
        return Err(bad(format!("a secret has at most {VALUE_BYTES_MAX} bytes of text without NUL")));
    }
    Ok(Secrets::new(values))
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
