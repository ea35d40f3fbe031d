//! A voter's rows: kept and lost with their transaction, without a gap, and never unnoticed.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Note, Place};
use pumasi_store::sim::{Fate, Hooks, MemoryDisk};
use pumasi_store::{
    Expect, Options, RAFT_ENTRIES, RAFT_HARD_STATE, RaftEntry, RaftHardState, RaftKept, RaftSnapshot, Standing, Store,
    StoreError,
};
use pumasi_terms::WallMs;
use serde_json::json;
use std::sync::Arc;

in_both_places!(
    all_of_it_is_read_as_it_was_written,
    a_transaction_that_fails_leaves_neither_log_nor_object,
    gaps_and_strangers_are_refused,
    a_watch_begins_after_a_log_that_no_watch_sees,
    an_older_copy_is_found_out_by_the_log_alone,
);

fn entry(term: u64, data: &[u8]) -> RaftEntry {
    RaftEntry { term, kind: 1, data: data.to_vec() }
}

fn first() -> RaftKept {
    RaftKept {
        raft_id: u64::MAX - 1,
        hard: RaftHardState { term: 1, vote: None, commit: 1 },
        conf: b"three voters".to_vec(),
        applied: 1,
        floor_index: 1,
        floor_term: 1,
        entries: Vec::new(),
        snapshot: Some(RaftSnapshot { index: 1, term: 1, conf: b"three voters".to_vec(), state: b"nothing".to_vec() }),
    }
}

fn begun(place: &Place) -> Store {
    let store = place.open();
    store.transact_blocking(move |tx| tx.raft_begin("pact-1", &first())).unwrap();
    store
}

fn kept(store: &Store) -> RaftKept {
    store.raft("pact-1").unwrap().unwrap()
}

fn all_of_it_is_read_as_it_was_written(place: &Place) {
    let store = begun(place);
    assert_eq!(kept(&store), first());
    store
        .transact_blocking(move |tx| {
            tx.raft_hard_state("pact-1", RaftHardState { term: 7, vote: Some(u64::MAX), commit: 3 })?;
            tx.raft_append("pact-1", 2, &[entry(1, b"a"), entry(1, b"b"), entry(1, b"c")])?;
            tx.raft_append("pact-1", 4, &[entry(2, b"d"), entry(2, b"")])?;
            tx.raft_applied("pact-1", 3, Some(b"five voters"))
        })
        .unwrap();
    let mut expected = RaftKept {
        hard: RaftHardState { term: 7, vote: Some(u64::MAX), commit: 3 },
        conf: b"five voters".to_vec(),
        applied: 3,
        entries: vec![entry(1, b"a"), entry(1, b"b"), entry(2, b"d"), entry(2, b"")],
        ..first()
    };
    assert_eq!(kept(&store), expected);
    drop(store);
    let store = place.open();
    assert_eq!(kept(&store), expected, "after a restart");
    let snapshot = RaftSnapshot { index: 3, term: 1, conf: b"five voters".to_vec(), state: vec![7; 100_000] };
    let new = snapshot.clone();
    store
        .transact_blocking(move |tx| {
            tx.raft_snapshot("pact-1", &new)?;
            tx.raft_compact("pact-1", 3, 1)?;
            tx.raft_applied("pact-1", 4, None)
        })
        .unwrap();
    expected = RaftKept {
        applied: 4,
        floor_index: 3,
        entries: vec![entry(2, b"d"), entry(2, b"")],
        snapshot: Some(snapshot),
        ..expected
    };
    assert_eq!(kept(&store), expected);
    assert_eq!(store.raft("pact-2").unwrap(), None);
    let again = expected.clone();
    store.transact_blocking(move |tx| tx.raft_begin("pact-1", &again)).unwrap();
    assert_eq!(kept(&store), expected, "begun anew from what was kept");
    store.transact_blocking(move |tx| tx.raft_forget("pact-1")).unwrap();
    assert_eq!(store.raft("pact-1").unwrap(), None);
}

fn a_transaction_that_fails_leaves_neither_log_nor_object(place: &Place) {
    let store = begun(place);
    let failed = store.transact_blocking(move |tx| {
        tx.raft_append("pact-1", 2, &[entry(1, b"a")])?;
        tx.raft_applied("pact-1", 2, None)?;
        tx.put("note", "owner", &Note::new("b"), Expect::Any)?;
        tx.put("note", "owner", &Note::new("b"), Expect::Absent)
    });
    assert!(failed.unwrap_err().is_conflict());
    assert_eq!(kept(&store), first());
    assert!(!store.exists("note", "owner").unwrap());
}

