//! Between our messages and `raft`'s, both ways.
//!
//! Enters: what was checked by [`crate::message`], or what `raft` made itself. Leaves: the same in the other form.
//! Always holds: what stands in an entry for `raft` to parse was written here from our own struct; our own form of a change travels
//! beside it in the entry's context, so that nothing has to be parsed on the way back.

use crate::conf::{Change, Conf};
use crate::id::RaftId;
use crate::message::{Body, Entry, HardState, Kind, Message, SnapshotMeta, Stamp, decode, encode};
use protobuf::Message as _;
use pumasi_terms::Digest;
use raft::eraftpb::{
    self, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, EntryType, MessageType,
};
use std::collections::BTreeSet;

/// What this program should never meet: `raft` said something that it says in no mode that we use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("consensus: {0}; it is left out. This is a bug of this program")]
pub(crate) struct Unsaid(pub(crate) String);

fn id(number: u64) -> Result<RaftId, Unsaid> {
    RaftId::new(number).ok_or_else(|| Unsaid("a message from or to nobody".into()))
}

fn numbers(ids: &BTreeSet<RaftId>) -> Vec<u64> {
    ids.iter().map(|id| id.get()).collect()
}

fn set(numbers: &[u64]) -> BTreeSet<RaftId> {
    numbers.iter().filter_map(|n| RaftId::new(*n)).collect()
}

pub(crate) fn conf_out(conf: &Conf) -> eraftpb::ConfState {
    let mut out = eraftpb::ConfState::default();
    out.set_voters(numbers(&conf.voters));
    out.set_learners(numbers(&conf.learners));
    out.set_voters_outgoing(numbers(&conf.outgoing));
    out.set_learners_next(numbers(&conf.learners_next));
    out
}

pub(crate) fn conf_in(conf: &eraftpb::ConfState) -> Conf {
    Conf {
        voters: set(conf.get_voters()),
        learners: set(conf.get_learners()),
        outgoing: set(conf.get_voters_outgoing()),
        learners_next: set(conf.get_learners_next()),
    }
}

pub(crate) fn hard_out(hard: &HardState) -> eraftpb::HardState {
    let vote = hard.vote.map_or(0, RaftId::get);
    eraftpb::HardState { term: hard.term, vote, commit: hard.commit, ..Default::default() }
}

pub(crate) fn hard_in(hard: &eraftpb::HardState) -> HardState {
    HardState { term: hard.term, vote: RaftId::new(hard.vote), commit: hard.commit }
}

/// A joint change is left by the leader's own proposal, never by `raft` itself: that forgets it when the leader changes meanwhile.
pub(crate) fn change_out(change: &Change) -> ConfChangeV2 {
    let mut out = ConfChangeV2::default();
    let mut add = |id: &RaftId, kind: ConfChangeType| {
        let mut single = ConfChangeSingle { node_id: id.get(), ..Default::default() };
        single.set_change_type(kind);
        out.mut_changes().push(single);
    };
    match change {
        Change::Learn(id) => add(id, ConfChangeType::AddLearnerNode),
        Change::Forget(id) => add(id, ConfChangeType::RemoveNode),
        Change::Enter { add: new, remove } => {
            new.iter().for_each(|id| add(id, ConfChangeType::AddNode));
            remove.iter().for_each(|id| add(id, ConfChangeType::RemoveNode));
            out.set_transition(ConfChangeTransition::Explicit);
        }
        Change::Leave => {}
    }
    out
}

/// The bytes that `raft` reads a change from, and our own form of it.
pub(crate) fn change_bytes(change: &Change) -> Result<(Vec<u8>, Vec<u8>), Unsaid> {
    let data = change_out(change).write_to_bytes().map_err(|e| Unsaid(format!("a change cannot be written: {e}")))?;
    let context = encode(change).map_err(|e| Unsaid(format!("a change cannot be written: {e}")))?;
    Ok((data, context))
}

pub(crate) fn entry_out(index: u64, entry: &Entry) -> Result<eraftpb::Entry, Unsaid> {
    let mut out = eraftpb::Entry { index, term: entry.term, ..Default::default() };
    match &entry.kind {
        Kind::Empty => {}
        Kind::Command(bytes) => out.data = bytes.clone().into(),
        Kind::Change(change) => {
            let (data, context) = change_bytes(change)?;
            out.set_entry_type(EntryType::EntryConfChangeV2);
            out.data = data.into();
            out.context = context.into();
        }
    }
    Ok(out)
}

pub(crate) fn entry_in(entry: &eraftpb::Entry) -> Result<Entry, Unsaid> {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => Kind::Empty,
        EntryType::EntryNormal => Kind::Command(entry.data.to_vec()),
        EntryType::EntryConfChangeV2 => {
            let change = decode(&entry.context);
            Kind::Change(change.map_err(|e| Unsaid(format!("the change at {} is not ours: {e}", entry.index)))?)
        }
        EntryType::EntryConfChange => return Err(Unsaid(format!("the change at {} is of the old kind", entry.index))),
    };
    Ok(Entry { term: entry.term, kind })
}

