//! Live databases: real writers with stock settings, copies that are read while they change.

#![allow(clippy::unwrap_used)] // In helpers of tests too.

use pumasi_terms::{Generation, Position};
use pumasi_transfer::ChunkStore;
use pumasi_transfer::sqlite::{
    Delta, PageBatch, Polled, ReplicaError, ReplicaOptions, SourceOptions, SqliteReplica, SqliteSource,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rusqlite::{Connection, OpenFlags, params};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const ACCOUNTS: i64 = 40;
const BALANCE: i64 = 1000;

/// A clock that moves with every look, so that no test waits for a millisecond.
fn clock() -> impl Fn() -> u64 {
    static NOW: AtomicU64 = AtomicU64::new(1_000);
    || NOW.fetch_add(1, SeqCst)
}

/// A stock application: its own settings, a busy timeout, nothing that knows of copies.
fn app(path: &Path, mode: &str) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(20)).unwrap();
    let _: String = db.query_row(&format!("PRAGMA journal_mode={mode}"), [], |r| r.get(0)).unwrap();
    db
}

fn bank(db: &Connection) {
    db.execute_batch(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note TEXT);
         CREATE TABLE entry(id INTEGER PRIMARY KEY, at INTEGER, text TEXT);
         CREATE INDEX entry_at ON entry(at);",
    )
    .unwrap();
    for id in 0..ACCOUNTS {
        db.execute("INSERT INTO account VALUES(?1,?2,'')", params![id, BALANCE]).unwrap();
    }
}

/// What always holds in the application, as one reader sees it.
fn check_bank(db: &Connection) {
    db.execute_batch("BEGIN").unwrap();
    let sum: i64 = db.query_row("SELECT sum(balance) FROM account", [], |r| r.get(0)).unwrap();
    let whole: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    db.execute_batch("COMMIT").unwrap();
    assert_eq!(sum, ACCOUNTS * BALANCE, "the invariant broke");
    assert_eq!(whole, "ok");
}

/// One act of the application: mostly small, sometimes what shakes a database.
fn act(db: &Connection, rng: &mut StdRng, wal: bool) {
    let tx = |body: &str| db.execute_batch(&format!("BEGIN IMMEDIATE; {body} COMMIT;")).unwrap();
    match rng.random_range(0..100) {
        0..60 => {
            let (a, b, n) = (rng.random_range(0..ACCOUNTS), rng.random_range(0..ACCOUNTS), rng.random_range(1..50));
            tx(&format!(
                "UPDATE account SET balance=balance-{n}, note=hex(randomblob({})) WHERE id={a};
                 UPDATE account SET balance=balance+{n} WHERE id={b};
                 INSERT INTO entry(at,text) VALUES({n}, hex(randomblob(200)));",
                rng.random_range(0..3000)
            ));
        }
        60..75 => {
            tx("INSERT INTO entry(at,text) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
                 SELECT i, hex(randomblob(300)) FROM n;")
        }
        75..82 => tx("DELETE FROM entry WHERE id % 3 = 0;"),
        82..86 => tx("CREATE TABLE scratch(x); INSERT INTO scratch VALUES(zeroblob(700000)); DROP TABLE scratch;"),
        86..89 => tx("DELETE FROM entry;"),
        89..92 => db
            .execute_batch(
                "BEGIN; UPDATE account SET balance=0; INSERT INTO entry(text) VALUES(zeroblob(900000)); ROLLBACK;",
            )
            .unwrap(),
        92..94 => db.execute_batch("VACUUM").unwrap(),
        94..96 if wal => checkpoint(db, "TRUNCATE"),
        96..98 if wal => checkpoint(db, "RESTART"),
        98..99 => tx(&format!("CREATE TABLE t{}(x); ", rng.random::<u32>())),
        _ if wal => checkpoint(db, "PASSIVE"),
        _ => {}
    }
}

fn checkpoint(db: &Connection, how: &str) {
    // Busy is an answer too: then readers keep the log.
    let _ = db.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()));
}

