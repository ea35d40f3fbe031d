//! The store without threads: crashes, old disks, planted bugs, and the same bytes for the same calls.

#![allow(clippy::unwrap_used)]

mod common;

use common::{entry, opened};
use pumasi_store::sim::{CommitInfo, Fate, Hooks, MemoryDisk, Verdict};
use pumasi_store::{
    Expect, JournalFilter, OpenError, Options, OutboxMessage, RestoredWhy, Standing, Store, StoreError,
};
use pumasi_terms::{Revision, WallMs};
use serde_json::json;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

fn open(disk: &MemoryDisk) -> Store {
    hooked(disk, Hooks::default())
}

fn hooked(disk: &MemoryDisk, hooks: Hooks) -> Store {
    opened(Store::open_inline(disk, WallMs(1_000), 42, still(0), hooks))
}

/// A clock that stands, and an anchor that is written at most once in so many milliseconds of it.
fn still(anchor_interval_ms: u64) -> Options {
    Options { clock: Arc::new(|| WallMs(1_000)), anchor_interval_ms, ..Options::default() }
}

fn on_commit(f: impl Fn(&CommitInfo) -> Verdict + Send + Sync + 'static) -> Hooks {
    Hooks { on_commit: Some(Arc::new(f)), ..Hooks::default() }
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What it is at its first poll.
fn at_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    poll(pin!(future))
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match at_once(future) {
        Poll::Ready(out) => out,
        Poll::Pending => panic!("it waits"),
    }
}

async fn put(store: &Store, name: &'static str, value: u64) -> Result<Revision, StoreError> {
    store
        .transact(move |tx| {
            tx.journal(entry("put"))?;
            tx.put("note", name, &value, Expect::Any)
        })
        .await
}

fn value(store: &Store, name: &str) -> Option<u64> {
    store.get("note", name).unwrap().map(|s| s.body)
}

fn why(store: &Store) -> RestoredWhy {
    match store.standing() {
        Standing::Restored { why } => why,
        Standing::Current => panic!("the store believes that it is current"),
    }
}

#[test]
fn a_transaction_is_committed_at_the_first_poll_and_seen_at_once() {
    let disk = MemoryDisk::new("a");
    let store = open(&disk);
    let mut watch = store.watch(Some("note"), Revision(0));
    let mut waiting = Box::pin(watch.next());
    assert!(poll(waiting.as_mut()).is_pending());
    let revision = ready(put(&store, "a", 1)).unwrap();
    assert_eq!((value(&store, "a"), store.revision()), (Some(1), revision));
    assert!(matches!(poll(waiting.as_mut()), Poll::Ready(Ok(change)) if change.name == "a"));
    drop(store);
    // The log is read without a runtime too.
    let store = open(&disk);
    assert_eq!(ready(store.watch(None, Revision(0)).next()).unwrap().revision, revision);
    store.verify_journal().unwrap();
}

#[test]
fn a_disk_takes_one_store_at_a_time() {
    let disk = MemoryDisk::new("a");
    let store = open(&disk);
    let second = || Store::open_inline(&disk, WallMs(1), 1, Options::default(), Hooks::default());
    assert!(matches!(second(), Err(OpenError::InUse { .. })));
    assert!(matches!(disk.restore(&disk.snapshot().unwrap()), Err(OpenError::InUse { .. })));
    store.close();
    assert_eq!(ready(put(&store, "a", 1)), Err(StoreError::Closed));
    assert!(second().is_ok());
}

#[test]
fn a_crash_keeps_the_commit_and_tells_nobody() {
    let disk = MemoryDisk::new("a");
    let doomed = on_commit(|commit| {
        let put = commit.changes.iter().any(|c| (c.kind.as_str(), c.name.as_str()) == ("note", "b"));
        if put { Verdict::Crash } else { Verdict::GoOn }
    });
    let store = hooked(&disk, doomed);
    ready(put(&store, "a", 1)).unwrap();
    let mut watch = store.watch(None, store.revision());
    assert!(at_once(put(&store, "b", 2)).is_pending());
    // What is left of the dead process does nothing more, whoever polls it.
    assert!(at_once(put(&store, "c", 3)).is_pending());
    assert!(at_once(watch.next()).is_pending());
    assert_eq!(store.transact_blocking(|tx| tx.put("note", "d", &4, Expect::Any)), Err(StoreError::Closed));
    assert_eq!(store.get::<u64>("note", "a"), Err(StoreError::Closed));
    let again = open(&disk);
    store.close();
    drop(store);
    assert_eq!((value(&again, "a"), value(&again, "b"), value(&again, "c")), (Some(1), Some(2), None));
    assert!(value(&again, "d").is_none());
    assert_eq!(again.standing(), Standing::Current);
    assert_eq!(again.verify_journal().unwrap().seq, 2);
    ready(put(&again, "c", 3)).unwrap();
}

