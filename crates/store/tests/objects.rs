//! Objects, transactions and watches, through the public API.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Note, Place, block_on, open};
use proptest::prelude::*;
use pumasi_store::{Expect, Op, Options, OutboxMessage, StoreError, WatchError};
use pumasi_terms::{Revision, WallMs};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

fn a_write_is_read_back_with_its_revision_and_survives_reopening(place: &Place) {
    let store = place.open();
    let revision = store.transact_blocking(|tx| tx.put("note", "a", &Note::new("one"), Expect::Absent)).unwrap();
    let read = store.get::<Note>("note", "a").unwrap().unwrap();
    assert_eq!((read.revision, read.body), (revision, Note::new("one")));
    drop(store);
    let store = place.open();
    assert_eq!(store.get::<Note>("note", "a").unwrap().unwrap().revision, revision);
    assert_eq!(store.revision(), revision);
    let next = store.transact_blocking(|tx| tx.put("note", "b", &Note::new("two"), Expect::Any)).unwrap();
    assert!(next > revision);
}

fn a_conflict_names_both_revisions_and_undoes_the_whole_closure(place: &Place) {
    let store = place.open();
    let first = store.transact_blocking(|tx| tx.put("note", "a", &1, Expect::Any)).unwrap();
    let second = store.transact_blocking(move |tx| tx.put("note", "a", &2, Expect::Revision(first))).unwrap();
    let refused = store.transact_blocking(move |tx| {
        tx.put("note", "b", &9, Expect::Any)?;
        tx.journal(common::entry("b.made"))?;
        tx.enqueue(OutboxMessage {
            destination: "city-b".into(),
            kind: "hello".into(),
            body: json!({}),
            idempotency_key: "k".into(),
        })?;
        tx.put("note", "a", &3, Expect::Revision(first))
    });
    let expected = Expect::Revision(first);
    let conflict = StoreError::Conflict { kind: "note".into(), name: "a".into(), expected, actual: Some(second) };
    assert_eq!(refused, Err(conflict));
    assert!(store.get::<i32>("note", "b").unwrap().is_none());
    assert_eq!(store.journal_head().seq, 0);
    assert!(store.outbox_due(WallMs(i64::MAX), 10).unwrap().is_empty());
    assert_eq!(store.revision(), second, "a refused closure uses up no revision");
    let refused = store.transact_blocking(|tx| tx.put("note", "a", &3, Expect::Absent));
    assert!(refused.unwrap_err().is_conflict());
}

fn what_is_too_large_or_badly_named_is_refused(place: &Place) {
    let store = place.open();
    let big = "x".repeat(pumasi_store::BODY_BYTES_MAX);
    let refused = store.transact_blocking(move |tx| tx.put("note", "a", &big, Expect::Any));
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    for (kind, name) in [("", "a"), ("note", ""), ("note", "a\nb")] {
        let refused = store.transact_blocking(move |tx| tx.put(kind, name, &1, Expect::Any));
        assert!(matches!(refused, Err(StoreError::BadKey { .. })), "{refused:?}");
    }
}

fn a_panicking_closure_hurts_only_itself(place: &Place) {
    let store = place.open();
    let panicked = store.transact_blocking(|tx| -> Result<(), StoreError> {
        tx.put("note", "a", &1, Expect::Any)?;
        panic!("on purpose");
    });
    assert_eq!(panicked, Err(StoreError::Panicked));
    assert!(store.get::<i32>("note", "a").unwrap().is_none());
    store.transact_blocking(|tx| tx.put("note", "a", &2, Expect::Absent)).unwrap();
}

fn after_close_everybody_is_told(place: &Place) {
    let store = place.open();
    let mut watch = store.watch(None, Revision(0));
    store.clone().close();
    assert_eq!(store.transact_blocking(|tx| tx.put("note", "a", &1, Expect::Any)), Err(StoreError::Closed));
    assert_eq!(block_on(watch.next()).unwrap_err(), WatchError::Closed);
    drop(place.open());
}

fn a_write_that_sqlite_breaks_off_undoes_the_closure_even_if_it_hides_the_error(place: &Place) {
    drop(place.open());
    // The object goes in, its line in the change log does not.
    place.tamper(
        "CREATE TRIGGER broken BEFORE INSERT ON changes WHEN new.name = 'bad'
         BEGIN SELECT RAISE(FAIL, 'on purpose'); END",
    );
    let store = place.open();
    let hidden = store.transact_blocking(|tx| {
        tx.put("note", "good", &1, Expect::Any)?;
        assert!(tx.put("note", "bad", &1, Expect::Any).is_err());
        Ok::<_, StoreError>(())
    });
    assert!(matches!(hidden, Err(StoreError::Database { .. })), "{hidden:?}");
    assert!(store.list_raw("note").unwrap().is_empty());
    store.transact_blocking(|tx| tx.put("note", "good", &1, Expect::Absent)).unwrap();
}

