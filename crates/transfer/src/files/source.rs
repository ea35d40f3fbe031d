//! The home's side: what of a directory is new.

use super::FilesError;
use crate::pack::PackError;
use crate::scan::{ChunkCache, SampledChunks, ScanLimits, Skipped, TreeChunks, scan};
use crate::tree::TreeManifest;
use crate::update;
use pumasi_terms::{Digest, Generation, Position};
use std::path::PathBuf;

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
