//! Everything by which a user is let in ends here, whoever asks for it: one function, one transaction.

use super::{Tx, users};
use crate::secret::digest_of;
use rusqlite::Connection;

/// What is remembered to have been taken away from one user.
const BURIED_MAX: u32 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It may sign in again.
    SignOut,
    /// It may not, until it is enabled again.
    Disable,
    /// It never comes back.
    Delete,
}

/// Sessions, app passwords, and invitations to come back in; of a deleted user also passkeys, passwords and what is known of it.
pub fn end_user(tx: &mut Tx<'_>, subject: &str, end: End) -> rusqlite::Result<()> {
    let Some(user) = users::by_subject(tx.realm, subject)? else { return Ok(()) };
    let digests = digests(tx.realm, subject)?;
    for app in super::app_passwords::of_user(tx.realm, subject)? {
        bury(tx, "app_password", &app.digest, subject)?;
    }
    for table in ["session", "app_password", "invitation"] {
        tx.realm.execute(&format!("DELETE FROM {table} WHERE subject = ?1"), [subject])?;
    }
    match end {
        End::SignOut => {}
        End::Disable => users::set_disabled(tx, subject, true)?,
        End::Delete => {
            tx.realm.execute("DELETE FROM passkey WHERE subject = ?1", [subject])?;
            tx.realm.execute("DELETE FROM password WHERE subject = ?1", [subject])?;
            tx.realm.execute("DELETE FROM user WHERE subject = ?1", [subject])?;
            // It stands for all that was this user's.
            tx.realm.execute("DELETE FROM tombstone WHERE subject = ?1", [subject])?;
            tx.realm.execute(
                "INSERT INTO tombstone (id, kind, subject, login_digest, at_ms, epoch) VALUES (?1, 'user', ?1, ?2, ?3, ?4)",
                (subject, digest_of(user.login.as_str().as_bytes()), tx.at_ms, tx.epoch),
            )?;
            tx.forget.push((subject.to_owned(), 0));
        }
    }
    tx.ended(digests);
    Ok(())
}

/// Remembers that a passkey or an app password was taken away, so that no copy of the realm brings it back.
pub fn bury(tx: &Tx<'_>, kind: &'static str, id: &str, subject: &str) -> rusqlite::Result<()> {
    tx.realm.execute(
        "INSERT OR REPLACE INTO tombstone (id, kind, subject, at_ms, epoch) VALUES (?1, ?2, ?3, ?4, ?5)",
        (id, kind, subject, tx.at_ms, tx.epoch),
    )?;
    tx.realm.execute(
        "DELETE FROM tombstone WHERE id IN (SELECT id FROM tombstone WHERE subject = ?1 ORDER BY at_ms DESC LIMIT -1 OFFSET ?2)",
        (subject, BURIED_MAX),
    )?;
    Ok(())
}

pub fn is_buried(db: &Connection, id: &str) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM tombstone WHERE id = ?1)")?.query_row([id], |r| r.get(0))
}

/// What gateways know this user by.
pub fn digests(db: &Connection, subject: &str) -> rusqlite::Result<Vec<String>> {
    let mut q = db.prepare_cached(
        "SELECT digest FROM session WHERE subject = ?1 UNION ALL SELECT digest FROM app_password WHERE subject = ?1",
    )?;
    q.query_map([subject], |r| r.get(0))?.collect()
}
