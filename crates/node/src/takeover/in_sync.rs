//! The owner of a service that is kept in step says in the register which clouds are, and to the gateway for whom its answers wait.
//!
//! Enters: the register, how far standbys' copies are, the table in force. Leaves: `InSync` commands, what a table says of a service.
//! Always holds: what [`Keeper`] holds: the gateway waits for whoever is in the register's set, and for whoever may come into it.

use crate::node::Note;
use crate::object::ServiceRecord;
use crate::quiet::{self, Rests};
use crate::{Node, clock, register, voting};
use pumasi_api::Problem;
use pumasi_ownership::in_sync::{Ask, Copy};
use pumasi_ownership::state::{Mode, Standing};
use pumasi_ownership::{Command, Keeper, Owned, State, refusal};
use pumasi_route::table::InStep;
use pumasi_terms::sync::{OnStandbyLoss, SyncRule};
use pumasi_terms::{BootMs, CloudName, ServiceId, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Looks while there is a service that is kept in step, and while there is none.
const LOOK_MS: u64 = 20;
const IDLE_MS: u64 = 250;
/// After a command that came to nothing.
const RETRY_MS: u64 = 300;

/// What is known of one service.
#[derive(Debug)]
pub(crate) struct Kept {
    keeper: Keeper,
    /// Those that are in the set and do not answer.
    silent: BTreeSet<CloudName>,
    /// What the next table was made for last.
    told: Option<InStep>,
    /// A command is under way.
    asking: bool,
    again: BootMs,
}

/// How a service stands, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stands {
    pub in_step: BTreeSet<CloudName>,
    /// What writes is refused.
    pub shut: bool,
    /// What is acknowledged is here alone.
    pub alone: bool,
}

pub async fn run(node: Arc<Node>) {
    let (mut stopping, mut changed, mut rests) = (node.stopping.clone(), node.voting.changed(), Rests::new(&node));
    while !*stopping.borrow() {
        let (busy_ms, idle_ms) = if look(&node) { (LOOK_MS, LOOK_MS) } else { (IDLE_MS, quiet::IDLE_MS) };
        tokio::select! {
            biased;
            _ = stopping.changed() => return,
            _ = changed.changed() => {}
            () = rests.rest(&node, busy_ms, idle_ms) => {}
        }
    }
}

fn look(node: &Arc<Node>) -> bool {
    let (Ok(services), state) = (node.services(), node.voting.state()) else { return false };
    let (mut all, mut any) = (BTreeSet::new(), false);
    for service in services.iter() {
        let Some(rule) = SyncRule::of(&service.document.spec.datasets) else { continue };
        any = true;
        let Some((state, owned)) = state.as_deref().and_then(|s| Some((s, own(node, s, service)?))) else { continue };
        all.insert(service.id.clone());
        look_at(node, service, (state, owned), rule);
        wake_where_new(node, service);
    }
    node.takeover.kept.lock().retain(|id, _| all.contains(id));
    any
}

/// The next table follows at once. What the gateway did not take then is given to it again at each look.
fn wake_where_new(node: &Node, service: &ServiceRecord) {
    let now = in_step(node, service);
    let mut all = node.takeover.kept.lock();
    let Some(kept) = all.get_mut(&service.id).filter(|k| k.told != now) else { return };
    kept.told = now;
    node.wake.notify_one();
}

/// The register's entry, where it says that this cloud has the service as its record does, and keeps it in step.
fn own<'a>(node: &Node, state: &'a State, service: &ServiceRecord) -> Option<&'a Owned> {
    let owned = state.services.get(&service.id)?;
    let fits = &owned.owner == node.name() && owned.epoch == service.epoch && owned.agreed.mode == Mode::Sync;
    Some(owned).filter(|_| fits && register::is_ours(node, service))
}

fn look_at(node: &Arc<Node>, service: &ServiceRecord, (state, owned): (&State, &Owned), rule: SyncRule) {
    let now = clock::boot();
    let copies = copies(node, service, (state, owned), (rule, now));
    let in_force = node.routes.in_step(service.name()).map(|i| i.leases).unwrap_or_default();
    let waited = owned.agreed.standbys.iter().filter(|s| in_force.contains(&s.lease)).map(|s| s.cloud.clone());
    let waited: BTreeSet<CloudName> = waited.collect();
    let mut all = node.takeover.kept.lock();
    let begin =
        || Kept { keeper: Keeper::begin(owned), silent: BTreeSet::new(), told: None, asking: false, again: BootMs(0) };
    let kept = all.entry(service.id.clone()).or_insert_with(begin);
    if !kept.keeper.is_of(owned) {
        *kept = begin();
    }
    kept.keeper.heard(owned);
    kept.keeper.in_force(&waited, now);
    kept.silent = copies.iter().filter(|(_, c)| c.silent).map(|(c, _)| c.clone()).collect();
    // Not before this process has a right: what it asks is then asked of the register as it is.
    if kept.asking || now < kept.again || node.voting.right_until().is_none_or(|until| until <= now) {
        return;
    }
    let wish = kept.keeper.wish(&copies, rule.on_loss == OnStandbyLoss::Alone, now);
    let Some(wish) = wish else { return };
    kept.keeper.asks(&wish);
    kept.asking = true;
    drop(all);
    let (node, id, name, before) = (node.clone(), service.id.clone(), service.name().clone(), owned.clone());
    crate::world::spawn(async move { ask(&node, (id, name), before, wish).await });
}