in_both_places!(
    a_write_is_read_back_with_its_revision_and_survives_reopening,
    a_conflict_names_both_revisions_and_undoes_the_whole_closure,
    what_is_too_large_or_badly_named_is_refused,
    a_panicking_closure_hurts_only_itself,
    after_close_everybody_is_told,
    a_write_that_sqlite_breaks_off_undoes_the_closure_even_if_it_hides_the_error,
    concurrent_writers_each_get_their_own_revision,
    a_watch_replays_and_then_follows_one_kind,
    a_watch_that_asks_for_too_much_is_told_to_list_again,
    a_thousand_watches_all_see_everything,
);

#[test]
fn the_last_handle_may_be_dropped_by_a_closure() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let held = store.clone();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let caller = std::thread::spawn(move || {
        // The handle in the closure outlives the one that queued it.
        let (reply, answer) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let queued = store.transact(move |tx| {
                wait.recv().unwrap();
                tx.put("note", "a", &1, Expect::Any)?;
                drop(held);
                reply.send(()).unwrap();
                Ok::<_, StoreError>(())
            });
            let mut queued = Box::pin(queued);
            // Polled once it is queued, and runs although nobody waits for it.
            std::future::poll_fn(|cx| {
                let _ = queued.as_mut().poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
        });
        drop(store);
        go.send(()).unwrap();
        answer.recv().unwrap();
    });
    caller.join().unwrap();
    let begun = std::time::Instant::now();
    let conn = rusqlite::Connection::open(common::path(&dir)).unwrap();
    let count = || conn.query_row("SELECT count(*) FROM objects", [], |r| r.get::<_, i64>(0)).unwrap();
    while count() == 0 {
        assert!(begun.elapsed().as_secs() < 20, "the transaction was not committed");
        std::thread::yield_now();
    }
}

