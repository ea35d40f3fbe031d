//! The daemon's configuration: defaults, then the file, then the environment. Every wrong field is named with its line.

use pumasi_api::message::Place;
use pumasi_api::{Role, Way};
use pumasi_terms::{CloudName, EgressRule, Resources};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

pub const CONFIG_VERSION: u32 = 1;
const CONFIG_BYTES_MAX: usize = 1 << 20;
/// In the data directory.
pub const API_SOCKET: &str = "api.sock";
/// They travel in every heartbeat.
const EGRESS_RULES_MAX: usize = 64;
const ENV_PREFIX: &str = "PUMASI__";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of this file's format.
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    pub name: CloudName,
    /// Everything the daemon keeps; relative to the configuration file.
    #[serde(default = "data_dir")]
    pub data_dir: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}
fn data_dir() -> PathBuf {
    "pumasi-data".into()
}

/// Where people and their tools call: a Unix socket on this host; TLS for other hosts where it is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Absent: `api.sock` in the data directory. Relative to the configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Its members may open the socket, too; who of them is somebody, `users` or a token says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Users of this host and their roles. Root and the daemon's own user are operators.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, Role>,
    /// With TLS, for people elsewhere, who bring tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Names and addresses for the certificate that this cloud's authority signs for `listen`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Another certificate, and its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Metrics without credentials, for a monitor on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Plain HTTP: a loopback address only, and only by choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// How often one member may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Holds, leases and signatures; sixty times as many at once.
    pub acts_per_second: u32,
    pub heartbeats_per_second: u32,
}
impl Default for Limits {
    fn default() -> Self {
        // While something moves, ten heartbeats a second are sent.
        Self { acts_per_second: 5, heartbeats_per_second: 25 }
    }
}

/// Where other clouds' daemons call (mutual TLS).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peer {
    pub listen: SocketAddr,
    /// `host:port` told to the others; empty: `listen`.
    pub advertise: String,
    /// Address that calls to other clouds come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<IpAddr>,
}
impl Default for Peer {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 7443).into(), advertise: String::new(), source_ip: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    pub listen: Vec<SocketAddr>,
    /// With TLS; certificate and key below.
    pub listen_tls: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Where other clouds' gateways call (mutual TLS).
    pub peer_listen: SocketAddr,
    pub peer_advertise: String,
    pub workers: u32,
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
        }
    }
}

/// What this cloud has for instances. 0: what the machine has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    pub cpu_millis: u32,
    pub memory_mib: u32,
    pub storage_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Instances listen there.
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lend {
    /// All that their instances may call; none by default, and no rule opens an address that is not public.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    pub journal_rows_max: u64,
    /// How long the data of a deleted service are kept for its owner before they are erased.
    pub deleted_data_kept_hours: u32,
}
impl Default for Store {
    fn default() -> Self {
        Self { journal_rows_max: 1_000_000, deleted_data_kept_hours: 168 }
    }
}

/// What the daemon may agree to in the pact without its operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PactWords {
    pub admit: Admit,
}

/// Newcomers that another member invited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admit {
    /// They wait for `pumasi pact approve`.
    #[default]
    Ask,
    /// They are signed.
    Auto,
}

/// What one instance may use up besides its CPU and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// Held for the store alone, and as much again is left free by everything that the daemon takes in.
    pub reserve_mib: u64,
    /// Of one instance's HOME.
    pub home_mib_max: u64,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// Between two looks of a reconciler when nothing calls it.
    pub tick_ms: u64,
    pub heartbeat_ms: u64,
    pub hold_ttl_ms: u64,
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

/// One wrong place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// 0: not in the file (the environment, or a default).
    pub line: usize,
    pub field: String,
    pub problem: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}; write one, or name another with --config", path = .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: more than {CONFIG_BYTES_MAX} bytes", path = .path.display())]
    TooLarge { path: PathBuf },
    #[error("{}", list(.path, .faults))]
    Faults { path: PathBuf, faults: Vec<ConfigFault> },
}

