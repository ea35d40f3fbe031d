//! `gateway.json`: what the daemon writes for its gateway before it starts it. Format version 1.

use ipnet::IpNet;
use pumasi_terms::CloudName;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

pub const CONFIG_VERSION: u32 = 1;
pub const CONFIG_FILE: &str = "gateway.json";
/// The largest `gateway.json` that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    pub version: u32,
    pub cloud: CloudName,
    /// Where users come in.
    pub listeners: Vec<Listener>,
    /// Where the gateways of other clouds come in (mutual TLS only).
    #[serde(default)]
    pub peer_listen: Option<SocketAddr>,
    /// Source address of connections to other gateways; None: the system chooses.
    #[serde(default)]
    pub source_ip: Option<IpAddr>,
    /// Threads that serve, each with listeners of its own on the same addresses.
    #[serde(default = "one")]
    pub workers: u32,
    /// PEM file of this gateway's X.509-SVID (key, then chain), read at the start and at `reload-identity`. Needed for
    /// `peer_listen` and for leases at peers.
    #[serde(default)]
    pub svid_path: Option<PathBuf>,
    /// Proxies in front that say whom they speak for (`X-Forwarded-For`, `X-Forwarded-Proto`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
    /// They say so by the PROXY protocol, before everything else, and must.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
    /// Each request of a user is written down, in `access.log`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub access_log: bool,
    #[serde(default)]
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub address: SocketAddr,
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    #[serde(default = "yes")]
    pub http2: bool,
}

/// PEM files of a public listener, read at the start and at `reload-identity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
}

/// Bounds in number and time; those that are a worker's hold for each thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections of users at one time, a worker.
    pub connections_max: u32,
    /// Of these, connections of one address (IPv6: of one /64).
    pub connections_per_address_max: u32,
    /// Connections of peers at one time, a worker.
    pub peer_connections_max: u32,
    /// Bodies of one address that are slow to come or to leave, and its upgraded connections, at one time, a worker.
    pub streams_per_address_max: u32,
    /// Bodies that go on at one time at one instance.
    pub streams_per_instance_max: u32,
    /// Head of a request: start line and fields.
    pub head_bytes_max: u32,
    /// A head that began must be complete within this time.
    pub head_timeout_ms: u64,
    /// A TLS handshake must be complete within this time.
    pub tls_handshake_ms: u64,
    /// A connection without a request ends after this time.
    pub keep_alive_ms: u64,
    /// An answer of which the instance sends nothing more for so long is broken off.
    pub body_idle_ms: u64,
    /// A user who sends, or takes, nothing of a body for so long is given up.
    pub stall_ms: u64,
    /// The same for one who sends or takes less on average; what is already under way to a reader counts as taken.
    pub rate_min_bytes_per_s: u32,
    /// How long a connection to an instance or to another gateway may take.
    pub connect_timeout_ms: u64,
    /// Idle connections kept to one backend, a worker.
    pub idle_connections_max: u32,
    /// How long such a connection is kept.
    pub idle_connection_ms: u64,
    /// Requests at one time within one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// Upgraded connections (WebSocket) at one time.
    pub tunnels_max: u32,
    /// One of them on which nothing is said for so long is ended.
    pub tunnel_idle_ms: u64,
    /// How long a graceful stop waits for what is in flight.
    pub stop_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 8_000,
            connections_per_address_max: 2_000,
            peer_connections_max: 2_000,
            streams_per_address_max: 1_500,
            streams_per_instance_max: 4_000,
            head_bytes_max: 32 << 10,
            head_timeout_ms: 10_000,
            tls_handshake_ms: 10_000,
            keep_alive_ms: 60_000,
            body_idle_ms: 300_000,
            stall_ms: 30_000,
            rate_min_bytes_per_s: 1_024,
            connect_timeout_ms: 2_000,
            idle_connections_max: 256,
            idle_connection_ms: 4_000,
            http2_streams_max: 128,
            tunnels_max: 4_000,
            tunnel_idle_ms: 3_600_000,
            stop_ms: 10_000,
        }
    }
}

