//! What the daemon keeps: the kinds of the store and the records that belong to no single stage.

use pumasi_api::Role;
use pumasi_api::message::Automation;
use pumasi_api::message::CustomerGrant;
use pumasi_ownership::state::Base;
use pumasi_terms::service::Service;
use pumasi_terms::{
    BootMs, CloudName, CustomerName, DatasetName, Digest, Epoch, LeaseId, MoveId, PrincipalName, ServiceId,
    ServiceName, TokenId, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub const SERVICE: &str = "service";
pub const JOURNEY: &str = "journey";
pub const PLAN: &str = "plan";
/// Lender's side.
pub const HOLD: &str = "hold";
pub const LENT: &str = "lent";
/// What renewals changed since of a borrower's leases, one row a borrower: read it by `lender::Lents`.
pub const LENT_RENEWAL: &str = "lent_renewal";
pub const LENT_APPLICATION: &str = "lent_application";
/// What a standby's lender must know, as its owner signed it, by lease id.
pub const DOSSIER: &str = "dossier";
/// Keys of the service, sealed to the lease as its owner sent them with the dossier, by lease id.
pub const DOSSIER_KEYS: &str = "dossier_keys";
/// Who owns a service that was handed over: the newest handover that both signed, by the service's id.
pub const TENURE: &str = "tenure";
/// Each handover of a service that this cloud knows, as both signed it, by the service's id and the epoch that it began.
pub const HANDOVER: &str = "handover";
/// A [`pumasi_lease::reclaim::Reclaim`] that its maker signed, by the service's id.
pub const RECLAIM: &str = "reclaim";
/// A [`pumasi_lease::takeover::Takeover`] that its maker signed, by the service's id.
pub const TAKEOVER: &str = "takeover";
/// A `pumasi_journey::moving::Move`, by the service's name.
pub const MOVE: &str = "move";
/// A [`Heir`], by lease id.
pub const HEIR: &str = "heir";
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
/// A [`CustomerRecord`].
pub const CUSTOMER: &str = "customer";
/// A [`Retired`], by the service's id.
pub const RETIRED: &str = "retired";
/// A [`Metered`].
pub const METERED: &str = "metered";

/// A [`Divergence`], by the service's id and the epoch.
pub const DIVERGENCE: &str = "divergence";

/// A [`crate::generations::Generations`], by the service's id.
pub const GENERATION: &str = "generation";

/// A `takeover::game_day::GameDay`, by the service's name.
pub const GAME_DAY: &str = "game_day";

/// An [`Ended`], by owner of instances: what once was and may be stopped wherever it is found.
pub const ENDED: &str = "ended";

/// Written to see whether anything can be.
pub const PROBE: &str = "probe";

/// All of them. A new kind stands here, and what becomes of things where its record cannot be read is decided in docs/operations.md.
pub const KINDS: [&str; 27] = [
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
    DOSSIER,
    DOSSIER_KEYS,
    TENURE,
    MOVE,
    HEIR,
    HANDOVER,
    RECLAIM,
    TAKEOVER,
    DIVERGENCE,
    GENERATION,
    GAME_DAY,
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
    pub id: ServiceId,
    pub customer: CustomerName,
    /// The journal's head at its birth: rows of before are about another service of this name.
    #[serde(default)]
    pub born_seq: u64,
    /// Clouds that owned it before: users still come to them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub entrances: BTreeSet<CloudName>,
    /// It was handed over to this cloud, and its data are being made its own: nothing is started before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taking: Option<LeaseId>,
    /// This cloud wrote for it under this epoch, and was found lost: what it has of then is no beginning of what is to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<Epoch>,
    /// Its owner stands in the register of a pact that votes, or is about to: from before that on it is written only within the right that
    /// the register gives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub registered: bool,
    /// What this cloud began from, by dataset, where it took the service over at this epoch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base: BTreeMap<DatasetName, Base>,
    /// It was taken over at this epoch from this cloud, which could not go on with it: what counts less makes room for it by the pact's terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescued_from: Option<CloudName>,
    /// Made before services had ids: its directory and its instances carry its name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept_by_name: bool,
}

impl ServiceRecord {
    pub fn new(document: Service, id: ServiceId, customer: CustomerName, born_seq: u64) -> Self {
        let (generation, epoch) = (1, Epoch(1));
        let (deleting, entrances, taking, diverged) = (false, BTreeSet::new(), None, None);
        let (registered, base, rescued_from, kept_by_name) = (false, BTreeMap::new(), None, false);
        Self {
            document,
            generation,
            epoch,
            deleting,
            id,
            customer,
            born_seq,
            entrances,
            taking,
            diverged,
            registered,
            base,
            rescued_from,
            kept_by_name,
        }
    }
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
    /// How the engine labels its instances: never as those of another service that had or will have its name.
    pub fn owner(&self) -> String {
        let name = self.name();
        if self.kept_by_name {
            format!("{OWNER_OF_SERVICES}{name}")
        } else {
            format!("{OWNER_OF_SERVICES}{name}.{}", self.id)
        }
    }
    /// How its sign-in process is labelled.
    pub fn realm_owner(&self) -> String {
        self.owner().replacen(OWNER_OF_SERVICES, OWNER_OF_REALMS, 1)
    }
    /// All that write its data.
    pub fn writers(&self) -> [String; 2] {
        [self.owner(), self.realm_owner()]
    }
    /// Whose group has a right to a dataset.
    pub fn owner_of(&self, set: &DatasetName) -> String {
        if set.is_realm() { self.realm_owner() } else { self.owner() }
    }
    /// Its directory below `services/`.
    pub fn place(&self) -> &str {
        if self.kept_by_name { self.name().as_str() } else { self.id.as_str() }
    }
}

/// How the labels of sign-in processes begin.
pub const OWNER_OF_REALMS: &str = "realm-";
/// How the labels of services' instances begin.
pub const OWNER_OF_SERVICES: &str = "service-";

/// The name in such a label: all that is known of a service whose record cannot be read.
pub fn service_named_by(owner: &str) -> Option<&str> {
    owner.strip_prefix(OWNER_OF_SERVICES)?.split('.').next()
}

/// What the owner of a standby asked this cloud, its lender, about becoming the owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heir {
    pub version: u32,
    /// Wishes that will not be fulfilled any more, the newest last.
    pub cancelled: Vec<MoveId>,
}

