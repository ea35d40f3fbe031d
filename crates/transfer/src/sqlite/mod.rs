//! Datasets of kind `sqlite`: a live database of an unchanged application at home, live read-only copies elsewhere.
//!
//! `source` looks at the home's database and says which pages changed; `replica` changes the copy's pages inside SQLite
//! transactions. Both speak of pages of consistent snapshots and never of SQL.
//!
//! Caution: this process must not open a database file that is in use here in any other way than through SQLite:
//! closing any descriptor of a file drops all POSIX locks that the process has on it. (The `-wal` file carries no locks
//! and may be read.)

mod batch;
mod first_page;
mod load;
mod promote;
mod replica;
mod source;
mod wal;

pub use batch::{BATCH_BYTES_MAX, BatchError, PageBatch};
pub use load::{SqliteCopy, SqliteHome};
pub use promote::{adopt, is_promoted, promote};
pub use replica::{Applied, ReplicaError, ReplicaOptions, SqliteReplica};
pub use source::{Delta, Polled, Snapshot, SourceError, SourceOptions, SourceStats, SqliteSource};
pub(crate) use source::{read_only, real_path};

/// The page that SQLite keeps for its locks (at 1 GiB) is never read or written.
pub(crate) fn is_lock_page(pgno: u32, page_size: u32) -> bool {
    u64::from(pgno - 1) * u64::from(page_size) == 0x4000_0000
}

pub(crate) fn is_page_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65_536).contains(&bytes)
}

/// SQLite counts pages up to this number.
pub(crate) const DB_PAGES_MAX: u32 = i32::MAX as u32;

/// The page size that the first page of a database states.
pub(crate) fn page_size_of(header: &[u8]) -> Option<u32> {
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return None;
    }
    let size = match u32::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        n => n,
    };
    is_page_size(size).then_some(size)
}
