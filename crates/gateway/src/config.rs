//! `gateway.json`: what the daemon writes for its gateway before it starts it. Format version 1.

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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections of users at one time, a worker.
    pub connections_max: u32,
    /// Connections of peers at one time, a worker.
    pub peer_connections_max: u32,
    /// Head of a request: start line and fields.
    pub head_bytes_max: u32,
    /// A head must be complete within this time after the connection opened or the answer before it ended.
    pub head_timeout_ms: u64,
    pub tls_handshake_ms: u64,
    /// A body that stands still for longer is broken off.
    pub body_idle_ms: u64,
    /// Bytes sent and not acknowledged for longer break the connection (TCP_USER_TIMEOUT).
    pub send_stall_ms: u64,
    pub connect_timeout_ms: u64,
    /// Idle connections kept to one backend, a worker.
    pub idle_connections_max: u32,
    pub idle_connection_ms: u64,
    /// Requests at one time within one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// Upgraded connections (WebSocket) at one time.
    pub tunnels_max: u32,
    pub tunnel_idle_ms: u64,
    /// How long a graceful stop waits for what is in flight.
    pub stop_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 8_000,
            peer_connections_max: 2_000,
            head_bytes_max: 32 << 10,
            head_timeout_ms: 60_000,
            tls_handshake_ms: 10_000,
            body_idle_ms: 300_000,
            send_stall_ms: 30_000,
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
        let l = &self.limits;
        if !(1_024..=1 << 20).contains(&l.head_bytes_max) {
            return Some(("limits.head_bytes_max", "must be 1024 to 1048576".into()));
        }
        if l.connections_max == 0 || l.peer_connections_max == 0 {
            return Some(("limits.connections_max", "must be at least 1".into()));
        }
        None
    }
}
