//! Transfer messages between daemons. Protocol version 1, JSON over mutual TLS; manifests, chunk packs and page batches are binary.
//! Whatever is built there was asked for by its manifest before (`POST /v1/leases/{id}/chunks/missing`) and is named by its digest.
//! A neighbouring version may add fields: those that are not known are passed over.

use pumasi_route::table::Admission;
use pumasi_terms::service::{Application, DatasetKind};
use pumasi_terms::{DatasetName, Digest, Epoch, Position};
use pumasi_trust::Sealed;
use serde::{Deserialize, Serialize};

/// The protocol between daemons; an answer in another is refused with this number.
pub const PROTOCOL: u32 = 1;

/// `PUT /v1/leases/{id}/application`: everything an instance there is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendApplication {
    pub epoch: Epoch,
    /// A lower one than the last is refused.
    pub generation: u64,
    pub digest: Digest,
    pub application: Application,
    pub hosts: Vec<String>,
    pub aliases: Vec<String>,
    pub home_only: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub safe_methods: Vec<String>,
    pub user_cookie: Option<String>,
    pub admission: Admission,
    pub datasets: Vec<SentDataset>,
    pub ticket_key: Option<String>,
    /// Values of `application.secrets`, by variable, as JSON sealed to the lease's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Sealed>,
}

/// `GET /v1/leases/{id}/sealing-key`: what the secrets of a lease are sealed to, by the suite of [`Sealed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SealingKey {
    /// In hexadecimal digits.
    pub public: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentDataset {
    pub name: DatasetName,
    pub kind: DatasetKind,
    pub file: Option<String>,
}

/// `PUT /v1/leases/{id}/datasets/{name}`: a whole state, whose chunks were sent before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendTree {
    pub epoch: Epoch,
    pub digest: Digest,
    pub position: Position,
}

/// How far the copy is after a message about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyState {
    pub position: Position,
}

/// `PUT /v1/leases/{id}/dossier`: what a standby must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inform {
    pub document: pumasi_trust::SignedDocument,
    /// Keys of the service, as JSON sealed to the lease's key; the document names their digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Sealed>,
}

/// `POST /v1/leases/{id}/handover/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelHandover {
    #[serde(rename = "move")]
    pub wish: pumasi_terms::MoveId,
}

/// ... and whether it comes too late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverCancelled {
    pub committed: bool,
}

/// `GET /v1/leases/{id}/handover`: whether the heir serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverState {
    pub open: bool,
    /// Why not yet.
    #[serde(default)]
    pub why: String,
    /// Before the handover: hosts for which it has no certificate. None: an older daemon, which does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertified: Option<Vec<String>>,
}

/// The settlement as proposed or countersigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    pub document: pumasi_trust::SignedDocument,
}

/// `POST /v1/pact/signatures`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskSignature {
    pub document: pumasi_trust::SignedDocument,
    /// The notices that the proposal has taken in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<pumasi_trust::SignedDocument>,
    /// For the operators who are asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// `PUT /v1/pact/notices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notices {
    pub notices: Vec<pumasi_trust::SignedDocument>,
}

/// `POST /v1/pact/admissions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskAdmission {
    pub secret: String,
    pub member: pumasi_terms::pact::Member,
}
