//! A journal stays near what its configuration keeps, also where that is far less than a usual segment.

#![allow(clippy::unwrap_used)]

mod common;

use common::{block_on, entry, open};
use pumasi_store::{JournalFilter, StoreError};

#[test]
fn a_short_retention_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut most = 0;
    for _ in 0..60 {
        store
            .transact_blocking(|tx| {
                for _ in 0..50 {
                    tx.journal(entry("note.made"))?;
                }
                Ok::<_, StoreError>(())
            })
            .unwrap();
        block_on(store.retain(1_000, "daemon")).unwrap();
        most = most.max(store.journal_page(0, 10_000, &JournalFilter::default()).unwrap().len());
    }
    assert!((1_000..=1_250).contains(&most), "{most} rows");
    assert_eq!(store.verify_journal().unwrap(), store.journal_head());
}
