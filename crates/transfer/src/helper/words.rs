//! What a daemon and its helper say to each other: a head in JSON and a body of bytes, each with its length before it.
//!
//! The version is said in `Open`; both sides are the same program, but a helper that an earlier daemon started may be an older one.
//! Always holds: a length is checked before memory is taken for it; what the helper answers is believed no more than a peer.

use crate::aside::{AsidePlace, Compared};
use crate::load::{Base, Demoted};
use crate::materialise::Access;
use crate::sqlite::BATCH_BYTES_MAX;
use pumasi_terms::service::DatasetKind;
use pumasi_terms::{DatasetName, Digest, Generation, Position};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// 4: what was set aside is compared and given out. 3: copies that survive a power cut, and that are promoted.
pub const VERSION: u32 = 4;
pub const HEAD_BYTES_MAX: usize = 1 << 20;
/// A batch of pages is the longest of what is said.
pub const BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + (16 << 20);

/// A dataset at home, as the helper sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomePlace {
    pub version: u32,
    pub dir: PathBuf,
    /// The helper's own, for chunks on their way.
    pub scratch: PathBuf,
    pub kind: DatasetKind,
    pub file: Option<String>,
    pub generation: Generation,
    pub bytes_max: u64,
}

/// A lease's copies, as the helper sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarPlace {
    pub version: u32,
    /// The helper's own: chunks, what is being unpacked, the state of copies.
    pub work: PathBuf,
    /// Whether another helper could be at work there.
    pub lock: bool,
    /// Each dataset has a directory in here.
    pub data: PathBuf,
    pub bytes_max: u64,
    /// Who reads copies, besides their owner.
    pub access: Access,
    /// Instances see files through layers of their own.
    #[serde(default)]
    pub layers: bool,
    /// What copies claim survives a power cut.
    #[serde(default)]
    pub durable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    pub name: DatasetName,
    pub kind: DatasetKind,
    pub file: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    OpenHome(HomePlace),
    OpenFar(FarPlace),
    OpenAside(AsidePlace),

    /// Of what was set aside: what of a dataset is not in what was gone on with?
    Compare {
        set: Set,
    },
    /// Of what was set aside: begins an archive of these datasets.
    Archive {
        sets: Vec<DatasetName>,
    },
    /// Its next piece.
    Piece,

    /// At home: what is new? `now_ms` is the home's clock, read before this was sent.
    Look {
        now_ms: u64,
    },
    /// At home: the whole state, as a manifest whose chunks `Pack` gives.
    Base {
        now_ms: u64,
    },
    /// At home; the body names the chunks, 32 bytes each.
    Pack,
    /// At home: whether the other side holds what the last `Look` or `Base` gave.
    Told {
        held: bool,
    },
    /// At home: of the content.
    Digest,
    /// At home, when writers have ended for good: has it diverged from what its successor began from? The body is the manifest of
    /// that, or nothing.
    Demote {
        base: Base,
    },

    /// At the lender: which chunks of the manifest in the body are not here?
    Missing,
    /// At the lender: the body is a pack.
    Receive,
    /// At the lender: builds what `Missing` was asked about, in a directory of the helper's own.
    Unpack {
        digest: Digest,
    },
    /// At the lender: a whole state, which `Missing` was asked about.
    Put {
        set: Set,
        to: Position,
        digest: Digest,
    },
    /// At the lender: the body is a batch of pages or an update.
    Change {
        set: Set,
    },
    /// At the lender: opens what is there, as far as it can be opened.
    Hold {
        sets: Vec<Set>,
    },
    /// At the lender: the copy becomes the dataset, where it is. It may be asked again until it is answered.
    Promote {
        set: Set,
    },
    /// At the lender: what was demoted and did not diverge lies where the copy shall be, and becomes it.
    Adopt {
        set: Set,
        base: Base,
    },
    /// At the lender: of the copy's content, as the home would say it.
    CopyDigest {
        set: Set,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    Absent,
    Unchanged {
        as_of: Position,
    },
    /// The body brings a copy that had followed so far to `as_of`.
    Delta {
        as_of: Position,
    },
    NeedsBase,
    /// The body is the manifest; what of the dataset is not in it.
    Base {
        as_of: Position,
        skipped: Option<String>,
    },
    /// The body is a pack.
    Pack,
    /// The body names chunks, 32 bytes each.
    Digests,
    At {
        at: Position,
    },
    Held {
        at: Vec<(DatasetName, Option<Position>)>,
    },
    /// What the new dataset began from.
    Promoted(Base),
    Demoted(Box<Demoted>),
    Digest {
        digest: Digest,
    },
    Compared(Box<Compared>),
    /// The body is the next of an archive.
    Piece {
        last: bool,
    },
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    pub why: Why,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    NeedsBase,
    Older,
    BadTree,
    BadPack,
    BadBatch,
    BadDigest,
    BadDataset,
    NoStorage,
    /// It was a copy and is a dataset now.
    Promoted,
    /// The helper may not read something that its owner could give it.
    Denied,
    /// A question that does not fit what was opened, or of another version.
    Unasked,
    Failed,
}

