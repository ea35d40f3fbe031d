//! The database's shape, and the steps that bring an older one to it.

use crate::error::{OpenError, StoreError, during};
use crate::numbers;
use crate::standing::Head;
use pumasi_terms::WallMs;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::path::Path;
use std::time::Duration;

/// "PMSI": tells our files from other programs'.
pub(crate) const APPLICATION_ID: i64 = 0x504d_5349;

/// What this program writes.
pub const SCHEMA_VERSION: i64 = STEPS.len() as i64;

/// Step `i` brings version `i` to `i + 1`. A released step never changes; a new need is a new step.
type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;
const STEPS: &[Step] = &[version_1, version_2, version_3];

fn version_1(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "CREATE TABLE store (
             one INTEGER PRIMARY KEY CHECK (one = 1),
             store_id TEXT NOT NULL,
             incarnation INTEGER NOT NULL,
             created_at INTEGER NOT NULL,
             revision INTEGER NOT NULL,
             log_floor INTEGER NOT NULL,       -- changes at or below this revision are gone from the log
             journal_seq INTEGER NOT NULL,
             journal_link BLOB NOT NULL,
             base_seq INTEGER NOT NULL,        -- the journal's rows at or below this are gone, the link remains
             base_link BLOB NOT NULL,
             segment_seq INTEGER NOT NULL,     -- last row of the last sealed segment
             restored TEXT                     -- why the store is not current, as JSON
         ) STRICT;

         CREATE TABLE objects (
             id INTEGER PRIMARY KEY,
             kind TEXT NOT NULL,
             name TEXT NOT NULL,
             revision INTEGER NOT NULL,
             created_at INTEGER NOT NULL,
             updated_at INTEGER NOT NULL,
             body TEXT NOT NULL,
             UNIQUE (kind, name)
         ) STRICT;

         CREATE TABLE changes (
             revision INTEGER PRIMARY KEY,
             kind TEXT NOT NULL,
             name TEXT NOT NULL,
             body TEXT                         -- NULL: deleted
         ) STRICT;

         CREATE TABLE outbox (
             id INTEGER PRIMARY KEY AUTOINCREMENT,
             destination TEXT NOT NULL,
             kind TEXT NOT NULL,
             idempotency_key TEXT NOT NULL,
             body TEXT NOT NULL,
             created_at INTEGER NOT NULL,
             attempts INTEGER NOT NULL,
             next_attempt_at INTEGER NOT NULL,
             last_error TEXT,
             dead INTEGER NOT NULL CHECK (dead IN (0, 1)),
             UNIQUE (destination, idempotency_key)
         ) STRICT;
         CREATE INDEX outbox_waiting ON outbox (destination, id) WHERE dead = 0;
         CREATE INDEX outbox_dead ON outbox (id) WHERE dead = 1;
         CREATE TABLE outbox_depth (
             destination TEXT PRIMARY KEY,
             pending INTEGER NOT NULL
         ) STRICT, WITHOUT ROWID;

         CREATE TABLE journal (
             seq INTEGER PRIMARY KEY,
             at INTEGER NOT NULL,
             actor TEXT NOT NULL,
             action TEXT NOT NULL,
             subject_kind TEXT NOT NULL,
             subject TEXT NOT NULL,
             cause TEXT,
             reasons TEXT NOT NULL,            -- JSON array
             trace_id TEXT,
             data TEXT NOT NULL,               -- JSON
             personal_digest BLOB              -- keyed by a salt that leaves with the payload
         ) STRICT;
         CREATE INDEX journal_subject ON journal (subject_kind, subject, seq);
         CREATE TABLE journal_personal (
             seq INTEGER PRIMARY KEY REFERENCES journal (seq) ON DELETE CASCADE,
             salt BLOB NOT NULL,
             payload TEXT NOT NULL
         ) STRICT;
         CREATE TABLE journal_links (
             last_seq INTEGER PRIMARY KEY,
             first_seq INTEGER NOT NULL,
             sealed_at INTEGER NOT NULL,
             link BLOB NOT NULL
         ) STRICT;
         CREATE TABLE journal_segments (
             last_seq INTEGER PRIMARY KEY,
             first_seq INTEGER NOT NULL,
             sealed_at INTEGER NOT NULL,
             link BLOB NOT NULL
         ) STRICT;",
    )
}

