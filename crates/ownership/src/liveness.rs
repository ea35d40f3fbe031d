//! How long this cloud may write, and from when on another one may be called lost.
//!
//! Enters: instants of this cloud's own boot clock, and what was sent, answered, seen and applied. Leaves: the end of the right, the instant
//! from which a loss may be proposed, attestations.
//!
//! Always holds, without clocks that agree, and whoever leads: a renewal is numbered (run, seq) and is an entry of the log. Let n be a renewal
//! that was answered. The last one in the log is n or one that was sent after it, so the holder takes for its right the earliest end, sent(m) +
//! ttl(m) - margin, of all m >= n that it has *sent*. A taker waits ttl(m) and the drift from its *first sight* of the last applied m, which is
//! later than sent(m), and `Lost` has no effect unless m is the last one in log order. So the right is over before `Lost` can be applied.
//! With rising ends that is the end of the newest answered one; a lowered ttl binds from its sending, a raised one is free.
//!
//! A `Holder` does not outlive its process: a new process takes a new run, since it cannot know what the old one sent. The gateway is told an end that
//! came nearer *before* the renewal that brings it nearer leaves.

use crate::command::{Attestation, Renewal};
use crate::rules::Mutant;
use crate::state::{Health, Phase, Standing, State};
use crate::timers::Timers;
use pumasi_terms::{BootMs, CloudName, Epoch, Resources, ServiceId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Renewals of one holder that are unanswered, and first sights of one cloud, at one time.
pub const OPEN_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sent {
    seq: u64,
    at: BootMs,
    /// at + ttl - margin.
    until: BootMs,
    /// For one planted fault only.
    answered: Option<BootMs>,
}

/// The holder's side: one process of one cloud.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    cloud: CloudName,
    run: u64,
    last_seq: u64,
    /// From the newest answered one on; before there is one, all.
    sent: VecDeque<Sent>,
    answered: Option<u64>,
    planted: Option<Mutant>,
}

impl Holder {
    /// `run` is above every run that this cloud ever had; it has joined with it.
    pub fn new(cloud: CloudName, run: u64) -> Self {
        Self { cloud, run, last_seq: 0, sent: VecDeque::new(), answered: None, planted: None }
    }
    #[doc(hidden)]
    pub fn planted(self, planted: Option<Mutant>) -> Self {
        Self { planted, ..self }
    }
    pub fn run(&self) -> u64 {
        self.run
    }

    /// The next renewal. `now` is read before it leaves, and before whatever must succeed first (the probe of the disk) is begun.
    pub fn send(&mut self, now: BootMs, ttl_ms: u64, timers: &Timers, (free, health): (Resources, Health)) -> Renewal {
        self.last_seq = self.last_seq.saturating_add(1);
        let until = BootMs(now.after(ttl_ms).0.saturating_sub(timers.margin_ms(ttl_ms)));
        self.sent.push_back(Sent { seq: self.last_seq, at: now, until, answered: None });
        if self.sent.len() > OPEN_MAX {
            self.forget_second();
        }
        Renewal { cloud: self.cloud.clone(), run: self.run, seq: self.last_seq, ttl_ms, free, health }
    }

    /// An answer to it counts as one to the first from now on; the earlier end of both stands for both.
    fn forget_second(&mut self) {
        let Some(second) = self.sent.remove(1) else { return };
        if let Some(first) = self.sent.front_mut() {
            first.until = first.until.min(second.until);
        }
    }

    /// Some voter has applied this renewal: it is in the log, whoever says so.
    pub fn answered(&mut self, run: u64, seq: u64, now: BootMs) {
        if run != self.run || seq > self.last_seq || self.answered.is_some_and(|n| n >= seq) {
            return;
        }
        let Some(at) = self.sent.iter().rposition(|s| s.seq <= seq) else { return };
        self.sent.drain(..at);
        self.answered = Some(seq);
        for sent in self.sent.iter_mut().filter(|s| s.seq <= seq) {
            sent.answered.get_or_insert(now);
        }
    }

