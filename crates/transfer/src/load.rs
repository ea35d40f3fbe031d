//! A dataset of any kind, as a helper handles it: the half at its home, and the half of a copy.
//!
//! Enters: questions of a daemon, chunks. Leaves: what is new at home; copies that follow; a copy that became the dataset (`promote`),
//! a dataset that stopped being it (`demote`).
//! Always holds: what kind a dataset is, is asked here and nowhere else; a copy never claims a position that it does not hold.

use crate::disk;
use crate::erase::Remains;
use crate::files::{FilesCopy, FilesHome};
use crate::helper::{HomePlace, Refusal, Why};
use crate::materialise::{Access, Options};
use crate::shelf::Holds;
use crate::sqlite::{ReplicaOptions, SqliteCopy, SqliteHome};
use crate::store::ChunkStore;
use crate::tree::TreeManifest;
use pumasi_terms::service::DatasetKind;
use pumasi_terms::{Digest, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

/// What a look at home found.
#[derive(Debug)]
pub enum News {
    /// There is nothing to be copied yet.
    Absent,
    Unchanged {
        as_of: Position,
    },
    /// These bytes bring a copy that had followed so far to `as_of`.
    Delta {
        as_of: Position,
        bytes: Vec<u8>,
    },
    NeedsBase,
}

/// A whole state: its chunks are asked for by `pack`.
#[derive(Debug)]
pub struct Whole {
    pub as_of: Position,
    pub manifest: Vec<u8>,
    /// What of the dataset is not in it.
    pub skipped: Option<String>,
}

/// The half at home.
pub trait Primary: Debug + Send {
    /// What is new. `now_ms` is the home's clock, read before this was asked.
    fn poll(&mut self, now_ms: u64) -> Result<News, Refusal>;
    fn base(&mut self, now_ms: u64) -> Result<Whole, Refusal>;
    /// Chunks of the last base.
    fn pack(&self, digests: &[Digest]) -> Result<Vec<u8>, Refusal>;
    /// Whether the other side holds what the last `poll` or `base` gave.
    fn told(&mut self, held: bool) -> Result<(), Refusal>;
    /// Of the content: two datasets of one digest hold the same.
    fn digest(&mut self) -> Result<Digest, Refusal>;
    /// Its writers have ended for good: what it has that its successor, which began from `base`, has not. `began`: the manifest of that,
    /// if it is at hand.
    fn demote(&mut self, base: Base, began: Option<&TreeManifest>) -> Result<Demoted, Refusal>;
}

/// Chunks of a lease: those that were received, what copies beside this one hold, and what must stay for others.
#[derive(Debug)]
pub struct Chunks<'a> {
    pub(crate) store: &'a mut ChunkStore,
    pub(crate) others: Vec<Holds>,
    pub(crate) keep: &'a BTreeSet<Digest>,
}

/// The half of a copy.
pub trait Replica: Debug + Send {
    fn position(&self) -> Option<Position>;
    /// What a power cut leaves of it.
    fn durable(&self) -> Option<Position>;
    /// Brings it to a whole state, whose chunks are there.
    fn base(&mut self, tree: TreeManifest, chunks: Chunks<'_>, to: Position) -> Result<(), Refusal>;
    /// Brings it forward by what `Primary::poll` gave.
    fn apply(&mut self, bytes: &[u8], chunks: Chunks<'_>) -> Result<Position, Refusal>;
    /// Makes it the dataset, in the directory where it is; readers have ended. Once begun it takes nothing more; called again, it goes on
    /// where it was cut off, and says the same once it is done.
    fn promote(&mut self) -> Result<Promoted, Refusal>;
    /// Of its content, as the home would say it.
    fn digest(&mut self) -> Result<Digest, Refusal>;
    /// Makes a copy at `base` of the dataset in its directory, which was demoted and has not diverged.
    fn adopt(&mut self, base: Base) -> Result<(), Refusal>;
    fn remains(&self) -> Result<Remains, Refusal>;
    /// Chunks that need not be sent, since they stand in its files.
    #[doc(hidden)]
    fn holds(&self) -> Option<Holds>;
}

/// What an owner of the dataset began from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub at: Position,
    pub digest: Digest,
}

/// A copy that is the dataset now, and what it began from.
pub type Promoted = Base;

/// Names of which there may be many: how many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub count: u64,
    pub first: Vec<String>,
}

