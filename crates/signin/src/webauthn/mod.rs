//! Passkeys (Web Authentication Level 3): challenges, and what is signed over them.
//!
//! Always holds: nothing is remembered of who only begins; a challenge says by itself for which act, user and browser it was made and
//! until when, and is good once; a passkey counts for the host that it was made for and nowhere else. Attestations are not asked for, and
//! not looked at. Verification is by the parts that are left then (7.1 and 7.2 of the standard): docs/decisions/0086-sign-in.md.

pub mod cbor;
pub mod data;
pub mod key;
#[cfg(test)]
mod tests;

use crate::clock::MINUTE_MS;
use crate::secret;
use crate::web::parse::Origin;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data::{AuthenticatorData, ClientData};
use key::Key;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

pub const LIFE_MS: u64 = 5 * MINUTE_MS;
/// Ceremonies that may be finished within [`LIFE_MS`].
const FINISHED_MAX: usize = 65_536;
const CHALLENGE_BYTES: usize = 8 + 16 + 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    SignIn,
    SignUp,
    Add,
}

/// What a challenge was made for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    pub act: Act,
    /// The user that is made, or that gets another passkey; empty where it is the passkey that says who it is.
    pub subject: &'a str,
    /// The secret of the browser.
    pub browser: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the challenge has ended, was used, or was made for something else")]
    Expired,
    #[error("it was made on a page of another host")]
    Origin,
    #[error("the passkey belongs to another host")]
    OtherHost,
    #[error("the authenticator did not verify its user")]
    Unverified,
    #[error("the signature is not the passkey's")]
    Signature,
    #[error("{0} cannot be read")]
    Malformed(&'static str),
}

#[derive(Debug)]
pub struct Challenges {
    rp_id: String,
    /// Of this process: a challenge does not outlive it.
    key: [u8; 32],
    finished: Mutex<HashMap<Vec<u8>, u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub id: Vec<u8>,
    pub key: Vec<u8>,
    pub counter: u32,
}

impl Challenges {
    pub fn new(host: &str) -> Self {
        Self { rp_id: host.to_ascii_lowercase(), key: secret::random(), finished: Mutex::default() }
    }

    pub fn rp_id(&self) -> &str {
        &self.rp_id
    }

    /// When it ends, something random, and a seal over both and the purpose. In base64url.
    pub fn make(&self, purpose: Purpose<'_>, now_ms: u64) -> String {
        let mut bytes = Vec::with_capacity(CHALLENGE_BYTES);
        bytes.extend((now_ms + LIFE_MS).to_be_bytes());
        bytes.extend(secret::random::<16>());
        bytes.extend(self.seal(&bytes, purpose).as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn seal(&self, open: &[u8], Purpose { act, subject, browser }: Purpose<'_>) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(open).update(&[act as u8]);
        // Each by its digest, so that no two purposes are written alike.
        hasher.update(blake3::hash(subject.as_bytes()).as_bytes()).update(blake3::hash(browser.as_bytes()).as_bytes());
        hasher.finalize()
    }

    /// Good until its end; [`Self::finish`] says whether for the first time.
    fn is_ours(&self, challenge: &[u8], purpose: Purpose<'_>, now_ms: u64) -> bool {
        let Some((open, seal)) = challenge.split_at_checked(CHALLENGE_BYTES - 32) else { return false };
        let ends_ms = open.first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        // Compared in constant time.
        let ours =
            seal.try_into().is_ok_and(|seal: [u8; 32]| self.seal(open, purpose) == blake3::Hash::from_bytes(seal));
        ours && ends_ms > now_ms
    }

    fn finish(&self, challenge: Vec<u8>, now_ms: u64) -> Result<(), Refused> {
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.len() >= FINISHED_MAX {
            finished.retain(|_, ends_ms| *ends_ms > now_ms);
        }
        let first = finished.len() < FINISHED_MAX && finished.insert(challenge, now_ms + LIFE_MS).is_none();
        if first { Ok(()) } else { Err(Refused::Expired) }
    }

    /// The challenge, if client data is of this host, for this purpose.
    fn client(&self, bytes: &[u8], kind: &str, purpose: Purpose<'_>, now_ms: u64) -> Result<Vec<u8>, Refused> {
        let said: ClientData = serde_json::from_slice(bytes).map_err(|_| Refused::Malformed("client data"))?;
        if said.kind != kind {
            return Err(Refused::Malformed("client data"));
        }
        let challenge = URL_SAFE_NO_PAD.decode(&said.challenge).map_err(|_| Refused::Expired)?;
        if !self.is_ours(&challenge, purpose, now_ms) {
            return Err(Refused::Expired);
        }
        if said.cross_origin || !self.allows(&said.origin) {
            return Err(Refused::Origin);
        }
        Ok(challenge)
    }

    /// `https` at any port; without TLS on this machine only, where browsers take it for safe.
    fn allows(&self, origin: &str) -> bool {
        let local = self.rp_id == "localhost" || self.rp_id.ends_with(".localhost");
        Origin::parse(origin).is_some_and(|o| o.host == self.rp_id && (o.https || local))
    }

    fn authenticator<'a>(&self, bytes: &'a [u8]) -> Result<AuthenticatorData<'a>, Refused> {
        let said = AuthenticatorData::read(bytes).ok_or(Refused::Malformed("authenticator data"))?;
        if said.rp_id_hash != digest(&SHA256, self.rp_id.as_bytes()).as_ref() {
            return Err(Refused::OtherHost);
        }
        if !said.verified {
            return Err(Refused::Unverified);
        }
        Ok(said)
    }

    /// A new passkey, from what `navigator.credentials.create` gave.
    pub fn register(
        &self,
        purpose: Purpose<'_>,
        client: &[u8],
        attestation: &[u8],
        now_ms: u64,
    ) -> Result<Registered, Refused> {
        let challenge = self.client(client, "webauthn.create", purpose, now_ms)?;
        let malformed = Refused::Malformed("the attestation");
        let (object, rest) = cbor::read(attestation).ok_or(malformed)?;
        // What it claims is not looked at, but it has to have the form of one.
        let format = matches!(object.named("fmt"), Some(cbor::Value::Text(_)));
        if !format || !matches!(object.named("attStmt"), Some(cbor::Value::Map(_))) {
            return Err(malformed);
        }
        let said =
            object.named("authData").and_then(cbor::Value::bytes).filter(|_| rest.is_empty()).ok_or(malformed)?;
        let said = self.authenticator(said)?;
        let credential = said.credential.ok_or(malformed)?;
        self.finish(challenge, now_ms)?;
        Ok(Registered { id: credential.id.to_vec(), key: credential.key.to_vec(), counter: said.counter })
    }

    /// The passkey's counter, if `navigator.credentials.get` gave its signature.
    pub fn verify(&self, purpose: Purpose<'_>, key: &[u8], said: &Assertion, now_ms: u64) -> Result<u32, Refused> {
        let challenge = self.client(&said.client, "webauthn.get", purpose, now_ms)?;
        let authenticator = self.authenticator(&said.authenticator)?;
        let (key, _) = Key::read(key).ok_or(Refused::Malformed("the passkey"))?;
        let signed = [said.authenticator.as_slice(), digest(&SHA256, &said.client).as_ref()].concat();
        if !key.verifies(&signed, &said.signature) {
            return Err(Refused::Signature);
        }
        self.finish(challenge, now_ms)?;
        Ok(authenticator.counter)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub client: Vec<u8>,
    pub authenticator: Vec<u8>,
    pub signature: Vec<u8>,
}
