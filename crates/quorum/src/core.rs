//! `raft`, and what it needs around it: the log in memory, batches on their way to the disk, the leader's duties.
//!
//! Enters: messages, ticks, proposals, what is on disk. Leaves: messages that may go, an open batch. Always holds: after each step
//! all that `raft` has ready is taken over, so that nothing lies in it; the election timeout is ours, never a random one.
//!
//! Everything here may panic inside of `raft`: `driver` calls it under guard and drops it whole after a panic.

use crate::conf::{Change, Conf, next_change};
use crate::convert::{self, Unsaid};
use crate::drain;
use crate::id::RaftId;
use crate::log::Log;
use crate::message::{HardState, Kind, Message, SnapshotMeta};
use crate::storage::{At, Kept, Snapshot};
use crate::timers::{Place, Timers, mixed};
use crate::work::{Apply, Open, Waiting, Work};
use pumasi_terms::BootMs;
use raft::eraftpb;
use raft::{Config, ProgressState, RawNode, SnapshotStatus, StateRole};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries that stay in the log for voters that are behind.
pub(crate) const KEEP_ENTRIES: u64 = 4_096;
/// More than these do not stay for anybody: who is further behind takes a snapshot.
pub(crate) const LOG_ENTRIES_MAX: u64 = 16_384;
/// Of one message, unless one entry is larger.
const APPEND_BYTES_MAX: u64 = 64 << 10;
const INFLIGHT_MAX: usize = 64;
const UNCOMMITTED_BYTES_MAX: u64 = 4 << 20;
/// Messages that wait for the disk; beyond, what comes in counts as lost.
const HELD_MAX: usize = 4_096;

/// What a voter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub id: RaftId,
    /// Rises with each start of this store.
    pub run: u64,
    /// The only randomness here.
    pub seed: u64,
    pub timers: Timers,
    /// As measured between voters, the slowest pair.
    pub round_trip_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    /// Asks for votes.
    Candidate,
    /// Reads along: has no vote, or none any more.
    Listener,
}

/// What is to be seen of a group at one voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub id: RaftId,
    pub role: Role,
    pub leader: Option<RaftId>,
    pub term: u64,
    pub commit: u64,
    /// Up to here commands are applied and on disk.
    pub applied: u64,
    pub last: u64,
    pub floor: u64,
    pub conf: Conf,
    /// Of the leader only.
    pub peers: BTreeMap<RaftId, Peer>,
    /// A write has been under way for longer than a leader may wait.
    pub stalled: bool,
    /// Transactions that were taken and are not reported yet.
    pub waiting: usize,
    /// Elections begun here since the start.
    pub campaigns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub matched: u64,
    pub active: bool,
    pub by_snapshot: bool,
}

pub(crate) struct Core {
    raw: RawNode<Log>,
    id: RaftId,
    timers: Timers,
    seed: u64,
    pub(crate) round_trip_ms: u64,
    pub(crate) target: Option<BTreeSet<RaftId>>,
    conf: Conf,
    applied: u64,
    applied_conf: Conf,
    open: Open,
    waiting: VecDeque<Waiting>,
    numbered: u64,
    /// What went into a batch last.
    handed: HardState,
    /// May leave now.
    pub(crate) messages: Vec<Message>,
    /// Fetched, until `raft` takes it over.
    pub(crate) arrived: Option<Snapshot>,
    ticked: BootMs,
    campaigns: u64,
    /// Ticks for which a peer has been waiting for a snapshot.
    by_snapshot: BTreeMap<RaftId, usize>,
}

