//! Formats that others keep: files of version 1 must read for ever, and bundles must be what SPIFFE says.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

use pumasi_terms::{CloudName, Serial, WallMs};
use pumasi_trust::{Authority, Bundle, BundleError, DocumentKey, PublicKey, SignedDocument};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const NOW: WallMs = WallMs(1_800_000_000_000);

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn golden(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

fn made(name: &str) -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path(), &cloud(name), NOW).unwrap();
    (dir, authority)
}

/// Writes the golden files of a new version; run by hand, never over old ones.
#[test]
#[ignore = "writes files"]
fn write_golden_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        assert!(!path.exists(), "{name} is there");
        std::fs::write(path, text).unwrap();
    };
    let (_dir, mut authority) = made("city-a");
    authority.prepare(NOW).unwrap();
    write("bundle-v1.json", authority.bundle().unwrap().to_json());
    let (a, b) = (DocumentKey::generate().unwrap(), DocumentKey::generate().unwrap());
    let payload = b"{\"agreed\": \"one CPU for one hour\"}";
    let document = SignedDocument::sign_new(payload, "lease", &cloud("city-a"), Serial(7), &a).unwrap();
    write("document-v1.json", document.countersign(&cloud("city-b"), &b).unwrap().to_json());
    write("key-a-v1.json", a.public_jwk());
    write("key-b-v1.json", b.public_jwk());
}

#[test]
fn a_document_of_version_1_still_verifies() {
    let document = SignedDocument::from_json(&golden("document-v1.json")).unwrap();
    let keys = BTreeMap::from([
        (cloud("city-a"), PublicKey::from_jwk(&golden("key-a-v1.json")).unwrap()),
        (cloud("city-b"), PublicKey::from_jwk(&golden("key-b-v1.json")).unwrap()),
    ]);
    let both: BTreeSet<_> = keys.keys().cloned().collect();
    let verified = document.verify("lease", &keys, &both).unwrap();
    assert_eq!(verified.payload, b"{\"agreed\": \"one CPU for one hour\"}");
    assert_eq!((verified.serial, verified.signers), (Serial(7), both));
    assert_eq!(document.to_json(), golden("document-v1.json"), "it is stored and sent as it came");
}

#[test]
fn a_bundle_of_version_1_still_reads() {
    let text = golden("bundle-v1.json");
    let bundle = Bundle::from_json(&text).unwrap();
    assert_eq!((bundle.sequence(), bundle.refresh_hint_s(), bundle.fingerprints().len()), (2, 300, 2));
    bundle.check_domain(&cloud("city-a")).unwrap();
    assert!(matches!(bundle.check_domain(&cloud("city-b")), Err(BundleError::WrongDomain { .. })));
    assert_eq!(bundle.to_json(), text);
}

#[test]
fn a_bundle_is_read_as_spiffe_says() {
    let (_dir, authority) = made("city-a");
    let text = authority.bundle().unwrap().to_json();
    let edit = |f: &dyn Fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        f(&mut json);
        Bundle::from_json(&json.to_string())
    };
    // Keys for other uses and unknown members are passed over.
    let more = edit(&|j| {
        j["x-note"] = "hello".into();
        let jwt = serde_json::json!({ "use": "jwt-svid", "kty": "EC", "kid": "1", "crv": "P-256", "x": "", "y": "" });
        j["keys"].as_array_mut().unwrap().push(jwt);
    });
    assert_eq!(more, Bundle::from_json(&text));
    assert_eq!(edit(&|j| j["keys"] = serde_json::json!([])), Err(BundleError::KeyCount(0)));
    assert!(matches!(edit(&|j| j["keys"][0]["x5c"] = "x".into()), Err(BundleError::NotJwks(_))));
    assert!(matches!(edit(&|j| j["keys"][0]["x5c"][0] = "AAAA".into()), Err(BundleError::BadKey { index: 0, .. })));
    let twice = edit(&|j| {
        let again = j["keys"][0].clone();
        j["keys"].as_array_mut().unwrap().push(again);
    });
    assert!(matches!(twice, Err(BundleError::BadKey { index: 1, .. })));
    // A leaf is no root.
    let leaf = authority.issue(&pumasi_trust::SpiffeId::daemon(&cloud("city-a")), 60_000, NOW, &[]).unwrap();
    assert!(matches!(Bundle::new(vec![leaf.chain()[0].clone()], 1, 0), Err(BundleError::BadKey { .. })));
    let many: Vec<_> = (0..9).map(|_| made("city-a").1).collect();
    let many = many.iter().map(|a| a.issue(&pumasi_trust::SpiffeId::daemon(&cloud("city-a")), 60_000, NOW, &[]));
    let many: Vec<_> = many.map(|svid| svid.unwrap().chain()[1].clone()).collect();
    assert_eq!(Bundle::new(many.clone(), 1, 0), Err(BundleError::KeyCount(9)));
    assert!(Bundle::new(many[..8].to_vec(), 1, 0).is_ok());
    let long = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(64 << 10));
    assert!(matches!(Bundle::from_json(&long), Err(BundleError::TooLarge(_))));
    assert!(Bundle::from_json(&"[".repeat(10_000)).is_err());
}

#[test]
fn a_bundle_never_goes_back() {
    let (_dir, mut authority) = made("city-a");
    let one = authority.bundle().unwrap();
    authority.prepare(NOW).unwrap();
    let two = authority.bundle().unwrap();
    assert_eq!(one.clone().update(two.clone()), Ok(two.clone()));
    assert_eq!(two.clone().update(two.clone()), Ok(two.clone()));
    assert_eq!(two.clone().update(one.clone()), Err(BundleError::Older { held: 2, offered: 1 }));
    let (_dir, other) = made("city-a");
    assert_eq!(one.update(other.bundle().unwrap()), Err(BundleError::Forked(1)));
}

proptest::proptest! {
    #[test]
    fn reading_any_bundle_never_panics(s in "\\PC{0,200}", x5c in "[A-Za-z0-9+/=]{0,80}") {
        let _ = Bundle::from_json(&s);
        let text = format!("{{\"keys\":[{{\"kty\":\"EC\",\"use\":\"x509-svid\",\"x5c\":[\"{x5c}\"]}}]}}");
        proptest::prop_assert!(Bundle::from_json(&text).is_err());
    }
}
