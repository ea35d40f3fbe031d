//! Transfer: moves what a service needs to another cloud and keeps it fresh there.
//!
//! Enters: directories and live databases of the home. Leaves: manifests, packs of chunks and batches of pages, as bytes
//! that others carry, and on the far side verified copies of them.
//! Always holds: nothing is written that was not verified by digest; no path leaves its directory; whatever comes from
//! outside is bounded before memory is taken for it; a copy never claims to be fresher than it is; a reader of a
//! `sqlite` copy always sees one consistent snapshot.
//!
//! Everything here blocks (files, SQLite): call it from a blocking thread. There is no network in this crate.

pub mod aside;
pub mod beneath;
pub mod chunk;
pub mod delta;
pub mod disk;
pub mod erase;
pub mod files;
pub mod helper;
mod leb;
mod live;
pub mod load;
pub mod materialise;
pub mod pack;
pub mod scan;
mod shelf;
pub mod signature;
pub mod sqlite;
pub mod store;
pub mod survey;
pub mod tree;
pub mod tree_delta;
mod tree_form;
pub mod update;

pub use aside::{Compared, TableDifferences};
pub use chunk::{CHUNK_BYTES_MAX, ChunkRef, digest_of};
pub use erase::{EraseError, Remains, erase, remains};
pub use files::{FilesError, FilesReplica, FilesSource, Sample};
pub use live::update;
pub use load::{Base, Demoted, Differences, Divergence, Primary, Promoted, Replica};
pub use materialise::{Access, MaterialiseError, Options, build};
pub use pack::{PackError, PackReader, PackWriter, Received, encode_pack, receive_pack};
pub use scan::{ChunkCache, Keep, SampledChunks, ScanError, ScanLimits, Skipped, TreeChunks, scan};
pub use signature::Signatures;
pub use store::{ChunkSource, ChunkStore, StoreError, Usage};
pub use survey::{Survey, survey};
pub use tree::{Entry, EntryKind, TreeError, TreeManifest};
pub use update::{TreeUpdate, UpdateError};
