//! The daemon's configuration, section by section, and what follows from it.

use pumasi_api::message::Place;
use pumasi_api::{Role, Way};
use pumasi_terms::{CloudName, EgressRule, Resources};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

mod here;
mod page;
mod read;
pub use page::{page, shown};
pub use read::{ConfigError, ConfigFault};

pub const CONFIG_VERSION: u32 = 1;
/// In the data directory.
pub const API_SOCKET: &str = "api.sock";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of this file's format: 1.
    pub version: u32,
    pub cloud: Cloud,
    #[serde(default)]
    pub api: Api,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub peer: Peer,
    #[serde(default)]
    pub gateway: Gateway,
    #[serde(default)]
    pub capacity: Capacity,
    #[serde(default)]
    pub engine: Engine,
    #[serde(default)]
    pub pact: PactWords,
    #[serde(default)]
    pub lend: Lend,
    #[serde(default)]
    pub store: Store,
    #[serde(default)]
    pub instances: Instances,
    #[serde(default)]
    pub disk: Disk,
    #[serde(default)]
    pub timing: Timing,
}

/// Who this cloud is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    /// By which others know this cloud: a DNS label. It cannot be changed once the cloud is in a pact.
    pub name: CloudName,
    /// Everything the daemon keeps; relative to the configuration file.
    #[serde(default = "data_dir")]
    pub data_dir: PathBuf,
    /// Where it is, for the map. Nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}
fn data_dir() -> PathBuf {
    "pumasi-data".into()
}

/// Where people and their tools call: a Unix socket on this host; TLS for other hosts where it is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where the socket is; unset: `api.sock` in the data directory. Relative to the configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// A group of this host whose members may open the socket, too; who of them may do what, `users` or a token says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Users of this host and their roles: `viewer`, `customer` or `operator`. Root and the daemon's own user are operators.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, Role>,
    /// An address with TLS for people elsewhere, who bring tokens; unset: the socket only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Names and addresses for the certificate that this cloud's authority signs for `listen`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Another certificate (PEM, with its chain) instead of the one that this cloud signs itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The key of `certificate` (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Metrics without credentials, for a monitor on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Plain HTTP: a loopback address only, and only by choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// How often one member may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Holds, leases and signatures, a second; sixty times as many at once.
    pub acts_per_second: u32,
    /// Heartbeats, a second.
    pub heartbeats_per_second: u32,
}
impl Default for Limits {
    fn default() -> Self {
        // While something moves, ten heartbeats a second are sent.
        Self { acts_per_second: 5, heartbeats_per_second: 25 }
    }
}

/// Where other clouds' daemons call (mutual TLS).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Peer {
    /// Where it listens. On a loopback address it has neighbours on this machine only.
    pub listen: SocketAddr,
    /// `host:port` that is told to the others; empty: `listen`.
    pub advertise: String,
    /// The address from which this cloud calls others; unset: the system chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<IpAddr>,
}
impl Default for Peer {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 7443).into(), advertise: String::new(), source_ip: None }
    }
}

/// Where users come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Where users come in, without TLS.
    pub listen: Vec<SocketAddr>,
    /// Where users come in with TLS; it needs `tls_certificate` and `tls_key`.
    pub listen_tls: Vec<SocketAddr>,
    /// The certificate for `listen_tls` (PEM, with its chain). A service may bring one of its own for its hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// The key of `tls_certificate` (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Where other clouds' gateways call (mutual TLS).
    pub peer_listen: SocketAddr,
    /// `host:port` that is told to the others; empty: `peer_listen`.
    pub peer_advertise: String,
    /// Threads that serve, 1 to 64.
    pub workers: u32,
    /// Networks of proxies in front of this gateway that say whom they speak for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// They say so by the PROXY protocol, before everything else, and must.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
    /// One line of JSON for each request of a user, in `DATA/gateway/access.log` (two files of at most 64 MiB): when, whose, what, how it was
    /// answered, how soon, by which cloud. Queries, fields and bodies are left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub access_log: bool,
    /// What connections and bodies may take, in number and time.
    pub limits: pumasi_gateway::Limits,
    /// How requests wait for this cloud's services.
    pub admission: pumasi_route::table::Admission,
}
impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 8080).into()],
            listen_tls: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            peer_listen: (Ipv4Addr::LOCALHOST, 7444).into(),
            peer_advertise: String::new(),
            workers: 1,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            access_log: false,
            limits: pumasi_gateway::Limits::default(),
            admission: pumasi_route::table::Admission::default(),
        }
    }
}

