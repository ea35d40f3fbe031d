//! Invitations: each lets one person in, once, until a stated time.

use super::{DbError, Tx, groups_of, groups_text};
use crate::secret::{self, digest_of};
use pumasi_realm::Login;
use rusqlite::{Connection, OptionalExtension};

pub const INVITATIONS_MAX: u64 = 10_000;

/// What an invitation is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum For {
    /// Whoever has it becomes a user, under this login if one is named.
    New { login: Option<Login>, groups: Vec<String> },
    /// This user gets back in.
    Back { subject: String, login: Login },
}

/// The secret; None: too many are open.
pub fn make(tx: &Tx<'_>, what: &For, ends_at_ms: u64) -> Result<Option<String>, DbError> {
    let open: u64 = tx.realm.query_row("SELECT count(*) FROM invitation", [], |r| r.get(0))?;
    if open >= INVITATIONS_MAX {
        return Ok(None);
    }
    let secret = secret::fresh();
    let (subject, login, groups) = match what {
        For::New { login, groups } => (None, login.as_ref(), groups_text(groups)),
        For::Back { subject, .. } => (Some(subject), None, groups_text(&[])),
    };
    tx.realm.execute(
        "INSERT INTO invitation (digest, subject, login, groups, ends_at_ms, changed_at_ms, changed_epoch) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (digest_of(secret.as_bytes()), subject, login.map(Login::as_str), groups, ends_at_ms, tx.at_ms, tx.epoch),
    )?;
    Ok(Some(secret))
}

/// None: there is none like it, or it has ended.
pub fn find(db: &Connection, secret: &str, now_ms: u64) -> rusqlite::Result<Option<For>> {
    let found = db
        .prepare_cached(
            "SELECT i.subject, u.login, i.login, i.groups FROM invitation i LEFT JOIN user u ON u.subject = i.subject
             WHERE i.digest = ?1 AND i.ends_at_ms > ?2 AND NOT coalesce(u.disabled, 0)",
        )?
        .query_row((digest_of(secret.as_bytes()), now_ms), |r| {
            let texts: (Option<String>, Option<String>, Option<String>, String) =
                (r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?);
            Ok(texts)
        })
        .optional()?;
    Ok(found.and_then(|(subject, its, login, groups)| match (subject, its) {
        (Some(subject), Some(its)) => Some(For::Back { subject, login: Login::parse(&its).ok()? }),
        _ => Some(For::New { login: login.and_then(|l| Login::parse(&l).ok()), groups: groups_of(&groups) }),
    }))
}

/// Finds it and ends it: it is good once.
pub fn take(tx: &Tx<'_>, secret: &str) -> rusqlite::Result<Option<For>> {
    let found = find(tx.realm, secret, tx.at_ms)?;
    if found.is_some() {
        tx.realm.execute("DELETE FROM invitation WHERE digest = ?1", [digest_of(secret.as_bytes())])?;
    }
    Ok(found)
}

pub fn sweep(tx: &Tx<'_>) -> Result<(), DbError> {
    tx.realm.execute("DELETE FROM invitation WHERE ends_at_ms <= ?1", [tx.at_ms])?;
    Ok(())
}
