//! A cloud that only votes: `[pact] role = "witness"`.
//!
//! Enters: the configuration. Leaves: a gateway port behind which nothing is, reasons for whoever asks more of it.
//! Always holds: it has no gateway, no service and no instance, and lends nothing; nothing of the vote waits for a gateway there.

use crate::config::Config;
use crate::ground::{Asked, GatewayPort};
use crate::{Node, register};
use pumasi_api::Problem;
use pumasi_gateway::{ControlError, GatewayStatus, MeterReport, Question, Reloaded, Reply, WantedReport};
use pumasi_route::table::{Positions, RouteTable};
use pumasi_route::{Keys, Tenure};
use pumasi_terms::pact::Role;
use std::pin::Pin;

pub fn is(config: &Config) -> bool {
    config.pact.role == Role::Witness
}

/// Whether it may have services of its own.
///
/// # Errors
/// It may not, and what to do instead.
pub fn may_own(node: &Node) -> Result<(), Problem> {
    if !is(&node.config) {
        return Ok(());
    }
    let text = format!(
        "{} is a witness of its pact: it votes, and runs nothing; apply the service at another member",
        node.name()
    );
    Err(Problem::conflict(text))
}

/// What stands against a start as a witness: services that it would leave without a gateway.
pub fn obstacle(node: &Node) -> Option<String> {
    if !is(&node.config) {
        return None;
    }
    let services = node.services().ok()?;
    let own: Vec<&str> = services.iter().filter(|s| register::is_ours(node, s)).map(|s| s.name().as_str()).collect();
    let named = own.join(", ");
    (!own.is_empty()).then(|| {
        format!("[pact] role is \"witness\", and this cloud has services: {named}; move or delete them first, under role = \"cloud\"")
    })
}

/// Nothing is told to it and nothing comes from it.
#[derive(Debug, Clone, Copy)]
pub struct NoGateway;

fn none<'a, T: Send + 'a>() -> Asked<'a, T> {
    Box::pin(async { Err(ControlError::Failed("a witness has no gateway".into())) })
}

fn told<'a>() -> Asked<'a, ()> {
    Box::pin(async { Ok(()) })
}

impl GatewayPort for NoGateway {
    fn put_table<'a>(&'a self, _: &'a RouteTable) -> Asked<'a, ()> {
        told()
    }
    fn table(&self) -> Pin<Box<dyn Future<Output = Option<RouteTable>> + Send + '_>> {
        Box::pin(async { None })
    }
    fn put_positions<'a>(&'a self, _: &'a Positions) -> Asked<'a, ()> {
        told()
    }
    fn put_tenure<'a>(&'a self, _: &'a Tenure) -> Asked<'a, ()> {
        told()
    }
    fn put_keys<'a>(&'a self, _: &'a Keys) -> Asked<'a, ()> {
        told()
    }
    fn meter(&self, _: u64) -> Asked<'_, MeterReport> {
        none()
    }
    fn wanted(&self, _: Option<u64>) -> Asked<'_, WantedReport> {
        none()
    }
    fn status(&self) -> Asked<'_, GatewayStatus> {
        none()
    }
    fn ask<'a>(&'a self, _: &'a Question) -> Asked<'a, Reply> {
        none()
    }
    fn reload_identity(&self) -> Asked<'_, Reloaded> {
        Box::pin(async { Ok(Reloaded::default()) })
    }
    fn metrics(&self) -> Asked<'_, String> {
        none()
    }
    fn look_after(&self, _: bool) -> Option<String> {
        None
    }
}
