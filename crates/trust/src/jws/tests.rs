//! Every way of lying in a JWS that we could think of.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

struct Cast {
    a: DocumentKey,
    b: DocumentKey,
    keys: BTreeMap<CloudName, PublicKey>,
    both: BTreeSet<CloudName>,
}

fn cast() -> Cast {
    let (a, b) = (DocumentKey::generate().unwrap(), DocumentKey::generate().unwrap());
    let keys = BTreeMap::from([(cloud("city-a"), a.public().clone()), (cloud("city-b"), b.public().clone())]);
    Cast { a, b, both: keys.keys().cloned().collect(), keys }
}

const PAYLOAD: &[u8] = b"{\"terms\": \"as agreed\" }";

fn signed(cast: &Cast) -> SignedDocument {
    let one = SignedDocument::sign_new(PAYLOAD, "pact", &cloud("city-a"), Serial(3), &cast.a).unwrap();
    one.countersign(&cloud("city-b"), &cast.b).unwrap()
}

/// The document with one part of its JSON changed.
fn bent(document: &SignedDocument, change: impl FnOnce(&mut Value)) -> Result<SignedDocument, VerifyError> {
    let mut json: Value = serde_json::from_str(&document.to_json()).unwrap();
    change(&mut json);
    SignedDocument::from_json(&json.to_string())
}

/// The document with a first signature over this header, truly made with the key of city-a.
fn with_header(cast: &Cast, header: Value) -> Result<SignedDocument, VerifyError> {
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let payload = URL_SAFE_NO_PAD.encode(PAYLOAD);
    let signature = cast.a.sign(format!("{protected}.{payload}").as_bytes()).unwrap();
    let signature = URL_SAFE_NO_PAD.encode(signature);
    let json = json!({ "payload": payload, "signatures": [{ "protected": protected, "signature": signature }] });
    SignedDocument::from_json(&json.to_string())
}

fn header(cast: &Cast) -> Value {
    json!({ "alg": "ES256", "kid": cast.a.public().kid(), "typ": "pumasi-pact+jws", "iss": "city-a", "serial": 3 })
}

#[test]
fn what_all_signed_is_true_and_keeps_its_bytes() {
    let cast = cast();
    let document = signed(&cast);
    let verified = document.verify("pact", &cast.keys, &cast.both).unwrap();
    assert_eq!((verified.payload.as_slice(), verified.serial), (PAYLOAD, Serial(3)));
    assert_eq!(verified.signers, cast.both);
    let stored: SignedDocument = serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
    assert_eq!(stored, document);
    assert_eq!(SignedDocument::from_json(&document.to_json()).unwrap(), document);
    let alone = SignedDocument::sign_new(PAYLOAD, "pact", &cloud("city-a"), Serial(3), &cast.a).unwrap();
    assert_eq!(alone.digest(), document.digest(), "the digest does not depend on who has signed");
    assert_eq!(alone.verify("pact", &cast.keys, &cast.both), Err(VerifyError::MissingSigner(cloud("city-b"))));
    assert!(alone.verify("pact", &cast.keys, &BTreeSet::new()).is_ok());
}

#[test]
fn an_honest_header_made_by_hand_passes() {
    let cast = cast();
    let document = with_header(&cast, header(&cast)).unwrap();
    assert!(document.verify("pact", &cast.keys, &BTreeSet::from([cloud("city-a")])).is_ok());
}

#[test]
fn a_tampered_payload_header_or_signature_is_refused() {
    let cast = cast();
    let document = signed(&cast);
    let other = URL_SAFE_NO_PAD.encode(b"{\"terms\": \"as I wish\" }");
    let payload = bent(&document, |j| j["payload"] = other.into()).unwrap();
    assert!(matches!(payload.verify("pact", &cast.keys, &cast.both), Err(VerifyError::BadSignature(_))));

    let mut later = header(&cast);
    later["serial"] = 9.into();
    let later = with_header(&cast, later).unwrap();
    let swapped = bent(&later, |j| {
        j["signatures"][0]["protected"] = URL_SAFE_NO_PAD.encode(header(&cast).to_string()).into();
    });
    let swapped = swapped.unwrap().verify("pact", &cast.keys, &BTreeSet::new());
    assert_eq!(swapped, Err(VerifyError::BadSignature(cloud("city-a"))));

    let exchanged = bent(&document, |j| {
        let first = j["signatures"][0]["signature"].take();
        j["signatures"][0]["signature"] = j["signatures"][1]["signature"].take();
        j["signatures"][1]["signature"] = first;
    });
    assert!(matches!(exchanged.unwrap().verify("pact", &cast.keys, &cast.both), Err(VerifyError::BadSignature(_))));
    let zero = bent(&document, |j| j["signatures"][0]["signature"] = URL_SAFE_NO_PAD.encode([0u8; 64]).into());
    assert!(matches!(zero.unwrap().verify("pact", &cast.keys, &cast.both), Err(VerifyError::BadSignature(_))));
}