#[test]
fn a_kill_from_outside_is_a_crash_too() {
    let disk = MemoryDisk::new("a");
    let store = open(&disk);
    ready(put(&store, "a", 1)).unwrap();
    let never_polled = put(&store, "b", 2);
    disk.kill();
    assert!(at_once(never_polled).is_pending());
    let again = open(&disk);
    assert_eq!((value(&again, "a"), value(&again, "b")), (Some(1), None));
    // The kill of a process that is gone hurts nobody.
    drop(store);
    ready(put(&again, "b", 2)).unwrap();
    drop(again);
    disk.kill();
    assert_eq!(value(&open(&disk), "b"), Some(2));
}

#[test]
fn the_commit_hook_is_told_what_was_written_and_may_let_others_run_first() {
    let told: Arc<Mutex<Vec<CommitInfo>>> = Arc::default();
    let tell = Arc::clone(&told);
    let disk = MemoryDisk::new("a");
    let from_hook = disk.clone();
    let hooks = on_commit(move |commit| {
        tell.lock().unwrap().push(commit.clone());
        from_hook.snapshot().unwrap();
        Verdict::Yield
    });
    let store = hooked(&disk, hooks);
    let mut first = pin!(store.transact(|tx| {
        tx.put("note", "a", &1, Expect::Any)?;
        tx.put("note", "b", &1, Expect::Any)?;
        tx.delete("note", "a", Expect::Any)
    }));
    assert!(poll(first.as_mut()).is_pending());
    assert_eq!(value(&store, "b"), Some(1), "committed before the answer");
    assert_eq!(poll(first.as_mut()), Poll::Ready(Ok::<_, StoreError>(Some(Revision(3)))));
    {
        let told = told.lock().unwrap();
        let changes: Vec<_> = told[0].changes.iter().map(|c| (c.name.as_str(), c.body.is_some())).collect();
        assert_eq!(changes, [("a", true), ("b", true), ("a", false)]);
        assert_eq!(told[0].revision, Revision(3));
    }
    // Nothing was written: nothing is told, nothing waits.
    ready(store.transact(|tx| tx.get::<u64>("note", "b"))).unwrap();
    let refused = store.transact(|tx| tx.put("note", "b", &2, Expect::Absent));
    assert!(ready(refused).unwrap_err().is_conflict());
    assert_eq!(told.lock().unwrap().len(), 1);
    // The outbox alone is a commit as well.
    let message = OutboxMessage {
        destination: "city-b".into(),
        kind: "hello".into(),
        body: json!({}),
        idempotency_key: "k".into(),
    };
    assert!(at_once(store.transact(move |tx| tx.enqueue(message))).is_pending());
    assert!(told.lock().unwrap()[1].changes.is_empty());
}