impl Limits {
    /// The first that is of no use, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let counts = [
            ("connections_max", self.connections_max),
            ("connections_per_address_max", self.connections_per_address_max),
            ("peer_connections_max", self.peer_connections_max),
            ("streams_per_address_max", self.streams_per_address_max),
            ("streams_per_instance_max", self.streams_per_instance_max),
            ("http2_streams_max", self.http2_streams_max),
            ("tunnels_max", self.tunnels_max),
            ("rate_min_bytes_per_s", self.rate_min_bytes_per_s),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, n)| !(1..=COUNT_MAX).contains(n)) {
            return Some((field, format!("must be 1 to {COUNT_MAX}")));
        }
        let times = [
            ("head_timeout_ms", self.head_timeout_ms),
            ("tls_handshake_ms", self.tls_handshake_ms),
            ("keep_alive_ms", self.keep_alive_ms),
            ("body_idle_ms", self.body_idle_ms),
            ("stall_ms", self.stall_ms),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("tunnel_idle_ms", self.tunnel_idle_ms),
        ];
        if let Some((field, _)) = times.into_iter().find(|(_, ms)| !(1..=TIME_MS_MAX).contains(ms)) {
            return Some((field, format!("must be 1 to {TIME_MS_MAX}")));
        }
        if self.stop_ms > TIME_MS_MAX {
            return Some(("stop_ms", format!("must be at most {TIME_MS_MAX}")));
        }
        let heads = HEAD_BYTES_MIN..=HEAD_BYTES_MAX;
        (!heads.contains(&self.head_bytes_max))
            .then(|| ("head_bytes_max", format!("must be {HEAD_BYTES_MIN} to {HEAD_BYTES_MAX}")))
    }
}

/// Each is compared with every connection.
pub const TRUSTED_PROXIES_MAX: usize = 64;
const COUNT_MAX: u32 = 1_000_000;
/// A day.
const TIME_MS_MAX: u64 = 86_400_000;
const HEAD_BYTES_MIN: u32 = 1 << 10;
const HEAD_BYTES_MAX: u32 = 1 << 20;

fn one() -> u32 {
    1
}
fn yes() -> bool {
    true
}

/// Why a gateway did not start; the daemon or the operator must act, a retry alone does not help.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {bytes} bytes; at most {CONFIG_BYTES_MAX} are read")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path}: {source}")]
    Syntax { path: PathBuf, source: serde_json::Error },
    #[error("{path}: version {found} is not known; this program reads {CONFIG_VERSION}")]
    Version { path: PathBuf, found: u32 },
    #[error("{path}: {field}: {problem}")]
    Field { path: PathBuf, field: &'static str, problem: String },
}

impl GatewayConfig {
    /// One plain listener and one worker; nobody stands in front, and no other cloud comes in.
    pub fn plain(cloud: CloudName, listen: SocketAddr) -> Self {
        Self {
            version: CONFIG_VERSION,
            cloud,
            listeners: vec![Listener { address: listen, tls: None, http2: true }],
            peer_listen: None,
            source_ip: None,
            workers: 1,
            svid_path: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            access_log: false,
            limits: Limits::default(),
        }
    }

    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join(CONFIG_FILE);
        let read = |source| ConfigError::Read { path: path.clone(), source };
        let bytes = std::fs::metadata(&path).map_err(read)?.len();
        if bytes > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLarge { path, bytes });
        }
        let text = std::fs::read(&path).map_err(read)?;
        let config: Self =
            serde_json::from_slice(&text).map_err(|source| ConfigError::Syntax { path: path.clone(), source })?;
        if config.version != CONFIG_VERSION {
            return Err(ConfigError::Version { path, found: config.version });
        }
        if let Some((field, problem)) = config.fault() {
            return Err(ConfigError::Field { path, field, problem });
        }
        Ok(config)
    }

    fn fault(&self) -> Option<(&'static str, String)> {
        if self.listeners.is_empty() || self.listeners.len() > 16 {
            return Some(("listeners", "name 1 to 16 addresses".into()));
        }
        if !(1..=64).contains(&self.workers) {
            return Some(("workers", "must be 1 to 64".into()));
        }
        let mut ports = self.listeners.iter().map(|l| l.address).chain(self.peer_listen);
        if self.workers > 1 && ports.any(|a| a.port() == 0) {
            return Some(("workers", "several workers cannot share a port that the system chooses".into()));
        }
        if self.peer_listen.is_some() && self.svid_path.is_none() {
            return Some(("svid_path", "peer_listen needs the gateway's SVID".into()));
        }
        if self.trusted_proxies.len() > TRUSTED_PROXIES_MAX {
            return Some(("trusted_proxies", format!("names at most {TRUSTED_PROXIES_MAX} networks")));
        }
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            return Some(("proxy_protocol", "nobody may speak it: name the proxies in trusted_proxies".into()));
        }
        self.limits.fault()
    }
}
