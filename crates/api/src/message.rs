//! Requests and answers for people's side of the API. What clouds say to each other lives with the stages that say it.

use crate::role::Role;
pub use pumasi_terms::Place;
use pumasi_terms::pact::Terms;
use pumasi_terms::service::Service;
use pumasi_terms::{
    CloudName, CustomerName, Digest, Epoch, InstanceId, LeaseId, PrincipalName, Resources, Revision, SecretName,
    ServiceId, ServiceName, TokenId, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A list, with the revision from which a watch goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct List<T> {
    pub revision: Revision,
    pub items: Vec<T>,
}

/// `GET /v1/cloud`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CloudStatus {
    pub name: CloudName,
    pub version: String,
    pub place: Option<Place>,
    /// `current`, or why the store must not act yet.
    pub standing: String,
    pub automation: Automation,
    /// What this cloud has for instances, and what is in use.
    pub capacity: Resources,
    pub used_home: Resources,
    pub lent: Resources,
    pub isolation: String,
    pub gateway: GatewayState,
    pub members: Vec<MemberStatus>,
    pub journal_seq: u64,
    /// In which prices and bills are told; none in no pact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// For people: what was found when the parts of `isolation` that are missing were tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolation_why: Vec<String>,
    /// What the file system of the data directory has left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// What this cloud cannot do now, and what it leaves as it is: records that cannot be read, instances that no record explains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// What people who use this cloud do not get now, a reason each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// Where its gateway listens for users.
    #[serde(default)]
    pub ports: UserPorts,
}

/// Ports for users; none: it does not listen so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct UserPorts {
    pub http: Option<u16>,
    pub https: Option<u16>,
}

/// The answer to `POST /v1/reload`, a line each for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReloadDone {
    /// Another certificate than before is shown from now on.
    pub changed: Vec<String>,
    /// The one from before.
    pub same: Vec<String>,
}

impl CloudStatus {
    /// For people.
    pub fn currency(&self) -> &str {
        self.currency.as_deref().unwrap_or_default()
    }
}

/// `POST /v1/members/{name}/ping`: a member's daemon answered this one over mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Pong {
    pub cloud: CloudName,
    /// From the request to the whole answer, a new connection's greeting included where there was none.
    pub rtt_us: u64,
}

/// `POST /v1/stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopCloud {
    /// Gateway and instances too: nobody is served any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub everything: bool,
    /// Also while instances of other clouds run here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    #[serde(default)]
    pub why: String,
}

