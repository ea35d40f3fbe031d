//! Sealing of small values with AES-256-GCM, random bytes, and comparison in constant time.
//!
//! A sealed value is `1 || nonce (12) || ciphertext || tag (16)`. Nonces are random, so one key seals at most 2^32
//! values: keys for tickets are made afresh at every start, far below that.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

const VERSION: u8 = 1;
/// Tickets and secrets are small; anything larger is a mistake.
const PLAINTEXT_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Wrong key, wrong purpose, or altered on the way; which one is not told apart on purpose.
    #[error("the sealed value does not open: it was not sealed here for this purpose, or it was altered")]
    DoesNotOpen,
    #[error("a value to seal is at most {PLAINTEXT_BYTES_MAX} bytes")]
    TooLong,
    #[error("the crypto library failed; this is a fault of this machine")]
    Crypto,
}

pub struct Sealer(RandomizedNonceKey);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer([secret])")
    }
}

impl Sealer {
    pub fn new(key: &[u8; 32]) -> Result<Self, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| SealError::Crypto)
    }

    /// `aad` names the purpose and whatever must not be swapped; the same is needed to open.
    pub fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(SealError::TooLong);
        }
        let mut body = plaintext.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(aad), &mut body).map_err(|_| SealError::Crypto)?;
        let mut out = Vec::with_capacity(1 + NONCE_LEN + body.len());
        out.push(VERSION);
        out.extend_from_slice(nonce.as_ref());
        out.append(&mut body);
        Ok(out)
    }

    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let rest = match sealed.split_first() {
            Some((&VERSION, rest)) if rest.len() <= NONCE_LEN + PLAINTEXT_BYTES_MAX + AES_256_GCM.tag_len() => rest,
            _ => return Err(SealError::DoesNotOpen),
        };
        let Some((nonce, body)) = rest.split_at_checked(NONCE_LEN) else { return Err(SealError::DoesNotOpen) };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::DoesNotOpen)?;
        let mut body = body.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(aad), &mut body).map_err(|_| SealError::DoesNotOpen)?.len();
        body.truncate(opened);
        Ok(body)
    }
}

/// Random bytes of the system.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], SealError> {
    let mut out = [0u8; N];
    aws_lc_rs::rand::fill(&mut out).map_err(|_| SealError::Crypto)?;
    Ok(out)
}

/// Takes as long for a near miss as for a far one. The length itself is no secret.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sealed_values_open_only_unchanged_and_for_their_purpose() {
        let sealer = Sealer::new(&random_bytes().unwrap()).unwrap();
        let sealed = sealer.seal(b"ticket", b"hello").unwrap();
        assert_eq!(sealer.open(b"ticket", &sealed).unwrap(), b"hello");
        assert_eq!(sealer.open(b"invite", &sealed), Err(SealError::DoesNotOpen));
        for i in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[i] ^= 1;
            assert_eq!(sealer.open(b"ticket", &bent), Err(SealError::DoesNotOpen), "byte {i}");
        }
        let other = Sealer::new(&random_bytes().unwrap()).unwrap();
        assert_eq!(other.open(b"ticket", &sealed), Err(SealError::DoesNotOpen));
        assert_ne!(sealer.seal(b"ticket", b"hello").unwrap(), sealed, "the nonce is fresh");
    }

    #[test]
    fn equality_needs_equal_length() {
        assert!(constant_time_eq(b"abc", b"abc"));
        assert!(!constant_time_eq(b"abc", b"abd"));
        assert!(!constant_time_eq(b"abc", b"abcd"));
        assert!(constant_time_eq(b"", b""));
    }

    proptest! {
        #[test]
        fn opening_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let sealer = Sealer::new(&[7; 32]).unwrap();
            prop_assert_eq!(sealer.open(b"", &bytes), Err(SealError::DoesNotOpen));
        }
    }
}
