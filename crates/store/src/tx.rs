//! What a transaction's closure may do.

use crate::Kind;
use crate::error::{StoreError, during};
use crate::numbers::{self, from_sql, to_sql};
use crate::sim::{Fate, Hooks};
use crate::standing::{Head, RestoredWhy, Standing};
use crate::watch::{Change, Op};
use pumasi_terms::{Revision, WallMs};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The most that one object's JSON may have.
pub const BODY_BYTES_MAX: usize = 1 << 20;
const KIND_BYTES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 512;

/// What must be there for a write to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    Any,
    Absent,
    Revision(Revision),
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Absent => f.write_str("none"),
            Self::Revision(r) => write!(f, "revision {r}"),
        }
    }
}

/// An object as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored<T> {
    pub name: String,
    pub revision: Revision,
    pub created_at: WallMs,
    pub updated_at: WallMs,
    pub body: T,
}

/// An object that this program cannot read: another version wrote it, or it was damaged. It is set aside by name and stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    pub kind: String,
    pub name: String,
    pub updated_at: WallMs,
    pub why: String,
}

impl From<Unreadable> for StoreError {
    fn from(u: Unreadable) -> Self {
        Self::Decode { what: format!("{}/{}", u.kind, u.name), detail: u.why }
    }
}

/// The objects of a kind, in order of name, and those of its names that cannot be read: these are there, whatever they say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed<T> {
    pub items: Vec<Stored<T>>,
    pub unreadable: Vec<Unreadable>,
}

impl<T> Deref for Listed<T> {
    type Target = [Stored<T>];
    fn deref(&self) -> &[Stored<T>] {
        &self.items
    }
}

impl<T> IntoIterator for Listed<T> {
    type Item = Stored<T>;
    type IntoIter = std::vec::IntoIter<Stored<T>>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

/// What the closures of one batch have done so far, beside the database.
#[derive(Debug)]
pub(crate) struct Work {
    pub head: Head,
    pub changes: Vec<Arc<Change>>,
    /// Digests of journal rows that wait for the batch's link.
    pub row_digests: Vec<[u8; 32]>,
    pub outbox_grew: bool,
    /// Something was erased and must leave the write-ahead log too.
    pub erased: bool,
    pub bytes: usize,
    /// SQLite failed in the middle of a write of the running closure, which may not commit whatever it answers.
    pub failed: Option<StoreError>,
}

impl Work {
    pub fn new(head: Head) -> Self {
        Self {
            head,
            changes: Vec::new(),
            row_digests: Vec::new(),
            outbox_grew: false,
            erased: false,
            bytes: 0,
            failed: None,
        }
    }
}

/// One transaction. It sees its own writes; others see them after the commit.
#[derive(Debug)]
pub struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) work: &'a mut Work,
    pub(crate) salt_key: &'a [u8; 32],
    pub(crate) attempts_max: u32,
    pub(crate) hooks: &'a Hooks,
    pub(crate) now: WallMs,
}

