//! The route table: the daemon's whole word to its gateway. Format version 3; version 1 knows no doors, and
//! versions 1 and 2 say themselves until when a service is writable, and know no fronts.
//!
//! The gateway keeps the last one on disk and serves by it when the daemon is dead.

use pumasi_terms::class::LessImportant;
use pumasi_terms::identity::{Claim, Gate};
use pumasi_terms::service::{RecoveryClass, RouteMode};
use pumasi_terms::sync::SyncReads;
use pumasi_terms::{
    BootMs, CloudName, DatasetName, Epoch, Generation, InstanceId, LeaseId, Position, Ppm, Protocol, ServiceName,
};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

pub const TABLE_VERSION: u32 = 3;
/// The oldest that is still read: the file of a gateway that ran before an upgrade.
pub const TABLE_VERSION_OLDEST: u32 = 1;

/// Whether a table of that version is read.
pub fn is_read(version: u32) -> bool {
    (TABLE_VERSION_OLDEST..=TABLE_VERSION).contains(&version)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteTable {
    pub version: u32,
    pub cloud: CloudName,
    /// Boot id of the kernel under which it was written: boot times in it are void under another.
    pub boot_id: String,
    /// Only rises; the gateway refuses a lower one.
    pub revision: u64,
    /// Services of this cloud, by name.
    pub services: BTreeMap<ServiceName, ServiceRoute>,
    /// What this cloud serves for others, by lease.
    pub leases: BTreeMap<LeaseId, LeaseRoute>,
    /// Gateways of the pact's members: whom to call and whom to let in.
    pub peers: BTreeMap<CloudName, PeerLink>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRoute {
    pub hosts: Vec<String>,
    /// Ownership under which answers are given; checked on entry and before an answer leaves. At a front, the owner's.
    pub epoch: Epoch,
    #[serde(alias = "writable_until", deserialize_with = "writes")]
    pub writes: Writes,
    #[serde(default, skip_serializing_if = "Role::is_owner")]
    pub role: Role,
    /// At a front: nobody answers for it now, and this is what its users are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Absent>,
    /// Clouds that may send their users' requests here, to instances of this cloud alone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub entrances: BTreeSet<CloudName>,
    pub mode: RouteMode,
    /// Path prefixes that go home whatever their method.
    pub home_only: Vec<String>,
    /// Methods that change nothing here, besides those of the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub safe_methods: Vec<String>,
    pub user_cookie: Option<String>,
    /// What its newest instances speak: so much must get through on the way to a lease as well.
    #[serde(default, skip_serializing_if = "Protocol::is_http1")]
    pub protocol: Protocol,
    /// Header fields whose names have an underscore are passed on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub underscored_fields: bool,
    /// Instances of this cloud that are ready.
    pub home: Vec<HomeBackend>,
    /// Leases at peers. Weights of home and leases need not add up to a whole: they are relative.
    pub leases: Vec<LeaseBackend>,
    pub home_weight: Ppm,
    pub admission: Admission,
    /// The dataset generation whose positions this home gives out in its answers to writes; None: no dataset.
    pub position_generation: Option<Generation>,
    /// What an answer to a request that writes waits for. A gateway that does not know of it refuses the whole table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_step: Option<InStep>,
    /// Its users sign in before they reach it. A gateway that does not know of it refuses the whole table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityRoute>,
    /// 32 bytes, hex: signs the cookies of positions in place of the gateway's own key, so that another owner reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_key: Option<String>,
}

/// Copies that must have a write before it is acknowledged. With nobody to wait for and nobody's word that the service may be written
/// alone, nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InStep {
    pub leases: BTreeSet<LeaseId>,
    /// No other cloud is in step, and the service is written all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// Nobody answers who is in step: what writes is refused on entry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shut: bool,
    /// The longest that an answer waits, ms.
    pub wait_ms: u64,
    /// What only reads waits as well.
    #[serde(default, skip_serializing_if = "SyncReads::is_default")]
    pub reads: SyncReads,
}

impl InStep {
    /// Whether what writes has somebody to wait for, or need not.
    pub fn is_open(&self) -> bool {
        !self.shut && (self.alone || !self.leases.is_empty())
    }
}

/// Who must be signed in, how the application is told, and who knows the users.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRoute {
    pub gate: Gate,
    pub basic: bool,
    pub headers: BTreeMap<Claim, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public: Vec<String>,
    /// The sign-in process, where it is ready. Without it nobody is known.
    pub signin: Option<HomeBackend>,
    /// 32 bytes, hex: what the gateway proves itself by to that process.
    pub key: String,
}

/// Without the key.
impl std::fmt::Debug for IdentityRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IdentityRoute({:?}, {:?})", self.gate, self.signin)
    }
}

/// What this cloud is to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Role {
    /// Its instances serve it, and its leases.
    #[default]
    Owner,
    /// It is an entrance only: every request goes to the gateway of the owner.
    Front { owner: CloudName },
}

impl Role {
    pub fn is_owner(&self) -> bool {
        *self == Self::Owner
    }
}

/// Why a service has nobody who serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// A word for programs: `silent`, `waiting`, `approval`, `automation`, `yielded`, `opening`.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<RecoveryClass>,
    /// In the queue, from 1; and how many wait in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// One sentence for people.
    pub detail: String,
    pub retry_after_s: u32,
}