/// `GET /v1/bill`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Bill {
    pub cloud: CloudName,
    /// ISO 4217; empty in no pact.
    pub currency: String,
    pub from: WallMs,
    pub before: WallMs,
    /// For what was rented and settled: both clouds signed it.
    pub to_pay: pumasi_terms::Money,
    /// For what was lent and settled.
    pub to_get: pumasi_terms::Money,
    /// For what runs or waits, as metered here.
    pub unsigned_to_pay: pumasi_terms::Money,
    pub unsigned_to_get: pumasi_terms::Money,
    /// Older lines that are in the sums and not told.
    #[serde(default)]
    pub left_out: u64,
    /// Newest first.
    pub lines: Vec<BillLine>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BillLine {
    pub lease: LeaseId,
    pub service: Option<ServiceName>,
    pub side: BillSide,
    /// The other cloud.
    pub with: CloudName,
    pub state: BillState,
    /// When it was settled; of what is not, when it began.
    pub at: WallMs,
    /// Of a settled one the lesser reading.
    pub instance_ms: u64,
    /// Room that was kept, of a standby.
    pub reserved_instance_ms: u64,
    pub requests: u64,
    pub price_per_instance_hour: Option<pumasi_terms::Money>,
    pub amount: pumasi_terms::Money,
    /// Whether both sides metered the same time, within the tolerance; not known of what is not settled.
    pub readings_agree: Option<bool>,
    /// Why an operator disputes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BillSide {
    Rented,
    Lent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BillState {
    /// Both signed.
    Settled,
    /// It runs, or its end is not signed yet.
    Running,
    /// The readings differ beyond the tolerance, and a person decides.
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GatewayState {
    Serving,
    Starting,
    Unreachable,
    /// A witness has none.
    None,
}

/// `POST /v1/standing`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptRestored {
    #[serde(default)]
    pub why: String,
    /// Members that are not waited for: what they have seen of this store is not compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<CloudName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MemberStatus {
    pub cloud: CloudName,
    /// None: it has not answered since this daemon started.
    pub heard_ms_ago: Option<u64>,
    pub rtt_us: Option<u64>,
    /// Why the last heartbeat failed.
    pub trouble: Option<String>,
    pub lends: Resources,
    pub free: Option<Resources>,
    pub place: Option<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Automation {
    pub stopped: bool,
    #[serde(default)]
    pub why: String,
}

/// A service as stored, and how it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ServiceView {
    pub service: Service,
    pub status: ServiceStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ServiceStatus {
    /// `starting`, `serving`, `borrowing`, `degraded`, `failing` (nothing of the generation in force gets ready; an older one may go on
    /// serving), `stands_back`, `moved`, `deleting`.
    pub phase: String,
    pub why: String,
    pub home_ready: u32,
    pub home_wanted: u32,
    pub borrowed_ready: u32,
    pub borrowed_wanted: u32,
    /// Rises with each new application or configuration of it.
    pub generation: u64,
    pub deleting: bool,
    /// How far that generation has come at home; nothing from daemons that are older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Whether a partner could take it, were it overloaded now.
    #[serde(default)]
    pub lending: Lending,
    /// Whose it is.
    #[serde(default = "CustomerName::default_customer")]
    pub customer: CustomerName,
    /// It stays the same over changes, and no later service of this name gets it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ServiceId>,
}

/// How far a generation of a service has come at home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Rollout {
    pub state: RolloutState,
    pub generation: u64,
    /// Instances of it that get requests, and how many are wanted.
    pub ready: u32,
    pub wanted: u32,
    /// What still serves beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older: Option<OlderGeneration>,
    /// How often it failed: an instance ended by itself, or a start was refused.
    #[serde(default)]
    pub tries: u32,
    /// Why not all of it is ready.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// All of it is ready, and nothing older is left.
    Done,
    Progressing,
    /// It does not get ready, and is tried again.
    Failing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OlderGeneration {
    pub generation: u64,
    pub ready: u32,
}

/// `GET /v1/services/{name}/generations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GenerationView {
    pub generation: u64,
    /// It is in force.
    pub current: bool,
    pub at: WallMs,
    /// Empty: it was not written down.
    pub by: String,
    pub why: String,
    /// As it was applied; values that whoever asks may not see are hidden.
    pub service: Service,
}

/// `PUT /v1/services`: all of them, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyServices {
    pub services: Vec<Service>,
}

/// `POST /v1/services/{name}/undo`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UndoService {
    /// Unsaid: the last one that ran something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    #[serde(default)]
    pub why: String,
}

/// `POST /v1/services/{name}/scale`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleService {
    /// Instances at home, at least.
    pub min: u32,
    /// And at most; unsaid: as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    #[serde(default)]
    pub why: String,
}

/// Whether a service could be lent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Lending {
    pub state: LendingState,
    /// What stands against it, and what to do.
    #[serde(default)]
    pub why: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LendingState {
    /// Not found out yet, or there is nobody to ask.
    #[default]
    Unknown,
    Yes,
    No,
    /// The service borrows nothing.
    Unasked,
}

/// `POST /v1/services/{name}/check`: what would come of applying it. Nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckService {
    pub service: pumasi_terms::service::Service,
    /// Of the bundle, which need not have been sent.
    pub bundle_bytes: u64,
    pub bundle_files: u64,
}

/// `POST /v1/services/{name}/rehearsals`: one instance is borrowed, asked once, and given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RehearseService {
    pub cause: RehearsedCause,
    /// Asked for by GET; without it the readiness probe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The partner; without it the best one is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<CloudName>,
}

/// `POST /v1/services/{name}/move`: it lives at another cloud from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveService {
    pub to: CloudName,
    /// Only what would come of it is answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// `POST /v1/services/{name}/move/abandon`: the heir may have signed, and does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AbandonMove {
    /// Who does not serve, named once more: whoever asks has looked.
    pub heir: CloudName,
    pub why: String,
}

/// `POST /v1/pact/takeovers`: a member is gone for good, and no voters say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeOver {
    pub lost: CloudName,
    /// Whoever asks has made sure that nothing of it runs.
    pub fenced: bool,
    /// Unsaid: everything that is kept ready here for that cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    pub why: String,
}

/// What became of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TakenOver {
    pub service: ServiceName,
    /// Under which this cloud owns it now; none: it stays a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

/// What a move comes to, as far as it can be told before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MoveOutlook {
    pub service: ServiceName,
    pub from: CloudName,
    pub to: CloudName,
    /// Whether everything is kept ready there already.
    pub is_ready: bool,
    /// Bytes that are sent before anybody waits.
    pub bytes: u64,
    /// How long requests that change something wait, about; none: not known.
    pub pause_ms: Option<u64>,
    /// What is kept there costs so much an hour until it has moved; none: no offer is known.
    pub cost_per_hour: Option<pumasi_terms::Money>,
    pub risks: Vec<String>,
}

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RehearsedCause {
    Overload,
}