#[test]
fn planted_bugs_alter_or_drop_writes_that_their_writer_believes() {
    let hooks = Hooks {
        on_put: Some(Arc::new(|kind, name, value| {
            assert_eq!(kind, "note");
            match name {
                "altered" => *value = json!(value.as_u64().unwrap() + 1),
                "lost" => return Fate::Drop,
                _ => {}
            }
            Fate::Keep
        })),
        on_delete: Some(Arc::new(|_, name| if name == "stays" { Fate::Drop } else { Fate::Keep })),
        ..Hooks::default()
    };
    let disk = MemoryDisk::new("a");
    let store = hooked(&disk, hooks);
    for name in ["altered", "lost", "stays", "goes"] {
        ready(put(&store, name, 1)).unwrap();
    }
    let revision = ready(put(&store, "lost", 2)).unwrap();
    assert_eq!(store.revision(), revision);
    for name in ["stays", "goes"] {
        let gone = store.transact(move |tx| tx.delete("note", name, Expect::Any));
        assert!(ready::<Result<_, StoreError>>(gone).unwrap().is_some());
    }
    let values = ["altered", "lost", "stays", "goes"].map(|name| value(&store, name));
    assert_eq!(values, [Some(2), None, Some(1), None]);
    // A dropped write is in no watch, and the gap it leaves in the revisions stops none.
    let mut watch = store.watch(None, Revision(0));
    let names: Vec<_> = (0..4).map(|_| ready(watch.next()).unwrap().name.clone()).collect();
    assert_eq!(names, ["altered", "stays", "goes", "goes"]);
    assert!(at_once(watch.next()).is_pending());
    assert_eq!(ready(put(&store, "altered", 5)).unwrap(), store.revision());
    assert!(matches!(at_once(watch.next()), Poll::Ready(Ok(change)) if change.name == "altered"));
}

#[test]
fn an_old_disk_is_noticed_by_the_anchor_and_an_old_machine_only_by_peers() {
    let disk = MemoryDisk::new("a");
    let store = open(&disk);
    ready(put(&store, "a", 1)).unwrap();
    let old = disk.snapshot().unwrap();
    for n in 2..5 {
        ready(put(&store, "a", n)).unwrap();
    }
    let lost = store.identity();
    disk.kill();
    disk.restore(&old).unwrap();
    let store = open(&disk);
    assert!(matches!(why(&store), RestoredWhy::AnchorAhead { revision, .. } if revision == lost.anchor.revision));
    assert_eq!(value(&store, "a"), Some(1));
    drop(store);
    disk.restore_machine(&old).unwrap();
    let store = open(&disk);
    assert_eq!(store.standing(), Standing::Current, "nothing on the machine remembers");
    ready(store.peer_saw(lost.incarnation, lost.anchor.revision)).unwrap();
    assert!(matches!(why(&store), RestoredWhy::PeerAhead { .. }));
    // The database is lost, the anchor is not.
    drop(store);
    disk.restore(&MemoryDisk::new("new").snapshot().unwrap()).unwrap();
    assert!(matches!(why(&open(&disk)), RestoredWhy::AnchorAhead { .. }));
}

#[test]
fn the_anchor_lags_behind_a_crash_and_not_behind_a_close() {
    let now = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&now);
    let options = Options {
        clock: Arc::new(move || WallMs(clock.load(Ordering::SeqCst))),
        anchor_interval_ms: 1_000,
        ..Options::default()
    };
    let open = |disk: &MemoryDisk| opened(Store::open_inline(disk, WallMs(0), 42, options.clone(), Hooks::default()));
    // (killed after so long, whether the anchor knew of what was lost)
    for (after_ms, noticed) in [(10, false), (1_000, true)] {
        now.store(0, Ordering::SeqCst);
        let disk = MemoryDisk::new("a");
        let store = open(&disk);
        let old = disk.snapshot().unwrap();
        ready(put(&store, "a", 1)).unwrap();
        now.store(after_ms, Ordering::SeqCst);
        disk.kill();
        disk.restore(&old).unwrap();
        assert_eq!(open(&disk).standing() != Standing::Current, noticed, "after {after_ms} ms");
    }
    let disk = MemoryDisk::new("a");
    let store = open(&disk);
    let old = disk.snapshot().unwrap();
    ready(put(&store, "a", 1)).unwrap();
    drop(store);
    disk.restore(&old).unwrap();
    assert_ne!(open(&disk).standing(), Standing::Current);
}

