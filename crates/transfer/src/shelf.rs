//! Chunks of a lease: in the store while they are on their way, in the files of copies afterwards. So a copy takes its own size once.
//!
//! Always holds: bytes have the digest that they are asked for by; what another manifest waits for stays in the store.

use crate::scan::TreeChunks;
use crate::store::{ChunkSource, ChunkStore, StoreError};
use crate::tree::TreeManifest;
use pumasi_terms::Digest;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// A copy's directory, and what it holds.
pub(crate) type Holds = (PathBuf, Arc<TreeManifest>);

pub(crate) struct Shelf<'a> {
    store: RefCell<&'a mut ChunkStore>,
    copies: Vec<Holds>,
    /// Where in them chunks are; looked up only if the store does not have one.
    places: OnceCell<Vec<TreeChunks>>,
    /// What others wait for.
    keep: &'a BTreeSet<Digest>,
}

impl<'a> Shelf<'a> {
    pub(crate) fn new(store: &'a mut ChunkStore, copies: Vec<Holds>, keep: &'a BTreeSet<Digest>) -> Self {
        Self { store: RefCell::new(store), copies, places: OnceCell::new(), keep }
    }

    fn places(&self) -> &[TreeChunks] {
        self.places.get_or_init(|| self.copies.iter().map(|(dir, tree)| TreeChunks::new(dir, tree)).collect())
    }

    /// Whether it should be there; its bytes are verified when they are read.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.store.borrow().has(digest) || self.places().iter().any(|c| c.has(digest))
    }

    pub(crate) fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.borrow_mut().put(digest, bytes)
    }
}

impl ChunkSource for Shelf<'_> {
    fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        match self.store.borrow().read(digest) {
            Err(missing @ StoreError::Missing { .. }) => {
                let mut found = self.places().iter().filter(|c| c.has(digest)).map(|c| c.chunk(digest));
                found.find(Result::is_ok).unwrap_or(Err(missing))
            }
            read => read,
        }
    }

    fn spent(&self, digest: &Digest) {
        if !self.keep.contains(digest)
            && let Err(e) = self.store.borrow_mut().forget(digest)
        {
            tracing::debug!(error = %e, "a chunk that is not needed any more stays");
        }
    }
}
