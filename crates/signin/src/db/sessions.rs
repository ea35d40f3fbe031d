//! Sessions: begun with a new secret each, ended by the user, by time, or by the ones that came after.

use super::users::{self, User};
use super::{DbError, Tx};
use crate::clock::{DAY_MS, HOUR_MS, MINUTE_MS};
use crate::secret::{self, digest_of};
use rusqlite::{Connection, OptionalExtension, Row};

pub const SESSIONS_MAX: u32 = 100;
pub const IDLE_MS: u64 = 12 * HOUR_MS;
pub const LIFE_MS: u64 = 30 * DAY_MS;
/// How long somebody counts as having just proved who it is.
pub const RECENT_MS: u64 = 15 * MINUTE_MS;
/// That somebody was seen is written at most so often.
pub const SEEN_EACH_MS: u64 = 5 * MINUTE_MS;
pub const LABEL_BYTES_MAX: usize = 160;
const SWEPT_AT_A_TIME: u32 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub digest: String,
    pub label: String,
    pub created_at_ms: u64,
    pub seen_at_ms: u64,
    pub idle_until_ms: u64,
    pub ends_at_ms: u64,
}

impl Session {
    pub fn ends_ms(&self) -> u64 {
        self.idle_until_ms.min(self.ends_at_ms)
    }
    pub fn is_recent(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.created_at_ms) <= RECENT_MS
    }
}

const COLUMNS: &str = "s.digest, s.label, s.created_at_ms, s.seen_at_ms, s.idle_until_ms, s.ends_at_ms";

fn of_row(row: &Row<'_>, from: usize) -> rusqlite::Result<Session> {
    Ok(Session {
        digest: row.get(from)?,
        label: row.get(from + 1)?,
        created_at_ms: row.get(from + 2)?,
        seen_at_ms: row.get(from + 3)?,
        idle_until_ms: row.get(from + 4)?,
        ends_at_ms: row.get(from + 5)?,
    })
}

/// Whose it is, if it counts now.
pub fn who(db: &Connection, digest: &str, now_ms: u64) -> rusqlite::Result<Option<(User, Session)>> {
    let mut q = db.prepare_cached(&format!(
        "SELECT {}, {COLUMNS} FROM session s JOIN user u ON u.subject = s.subject
         WHERE s.digest = ?1 AND s.idle_until_ms > ?2 AND s.ends_at_ms > ?2 AND NOT u.disabled",
        users::COLUMNS
    ))?;
    q.query_row((digest, now_ms), |row| Ok((users::of_row(row)?, of_row(row, 9)?))).optional()
}

/// The newest first.
pub fn of_user(db: &Connection, subject: &str, now_ms: u64) -> rusqlite::Result<Vec<Session>> {
    let mut q = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM session s WHERE s.subject = ?1 AND s.idle_until_ms > ?2 AND s.ends_at_ms > ?2
         ORDER BY s.created_at_ms DESC, s.digest"
    ))?;
    q.query_map((subject, now_ms), |row| of_row(row, 0))?.collect()
}

pub fn count(db: &Connection, now_ms: u64) -> rusqlite::Result<u64> {
    db.query_row("SELECT count(*) FROM session WHERE idle_until_ms > ?1 AND ends_at_ms > ?1", [now_ms], |r| r.get(0))
}

/// The secret of a new session, in place of the one that the browser had.
pub fn begin(tx: &mut Tx<'_>, subject: &str, label: &str, instead_of: Option<&str>) -> rusqlite::Result<String> {
    if let Some(old) = instead_of {
        end_any(tx, old)?;
    }
    let too_many: Vec<String> = tx
        .realm
        .prepare_cached("SELECT digest FROM session WHERE subject = ?1 ORDER BY created_at_ms DESC LIMIT -1 OFFSET ?2")?
        .query_map((subject, SESSIONS_MAX - 1), |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for digest in too_many {
        end_any(tx, &digest)?;
    }
    let secret = secret::fresh();
    tx.realm.execute(
        "INSERT INTO session (digest, subject, label, created_at_ms, seen_at_ms, idle_until_ms, ends_at_ms, changed_at_ms, changed_epoch)
         VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?4, ?7)",
        (digest_of(secret.as_bytes()), subject, label, tx.at_ms, tx.at_ms + IDLE_MS, tx.at_ms + LIFE_MS, tx.epoch),
    )?;
    let seen = "UPDATE user SET signed_in_at_ms = ?2, changed_at_ms = ?2, changed_epoch = ?3 WHERE subject = ?1";
    tx.realm.execute(seen, (subject, tx.at_ms, tx.epoch))?;
    Ok(secret)
}

/// Whoever's it is.
pub fn end_any(tx: &mut Tx<'_>, digest: &str) -> rusqlite::Result<()> {
    if tx.realm.execute("DELETE FROM session WHERE digest = ?1", [digest])? > 0 {
        tx.ended([digest.to_owned()]);
    }
    Ok(())
}

pub fn end(tx: &mut Tx<'_>, subject: &str, digest: &str) -> rusqlite::Result<()> {
    if tx.realm.execute("DELETE FROM session WHERE digest = ?1 AND subject = ?2", (digest, subject))? > 0 {
        tx.ended([digest.to_owned()]);
    }
    Ok(())
}

pub fn end_others(tx: &mut Tx<'_>, subject: &str, but: &str) -> rusqlite::Result<()> {
    let ended: Vec<String> = tx
        .realm
        .prepare_cached("DELETE FROM session WHERE subject = ?1 AND digest <> ?2 RETURNING digest")?
        .query_map((subject, but), |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    tx.ended(ended);
    Ok(())
}

pub fn seen(tx: &Tx<'_>, digest: &str) -> Result<(), DbError> {
    tx.realm.execute(
        "UPDATE session SET seen_at_ms = ?2, idle_until_ms = ?3, changed_at_ms = ?2, changed_epoch = ?4
         WHERE digest = ?1 AND idle_until_ms > ?2 AND seen_at_ms < ?2",
        (digest, tx.at_ms, tx.at_ms + IDLE_MS, tx.epoch),
    )?;
    Ok(())
}

/// Erases some of what time has ended; what was used until its last day goes half a day later. True: there may be more.
pub fn sweep(tx: &Tx<'_>) -> Result<bool, DbError> {
    let swept = tx.realm.execute(
        "DELETE FROM session WHERE digest IN (SELECT digest FROM session WHERE idle_until_ms <= ?1 LIMIT ?2)",
        (tx.at_ms, SWEPT_AT_A_TIME),
    )?;
    Ok(swept == SWEPT_AT_A_TIME as usize)
}