/// What this cloud has for instances. 0: what the machine has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    /// 0: all CPUs.
    pub cpu_millis: u32,
    /// 0: half of the memory.
    pub memory_mib: u32,
    /// 0: what the file system of the data directory has.
    pub storage_bytes: u64,
}

/// How instances run on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// The address at which instances listen, where they have no network of their own.
    pub instance_ip: IpAddr,
    /// `i-accept-the-risk`: run other clouds' code although this host cannot isolate it.
    pub lend_without_isolation: String,
    /// First of 1024 uids and gids that are nobody else's; absent: chosen from the data directory's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid_base: Option<u32>,
    /// Directories and files of this host that every instance sees, read-only, besides the system's programs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub view: Vec<PathBuf>,
    /// Addresses of inner networks, and of this cloud, that own services may call if their manifest lists them. Public ones need no rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub home_egress: Vec<EgressRule>,
}
impl Default for Engine {
    fn default() -> Self {
        Self {
            instance_ip: Ipv4Addr::LOCALHOST.into(),
            lend_without_isolation: String::new(),
            uid_base: None,
            view: Vec::new(),
            home_egress: Vec::new(),
        }
    }
}
/// An instance has its own there, or nothing.
const NEVER_IN_VIEW: [&str; 7] = ["/dev", "/proc", "/run", "/sys", "/tmp", "/var/run", "/var/tmp"];

/// Why instances may not be shown it.
fn unfit_for_view(path: &Path, data_dir: &Path) -> Option<String> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if !path.is_absolute() || path.parent().is_none() || path.components().any(|c| c == Component::ParentDir) {
        return Some("must be the absolute path of a directory or file, and not the root".into());
    }
    if !path.exists() {
        return Some("is not there".into());
    }
    if let Some(own) = NEVER_IN_VIEW.iter().find(|own| path.starts_with(own) || real(path).starts_with(own)) {
        return Some(format!("instances have their own {own}, or none"));
    }
    real(path)
        .starts_with(real(data_dir))
        .then(|| "lies in the daemon's data directory, which no instance may see".into())
}
pub const ACCEPT_RISK: &str = "i-accept-the-risk";

/// What is given to other clouds' applications beside the room that the pact's terms name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lend {
    /// All that their instances may call; none by default, and no rule opens an address that is not public.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub egress: Vec<EgressRule>,
    /// Whether services of others are kept ready here, also while their own cloud is silent.
    pub standbys: bool,
    /// What room costs that is kept for them, in percent of its price in use.
    pub standby_percent: u32,
}
impl Default for Lend {
    fn default() -> Self {
        Self { egress: Vec::new(), standbys: true, standby_percent: 20 }
    }
}

/// What is kept, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// The most entries that the journal keeps; the oldest go first.
    pub journal_rows_max: u64,
    /// How long the data of a deleted service are kept for its owner before they are erased.
    pub deleted_data_kept_hours: u32,
    /// How long what this cloud has of a service that was moved is kept, once the other cloud serves it.
    pub moved_data_kept_hours: u32,
}
impl Default for Store {
    fn default() -> Self {
        Self { journal_rows_max: 1_000_000, deleted_data_kept_hours: 168, moved_data_kept_hours: 24 }
    }
}

/// What the daemon may agree to in the pact without its operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PactWords {
    /// Newcomers that another member invited: `ask` waits for `pumasi pact approve`, `auto` signs them.
    pub admit: Admit,
    /// What this cloud is in the pact; a witness votes, lends nothing and owns nothing that the pact protects.
    #[serde(skip_serializing_if = "pumasi_terms::pact::Role::is_cloud")]
    pub role: pumasi_terms::pact::Role,
}

/// Newcomers that another member invited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Admit {
    /// They wait for `pumasi pact approve`.
    #[default]
    Ask,
    /// They are signed.
    Auto,
}

/// What one instance may use up besides its CPU and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Instances {
    /// Of its output; what exceeds it is dropped.
    pub log_kib_per_s: u64,
    /// Of what it writes to file systems; what exceeds it waits.
    pub disk_write_mib_per_s: u64,
    /// Processes and threads together.
    pub tasks: u32,
}
impl Default for Instances {
    fn default() -> Self {
        Self { log_kib_per_s: 1_024, disk_write_mib_per_s: 64, tasks: 512 }
    }
}
impl Instances {
    /// Of output two seconds at once, of writes four.
    pub fn of_each(&self) -> pumasi_engine::Limits {
        let rate = |bytes_per_s: u64, burst_s: u64| pumasi_engine::Rate {
            bytes_per_s,
            burst_bytes: bytes_per_s.saturating_mul(burst_s),
        };
        pumasi_engine::Limits {
            log: rate(self.log_kib_per_s << 10, 2),
            disk_write: rate(self.disk_write_mib_per_s << 20, 4),
            tasks_max: self.tasks,
            ..pumasi_engine::Limits::default()
        }
    }
}