    /// This cloud may write while its clock is below it. None: it has no right yet.
    pub fn right_until(&self) -> Option<BootMs> {
        self.answered?;
        let end = |s: &Sent| match (self.planted, s.answered) {
            (Some(Mutant::HolderCountsFromAnswer), Some(answered)) => s.until.after(answered.since(s.at)),
            _ => s.until,
        };
        let binds = |s: &&Sent| match self.planted {
            Some(Mutant::HolderCountsFromAnswer | Mutant::LoweredTtlCountsFromAnswer) => s.answered.is_some(),
            _ => true,
        };
        self.sent.iter().filter(binds).map(end).min()
    }
}

/// The taker's side: when this process first knew of each renewal, by a datagram, an append to the log, or applying it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sights {
    /// (run, seq) and when.
    first: BTreeMap<CloudName, VecDeque<(u64, u64, BootMs)>>,
    planted: Option<Mutant>,
}

impl Sights {
    /// A process that starts has seen nothing: it waits for everything from its start.
    pub fn start(state: &State, now: BootMs) -> Self {
        let mut sights = Self { first: BTreeMap::new(), planted: None };
        sights.applied(state, now);
        sights
    }
    #[doc(hidden)]
    pub fn planted(self, planted: Option<Mutant>) -> Self {
        Self { planted, ..self }
    }

    /// A renewal came by, in the log or not yet.
    pub fn saw(&mut self, cloud: &CloudName, run: u64, seq: u64, now: BootMs) {
        let seen = self.first.entry(cloud.clone()).or_default();
        let at = seen.partition_point(|(r, s, _)| (*r, *s) < (run, seq));
        if seen.get(at).is_some_and(|(r, s, _)| (*r, *s) == (run, seq)) {
            return;
        }
        seen.insert(at, (run, seq, now));
        if seen.len() > OPEN_MAX {
            // The later one of both stands for both: a sight may be later than it was, never earlier.
            seen.remove(1);
        }
    }

    /// After each entry and each snapshot: what was never seen is seen now, and what is behind the register is forgotten.
    pub fn applied(&mut self, state: &State, now: BootMs) {
        self.first.retain(|cloud, _| state.clouds.contains_key(cloud));
        for (name, cloud) in &state.clouds {
            let known = (cloud.run, cloud.seq);
            let seen = self.first.entry(name.clone()).or_default();
            seen.retain(|(run, seq, _)| (*run, *seq) >= known);
            if seen.front().is_none_or(|(run, seq, _)| (*run, *seq) != known) {
                seen.push_front((known.0, known.1, now));
            }
        }
    }

    /// From this instant on, by this cloud's clock, `Lost` with the register's present seq may be proposed. None: there is nothing to wait for.
    pub fn ripe_at(&self, state: &State, me: &CloudName, cloud: &CloudName) -> Option<BootMs> {
        let known = state.clouds.get(cloud)?;
        if !matches!(known.standing, Standing::Alive | Standing::Returning { .. }) {
            return None;
        }
        let (.., seen) = self.first.get(cloud)?.iter().find(|(run, seq, _)| (*run, *seq) == (known.run, known.seq))?;
        let ttl_ms = match self.planted {
            Some(Mutant::TakerUsesItsOwnTtl) => state.clouds.get(me).map_or(known.ttl_ms, |own| own.ttl_ms),
            Some(Mutant::TakerWaitsTooShort) => known.ttl_ms / 2,
            _ => known.ttl_ms,
        };
        Some(seen.after(state.voting.timers.wait_ms(ttl_ms)))
    }

    /// For how long nothing newer of a cloud came by. None: nothing is expected of it.
    pub fn silent_ms(&self, state: &State, cloud: &CloudName, now: BootMs) -> Option<u64> {
        let known = state.clouds.get(cloud)?;
        let alive = matches!(known.standing, Standing::Alive | Standing::Returning { .. });
        let (.., at) = self.first.get(cloud)?.back()?;
        alive.then(|| now.since(*at))
    }

