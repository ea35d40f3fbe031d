//! Values sealed to somebody else's key: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM.

use crate::Secret;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const PLAINTEXT_BYTES_MAX: usize = 4 << 20;
const KEY_BYTES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HpkeError {
    #[error("a sealing key has {KEY_BYTES} bytes, in hexadecimal digits")]
    BadKey,
    /// Wrong key, wrong purpose, or altered on the way; which one is not told apart on purpose.
    #[error("the sealed value does not open: it was not sealed to this key for this purpose, or it was altered")]
    DoesNotOpen,
    #[error("what is sealed has at most {PLAINTEXT_BYTES_MAX} bytes")]
    TooLong,
    #[error("format {0} of a sealed value is not known to this version")]
    Format(u32),
    #[error("the crypto library failed; this is a fault of this machine")]
    Crypto,
}

/// A sealed value as it travels and is stored: only the holder of the private key learns anything of it but its length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub version: u32,
    /// RFC 9180 `enc`, in hexadecimal digits.
    pub enc: String,
    /// In hexadecimal digits.
    pub ciphertext: String,
}

/// A new pair: the public part in hexadecimal digits, and the private one.
pub(crate) fn generate() -> Result<(String, Secret<Vec<u8>>), HpkeError> {
    let (public, private) = SUITE.generate_key_pair().map_err(|_| HpkeError::Crypto)?;
    Ok((hex::encode(public.0), Secret::new(private.secret_bytes().to_vec())))
}

impl Sealed {
    /// `info` names the protocol, `aad` whatever must not be swapped; the same are needed to open.
    pub fn to(public: &str, info: &[u8], aad: &[u8], plaintext: &Secret<Vec<u8>>) -> Result<Self, HpkeError> {
        if plaintext.expose().len() > PLAINTEXT_BYTES_MAX {
            return Err(HpkeError::TooLong);
        }
        let key = hex::decode(public).ok().filter(|k| k.len() == KEY_BYTES).ok_or(HpkeError::BadKey)?;
        let sealed = SUITE.seal(info, aad, plaintext.expose(), &HpkePublicKey(key));
        // A point of small order is the only thing that can be wrong with a key of the right length.
        let (enc, ciphertext) = sealed.map_err(|_| HpkeError::BadKey)?;
        Ok(Self { version: VERSION, enc: hex::encode(enc.0), ciphertext: hex::encode(ciphertext) })
    }

    pub(crate) fn open(
        &self,
        private: &Secret<Vec<u8>>,
        info: &[u8],
        aad: &[u8],
    ) -> Result<Secret<Vec<u8>>, HpkeError> {
        if self.version != VERSION {
            return Err(HpkeError::Format(self.version));
        }
        if self.ciphertext.len() > 2 * (PLAINTEXT_BYTES_MAX + 16) {
            return Err(HpkeError::TooLong);
        }
        let bytes = |text: &str| hex::decode(text).map_err(|_| HpkeError::DoesNotOpen);
        let (enc, ciphertext) = (bytes(&self.enc)?, bytes(&self.ciphertext)?);
        if enc.len() != KEY_BYTES {
            return Err(HpkeError::DoesNotOpen);
        }
        let key = HpkePrivateKey::from(private.expose().clone());
        let opened = SUITE.open(&EncapsulatedSecret(enc), info, aad, &ciphertext, &key);
        opened.map(Secret::new).map_err(|_| HpkeError::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of_hex(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    #[test]
    fn the_vector_of_rfc_9180_a_1_1_opens() {
        let sealed = Sealed {
            version: 1,
            enc: "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431".into(),
            ciphertext: "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
                .into(),
        };
        let private = Secret::new(of_hex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"));
        let opened = sealed.open(&private, b"Ode on a Grecian Urn", b"Count-0").unwrap();
        assert_eq!(opened.expose(), b"Beauty is truth, truth beauty");
    }

    #[test]
    fn it_opens_unchanged_by_its_key_and_for_its_purpose_only() {
        let (public, private) = generate().unwrap();
        let (_, other) = generate().unwrap();
        let value = Secret::new(b"sk_live".to_vec());
        let sealed = Sealed::to(&public, b"info", b"lease-1", &value).unwrap();
        assert_eq!(sealed.open(&private, b"info", b"lease-1").unwrap(), value);
        assert_ne!(Sealed::to(&public, b"info", b"lease-1", &value).unwrap(), sealed, "a fresh key each time");
        for (key, info, aad) in
            [(&other, &b"info"[..], &b"lease-1"[..]), (&private, b"other", b"lease-1"), (&private, b"info", b"lease-2")]
        {
            assert_eq!(sealed.open(key, info, aad).unwrap_err(), HpkeError::DoesNotOpen);
        }
        let mut bytes = of_hex(&sealed.ciphertext);
        for i in 0..bytes.len() {
            bytes[i] ^= 1;
            let bent = Sealed { ciphertext: hex::encode(&bytes), ..sealed.clone() };
            assert_eq!(bent.open(&private, b"info", b"lease-1").unwrap_err(), HpkeError::DoesNotOpen, "byte {i}");
            bytes[i] ^= 1;
        }
        let later = Sealed { version: 2, ..sealed };
        assert_eq!(later.open(&private, b"info", b"lease-1").unwrap_err(), HpkeError::Format(2));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let value = Secret::new(b"x".to_vec());
        for bad in ["", "ab", "zz", &"00".repeat(32), &"ab".repeat(33)] {
            assert_eq!(Sealed::to(bad, b"", b"", &value).unwrap_err(), HpkeError::BadKey, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn opening_anything_never_panics(enc in ".{0,80}", ciphertext in "([0-9a-f]{2}){0,60}") {
            let sealed = Sealed { version: 1, enc, ciphertext };
            prop_assert!(sealed.open(&Secret::new(vec![7; 32]), b"", b"").is_err());
        }
    }
}
