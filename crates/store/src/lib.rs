//! The daemon's memory: objects with revisions, a watch, an outbox and a hash-chained journal, on embedded SQLite.
//!
//! Enters: closures that read and write within one transaction. Leaves: their results, after the transaction is on disk.
//!
//! Always holds:
//! - A transition, its outgoing messages and its journal entries commit together or not at all.
//! - Every change gets a revision of its own; revisions only rise, also over crashes and restores.
//! - A watch yields exactly the committed changes, in order, or ends with an error that says to list again.
//! - The journal is append-only; a change of any sealed row breaks the chain, the erasure of a personal payload does not.
//! - A store that may be older than what the world has seen says so ([`Standing::Restored`]) until somebody accepts it.
//!
//! One thread writes and commits many closures with one fsync; reads use a few read-only connections and see committed
//! state only. Reads are synchronous and short; on an async task they block for the time of a page-cache read. A simulator
//! opens the same store without threads, in memory: see [`sim`].

mod anchor;
mod backup;
mod error;
mod journal;
mod numbers;
mod outbox;
mod raft;
mod readers;
mod reserve;
mod schema;
pub mod sim;
mod standing;
mod store;
mod tx;
mod view;
mod watch;
mod writer;

pub use backup::{BackupError, BackupProgress, Force};
pub use error::{OpenError, StoreError};
pub use journal::{BrokenAt, Entry, JournalFilter, JournalHead, JournalRow, Retained, VerifyError};
pub use numbers::COUNT_MAX;
pub use outbox::{OUTBOX_DEAD_MAX, OUTBOX_PENDING_MAX, OutboxItem, OutboxMessage};
pub use raft::{
    RAFT_ENTRIES, RAFT_ENTRY_BYTES_MAX, RAFT_HARD_STATE, RAFT_SNAPSHOT_BYTES_MAX, RaftEntry, RaftHardState, RaftKept,
    RaftSnapshot,
};
pub use reserve::ReserveState;
pub use schema::SCHEMA_VERSION;
pub use standing::{AnchorPoint, RestoredWhy, Standing, StoreIdentity};
pub use store::{Listing, Options, Store};
pub use tx::{BODY_BYTES_MAX, Expect, Listed, Stored, Tx, Unreadable};
pub use view::Items;
pub use watch::{Change, Op, Watch, WatchError};

/// The kind of an object: a constant of the caller.
pub type Kind = &'static str;