fn gaps_and_strangers_are_refused(place: &Place) {
    let store = begun(place);
    let gap = store.transact_blocking(move |tx| tx.raft_append("pact-1", 3, &[entry(1, b"a")]));
    assert!(matches!(gap, Err(StoreError::Decode { .. })), "{gap:?}");
    let below = store.transact_blocking(move |tx| tx.raft_append("pact-1", 1, &[entry(1, b"a")]));
    assert!(matches!(below, Err(StoreError::Decode { .. })), "{below:?}");
    let none = store.transact_blocking(move |tx| tx.raft_applied("pact-2", 3, None));
    assert!(none.unwrap_err().to_string().contains("pact-2"));
    let falls = store.transact_blocking(move |tx| tx.raft_compact("pact-1", 0, 0));
    assert!(falls.is_err(), "a floor never falls");
    let large = store.transact_blocking(move |tx| tx.raft_append("pact-1", 2, &[entry(1, &vec![0; (1 << 20) + 1])]));
    assert!(matches!(large, Err(StoreError::TooLarge { .. })));
    assert_eq!(kept(&store), first());
    drop(store);
    place.tamper("INSERT INTO raft_entry VALUES ('pact-1', 9, 1, 1, x'00')");
    let why = place.open().raft("pact-1").unwrap_err().to_string();
    assert!(why.contains("entry 2 is missing, 9 is there"), "{why}");
}

fn a_watch_begins_after_a_log_that_no_watch_sees(place: &Place) {
    let store = begun(place);
    let listed = store.listing::<Note>("note").unwrap().revision;
    store.transact_blocking(move |tx| tx.raft_append("pact-1", 2, &[entry(1, b"a")])).unwrap();
    let mut watches = [store.watch(Some("note"), listed), store.watch(None, store.revision())];
    store.transact_blocking(move |tx| tx.put("note", "a", &Note::new("x"), Expect::Any)).unwrap();
    for watch in &mut watches {
        assert_eq!(common::block_on(watch.next()).unwrap().name, "a");
    }
    assert_eq!(store.items::<Note>("note").unwrap().len(), 1);
}

/// Nothing but promises was written since: it may not make them again.
fn an_older_copy_is_found_out_by_the_log_alone(place: &Place) {
    let store = begun(place);
    store.close();
    drop(store);
    let old = place.snapshot();
    let store = place.open();
    assert_eq!(store.standing(), Standing::Current);
    let voted = RaftHardState { term: 2, vote: Some(3), commit: 1 };
    store.transact_blocking(move |tx| tx.raft_hard_state("pact-1", voted)).unwrap();
    store.close();
    drop(store);
    place.restore(&old);
    let store = place.open();
    assert!(matches!(store.standing(), Standing::Restored { .. }), "{:?}", store.standing());
}

#[test]
fn a_simulator_alters_promises_and_loses_entries() {
    let hooks = Hooks {
        on_put: Some(Arc::new(|kind, pact, value| {
            assert_eq!(pact, "pact-1");
            match kind {
                RAFT_HARD_STATE if value["vote"] == 3 => value["vote"] = json!(null),
                RAFT_ENTRIES if value["first"] == 3 => return Fate::Drop,
                RAFT_ENTRIES if value["first"] == 4 => return Fate::Fail,
                _ => {}
            }
            Fate::Keep
        })),
        ..Hooks::default()
    };
    let disk = MemoryDisk::new("a");
    let store = common::opened(Store::open_inline(&disk, WallMs(1_000), 42, Options::default(), hooks));
    store.transact_blocking(move |tx| tx.raft_begin("pact-1", &first())).unwrap();
    let write = |index: u64, vote: u64| {
        store.transact_blocking(move |tx| {
            tx.raft_append("pact-1", index, &[entry(1, b"a")])?;
            tx.raft_hard_state("pact-1", RaftHardState { term: 1, vote: Some(vote), commit: 1 })
        })
    };
    write(2, 2).unwrap();
    write(3, 3).unwrap();
    assert_eq!((kept(&store).hard.vote, kept(&store).entries.len()), (None, 1));
    assert!(write(4, 2).unwrap_err().to_string().contains("made up by a simulator"));
}
