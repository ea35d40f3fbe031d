//! The tables, and the steps from one format to the next. Format version = `PRAGMA user_version`.
//!
//! Each row that can change says when and under which ownership it did (`changed_at_ms`, `changed_epoch`), so that two realms that
//! went apart can be put together again by stated rules ([`pumasi_realm::merge`]).

use rusqlite::Connection;
use std::path::Path;

/// "PMRL", "PMRO".
const REALM_ID: i32 = 0x504d_524c;
const OWN_ID: i32 = 0x504d_524f;

const REALM: &[&str] = &["
CREATE TABLE user (
    subject TEXT PRIMARY KEY,
    login TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    groups TEXT NOT NULL,           -- a JSON list
    disabled INTEGER NOT NULL,
    password_no INTEGER NOT NULL,   -- which of its passwords counts; 0: it has none
    created_at_ms INTEGER NOT NULL,
    signed_in_at_ms INTEGER,
    ver INTEGER NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    changed_epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Only with hashes that go along; those that are withheld are in a table of the same form in own.sqlite.
CREATE TABLE password (
    subject TEXT NOT NULL,
    no INTEGER NOT NULL,
    phc TEXT NOT NULL,
    PRIMARY KEY (subject, no)
) STRICT, WITHOUT ROWID;

CREATE TABLE passkey (
    id BLOB PRIMARY KEY,            -- the credential's id
    subject TEXT NOT NULL REFERENCES user ON DELETE CASCADE,
    rp_id TEXT NOT NULL,
    key BLOB NOT NULL,              -- a COSE_Key
    counter INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    used_at_ms INTEGER,
    changed_at_ms INTEGER NOT NULL,
    changed_epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX passkey_subject ON passkey (subject);

CREATE TABLE app_password (
    digest TEXT PRIMARY KEY,
    subject TEXT NOT NULL REFERENCES user ON DELETE CASCADE,
    name TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    used_at_ms INTEGER,
    changed_at_ms INTEGER NOT NULL,
    changed_epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX app_password_subject ON app_password (subject);

CREATE TABLE session (
    digest TEXT PRIMARY KEY,
    subject TEXT NOT NULL REFERENCES user ON DELETE CASCADE,
    label TEXT NOT NULL,            -- what the browser says it is
    created_at_ms INTEGER NOT NULL, -- also when its user last proved who it is
    seen_at_ms INTEGER NOT NULL,
    idle_until_ms INTEGER NOT NULL,
    ends_at_ms INTEGER NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    changed_epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX session_subject ON session (subject, created_at_ms);
CREATE INDEX session_ends ON session (idle_until_ms);

CREATE TABLE invitation (
    digest TEXT PRIMARY KEY,
    subject TEXT REFERENCES user ON DELETE CASCADE, -- who gets back in by it
    login TEXT,                                     -- who may become a user by it; neither: anybody
    groups TEXT NOT NULL,
    ends_at_ms INTEGER NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    changed_epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX invitation_subject ON invitation (subject);

-- What is no more, and never comes back: users (their logins may be taken anew, by other subjects), passkeys, app passwords.
CREATE TABLE tombstone (
    id TEXT PRIMARY KEY,            -- a subject, a credential's id in hex, a digest
    kind TEXT NOT NULL,             -- user, passkey, app_password
    subject TEXT NOT NULL,
    login_digest TEXT,              -- a user's
    at_ms INTEGER NOT NULL,
    epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstone_subject ON tombstone (subject, at_ms);

-- Counting two million rows is too slow for a request.
CREATE TABLE counted (users INTEGER NOT NULL) STRICT;
INSERT INTO counted VALUES (0);
CREATE TRIGGER user_made AFTER INSERT ON user BEGIN UPDATE counted SET users = users + 1; END;
CREATE TRIGGER user_gone AFTER DELETE ON user BEGIN UPDATE counted SET users = users - 1; END;
CREATE TRIGGER user_never_again BEFORE INSERT ON user WHEN EXISTS (SELECT 1 FROM tombstone WHERE id = NEW.subject)
BEGIN SELECT RAISE(ABORT, 'an ended user never comes back'); END;
"];

const OWN: &[&str] = &["
CREATE TABLE password (
    subject TEXT NOT NULL,
    no INTEGER NOT NULL,
    phc TEXT NOT NULL,
    PRIMARY KEY (subject, no)
) STRICT, WITHOUT ROWID;
"];

/// For writing.
pub(super) fn open_realm(path: &Path) -> Result<Connection, String> {
    open(path, REALM_ID, REALM)
}

pub(super) fn open_own(path: &Path) -> Result<Connection, String> {
    open(path, OWN_ID, OWN)
}

fn open(path: &Path, id: i32, steps: &[&str]) -> Result<Connection, String> {
    let told = |e: rusqlite::Error| format!("opening {}: {e}", path.display());
    let mut db = Connection::open(path).map_err(told)?;
    settle(&db).map_err(told)?;
    migrate(&mut db, id, steps, path)?;
    Ok(db)
}

/// For reading beside the writer.
pub(super) fn open_reader(path: &Path) -> Result<Connection, String> {
    let told = |e: rusqlite::Error| format!("opening {}: {e}", path.display());
    let db = Connection::open(path).map_err(told)?;
    settle(&db).and_then(|()| db.pragma_update(None, "query_only", true)).map_err(told)?;
    Ok(db)
}

fn settle(db: &Connection) -> rusqlite::Result<()> {
    // Whoever ships the database reads along and keeps nobody waiting for long.
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.pragma_update_and_check(None, "journal_mode", "wal", |r| r.get::<_, String>(0))?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |r| r.get::<_, i64>(0))?;
    // What is deleted leaves nothing in the pages that are shipped.
    db.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(db: &mut Connection, id: i32, steps: &[&str], path: &Path) -> Result<(), String> {
    let told = |e: rusqlite::Error| format!("bringing {} to this version: {e}", path.display());
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(told)?;
    let number = |name: &str| tx.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0)).map_err(told);
    let (version, whose) = (number("user_version")?, number("application_id")?);
    if version != 0 && whose != i64::from(id) {
        return Err(format!("{} is another program's database; nothing was changed", path.display()));
    }
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    if done > steps.len() {
        let known = steps.len();
        let path = path.display();
        return Err(format!(
            "{path} has format {version}; this program knows {known}: start the newer one. Nothing was changed"
        ));
    }
    for (i, step) in steps.iter().enumerate().skip(done) {
        tx.execute_batch(step).map_err(told)?;
        tx.pragma_update(None, "user_version", i64::try_from(i + 1).unwrap_or(i64::MAX)).map_err(told)?;
    }
    if version == 0 {
        tx.pragma_update(None, "application_id", id).map_err(told)?;
    }
    tx.commit().map_err(told)
}
