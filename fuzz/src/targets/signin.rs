//! What the sign-in process reads by itself: forms, cookies, places to go back to, and what authenticators say.

use super::text;
use pumasi_signin::fuzzing::{AuthenticatorData, ClientData, Form, Key, Origin, cbor, cookie, return_path, segment};

/// A form that was read is the same after it was written and read again.
pub fn form(input: &[u8]) {
    if let Some(form) = Form::parse(input) {
        assert_eq!(Form::parse(form.write().as_bytes()), Some(form));
    }
}

/// A line each: a cookie stands there once, nobody is sent to another host, an origin is written in one way.
pub fn words(input: &[u8]) {
    const NAME: &str = "__Host-pumasi_session";
    let Some(text) = text(input) else { return };
    if let Some(value) = cookie(text.lines(), NAME) {
        assert!(text.contains(&format!("{NAME}={value}")), "a cookie that nobody sent");
        assert!(!value.contains([';', '\n']));
        let twice = format!("{text}\n{NAME}=other");
        assert_eq!(cookie(twice.lines(), NAME), None, "another one was put beside it");
    }
    for line in text.lines() {
        if let Some(path) = return_path(line) {
            assert!(path.starts_with('/') && !path.starts_with("//") && !path.contains('\\'));
            assert!(path.bytes().all(|b| b.is_ascii_graphic()), "{path:?}");
            // As a browser resolves it: a path, and so no other host.
            if let Ok(uri) = path.parse::<http::Uri>() {
                assert!(uri.host().is_none() && uri.scheme().is_none(), "{path:?}");
            }
        }
        if let Some(Origin { https, host, port }) = Origin::parse(line) {
            let port = port.map(|p| format!(":{p}")).unwrap_or_default();
            let written = format!("{}://{host}{port}", if https { "https" } else { "http" });
            assert_eq!(Origin::parse(&written), Origin::parse(line));
        }
        let _ = segment(line);
    }
}

/// As an attestation, as authenticator data, as a key, as client data. A key that is kept is read again as the same.
pub fn passkey(input: &[u8]) {
    if let Some((value, rest)) = cbor::read(input) {
        assert!(rest.len() < input.len());
        if let Some(data) = value.named("authData").and_then(cbor::Value::bytes) {
            authenticator(data);
        }
    }
    authenticator(input);
    if let Some((key, _)) = Key::read(input) {
        assert!(!key.verifies(b"nothing was signed", &[0; 64]));
    }
    let _ = serde_json::from_slice::<ClientData>(input);
}

fn authenticator(bytes: &[u8]) {
    let Some(said) = AuthenticatorData::read(bytes) else { return };
    assert_eq!(said.rp_id_hash.len(), 32);
    if let Some(credential) = said.credential {
        let (key, rest) = Key::read(credential.key).expect("a key that was read is one");
        assert!(rest.is_empty(), "more than the key is kept");
        assert!(!key.verifies(b"nothing was signed", &[0; 64]));
        assert!((1..=1_023).contains(&credential.id.len()));
    }
}