/// Everything in the database as text.
fn dump(db: &Connection) -> Vec<String> {
    db.execute_batch("BEGIN").unwrap();
    let mut out = Vec::new();
    let mut schema = db.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
    let tables: Vec<(String, Option<String>)> =
        schema.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap();
    for (name, sql) in tables {
        out.push(format!("{name} {sql:?}"));
        if sql.is_some_and(|s| s.starts_with("CREATE TABLE")) {
            let mut rows = db.prepare(&format!("SELECT * FROM \"{name}\" ORDER BY rowid")).unwrap();
            let columns = rows.column_count();
            let mut rows = rows.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                out.push((0..columns).map(|i| format!("{:?}|", row.get_ref(i).unwrap())).collect());
            }
        }
    }
    db.execute_batch("COMMIT").unwrap();
    out
}

fn reader(path: &Path) -> Connection {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.busy_timeout(Duration::from_secs(20)).unwrap();
    db
}

struct Pair {
    _tmp: tempfile::TempDir,
    home: PathBuf,
    copy: PathBuf,
    store: ChunkStore,
    source: SqliteSource,
    replica: Option<SqliteReplica>,
}

impl Pair {
    fn new(options: SourceOptions) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let (home, copy) = (tmp.path().join("home.db"), tmp.path().join("copy.db"));
        let store = ChunkStore::open(tmp.path().join("chunks"), 8 << 30).unwrap();
        let source = SqliteSource::open(&home, Generation(1), options);
        Self { _tmp: tmp, home, copy, store, source, replica: None }
    }

    fn base(&mut self) {
        let Some(snapshot) = self.source.snapshot(clock(), &mut self.store).unwrap() else { return };
        self.store.gc(&snapshot.tree.digests()).unwrap();
        match &mut self.replica {
            None => {
                let made = SqliteReplica::create(
                    &snapshot.tree,
                    &self.store,
                    snapshot.at,
                    &self.copy,
                    ReplicaOptions::default(),
                );
                self.replica = Some(made.unwrap());
            }
            Some(replica) => drop(replica.rebase(&snapshot.tree, &self.store, snapshot.at).unwrap()),
        }
    }

    /// One round of shipping; true if the copy is at what the source has.
    fn ship(&mut self) -> bool {
        match self.source.poll(clock()) {
            Ok(Polled::Absent) => return true,
            Ok(Polled::Unchanged { content, as_of }) => {
                if let Some(replica) = &mut self.replica {
                    assert!(replica.advance(content, as_of), "{content} does not fit {:?}", replica.position());
                }
                return true;
            }
            Ok(Polled::Changed) => {}
            Err(e) if e.is_retryable() => return false,
            Err(e) => panic!("{e}"),
        }
        match self.source.delta(clock()) {
            Ok(Delta::Unchanged { .. }) => {}
            Ok(Delta::NeedsBase(_)) => self.base(),
            Ok(Delta::Batch(batch)) => {
                let batch = PageBatch::decode(&batch.encode().unwrap()).unwrap();
                let applied = self.replica.as_mut().unwrap().apply(&batch).unwrap();
                assert_eq!(applied.at, batch.to);
            }
            Err(e) if e.is_retryable() => {}
            Err(e) => panic!("{e}"),
        }
        false
    }

    fn settle(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.ship() {
            assert!(Instant::now() < deadline, "never settles");
        }
    }
}

