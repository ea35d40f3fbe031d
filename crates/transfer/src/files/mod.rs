//! Datasets of kind `files`: a directory at home, a live read-only copy of it elsewhere.
//!
//! The first copy goes as a manifest and its chunks; what follows as updates against the state that the other side acknowledged
//! last. Each file of the copy is always whole; several files that the application changes together may be seen apart, which is
//! why such a dataset cannot claim mode `sync`.

mod load;
mod promote;
mod replica;
mod source;
mod state;

pub use load::{FilesCopy, FilesHome};
pub use promote::differences;
pub use replica::FilesReplica;
pub use source::{FilesSource, Sample};

use crate::materialise::MaterialiseError;
use crate::pack::PackError;
use crate::scan::ScanError;
use crate::update::UpdateError;
use pumasi_terms::Position;
use std::io;
use std::path::PathBuf;

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
    #[error("{dir} was promoted at {at}: it is a dataset now and takes nothing more; make a new copy elsewhere")]
    Promoted { dir: PathBuf, at: Position },
    #[error("{dir} is no whole copy, so that it cannot be promoted; take another copy, or send it a whole state")]
    NotWhole { dir: PathBuf },
}
