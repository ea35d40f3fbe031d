//! The SVID that a process presents, replaced while it serves: the next handshake shows the new one.

use crate::{SpiffeId, Svid, tls};
use pumasi_terms::WallMs;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::{Arc, PoisonError, RwLock};

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("an SVID of {found} cannot replace that of {held}")]
    OtherId { held: SpiffeId, found: SpiffeId },
    #[error("the SVID's key does not fit its certificate: {0}")]
    Unusable(#[from] rustls::Error),
}

struct Held {
    key: Arc<CertifiedKey>,
    id: SpiffeId,
    not_after: WallMs,
    renew_at: WallMs,
}

#[derive(Clone)]
pub struct SharedIdentity(Arc<RwLock<Held>>);

impl std::fmt::Debug for SharedIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedIdentity({}, until {})", self.id(), self.not_after())
    }
}

fn held(svid: &Svid) -> Result<Held, IdentityError> {
    // Not kept with the secret's wrapper: rustls takes the key over.
    let key = svid.private_key().expose().clone_key();
    let key = CertifiedKey::from_der(svid.chain().to_vec(), key, &tls::provider())?;
    Ok(Held { key: Arc::new(key), id: svid.id().clone(), not_after: svid.not_after(), renew_at: svid.renew_at() })
}

impl SharedIdentity {
    pub fn new(svid: &Svid) -> Result<Self, IdentityError> {
        Ok(Self(Arc::new(RwLock::new(held(svid)?))))
    }

    /// The same identity with a new certificate.
    pub fn replace(&self, svid: &Svid) -> Result<(), IdentityError> {
        let new = held(svid)?;
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if now.id != new.id {
            return Err(IdentityError::OtherId { held: now.id.clone(), found: new.id });
        }
        *now = new;
        Ok(())
    }

    fn read<T>(&self, f: impl FnOnce(&Held) -> T) -> T {
        f(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
    pub fn id(&self) -> SpiffeId {
        self.read(|h| h.id.clone())
    }
    pub fn not_after(&self) -> WallMs {
        self.read(|h| h.not_after)
    }
    pub fn renew_at(&self) -> WallMs {
        self.read(|h| h.renew_at)
    }
}

impl ResolvesServerCert for SharedIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read(|h| h.key.clone()))
    }
}

impl ResolvesClientCert for SharedIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.read(|h| h.key.clone()))
    }
    fn has_certs(&self) -> bool {
        true
    }
}
