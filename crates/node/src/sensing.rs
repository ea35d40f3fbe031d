//! Reads the gateway's meter, lets the pure stages observe and judge, and hands verdicts to the borrower. Meters leases on both sides.

pub mod history;

use crate::node::{Locked, Note, UNREADABLE};
use crate::object::{JOURNEY, LENT, METERED, Metered, ONLY, ServiceRecord};
use crate::{Node, borrower, clock, growth, lender, register};
use history::{History, Seen};
use pumasi_api::Problem;
use pumasi_api::console::TrafficPoint;
use pumasi_engine::{InstanceState, InstanceStatus};
use pumasi_journey::Journey;
use pumasi_judge::{Judgement, Memory, Policy, Refusal, Situation, judge};
use pumasi_lease::{LentLease, LentState, Usage};
use pumasi_sense::{BackendKey, MeterWindow, Observation, Sense};
use pumasi_store::Expect;
use pumasi_terms::{BootMs, CloudName, LeaseId, ServiceName, WallMs};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Metered use is written down so often; a crash loses at most that.
const FLUSH_MS: u64 = 1_000;

#[derive(Debug)]
pub struct Sensing {
    inner: Locked<Inner>,
}

#[derive(Debug)]
struct Inner {
    sense: Sense,
    memories: BTreeMap<ServiceName, Memory>,
    latest: BTreeMap<ServiceName, (Observation, String)>,
    history: History,
    /// Not written down yet.
    usage: BTreeMap<LeaseId, Usage>,
    metered_at: Option<BootMs>,
    /// Up to which use was written down, and up to which it is in `usage`.
    metered: Option<Metered>,
    taken: Option<Metered>,
}

impl Default for Sensing {
    fn default() -> Self {
        let inner = Inner {
            sense: Sense::new(Default::default()),
            memories: BTreeMap::new(),
            latest: BTreeMap::new(),
            history: History::default(),
            usage: BTreeMap::new(),
            metered_at: None,
            metered: None,
            taken: None,
        };
        Self { inner: Locked::new(inner) }
    }
}

impl Sensing {
    pub fn latest(&self) -> BTreeMap<ServiceName, (Observation, String)> {
        self.inner.lock().latest.clone()
    }

    /// The last hour of what has this owner.
    pub fn history(&self, owner: &str, now: WallMs) -> Vec<TrafficPoint> {
        self.inner.lock().history.of(owner, now)
    }

    #[cfg(test)]
    pub(crate) fn remember(&self, owner: &str, now: WallMs, seen: &Seen) {
        self.inner.lock().history.saw(owner, now, seen);
    }
}

