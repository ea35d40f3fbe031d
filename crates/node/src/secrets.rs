//! Secrets of customers, on their way to the instances that need them.
//!
//! Enters: what a service names. Leaves: the values, for the engine alone.
//! Always holds: a value leaves this cloud only sealed to the key of one lease; no plan, journal, answer or log holds one.

use crate::Node;
use crate::node::{Note, TxError};
use crate::object::{SERVICE, ServiceRecord};
use crate::wire::{SealingKey, SendApplication};
use crate::{clock, generations};
use pumasi_api::{Fault, Principal, Problem};
use pumasi_engine::Secrets;
use pumasi_lease::Lease;
use pumasi_store::Tx;
use pumasi_terms::service::Service;
use pumasi_terms::{CustomerName, Digest, FieldError, SecretName, ServiceName};
use pumasi_trust::{HpkeError, Sealed, Secret, VALUE_BYTES_MAX, Vault, VaultError, check_pair};
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
pub fn check(node: &Node, customer: &CustomerName, service: &Service) -> Result<(), Problem> {
    for name in service.spec.application.secrets.values() {
        // Opened, so that one that cannot be read is told now and not at the next start.
        if node.identity.vault.get(customer, name).map_err(|e| problem(&e))?.is_none() {
            return Err(missing(name));
        }
    }
    let Some(tls) = &service.spec.tls else { return Ok(()) };
    let pem = node.identity.vault.get(customer, &tls.secret).map_err(|e| problem(&e))?;
    let pem = pem.ok_or_else(|| missing(&tls.secret))?;
    fits(&pem, service, "spec.tls.secret", &tls.secret)
}

fn fits(pem: &Secret<String>, service: &Service, field: &str, name: &SecretName) -> Result<(), Problem> {
    check_pair(pem.expose(), &service.spec.hosts, clock::wall()).map_err(|e| {
        let problem = format!("secret {name}: {e}");
        let text = format!("HTTPS of service {} would not work", service.metadata.name);
        Problem::fields(text, vec![FieldError { field: field.into(), problem }])
    })
}

