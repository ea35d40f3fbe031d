//! The ground that a daemon stands on: its store, its engine, its gateway and its way to other clouds. The simulator lays another.

use crate::clock;
use crate::gateway::keeper::{End, Keeper};
pub use crate::hands::Hands;
use pumasi_api::Client;
use pumasi_engine::Engine;
use pumasi_gateway::{
    ControlClient, ControlError, GatewayStatus, MeterReport, Question, Reloaded, Reply, WantedReport,
};
use pumasi_route::table::{Positions, RouteTable};
use pumasi_route::{Keys, Tenure};
use pumasi_store::Store;
use pumasi_terms::CloudName;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlError>> + Send + 'a>>;

/// One cloud's gateway, as its daemon sees it. It outlives daemons.
pub trait GatewayPort: Send + Sync {
    /// Returns once the table is durable and in force.
    fn put_table<'a>(&'a self, table: &'a RouteTable) -> Asked<'a, ()>;
    /// The table in force, as far as it can be read. Asked seldom: for what cannot be read elsewhere.
    fn table(&self) -> Pin<Box<dyn Future<Output = Option<RouteTable>> + Send + '_>>;
    fn put_positions<'a>(&'a self, positions: &'a Positions) -> Asked<'a, ()>;
    /// What the cloud may write; returns once it is in force. A gateway that was started again has forgotten it.
    fn put_tenure<'a>(&'a self, tenure: &'a Tenure) -> Asked<'a, ()>;
    /// Keys of services; returns once they are durable and in force.
    fn put_keys<'a>(&'a self, keys: &'a Keys) -> Asked<'a, ()>;
    /// Windows after `after`; waits up to a second for the first. Another `gateway_run` than before: begin at 0.
    fn meter(&self, after: u64) -> Asked<'_, MeterReport>;
    /// What answers wait for that came after; waits up to a second for the first. None: whatever there is, at once.
    fn wanted(&self, after: Option<u64>) -> Asked<'_, WantedReport>;
    fn status(&self) -> Asked<'_, GatewayStatus>;
    /// One request over a lease, whether or not the table names it.
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a, Reply>;
    /// Has certificates read again.
    fn reload_identity(&self) -> Asked<'_, Reloaded>;
    /// Prometheus text.
    fn metrics(&self) -> Asked<'_, String>;
    /// Called at every look: starts it if it does not answer and does not run. Leaves why nobody is served, if that is known.
    fn look_after(&self, answers: bool) -> Option<String>;
}

/// How calls reach the daemons of other clouds, where it is not by mutual TLS.
pub trait Wire: Send + Sync {
    /// `known`: the other side sees this cloud's identity.
    fn client(&self, from: &CloudName, to: &CloudName, known: bool) -> Client;
}

pub struct Ground {
    pub store: Store,
    pub engine: Arc<dyn Engine>,
    pub hands: Hands,
    pub gateway: Arc<dyn GatewayPort>,
    /// `None`: mutual TLS.
    pub wire: Option<Arc<dyn Wire>>,
    /// The bundle of sign-in processes; none: no user signs in here.
    pub signin: Option<crate::realm::Program>,
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ground")
    }
}

/// The gateway as a process of its own, behind its control socket.
#[derive(Debug)]
pub struct GatewayProcess {
    client: ControlClient,
    dir: PathBuf,
    executable: PathBuf,
    running: crate::node::Locked<Running>,
}

#[derive(Debug, Default)]
struct Running {
    children: crate::gateway::Started,
    keeper: Keeper,
}

impl GatewayProcess {
    pub fn new(dir: &Path, executable: PathBuf) -> Self {
        Self { client: ControlClient::new(dir), dir: dir.to_owned(), executable, running: Default::default() }
    }
}

impl GatewayPort for GatewayProcess {
    fn put_table<'a>(&'a self, table: &'a RouteTable) -> Asked<'a, ()> {
        Box::pin(self.client.put_table(table))
    }
    fn table(&self) -> Pin<Box<dyn Future<Output = Option<RouteTable>> + Send + '_>> {
        let path = self.dir.join(pumasi_gateway::TABLE_FILE);
        Box::pin(async move {
            let read = crate::world::blocking(move || std::fs::read(path)).await;
            read.ok()?.ok().and_then(|text| serde_json::from_slice(&text).ok())
        })
    }
    fn put_positions<'a>(&'a self, positions: &'a Positions) -> Asked<'a, ()> {
        Box::pin(self.client.put_positions(positions))
    }
    fn put_tenure<'a>(&'a self, tenure: &'a Tenure) -> Asked<'a, ()> {
        Box::pin(self.client.put_tenure(tenure))
    }
    fn put_keys<'a>(&'a self, keys: &'a Keys) -> Asked<'a, ()> {
        Box::pin(self.client.put_keys(keys))
    }
    fn meter(&self, after: u64) -> Asked<'_, MeterReport> {
        Box::pin(self.client.meter(after))
    }
    fn wanted(&self, after: Option<u64>) -> Asked<'_, WantedReport> {
        Box::pin(self.client.wanted(after))
    }
    fn status(&self) -> Asked<'_, GatewayStatus> {
        Box::pin(self.client.status())
    }
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a, Reply> {
        Box::pin(self.client.ask(question))
    }
    fn reload_identity(&self) -> Asked<'_, Reloaded> {
        Box::pin(self.client.reload_identity())
    }
    fn metrics(&self) -> Asked<'_, String> {
        Box::pin(self.client.metrics())
    }
    fn look_after(&self, answers: bool) -> Option<String> {
        let mut running = self.running.lock();
        let Running { children, keeper } = &mut *running;
        let now = clock::boot();
        // Reaped, so that a dead gateway is not a zombie.
        for end in children.reap(&self.dir) {
            keeper.ended(end, now);
        }
        if answers {
            keeper.answers(now);
        } else if keeper.silent(now) {
            match crate::gateway::start(&self.dir, &self.executable) {
                Ok(child) => children.add(child),
                Err(e) => keeper.ended(End { why: format!("it was not started: {e}"), taken: false }, now),
            }
        }
        keeper.down().map(str::to_owned)
    }
}
