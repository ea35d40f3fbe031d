//! What users prove themselves by: made here, told once, kept as digests.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;

pub use pumasi_realm::gate::digest_of;

/// [`pumasi_realm::SECRET_BITS`] random bits, as text that fits into a cookie, a path and a password field.
pub fn fresh() -> String {
    URL_SAFE_NO_PAD.encode(random::<{ pumasi_realm::SECRET_BITS / 8 }>())
}

/// A name for a user that no other gets: 128 random bits in hex, which survives applications that fold case.
pub fn subject() -> String {
    hex::encode(random::<16>())
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// In constant time, whatever their lengths.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    blake3::hash(a) == blake3::hash(b)
}