fn list(path: &Path, faults: &[ConfigFault]) -> String {
    let line = |f: &ConfigFault| match (f.line, f.field.is_empty()) {
        (0, _) => format!("{}: {}: {}", path.display(), f.field, f.problem),
        (n, true) => format!("{}:{n}: {}", path.display(), f.problem),
        (n, false) => format!("{}:{n}: {}: {}", path.display(), f.field, f.problem),
    };
    faults.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and checks; relative paths become relative to the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        if text.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        let mut config = Self::parse(&text, std::env::vars())
            .map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = path.parent().unwrap_or(Path::new("/"));
        config.cloud.data_dir = base.join(&config.cloud.data_dir);
        let Self { gateway, api, .. } = &mut config;
        let files =
            [&mut gateway.tls_certificate, &mut gateway.tls_key, &mut api.socket, &mut api.certificate, &mut api.key];
        for file in files.into_iter().flatten() {
            *file = base.join(&*file);
        }
        Ok(config)
    }

    /// `env`: `PUMASI__SECTION__KEY=value` stands over the file.
    pub fn parse(text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Self, Vec<ConfigFault>> {
        let mut faults = Vec::new();
        let Some(mut table) = readable(text, &mut faults) else {
            faults.sort_by_key(|f| f.line);
            return Err(faults);
        };
        for (name, value) in env {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
            let Some((section, key)) = rest.split_once("__") else {
                faults.push(ConfigFault { line: 0, field: name.clone(), problem: "write PUMASI__SECTION__KEY".into() });
                continue;
            };
            let value = value.parse::<toml::Value>().unwrap_or(toml::Value::String(value));
            let section = table.entry(section.to_lowercase()).or_insert_with(|| toml::Table::new().into());
            if let Some(section) = section.as_table_mut() {
                section.insert(key.to_lowercase(), value);
            }
        }
        let config: Config = match table.try_into() {
            Ok(config) => config,
            Err(e) => {
                let problem = e.message().to_owned();
                if faults.is_empty() {
                    faults.push(ConfigFault { line: 0, field: "environment or file".into(), problem });
                }
                return Err(faults);
            }
        };
        config.check(text, &mut faults);
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    fn check(&self, text: &str, faults: &mut Vec<ConfigFault>) {
        let mut fault = |field: &str, problem: String| {
            faults.push(ConfigFault { line: line_of(text, field), field: field.to_owned(), problem });
        };
        if self.version != CONFIG_VERSION {
            fault("version", format!("{} is not known; this program reads {CONFIG_VERSION}", self.version));
        }
        self.check_doors(&mut fault);
        for (field, address) in
            [("peer.advertise", &self.peer.advertise), ("gateway.peer_advertise", &self.gateway.peer_advertise)]
        {
            let fine = address.is_empty()
                || address.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok());
            if !fine {
                fault(field, format!("{address:?} is not host:port"));
            }
        }
        if !self.gateway.listen_tls.is_empty()
            && (self.gateway.tls_certificate.is_none() || self.gateway.tls_key.is_none())
        {
            fault("gateway.listen_tls", "needs gateway.tls_certificate and gateway.tls_key".into());
        }
        if self.gateway.workers == 0 || self.gateway.workers > 64 {
            fault("gateway.workers", "must be 1 to 64".into());
        }
        let e = &self.engine;
        if !e.lend_without_isolation.is_empty() && e.lend_without_isolation != ACCEPT_RISK {
            fault("engine.lend_without_isolation", format!("leave it out, or sign for it with {ACCEPT_RISK:?}"));
        }
        if e.uid_base.is_some_and(|base| base < 1_000 || base.checked_add(1_024).is_none()) {
            fault("engine.uid_base", "must be at least 1000, and leave room for 1024".into());
        }
        if let Some(whose) = e.uid_base.and_then(pumasi_engine::uids_of_others) {
            fault("engine.uid_base", format!("{whose}: choose another one, or leave it out to get a free range"));
        }
        for path in &e.view {
            if let Some(why) = unfit_for_view(path, &self.cloud.data_dir) {
                fault("engine.view", format!("{}: {why}", path.display()));
            }
        }
        if self.lend.egress.len() > EGRESS_RULES_MAX {
            fault("lend.egress", format!("at most {EGRESS_RULES_MAX} rules: members are told them with every offer"));
        }
        let (l, d) = (&self.instances, &self.disk);
        for (field, value, least, most) in [
            ("instances.log_kib_per_s", l.log_kib_per_s, 1, 1 << 20),
            ("instances.disk_write_mib_per_s", l.disk_write_mib_per_s, 1, 1 << 20),
            ("instances.tasks", u64::from(l.tasks), 16, 1 << 20),
            ("disk.reserve_mib", d.reserve_mib, 4, 1 << 20),
            ("disk.home_mib_max", d.home_mib_max, 1, 1 << 30),
            ("disk.home_files_max", d.home_files_max, 16, 1 << 30),
        ] {
            if !(least..=most).contains(&value) {
                fault(field, format!("must be {least} to {most}"));
            }
        }
        let t = &self.timing;
        if !(10..=1_000).contains(&t.tick_ms) {
            fault("timing.tick_ms", "must be 10 to 1000".into());
        }
        if !(100..=60_000).contains(&t.heartbeat_ms) {
            fault("timing.heartbeat_ms", "must be 100 to 60000".into());
        }
        if t.lease_ttl_ms < t.heartbeat_ms.saturating_mul(3) {
            fault(
                "timing.lease_ttl_ms",
                format!(
                    "must be at least three heartbeats ({} ms), or one lost renewal ends a lease",
                    t.heartbeat_ms.saturating_mul(3)
                ),
            );
        }
        if !(1_000..=60_000).contains(&t.hold_ttl_ms) {
            fault("timing.hold_ttl_ms", "must be 1000 to 60000".into());
        }
        if !(500..=86_400_000).contains(&t.calm_ms) {
            fault("timing.calm_ms", "must be 500 to 86400000".into());
        }
        if !(5..=60_000).contains(&t.ship_ms) {
            fault("timing.ship_ms", "must be 5 to 60000".into());
        }
    }

    fn check_doors(&self, fault: &mut impl FnMut(&str, String)) {
        if self.metrics.listen.is_some_and(|at| !at.ip().is_loopback()) {
            fault("metrics.listen", "plain HTTP is served on a loopback address only".into());
        }
        let api = &self.api;
        if api.certificate.is_some() != api.key.is_some() {
            fault("api.certificate", "api.certificate and api.key belong together".into());
        }
        if let Some((name, _)) = api.users.iter().find(|(_, role)| matches!(role, Role::Peer | Role::Invited)) {
            fault("api.users", format!("{name}: viewer, customer or operator"));
        }
        for (field, rate) in [
            ("limits.acts_per_second", self.limits.acts_per_second),
            ("limits.heartbeats_per_second", self.limits.heartbeats_per_second),
        ] {
            if !(1..=1_000_000).contains(&rate) {
                fault(field, "must be 1 to 1000000".into());
            }
        }
    }

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

/// Parses what can be parsed: a wrong line is noted and left out, and the rest is read again, so that all are found at once.
fn readable(text: &str, faults: &mut Vec<ConfigFault>) -> Option<toml::Table> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..64 {
        let joined = lines.join("\n");
        let error = match toml::from_str::<Config>(&joined) {
            Ok(_) if !faults.is_empty() => return None,
            // A number may fit its field and still none of TOML's, which ends at 2^63 - 1.
            Ok(_) => match toml::from_str::<toml::Table>(&joined) {
                Ok(table) => return Some(table),
                Err(error) => error,
            },
            Err(error) => error,
        };
        let line = error.span().map_or(0, |s| joined[..s.start.min(joined.len())].matches('\n').count() + 1);
        let problem = error.message().lines().collect::<Vec<_>>().join(" ");
        let missing = problem.starts_with("missing field");
        // Left out because it was wrong: its own line says so already.
        if missing && !faults.is_empty() {
            return None;
        }
        faults.push(ConfigFault {
            line: if missing { 0 } else { line },
            field: if missing { "configuration".into() } else { String::new() },
            problem,
        });
        match lines.get_mut(line.wrapping_sub(1)) {
            // A section's head cannot be left out alone, and what is missing cannot be skipped.
            Some(wrong) if !missing && !wrong.trim().is_empty() && !wrong.trim_start().starts_with('[') => {
                wrong.clear()
            }
            _ => return None,
        }
    }
    None
}

