//! How a journey ended, at all clouds, in words that do not depend on ids and instants; and what that is worth.

use crate::cloud::Host;
use pumasi_engine::InstanceState;
use pumasi_journey::moving::Move;
use pumasi_journey::record::Outcome;
use pumasi_journey::{Journey, PartState, Phase};
use pumasi_lease::document::Settlement;
use pumasi_lease::{Hold, LentLease, LentState};
use pumasi_node::Node;
use pumasi_node::object::{
    HOLD, JOURNEY, LENT, LENT_APPLICATION, LentApplication, MOVE, SERVICE, SETTLEMENT, ServiceRecord,
};
use pumasi_node::register;
use pumasi_store::JournalFilter;
use pumasi_terms::LeaseId;
use pumasi_trust::SignedDocument;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How one lease ended, at both ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseEnd {
    pub served: bool,
    /// By the borrower's record; none where it has none.
    pub proven: Option<bool>,
    pub settled: Option<bool>,
    /// By the lender's ledger: its last state, or none.
    pub lender: Option<&'static str>,
    /// Both keep the same document.
    pub same_settlement: Option<bool>,
    pub agreed: Option<bool>,
    /// By so much the readings of instance time differ, for each instance.
    pub gap_ms: u64,
}

/// A killed daemon loses no more of its reading than this, and the time that it was away.
const LOST_MS_MAX: u64 = 1_200;

/// The end of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    pub outcomes: BTreeSet<String>,
    pub leases: BTreeMap<LeaseId, LeaseEnd>,
    /// Instances that are ready at home, by service.
    pub home_ready: BTreeMap<String, u32>,
    /// Who owns each service, at which epoch.
    pub owners: BTreeSet<String>,
    /// What is left of leases anywhere.
    pub left: Vec<String>,
    /// Users whose requests were answered, and who were not, in the last two seconds.
    pub answered: u64,
    pub unanswered: u64,
    /// How long daemons were away.
    pub down_ms: u64,
    /// Reasons in the borrower's journal for what did not come to be, by lease or reservation.
    pub refusals: Vec<String>,
    /// Leases that ended otherwise than in order, and why, as the journals say.
    pub told: BTreeMap<LeaseId, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As without the fault.
    Same,
    /// As without the fault, but a daemon that was killed lost a little of its reading, and both settlements say so.
    Reading(Vec<String>),
    /// Refused with these reasons, nothing left, and others served.
    Refused(Vec<String>),
    Broken(Vec<String>),
}

fn nodes(hosts: &[Arc<Host>]) -> impl Iterator<Item = (&Arc<Host>, Arc<Node>)> {
    hosts.iter().filter_map(|h| h.node().map(|n| (h, n)))
}

/// Records of a kind. One that cannot be read is something that is left, too.
fn listed<T: serde::de::DeserializeOwned>(node: &Node, kind: &'static str, left: &mut Vec<String>) -> Vec<T> {
    node.list(kind).unwrap_or_else(|e| {
        left.push(format!("{}: the records of kind {kind} cannot be read: {e}", node.name()));
        Vec::new()
    })
}

/// What is still open or left; nothing at the end.
pub fn unfinished(hosts: &[Arc<Host>]) -> Vec<String> {
    let mut left = Vec::new();
    for host in hosts.iter().filter(|h| h.node().is_none()) {
        left.push(format!("{} is down", host.name));
    }
    for (host, node) in nodes(hosts) {
        let name = &host.name;
        let journeys = listed::<Journey>(&node, JOURNEY, &mut left);
        for journey in journeys.iter().filter(|j| j.is_open()) {
            let states: Vec<_> = journey.parts.iter().map(|p| &p.state).collect();
            left.push(format!("{name}: {} is open: {:?} {states:?}", journey.id, journey.seeking));
        }
        let moves = listed::<Move>(&node, MOVE, &mut left);
        left.extend(moves.iter().filter(|m| m.is_open()).map(|m| format!("{name}: the move of {} is open", m.service)));
        let services = listed::<ServiceRecord>(&node, SERVICE, &mut left);
        let taken = services.iter().filter(|s| s.taking.is_some());
        left.extend(taken.map(|s| format!("{name}: {} is still being made its own", s.name())));
        let binds = |l: &LentLease| l.binds();
        let lents = listed(&node, LENT, &mut left);
        left.extend(lents.into_iter().filter(binds).map(|l| format!("{name}: {} binds: {:?}", l.id(), l.state)));
        let holds = listed::<Hold>(&node, HOLD, &mut left);
        left.extend(holds.into_iter().map(|h| format!("{name}: {} is held", h.id)));
        let applications = listed::<LentApplication>(&node, LENT_APPLICATION, &mut left);
        left.extend(applications.into_iter().map(|a| format!("{name}: the application of {} is kept", a.lease)));
        left.extend(
            node.instances
                .lock()
                .iter()
                .filter(|i| i.owner.starts_with("lease-"))
                .map(|i| format!("{name}: {} of {} is {:?}", i.id, i.owner, i.state)),
        );
        let dirs = std::fs::read_dir(host.dir.join("leases")).into_iter().flatten().flatten();
        left.extend(dirs.map(|d| format!("{name}: {} is left", d.path().display())));
        if let Some(table) = host.gateway.table() {
            let away = table.services.values().flat_map(|s| &s.leases).map(|l| &l.lease);
            left.extend(table.leases.keys().chain(away).map(|l| format!("{name}: the route of {l} is left")));
        }
    }
    left
}

