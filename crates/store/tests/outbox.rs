//! Messages wait until they are answered, in bounded numbers, also over a restart.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, block_on};
use pumasi_store::{OUTBOX_PENDING_MAX, Options, OutboxMessage, Store, StoreError};
use pumasi_terms::WallMs;
use serde_json::json;

in_both_places!(
    a_message_waits_over_a_restart_until_it_is_done,
    a_failing_message_backs_off_and_ends_as_a_dead_letter_that_can_be_revived,
    one_destination_is_bounded_and_does_not_crowd_out_another,
);

const LATER: WallMs = WallMs(i64::MAX);

fn message(destination: &str, key: &str) -> OutboxMessage {
    OutboxMessage {
        destination: destination.into(),
        kind: "lease.request".into(),
        body: json!({ "key": key }),
        idempotency_key: key.into(),
    }
}

fn enqueue(store: &Store, message: OutboxMessage) -> Result<u64, StoreError> {
    store.transact_blocking(move |tx| tx.enqueue(message))
}

fn a_message_waits_over_a_restart_until_it_is_done(place: &Place) {
    let store = place.open();
    let changed = store.outbox_changed();
    let id = enqueue(&store, message("city-b", "one")).unwrap();
    assert!(changed.has_changed().unwrap());
    assert_eq!(enqueue(&store, message("city-b", "one")).unwrap(), id, "the same key is the same message");
    assert_ne!(enqueue(&store, message("city-c", "one")).unwrap(), id);
    drop(store);
    let store = place.open();
    let due = store.outbox_due(LATER, 10).unwrap();
    assert_eq!(due.len(), 2);
    assert_eq!(due[0].message, message("city-b", "one"));
    assert!(block_on(store.outbox_done(id)).unwrap());
    assert!(!block_on(store.outbox_done(id)).unwrap());
    assert_eq!(store.outbox_due(LATER, 10).unwrap().len(), 1);
}

fn a_failing_message_backs_off_and_ends_as_a_dead_letter_that_can_be_revived(place: &Place) {
    let store = place.open_with(Options { outbox_attempts_max: 3, ..Options::default() });
    let id = enqueue(&store, message("city-b", "one")).unwrap();
    block_on(async {
        let next = WallMs(LATER.0 - 1);
        assert!(!store.outbox_failed(id, "no route", next).await.unwrap());
        assert!(store.outbox_due(WallMs(next.0 - 1), 10).unwrap().is_empty());
        assert_eq!(store.outbox_next_due().unwrap(), Some(next));
        assert_eq!(store.outbox_due(next, 10).unwrap()[0].attempts, 1);
        assert!(!store.outbox_failed(id, "no route", next).await.unwrap());
        assert!(store.outbox_failed(id, "é".repeat(2_000), next).await.unwrap());
        assert!(store.outbox_due(LATER, 10).unwrap().is_empty());
        let dead = store.outbox_dead(10).unwrap();
        assert_eq!((dead.len(), dead[0].id, dead[0].attempts), (1, id, 3));
        assert!(store.outbox_retry(id).await.unwrap());
        assert_eq!(store.outbox_due(LATER, 10).unwrap()[0].attempts, 0);
        assert!(store.outbox_discard(id).await.unwrap());
        assert!(store.outbox_due(LATER, 10).unwrap().is_empty() && store.outbox_dead(10).unwrap().is_empty());
    });
}

fn one_destination_is_bounded_and_does_not_crowd_out_another(place: &Place) {
    let store = place.open();
    let fill = |tx: &mut pumasi_store::Tx<'_>| {
        for n in 0..OUTBOX_PENDING_MAX {
            tx.enqueue(message("city-b", &n.to_string()))?;
        }
        Ok::<_, StoreError>(())
    };
    store.transact_blocking(fill).unwrap();
    let full = enqueue(&store, message("city-b", "more")).unwrap_err();
    assert!(matches!(&full, StoreError::OutboxFull { destination, .. } if destination == "city-b"), "{full}");
    assert!(full.is_retryable());
    enqueue(&store, message("city-c", "one")).unwrap();
    let due = store.outbox_due(LATER, 4).unwrap();
    let from: Vec<_> = due.iter().map(|i| i.message.destination.as_str()).collect();
    assert_eq!(from, ["city-b", "city-c", "city-b", "city-b"]);
    block_on(store.outbox_done(due[0].id)).unwrap();
    enqueue(&store, message("city-b", "more")).unwrap();
}