/// The file system of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// Held for the store alone, and as much again is left free by everything that the daemon takes in.
    pub reserve_mib: u64,
    /// Of one instance's HOME.
    pub home_mib_max: u64,
    /// Files and directories in it.
    pub home_files_max: u64,
}
impl Default for Disk {
    fn default() -> Self {
        Self { reserve_mib: 64, home_mib_max: 1_024, home_files_max: 100_000 }
    }
}
impl Disk {
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_mib << 20
    }
    pub fn home_bytes(&self) -> u64 {
        self.home_mib_max << 20
    }
}

/// All in milliseconds. Their inequalities are checked when the configuration is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// Between two looks of what keeps services, leases and instances in order, when nothing calls it.
    pub tick_ms: u64,
    /// Between two heartbeats to another member.
    pub heartbeat_ms: u64,
    /// How long a hold lasts that nobody signs.
    pub hold_ttl_ms: u64,
    /// How long a lease lasts after its last renewal; three heartbeats at least.
    pub lease_ttl_ms: u64,
    /// Before a rented part shrinks, the load must have been low for so long.
    pub calm_ms: u64,
    /// Between two shipments of a dataset's changes.
    pub ship_ms: u64,
}
impl Default for Timing {
    fn default() -> Self {
        Self {
            tick_ms: 100,
            heartbeat_ms: 1_000,
            hold_ttl_ms: 5_000,
            lease_ttl_ms: 15_000,
            calm_ms: 10_000,
            ship_ms: 25,
        }
    }
}

impl Config {
    pub fn api_socket(&self) -> PathBuf {
        self.api.socket.clone().unwrap_or_else(|| self.cloud.data_dir.join(API_SOCKET))
    }

    /// A cloud that listens on loopback only has its neighbours there, too; no other one does.
    pub fn way_to_others(&self) -> Way {
        Way { source: self.peer.source_ip, loopback: self.peer.listen.ip().is_loopback() }
    }

    pub fn api_address(&self) -> String {
        or_listen(&self.peer.advertise, self.peer.listen)
    }
    pub fn gateway_address(&self) -> String {
        or_listen(&self.gateway.peer_advertise, self.gateway.peer_listen)
    }

    /// Addresses by which this cloud is reached, by itself and by others: nothing that is lent calls them.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let listening = self.gateway.listen.iter().chain(&self.gateway.listen_tls).map(SocketAddr::ip);
        let others = [Some(self.peer.listen), Some(self.gateway.peer_listen), self.api.listen, self.metrics.listen];
        let others = others.into_iter().flatten().map(|a| a.ip());
        let told = [self.api_address(), self.gateway_address()];
        let told = told.iter().filter_map(|a| a.parse::<SocketAddr>().ok()).map(|a| a.ip());
        let mut all: Vec<IpAddr> = listening.chain(others).chain(told).collect();
        all.retain(|ip| !ip.is_unspecified());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What there is for instances: as configured, else as the machine has.
    pub fn physical(&self) -> Resources {
        let machine = machine();
        let or = |set: u32, has: u32| if set == 0 { has } else { set };
        Resources {
            cpu_millis: or(self.capacity.cpu_millis, machine.cpu_millis),
            memory_mib: or(self.capacity.memory_mib, machine.memory_mib / 2),
        }
    }
}

/// All of this machine; read once, since every heartbeat of a borrower asks.
fn machine() -> Resources {
    static MACHINE: OnceLock<Resources> = OnceLock::new();
    *MACHINE.get_or_init(|| {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let total = |t: String| {
            t.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        };
        let memory_kib = std::fs::read_to_string("/proc/meminfo").ok().and_then(total);
        let memory_mib = memory_kib.map_or(1_024, |kib| u32::try_from(kib / 1_024).unwrap_or(u32::MAX));
        Resources { cpu_millis: cpus * 1_000, memory_mib }
    })
}

fn or_listen(advertise: &str, listen: SocketAddr) -> String {
    if advertise.is_empty() { listen.to_string() } else { advertise.to_owned() }
}
