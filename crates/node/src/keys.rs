//! Keys that belong to a service and not to a cloud: with what the positions of its users are signed, and the
//! certificate of its hosts, if it has one of its own.
//!
//! Enters: services that this cloud owns, what their owners sent sealed to leases. Leaves: keys for this cloud's gateway, and the sealed
//! package for each cloud that keeps the service ready.
//! Always holds: a key leaves this cloud only sealed to the key of one lease, and is what the owner's signed dossier says; a gateway is
//! given keys of services that its cloud owns, in a message of their own; no store, journal, answer or log holds one that opens.

use crate::node::Locked;
use crate::object::{DOSSIER_KEYS, ServiceRecord};
use crate::wire::SealingKey;
use crate::{Node, clock, entrances, lender, register, secrets};
use pumasi_api::{Fault, Problem};
use pumasi_gateway::ControlError;
use pumasi_lease::{Lease, LentLease};
use pumasi_route::keys::{KEYS_VERSION, Keys, Pair, ServiceKeys};
use pumasi_terms::tls::Tls;
use pumasi_terms::{CustomerName, Digest, Epoch, LeaseId, SecretName, ServiceId, ServiceName, WallMs};
use pumasi_trust::{HpkeError, POSITION_KEYS_MAX, PositionKey, Sealed, Secret, VALUE_BYTES_MAX, Vault, VaultError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const PACKAGE_VERSION: u32 = 1;
const SEALED_FOR: &[u8] = b"pumasi-service-keys-v1";

/// What goes to a standby, as JSON. What a later version adds is passed over.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    pub version: u32,
    /// The first signs.
    pub positions: Vec<PositionKey>,
    /// The certificate with its private key, where the service says that it travels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = self.tls.as_ref().map(|_| "[secret]");
        write!(f, "Package({}, {:?}, {tls:?})", self.version, self.positions)
    }
}

impl Package {
    /// Nothing in what is said of it comes from its content.
    fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let package: Self = serde_json::from_slice(bytes).map_err(|_| "it does not read")?;
        if package.version != PACKAGE_VERSION {
            return Err("its version is not known to this daemon");
        }
        if package.positions.len() > POSITION_KEYS_MAX || !package.positions.iter().all(PositionKey::is_well_formed) {
            return Err("its keys for positions are not as they must be");
        }
        if package.tls.as_ref().is_some_and(|pem| pem.len() > VALUE_BYTES_MAX) {
            return Err("its certificate is longer than a secret may be");
        }
        Ok(package)
    }
}

/// A package as it is signed for and sealed.
#[derive(Debug)]
pub struct Packed {
    pub digest: Digest,
    bytes: Secret<Vec<u8>>,
}

/// What this cloud has of a service's own.
#[derive(Debug)]
struct Own {
    ours: bool,
    positions: Vec<PositionKey>,
    pem: Option<Secret<String>>,
    packed: Option<Arc<Packed>>,
}

/// What it was made from.
#[derive(Debug, PartialEq, Eq)]
struct From {
    changes: u64,
    owned_at: Option<Epoch>,
    has_data: bool,
    tls: Option<Tls>,
}

/// What the gateway was told last.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    run: u64,
    keys: Keys,
}

/// A certificate for what is kept ready here, if its customer has put one at this cloud.
#[derive(Debug)]
struct Guest {
    /// As many changes as the vault had, whose it is, its name.
    from: (u64, CustomerName, SecretName),
    pem: Option<Secret<String>>,
}

#[derive(Debug, Default)]
pub struct Known {
    own: Locked<BTreeMap<ServiceId, (From, Arc<Own>)>>,
    guests: Locked<BTreeMap<ServiceId, Guest>>,
    word: Locked<Option<Word>>,
    /// Why it could not be told, said once.
    trouble: Locked<String>,
}

