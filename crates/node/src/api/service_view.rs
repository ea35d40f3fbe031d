//! A service as people see it.
//!
//! Enters: its record, open journeys, what the engine and the gateway say. Leaves: the document and one phase with its reasons.
//! Always holds: a phase says what users get, and where a deployment does not get ready it says that, with the reason.

use crate::object::ServiceRecord;
use crate::{Node, clock, gateway, home, realm, register, rollout, trouble};
use pumasi_api::Principal;
use pumasi_api::message::{LendingState, Rollout, RolloutState, ServiceStatus, ServiceView};
use pumasi_engine::InstanceState;
use pumasi_journey::{Journey, PartState};
use std::sync::Arc;

/// How far the generation in force has come at home.
fn rolled_out(node: &Node, who: &Principal, record: &ServiceRecord) -> Rollout {
    let (want, instances) = (home::wanted(node, record), node.instances.get());
    let refused = node.troubles.refused_start(&want.owner, want.generation);
    let lines = trouble::reads_logs(who);
    let routed = |id: &_| node.routes.leads_to(record.name(), id);
    rollout::of(&want, &instances, refused.as_ref(), routed, |t| trouble::words(t, lines), clock::wall())
}

/// Instances that were borrowed: ready, and wanted.
fn borrowed(own: &[&Arc<Journey>]) -> (u32, u32) {
    let parts = || own.iter().flat_map(|j| &j.parts);
    let ready = parts().filter(|p| p.state == PartState::Serving).map(|p| p.ready).sum();
    (ready, parts().filter(|p| p.is_hopeful()).map(|p| p.wanted).sum())
}

pub(super) fn view(
    node: &Node,
    who: &Principal,
    record: ServiceRecord,
    revision: pumasi_terms::Revision,
    open: &[Arc<Journey>],
) -> ServiceView {
    let owner = record.owner();
    let rollout = rolled_out(node, who, &record);
    let ready =
        node.instances.lock().iter().filter(|i| i.owner == owner && i.state == InstanceState::Ready).count() as u32;
    let own: Vec<&Arc<Journey>> = open.iter().filter(|j| &j.service == record.name()).collect();
    let (borrowed_ready, borrowed_wanted) = borrowed(&own);
    // What keeps it ready elsewhere is no help that it needs now.
    let helped: Vec<&&Arc<Journey>> = own.iter().filter(|j| !j.is_continuity()).collect();
    let moved = register::tenure(node, &record).ok().filter(|t| &t.owner != node.name());
    let room = node.takeover.room.why(&owner);
    // What ran well once and does not now is no matter of its deployment.
    let was_ready =
        node.instances.lock().iter().any(|i| i.owner == owner && i.generation == rollout.generation && i.was_ready);
    let failing = rollout.state == RolloutState::Failing && rollout.ready == 0 && !was_ready;
    // Whatever runs, users come in by the gateway.
    let shut = gateway::trouble(node);
    let unsigned = realm::trouble(node, &record).filter(|_| moved.is_none() && !record.deleting);
    let phase = match (record.deleting, ready, helped.is_empty()) {
        (true, ..) => "deleting",
        _ if moved.is_some() => "moved",
        _ if room.is_some() && node.takeover.room.stands_back(&owner) => "stands_back",
        _ if failing && rollout.wanted > 0 => "failing",
        (_, 0, _) if !was_ready => "starting",
        _ if shut.is_some() || unsigned.is_some() => "degraded",
        (_, n, _) if n < rollout.wanted => "degraded",
        (_, _, false) => "borrowing",
        _ => "serving",
    };
    let mut why: Vec<String> = vec![rollout::words(&rollout)];
    match phase {
        "deleting" => why.insert(0, "what it rented is given back first".to_owned()),
        "moved" => why = moved.iter().map(|t| format!("{} owns it since epoch {}", t.owner, t.epoch)).collect(),
        "borrowing" => why.extend(helped.iter().map(|j| j.id.to_string())),
        _ => {}
    }
    why.splice(0..0, unsigned);
    why.splice(0..0, shut.filter(|_| moved.is_none()));
    if phase != "moved" {
        why.splice(0..0, room);
    }
    let lines = trouble::reads_logs(who);
    for part in own.iter().flat_map(|j| &j.parts).filter(|p| p.is_hopeful()) {
        why.extend(node.troubles.of_part(part).map(|t| format!("{}: {}", part.lender, trouble::words(&t, lines))));
    }
    let lending = node.lendable.of(&record);
    if lending.state == LendingState::No {
        why.extend(lending.why.iter().map(|why| format!("cannot be lent: {why}")));
    }
    why.retain(|w| !w.is_empty());
    let (customer, id) = (record.customer, Some(record.id));
    let mut service = record.document;
    service.metadata.revision = Some(revision);
    ServiceView {
        service,
        status: ServiceStatus {
            phase: phase.into(),
            why: why.join("; "),
            home_ready: ready,
            home_wanted: rollout.wanted,
            borrowed_ready,
            borrowed_wanted,
            generation: record.generation,
            deleting: record.deleting,
            rollout: Some(rollout).filter(|_| moved.is_none()),
            lending,
            customer,
            id,
        },
    }
}
