//! Two databases of one origin, row by row.
//!
//! Enters: the file that was set aside, and the one that was gone on with, which may be in use. Leaves: rows by key that stand in one only,
//! or differ. Always holds: both are opened for reading; rows are streamed, not collected; whoever writes the second one is not held up
//! for long.

use super::{Compared, TableDifferences, bounded};
use crate::load::Named;
use crate::sqlite::{read_only, real_path};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use std::path::Path;
use std::time::{Duration, Instant};

const TABLES_MAX: usize = 256;
/// Of tables that differ, so that one answer stays short.
const TOLD_MAX: usize = 64;
const KEYS_TOLD: usize = 20;
const KEY_CHARS: usize = 120;
const WORK_MS_MAX: u64 = 300_000;
/// A database that is not in WAL mode cannot be written while it is read.
const HELD_BYTES_MAX: u64 = 64 << 20;
/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 100_000;

pub(super) fn compare(aside: &Path, beside: &Path) -> Result<Compared, String> {
    let failed = |e: rusqlite::Error| bounded(&e.to_string());
    if let Err(e) = beside.symlink_metadata() {
        return Err(format!("there is no database to compare with: {e}"));
    }
    let mut db = read_only(aside).map_err(failed)?;
    let theirs = real_path(beside);
    db.execute("ATTACH ?1 AS theirs", [theirs.to_str().ok_or("its path is no text")?]).map_err(failed)?;
    let mode: String = db.query_row("PRAGMA theirs.journal_mode", [], |r| r.get(0)).map_err(failed)?;
    let size = beside.metadata().map_or(0, |m| m.len());
    if !mode.eq_ignore_ascii_case("wal") && size > HELD_BYTES_MAX {
        return Err(format!(
            "it has {size} bytes in journal mode {mode}, and its application could not write meanwhile"
        ));
    }
    let begun = Instant::now();
    db.progress_handler(STEPS, Some(move || begun.elapsed() > Duration::from_millis(WORK_MS_MAX))).map_err(failed)?;
    db.execute_batch("BEGIN").map_err(failed)?;
    all(&db).map_err(failed)
}

fn all(db: &Connection) -> rusqlite::Result<Compared> {
    let mut out = Compared::default();
    let (here, there) = (tables(db, "main")?, tables(db, "theirs")?);
    let mut names: Vec<&String> = here.iter().chain(&there).collect();
    names.sort();
    names.dedup();
    if names.len() > TABLES_MAX {
        out.remarks.push(format!("{} tables, the first {TABLES_MAX} were compared", names.len()));
    }
    for name in names.into_iter().take(TABLES_MAX) {
        let found = match (here.contains(name), there.contains(name)) {
            (true, true) => both(db, name, &mut out.remarks)?,
            (true, false) => {
                let added = keys_of(db, "main", name)?;
                TableDifferences { added, ..TableDifferences::default() }
            }
            _ => TableDifferences { removed: keys_of(db, "theirs", name)?, ..TableDifferences::default() },
        };
        if found == TableDifferences::default() {
            continue;
        }
        if out.tables.len() >= TOLD_MAX {
            out.remarks.push(format!("more than {TOLD_MAX} tables differ; those after {} are not told", shown(name)));
            break;
        }
        out.tables.push(TableDifferences { table: shown(name), ..found });
    }
    Ok(out)
}

fn shown(name: &str) -> String {
    name.chars().flat_map(char::escape_default).take(KEY_CHARS).collect()
}

/// Those with rows of their own: what a virtual one holds stands in its shadows.
fn tables(db: &Connection, of: &str) -> rusqlite::Result<Vec<String>> {
    let sql = format!(
        "SELECT name FROM {of}.sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
         AND sql NOT LIKE 'CREATE VIRTUAL%'"
    );
    let mut all = db.prepare(&sql)?;
    let rows = all.query_map([], |r| r.get(0))?;
    rows.collect()
}

