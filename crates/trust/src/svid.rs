//! An X.509-SVID: a short-lived leaf with its chain and private key.
//!
//! A daemon issues one for its gateway and hands it over as a file; hence `save` and `load`.

use crate::files::{self, FileError};
use crate::x509::{self, pem_block};
use crate::{Secret, SpiffeId};
use pumasi_terms::WallMs;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no certificate at {0}")]
    Missing(std::path::PathBuf),
    #[error("the SVID does not read: {0}")]
    Malformed(&'static str),
}

#[derive(Debug)]
pub struct Svid {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: Secret<PrivatePkcs8KeyDer<'static>>,
    not_before: WallMs,
    not_after: WallMs,
}

impl Clone for Svid {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            chain: self.chain.clone(),
            key: Secret::new(self.key.expose().clone_key()),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

impl Svid {
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::Malformed("there is no certificate in it"))?;
        if chain.len() > x509::CHAIN_MAX {
            return Err(SvidError::Malformed("the chain is too long"));
        }
        let leaf = x509::parse_leaf(leaf).map_err(SvidError::Malformed)?;
        Ok(Self { id: leaf.id, chain, key: Secret::new(key), not_before: leaf.not_before, not_after: leaf.not_after })
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
    /// The leaf, then its issuer.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
    pub fn private_key(&self) -> Secret<PrivateKeyDer<'static>> {
        Secret::new(PrivateKeyDer::Pkcs8(self.key.expose().clone_key()))
    }
    pub fn not_after(&self) -> WallMs {
        self.not_after
    }
    /// Half of its life: time enough to try again before it ends.
    pub fn renew_at(&self) -> WallMs {
        self.not_before.after(self.not_after.since(self.not_before) / 2)
    }

    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|c| pem_block("CERTIFICATE", c)).collect()
    }
    /// Private key, then the chain.
    pub fn to_pem(&self) -> Secret<String> {
        Secret::new(pem_block("PRIVATE KEY", self.key.expose().secret_pkcs8_der()) + &self.chain_pem())
    }
    pub fn from_pem(pem: &[u8]) -> Result<Self, SvidError> {
        let key =
            PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| SvidError::Malformed("it holds no PKCS#8 key"))?;
        let chain = CertificateDer::pem_slice_iter(pem)
            .take(x509::CHAIN_MAX + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| SvidError::Malformed("a certificate in it is not PEM"))?;
        Self::new(chain, key)
    }

    /// Atomically, readable by the owner only.
    pub fn save(&self, path: &Path) -> Result<(), SvidError> {
        Ok(files::replace(path, self.to_pem().expose().as_bytes(), 0o600)?)
    }
    pub fn load(path: &Path) -> Result<Self, SvidError> {
        let pem = files::read_private(path)?.ok_or_else(|| SvidError::Missing(path.to_owned()))?;
        Self::from_pem(&pem)
    }
}
