//! Updates of a copy of files: what they cost, what they refuse, and the golden files of what is spoken.

#![allow(clippy::unwrap_used)] // In helpers of tests too.

use proptest::prelude::*;
use pumasi_terms::{Generation, Position};
use pumasi_transfer::pack::PackWriter;
use pumasi_transfer::tree_delta::TreeDeltaError;
use pumasi_transfer::{
    ChunkRef, ChunkStore, Entry, FilesError, FilesReplica, FilesSource, Options, PackError, PackReader, Sample,
    ScanLimits, Signatures, TreeManifest, TreeUpdate, UpdateError, digest_of, encode_pack, receive_pack,
};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    seed |= 1;
    while out.len() < len {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn mark(as_of_ms: u64) -> Position {
    Position { generation: Generation(1), as_of_ms }
}

/// A home and a copy of it.
struct Pair {
    tmp: tempfile::TempDir,
    source: FilesSource,
    store: ChunkStore,
    replica: FilesReplica,
    now_ms: u64,
}

impl Pair {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let home = tmp.path().join("home");
        fs::create_dir(&home).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(home.join(name), bytes).unwrap());
        let mut pair = Self {
            source: FilesSource::new(home, Generation(1), ScanLimits { bytes_max: 1 << 30, ..ScanLimits::default() }),
            store: ChunkStore::open(tmp.path().join("chunks"), 1 << 30).unwrap(),
            replica: FilesReplica::open(tmp.path().join("copy"), Options::default()),
            tmp,
            now_ms: 0,
        };
        pair.whole();
        pair
    }

    fn home(&self, name: &str) -> PathBuf {
        self.tmp.path().join("home").join(name)
    }

    fn look(&mut self) -> (TreeManifest, Position) {
        self.now_ms += 1;
        let now = self.now_ms;
        match self.source.sample(|| now).unwrap() {
            Sample::Changed { tree, as_of } => (tree, as_of),
            Sample::Unchanged { .. } => panic!("a change was not seen"),
        }
    }

    fn whole(&mut self) {
        let (tree, as_of) = self.look();
        let chunks = self.source.chunks(&tree);
        let digests: Vec<_> = self.store.missing(&tree).iter().map(|c| c.digest).collect();
        let pack = encode_pack(&chunks, &digests).unwrap();
        receive_pack(&pack[..], &mut self.store, &digests.into_iter().collect()).unwrap();
        self.replica.apply(tree.clone(), &self.store, as_of).unwrap();
        self.source.acknowledged(Some(tree));
    }

    fn update(&mut self) -> Vec<u8> {
        let (tree, as_of) = self.look();
        self.source.update(&tree, as_of).unwrap().unwrap()
    }

    fn is_same(&self, name: &str) -> bool {
        fs::read(self.home(name)).unwrap() == fs::read(self.tmp.path().join("copy").join(name)).unwrap()
    }
}

#[test]
fn a_file_that_changes_after_a_look_is_sent_as_it_was_seen() {
    let mut pair = Pair::new(&[("list", noise(3000, 1)), ("quiet", noise(3000, 2))]);
    let seen = noise(3000, 3);
    fs::write(pair.home("list"), &seen).unwrap();
    let (tree, as_of) = pair.look();
    fs::write(pair.home("list"), noise(3000, 4)).unwrap();
    // As part of a whole state, and as an update.
    let digests: Vec<_> = pair.store.missing(&tree).iter().map(|c| c.digest).collect();
    encode_pack(&pair.source.chunks(&tree), &digests).unwrap();
    let update = pair.source.update(&tree, as_of).unwrap().unwrap();
    pair.replica.bring_forward(&update, &mut pair.store, &BTreeSet::new()).unwrap();
    assert_eq!(fs::read(pair.tmp.path().join("copy/list")).unwrap(), seen);
    pair.source.acknowledged(Some(tree));
    let update = pair.update();
    pair.replica.bring_forward(&update, &mut pair.store, &BTreeSet::new()).unwrap();
    assert!(pair.is_same("list"));
}

#[test]
fn a_change_costs_little_more_than_itself() {
    let mut big = noise(3 << 20, 1);
    let others = (0..200).map(|n| (format!("other-{n}"), noise(5000, n + 2))).collect::<Vec<_>>();
    let mut files: Vec<_> = others.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    files.push(("big", big.clone()));
    let mut pair = Pair::new(&files);
    big.splice(1_000_000..1_000_000, noise(100, 50));
    big[2_000_000..2_004_096].copy_from_slice(&noise(4096, 51));
    big.extend(noise(1000, 52));
    fs::write(pair.home("big"), &big).unwrap();
    let update = pair.update();
    let changed = 100 + 4096 + 1000;
    assert!(update.len() < changed + changed / 2, "{} bytes for {changed}", update.len());
    pair.replica.bring_forward(&update, &mut pair.store, &BTreeSet::new()).unwrap();
    assert!(pair.is_same("big"));
    // Renamed and changed: the old chunks are found under their new name.
    fs::remove_file(pair.home("big")).unwrap();
    big[5000] ^= 1;
    fs::write(pair.home("new"), &big).unwrap();
    let (tree, _) = (pair.replica.tree().unwrap().clone(), ());
    pair.source.acknowledged(Some(tree));
    let update = pair.update();
    assert!(update.len() < 5000, "{} bytes for 1", update.len());
    pair.replica.bring_forward(&update, &mut pair.store, &BTreeSet::new()).unwrap();
    assert!(pair.is_same("new") && !pair.tmp.path().join("copy/big").exists());
}

