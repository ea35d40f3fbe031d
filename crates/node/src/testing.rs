//! What tests of a whole node stand on.

#![allow(clippy::unwrap_used)]

use crate::clock;
use crate::ground::{Asked, GatewayPort};
use pumasi_gateway::{ControlError, GatewayStatus, MeterReport, Question, Reloaded, Reply, WantedReport};
use pumasi_route::table::{Positions, RouteTable};
use pumasi_route::{Keys, Tenure};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

/// A gateway that does at once what it is told, and to which nobody comes.
#[derive(Default)]
pub struct Gate(Mutex<Option<RouteTable>>, Mutex<Option<Keys>>);

impl Gate {
    pub fn in_force(&self) -> Option<RouteTable> {
        self.0.lock().unwrap().clone()
    }
    pub fn keys(&self) -> Option<Keys> {
        self.1.lock().unwrap().clone()
    }
}

impl GatewayPort for Gate {
    fn put_table<'a>(&'a self, table: &'a RouteTable) -> Asked<'a, ()> {
        *self.0.lock().unwrap() = Some(table.clone());
        Box::pin(async { Ok(()) })
    }
    fn table(&self) -> Pin<Box<dyn Future<Output = Option<RouteTable>> + Send + '_>> {
        Box::pin(async { self.0.lock().unwrap().clone() })
    }
    fn put_positions<'a>(&'a self, _: &'a Positions) -> Asked<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn put_tenure<'a>(&'a self, _: &'a Tenure) -> Asked<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn put_keys<'a>(&'a self, keys: &'a Keys) -> Asked<'a, ()> {
        *self.1.lock().unwrap() = Some(keys.clone());
        Box::pin(async { Ok(()) })
    }
    fn meter(&self, _: u64) -> Asked<'_, MeterReport> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(ControlError::Unreachable { socket: PathBuf::new(), problem: "no window".into() })
        })
    }
    fn wanted(&self, _: Option<u64>) -> Asked<'_, WantedReport> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(WantedReport::default())
        })
    }
    fn status(&self) -> Asked<'_, GatewayStatus> {
        let table_revision = self.0.lock().unwrap().as_ref().map_or(0, |t| t.revision);
        let status = GatewayStatus {
            version: 1,
            cloud: "city-a".parse().unwrap(),
            gateway_run: 1,
            pid: 1,
            table_revision,
            at: clock::boot(),
            uptime_ms: 1,
            stopping: false,
            listening: Vec::new(),
            peer_listening: None,
            connections: 0,
            tunnels: 0,
            services: Vec::new(),
            leases: Vec::new(),
            leaving: Vec::new(),
            held: Vec::new(),
        };
        Box::pin(async move { Ok(status) })
    }
    fn ask<'a>(&'a self, _: &'a Question) -> Asked<'a, Reply> {
        Box::pin(async { Ok(Reply::None { why: "nobody is there".into() }) })
    }
    fn reload_identity(&self) -> Asked<'_, Reloaded> {
        Box::pin(async { Ok(Reloaded::default()) })
    }
    fn metrics(&self) -> Asked<'_, String> {
        Box::pin(async { Ok(String::new()) })
    }
    fn look_after(&self, _: bool) -> Option<String> {
        None
    }
}
