//! Where hashes of passwords are kept: in the realm, or, where they are withheld, at this cloud only.
//!
//! Always holds: a hash counts only if it has the number that its user's row names, so a password that was changed elsewhere is good
//! nowhere. A hash that is withheld is on disk before the row that names it, and is erased after the row that no longer does: whenever
//! the process dies, the user has the old password or the new one.

use super::users::{self, User};
use super::{DbError, Tx, View};
use pumasi_realm::Login;
use pumasi_terms::identity::Hashes;
use rusqlite::{Connection, OptionalExtension};

const INSERT: &str = "INSERT OR REPLACE INTO password (subject, no, phc) VALUES (?1, ?2, ?3)";

/// The user, and its hash, if this cloud has it.
pub fn find(view: &View, login: &Login) -> rusqlite::Result<Option<(User, Option<String>)>> {
    let Some(user) = users::by_login(&view.realm, login)? else { return Ok(None) };
    let phc = hash_of(view, &user)?;
    Ok(Some((user, phc)))
}

pub fn hash_of(view: &View, user: &User) -> rusqlite::Result<Option<String>> {
    let of = |db: &Connection| {
        db.prepare_cached("SELECT phc FROM password WHERE subject = ?1 AND no = ?2")?
            .query_row((&user.subject, user.password_no), |r| r.get(0))
            .optional()
    };
    match of(&view.realm)? {
        Some(phc) => Ok(Some(phc)),
        None => view.own.as_ref().map_or(Ok(None), of),
    }
}

/// Keeps a hash under a number that is not in force yet. False: there is no place for it at this cloud.
pub fn keep(tx: &Tx<'_>, hashes: Hashes, subject: &str, no: u64, phc: &str) -> rusqlite::Result<bool> {
    let place = match hashes {
        Hashes::Hot => Some(tx.realm),
        Hashes::Withheld => tx.own,
    };
    match place {
        Some(db) => db.execute(INSERT, (subject, no, phc)).map(|_| true),
        None => Ok(false),
    }
}

/// Sets, or removes, the password of somebody. False: there is no place for it at this cloud.
pub fn set(tx: &mut Tx<'_>, hashes: Hashes, subject: &str, phc: Option<&str>) -> rusqlite::Result<bool> {
    let Some(user) = users::by_subject(tx.realm, subject)? else { return Ok(false) };
    let no = match phc {
        Some(phc) => {
            // Never a number that was given out before, also where a password was removed in between.
            let no = user.password_no.max(tx.at_ms) + 1;
            if !keep(tx, hashes, subject, no, phc)? {
                return Ok(false);
            }
            no
        }
        None => 0,
    };
    tx.realm.execute(
        "UPDATE user SET password_no = ?2, ver = ver + 1, changed_at_ms = ?3, changed_epoch = ?4 WHERE subject = ?1",
        (subject, no, tx.at_ms, tx.epoch),
    )?;
    tx.realm.execute("DELETE FROM password WHERE subject = ?1 AND no <> ?2", (subject, no))?;
    tx.forget.push((subject.to_owned(), no));
    Ok(true)
}

/// At the start: hashes go to where they are to be, and those that no user's row names are erased.
pub fn settle(tx: &mut Tx<'_>, hashes: Hashes) -> Result<(), DbError> {
    let Some(own) = tx.own else { return Ok(()) };
    match hashes {
        Hashes::Withheld => {
            copy(tx.realm, own)?;
            tx.realm.execute("DELETE FROM password", [])?;
        }
        Hashes::Hot => {
            copy(own, tx.realm)?;
            let mut all = own.prepare("SELECT DISTINCT subject FROM password")?;
            let subjects: Vec<String> = all.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
            tx.forget.extend(subjects.into_iter().map(|s| (s, 0)));
        }
    }
    let named = "SELECT 1 FROM user u WHERE u.subject = ?1 AND u.password_no = ?2";
    for db in [tx.realm, own] {
        for (subject, no, _) in rows(db)? {
            if tx.realm.prepare_cached(named)?.query_row((&subject, no), |_| Ok(())).optional()?.is_none() {
                db.execute("DELETE FROM password WHERE subject = ?1 AND no = ?2", (subject, no))?;
            }
        }
    }
    Ok(())
}

fn copy(from: &Connection, to: &Connection) -> rusqlite::Result<()> {
    for row in rows(from)? {
        to.execute(INSERT, row)?;
    }
    Ok(())
}

fn rows(db: &Connection) -> rusqlite::Result<Vec<(String, u64, String)>> {
    let mut all = db.prepare("SELECT subject, no, phc FROM password")?;
    all.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect()
}

/// Whether somebody has a password whose hash is not here.
pub fn some_elsewhere(view: &View) -> rusqlite::Result<bool> {
    let mut users = view.realm.prepare(
        "SELECT u.subject, u.password_no FROM user u WHERE u.password_no > 0
         AND NOT EXISTS (SELECT 1 FROM password p WHERE p.subject = u.subject AND p.no = u.password_no)",
    )?;
    let mut rows = users.query([])?;
    while let Some(row) = rows.next()? {
        let key: (String, u64) = (row.get(0)?, row.get(1)?);
        let here = match &view.own {
            None => false,
            Some(own) => own
                .prepare_cached("SELECT 1 FROM password WHERE subject = ?1 AND no = ?2")?
                .query_row(key, |_| Ok(()))
                .optional()?
                .is_some(),
        };
        if !here {
            return Ok(true);
        }
    }
    Ok(false)
}
