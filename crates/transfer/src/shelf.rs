//! Chunks of a lease: in the store while they are on their way, in the files of copies afterwards. So a copy takes its own size once.
//!
//! Always holds: bytes have the digest that they are asked for by; what another manifest waits for stays in the store.

use crate::chunk::ChunkRef;
use crate::scan::TreeChunks;
use crate::store::{ChunkSource, ChunkStore, StoreError};
use crate::tree::TreeManifest;
use pumasi_terms::Digest;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
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

    fn become_file(&self, chunk: &ChunkRef, path: &Path) -> Option<Result<File, StoreError>> {
        let mut store = self.store.borrow_mut();
        // What lies in copies is their own, and what others wait for stays.
        let movable = store.len_of(&chunk.digest) == Some(chunk.len) && !self.keep.contains(&chunk.digest);
        movable.then(|| store.move_out(&chunk.digest, path))
    }

    fn spent(&self, digest: &Digest) {
        if !self.keep.contains(digest)
            && let Err(e) = self.store.borrow_mut().forget(digest)
        {
            tracing::debug!(error = %e, "a chunk that is not needed any more stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkCache, FilesReplica, Options, ScanLimits, encode_pack, receive_pack, scan};
    use pumasi_terms::{Generation, Position};
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_chunk_that_nobody_else_needs_becomes_the_file() {
        let tmp = tempfile::tempdir().unwrap();
        let (home, copy) = (tmp.path().join("home"), tmp.path().join("copy"));
        fs::create_dir(&home).unwrap();
        for (name, text) in [("once", "a"), ("twice", "b"), ("twice more", "b"), ("awaited", "c"), ("empty", "")] {
            fs::write(home.join(name), text.repeat(5_000)).unwrap();
        }
        let tree = scan(&home, &mut ChunkCache::default(), ScanLimits::default()).unwrap();
        let mut store = ChunkStore::open(tmp.path().join("chunks"), 1 << 20).unwrap();
        let all: BTreeSet<Digest> = tree.chunks().map(|c| c.digest).collect();
        let pack = encode_pack(&TreeChunks::new(&home, &tree), &all.iter().copied().collect::<Vec<_>>()).unwrap();
        receive_pack(&pack[..], &mut store, &all).unwrap();
        let of = |name: &str| crate::chunk::digest_of(name.repeat(5_000).as_bytes());
        let inode = |digest: &Digest| {
            let name = digest.to_string().split_off("blake3:".len());
            fs::metadata(tmp.path().join("chunks").join(&name[..2]).join(name)).unwrap().ino()
        };
        let (once, awaited) = (inode(&of("a")), inode(&of("c")));
        let keep = BTreeSet::from([of("c")]);
        let mut replica = FilesReplica::open(&copy, Options::default());
        let at = Position { generation: Generation(1), as_of_ms: 1 };
        replica.apply_stored(tree, (&mut store, Vec::new()), &keep, at).unwrap();
        for (name, text) in [("once", "a"), ("twice", "b"), ("twice more", "b"), ("awaited", "c"), ("empty", "")] {
            assert_eq!(fs::read_to_string(copy.join(name)).unwrap(), text.repeat(5_000), "{name}");
        }
        assert_eq!(fs::metadata(copy.join("once")).unwrap().ino(), once, "it was written once more");
        assert_ne!(fs::metadata(copy.join("awaited")).unwrap().ino(), awaited, "it was taken from who waits for it");
        assert_eq!((store.usage().chunks, store.has(&of("c"))), (1, true));
    }
}