fn own(node: &Node, service: &ServiceRecord) -> Result<Arc<Own>, Problem> {
    let vault = &node.identity.vault;
    let ours = service.taking.is_none() && register::is_ours(node, service);
    // Held while a key is made: two would make two.
    let mut known = node.keys.own.lock();
    let from = |changes| From {
        changes,
        owned_at: ours.then_some(service.epoch),
        has_data: !service.document.spec.datasets.is_empty(),
        tls: service.document.spec.tls.clone(),
    };
    let now = from(vault.changes());
    if let Some((_, own)) = known.get(&service.id).filter(|(before, _)| before == &now) {
        return Ok(own.clone());
    }
    let positions = match (now.has_data, now.owned_at) {
        (true, Some(epoch)) => vault.position_keys(&service.id, epoch, clock::wall()),
        // Of one that was handed over it stays what it was: what was sent to whom rests on it.
        (true, None) => vault.kept_position_keys(&service.id),
        (false, _) => Ok(Vec::new()),
    };
    let positions = positions.map_err(|e| secrets::problem(&e))?;
    // Making a key is a change as well.
    let from = from(vault.changes());
    let pem = match &from.tls {
        Some(tls) => vault.get(&service.customer, &tls.secret).map_err(|e| secrets::problem(&e))?,
        None => None,
    };
    let travels = from.tls.as_ref().is_some_and(|tls| tls.travels);
    let packed = packed(&positions, pem.as_ref().filter(|_| travels))?;
    let own = Arc::new(Own { ours, positions, pem, packed });
    known.insert(service.id.clone(), (from, own.clone()));
    Ok(own)
}

fn packed(positions: &[PositionKey], pem: Option<&Secret<String>>) -> Result<Option<Arc<Packed>>, Problem> {
    if positions.is_empty() && pem.is_none() {
        return Ok(None);
    }
    let package =
        Package { version: PACKAGE_VERSION, positions: positions.to_vec(), tls: pem.map(|p| p.expose().clone()) };
    let bytes = serde_json::to_vec(&package).map_err(|e| Problem::ours(e.to_string()))?;
    // They are not to be guessed from it.
    Ok(Some(Arc::new(Packed { digest: pumasi_transfer::digest_of(&bytes), bytes: Secret::new(bytes) })))
}

/// A certificate with its key that a customer has put here.
pub fn pem(node: &Node, customer: &CustomerName, name: &SecretName) -> Result<Option<String>, Problem> {
    let value = node.identity.vault.get(customer, name).map_err(|e| secrets::problem(&e))?;
    Ok(value.map(|v| v.expose().clone()))
}

/// What goes with the dossier; none where the service has nothing of the kind.
pub fn package(node: &Node, service: &ServiceRecord) -> Result<Option<Arc<Packed>>, Problem> {
    Ok(own(node, service)?.packed.clone())
}

/// What must not be swapped: a package of another lease, or of another dossier.
fn bound_to(lease: &Lease, dossier: &Digest) -> Vec<u8> {
    format!("{}/{}/{}/{dossier}", lease.id, lease.borrower, lease.lender).into_bytes()
}

/// At the owner, for the lender of this lease alone.
pub fn seal(packed: &Packed, lease: &Lease, dossier: &Digest, key: &SealingKey) -> Result<Sealed, Problem> {
    let sealed = Sealed::to(&key.public, SEALED_FOR, &bound_to(lease, dossier), &packed.bytes);
    sealed.map_err(|e| match e {
        HpkeError::BadKey => Problem::new(422, "bad_sealing_key", Fault::Peer, format!("{}: {e}", lease.lender)),
        _ => Problem::ours(format!("sealing the service's keys: {e}")),
    })
}

/// At the lender: opens what came, if it is what the dossier says.
pub fn open(
    vault: &Vault,
    lease: &Lease,
    sealed: &Sealed,
    dossier: &Digest,
    said: Option<Digest>,
) -> Result<Package, Problem> {
    let bad = |text: String| Problem::new(422, "bad_keys", Fault::Peer, format!("keys of {}: {text}", lease.service));
    let aad = bound_to(lease, dossier);
    let opened = vault.open_for_lease(&lease.id, sealed, SEALED_FOR, &aad).map_err(|e| match e {
        VaultError::Hpke(e) => bad(e.to_string()),
        e => secrets::problem(&e),
    })?;
    if said != Some(pumasi_transfer::digest_of(opened.expose())) {
        return Err(bad("they are not those that the dossier names".into()));
    }
    Package::read(opened.expose()).map_err(|why| bad(why.into()))
}