struct Columns {
    /// In their order, quoted.
    all: Vec<String>,
    /// Of the primary key, in its order; the rowid where there is none.
    key: Vec<String>,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn columns(db: &Connection, of: &str, table: &str) -> rusqlite::Result<Columns> {
    let mut rows = db.prepare("SELECT name, pk FROM pragma_table_info(?1, ?2) ORDER BY cid")?;
    let rows = rows.query_map([table, of], |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut key: Vec<(i64, String)> = rows.iter().filter(|(_, pk)| *pk > 0).map(|(n, pk)| (*pk, quoted(n))).collect();
    key.sort();
    let mut key: Vec<String> = key.into_iter().map(|(_, name)| name).collect();
    if key.is_empty() {
        key.push("rowid".into());
    }
    Ok(Columns { all: rows.into_iter().map(|(name, _)| quoted(&name)).collect(), key })
}

fn list(columns: &[String], of: &str) -> String {
    columns.iter().map(|c| format!("{of}.{c}")).collect::<Vec<_>>().join(", ")
}

fn same(columns: &[String], collation: &str) -> String {
    columns.iter().map(|c| format!("a.{c} IS b.{c}{collation}")).collect::<Vec<_>>().join(" AND ")
}

fn both(db: &Connection, table: &str, remarks: &mut Vec<String>) -> rusqlite::Result<TableDifferences> {
    let (mine, theirs) = (columns(db, "main", table)?, columns(db, "theirs", table)?);
    let name = quoted(table);
    if mine.key != theirs.key || mine.all != theirs.all {
        remarks.push(format!("table {} has other columns on either side: its rows were not compared", shown(table)));
        return Ok(TableDifferences::default());
    }
    // By the key's index on the other side, so that nothing is sorted or kept.
    let only = |here: &str, there: &str| {
        format!(
            "SELECT {} FROM {here}.{name} AS a WHERE NOT EXISTS (SELECT 1 FROM {there}.{name} AS b WHERE {})",
            list(&mine.key, "a"),
            same(&mine.key, "")
        )
    };
    let changed = format!(
        "SELECT {} FROM main.{name} AS a JOIN theirs.{name} AS b ON {} WHERE NOT ({})",
        list(&mine.key, "a"),
        same(&mine.key, ""),
        same(&mine.all, " COLLATE BINARY")
    );
    Ok(TableDifferences {
        table: String::new(),
        added: keys(db, &only("main", "theirs"))?,
        changed: keys(db, &changed)?,
        removed: keys(db, &only("theirs", "main"))?,
    })
}

fn keys_of(db: &Connection, of: &str, table: &str) -> rusqlite::Result<Named> {
    let columns = columns(db, of, table)?;
    keys(db, &format!("SELECT {} FROM {of}.{} AS a", list(&columns.key, "a"), quoted(table)))
}

fn keys(db: &Connection, sql: &str) -> rusqlite::Result<Named> {
    let mut statement = db.prepare(sql)?;
    let width = statement.column_count();
    let mut rows = statement.query([])?;
    let mut named = Named::default();
    while let Some(row) = rows.next()? {
        named.count += 1;
        if named.first.len() < KEYS_TOLD {
            named.first.push(key(row, width)?);
        }
    }
    Ok(named)
}

fn key(row: &Row<'_>, width: usize) -> rusqlite::Result<String> {
    let mut parts = Vec::new();
    for n in 0..width {
        parts.push(match row.get_ref(n)? {
            ValueRef::Null => "NULL".to_owned(),
            ValueRef::Integer(n) => n.to_string(),
            ValueRef::Real(x) => x.to_string(),
            ValueRef::Text(text) => shown(&String::from_utf8_lossy(&text[..text.len().min(4 * KEY_CHARS)])),
            ValueRef::Blob(bytes) => format!("{} bytes", bytes.len()),
        });
    }
    Ok(parts.join(", ").chars().take(2 * KEY_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(path: &Path, sql: &str) {
        let db = Connection::open(path).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL;").unwrap();
        db.execute_batch(sql).unwrap();
    }

    const BEGAN: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT);
        CREATE TABLE pairs(a TEXT COLLATE NOCASE, b INTEGER, x, PRIMARY KEY(a, b)) WITHOUT ROWID;
        CREATE TABLE \"odd \"\" name\"(x);
        INSERT INTO notes VALUES (1,'one'),(2,'two'),(3,'three');
        INSERT INTO pairs VALUES ('k',1,'x'),('k',2,NULL);
        INSERT INTO \"odd \"\" name\" VALUES (1),(2);";

    #[test]
    fn rows_are_told_by_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
        made(&a, BEGAN);
        made(&b, BEGAN);
        assert_eq!(compare(&a, &b).unwrap(), Compared::default());
        let db = Connection::open(&a).unwrap();
        db.execute_batch(
            "INSERT INTO notes VALUES (4,'lost'),(5,'lost too'); UPDATE notes SET text='TWO' WHERE id=2;
             UPDATE pairs SET x='y' WHERE b=2; CREATE TABLE mine(k TEXT PRIMARY KEY); INSERT INTO mine VALUES ('a\nb');
             DELETE FROM \"odd \"\" name\" WHERE x=1;",
        )
        .unwrap();
        made(&b, "INSERT INTO notes VALUES (6,'later'); CREATE TABLE later(x); INSERT INTO later VALUES (1);");
        let found = compare(&a, &b).unwrap();
        let of =
            |name: &str| found.tables.iter().find(|t| t.table == name).unwrap_or_else(|| panic!("{name}: {found:?}"));
        let notes = of("notes");
        assert_eq!((notes.added.count, &notes.added.first[..]), (2, &["4".to_owned(), "5".to_owned()][..]));
        assert_eq!(
            (&notes.changed.first[..], &notes.removed.first[..]),
            (&["2".to_owned()][..], &["6".to_owned()][..])
        );
        assert_eq!(of("pairs").changed.first, ["k, 2"]);
        assert_eq!(of("mine").added.first, ["a\\nb"]);
        assert_eq!(of("later").removed.count, 1);
        assert_eq!(of("odd \\\" name").removed.first, ["1"]);
        assert_eq!(found.count(), 2 + 1 + 1 + 1);
    }

    #[test]
    fn other_columns_and_garbled_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
        made(&a, "CREATE TABLE t(x); INSERT INTO t VALUES (1);");
        made(&b, "CREATE TABLE t(x, y); INSERT INTO t VALUES (1, 2);");
        let found = compare(&a, &b).unwrap();
        assert!(found.tables.is_empty() && found.remarks[0].contains("other columns"), "{found:?}");
        std::fs::write(&a, vec![7u8; 10_000]).unwrap();
        assert!(compare(&a, &b).unwrap_err().contains("not a database"));
        assert!(compare(&b, &dir.path().join("none.db")).unwrap_err().contains("no database"));
    }
}
