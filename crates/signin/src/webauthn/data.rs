//! What authenticators and browsers say: authenticator data and client data (Web Authentication Level 3, 6.1 and 5.8.1).

use super::cbor;
use super::key::Key;
use serde::Deserialize;

const CREDENTIAL_ID_BYTES_MAX: usize = 1_023;

const PRESENT: u8 = 1;
const VERIFIED: u8 = 1 << 2;
const MAY_BE_BACKED_UP: u8 = 1 << 3;
const BACKED_UP: u8 = 1 << 4;
const HAS_CREDENTIAL: u8 = 1 << 6;
const HAS_EXTENSIONS: u8 = 1 << 7;

#[derive(Debug, PartialEq, Eq)]
pub struct AuthenticatorData<'a> {
    pub rp_id_hash: &'a [u8],
    /// The user was there, and showed that it is its owner (a finger, a face, a PIN).
    pub verified: bool,
    pub counter: u32,
    pub credential: Option<Credential<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Credential<'a> {
    pub id: &'a [u8],
    /// A COSE_Key, as it was written.
    pub key: &'a [u8],
}

impl<'a> AuthenticatorData<'a> {
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (rp_id_hash, rest) = bytes.split_at_checked(32)?;
        let (flags, rest) = rest.split_first()?;
        let (counter, rest) = rest.split_at_checked(4)?;
        let has = |flag| flags & flag != 0;
        if has(BACKED_UP) && !has(MAY_BE_BACKED_UP) {
            return None;
        }
        let (credential, rest) = if has(HAS_CREDENTIAL) {
            let (_aaguid, rest) = rest.split_at_checked(16)?;
            let (length, rest) = rest.split_at_checked(2)?;
            let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
            let (id, rest) = rest.split_at_checked(length)?;
            let after = Key::read(rest)?.1;
            let key = rest.get(..rest.len() - after.len())?;
            if !(1..=CREDENTIAL_ID_BYTES_MAX).contains(&id.len()) {
                return None;
            }
            (Some(Credential { id, key }), after)
        } else {
            (None, rest)
        };
        let rest = if has(HAS_EXTENSIONS) { cbor::read(rest)?.1 } else { rest };
        let counter = u32::from_be_bytes(counter.try_into().ok()?);
        let verified = has(PRESENT) && has(VERIFIED);
        rest.is_empty().then_some(Self { rp_id_hash, verified, counter, credential })
    }
}

/// Fields that are not named here are not looked at, as the standard asks.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct ClientData {
    #[serde(rename = "type")]
    pub kind: String,
    /// In base64url.
    pub challenge: String,
    pub origin: String,
    /// Within a frame of another site.
    #[serde(default, rename = "crossOrigin")]
    pub cross_origin: bool,
}
