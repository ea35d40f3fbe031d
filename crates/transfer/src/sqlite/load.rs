//! Databases behind the port.

use super::promote::{adopt, digest_of_database, is_promoted, promote};
use super::{
    Delta, PageBatch, Polled, ReplicaError, ReplicaOptions, SourceError, SourceOptions, SqliteReplica, SqliteSource,
};
use crate::disk::beside;
use crate::erase::{Remains, remains};
use crate::helper::{HomePlace, Refusal, Why};
use crate::load::{
    Base, Chunks, CopyPlace, Demoted, News, Primary, Promoted, Replica, Whole, failed, needs_base, plain_file,
};
use crate::pack::encode_pack;
use crate::shelf::Holds;
use crate::store::ChunkStore;
use crate::tree::TreeManifest;
use pumasi_terms::{Digest, Generation, Position};
use std::path::PathBuf;

#[derive(Debug)]
pub struct SqliteHome {
    path: PathBuf,
    generation: Generation,
    /// For chunks of a base on their way.
    scratch: PathBuf,
    bytes_max: u64,
    source: SqliteSource,
    base: Option<ChunkStore>,
}

fn source_refusal(e: SourceError) -> Refusal {
    Refusal::new(if e.is_denied() { Why::Denied } else { Why::Failed }, e)
}

impl SqliteHome {
    pub fn open(place: &HomePlace) -> Result<Self, Refusal> {
        let path = place.dir.join(plain_file(place.file.as_deref())?);
        let source = SqliteSource::open(&path, place.generation, SourceOptions::default());
        let scratch = place.scratch.join("chunks");
        let mut home =
            Self { path, generation: place.generation, scratch, bytes_max: place.bytes_max, source, base: None };
        home.clear()?;
        Ok(home)
    }

    fn clear(&mut self) -> Result<(), Refusal> {
        self.base = None;
        match std::fs::remove_dir_all(&self.scratch) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        }
    }
}

impl Primary for SqliteHome {
    fn poll(&mut self, now_ms: u64) -> Result<News, Refusal> {
        let now = || now_ms;
        match self.source.poll(now).map_err(source_refusal)? {
            Polled::Absent => Ok(News::Absent),
            Polled::Unchanged { as_of, .. } => Ok(News::Unchanged { as_of }),
            Polled::Changed => match self.source.delta(now).map_err(source_refusal)? {
                Delta::Unchanged { as_of, .. } => Ok(News::Unchanged { as_of }),
                Delta::NeedsBase(_) => Ok(News::NeedsBase),
                Delta::Batch(batch) => Ok(News::Delta { as_of: batch.to, bytes: batch.encode().map_err(failed)? }),
            },
        }
    }

    fn base(&mut self, now_ms: u64) -> Result<Whole, Refusal> {
        self.base = None;
        let mut store = ChunkStore::open(&self.scratch, self.bytes_max).map_err(failed)?;
        let made = self.source.snapshot(|| now_ms, &mut store).map_err(source_refusal)?;
        let made = made.ok_or_else(|| failed("there is no database yet"))?;
        self.base = Some(store);
        Ok(Whole { as_of: made.at, manifest: made.tree.to_bytes(), skipped: None })
    }

    fn pack(&self, digests: &[Digest]) -> Result<Vec<u8>, Refusal> {
        let store = self.base.as_ref();
        let store = store.ok_or_else(|| Refusal::new(Why::Unasked, "a whole state comes before its chunks"))?;
        encode_pack(store, digests).map_err(failed)
    }

    fn told(&mut self, held: bool) -> Result<(), Refusal> {
        self.clear()?;
        if !held {
            // A batch that did not arrive is lost to the source, which believes it shipped: the next look starts from a base.
            self.source = SqliteSource::open(&self.path, self.generation, SourceOptions::default());
        }
        Ok(())
    }

    fn digest(&mut self) -> Result<Digest, Refusal> {
        digest_of_database(&self.path).map_err(source_refusal)
    }

    fn demote(&mut self, base: Base, _began: Option<&TreeManifest>) -> Result<Demoted, Refusal> {
        Ok(Demoted::of(self.digest()?, base, || None))
    }
}

