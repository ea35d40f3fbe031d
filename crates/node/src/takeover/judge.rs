//! Whether a cloud is lost, and who takes over: the leader's side.
//!
//! Enters: whose renewals are late, what the others heard and have. Leaves: `Lost` with the word of a majority and a plan; later
//! `Recover`, when more of a lost cloud's services find room, and `Relieve` of what an owner that lives has given up.
//! Always holds: only whoever leads asks and proposes; what is asked is of one run and one renewal, under a number of its own, and
//! counts for no other; everything is asked while the wait goes on, so that it costs no time after it.

use super::report::{self, AskSilence, Silence};
use crate::node::Locked;
use crate::{Node, clock, quiet, voting, world};
use futures_util::future::join_all;
use pumasi_api::CallError;
use pumasi_ownership::recover::{Policy, Report, recover, relieve};
use pumasi_ownership::state::{Class, End, Phase, Standing};
use pumasi_ownership::{Attestation, Command, Item, Lost, State, Told};
use pumasi_terms::{BootMs, CloudName};
use pumasi_trust::SignedDocument;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Deferred services wait for so long, in the register's time, ms.
pub const DEFERRED_AFTER_MS: u64 = 600_000;
/// What waits is looked at again so often.
const AGAIN_MS: u64 = 2_000;
/// For one answer, where nothing shorter is due.
const ASK_MS_MAX: u64 = 1_000;
const ASK_MS_MIN: u64 = 50;
/// Between two looks.
const TICK_MS_MIN: u64 = 5;
const TICK_MS_MAX: u64 = 50;

/// What was asked about one cloud that is silent.
#[derive(Debug, Clone)]
struct Inquiry {
    run: u64,
    seq: u64,
    nonce: u64,
    asked_at: Option<BootMs>,
    under_way: bool,
    said: BTreeMap<CloudName, Silence>,
}

impl Inquiry {
    fn new(run: u64, seq: u64) -> Self {
        let nonce = u64::try_from(clock::entropy() & u128::from(u64::MAX)).unwrap_or(1);
        Self { run, seq, nonce, asked_at: None, under_way: false, said: BTreeMap::new() }
    }

    /// Those that attest just this.
    fn attestations(&self, cloud: &CloudName) -> Vec<SignedDocument> {
        let fits = |d: &&SignedDocument| {
            serde_json::from_slice::<Attestation>(d.unverified_payload())
                .is_ok_and(|a| (&a.cloud, a.run, a.seq, a.nonce) == (cloud, self.run, self.seq, self.nonce))
        };
        self.said.values().filter_map(|s| s.attestation.as_ref()).filter(fits).cloned().collect()
    }

    fn reports(&self) -> BTreeMap<CloudName, Report> {
        self.said.iter().map(|(cloud, said)| (cloud.clone(), said.report())).collect()
    }
}

#[derive(Debug, Default)]
pub struct Inquiries {
    open: Locked<BTreeMap<CloudName, Inquiry>>,
    /// When services that wait were looked at last.
    looked_at: Locked<Option<BootMs>>,
}

pub async fn run(node: Arc<Node>) {
    let mut stopping = node.stopping.clone();
    loop {
        let rest = match node.voting.group() {
            Some(g) => Duration::from_millis((g.timers().renew_ms / 4).clamp(TICK_MS_MIN, TICK_MS_MAX)),
            None => quiet::whole(AGAIN_MS),
        };
        tokio::select! {
            biased;
            _ = stopping.changed() => return,
            () = tokio::time::sleep(rest) => {}
        }
        if node.voting.leader().as_ref() != Some(node.name()) || node.may_act().is_err() {
            node.takeover.inquiries.open.lock().clear();
            continue;
        }
        let Some(state) = node.voting.state() else { continue };
        look(&node, &state).await;
        look_at_waiting(&node, &state).await;
    }
}

async fn look(node: &Arc<Node>, state: &State) {
    let now = clock::boot();
    // One that left stays in the register until the next serial, and its silence is no loss.
    let member = |c: &CloudName| node.pact().is_some_and(|v| v.pact.member(c).is_some());
    let mut suspects = node.voting.suspects(now);
    // Its own as well: a leader whose gateway is dead does not renew, and goes on leading.
    suspects.retain(member);
    node.takeover.inquiries.open.lock().retain(|cloud, _| suspects.contains(cloud));
    for cloud in suspects {
        let Some(known) = state.clouds.get(&cloud) else { continue };
        let every_ms = (known.ttl_ms / 8).max(TICK_MS_MIN);
        let inquiry = {
            let mut open = node.takeover.inquiries.open.lock();
            let inquiry = open.entry(cloud.clone()).or_insert_with(|| Inquiry::new(known.run, known.seq));
            if (inquiry.run, inquiry.seq) != (known.run, known.seq) {
                *inquiry = Inquiry::new(known.run, known.seq);
            }
            inquiry.clone()
        };
        let ripe = node.voting.ripe_at(&cloud).is_some_and(|at| now >= at);
        let attestations = inquiry.attestations(&cloud);
        if ripe && state.voting.is_majority(attestations.len()) {
            propose(node, state, &cloud, inquiry, attestations).await;
        } else if !inquiry.under_way && inquiry.asked_at.is_none_or(|at| now.since(at) >= every_ms) {
            ask_beside(node, &cloud, &inquiry, known.ttl_ms);
        }
    }
}