/// A writer, a shipper and a reader at the same time, for `acts` acts of the writer.
fn soak(
    mode: &'static str,
    options: SourceOptions,
    setup: &str,
    acts: u32,
    seed: u64,
) -> pumasi_transfer::sqlite::SourceStats {
    let mut pair = Pair::new(options);
    let db = app(&pair.home, "DELETE");
    db.execute_batch(setup).unwrap();
    drop(db);
    let db = app(&pair.home, mode);
    bank(&db);
    pair.settle();
    let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (home, done) = (pair.home.clone(), done.clone());
        std::thread::spawn(move || {
            let db = app(&home, mode);
            let mut rng = StdRng::seed_from_u64(seed);
            (0..acts).for_each(|_| act(&db, &mut rng, mode == "WAL"));
            done.store(true, SeqCst);
            db
        })
    };
    let check = {
        let (copy, done, reads) = (pair.copy.clone(), done.clone(), reads.clone());
        std::thread::spawn(move || {
            let db = reader(&copy);
            while !done.load(SeqCst) {
                check_bank(&db);
                reads.fetch_add(1, SeqCst);
            }
        })
    };
    while !done.load(SeqCst) {
        pair.ship();
    }
    let writer_db = writer.join().unwrap();
    check.join().unwrap();
    pair.settle();
    assert!(reads.load(SeqCst) > 0);
    assert_eq!(dump(&reader(&pair.copy)), dump(&db));
    check_bank(&reader(&pair.copy));
    drop(writer_db);
    pair.source.stats()
}

#[test]
fn a_wal_database_is_followed_under_load() {
    let stats = soak("WAL", SourceOptions::default(), "", 600, 1);
    assert!(stats.by_log > 0, "the log was never used: {stats:?}");
}

#[test]
fn a_wal_database_is_followed_when_the_log_is_never_held() {
    soak("WAL", SourceOptions { hold_wal_bytes_max: 0, ..SourceOptions::default() }, "", 400, 2);
}

#[test]
fn a_wal_database_with_small_pages_and_auto_vacuum_is_followed() {
    soak("WAL", SourceOptions::default(), "PRAGMA page_size=512; PRAGMA auto_vacuum=FULL; VACUUM;", 300, 3);
}

#[test]
fn a_rollback_database_is_followed_under_load() {
    let stats = soak("DELETE", SourceOptions::default(), "", 250, 4);
    assert_eq!(stats.by_log, 0);
}

#[test]
fn changes_too_large_for_a_batch_come_as_a_base_under_the_readers() {
    soak("WAL", SourceOptions { batch_bytes_max: 200_000, ..SourceOptions::default() }, "", 250, 5);
}

/// Every commit is shipped at once, so that each way the log can begin anew falls between two deltas.
#[test]
fn each_step_of_a_quiet_application_is_followed() {
    for seed in 0..6 {
        let mut pair = Pair::new(SourceOptions {
            hold_wal_bytes_max: if seed % 2 == 0 { 60_000 } else { 16 << 20 },
            ..SourceOptions::default()
        });
        let db = app(&pair.home, "WAL");
        bank(&db);
        // This application and its shipper take turns: nobody would let go of what it waits for.
        db.busy_timeout(Duration::ZERO).unwrap();
        pair.settle();
        let mut rng = StdRng::seed_from_u64(seed);
        for step in 0..120 {
            act(&db, &mut rng, true);
            pair.ship();
            if rng.random_range(0..4) > 0 {
                pair.settle();
                assert_eq!(dump(&reader(&pair.copy)), dump(&db), "seed {seed} step {step}");
            }
        }
        let stats = pair.source.stats();
        assert!(stats.by_log > stats.by_comparison, "seed {seed}: {stats:?}");
    }
}