/// What came with the dossier of a lease. None: nothing did, or it came before this daemon knew of it.
pub fn kept(node: &Node, lent: &LentLease, said: Option<Digest>) -> Result<Option<Package>, Problem> {
    let Some(sealed) = node.get::<Sealed>(DOSSIER_KEYS, lent.id().as_str())? else { return Ok(None) };
    let dossier = lender::dossier::digest(node, lent.id())?;
    let dossier = dossier.ok_or_else(|| Problem::ours(format!("keys of {} are here without a dossier", lent.id())))?;
    open(&node.identity.vault, &lent.lease, &sealed, &dossier, said).map(Some)
}

/// The service was handed over here: its keys are this cloud's to use.
pub fn take_over(node: &Node, service: &ServiceId, package: &Package) -> Result<(), Problem> {
    if package.positions.is_empty() {
        return Ok(());
    }
    node.identity.vault.keep_position_keys(service, &package.positions).map_err(|e| secrets::problem(&e))
}

fn for_gateway(node: &Node, service: &ServiceRecord, now: WallMs) -> Result<ServiceKeys, Problem> {
    let own = own(node, service)?;
    let read = own.positions.iter().filter(|k| own.ours && k.until.is_none_or(|until| now < until));
    // An entrance shows the certificate as well: users come to it by the same names.
    let pem = own.pem.as_ref().filter(|_| service.taking.is_none());
    let tls = pem.map(|pem| Pair { hosts: service.document.spec.hosts.clone(), pem: pem.expose().clone() });
    Ok(ServiceKeys { positions: read.map(|k| k.key.clone()).collect(), tls })
}

/// What an entrance shows for a service that is kept ready here: what its customer has put at this cloud. What came sealed stays closed.
fn guests(node: &Node, own: &[Arc<ServiceRecord>]) -> Vec<(ServiceName, ServiceKeys)> {
    // Which it is cannot be said now: the gateway keeps what it has, or shows the listener's.
    let Ok(lents) = lender::lents(node) else { return Vec::new() };
    let kept = entrances::kept(node, own, &lents);
    let mut known = node.keys.guests.lock();
    known.retain(|id, _| kept.contains_key(id));
    let shown = kept.iter().filter_map(|(id, kept)| {
        let (dossier, tls) = (&kept.dossier, kept.dossier.service.spec.tls.as_ref()?);
        let from = (node.identity.vault.changes(), dossier.customer.clone(), tls.secret.clone());
        if known.get(id).is_none_or(|guest| guest.from != from) {
            let pem = node.identity.vault.get(&dossier.customer, &tls.secret).ok()?;
            known.insert(id.clone(), Guest { from, pem });
        }
        let pem = known.get(id)?.pem.as_ref()?.expose().clone();
        let tls = Some(Pair { hosts: dossier.service.spec.hosts.clone(), pem });
        Some((dossier.service.metadata.name.clone(), ServiceKeys { positions: Vec::new(), tls }))
    });
    shown.collect()
}

fn word(node: &Node, run: u64) -> Result<Word, Problem> {
    let (services, now) = (node.services()?, clock::wall());
    let mut keys = Keys { version: KEYS_VERSION, services: BTreeMap::new(), unknown: Default::default() };
    keys.unknown.extend(services.unreadable().iter().filter_map(|u| u.name.parse().ok()));
    let mut trouble = String::new();
    for service in services.iter() {
        match for_gateway(node, service, now) {
            Ok(of) if of == ServiceKeys::default() => {}
            Ok(of) => drop(keys.services.insert(service.name().clone(), of)),
            Err(e) => {
                trouble = format!("{}: {e}", service.name());
                keys.unknown.insert(service.name().clone());
            }
        }
    }
    for (name, of) in guests(node, &services) {
        keys.services.entry(name).or_insert(of);
    }
    node.keys.own.lock().retain(|id, _| services.iter().any(|s| &s.id == id));
    say_once(node, trouble);
    Ok(Word { run, keys })
}