    /// Whose renewal is so old that voters are asked what they heard, and plans are made: after half of the ttl.
    pub fn suspects<'a>(&'a self, state: &'a State, now: BootMs) -> impl Iterator<Item = &'a CloudName> {
        state.clouds.iter().filter_map(move |(name, cloud)| {
            let alive = matches!(cloud.standing, Standing::Alive | Standing::Returning { .. });
            let (run, seq, at) = self.first.get(name)?.back()?;
            let newest = (*run, *seq) >= (cloud.run, cloud.seq);
            (alive && newest && now.since(*at) >= cloud.ttl_ms / 2).then_some(name)
        })
    }
}

/// When this voter last heard each cloud itself, and not of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hearing {
    started: BootMs,
    heard: BTreeMap<CloudName, BootMs>,
}

impl Hearing {
    pub fn start(now: BootMs) -> Self {
        Self { started: now, heard: BTreeMap::new() }
    }
    /// Any message that the cloud proved to be its own. Only members are kept.
    pub fn heard(&mut self, state: &State, cloud: &CloudName, now: BootMs) {
        if state.voting.members.contains_key(cloud) {
            self.heard.insert(cloud.clone(), now);
        }
        self.heard.retain(|c, _| state.voting.members.contains_key(c));
    }
    /// What this voter may sign, if the cloud was silent for long enough. Whoever has just started has heard nobody, and attests nothing yet.
    pub fn attest(&self, state: &State, cloud: &CloudName, nonce: u64, now: BootMs) -> Option<Attestation> {
        let known = state.clouds.get(cloud)?;
        let silent_ms = now.since(self.heard.get(cloud).copied().unwrap_or(self.started));
        (silent_ms >= state.voting.timers.silence_ms(known.ttl_ms)).then(|| Attestation {
            version: 1,
            pact: state.pact.clone(),
            cloud: cloud.clone(),
            run: known.run,
            seq: known.seq,
            nonce,
            silent_ms,
        })
    }
}

/// A handover that this cloud began: durable at the owner from before the transfer is proposed. Only the log opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    pub epoch: Epoch,
    pub attempt: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The transfer may still be taken: nothing is written.
    Open,
    /// It was cancelled, or the service came back under a later epoch: this cloud writes again.
    Resumes,
    /// Another cloud owns it, or its protection ended.
    Gone,
}

impl Seal {
    pub fn fate(&self, state: &State, service: &ServiceId, me: &CloudName) -> Fate {
        match state.services.get(service) {
            Some(owned) if &owned.owner != me => Fate::Gone,
            Some(owned) if owned.epoch > self.epoch || owned.attempt > self.attempt => Fate::Resumes,
            Some(_) => Fate::Open,
            None => Fate::Gone,
        }
    }
}

/// Why a cloud may not write for a service now. It holds at the instant of acceptance, and is asked again before the answer is released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fenced {
    #[error("{0} does not own the service under epoch {1}")]
    NotOwner(CloudName, Epoch),
    #[error("the service is being handed over, or was yielded")]
    Sealed,
    #[error("{0} was declared lost")]
    Lost(CloudName),
    #[error("the right to write ended {over_ms} ms ago: no renewal was answered since")]
    Over { over_ms: u64 },
    #[error("there is no right to write yet: no renewal was answered in this run")]
    None,
}

/// `state` as this cloud has applied it, which may be late: then the end of the right fences it. `sealed`: this cloud's own durable seal.
pub fn may_write(
    state: &State,
    (service, epoch): (&ServiceId, Epoch),
    me: &Holder,
    sealed: bool,
    now: BootMs,
) -> Result<(), Fenced> {
    match state.services.get(service) {
        Some(owned) if owned.owner == me.cloud && owned.epoch == epoch => {
            if sealed || owned.phase == Phase::Yielded {
                return Err(Fenced::Sealed);
            }
        }
        _ => return Err(Fenced::NotOwner(me.cloud.clone(), epoch)),
    }
    let known = state.clouds.get(&me.cloud);
    if !known.is_some_and(|c| matches!(c.standing, Standing::Alive | Standing::Returning { .. }) && c.run == me.run) {
        return Err(Fenced::Lost(me.cloud.clone()));
    }
    match me.right_until() {
        None => Err(Fenced::None),
        Some(until) if now >= until => Err(Fenced::Over { over_ms: now.since(until) }),
        Some(_) => Ok(()),
    }
}