#[test]
fn an_update_for_another_state_is_refused_and_changes_nothing() {
    let mut pair = Pair::new(&[("a", noise(100_000, 1))]);
    fs::write(pair.home("a"), noise(100_001, 1)).unwrap();
    let first = pair.update();
    fs::write(pair.home("a"), noise(100_002, 1)).unwrap();
    // The copy went on without the sender's knowing.
    let (tree, as_of) = pair.look();
    let beside = pair.source.update(&tree, as_of).unwrap().unwrap();
    pair.replica.bring_forward(&beside, &mut pair.store, &BTreeSet::new()).unwrap();
    let e = pair.replica.bring_forward(&first, &mut pair.store, &BTreeSet::new()).unwrap_err();
    assert!(matches!(e, FilesError::Update(UpdateError::OtherBase { .. })), "{e}");
    assert_eq!(pair.replica.position(), Some(as_of));
    assert!(pair.is_same("a"));
    // The answer was lost and it comes again.
    assert_eq!(pair.replica.bring_forward(&beside, &mut pair.store, &BTreeSet::new()).unwrap(), as_of);
    let mut empty = FilesReplica::open(pair.tmp.path().join("none"), Options::default());
    let e = empty.bring_forward(&beside, &mut pair.store, &BTreeSet::new()).unwrap_err();
    assert!(matches!(e, FilesError::Update(UpdateError::OtherBase { .. })), "{e}");
}

#[test]
fn a_base_that_is_gone_or_too_large_a_tree_is_refused_and_a_whole_state_mends_it() {
    let mut pair = Pair::new(&[("a", noise(60_000, 1))]);
    let mut bytes = noise(60_000, 1);
    bytes[30_000] ^= 1;
    fs::write(pair.home("a"), &bytes).unwrap();
    let update = pair.update();
    pair.store.forget(&digest_of(&noise(60_000, 1))).unwrap();
    // Its bytes stand in the copy too.
    fs::write(pair.tmp.path().join("copy/a"), "spoiled").unwrap();
    let e = pair.replica.bring_forward(&update, &mut pair.store, &BTreeSet::new()).unwrap_err();
    assert!(matches!(e, FilesError::Pack(PackError::Delta { .. })), "{e}");
    pair.source.forget_shipped();
    pair.whole();
    assert!(pair.is_same("a"));
    fs::write(pair.home("a"), noise(60_000, 3)).unwrap();
    let update = pair.update();
    let small = Options { bytes_max: 1000, ..Options::default() };
    let mut tight = FilesReplica::open(pair.tmp.path().join("copy"), small);
    assert!(matches!(tight.bring_forward(&update, &mut pair.store, &BTreeSet::new()), Err(FilesError::Materialise(_))));
}

