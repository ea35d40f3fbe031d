//! Who is trusted: roots per trust domain, and the exact identities that are welcome.
//!
//! `TrustStore` is a value; `SharedTrust` is the handle that TLS verifiers read at each handshake, so that a change of
//! the pact counts from the next handshake on. Connections that are open already are the caller's: ask `allows` for each
//! request.

use crate::authority::SVID_TTL_MS_MAX;
use crate::bundle::{Bundle, BundleError, Root, fingerprint};
use crate::x509::{self, CHAIN_MAX, unix_time};
use crate::{SpiffeId, tls};
use pumasi_terms::{CloudName, Digest, WallMs};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

/// Why a peer's certificate was refused. All but `NotAllowed` and `UnknownDomain` are the peer's fault for certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefusal {
    #[error("the peer presented no certificate")]
    NoCertificate,
    #[error("the peer's certificate {problem}")]
    BadLeaf { problem: &'static str },
    #[error("the peer presented a chain of more than {CHAIN_MAX} certificates")]
    LongChain,
    #[error("{id} is of the trust domain {}, whose roots this cloud does not hold", id.trust_domain())]
    UnknownDomain { id: SpiffeId },
    #[error("the certificate of {id} expired at {not_after}")]
    Expired { id: SpiffeId, not_after: WallMs },
    #[error("the certificate of {id} is valid only from {not_before} on; one of the two clocks is wrong")]
    NotYetValid { id: SpiffeId, not_before: WallMs },
    #[error("the certificate of {id} lives for {} hours; one of a cloud lives a day", lives_ms / 3_600_000)]
    LongLived { id: SpiffeId, lives_ms: u64 },
    #[error("the certificate of {id} was not signed by a root of its trust domain: {problem}")]
    Untrusted { id: SpiffeId, problem: String },
    #[error("{id} is proven, but it is not on the allow-list: the pact does not name it")]
    NotAllowed { id: SpiffeId },
    #[error("the peer is {found}, but {expected} was called")]
    Unexpected { expected: SpiffeId, found: SpiffeId },
    #[error("the chain of {id} does not lead to the root of the invitation ({fingerprint})")]
    NotPinned { id: SpiffeId, fingerprint: Digest },
}

/// The longest life of a leaf: a day, and an hour for clocks and for authorities that date back. Whoever steals a key has it
/// for a day, whatever the authority of its cloud was talked into signing.
const LEAF_LIFE_MS_MAX: u64 = SVID_TTL_MS_MAX + 3_600_000;

/// As what a certificate is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Server,
}

#[derive(Clone, Default)]
pub struct TrustStore(Arc<Inner>);

#[derive(Default, Clone)]
struct Inner {
    bundles: BTreeMap<CloudName, Bundle>,
    allow: BTreeSet<SpiffeId>,
}

impl std::fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustStore").field("bundles", &self.0.bundles).field("allow", &self.0.allow).finish()
    }
}

impl TrustStore {
    pub fn new(bundles: BTreeMap<CloudName, Bundle>, allow: BTreeSet<SpiffeId>) -> Result<Self, BundleError> {
        bundles.iter().try_for_each(|(domain, bundle)| bundle.check_domain(domain))?;
        Ok(Self(Arc::new(Inner { bundles, allow })))
    }

    pub fn bundles(&self) -> &BTreeMap<CloudName, Bundle> {
        &self.0.bundles
    }
    pub fn allowed(&self) -> &BTreeSet<SpiffeId> {
        &self.0.allow
    }
    pub fn allows(&self, id: &SpiffeId) -> bool {
        self.0.allow.contains(id)
    }

    /// With one bundle added, or replaced by a newer one.
    pub fn with_bundle(&self, domain: &CloudName, newer: Bundle) -> Result<Self, BundleError> {
        newer.check_domain(domain)?;
        let mut inner = Inner::clone(&self.0);
        let bundle = match inner.bundles.remove(domain) {
            Some(held) => held.update(newer)?,
            None => newer,
        };
        inner.bundles.insert(domain.clone(), bundle);
        Ok(Self(Arc::new(inner)))
    }

    /// With exactly these identities welcome.
    pub fn with_allowed(&self, allow: BTreeSet<SpiffeId>) -> Self {
        Self(Arc::new(Inner { bundles: self.0.bundles.clone(), allow }))
    }