#[test]
fn a_foreign_key_or_party_is_refused() {
    let cast = cast();
    let mallory = DocumentKey::generate().unwrap();
    let as_a = SignedDocument::sign_new(PAYLOAD, "pact", &cloud("city-a"), Serial(3), &mallory).unwrap();
    assert!(matches!(as_a.verify("pact", &cast.keys, &BTreeSet::new()), Err(VerifyError::WrongKey { .. })));
    // Mallory states the key id of city-a.
    let protected = URL_SAFE_NO_PAD.encode(header(&cast).to_string());
    let payload = URL_SAFE_NO_PAD.encode(PAYLOAD);
    let signature = mallory.sign(format!("{protected}.{payload}").as_bytes()).unwrap();
    let lie = bent(&as_a, |j| {
        j["signatures"][0] = json!({ "protected": protected, "signature": URL_SAFE_NO_PAD.encode(signature) });
    });
    assert_eq!(
        lie.unwrap().verify("pact", &cast.keys, &BTreeSet::new()),
        Err(VerifyError::BadSignature(cloud("city-a")))
    );
    let stranger = signed(&cast).countersign(&cloud("city-m"), &mallory).unwrap();
    assert_eq!(stranger.verify("pact", &cast.keys, &cast.both), Err(VerifyError::UnknownSigner(cloud("city-m"))));
}

#[test]
fn a_signature_for_one_kind_is_none_for_another() {
    let cast = cast();
    assert!(matches!(signed(&cast).verify("lease", &cast.keys, &cast.both), Err(VerifyError::WrongKind { .. })));
    for kind in ["", "Pact", "a b", &"k".repeat(33)] {
        let made = SignedDocument::sign_new(PAYLOAD, kind, &cloud("city-a"), Serial(3), &cast.a);
        assert!(matches!(made, Err(SignError::BadKind(_))), "{kind:?}");
    }
}

#[test]
fn nobody_signs_twice() {
    let cast = cast();
    let document = signed(&cast);
    assert!(matches!(document.countersign(&cloud("city-b"), &cast.b), Err(SignError::AlreadySigned(_))));
    let twice = bent(&document, |j| {
        let again = j["signatures"][1].clone();
        j["signatures"].as_array_mut().unwrap().push(again);
    });
    assert_eq!(twice, Err(VerifyError::DuplicateSigner(cloud("city-b"))));
}

#[test]
fn headers_hold_what_they_must_and_nothing_else() {
    let cast = cast();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut header = header(&cast);
        change(&mut header);
        assert!(matches!(with_header(&cast, header.clone()), Err(VerifyError::Malformed { .. })), "{header} passed");
    };
    for alg in ["none", "None", "HS256", "RS256", "ES384", "es256", ""] {
        refused(&|h| h["alg"] = alg.into());
    }
    refused(&|h| h["crit"] = json!(["b64"]));
    refused(&|h| h["b64"] = false.into());
    refused(&|h| h["jwk"] = json!({}));
    refused(&|h| h["iss"] = "City A".into());
    refused(&|h| h["serial"] = (-1).into());
    refused(&|h| h["kid"] = "k".repeat(2000).into());
    for name in ["alg", "kid", "typ", "iss", "serial"] {
        refused(&|h| drop(h.as_object_mut().unwrap().remove(name)));
    }
    // A second member of the same name is refused too: readers differ on which one counts.
    let text = header(&cast).to_string().replacen('{', "{\"alg\":\"ES256\",", 1);
    let document = signed(&cast);
    let twice = bent(&document, |j| j["signatures"][0]["protected"] = URL_SAFE_NO_PAD.encode(text).into());
    assert!(matches!(twice, Err(VerifyError::Malformed { .. })));
}

