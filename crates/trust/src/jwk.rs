//! Keys for documents: ECDSA on P-256 (ES256), as JWKs (RFC 7517) named by their thumbprints (RFC 7638).

use crate::files::{self, FileError};
use crate::x509::pem_block;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::path::Path;

const JWK_BYTES_MAX: usize = 4 << 10;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} holds no P-256 key in PKCS#8", .0.display())]
    NotAKey(std::path::PathBuf),
    #[error("the key is no JWK: {0}")]
    NotJwk(String),
    #[error("the key {0}")]
    Unfit(&'static str),
    #[error("the crypto library failed; this is a fault of this machine")]
    Crypto,
}

/// A point on the curve, and its thumbprint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey {
    point: [u8; 65],
    kid: String,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.kid)
    }
}

#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing)]
    d: Option<serde::de::IgnoredAny>,
}

impl PublicKey {
    fn from_point(point: [u8; 65]) -> Result<Self, KeyError> {
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .map_err(|_| KeyError::Unfit("is not a point on P-256"))?;
        let [x, y] = coordinates(&point);
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
        Ok(Self { point, kid })
    }

    pub fn from_jwk(json: &str) -> Result<Self, KeyError> {
        if json.len() > JWK_BYTES_MAX {
            return Err(KeyError::Unfit("is longer than 4 KiB"));
        }
        let jwk: Jwk = serde_json::from_str(json).map_err(|e| KeyError::NotJwk(e.to_string()))?;
        if jwk.d.is_some() {
            return Err(KeyError::Unfit("is a private one: it has been disclosed, make a new one"));
        }
        if jwk.kty != "EC" || jwk.crv != "P-256" {
            return Err(KeyError::Unfit("is not of type EC on P-256"));
        }
        if jwk.alg.is_some_and(|alg| alg != "ES256") || jwk.usage.is_some_and(|u| u != "sig") {
            return Err(KeyError::Unfit("is not for signing with ES256"));
        }
        let mut point = [4u8; 65];
        for (text, half) in [(&jwk.x, 1..33), (&jwk.y, 33..65)] {
            let bytes =
                URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Unfit("has a coordinate not in base64url"))?;
            let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| KeyError::Unfit("has a coordinate not of 32 bytes"))?;
            point[half].copy_from_slice(&bytes);
        }
        let key = Self::from_point(point)?;
        if jwk.kid.is_some_and(|kid| kid != key.kid) {
            return Err(KeyError::Unfit("has a kid that is not its thumbprint (RFC 7638)"));
        }
        Ok(key)
    }

    /// The same key gives the same text.
    pub fn to_jwk(&self) -> String {
        let [x, y] = coordinates(&self.point);
        let jwk = Jwk {
            kty: "EC".to_owned(),
            crv: "P-256".to_owned(),
            x,
            y,
            usage: Some("sig".to_owned()),
            alg: Some("ES256".to_owned()),
            kid: Some(self.kid.clone()),
            d: None,
        };
        // A struct of strings always serialises.
        serde_json::to_string(&jwk).unwrap_or_default()
    }

    /// Thumbprint by SHA-256, in base64url.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point).verify(message, signature).is_ok()
    }
}

pub(crate) fn verify_point(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
}

/// With a key as PKCS#8 that is kept elsewhere.
pub(crate) fn sign_once(pkcs8: &[u8], message: &[u8]) -> Result<[u8; 64], KeyError> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| KeyError::Crypto)?;
    DocumentKey::from_pair(pair)?.sign(message)
}

fn coordinates(point: &[u8; 65]) -> [String; 2] {
    [URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..])]
}

/// The private key with which a cloud signs documents. It never leaves its cloud.
pub struct DocumentKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl std::fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DocumentKey({})", self.public.kid)
    }
}

impl DocumentKey {
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_pair(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError::Crypto)?)
    }

    fn from_pair(pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let point = <[u8; 65]>::try_from(pair.public_key().as_ref()).map_err(|_| KeyError::Crypto)?;
        Ok(Self { public: PublicKey::from_point(point)?, pair })
    }

    /// A PKCS#8 file in PEM, mode 0600; an existing one is never overwritten.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let key = Self::generate()?;
        let der = key.pair.to_pkcs8v1().map_err(|_| KeyError::Crypto)?;
        if files::create(path, pem_block("PRIVATE KEY", der.as_ref()).as_bytes(), 0o600)? {
            return Ok(key);
        }
        Self::load(path)?.ok_or_else(|| KeyError::NotAKey(path.to_owned()))
    }

    fn load(path: &Path) -> Result<Option<Self>, KeyError> {
        let Some(pem) = files::read_private(path)? else { return Ok(None) };
        let bad = || KeyError::NotAKey(path.to_owned());
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| bad())?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der()).map_err(|_| bad())?;
        Self::from_pair(pair).map(Some)
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }
    pub fn public_jwk(&self) -> String {
        self.public.to_jwk()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; 64], KeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Crypto)?;
        <[u8; 64]>::try_from(signature.as_ref()).map_err(|_| KeyError::Crypto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_survive_their_file_and_their_jwk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("document.key");
        let key = DocumentKey::load_or_create(&path).unwrap();
        assert_eq!(DocumentKey::load_or_create(&path).unwrap().public(), key.public());
        assert_eq!(&PublicKey::from_jwk(&key.public_jwk()).unwrap(), key.public());
        std::fs::write(&path, "not a key").unwrap();
        assert!(matches!(DocumentKey::load_or_create(&path), Err(KeyError::NotAKey(_))));
    }

    #[test]
    fn a_jwk_is_public_on_the_curve_and_named_by_its_thumbprint() {
        let jwk = DocumentKey::generate().unwrap().public_jwk();
        let edit = |f: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
            let mut map = serde_json::from_str(&jwk).unwrap();
            f(&mut map);
            PublicKey::from_jwk(&serde_json::to_string(&map).unwrap())
        };
        assert!(edit(&|_| ()).is_ok());
        assert!(edit(&|m| drop(m.remove("kid"))).is_ok());
        assert!(edit(&|m| drop(m.insert("kid".into(), "x".into()))).is_err());
        assert!(edit(&|m| drop(m.insert("d".into(), "AAAA".into()))).is_err());
        assert!(edit(&|m| drop(m.insert("kty".into(), "oct".into()))).is_err());
        assert!(edit(&|m| drop(m.insert("crv".into(), "P-384".into()))).is_err());
        assert!(edit(&|m| drop(m.insert("alg".into(), "none".into()))).is_err());
        assert!(edit(&|m| drop(m.insert("x".into(), "AAAA".into()))).is_err());
        let off_curve = URL_SAFE_NO_PAD.encode([1u8; 32]);
        assert!(edit(&|m| drop(m.insert("x".into(), off_curve.clone().into()))).is_err());
    }

    #[test]
    fn signature_and_thumbprint_are_those_of_the_standards() {
        // RFC 7515, A.3; the thumbprint of its key (RFC 7638) was computed with another implementation.
        let jwk = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
        let key = PublicKey::from_jwk(jwk).unwrap();
        assert_eq!(key.kid(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
        let input = concat!(
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxl",
            "LmNvbS9pc19yb290Ijp0cnVlfQ"
        );
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(key.verify(input.as_bytes(), &signature));
        assert!(!key.verify(&input.as_bytes()[1..], &signature));
    }

    proptest! {
        #[test]
        fn parsing_anything_never_panics(s in "\\PC{0,200}") {
            let _ = PublicKey::from_jwk(&s);
        }
    }
}