#[test]
fn after_a_restart_there_are_no_signatures_and_whole_chunks_go() {
    let mut pair = Pair::new(&[("a", noise(1 << 20, 1))]);
    let mut bytes = noise(1 << 20, 1);
    bytes[500_000] ^= 1;
    fs::write(pair.home("a"), &bytes).unwrap();
    let base = pair.replica.tree().unwrap().clone();
    pair.source = FilesSource::new(pair.tmp.path().join("home"), Generation(1), ScanLimits::default());
    let (tree, as_of) = pair.look();
    assert!(pair.source.update(&tree, as_of).unwrap().is_none());
    pair.source.acknowledged(Some(base));
    let update = pair.source.update(&tree, as_of).unwrap().unwrap();
    assert!((50_000..600_000).contains(&update.len()), "{}", update.len());
    pair.replica.bring_forward(&update, &mut pair.store, &BTreeSet::new()).unwrap();
    assert!(pair.is_same("a"));
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

/// One state and the next, of bytes that do not compress, so that no version of zstd shows.
fn example(version: u32) -> (TreeManifest, TreeManifest, Vec<u8>, Vec<u8>) {
    let old = noise(2000, 7);
    let mut new = old.clone();
    new.splice(1000..1000, noise(10, 8));
    let file = |path: &str, chunk: &[u8]| Entry::file(path, vec![ChunkRef::of(chunk)]);
    let odd = |entry: Entry| match version {
        1 => entry,
        _ => Entry { mode: 0o640, modified_ns: 1_700_000_000_123_456_789, ..entry },
    };
    let link = Entry::symlink("d/link", "file");
    let more = (version > 1).then(|| Entry::hardlink("d/second", "d/file"));
    let base = vec![Entry::dir("d"), odd(file("d/file", &old)), file("gone", &old)];
    let tree = [Entry::dir("d"), odd(file("d/file", &new)), link, file("z", &noise(40, 9))];
    let of = |entries| TreeManifest::of_version(version, entries).unwrap();
    (of(base), of(tree.into_iter().chain(more).collect()), old, new)
}

#[test]
fn what_is_spoken_is_as_in_the_golden_files() {
    for version in [1, 2] {
        let (base, tree, old, new) = example(version);
        let tmp = tempfile::tempdir().unwrap();
        let mut store = ChunkStore::open(tmp.path(), 1 << 20).unwrap();
        for chunk in [&old, &new, &noise(40, 9)] {
            store.put(digest_of(chunk), chunk).unwrap();
        }
        let mut signatures = Signatures::for_dataset(1 << 20);
        signatures.sign(ChunkRef::of(&old), &old);
        let update = pumasi_transfer::update::encode(&base, &tree, mark(5), &store, &signatures).unwrap().unwrap();
        let mut pack = PackWriter::new(Vec::new()).unwrap();
        pack.write(&digest_of(&noise(40, 9)), &noise(40, 9)).unwrap();
        let pack = pack.finish().unwrap();
        let (tree_file, update_file) = match version {
            1 => ("tree-v1.json", "update-v1.bin"),
            _ => ("tree-v2.bin", "update-v2.bin"),
        };
        if std::env::var_os("PUMASI_WRITE_GOLDEN").is_some() {
            let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(tree_file), tree.to_bytes()).unwrap();
            fs::write(dir.join(update_file), &update).unwrap();
            fs::write(dir.join("pack-v1.bin"), &pack).unwrap();
        }
        assert_eq!(TreeManifest::parse(&golden(tree_file)).as_ref(), Ok(&tree));
        assert_eq!(tree.to_bytes(), golden(tree_file));
        assert_eq!(pack, golden("pack-v1.bin"));
        assert_eq!(update, golden(update_file));
        let read = TreeUpdate::decode(&update).unwrap();
        assert_eq!((read.base, read.tree, read.at), (base.digest(), tree.digest(), mark(5)));
        assert_eq!(read.tree(&base).unwrap(), tree);
        let mut chunks = PackReader::new(read.pack).unwrap();
        let mut lens = Vec::new();
        while let Some((_, bytes)) = chunks.next_chunk_over(&store).unwrap() {
            lens.push(bytes.len());
        }
        assert_eq!(lens, [2010, 40]);
        assert!(update.len() < 1000, "{} bytes: no delta was made", update.len());
    }
}

#[test]
fn other_versions_and_broken_updates_are_refused() {
    let (base, ..) = example(1);
    let good = golden("update-v1.bin");
    let mut newer = good.clone();
    newer[4] = 2;
    assert!(matches!(TreeUpdate::decode(&newer), Err(UpdateError::Version { found: 2 })));
    for cut in 0..89 {
        assert!(TreeUpdate::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    let mut long = good.clone();
    long[85..89].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(TreeUpdate::decode(&long), Err(UpdateError::Garbled)));
    let mut other = good.clone();
    other[5] ^= 1;
    assert!(matches!(TreeUpdate::decode(&other).unwrap().tree(&base), Err(UpdateError::OtherBase { .. })));
    let mut announced = good;
    announced[37] ^= 1;
    assert!(matches!(TreeUpdate::decode(&announced).unwrap().tree(&base), Err(UpdateError::WrongTree { .. })));
    announced[89] = 9;
    let e = TreeUpdate::decode(&announced).unwrap().tree(&base).unwrap_err();
    assert!(matches!(e, UpdateError::Delta(TreeDeltaError::Invalid(_))), "{e}");
}

proptest! {
    #[test]
    fn a_damaged_update_never_gives_another_tree(at in any::<usize>(), byte in any::<u8>()) {
        let (base, tree, old, _) = example(2);
        let mut update = golden("update-v2.bin");
        let at = at % update.len();
        update[at] = byte;
        let tmp = tempfile::tempdir().unwrap();
        let mut store = ChunkStore::open(tmp.path(), 1 << 20).unwrap();
        store.put(digest_of(&old), &old).unwrap();
        let Ok(update) = TreeUpdate::decode(&update) else { return Ok(()) };
        if let Ok(found) = update.tree(&base) {
            prop_assert_eq!(&found, &tree);
            if receive_pack(update.pack, &mut store, &found.digests()).is_ok() {
                prop_assert!(store.missing(&found).is_empty());
            }
        }
    }
}
