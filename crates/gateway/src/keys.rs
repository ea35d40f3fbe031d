//! Keys of services, as the daemon told them: what positions are signed with, and certificates by the name that users ask for.
//!
//! Enters: whole messages. Leaves: keys by service, certificates by host.
//! Always holds: what counts is on disk first, in a file that only its owner may read, so that a gateway which starts without its daemon
//! shows certificates and knows its users; a certificate of no use replaces none that is in force; nothing of it reaches a log.

use crate::position;
use pumasi_route::keys::{KEYS_VERSION, Keys, POSITIONS_MAX, Pair};
use pumasi_terms::ServiceName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

const KEYS_FILE: &str = "keys.json";

/// Why a message counts for nothing; what was told before stands.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("keys version {found} is not known; this gateway reads {KEYS_VERSION}")]
    Version { found: u32 },
    #[error("the keys for positions of {service} are not 1 to {POSITIONS_MAX} of 32 bytes in hex")]
    Positions { service: ServiceName },
    #[error("the keys cannot be kept at {path}, so they are not in force: {source}")]
    Keep { path: PathBuf, source: std::io::Error },
}

#[derive(Default)]
pub struct Ring {
    positions: HashMap<ServiceName, Vec<position::Key>>,
    hosts: HashMap<String, Arc<CertifiedKey>>,
}

impl Ring {
    /// The first signs.
    pub fn positions(&self, service: &ServiceName) -> &[position::Key] {
        self.positions.get(service).map_or(&[], Vec::as_slice)
    }
}

pub struct Keyring {
    path: PathBuf,
    live: RwLock<Arc<Ring>>,
    /// What counts, as it is on disk. Held while it changes.
    told: Mutex<Keys>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring([secret])")
    }
}

fn nothing() -> Keys {
    Keys { version: KEYS_VERSION, services: BTreeMap::new(), unknown: Default::default() }
}

impl Keyring {
    /// With what was told to the run before. The daemon tells all of it again: a file of no use must not keep the gateway down.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join(KEYS_FILE);
        let ring = Self { path, live: RwLock::default(), told: Mutex::new(nothing()) };
        let read = match std::fs::read(&ring.path) {
            Ok(bytes) => serde_json::from_slice::<Keys>(&bytes).map_err(|e| format!("line {}", e.line())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return ring,
            Err(e) => Err(e.to_string()),
        };
        let taken = read.and_then(|keys| ring.take(keys, false).map_err(|e| e.to_string()));
        if let Err(problem) = taken {
            tracing::error!(problem, "the keys on disk are of no use; services go without until the daemon tells them");
        }
        ring
    }

    pub fn live(&self) -> Arc<Ring> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks, keeps and puts in force.
    pub fn put(&self, keys: Keys) -> Result<(), KeysError> {
        self.take(keys, true)
    }

    fn take(&self, mut keys: Keys, keep: bool) -> Result<(), KeysError> {
        if keys.version != KEYS_VERSION {
            return Err(KeysError::Version { found: keys.version });
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for service in std::mem::take(&mut keys.unknown) {
            if let Some(before) = told.services.get(&service) {
                keys.services.entry(service).or_insert_with(|| before.clone());
            }
        }
        let mut ring = Ring::default();
        for (name, of) in &mut keys.services {
            let read = of.positions.iter().map(|k| position::Key::from_hex(k)).collect::<Option<Vec<_>>>();
            let read = read.filter(|k| k.len() <= POSITIONS_MAX);
            let read = read.ok_or_else(|| KeysError::Positions { service: name.clone() })?;
            if !read.is_empty() {
                ring.positions.insert(name.clone(), read);
            }
            let before = told.services.get(name).and_then(|s| s.tls.clone());
            of.tls = of.tls.take().and_then(|pair| shown(&mut ring, name, pair, before));
        }
        if keep {
            keep_at(&self.path, &keys).map_err(|source| KeysError::Keep { path: self.path.clone(), source })?;
        }
        *told = keys;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        Ok(())
    }
}

/// Puts the pair into the ring, or else the one that was in force; which of them it was.
fn shown(ring: &mut Ring, service: &ServiceName, pair: Pair, before: Option<Pair>) -> Option<Pair> {
    for (which, pair) in [("told", Some(pair)), ("before", before)] {
        let Some(pair) = pair else { continue };
        match certified(&pair.pem) {
            Ok(key) => {
                let key = Arc::new(key);
                for host in &pair.hosts {
                    ring.hosts.insert(host.to_ascii_lowercase(), key.clone());
                }
                return Some(pair);
            }
            Err(problem) => tracing::warn!(%service, which, problem, "the certificate is of no use; it is not shown"),
        }
    }
    None
}

/// From one PEM text: certificates, the first of them the service's own, and the private key.
fn certified(pem: &str) -> Result<CertifiedKey, String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| "its certificates do not read")?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "its private key does not read")?;
    CertifiedKey::from_der(chain, key, &pumasi_trust::provider()).map_err(|e| e.to_string())
}

