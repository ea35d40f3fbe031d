//! Documents that several clouds sign: JWS in its general JSON serialisation (RFC 7515, 7.2.1), ES256 only.
//!
//! A `SignedDocument` that exists is well formed: every header was read, every signature has its length. Whether it is
//! *true* only `verify` tells. Payload and headers are kept as they came; nothing is ever serialised again to be verified.
//! It is stored and sent as it is, by serde.

use crate::{DocumentKey, KeyError, PublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pumasi_terms::{CloudName, Digest, Serial};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;
pub const SIGNATURES_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 1 << 10;

/// Why a document is refused. It is the sender's fault; trying again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("a signed document has at most {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the document is no JWS in JSON: {0}")]
    NotJws(String),
    #[error("the document's {part} {problem}")]
    Malformed { part: String, problem: String },
    #[error("a document has 1 to {SIGNATURES_MAX} signatures, this one {0}")]
    SignatureCount(usize),
    #[error("{0} signed twice")]
    DuplicateSigner(CloudName),
    #[error("the signatures do not agree on kind and serial")]
    Mixed,
    #[error("the document is of type {found:?}, a {expected:?} was expected")]
    WrongKind { expected: String, found: String },
    #[error("{0} signed, but it is no party to this document")]
    UnknownSigner(CloudName),
    #[error("{cloud} signed with the key {found}, which is not the one known of it")]
    WrongKey { cloud: CloudName, found: String },
    #[error("the signature of {0} is not one over this document")]
    BadSignature(CloudName),
    #[error("the signature of {0} is missing")]
    MissingSigner(CloudName),
}