    /// The identity of a chain: its leaf's trust domain selects the roots, one of them signed it, it is in time, and the
    /// allow-list names it.
    pub fn verify(&self, chain: &[CertificateDer<'_>], purpose: Purpose, now: WallMs) -> Result<SpiffeId, PeerRefusal> {
        let id = x509::peer_identity(chain)?;
        let bundle =
            self.0.bundles.get(id.trust_domain()).ok_or_else(|| PeerRefusal::UnknownDomain { id: id.clone() })?;
        let roots: Vec<&Root> = bundle.roots().iter().collect();
        verify_chain(&id, chain, &roots, purpose, now)?;
        if !self.allows(&id) {
            return Err(PeerRefusal::NotAllowed { id });
        }
        Ok(id)
    }
}

/// A chain of a cloud whose bundle is not held yet: the root is in the chain and has the fingerprint of the invitation.
pub(crate) fn verify_pinned(
    expected: &SpiffeId,
    pin: Digest,
    chain: &[CertificateDer<'_>],
    now: WallMs,
) -> Result<(), PeerRefusal> {
    let id = x509::peer_identity(chain)?;
    if &id != expected {
        return Err(PeerRefusal::Unexpected { expected: expected.clone(), found: id });
    }
    let not_pinned = || PeerRefusal::NotPinned { id: id.clone(), fingerprint: pin };
    let der = chain.iter().skip(1).take(CHAIN_MAX).find(|c| fingerprint(c) == pin).ok_or_else(not_pinned)?;
    let root = Root::parse(der.clone().into_owned())
        .map_err(|problem| PeerRefusal::Untrusted { id: id.clone(), problem: format!("the root {problem}") })?;
    if root.domain().is_some_and(|d| d != id.trust_domain()) {
        return Err(not_pinned());
    }
    verify_chain(&id, chain, &[&root], Purpose::Server, now)
}

fn verify_chain(
    id: &SpiffeId,
    chain: &[CertificateDer<'_>],
    roots: &[&Root],
    purpose: Purpose,
    now: WallMs,
) -> Result<(), PeerRefusal> {
    let Some((leaf, intermediates)) = chain.split_first() else { return Err(PeerRefusal::NoCertificate) };
    if chain.len() > CHAIN_MAX {
        return Err(PeerRefusal::LongChain);
    }
    let untrusted = |problem: String| PeerRefusal::Untrusted { id: id.clone(), problem };
    // webpki does not look at the dates of a root.
    let anchors: Vec<TrustAnchor<'_>> = roots.iter().filter(|r| r.in_time(now)).map(|r| r.anchor.clone()).collect();
    if anchors.is_empty() {
        return Err(untrusted(
            "every root of that domain has expired or is not valid yet; are both clocks right?".to_owned(),
        ));
    }
    let usage = match purpose {
        Purpose::Client => webpki::KeyUsage::client_auth(),
        Purpose::Server => webpki::KeyUsage::server_auth(),
    };
    let cert = webpki::EndEntityCert::try_from(leaf).map_err(|e| untrusted(e.to_string()))?;
    let algorithms = tls::provider().signature_verification_algorithms.all;
    match cert.verify_for_usage(algorithms, &anchors, intermediates, unix_time(now), usage, None, None) {
        Ok(_) => short_lived(id, leaf),
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            Err(PeerRefusal::Expired { id: id.clone(), not_after: wall(not_after) })
        }
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
            Err(PeerRefusal::NotYetValid { id: id.clone(), not_before: wall(not_before) })
        }
        Err(other) => Err(untrusted(other.to_string())),
    }
}

fn short_lived(id: &SpiffeId, leaf: &CertificateDer<'_>) -> Result<(), PeerRefusal> {
    let leaf = x509::parse_leaf(leaf).map_err(|problem| PeerRefusal::BadLeaf { problem })?;
    let lives_ms = leaf.not_after.since(leaf.not_before);
    if lives_ms > LEAF_LIFE_MS_MAX { Err(PeerRefusal::LongLived { id: id.clone(), lives_ms }) } else { Ok(()) }
}

pub(crate) fn wall(time: rustls_pki_types::UnixTime) -> WallMs {
    WallMs(i64::try_from(time.as_secs()).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// The one trust store of a process, swapped whole.
#[derive(Clone, Default, Debug)]
pub struct SharedTrust(Arc<RwLock<TrustStore>>);

impl SharedTrust {
    pub fn new(store: TrustStore) -> Self {
        Self(Arc::new(RwLock::new(store)))
    }
    pub fn current(&self) -> TrustStore {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub fn replace(&self, store: TrustStore) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = store;
    }
    /// Replaces the store by what `change` makes of it; two changes never lose one another.
    pub fn update<E>(&self, change: impl FnOnce(&TrustStore) -> Result<TrustStore, E>) -> Result<(), E> {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *held = change(&held)?;
        Ok(())
    }
    pub fn allows(&self, id: &SpiffeId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).allows(id)
    }
}