impl Core {
    pub(crate) fn new(settings: &Settings, kept: &Kept, numbered: u64, now: BootMs) -> Result<Self, Unsaid> {
        let Settings { timers, run, seed, round_trip_ms, .. } = *settings;
        let config = Config {
            id: kept.id.get(),
            election_tick: timers.election_min_ticks(),
            min_election_tick: timers.election_min_ticks(),
            max_election_tick: timers.election_max_ticks(),
            heartbeat_tick: timers.heartbeat_ticks(),
            applied: kept.applied,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: 1 << 20,
            ..Config::default()
        };
        let raw = RawNode::new(&config, Log::new(kept)?, &drain::logger()).map_err(|e| Unsaid(e.to_string()))?;
        let mut core = Self {
            raw,
            id: kept.id,
            timers,
            seed: seed ^ mixed(run),
            round_trip_ms,
            target: None,
            conf: kept.conf.clone(),
            applied: kept.applied,
            applied_conf: kept.conf.clone(),
            open: Open::default(),
            waiting: VecDeque::new(),
            numbered,
            handed: kept.hard,
            messages: Vec::new(),
            arrived: None,
            ticked: now,
            campaigns: 0,
            by_snapshot: BTreeMap::new(),
        };
        core.turn()?;
        Ok(core)
    }

    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn leader(&self) -> Option<RaftId> {
        RaftId::new(self.raw.raft.leader_id)
    }

    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub(crate) fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub(crate) fn last(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// Of the last batch that was taken.
    pub(crate) fn numbered(&self) -> u64 {
        self.numbered
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    pub(crate) fn is_full(&self) -> bool {
        self.open.held.len() + self.waiting.iter().map(|w| w.held.len()).sum::<usize>() >= HELD_MAX
    }

    /// Whether `raft` took it; what it does not take it passes over, by its rules.
    pub(crate) fn step(&mut self, message: &Message) -> Result<bool, Unsaid> {
        let taken = self.raw.step(convert::message_out(message)?).is_ok();
        self.turn()?;
        Ok(taken)
    }

    /// Where the command stands now; none: `raft` has no room.
    pub(crate) fn propose(&mut self, command: Vec<u8>) -> Result<Option<At>, Unsaid> {
        if self.raw.propose(Vec::new(), command).is_err() {
            return Ok(None);
        }
        let at = At { index: self.last(), term: self.term() };
        self.turn()?;
        Ok(Some(at))
    }

    /// Counts time in ticks. A process that stood still did not listen either: what it missed counts as one heartbeat at most.
    pub(crate) fn tick(&mut self, now: BootMs) -> Result<(), Unsaid> {
        let due = now.since(self.ticked) / self.timers.tick_ms.max(1);
        let most = self.timers.heartbeat_ticks() as u64;
        self.ticked = if due > most { now } else { self.ticked.after(due * self.timers.tick_ms) };
        for _ in 0..due.min(most) {
            self.one_tick(now)?;
        }
        Ok(())
    }

    fn one_tick(&mut self, now: BootMs) -> Result<(), Unsaid> {
        if self.leads() {
            if self.stalled(now) && self.conf.voting().len() > 1 {
                self.step_down("its disk stalls");
            } else {
                self.raw.tick();
                self.repeat_snapshots();
                self.change_members();
            }
        } else if self.may_campaign(now) && self.raw.tick() {
            self.campaigns += 1;
        }
        self.turn()
    }

    /// Since when the oldest write is under way.
    fn writing_since(&self) -> Option<BootMs> {
        self.waiting.front().map(|w| w.since).or(self.open.since)
    }

    fn stalled(&self, now: BootMs) -> bool {
        self.writing_since().is_some_and(|since| now.since(since) > self.timers.stall_ms())
    }

    /// No election is begun over a log that is not on disk where `raft` would end over it: with a snapshot half taken in, or alone,
    /// when it is won at once. Whoever stalls could not say so anyway.
    fn may_campaign(&self, now: BootMs) -> bool {
        let restores = self.open.restores() || self.waiting.iter().any(|w| w.restores);
        let alone = self.conf.voting().len() <= 1 && self.writing_since().is_some();
        !self.stalled(now) && !restores && !alone
    }

    /// Nobody is told: the others hear nothing more, and elect one of them.
    fn step_down(&mut self, why: &str) {
        let raft = &mut self.raw.raft;
        tracing::warn!(voter = %self.id, term = raft.term, "this voter leads no longer: {why}");
        raft.become_follower(raft.term, raft::INVALID_ID);
    }

    /// A message that names a snapshot may be lost like any other, and `raft` would wait for its answer for ever.
    fn repeat_snapshots(&mut self) {
        let waits: BTreeSet<RaftId> = self
            .raw
            .raft
            .prs()
            .iter()
            .filter(|(_, p)| p.state == ProgressState::Snapshot)
            .filter_map(|(id, _)| RaftId::new(*id))
            .collect();
        self.by_snapshot.retain(|id, _| waits.contains(id));
        for id in waits {
            let ticks = self.by_snapshot.entry(id).or_insert(0);
            *ticks += 1;
            if *ticks >= 2 * self.timers.election_max_ticks() {
                *ticks = 0;
                self.raw.report_snapshot(id.get(), SnapshotStatus::Failure);
            }
        }
    }

    fn change_members(&mut self) {
        if self.raw.raft.has_pending_conf() {
            return;
        }
        let commit = self.commit();
        let prs = self.raw.raft.prs();
        let caught_up =
            |id: RaftId| prs.get(id.get()).is_some_and(|p| p.state == ProgressState::Replicate && p.matched >= commit);
        let change = match &self.target {
            _ if self.conf.is_joint() => Some(Change::Leave),
            Some(target) => next_change(&self.conf, target, caught_up),
            None => None,
        };
        let Some(change) = change else { return };
        match convert::change_bytes(&change) {
            // Refused for want of room, it is tried again at the next tick.
            Ok((_, context)) => drop(self.raw.propose_conf_change(context, convert::change_out(&change))),
            Err(e) => tracing::error!("{e}"),
        }
    }

    /// What was taken under this number, and all before, is on disk.
    pub(crate) fn persisted(&mut self, number: u64) -> Result<(), Unsaid> {
        while self.waiting.front().is_some_and(|w| w.number <= number) {
            let Some(done) = self.waiting.pop_front() else { break };
            self.raw.on_persist_ready(done.ready);
            if let Some(applied) = done.applied {
                self.raw.advance_apply_to(applied);
                self.applied = applied;
            }
            self.applied_conf = done.conf.unwrap_or(std::mem::take(&mut self.applied_conf));
            self.messages.extend(done.held);
        }
        self.turn()
    }

    pub(crate) fn take(&mut self) -> Option<Work> {
        let (work, waiting) = self.open.take(self.numbered + 1)?;
        self.numbered = work.number;
        self.waiting.push_back(waiting);
        Some(work)
    }

    /// Takes over everything that `raft` has ready.
    fn turn(&mut self) -> Result<(), Unsaid> {
        loop {
            self.set_timeout();
            if self.raw.has_ready() {
                self.take_ready()?;
            } else if self.open.since.is_none() && self.open.ready != 0 && self.waiting.is_empty() {
                // Nothing to write, nothing under way: it counts as written.
                self.raw.on_persist_ready(std::mem::take(&mut self.open.ready));
                self.messages.append(&mut self.open.held);
            } else {
                return Ok(());
            }
        }
    }

    fn set_timeout(&mut self) {
        let term = self.term();
        let entropy = self.seed ^ mixed(term) ^ mixed(self.campaigns).rotate_left(32);
        let place = Place::of(&self.conf, self.id, term);
        let ticks = self.timers.election_ticks(place, self.round_trip_ms, entropy);
        self.raw.raft.set_randomized_election_timeout(ticks);
    }

    fn take_ready(&mut self) -> Result<(), Unsaid> {
        let now = self.ticked;
        let mut ready = self.raw.ready();
        self.open.ready = ready.number();
        take_messages(&mut self.messages, ready.take_messages())?;
        take_messages(&mut self.open.held, ready.take_persisted_messages())?;
        if !ready.snapshot().is_empty() {
            let meta = convert::snapshot_in(ready.snapshot())?;
            let fetched = self.arrived.take().filter(|s| s.meta == meta);
            let snapshot = fetched.ok_or_else(|| Unsaid("a snapshot was taken whose bytes are not there".into()))?;
            self.raw.mut_store().restore(&meta);
            self.conf = meta.conf;
            self.open.restore(snapshot, now);
        }
        if let Some(first) = ready.entries().first().map(|e| e.index) {
            let entries: Result<Vec<_>, _> = ready.entries().iter().map(convert::entry_in).collect();
            self.open.entries(first, entries?, first <= self.raw.store().last(), now);
            self.raw.mut_store().append(ready.entries());
        }
        if let Some(hard) = ready.hs() {
            let hard = convert::hard_in(hard);
            self.open.hard(self.handed, hard, now);
            self.handed = hard;
        }
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        self.take_committed(committed, now)
    }

    fn take_committed(&mut self, committed: Vec<eraftpb::Entry>, now: BootMs) -> Result<(), Unsaid> {
        for entry in committed {
            self.open.must(now);
            self.open.persist.applied = Some(entry.index);
            match convert::entry_in(&entry)?.kind {
                Kind::Empty => {}
                Kind::Command(command) => {
                    self.open.apply.push(Apply::Command { index: entry.index, term: entry.term, command });
                }
                Kind::Change(change) => self.apply_change(&change),
            }
        }
        Ok(())
    }

    fn apply_change(&mut self, change: &Change) {
        match self.raw.apply_conf_change(&convert::change_out(change)) {
            Ok(conf) => {
                self.conf = convert::conf_in(&conf);
                self.open.persist.conf = Some(self.conf.clone());
                if self.leads() && !self.conf.votes(self.id) {
                    self.step_down("it has no vote any more");
                }
            }
            // All voters have the same log, and refuse alike.
            Err(e) => tracing::warn!(voter = %self.id, "a change of voters without effect: {e}"),
        }
    }

    /// From where on the log is still of use.
    fn useful_from(&self) -> u64 {
        let slowest = if self.leads() {
            let matched = |id: &RaftId| self.raw.raft.prs().get(id.get()).map_or(0, |p| p.matched);
            self.conf.voting().iter().filter(|id| **id != self.id).map(matched).min().unwrap_or(self.applied)
        } else {
            // Whoever leads next has something left for those that are behind it.
            self.applied.saturating_sub(KEEP_ENTRIES)
        };
        let most = LOG_ENTRIES_MAX - KEEP_ENTRIES;
        slowest.min(self.applied).max(self.applied.saturating_sub(most)).max(self.raw.store().floor().index)
    }

    pub(crate) fn snapshot_due(&self) -> bool {
        let floor = self.raw.store().floor().index;
        let useless = self.useful_from().saturating_sub(floor) >= KEEP_ENTRIES;
        let too_many = self.applied.saturating_sub(floor) >= LOG_ENTRIES_MAX;
        // With a snapshot from elsewhere half taken in there is no state to take one of.
        self.applied > 0 && self.applied >= floor && (self.raw.store().snapshot_wanted() || useless || too_many)
    }

    /// The state as of `applied`. What it makes useless goes from the log.
    pub(crate) fn snapshot(&mut self, state: Vec<u8>) -> Result<(), Unsaid> {
        if !self.snapshot_due() {
            return Ok(());
        }
        let place = |core: &Self, index| -> Result<At, Unsaid> {
            let term = core.raw.store().term_at(index);
            Ok(At { index, term: term.ok_or_else(|| Unsaid(format!("the log has no entry {index}")))? })
        };
        let (at, useful) = (place(self, self.applied)?, place(self, self.useful_from())?);
        let snapshot = Snapshot::of(at, self.applied_conf.clone(), state);
        let floor = match useful.index - self.raw.store().floor().index >= KEEP_ENTRIES {
            true => useful,
            false => self.raw.store().floor(),
        };
        self.raw.mut_store().compact(snapshot.meta.clone(), floor);
        self.open.must(self.ticked);
        self.open.persist.snapshot = Some(snapshot);
        self.open.persist.floor = Some(floor);
        Ok(())
    }

    /// Whether `raft` still has use for it.
    pub(crate) fn needs(&self, meta: &SnapshotMeta) -> bool {
        meta.index > self.commit()
    }

    pub(crate) fn status(&self, now: BootMs) -> Status {
        let raft = &self.raw.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            _ if !self.conf.votes(self.id) => Role::Listener,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        let peer = |(id, p): (&u64, &raft::Progress)| {
            let by_snapshot = p.state == ProgressState::Snapshot;
            Some((RaftId::new(*id)?, Peer { matched: p.matched, active: p.recent_active, by_snapshot }))
        };
        let peers = if self.leads() { raft.prs().iter().filter_map(peer).collect() } else { BTreeMap::new() };
        Status {
            id: self.id,
            role,
            leader: self.leader(),
            term: raft.term,
            commit: self.commit(),
            applied: self.applied,
            last: self.last(),
            floor: self.raw.store().floor().index,
            conf: self.conf.clone(),
            peers,
            stalled: self.stalled(now),
            waiting: self.waiting.len(),
            campaigns: self.campaigns,
        }
    }
}

fn take_messages(into: &mut Vec<Message>, messages: Vec<eraftpb::Message>) -> Result<(), Unsaid> {
    for message in &messages {
        into.push(convert::message_in(message)?);
    }
    Ok(())
}
