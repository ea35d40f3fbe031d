//! The chain: what breaks it, what may not, and what retention leaves.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, block_on, entry};
use pumasi_store::{BrokenAt, Entry, JournalFilter, Store, StoreError, VerifyError};
use serde_json::json;

in_both_places!(
    retention_drops_whole_segments_and_the_rest_still_verifies,
    a_page_is_filtered_by_subject_and_action,
    a_refused_closure_leaves_no_row_in_the_chain,
    every_kind_of_tampering_is_found,
    a_cut_tail_with_a_matching_head_is_found_by_the_anchor,
);

/// Five batches of three rows, then closed.
fn write(place: &Place) {
    let store = place.open();
    for batch in 0..5 {
        store
            .transact_blocking(move |tx| {
                for row in 0..3 {
                    let n = batch * 3 + row;
                    let personal = (n % 2 == 0).then(|| json!({ "email": format!("user{n}@secret.example") }));
                    tx.journal(Entry { data: json!({ "n": n }), personal, ..entry("note.made") })?;
                }
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
    assert_eq!(store.verify_journal().unwrap(), store.journal_head());
    assert_eq!(store.journal_head().seq, 15);
}

fn broken(store: &Store) -> u64 {
    match store.verify_journal() {
        Err(VerifyError::Broken(BrokenAt { seq, .. })) => seq,
        other => panic!("{other:?}"),
    }
}

fn every_kind_of_tampering_is_found(place: &Place) {
    for (sql, batch) in [
        ("UPDATE journal SET action = 'note.kept' WHERE seq = 8", 7..=9),
        ("UPDATE journal SET at = at + 1 WHERE seq = 8", 7..=9),
        ("UPDATE journal SET cause = '' WHERE seq = 8", 7..=9),
        ("UPDATE journal SET subject = subject_kind || subject, subject_kind = '' WHERE seq = 8", 7..=9),
        ("UPDATE journal SET personal_digest = NULL WHERE seq = 9", 7..=9),
        ("DELETE FROM journal WHERE seq = 8", 7..=9),
        ("DELETE FROM journal WHERE seq = 15", 13..=15),
        ("DELETE FROM journal_links WHERE last_seq = 9", 7..=9),
        ("DELETE FROM journal_links WHERE last_seq = 15", 13..=16),
        ("UPDATE journal_links SET link = zeroblob(32) WHERE last_seq = 9", 7..=9),
        ("UPDATE journal_personal SET payload = '{}' WHERE seq = 9", 9..=9),
        ("UPDATE store SET journal_seq = 12", 16..=16),
        (
            "INSERT INTO journal SELECT 16, at, actor, action, subject_kind, subject, cause, reasons, trace_id, data, NULL FROM journal WHERE seq = 1",
            16..=16,
        ),
    ] {
        let place = match place {
            Place::File(_) => Place::file(),
            Place::Memory(_) => Place::memory(),
        };
        write(&place);
        place.tamper(sql);
        let seq = broken(&place.open());
        assert!(batch.contains(&seq), "{sql}: found at {seq}");
    }
}

fn a_cut_tail_with_a_matching_head_is_found_by_the_anchor(place: &Place) {
    write(place);
    place.tamper("DELETE FROM journal WHERE seq > 12");
    place.tamper("DELETE FROM journal_links WHERE last_seq > 12");
    place.tamper(
        "UPDATE store SET journal_seq = 12, journal_link = (SELECT link FROM journal_links WHERE last_seq = 12)",
    );
    let store = place.open();
    assert!(store.verify_journal().is_ok(), "the chain alone cannot know");
    assert_ne!(store.standing(), pumasi_store::Standing::Current);
}

#[test]
fn a_personal_payload_can_be_erased_and_leaves_no_trace_on_disk() {
    let place = Place::file();
    write(&place);
    let Place::File(dir) = &place else { unreachable!() };
    let store = place.open();
    let with_personal = JournalFilter { with_personal: true, ..JournalFilter::default() };
    let row = store.journal_page(10, 1, &with_personal).unwrap().remove(0);
    assert_eq!(row.entry.personal, Some(json!({ "email": "user10@secret.example" })));
    assert!(store.journal_page(10, 1, &JournalFilter::default()).unwrap()[0].entry.personal.is_none());
    assert!(block_on(store.erase_personal(11)).unwrap());
    assert!(!block_on(store.erase_personal(11)).unwrap());
    let row = store.journal_page(10, 1, &with_personal).unwrap().remove(0);
    assert!(row.personal_erased && row.entry.personal.is_none());
    store.verify_journal().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(!holds("user10@secret"), "{} still holds it", file.display());
    }
    let others = std::fs::read(common::path(dir)).unwrap();
    assert!(others.windows(13).any(|w| w == b"user12@secret"), "the others stay");
}

fn retention_drops_whole_segments_and_the_rest_still_verifies(place: &Place) {
    write(place);
    let store = place.open();
    block_on(async {
        assert!(store.seal_segment().await.unwrap());
        assert!(!store.seal_segment().await.unwrap(), "nothing new to seal");
        for _ in 0..4 {
            store.transact(|tx| tx.journal(entry("more"))).await.unwrap();
        }
        assert_eq!(store.retain(5, "operator").await.unwrap().rows_dropped, 0, "only four rows would remain");
        let dropped = store.retain(4, "operator").await.unwrap();
        assert_eq!((dropped.segments_dropped, dropped.rows_dropped), (1, 15));
    });
    assert_eq!(store.verify_journal().unwrap().seq, 20);
    let rows = store.journal_page(0, 100, &JournalFilter::default()).unwrap();
    assert_eq!(rows.first().unwrap().seq, 16);
    assert_eq!(rows.last().unwrap().entry.action, "journal.retained");
    drop(store);
    let store = place.open();
    assert_eq!(store.verify_journal().unwrap().seq, 20);
    drop(store);
    place.tamper("UPDATE store SET base_link = zeroblob(32)");
    assert_eq!(broken(&place.open()), 16);
}

fn a_page_is_filtered_by_subject_and_action(place: &Place) {
    write(place);
    let store = place.open();
    store.transact_blocking(|tx| tx.journal(Entry { subject: "b".into(), ..entry("note.lost") })).unwrap();
    let page = |filter: JournalFilter| store.journal_page(0, 100, &filter).unwrap().len();
    assert_eq!(page(JournalFilter { subject: Some("b".into()), ..JournalFilter::default() }), 1);
    assert_eq!(page(JournalFilter { action: Some("note.made".into()), ..JournalFilter::default() }), 15);
    assert_eq!(page(JournalFilter { subject_kind: Some("service".into()), ..JournalFilter::default() }), 0);
    assert_eq!(store.journal_page(3, 2, &JournalFilter::default()).unwrap()[0].seq, 4);
}

fn a_refused_closure_leaves_no_row_in_the_chain(place: &Place) {
    let store = place.open();
    let refused: Result<(), StoreError> = store.transact_blocking(|tx| {
        tx.journal(entry("lost"))?;
        Err(StoreError::Closed)
    });
    assert!(refused.is_err());
    assert_eq!(store.transact_blocking(|tx| tx.journal(entry("kept"))).unwrap(), 1);
    assert_eq!(store.verify_journal().unwrap().seq, 1);
}