fn say_once(node: &Node, trouble: String) {
    let mut said = node.keys.trouble.lock();
    if *said != trouble && !trouble.is_empty() {
        tracing::warn!(
            trouble,
            "keys of a service cannot be told to the gateway, which goes on with those that it has"
        );
    }
    *said = trouble;
}

/// Tells the gateway, before a table by which it serves. Without them it serves all the same.
pub async fn tell(node: &Node) -> Result<(), Problem> {
    let Some(run) = node.gateway_status.lock().as_ref().map(|s| s.gateway_run) else { return Ok(()) };
    let word = word(node, run)?;
    if node.keys.word.lock().as_ref() == Some(&word) {
        return Ok(());
    }
    match node.gateway.put_keys(&word.keys).await {
        Ok(()) => node.keys.word.set(Some(word)),
        Err(ControlError::Refused(why)) => {
            // One of before: it signs with its own key, until it is started again.
            tracing::warn!(why, "the gateway does not take keys of services; it is not asked again");
            node.keys.word.set(Some(word));
        }
        Err(e) => tracing::warn!(error = %e, "the gateway did not take keys of services; tried again"),
    }
    Ok(())
}

/// What came sealed opens never again, and is not kept either.
pub fn left_of(node: &Node, lease: &LeaseId) -> u64 {
    node.exists(DOSSIER_KEYS, lease.as_str()).map_or(1, u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::tests::lease;

    #[test]
    fn a_standby_opens_what_was_sealed_to_its_lease_with_this_dossier_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("pumasi-keys-{:032x}", clock::entropy()));
        let vault = Vault::open(&dir).unwrap();
        let keys = vault.position_keys(&ServiceId::from_entropy(1), Epoch(1), WallMs(1)).unwrap();
        let pem = Secret::new("-----BEGIN PRIVATE KEY-----".to_owned());
        let packed_of = |keys: &[PositionKey]| packed(keys, Some(&pem)).unwrap().unwrap();
        let key = |n| SealingKey { public: vault.lease_key(&lease(n).id).unwrap() };
        let good = packed_of(&keys);
        let (dossier, other) = (pumasi_trust::digest(b"dossier"), pumasi_trust::digest(b"another"));
        let sealed = seal(&good, &lease(1), &dossier, &key(1)).unwrap();
        let opened = open(&vault, &lease(1), &sealed, &dossier, Some(good.digest)).unwrap();
        assert_eq!((&opened.positions, opened.tls.as_ref()), (&keys, Some(pem.expose())));
        let odd = PositionKey { key: "00".into(), ..keys[0].clone() };
        let (odd, many) = (packed_of(&[odd]), packed_of(&vec![keys[0].clone(); POSITION_KEYS_MAX + 1]));
        let odd_sealed = seal(&odd, &lease(1), &dossier, &key(1)).unwrap();
        let many_sealed = seal(&many, &lease(1), &dossier, &key(1)).unwrap();
        for (what, lease_of, sealed, dossier, said) in [
            ("of another dossier", 1, &sealed, &other, Some(good.digest)),
            ("of another lease", 2, &sealed, &dossier, Some(good.digest)),
            ("the dossier names others", 1, &sealed, &dossier, Some(odd.digest)),
            ("the dossier names none", 1, &sealed, &dossier, None),
            ("a key that is none", 1, &odd_sealed, &dossier, Some(odd.digest)),
            ("more than are kept", 1, &many_sealed, &dossier, Some(many.digest)),
        ] {
            let refused = open(&vault, &lease(lease_of), sealed, dossier, said).unwrap_err();
            assert_eq!((refused.code.as_str(), refused.fault), ("bad_keys", Fault::Peer), "{what}: {refused:?}");
            assert!(!format!("{refused:?}").contains(&keys[0].key), "{what}");
        }
        // The lease is over.
        vault.forget_lease(&lease(1).id).unwrap();
        assert!(open(&vault, &lease(1), &sealed, &dossier, Some(good.digest)).is_err());
        let shown = format!("{good:?} {opened:?}");
        assert!(!shown.contains(&keys[0].key) && !shown.contains("BEGIN"), "{shown}");
        assert!(packed(&[], None).unwrap().is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
