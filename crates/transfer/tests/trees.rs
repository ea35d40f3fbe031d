//! Whole trees: scan, pack, store, build and update, on real directories.

#![allow(clippy::unwrap_used)] // In helpers of tests too.

use proptest::prelude::*;
use pumasi_terms::{Generation, Position};
use pumasi_transfer::{
    Access, ChunkCache, ChunkStore, FilesReplica, FilesSource, MaterialiseError, Options, Sample, ScanError,
    ScanLimits, TreeChunks, TreeManifest, build, encode_pack, receive_pack, scan, update,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What is in a directory, as text that can be compared: contents, whether a file can be executed, its time, and which names are one.
fn picture(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    while let Some(at) = todo.pop() {
        let mut items: Vec<_> = fs::read_dir(&at).unwrap().map(|i| i.unwrap().path()).collect();
        items.sort();
        for path in items {
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(dir).unwrap().to_owned();
            let what = if meta.is_dir() {
                todo.push(path);
                "dir".into()
            } else if meta.is_symlink() {
                format!("link {:?}", fs::read_link(&path).unwrap())
            } else {
                let same = (meta.nlink() > 1).then(|| first.entry(meta.ino()).or_insert(name.clone()).clone());
                let time = (meta.mtime(), meta.mtime_nsec());
                let content = blake3::hash(&fs::read(&path).unwrap());
                format!("file {:o} {time:?} {same:?} {content}", meta.permissions().mode() & 0o100)
            };
            out.insert(name, what);
        }
    }
    out
}

/// Carries what is missing the way peers do: in packs of a few chunks.
fn carry(tree: &TreeManifest, from: &Path, store: &mut ChunkStore) -> u64 {
    let source = TreeChunks::new(from, tree);
    let missing = store.missing(tree);
    let mut bytes = 0;
    for batch in missing.chunks(7) {
        let digests: Vec<_> = batch.iter().map(|c| c.digest).collect();
        let pack = encode_pack(&source, &digests).unwrap();
        bytes += receive_pack(&pack[..], store, &digests.into_iter().collect()).unwrap().bytes;
    }
    assert!(store.missing(tree).is_empty());
    bytes
}

#[derive(Debug, Clone)]
enum Edit {
    Write(u8, u32, u64),
    Exec(u8),
    Remove(u8),
    MkDir(u8),
    Link(u8, u8),
    Name(u8, u8),
    Touch(u8, u32),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (any::<u8>(), prop_oneof![0u32..2000, 0u32..600_000], any::<u64>()).prop_map(|(p, l, s)| Edit::Write(p, l, s)),
        1 => any::<u8>().prop_map(Edit::Exec),
        2 => any::<u8>().prop_map(Edit::Remove),
        2 => any::<u8>().prop_map(Edit::MkDir),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Edit::Link(a, b)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Edit::Name(a, b)),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(p, s)| Edit::Touch(p, s)),
    ];
    proptest::collection::vec(edit, 0..12)
}

/// A path of one to three parts out of few names, so that edits collide.
fn path(n: u8) -> PathBuf {
    let names = [b"a".as_slice(), b"b", b"c-d\n", b"\xfc\xff"];
    let part = |i: u8| OsStr::from_bytes(names[usize::from((n >> (2 * i)) & 3)]);
    (0..=(n >> 6).min(2)).map(part).collect()
}

