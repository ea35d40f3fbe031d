//! The Service document: what a customer owns, promises and allows.

use crate::class::LessImportant;
use crate::continuity::Continuity;
use crate::document::{Document, FieldError, Validate, fault};
use crate::identity::{self, Identity};
use crate::sync::{self, OnStandbyLoss, SyncReads};
use crate::template;
use crate::tls::Tls;
use crate::{CloudName, DatasetName, Digest, Money, Protocol, Resources, SecretName, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub type Service = Document<ServiceName, ServiceSpec>;

pub const KIND: &str = "Service";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Host names that the service owns; the first is its own, identity hangs on it.
    pub hosts: Vec<String>,
    pub application: Application,
    #[serde(default)]
    pub instances: Instances,
    #[serde(default)]
    pub datasets: Vec<Dataset>,
    #[serde(default)]
    pub objective: Objective,
    #[serde(default)]
    pub routing: Routing,
    #[serde(default)]
    pub borrowing: Borrowing,
    /// Where it must be able to live on.
    #[serde(default, skip_serializing_if = "Continuity::is_none")]
    pub continuity: Continuity,
    /// A certificate of its own for its hosts; none: that of each cloud's operator is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Its users sign in before they reach the application; none: it knows its users itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Higher is served first where capacity is short.
    #[serde(default = "default_priority")]
    pub priority: u32,
    #[serde(default)]
    pub recovery_class: RecoveryClass,
}

fn default_priority() -> u32 {
    100
}

/// An executable that listens on `$PORT`, in any language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Application {
    pub bundle: BundleRef,
    /// Program and arguments. The names of [`template`] are filled in, `${PORT}` and `${DATA_<DATASET>}` among them.
    pub command: Vec<String>,
    /// Environment of the application; nothing is inherited from the daemon. The same names are filled in.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets of the customer, by the secrets' names. They reach the application and stand in no document.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretName>,
    #[serde(default)]
    pub platform: Platform,
    /// What it speaks on its port.
    #[serde(default, skip_serializing_if = "Protocol::is_http1")]
    pub protocol: Protocol,
    #[serde(default = "default_resources")]
    pub resources: Resources,
    #[serde(default)]
    pub readiness: Probe,
    /// Without one the process being alive is enough.
    #[serde(default)]
    pub liveness: Option<Probe>,
    /// From SIGTERM to SIGKILL.
    #[serde(default = "default_stop_grace_ms")]
    pub stop_grace_ms: u64,
    /// Addresses (`ip:port`) outside that an instance may call; the rest is closed where the engine can close it.
    #[serde(default)]
    pub egress: Vec<String>,
}

impl Application {
    /// What its instances call.
    pub fn destinations(&self) -> Vec<std::net::SocketAddr> {
        self.egress.iter().filter_map(|to| to.parse().ok()).collect()
    }
}

fn default_resources() -> Resources {
    Resources { cpu_millis: 250, memory_mib: 128 }
}
fn default_stop_grace_ms() -> u64 {
    5_000
}

/// A directory beside the manifest (the CLI packs and uploads it), or the digest of one already uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(
    untagged,
    expecting = "must be a directory beside the manifest, or the digest of a bundle that was sent before"
)]
pub enum BundleRef {
    Digest(Digest),
    Path(String),
}

/// What the application needs below it; offers name what they can run, and the two are matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    #[serde(default = "default_os")]
    pub os: String,
    #[serde(default = "default_arch")]
    pub arch: String,
    /// Runtimes found on the host, as `python3`; every one must be named by the offer.
    #[serde(default)]
    pub runtimes: Vec<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        if self.runtimes.is_empty() { Ok(()) } else { write!(f, " with {}", self.runtimes.join(", ")) }
    }
}

