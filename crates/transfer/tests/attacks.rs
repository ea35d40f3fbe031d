//! What a tenant may try with its own dataset while it is read: links, exchanged directories, pipes, second names, holes.
//! Each of these gave somebody else's bytes away, or stood still, before directories were walked by handles.

#![allow(clippy::unwrap_used)]

use pumasi_terms::Generation;
use pumasi_transfer::sqlite::{SourceError, SourceOptions, SqliteSource};
use pumasi_transfer::{
    ChunkCache, ChunkSource, EntryKind, FilesSource, ScanError, ScanLimits, TreeChunks, TreeManifest, scan,
};
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SECRET: &[u8] = b"the authority's key";

fn strict() -> ScanLimits {
    ScanLimits::of_dataset(1 << 30)
}

fn names(tree: &TreeManifest) -> Vec<&str> {
    tree.entries.iter().map(|e| e.path.to_str().unwrap()).collect()
}

/// Every chunk that can be read, joined.
fn bytes_of(dir: &Path, tree: &TreeManifest) -> Vec<u8> {
    let chunks = TreeChunks::new(dir, tree);
    tree.chunks().filter_map(|c| chunks.chunk(&c.digest).ok()).flatten().collect()
}

fn holds(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|w| w == needle)
}

/// Puts a link to `secret` in the place of `victim` and the real thing back, as fast as it can, while `look` runs.
fn exchanging(victim: &Path, secret: &Path, for_ms: u64, mut look: impl FnMut()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    let (spare, link) = (victim.with_extension("spare"), victim.with_extension("link"));
    symlink(secret, &link).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::rename(victim, &spare);
                let _ = fs::rename(&link, victim);
                let _ = fs::rename(victim, &link);
                let _ = fs::rename(&spare, victim);
            }
        });
        let _stop = Stop(&stop);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(for_ms) {
            look();
        }
    });
}

#[test]
fn a_directory_exchanged_for_a_link_is_never_entered() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, trust) = (tmp.path().join("data"), tmp.path().join("trust"));
    fs::create_dir_all(data.join("d0/deep")).unwrap();
    fs::write(data.join("d0/deep/mine"), "mine").unwrap();
    fs::create_dir_all(trust.join("deep")).unwrap();
    fs::write(trust.join("authority.json"), SECRET).unwrap();
    fs::write(trust.join("deep/document.key"), SECRET).unwrap();
    let mut looks = 0;
    exchanging(&data.join("d0"), &trust, 1_500, || {
        if let Ok(tree) = scan(&data, &mut ChunkCache::default(), strict()) {
            assert!(!names(&tree).iter().any(|n| n.ends_with("authority.json") || n.ends_with("document.key")));
            assert!(!holds(&bytes_of(&data, &tree), SECRET));
        }
        looks += 1;
    });
    assert!(looks > 20, "{looks} looks only");
}

#[test]
fn chunks_are_not_read_through_a_directory_that_was_exchanged_after_the_scan() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, other) = (tmp.path().join("data"), tmp.path().join("other"));
    for dir in [&data.join("d"), &other] {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("f"), SECRET).unwrap();
    }
    let tree = scan(&data, &mut ChunkCache::default(), strict()).unwrap();
    let chunks = TreeChunks::new(&data, &tree);
    let digest = tree.chunks().next().unwrap().digest;
    assert_eq!(chunks.chunk(&digest).unwrap(), SECRET);
    fs::remove_dir_all(data.join("d")).unwrap();
    symlink(&other, data.join("d")).unwrap();
    // The same bytes with the same digest, but somebody else's: the way to them is a link.
    assert!(chunks.chunk(&digest).is_err());
}

#[test]
fn a_file_exchanged_for_a_link_is_never_read() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, secret) = (tmp.path().join("data"), tmp.path().join("secret"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("f"), "mine").unwrap();
    fs::write(&secret, SECRET).unwrap();
    exchanging(&data.join("f"), &secret, 1_000, || {
        if let Ok(tree) = scan(&data, &mut ChunkCache::default(), strict()) {
            assert!(!tree.chunks().any(|c| c.digest == pumasi_transfer::digest_of(SECRET)));
        }
    });
}

#[test]
fn a_dataset_that_is_a_link_itself_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("trust")).unwrap();
    symlink(tmp.path().join("trust"), tmp.path().join("data")).unwrap();
    assert!(scan(&tmp.path().join("data"), &mut ChunkCache::default(), strict()).is_err());
}

#[test]
fn a_second_name_outside_is_refused_and_one_inside_is_not() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data");
    fs::create_dir_all(data.join("cur")).unwrap();
    fs::write(data.join("a"), "twice").unwrap();
    fs::hard_link(data.join("a"), data.join("cur/b")).unwrap();
    assert_eq!(names(&scan(&data, &mut ChunkCache::default(), strict()).unwrap()), ["a", "cur", "cur/b"]);
    fs::write(tmp.path().join("foreign"), SECRET).unwrap();
    fs::hard_link(tmp.path().join("foreign"), data.join("c")).unwrap();
    let refused = scan(&data, &mut ChunkCache::default(), strict());
    assert!(matches!(refused, Err(ScanError::NameOutside { path }) if path.ends_with("c")));
    // Known from an earlier scan, it is refused again.
    let mut source = FilesSource::new(&data, Generation(1), strict());
    assert!(source.sample(|| 1).is_err() && source.sample(|| 2).is_err());
}