fn perform(dir: &Path, edit: &Edit) {
    // Edits that make no sense where they fall are simply refused by the file system.
    let _ = match edit {
        Edit::Write(p, len, seed) => {
            let mut bytes = vec![0u8; *len as usize];
            let mut s = seed | 1;
            bytes.iter_mut().for_each(|b| {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                *b = s as u8;
            });
            fs::write(dir.join(path(*p)), bytes)
        }
        Edit::Exec(p) => match fs::symlink_metadata(dir.join(path(*p))) {
            Ok(m) if m.is_file() => fs::set_permissions(dir.join(path(*p)), fs::Permissions::from_mode(0o755)),
            _ => Ok(()),
        },
        Edit::Remove(p) => {
            let p = dir.join(path(*p));
            if p.symlink_metadata().is_ok_and(|m| m.is_dir()) { fs::remove_dir_all(p) } else { fs::remove_file(p) }
        }
        Edit::MkDir(p) => fs::create_dir(dir.join(path(*p))),
        Edit::Name(p, to) => fs::hard_link(dir.join(path(*to)), dir.join(path(*p))),
        Edit::Touch(p, s) => match fs::symlink_metadata(dir.join(path(*p))) {
            Ok(m) if m.is_file() => {
                let time = std::time::UNIX_EPOCH + std::time::Duration::new(u64::from(*s), s / 5);
                fs::File::options().write(true).open(dir.join(path(*p))).and_then(|f| f.set_modified(time))
            }
            _ => Ok(()),
        },
        Edit::Link(p, to) => {
            let at = path(*p);
            symlink(
                format!(
                    "{}{}",
                    "../".repeat(at.as_os_str().as_bytes().split(|b| *b == b'/').count() - 1),
                    path(*to).display()
                ),
                dir.join(&at),
            )
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_copy_follows_its_source_through_any_edits(rounds in proptest::collection::vec(edits(), 1..5)) {
        let tmp = tempfile::tempdir().unwrap();
        let (home, copy, bundle) = (tmp.path().join("home"), tmp.path().join("copy"), tmp.path().join("bundle"));
        fs::create_dir(&home).unwrap();
        let mut store = ChunkStore::open(tmp.path().join("chunks"), 1 << 30).unwrap();
        let mut source = FilesSource::new(&home, Generation(1), ScanLimits::of_dataset(1 << 30));
        let mut replica = FilesReplica::open(&copy, Options::default());
        for (n, round) in rounds.iter().enumerate() {
            round.iter().for_each(|e| perform(&home, e));
            let (as_of, tree) = match source.sample(|| n as u64) {
                Ok(Sample::Changed { as_of, tree }) => (as_of, tree),
                Ok(Sample::Unchanged { .. }) => continue,
                Err(e) => panic!("{e}"),
            };
            let parsed = TreeManifest::parse(&tree.to_bytes());
            prop_assert_eq!(parsed.as_ref(), Ok(&tree));
            match source.update(&tree, as_of).unwrap() {
                Some(update) if n % 3 > 0 => assert_eq!(replica.bring_forward(&update, &mut store, &tree.digests()).unwrap(), as_of),
                _ => {
                    carry(&tree, &home, &mut store);
                    replica.apply(tree.clone(), &store, as_of).unwrap();
                }
            }
            source.acknowledged(Some(tree.clone()));
            prop_assert_eq!(picture(&home), picture(&copy));
            // Without knowing what the copy holds, the result is the same.
            let twin = tmp.path().join("twin");
            update(None, &tree, &TreeChunks::new(&home, &tree), &twin, &Options::default()).unwrap();
            prop_assert_eq!(picture(&home), picture(&twin));
            if n % 2 == 1 {
                replica = FilesReplica::open(&copy, Options::default());
                prop_assert_eq!(replica.position(), Some(as_of));
            }
        }
        if let Some(tree) = replica.tree() {
            build(tree, &TreeChunks::new(&copy, tree), &bundle, &Options::default()).unwrap();
            prop_assert_eq!(picture(&home), picture(&bundle));
        }
    }
}

#[test]
fn only_what_changed_is_read_and_sent() {
    let tmp = tempfile::tempdir().unwrap();
    let home = tmp.path().join("home");
    fs::create_dir(&home).unwrap();
    let mut bytes = vec![0u8; 6 << 20];
    let mut s = 99u64;
    bytes.iter_mut().for_each(|b| {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        *b = s as u8;
    });
    fs::write(home.join("big"), &bytes).unwrap();
    fs::write(home.join("other"), b"small").unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let mut store = ChunkStore::open(tmp.path().join("chunks"), 1 << 30).unwrap();
    let mut cache = ChunkCache::default();
    let tree = scan(&home, &mut cache, ScanLimits::default()).unwrap();
    assert_eq!(carry(&tree, &home, &mut store), (6 << 20) + 5);
    bytes.splice(1_000_000..1_000_000, *b"inserted");
    fs::write(home.join("big"), &bytes).unwrap();
    let file = fs::File::options().write(true).open(home.join("big")).unwrap();
    file.set_modified(old).unwrap();
    let tree = scan(&home, &mut cache, ScanLimits::default()).unwrap();
    let sent = carry(&tree, &home, &mut store);
    assert!(sent < 1 << 20, "{sent} bytes sent for 8 inserted");
}

#[test]
fn what_cannot_be_moved_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let scan = || {
        scan(
            tmp.path(),
            &mut ChunkCache::default(),
            ScanLimits { bytes_max: 100, entries_max: 3, ..ScanLimits::default() },
        )
    };
    nix::unistd::mkfifo(&tmp.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(scan(), Err(ScanError::Unmovable { what: "pipe", .. })));
    fs::remove_file(tmp.path().join("pipe")).unwrap();
    symlink("/etc/passwd", tmp.path().join("out")).unwrap();
    assert!(matches!(scan(), Err(ScanError::LinkOutside { .. })));
    fs::remove_file(tmp.path().join("out")).unwrap();
    fs::write(tmp.path().join("large"), [0; 101]).unwrap();
    assert!(matches!(scan(), Err(ScanError::Limit { what: "bytes", .. })));
    fs::remove_file(tmp.path().join("large")).unwrap();
    (0..4).for_each(|n| fs::write(tmp.path().join(n.to_string()), b"").unwrap());
    assert!(matches!(scan(), Err(ScanError::Limit { what: "entries", .. })));
}

#[test]
fn a_link_planted_in_the_copy_does_not_lead_the_update_out() {
    let tmp = tempfile::tempdir().unwrap();
    let (home, copy, outside) = (tmp.path().join("home"), tmp.path().join("copy"), tmp.path().join("outside"));
    fs::create_dir_all(home.join("d")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(home.join("d/x"), b"one").unwrap();
    let mut cache = ChunkCache::default();
    let one = scan(&home, &mut cache, ScanLimits::of_dataset(1 << 30)).unwrap();
    update(None, &one, &TreeChunks::new(&home, &one), &copy, &Options::default()).unwrap();
    fs::write(home.join("d/x"), b"two!").unwrap();
    let two = scan(&home, &mut cache, ScanLimits::of_dataset(1 << 30)).unwrap();
    fs::remove_dir_all(copy.join("d")).unwrap();
    symlink(&outside, copy.join("d")).unwrap();
    let e = update(Some(&one), &two, &TreeChunks::new(&home, &two), &copy, &Options::default()).unwrap_err();
    assert!(matches!(e, MaterialiseError::Tampered { .. }), "{e}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // Without trust in what is there, the link is replaced.
    update(None, &two, &TreeChunks::new(&home, &two), &copy, &Options::default()).unwrap();
    assert_eq!(picture(&home), picture(&copy));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let home = tmp.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("a"), b"first").unwrap();
    fs::write(home.join("b"), b"second").unwrap();
    let tree = scan(&home, &mut ChunkCache::default(), ScanLimits::default()).unwrap();
    fs::write(home.join("b"), b"CHANGE").unwrap();
    let dest = tmp.path().join("bundle");
    let source = TreeChunks::new(&home, &tree);
    assert!(matches!(build(&tree, &source, &dest, &Options::default()), Err(MaterialiseError::Chunk { .. })));
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1);
    fs::write(home.join("b"), b"second").unwrap();
    build(&tree, &source, &dest, &Options { access: Access::Everyone, ..Options::default() }).unwrap();
    assert!(matches!(build(&tree, &source, &dest, &Options::default()), Err(MaterialiseError::Exists { .. })));
    let small = Options { bytes_max: 3, ..Options::default() };
    assert!(matches!(build(&tree, &source, &tmp.path().join("c"), &small), Err(MaterialiseError::TooLarge { .. })));
}

#[test]
fn a_copy_refuses_to_go_back_and_survives_a_crash_in_the_middle() {
    let tmp = tempfile::tempdir().unwrap();
    let (home, copy) = (tmp.path().join("home"), tmp.path().join("copy"));
    fs::create_dir(&home).unwrap();
    fs::write(home.join("a"), b"1").unwrap();
    let mark = |as_of_ms| Position { generation: Generation(1), as_of_ms };
    let tree = scan(&home, &mut ChunkCache::default(), ScanLimits::default()).unwrap();
    let mut replica = FilesReplica::open(&copy, Options::default());
    replica.apply(tree.clone(), &TreeChunks::new(&home, &tree), mark(10)).unwrap();
    assert!(replica.apply(tree.clone(), &TreeChunks::new(&home, &tree), mark(9)).is_err());
    assert!(replica.advance(&tree.digest(), mark(20)));
    assert_eq!(replica.position(), Some(mark(20)));
    fs::write(home.join("a"), b"2").unwrap();
    let next = scan(&home, &mut ChunkCache::default(), ScanLimits::default()).unwrap();
    fs::write(home.join("a"), b"3").unwrap();
    assert!(replica.apply(next.clone(), &TreeChunks::new(&home, &next), mark(30)).is_err());
    // What could not be written beside it did not touch it.
    assert_eq!(replica.position(), Some(mark(20)));
    assert_eq!(FilesReplica::open(&copy, Options::default()).position(), Some(mark(10)));
    assert_eq!(fs::read(copy.join("a")).unwrap(), b"1");
    fs::write(home.join("a"), b"2").unwrap();
    replica.apply(next.clone(), &TreeChunks::new(&home, &next), mark(30)).unwrap();
    assert_eq!(fs::read(copy.join("a")).unwrap(), b"2");
}

/// Of the blocks that a directory takes, bytes.
fn takes(dir: &Path) -> u64 {
    let (mut todo, mut bytes) = (vec![dir.to_owned()], 0);
    while let Some(at) = todo.pop() {
        for item in fs::read_dir(&at).into_iter().flatten() {
            let meta = item.as_ref().unwrap().metadata().unwrap();
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                todo.push(item.unwrap().path());
            }
        }
    }
    bytes
}