const NAMED_MAX: usize = 100;

impl Named {
    pub(crate) fn add(&mut self, name: &OsStr) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(name.to_string_lossy().chars().take(400).collect());
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    pub added: Named,
    pub changed: Named,
    pub removed: Named,
}

/// What was written at a home and is not in what its successor began from. Written down as `divergence.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    pub version: u32,
    pub base: Base,
    /// Of what is kept.
    pub digest: Digest,
    /// By file; none where it can only be told with the successor's data beside it.
    pub differences: Option<Differences>,
}

pub const DIVERGENCE_VERSION: u32 = 1;

/// A dataset that is none any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demoted {
    pub digest: Digest,
    /// None: it holds what its successor began from, so that `Replica::adopt` makes a copy of it.
    pub divergence: Option<Divergence>,
}

impl Demoted {
    pub(crate) fn of(digest: Digest, base: Base, differences: impl FnOnce() -> Option<Differences>) -> Self {
        let divergence = (digest != base.digest).then(|| Divergence {
            version: DIVERGENCE_VERSION,
            base,
            digest,
            differences: differences(),
        });
        Self { digest, divergence }
    }
}

/// Moves a dataset that has diverged to `kept`, where `divergence.json` says what of it its successor has not. It may be called again
/// until it succeeds. The directories above both are the caller's alone, and on one file system.
pub fn set_aside(dir: &Path, kept: &Path, divergence: &Divergence) -> io::Result<()> {
    std::fs::create_dir_all(kept)?;
    disk::write_state(&kept.join("divergence.json"), &serde_json::to_vec_pretty(divergence)?, true)?;
    disk::move_dir(dir, &kept.join("data"))
}

/// Where a copy is, and what it may do.
#[derive(Debug, Clone)]
pub struct CopyPlace {
    pub dir: PathBuf,
    /// Of a database, in the directory.
    pub file: Option<String>,
    /// Beginning of the names of its state, where readers do not come.
    pub apart: PathBuf,
    pub access: Access,
    pub layers: bool,
    pub bytes_max: u64,
    pub durable: bool,
}

impl CopyPlace {
    /// Of files. A database is never written by who reads it: it could cut a file off under whoever has it mapped.
    pub(crate) fn files_options(&self) -> Options {
        let access = match self.access {
            Access::Group(gid) if self.layers => Access::Layered(gid),
            access => access,
        };
        Options { access, bytes_max: self.bytes_max, durable: self.durable }
    }

    pub(crate) fn replica_options(&self) -> ReplicaOptions {
        let (access, bytes_max, durable) = (self.access, self.bytes_max, self.durable);
        ReplicaOptions { access, bytes_max, durable, ..ReplicaOptions::default() }
    }
}

pub fn primary(place: &HomePlace) -> Result<Box<dyn Primary>, Refusal> {
    Ok(match place.kind {
        DatasetKind::Files => Box::new(FilesHome::open(place)),
        DatasetKind::Sqlite => Box::new(SqliteHome::open(place)?),
    })
}

/// The copy as it was left, or one that holds nothing yet.
pub fn replica(kind: DatasetKind, place: CopyPlace) -> Result<Box<dyn Replica>, Refusal> {
    Ok(match kind {
        DatasetKind::Files => Box::new(FilesCopy::open(&place)),
        DatasetKind::Sqlite => Box::new(SqliteCopy::open(&place)?),
    })
}

/// The name of a database in its dataset.
pub(crate) fn plain_file(file: Option<&str>) -> Result<&str, Refusal> {
    let plain = file.filter(|f| !f.contains('/') && pumasi_terms::service::is_inside(f));
    plain.ok_or_else(|| Refusal::new(Why::BadDataset, "a sqlite dataset names its file, without directories"))
}

pub(crate) fn failed(e: impl std::fmt::Display) -> Refusal {
    Refusal::new(Why::Failed, e)
}

pub(crate) fn needs_base(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Why::NeedsBase, format!("{why}; send a whole copy"))
}