/// Why a signature could not be added.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("{0} has signed this document already")]
    AlreadySigned(CloudName),
    #[error("a kind of document is 1 to 32 of a-z, 0-9 and '-'; {0:?} is not")]
    BadKind(String),
    #[error("the two documents differ in more than their signatures")]
    Different,
    #[error(transparent)]
    Document(#[from] VerifyError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Only these members; `crit`, `b64`, `jwk`, `x5u` and the like are refused with everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: Algorithm,
    kid: String,
    typ: String,
    iss: CloudName,
    serial: Serial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Algorithm {
    #[serde(rename = "ES256")]
    Es256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocument {
    payload: String,
    signatures: Vec<RawSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSignature {
    protected: String,
    signature: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    /// In base64url, as it came: what was signed.
    protected: String,
    header: Header,
    bytes: [u8; 64],
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawDocument", into = "RawDocument")]
pub struct SignedDocument {
    /// In base64url, as it came: what was signed.
    encoded: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

/// What a document says once its signatures have been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub payload: Vec<u8>,
    pub serial: Serial,
    pub signers: BTreeSet<CloudName>,
}

fn malformed(part: impl Into<String>, problem: impl Into<String>) -> VerifyError {
    VerifyError::Malformed { part: part.into(), problem: problem.into() }
}

impl TryFrom<RawDocument> for SignedDocument {
    type Error = VerifyError;

    fn try_from(raw: RawDocument) -> Result<Self, VerifyError> {
        let count = raw.signatures.len();
        if count == 0 || count > SIGNATURES_MAX {
            return Err(VerifyError::SignatureCount(count));
        }
        let size = raw.signatures.iter().map(|s| s.protected.len() + s.signature.len()).sum::<usize>();
        if raw.payload.len().saturating_add(size) > DOCUMENT_BYTES_MAX {
            return Err(VerifyError::TooLarge);
        }
        let payload = URL_SAFE_NO_PAD.decode(&raw.payload).map_err(|e| malformed("payload", e.to_string()))?;
        let mut signatures = Vec::with_capacity(count);
        let mut signers = BTreeSet::new();
        for (i, raw) in raw.signatures.into_iter().enumerate() {
            let part = |name: &str| format!("signatures[{i}].{name}");
            if raw.protected.len() > HEADER_BYTES_MAX {
                return Err(malformed(part("protected"), "is too long"));
            }
            let header =
                URL_SAFE_NO_PAD.decode(&raw.protected).map_err(|e| malformed(part("protected"), e.to_string()))?;
            let header: Header =
                serde_json::from_slice(&header).map_err(|e| malformed(part("protected"), e.to_string()))?;
            let bytes =
                URL_SAFE_NO_PAD.decode(&raw.signature).map_err(|e| malformed(part("signature"), e.to_string()))?;
            let bytes = <[u8; 64]>::try_from(bytes).map_err(|_| malformed(part("signature"), "is not of 64 bytes"))?;
            if !signers.insert(header.iss.clone()) {
                return Err(VerifyError::DuplicateSigner(header.iss));
            }
            signatures.push(Signature { protected: raw.protected, header, bytes });
        }
        let document = Self { encoded: raw.payload, payload, signatures };
        let (typ, serial) = (document.typ(), document.serial());
        if document.signatures.iter().any(|s| s.header.typ != typ || s.header.serial != serial) {
            return Err(VerifyError::Mixed);
        }
        Ok(document)
    }
}

impl From<SignedDocument> for RawDocument {
    fn from(document: SignedDocument) -> Self {
        let signatures = document
            .signatures
            .into_iter()
            .map(|s| RawSignature { protected: s.protected, signature: URL_SAFE_NO_PAD.encode(s.bytes) });
        RawDocument { payload: document.encoded, signatures: signatures.collect() }
    }
}

impl std::fmt::Debug for SignedDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedDocument")
            .field("typ", &self.typ())
            .field("serial", &self.serial())
            .field("digest", &self.digest())
            .field("signers", &self.signers())
            .finish()
    }
}

fn typ_of(kind: &str) -> String {
    format!("pumasi-{kind}+jws")
}

fn signature(encoded: &str, header: Header, key: &DocumentKey) -> Result<Signature, SignError> {
    let json = serde_json::to_vec(&header).map_err(|e| VerifyError::NotJws(e.to_string()))?;
    let protected = URL_SAFE_NO_PAD.encode(json);
    let bytes = key.sign(format!("{protected}.{encoded}").as_bytes())?;
    Ok(Signature { protected, header, bytes })
}

impl SignedDocument {
    /// A new document with its first signature. `kind` names what it is, as `pact` or `lease`: a signature for one kind is
    /// none for another.
    pub fn sign_new(
        payload: &[u8],
        kind: &str,
        cloud: &CloudName,
        serial: Serial,
        key: &DocumentKey,
    ) -> Result<Self, SignError> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if kind.is_empty() || kind.len() > 32 || !kind.bytes().all(fine) {
            return Err(SignError::BadKind(kind.chars().take(40).collect()));
        }
        if payload.len() > DOCUMENT_BYTES_MAX {
            return Err(VerifyError::TooLarge.into());
        }
        let header = Header {
            alg: Algorithm::Es256,
            kid: key.public().kid().to_owned(),
            typ: typ_of(kind),
            iss: cloud.clone(),
            serial,
        };
        let encoded = URL_SAFE_NO_PAD.encode(payload);
        let signatures = vec![signature(&encoded, header, key)?];
        Self { encoded, payload: payload.to_vec(), signatures }.within_limits()
    }

    /// The same bytes with one signature more. Verify, and decide to agree, before.
    pub fn countersign(&self, cloud: &CloudName, key: &DocumentKey) -> Result<Self, SignError> {
        if self.signed_by(cloud) {
            return Err(SignError::AlreadySigned(cloud.clone()));
        }
        let header = Header {
            alg: Algorithm::Es256,
            kid: key.public().kid().to_owned(),
            typ: self.typ().to_owned(),
            iss: cloud.clone(),
            serial: self.serial(),
        };
        let mut more = self.clone();
        more.signatures.push(signature(&self.encoded, header, key)?);
        more.within_limits()
    }

    /// Takes over the signatures of `other` that are missing here, of the same bytes. They are not verified by this.
    pub fn merge(&self, other: &SignedDocument) -> Result<Self, SignError> {
        if self.encoded != other.encoded || self.typ() != other.typ() || self.serial() != other.serial() {
            return Err(SignError::Different);
        }
        let mut more = self.clone();
        more.signatures.extend(other.signatures.iter().filter(|s| !self.signed_by(&s.header.iss)).cloned());
        more.within_limits()
    }

    fn within_limits(self) -> Result<Self, SignError> {
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(VerifyError::SignatureCount(self.signatures.len()).into());
        }
        // 86 characters of base64url a signature.
        let size = self.signatures.iter().map(|s| s.protected.len() + 86).sum::<usize>();
        if self.encoded.len() + size > DOCUMENT_BYTES_MAX {
            return Err(VerifyError::TooLarge.into());
        }
        Ok(self)
    }

    pub fn from_json(json: &str) -> Result<Self, VerifyError> {
        // Room for white space and member names; the parts themselves are bounded when read.
        if json.len() > DOCUMENT_BYTES_MAX + SIGNATURES_MAX * 64 {
            return Err(VerifyError::TooLarge);
        }
        let raw: RawDocument = serde_json::from_str(json).map_err(|e| VerifyError::NotJws(e.to_string()))?;
        Self::try_from(raw)
    }
    pub fn to_json(&self) -> String {
        // A struct of strings always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn typ(&self) -> &str {
        self.signatures.first().map_or("", |s| s.header.typ.as_str())
    }
    /// As the signatures state it; the payload must say the same, which its reader checks.
    pub fn serial(&self) -> Serial {
        self.signatures.first().map_or(Serial(0), |s| s.header.serial)
    }
    /// Those who claim to have signed; only `verify` proves it.
    pub fn signers(&self) -> BTreeSet<CloudName> {
        self.signatures.iter().map(|s| s.header.iss.clone()).collect()
    }
    pub fn signed_by(&self, cloud: &CloudName) -> bool {
        self.signatures.iter().any(|s| &s.header.iss == cloud)
    }
    /// The payload before anything was verified: to find out which keys to verify with, and for nothing else.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }
    /// BLAKE3 of the payload. It does not depend on who has signed so far, so that a successor can name it.
    pub fn digest(&self) -> Digest {
        crate::digest(&self.payload)
    }

    /// Every signature is by a party in `keys` with the key known of it, and all of `required` signed.
    pub fn verify(
        &self,
        kind: &str,
        keys: &BTreeMap<CloudName, PublicKey>,
        required: &BTreeSet<CloudName>,
    ) -> Result<Verified, VerifyError> {
        if self.typ() != typ_of(kind) {
            let found = self.typ().chars().take(80).collect();
            return Err(VerifyError::WrongKind { expected: typ_of(kind), found });
        }
        if let Some(missing) = required.iter().find(|c| !self.signed_by(c)) {
            return Err(VerifyError::MissingSigner(missing.clone()));
        }
        for s in &self.signatures {
            let cloud = &s.header.iss;
            let key = keys.get(cloud).ok_or_else(|| VerifyError::UnknownSigner(cloud.clone()))?;
            if s.header.kid != key.kid() {
                let found = s.header.kid.chars().take(80).collect();
                return Err(VerifyError::WrongKey { cloud: cloud.clone(), found });
            }
            if !key.verify(format!("{}.{}", s.protected, self.encoded).as_bytes(), &s.bytes) {
                return Err(VerifyError::BadSignature(cloud.clone()));
            }
        }
        Ok(Verified { payload: self.payload.clone(), serial: self.serial(), signers: self.signers() })
    }
}

#[cfg(test)]
mod tests;
