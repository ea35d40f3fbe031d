//! Trees, packs and pages from a peer, and what they become on this disk.

use super::update::{Shelf, bases};
use pumasi_terms::Digest;
use pumasi_terms::{Generation, Position};
use pumasi_transfer::sqlite::{PageBatch, ReplicaOptions, SqliteReplica};
use pumasi_transfer::store::ChunkSource;
use pumasi_transfer::{
    ChunkStore, EntryKind, Options, PackReader, PackWriter, StoreError, TreeManifest, build, receive_pack, update,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

/// Trees beyond this are not built: the bound under test is another.
const BUILT_BYTES_MAX: u64 = 1 << 20;
const BUILT_ENTRIES_MAX: usize = 64;

/// A manifest that is taken is in its one form.
pub fn tree(input: &[u8]) {
    if let Ok(tree) = TreeManifest::parse(input) {
        assert_eq!(tree.to_bytes(), input);
        // The same in today's form.
        let today = TreeManifest::new(tree.entries.clone()).expect("what was taken is taken again");
        assert_eq!(TreeManifest::parse(&today.to_bytes()).as_ref(), Ok(&today));
        let named: u64 = tree.chunks().map(|c| u64::from(c.len)).sum();
        assert_eq!(named, tree.total_bytes);
    }
}

/// Bytes for every chunk that a tree names, whatever its digest says: the disk is under test here, not the digests.
struct Filler(BTreeMap<Digest, u32>);

impl ChunkSource for Filler {
    fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let len = self.0.get(digest).ok_or(StoreError::Missing { digest: *digest })?;
        Ok(vec![b'x'; *len as usize])
    }
}

/// What stands in a directory: path to whether it is a directory, a file of so many bytes, or a link.
fn listing(dir: &Path, at: &Path, out: &mut BTreeMap<OsString, String>) {
    let mut items: Vec<_> = std::fs::read_dir(dir).unwrap().map(|i| i.unwrap().path()).collect();
    items.sort();
    for path in items {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(at).unwrap().as_os_str().to_owned();
        if meta.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            out.insert(name, format!("link to {}", target.display()));
        } else if meta.is_dir() {
            out.insert(name, "directory".into());
            listing(&path, at, out);
        } else {
            out.insert(name, format!("{} bytes", meta.len()));
        }
    }
}

fn wanted(tree: &TreeManifest) -> BTreeMap<OsString, String> {
    let told = |kind: &EntryKind| match kind {
        EntryKind::Dir => "directory".to_owned(),
        EntryKind::File { size, .. } => format!("{size} bytes"),
        EntryKind::Symlink { target } => format!("link to {}", target.display()),
        EntryKind::Hardlink { to } => match tree.get(to).map(|e| &e.kind) {
            Some(EntryKind::File { size, .. }) => format!("{size} bytes"),
            other => panic!("{} is a name of {other:?}", to.display()),
        },
    };
    tree.entries.iter().map(|e| (e.path.clone(), told(&e.kind))).collect()
}

/// Pieces of an input: a line each, or where it begins with a zero, each with its length before it (u32 LE).
pub(crate) fn pieces(input: &[u8]) -> Vec<&[u8]> {
    let Some(mut rest) = input.strip_prefix(&[0]) else { return input.split(|&b| b == b'\n').collect() };
    let mut out = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let Some((piece, after)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
        out.push(piece);
        rest = after;
    }
    out
}

/// Two manifests: the first is built, the second takes its place, and both over a directory that somebody has
/// spoiled with links. Nothing appears beside the copy, and the copy is what the manifest says.
pub fn unpack(input: &[u8]) {
    let trees: Vec<TreeManifest> =
        pieces(input).into_iter().take(3).filter_map(|piece| TreeManifest::parse(piece).ok()).collect();
    let fits = |t: &TreeManifest| t.total_bytes <= BUILT_BYTES_MAX && t.entries.len() <= BUILT_ENTRIES_MAX;
    if trees.is_empty() || !trees.iter().all(fits) {
        return;
    }
    let filler = Filler(trees.iter().flat_map(|t| t.chunks()).map(|c| (c.digest, c.len)).collect());
    let root = tempfile::tempdir().unwrap();
    let (outside, inside) = (root.path().join("outside"), root.path().join("inside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "kept").unwrap();
    std::fs::create_dir(&inside).unwrap();
    let dest = inside.join("copy");
    let options = Options { bytes_max: BUILT_BYTES_MAX, ..Options::default() };
    let check = |tree: &TreeManifest| {
        let mut found = BTreeMap::new();
        listing(&dest, &dest, &mut found);
        assert_eq!(found, wanted(tree));
        for (name, _) in found.iter().filter(|(_, kind)| kind.starts_with("link")) {
            // A link may lead nowhere, or round; where it leads somewhere, that is within the copy.
            if let Ok(end) = std::fs::canonicalize(dest.join(name)) {
                assert!(end.starts_with(std::fs::canonicalize(&dest).unwrap()), "{name:?} leads to {}", end.display());
            }
        }
        let mut beside = BTreeMap::new();
        listing(&outside, &outside, &mut beside);
        assert_eq!(beside, BTreeMap::from([("kept".into(), "4 bytes".to_owned())]), "something was written outside");
        let names: Vec<_> = std::fs::read_dir(&inside).unwrap().map(|i| i.unwrap().file_name()).collect();
        assert_eq!(names, ["copy"], "something is left beside the copy");
    };
    // Two chunks of one digest and different lengths cannot both be had: that is the manifest's fault, told as an error.
    if build(&trees[0], &filler, &dest, &options).is_err() {
        return;
    }
    check(&trees[0]);
    let mut before = &trees[0];
    for tree in &trees {
        if update(Some(before), tree, &filler, &dest, &options).is_err() {
            return;
        }
        check(tree);
        before = tree;
    }
    // Links in the places of its directories: nothing may go through them.
    for entry in before.entries.iter().filter(|e| e.kind == EntryKind::Dir) {
        let path = dest.join(&entry.path);
        if std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            std::fs::remove_dir_all(&path).unwrap();
            std::os::unix::fs::symlink(&outside, &path).unwrap();
        }
    }
    for known in [Some(before), None] {
        if update(known, &trees[0], &filler, &dest, &options).is_ok() && known.is_none() {
            check(&trees[0]);
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "something was written outside");
        assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"kept");
    }
}

