//! Passkeys: public keys, each bound to the host for which it was made.

use super::end::{bury, is_buried};
use super::users::{self, User};
use super::{DbError, Tx};
use rusqlite::{Connection, OptionalExtension};

pub const PASSKEYS_MAX: u32 = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passkey {
    pub id: Vec<u8>,
    pub rp_id: String,
    pub key: Vec<u8>,
    pub counter: u32,
    pub name: String,
    pub created_at_ms: u64,
    pub used_at_ms: Option<u64>,
}

const COLUMNS: &str = "p.id, p.rp_id, p.key, p.counter, p.name, p.created_at_ms, p.used_at_ms";

fn of_row(row: &rusqlite::Row<'_>, from: usize) -> rusqlite::Result<Passkey> {
    Ok(Passkey {
        id: row.get(from)?,
        rp_id: row.get(from + 1)?,
        key: row.get(from + 2)?,
        counter: row.get(from + 3)?,
        name: row.get(from + 4)?,
        created_at_ms: row.get(from + 5)?,
        used_at_ms: row.get(from + 6)?,
    })
}

pub fn find(db: &Connection, id: &[u8]) -> rusqlite::Result<Option<(User, Passkey)>> {
    let mut q = db.prepare_cached(&format!(
        "SELECT {}, {COLUMNS} FROM passkey p JOIN user u ON u.subject = p.subject WHERE p.id = ?1",
        users::COLUMNS
    ))?;
    q.query_row([id], |row| Ok((users::of_row(row)?, of_row(row, 9)?))).optional()
}

pub fn of_user(db: &Connection, subject: &str) -> rusqlite::Result<Vec<Passkey>> {
    let mut q = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM passkey p WHERE p.subject = ?1 ORDER BY p.created_at_ms DESC, p.id"
    ))?;
    q.query_map([subject], |row| of_row(row, 0))?.collect()
}

/// False: the user has as many as it may have, or the credential is known already, or was taken away.
pub fn add(tx: &Tx<'_>, subject: &str, passkey: &Passkey) -> Result<bool, DbError> {
    let full = users::count_of(tx.realm, "passkey", subject)? >= PASSKEYS_MAX;
    if full || find(tx.realm, &passkey.id)?.is_some() || is_buried(tx.realm, &hex::encode(&passkey.id))? {
        return Ok(false);
    }
    tx.realm.execute(
        "INSERT INTO passkey (id, subject, rp_id, key, counter, name, created_at_ms, changed_at_ms, changed_epoch)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)",
        (&passkey.id, subject, &passkey.rp_id, &passkey.key, passkey.counter, &passkey.name, tx.at_ms, tx.epoch),
    )?;
    Ok(true)
}

/// Counters only rise here; one that stays behind is a copy that was made earlier, and no reason to lock its owner out.
pub fn used(tx: &Tx<'_>, id: &[u8], counter: u32) -> rusqlite::Result<()> {
    tx.realm.execute(
        "UPDATE passkey SET counter = max(counter, ?2), used_at_ms = ?3, changed_at_ms = ?3, changed_epoch = ?4 WHERE id = ?1",
        (id, counter, tx.at_ms, tx.epoch),
    )?;
    Ok(())
}

pub fn rename(tx: &Tx<'_>, subject: &str, id: &[u8], name: &str) -> rusqlite::Result<()> {
    tx.realm.execute(
        "UPDATE passkey SET name = ?3, changed_at_ms = ?4, changed_epoch = ?5 WHERE id = ?1 AND subject = ?2",
        (id, subject, name, tx.at_ms, tx.epoch),
    )?;
    Ok(())
}

pub fn remove(tx: &Tx<'_>, subject: &str, id: &[u8]) -> rusqlite::Result<()> {
    if tx.realm.execute("DELETE FROM passkey WHERE id = ?1 AND subject = ?2", (id, subject))? > 0 {
        bury(tx, "passkey", &hex::encode(id), subject)?;
    }
    Ok(())
}