impl Absent {
    /// The owner is not heard, and may answer all the same: its daemon alone may be down.
    pub const SILENT: &'static str = "silent";

    /// Whether who only reads may try the owner.
    pub fn may_read(&self) -> bool {
        self.reason == Self::SILENT
    }
}

/// What the right to write rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// On nothing: a cloud outside of a pact that knows owners.
    Unbound,
    /// On this cloud's tenure: writable only while [`Tenure`](crate::Tenure) says so.
    Bound,
}

/// Versions 1 and 2 have an instant or none in its place.
fn writes<'de, D: Deserializer<'de>>(d: D) -> Result<Writes, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Writes(Writes),
        Until(Option<BootMs>),
    }
    Ok(match Said::deserialize(d)? {
        Said::Writes(writes) => writes,
        Said::Until(None) => Writes::Unbound,
        Said::Until(Some(_)) => Writes::Bound,
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HomeBackend {
    pub instance: InstanceId,
    /// Of this host; with a door, of the instance's own network.
    pub address: SocketAddr,
    /// The only way into an instance that has a network of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Protocol::is_http1")]
    pub protocol: Protocol,
    /// The application's generation, for a release in steps.
    pub generation: u64,
    /// Takes no new request; those in flight end.
    pub draining: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseBackend {
    pub lease: LeaseId,
    pub cloud: CloudName,
    /// Ready instances there: bounds the concurrency given to it.
    pub instances: u32,
    pub weight: Ppm,
    pub draining: bool,
    /// After this instant nothing is sent there: the lease's end, less the drain time.
    pub usable_until: BootMs,
    /// `https://` authority of the alias in `redirect` mode.
    pub alias: Option<String>,
    /// How far its copies are. A reader who has seen more is served at home. Refreshed apart from the table (`positions`).
    pub datasets: Vec<DatasetName>,
    /// 32 bytes, hex: seals the tickets of `redirect` mode for this lease.
    pub ticket_key: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admission {
    /// The most that wait for a place.
    pub queue_max: u32,
    /// The longest that one waits before it is shed, ms.
    pub wait_max_ms: u64,
    /// Requests at one time with which an instance starts; what it bears is found out.
    pub limit_initial: u32,
    /// The most requests at one time that an instance may reach.
    pub limit_max: u32,
    /// Retries of safe requests, in millionths of all requests.
    pub retry_budget: Ppm,
    /// For the head of an answer, ms.
    pub answer_timeout_ms: u64,
    /// The longest body of a request.
    pub body_bytes_max: u64,
    /// What waits behind everything else. A service says it, not an operator.
    #[serde(skip_serializing_if = "LessImportant::is_empty")]
    #[schemars(skip)]
    pub less_important: LessImportant,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            queue_max: 512,
            wait_max_ms: 500,
            limit_initial: 8,
            limit_max: 256,
            retry_budget: Ppm(100_000),
            answer_timeout_ms: 60_000,
            body_bytes_max: 1 << 30,
            less_important: LessImportant::default(),
        }
    }
}

impl Admission {
    /// The first that is of no use, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let bounds = [
            ("queue_max", u64::from(self.queue_max), 1, 100_000),
            ("wait_max_ms", self.wait_max_ms, 1, 60_000),
            ("limit_max", u64::from(self.limit_max), 1, 100_000),
            ("limit_initial", u64::from(self.limit_initial), 1, u64::from(self.limit_max)),
            ("retry_budget", u64::from(self.retry_budget.0), 0, 1_000_000),
            ("answer_timeout_ms", self.answer_timeout_ms, 1, 86_400_000),
            ("body_bytes_max", self.body_bytes_max, 0, 1 << 50),
        ];
        let wrong = bounds.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value));
        wrong.map(|(field, _, least, most)| (field, format!("must be {least} to {most}")))
    }
}

/// Instances here that serve another cloud's service under a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRoute {
    pub borrower: CloudName,
    pub service: ServiceName,
    pub epoch: Epoch,
    pub hosts: Vec<String>,
    pub aliases: Vec<String>,
    pub instances: Vec<HomeBackend>,
    /// The lender's own end of the lease: nothing is served after it.
    pub expires_at: BootMs,
    pub home_only: Vec<String>,
    /// As the borrower's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub safe_methods: Vec<String>,
    #[serde(default, skip_serializing_if = "Protocol::is_http1")]
    pub protocol: Protocol,
    pub admission: Admission,
    pub ticket_key: Option<String>,
    pub datasets: Vec<DatasetName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerLink {
    /// `host:port` of its gateway for peers (mutual TLS, SPIFFE path `/gateway`).
    pub gateway_address: String,
    /// SPIFFE bundle (JWK set) of its trust domain.
    pub bundle: String,
}

/// How far copies are, sent to the gateway many times a second, apart from the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Positions {
    /// By lease, the least of its datasets. Used at home for leases away, and at the lender for leases here.
    pub leases: BTreeMap<LeaseId, Position>,
    /// The least of those datasets that are kept in step, of leases that answers wait for or may wait for. Not sent to a gateway that knows
    /// none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub in_step: BTreeMap<LeaseId, Position>,
}
