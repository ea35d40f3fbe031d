//! What all workers of one gateway share.

use crate::access::Access;
use crate::config::GatewayConfig;
use crate::keys::Keyring;
use crate::link::Links;
use crate::meter::Meter;
use crate::peers::Peers;
use crate::position::Positions;
use crate::table::Tables;
use crate::ticket::Spent;
use crate::upstream::{Pool, PoolLimits};
use crate::wanted::Wanted;
use http::HeaderValue;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// How far a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Nothing new is accepted; what is in flight ends.
    Stopping,
}

#[derive(Debug)]
pub struct Gateway {
    pub config: GatewayConfig,
    /// The name of this cloud, for users.
    pub served_by: HeaderValue,
    /// To applications: the gateways that a request passed (RFC 9110, 7.6.3).
    pub via: HeaderValue,
    pub run: u64,
    pub started_us: u64,
    pub tables: Arc<Tables>,
    /// What answers wait for.
    pub wanted: Wanted,
    pub peers: Arc<Peers>,
    pub positions: Positions,
    pub keys: Arc<Keyring>,
    /// Positions that users brought: signed by a key that is read here, and not.
    pub positions_read: AtomicU64,
    pub positions_not_read: AtomicU64,
    pub spent: Spent,
    pub meter: Arc<Meter>,
    pub connections: Arc<AtomicU32>,
    pub tunnels: Arc<AtomicU32>,
    /// Connections of trusted proxies that did not say whom they speak for.
    pub unsaid: AtomicU64,
    /// Where requests are written down, if they are.
    pub access: Option<Access>,
    pub phase: watch::Sender<Phase>,
    /// Where users come in, and where peers do: asked for with port 0, the system chooses.
    pub bound: OnceLock<(Vec<SocketAddr>, Option<SocketAddr>)>,
}

/// One thread's share: connections are never handed between threads.
#[derive(Debug)]
pub struct Worker {
    pub gateway: Arc<Gateway>,
    pub pool: Arc<Pool>,
    pub links: Arc<Links>,
}

impl Gateway {
    /// A new pool, as the configuration has it.
    pub fn pool(&self) -> Arc<Pool> {
        let limits = PoolLimits {
            connect_timeout_ms: self.config.limits.connect_timeout_ms,
            idle_max: self.config.limits.idle_connections_max,
            idle_ms: self.config.limits.idle_connection_ms,
            source_ip: self.config.source_ip,
        };
        Pool::new(limits, self.peers.clone())
    }
}

impl Worker {
    pub fn new(gateway: Arc<Gateway>) -> Arc<Self> {
        let pool = gateway.pool();
        Arc::new(Self { gateway, pool, links: Arc::default() })
    }
}
