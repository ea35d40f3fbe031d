//! One voter: consensus, the register that follows from it, and what renewals it heard. What it leads to outside is told as effects.
//!
//! Enters: messages of voters, renewals, proposals, what is on disk, the time. Leaves: effects, in order.
//! Always holds: a state is shown, a proposal answered and a renewal acknowledged only once the batch that brought it is on disk here; a
//! leader's batch of renewals holds only such as it does not see in the register yet; nothing here waits.

use super::group::Group;
use super::keep::{KeepError, Writes};
use super::register::{self, Done, Ring, Step, Stop};
use pumasi_ownership::{Command, Entry, Renewal, State, Told};
use pumasi_quorum::{Conf, Driver, Fetch, ProposeError, RaftId, Role, Status};
use pumasi_terms::{BootMs, CloudName, Digest};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A leader collects renewals for so long, at most.
const BATCH_MS_MAX: u64 = 50;
/// A leader that has a newer pact than the register says so this often.
const PACT_MS: u64 = 1_000;
/// Proposals whose end is waited for.
const ASKED_MAX: usize = 1_024;
/// Numbers of voters that were looked up.
const IDS_MAX: usize = 256;
/// Snapshots that others may fetch.
const SNAPSHOTS: usize = 2;

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done {
        index: u64,
        told: Vec<Told>,
    },
    /// Another entry stands where it would have stood: it had no effect, and will have none.
    Lost,
    NotLeader(Option<CloudName>),
    Busy,
    /// It can never be taken.
    Unfit(String),
    /// It may be in the log, or come into it.
    Unknown,
}

/// What is to be done outside, in this order.
#[derive(Debug)]
pub enum Effect {
    Send {
        to: CloudName,
        message: Vec<u8>,
    },
    Forward {
        to: CloudName,
        renewal: Renewal,
    },
    /// One transaction; the next one only after it. Its end is told by `written`.
    Write {
        number: u64,
        writes: Box<Writes>,
        told: Vec<Told>,
    },
    Fetch {
        from: CloudName,
        digest: Digest,
    },
    /// The register is so now.
    Show {
        state: Arc<State>,
        told: Vec<Told>,
    },
}

#[derive(Debug)]
struct Heard {
    renewal: Renewal,
    at: BootMs,
    forwarded: Option<BootMs>,
}

/// The leader's batches of renewals.
#[derive(Debug, Default)]
struct Batches {
    term: u64,
    last: Option<BootMs>,
    /// What they held last.
    proposed: BTreeMap<CloudName, (u64, u64)>,
    pact: Option<BootMs>,
}

#[derive(Debug)]
pub struct Voter {
    pub group: Group,
    driver: Driver,
    /// After all that was taken, on disk or not.
    ahead: Option<Arc<State>>,
    waiting: VecDeque<(u64, Step)>,
    /// As of what is on disk.
    state: Option<Arc<State>>,
    ring: Ring,
    snapshots: VecDeque<(Digest, Arc<[u8]>)>,
    heard: BTreeMap<CloudName, Heard>,
    batches: Batches,
    incarnations: BTreeMap<CloudName, u64>,
    ids: BTreeMap<RaftId, Option<CloudName>>,
    asked: BTreeMap<u64, (u64, oneshot::Sender<Outcome>)>,
    fetching: Option<Digest>,
    /// Who shall vote, and by what that was said.
    target: Option<(Conf, BTreeSet<RaftId>)>,
}

