//! Datasets of files behind the port.

use super::{FilesError, FilesReplica, FilesSource, Sample, differences};
use crate::erase::{Remains, remains};
use crate::helper::{HomePlace, Refusal, Why};
use crate::load::{Base, Chunks, CopyPlace, Demoted, News, Primary, Promoted, Replica, Whole, failed, needs_base};
use crate::materialise::{MaterialiseError, Options};
use crate::pack::encode_pack;
use crate::scan::{ChunkCache, ScanLimits, scan};
use crate::shelf::Holds;
use crate::tree::TreeManifest;
use pumasi_terms::{Digest, Position};
use std::path::PathBuf;

/// An update longer than this that did not get through is not tried again: packs get through where the link is slow.
const UPDATE_RETRIED_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub struct FilesHome {
    dir: PathBuf,
    limits: ScanLimits,
    source: FilesSource,
    seen: Option<(TreeManifest, Position)>,
    /// The last update was long.
    large: bool,
}

fn refusal(e: FilesError) -> Refusal {
    match &e {
        FilesError::Scan(e) if e.is_denied() => Refusal::new(Why::Denied, e),
        _ => failed(e),
    }
}

impl FilesHome {
    pub fn open(place: &HomePlace) -> Self {
        let limits = ScanLimits::of_dataset(place.bytes_max);
        let source = FilesSource::new(&place.dir, place.generation, limits);
        Self { dir: place.dir.clone(), limits, source, seen: None, large: false }
    }

    fn tree(&self) -> Result<TreeManifest, Refusal> {
        scan(&self.dir, &mut ChunkCache::default(), self.limits).map_err(|e| refusal(e.into()))
    }
}

impl Primary for FilesHome {
    fn poll(&mut self, now_ms: u64) -> Result<News, Refusal> {
        match self.source.sample(|| now_ms).map_err(refusal)? {
            Sample::Unchanged { as_of } => Ok(News::Unchanged { as_of }),
            Sample::Changed { as_of, tree } => {
                let update = self.source.update(&tree, as_of);
                self.seen = Some((tree, as_of));
                // A file that changed while it was read: the next look finds it so.
                let update = update.inspect_err(|_| self.source.forget_shipped()).map_err(failed)?;
                self.large = update.as_ref().is_some_and(|u| u.len() > UPDATE_RETRIED_BYTES_MAX);
                Ok(update.map_or(News::NeedsBase, |bytes| News::Delta { as_of, bytes }))
            }
        }
    }

    fn base(&mut self, _now_ms: u64) -> Result<Whole, Refusal> {
        let Some((tree, as_of)) = &self.seen else {
            return Err(Refusal::new(Why::Unasked, "a look comes before a whole state"));
        };
        let skipped = self.source.skipped();
        let skipped = (skipped.count > 0).then(|| skipped.to_string());
        Ok(Whole { as_of: *as_of, manifest: tree.to_bytes(), skipped })
    }

    fn pack(&self, digests: &[Digest]) -> Result<Vec<u8>, Refusal> {
        let Some((tree, _)) = &self.seen else {
            return Err(Refusal::new(Why::Unasked, "a whole state comes before its chunks"));
        };
        encode_pack(&self.source.chunks(tree), digests).map_err(failed)
    }

    fn told(&mut self, held: bool) -> Result<(), Refusal> {
        if held {
            self.source.acknowledged(self.seen.take().map(|(tree, _)| tree));
        } else {
            self.source.forget_shipped();
            if std::mem::take(&mut self.large) {
                self.source.acknowledged(None);
            }
        }
        Ok(())
    }

    fn digest(&mut self) -> Result<Digest, Refusal> {
        Ok(self.tree()?.digest())
    }

    fn demote(&mut self, base: Base, began: Option<&TreeManifest>) -> Result<Demoted, Refusal> {
        let now = self.tree()?;
        let began = began.filter(|tree| tree.digest() == base.digest);
        Ok(Demoted::of(now.digest(), base, || began.map(|began| differences(began, &now))))
    }
}

#[derive(Debug)]
pub struct FilesCopy {
    dir: PathBuf,
    apart: PathBuf,
    options: Options,
    copy: FilesReplica,
}

fn copy_refusal(e: FilesError) -> Refusal {
    match &e {
        FilesError::Older { .. } => Refusal::new(Why::Older, e),
        FilesError::Promoted { .. } => Refusal::new(Why::Promoted, e),
        FilesError::State { .. } | FilesError::Materialise(MaterialiseError::Io { .. }) => failed(e),
        _ => needs_base(e),
    }
}

impl FilesCopy {
    pub fn open(place: &CopyPlace) -> Self {
        let (dir, apart, options) = (place.dir.clone(), place.apart.clone(), place.files_options());
        let copy = FilesReplica::open_apart(&dir, &apart, options);
        Self { dir, apart, options, copy }
    }
}

impl Replica for FilesCopy {
    fn position(&self) -> Option<Position> {
        self.copy.position()
    }

    fn durable(&self) -> Option<Position> {
        self.copy.position().filter(|_| self.options.durable)
    }

    fn base(&mut self, tree: TreeManifest, chunks: Chunks<'_>, to: Position) -> Result<(), Refusal> {
        let applied = self.copy.apply_stored(tree, (chunks.store, chunks.others), chunks.keep, to);
        applied.map_err(|e| match &e {
            FilesError::Older { .. } | FilesError::Promoted { .. } => copy_refusal(e),
            _ => Refusal::new(Why::BadTree, e),
        })
    }

    fn apply(&mut self, bytes: &[u8], chunks: Chunks<'_>) -> Result<Position, Refusal> {
        self.copy.bring_forward(bytes, chunks.store, chunks.keep).map_err(copy_refusal)
    }

    fn promote(&mut self) -> Result<Promoted, Refusal> {
        self.copy.promote().map_err(failed)
    }

    fn digest(&mut self) -> Result<Digest, Refusal> {
        self.copy.tree().map(TreeManifest::digest).ok_or_else(|| needs_base("there is no copy yet"))
    }

    fn adopt(&mut self, base: Base) -> Result<(), Refusal> {
        self.copy = FilesReplica::adopt(&self.dir, &self.apart, self.options, base).map_err(copy_refusal)?;
        Ok(())
    }

    fn remains(&self) -> Result<Remains, Refusal> {
        remains(&self.dir).map_err(failed)
    }

    fn holds(&self) -> Option<Holds> {
        self.copy.holds()
    }
}