/// Services get an id and an owner, tokens of customers and viewers a tenant: what was there belongs to the customer `default`.
/// A service of before keeps the directory that bears its name, so that nothing on disk has to move along with the record.
fn version_2(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "UPDATE objects SET body = json_set(body, '$.id', 'svc-' || lower(hex(randomblob(16))),
                '$.customer', 'default', '$.kept_by_name', json('true'))
             WHERE kind = 'service' AND json_valid(body) AND json_extract(body, '$.id') IS NULL;
         UPDATE objects SET body = json_set(body, '$.customer', 'default')
             WHERE kind = 'token' AND json_valid(body) AND json_extract(body, '$.role') IN ('viewer', 'customer');",
    )
}

/// A voter of a pact keeps its log here. Numbers of voters have all 64 bits; the snapshot's bytes stand apart, since the rest changes
/// with every entry. Where somebody set the version back by hand, they are there already.
fn version_3(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS raft_state (
             pact TEXT PRIMARY KEY,
             raft_id INTEGER NOT NULL,
             term INTEGER NOT NULL,
             vote INTEGER,
             commit_index INTEGER NOT NULL,
             applied INTEGER NOT NULL,
             conf BLOB NOT NULL,
             floor_index INTEGER NOT NULL,     -- entries at or below it stand in the snapshot only
             floor_term INTEGER NOT NULL
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS raft_entry (
             pact TEXT NOT NULL,
             idx INTEGER NOT NULL,
             term INTEGER NOT NULL,
             kind INTEGER NOT NULL,
             data BLOB NOT NULL,
             PRIMARY KEY (pact, idx)
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS raft_snapshot (
             pact TEXT PRIMARY KEY,
             idx INTEGER NOT NULL,
             term INTEGER NOT NULL,
             conf BLOB NOT NULL,
             state BLOB NOT NULL
         ) STRICT;",
    )
}

/// Applies the steps that are missing, each in a transaction of its own. Returns the version it began with.
fn migrate(conn: &mut Connection, steps: &[Step]) -> rusqlite::Result<i64> {
    let begun: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    for (i, step) in steps.iter().enumerate().skip(usize::try_from(begun).unwrap_or(0)) {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step(&tx)?;
        tx.pragma_update(None, "user_version", i64::try_from(i + 1).unwrap_or(i64::MAX))?;
        tx.commit()?;
        tracing::info!(from = i, to = i + 1, "store schema migrated");
    }
    Ok(begun)
}

/// What every connection to the store wants.
pub(crate) fn tune(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::from_millis(5_000))?;
    conn.set_prepared_statement_cache_capacity(64);
    // Without this SQLite plans a statement anew each time another LIMIT is bound.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "trusted_schema", false)
}

/// Refuses what is not ours or too new, before anything is changed.
pub(crate) fn check_ours(conn: &Connection, path: &Path) -> Result<i64, OpenError> {
    let ask = |pragma: &str| {
        conn.query_row(&format!("PRAGMA {pragma}"), [], |r| r.get::<_, i64>(0)).map_err(|e| {
            match e.sqlite_error_code() {
                Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                    OpenError::Damaged { path: path.to_owned(), detail: e.to_string() }
                }
                _ => OpenError::Database { path: path.to_owned(), doing: "reading its header", detail: e.to_string() },
            }
        })
    };
    let (application, version, pages) = (ask("application_id")?, ask("user_version")?, ask("page_count")?);
    if application != APPLICATION_ID && (pages > 0 || version != 0) {
        return Err(OpenError::Foreign { path: path.to_owned(), found: application });
    }
    if version > SCHEMA_VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    Ok(version)
}