/// Why a voter cannot go on by itself.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It is built anew from the store.
    #[error("{0}")]
    Fault(String),
    /// This program cannot go on, whatever it does.
    #[error("{0}")]
    Stopped(#[from] Stop),
    #[error(transparent)]
    Keep(#[from] KeepError),
}

impl Voter {
    pub fn new(group: Group, driver: Driver, state: Option<State>, snapshot: Option<(Digest, Arc<[u8]>)>) -> Self {
        let state = state.map(Arc::new);
        let mut ring = Ring::default();
        ring.begin(state.as_ref().map_or(u64::MAX, |s| s.revision));
        Self {
            group,
            driver,
            ahead: state.clone(),
            waiting: VecDeque::new(),
            state,
            ring,
            snapshots: snapshot.into_iter().collect(),
            heard: BTreeMap::new(),
            batches: Batches::default(),
            incarnations: BTreeMap::new(),
            ids: BTreeMap::new(),
            asked: BTreeMap::new(),
            fetching: None,
            target: None,
        }
    }

    pub fn status(&self) -> Option<Status> {
        self.driver.status().ok()
    }
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The bytes of a snapshot: one of the log's, or the register as it is now.
    pub fn snapshot(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        self.snapshots.iter().find(|(d, _)| d == digest).map(|(_, bytes)| bytes.clone())
    }

    /// For a follower who is too far behind.
    pub fn snapshot_now(&mut self) -> Option<Digest> {
        let bytes = self.state.as_ref()?.to_json().ok()?;
        let digest = pumasi_quorum::storage::digest_of(&bytes);
        self.keep_snapshot(digest, bytes.into());
        Some(digest)
    }

    fn keep_snapshot(&mut self, digest: Digest, bytes: Arc<[u8]>) {
        self.snapshots.retain(|(d, _)| *d != digest);
        self.snapshots.push_back((digest, bytes));
        while self.snapshots.len() > SNAPSHOTS {
            self.snapshots.pop_front();
        }
    }

    /// The pact has another serial. Times that changed need another driver, which the caller sees to.
    pub fn set_group(&mut self, group: Group) {
        self.ids.clear();
        self.target = None;
        self.group = group;
    }

    /// A member's own word: under which number its store votes.
    pub fn tells(&mut self, cloud: &CloudName, incarnation: u64) {
        if self.group.members.contains(cloud) {
            let known = self.incarnations.entry(cloud.clone()).or_default();
            if incarnation > *known {
                *known = incarnation;
                self.target = None;
            }
        }
    }

    pub fn message(&mut self, from: RaftId, bytes: &[u8]) {
        if let Err(e) = self.driver.receive(from, bytes) {
            tracing::debug!(error = %e, "a message of a voter was not taken");
        }
    }

    pub fn renewal(&mut self, renewal: Renewal, now: BootMs) {
        let new = (renewal.run, renewal.seq);
        if !self.group.members.contains(&renewal.cloud)
            || self.heard.get(&renewal.cloud).is_some_and(|h| (h.renewal.run, h.renewal.seq) >= new)
        {
            return;
        }
        // As long as nothing of it is seen in the register, the patience with the first one goes on: its sender renews as often as it lasts.
        let known = self.state.as_ref().and_then(|s| s.clouds.get(&renewal.cloud)).map(|c| (c.run, c.seq));
        let open = self.heard.get(&renewal.cloud).filter(|h| known.is_some_and(|k| (h.renewal.run, h.renewal.seq) > k));
        let (at, forwarded) = open.map_or((now, None), |h| (h.at, h.forwarded));
        self.heard.insert(renewal.cloud.clone(), Heard { renewal, at, forwarded });
    }

    pub fn measured(&mut self, round_trip_ms: u64) {
        self.driver.measured(round_trip_ms);
    }

    pub fn propose(&mut self, by: &CloudName, command: Command, reply: oneshot::Sender<Outcome>) {
        self.asked.retain(|_, (_, reply)| !reply.is_closed());
        let outcome = match Entry::new(by.clone(), command).to_bytes() {
            Err(e) => Outcome::Unfit(e.to_string()),
            Ok(_) if self.asked.len() >= ASKED_MAX => Outcome::Busy,
            Ok(bytes) => match self.driver.propose(bytes) {
                Ok(at) => {
                    // Whoever waited for this place has lost it.
                    if let Some((_, before)) = self.asked.insert(at.index, (at.term, reply)) {
                        let _ = before.send(Outcome::Lost);
                    }
                    return;
                }
                Err(ProposeError::NotLeader { leader }) => Outcome::NotLeader(leader.and_then(|l| self.cloud_of(l))),
                Err(e @ ProposeError::Size { .. }) => Outcome::Unfit(e.to_string()),
                Err(ProposeError::Busy) => Outcome::Busy,
                Err(ProposeError::Fault(_)) => Outcome::NotLeader(None),
            },
        };
        let _ = reply.send(outcome);
    }

    /// A transaction of this number is on disk, with all before.
    pub fn written(&mut self, number: u64) -> Vec<Effect> {
        if let Err(e) = self.driver.persisted(number) {
            tracing::debug!(error = %e, "what is on disk was not taken");
        }
        let mut effects = Vec::new();
        while self.waiting.front().is_some_and(|(n, _)| *n <= number) {
            let Some((_, step)) = self.waiting.pop_front() else { break };
            effects.extend(self.show(step));
        }
        effects
    }

    fn show(&mut self, step: Step) -> Option<Effect> {
        let state = step.state?;
        if step.restored {
            self.ring.begin(state.revision);
        }
        for (index, entry) in step.entries {
            self.ring.push(index, entry);
        }
        let news = step.restored || !step.done.is_empty();
        self.state = Some(state.clone());
        let mut told = Vec::new();
        for Done { index, term, told: of } in step.done {
            if let Some((asked, reply)) = self.asked.remove(&index) {
                let same = Outcome::Done { index, told: of.clone() };
                let _ = reply.send(if asked == term { same } else { Outcome::Lost });
            }
            told.extend(of);
        }
        // What was asked at a place that is behind, and was not there, is nowhere.
        let applied = self.driver.status().map_or(0, |s| s.applied);
        let outcome = if step.restored { Outcome::Unknown } else { Outcome::Lost };
        while let Some(first) = self.asked.first_entry().filter(|first| *first.key() <= applied) {
            let _ = first.remove().1.send(outcome.clone());
        }
        news.then_some(Effect::Show { state, told })
    }

    pub fn fetched(&mut self, digest: Digest, bytes: Option<Vec<u8>>) {
        self.fetching = None;
        if let Some(bytes) = bytes
            && let Err(e) = self.driver.fetched(digest, bytes)
        {
            tracing::debug!(error = %e, "a snapshot of the register was not taken");
        }
    }

    /// Everything that is due. To be called after every other call, and some times a tick.
    pub fn pump(&mut self, now: BootMs) -> Result<Vec<Effect>, Broken> {
        self.driver.tick(now).map_err(|e| Broken::Fault(e.to_string()))?;
        self.duties(now);
        let mut effects = self.forward(now);
        loop {
            let out = self.driver.take();
            for message in out.messages {
                if let Some(to) = self.cloud_of(message.to) {
                    effects.push(Effect::Send { to, message: message.bytes });
                }
            }
            effects.extend(out.fetch.and_then(|fetch| self.fetch(&fetch)));
            if out.snapshot_due {
                self.take_snapshot()?;
            }
            let Some(work) = out.work else { break };
            let writes = Box::new(Writes::of(&work.persist)?);
            if let Some(snapshot) = work.persist.snapshot {
                self.keep_snapshot(snapshot.meta.digest, snapshot.state.into());
            }
            let step = register::step(self.ahead.clone(), &work.apply)?;
            self.ahead.clone_from(&step.state);
            let told = step.done.iter().flat_map(|d| d.told.clone()).collect();
            self.waiting.push_back((work.number, step));
            effects.push(Effect::Write { number: work.number, writes, told });
        }
        match self.driver.status() {
            Ok(_) => Ok(effects),
            Err(e) => Err(Broken::Fault(e.to_string())),
        }
    }

    fn fetch(&mut self, fetch: &Fetch) -> Option<Effect> {
        if self.fetching.is_some() {
            return None;
        }
        let from = self.cloud_of(fetch.from)?;
        self.fetching = Some(fetch.meta.digest);
        Some(Effect::Fetch { from, digest: fetch.meta.digest })
    }

    fn take_snapshot(&mut self) -> Result<(), Broken> {
        let Some(state) = &self.state else { return Ok(()) };
        let applied = self.driver.status().map_or(0, |s| s.applied);
        let bytes = state.to_json().map_err(Stop::from)?;
        if let Err(e) = self.driver.snapshot(applied, bytes) {
            tracing::debug!(error = %e, "a snapshot of the register was not taken");
        }
        Ok(())
    }

    pub fn leads(&self) -> bool {
        self.driver.status().is_ok_and(|s| s.role == Role::Leader)
    }

    pub fn leader(&mut self) -> Option<CloudName> {
        let leader = self.driver.status().ok().and_then(|s| s.leader)?;
        self.cloud_of(leader)
    }

    /// Whether the group counts this store as a voter, or will.
    pub fn takes_part(&self) -> bool {
        let own = self.group.own_id();
        self.group.is_voter() || self.driver.status().is_ok_and(|s| s.conf.has(own))
    }

    pub fn cloud_of(&mut self, id: RaftId) -> Option<CloudName> {
        if self.ids.len() > IDS_MAX {
            self.ids.clear();
        }
        let (group, incarnations) = (&self.group, &self.incarnations);
        let find = || {
            let told = incarnations.iter().find(|(c, n)| group.id(c, **n) == id).map(|(c, _)| c);
            told.or_else(|| group.cloud_of(id)).cloned()
        };
        self.ids.entry(id).or_insert_with(find).clone()
    }

    /// What whoever leads proposes by itself: renewals, and a newer serial of the pact.
    fn duties(&mut self, now: BootMs) {
        let Ok(status) = self.driver.status() else { return };
        let (leads, term) = (status.role == Role::Leader, status.term);
        if self.target.as_ref().is_none_or(|(conf, _)| *conf != status.conf) {
            let target = self.group.target(&self.incarnations, &status.conf);
            if let Err(e) = self.driver.aim(target.clone()) {
                tracing::debug!(error = %e, "the pact's voters are not aimed at");
            }
            self.target = Some((status.conf, target));
        }
        if !leads {
            return;
        }
        if self.batches.term != term {
            self.batches = Batches { term, ..Batches::default() };
        }
        self.propose_pact(now);
        let every_ms = BATCH_MS_MAX.min(self.group.timers().renew_ms);
        if self.batches.last.is_none_or(|at| now.since(at) >= every_ms) {
            self.propose_renewals(now);
        }
    }

    fn propose_own(&mut self, command: Command) -> bool {
        let bytes = Entry::new(self.group.me.clone(), command).to_bytes();
        match bytes.map_err(|e| e.to_string()).and_then(|b| self.driver.propose(b).map_err(|e| e.to_string())) {
            Ok(_) => true,
            Err(e) => {
                tracing::debug!(error = %e, "the leader's own entry was not taken; tried again");
                false
            }
        }
    }

    fn propose_renewals(&mut self, now: BootMs) {
        let Some(state) = &self.ahead else { return };
        let proposed = &self.batches.proposed;
        let is_news = |h: &&Heard| {
            let r = &h.renewal;
            state.clouds.get(&r.cloud).is_some_and(|c| c.run == r.run && c.seq < r.seq)
                && proposed.get(&r.cloud).is_none_or(|p| *p < (r.run, r.seq))
        };
        let renewals: Vec<Renewal> = self.heard.values().filter(is_news).map(|h| h.renewal.clone()).collect();
        if renewals.is_empty() {
            return;
        }
        let most = pumasi_ownership::command::ELAPSED_MS_MAX;
        let elapsed_ms = self.batches.last.map_or(0, |last| now.since(last).min(most));
        let held: Vec<_> = renewals.iter().map(|r| (r.cloud.clone(), (r.run, r.seq))).collect();
        let mut taken = true;
        for (at, part) in renewals.chunks(pumasi_ownership::command::RENEWALS_MAX).enumerate() {
            let elapsed_ms = if at == 0 { elapsed_ms } else { 0 };
            taken &= self.propose_own(Command::Renew { elapsed_ms, renewals: part.to_vec() });
        }
        if taken {
            self.batches.last = Some(now);
            self.batches.proposed.extend(held);
        }
    }

    fn propose_pact(&mut self, now: BootMs) {
        let Some(state) = &self.ahead else { return };
        let voting = &self.group.voting;
        let due = self.batches.pact.is_none_or(|at| now.since(at) >= PACT_MS);
        if voting.serial > state.voting.serial && due && voting.check().is_ok() {
            self.batches.pact = Some(now);
            self.propose_own(Command::Pact { voting: Box::new(voting.clone()) });
        }
    }

    /// What the leader did not get from its sender, it gets from here.
    fn forward(&mut self, now: BootMs) -> Vec<Effect> {
        if self.leads() {
            return Vec::new();
        }
        let (Some(leader), Some(state)) = (self.leader(), self.state.clone()) else { return Vec::new() };
        let patience_ms = self.group.timers().renew_ms.max(2 * BATCH_MS_MAX);
        let mut effects = Vec::new();
        for heard in self.heard.values_mut() {
            let r = &heard.renewal;
            let open = state.clouds.get(&r.cloud).is_some_and(|c| c.run == r.run && c.seq < r.seq);
            let since = heard.forwarded.unwrap_or(heard.at);
            if open && r.cloud != leader && now.since(since) >= patience_ms.min(self.group.timers().ttl_ms / 8) {
                heard.forwarded = Some(now);
                effects.push(Effect::Forward { to: leader.clone(), renewal: r.clone() });
            }
        }
        effects
    }
}

#[cfg(test)]
#[path = "voter_tests.rs"]
mod tests;
