//! A database of the first version must open forever.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Note, entry, opened, path};
use pumasi_store::{
    Entry, Expect, JournalFilter, Options, OutboxMessage, RestoredWhy, SCHEMA_VERSION, Standing, Store,
};
use pumasi_terms::{Revision, WallMs};
use serde_json::json;
use std::path::PathBuf;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.sqlite")
}

/// Made the file once; it is never made again for the same version.
#[test]
#[ignore = "writes the golden file of a new version"]
fn write_the_golden_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { clock: std::sync::Arc::new(|| WallMs(1_700_000_000_000)), ..Options::default() };
    let store = opened(Store::open_with(path(&dir), WallMs(1_700_000_000_000), 1, options));
    store
        .transact_blocking(|tx| {
            tx.put("note", "kept", &Note::new("눈"), Expect::Absent)?;
            tx.put("note", "lost", &Note::new("soon"), Expect::Absent)?;
            let personal = Some(json!({ "email": "a@example.org" }));
            tx.journal(Entry { personal, reasons: vec!["why".into()], ..entry("made") })?;
            tx.enqueue(OutboxMessage {
                destination: "city-b".into(),
                kind: "hello".into(),
                body: json!({ "n": 1 }),
                idempotency_key: "k1".into(),
            })?;
            tx.delete("note", "lost", Expect::Revision(Revision(2)))
        })
        .unwrap();
    store.transact_blocking(|tx| tx.seal_segment()).unwrap();
    store.transact_blocking(|tx| tx.journal(entry("second"))).unwrap();
    drop(store);
    let conn = rusqlite::Connection::open(path(&dir)).unwrap();
    conn.pragma_update_and_check(None, "journal_mode", "delete", |r| r.get::<_, String>(0)).unwrap();
    conn.execute_batch("VACUUM").unwrap();
    drop(conn);
    std::fs::create_dir_all(golden().parent().unwrap()).unwrap();
    std::fs::copy(path(&dir), golden()).unwrap();
}

#[test]
fn version_1_still_opens_with_everything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden(), path(&dir)).unwrap();
    let store = common::open(&dir);
    assert_eq!(store.standing(), Standing::Restored { why: RestoredWhy::AnchorMissing });
    let kept = store.get::<Note>("note", "kept").unwrap().unwrap();
    assert_eq!((kept.body, kept.revision, kept.created_at), (Note::new("눈"), Revision(1), WallMs(1_700_000_000_000)));
    assert!(store.get::<Note>("note", "lost").unwrap().is_none());
    assert_eq!(store.revision(), Revision(3));
    let head = store.verify_journal().unwrap();
    assert_eq!(head.seq, 2);
    assert_eq!(head.link, LINK, "the canonical bytes of version 1 never change");
    let with_personal = JournalFilter { with_personal: true, ..JournalFilter::default() };
    let row = store.journal_page(0, 1, &with_personal).unwrap().remove(0);
    assert_eq!(row.entry.personal, Some(json!({ "email": "a@example.org" })));
    common::block_on(async {
        let mut watch = store.watch(None, Revision(0));
        for name in ["kept", "lost", "lost"] {
            assert_eq!(watch.next().await.unwrap().name, name);
        }
        store.accept_restored(WallMs(1_700_000_000_001), Revision(0), "test").await.unwrap();
        assert_eq!(store.outbox_due(WallMs(i64::MAX), 10).unwrap()[0].message.idempotency_key, "k1");
        assert_eq!(store.retain(1, "test").await.unwrap().rows_dropped, 1);
    });
    store.verify_journal().unwrap();
    drop(store);
    let conn = rusqlite::Connection::open(path(&dir)).unwrap();
    let version: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0)).unwrap();
    assert_eq!(version, SCHEMA_VERSION);
}

const LINK: &str = "72ad900ea3f4963723d23dad07d4bd342ca142f0ad67710cf8026b53e5c2ee14";
