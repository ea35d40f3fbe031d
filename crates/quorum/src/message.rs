//! What voters say to each other: our own mirror of Raft's messages, so that no bytes from outside meet protobuf.
//!
//! Form: the version (1 byte), then the message in the format of `postcard` (numbers as LEB128, variants by their number).
//! Enters: bytes of a peer. Leaves: a message within bounds, or why it is none. Always holds: only the messages that we use exist
//! here, so that a peer can neither propose nor hand over the lead in our name; entries of an append follow each other, since their
//! indexes are not said but counted; what is written is read again as the same.

use crate::bounded;
use crate::conf::{Change, Conf};
use crate::id::RaftId;
use pumasi_terms::Digest;
use serde::{Deserialize, Serialize};

pub const VERSION: u8 = 1;
pub const MESSAGE_BYTES_MAX: usize = 384 << 10;
/// A plan for a thousand services is 120 kB.
pub const COMMAND_BYTES_MAX: usize = 256 << 10;
pub const ENTRIES_MAX: usize = 1_024;
pub const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;
/// Terms, indexes, runs and counters. Far from where adding to them would overflow, and within SQLite's integers.
pub const NUMBER_MAX: u64 = 1 << 62;
/// By how much a peer's term may be ahead of ours: 2^32 elections take years. Terms never fall, so one absurd number would stay.
pub const TERM_LEAP_MAX: u64 = 1 << 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("message of a voter: {bytes} bytes; at most {MESSAGE_BYTES_MAX} are taken")]
    TooLarge { bytes: usize },
    #[error("message of a voter: empty")]
    Empty,
    #[error("message of a voter: version {found}; this program knows version {VERSION}: update the older of the two")]
    Version { found: u8 },
    #[error("message of a voter: not a message, or broken off ({0}); the sender is at fault")]
    Garbled(String),
    #[error("message of a voter: {0}; the sender is at fault")]
    Impossible(&'static str),
}

/// Which of a sender's messages is the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Rises with each start of the sender.
    pub run: u64,
    /// Rises with each message to this peer.
    pub seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub from: RaftId,
    pub to: RaftId,
    pub stamp: Stamp,
    /// Never 0, which Raft takes for a message of one's own.
    pub term: u64,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Entries after `index`, where the leader has one of `log_term`.
    Append {
        index: u64,
        log_term: u64,
        commit: u64,
        #[serde(deserialize_with = "bounded::list::<_, _, ENTRIES_MAX>")]
        entries: Vec<Entry>,
    },
    Appended {
        index: u64,
        commit: u64,
    },
    /// Nothing fits after `index`; try after `hint`, where the follower has one of `hint_term`.
    AppendRefused {
        index: u64,
        commit: u64,
        hint: u64,
        hint_term: u64,
    },
    /// `pre`: only asked, the term is not raised yet.
    Vote {
        pre: bool,
        index: u64,
        log_term: u64,
        commit: u64,
        commit_term: u64,
    },
    Voted {
        pre: bool,
        granted: bool,
        commit: u64,
        commit_term: u64,
    },
    Heartbeat {
        commit: u64,
    },
    HeartbeatAnswer {
        commit: u64,
    },
    /// That there is one; its bytes are fetched by their digest.
    Snapshot(SnapshotMeta),
}

/// One entry of the log; its index is its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub term: u64,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// With it a new leader begins its term.
    Empty,
    Command(#[serde(with = "bounded::bytes")] Vec<u8>),
    Change(Change),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    pub index: u64,
    pub term: u64,
    pub conf: Conf,
    #[serde(with = "raw_digest")]
    pub digest: Digest,
    pub bytes: u64,
}

/// What a voter must never forget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    pub term: u64,
    pub vote: Option<RaftId>,
    pub commit: u64,
}

/// 32 bytes instead of 71 letters.
mod raw_digest {
    use pumasi_terms::Digest;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, s: S) -> Result<S::Ok, S::Error> {
        digest.0.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Digest, D::Error> {
        Ok(Digest(<[u8; 32]>::deserialize(d)?))
    }
}

