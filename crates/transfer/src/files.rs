//! Datasets of kind `files`: a directory at home, a live read-only copy of it elsewhere.
//!
//! The first copy goes as a manifest and its chunks; what follows as updates against the state that the other side acknowledged
//! last. Each file of the copy is always whole; several files that the application changes together may be seen apart, which is
//! why such a dataset cannot claim mode `sync`.

use crate::materialise::{MaterialiseError, Options, beside, update_apart};
use crate::pack::{PackError, receive_onto};
use crate::scan::{ChunkCache, SampledChunks, ScanError, ScanLimits, Skipped, TreeChunks, scan};
use crate::shelf::{Holds, Shelf};
use crate::store::{ChunkSource, ChunkStore};
use crate::tree::TreeManifest;
use crate::update::{self, TreeUpdate, UpdateError};
use pumasi_terms::{Digest, Generation, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Materialise(#[from] MaterialiseError),
    #[error("copy state {path}: {source}; our disk is at fault, retry")]
    State { path: PathBuf, source: io::Error },
    #[error("the copy is at {held}; going back to {offered} is refused")]
    Older { held: Position, offered: Position },
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("the update leaves {chunks} chunks missing; send a whole state")]
    Incomplete { chunks: usize },
}

/// What a look at the source found.
#[derive(Debug)]
pub enum Sample {
    /// Nothing changed up to this position.
    Unchanged {
        as_of: Position,
    },
    Changed {
        as_of: Position,
        tree: TreeManifest,
    },
}

#[derive(Debug)]
pub struct FilesSource {
    dir: PathBuf,
    limits: ScanLimits,
    generation: Generation,
    cache: ChunkCache,
    shipped: Option<Digest>,
    /// What the other side holds, as it said.
    base: Option<TreeManifest>,
}

impl FilesSource {
    pub fn new(dir: impl Into<PathBuf>, generation: Generation, limits: ScanLimits) -> Self {
        let cache = ChunkCache::signing(limits.bytes_max);
        Self { dir: dir.into(), limits, generation, cache, shipped: None, base: None }
    }

    /// Looks at the directory. `home_now_ms` is the home's CLOCK_BOOTTIME, read before anything else, so that the position
    /// never promises what the scan may have missed.
    pub fn sample(&mut self, home_now_ms: impl Fn() -> u64) -> Result<Sample, FilesError> {
        let as_of = Position { generation: self.generation, as_of_ms: home_now_ms() };
        let tree = scan(&self.dir, &mut self.cache, self.limits)?;
        let digest = tree.digest();
        if self.shipped == Some(digest) {
            return Ok(Sample::Unchanged { as_of });
        }
        self.shipped = Some(digest);
        Ok(Sample::Changed { as_of, tree })
    }

    /// What the last sample left out.
    pub fn skipped(&self) -> &Skipped {
        &self.cache.skipped
    }

    /// Makes the next sample a change, e.g. for a new copy.
    pub fn forget_shipped(&mut self) {
        self.shipped = None;
    }

    /// The chunks of the tree that was sampled last.
    pub fn chunks(&self, tree: &TreeManifest) -> SampledChunks<'_> {
        SampledChunks::new(&self.cache, TreeChunks::new(&self.dir, tree))
    }

    /// The update from what the other side holds to `tree`; none if that is not known or too much has changed. Then the tree and
    /// its chunks are sent.
    pub fn update(&self, tree: &TreeManifest, as_of: Position) -> Result<Option<Vec<u8>>, PackError> {
        match (&self.base, &self.cache.signatures) {
            (Some(base), Some(signatures)) => update::encode(base, tree, as_of, &self.chunks(tree), signatures),
            _ => Ok(None),
        }
    }

    /// The other side has said that it holds this tree, or (none) that it does not hold what was thought.
    pub fn acknowledged(&mut self, tree: Option<TreeManifest>) {
        self.base = tree;
        if let (Some(base), Some(signatures)) = (&self.base, &mut self.cache.signatures) {
            let keep = base.digests();
            signatures.retain(|digest| keep.contains(digest));
        }
    }
}

/// First line of a copy's state; the manifest follows. Of version 1 was one with the manifest in it: it counts as none.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    as_of: Position,
}

const STATE_VERSION: u32 = 2;

fn read_state(bytes: &[u8]) -> Option<(Position, TreeManifest)> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let state: State = serde_json::from_slice(&bytes[..end]).ok().filter(|s: &State| s.version == STATE_VERSION)?;
    Some((state.as_of, TreeManifest::parse(&bytes[end + 1..]).ok()?))
}

fn state_bytes(as_of: Position, tree: &TreeManifest) -> Vec<u8> {
    let head = State { version: STATE_VERSION, as_of };
    let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
    bytes.push(b'\n');
    bytes.extend_from_slice(&tree.to_bytes());
    bytes
}

