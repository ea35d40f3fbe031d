//! The roots of one trust domain as a SPIFFE bundle: a JWK set (SPIFFE Trust Domain and Bundle, 4).
//!
//! A bundle in memory holds 1 to 8 roots, each a CA certificate that reads; keys for other uses are passed over.

use crate::x509;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pumasi_terms::{CloudName, Digest, WallMs};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub const BUNDLE_BYTES_MAX: usize = 64 << 10;
pub const BUNDLE_KEYS_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("a bundle has at most {BUNDLE_BYTES_MAX} bytes, this one {0}")]
    TooLarge(usize),
    #[error("the bundle is not a JWK set: {0}")]
    NotJwks(String),
    #[error("a bundle has 1 to {BUNDLE_KEYS_MAX} keys for x509-svid, this one {0}")]
    KeyCount(usize),
    #[error("keys[{index}] of the bundle: the certificate {problem}")]
    BadKey { index: usize, problem: &'static str },
    #[error("the bundle of {domain} holds a root of {root_domain}")]
    WrongDomain { domain: CloudName, root_domain: CloudName },
    #[error("bundle {offered} is older than the one held ({held}); a newer one has a higher spiffe_sequence")]
    Older { held: u64, offered: u64 },
    #[error("bundle {0} differs from the one held under the same spiffe_sequence")]
    Forked(u64),
}

#[derive(Serialize, Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
    #[serde(default)]
    spiffe_sequence: u64,
    #[serde(default)]
    spiffe_refresh_hint: u64,
}

/// Readers take the key from `x5c`; the coordinates are for other readers. Unknown members are passed over (RFC 7517, 4).
#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use", default)]
    usage: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    x5c: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Root {
    pub der: CertificateDer<'static>,
    pub anchor: TrustAnchor<'static>,
    pub not_before: WallMs,
    pub not_after: WallMs,
    domain: Option<CloudName>,
    point: [u8; 65],
}

impl Root {
    pub(crate) fn parse(der: CertificateDer<'static>) -> Result<Self, &'static str> {
        let read = x509::parse_root(&der)?;
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|_| "is no trust anchor")?.to_owned();
        Ok(Self {
            anchor,
            not_before: read.not_before,
            not_after: read.not_after,
            domain: read.id.map(|id| id.trust_domain().clone()),
            point: read.point,
            der,
        })
    }
    pub(crate) fn in_time(&self, now: WallMs) -> bool {
        self.not_before <= now && now <= self.not_after
    }
    pub(crate) fn domain(&self) -> Option<&CloudName> {
        self.domain.as_ref()
    }
}

/// BLAKE3 of a certificate's DER: what an invitation pins.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Digest {
    crate::digest(certificate)
}

/// No certificate begins so: a root's signature for one is none for the other.
pub(crate) fn vouched_bytes(purpose: &str, bytes: &[u8]) -> Vec<u8> {
    [b"pumasi authority v1\0", purpose.as_bytes(), b"\0", bytes].concat()
}

#[derive(Clone)]
pub struct Bundle {
    roots: Arc<Vec<Root>>,
    sequence: u64,
    refresh_hint_s: u64,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("sequence", &self.sequence).field("roots", &self.fingerprints()).finish()
    }
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence && self.fingerprints() == other.fingerprints()
    }
}
impl Eq for Bundle {}

impl Bundle {
    pub fn new(roots: Vec<CertificateDer<'static>>, sequence: u64, refresh_hint_s: u64) -> Result<Self, BundleError> {
        if roots.is_empty() || roots.len() > BUNDLE_KEYS_MAX {
            return Err(BundleError::KeyCount(roots.len()));
        }
        let mut read: Vec<Root> = Vec::with_capacity(roots.len());
        for (index, der) in roots.into_iter().enumerate() {
            if read.iter().any(|r| r.der == der) {
                return Err(BundleError::BadKey { index, problem: "is there twice" });
            }
            read.push(Root::parse(der).map_err(|problem| BundleError::BadKey { index, problem })?);
        }
        Ok(Self { roots: Arc::new(read), sequence, refresh_hint_s })
    }

    pub fn from_json(json: &str) -> Result<Self, BundleError> {
        if json.len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge(json.len()));
        }
        let jwks: Jwks = serde_json::from_str(json).map_err(|e| BundleError::NotJwks(e.to_string()))?;
        let mut roots = Vec::new();
        for (index, key) in jwks.keys.iter().enumerate() {
            if key.usage != "x509-svid" {
                continue;
            }
            let bad = |problem| BundleError::BadKey { index, problem };
            let [x5c] = key.x5c.as_slice() else { return Err(bad("must be the only entry of x5c")) };
            let der = STANDARD.decode(x5c).map_err(|_| bad("is not base64"))?;
            roots.push(CertificateDer::from(der));
        }
        Self::new(roots, jwks.spiffe_sequence, jwks.spiffe_refresh_hint)
    }

    /// The same bundle gives the same text.
    pub fn to_json(&self) -> String {
        let keys = self.roots.iter().map(|root| {
            let coordinate = |range: std::ops::Range<usize>| Some(URL_SAFE_NO_PAD.encode(&root.point[range]));
            Jwk {
                kty: "EC".to_owned(),
                usage: "x509-svid".to_owned(),
                crv: Some("P-256".to_owned()),
                x: coordinate(1..33),
                y: coordinate(33..65),
                x5c: vec![STANDARD.encode(&root.der)],
            }
        });
        let jwks =
            Jwks { keys: keys.collect(), spiffe_sequence: self.sequence, spiffe_refresh_hint: self.refresh_hint_s };
        // A struct of strings and numbers always serialises.
        serde_json::to_string(&jwks).unwrap_or_default()
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }
    /// How often the publisher wishes to be asked, in seconds.
    pub fn refresh_hint_s(&self) -> u64 {
        self.refresh_hint_s
    }
    pub fn fingerprints(&self) -> Vec<Digest> {
        self.roots.iter().map(|r| fingerprint(&r.der)).collect()
    }
    pub(crate) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether one of these roots signed this for this purpose (`Authority::vouch`).
    pub fn vouched(&self, purpose: &str, bytes: &[u8], signature: &str) -> bool {
        let Ok(signature) = hex::decode(signature) else { return false };
        let message = vouched_bytes(purpose, bytes);
        self.roots.iter().any(|root| crate::jwk::verify_point(&root.point, &message, &signature))
    }

    /// A root that names a domain must name this one.
    pub fn check_domain(&self, domain: &CloudName) -> Result<(), BundleError> {
        match self.roots.iter().filter_map(Root::domain).find(|d| *d != domain) {
            None => Ok(()),
            Some(other) => Err(BundleError::WrongDomain { domain: domain.clone(), root_domain: other.clone() }),
        }
    }

    /// Takes the newer one; refuses an older one, and another one of the same number.
    pub fn update(self, newer: Bundle) -> Result<Bundle, BundleError> {
        match newer.sequence.cmp(&self.sequence) {
            std::cmp::Ordering::Greater => Ok(newer),
            std::cmp::Ordering::Less => Err(BundleError::Older { held: self.sequence, offered: newer.sequence }),
            std::cmp::Ordering::Equal if newer == self => Ok(self),
            std::cmp::Ordering::Equal => Err(BundleError::Forked(self.sequence)),
        }
    }
}