/// The line that sets `section.key`; 0 where the file does not.
fn line_of(text: &str, field: &str) -> usize {
    let (section, key) = field.split_once('.').unwrap_or(("", field));
    let mut current = String::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            current = head.trim_end_matches(']').trim().to_owned();
        } else if let Some((k, _)) = line.split_once('=')
            && current == section
            && k.trim() == key
        {
            return i + 1;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Vec<ConfigFault>> {
        Config::parse(text, std::iter::empty())
    }

    #[test]
    fn a_name_is_enough() {
        let config = parse("version = 1\n[cloud]\nname = \"city-a\"\n").unwrap();
        assert_eq!(config.api_socket(), PathBuf::from("pumasi-data/api.sock"));
        assert_eq!((config.api.listen, config.metrics.listen), (None, None));
        assert_eq!(config.api_address(), "127.0.0.1:7443");
    }

    #[test]
    fn every_wrong_line_is_named_at_once() {
        let faults = parse(
            "version = 1\n[cloud]\nname = \"city-a\"\n[api]\nlisten = 7\nlissten = 8\n[timing]\ntick_ms = \"x\"\n",
        )
        .unwrap_err();
        let lines: Vec<usize> = faults.iter().map(|f| f.line).collect();
        assert_eq!(lines, [5, 6, 8], "{faults:?}");
    }

    #[test]
    fn values_are_checked_against_each_other() {
        let faults = parse(
            "version = 1\n[cloud]\nname = \"city-a\"\n[timing]\nlease_ttl_ms = 2000\n[metrics]\nlisten = \"0.0.0.0:1\"\n",
        )
        .unwrap_err();
        let named: Vec<(usize, &str)> = faults.iter().map(|f| (f.line, f.field.as_str())).collect();
        assert_eq!(named, [(7, "metrics.listen"), (5, "timing.lease_ttl_ms")]);
    }

    #[test]
    fn a_number_beyond_all_bounds_is_named_too() {
        for (line, field) in [("tick_ms = 18446744073709551615", 5), ("heartbeat_ms = 9223372036854775807", 5)] {
            let faults = parse(&format!("version = 1\n[cloud]\nname = \"city-a\"\n[timing]\n{line}\n")).unwrap_err();
            assert_eq!(faults[0].line, field, "{faults:?}");
        }
    }

    #[test]
    fn egress_rules_are_read_and_wrong_ones_named() {
        let head = "version = 1\n[cloud]\nname = \"city-a\"\n";
        let config = parse(&format!(
            "{head}[lend]\negress = [\"203.0.113.0/24:443\"]\n[engine]\nhome_egress = [\"10.0.0.0/8:5432\"]\n"
        ));
        let config = config.unwrap();
        assert!(config.lend.egress[0].covers("203.0.113.7:443".parse().unwrap()));
        assert!(config.engine.home_egress[0].covers("10.0.0.7:5432".parse().unwrap()));
        assert_eq!(config.own_addresses(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        let faults = parse(&format!("{head}[lend]\negress = [\"example.org:443\"]\n")).unwrap_err();
        assert_eq!(faults[0].line, 5, "{faults:?}");
        assert!(faults[0].problem.contains("egress rule"), "{faults:?}");
    }

    #[test]
    fn the_environment_stands_over_the_file() {
        let env = [
            ("PUMASI__API__LISTEN".to_owned(), "127.0.0.1:9".to_owned()),
            ("PUMASI__TIMING__TICK_MS".to_owned(), "50".to_owned()),
        ];
        let config = Config::parse("version = 1\n[cloud]\nname = \"city-a\"\n", env.into_iter()).unwrap();
        assert_eq!((config.api.listen.map(|at| at.port()), config.timing.tick_ms), (Some(9), 50));
    }
}
