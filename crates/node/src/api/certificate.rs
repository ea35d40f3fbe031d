//! The certificate of people's API over TLS: the operator's own, or one of this cloud's authority, renewed while it serves.

use crate::config::Api;
use crate::{Node, clock};
use pumasi_terms::WallMs;
use pumasi_trust::{SpiffeId, Svid, provider};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

const TTL_MS: u64 = 24 * 3_600_000;
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Signed by the cloud's authority for the names that people call it by.
struct Issued {
    node: Arc<Node>,
    names: Vec<String>,
    held: Mutex<Option<(Arc<CertifiedKey>, WallMs)>>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued({:?})", self.names)
    }
}

impl Issued {
    fn current(&self) -> Result<Arc<CertifiedKey>, String> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::wall();
        if let Some((key, renew_at)) = held.as_ref()
            && now < *renew_at
        {
            return Ok(key.clone());
        }
        let id = SpiffeId::daemon(self.node.name());
        let svid =
            self.node.identity.authority.lock().issue(&id, TTL_MS, now, &self.names).map_err(|e| e.to_string())?;
        let key = certified(&svid)?;
        *held = Some((key.clone(), svid.renew_at()));
        Ok(key)
    }
}

fn certified(svid: &Svid) -> Result<Arc<CertifiedKey>, String> {
    let key = svid.private_key().expose().clone_key();
    CertifiedKey::from_der(svid.chain().to_vec(), key, &provider()).map(Arc::new).map_err(|e| e.to_string())
}

impl ResolvesServerCert for Issued {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current().inspect_err(|e| tracing::error!(error = %e, "no certificate for people's API")).ok()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    if std::fs::metadata(path).map_err(fail)?.len() > PEM_BYTES_MAX {
        return Err(format!("{}: longer than {PEM_BYTES_MAX} bytes", path.display()));
    }
    std::fs::read(path).map_err(fail)
}

type Stamp = Option<(SystemTime, u64)>;

/// The operator's own, from two files.
pub struct OwnCertificate {
    certificate: PathBuf,
    key: PathBuf,
    held: Mutex<(Arc<CertifiedKey>, [Stamp; 2])>,
    /// What was looked at last and is of no use, so that it is told once.
    refused: Mutex<Option<[Stamp; 2]>>,
}

impl std::fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnCertificate({})", self.certificate.display())
    }
}

impl std::fmt::Display for OwnCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.certificate.display().fmt(f)
    }
}

impl OwnCertificate {
    fn open(certificate: &Path, key: &Path) -> Result<Self, String> {
        let stamps = stamps(certificate, key);
        let held = Mutex::new((pair(certificate, key)?, stamps));
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), held, refused: Mutex::default() })
    }

    /// Whether it is another one now.
    pub fn reload(&self) -> Result<bool, String> {
        let stamps = stamps(&self.certificate, &self.key);
        let new = pair(&self.certificate, &self.key)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = held.0.cert != new.cert;
        *held = (new, stamps);
        Ok(changed)
    }

    /// The same where one of the files is another one than before; a fault is told once.
    pub fn reload_if_changed(&self) -> Result<bool, String> {
        let now = stamps(&self.certificate, &self.key);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.held.lock().unwrap_or_else(PoisonError::into_inner).1;
        if now == known || *refused == Some(now) {
            return Ok(false);
        }
        let read = self.reload();
        *refused = read.is_err().then_some(now);
        read
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.held.lock().unwrap_or_else(PoisonError::into_inner).0.clone())
    }
}

fn stamps(certificate: &Path, key: &Path) -> [Stamp; 2] {
    [certificate, key].map(|path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len()))
    })
}

fn pair(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
    let chain = chain.map_err(|e| format!("{}: {e}", certificate.display()))?;
    if chain.is_empty() {
        return Err(format!("{}: it holds no certificate", certificate.display()));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| format!("{}: {e}", key.display()))?;
    let pair = CertifiedKey::from_der(chain, private, &provider());
    pair.map(Arc::new).map_err(|e| format!("api.certificate and api.key: {e}"))
}

pub fn people_tls_config(node: &Arc<Node>) -> Result<Arc<ServerConfig>, String> {
    let api = &node.config.api;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_no_client_auth();
    let mut config = match (&api.certificate, &api.key) {
        (Some(certificate), Some(key)) => {
            let own = Arc::new(OwnCertificate::open(certificate, key)?);
            let _ = node.people_certificate.set(own.clone());
            builder.with_cert_resolver(own)
        }
        _ => {
            let issued = Issued { node: node.clone(), names: names(api), held: Mutex::default() };
            issued.current()?;
            builder.with_cert_resolver(Arc::new(issued))
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What people call it by: the names in the configuration, and the address itself if it is one.
fn names(api: &Api) -> Vec<String> {
    let address = api.listen.map(|at| at.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    api.names.iter().cloned().chain(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_changed_is_shown_and_one_of_no_use_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let renew = || {
            let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
            std::fs::write(at("c"), made.cert.pem()).unwrap();
            std::fs::write(at("k"), made.signing_key.serialize_pem()).unwrap();
        };
        assert!(OwnCertificate::open(&at("c"), &at("k")).is_err());
        renew();
        let own = OwnCertificate::open(&at("c"), &at("k")).unwrap();
        assert_eq!((own.reload_if_changed(), own.reload()), (Ok(false), Ok(false)));
        let shown = || own.held.lock().unwrap().0.cert.clone();
        let first = shown();
        std::fs::write(at("c"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(own.reload_if_changed().is_err() && shown() == first);
        assert_eq!(own.reload_if_changed(), Ok(false), "told once");
        assert!(own.reload().is_err(), "whoever asks is told");
        renew();
        assert_eq!(own.reload_if_changed(), Ok(true));
        assert!(shown() != first);
    }
}
