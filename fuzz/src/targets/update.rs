//! Deltas: of chunks, of manifests, and whole updates of a tree, over bases that the receiver holds.

use super::transfer::pieces;
use pumasi_terms::Digest;
use pumasi_transfer::delta::{self, DeltaIndex};
use pumasi_transfer::store::ChunkSource;
use pumasi_transfer::tree_delta::{diff, patch};
use pumasi_transfer::{
    ChunkRef, ChunkStore, Signatures, StoreError, TreeManifest, TreeUpdate, digest_of, receive_pack,
};

/// Two chunks that the receiver holds, the same in every run.
pub fn bases() -> [Vec<u8>; 2] {
    let mut state = 7u32;
    let mut noise = |n: usize| -> Vec<u8> {
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..n).map(step).collect()
    };
    [noise(4_096), noise(3_000)]
}

pub struct Shelf(pub [Vec<u8>; 2]);

impl ChunkSource for Shelf {
    fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let found = self.0.iter().find(|bytes| digest_of(bytes) == *digest);
        found.cloned().ok_or(StoreError::Missing { digest: *digest })
    }
}

/// The length of the chunk in two bytes, then a delta. It gives that many bytes or none.
pub fn chunk_delta(input: &[u8]) {
    let Some((len, delta)) = input.split_first_chunk::<2>() else { return };
    let len = usize::from(u16::from_le_bytes(*len));
    let shelf = Shelf(bases());
    let Ok(chunk) = delta::apply(delta, len, &shelf) else { return };
    assert_eq!(chunk.len(), len);
    let mut signatures = Signatures::for_dataset(1 << 20);
    shelf.0.iter().for_each(|bytes| signatures.sign(ChunkRef::of(bytes), bytes));
    let index = DeltaIndex::new(&signatures, shelf.0.iter().map(|bytes| digest_of(bytes)));
    if let Some(again) = index.encode(&chunk) {
        assert_eq!(delta::apply(&again, len, &shelf).expect("what was written can be read"), chunk);
    }
}

/// A manifest, then what changes it: a delta, or another manifest to which one leads.
pub fn tree_delta(input: &[u8]) {
    let [base, rest] = pieces(input)[..] else { return };
    let Ok(base) = TreeManifest::parse(base) else { return };
    for tree in [TreeManifest::parse(rest).ok(), patch(&base, rest).ok()].into_iter().flatten() {
        assert_eq!(TreeManifest::parse(&tree.to_bytes()).as_ref(), Ok(&tree), "a manifest that would be refused");
        let Some(delta) = diff(&base, &tree) else { continue };
        assert_eq!(patch(&base, &delta).unwrap_or_else(|e| panic!("{e}")), tree);
    }
}

/// The base's manifest, then an update.
pub fn tree_update(input: &[u8]) {
    let [base, update] = pieces(input)[..] else { return };
    let Ok(base) = TreeManifest::parse(base) else { return };
    let Ok(update) = TreeUpdate::decode(update) else { return };
    let Ok(tree) = update.tree(&base) else { return };
    assert_eq!(tree.digest(), update.tree);
    assert!(tree.check().is_ok());
    let dir = tempfile::tempdir().unwrap();
    let mut store = ChunkStore::open(dir.path().join("chunks"), 256 << 10).unwrap();
    for bytes in bases() {
        store.put(digest_of(&bytes), &bytes).unwrap();
    }
    let held = store.usage().chunks;
    let asked = tree.digests();
    let _ = receive_pack(update.pack, &mut store, &asked);
    assert!(store.usage().bytes <= 256 << 10, "the quota is exceeded");
    assert!(store.usage().chunks - held <= asked.len() as u64, "what was not asked for is kept");
}