fn keep_at(path: &Path, keys: &Keys) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(keys)?;
    let temporary = path.with_extension("json.new");
    if let Err(e) = std::fs::remove_file(&temporary)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(e);
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// The certificate of the host that a user asks for; where no service has one, the listener's.
#[derive(Debug)]
pub struct ByName {
    keys: Arc<Keyring>,
    listener: Arc<CertifiedKey>,
}

impl ByName {
    pub fn new(keys: Arc<Keyring>, listener: CertifiedKey) -> Self {
        Self { keys, listener: Arc::new(listener) }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in lower case.
        let own = hello.server_name().and_then(|host| self.keys.live().hosts.get(host).cloned());
        own.or_else(|| Some(self.listener.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_route::keys::ServiceKeys;
    use std::os::unix::fs::PermissionsExt;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f";

    fn name(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    fn pem(host: &str) -> String {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// Keys of positions, and host and certificate.
    type Of<'a> = (&'a [&'a str], Option<(&'a str, &'a str)>);

    fn told(services: &[(&str, Of<'_>)]) -> Keys {
        let of = |positions: &[&str], tls: Option<(&str, &str)>| ServiceKeys {
            positions: positions.iter().map(|k| (*k).to_owned()).collect(),
            tls: tls.map(|(host, pem)| Pair { hosts: vec![host.to_owned()], pem: pem.to_owned() }),
        };
        let services = services.iter().map(|(n, (positions, tls))| (name(n), of(positions, *tls))).collect();
        Keys { services, ..nothing() }
    }

    fn der(ring: &Keyring, host: &str) -> Option<Vec<u8>> {
        ring.live().hosts.get(host).map(|k| k.cert[0].to_vec())
    }

    #[test]
    fn what_was_told_outlives_the_process_and_what_is_not_told_any_more_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::open(dir.path());
        let (one, two) = (pem("a.example"), pem("a.example"));
        ring.put(told(&[("shop", (&[KEY], Some(("A.example", &one))))])).unwrap();
        let file = dir.path().join(KEYS_FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Keyring::open(dir.path());
        assert_eq!(again.live().positions(&name("shop")).len(), 1);
        let first = der(&again, "a.example").unwrap();
        // Half a pair shows nothing new; what cannot be read stays.
        let half = two.split("-----BEGIN PRIVATE").next().unwrap();
        again.put(told(&[("shop", (&[KEY], Some(("a.example", half))))])).unwrap();
        assert_eq!(der(&again, "a.example").as_ref(), Some(&first));
        again.put(Keys { unknown: [name("shop"), name("other")].into(), ..nothing() }).unwrap();
        assert_eq!(der(&Keyring::open(dir.path()), "a.example").as_ref(), Some(&first));
        again.put(told(&[("shop", (&[], Some(("a.example", &two))))])).unwrap();
        assert!(
            der(&again, "a.example").is_some_and(|d| d != first) && again.live().positions(&name("shop")).is_empty()
        );
        again.put(nothing()).unwrap();
        assert_eq!(der(&again, "a.example"), None);
        let left = std::fs::read_to_string(&file).unwrap();
        assert!(!left.contains("BEGIN") && !left.contains(KEY), "{left}");
    }

    #[test]
    fn what_is_no_key_is_refused_whole_and_a_broken_file_keeps_nobody_down() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::open(dir.path());
        ring.put(told(&[("shop", (&[KEY], None))])).unwrap();
        assert!(ring.put(told(&[("shop", (&["00"], None))])).is_err());
        assert!(ring.put(told(&[("shop", (&[KEY; POSITIONS_MAX + 1], None))])).is_err());
        assert!(ring.put(Keys { version: 2, ..nothing() }).is_err());
        assert_eq!(ring.live().positions(&name("shop")).len(), 1);
        std::fs::write(dir.path().join(KEYS_FILE), "{").unwrap();
        assert!(Keyring::open(dir.path()).live().positions(&name("shop")).is_empty());
    }
}
