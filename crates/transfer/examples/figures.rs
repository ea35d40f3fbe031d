//! Prints what moving data costs on this machine: `cargo run --release -p pumasi-transfer --example figures`.
//! With a number behind it, of a directory of so many small files alone.

use pumasi_terms::Generation;
use pumasi_transfer::sqlite::{Delta, Polled, ReplicaOptions, SourceOptions, SqliteReplica, SqliteSource};
use pumasi_transfer::{
    Access, ChunkCache, ChunkStore, FilesReplica, FilesSource, Options, Sample, ScanLimits, TreeChunks, TreeManifest,
    build, encode_pack, receive_pack, scan,
};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let dir: PathBuf = std::env::temp_dir().join(format!("pumasi-figures-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("tree"))?;
    let files = std::env::args().nth(1).map(|n| n.parse()).transpose()?;
    let result = match files {
        Some(files) => many_files(&dir, files),
        None => all(&dir),
    };
    pumasi_transfer::erase(&dir)?;
    result
}

fn all(dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    trees(dir).and_then(|()| database(dir, "WAL")).and_then(|()| database(dir, "DELETE"))
}

/// The most memory that this process has had.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}

/// A copy of many small files, and an update of ten of them.
fn many_files(dir: &std::path::Path, files: usize) -> Result<(), Box<dyn Error>> {
    let (home, copy) = (dir.join("tree"), dir.join("copy"));
    let content = |n: usize, k: usize| format!("{n:09} of version {k}\n");
    for n in 0..files {
        let at = home.join(format!("d{:04}", n / 1_000));
        if n % 1_000 == 0 {
            std::fs::create_dir(&at)?;
        }
        std::fs::write(at.join(format!("file-{n:09}.txt")), content(n, 0))?;
    }
    println!("{files} files, {} bytes", files * content(0, 0).len());
    let told = |what: &str, begin: Instant| {
        println!("{what:36}{:8.1} s, {:5} MiB of memory at most", begin.elapsed().as_secs_f64(), peak_mib());
    };
    let mut source = FilesSource::new(&home, Generation(1), ScanLimits::of_dataset(4 << 30));
    let look = |source: &mut FilesSource, at: u64| match source.sample(|| at)? {
        Sample::Changed { as_of, tree } => Ok::<_, Box<dyn Error>>((as_of, tree)),
        Sample::Unchanged { .. } => Err("nothing has changed".into()),
    };
    let begin = Instant::now();
    let (as_of, tree) = look(&mut source, 1)?;
    told("first scan", begin);
    let manifest = tree.to_bytes();
    println!("manifest                            {:8} bytes, {} a file", manifest.len(), manifest.len() / files);
    let plain = scan(&home, &mut ChunkCache::default(), ScanLimits::default())?;
    let first = TreeManifest::of_version(1, plain.entries)?.to_bytes();
    println!("as version 1 wrote it               {:8} bytes, {} a file", first.len(), first.len() / files);
    let begin = Instant::now();
    drop(TreeManifest::parse(&manifest)?);
    told("manifest read", begin);
    let mut store = ChunkStore::open(dir.join("chunks"), 4 << 30)?;
    let mut replica = FilesReplica::open(&copy, Options::default());
    let begin = Instant::now();
    let chunks = source.chunks(&tree);
    let mut sent = manifest.len();
    for batch in store.missing(&tree).chunks(16_384) {
        let digests: Vec<_> = batch.iter().map(|c| c.digest).collect();
        let pack = encode_pack(&chunks, &digests)?;
        sent += pack.len();
        receive_pack(&pack[..], &mut store, &digests.into_iter().collect())?;
    }
    drop(chunks);
    told("packed, sent, verified, kept", begin);
    println!("sent                                {sent:8} bytes, {} a file", sent / files);
    let begin = Instant::now();
    replica.apply(tree.clone(), &store, as_of)?;
    told("copy made", begin);
    source.acknowledged(Some(tree));
    for n in 0..10 {
        let n = n * files / 10;
        std::fs::write(home.join(format!("d{:04}/file-{n:09}.txt", n / 1_000)), content(n, 1))?;
    }
    let begin = Instant::now();
    let (as_of, tree) = look(&mut source, 2)?;
    told("second scan", begin);
    let begin = Instant::now();
    let update = source.update(&tree, as_of)?.ok_or("the update is too large")?;
    told("update of ten files made", begin);
    println!("sent                                {:8} bytes", update.len());
    let begin = Instant::now();
    replica.bring_forward(&update, &mut store, &BTreeSet::new())?;
    told("update taken in", begin);
    promoted(source, replica, dir)
}

/// Of a copy whose modes were widened for its readers, and of one that was made to be promoted.
fn promoted(source: FilesSource, mut widened: FilesReplica, dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let tree = widened.tree().ok_or("there is no copy")?.clone();
    let mut waiting = FilesReplica::open(dir.join("waiting"), Options { access: Access::AsHome, ..Options::default() });
    waiting.apply(tree.clone(), &source.chunks(&tree), widened.position().unwrap_or_default())?;
    for (what, copy) in [("promoted, modes widened", &mut widened), ("promoted, modes as at home", &mut waiting)] {
        let begin = Instant::now();
        copy.promote()?;
        println!("{what:36}{:8.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

fn noise(len: usize) -> Vec<u8> {
    let (mut out, mut s) = (Vec::with_capacity(len + 8), 0x9e37_79b9_7f4a_7c15u64);
    while out.len() < len {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        out.extend_from_slice(&s.to_le_bytes());
    }
    out
}

fn trees(dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let mib = 256usize;
    std::fs::write(dir.join("tree/data"), noise(mib << 20))?;
    let mut cache = ChunkCache::default();
    scan(&dir.join("tree"), &mut cache, ScanLimits::default())?;
    let begin = Instant::now();
    let tree = scan(&dir.join("tree"), &mut cache, ScanLimits::default())?;
    let rate = |begin: Instant| (mib as f64 / 1024.0) / begin.elapsed().as_secs_f64();
    println!("scan (read, cut, hash), one core    {:6.2} GiB/s, {} chunks", rate(begin), tree.chunks().count());
    let mut store = ChunkStore::open(dir.join("chunks"), 1 << 30)?;
    let source = TreeChunks::new(dir.join("tree"), &tree);
    let begin = Instant::now();
    for batch in store.missing(&tree).chunks(64) {
        let digests: Vec<_> = batch.iter().map(|c| c.digest).collect();
        let pack = encode_pack(&source, &digests)?;
        receive_pack(&pack[..], &mut store, &digests.into_iter().collect())?;
    }
    println!("pack, unpack, verify, keep          {:6.2} GiB/s", rate(begin));
    let begin = Instant::now();
    build(&tree, &store, &dir.join("built"), &Options::default())?;
    println!("build                               {:6.2} GiB/s", rate(begin));
    Ok(())
}

fn database(dir: &std::path::Path, mode: &str) -> Result<(), Box<dyn Error>> {
    let home = dir.join(format!("{mode}.db"));
    let app = rusqlite::Connection::open(&home)?;
    app.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(()))?;
    app.execute_batch(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) WITH RECURSIVE n(i) AS
         (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<12500) SELECT randomblob(4000) FROM n;",
    )?;
    let mib = std::fs::metadata(&home)?.len() >> 20;
    let start = Instant::now();
    let clock = || {
        std::thread::sleep(Duration::from_millis(1));
        start.elapsed().as_millis() as u64 + 1
    };
    let mut store = ChunkStore::open(dir.join(format!("{mode}-chunks")), 1 << 30)?;
    let mut source = SqliteSource::open(&home, Generation(1), SourceOptions::default());
    let begin = Instant::now();
    let base = source.snapshot(clock, &mut store)?.ok_or("no database")?;
    println!("{mode}: base of {mib} MiB into chunks     {:8.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    let path = dir.join(format!("{mode}-copy.db"));
    let mut copy = SqliteReplica::create(&base.tree, &store, base.at, path, ReplicaOptions::default())?;
    println!("{mode}: copy from chunks             {:8.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    let (mut took, mut applied, mut polled) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..300i64 {
        app.execute("UPDATE t SET x=randomblob(4000) WHERE id=?1", [n * 37 + 1])?;
        let now = clock();
        let begin = Instant::now();
        let changed = source.poll(|| now)? == Polled::Changed;
        let delta = source.delta(|| now)?;
        let Delta::Batch(batch) = delta else { return Err(format!("changed {changed}: {delta:?}").into()) };
        let bytes = batch.encode()?;
        took.push(begin.elapsed());
        let begin = Instant::now();
        copy.apply(&pumasi_transfer::sqlite::PageBatch::decode(&bytes)?)?;
        applied.push(begin.elapsed());
        let now = clock();
        let begin = Instant::now();
        source.poll(|| now)?;
        polled.push(begin.elapsed());
    }
    for (what, mut times) in
        [("delta of a small commit", took), ("applying it", applied), ("poll without change", polled)]
    {
        times.sort();
        let ms = |at: usize| times[at].as_secs_f64() * 1e3;
        println!("{mode}: {what:<28} {:8.3} ms median, {:.3} ms p99", ms(times.len() / 2), ms(times.len() * 99 / 100));
    }
    println!("{mode}: {:?}", source.stats());
    let path = copy.path().to_owned();
    let begin = Instant::now();
    pumasi_transfer::sqlite::promote(&path, Some(copy), &dir.join(format!("{mode}-promoted")))?;
    println!("{mode}: promoted, with its digest    {:8.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