fn default_os() -> String {
    "linux".into()
}
fn default_arch() -> String {
    "x86_64".into()
}
impl Default for Platform {
    fn default() -> Self {
        Self { os: default_os(), arch: default_arch(), runtimes: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// GET this path; 200 to 399 is well.
    #[serde(default = "default_probe_path")]
    pub path: String,
    #[serde(default = "default_probe_interval_ms")]
    pub interval_ms: u64,
    #[serde(default = "default_probe_timeout_ms")]
    pub timeout_ms: u64,
    /// So many failures in a row are believed.
    #[serde(default = "default_probe_failures")]
    pub failures: u32,
}

fn default_probe_path() -> String {
    "/".into()
}
/// Each probe costs the instance an answer and a line in its log. While it starts, and once a probe has failed, it is asked sooner.
fn default_probe_interval_ms() -> u64 {
    1_000
}
fn default_probe_timeout_ms() -> u64 {
    1_000
}
fn default_probe_failures() -> u32 {
    3
}
impl Default for Probe {
    fn default() -> Self {
        Self {
            path: default_probe_path(),
            interval_ms: default_probe_interval_ms(),
            timeout_ms: default_probe_timeout_ms(),
            failures: default_probe_failures(),
        }
    }
}

/// Instances at home. Borrowed ones are bounded by `borrowing`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Instances {
    pub home: HomeInstances,
}

/// How many run at home: a number, or `min` always and up to `max` under load, before anything is borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(from = "HomeForm", into = "HomeForm")]
#[schemars(with = "HomeForm")]
pub struct HomeInstances {
    pub min: u32,
    pub max: u32,
}
impl HomeInstances {
    pub const MOST: u32 = 256;

