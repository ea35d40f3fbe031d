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

/// What version 1 kept of services and tokens, put into its golden file.
fn with_services(dir: &tempfile::TempDir) {
    std::fs::copy(golden(), path(dir)).unwrap();
    let conn = rusqlite::Connection::open(path(dir)).unwrap();
    let service = |name: &str| json!({ "document": { "metadata": { "name": name } }, "generation": 3, "epoch": 1, "deleting": false });
    let token = |role: &str| json!({ "id": "tok-1", "name": "x", "role": role, "created_at": 1, "expires_at": null });
    for (id, kind, name, body) in [
        (101, "service", "notes", service("notes").to_string()),
        (102, "service", "shop", service("shop").to_string()),
        (103, "service", "torn", "not json".to_owned()),
        (104, "token", "tok-1", token("operator").to_string()),
        (105, "token", "tok-2", token("customer").to_string()),
        (106, "token", "tok-3", token("viewer").to_string()),
    ] {
        let done = conn
            .execute("INSERT INTO objects VALUES (?1, ?2, ?3, 1, 1, 1, ?4)", rusqlite::params![id, kind, name, body]);
        done.unwrap();
    }
}

#[test]
fn services_of_version_1_get_an_id_and_an_owner_once() {
    let dir = tempfile::tempdir().unwrap();
    with_services(&dir);
    let read = |kind: &str, name: &str| {
        let store = common::open(&dir);
        store.get::<serde_json::Value>(kind, name).unwrap().unwrap().body
    };
    let (notes, shop) = (read("service", "notes"), read("service", "shop"));
    for service in [&notes, &shop] {
        let id = service["id"].as_str().unwrap();
        assert!(id.starts_with("svc-") && id.len() == 36, "{id}");
        assert_eq!((&service["customer"], &service["kept_by_name"]), (&json!("default"), &json!(true)));
        assert_eq!((&service["generation"], &service["deleting"]), (&json!(3), &json!(false)), "the rest stays");
    }
    assert_ne!(notes["id"], shop["id"]);
    assert_eq!(read("service", "notes"), notes, "another start gives no other id");
    assert_eq!(read("token", "tok-1").get("customer"), None);
    assert_eq!(read("token", "tok-2")["customer"], "default");
    assert_eq!(read("token", "tok-3")["customer"], "default");
    let conn = rusqlite::Connection::open(path(&dir)).unwrap();
    let torn: String = conn.query_row("SELECT body FROM objects WHERE name = 'torn'", [], |r| r.get(0)).unwrap();
    assert_eq!(torn, "not json", "what cannot be read is left as it is");
}

#[test]
fn a_migration_that_is_cut_off_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    with_services(&dir);
    // Whoever is killed in the middle leaves a transaction that was not committed: the file is of version 1 still.
    let mut conn = rusqlite::Connection::open(path(&dir)).unwrap();
    let tx = conn.transaction().unwrap();
    tx.execute(
        "UPDATE objects SET body = json_set(body, '$.id', 'svc-half') WHERE kind = 'service' AND name = 'notes'",
        [],
    )
    .unwrap();
    drop(tx);
    drop(conn);
    let store = common::open(&dir);
    let notes = store.get::<serde_json::Value>("service", "notes").unwrap().unwrap().body;
    assert_ne!(notes["id"], "svc-half");
    assert_eq!(notes["customer"], "default");
}

const LINK: &str = "72ad900ea3f4963723d23dad07d4bd342ca142f0ad67710cf8026b53e5c2ee14";
