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
    find_hash(view, &user.subject, user.password_no)
}

fn find_hash(view: &View, subject: &str, no: u64) -> rusqlite::Result<Option<String>> {
    let of = |db: &Connection| {
        db.prepare_cached("SELECT phc FROM password WHERE subject = ?1 AND no = ?2")?
            .query_row((subject, no), |r| r.get(0))
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

/// At the start: hashes go to where they are to be.
pub fn settle(tx: &mut Tx<'_>, hashes: Hashes) -> Result<(), DbError> {
    let Some(own) = tx.own else { return Ok(()) };
    match hashes {
        Hashes::Withheld if any(tx.realm)? => {
            // On disk here before they are gone there.
            own.execute_batch("BEGIN IMMEDIATE")?;
            copy(tx.realm, own)?;
            own.execute_batch("COMMIT")?;
            tx.realm.execute("DELETE FROM password", [])?;
        }
        Hashes::Hot if any(own)? => {
            copy(own, tx.realm)?;
            tx.realm.execute(
                "DELETE FROM password WHERE NOT EXISTS
                 (SELECT 1 FROM user u WHERE u.subject = password.subject AND u.password_no = password.no)",
                [],
            )?;
            // They count there before they are erased here: the next start finds them in the realm, and these again.
            tx.forget_all();
        }
        _ => {}
    }
    Ok(())
}

fn any(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT EXISTS (SELECT 1 FROM password)", [], |r| r.get(0))
}

fn copy(from: &Connection, to: &Connection) -> rusqlite::Result<()> {
    let mut all = from.prepare("SELECT subject, no, phc FROM password")?;
    let mut rows = all.query([])?;
    let mut insert = to.prepare(INSERT)?;
    while let Some(row) = rows.next()? {
        insert.execute((row.get::<_, String>(0)?, row.get::<_, u64>(1)?, row.get::<_, String>(2)?))?;
    }
    Ok(())
}

/// Erases hashes at this cloud that no user's row names, of so many after the given subject; where to go on.
pub fn tidy(tx: &Tx<'_>, after: &str, at_a_time: u32) -> Result<Option<String>, DbError> {
    let Some(own) = tx.own else { return Ok(None) };
    let mut some =
        own.prepare_cached("SELECT subject, no FROM password WHERE subject > ?1 ORDER BY subject LIMIT ?2")?;
    let rows: Vec<(String, u64)> =
        some.query_map((after, at_a_time), |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    for (subject, no) in &rows {
        if users::by_subject(tx.realm, subject)?.is_none_or(|u| u.password_no != *no) {
            own.execute("DELETE FROM password WHERE subject = ?1 AND no = ?2", (subject, no))?;
        }
    }
    Ok(rows.into_iter().last().map(|(subject, _)| subject))
}

/// Whether one of so many users after the given subject has a password whose hash is not here; where to go on.
pub fn elsewhere(view: &View, after: &str, at_a_time: u32) -> rusqlite::Result<(bool, Option<String>)> {
    let mut some = view
        .realm
        .prepare_cached("SELECT subject, password_no FROM user WHERE subject > ?1 ORDER BY subject LIMIT ?2")?;
    let rows: Vec<(String, u64)> =
        some.query_map((after, at_a_time), |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    for (subject, no) in rows.iter().filter(|(_, no)| *no > 0) {
        if find_hash(view, subject, *no)?.is_none() {
            return Ok((true, None));
        }
    }
    Ok((false, rows.into_iter().last().map(|(subject, _)| subject)))
}
