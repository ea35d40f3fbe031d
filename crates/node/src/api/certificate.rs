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
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

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

pub fn people_tls_config(node: &Arc<Node>) -> Result<Arc<ServerConfig>, String> {
    let api = &node.config.api;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_no_client_auth();
    let mut config = match (&api.certificate, &api.key) {
        (Some(certificate), Some(key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
            let chain = chain.map_err(|e| format!("{}: {e}", certificate.display()))?;
            let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| format!("{}: {e}", key.display()))?;
            builder.with_single_cert(chain, private).map_err(|e| format!("api.certificate and api.key: {e}"))?
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