/// A secret's value on its way in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSecret {
    pub value: String,
}

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewSecret([secret])")
    }
}

/// What may be told of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SecretView {
    pub name: SecretName,
    pub customer: CustomerName,
    /// Rises with each new value.
    pub version: u64,
    pub set_at: WallMs,
    pub used_by: Vec<ServiceName>,
}

/// What an operator grants to a customer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CustomerGrant {
    /// Host names that its services may claim: `shop.example`, or `*.shop.example` for all below it. Empty: any that is free.
    pub hosts: Vec<String>,
    /// Services at a time; 0: no limit.
    pub services_max: u32,
    /// Of its instances at home together, in each part; 0: no limit.
    pub resources_max: Resources,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CustomerView {
    pub name: CustomerName,
    pub grant: CustomerGrant,
    pub services: Vec<ServiceName>,
    pub tokens: u32,
    /// Of its instances at home, as its manifests ask for.
    pub used: Resources,
}

/// A service that was deleted and whose data are kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RetiredView {
    pub id: ServiceId,
    pub name: ServiceName,
    pub customer: CustomerName,
    pub retired_at: WallMs,
    pub erase_after: WallMs,
    /// What it takes up. Told of services that live on: another cloud serves it, or it came back and left behind what it had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// `GET /v1/divergences`: what a service wrote here before this cloud was found lost, and others did not go on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DivergenceView {
    pub service: ServiceName,
    pub id: ServiceId,
    pub customer: CustomerName,
    /// Under which it was written.
    pub epoch: Epoch,
    pub set_aside_at: WallMs,
    pub bytes: u64,
    pub files: u64,
    /// Files and rows of which something stands here only; none: they were not compared yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_here: Option<u64>,
    pub summary: String,
    /// By dataset: what was added, changed or removed, the first of each by name or key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datasets: Option<serde_json::Value>,
}

/// `GET /v1/traffic`: one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct TrafficView {
    /// Thousandths a second.
    pub arrivals_mps: u64,
    pub completed_mps: u64,
    pub shed_mps: u64,
    pub failed_mps: u64,
    pub queue_delay_p95_us: u64,
    pub app_time_p50_us: u64,
    pub app_time_p95_us: u64,
    pub user_rtt_p50_us: u64,
    pub in_flight: u64,
    pub limit: u64,
    pub objective_queue_delay_p95_us: u64,
    /// By cloud: where answers came from, thousandths a second.
    pub served_by: BTreeMap<CloudName, u64>,
    /// What was judged last, in words.
    pub judgement: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Traffic {
    pub at: WallMs,
    pub services: BTreeMap<ServiceName, TrafficView>,
}

/// An instance as its engine sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InstanceView {
    pub id: InstanceId,
    /// `home` or the lease it serves.
    pub lease: Option<LeaseId>,
    pub service: ServiceName,
    /// The cloud whose service it is.
    pub cloud: CloudName,
    pub state: String,
    pub why: String,
    pub address: Option<String>,
    pub generation: u64,
    pub restarts: u32,
    pub cpu_used_us: u64,
    pub memory_bytes: u64,
}

/// A lease from this cloud's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeaseView {
    pub id: LeaseId,
    /// `rented` or `lent`.
    pub side: String,
    pub borrower: CloudName,
    pub lender: CloudName,
    pub service: ServiceName,
    pub state: String,
    pub instances_granted: u32,
    pub instances_wanted: u32,
    pub instances_ready: u32,
    pub price_per_instance_hour: pumasi_terms::Money,
    pub expires_in_ms: u64,
    pub instance_ms: u64,
    pub requests: u64,
    pub since: WallMs,
    pub why: String,
}

/// If a service's own cloud stopped now: where it could go on, in how long, with how much loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StandbyView {
    pub service: ServiceName,
    /// Whose service it is.
    pub owner: CloudName,
    /// Where it is kept ready; none: nowhere.
    pub cloud: Option<CloudName>,
    pub lease: Option<LeaseId>,
    /// `kept`, `helping` (it serves now), `coming`, `silent` (its owner, or the cloud that keeps it, is not heard), `missing` (it is
    /// wanted and nobody keeps it), `none` (nobody asked for it).
    pub state: String,
    /// Instances that run there, and for how many there is room.
    pub ready: u32,
    pub room: u32,
    /// Until it could serve; none: not known.
    pub serves_in_ms: Option<u64>,
    /// Writes of so long before the end would be lost; none: all that there are, or not known.
    pub loss_ms: Option<u64>,
    /// It is kept at least so long, if nobody is heard.
    pub kept_ms: Option<u64>,
    pub why: String,
}

