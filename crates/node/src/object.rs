//! What the daemon keeps: the kinds of the store and the records that belong to no single stage.

use pumasi_api::Role;
use pumasi_api::message::Automation;
use pumasi_terms::service::Service;
use pumasi_terms::{BootMs, Digest, Epoch, LeaseId, PrincipalName, ServiceName, TokenId, WallMs};
use serde::{Deserialize, Serialize};

pub const SERVICE: &str = "service";
pub const JOURNEY: &str = "journey";
pub const PLAN: &str = "plan";
/// Lender's side.
pub const HOLD: &str = "hold";
pub const LENT: &str = "lent";
/// What renewals changed since of a borrower's leases, one row a borrower: read it by `lender::Lents`.
pub const LENT_RENEWAL: &str = "lent_renewal";
pub const LENT_APPLICATION: &str = "lent_application";
/// Signed by both, on both sides, by lease id.
pub const SIGNED_LEASE: &str = "signed_lease";
pub const SETTLEMENT: &str = "settlement";
/// A [`Dispute`], by lease id.
pub const DISPUTE: &str = "dispute";
pub const TOKEN: &str = "token";
/// A `pumasi_pact::PactState`, and beside it what `pact` keeps while a step is under way.
pub const PACT: &str = "pact";
/// `pumasi_pact::Invitations`, and for which clouds they were made.
pub const INVITATION: &str = "invitation";
pub const CLOUD: &str = "cloud";
/// A [`Metered`].
pub const METERED: &str = "metered";

/// An [`Ended`], by owner of instances: what once was and may be stopped wherever it is found.
pub const ENDED: &str = "ended";

/// Written to see whether anything can be.
pub const PROBE: &str = "probe";

/// All of them. A new kind stands here, and what becomes of things where its record cannot be read is decided in docs/operations.md.
pub const KINDS: [&str; 16] = [
    SERVICE,
    JOURNEY,
    PLAN,
    HOLD,
    LENT,
    LENT_RENEWAL,
    LENT_APPLICATION,
    SIGNED_LEASE,
    SETTLEMENT,
    TOKEN,
    PACT,
    INVITATION,
    CLOUD,
    METERED,
    ENDED,
    PROBE,
];

/// The one object of its kind.
pub const ONLY: &str = "this";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// `application.bundle` is always a digest here.
    pub document: Service,
    /// Rises whenever what an instance is made of changes.
    pub generation: u64,
    pub epoch: Epoch,
    pub deleting: bool,
}

impl ServiceRecord {
    pub fn name(&self) -> &ServiceName {
        &self.document.metadata.name
    }
    /// The bundle's digest; a record without one cannot be made by the API.
    pub fn bundle(&self) -> Digest {
        match &self.document.spec.application.bundle {
            pumasi_terms::service::BundleRef::Digest(digest) => *digest,
            pumasi_terms::service::BundleRef::Path(_) => Digest([0; 32]),
        }
    }
    /// How the engine labels its instances.
    pub fn owner(&self) -> String {
        format!("service-{}", self.name())
    }
}

/// What this cloud is, over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudRecord {
    pub automation: Automation,
    /// Of the boot under which boot times in the store were written.
    pub boot_id: String,
    /// Rises at each boot: positions of datasets begin anew.
    pub boot_count: u64,
}

/// The last window of the gateway's meter whose use is written down: a new daemon reads the gateway's ring again, and meters none twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metered {
    pub version: u32,
    pub gateway_run: u64,
    pub seq: u64,
}

impl Metered {
    pub fn of(window: &pumasi_sense::MeterWindow) -> Self {
        Self { version: 1, gateway_run: window.gateway_run, seq: window.seq }
    }
    pub fn covers(&self, window: &pumasi_sense::MeterWindow) -> bool {
        self.gateway_run == window.gateway_run && window.seq <= self.seq
    }
}

/// That an owner of instances is no more, though its own record is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub version: u32,
    pub at: WallMs,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub id: TokenId,
    pub name: PrincipalName,
    pub role: Role,
    /// BLAKE3 of the secret, which has 256 bits of entropy: no slow hash is needed.
    pub secret_digest: Digest,
    pub created_at: WallMs,
    pub expires_at: Option<WallMs>,
}

/// A settlement beyond the tolerance, as its borrower signed it: at the lender it waits for a person, at the borrower for the
/// lender's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispute {
    pub version: u32,
    pub said: pumasi_lease::document::Settlement,
    pub service: ServiceName,
    pub document: pumasi_trust::SignedDocument,
    pub since: WallMs,
    /// The operator's reason not to accept it.
    pub disputed: Option<String>,
}

impl Dispute {
    pub fn view(&self) -> pumasi_api::message::SettlementView {
        pumasi_api::message::SettlementView {
            lease: self.said.lease.clone(),
            service: self.service.clone(),
            borrower: self.said.borrower.clone(),
            lender: self.said.lender.clone(),
            lender_instance_ms: self.said.lender_usage.instance_ms,
            borrower_instance_ms: self.said.borrower_usage.instance_ms,
            amount: self.said.amount,
            since: self.since,
            disputed: self.disputed.clone(),
        }
    }
}

/// The application of a lent lease, as the borrower sent it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentApplication {
    pub lease: LeaseId,
    pub sent: crate::wire::SendApplication,
    /// Bundle directory is complete.
    pub digest: Digest,
    /// When the first copy of every dataset was complete.
    pub since: BootMs,
}

pub fn owner_of_lease(lease: &LeaseId) -> String {
    lease.to_string()
}

/// A plan and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PlanRecord {
    pub plan: pumasi_plan::Plan,
    pub state: PlanState,
    pub decided_by: Option<String>,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// In force, or was.
    Adopted,
    /// Waits for a person.
    Waiting,
    Refused,
    /// Made to be seen only.
    Observed,
}
