//! A store that may be old says so, and goes on only when it was accepted.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, block_on, entry, open, opened, path};
use pumasi_store::{BackupError, Expect, Force, OpenError, OutboxMessage, RestoredWhy, Standing, Store, StoreError};
use pumasi_terms::{Revision, WallMs};
use serde_json::json;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

in_both_places!(
    an_ordinary_restart_stays_current,
    a_peer_that_saw_more_makes_the_store_suspect,
    the_clock_of_the_options_stamps_what_is_written,
    an_older_database_is_noticed_and_stays_noticed_until_it_is_accepted,
);

fn write(store: &Store, n: u64) {
    for i in 0..n {
        store
            .transact_blocking(move |tx| {
                tx.journal(entry("note.made"))?;
                tx.put("note", "a", &i, Expect::Any)
            })
            .unwrap();
    }
}

fn why(store: &Store) -> RestoredWhy {
    match store.standing() {
        Standing::Restored { why } => why,
        Standing::Current => panic!("the store believes that it is current"),
    }
}

fn anchor(dir: &TempDir) -> PathBuf {
    dir.path().join("store.anchor.json")
}

/// A plain copy of the closed database file, as a careless restore makes it.
fn snapshot(dir: &TempDir, name: &str) -> PathBuf {
    let to = dir.path().join(name);
    std::fs::copy(path(dir), &to).unwrap();
    to
}

fn an_ordinary_restart_stays_current(place: &Place) {
    for _ in 0..3 {
        let store = place.open();
        assert_eq!(store.standing(), Standing::Current);
        write(&store, 3);
    }
    assert_eq!(place.open().identity().incarnation, 1);
}

fn an_older_database_is_noticed_and_stays_noticed_until_it_is_accepted(place: &Place) {
    let store = place.open();
    write(&store, 3);
    drop(store);
    let old = place.snapshot();
    let store = place.open();
    write(&store, 5);
    let lost = store.identity();
    drop(store);
    place.restore(&old);
    for _ in 0..2 {
        let store = place.open();
        assert!(matches!(why(&store), RestoredWhy::AnchorAhead { revision: Revision(8), journal_seq: 8, .. }));
        write(&store, 1);
        let message = OutboxMessage {
            destination: "city-b".into(),
            kind: "lease.request".into(),
            body: json!({}),
            idempotency_key: "k".into(),
        };
        store.transact_blocking(move |tx| tx.enqueue(message)).unwrap();
        assert!(store.outbox_due(WallMs(i64::MAX), 10).unwrap().is_empty(), "a suspect store sends nothing");
        assert!(store.revision() > lost.anchor.revision, "no revision is given out twice");
    }
    let store = place.open();
    let identity = block_on(store.accept_restored(WallMs(9), Revision(100), "operator")).unwrap();
    assert_eq!((identity.incarnation, store.standing()), (2, Standing::Current));
    assert!(store.revision() >= Revision(100));
    assert_eq!(store.outbox_due(WallMs(i64::MAX), 10).unwrap().len(), 1);
    drop(store);
    let store = place.open();
    assert_eq!(store.standing(), Standing::Current);
    assert_eq!(store.identity().incarnation, 2);
    store.verify_journal().unwrap();
}

#[test]
fn a_database_that_went_another_way_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let (old, old_anchor) = (snapshot(&dir, "old"), std::fs::read(anchor(&dir)).unwrap());
    let store = open(&dir);
    write(&store, 4);
    drop(store);
    let true_anchor = std::fs::read(anchor(&dir)).unwrap();
    std::fs::copy(old, path(&dir)).unwrap();
    std::fs::write(anchor(&dir), old_anchor).unwrap();
    let store = open(&dir);
    for i in 0..6 {
        store.transact_blocking(move |tx| tx.journal(entry(&format!("other.{i}")))).unwrap();
        store.transact_blocking(move |tx| tx.put("note", "b", &i, Expect::Any)).unwrap();
    }
    drop(store);
    std::fs::write(anchor(&dir), true_anchor).unwrap();
    assert_eq!(why(&open(&dir)), RestoredWhy::AnchorDiffers { journal_seq: 4 });
}