/// Digest and length stand where `raft` has the state's bytes: those are fetched apart.
pub(crate) fn snapshot_out(meta: &SnapshotMeta) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot::default();
    let of = out.mut_metadata();
    of.index = meta.index;
    of.term = meta.term;
    of.set_conf_state(conf_out(&meta.conf));
    out.data = [meta.digest.0.as_slice(), &meta.bytes.to_be_bytes()].concat().into();
    out
}

pub(crate) fn snapshot_in(snapshot: &eraftpb::Snapshot) -> Result<SnapshotMeta, Unsaid> {
    let data: &[u8; 40] =
        snapshot.data.as_ref().try_into().map_err(|_| Unsaid("a snapshot without a digest".into()))?;
    let (mut digest, mut bytes) = ([0; 32], [0; 8]);
    digest.copy_from_slice(&data[..32]);
    bytes.copy_from_slice(&data[32..]);
    let meta = snapshot.get_metadata();
    Ok(SnapshotMeta {
        index: meta.index,
        term: meta.term,
        conf: conf_in(meta.get_conf_state()),
        digest: Digest(digest),
        bytes: u64::from_be_bytes(bytes),
    })
}

pub(crate) fn message_out(message: &Message) -> Result<eraftpb::Message, Unsaid> {
    let (from, to) = (message.from.get(), message.to.get());
    let mut out = eraftpb::Message { from, to, term: message.term, ..Default::default() };
    let kind = match &message.body {
        Body::Append { index, log_term, commit, entries } => {
            (out.index, out.log_term, out.commit) = (*index, *log_term, *commit);
            let entries: Result<Vec<_>, _> = (1..).zip(entries).map(|(n, e)| entry_out(index + n, e)).collect();
            out.set_entries(entries?.into());
            MessageType::MsgAppend
        }
        Body::Appended { index, commit } => {
            (out.index, out.commit) = (*index, *commit);
            MessageType::MsgAppendResponse
        }
        Body::AppendRefused { index, commit, hint, hint_term } => {
            (out.index, out.commit, out.reject_hint, out.log_term) = (*index, *commit, *hint, *hint_term);
            out.reject = true;
            MessageType::MsgAppendResponse
        }
        Body::Vote { pre, index, log_term, commit, commit_term } => {
            (out.index, out.log_term, out.commit, out.commit_term) = (*index, *log_term, *commit, *commit_term);
            if *pre { MessageType::MsgRequestPreVote } else { MessageType::MsgRequestVote }
        }
        Body::Voted { pre, granted, commit, commit_term } => {
            (out.reject, out.commit, out.commit_term) = (!granted, *commit, *commit_term);
            if *pre { MessageType::MsgRequestPreVoteResponse } else { MessageType::MsgRequestVoteResponse }
        }
        Body::Heartbeat { commit } => {
            out.commit = *commit;
            MessageType::MsgHeartbeat
        }
        Body::HeartbeatAnswer { commit } => {
            out.commit = *commit;
            MessageType::MsgHeartbeatResponse
        }
        Body::Snapshot(meta) => {
            out.set_snapshot(snapshot_out(meta));
            MessageType::MsgSnapshot
        }
    };
    out.set_msg_type(kind);
    Ok(out)
}

/// Of a message that `raft` made. Whoever sends it stamps it.
pub(crate) fn message_in(message: &eraftpb::Message) -> Result<Message, Unsaid> {
    let m = message;
    let body = match m.get_msg_type() {
        MessageType::MsgAppend => {
            let entries: Result<Vec<_>, _> = m.entries.iter().map(entry_in).collect();
            Body::Append { index: m.index, log_term: m.log_term, commit: m.commit, entries: entries? }
        }
        MessageType::MsgAppendResponse if m.request_snapshot != 0 => {
            return Err(Unsaid("a snapshot is asked for".into()));
        }
        MessageType::MsgAppendResponse if m.reject => {
            Body::AppendRefused { index: m.index, commit: m.commit, hint: m.reject_hint, hint_term: m.log_term }
        }
        MessageType::MsgAppendResponse => Body::Appended { index: m.index, commit: m.commit },
        kind @ (MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) => Body::Vote {
            pre: kind == MessageType::MsgRequestPreVote,
            index: m.index,
            log_term: m.log_term,
            commit: m.commit,
            commit_term: m.commit_term,
        },
        kind @ (MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse) => Body::Voted {
            pre: kind == MessageType::MsgRequestPreVoteResponse,
            granted: !m.reject,
            commit: m.commit,
            commit_term: m.commit_term,
        },
        MessageType::MsgHeartbeat => Body::Heartbeat { commit: m.commit },
        MessageType::MsgHeartbeatResponse => Body::HeartbeatAnswer { commit: m.commit },
        MessageType::MsgSnapshot => Body::Snapshot(snapshot_in(m.get_snapshot())?),
        other => return Err(Unsaid(format!("a message of kind {other:?}"))),
    };
    Ok(Message { from: id(m.from)?, to: id(m.to)?, stamp: Stamp { run: 0, seq: 0 }, term: m.term, body })
}