#[test]
fn a_closure_or_hook_that_calls_its_store_is_refused_instead_of_waiting_for_itself() {
    let disk = MemoryDisk::new("a");
    let store = open(&disk);
    let own = store.clone();
    let called = ready(store.transact(move |_| own.get::<u64>("note", "a").map(|_| ())));
    assert!(matches!(called, Err(StoreError::Database { .. })), "{called:?}");
    let own = store.clone();
    let called = ready(store.transact(move |_| own.transact_blocking(|tx| tx.put("note", "a", &1, Expect::Any))));
    assert!(matches!(called, Err(StoreError::Database { .. })), "{called:?}");
    // The last handle goes inside a closure: the disk is free again afterwards.
    let last = Mutex::new(Some(store.clone()));
    let done = ready(store.transact(move |tx| {
        let store = last.lock().unwrap().take().unwrap();
        store.close();
        tx.put("note", "a", &1, Expect::Any)
    }));
    done.unwrap();
    assert_eq!(value(&open(&disk), "a"), Some(1));
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    let run = || {
        let disk = MemoryDisk::new("a");
        for _ in 0..2 {
            let store = open(&disk);
            for name in ["a", "b"] {
                ready(put(&store, name, 7)).unwrap();
            }
            let personal = pumasi_store::Entry { personal: Some(json!({ "name": "x" })), ..entry("seen") };
            ready(store.transact(move |tx| tx.journal(personal))).unwrap();
        }
        let store = open(&disk);
        let rows = store.journal_page(0, 100, &JournalFilter::default()).unwrap();
        (store.identity(), store.journal_head(), store.list_raw("note").unwrap(), rows)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_failed_opening_leaves_the_disk_as_it_was() {
    let disk = MemoryDisk::new("a");
    ready(put(&open(&disk), "a", 1)).unwrap();
    disk.tamper("PRAGMA user_version = 99").unwrap();
    let refused = Store::open_inline(&disk, WallMs(1), 1, Options::default(), Hooks::default());
    assert!(matches!(refused, Err(OpenError::Newer { found: 99, .. })), "{refused:?}");
    disk.tamper("PRAGMA user_version = 1").unwrap();
    assert_eq!(value(&open(&disk), "a"), Some(1));
}

/// `cargo test -p pumasi-store --test sim -- --ignored --nocapture`
#[test]
#[ignore = "prints how fast it is, promises nothing"]
fn how_fast() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Body {
        service: String,
        parts: Vec<u64>,
        note: String,
    }
    let body = |n| Body { service: "city-a/wiki".into(), parts: (n..n + 20).collect(), note: "x".repeat(200) };
    /// On a busy machine only the thread's own time says something.
    fn cpu_ns() -> f64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }
    fn each(what: &str, times: u32, mut f: impl FnMut(u64)) {
        (0..u64::from(times) / 10).for_each(&mut f);
        let begun = (cpu_ns(), std::time::Instant::now());
        (0..u64::from(times)).for_each(&mut f);
        let (cpu_us, wall) = ((cpu_ns() - begun.0) / 1e3, begun.1.elapsed());
        let times = f64::from(times);
        println!("{what}: {:.1} us of CPU, {:.1} us", cpu_us / times, wall.as_secs_f64() * 1e6 / times);
    }
    let disk = MemoryDisk::new("a");
    let store = open(&disk);
    let name = |n: u64| format!("n{}", n % 8);
    each("transact: put", 20_000, |n| {
        ready(store.transact(move |tx| tx.put("note", &name(n), &body(n), Expect::Any))).unwrap();
    });
    each("transact: get, put, journal", 20_000, |n| {
        let both = store.transact(move |tx| {
            tx.get::<Body>("note", &name(n))?;
            tx.journal(entry("put"))?;
            tx.put("note", &name(n), &body(n), Expect::Any)
        });
        ready(both).unwrap();
    });
    each("transact: get alone", 20_000, |n| {
        ready(store.transact(move |tx| tx.get::<Body>("note", &name(n)))).unwrap();
    });
    each("get", 20_000, |n| drop(store.get::<Body>("note", &name(n)).unwrap()));
    each("list of 8", 20_000, |_| drop(store.list::<Body>("note").unwrap()));
    each("list of none", 20_000, |_| drop(store.list::<Body>("none").unwrap()));
    drop(store);
    each("open a full disk and close", 200, |_| drop(open(&disk)));
    each("open a new disk and close", 1_000, |_| drop(open(&MemoryDisk::new("a"))));
    each("snapshot and restore", 50, |_| disk.restore(&disk.snapshot().unwrap()).unwrap());
}
