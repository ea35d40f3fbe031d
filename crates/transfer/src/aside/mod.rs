//! Datasets that were set aside since they hold what their successor has not: compared with what was gone on with, and given out whole.
//!
//! Enters: the directories of both, each with one directory a dataset. Leaves: what differs, bounded, and an archive (`tar`), piece by piece.
//! Always holds: nothing of either is written; no link is followed out of them; memory is bounded whatever is in them; what could not be
//! read is named.

mod tables;
pub mod tar;

use crate::files::differences;
use crate::helper::{Refusal, Reply, Set, VERSION, Why};
use crate::load::{Differences, Named, failed, plain_file};
use crate::scan::{ChunkCache, ScanLimits, scan};
use pumasi_terms::DatasetName;
use pumasi_terms::service::DatasetKind;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tar::Archive;

pub const COMPARED_VERSION: u32 = 1;
/// Of one answer.
pub const PIECE_BYTES: usize = 1 << 20;

/// Both, as the helper sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsidePlace {
    pub version: u32,
    /// What was set aside.
    pub aside: PathBuf,
    /// What was gone on with, where it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<PathBuf>,
    pub bytes_max: u64,
}

/// What of one dataset was set aside and is not in what was gone on with. Added: here only; removed: there only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    pub version: u32,
    /// By file; none of a database that reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Differences>,
    /// Of a database, those that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableDifferences>,
    /// What could not be compared, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// Rows by their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDifferences {
    pub table: String,
    pub added: Named,
    pub changed: Named,
    pub removed: Named,
}

impl Compared {
    /// Files or rows of which something stands here only.
    pub fn count(&self) -> u64 {
        let files = self.files.iter().map(|d| d.added.count.saturating_add(d.changed.count));
        let rows = self.tables.iter().map(|t| t.added.count.saturating_add(t.changed.count));
        files.chain(rows).fold(0, u64::saturating_add)
    }
}

type Answer = Result<(Reply, Vec<u8>), Refusal>;

#[derive(Debug)]
pub struct Aside {
    place: AsidePlace,
    archive: Option<Archive>,
}

impl Aside {
    pub fn open(place: AsidePlace) -> Result<Self, Refusal> {
        if place.version != VERSION {
            return Err(Refusal::new(Why::Unasked, format!("version {} was asked of {VERSION}", place.version)));
        }
        Ok(Self { place, archive: None })
    }

    pub fn compare(&self, set: &Set) -> Answer {
        let beside = self.place.beside.as_ref();
        let beside = beside.ok_or_else(|| Refusal::new(Why::Unasked, "there is nothing to compare with"))?;
        let (aside, beside) = (self.place.aside.join(set.name.as_str()), beside.join(set.name.as_str()));
        let mut compared = match (set.kind, &set.file) {
            (DatasetKind::Files, _) => self.files(&aside, &beside)?,
            (DatasetKind::Sqlite, file) => {
                let file = plain_file(file.as_deref())?;
                match tables::compare(&aside.join(file), &beside.join(file)) {
                    Ok(compared) => compared,
                    // It is told by its files: a person with the file can do more than this.
                    Err(e) => {
                        let mut compared = self.files(&aside, &beside)?;
                        compared.remarks.push(bounded(&format!("the database could not be compared by its rows: {e}")));
                        compared
                    }
                }
            }
        };
        compared.version = COMPARED_VERSION;
        Ok((Reply::Compared(Box::new(compared)), Vec::new()))
    }

    fn files(&self, aside: &std::path::Path, beside: &std::path::Path) -> Result<Compared, Refusal> {
        let limits = ScanLimits::of_dataset(self.place.bytes_max.max(1 << 40));
        let tree = |dir: &std::path::Path| match dir.symlink_metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                crate::tree::TreeManifest::new(Vec::new()).map_err(failed)
            }
            _ => scan(dir, &mut ChunkCache::default(), limits)
                .map_err(|e| Refusal::new(if e.is_denied() { Why::Denied } else { Why::Failed }, e)),
        };
        let (here, there) = (tree(aside)?, tree(beside)?);
        Ok(Compared { files: Some(differences(&there, &here)), ..Compared::default() })
    }

    /// Begins an archive of these.
    pub fn begin(&mut self, sets: &[DatasetName]) -> Answer {
        self.archive = Some(Archive::new(&self.place.aside, sets));
        Ok((Reply::Done, Vec::new()))
    }

    /// Its next piece. The last one says so.
    pub fn piece(&mut self) -> Answer {
        let archive = self.archive.as_mut();
        let archive =
            archive.ok_or_else(|| Refusal::new(Why::Unasked, "an archive is begun before its pieces are asked for"))?;
        let (bytes, last) = archive.piece(PIECE_BYTES).map_err(failed)?;
        Ok((Reply::Piece { last }, bytes))
    }
}

/// A tenant's words, for a sentence.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}