#[test]
fn a_missing_foreign_or_unreadable_anchor_is_not_taken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    write(&open(&dir), 1);
    let good = std::fs::read(anchor(&dir)).unwrap();
    let old = snapshot(&dir, "old");
    let with_anchor = |bytes: Option<&[u8]>| {
        std::fs::copy(&old, path(&dir)).unwrap();
        match bytes {
            Some(bytes) => std::fs::write(anchor(&dir), bytes).unwrap(),
            None => std::fs::remove_file(anchor(&dir)).unwrap(),
        }
        open(&dir)
    };
    assert_eq!(with_anchor(Some(&good)).standing(), Standing::Current);
    assert_eq!(why(&with_anchor(None)), RestoredWhy::AnchorMissing);
    assert!(matches!(why(&with_anchor(Some(b"{"))), RestoredWhy::AnchorUnreadable { .. }));
    let newer = String::from_utf8(good.clone()).unwrap().replace("\"version\": 1", "\"version\": 2");
    assert!(matches!(why(&with_anchor(Some(newer.as_bytes()))), RestoredWhy::AnchorUnreadable { .. }));
    // Another store was made where the anchor of the first one lies.
    std::fs::write(anchor(&dir), &good).unwrap();
    std::fs::remove_file(path(&dir)).unwrap();
    let store = opened(Store::open(path(&dir), WallMs(1), 43));
    assert!(matches!(why(&store), RestoredWhy::AnchorForeign { .. }));
}

fn a_peer_that_saw_more_makes_the_store_suspect(place: &Place) {
    let store = place.open();
    write(&store, 3);
    block_on(async {
        assert_eq!(store.peer_saw(1, store.revision()).await.unwrap(), Standing::Current);
        assert_eq!(store.peer_saw(0, Revision(999)).await.unwrap(), Standing::Current);
        let standing = store.peer_saw(1, Revision(50)).await.unwrap();
        let why = RestoredWhy::PeerAhead { incarnation: 1, revision: Revision(50) };
        assert_eq!(standing, Standing::Restored { why });
        store.peer_saw(3, Revision(7)).await.unwrap();
        let identity = store.accept_restored(WallMs(9), Revision(0), "operator").await.unwrap();
        assert_eq!(identity.incarnation, 4);
        assert!(identity.anchor.revision >= Revision(50));
        assert_eq!(store.peer_saw(3, Revision(10_000)).await.unwrap(), Standing::Current);
    });
}

fn backed_up(dir: &TempDir) -> (Store, PathBuf) {
    let store = open(dir);
    write(&store, 3);
    let to = dir.path().join("backup.sqlite");
    let mut steps = Vec::new();
    store.backup_to(&to, |p| steps.push(p)).unwrap();
    assert!(steps.last().is_some_and(|p| p.pages_done == p.pages && p.pages > 0));
    (store, to)
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_opens_as_restored_wherever_it_is_put() {
    let dir = tempfile::tempdir().unwrap();
    let (store, backup) = backed_up(&dir);
    assert!(matches!(store.backup_to(&backup, |_| ()), Err(BackupError::Exists(_))));
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(&backup, path(&elsewhere)).unwrap();
    let copy = open(&elsewhere);
    assert!(matches!(why(&copy), RestoredWhy::Backup { .. }));
    assert_eq!(copy.get::<u64>("note", "a").unwrap().unwrap().body, 2);
    copy.verify_journal().unwrap();
    assert_eq!(store.standing(), Standing::Current, "making a backup changes nothing");
}

#[test]
fn a_backup_of_a_busy_store_is_one_consistent_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let big = "x".repeat(4_000);
    for i in 0..200 {
        let big = big.clone();
        store.transact_blocking(move |tx| tx.put("big", &i.to_string(), &big, Expect::Any)).unwrap();
    }
    let to = dir.path().join("backup.sqlite");
    let mut at_first = None;
    let writing = store.clone();
    store
        .backup_to(&to, |_| {
            at_first.get_or_insert_with(|| {
                write(&writing, 50);
            });
        })
        .unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    Store::restore(&to, path(&elsewhere), Force::No, WallMs(5)).unwrap();
    let copy = open(&elsewhere);
    assert_eq!(copy.list_raw("big").unwrap().len(), 200);
    assert!(copy.get::<u64>("note", "a").unwrap().is_none(), "what came after the copy began is not in it");
    copy.verify_journal().unwrap();
}