/// A service that ended. Its data are kept until `erase_after`; this record is what allows to erase them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    pub version: u32,
    pub id: ServiceId,
    pub name: ServiceName,
    pub customer: CustomerName,
    /// Its directory below `services/`.
    pub place: String,
    /// What the journal says of its name between these was about it.
    pub born_seq: u64,
    pub ended_seq: u64,
    pub retired_at: WallMs,
    pub erase_after: WallMs,
}

/// What was written here for a service before this cloud was found lost, and is not in what its successor went on with. It lies below the
/// service's directory; this record is what lets it be found, and a person's word alone ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    pub version: u32,
    pub id: ServiceId,
    pub service: ServiceName,
    pub customer: CustomerName,
    /// Under which it was written.
    pub epoch: Epoch,
    /// The service's directory below `services/`.
    pub place: String,
    pub at: WallMs,
    pub sets: Vec<pumasi_transfer::helper::Set>,
    pub bytes: u64,
    pub files: u64,
    /// With the surviving data, by dataset; none: they were not here yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<BTreeMap<DatasetName, pumasi_transfer::Compared>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_at: Option<WallMs>,
}

impl Divergence {
    /// Files and rows of which something stands here only; none: that is not known yet.
    pub fn only_here(&self) -> Option<u64> {
        let all = self.compared.as_ref()?;
        Some(all.values().map(pumasi_transfer::Compared::count).fold(0, u64::saturating_add))
    }

    /// In one sentence.
    pub fn summary(&self) -> String {
        let Some(all) = &self.compared else {
            return "not compared yet: the surviving data are not here".into();
        };
        let of = |(name, c): (&DatasetName, &pumasi_transfer::Compared)| {
            let files = c.files.iter().map(|d| ("files", d.added.count, d.changed.count, d.removed.count));
            let rows = c.tables.iter().map(|t| ("rows", t.added.count, t.changed.count, t.removed.count));
            let (kind, [here, other, there]) =
                files.chain(rows).fold(("rows", [0u64; 3]), |(_, sum), (kind, a, b, c)| {
                    (kind, [sum[0].saturating_add(a), sum[1].saturating_add(b), sum[2].saturating_add(c)])
                });
            let told = format!("{name}: {here} {kind} here only, {other} differ, {there} in the surviving data only");
            [told].into_iter().chain(c.remarks.iter().cloned()).collect::<Vec<_>>().join("; ")
        };
        all.iter().map(of).collect::<Vec<_>>().join("; ")
    }
}

/// A tenant, as an operator made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerRecord {
    pub version: u32,
    pub name: CustomerName,
    pub grant: CustomerGrant,
    pub created_at: WallMs,
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
    /// Of a viewer or customer; an operator has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<CustomerName>,
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
            borrower_instance_ms: Some(self.said.borrower_usage.instance_ms),
            amount: self.said.amount,
            since: self.since,
            disputed: self.disputed.clone(),
        }
    }
}

/// Whom a token speaks for.
pub fn principal_of(token: &TokenRecord) -> pumasi_api::Principal {
    pumasi_api::Principal::person(token.name.clone(), token.role, token.customer.clone())
}

/// The application of a lent lease, as the borrower sent it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentApplication {
    pub lease: LeaseId,
    pub sent: crate::wire::SendApplication,
    /// Bundle directory is complete.
    pub digest: Digest,
    /// As unpacked; nothing in records of before, which had the manifest.
    #[serde(default)]
    pub bundle_bytes: u64,
    #[serde(default)]
    pub bundle_files: u64,
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
    /// The service that it is for; none in records of before services had ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_id: Option<ServiceId>,
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
