//! The owner enters its services into the register of the pact, and keeps there what was agreed.
//!
//! Enters: services, the standbys that know all they must. Leaves: `Protect`, `Unprotect`, `Serving`.
//! Always holds: a service's record says that it is registered, and the gateway that it is bound, before the register is asked; one that
//! once was is never unbound while it lives.

use super::{RETRY_MS, waits};
use crate::node::Note;
use crate::object::{SERVICE, ServiceRecord};
use crate::{Node, borrower, clock, register, voting};
use pumasi_api::Problem;
use pumasi_journey::{Journey, Part};
use pumasi_ownership::command::{How, Progress};
use pumasi_ownership::state::{Mode, Phase, StandbyAt};
use pumasi_ownership::{Agreed, Command, Owned, State, Told, refusal};
use pumasi_store::Expect;
use pumasi_terms::ServiceId;
use pumasi_terms::service::ServiceSpec;
use pumasi_terms::sync::SyncRule;
use std::sync::Arc;

pub(super) async fn reconcile(node: &Node) {
    // Before this process is alive in the register nothing is entered on its behalf.
    if node.voting.right_until().is_none() || node.may_act().is_err() {
        return;
    }
    if let Err(e) = look(node).await {
        tracing::warn!(error = %e, "what the pact is to look after was not compared with what it does; tried again");
    }
}

async fn look(node: &Node) -> Result<(), Problem> {
    let Some(state) = node.voting.state() else { return Ok(()) };
    let (services, open) = (node.services()?, node.open_journeys()?);
    for service in services.iter().filter(|s| register::is_ours(node, s) && s.taking.is_none()) {
        if waits(node, &service.id) {
            continue;
        }
        let asked = match command(node, service, &open, &state) {
            Some(Command::Protect { .. }) if !service.registered => bind(node, service).await,
            Some(command) => ask(node, service, command).await,
            None => {
                node.takeover.refused.lock().remove(&service.id);
                continue;
            }
        };
        let mut refused = node.takeover.refused.lock();
        match asked {
            Ok(()) => drop(refused.remove(&service.id)),
            Err(e) => {
                tracing::warn!(service = %service.name(), error = %e, "the pact does not look after this service as it should; tried again");
                refused.insert(service.id.clone(), (e.to_string(), clock::boot().after(RETRY_MS)));
            }
        }
    }
    Ok(())
}

/// From the next table on it is written within this cloud's right only; then it may be entered.
async fn bind(node: &Node, service: &ServiceRecord) -> Result<(), Problem> {
    let name = service.name().clone();
    node.transact(move |tx| {
        let Some(stored) = tx.get::<ServiceRecord>(SERVICE, name.as_str())? else { return Ok(()) };
        let bound = ServiceRecord { registered: true, ..stored.body };
        tx.put(SERVICE, name.as_str(), &bound, Expect::Revision(stored.revision))?;
        Ok(())
    })
    .await
}

/// What stands between the register and this cloud; none: nothing.
fn command(node: &Node, service: &ServiceRecord, open: &[Arc<Journey>], state: &State) -> Option<Command> {
    let (id, epoch) = (service.id.clone(), service.epoch);
    let owned = state.services.get(&id);
    if service.deleting {
        return owned.map(|_| Command::Unprotect { service: id, epoch });
    }
    let agreed = agreed(node, service, open, owned);
    match (owned, agreed) {
        (None, Some(agreed)) => {
            // The gateway has to have the table that binds it.
            let may = !service.registered || node.routes.is_bound(service.name());
            may.then(|| Command::Protect { service: id, epoch, agreed: Box::new(agreed) })
        }
        (Some(owned), Some(agreed)) if owned.agreed != agreed => {
            Some(Command::Protect { service: id, epoch, agreed: Box::new(agreed) })
        }
        (Some(owned), _) => progress(node, service, owned).map(|how| Command::Serving {
            items: vec![Progress { service: id, epoch, how, base: service.base.clone() }],
        }),
        (None, None) => None,
    }
}