/// All members but the one that is silent, this one among them unless it is that one.
async fn ask_all(node: &Arc<Node>, about: &CloudName, nonce: u64, within: Duration) -> BTreeMap<CloudName, Silence> {
    let Some(group) = node.voting.group() else { return BTreeMap::new() };
    let asked = AskSilence { since: group.since, cloud: about.clone(), nonce };
    let path = format!("/v1/pacts/{}/silence", group.pact);
    let others = group.members.iter().filter(|c| *c != about && *c != node.name());
    let answers = others.map(|to| {
        let (node, path, asked) = (node.clone(), path.clone(), asked.clone());
        async move {
            let client = node.peers.clients.of(&node, to).ok()?.with_timeout(within);
            let said: Result<Silence, CallError> = client.post(&path, &asked).await;
            Some((to.clone(), said.ok()?))
        }
    });
    let mut said: BTreeMap<CloudName, Silence> = join_all(answers).await.into_iter().flatten().collect();
    if about != node.name()
        && let Ok(own) = report::silence(node, &asked)
    {
        said.insert(node.name().clone(), own);
    }
    said
}

fn ask_beside(node: &Arc<Node>, cloud: &CloudName, inquiry: &Inquiry, ttl_ms: u64) {
    let mut open = node.takeover.inquiries.open.lock();
    let Some(asked) = open.get_mut(cloud) else { return };
    (asked.under_way, asked.asked_at) = (true, Some(clock::boot()));
    drop(open);
    let (node, cloud, nonce) = (node.clone(), cloud.clone(), inquiry.nonce);
    let within = Duration::from_millis((ttl_ms / 4).clamp(ASK_MS_MIN, ASK_MS_MAX));
    world::spawn(async move {
        let said = ask_all(&node, &cloud, nonce, within).await;
        let mut open = node.takeover.inquiries.open.lock();
        if let Some(asked) = open.get_mut(&cloud).filter(|i| i.nonce == nonce) {
            asked.under_way = false;
            asked.said.extend(said);
        }
    });
}

async fn propose(
    node: &Arc<Node>,
    state: &State,
    cloud: &CloudName,
    inquiry: Inquiry,
    attestations: Vec<SignedDocument>,
) {
    let plan = recover(state, &inquiry.reports(), cloud, Policy { deferred: false });
    let lost = Lost {
        cloud: cloud.clone(),
        run: inquiry.run,
        seen_seq: inquiry.seq,
        nonce: inquiry.nonce,
        attestations,
        plan: plan.plan(),
    };
    let told = voting::propose(node, Command::Lost(Box::new(lost))).await;
    node.takeover.inquiries.open.lock().remove(cloud);
    match told {
        Ok(told) if told.iter().any(|t| matches!(t, Told::Stands { standing: Standing::Lost { .. }, .. })) => {
            tracing::error!(%cloud, services = plan.items.len(), "the pact's voters agree that this cloud is lost; its services are taken over by the plan");
        }
        Ok(told) => {
            let why: Vec<String> =
                told.iter().filter_map(|t| if let Told::Refused(r) = t { Some(r.to_string()) } else { None }).collect();
            tracing::info!(%cloud, why = why.join("; "), "the loss of a cloud was not agreed on");
        }
        Err(e) => tracing::warn!(%cloud, error = %e, "the loss of a cloud was not put into the register; asked again"),
    }
}

/// Services of lost clouds that nobody has taken: room may have come, and deferred ones may have their time.
async fn look_at_waiting(node: &Arc<Node>, state: &State) {
    let now = clock::boot();
    {
        let mut looked = node.takeover.inquiries.looked_at.lock();
        if looked.is_some_and(|at| now.since(at) < AGAIN_MS) {
            return;
        }
        *looked = Some(now);
    }
    look_at_given_up(node, state).await;
    for (cloud, recovering) in state.recovery.iter().filter(|(_, r)| !r.asked) {
        let waits = state.owned_by(cloud).any(|(_, owned)| matches!(owned.phase, Phase::Waiting { .. }));
        if !waits {
            continue;
        }
        let reports = reports(node, cloud).await;
        let since = state.clouds.get(cloud).and_then(|c| c.lost_at_ms).unwrap_or(state.elapsed_ms);
        let deferred = state.elapsed_ms.saturating_sub(since) >= DEFERRED_AFTER_MS;
        let plan = recover(state, &reports, cloud, Policy { deferred }).plan();
        let items: Vec<Item> = plan.into_iter().filter(|item| matches!(item.end, End::Taken { .. })).collect();
        if items.is_empty() {
            continue;
        }
        let command = Command::Recover { cloud: cloud.clone(), lost_rev: recovering.at_rev, items };
        if let Err(e) = voting::propose(node, command).await {
            tracing::warn!(%cloud, error = %e, "more of a lost cloud's services were not taken over; asked again");
        }
    }
}

/// Services whose owners live and have stopped writing for them, each for another standby of it.
async fn look_at_given_up(node: &Arc<Node>, state: &State) {
    let given_up = state.services.values().filter(|o| o.phase == Phase::Yielded).map(|o| o.owner.clone());
    for owner in given_up.collect::<std::collections::BTreeSet<_>>() {
        let reports = reports(node, &owner).await;
        for item in relieve(state, &reports, &owner).plan() {
            if !matches!(item.end, End::Taken { .. }) {
                continue;
            }
            if let Err(e) = voting::propose(node, Command::Relieve { item }).await {
                tracing::warn!(cloud = %owner, error = %e, "a service that its owner has given up was not taken over; asked again");
            }
        }
    }
}

/// What each cloud says that it could do, were this one lost.
pub(super) async fn reports(node: &Arc<Node>, lost: &CloudName) -> BTreeMap<CloudName, Report> {
    let said = ask_all(node, lost, 0, Duration::from_millis(ASK_MS_MAX)).await;
    said.into_iter().map(|(cloud, said)| (cloud, said.report())).collect()
}

/// In which order classes are recovered, for people.
pub(super) fn class_name(class: Class) -> &'static str {
    match class {
        Class::Guaranteed => "guaranteed",
        Class::Early => "early",
        Class::Deferred => "deferred",
    }
}