impl Tx<'_> {
    /// The wall clock that this transaction stamps its writes with.
    pub fn now(&self) -> WallMs {
        self.now
    }

    /// Whether the store may act on others.
    pub fn standing(&self) -> Standing {
        self.work.head.standing()
    }

    pub(crate) fn peer_saw(&mut self, incarnation: u64, revision: Revision) {
        if self.work.head.is_behind(incarnation, revision) {
            self.work.head.mark_restored(RestoredWhy::PeerAhead { incarnation, revision });
        }
    }

    pub fn get<T: DeserializeOwned>(&self, kind: Kind, name: &str) -> Result<Option<Stored<T>>, StoreError> {
        self.hooks.read(kind, Some(name))?;
        get(self.conn, kind, name)
    }

    /// In order of name.
    pub fn list<T: DeserializeOwned>(&self, kind: Kind) -> Result<Listed<T>, StoreError> {
        self.hooks.read(kind, None)?;
        list(self.conn, kind, None, usize::MAX)
    }

    pub fn put<T: Serialize + ?Sized>(
        &mut self,
        kind: Kind,
        name: &str,
        body: &T,
        expect: Expect,
    ) -> Result<Revision, StoreError> {
        check_key(kind, name)?;
        let mut text = serde_json::to_string(body)
            .map_err(|e| StoreError::Encode { what: format!("{kind}/{name}"), detail: e.to_string() })?;
        if text.len() > BODY_BYTES_MAX {
            let what = format!("{kind}/{name}");
            return Err(StoreError::TooLarge { what, bytes: text.len(), max_bytes: BODY_BYTES_MAX });
        }
        self.expect(kind, name, expect)?;
        match self.hooks.alter(kind, name, &mut text)? {
            Fate::Keep => {}
            Fate::Drop => return self.next_revision(),
            Fate::Fail => return self.whole(Err(failed_by_hook(kind))),
        }
        let written = self.write(kind, name, text);
        self.whole(written)
    }

    fn write(&mut self, kind: Kind, name: &str, text: String) -> Result<Revision, StoreError> {
        let revision = self.next_revision()?;
        self.conn
            .prepare_cached(
                "INSERT INTO objects (kind, name, revision, created_at, updated_at, body)
                 VALUES (?1, ?2, ?3, ?4, ?4, ?5)
                 ON CONFLICT (kind, name) DO UPDATE
                 SET revision = excluded.revision, updated_at = excluded.updated_at, body = excluded.body",
            )
            .and_then(|mut s| s.execute(params![kind, name, to_sql(revision.0)?, self.now.0, text]))
            .map_err(during("writing an object"))?;
        self.log(revision, kind, name, Some(text))?;
        Ok(revision)
    }

    /// The revision of the deletion; `None` where there was nothing and nothing was expected.
    pub fn delete(&mut self, kind: Kind, name: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        check_key(kind, name)?;
        if self.expect(kind, name, expect)?.is_none() {
            return Ok(None);
        }
        match self.hooks.spare(kind, name) {
            Fate::Keep => {}
            Fate::Drop => return self.next_revision().map(Some),
            Fate::Fail => return self.whole(Err(failed_by_hook(kind))),
        }
        let removed = self.remove(kind, name);
        self.whole(removed).map(Some)
    }

    fn remove(&mut self, kind: Kind, name: &str) -> Result<Revision, StoreError> {
        let revision = self.next_revision()?;
        self.conn
            .prepare_cached("DELETE FROM objects WHERE kind = ?1 AND name = ?2")
            .and_then(|mut s| s.execute(params![kind, name]))
            .map_err(during("deleting an object"))?;
        self.log(revision, kind, name, None)?;
        Ok(revision)
    }

    /// A write that SQLite broke off may have left a half: then the closure cannot commit, even if it hides the error.
    pub(crate) fn whole<T>(&mut self, written: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ StoreError::Database { .. }) = &written {
            self.work.failed = Some(error.clone());
        }
        written
    }

    fn expect(&self, kind: Kind, name: &str, expected: Expect) -> Result<Option<Revision>, StoreError> {
        let actual = self
            .conn
            .prepare_cached("SELECT revision FROM objects WHERE kind = ?1 AND name = ?2")
            .and_then(|mut s| s.query_row(params![kind, name], |r| r.get::<_, i64>(0)).optional())
            .map_err(during("reading an object's revision"))?
            .map(|r| Revision(from_sql(r)));
        let fits = match expected {
            Expect::Any => true,
            Expect::Absent => actual.is_none(),
            Expect::Revision(r) => actual == Some(r),
        };
        if fits {
            return Ok(actual);
        }
        Err(StoreError::Conflict { kind: kind.into(), name: name.into(), expected, actual })
    }

    pub(crate) fn next_revision(&mut self) -> Result<Revision, StoreError> {
        self.work.head.revision = numbers::next("revision", self.work.head.revision)?;
        Ok(Revision(self.work.head.revision))
    }

    fn log(&mut self, revision: Revision, kind: Kind, name: &str, text: Option<String>) -> Result<(), StoreError> {
        self.conn
            .prepare_cached("INSERT INTO changes (revision, kind, name, body) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut s| s.execute(params![to_sql(revision.0)?, kind, name, text]))
            .map_err(during("writing the change log"))?;
        self.work.bytes += text.as_ref().map_or(0, String::len);
        let op = if text.is_some() { Op::Put } else { Op::Delete };
        let body = match text {
            Some(text) => Some(
                RawValue::from_string(text)
                    .map_err(|e| StoreError::Encode { what: format!("{kind}/{name}"), detail: e.to_string() })?,
            ),
            None => None,
        };
        self.work.changes.push(Arc::new(Change { revision, kind: kind.into(), name: name.into(), op, body }));
        Ok(())
    }
}