pub async fn run(node: Arc<Node>) {
    let mut after = 0;
    let mut gateway_run = 0;
    let mut flushed = clock::boot();
    let mut metered_known = false;
    let mut stopping = node.stopping.clone();
    loop {
        let read = tokio::select! {
            biased;
            read = node.gateway.meter(after) => read,
            _ = stopping.changed() => break,
        };
        match read {
            Ok(meter) => {
                if meter.gateway_run != gateway_run {
                    gateway_run = meter.gateway_run;
                    after = 0;
                }
                let taken = take_all(&node, &meter.windows, &mut after, &mut metered_known).await;
                let failed = taken.is_err();
                node.health.saw("use of leases", taken);
                if failed {
                    // The gateway's ring keeps the windows for a while: none is taken for one without use.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                if let Err(e) = judge_all(&node).await {
                    tracing::error!(error = %e, "a judgement was not carried out; judged again at the next window");
                }
            }
            Err(e) => {
                tracing::debug!(error = %e, "the gateway's meter was not read");
                node.stir();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if clock::boot().since(flushed) >= FLUSH_MS {
            flushed = clock::boot();
            flush(&node).await;
        }
    }
    flush(&node).await;
}

/// At a start: what the daemon before metered last may not have been written down.
pub async fn admit_loss(node: &Node) -> Result<(), Problem> {
    let open: Vec<_> = node.open_journeys()?.iter().map(|j| j.id.clone()).collect();
    node.transact(move |tx| {
        for id in open {
            let Some(mut journey) = tx.get::<Journey>(JOURNEY, id.as_str())? else { continue };
            for part in journey.body.parts.iter_mut().filter(|p| p.is_leased()) {
                part.lose_sight(part.granted, FLUSH_MS);
            }
            tx.put(JOURNEY, &journey.name, &journey.body, Expect::Any)?;
        }
        Ok(())
    })
    .await
}

/// Takes windows in until one cannot be: that one comes again.
async fn take_all(
    node: &Node,
    windows: &[MeterWindow],
    after: &mut u64,
    metered_known: &mut bool,
) -> Result<(), Problem> {
    if !*metered_known {
        let metered = match node.get::<Metered>(METERED, ONLY) {
            // What was metered before this start is not known: nothing of before is metered again.
            Err(e) if e.code == UNREADABLE => windows.last().map(Metered::of),
            other => other?,
        };
        node.sensing.inner.lock().metered = metered;
        *metered_known = true;
    }
    for window in windows {
        take(node, window).await?;
        *after = (*after).max(window.seq);
    }
    Ok(())
}

async fn take(node: &Node, window: &MeterWindow) -> Result<(), Problem> {
    let now = clock::now();
    let journeys = node.open_journeys()?;
    let lents = lender::lents(node)?;
    // A new daemon reads windows from before an instance was there.
    let ended_ms_ago = now.boot.since(window.at);
    let was_there = |i: &InstanceStatus| i.started_at.is_none_or(|at| now.wall.since(at) >= ended_ms_ago);
    let ready_here = |lease: &LeaseId| {
        let of = |i: &&InstanceStatus| i.owner == lease.as_str() && i.state == InstanceState::Ready && was_there(i);
        node.instances.lock().iter().filter(of).count() as u32
    };
    let mut inner = node.sensing.inner.lock();
    if let Err(e) = inner.sense.ingest(window) {
        tracing::warn!(error = %e, "a meter window was left out");
        return Ok(());
    }
    // Windows follow each other without gaps; after a pause of this daemon the ready instances are counted for the pause too,
    // but no longer than a window ring holds.
    let span_ms = inner.metered_at.map_or(window.span_ms, |at| window.at.since(at)).min(60_000);
    inner.metered_at = Some(window.at);
    if inner.metered.is_some_and(|m| m.covers(window)) {
        return Ok(());
    }
    inner.taken = Some(Metered::of(window));
    let mut add = |lease: &LeaseId, instances: u32, requests: u64, bytes: u64| {
        let usage = inner.usage.entry(lease.clone()).or_default();
        *usage = usage.ran(instances, span_ms).plus(0, requests, bytes);
    };
    let mut rented: BTreeMap<&LeaseId, (u64, u64)> = BTreeMap::new();
    for meter in window.services.values() {
        for (key, backend) in &meter.backends {
            if let BackendKey::Lease(_, lease) = key {
                let sum = rented.entry(lease).or_default();
                sum.0 += backend.completed;
                sum.1 += backend.bytes_out;
            }
        }
    }
    // A new daemon reads windows from before a lease began.
    let began = |age_ms: u64| window.at.0 + age_ms >= now.boot.0;
    let open = journeys.iter().filter(|j| began(now.wall.since(j.opened_at)));
    for part in open.flat_map(|j| &j.parts).filter(|p| p.is_leased()) {
        let (requests, bytes) = rented.get(&part.lease).copied().unwrap_or_default();
        add(&part.lease, part.in_use(now.boot), requests, bytes);
    }
    // Those that ended while this daemon was away too: what they served is still to be settled.
    let unsettled = |l: &&Arc<LentLease>| !matches!(l.state, LentState::Settled { .. });
    for lent in lents.iter().filter(unsettled).filter(|l| began(now.wall.since(l.since))) {
        let meter = window.leases.get(lent.id()).cloned().unwrap_or_default();
        let ready = ready_here(lent.id());
        if ready > 0 || meter.completed > 0 || meter.bytes_out > 0 {
            add(lent.id(), ready, meter.completed, meter.bytes_out);
        }
    }
    Ok(())
}

/// Writes metered use into the records of the leases, on whichever side this cloud is.
pub async fn flush(node: &Node) {
    let (usage, taken) = {
        let mut inner = node.sensing.inner.lock();
        (std::mem::take(&mut inner.usage), inner.taken)
    };
    let used: Vec<(LeaseId, Usage)> = usage.into_iter().filter(|(_, u)| *u != Usage::default()).collect();
    // While a lease is being made ready nothing is used, and a new daemon must not count that time again.
    let leased = |j: &Journey| j.parts.iter().any(|p| p.is_leased());
    if used.is_empty() && (taken.is_none() || !node.open_journeys().is_ok_and(|all| all.iter().any(|j| leased(j)))) {
        return;
    }
    let lents = node.lents.clone();
    let again = used.clone();
    let result = node
        .store
        .transact(move |tx| {
            let journeys = tx.list::<Journey>(JOURNEY)?;
            let mut known = lents.leases(tx, used.iter().map(|(lease, _)| lease))?;
            for (lease, more) in used {
                let sum = |u: Usage| u.plus(more.instance_ms, more.requests, more.bytes_out);
                if let Some(lent) = known.remove(&lease) {
                    let lent = LentLease { usage: sum(lent.usage), ..lent };
                    tx.put(LENT, lease.as_str(), &lent, Expect::Any)?;
                }
                if let Some(stored) = journeys.iter().find(|j| j.body.part(&lease).is_some()) {
                    // Read again: an earlier lease of this batch may have changed the same journey.
                    let Some(mut journey) = tx.get::<Journey>(JOURNEY, &stored.name)? else { continue };
                    if let Some(part) = journey.body.parts.iter_mut().find(|p| p.lease == lease) {
                        part.usage = sum(part.usage);
                        tx.put(JOURNEY, &journey.name, &journey.body, Expect::Any)?;
                    }
                }
            }
            if let Some(taken) = taken {
                tx.put(METERED, ONLY, &taken, Expect::Any)?;
            }
            Ok::<_, crate::node::TxError>(())
        })
        .await
        .map_err(pumasi_api::Problem::from);
    if let Err(e) = result {
        tracing::error!(error = %e, "metered use was not written down; tried again");
        let mut inner = node.sensing.inner.lock();
        for (lease, more) in again {
            let usage = inner.usage.entry(lease).or_default();
            *usage = usage.plus(more.instance_ms, more.requests, more.bytes_out);
        }
    }
}

async fn judge_all(node: &Node) -> Result<(), Problem> {
    let now = clock::now();
    let services = node.services()?;
    let journeys = node.open_journeys()?;
    for service in services.iter().filter(|s| !s.deleting && register::is_ours(node, s)) {
        let name = service.name();
        let situation = situation(node, service, &journeys);
        let (judgement, told) = {
            let mut inner = node.sensing.inner.lock();
            let Some(seen) = inner.sense.observe(name, now) else { continue };
            let mut policy = Policy::of(&service.document.spec);
            policy.calm_ms = node.config.timing.calm_ms;
            let memory = inner.memories.get(name).cloned().unwrap_or_default();
            let (memory, judgement) = judge(&memory, &seen, &policy, &situation, now);
            inner.memories.insert(name.clone(), memory);
            inner.history.saw(&service.owner(), now.wall, &Seen::of(&seen, node.name()));
            let text = words(&judgement)
                .or_else(|| inner.latest.get(name).map(|(_, t)| t.clone()))
                .unwrap_or_else(|| "steady".into());
            inner.latest.insert(name.clone(), (seen, text));
            let told = refusal_note(name, &judgement);
            (judgement, told)
        };
        if let Some(note) = told {
            node.note("daemon", note).await;
        }
        if let Judgement::Change(verdict) = judgement {
            borrower::judged(node, service, verdict).await?;
        }
    }
    Ok(())
}

fn situation(node: &Node, service: &ServiceRecord, journeys: &[Arc<Journey>]) -> Situation {
    let owner = service.owner();
    let ready =
        node.instances.lock().iter().filter(|i| i.owner == owner && i.state == InstanceState::Ready).count() as u32;
    let (least, grown) = (service.document.spec.instances.home.min, growth::grown(node, service));
    // Those that drain, or stand in for others during an update, are not counted.
    let home = ready.min(least.saturating_add(grown));
    let own = || journeys.iter().filter(|j| &j.service == service.name());
    Situation {
        home_instances_ready: home,
        home_instances_spare: home.saturating_sub(least),
        home_instances_coming: least.saturating_add(grown).saturating_sub(home.max(least)),
        // Where it cannot be read, nothing is started.
        home_instances_room: growth::room(node, service).unwrap_or(0),
        borrowed_instances_ready: own().map(|j| j.serving()).sum(),
        borrowed_instances_coming: own().map(|j| j.coming()).sum(),
        application_generation: service.generation,
    }
}

/// Whence answers came, thousandths a second.
pub fn served_by(seen: &Observation, here: &CloudName) -> BTreeMap<CloudName, u64> {
    let mut by = BTreeMap::new();
    for (key, backend) in &seen.backends {
        let cloud = match key {
            BackendKey::Home(_) => here,
            BackendKey::Lease(cloud, _) | BackendKey::Front(cloud) => cloud,
        };
        *by.entry(cloud.clone()).or_default() += backend.completed_mps;
    }
    by
}

fn words(judgement: &Judgement) -> Option<String> {
    let join =
        |reasons: &[pumasi_judge::Reason]| reasons.iter().map(|r| r.text.as_str()).collect::<Vec<_>>().join("; ");
    match judgement {
        Judgement::Steady => None,
        Judgement::Change(v) => Some(format!("{:?}: {}", v.cause, join(&v.reasons)).to_lowercase()),
        Judgement::Refused { refusal, reasons, .. } => Some(format!("{}: {}", name_of(*refusal), join(reasons))),
    }
}

fn name_of(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::HomeBound => "borrowing would not help, the load must go home",
        Refusal::ApplicationFault => "the application is at fault",
        Refusal::Distance => "the users are far",
    }
}

fn refusal_note(service: &ServiceName, judgement: &Judgement) -> Option<Note> {
    let Judgement::Refused { refusal, reasons, .. } = judgement else { return None };
    let mut note = Note::new("borrowing_refused", "service", service).because(name_of(*refusal));
    note.reasons.extend(reasons.iter().map(|r| r.text.clone()));
    Some(note.with(serde_json::json!({ "refusal": refusal })))
}
