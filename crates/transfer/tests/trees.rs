//! Whole trees: scan, pack, store, build and update, on real directories.

#![allow(clippy::unwrap_used)] // In helpers of tests too.

use proptest::prelude::*;
use pumasi_transfer::{
    Access, ChunkCache, ChunkStore, FilesReplica, FilesSource, MaterialiseError, Options, Sample, ScanError,
    ScanLimits, TreeChunks, TreeManifest, Watermark, build, encode_pack, receive_pack, scan, update,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// What is in a directory, as text that can be compared.
fn picture(dir: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for item in fs::read_dir(&at).unwrap() {
            let path = item.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            let what = if meta.is_dir() {
                todo.push(path);
                "dir".into()
            } else if meta.is_symlink() {
                format!("link {:?}", fs::read_link(&path).unwrap())
            } else {
                format!("file {:o} {:?}", meta.permissions().mode() & 0o100, blake3::hash(&fs::read(&path).unwrap()))
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
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (any::<u8>(), prop_oneof![0u32..2000, 0u32..600_000], any::<u64>()).prop_map(|(p, l, s)| Edit::Write(p, l, s)),
        1 => any::<u8>().prop_map(Edit::Exec),
        2 => any::<u8>().prop_map(Edit::Remove),
        2 => any::<u8>().prop_map(Edit::MkDir),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Edit::Link(a, b)),
    ];
    proptest::collection::vec(edit, 0..12)
}

/// A path of one to three parts out of few names, so that edits collide.
fn path(n: u8) -> String {
    let names = ["a", "b", "c-d", "ü"];
    let part = |i: u8| names[usize::from((n >> (2 * i)) & 3)];
    (0..=(n >> 6).min(2)).map(part).collect::<Vec<_>>().join("/")
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
        Edit::Link(p, to) => {
            let at = path(*p);
            symlink(format!("{}{}", "../".repeat(at.split('/').count() - 1), path(*to)), dir.join(&at))
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
        let mut source = FilesSource::new(&home, 1, ScanLimits::default());
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
                Some(update) if n % 3 > 0 => assert_eq!(replica.bring_forward(&update, &mut store).unwrap(), as_of),
                _ => {
                    carry(&tree, &home, &mut store);
                    replica.apply(tree.clone(), &store, as_of).unwrap();
                }
            }
            source.acknowledged(Some(tree.clone()));
            prop_assert_eq!(picture(&home), picture(&copy));
            store.gc(&tree.digests()).unwrap();
            // Without knowing what the copy holds, the result is the same.
            update(None, &tree, &store, &copy, &Options::default()).unwrap();
            prop_assert_eq!(picture(&home), picture(&copy));
            if n % 2 == 1 {
                replica = FilesReplica::open(&copy, Options::default());
                prop_assert_eq!(replica.watermark(), Some(as_of));
            }
        }
        if let Some(tree) = replica.tree() {
            build(tree, &store, &bundle, &Options::default()).unwrap();
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
    let one = scan(&home, &mut cache, ScanLimits::default()).unwrap();
    update(None, &one, &TreeChunks::new(&home, &one), &copy, &Options::default()).unwrap();
    fs::write(home.join("d/x"), b"two!").unwrap();
    let two = scan(&home, &mut cache, ScanLimits::default()).unwrap();
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
    let mark = |as_of_ms| Watermark { generation: 1, as_of_ms };
    let tree = scan(&home, &mut ChunkCache::default(), ScanLimits::default()).unwrap();
    let mut replica = FilesReplica::open(&copy, Options::default());
    replica.apply(tree.clone(), &TreeChunks::new(&home, &tree), mark(10)).unwrap();
    assert!(replica.apply(tree.clone(), &TreeChunks::new(&home, &tree), mark(9)).is_err());
    assert!(replica.advance(&tree.digest(), mark(20)));
    assert_eq!(replica.watermark(), Some(mark(20)));
    fs::write(home.join("a"), b"2").unwrap();
    let next = scan(&home, &mut ChunkCache::default(), ScanLimits::default()).unwrap();
    fs::write(home.join("a"), b"3").unwrap();
    assert!(replica.apply(next.clone(), &TreeChunks::new(&home, &next), mark(30)).is_err());
    assert_eq!(FilesReplica::open(&copy, Options::default()).watermark(), None);
    fs::write(home.join("a"), b"2").unwrap();
    replica.apply(next.clone(), &TreeChunks::new(&home, &next), mark(30)).unwrap();
    assert_eq!(fs::read(copy.join("a")).unwrap(), b"2");
}
