//! The port: what a voter's owner calls.
//!
//! Enters: what was kept, then proposals, bytes of peers, the time, what is on disk. Leaves: outputs to be taken after each call.
//! Always holds: nothing here waits; a fault of `raft` makes every later call say so, until [`Driver::rebuild`].

use crate::conf::{BadVoters, check_voters};
use crate::convert::Unsaid;
use crate::core::{Core, Settings, Status};
use crate::fault::{Fault, guarded};
use crate::id::RaftId;
use crate::link::Link;
use crate::message::{Body, COMMAND_BYTES_MAX, Message, MessageError, TERM_LEAP_MAX};
use crate::storage::{Kept, Snapshot, digest_of};
use crate::timers::BadTimers;
use crate::work::{Fetch, Outgoing, Output};
use pumasi_terms::{BootMs, Digest};
use std::collections::BTreeSet;

pub use crate::storage::At as Place;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error(
        "consensus of the pact: this store voted as {kept}, and is voter {now} now, since it was restored or replaced; it could vote twice. \
         It begins with nothing and joins anew; the leader exchanges the numbers"
    )]
    OtherVoter { kept: RaftId, now: RaftId },
    #[error(transparent)]
    Timers(#[from] BadTimers),
    #[error(transparent)]
    Fault(#[from] Fault),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("proposal to the pact: {bytes} bytes; a command has 1 to {COMMAND_BYTES_MAX}")]
    Size { bytes: usize },
    #[error("proposal to the pact: this voter does not lead{}", .leader.map_or(", and knows of nobody who does: try again".into(), |l| format!(": ask voter {l}")))]
    NotLeader { leader: Option<RaftId> },
    #[error("proposal to the pact: too much waits for a majority already; try again")]
    Busy,
    #[error(transparent)]
    Fault(#[from] Fault),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("message of a voter: it came from {from} and says that it is from {said}; the sender is at fault")]
    Forged { from: RaftId, said: RaftId },
    #[error("message of voter {from}: it is for {to}, which this store is not (any more); it is dropped")]
    NotForUs { from: RaftId, to: RaftId },
    #[error(
        "message of voter {from}: it speaks of term {term}, this voter is in {ours}; no pact has so many elections, it is dropped. The sender is at fault"
    )]
    Leap { from: RaftId, term: u64, ours: u64 },
    #[error("message of voter {from}: too much waits for the disk; it counts as lost")]
    Busy { from: RaftId },
    #[error(transparent)]
    Fault(#[from] Fault),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot of the pact: the state is as of entry {index}, {applied} is applied; take it again")]
    OtherPlace { index: u64, applied: u64 },
    #[error("snapshot of the pact: nobody asked for {digest} (any more)")]
    NotAsked { digest: Digest },
    #[error("snapshot of the pact: what was fetched is {found}, not {asked}; ask again")]
    WrongBytes { asked: Digest, found: Digest },
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    Taken,
    /// A later one of the same kind was there before.
    Overtaken,
    /// It names a snapshot, which is fetched first.
    Fetching,
    /// Of no use: of an earlier term, or of a stranger.
    Ignored,
}

/// One voter of one group.
pub struct Driver {
    settings: Settings,
    core: Result<Core, Fault>,
    link: Link,
    now: BootMs,
    /// Of the last work that was taken: numbers go on after a fault, so that a late word of what was before it counts for nothing.
    numbered: u64,
    /// The leader's last word of a snapshot that is needed here.
    awaited: Option<Message>,
    fetch: Option<Fetch>,
    voters: Option<BTreeSet<RaftId>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("settings", &self.settings)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Driver {
    pub fn start(settings: Settings, kept: &Kept, now: BootMs) -> Result<Self, StartError> {
        settings.timers.check()?;
        let core = build(&settings, kept, 0, now)?;
        let link = Link::new(settings.run);
        Ok(Self { settings, core: Ok(core), link, now, numbered: 0, awaited: None, fetch: None, voters: None })
    }

    /// After a fault, from what is on disk, once nothing that was taken before is under way there any more.
    pub fn rebuild(&mut self, kept: &Kept, now: BootMs) -> Result<(), StartError> {
        let mut core = build(&self.settings, kept, self.numbered, now)?;
        core.target.clone_from(&self.voters);
        (self.core, self.now, self.awaited, self.fetch) = (Ok(core), now, None, None);
        Ok(())
    }

    /// Where the command will stand if it is committed: it is, once a command is applied at this index in this term; another one
    /// at this index means that it was lost.
    pub fn propose(&mut self, command: Vec<u8>) -> Result<Place, ProposeError> {
        if !(1..=COMMAND_BYTES_MAX).contains(&command.len()) {
            return Err(ProposeError::Size { bytes: command.len() });
        }
        let core = self.core.as_ref().map_err(Fault::clone)?;
        if !core.leads() {
            return Err(ProposeError::NotLeader { leader: core.leader() });
        }
        self.guarded("a proposal", None, |core| core.propose(command))?.ok_or(ProposeError::Busy)
    }

    /// `from` is who brought it, as the connection proves.
    pub fn receive(&mut self, from: RaftId, bytes: &[u8]) -> Result<Received, ReceiveError> {
        let core = self.core.as_ref().map_err(Fault::clone)?;
        let message = Message::decode(bytes)?;
        if message.from != from {
            return Err(ReceiveError::Forged { from, said: message.from });
        }
        if message.to != self.settings.id {
            return Err(ReceiveError::NotForUs { from, to: message.to });
        }
        if message.term > core.term().saturating_add(TERM_LEAP_MAX) {
            return Err(ReceiveError::Leap { from, term: message.term, ours: core.term() });
        }
        if core.is_full() {
            return Err(ReceiveError::Busy { from });
        }
        if message.body.ordered().is_some_and(|lane| !self.link.takes(from, lane, message.stamp)) {
            return Ok(Received::Overtaken);
        }
        if let Body::Snapshot(meta) = &message.body
            && message.term >= core.term()
            && core.needs(meta)
        {
            self.fetch = Some(Fetch { from, meta: meta.clone() });
            self.awaited = Some(message);
            return Ok(Received::Fetching);
        }
        self.step(&message)
    }

    fn step(&mut self, message: &Message) -> Result<Received, ReceiveError> {
        let during = match message.body {
            Body::Heartbeat { .. } => "a heartbeat",
            Body::Append { .. } => "an append",
            Body::Snapshot(_) => "a snapshot",
            Body::Vote { .. } => "a vote's request",
            _ => "an answer",
        };
        let taken = self.guarded(during, Some(message.from), |core| core.step(message))?;
        Ok(if taken { Received::Taken } else { Received::Ignored })
    }

    /// Often enough, some times a tick: it costs nothing while no tick is due.
    pub fn tick(&mut self, now: BootMs) -> Result<(), Fault> {
        self.now = now;
        self.guarded("a tick", None, |core| core.tick(now))
    }

    /// The transaction of this number is on disk, with all before it.
    pub fn persisted(&mut self, number: u64) -> Result<(), Fault> {
        self.guarded("what is on disk", None, |core| core.persisted(number))
    }

    /// What there is to do; after every other call. Nothing after a fault: what was not written is void.
    pub fn take(&mut self) -> Output {
        let Ok(core) = self.core.as_mut() else { return Output::default() };
        let work = core.take();
        self.numbered = core.numbered();
        let mut messages = Vec::new();
        for mut message in std::mem::take(&mut core.messages) {
            message.stamp = self.link.stamp();
            match message.encode() {
                Ok(bytes) => messages.push(Outgoing { to: message.to, bytes }),
                Err(e) => tracing::error!("{e}: it is not sent"),
            }
        }
        Output { messages, work, fetch: self.fetch.take(), snapshot_due: core.snapshot_due() }
    }

    pub fn status(&self) -> Result<Status, &Fault> {
        self.core.as_ref().map(|core| core.status(self.now))
    }

    /// Messages that were overtaken, since the start.
    pub fn overtaken(&self) -> u64 {
        self.link.overtaken()
    }

    /// Who shall vote. The leader goes there step by step; whoever leads next goes on, if it was told as well.
    pub fn aim(&mut self, voters: BTreeSet<RaftId>) -> Result<(), BadVoters> {
        check_voters(&voters)?;
        if let Ok(core) = &mut self.core {
            core.target = Some(voters.clone());
        }
        self.voters = Some(voters);
        Ok(())
    }

    pub fn measured(&mut self, round_trip_ms: u64) {
        self.settings.round_trip_ms = round_trip_ms;
        if let Ok(core) = &mut self.core {
            core.round_trip_ms = round_trip_ms;
        }
    }

    /// The state after all commands up to `index`, which is `Status::applied`. Nothing is done where none is due (any more).
    pub fn snapshot(&mut self, index: u64, state: Vec<u8>) -> Result<(), SnapshotError> {
        let applied = self.core.as_ref().map_err(Fault::clone)?.applied();
        if index != applied {
            return Err(SnapshotError::OtherPlace { index, applied });
        }
        Ok(self.guarded("a snapshot of its own", None, |core| core.snapshot(state))?)
    }

    /// The bytes of a snapshot that was to be fetched.
    pub fn fetched(&mut self, digest: Digest, state: Vec<u8>) -> Result<(), SnapshotError> {
        let asked = |m: &Message| matches!(&m.body, Body::Snapshot(meta) if meta.digest == digest);
        let found = digest_of(&state);
        if found != digest {
            return Err(SnapshotError::WrongBytes { asked: digest, found });
        }
        let Some(message) = self.awaited.take_if(|m| asked(m)) else { return Err(SnapshotError::NotAsked { digest }) };
        let Body::Snapshot(meta) = message.body.clone() else { return Err(SnapshotError::NotAsked { digest }) };
        self.guarded("a snapshot", Some(message.from), |core| {
            core.arrived = Some(Snapshot { meta, state });
            core.step(&message)?;
            core.arrived = None;
            Ok(())
        })?;
        Ok(())
    }

    fn guarded<R>(
        &mut self,
        during: &'static str,
        sender: Option<RaftId>,
        step: impl FnOnce(&mut Core) -> Result<R, Unsaid>,
    ) -> Result<R, Fault> {
        let core = self.core.as_mut().map_err(|fault| fault.clone())?;
        let result = guarded(during, sender, || step(core));
        if let Err(fault) = &result {
            // What panicked in its midst is not looked at again.
            self.core = Err(fault.clone());
        }
        result
    }
}

fn build(settings: &Settings, kept: &Kept, numbered: u64, now: BootMs) -> Result<Core, StartError> {
    if kept.id != settings.id {
        return Err(StartError::OtherVoter { kept: kept.id, now: settings.id });
    }
    Ok(guarded("its start", None, || Core::new(settings, kept, numbered, now))?)
}
