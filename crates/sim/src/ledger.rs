//! What an application of the simulator keeps in a database: a row for each request that wrote.
//!
//! Enters: lines, the directory of the dataset. Leaves: whether a line is in, all lines. Always holds: a line that is in is committed, as the
//! product's own readers of databases see it; nothing is open in between, so that the directory may be moved.

use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// The dataset by whose name an application knows that it has a database, and the file in it.
pub const DATASET: &str = "ledger";
pub const FILE: &str = "ledger.db";

pub fn add(dir: &Path, line: &str) -> rusqlite::Result<()> {
    let db = Connection::open(dir.join(FILE))?;
    // What survives a power cut of the machine is not played here, and takes time.
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE IF NOT EXISTS writes (line TEXT)",
    )?;
    db.execute("INSERT INTO writes VALUES (?1)", [line]).map(drop)
}

pub fn all(dir: &Path) -> rusqlite::Result<Vec<String>> {
    let db = Connection::open_with_flags(dir.join(FILE), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut rows = db.prepare("SELECT line FROM writes ORDER BY rowid")?;
    let lines = rows.query_map([], |row| row.get(0))?;
    lines.collect()
}