/// Leases that wait for their settlement at the lender.
pub fn unsettled(hosts: &[Arc<Host>]) -> bool {
    nodes(hosts).any(|(_, n)| {
        let ended = |l: &LentLease| matches!(l.state, LentState::Ended { .. });
        n.list::<LentLease>(LENT).is_ok_and(|all| all.iter().any(ended))
    })
}

fn state(lent: &LentLease) -> &'static str {
    match lent.state {
        LentState::Active => "active",
        LentState::Recalled { .. } => "recalled",
        LentState::Ending { .. } => "ending",
        LentState::Ended { .. } => "ended",
        LentState::Settled { .. } => "settled",
    }
}

fn outcome(journey: &Journey) -> String {
    match &journey.phase {
        Phase::Closed { outcome: Outcome::Returned, .. } => "returned".into(),
        Phase::Closed { outcome, why, .. } => format!("{outcome:?}: {why}"),
        other => format!("{other:?}"),
    }
}

impl End {
    pub fn of(hosts: &[Arc<Host>], answered: u64, unanswered: u64) -> Self {
        let mut end = Self { left: unfinished(hosts), answered, unanswered, ..Self::default() };
        let all: BTreeMap<_, _> = nodes(hosts).map(|(h, n)| (h.name.clone(), n)).collect();
        let document =
            |node: &Arc<Node>, id: &LeaseId| node.get::<SignedDocument>(SETTLEMENT, id.as_str()).ok().flatten();
        for node in all.values() {
            for journey in listed::<Journey>(node, JOURNEY, &mut end.left) {
                end.outcomes.insert(outcome(&journey));
                for part in &journey.parts {
                    let there = all.get(&part.lender);
                    let lent = there.and_then(|n| n.get::<LentLease>(LENT, part.lease.as_str()).ok().flatten());
                    let (proven, settled) = match &part.state {
                        PartState::Ended { proven, settled, .. } => (Some(*proven), Some(*settled)),
                        _ => (None, None),
                    };
                    let documents = (document(node, &part.lease), there.and_then(|n| document(n, &part.lease)));
                    let (same, said) = match &documents {
                        (Some(a), Some(b)) => {
                            (Some(a == b), serde_json::from_slice::<Settlement>(a.unverified_payload()).ok())
                        }
                        (None, None) => (None, None),
                        _ => (Some(false), None),
                    };
                    let gap_ms = said.as_ref().map_or(0, |s| {
                        s.lender_usage.instance_ms.abs_diff(s.borrower_usage.instance_ms)
                            / u64::from(part.granted.max(1))
                    });
                    let agreed = said.map(|s| s.agreed);
                    let lender = lent.as_ref().map(state);
                    let served = part.usage.requests > 0;
                    let lease = LeaseEnd { served, proven, settled, lender, same_settlement: same, agreed, gap_ms };
                    end.leases.insert(part.lease.clone(), lease);
                }
            }
            // What a lender lent and no borrower knows.
            for lent in listed::<LentLease>(node, LENT, &mut end.left) {
                end.leases.entry(lent.id().clone()).or_insert(LeaseEnd {
                    served: false,
                    proven: None,
                    settled: None,
                    lender: Some(state(&lent)),
                    same_settlement: None,
                    agreed: None,
                    gap_ms: 0,
                });
            }
            for service in listed::<ServiceRecord>(node, SERVICE, &mut end.left) {
                if register::is_ours(node, &service) {
                    end.owners.insert(format!("{}: {} at epoch {}", service.name(), node.name(), service.epoch));
                }
            }
            let rows = node.store.journal_page(0, 100_000, &JournalFilter::default()).unwrap_or_default();
            for row in rows {
                let entry = row.entry;
                let refusal = matches!(
                    entry.action.as_str(),
                    "hold_refused" | "hold_too_late" | "hold_distrusted" | "lease_refused" | "borrowing_refused"
                );
                if refusal {
                    end.refusals.push(format!("{}: {}", entry.action, entry.reasons.join("; ")));
                }
                if let Some(lease) = LeaseId::parse(entry.subject.clone()).ok().filter(|_| !entry.reasons.is_empty()) {
                    end.told.entry(lease).or_default().push(format!("{}: {}", entry.action, entry.reasons.join("; ")));
                }
            }
            for i in node.instances.lock().iter().filter(|i| i.owner.starts_with("service-")) {
                // Ids of services are drawn afresh each time.
                let service = i.owner.split('.').next().unwrap_or_default();
                *end.home_ready.entry(service.to_owned()).or_default() += u32::from(i.state == InstanceState::Ready);
            }
        }
        end
    }