fn noise(len: usize, mut s: u64) -> Vec<u8> {
    let step = |_| {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s as u8
    };
    (0..len).map(step).collect()
}

#[test]
fn holes_stay_holes_and_cost_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (home, copy) = (tmp.path().join("home"), tmp.path().join("copy"));
    fs::create_dir(&home).unwrap();
    let file = fs::File::create(home.join("image")).unwrap();
    file.set_len(5 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(100_000, 1), 3 << 30).unwrap();
    fs::File::create(home.join("nothing")).unwrap().set_len(10 << 20).unwrap();
    let mut source = FilesSource::new(&home, Generation(1), ScanLimits::of_dataset(8 << 30));
    let Sample::Changed { tree, as_of } = source.sample(|| 1).unwrap() else { panic!() };
    assert!(tree.total_bytes < 1 << 20, "{}", tree.total_bytes);
    let mut store = ChunkStore::open(tmp.path().join("chunks"), 1 << 20).unwrap();
    assert!(carry(&tree, &home, &mut store) < 1 << 20);
    let mut replica = FilesReplica::open(&copy, Options::default());
    replica.apply(tree, &store, as_of).unwrap();
    for name in ["image", "nothing"] {
        let (here, there) = (fs::metadata(home.join(name)).unwrap(), fs::metadata(copy.join(name)).unwrap());
        assert_eq!((here.len(), here.mtime_nsec()), (there.len(), there.mtime_nsec()));
        assert!(there.blocks() <= here.blocks() + 64, "{name}: {} blocks of {}", there.blocks(), here.blocks());
    }
    let mut bytes = vec![0; 100_002];
    let there = fs::File::open(copy.join("image")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&there, &mut bytes, (3 << 30) - 1).unwrap();
    assert_eq!((bytes[0], &bytes[1..100_001], bytes[100_001]), (0, &noise(100_000, 1)[..], 0));
}

