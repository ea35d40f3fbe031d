//! What we read out of certificates: the identity in a leaf, the fitness of a root, times.
//!
//! Reading is not trusting: a chain is verified by webpki in `store`, over the same bytes.

use crate::{PeerRefusal, SpiffeId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pumasi_terms::WallMs;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A leaf and a few intermediates.
pub(crate) const CHAIN_MAX: usize = 5;

pub(crate) struct Leaf {
    pub id: SpiffeId,
    pub not_before: WallMs,
    pub not_after: WallMs,
}

pub(crate) struct Root {
    /// None where the root names no domain; X.509-SVID, 4.1 allows that.
    pub id: Option<SpiffeId>,
    pub not_before: WallMs,
    pub not_after: WallMs,
    /// Uncompressed point of its P-256 key.
    pub point: [u8; 65],
}

pub(crate) fn unix_time(wall: WallMs) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(wall.0).unwrap_or(0)))
}

fn wall(seconds: i64) -> WallMs {
    WallMs(seconds.saturating_mul(1000))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, &'static str> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|_| "is not a certificate")?;
    if !rest.is_empty() {
        return Err("has bytes after its end");
    }
    Ok(cert)
}

/// The only URI SAN, if there is one (X.509-SVID, 2).
fn uri_name(cert: &X509Certificate<'_>) -> Result<Option<SpiffeId>, &'static str> {
    let Some(names) = cert.subject_alternative_name().map_err(|_| "has two subject alternative names")? else {
        return Ok(None);
    };
    let mut uris = names.value.general_names.iter().filter_map(|n| match n {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let first = uris.next();
    if uris.next().is_some() {
        return Err("has more than one URI name");
    }
    first.map(|uri| SpiffeId::parse(uri).map_err(|_| "has a URI name that is no SPIFFE id")).transpose()
}

fn is_ca(cert: &X509Certificate<'_>) -> Result<bool, &'static str> {
    Ok(cert.basic_constraints().map_err(|_| "has two basic constraints")?.is_some_and(|c| c.value.ca))
}

/// From when and until when a certificate holds.
pub(crate) fn validity(der: &CertificateDer<'_>) -> Result<(WallMs, WallMs), &'static str> {
    let cert = parse(der)?;
    let validity = cert.validity();
    Ok((wall(validity.not_before.timestamp()), wall(validity.not_after.timestamp())))
}

/// X.509-SVID, 4: a leaf is no CA, signs with its key, and may not sign certificates.
pub(crate) fn parse_leaf(der: &CertificateDer<'_>) -> Result<Leaf, &'static str> {
    let cert = parse(der)?;
    let id = uri_name(&cert)?.ok_or("has no URI name")?;
    if id.path().is_empty() {
        return Err("names a trust domain, not a member of one");
    }
    if is_ca(&cert)? {
        return Err("is a CA's and proves no identity");
    }
    let usage = cert.key_usage().map_err(|_| "has two key usages")?.ok_or("has no key usage")?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err("has a key usage that a leaf may not have");
    }
    let validity = cert.validity();
    Ok(Leaf { id, not_before: wall(validity.not_before.timestamp()), not_after: wall(validity.not_after.timestamp()) })
}

/// X.509-SVID, 4: a signing certificate is a CA that may sign certificates; its id, if any, has no path.
pub(crate) fn parse_root(der: &CertificateDer<'_>) -> Result<Root, &'static str> {
    let cert = parse(der)?;
    let id = uri_name(&cert)?;
    if id.as_ref().is_some_and(|id| !id.path().is_empty()) {
        return Err("names a member, not a trust domain");
    }
    if !is_ca(&cert)? {
        return Err("is not a CA's");
    }
    let usage = cert.key_usage().map_err(|_| "has two key usages")?;
    if !usage.is_some_and(|u| u.value.key_cert_sign()) {
        return Err("may not sign certificates");
    }
    let validity = cert.validity();
    let key = cert.public_key();
    let on_p256 = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|p| p.as_oid().ok())
        .is_some_and(|curve| curve == x509_parser::oid_registry::OID_EC_P256);
    let point = <[u8; 65]>::try_from(key.subject_public_key.data.as_ref())
        .ok()
        .filter(|point| on_p256 && point[0] == 4)
        .ok_or("has a key that is not on P-256")?;
    Ok(Root {
        id,
        not_before: wall(validity.not_before.timestamp()),
        not_after: wall(validity.not_after.timestamp()),
        point,
    })
}

/// The principal of a connection whose handshake our verifiers accepted: the identity in its leaf.
/// It proves nothing about certificates from elsewhere.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerRefusal> {
    let leaf = certs.first().ok_or(PeerRefusal::NoCertificate)?;
    parse_leaf(leaf).map(|l| l.id).map_err(|problem| PeerRefusal::BadLeaf { problem })
}

/// That identity and when the certificate ends: a connection must not outlive it.
pub fn peer_leaf(certs: &[CertificateDer<'_>]) -> Result<(SpiffeId, WallMs), PeerRefusal> {
    let leaf = certs.first().ok_or(PeerRefusal::NoCertificate)?;
    let leaf = parse_leaf(leaf).map_err(|problem| PeerRefusal::BadLeaf { problem })?;
    Ok((leaf.id, leaf.not_after))
}

/// One PEM block (RFC 7468).
pub(crate) fn pem_block(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reading_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let der = CertificateDer::from(bytes);
            prop_assert!(parse_leaf(&der).is_err());
            prop_assert!(parse_root(&der).is_err());
            prop_assert!(peer_identity(&[der]).is_err());
        }
    }
}
