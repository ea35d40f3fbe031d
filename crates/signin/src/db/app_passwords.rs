//! App passwords: for clients that are no browsers, one for each.

use super::end::bury;
use super::users::{self, User};
use super::{DbError, Tx};
use crate::secret::{self, digest_of};
use rusqlite::{Connection, OptionalExtension};

pub const APP_PASSWORDS_MAX: u32 = 50;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPassword {
    pub digest: String,
    pub name: String,
    pub created_at_ms: u64,
    pub used_at_ms: Option<u64>,
}

pub fn who(db: &Connection, login: &str, digest: &str) -> rusqlite::Result<Option<(User, Option<u64>)>> {
    let mut q = db.prepare_cached(&format!(
        "SELECT {}, a.used_at_ms FROM app_password a JOIN user u ON u.subject = a.subject
         WHERE a.digest = ?1 AND u.login = ?2 AND NOT u.disabled",
        users::COLUMNS
    ))?;
    q.query_row((digest, login), |row| Ok((users::of_row(row)?, row.get(9)?))).optional()
}

pub fn of_user(db: &Connection, subject: &str) -> rusqlite::Result<Vec<AppPassword>> {
    let mut q = db.prepare_cached(
        "SELECT digest, name, created_at_ms, used_at_ms FROM app_password WHERE subject = ?1 ORDER BY created_at_ms DESC, digest",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(AppPassword { digest: row.get(0)?, name: row.get(1)?, created_at_ms: row.get(2)?, used_at_ms: row.get(3)? })
    };
    q.query_map([subject], read)?.collect()
}

/// The secret, told once. None: the user has as many as it may have.
pub fn make(tx: &Tx<'_>, subject: &str, name: &str) -> Result<Option<String>, DbError> {
    if users::count_of(tx.realm, "app_password", subject)? >= APP_PASSWORDS_MAX {
        return Ok(None);
    }
    let secret = secret::fresh();
    tx.realm.execute(
        "INSERT INTO app_password (digest, subject, name, created_at_ms, changed_at_ms, changed_epoch) VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
        (digest_of(secret.as_bytes()), subject, name, tx.at_ms, tx.epoch),
    )?;
    Ok(Some(secret))
}

pub fn revoke(tx: &mut Tx<'_>, subject: &str, digest: &str) -> rusqlite::Result<()> {
    if tx.realm.execute("DELETE FROM app_password WHERE digest = ?1 AND subject = ?2", (digest, subject))? > 0 {
        bury(tx, "app_password", digest, subject)?;
        tx.ended([digest.to_owned()]);
    }
    Ok(())
}

pub fn used(tx: &Tx<'_>, digest: &str) -> Result<(), DbError> {
    tx.realm.execute(
        "UPDATE app_password SET used_at_ms = ?2, changed_at_ms = ?2, changed_epoch = ?3 WHERE digest = ?1",
        (digest, tx.at_ms, tx.epoch),
    )?;
    Ok(())
}