impl Refusal {
    pub fn new(why: Why, detail: impl std::fmt::Display) -> Self {
        // Paths and names in it are a tenant's words.
        Self { why, detail: detail.to_string().chars().filter(|c| !c.is_control()).take(1_000).collect() }
    }
}

pub fn digests_to_bytes(digests: impl IntoIterator<Item = Digest>) -> Vec<u8> {
    digests.into_iter().flat_map(|d| d.0).collect()
}

/// None: not a whole number of digests.
pub fn digests_of(bytes: &[u8]) -> Option<Vec<Digest>> {
    let (digests, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| digests.iter().map(|d| Digest(*d)).collect())
}

/// The lengths that stand before a message.
pub fn lengths(head: &[u8; 8]) -> io::Result<(usize, usize)> {
    let number = |b: [u8; 4]| u32::from_le_bytes(b) as usize;
    let (head_len, body_len) =
        (number([head[0], head[1], head[2], head[3]]), number([head[4], head[5], head[6], head[7]]));
    if head_len > HEAD_BYTES_MAX || body_len > BODY_BYTES_MAX {
        let text = format!("a message of {head_len} and {body_len} bytes is longer than any should be");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok((head_len, body_len))
}

/// Lengths and head of a message; its body follows.
pub fn head_of<T: Serialize>(message: &T, body: &[u8]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(message)?;
    let len = |n: usize| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut out = Vec::with_capacity(8 + head.len());
    out.extend_from_slice(&len(head.len())?.to_le_bytes());
    out.extend_from_slice(&len(body.len())?.to_le_bytes());
    lengths(&[out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7]])?;
    out.extend_from_slice(&head);
    Ok(out)
}

pub fn write<T: Serialize>(to: &mut impl Write, message: &T, body: &[u8]) -> io::Result<()> {
    to.write_all(&head_of(message, body)?)?;
    to.write_all(body)?;
    to.flush()
}

/// None: the other side has closed the line between two messages.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut before = [0u8; 8];
    let first = loop {
        match from.read(&mut before) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut before[first..])?;
    let (head_len, body_len) = lengths(&before)?;
    let mut head = vec![0; head_len];
    from.read_exact(&mut head)?;
    let message = serde_json::from_slice(&head)?;
    let mut body = vec![0; body_len];
    from.read_exact(&mut body)?;
    Ok(Some((message, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_lengths_are_bounded() {
        let mut line = Vec::new();
        write(&mut line, &Request::Look { now_ms: 7 }, b"").unwrap();
        write(&mut line, &Request::Receive, b"pack").unwrap();
        let mut from = &line[..];
        assert_eq!(read::<Request>(&mut from).unwrap().unwrap(), (Request::Look { now_ms: 7 }, vec![]));
        assert_eq!(read::<Request>(&mut from).unwrap().unwrap(), (Request::Receive, b"pack".to_vec()));
        assert!(read::<Request>(&mut from).unwrap().is_none());
        assert!(read::<Request>(&mut &line[..11]).is_err());
        for huge in [[255, 255, 255, 255, 0, 0, 0, 0], [0, 0, 0, 0, 255, 255, 255, 255]] {
            assert!(read::<Request>(&mut &huge[..]).is_err());
        }
        let digests = [Digest([1; 32]), Digest([2; 32])];
        assert_eq!(digests_of(&digests_to_bytes(digests)).unwrap(), digests);
        assert!(digests_of(&[0; 33]).is_none());
    }
}
