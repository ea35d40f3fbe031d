//! Errors of reading, writing and opening. Those of watching, verifying and backing up live with their subject.

use crate::Expect;
use pumasi_terms::Revision;
use std::path::PathBuf;

/// Why a read or a transaction failed. Nothing of the transaction was kept, except where `CommitUnknown` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{kind}/{name}: expected {expected}, found {}; read it again and repeat the change", found(*.actual))]
    Conflict { kind: String, name: String, expected: Expect, actual: Option<Revision> },
    #[error("{what} has {bytes} bytes, at most {max_bytes} are kept; send less")]
    TooLarge { what: String, bytes: usize, max_bytes: usize },
    #[error("{what} {value:?}: {problem}")]
    BadKey { what: &'static str, value: String, problem: &'static str },
    #[error("{what} cannot be written as JSON: {detail}")]
    Encode { what: String, detail: String },
    #[error("{what} in the store is not what this version expects: {detail}; was it written by another version?")]
    Decode { what: String, detail: String },
    #[error(
        "{destination} has {max} messages waiting already; nothing more is queued for it until some are answered or \
         discarded"
    )]
    OutboxFull { destination: String, max: u64 },
    #[error("every reader of the store was busy for {waited_ms} ms; try again")]
    Busy { waited_ms: u64 },
    #[error("the store is closed")]
    Closed,
    #[error("the transaction's own code panicked; nothing of it was kept (a bug of this program)")]
    Panicked,
    #[error("the commit failed and may or may not be found after the next start: {detail}")]
    CommitUnknown { detail: String },
    #[error("the disk failed earlier ({detail}); nothing is written until the daemon is started again")]
    Broken { detail: String },
    #[error("the {what} is {value} and cannot rise: no store of ours counts so far; restore a backup and report this")]
    Exhausted { what: &'static str, value: u64 },
    #[error("{doing}: {detail}")]
    Database { doing: &'static str, detail: String, retryable: bool },
}

fn found(actual: Option<Revision>) -> String {
    actual.map_or_else(|| "none".to_owned(), |r| format!("revision {r}"))
}

impl StoreError {
    /// Whether the same call may succeed later without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::OutboxFull { .. } => true,
            Self::Database { retryable, .. } => *retryable,
            _ => false,
        }
    }
    /// Whether somebody else changed the object first.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Names what was attempted when SQLite refused it.
pub(crate) fn during(doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| {
        use rusqlite::ErrorCode as C;
        let retryable = matches!(
            error.sqlite_error_code(),
            Some(C::DatabaseBusy | C::DatabaseLocked | C::DiskFull | C::OutOfMemory)
        );
        StoreError::Database { doing, detail: error.to_string(), retryable }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another process; stop that daemon first", path = .path.display())]
    InUse { path: PathBuf },
    #[error(
        "{path} was written by a newer version (schema {found}, this program knows up to {known}); start that version, \
         or restore a backup made before the upgrade", path = .path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{path} is an SQLite database of another program (application id {found:#x})", path = .path.display())]
    Foreign { path: PathBuf, found: i64 },
    #[error("{path}: {detail}; restore a backup", path = .path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("{path}: {doing}: {source}", path = .path.display())]
    Io { path: PathBuf, doing: &'static str, source: std::io::Error },
    #[error("{path}: {doing}: {detail}", path = .path.display())]
    Database { path: PathBuf, doing: &'static str, detail: String },
}
