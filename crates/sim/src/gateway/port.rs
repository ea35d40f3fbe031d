//! The gateway as its daemon sees it: tables, positions and tenures go in, windows and a status come out.

use super::{SimGateway, WORK_MS};
use crate::mutant::Mutant;
use pumasi_gateway::{ControlError, GatewayStatus, MeterReport, Question, Reloaded, Reply, WantedReport};
use pumasi_node::ground::{Asked, GatewayPort};
use pumasi_route::Tenure;
use pumasi_route::table::{Positions, RouteTable, ServiceRoute, Writes};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A planted bug: what was lent and rented stays, and never ends.
fn keep_leases(table: &mut RouteTable, old: Option<&RouteTable>) {
    let never = pumasi_terms::BootMs(u64::MAX / 2);
    for (lease, route) in old.iter().flat_map(|t| &t.leases) {
        let kept = table.leases.entry(lease.clone()).or_insert_with(|| route.clone());
        kept.expires_at = never;
    }
    for (name, service) in &mut table.services {
        for backend in old.iter().filter_map(|t| t.services.get(name)).flat_map(|s| &s.leases) {
            if !service.leases.iter().any(|l| l.lease == backend.lease) {
                service.leases.push(backend.clone());
            }
        }
        for lease in &mut service.leases {
            (lease.draining, lease.usable_until) = (false, never);
        }
    }
}

/// A planted bug: it goes on serving what its cloud handed over.
fn stay(table: &mut RouteTable, old: Option<&RouteTable>) {
    for (name, route) in table.services.iter_mut().filter(|(_, r)| !r.role.is_owner()) {
        if let Some(before) = old.and_then(|t| t.services.get(name)).filter(|r| r.role.is_owner()) {
            *route = ServiceRoute { writes: Writes::Unbound, ..before.clone() };
        }
    }
}

/// What a daemon holds of its host's gateway.
#[derive(Debug, Clone)]
pub struct Port(pub Arc<SimGateway>);

impl GatewayPort for Port {
    fn put_table<'a>(&'a self, table: &'a RouteTable) -> Asked<'a, ()> {
        Box::pin(async move {
            // The real one answers after a write to disk.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut inner = self.0.lock();
            if let Some(current) = inner.table.as_ref().map(|t| t.revision).filter(|r| *r > table.revision) {
                return Err(ControlError::Old { current });
            }
            let mut table = table.clone();
            if self.0.mutant == Some(Mutant::StaleRoutes) {
                keep_leases(&mut table, inner.table.as_ref());
            }
            if self.0.mutant == Some(Mutant::Stubborn) {
                stay(&mut table, inner.table.as_ref());
            }
            inner.table = Some(table);
            inner.put_rights(self.0.clock.now().boot);
            Ok(())
        })
    }
    fn table(&self) -> Pin<Box<dyn Future<Output = Option<RouteTable>> + Send + '_>> {
        Box::pin(async move { self.0.table() })
    }
    fn put_positions<'a>(&'a self, positions: &'a Positions) -> Asked<'a, ()> {
        Box::pin(async move {
            self.0.lock().positions = positions.clone();
            Ok(())
        })
    }
    fn put_tenure<'a>(&'a self, tenure: &'a Tenure) -> Asked<'a, ()> {
        Box::pin(async move {
            let mut inner = self.0.lock();
            if inner.tenure.as_ref().is_some_and(|before| before.at > tenure.at) {
                return Err(ControlError::Refused("the tenure was overtaken by a later one".into()));
            }
            inner.tenure = Some(tenure.clone());
            inner.put_rights(self.0.clock.now().boot);
            Ok(())
        })
    }
    /// Nobody here reads a cookie.
    fn put_keys<'a>(&'a self, _: &'a pumasi_route::Keys) -> Asked<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn meter(&self, after: u64) -> Asked<'_, MeterReport> {
        Box::pin(async move {
            for _ in 0..10 {
                let closed = self.0.closed.notified();
                {
                    let inner = self.0.lock();
                    let windows: Vec<_> = inner.windows.iter().filter(|w| w.seq > after).cloned().collect();
                    // Another run begins its numbers anew.
                    if !windows.is_empty() || inner.seq < after {
                        return Ok(MeterReport { gateway_run: inner.run, windows });
                    }
                }
                closed.await;
            }
            Err(ControlError::Unreachable { socket: PathBuf::from("gateway"), problem: "no window in time".into() })
        })
    }
    fn wanted(&self, after: Option<u64>) -> Asked<'_, WantedReport> {
        let wanted = self.0.lock().wanted.clone();
        Box::pin(async move {
            Ok(match after {
                Some(after) => wanted.read(after).await,
                None => wanted.since(0),
            })
        })
    }
    fn status(&self) -> Asked<'_, GatewayStatus> {
        Box::pin(async move {
            match self.0.wedged.load(Ordering::Relaxed) {
                true => {
                    Err(ControlError::Unreachable { socket: PathBuf::from("gateway"), problem: "no answer".into() })
                }
                false => Ok(self.0.status_now()),
            }
        })
    }
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a, Reply> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(WORK_MS as u64)).await;
            Ok(self.0.ask(question))
        })
    }
    fn reload_identity(&self) -> Asked<'_, Reloaded> {
        Box::pin(async move { Ok(Reloaded::default()) })
    }
    fn metrics(&self) -> Asked<'_, String> {
        Box::pin(async move { Ok(String::new()) })
    }
    fn look_after(&self, _answers: bool) -> Option<String> {
        None
    }
}