#[test]
fn a_restore_refuses_a_live_store_and_asks_before_it_replaces_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, backup) = backed_up(&dir);
    let restore = |force| Store::restore(&backup, path(&dir), force, WallMs(5));
    assert!(matches!(restore(Force::SetAside), Err(BackupError::Open(OpenError::InUse { .. }))));
    write(&store, 4);
    drop(store);
    assert!(matches!(restore(Force::No), Err(BackupError::Exists(_))));
    restore(Force::SetAside).unwrap();
    assert!(files(dir.path()).contains(&"store.sqlite.replaced-5".to_owned()), "{:?}", files(dir.path()));
    let store = open(&dir);
    assert!(matches!(why(&store), RestoredWhy::AnchorAhead { .. }));
    assert_eq!(store.get::<u64>("note", "a").unwrap().unwrap().body, 2);
}

#[test]
fn what_is_no_backup_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, backup) = backed_up(&dir);
    let elsewhere = tempfile::tempdir().unwrap();
    let junk = elsewhere.path().join("junk");
    let restore = || Store::restore(&junk, path(&elsewhere), Force::No, WallMs(5));
    for content in [&b""[..], &[7; 8192][..]] {
        std::fs::write(&junk, content).unwrap();
        assert!(restore().is_err());
    }
    let mut bytes = std::fs::read(backup).unwrap();
    let page = bytes.len() - 4096;
    bytes[page..].fill(0xa5);
    std::fs::write(&junk, bytes).unwrap();
    assert!(restore().is_err());
    let foreign = rusqlite::Connection::open(elsewhere.path().join("foreign")).unwrap();
    foreign.execute_batch("CREATE TABLE a (x)").unwrap();
    drop(foreign);
    let refused = Store::restore(elsewhere.path().join("foreign"), path(&elsewhere), Force::No, WallMs(5));
    assert!(matches!(refused, Err(BackupError::Open(OpenError::Foreign { .. }))), "{refused:?}");
    assert!(!path(&elsewhere).exists());
    assert!(files(elsewhere.path()).iter().all(|f| !f.contains("partial")));
}

#[test]
fn one_process_at_a_time_and_no_newer_or_foreign_database() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    assert!(matches!(Store::open(path(&dir), WallMs(1), 1), Err(OpenError::InUse { .. })));
    drop(store);
    let conn = rusqlite::Connection::open(path(&dir)).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let refused = Store::open(path(&dir), WallMs(1), 1).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 99, known: 3, .. }), "{refused}");
    let conn = rusqlite::Connection::open(path(&dir)).unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
    conn.pragma_update(None, "application_id", 7).unwrap();
    drop(conn);
    assert!(matches!(Store::open(path(&dir), WallMs(1), 1), Err(OpenError::Foreign { found: 7, .. })));
    std::fs::write(path(&dir), [7; 8192]).unwrap();
    assert!(matches!(Store::open(path(&dir), WallMs(1), 1), Err(OpenError::Damaged { .. })));
}