/// With which clouds, and what each of them promised; none: with nobody yet.
fn agreed(node: &Node, service: &ServiceRecord, open: &[Arc<Journey>], owned: Option<&Owned>) -> Option<Agreed> {
    let spec = &service.document.spec;
    let digest = borrower::dossier_of(node, service, open);
    // One that was informed once may take over by what it knows; it is told of changes as soon as it is heard.
    let known = |p: &Part| owned.is_some_and(|o| o.agreed.standby(&p.lender).is_some_and(|s| s.lease == p.lease));
    let stands =
        |p: &&Part| p.standby.is_some() && p.is_hopeful() && p.is_complete() && (p.dossier == digest || known(p));
    let own = open.iter().filter(|j| &j.service == service.name()).flat_map(|j| &j.parts).filter(stands);
    let member = |cloud: &_| node.pact().is_some_and(|v| v.pact.member(cloud).is_some());
    let mut standbys: Vec<StandbyAt> = own
        .filter(|p| member(&p.lender))
        .map(|p| StandbyAt { cloud: p.lender.clone(), lease: p.lease.clone(), warm: p.standby.map_or(0, |s| s.warm) })
        .collect();
    let wished = &spec.continuity.clouds;
    let order = |s: &StandbyAt| (wished.iter().position(|c| c == &s.cloud).unwrap_or(usize::MAX), s.cloud.clone());
    standbys.sort_by_key(order);
    standbys.dedup_by(|a, b| a.cloud == b.cloud);
    standbys.truncate(pumasi_ownership::state::STANDBYS_MAX);
    if standbys.is_empty() && owned.is_none() {
        return None;
    }
    let full = spec.instances.home.min.max(1);
    // What was agreed stays named by what was agreed first, as long as the clouds are the same: a dossier changes with every small thing.
    let same = owned.filter(|o| o.agreed.standbys == standbys);
    Some(Agreed {
        name: service.name().clone(),
        hosts: spec.hosts.iter().cloned().collect(),
        class: spec.recovery_class.into(),
        priority: spec.priority,
        unit: spec.application.resources,
        full,
        least: 1,
        mode: mode(spec),
        standbys,
        agreement: same.map(|o| o.agreed.agreement).or(digest)?,
        takeover: spec.borrowing.mode.into(),
    })
}

fn mode(spec: &ServiceSpec) -> Mode {
    match SyncRule::of(&spec.datasets) {
        Some(_) => Mode::Sync,
        None if spec.datasets.is_empty() => Mode::Stateless,
        None => Mode::Async,
    }
}

/// What the register says of how far the service is, where that is not so any more.
fn progress(node: &Node, service: &ServiceRecord, owned: &Owned) -> Option<How> {
    // The cloud before compares what it has with what this one began from.
    let knows_base = service.base.iter().all(|(set, base)| owned.base.get(set) == Some(base));
    let (have, want) = match owned.phase {
        // One that waited is its owner's still, who has returned.
        Phase::Taken { .. } | Phase::Degraded { .. } | Phase::Waiting { .. } => {
            (ready(node, service), owned.agreed.full)
        }
        Phase::Serving if !knows_base => (ready(node, service), owned.agreed.full),
        Phase::Serving | Phase::Yielded => return None,
    };
    let how = if have >= want { How::Full } else { How::Degraded { have, want } };
    let said = knows_base && owned.phase == Phase::Degraded { have, want };
    (have > 0 && !said).then_some(how)
}

fn ready(node: &Node, service: &ServiceRecord) -> u32 {
    let owner = service.owner();
    let instances = node.instances.lock();
    let ready = instances.iter().filter(|i| i.owner == owner && i.state == pumasi_engine::InstanceState::Ready);
    u32::try_from(ready.count()).unwrap_or(u32::MAX)
}

async fn ask(node: &Node, service: &ServiceRecord, command: Command) -> Result<(), Problem> {
    let told = voting::propose(node, command).await?;
    if let Some(refused) = refusal(&told) {
        return Err(Problem::conflict(refused.to_string()));
    }
    let name = service.name().clone();
    let state = node.voting.state();
    let standbys = clouds_of(state.as_deref(), &service.id);
    node.transact(move |tx| {
        for t in &told {
            let (action, text) = match t {
                Told::Protected { epoch, .. } => {
                    ("service_protected", format!("epoch {epoch}; the pact's voters know its standbys: {standbys}"))
                }
                Told::Unprotected { .. } => ("service_unprotected", "the pact's voters look after it no more".into()),
                _ => continue,
            };
            tx.journal(Note::new(action, "service", &name).because(text).entry("daemon", clock::wall()))?;
        }
        Ok(())
    })
    .await
}

fn clouds_of(state: Option<&State>, id: &ServiceId) -> String {
    let standbys = state.and_then(|s| s.services.get(id)).map(|o| &o.agreed.standbys);
    let names: Vec<&str> = standbys.into_iter().flatten().map(|s| s.cloud.as_str()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