fn failed_by_hook(kind: &str) -> StoreError {
    let detail = format!("database or disk is full (writing {kind}; made up by a simulator)");
    StoreError::Database { doing: "writing an object", detail, retryable: true }
}

fn check_key(kind: &str, name: &str) -> Result<(), StoreError> {
    let check = |what, value: &str, max| {
        let problem = if value.is_empty() {
            "may not be empty"
        } else if value.len() > max {
            "is too long"
        } else if value.contains(char::is_control) {
            "may hold no control characters"
        } else {
            return Ok(());
        };
        Err(StoreError::BadKey { what, value: value.chars().take(80).collect(), problem })
    };
    check("object kind", kind, KIND_BYTES_MAX)?;
    check("object name", name, NAME_BYTES_MAX)
}

fn stored<T: DeserializeOwned>(kind: &str, row: &Row<'_>) -> rusqlite::Result<Result<Stored<T>, Unreadable>> {
    let name: String = row.get(0)?;
    let decoded = row.get_ref(4)?.as_str().map_err(|e| e.to_string());
    let body = match decoded.and_then(|text| serde_json::from_str(text).map_err(|e| e.to_string())) {
        Ok(body) => body,
        Err(why) => return Ok(Err(Unreadable { kind: kind.into(), name, updated_at: WallMs(row.get(3)?), why })),
    };
    Ok(Ok(Stored {
        name,
        revision: Revision(from_sql(row.get(1)?)),
        created_at: WallMs(row.get(2)?),
        updated_at: WallMs(row.get(3)?),
        body,
    }))
}

pub(crate) fn get<T: DeserializeOwned>(
    conn: &Connection,
    kind: &str,
    name: &str,
) -> Result<Option<Stored<T>>, StoreError> {
    conn.prepare_cached(
        "SELECT name, revision, created_at, updated_at, body FROM objects WHERE kind = ?1 AND name = ?2",
    )
    .and_then(|mut s| s.query_row([kind, name], |row| stored(kind, row)).optional())
    .map_err(during("reading an object"))?
    .transpose()
    .map_err(StoreError::from)
}

/// Whether there is such an object, readable or not.
pub(crate) fn exists(conn: &Connection, kind: &str, name: &str) -> Result<bool, StoreError> {
    conn.prepare_cached("SELECT 1 FROM objects WHERE kind = ?1 AND name = ?2")
        .and_then(|mut s| s.exists([kind, name]))
        .map_err(during("looking for an object"))
}

pub(crate) fn list<T: DeserializeOwned>(
    conn: &Connection,
    kind: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Listed<T>, StoreError> {
    let doing = during("listing objects");
    let mut statement = conn
        .prepare_cached(
            "SELECT name, revision, created_at, updated_at, body FROM objects
             WHERE kind = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
        )
        .map_err(&doing)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    // No name is empty, so that the empty one comes before all.
    let rows =
        statement.query_map(params![kind, after.unwrap_or(""), limit], |row| stored(kind, row)).map_err(&doing)?;
    let mut listed = Listed { items: Vec::new(), unreadable: Vec::new() };
    for row in rows {
        match row.map_err(&doing)? {
            Ok(object) => listed.items.push(object),
            Err(unreadable) => listed.unreadable.push(unreadable),
        }
    }
    Ok(listed)
}