impl Message {
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let bytes = encode(self)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLarge { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLarge { bytes: bytes.len() });
        }
        let message: Self = decode(bytes)?;
        match message.problem() {
            Some(problem) => Err(MessageError::Impossible(problem)),
            None => Ok(message),
        }
    }

    fn problem(&self) -> Option<&'static str> {
        if self.from == self.to {
            return Some("from a voter to itself");
        }
        if self.term == 0 {
            return Some("of term 0");
        }
        if [self.term, self.stamp.run, self.stamp.seq].iter().any(|n| *n > NUMBER_MAX) {
            return Some(TOO_HIGH);
        }
        self.body.problem(self.term)
    }
}

const TOO_HIGH: &str = "a number that no log reaches";

impl Body {
    fn problem(&self, of_term: u64) -> Option<&'static str> {
        let high = |numbers: &[u64]| numbers.iter().any(|n| *n > NUMBER_MAX).then_some(TOO_HIGH);
        match self {
            Self::Append { index, log_term, commit, entries } => {
                high(&[*index, *log_term, *commit]).or_else(|| terms_problem(*log_term, entries, of_term))
            }
            Self::Appended { index, commit } => high(&[*index, *commit]),
            Self::AppendRefused { index, commit, hint, hint_term } => high(&[*index, *commit, *hint, *hint_term]),
            Self::Vote { index, log_term, commit, commit_term, .. } => {
                high(&[*index, *log_term, *commit, *commit_term])
            }
            Self::Voted { commit, commit_term, .. } => high(&[*commit, *commit_term]),
            Self::Heartbeat { commit } | Self::HeartbeatAnswer { commit } => high(&[*commit]),
            Self::Snapshot(meta) => meta.problem(),
        }
    }

    /// Where only the latest of a sender's counts: see [`crate::link`].
    pub fn ordered(&self) -> Option<crate::link::Lane> {
        use crate::link::Lane;
        match self {
            Self::Append { .. } | Self::Snapshot(_) => Some(Lane::Append),
            Self::Appended { .. } | Self::AppendRefused { .. } => Some(Lane::Answer),
            _ => None,
        }
    }
}

fn terms_problem(log_term: u64, entries: &[Entry], of_term: u64) -> Option<&'static str> {
    let mut last = log_term;
    for entry in entries {
        if entry.term < last || entry.term > of_term || entry.term == 0 {
            return Some("entries whose terms do not rise up to the sender's");
        }
        last = entry.term;
    }
    None
}

impl SnapshotMeta {
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.index == 0 || self.term == 0 {
            return Some("a snapshot of nothing");
        }
        if self.index > NUMBER_MAX || self.term > NUMBER_MAX {
            return Some(TOO_HIGH);
        }
        if self.bytes > SNAPSHOT_BYTES_MAX {
            return Some("a snapshot larger than 64 MiB");
        }
        self.conf.problem()
    }
}

/// A version, then the value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, MessageError> {
    postcard::to_extend(value, vec![VERSION]).map_err(|e| MessageError::Garbled(e.to_string()))
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, MessageError> {
    match bytes.split_first() {
        None => Err(MessageError::Empty),
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(MessageError::Garbled("something follows its end".into())),
            Err(e) => Err(MessageError::Garbled(e.to_string())),
        },
        Some((&found, _)) => Err(MessageError::Version { found }),
    }
}

impl Kind {
    /// As the store keeps it: a number for the kind, and bytes.
    pub fn stored(&self) -> Result<(u8, Vec<u8>), MessageError> {
        Ok(match self {
            Self::Empty => (0, Vec::new()),
            Self::Command(bytes) => (1, bytes.clone()),
            Self::Change(change) => (2, encode(change)?),
        })
    }

    pub fn from_stored(kind: u8, data: &[u8]) -> Result<Self, MessageError> {
        match kind {
            0 if data.is_empty() => Ok(Self::Empty),
            1 if (1..=COMMAND_BYTES_MAX).contains(&data.len()) => Ok(Self::Command(data.to_vec())),
            2 => Ok(Self::Change(decode(data)?)),
            _ => Err(MessageError::Impossible("an entry of an unknown kind or length")),
        }
    }
}

impl Conf {
    /// As the store keeps it.
    pub fn stored(&self) -> Result<Vec<u8>, MessageError> {
        encode(self)
    }

    pub fn from_stored(bytes: &[u8]) -> Result<Self, MessageError> {
        let conf: Self = decode(bytes)?;
        // A store that has yet to hear of its group knows of nobody.
        match conf.problem().filter(|_| conf != Self::default()) {
            Some(problem) => Err(MessageError::Impossible(problem)),
            None => Ok(conf),
        }
    }
}