/// How far each standby is. One that answers would wait for in vain is silent.
fn copies(
    node: &Node,
    service: &ServiceRecord,
    (state, owned): (&State, &Owned),
    (rule, now): (SyncRule, BootMs),
) -> BTreeMap<CloudName, Copy> {
    let generation = node.generation(service.epoch);
    let grace_ms = rule.wait_ms * 2 / 3;
    let positions = node.datasets.in_step();
    let copy = |cloud: &CloudName, lease: &_| {
        let at = positions.get(lease).filter(|p| p.generation == generation).map(|p| BootMs(p.as_of_ms));
        let alive = state.clouds.get(cloud).is_some_and(|c| c.standing == Standing::Alive);
        let late = at.is_none_or(|at| now.since(at) > grace_ms);
        Copy { as_of: at, silent: late || !alive }
    };
    let others = owned.agreed.standbys.iter().filter(|s| &s.cloud != node.name());
    others.map(|s| (s.cloud.clone(), copy(&s.cloud, &s.lease))).collect()
}

async fn ask(node: &Node, (id, name): (ServiceId, ServiceName), before: Owned, ask: Ask) {
    let epoch = before.epoch;
    let command = Command::InSync { service: id.clone(), epoch, set: ask.set.clone(), after: Some(ask.after) };
    let asked = voting::propose(node, command).await.and_then(|told| match refusal(&told) {
        Some(refused) => Err(Problem::conflict(refused.to_string())),
        None => Ok(()),
    });
    if let Some(kept) = node.takeover.kept.lock().get_mut(&id).filter(|k| k.keeper.is_of(&before)) {
        kept.asking = false;
        match &asked {
            Ok(()) => kept.keeper.taken(),
            Err(_) => kept.again = clock::boot().after(RETRY_MS),
        }
    }
    match asked {
        Ok(()) if ask.set != before.in_sync => {
            let note = Note::new("in_step", "service", &name).because(words(&ask.set));
            node.note("daemon", note).await;
        }
        Ok(()) => {}
        Err(e) => tracing::debug!(service = %name, error = %e, "who is in step was not written down; tried again"),
    }
}

fn words(set: &BTreeSet<CloudName>) -> String {
    let names: Vec<&str> = set.iter().map(CloudName::as_str).collect();
    match names.is_empty() {
        true => "no other cloud has what is acknowledged from now on: it is unprotected".into(),
        false => format!("every acknowledged write is on disk at {} too", names.join(" and ")),
    }
}

/// What the next table says of a service; none: it is not kept in step.
pub fn in_step(node: &Node, service: &ServiceRecord) -> Option<InStep> {
    let rule = SyncRule::of(&service.document.spec.datasets)?;
    let state = node.voting.state();
    let may_be_alone = rule.on_loss == OnStandbyLoss::Alone;
    let wait_ms = state.as_ref().map_or(rule.wait_ms, |s| rule.wait_ms.min(most_wait_ms(s)));
    let none = InStep { wait_ms, reads: rule.reads, ..InStep::default() };
    let Some(state) = state else {
        // Where nobody votes nobody takes over; where the register is not known yet, somebody may be in its set.
        let alone = may_be_alone && !(service.registered && node.voting.is_on());
        return Some(InStep { alone, ..none });
    };
    let Some(owned) = own(node, &state, service) else {
        let alone = may_be_alone && !state.services.contains_key(&service.id);
        return Some(InStep { alone, ..none });
    };
    let all = node.takeover.kept.lock();
    let Some(kept) = all.get(&service.id).filter(|k| k.keeper.is_of(owned)) else { return Some(none) };
    let waits = kept.keeper.waits();
    let leases = waits.clouds.iter().filter_map(|c| owned.agreed.standby(c)).map(|s| s.lease.clone()).collect();
    let is_kept = kept.keeper.committed().iter().any(|c| !kept.silent.contains(c));
    Some(InStep { leases, alone: may_be_alone && waits.alone, shut: !may_be_alone && !is_kept, ..none })
}

/// An answer that waits must be out before its cloud could be called lost.
fn most_wait_ms(state: &State) -> u64 {
    state.voting.timers.ttl_ms.saturating_sub(1).max(1)
}

/// How a service of this cloud stands; none: it is not kept in step.
pub fn stands(node: &Node, service: &ServiceRecord) -> Option<Stands> {
    let table = in_step(node, service)?;
    let kept = node.takeover.kept.lock();
    let in_step = kept.get(&service.id).map(|k| k.keeper.committed().clone()).unwrap_or_default();
    let alone = table.alone || (!table.shut && table.is_open() && in_step.is_empty());
    Some(Stands { in_step, shut: !table.is_open(), alone })
}

/// What people should know, a line each.
pub fn remarks(node: &Node) -> Vec<String> {
    let Ok(services) = node.services() else { return Vec::new() };
    let ours = services.iter().filter(|s| register::is_ours(node, s));
    ours.flat_map(|s| remark(node, s)).collect()
}

fn remark(node: &Node, service: &ServiceRecord) -> Vec<String> {
    let (Some(stands), Some(rule)) = (stands(node, service), SyncRule::of(&service.document.spec.datasets)) else {
        return Vec::new();
    };
    let name = service.name();
    let mut lines = Vec::new();
    if node.routes.knows_step() == Some(false) {
        lines.push(format!(
            "{name} is kept in step, and the gateway that runs is of a version that cannot: it is not served; restart the gateway"
        ));
    }
    if stands.shut {
        lines.push(format!(
            "{name}: no other cloud is in step, so that what writes is refused (on_standby_loss: refuse)"
        ));
    } else if stands.alone {
        lines.push(format!("{name} is unprotected: no other cloud is in step, and it is written all the same"));
    }
    if let Some(most) = node.voting.state().map(|s| most_wait_ms(&s)).filter(|most| rule.wait_ms > *most) {
        let text = format!("{name}: sync_wait_ms is {}, and the pact's ttl_ms bounds it to {most}", rule.wait_ms);
        lines.push(text);
    }
    lines
}
