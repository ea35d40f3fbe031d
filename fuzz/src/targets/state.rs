//! What the daemon reads back from its own disk, or from a backup that somebody hands it.

use pumasi_store::{Entry, Force, JournalFilter, Options, Store};
use pumasi_terms::WallMs;
use std::path::Path;
use std::sync::Arc;

const NOW: WallMs = WallMs(1_800_000_000_000);
const GOLDEN: &[u8] = include_bytes!("../../../crates/store/tests/golden/v1.sqlite");

fn open(path: &Path) -> Option<Store> {
    let options = Options { clock: Arc::new(|| NOW), ..Options::default() };
    Store::open_with(path, NOW, 1, options).ok()
}

fn rows(store: &Store) -> Option<Vec<Entry>> {
    let page = store.journal_page(0, 100, &JournalFilter::default()).ok()?;
    Some(page.into_iter().map(|row| row.entry).collect())
}

fn use_it(store: &Store) {
    let head = store.verify_journal();
    let told = rows(store);
    let _ = store.listing::<serde_json::Value>("note").map(|l| l.items.len());
    if let (Ok(head), Some(told)) = (head, told) {
        let genuine = genuine();
        if head.seq == genuine.0.seq && head == genuine.0 {
            assert_eq!(told.len(), genuine.1.len());
            for (told, mut genuine) in told.into_iter().zip(genuine.1.iter().cloned()) {
                // Personal payloads may be erased; they may not be changed.
                if told.personal.is_none() {
                    genuine.personal = None;
                }
                assert_eq!(told, genuine, "another journal verifies under the same head");
            }
        }
    }
    store.close();
}

fn genuine() -> &'static (pumasi_store::JournalHead, Vec<Entry>) {
    static MADE: std::sync::OnceLock<(pumasi_store::JournalHead, Vec<Entry>)> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sqlite");
        std::fs::write(&path, GOLDEN).unwrap();
        let store = open(&path).expect("the golden store opens");
        let made = (store.verify_journal().unwrap(), rows(&store).unwrap());
        store.close();
        made
    })
}

/// A database as a backup to be restored, and as the store itself.
pub fn store_file(input: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let (backup, restored) = (dir.path().join("backup.sqlite"), dir.path().join("restored.sqlite"));
    std::fs::write(&backup, input).unwrap();
    if Store::restore(&backup, &restored, Force::No, NOW).is_ok() {
        let store = open(&restored);
        if let Some(store) = &store {
            assert_ne!(
                store.standing(),
                pumasi_store::Standing::Current,
                "a restored store acts before it is accepted"
            );
            use_it(store);
        }
    }
    if let Some(store) = open(&backup) {
        use_it(&store);
    }
}

/// The small file beside the database.
pub fn anchor(input: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    std::fs::write(&path, GOLDEN).unwrap();
    std::fs::write(dir.path().join("store.anchor.json"), input).unwrap();
    if let Some(store) = open(&path) {
        use_it(&store);
    }
}