/// A live copy. Its state lies beside the directory, where the application cannot see it.
#[derive(Debug)]
pub struct FilesReplica {
    dir: PathBuf,
    /// Beginning of the names of its state and of what is being written, on the same file system.
    apart: PathBuf,
    options: Options,
    held: Option<(Position, Arc<TreeManifest>)>,
}

impl FilesReplica {
    /// Opens the copy in `dir`, which need not exist yet. A state that cannot be read counts as none: the next `apply` then
    /// rewrites everything.
    pub fn open(dir: impl Into<PathBuf>, options: Options) -> Self {
        let dir = dir.into();
        let apart = dir.clone();
        Self::open_apart(&dir, &apart, options)
    }

    /// As `open`, where the directory above is not ours to write: state and staging are named `apart` and something.
    pub fn open_apart(dir: &Path, apart: &Path, options: Options) -> Self {
        let (dir, apart) = (dir.to_owned(), apart.to_owned());
        let state = fs::read(beside(&apart, ".state")).ok();
        let held = state.and_then(|bytes| read_state(&bytes)).filter(|_| dir.is_dir());
        let held = held.map(|(at, tree)| (at, Arc::new(tree)));
        Self { dir, apart, options, held }
    }

    pub fn position(&self) -> Option<Position> {
        self.held.as_ref().map(|(w, _)| *w)
    }

    pub fn tree(&self) -> Option<&TreeManifest> {
        self.held.as_ref().map(|(_, t)| &**t)
    }

    /// The home says that nothing changed up to `as_of` since the tree with this digest.
    pub fn advance(&mut self, tree: &Digest, as_of: Position) -> bool {
        match &mut self.held {
            Some((held, t)) if t.digest() == *tree => {
                *held = as_of.max(*held);
                true
            }
            _ => false,
        }
    }

    /// Brings the copy to `tree`. After an error the copy claims nothing, and the next `apply` repairs it.
    pub fn apply(&mut self, tree: TreeManifest, chunks: &dyn ChunkSource, as_of: Position) -> Result<(), FilesError> {
        if let Some(held) = self.position().filter(|held| *held > as_of) {
            return Err(FilesError::Older { held, offered: as_of });
        }
        let path = beside(&self.apart, ".state");
        let before = self.held.take().map(|(_, t)| t);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(FilesError::State { path, source: e }),
            _ => {}
        }
        update_apart(before.as_deref(), &tree, chunks, &self.dir, &beside(&self.apart, ".part"), &self.options)?;
        write_state(&path, &state_bytes(as_of, &tree), self.options.durable)
            .map_err(|source| FilesError::State { path, source })?;
        self.held = Some((as_of, Arc::new(tree)));
        Ok(())
    }

    /// As `apply`, of chunks that were received into `store`, and of those that this copy or `others` have. They leave the store as
    /// they are built in, but for those in `keep`.
    pub(crate) fn apply_stored(
        &mut self,
        tree: TreeManifest,
        (store, mut others): (&mut ChunkStore, Vec<Holds>),
        keep: &BTreeSet<Digest>,
        as_of: Position,
    ) -> Result<(), FilesError> {
        others.extend(self.holds());
        self.apply(tree, &Shelf::new(store, others, keep), as_of)
    }

    pub(crate) fn holds(&self) -> Option<Holds> {
        self.held.as_ref().map(|(_, tree)| (self.dir.clone(), tree.clone()))
    }

    /// Brings the copy forward by an update. After an error it is as it was, or claims nothing; send a whole state then.
    pub fn bring_forward(
        &mut self,
        update: &[u8],
        store: &mut ChunkStore,
        keep: &BTreeSet<Digest>,
    ) -> Result<Position, FilesError> {
        let update = TreeUpdate::decode(update)?;
        if self.advance(&update.tree, update.at) {
            // Its answer was lost, and it was sent again.
            return Ok(update.at);
        }
        let base = self.tree().ok_or(UpdateError::OtherBase { wanted: update.base })?;
        let tree = update.tree(base)?;
        if tree.total_bytes > self.options.bytes_max {
            let (bytes, bytes_max) = (tree.total_bytes, self.options.bytes_max);
            return Err(MaterialiseError::TooLarge { bytes, bytes_max }.into());
        }
        let shelf = Shelf::new(store, self.holds().into_iter().collect(), keep);
        receive_onto(update.pack, &shelf, &tree.digests())?;
        match tree.chunks().filter(|c| !shelf.has(&c.digest)).count() {
            0 => self.apply(tree, &shelf, update.at).map(|()| update.at),
            chunks => Err(FilesError::Incomplete { chunks }),
        }
    }
}

/// Replaces a small file at once; `durable`: it survives a power cut.
pub(crate) fn write_state(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temp = beside(path, ".new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&temp, path)?;
    match path.parent() {
        Some(dir) if durable => fs::File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}