/// Refuses a value that would take a certificate from a service that shows it.
pub fn check_new(
    node: &Node,
    customer: &CustomerName,
    name: &SecretName,
    value: &Secret<String>,
) -> Result<(), Problem> {
    let services = node.services()?;
    let mut own = services.iter().filter(|s| s.customer == *customer && shows(s, name));
    own.try_for_each(|s| fits(value, &s.document, "value", name))
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

/// At the borrower: the values of a service of this generation, for the lender of this lease alone.
pub fn seal(
    values: &Secrets,
    lease: &Lease,
    generation: u64,
    bundle: &Digest,
    key: &SealingKey,
) -> Result<Sealed, Problem> {
    let bytes = serde_json::to_vec(values.expose()).map_err(|e| Problem::ours(e.to_string()))?;
    let aad = bound_to(lease, generation, bundle);
    Sealed::to(&key.public, SEALED_FOR, &aad, &Secret::new(bytes)).map_err(|e| match e {
        HpkeError::BadKey => Problem::new(422, "bad_sealing_key", Fault::Peer, format!("{}: {e}", lease.lender)),
        _ => Problem::ours(format!("sealing the service's secrets: {e}")),
    })
}

/// At the lender: the values that the instances of a lease get. Exactly those that the application names.
pub fn of_lease(vault: &Vault, lease: &Lease, sent: &SendApplication) -> Result<Secrets, Problem> {
    let bad = |text: String| Problem::new(422, "bad_secrets", Fault::Peer, text);
    let named = &sent.application.secrets;
    let Some(sealed) = &sent.secrets else {
        return match named.is_empty() {
            true => Ok(Secrets::default()),
            false => Err(bad("the application names secrets, and no values came with it".into())),
        };
    };
    let aad = bound_to(lease, sent.generation, &sent.digest);
    let opened = vault.open_for_lease(&lease.id, sealed, SEALED_FOR, &aad).map_err(|e| match e {
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

fn shows(service: &ServiceRecord, name: &SecretName) -> bool {
    service.document.spec.tls.as_ref().is_some_and(|tls| &tls.secret == name)
}

fn names(service: &ServiceRecord, name: &SecretName) -> bool {
    service.document.spec.application.secrets.values().any(|n| n == name)
}

/// A new value is a new generation of every service whose instances use it. A certificate is shown without that.
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
        let (by, why, now) = (who.to_string(), format!("version {version} of secret {name}"), clock::wall());
        let record = generations::next(tx, &stored, &by, &why, now)?;
        let note = Note::new("service_changed", "service", record.name())
            .because(format!("generation {}: {why}", record.generation));
        tx.journal(note.entry(&by, now))?;
        renewed.push(record.name().clone());
    }
    Ok(renewed)
}

/// Which of the customer's services would miss it.
pub fn users(node: &Node, customer: &CustomerName, name: &SecretName) -> Result<Vec<ServiceName>, Problem> {
    let services = node.services()?;
    let using = services.iter().filter(|s| s.customer == *customer && (names(s, name) || shows(s, name)));
    Ok(using.map(|s| s.name().clone()).collect())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn lease(n: u128) -> Lease {
        serde_json::from_value(json!({
            "apiVersion": "pumasi/v1", "kind": "Lease", "id": pumasi_terms::LeaseId::from_entropy(n), "serial": 1,
            "pact": pumasi_terms::PactId::from_entropy(1), "pact_serial": 1, "reservation": pumasi_terms::ReservationId::from_entropy(n),
            "borrower": "city-a", "lender": "city-b", "service": "shop", "epoch": 1,
            "requirement": {
                "service": "shop", "platform": { "os": "linux", "arch": "x86_64", "runtimes": [] },
                "resources": { "cpu_millis": 250, "memory_mib": 128 }, "instances": 1, "instances_min": 1,
                "storage_bytes": 0, "price_per_instance_hour_max": 1
            },
            "instances": 1, "price_per_instance_hour": 1, "ttl_ms": 10_000, "recall_notice_ms": 5_000,
            "application": pumasi_trust::digest(b"app"), "datasets": [], "created_at": 1
        }))
        .unwrap()
    }

    fn sent(generation: u64, named: Value, secrets: Option<Sealed>) -> SendApplication {
        let tree = pumasi_transfer::TreeManifest::new(Vec::new()).unwrap();
        serde_json::from_value(json!({
            "epoch": 1, "generation": generation, "digest": tree.digest(), "hosts": [], "aliases": [], "home_only": [],
            "user_cookie": null, "admission": pumasi_route::table::Admission::default(), "datasets": [], "ticket_key": null,
            "application": { "bundle": tree.digest().to_string(), "command": ["app"], "secrets": named },
            "secrets": secrets,
        }))
        .unwrap()
    }

    #[test]
    fn a_lender_opens_what_was_sealed_for_this_lease_and_generation_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("pumasi-sealing-{:032x}", clock::entropy()));
        let vault = Vault::open(&dir).unwrap();
        let values = |of: &[(&str, &str)]| {
            Secrets::new(of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>())
        };
        let key = |n| SealingKey { public: vault.lease_key(&lease(n).id).unwrap() };
        let digest = sent(1, json!({}), None).digest;
        let good = values(&[("API_KEY", "sk_live"), ("EMPTY", "")]);
        let sealed = |v: &Secrets, n| Some(seal(v, &lease(n), 3, &digest, &key(n)).unwrap());
        let named = json!({ "API_KEY": "stripe", "EMPTY": "none" });
        let opened = of_lease(&vault, &lease(1), &sent(3, named.clone(), sealed(&good, 1))).unwrap();
        assert_eq!(opened.expose(), good.expose());
        assert!(of_lease(&vault, &lease(1), &sent(3, json!({}), None)).unwrap().expose().is_empty());
        let huge = "x".repeat(VALUE_BYTES_MAX + 1);
        for (what, lease_of, told) in [
            ("none came", 1, sent(3, named.clone(), None)),
            ("of another generation", 1, sent(4, named.clone(), sealed(&good, 1))),
            ("of another lease", 2, sent(3, named.clone(), sealed(&good, 1))),
            ("to a key that never was", 9, sent(3, named.clone(), sealed(&good, 1))),
            ("one less", 1, sent(3, named.clone(), sealed(&values(&[("API_KEY", "a")]), 1))),
            ("one more", 1, sent(3, json!({ "API_KEY": "stripe" }), sealed(&good, 1))),
            ("not named at all", 1, sent(3, json!({}), sealed(&values(&[("LD_PRELOAD", "/x")]), 1))),
            ("a NUL", 1, sent(3, named.clone(), sealed(&values(&[("API_KEY", "a\0b"), ("EMPTY", "")]), 1))),
            ("too long", 1, sent(3, named.clone(), sealed(&values(&[("API_KEY", &huge), ("EMPTY", "")]), 1))),
        ] {
            let refused = of_lease(&vault, &lease(lease_of), &told).unwrap_err();
            assert_eq!((refused.code.as_str(), refused.fault), ("bad_secrets", Fault::Peer), "{what}: {refused:?}");
            assert!(!format!("{refused:?}").contains("sk_live"), "{what}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
