//! Whether a service could be lent, known before it must be.
//!
//! Enters: services, their bundles and data, what partners offer. Leaves: for each service whether a partner could take it, or what stands
//! against that and what to do; news for the journal.
//! Always holds: the planner's own rule is asked, for one instance and whatever the load; what a scan for the first copy would refuse is
//! found without reading data. Nothing waits for it: what was found last is shown.

use crate::node::{Locked, Note};
use crate::object::ServiceRecord;
use crate::quiet::Rests;
use crate::{Node, bundles, clock, home, world};
use pumasi_api::Problem;
use pumasi_api::message::{Lending, LendingState};
use pumasi_judge::{Cause, Verdict};
use pumasi_plan::make::{self, Ids, PlanInput, Spent};
use pumasi_terms::service::{Dataset, DatasetKind, Service};
use pumasi_terms::{BootMs, Digest, Epoch, JourneyId, LeaseId, PlanId, ReservationId};
use pumasi_transfer::{ScanLimits, survey};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const LOOK_MS: u64 = 1_000;
/// A service that has not changed is looked at again after this, and after so many times as long as the look took.
const AGAIN_MS: u64 = 5_000;
const REST_FACTOR: u64 = 20;
/// Whoever applies a service waits at most so long to be told.
const TOLD_WITHIN_MS: u64 = 2_000;

/// What was found last, by owner.
#[derive(Debug, Default)]
pub struct Known(Locked<BTreeMap<String, Found>>);

#[derive(Debug)]
struct Found {
    lending: Lending,
    generation: u64,
    again_at: BootMs,
}

impl Known {
    pub fn of(&self, service: &ServiceRecord) -> Lending {
        let known = self.0.lock();
        let found = known.get(&service.owner()).filter(|f| f.generation == service.generation);
        found.map(|f| f.lending.clone()).unwrap_or_default()
    }
}

/// An application as it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Bundle {
    pub digest: Digest,
    pub bytes: u64,
    pub files: u64,
}

pub async fn run(node: Arc<Node>) {
    let (mut stopping, mut rests) = (node.stopping.clone(), Rests::new(&node));
    while !*stopping.borrow() {
        if let Err(e) = look(&node).await {
            tracing::warn!(error = %e, "what could be lent was not looked at; tried again");
        }
        tokio::select! {
            biased;
            () = rests.rest(&node, LOOK_MS, AGAIN_MS) => {}
            _ = stopping.changed() => break,
        }
    }
}

async fn look(node: &Node) -> Result<(), Problem> {
    let services = node.services()?;
    let owners: BTreeSet<String> = services.iter().map(|s| s.owner()).collect();
    node.lendable.0.lock().retain(|owner, _| owners.contains(owner));
    for service in services.iter().filter(|s| !s.deleting) {
        let known = |f: &Found| f.generation == service.generation && clock::boot() < f.again_at;
        if !node.lendable.0.lock().get(&service.owner()).is_some_and(known) {
            find(node, service).await?;
        }
    }
    Ok(())
}

/// Of a service that was just applied; it may take longer than whoever applied it waits, and is found all the same.
pub async fn told(node: &Arc<Node>, service: &ServiceRecord) {
    let (found, service) = (node.clone(), service.clone());
    let finding = world::spawn(async move {
        if let Err(e) = find(&found, &service).await {
            tracing::warn!(service = %service.name(), error = %e, "whether it could be lent was not found; tried again");
        }
    });
    let _ = tokio::time::timeout(Duration::from_millis(TOLD_WITHIN_MS), finding).await;
}

async fn find(node: &Node, service: &ServiceRecord) -> Result<(), Problem> {
    let begun = clock::boot();
    let digest = service.bundle();
    let size = bundles::owned(node, &service.customer).size(node, &digest)?;
    let bundle = Bundle { digest, bytes: size.bytes, files: size.files };
    let sets: Vec<(Dataset, PathBuf)> =
        service.document.spec.datasets.iter().map(|d| (d.clone(), home::data_dir(node, service, &d.name))).collect();
    let data = world::blocking(move || surveyed(&sets)).await.map_err(|e| Problem::ours(e.to_string()))?;
    let lending = lending(node, &service.document, bundle, &data);
    let took_ms = clock::boot().since(begun);
    let again_at = clock::boot().after(AGAIN_MS.max(took_ms.saturating_mul(REST_FACTOR)));
    let found = Found { lending: lending.clone(), generation: service.generation, again_at };
    let before = node.lendable.0.lock().insert(service.owner(), found).map(|f| f.lending);
    tell(node, service, before.as_ref(), &lending).await;
    Ok(())
}

/// Figures change with each byte; the obstacle is the same.
fn kinds(lending: &Lending) -> Vec<String> {
    let words = |text: &String| text.chars().filter(|c| !c.is_ascii_digit()).collect();
    lending.why.iter().map(words).collect()
}

async fn tell(node: &Node, service: &ServiceRecord, before: Option<&Lending>, now: &Lending) {
    let same = before.is_some_and(|b| b.state == now.state && kinds(b) == kinds(now));
    let was_no = before.is_some_and(|b| b.state == LendingState::No);
    let action = match now.state {
        LendingState::No if !same => "cannot_be_lent",
        LendingState::Yes if was_no => "can_be_lent",
        _ => return,
    };
    let note = Note::new(action, "service", service.name());
    node.note("daemon", now.why.iter().fold(note, |note, why| note.because(why.clone()))).await;
}

