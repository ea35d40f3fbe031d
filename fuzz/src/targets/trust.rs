//! Signed documents, keys, certificates and bundles.
//!
//! The inputs begin from genuine ones, so that most of what is tried is a forgery that nearly fits: nothing may be believed
//! but what was signed.

use super::text;
use pumasi_pact::Adopted;
use pumasi_terms::{CloudName, Serial, WallMs};
use pumasi_trust::{Authority, Bundle, PublicKey, Purpose, SignedDocument, SpiffeId, Svid, TrustStore, peer_identity};
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

const DOCUMENT: &str = include_str!("../../../crates/trust/tests/golden/document-v1.json");
const KEYS: [(&str, &str); 2] = [
    ("city-a", include_str!("../../../crates/trust/tests/golden/key-a-v1.json")),
    ("city-b", include_str!("../../../crates/trust/tests/golden/key-b-v1.json")),
];
/// Of the authority that made the identity of city-a in the corpus.
const BUNDLE: &str = include_str!("../../fixtures/bundle.json");
/// Within the life of the fixture's identity.
pub const NOW: WallMs = WallMs(1_800_000_000_000);

fn city(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn keys() -> &'static BTreeMap<CloudName, PublicKey> {
    static MADE: OnceLock<BTreeMap<CloudName, PublicKey>> = OnceLock::new();
    MADE.get_or_init(|| KEYS.iter().map(|(name, jwk)| (city(name), PublicKey::from_jwk(jwk).unwrap())).collect())
}

/// Whatever verifies says what was signed: payload, serial and signers.
pub fn document(input: &[u8]) {
    let Some(input) = text(input) else { return };
    let Ok(document) = SignedDocument::from_json(input) else { return };
    let written = document.to_json();
    let again = SignedDocument::from_json(&written).expect("what was written can be read");
    assert_eq!((&again, again.to_json()), (&document, written));
    assert_eq!(document.merge(&document).ok().as_ref(), Some(&document));

    let genuine = SignedDocument::from_json(DOCUMENT).unwrap();
    for kind in ["lease", "pact", "settlement"] {
        let Ok(verified) = document.verify(kind, keys(), &BTreeSet::new()) else { continue };
        assert_eq!(kind, "lease", "a signature for one kind is none for another");
        assert_eq!(verified.payload, genuine.unverified_payload(), "a forged payload is believed");
        assert_eq!(verified.serial, Serial(7), "a forged serial is believed");
        assert!(!verified.signers.is_empty() && verified.signers.iter().all(|c| keys().contains_key(c)));
    }
    let both = keys().keys().cloned().collect();
    if let Ok(verified) = document.verify("lease", keys(), &both) {
        assert_eq!(verified.signers, both);
    }
}

pub fn key(input: &[u8]) {
    let Some(input) = text(input) else { return };
    if let Ok(key) = PublicKey::from_jwk(input) {
        let written = key.to_jwk();
        let again = PublicKey::from_jwk(&written).expect("what was written can be read");
        assert_eq!((again.to_jwk(), again.kid()), (written, key.kid()));
    }
}

pub fn bundle(input: &[u8]) {
    let Some(input) = text(input) else { return };
    let Ok(bundle) = Bundle::from_json(input) else { return };
    let written = bundle.to_json();
    let again = Bundle::from_json(&written).expect("what was written can be read");
    assert_eq!((&again, again.to_json()), (&bundle, written));
    let domain = city("city-a");
    let taken = TrustStore::new(BTreeMap::from([(domain.clone(), bundle.clone())]), BTreeSet::new());
    assert_eq!(taken.is_ok(), bundle.check_domain(&domain).is_ok(), "a root of another domain is held");
}

fn trusted() -> &'static TrustStore {
    static MADE: OnceLock<TrustStore> = OnceLock::new();
    MADE.get_or_init(|| {
        let bundles = BTreeMap::from([(city("city-a"), Bundle::from_json(BUNDLE).unwrap())]);
        TrustStore::new(bundles, BTreeSet::from([SpiffeId::daemon(&city("city-a"))])).unwrap()
    })
}

/// A chain as a peer shows it: certificates one after the other, each behind its length in two bytes.
pub fn certificate(input: &[u8]) {
    let mut chain = Vec::new();
    let mut rest = input;
    while let Some((head, tail)) = rest.split_at_checked(2) {
        let len = usize::from(u16::from_be_bytes([head[0], head[1]])).min(tail.len());
        chain.push(CertificateDer::from(tail[..len].to_vec()));
        rest = &tail[len..];
        if chain.len() > 8 {
            break;
        }
    }
    let genuine = SpiffeId::daemon(&city("city-a"));
    for purpose in [Purpose::Client, Purpose::Server] {
        if let Ok(id) = trusted().verify(&chain, purpose, NOW) {
            assert_eq!(id, genuine, "a forged identity is believed");
        }
    }
    let _ = peer_identity(&chain);
    for der in chain.iter().take(8) {
        if let Ok(bundle) = Bundle::new(vec![der.clone()], 1, 60) {
            assert_eq!(Bundle::from_json(&bundle.to_json()), Ok(bundle));
        }
    }
}

/// The file of a key and its chain, and the authority's own state, as they lie on the disk.
pub fn identity(input: &[u8]) {
    if let Ok(svid) = Svid::from_pem(input) {
        let written = svid.to_pem();
        let again = Svid::from_pem(written.expose().as_bytes()).expect("what was written can be read");
        assert_eq!(again.to_pem().expose(), written.expose());
        if let Ok(id) = trusted().verify(svid.chain(), Purpose::Client, NOW) {
            assert_eq!(id, SpiffeId::daemon(&city("city-a")));
        }
    }
    if input.starts_with(b"{") {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(AUTHORITY_FILE), input).unwrap();
        if let Ok(authority) = Authority::load(dir.path()) {
            let _ = authority.bundle();
        }
    }
}

const AUTHORITY_FILE: &str = "authority.json";

/// The content of a pact, before and behind its signatures.
pub fn pact(input: &[u8]) {
    if let Ok(pact) = pumasi_pact::read(input) {
        let written = pumasi_pact::payload(&pact).expect("what was read can be written");
        assert_eq!(pumasi_pact::read(&written).ok().as_ref(), Some(&pact));
    }
    let Some(document) = text(input).and_then(|t| SignedDocument::from_json(t).ok()) else { return };
    let Ok(adopted) = Adopted::restore(document.clone()) else { return };
    assert_eq!(adopted.pact.serial, document.serial());
    // Whoever takes it over has verified every member's signature, ours among them.
    let own = city("city-a");
    if let Ok(taken) = pumasi_pact::adopt(None, document.clone(), &own, &keys()[&own]) {
        assert!(taken.pact.members.iter().all(|m| document.signed_by(&m.cloud)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forgeries that nearly fit need something that fits.
    #[test]
    fn the_genuine_inputs_are_taken() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        for name in ["pact/one.json", "pact/next.json"] {
            assert!(pumasi_pact::read(&read(name)).is_ok(), "{name}: {:?}", pumasi_pact::read(&read(name)).err());
        }
        let svid = Svid::from_pem(&read("identity/daemon.pem")).unwrap();
        let id = trusted().verify(svid.chain(), Purpose::Client, NOW).unwrap();
        assert_eq!(id, SpiffeId::daemon(&city("city-a")));
        let both: BTreeSet<_> = keys().keys().cloned().collect();
        assert!(SignedDocument::from_json(DOCUMENT).unwrap().verify("lease", keys(), &both).is_ok());
    }
}