#[test]
fn only_this_serialisation_is_read() {
    let cast = cast();
    let document = signed(&cast);
    assert!(bent(&document, |_| ()).is_ok());
    assert!(bent(&document, |j| j["extra"] = 1.into()).is_err());
    assert!(bent(&document, |j| j["signatures"][0]["header"] = json!({})).is_err());
    assert_eq!(bent(&document, |j| j["signatures"] = json!([])), Err(VerifyError::SignatureCount(0)));
    assert!(bent(&document, |j| j["payload"] = "e30=".into()).is_err(), "padding");
    assert!(bent(&document, |j| j["payload"] = "e31".into()).is_err(), "bits after the end");
    assert!(bent(&document, |j| j["payload"] = "e+0".into()).is_err(), "the other alphabet");
    assert!(bent(&document, |j| j["signatures"][0]["signature"] = "AAAA".into()).is_err());
    let mixed = bent(&document, |j| {
        let mut other = header(&cast);
        other["serial"] = 4.into();
        j["signatures"][0]["protected"] = URL_SAFE_NO_PAD.encode(other.to_string()).into();
    });
    assert_eq!(mixed, Err(VerifyError::Mixed));
}

#[test]
fn size_is_bounded() {
    let cast = cast();
    let sign = |len| SignedDocument::sign_new(&vec![b'x'; len], "pact", &cloud("city-a"), Serial(1), &cast.a);
    assert!(sign(DOCUMENT_BYTES_MAX / 2).is_ok());
    assert!(matches!(sign(DOCUMENT_BYTES_MAX), Err(SignError::Document(VerifyError::TooLarge))));
    let big = "A".repeat(DOCUMENT_BYTES_MAX + 4);
    let big: Result<SignedDocument, _> = bent(&signed(&cast), |j| j["payload"] = big.into());
    assert_eq!(big, Err(VerifyError::TooLarge));
    let mut full = signed(&cast);
    for i in 2..SIGNATURES_MAX {
        full = full.countersign(&cloud(&format!("c{i}")), &cast.a).unwrap();
    }
    let over = full.countersign(&cloud("one-more"), &cast.a);
    assert!(matches!(over, Err(SignError::Document(VerifyError::SignatureCount(65)))));
    assert!(SignedDocument::from_json(&full.to_json()).is_ok());
}

#[test]
fn signatures_collected_apart_are_merged() {
    let cast = cast();
    let base = SignedDocument::sign_new(PAYLOAD, "pact", &cloud("city-a"), Serial(3), &cast.a).unwrap();
    let other = SignedDocument::sign_new(PAYLOAD, "pact", &cloud("city-b"), Serial(3), &cast.b).unwrap();
    let both = base.merge(&other).unwrap();
    assert!(both.verify("pact", &cast.keys, &cast.both).is_ok());
    assert_eq!(both.merge(&base).unwrap(), both);
    let later = SignedDocument::sign_new(PAYLOAD, "pact", &cloud("city-b"), Serial(4), &cast.b).unwrap();
    assert!(matches!(base.merge(&later), Err(SignError::Different)));
}

proptest! {
    #[test]
    fn reading_anything_never_panics(s in "\\PC{0,300}") {
        prop_assert!(SignedDocument::from_json(&s).is_err());
    }

    #[test]
    fn reading_any_parts_never_panics(payload in "[A-Za-z0-9_=-]{0,40}", protected in "\\PC{0,80}", raw: bool, sig in "[A-Za-z0-9_-]{0,90}") {
        let protected = if raw { protected } else { URL_SAFE_NO_PAD.encode(protected) };
        let json = json!({ "payload": payload, "signatures": [{ "protected": protected, "signature": sig }] });
        prop_assert!(SignedDocument::from_json(&json.to_string()).is_err());
    }

    #[test]
    fn one_bent_bit_of_the_payload_is_noticed(at in 0..PAYLOAD.len(), bit in 0u8..8) {
        let cast = cast();
        let document = signed(&cast);
        let mut bytes = PAYLOAD.to_vec();
        bytes[at] ^= 1 << bit;
        let bent = bent(&document, |j| j["payload"] = URL_SAFE_NO_PAD.encode(bytes).into()).unwrap();
        prop_assert!(bent.verify("pact", &cast.keys, &cast.both).is_err());
    }
}