/// What a first copy would hold, or why there could be none.
struct Data {
    bytes: u64,
    files: u64,
    fault: Option<String>,
}

fn surveyed(sets: &[(Dataset, PathBuf)]) -> Vec<Data> {
    let one = |(set, dir): &(Dataset, PathBuf)| {
        if let (DatasetKind::Sqlite, Some(file)) = (set.kind, &set.file) {
            let bytes = dir.join(file).symlink_metadata().map_or(0, |m| m.len());
            return Data { bytes, files: 1, fault: None };
        }
        let limits = ScanLimits::of_dataset(set.bytes_max);
        match survey(dir, limits) {
            Ok(found) => Data { bytes: found.bytes, files: found.entries, fault: None },
            // No instance was started yet.
            Err(_) if !dir.exists() => Data { bytes: 0, files: 0, fault: None },
            Err(e) => {
                // Where it lies on this host is not its owner's business.
                let (dir, within) = (dir.display().to_string(), format!("{}/", dir.display()));
                let text = e.to_string().replace(&within, "").replace(&dir, "it");
                Data { bytes: 0, files: 0, fault: Some(format!("dataset {}: {text}", set.name)) }
            }
        }
    };
    sets.iter().map(one).collect()
}

/// For a service that is not stored yet: its data are those of the one of its name, if it has any.
pub async fn would_be(
    node: &Node,
    old: Option<&ServiceRecord>,
    service: &Service,
    bundle: Bundle,
) -> Result<Lending, Problem> {
    let dir = |set: &Dataset| old.map_or_else(PathBuf::new, |old| home::data_dir(node, old, &set.name));
    let sets: Vec<(Dataset, PathBuf)> = service.spec.datasets.iter().map(|d| (d.clone(), dir(d))).collect();
    let data = world::blocking(move || surveyed(&sets)).await.map_err(|e| Problem::ours(e.to_string()))?;
    Ok(lending(node, service, bundle, &data))
}

fn lending(node: &Node, service: &Service, bundle: Bundle, data: &[Data]) -> Lending {
    let because = |state, why: Vec<String>| Lending { state, why };
    if service.spec.borrowing.instances_max == 0 {
        return because(LendingState::Unasked, vec!["borrowing.instances_max is 0".into()]);
    }
    let mut why: Vec<String> = data.iter().filter_map(|d| d.fault.clone()).collect();
    let dataset_bytes = data.iter().map(|d| d.bytes).fold(0, u64::saturating_add);
    let files = data.iter().map(|d| d.files).fold(bundle.files, u64::saturating_add);
    let offers = node.peers.offers();
    if node.pact().is_none() || offers.is_empty() {
        let text = match node.pact() {
            None => "this cloud is in no pact: there is nobody to borrow from",
            Some(_) => "no partner has made an offer lately",
        };
        return match why.is_empty() {
            true => because(LendingState::Unknown, vec![text.into()]),
            false => because(LendingState::No, why),
        };
    }
    let hold = |_| (ReservationId::from_entropy(0), LeaseId::from_entropy(0));
    let asked = PlanInput {
        service: service.clone(),
        home: node.name().clone(),
        verdict: Verdict {
            service: service.metadata.name.clone(),
            cause: Cause::Overload,
            at: clock::wall(),
            borrowed_wanted: 1,
            reasons: Vec::new(),
        },
        epoch: Epoch(0),
        parts: Vec::new(),
        offers,
        spent: Spent::default(),
        parent: None,
        // Nothing of it leaves this function.
        ids: Ids {
            plan: PlanId::from_entropy(0),
            journey: JourneyId::from_entropy(0),
            holds: (0..make::CANDIDATES_MAX).map(hold).collect(),
        },
        application: bundle.digest,
        bundle_bytes: bundle.bytes,
        dataset_bytes,
        files,
        excluded: Vec::new(),
        now: clock::wall(),
    };
    if let Err(none) = make::lendable(&asked) {
        // That nobody remains is no reason beside those of each.
        let many = none.reasons.len() > 1;
        why.extend(none.reasons.into_iter().filter(|r| !(many && r.what == "no_candidate")).map(|r| advice(&r)));
    }
    match why.is_empty() {
        true => because(LendingState::Yes, Vec::new()),
        false => because(LendingState::No, why),
    }
}

/// What to do about it, where that does not stand in the words.
fn advice(obstacle: &make::Obstacle) -> String {
    let what_to_do = match obstacle.what.as_str() {
        "bytes_ceiling" => "raise borrowing.bytes_max, or send less",
        "money_ceiling" => "raise borrowing.money_per_hour_max",
        "platform" => "ask that partner for the runtime, or bring it in the bundle",
        "egress" => "ask that partner to allow it in its lend.egress",
        "not_allowed" => "name it in borrowing.clouds",
        "no_room" => "ask that partner for more storage",
        _ => return obstacle.text.clone(),
    };
    format!("{}: {what_to_do}", obstacle.text)
}