#[test]
fn pipes_sockets_and_links_that_lead_away_are_left_out_by_name_and_nobody_waits_for_their_writers() {
    let tmp = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    nix::unistd::mkfifo(&tmp.path().join("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tmp.path().join("s")).unwrap();
    symlink("/etc/passwd", tmp.path().join("l")).unwrap();
    fs::write(tmp.path().join("f"), "content").unwrap();
    let mut cache = ChunkCache::default();
    assert_eq!(names(&scan(tmp.path(), &mut cache, strict()).unwrap()), ["f"]);
    let told = cache.skipped.to_string();
    assert!(told.starts_with("3 left out: "), "{told}");
    for part in ["p (a pipe)", "s (a socket)", "l (a link out of the directory)"] {
        assert!(told.contains(part), "{told}");
    }
    (0..20).for_each(|n| symlink("/", tmp.path().join(format!("l{n}"))).unwrap());
    scan(tmp.path(), &mut cache, strict()).unwrap();
    assert!(cache.skipped.to_string().ends_with("and 15 more"), "{}", cache.skipped);
    // A bundle says what it is: nothing of it is left out in silence.
    let refused = scan(tmp.path(), &mut ChunkCache::default(), ScanLimits::default());
    assert!(matches!(refused, Err(ScanError::Unmovable { .. } | ScanError::LinkOutside { .. })));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_file_exchanged_for_a_pipe_keeps_nobody_waiting() {
    let tmp = tempfile::tempdir().unwrap();
    let (file, pipe) = (tmp.path().join("f"), tmp.path().join("f.pipe"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(&file, "mine").unwrap();
    assert_eq!(names(&scan(tmp.path(), &mut ChunkCache::default(), strict()).unwrap()), ["f"]);
    fs::remove_file(&pipe).unwrap();
    let tree = scan(tmp.path(), &mut ChunkCache::default(), strict()).unwrap();
    let chunks = TreeChunks::new(tmp.path(), &tree);
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let begun = Instant::now();
    assert!(chunks.chunk(&tree.chunks().next().unwrap().digest).is_err());
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_hole_of_a_terabyte_is_refused_before_a_byte_is_read() {
    let tmp = tempfile::tempdir().unwrap();
    let file = fs::File::create(tmp.path().join("hole")).unwrap();
    // Some file systems have no such sizes; then a smaller hole over the limit says the same.
    if file.set_len(1 << 40).is_err() {
        file.set_len(8 << 30).unwrap();
    }
    let begun = Instant::now();
    let mut cache = ChunkCache::default();
    assert!(matches!(scan(tmp.path(), &mut cache, strict()), Err(ScanError::Limit { what: "bytes", .. })));
    assert_eq!(cache.last_read_bytes, 0);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

fn database(path: &Path) {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE cards(n TEXT); INSERT INTO cards VALUES('4111')").unwrap();
}

#[test]
fn a_database_that_leads_elsewhere_is_not_opened() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, victim) = (tmp.path().join("data"), tmp.path().join("victim"));
    fs::create_dir(&data).unwrap();
    fs::create_dir(&victim).unwrap();
    database(&victim.join("db.sqlite"));
    let path = data.join("db.sqlite");
    let mut source = SqliteSource::open(&path, Generation(1), SourceOptions::default());
    let mut refuses = |what: &str| {
        assert!(matches!(source.poll(|| 1), Err(SourceError::NotOwn { .. })), "{what}");
        assert!(matches!(source.delta(|| 2), Err(SourceError::NotOwn { .. })), "{what}");
        fs::remove_file(&path).unwrap();
    };
    symlink(victim.join("db.sqlite"), &path).unwrap();
    refuses("a link to another tenant's");
    symlink(data.join("chain"), &path).unwrap();
    symlink(victim.join("db.sqlite"), data.join("chain")).unwrap();
    refuses("a chain of links");
    fs::hard_link(victim.join("db.sqlite"), &path).unwrap();
    refuses("a second name");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refuses("a pipe");
    // Nothing was made beside the victim's file by the attempts.
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
}

#[test]
fn a_database_exchanged_for_a_link_gives_nothing_of_the_other() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, victim) = (tmp.path().join("data"), tmp.path().join("victim.sqlite"));
    fs::create_dir(&data).unwrap();
    database(&victim);
    let path = data.join("db.sqlite");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine(x)").unwrap();
    let mut at = 0;
    exchanging(&path, &victim, 1_500, || {
        let mut store = pumasi_transfer::ChunkStore::open(tmp.path().join("store"), 1 << 20).unwrap();
        let mut source = SqliteSource::open(&path, Generation(1), SourceOptions::default());
        at += 2;
        if let Ok(Some(snapshot)) = source.snapshot(|| at, &mut store) {
            let bytes: Vec<u8> = snapshot.tree.chunks().flat_map(|c| store.chunk(&c.digest).unwrap()).collect();
            assert!(!holds(&bytes, b"4111"));
        }
        drop(source);
        fs::remove_dir_all(tmp.path().join("store")).unwrap();
    });
}

#[test]
fn chunks_are_nobody_elses_to_read_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let tmp = tempfile::tempdir().unwrap();
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let mut store = pumasi_transfer::ChunkStore::open(tmp.path().join("store"), 1 << 20).unwrap();
    store.put(pumasi_transfer::digest_of(SECRET), SECRET).unwrap();
    let mut todo = vec![tmp.path().join("store")];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
        seen += 1;
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    assert!(seen >= 4);
}

#[test]
fn the_kind_of_an_entry_is_looked_at_without_following() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("d")).unwrap();
    symlink("d", tmp.path().join("l")).unwrap();
    let tree = scan(tmp.path(), &mut ChunkCache::default(), strict()).unwrap();
    assert_eq!(tree.entries[1].kind, EntryKind::Symlink { target: "d".into() });
}