/// A settlement whose readings differ beyond the tolerance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SettlementView {
    pub lease: LeaseId,
    pub service: ServiceName,
    pub borrower: CloudName,
    pub lender: CloudName,
    pub lender_instance_ms: u64,
    /// None: the borrower proposed nothing within an hour after the lease was over.
    pub borrower_instance_ms: Option<u64>,
    /// By the lesser reading.
    pub amount: pumasi_terms::Money,
    pub since: WallMs,
    /// Why an operator does not accept it.
    pub disputed: Option<String>,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Event {
    pub seq: u64,
    pub at: WallMs,
    pub actor: String,
    pub action: String,
    pub subject_kind: String,
    pub subject: String,
    pub cause: Option<String>,
    pub reasons: Vec<String>,
    pub trace_id: Option<String>,
    pub data: serde_json::Value,
}

/// One event of `GET /v1/watch`: `data:` of a server-sent event whose `id:` is the revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Change {
    pub revision: Revision,
    pub kind: String,
    pub name: String,
    /// None: deleted.
    pub body: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Why {
    #[serde(default)]
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FoundPact {
    pub currency: String,
    pub terms: Terms,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The cloud that may use it.
    pub cloud: CloudName,
    pub ttl_ms: u64,
}

/// A change of the pact that waits for an operator's word, or has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PactProposal {
    pub id: String,
    pub what: String,
    /// Whom it admits or dismisses.
    pub cloud: CloudName,
    /// Who proposes it.
    pub by: CloudName,
    #[serde(default)]
    pub why: String,
    /// What a newcomer would lend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lends: Option<Resources>,
    pub since: WallMs,
    pub word: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Waiting,
    Agreed,
    Refused,
}

/// `POST /v1/pact/dismissals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dismiss {
    pub cloud: CloudName,
    #[serde(default)]
    pub why: String,
}

/// `PUT /v1/pact/voting`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// Three, five or seven members.
    #[serde(default)]
    pub voters: Vec<CloudName>,
    /// `default`, `lan` or `far`. Unsaid: the times stay, or are the default ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The voting ends.
    #[serde(default)]
    pub stop: bool,
}

/// `GET /v1/pact/rehearsal`: what would happen if a cloud were lost now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RehearsalView {
    pub lose: CloudName,
    /// From its last sign of life until the others call it lost.
    pub noticed_ms: u64,
    /// As many clouds as recover by themselves were lost already: operators of a majority would be asked.
    pub asks: bool,
    /// Members that did not answer just now: the plan is made without them.
    pub silent: Vec<CloudName>,
    /// In the order in which they are recovered.
    pub services: Vec<RehearsedService>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RehearsedService {
    pub service: ServiceName,
    /// `guaranteed`, `early` or `deferred`.
    pub class: String,
    pub priority: u32,
    /// `full`, `degraded`, `waiting` or `impossible`.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir: Option<CloudName>,
    pub instances: u32,
    /// As agreed.
    pub of: u32,
    /// Once what gives way has gone: so many, after so long at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grows_to: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grows_in_ms: Option<u64>,
    /// Until it serves again, by starts that were measured; none: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// What would be lost of its data.
    pub rpo: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The cheapest thing that would help.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mend: String,
    /// It is less than its class was promised: guaranteed services go on at full size, early ones at least.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub falls_short: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub invitation: String,
    pub terms: Terms,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Invited {
    pub invitation: String,
    pub expires_at: WallMs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    pub name: PrincipalName,
    pub role: Role,
    /// Whom a viewer or customer acts for; without it the default customer. An operator has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<CustomerName>,
    /// 0: does not expire.
    #[serde(default)]
    pub ttl_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TokenView {
    pub id: TokenId,
    pub name: PrincipalName,
    pub role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<CustomerName>,
    pub created_at: WallMs,
    pub expires_at: Option<WallMs>,
    /// Told once, when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// `GET /v1/quarantine`: what no record explains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Quarantined {
    /// To name it by.
    pub name: String,
    pub what: String,
    pub why: String,
    pub at: WallMs,
    /// When it is erased by itself. None: never.
    pub until: Option<WallMs>,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Missing {
    pub chunks: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Uploaded {
    pub bundle: Digest,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BackupDone {
    pub path: String,
    pub bytes: u64,
}