    /// Judges this end beside the one of the run without a fault. `killed`: the fault was a daemon's death.
    pub fn beside(&self, plain: &Self, killed: bool) -> Verdict {
        let mut broken: Vec<String> = self.left.clone();
        let mut refused = Vec::new();
        if self.home_ready != plain.home_ready {
            broken.push(format!("at home run {:?}, without the fault {:?}", self.home_ready, plain.home_ready));
        }
        if self.answered == 0 || self.unanswered > 0 {
            broken.push(format!("afterwards {} users were answered, {} were not", self.answered, self.unanswered));
        }
        let whole = |l: &LeaseEnd| {
            l.proven == Some(true)
                && l.settled == Some(true)
                && l.lender == Some("settled")
                && l.same_settlement == Some(true)
        };
        if self.owners != plain.owners {
            broken.push(format!("the owners are {:?}, without the fault {:?}", self.owners, plain.owners));
        }
        let helped = |end: &Self| end.leases.values().any(|l| l.served && whole(l));
        if helped(plain) && !helped(self) {
            broken.push("no lease served and ended in order".into());
        }
        for (id, lease) in self.leases.iter().filter(|(_, l)| !whole(l)) {
            let told = self.told.get(id).cloned().unwrap_or_default();
            let empty = lease.lender.is_none_or(|s| matches!(s, "ended" | "settled"));
            let why = told.iter().any(|t| ["lease_refused", "switchback"].iter().any(|a| t.starts_with(a)));
            match !lease.served && empty && why && lease.same_settlement != Some(false) {
                true => refused.extend(told),
                false => broken.push(format!("{id} ended so: {lease:?}; told: {told:?}")),
            }
        }
        let mut readings = Vec::new();
        for (id, lease) in self.leases.iter().filter(|(_, l)| l.agreed == Some(false)) {
            let told = self.told.get(id).cloned().unwrap_or_default();
            let told: Vec<String> = told.into_iter().filter(|t| t.starts_with("settled")).collect();
            match killed && lease.gap_ms <= LOST_MS_MAX + self.down_ms && !told.is_empty() {
                true => readings.extend(told),
                false => broken.push(format!("{id}: the readings differ by {} ms: {told:?}", lease.gap_ms)),
            }
        }
        // Refused once the lease was signed: it came back in order, and says why.
        let unserved = self.leases.iter().filter(|(_, l)| !l.served).filter_map(|(id, _)| self.told.get(id));
        let given_back: Vec<String> = unserved.flatten().filter(|t| t.starts_with("switchback")).cloned().collect();
        for outcome in self.outcomes.difference(&plain.outcomes) {
            // A whole journey that found nobody is a refusal; it has said why.
            match outcome.starts_with("NotBegun") && !(self.refusals.is_empty() && given_back.is_empty()) {
                true => refused.extend(given_back.iter().chain([outcome]).cloned()),
                false => broken.push(format!("a journey ended so: {outcome}")),
            }
        }
        if !broken.is_empty() {
            return Verdict::Broken(broken);
        }
        if refused.is_empty() {
            return if readings.is_empty() { Verdict::Same } else { Verdict::Reading(readings) };
        }
        refused.extend(self.refusals.iter().cloned());
        Verdict::Refused(refused)
    }
}