/// Chunks have the digests that they are kept under, and only those that were asked for are kept.
pub fn pack(input: &[u8]) {
    let (mut chunks, shelf) = (Vec::new(), Shelf(bases()));
    let whole = (|| {
        let mut reader = PackReader::new(input)?;
        while let Some((digest, bytes)) = reader.next_chunk_over(&shelf)? {
            assert_eq!(pumasi_transfer::digest_of(&bytes), digest);
            chunks.push((digest, bytes));
        }
        Ok::<_, pumasi_transfer::PackError>(())
    })();
    if whole.is_ok() {
        let mut writer = PackWriter::new(Vec::new()).unwrap();
        chunks.iter().for_each(|(digest, bytes)| writer.write(digest, bytes).unwrap());
        let written = writer.finish().unwrap();
        let mut reader = PackReader::new(&written[..]).unwrap();
        for chunk in &chunks {
            assert_eq!(reader.next_chunk().unwrap().as_ref(), Some(chunk));
        }
        assert!(reader.next_chunk().unwrap().is_none());
    }
    if chunks.len() < 2 {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut store = ChunkStore::open(dir.path().join("chunks"), 64 << 10).unwrap();
    let asked: BTreeSet<Digest> = chunks.iter().skip(1).map(|(d, _)| *d).collect();
    let received = receive_pack(input, &mut store, &asked);
    assert!(store.usage().bytes <= 64 << 10, "the quota is exceeded");
    assert!(asked.contains(&chunks[0].0) || (received.is_err() && !store.has(&chunks[0].0)), "unasked and kept");
}

/// The digest over a batch keeps mutations out: where it does not fit it is put right, so that what lies behind is reached.
fn redigested(input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    if out.len() >= 32 {
        let signed = out.len() - 32;
        let digest = pumasi_transfer::digest_of(&out[..signed]);
        out[signed..].copy_from_slice(&digest.0);
    }
    out
}

pub fn page_batch(input: &[u8]) {
    for bytes in [input.to_vec(), redigested(input)] {
        if let Ok(batch) = PageBatch::decode(&bytes) {
            let written = batch.encode().expect("what was read can be written");
            assert_eq!(PageBatch::decode(&written), Ok(batch));
        }
    }
}

/// The length of a base in four bytes, a base, and then batches, each behind its length in four bytes: a copy made of
/// them, and read while it changes. SQLite may find it malformed; it does not fall.
pub fn copy(input: &[u8]) {
    let mut parts = Vec::new();
    let mut rest = input;
    while let Some((head, tail)) = rest.split_at_checked(4) {
        let len = (u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize).min(tail.len());
        parts.push(&tail[..len]);
        rest = &tail[len..];
        if parts.len() > 8 {
            break;
        }
    }
    let Some((base, batches)) = parts.split_first().filter(|(base, _)| !base.is_empty()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut store = ChunkStore::open(dir.path().join("chunks"), 1 << 20).unwrap();
    let (digest, len) = (pumasi_transfer::digest_of(base), u32::try_from(base.len()).unwrap());
    store.put(digest, base).unwrap();
    let Ok(tree) = TreeManifest::of_file("db", vec![pumasi_transfer::ChunkRef { digest, len }]) else { return };
    let options = ReplicaOptions { bytes_max: 4 << 20, ..ReplicaOptions::default() };
    let at = Position { generation: Generation(1), as_of_ms: 10 };
    let path = dir.path().join("db.sqlite");
    let Ok(mut replica) = SqliteReplica::create(&tree, &store, at, &path, options) else { return };
    for bytes in batches {
        let before = replica.position();
        let Ok(batch) = PageBatch::decode(&redigested(bytes)) else { continue };
        match replica.apply(&batch) {
            Ok(applied) => assert!(Some(applied.at) >= before && applied.at >= batch.to, "the copy went back"),
            Err(_) => assert_eq!(replica.position(), before, "a batch that failed moved the copy"),
        }
    }
    let _ = replica.rebase(&tree, &store, Position { generation: Generation(1), as_of_ms: u64::MAX });
}