fn the_clock_of_the_options_stamps_what_is_written(place: &Place) {
    let options = pumasi_store::Options { clock: std::sync::Arc::new(|| WallMs(77)), ..Default::default() };
    let store = place.open_with(options);
    assert_eq!(store.transact_blocking(|tx| Ok::<_, StoreError>(tx.now())), Ok(WallMs(77)));
    write(&store, 1);
    assert_eq!(store.get::<u64>("note", "a").unwrap().unwrap().updated_at, WallMs(77));
}

/// As a member's lie left it: 2^63 - 1 in the store, one write above it, 2^63 in the anchor.
fn poisoned(dir: &TempDir) -> Vec<u8> {
    let store = open(dir);
    write(&store, 3);
    store.transact_blocking(|tx| tx.put("note", "late", &7u64, Expect::Any)).unwrap();
    drop(store);
    let conn = rusqlite::Connection::open(path(dir)).unwrap();
    conn.execute_batch(
        "UPDATE store SET revision = 9223372036854775807, incarnation = 9223372036854775807;
         UPDATE objects SET revision = 9223372036854775807 WHERE name = 'late';
         UPDATE changes SET revision = 9223372036854775807 WHERE name = 'late';
         UPDATE store SET restored = '{\"why\":\"peer_ahead\",\"incarnation\":9223372036854775807,\"revision\":9223372036854775807}';",
    )
    .unwrap();
    let text = std::fs::read_to_string(anchor(dir)).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["anchor"]["revision"] = json!(9_223_372_036_854_775_808u64);
    value["incarnation"] = json!(9_223_372_036_854_775_808u64);
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn a_store_that_took_over_an_absurd_number_opens_and_writes_again() {
    let dir = tempfile::tempdir().unwrap();
    let absurd_anchor = poisoned(&dir);
    std::fs::write(anchor(&dir), absurd_anchor).unwrap();
    let store = open(&dir);
    assert_eq!(store.standing(), Standing::Current, "a number that nobody can have seen stops nothing");
    let before = store.revision();
    assert!(before > Revision(4) && before < Revision(100), "{before}");
    assert_eq!(store.get::<u64>("note", "late").unwrap().unwrap().body, 7);
    assert!(store.get::<u64>("note", "late").unwrap().unwrap().revision < before);
    write(&store, 2);
    assert!(store.revision() > before);
    drop(store);
    let store = open(&dir);
    assert_eq!((store.standing(), store.identity().incarnation), (Standing::Current, 1));
    store.verify_journal().unwrap();
    // The journal's part of such an anchor still counts.
    write(&store, 3);
    drop(store);
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(anchor(&dir)).unwrap()).unwrap();
    value["anchor"]["revision"] = json!(u64::MAX);
    value["anchor"]["journal_seq"] = json!(1_000);
    std::fs::write(anchor(&dir), serde_json::to_vec(&value).unwrap()).unwrap();
    assert!(matches!(why(&open(&dir)), RestoredWhy::AnchorAhead { journal_seq: 1_000, .. }));
}

#[test]
fn no_number_however_great_stops_or_breaks_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    write(&store, 3);
    for (incarnation, revision) in [
        (u64::MAX, u64::MAX),
        (1, u64::MAX),
        (u64::MAX, 1),
        (1, 1 << 63),
        (1, (1 << 63) - 1),
        (1, pumasi_store::COUNT_MAX),
        (pumasi_store::COUNT_MAX + 1, 0),
    ] {
        block_on(store.peer_saw(incarnation, Revision(revision))).unwrap();
        assert_eq!(store.standing(), Standing::Current, "{incarnation} {revision}");
        write(&store, 1);
    }
    // The greatest that can be true is taken over, and writing goes on above it.
    block_on(store.peer_saw(1, Revision(pumasi_store::COUNT_MAX - 100))).unwrap();
    block_on(store.accept_restored(WallMs(9), Revision(u64::MAX), "operator")).unwrap_err();
    block_on(store.accept_restored(WallMs(9), Revision(0), "operator")).unwrap();
    write(&store, 1);
    drop(store);
    write(&open(&dir), 1);
}