    pub fn fixed(count: u32) -> Self {
        Self { min: count, max: count }
    }
    /// Those that come and go with the load.
    pub fn spare_max(&self) -> u32 {
        self.max.saturating_sub(self.min)
    }
}
impl Default for HomeInstances {
    fn default() -> Self {
        Self::fixed(1)
    }
}

/// As it is written.
#[derive(Deserialize, Serialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "must be a number, or a mapping like {min: 1, max: 3}")]
enum HomeForm {
    Fixed(u32),
    Range(HomeRange),
}
#[derive(Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct HomeRange {
    min: u32,
    max: u32,
}
impl From<HomeForm> for HomeInstances {
    fn from(form: HomeForm) -> Self {
        match form {
            HomeForm::Fixed(count) => Self::fixed(count),
            HomeForm::Range(HomeRange { min, max }) => Self { min, max },
        }
    }
}
impl From<HomeInstances> for HomeForm {
    fn from(home: HomeInstances) -> Self {
        match home {
            HomeInstances { min, max } if min == max => Self::Fixed(min),
            HomeInstances { min, max } => Self::Range(HomeRange { min, max }),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    pub name: DatasetName,
    pub kind: DatasetKind,
    /// The database file inside the dataset's directory (`sqlite` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default)]
    pub mode: DatasetMode,
    /// Of `sync`: what becomes of requests that write while no other cloud is in step.
    #[serde(default, skip_serializing_if = "OnStandbyLoss::is_default")]
    pub on_standby_loss: OnStandbyLoss,
    /// Of `sync`: whether those that only read may see what could still be lost.
    #[serde(default, skip_serializing_if = "SyncReads::is_default")]
    pub reads: SyncReads,
    /// Of `sync`: the longest that an answer waits for the clouds in step. Then its outcome is told as unknown.
    #[serde(default = "sync::default_wait_ms", skip_serializing_if = "sync::is_default_wait")]
    pub sync_wait_ms: u64,
    /// How old a borrowed copy may be (RPO), measured and shown.
    #[serde(default = "default_rpo_ms")]
    pub rpo_ms: u64,
    /// The most that it may hold at home, and that may leave the cloud for one lease. The service stands still while it holds more.
    #[serde(default = "default_dataset_bytes")]
    pub bytes_max: u64,
    /// The most files and directories that it may hold at home.
    #[serde(default = "default_dataset_files")]
    pub files_max: u64,
}

fn default_rpo_ms() -> u64 {
    1_000
}
fn default_dataset_bytes() -> u64 {
    4 << 30
}
fn default_dataset_files() -> u64 {
    250_000
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetKind {
    Files,
    Sqlite,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetMode {
    /// Copies lag by at most the RPO; the loss of a home is at most that.
    #[default]
    Async,
    /// No acknowledged write is lost with a cloud: the answer leaves when each cloud in step has it on disk.
    Sync,
}

/// What the service promises its users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// 95th percentile of the time a request waits for a free place, ms.
    #[serde(default = "default_queue_delay_ms")]
    pub queue_delay_p95_ms: u64,
    /// 95th percentile of queue and application time together, ms; 0 states none.
    #[serde(default)]
    pub answer_p95_ms: u64,
}
fn default_queue_delay_ms() -> u64 {
    50
}
impl Default for Objective {
    fn default() -> Self {
        Self { queue_delay_p95_ms: default_queue_delay_ms(), answer_p95_ms: 0 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    #[serde(default)]
    pub mode: RouteMode,
    /// Path prefixes whose safe methods write all the same: they go home only.
    #[serde(default)]
    pub home_only: Vec<String>,
    /// Methods that change nothing in this service, besides those of [`crate::method::SAFE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub safe_methods: Vec<String>,
    /// Refused first, and served last, where places are short.
    #[serde(default, skip_serializing_if = "LessImportant::is_empty")]
    pub less_important: LessImportant,
    /// Cookie that keys a user, so that the user stays put; without one the client address does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_cookie: Option<String>,
    /// Pass on header fields whose names have an underscore. They are dropped otherwise, since CGI and WSGI applications
    /// cannot tell `X_Forwarded_For` of a user from `X-Forwarded-For` of the gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub underscored_fields: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteMode {
    /// Through the peer's gateway; the user sees nothing.
    #[default]
    Proxy,
    /// 307 to the alias `<cloud>.<host>` for top-level GETs that opted in; everything else as `proxy`.
    Redirect,
}

/// What Pumasi may do on its own for this service, and the ceilings of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Borrowing {
    #[serde(default)]
    pub mode: AutomationMode,
    /// Instances rented at one time, over all lenders.
    #[serde(default = "default_borrowed_max")]
    pub instances_max: u32,
    /// Rent an hour, over all lenders, in millionths of the pact's currency.
    #[serde(default = "default_money_max")]
    pub money_per_hour_max: Money,
    /// Bytes sent to one lender before it serves.
    #[serde(default = "default_bytes_max")]
    pub bytes_max: u64,
    /// New journeys an hour.
    #[serde(default = "default_moves_max")]
    pub moves_per_hour_max: u32,
    /// The only clouds that may hold this service; empty: every member of the pact.
    #[serde(default)]
    pub clouds: Vec<CloudName>,
}
fn default_borrowed_max() -> u32 {
    8
}
fn default_money_max() -> Money {
    Money(10_000_000)
}
fn default_bytes_max() -> u64 {
    4 << 30
}
fn default_moves_max() -> u32 {
    20
}
impl Default for Borrowing {
    fn default() -> Self {
        Self {
            mode: AutomationMode::default(),
            instances_max: default_borrowed_max(),
            money_per_hour_max: default_money_max(),
            bytes_max: default_bytes_max(),
            moves_per_hour_max: default_moves_max(),
            clouds: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AutomationMode {
    #[default]
    Automatic,
    /// Plans wait for an operator's approval.
    Ask,
    /// Verdicts and plans are written down and nothing is done.
    Observe,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryClass {
    /// First, at full size.
    Guaranteed,
    /// At once, as small as it must, grown later.
    Early,
    /// Waits and says so.
    #[default]
    Deferred,
}

/// A lower-case DNS name (RFC 1035, 2.3.1) with at least one label.
pub fn is_host(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    !host.is_empty() && host.len() <= 253 && host.split('.').all(label)
}

/// A relative path that stays inside its directory.
pub fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains('\0')
        && !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

impl Validate for ServiceSpec {
    fn validate(&self, at: &str, e: &mut Vec<FieldError>) {
        if self.hosts.is_empty() || self.hosts.len() > 16 {
            fault(e, at, "hosts", "name 1 to 16 host names");
        }
        for (i, host) in self.hosts.iter().enumerate() {
            if !is_host(host) {
                fault(e, at, &format!("hosts[{i}]"), format!("{host:?} is not a lower-case DNS name"));
            }
        }
        let application = format!("{at}.application");
        self.application.validate(&application, e);
        self.application.check_templates(&application, &self.own_datasets().collect::<Vec<_>>(), e);
        let home = self.instances.home;
        if home.min == 0 || home.max > HomeInstances::MOST {
            fault(e, at, "instances.home", format!("must be 1 to {}", HomeInstances::MOST));
        } else if home.min > home.max {
            fault(e, at, "instances.home.max", format!("is {}, less than min, which is {}", home.max, home.min));
        }
        if self.datasets.len() > 16 {
            fault(e, at, "datasets", "at most 16");
        }
        for (i, dataset) in self.datasets.iter().enumerate() {
            let here = format!("datasets[{i}]");
            if self.datasets[..i].iter().any(|d| d.name == dataset.name) {
                fault(e, at, &format!("{here}.name"), format!("{} is declared twice", dataset.name));
            }
            match (dataset.kind, &dataset.file) {
                (DatasetKind::Sqlite, None) => {
                    fault(e, at, &format!("{here}.file"), "a sqlite dataset names its database file")
                }
                (DatasetKind::Sqlite, Some(file)) if !is_inside(file) || file.contains('/') => {
                    fault(e, at, &format!("{here}.file"), "must be a plain file name inside the dataset")
                }
                (DatasetKind::Files, Some(_)) => fault(e, at, &format!("{here}.file"), "only a sqlite dataset has one"),
                _ => {}
            }
            if !(20..=3_600_000).contains(&dataset.rpo_ms) {
                fault(e, at, &format!("{here}.rpo_ms"), "must be 20 to 3600000");
            }
        }
        sync::validate(self, at, e);
        self.check_realm(at, e);
        if let Some(identity) = &self.identity {
            identity.validate(&format!("{at}.identity"), e);
            if self.routing.mode == RouteMode::Redirect {
                let why =
                    "redirect lands users at other clouds' names, where nobody is signed in; use proxy with identity";
                fault(e, at, "routing.mode", why);
            }
        }
        if !(1..=60_000).contains(&self.objective.queue_delay_p95_ms) {
            fault(e, at, "objective.queue_delay_p95_ms", "must be 1 to 60000");
        }
        for (i, prefix) in self.routing.home_only.iter().enumerate() {
            if !prefix.starts_with('/') {
                fault(e, at, &format!("routing.home_only[{i}]"), "must begin with '/', as every path prefix");
            }
        }
        if self.routing.safe_methods.len() > SAFE_METHODS_MAX {
            fault(e, at, "routing.safe_methods", format!("at most {SAFE_METHODS_MAX}"));
        }
        for (i, method) in self.routing.safe_methods.iter().enumerate() {
            if let Err(problem) = crate::method::check_claim(method) {
                fault(e, at, &format!("routing.safe_methods[{i}]"), problem);
            }
        }
        self.routing.less_important.validate(&format!("{at}.routing.less_important"), e);
        self.continuity.validate(&format!("{at}.continuity"), e);
        let forbidden = |c: &&CloudName| !self.borrowing.clouds.is_empty() && !self.borrowing.clouds.contains(c);
        if let Some(cloud) = self.continuity.clouds.iter().find(forbidden) {
            fault(
                e,
                at,
                "continuity.clouds",
                format!("{cloud} is not among borrowing.clouds, which may hold the service"),
            );
        }
        if self.borrowing.instances_max > 1_000 {
            fault(e, at, "borrowing.instances_max", "must be 0 to 1000");
        }
    }
}

impl ServiceSpec {
    /// Adds what need not be written: the dataset of its users, where they sign in.
    pub fn complete(&mut self) {
        if self.identity.is_some() && !self.datasets.iter().any(|d| d.name.is_realm()) {
            self.datasets.push(Dataset::realm());
        }
    }

    /// What its application sees of its datasets.
    pub fn own_datasets(&self) -> impl Iterator<Item = &Dataset> {
        self.datasets.iter().filter(|d| !d.name.is_realm())
    }

    fn check_realm(&self, at: &str, e: &mut Vec<FieldError>) {
        for (i, set) in
            self.datasets.iter().enumerate().filter(|(_, d)| d.name.as_str().starts_with(identity::RESERVED))
        {
            let here = format!("datasets[{i}]");
            if !set.name.is_realm() {
                let problem = format!("names that begin with {:?} are Pumasi's own", identity::RESERVED);
                fault(e, at, &format!("{here}.name"), problem);
            } else if self.identity.is_none() {
                fault(e, at, &format!("{here}.name"), "is for a service with `identity`, whose users it holds");
            } else if set.kind != DatasetKind::Sqlite || set.file.as_deref() != Some(identity::DATABASE) {
                fault(e, at, &here, format!("must be of kind sqlite with the file {}", identity::DATABASE));
            }
        }
    }
}

impl Dataset {
    /// The users of a service, as they are kept where nothing is said of it.
    pub fn realm() -> Self {
        Self {
            name: DatasetName::realm(),
            kind: DatasetKind::Sqlite,
            file: Some(identity::DATABASE.to_owned()),
            mode: DatasetMode::default(),
            on_standby_loss: OnStandbyLoss::default(),
            reads: SyncReads::default(),
            sync_wait_ms: sync::default_wait_ms(),
            rpo_ms: default_rpo_ms(),
            bytes_max: default_dataset_bytes(),
            files_max: default_dataset_files(),
        }
    }
}

/// Methods that one service calls safe.
pub const SAFE_METHODS_MAX: usize = 16;
/// Secrets of one service.
pub const SECRETS_MAX: usize = 64;

impl Application {
    /// Whether all that is to be filled in has a name that the engine knows.
    fn check_templates(&self, at: &str, datasets: &[&Dataset], e: &mut Vec<FieldError>) {
        let suffixes: Vec<String> = datasets.iter().map(|d| template::data_suffix(d.name.as_str())).collect();
        let names = template::names(suffixes.iter().map(String::as_str));
        let fixed = |key: &&String| names.contains_key(*key) && !template::DEFAULTED.contains(&key.as_str());
        for key in self.env.keys().filter(fixed) {
            fault(e, at, &format!("env.{key}"), "is set for every instance and cannot be overridden; leave it out");
        }
        let words = self.command.iter().enumerate().map(|(i, word)| (format!("command[{i}]"), word));
        let values = self.env.iter().map(|(key, value)| (format!("env.{key}"), value));
        for (field, text) in words.chain(values) {
            if let Err(problem) = template::fill(text, &names) {
                fault(e, at, &field, problem);
            }
        }
    }
}

impl Validate for Application {
    fn validate(&self, at: &str, e: &mut Vec<FieldError>) {
        if self.command.is_empty() || self.command.len() > 256 {
            fault(e, at, "command", "name the program and at most 255 arguments");
        }
        if self.command.first().is_some_and(String::is_empty) {
            fault(e, at, "command[0]", "the program's name is empty");
        }
        if self.command.iter().chain(self.env.values()).any(|a| a.contains('\0') || a.len() > 32 << 10) {
            fault(e, at, "command", "arguments and values are at most 32 KiB and hold no NUL");
        }
        if self.secrets.len() > SECRETS_MAX {
            fault(e, at, "secrets", format!("at most {SECRETS_MAX}"));
        }
        let given =
            |k: &str| template::FIXED.contains(&k) || template::DEFAULTED.contains(&k) || k.starts_with("DATA_");
        for key in self.secrets.keys().filter(|k| self.env.contains_key(*k) || given(k)) {
            fault(e, at, "secrets", format!("{key} is set elsewhere already"));
        }
        for key in self.env.keys().chain(self.secrets.keys()) {
            let fine = !key.is_empty()
                && !key.starts_with(|c: char| c.is_ascii_digit())
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !fine {
                fault(e, at, "env", format!("{key:?} is not a variable name"));
            }
        }
        if let BundleRef::Path(path) = &self.bundle
            && (path.is_empty() || path.contains('\0') || path.starts_with("blake3:"))
        {
            fault(e, at, "bundle", "must be a directory or 'blake3:' and 64 lower-case hex digits");
        }
        if !(10..=64_000).contains(&self.resources.cpu_millis) {
            fault(e, at, "resources.cpu_millis", "must be 10 to 64000");
        }
        if !(8..=1 << 20).contains(&self.resources.memory_mib) {
            fault(e, at, "resources.memory_mib", "must be 8 to 1048576");
        }
        for (name, probe) in [("readiness", Some(&self.readiness)), ("liveness", self.liveness.as_ref())] {
            let Some(probe) = probe else { continue };
            if !probe.path.starts_with('/') {
                fault(e, at, &format!("{name}.path"), "must begin with '/'");
            }
            if !(10..=60_000).contains(&probe.interval_ms) || !(10..=60_000).contains(&probe.timeout_ms) {
                fault(e, at, name, "interval_ms and timeout_ms must be 10 to 60000");
            }
            if !(1..=100).contains(&probe.failures) {
                fault(e, at, &format!("{name}.failures"), "must be 1 to 100");
            }
        }
        if self.stop_grace_ms > 600_000 {
            fault(e, at, "stop_grace_ms", "at most 600000");
        }
        if self.egress.len() > crate::egress::DESTINATIONS_MAX {
            let problem = format!("at most {} addresses", crate::egress::DESTINATIONS_MAX);
            fault(e, at, "egress", problem);
        }
        for (i, to) in self.egress.iter().enumerate() {
            if to.parse::<std::net::SocketAddr>().is_err() {
                fault(e, at, &format!("egress[{i}]"), format!("{to:?} is not ip:port"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(application: &str, datasets: &str) -> Vec<String> {
        let text = format!(
            r#"{{"hosts": ["a.example"], "application": {{"bundle": "app", {application}}}, "datasets": [{datasets}]}}"#
        );
        let spec: ServiceSpec = serde_json::from_str(&text).unwrap();
        let mut e = Vec::new();
        spec.validate("spec", &mut e);
        e.into_iter().map(|f| format!("{}: {}", f.field, f.problem)).collect()
    }

    #[test]
    fn a_name_that_nobody_fills_in_is_told_with_its_field_before_anything_starts() {
        let found = faults(r#""command": ["./app", "--at=${DATA_FILES}"], "env": {"A": "${TEMPDIR}"}"#, "");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("spec.application.command[1]: ${DATA_FILES} is not known here"), "{found:?}");
        assert!(found[1].starts_with("spec.application.env.A: ${TEMPDIR} is not known here"), "{found:?}");
        assert!(found[1].contains("BUNDLE, HOME, HOST, LANG, PATH, PORT, TMPDIR"), "{found:?}");
        assert_eq!(faults(r#""command": ["./app", "${PORT"]"#, "").len(), 1);
    }

    #[test]
    fn users_go_along_in_a_dataset_that_nobody_else_may_name() {
        let spec = |identity: &str, datasets: &str| -> (ServiceSpec, Vec<String>) {
            let text = format!(
                r#"{{"hosts": ["a.example"], "application": {{"bundle": "app", "command": ["./a"]}}{identity}, "datasets": [{datasets}]}}"#
            );
            let mut spec: ServiceSpec = serde_json::from_str(&text).unwrap();
            spec.complete();
            let mut e = Vec::new();
            spec.validate("spec", &mut e);
            (spec, e.into_iter().map(|f| format!("{}: {}", f.field, f.problem)).collect())
        };
        let gated = r#", "identity": {"gate": "required"}"#;
        let (with, faults) = spec(gated, "");
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(with.datasets, [Dataset::realm()]);
        assert_eq!(with.own_datasets().count(), 0);
        let written = r#"{"name": "pumasi-realm", "kind": "sqlite", "file": "realm.sqlite", "rpo_ms": 100}"#;
        let (with, faults) = spec(gated, written);
        assert!(faults.is_empty() && with.datasets.len() == 1 && with.datasets[0].rpo_ms == 100, "{faults:?}");
        assert!(spec("", written).1[0].starts_with("spec.datasets[0].name: is for a service with `identity`"));
        let other = r#"{"name": "pumasi-x", "kind": "files"}"#;
        assert!(spec(gated, other).1[0].starts_with("spec.datasets[0].name: names that begin"));
        let files = r#"{"name": "pumasi-realm", "kind": "files"}"#;
        assert!(spec(gated, files).1[0].starts_with("spec.datasets[0]: must be of kind sqlite"));
    }

    #[test]
    fn every_variable_of_the_manual_is_filled_in_and_the_fixed_ones_are_nobodys() {
        let all = r#""command": ["./app", "${PORT}${HOST}${BUNDLE}${DATA_MY_FILES}${HOME}${TMPDIR}${PATH}${LANG}"]"#;
        let found = faults(all, r#"{"name": "my-files", "kind": "files"}"#);
        assert!(found.is_empty(), "{found:?}");
        let found = faults(r#""command": ["./app"], "env": {"PORT": "80", "TMPDIR": "${HOME}/t", "DATA_X": "/x"}"#, "");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("spec.application.env.PORT: "), "{found:?}");
        let data = r#"{"name": "x", "kind": "files"}"#;
        assert_eq!(faults(r#""command": ["./app"], "env": {"DATA_X": "/x"}"#, data).len(), 1);
    }
}