#[test]
fn positions_are_honest() {
    let mut pair = Pair::new(SourceOptions::default());
    assert_eq!(pair.source.poll(|| 5).unwrap(), Polled::Absent);
    let db = app(&pair.home, "WAL");
    bank(&db);
    let base = pair.source.snapshot(|| 10, &mut pair.store).unwrap().unwrap();
    let mark = |as_of_ms| Position { generation: Generation(1), as_of_ms };
    let mut copy =
        SqliteReplica::create(&base.tree, &pair.store, base.at, &pair.copy, ReplicaOptions::default()).unwrap();
    assert_eq!(copy.position(), Some(mark(10)));
    assert_eq!(pair.source.poll(|| 20).unwrap(), Polled::Unchanged { content: mark(10), as_of: mark(20) });
    db.execute("INSERT INTO entry(text) VALUES('one')", []).unwrap();
    assert_eq!(pair.source.poll(|| 30).unwrap(), Polled::Changed);
    // Position 20 was told to others: it cannot get another content.
    assert!(matches!(pair.source.delta(|| 20).unwrap(), Delta::Unchanged { as_of, .. } if as_of == mark(20)));
    let Delta::Batch(one) = pair.source.delta(|| 30).unwrap() else { panic!() };
    assert_eq!((one.from, one.to), (mark(10), mark(30)));
    db.execute("INSERT INTO entry(text) VALUES('two')", []).unwrap();
    let Delta::Batch(two) = pair.source.delta(|| 40).unwrap() else { panic!() };
    assert!(matches!(copy.apply(&two), Err(ReplicaError::NeedsBase { .. })), "a gap passed");
    // Whether the copy had heard of 20 or not, the batch fits.
    assert!(copy.advance(mark(10), mark(20)));
    copy.apply(&one).unwrap();
    assert!(!copy.advance(mark(40), mark(50)), "claims what it does not hold");
    copy.apply(&two).unwrap();
    assert_eq!(copy.apply(&one).unwrap().pages, 0, "an old batch was applied again");
    assert_eq!(copy.lag_ms(100), Some(60));
    assert!(matches!(copy.rebase(&base.tree, &pair.store, base.at), Err(ReplicaError::Older { .. })));
    let foreign = PageBatch {
        from: Position { generation: Generation(2), as_of_ms: 1 },
        to: Position { generation: Generation(2), as_of_ms: 2 },
        ..two
    };
    assert!(matches!(copy.apply(&foreign), Err(ReplicaError::NeedsBase { .. })));
    assert_eq!(dump(&reader(&pair.copy)), dump(&db));
}

#[test]
fn a_crash_between_commit_and_position_claims_less_and_heals() {
    let mut pair = Pair::new(SourceOptions::default());
    let db = app(&pair.home, "WAL");
    bank(&db);
    pair.settle();
    let position = pair.copy.with_file_name("copy.db.position");
    db.execute("INSERT INTO entry(text) VALUES('one')", []).unwrap();
    let before = std::fs::read(&position).unwrap();
    let Delta::Batch(one) = pair.source.delta(clock()).unwrap() else { panic!() };
    pair.replica.as_mut().unwrap().apply(&one).unwrap();
    pair.replica = None;
    std::fs::write(&position, &before).unwrap();
    let mut copy = SqliteReplica::open(&pair.copy, ReplicaOptions::default()).unwrap();
    assert!(copy.position().unwrap() < one.to);
    copy.apply(&one).unwrap();
    assert_eq!(dump(&reader(&pair.copy)), dump(&db));
    // A torn or foreign position is none, and then only a base fits.
    drop(copy);
    for bad in [
        &b""[..],
        &before[..before.len() / 2],
        b"{\"version\":1,\"at\":{\"generation\":1,\"as_of_ms\":9999999},\"boot_id\":\"another\"}",
    ] {
        std::fs::write(&position, bad).unwrap();
        let mut copy = SqliteReplica::open(&pair.copy, ReplicaOptions::default()).unwrap();
        assert_eq!(copy.position(), None);
        assert!(matches!(copy.apply(&one), Err(ReplicaError::NeedsBase { held: None, .. })));
    }
    pair.replica = Some(SqliteReplica::open(&pair.copy, ReplicaOptions::default()).unwrap());
    pair.base();
    assert!(pair.replica.as_ref().unwrap().position().is_some());
    assert_eq!(dump(&reader(&pair.copy)), dump(&db));
}

