//! Users: who they are, and that no two are one.

use super::{DbError, Tx, groups_of, groups_text};
use pumasi_realm::Login;
use rusqlite::{Connection, OptionalExtension, Row};

pub const USERS_MAX: u64 = 2_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub subject: String,
    pub login: Login,
    pub name: String,
    pub email: String,
    pub groups: Vec<String>,
    pub disabled: bool,
    /// Which of its passwords counts; 0: it has none.
    pub password_no: u64,
    pub created_at_ms: u64,
    pub signed_in_at_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    pub subject: String,
    pub login: Login,
    pub name: String,
    pub email: String,
    pub groups: Vec<String>,
    pub password_no: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("the login is taken")]
    Taken,
    #[error("the realm has {USERS_MAX} users, and takes no more")]
    Full,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<rusqlite::Error> for MakeError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Db(e.into())
    }
}

/// In the order in which [`of_row`] reads.
pub const COLUMNS: &str =
    "u.subject, u.login, u.name, u.email, u.groups, u.disabled, u.password_no, u.created_at_ms, u.signed_in_at_ms";

pub fn of_row(row: &Row<'_>) -> rusqlite::Result<User> {
    let login: String = row.get(1)?;
    let login = Login::parse(&login)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(e)))?;
    Ok(User {
        subject: row.get(0)?,
        login,
        name: row.get(2)?,
        email: row.get(3)?,
        groups: groups_of(&row.get::<_, String>(4)?),
        disabled: row.get(5)?,
        password_no: row.get(6)?,
        created_at_ms: row.get(7)?,
        signed_in_at_ms: row.get(8)?,
    })
}

pub fn by_login(db: &Connection, login: &Login) -> rusqlite::Result<Option<User>> {
    let mut q = db.prepare_cached(&format!("SELECT {COLUMNS} FROM user u WHERE u.login = ?1"))?;
    q.query_row([login.as_str()], of_row).optional()
}

pub fn by_subject(db: &Connection, subject: &str) -> rusqlite::Result<Option<User>> {
    let mut q = db.prepare_cached(&format!("SELECT {COLUMNS} FROM user u WHERE u.subject = ?1"))?;
    q.query_row([subject], of_row).optional()
}

/// By login, after the given one.
pub fn page(db: &Connection, after: &str, limit: u32) -> rusqlite::Result<Vec<User>> {
    let mut q =
        db.prepare_cached(&format!("SELECT {COLUMNS} FROM user u WHERE u.login > ?1 ORDER BY u.login LIMIT ?2"))?;
    q.query_map((after, limit), of_row)?.collect()
}

pub fn count(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT users FROM counted")?.query_row([], |r| r.get(0))
}

pub fn make(tx: &Tx<'_>, user: &NewUser) -> Result<(), MakeError> {
    if count(tx.realm)? >= USERS_MAX {
        return Err(MakeError::Full);
    }
    if by_login(tx.realm, &user.login)?.is_some() {
        return Err(MakeError::Taken);
    }
    tx.realm.execute(
        "INSERT INTO user (subject, login, name, email, groups, disabled, password_no, created_at_ms, ver, changed_at_ms, changed_epoch)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, 1, ?7, ?8)",
        (
            &user.subject,
            user.login.as_str(),
            &user.name,
            &user.email,
            groups_text(&user.groups),
            user.password_no,
            tx.at_ms,
            tx.epoch,
        ),
    )?;
    Ok(())
}

/// What applications are told of a user changes, so its sessions and app passwords are asked for anew.
pub fn describe(tx: &mut Tx<'_>, subject: &str, name: &str, email: &str) -> rusqlite::Result<()> {
    tx.realm.execute(
        "UPDATE user SET name = ?2, email = ?3, ver = ver + 1, changed_at_ms = ?4, changed_epoch = ?5 WHERE subject = ?1",
        (subject, name, email, tx.at_ms, tx.epoch),
    )?;
    changed(tx, subject)
}

pub fn regroup(tx: &mut Tx<'_>, subject: &str, groups: &[String]) -> rusqlite::Result<()> {
    tx.realm.execute(
        "UPDATE user SET groups = ?2, ver = ver + 1, changed_at_ms = ?3, changed_epoch = ?4 WHERE subject = ?1",
        (subject, groups_text(groups), tx.at_ms, tx.epoch),
    )?;
    changed(tx, subject)
}

pub fn set_disabled(tx: &mut Tx<'_>, subject: &str, disabled: bool) -> rusqlite::Result<()> {
    tx.realm.execute(
        "UPDATE user SET disabled = ?2, ver = ver + 1, changed_at_ms = ?3, changed_epoch = ?4 WHERE subject = ?1",
        (subject, disabled, tx.at_ms, tx.epoch),
    )?;
    Ok(())
}

fn changed(tx: &mut Tx<'_>, subject: &str) -> rusqlite::Result<()> {
    let digests = super::end::digests(tx.realm, subject)?;
    tx.ended(digests);
    Ok(())
}

/// How many of `table`'s rows are this user's.
pub fn count_of(db: &Connection, table: &'static str, subject: &str) -> rusqlite::Result<u32> {
    db.prepare_cached(&format!("SELECT count(*) FROM {table} WHERE subject = ?1"))?.query_row([subject], |r| r.get(0))
}