#[derive(Debug)]
pub struct SqliteCopy {
    dir: PathBuf,
    path: PathBuf,
    marker: PathBuf,
    options: ReplicaOptions,
    /// None: the home has no database yet, or none came.
    copy: Option<SqliteReplica>,
    /// Of a home without a database too.
    position: Option<Position>,
}

fn copy_refusal(e: ReplicaError) -> Refusal {
    match &e {
        ReplicaError::NeedsBase { .. } | ReplicaError::PageSize { .. } => needs_base(e),
        ReplicaError::Older { .. } => Refusal::new(Why::Older, e),
        _ => failed(e),
    }
}

impl SqliteCopy {
    pub fn open(place: &CopyPlace) -> Result<Self, Refusal> {
        let path = place.dir.join(plain_file(place.file.as_deref())?);
        let (marker, options) = (beside(&place.apart, ".promoted"), place.replica_options());
        // What cannot be opened claims nothing, and the next whole state replaces it. What was promoted is not ours to open.
        let copy = match !is_promoted(&marker) && path.exists() {
            true => SqliteReplica::open(&path, options).ok(),
            false => None,
        };
        let position = copy.as_ref().and_then(SqliteReplica::position);
        Ok(Self { dir: place.dir.clone(), path, marker, options, copy, position })
    }

    fn is_still_a_copy(&self) -> Result<(), Refusal> {
        let text = || format!("{} was promoted: it is a dataset now and takes nothing more", self.path.display());
        if is_promoted(&self.marker) { Err(Refusal::new(Why::Promoted, text())) } else { Ok(()) }
    }
}

impl Replica for SqliteCopy {
    fn position(&self) -> Option<Position> {
        self.position
    }

    fn durable(&self) -> Option<Position> {
        self.position.filter(|_| self.options.durable)
    }

    fn base(&mut self, tree: TreeManifest, chunks: Chunks<'_>, to: Position) -> Result<(), Refusal> {
        self.is_still_a_copy()?;
        if let Some(held) = self.position.filter(|held| *held > to) {
            return Err(Refusal::new(Why::Older, format!("the copy is at {held} already")));
        }
        if !tree.entries.is_empty() {
            let store = &*chunks.store;
            match &mut self.copy {
                // Readers may have it open, so its pages change inside a transaction.
                Some(copy) => copy.rebase(&tree, store, to).map(|_| ()).map_err(copy_refusal)?,
                None => {
                    let made = SqliteReplica::create(&tree, store, to, &self.path, self.options);
                    self.copy = Some(made.map_err(copy_refusal)?);
                }
            }
            let spent = tree.chunks().map(|c| c.digest).filter(|d| !chunks.keep.contains(d));
            spent.collect::<Vec<_>>().iter().try_for_each(|d| chunks.store.forget(d)).map_err(failed)?;
        }
        self.position = Some(to);
        Ok(())
    }

    fn apply(&mut self, bytes: &[u8], _chunks: Chunks<'_>) -> Result<Position, Refusal> {
        self.is_still_a_copy()?;
        let copy = self.copy.as_mut().ok_or_else(|| needs_base("there is no copy yet"))?;
        let batch = PageBatch::decode(bytes).map_err(|e| Refusal::new(Why::BadBatch, e))?;
        let at = copy.apply(&batch).map_err(copy_refusal)?.at;
        self.position = Some(at);
        Ok(at)
    }

    fn promote(&mut self) -> Result<Promoted, Refusal> {
        let done = promote(&self.path, self.copy.take(), &self.marker);
        if done.is_err() && !is_promoted(&self.marker) {
            // Not even begun: readers go on, and so does the copy.
            self.copy = SqliteReplica::open(&self.path, self.options).ok();
        }
        self.position = self.copy.as_ref().and_then(SqliteReplica::position);
        done.map_err(failed)
    }

    fn digest(&mut self) -> Result<Digest, Refusal> {
        digest_of_database(&self.path).map_err(source_refusal)
    }

    fn adopt(&mut self, base: Base) -> Result<(), Refusal> {
        self.is_still_a_copy()?;
        self.copy = None;
        let copy = adopt(&self.path, base, self.options).map_err(copy_refusal)?;
        (self.position, self.copy) = (copy.position(), Some(copy));
        Ok(())
    }

    fn remains(&self) -> Result<Remains, Refusal> {
        remains(&self.dir).map_err(failed)
    }

    fn holds(&self) -> Option<Holds> {
        None
    }
}