/// What a lender's disk holds of a copy, while it comes and afterwards.
#[test]
fn a_copy_takes_its_own_size_once() {
    use pumasi_transfer::helper::{FarPlace, Reply, Request, Set, VERSION, Work};
    let tmp = tempfile::tempdir().unwrap();
    let (home, lease) = (tmp.path().join("home"), tmp.path().join("lease"));
    fs::create_dir_all(home.join("d")).unwrap();
    fs::create_dir_all(lease.join("data")).unwrap();
    (0..500).for_each(|n| fs::write(home.join(format!("d/{n}")), n.to_string()).unwrap());
    (0..8).for_each(|n| fs::write(home.join(format!("large-{n}")), noise(2 << 20, n + 1)).unwrap());
    let place = FarPlace {
        version: VERSION,
        work: lease.join("work"),
        lock: false,
        data: lease.join("data"),
        bytes_max: 1 << 30,
        access: Access::Owner,
        layers: false,
        durable: false,
    };
    let mut far = Work::default();
    let mut ask = |request, body: &[u8]| far.answer(request, body);
    assert_eq!(ask(Request::OpenFar(place), b"").0, Reply::Done);
    let mut source = FilesSource::new(&home, Generation(1), ScanLimits::of_dataset(1 << 30));
    let set = Set { name: "d".parse().unwrap(), kind: pumasi_terms::service::DatasetKind::Files, file: None };
    let own = takes(&home);
    for (now, change) in [(1, None), (2, Some("large-3")), (3, Some("moved"))] {
        match change {
            Some("moved") => fs::rename(home.join("large-5"), home.join("a")).unwrap(),
            Some(name) => fs::write(home.join(name), noise(3 << 20, 99)).unwrap(),
            None => {}
        }
        let Sample::Changed { as_of, tree } = source.sample(|| now).unwrap() else { panic!() };
        let chunks = source.chunks(&tree);
        // The second change comes as a whole state too.
        let (reply, missing) = ask(Request::Missing, &tree.to_bytes());
        assert_eq!(reply, Reply::Digests);
        let missing = pumasi_transfer::helper::digests_of(&missing).unwrap();
        assert!(change.is_none() || missing.len() < 60, "{} chunks are asked for again", missing.len());
        for batch in missing.chunks(50) {
            assert_eq!(ask(Request::Receive, &encode_pack(&chunks, batch).unwrap()).0, Reply::Done);
        }
        let put = ask(Request::Put { set: set.clone(), to: as_of, digest: tree.digest() }, b"").0;
        assert_eq!(put, Reply::At { at: as_of });
        assert_eq!(picture(&home), picture(&lease.join("data/d")));
        let there = takes(&lease);
        assert!(there * 10 < own * 13, "{there} bytes of {own} at home");
    }
}