/// Opens the one write connection; creates or migrates the database.
pub(crate) fn open_writer(path: &Path, now: WallMs, store_id: &str) -> Result<(Connection, Head), OpenError> {
    let fail = |doing: &'static str| {
        move |e: rusqlite::Error| OpenError::Database { path: path.to_owned(), doing, detail: e.to_string() }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(fail("opening the database"))?;
    let head = prepare(&mut conn, Medium::File, path, now, store_id)?;
    Ok((conn, head))
}

/// Where the database lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    File,
    /// A crash is of the process, never of the medium: nothing to sync, no write-ahead log.
    Memory,
}

/// Makes a connection the writing one: tuned, migrated, with a head.
pub(crate) fn prepare(
    conn: &mut Connection,
    medium: Medium,
    path: &Path,
    now: WallMs,
    store_id: &str,
) -> Result<Head, OpenError> {
    let fail = |doing: &'static str| {
        move |e: rusqlite::Error| OpenError::Database { path: path.to_owned(), doing, detail: e.to_string() }
    };
    let begun = check_ours(conn, path)?;
    tune(conn).map_err(fail("setting up the connection"))?;
    let setup = |conn: &Connection| -> rusqlite::Result<()> {
        if medium == Medium::File {
            conn.pragma_update_and_check(None, "journal_mode", "wal", |r| r.get::<_, String>(0))?;
            conn.pragma_update(None, "synchronous", "full")?;
            conn.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |r| r.get::<_, i64>(0))?;
        }
        if begun == 0 {
            conn.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        Ok(())
    };
    setup(conn).map_err(fail("setting up the connection"))?;
    migrate(conn, STEPS).map_err(fail("migrating the schema"))?;
    let damaged = |e: StoreError| OpenError::Damaged { path: path.to_owned(), detail: e.to_string() };
    if let Some(mut head) = Head::load(conn).map_err(damaged)? {
        numbers::mend(conn, &mut head).map_err(fail("giving the store true numbers again"))?;
        return Ok(head);
    }
    let head = Head::first(store_id);
    head.insert(conn, now).map_err(damaged)?;
    Ok(head)
}

/// A connection that cannot write, onto a store that a writer has open.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(during("opening a reader"))?;
    tune(&conn).map_err(during("setting up a reader"))?;
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::StatementStatus;

    fn version(conn: &Connection) -> i64 {
        conn.query_row("PRAGMA user_version", [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn steps_are_applied_once_each_and_a_failing_one_leaves_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        let one: Step = |tx| tx.execute_batch("CREATE TABLE a (x); INSERT INTO a VALUES (1);");
        let two: Step = |tx| tx.execute_batch("ALTER TABLE a ADD COLUMN y; UPDATE a SET y = x + 1;");
        let bad: Step = |tx| tx.execute_batch("DELETE FROM a; CREATE TABLE a (z);");
        assert_eq!(migrate(&mut conn, &[one]).unwrap(), 0);
        assert_eq!(migrate(&mut conn, &[one, two]).unwrap(), 1);
        assert_eq!(version(&conn), 2);
        assert!(migrate(&mut conn, &[one, two, bad]).is_err());
        assert_eq!(version(&conn), 2);
        let row: (i64, i64) = conn.query_row("SELECT x, y FROM a", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(row, (1, 2));
    }

    #[test]
    fn the_real_steps_build_a_database_from_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, STEPS).unwrap();
        assert_eq!(version(&conn), SCHEMA_VERSION);
        assert!(Head::load(&conn).unwrap().is_none());
        assert_eq!(migrate(&mut conn, STEPS).unwrap(), SCHEMA_VERSION, "a second run has nothing to do");
    }

    #[test]
    fn another_limit_is_not_planned_anew() {
        let conn = Connection::open_in_memory().unwrap();
        tune(&conn).unwrap();
        conn.execute_batch("CREATE TABLE a (x INTEGER PRIMARY KEY)").unwrap();
        let mut listing = conn.prepare("SELECT x FROM a WHERE x > ?1 LIMIT ?2").unwrap();
        for limit in 1..5 {
            assert!(!listing.exists([limit, limit]).unwrap());
        }
        assert_eq!(listing.get_status(StatementStatus::RePrepare), 0);
    }
}