#[test]
fn another_page_size_asks_for_a_new_copy() {
    let mut pair = Pair::new(SourceOptions::default());
    let db = app(&pair.home, "DELETE");
    bank(&db);
    pair.settle();
    db.execute_batch("PRAGMA page_size=1024; VACUUM;").unwrap();
    assert!(matches!(pair.source.delta(clock()).unwrap(), Delta::NeedsBase(_)));
    db.execute("INSERT INTO entry(text) VALUES('more')", []).unwrap();
    let base = pair.source.snapshot(clock(), &mut pair.store).unwrap().unwrap();
    let copy = pair.replica.as_mut().unwrap();
    let before = copy.position();
    assert!(matches!(
        copy.rebase(&base.tree, &pair.store, base.at),
        Err(ReplicaError::PageSize { held: 4096, offered: 1024 })
    ));
    assert_eq!(copy.position(), before);
    check_bank(&reader(&pair.copy));
    pair.replica = None;
    pair.replica =
        Some(SqliteReplica::create(&base.tree, &pair.store, base.at, &pair.copy, ReplicaOptions::default()).unwrap());
    pair.settle();
    assert_eq!(dump(&reader(&pair.copy)), dump(&db));
}

#[test]
fn a_database_that_is_replaced_or_changes_its_mode_is_followed() {
    let mut pair = Pair::new(SourceOptions::default());
    let db = app(&pair.home, "DELETE");
    bank(&db);
    pair.settle();
    let _: String = db.query_row("PRAGMA journal_mode=WAL", [], |r| r.get(0)).unwrap();
    db.execute("INSERT INTO entry(text) VALUES('in the log')", []).unwrap();
    pair.settle();
    assert_eq!(dump(&reader(&pair.copy)), dump(&db));
    drop(db);
    let fresh = pair.home.with_file_name("fresh.db");
    let db = app(&fresh, "DELETE");
    bank(&db);
    db.execute("INSERT INTO entry(text) VALUES('restored')", []).unwrap();
    drop(db);
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(pair.home.with_file_name(format!("home.db{suffix}")));
    }
    std::fs::rename(&fresh, &pair.home).unwrap();
    pair.settle();
    assert_eq!(dump(&reader(&pair.copy)), dump(&reader(&pair.home)));
}

#[test]
fn only_the_changed_chunks_of_a_base_are_new() {
    let mut pair = Pair::new(SourceOptions::default());
    let db = app(&pair.home, "WAL");
    bank(&db);
    db.execute_batch("INSERT INTO entry(text) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) SELECT hex(randomblob(100)) FROM n").unwrap();
    let one = pair.source.snapshot(clock(), &mut pair.store).unwrap().unwrap();
    db.execute("UPDATE account SET balance=balance WHERE id=3", []).unwrap();
    db.execute("UPDATE account SET note='x' WHERE id=3", []).unwrap();
    let held = one.tree.digests();
    let two = pair.source.snapshot(clock(), &mut pair.store).unwrap().unwrap();
    let fresh = two.tree.digests().difference(&held).count();
    assert!(held.len() > 40 && fresh <= 2, "{fresh} of {} chunks are new", held.len());
    assert!(two.batch.is_some_and(|b| b.from == one.at && b.pages.len() <= 2));
}

#[test]
fn a_base_that_is_no_database_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let mut store = ChunkStore::open(tmp.path().join("chunks"), 1 << 20).unwrap();
    for bytes in [&b"not a database"[..], &[0; 4096], b"SQLite format 3\0"] {
        let chunk = pumasi_transfer::ChunkRef::of(bytes);
        store.put(chunk.digest, bytes).unwrap();
        let tree = pumasi_transfer::TreeManifest::of_file("base", vec![chunk]).unwrap();
        let path = tmp.path().join("copy.db");
        let e =
            SqliteReplica::create(&tree, &store, Position::default(), &path, ReplicaOptions::default()).unwrap_err();
        assert!(matches!(e, ReplicaError::Base { .. }), "{e}");
        assert!(!path.exists());
    }
}
