#![allow(dead_code, clippy::unwrap_used, reason = "every test uses a part")]

use pumasi_store::{Entry, OpenError, Options, Store};
use pumasi_terms::WallMs;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tempfile::TempDir;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub text: String,
}

impl Note {
    pub fn new(text: &str) -> Self {
        Self { text: text.into() }
    }
}

pub fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("store.sqlite")
}

pub fn opened(store: Result<Store, OpenError>) -> Store {
    store.unwrap_or_else(|e| panic!("{e}"))
}

pub fn open(dir: &TempDir) -> Store {
    open_with(dir, Options::default())
}

pub fn open_with(dir: &TempDir, options: Options) -> Store {
    opened(Store::open_with(path(dir), WallMs(1_000), 42, options))
}

pub fn entry(action: &str) -> Entry {
    Entry {
        at: WallMs(1_000),
        actor: "operator".into(),
        action: action.into(),
        subject_kind: "note".into(),
        subject: "a".into(),
        ..Entry::default()
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}
