//! Public keys of passkeys (COSE_Key, RFC 9052 and 9053) and their signatures.

use super::cbor::{self, Value};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

/// As offered to authenticators, the preferred first: ES256, EdDSA, RS256.
pub const ALGORITHMS: [i64; 3] = [-7, -8, -257];
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

#[derive(Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// An uncompressed point of P-256.
    Es256(Vec<u8>),
    Ed25519(&'a [u8]),
    Rs256 {
        n: &'a [u8],
        e: &'a [u8],
    },
}

impl<'a> Key<'a> {
    /// The key, and what follows it.
    pub fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (map, rest) = cbor::read(bytes)?;
        let int = |number| map.numbered(number).and_then(Value::int);
        let part = |number| map.numbered(number).and_then(Value::bytes);
        let key = match (int(1)?, int(3)?) {
            (2, -7) if int(-1) == Some(1) => {
                let (x, y) = (part(-2)?, part(-3)?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Self::Es256([&[4], x, y].concat())
            }
            (1, -8) if int(-1) == Some(6) => Self::Ed25519(part(-2).filter(|x| x.len() == 32)?),
            (3, -257) => {
                let (n, e) = (part(-1)?, part(-2)?);
                let fine = RSA_MODULUS_BYTES.contains(&n.len()) && n.first() != Some(&0) && (1..=4).contains(&e.len());
                if !fine {
                    return None;
                }
                Self::Rs256 { n, e }
            }
            _ => return None,
        };
        Some((key, rest))
    }

    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature),
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
            Self::Rs256 { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
        }
        .is_ok()
    }
}
