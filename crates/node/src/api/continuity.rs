//! "If this cloud stopped now": where each service could go on, in how long, with how much loss.

use super::body::Answer;
use crate::object::ServiceRecord;
use crate::takeover::in_sync::{self, Stands};
use crate::tenancy::Estate;
use crate::{Node, clock, entrances, lender, trouble};
use axum::Extension;
use axum::extract::State;
use pumasi_api::message::{List, StandbyView};
use pumasi_api::{Principal, Problem};
use pumasi_engine::InstanceState;
use pumasi_journey::{Journey, Part, PartState};
use pumasi_lease::LentLease;
use pumasi_terms::LeaseId;
use std::collections::BTreeMap;
use std::sync::Arc;

pub async fn list(State(node): State<Arc<Node>>, Extension(who): Extension<Principal>) -> Answer<List<StandbyView>> {
    Ok(axum::Json(List { revision: node.store.revision(), items: all(&node, &who)? }))
}

/// What others have kept here is the operator's to see.
fn all(node: &Node, who: &Principal) -> Result<Vec<StandbyView>, Problem> {
    let (open, estate) = (node.open_journeys()?, Estate::of(node, who)?);
    let behind = node.datasets.behind_ms();
    let services = node.services()?;
    let theirs = services.iter().filter(|s| estate.record(s) && !s.deleting);
    let lines = trouble::reads_logs(who);
    let mut items: Vec<StandbyView> = theirs.flat_map(|s| of_service(node, s, &open, &behind, lines)).collect();
    if estate.is_operator() {
        items.extend(lender::lents(node)?.iter().filter(|l| l.binds()).filter_map(|l| kept_here(node, l)));
    }
    Ok(items)
}

fn of_service(
    node: &Node,
    service: &ServiceRecord,
    open: &[Arc<Journey>],
    behind: &BTreeMap<LeaseId, u64>,
    lines: bool,
) -> Vec<StandbyView> {
    let own = open.iter().filter(|j| &j.service == service.name()).flat_map(|j| &j.parts);
    let kept = own.filter(|p| p.standby.is_some() && p.is_hopeful());
    let mut items: Vec<StandbyView> = kept.map(|p| of_part(node, service, p, behind, lines)).collect();
    let wanted = service.document.spec.continuity.wanted();
    let there = u32::try_from(items.len()).unwrap_or(u32::MAX);
    if there < wanted {
        let why = "no cloud keeps it ready yet; `pumasi get events` says why".to_owned();
        items.extend((there..wanted).map(|_| StandbyView { why: why.clone(), ..nowhere(node, service, "missing") }));
    } else if items.is_empty() {
        let why = "its manifest asks for no standby (continuity.clouds)".to_owned();
        items.push(StandbyView { why, ..nowhere(node, service, "none") });
    }
    items
}

fn nowhere(node: &Node, service: &ServiceRecord, state: &str) -> StandbyView {
    StandbyView {
        service: service.name().clone(),
        owner: node.name().clone(),
        cloud: None,
        lease: None,
        state: state.into(),
        ready: 0,
        room: 0,
        serves_in_ms: None,
        loss_ms: None,
        kept_ms: None,
        why: String::new(),
    }
}

fn of_part(
    node: &Node,
    service: &ServiceRecord,
    part: &Part,
    behind: &BTreeMap<LeaseId, u64>,
    lines: bool,
) -> StandbyView {
    let trouble = || node.troubles.of_part(part).map(|t| trouble::words(&t, lines)).unwrap_or_default();
    let heard = part.expires_at > clock::boot();
    let (state, why) = match &part.state {
        PartState::Kept if !heard => ("silent", format!("{} is not heard", part.lender)),
        PartState::Kept => ("kept", trouble()),
        PartState::Serving | PartState::Resting => ("helping", String::new()),
        PartState::Starting if part.is_complete() => ("helping", trouble()),
        _ => ("coming", trouble()),
    };
    let has_data = !service.document.spec.datasets.is_empty();
    let loss_ms = if has_data { behind.get(&part.lease).copied() } else { Some(0) };
    let (loss_ms, why) = match in_sync::stands(node, service) {
        Some(stands) => kept_in_step(&stands, part, (loss_ms, why)),
        None => (loss_ms, why),
    };
    let starts = || node.starts.of(&service.owner());
    StandbyView {
        cloud: Some(part.lender.clone()),
        lease: Some(part.lease.clone()),
        ready: part.ready,
        room: part.granted,
        serves_in_ms: if !part.is_complete() {
            None
        } else if part.ready > 0 {
            Some(0)
        } else {
            starts()
        },
        loss_ms: loss_ms.filter(|_| part.is_complete()),
        kept_ms: part.standby.map(|s| s.retain_ms),
        why,
        ..nowhere(node, service, state)
    }
}

/// Of a service that is kept in step: nothing that was acknowledged is lost with its owner where this cloud is in the set.
fn kept_in_step(stands: &Stands, part: &Part, (loss_ms, why): (Option<u64>, String)) -> (Option<u64>, String) {
    if stands.in_step.contains(&part.lender) {
        let words = if stands.shut { "in step, and not heard: what writes is refused" } else { "in step" };
        return (Some(0), if why.is_empty() { words.into() } else { format!("{words}; {why}") });
    }
    let words = match stands {
        Stands { shut: true, .. } => "not in step; no cloud is, and what writes is refused",
        Stands { alone: true, .. } => "not in step; no cloud is, and the service is written unprotected",
        _ => "not in step",
    };
    (loss_ms, if why.is_empty() { words.into() } else { format!("{words}; {why}") })
}

fn kept_here(node: &Node, lent: &LentLease) -> Option<StandbyView> {
    let standby = lent.standby()?;
    let owner = lent.id().as_str();
    let of = |i: &&pumasi_engine::InstanceStatus| i.owner == owner && i.state == InstanceState::Ready;
    let ready = node.instances.lock().iter().filter(of).count() as u32;
    let told = node.copies.told_behind().get(lent.id()).copied();
    let (state, loss_ms, kept_ms, why) = match &lent.silence {
        Some(silence) => {
            let silent_ms = clock::wall().since(silence.since);
            let why = format!("{} is not heard for {} s", lent.lease.borrower, silent_ms / 1_000);
            let left_ms = standby.retain_ms.saturating_sub(silence.lasted_ms(clock::now()));
            ("silent", silence.behind_ms, left_ms, why)
        }
        None => ("kept", told, standby.retain_ms, String::new()),
    };
    let uncertified = entrances::uncertified(node, lent)
        .map(|hosts| format!("users cannot come in here by HTTPS: no certificate here for {}", hosts.join(", ")));
    let why =
        [why, uncertified.unwrap_or_default()].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join("; ");
    Some(StandbyView {
        service: lent.lease.service.clone(),
        owner: lent.lease.borrower.clone(),
        cloud: Some(node.name().clone()),
        lease: Some(lent.id().clone()),
        state: state.into(),
        ready,
        room: lent.lease.instances,
        serves_in_ms: if ready > 0 { Some(0) } else { node.starts.of(owner) },
        loss_ms: if lent.lease.datasets.is_empty() { Some(0) } else { loss_ms },
        kept_ms: Some(kept_ms),
        why,
    })
}