fn concurrent_writers_each_get_their_own_revision(place: &Place) {
    let store = place.open();
    let mut revisions = block_on(async {
        let tasks: Vec<_> = (0..64)
            .map(|i| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut own = Vec::new();
                    for n in 0..20 {
                        let put = move |tx: &mut pumasi_store::Tx<'_>| {
                            let seen = tx.get::<u64>("count", "all")?;
                            let (value, expect) =
                                seen.map_or((0, Expect::Absent), |s| (s.body, Expect::Revision(s.revision)));
                            tx.put("count", "all", &(value + 1), expect)?;
                            tx.put("note", &format!("{i}-{n}"), &n, Expect::Absent)
                        };
                        own.push(store.transact::<_, StoreError, _>(put).await.unwrap());
                    }
                    own
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    assert_eq!(store.get::<u64>("count", "all").unwrap().unwrap().body, 64 * 20);
    assert_eq!(store.list_raw("note").unwrap().len(), 64 * 20);
    revisions.sort();
    revisions.dedup();
    assert_eq!(revisions.len(), 64 * 20);
}

fn a_watch_replays_and_then_follows_one_kind(place: &Place) {
    let store = place.open();
    block_on(async {
        let put = |name: &'static str, kind: &'static str| {
            store.transact(move |tx| tx.put(kind, name, &Note::new(name), Expect::Any))
        };
        put("a", "note").await.unwrap();
        let after = put("b", "note").await.unwrap();
        put("x", "other").await.unwrap();
        let mut late = store.watch(Some("note"), Revision(0));
        let mut live = store.watch(Some("note"), after);
        put("c", "note").await.unwrap();
        store.transact(|tx| tx.delete("note", "a", Expect::Any)).await.unwrap();
        for expected in ["a", "b", "c"] {
            let change = late.next().await.unwrap();
            assert_eq!((change.name.as_str(), change.op), (expected, Op::Put));
            assert_eq!(change.decode::<Note>().unwrap(), Some(Note::new(expected)));
        }
        let gone = late.next().await.unwrap();
        assert_eq!((gone.name.as_str(), gone.op, gone.body.is_none()), ("a", Op::Delete, true));
        assert_eq!(live.next().await.unwrap().name, "c");
        assert_eq!(live.next().await.unwrap().op, Op::Delete);
    });
}

fn a_watch_that_asks_for_too_much_is_told_to_list_again(place: &Place) {
    let store = place.open_with(Options { log_changes_max: 10, ..Options::default() });
    block_on(async {
        // It has begun, then falls behind what is kept anywhere.
        let mut slow = store.watch(None, Revision(0));
        store.transact(|tx| tx.put("note", "first", &0, Expect::Any)).await.unwrap();
        assert_eq!(slow.next().await.unwrap().revision, Revision(1));
        for i in 0..5_000 {
            store.transact(move |tx| tx.put("note", "n", &i, Expect::Any)).await.unwrap();
        }
        let oldest = Revision(store.revision().0 - 9);
        assert_eq!(slow.next().await.unwrap_err(), WatchError::Lagged { oldest });
        let mut old = store.watch(None, Revision(3));
        assert_eq!(old.next().await.unwrap_err(), WatchError::TooOld { oldest });
        let asked = Revision(store.revision().0 + 1);
        let unknown = store.watch(None, asked).next().await.unwrap_err();
        assert_eq!(unknown, WatchError::Unknown { asked, head: store.revision() });
    });
    drop(store);
    let store = place.open_with(Options { log_changes_max: 10, ..Options::default() });
    block_on(async {
        let after = Revision(store.revision().0 - 10);
        let mut watch = store.watch(None, after);
        for i in 1..=10 {
            assert_eq!(watch.next().await.unwrap().revision, Revision(after.0 + i));
        }
    });
}

fn a_thousand_watches_all_see_everything(place: &Place) {
    let store = place.open();
    block_on(async {
        let tasks: Vec<_> = (0..1_000)
            .map(|_| {
                let mut watch = store.watch(Some("note"), Revision(0));
                tokio::spawn(async move {
                    for i in 0..50 {
                        assert_eq!(watch.next().await.unwrap().decode::<u32>().unwrap(), Some(i));
                    }
                })
            })
            .collect();
        for i in 0..50_u32 {
            store.transact(move |tx| tx.put("note", "n", &i, Expect::Any)).await.unwrap();
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[derive(Debug, Clone)]
enum Act {
    Put {
        name: u8,
        value: u16,
        expect: Wanted,
    },
    Delete {
        name: u8,
        expect: Wanted,
    },
    /// Several in one closure, which then fails.
    Abandon {
        name: u8,
    },
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Wanted {
    Any,
    Absent,
    Right,
    Stale,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let wanted = prop_oneof![Just(Wanted::Any), Just(Wanted::Absent), Just(Wanted::Right), Just(Wanted::Stale)];
    let act = prop_oneof![
        8 => (0..4u8, any::<u16>(), wanted.clone())
            .prop_map(|(name, value, expect)| Act::Put { name, value, expect }),
        4 => (0..4u8, wanted).prop_map(|(name, expect)| Act::Delete { name, expect }),
        2 => (0..4u8).prop_map(|name| Act::Abandon { name }),
        1 => Just(Act::Reopen),
    ];
    proptest::collection::vec(act, 1..40)
}

type Model = BTreeMap<String, (Revision, u16)>;

/// Whether the model lets it through, and with which expectation to ask.
fn judge(model: &Model, name: &str, wanted: Wanted) -> (Expect, bool) {
    let there = model.get(name).map(|(r, _)| *r);
    match wanted {
        Wanted::Any => (Expect::Any, true),
        Wanted::Absent => (Expect::Absent, there.is_none()),
        Wanted::Right => (there.map_or(Expect::Absent, Expect::Revision), true),
        Wanted::Stale => (Expect::Revision(Revision(there.map_or(1, |r| r.0 + 1_000_000))), false),
    }
}

/// The store is an ordered map and the watch is its history.
fn follows_the_model(place: &Place, acts: Vec<Act>) -> Result<(), TestCaseError> {
    let mut store = place.open();
    let mut model = Model::new();
    let mut history: Vec<(Revision, String, Option<u16>)> = Vec::new();
    for act in acts {
        match act {
            Act::Put { name, value, expect } => {
                let name = format!("n{name}");
                let (expect, fits) = judge(&model, &name, expect);
                let key = name.clone();
                let put = store.transact_blocking(move |tx| tx.put("note", &key, &value, expect));
                prop_assert_eq!(put.is_ok(), fits, "{:?}", put);
                if let Ok(revision) = put {
                    prop_assert!(history.last().is_none_or(|(last, ..)| *last < revision));
                    model.insert(name.clone(), (revision, value));
                    history.push((revision, name, Some(value)));
                }
            }
            Act::Delete { name, expect } => {
                let name = format!("n{name}");
                let (expect, fits) = judge(&model, &name, expect);
                let key = name.clone();
                let deleted = store.transact_blocking(move |tx| tx.delete("note", &key, expect));
                prop_assert_eq!(deleted.is_ok(), fits, "{:?}", deleted);
                if let Ok(revision) = deleted {
                    prop_assert_eq!(revision.is_some(), model.remove(&name).is_some());
                    history.extend(revision.map(|r| (r, name, None)));
                }
            }
            Act::Abandon { name } => {
                let name = format!("n{name}");
                let abandoned: Result<(), StoreError> = store.transact_blocking(move |tx| {
                    tx.delete("note", &name, Expect::Any)?;
                    tx.put("note", "other", &1, Expect::Any)?;
                    Err(StoreError::Closed)
                });
                prop_assert!(abandoned.is_err());
            }
            Act::Reopen => {
                drop(store);
                store = place.open();
            }
        }
        let listed: Model =
            store.list::<u16>("note").unwrap().into_iter().map(|s| (s.name, (s.revision, s.body))).collect();
        prop_assert_eq!(&listed, &model);
    }
    let mut watch = store.watch(None, Revision(0));
    let seen = block_on(async {
        let mut seen = Vec::new();
        for _ in 0..history.len() {
            let change: Arc<_> = watch.next().await.unwrap();
            seen.push((change.revision, change.name.clone(), change.decode::<u16>().unwrap()));
        }
        seen
    });
    prop_assert_eq!(seen, history);
    prop_assert_eq!(watch.position(), store.revision());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_an_ordered_map_and_the_watch_is_its_history(acts in acts()) {
        follows_the_model(&Place::file(), acts.clone())?;
        follows_the_model(&Place::memory(), acts)?;
    }
}
