#![allow(dead_code, clippy::unwrap_used, reason = "every test uses a part")]

use pumasi_store::sim::{Hooks, MemoryDisk, Snapshot};
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

/// Where a store lies: it is the same store in a file with threads and in memory without.
pub enum Place {
    File(TempDir),
    Memory(MemoryDisk),
}

impl Place {
    pub fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    pub fn memory() -> Self {
        Self::Memory(MemoryDisk::new("test"))
    }

    pub fn open(&self) -> Store {
        self.open_with(Options::default())
    }

    pub fn open_with(&self, options: Options) -> Store {
        match self {
            Self::File(dir) => open_with(dir, options),
            Self::Memory(disk) => opened(Store::open_inline(disk, WallMs(1_000), 42, options, Hooks::default())),
        }
    }

    /// Changes the database behind the closed store's back.
    pub fn tamper(&self, sql: &str) {
        match self {
            Self::File(dir) => rusqlite::Connection::open(path(dir)).unwrap().execute_batch(sql).unwrap(),
            Self::Memory(disk) => disk.tamper(sql).unwrap(),
        }
    }
}

/// A plain copy of a closed store's database, as a careless operator makes it.
pub enum OldDatabase {
    File(PathBuf),
    Memory(Snapshot),
}

impl Place {
    pub fn snapshot(&self) -> OldDatabase {
        match self {
            Self::File(dir) => {
                let to = dir.path().join("old");
                std::fs::copy(path(dir), &to).unwrap();
                OldDatabase::File(to)
            }
            Self::Memory(disk) => OldDatabase::Memory(disk.snapshot().unwrap()),
        }
    }

    pub fn restore(&self, old: &OldDatabase) {
        match (self, old) {
            (Self::File(dir), OldDatabase::File(old)) => drop(std::fs::copy(old, path(dir)).unwrap()),
            (Self::Memory(disk), OldDatabase::Memory(old)) => disk.restore(old).unwrap(),
            _ => panic!("another place"),
        }
    }
}

/// Runs each test in a file and in memory.
#[macro_export]
macro_rules! in_both_places {
    ($($test:ident),+ $(,)?) => {
        mod in_a_file {
            $(#[test] fn $test() { super::$test(&$crate::common::Place::file()); })+
        }
        mod in_memory {
            $(#[test] fn $test() { super::$test(&$crate::common::Place::memory()); })+
        }
    };
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
