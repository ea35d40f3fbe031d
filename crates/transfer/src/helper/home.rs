//! A dataset at home: what is new, and its bytes.

use super::words::{HomePlace, Refusal, Reply, Why, digests_of};
use crate::files::{FilesError, FilesSource, Sample};
use crate::pack::encode_pack;
use crate::scan::ScanLimits;
use crate::sqlite::{Delta, Polled, SourceError, SourceOptions, SqliteSource};
use crate::store::ChunkStore;
use crate::tree::TreeManifest;
use pumasi_terms::Position;
use pumasi_terms::service::DatasetKind;
use std::path::PathBuf;

/// An update longer than this that did not get through is not tried again: packs get through where the link is slow.
const UPDATE_RETRIED_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
enum Source {
    Files { source: Box<FilesSource>, seen: Option<(TreeManifest, Position)>, large: bool },
    Sqlite { source: Box<SqliteSource>, base: Option<ChunkStore> },
}

#[derive(Debug)]
pub struct Home {
    place: HomePlace,
    source: Source,
}

fn files_refusal(e: &FilesError) -> Refusal {
    let denied = matches!(e, FilesError::Scan(e) if e.is_denied());
    Refusal::new(if denied { Why::Denied } else { Why::Failed }, e)
}

fn sqlite_refusal(e: &SourceError) -> Refusal {
    Refusal::new(if e.is_denied() { Why::Denied } else { Why::Failed }, e)
}

fn failed(e: impl std::fmt::Display) -> Refusal {
    Refusal::new(Why::Failed, e)
}

/// The name of a database in its dataset.
pub(super) fn plain_file(file: Option<&str>) -> Result<&str, Refusal> {
    let plain = file.filter(|f| !f.contains('/') && pumasi_terms::service::is_inside(f));
    plain.ok_or_else(|| Refusal::new(Why::BadDataset, "a sqlite dataset names its file, without directories"))
}

impl Source {
    fn open(place: &HomePlace) -> Result<Self, Refusal> {
        Ok(match place.kind {
            DatasetKind::Files => {
                let limits = ScanLimits::of_dataset(place.bytes_max);
                let source = Box::new(FilesSource::new(&place.dir, place.generation, limits));
                Self::Files { source, seen: None, large: false }
            }
            DatasetKind::Sqlite => {
                let path = place.dir.join(plain_file(place.file.as_deref())?);
                let source = SqliteSource::open(path, place.generation, SourceOptions::default());
                Self::Sqlite { source: Box::new(source), base: None }
            }
        })
    }
}

impl Home {
    pub fn open(place: HomePlace) -> Result<Self, Refusal> {
        let source = Source::open(&place)?;
        let mut home = Self { place, source };
        home.clear()?;
        Ok(home)
    }

    fn chunks_dir(&self) -> PathBuf {
        self.place.scratch.join("chunks")
    }

    fn clear(&mut self) -> Result<(), Refusal> {
        if let Source::Sqlite { base, .. } = &mut self.source {
            *base = None;
        }
        match std::fs::remove_dir_all(self.chunks_dir()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        }
    }

    pub fn look(&mut self, now_ms: u64) -> Result<(Reply, Vec<u8>), Refusal> {
        let now = move || now_ms;
        let plain = |reply| Ok((reply, Vec::new()));
        match &mut self.source {
            Source::Files { source, seen, large } => match source.sample(now).map_err(|e| files_refusal(&e))? {
                Sample::Unchanged { as_of } => plain(Reply::Unchanged { as_of }),
                Sample::Changed { as_of, tree } => {
                    let update = source.update(&tree, as_of);
                    *seen = Some((tree, as_of));
                    // A file that changed while it was read: the next look finds it so.
                    let update = update.inspect_err(|_| source.forget_shipped()).map_err(failed)?;
                    *large = update.as_ref().is_some_and(|u| u.len() > UPDATE_RETRIED_BYTES_MAX);
                    Ok(update.map_or((Reply::NeedsBase, Vec::new()), |bytes| (Reply::Delta { as_of }, bytes)))
                }
            },
            Source::Sqlite { source, .. } => {
                let refused = |e: SourceError| sqlite_refusal(&e);
                match source.poll(now).map_err(refused)? {
                    Polled::Absent => plain(Reply::Absent),
                    Polled::Unchanged { as_of, .. } => plain(Reply::Unchanged { as_of }),
                    Polled::Changed => match source.delta(now).map_err(refused)? {
                        Delta::Unchanged { as_of, .. } => plain(Reply::Unchanged { as_of }),
                        Delta::NeedsBase(_) => plain(Reply::NeedsBase),
                        Delta::Batch(batch) => Ok((Reply::Delta { as_of: batch.to }, batch.encode().map_err(failed)?)),
                    },
                }
            }
        }
    }

    pub fn base(&mut self, now_ms: u64) -> Result<(Reply, Vec<u8>), Refusal> {
        let dir = self.chunks_dir();
        match &mut self.source {
            Source::Files { source, seen: Some((tree, as_of)), .. } => {
                let skipped = source.skipped();
                let skipped = (skipped.count > 0).then(|| skipped.to_string());
                Ok((Reply::Base { as_of: *as_of, skipped }, tree.to_bytes()))
            }
            Source::Files { .. } => Err(Refusal::new(Why::Unasked, "a look comes before a whole state")),
            Source::Sqlite { source, base } => {
                *base = None;
                let mut store = ChunkStore::open(dir, self.place.bytes_max).map_err(failed)?;
                let made = source.snapshot(move || now_ms, &mut store).map_err(|e| sqlite_refusal(&e))?;
                let made = made.ok_or_else(|| failed("there is no database yet"))?;
                *base = Some(store);
                Ok((Reply::Base { as_of: made.at, skipped: None }, made.tree.to_bytes()))
            }
        }
    }

    pub fn pack(&self, digests: &[u8]) -> Result<(Reply, Vec<u8>), Refusal> {
        let digests = digests_of(digests).ok_or_else(|| Refusal::new(Why::Unasked, "that is no list of chunks"))?;
        let pack = match &self.source {
            Source::Files { source, seen: Some((tree, _)), .. } => encode_pack(&source.chunks(tree), &digests),
            Source::Sqlite { base: Some(store), .. } => encode_pack(store, &digests),
            _ => return Err(Refusal::new(Why::Unasked, "a whole state comes before its chunks")),
        };
        Ok((Reply::Pack, pack.map_err(failed)?))
    }

    pub fn told(&mut self, held: bool) -> Result<(Reply, Vec<u8>), Refusal> {
        self.clear()?;
        match &mut self.source {
            Source::Files { source, seen, large } => {
                if held {
                    source.acknowledged(seen.take().map(|(tree, _)| tree));
                } else {
                    source.forget_shipped();
                    if std::mem::take(large) {
                        source.acknowledged(None);
                    }
                }
            }
            // A batch that did not arrive is lost to the source, which believes it shipped: the next look starts from a base.
            Source::Sqlite { .. } if !held => self.source = Source::open(&self.place)?,
            Source::Sqlite { .. } => {}
        }
        Ok((Reply::Done, Vec::new()))
    }
}
