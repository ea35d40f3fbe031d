//! `notes`: users' notes in SQLite, used as anyone would use it. On a read-only copy it starts and answers reads.
//!
//! `POST /notes {user, text}` -> 201 `{id}`; `GET /notes/<user>` -> count and the newest; `GET /count`;
//! `GET /export?after=<id>` -> every note, a page at a time, for those who check the books.
//! `PUT /r/<key>` with a text -> 201 `{id}`; `GET /r/<key>` -> the newest text, or 404: a register is the newest note of its own user, so
//! that an export has every value that it ever had. Who must never read it from a copy puts `/r/` under `routing.home_only`.

use super::ExampleError;
use super::http::{Answer, App, Asked};
use super::tickets::instance;
use super::work::{chain, mac};
use crate::load::{Planned, Workload};
use bytes::Bytes;
use http::{Method, StatusCode};
use rand::Rng;
use rand::rngs::SmallRng;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NEWEST: usize = 20;
const PAGE: usize = 1000;
const USER_BYTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 4096;
const REGISTER: &str = "/r/";

pub struct Notes {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    read_work: u32,
    write_work: u32,
    instance: String,
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notes").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub id: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    pub text: String,
}

#[derive(Serialize, Deserialize)]
struct NewNote {
    user: String,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    id: i64,
}

#[derive(Serialize, Deserialize)]
struct Listed {
    user: String,
    count: u64,
    /// Newest first.
    notes: Vec<Note>,
    instance: String,
}

/// A page of `GET /export`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exported {
    pub notes: Vec<Note>,
    /// Ask again with `after` = the last id.
    pub more: bool,
}

fn read_only(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen))
}

impl Notes {
    pub fn open(dir: &Path, read_work: u32, write_work: u32) -> Result<Self, ExampleError> {
        let path = dir.join("notes.db");
        let fault = |source| ExampleError::Database { path: path.clone(), source };
        let connection = connect(&path).map_err(fault)?;
        let prepared = connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE IF NOT EXISTS notes
                 (id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, text TEXT NOT NULL, at_ms INTEGER NOT NULL);
             CREATE INDEX IF NOT EXISTS notes_by_user ON notes (user, id);",
        );
        match prepared {
            Err(error) if read_only(&error) => eprintln!("notes: the database is read-only: {error}"),
            other => other.map_err(fault)?,
        }
        Ok(Self { path, idle: Mutex::new(vec![connection]), read_work, write_work, instance: instance() })
    }

    fn with<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        let result = act(&connection);
        if result.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        result
    }

    fn route(&self, asked: &Asked) -> rusqlite::Result<Answer> {
        let path = asked.path();
        match (&asked.method, path) {
            (&Method::POST, "/notes") => self.store(&asked.body),
            (&Method::GET, "/count") => {
                let count: u64 = self.with(|c| c.query_row("SELECT count(*) FROM notes", [], |r| r.get(0)))?;
                Ok(Answer::json(StatusCode::OK, &serde_json::json!({ "count": count })))
            }
            (&Method::GET, "/export") => {
                let after: i64 = asked.query("after").and_then(|a| a.parse().ok()).unwrap_or(0);
                let notes = self.with(|c| {
                    let mut select =
                        c.prepare_cached("SELECT id, user, text FROM notes WHERE id > ?1 ORDER BY id LIMIT ?2")?;
                    let note = |r: &rusqlite::Row<'_>| Ok(Note { id: r.get(0)?, user: r.get(1)?, text: r.get(2)? });
                    select.query_map((after, PAGE), note)?.collect::<rusqlite::Result<Vec<_>>>()
                })?;
                let more = notes.len() == PAGE;
                Ok(json(StatusCode::OK, &Exported { notes, more }))
            }
            (&Method::GET, "/whoami") => {
                let told = serde_json::json!({ "told": asked.user_fields, "instance": self.instance });
                Ok(Answer::json(StatusCode::OK, &told))
            }
            (&Method::PUT, _) if path.starts_with(REGISTER) => {
                let text = String::from_utf8_lossy(&asked.body).into_owned();
                self.keep(&NewNote { user: path.trim_start_matches('/').to_owned(), text })
            }
            (&Method::GET, _) if path.starts_with(REGISTER) => self.newest(path.trim_start_matches('/')),
            (&Method::GET, _) => match path.strip_prefix("/notes/") {
                Some(user) if !user.is_empty() => self.list(user),
                _ => Ok(Answer::text(StatusCode::NOT_FOUND, "ask for /notes/<user>, /count or /export")),
            },
            _ => Ok(Answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET, or POST to /notes, or PUT to /r/<key>")),
        }
    }

    fn store(&self, body: &Bytes) -> rusqlite::Result<Answer> {
        let new: NewNote = match serde_json::from_slice(body) {
            Ok(new) => new,
            Err(error) => return Ok(Answer::text(StatusCode::BAD_REQUEST, format!("not a note: {error}"))),
        };
        self.keep(&new)
    }

    fn keep(&self, new: &NewNote) -> rusqlite::Result<Answer> {
        if new.user.is_empty() || new.user.len() > USER_BYTES_MAX || new.text.len() > TEXT_BYTES_MAX {
            return Ok(Answer::text(StatusCode::BAD_REQUEST, "a user of 1 to 64 bytes and a text of at most 4096"));
        }
        std::hint::black_box(chain(new.text.as_bytes(), self.write_work));
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let id = self.with(|c| {
            c.prepare_cached("INSERT INTO notes (user, text, at_ms) VALUES (?1, ?2, ?3) RETURNING id")?
                .query_row((&new.user, &new.text, at_ms), |r| r.get(0))
        })?;
        Ok(json(StatusCode::CREATED, &Stored { id }))
    }

    fn newest(&self, register: &str) -> rusqlite::Result<Answer> {
        let text = self.with(|c| {
            let mut select = c.prepare_cached("SELECT text FROM notes WHERE user = ?1 ORDER BY id DESC LIMIT 1")?;
            select.query_row((register,), |r| r.get::<_, String>(0)).optional()
        })?;
        Ok(match text {
            Some(text) => Answer::text(StatusCode::OK, text),
            None => Answer::text(StatusCode::NOT_FOUND, "nobody wrote it yet"),
        })
    }

    fn list(&self, user: &str) -> rusqlite::Result<Answer> {
        let (count, notes) = self.with(|c| {
            // One statement, one snapshot.
            let mut select = c.prepare_cached(
                "SELECT id, text, (SELECT count(*) FROM notes WHERE user = ?1) FROM notes WHERE user = ?1 ORDER BY id DESC LIMIT ?2",
            )?;
            let mut rows = select.query((user, NEWEST))?;
            let (mut count, mut notes) = (0u64, Vec::new());
            while let Some(row) = rows.next()? {
                notes.push(Note { id: row.get(0)?, user: String::new(), text: row.get(1)? });
                count = row.get(2)?;
            }
            Ok((count, notes))
        })?;
        std::hint::black_box(chain(user.as_bytes(), self.read_work));
        Ok(json(StatusCode::OK, &Listed { user: user.to_owned(), count, notes, instance: self.instance.clone() }))
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => Answer { status, content_type: "application/json", body: body.into() },
        Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// SQLite itself falls back to reading where the file cannot be written.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).or_else(|_| {
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
    })?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

impl App for Notes {
    fn answer(&self, asked: &Asked) -> Option<Answer> {
        Some(self.route(asked).unwrap_or_else(|error| {
            eprintln!("notes: {} {}: {error}", asked.method, asked.target);
            Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("the database: {error}"))
        }))
    }
}

#[derive(Debug, Default)]
struct Written {
    next_seq: u64,
    newest_id: i64,
    /// Sequence number to the id under which it was acknowledged.
    acknowledged: BTreeMap<u64, i64>,
    /// Sent, answer unknown.
    unknown: BTreeSet<u64>,
}

/// Users who write and read notes; each keeps book of what it was promised.
#[derive(Debug)]
pub struct NotesWorkload {
    /// Of a million requests.
    writes_ppm: AtomicU32,
    users: Mutex<BTreeMap<u32, Written>>,
}

/// The books against the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NotesAudit {
    pub acknowledged: u64,
    /// Acknowledged and not there, as `user/seq`.
    pub lost: Vec<String>,
    /// There more than once.
    pub doubled: Vec<String>,
    /// There under another id or with another text than acknowledged.
    pub altered: Vec<String>,
    /// There, though its answer never came: allowed.
    pub unknown_found: u64,
    pub unknown_missing: u64,
}

impl NotesAudit {
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.altered.is_empty()
    }
}

fn text_of(user: u32, seq: u64) -> String {
    format!("{seq}/{}", mac(&[&user.to_le_bytes(), &seq.to_le_bytes()]))
}

/// The sequence number, if the text is one that this user wrote.
fn seq_of(user: u32, text: &str) -> Option<u64> {
    let seq = text.split_once('/')?.0.parse().ok()?;
    (text_of(user, seq) == text).then_some(seq)
}

impl NotesWorkload {
    /// `write_share`: part of the requests that write, 0 to 1.
    pub fn new(write_share: f64) -> Self {
        let made = Self { writes_ppm: AtomicU32::new(0), users: Mutex::new(BTreeMap::new()) };
        made.set_write_share(write_share);
        made
    }

    /// From now on.
    pub fn set_write_share(&self, write_share: f64) {
        self.writes_ppm.store((write_share.clamp(0.0, 1.0) * 1e6) as u32, Ordering::Relaxed);
    }

    fn books<T>(&self, user: u32, act: impl FnOnce(&mut Written) -> T) -> T {
        act(self.users.lock().unwrap_or_else(PoisonError::into_inner).entry(user).or_default())
    }

    /// Compares what was acknowledged with the whole export of a database.
    pub fn audit(&self, export: &[Note]) -> NotesAudit {
        let mut found: BTreeMap<(u32, u64), Vec<i64>> = BTreeMap::new();
        let mut audit = NotesAudit::default();
        for note in export {
            let Some(user) = note.user.strip_prefix('u').and_then(|n| n.parse::<u32>().ok()) else { continue };
            match seq_of(user, &note.text) {
                Some(seq) => found.entry((user, seq)).or_default().push(note.id),
                None => audit.altered.push(format!("{}: {}", note.user, note.text)),
            }
        }
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for (&user, written) in users.iter() {
            audit.acknowledged += written.acknowledged.len() as u64;
            for (&seq, id) in &written.acknowledged {
                match found.get(&(user, seq)).map(Vec::as_slice) {
                    None => audit.lost.push(format!("u{user}/{seq}")),
                    Some([only]) if only == id => {}
                    Some([_]) => audit.altered.push(format!("u{user}/{seq}")),
                    Some(_) => audit.doubled.push(format!("u{user}/{seq}")),
                }
            }
            for &seq in &written.unknown {
                match found.get(&(user, seq)).map_or(0, Vec::len) {
                    0 => audit.unknown_missing += 1,
                    1 => audit.unknown_found += 1,
                    _ => audit.doubled.push(format!("u{user}/{seq}")),
                }
            }
        }
        audit
    }
}

impl Workload for NotesWorkload {
    fn plan(&self, user: u32, rng: &mut SmallRng) -> Planned {
        if rng.random::<f64>() * 1e6 >= f64::from(self.writes_ppm.load(Ordering::Relaxed)) {
            let newest = self.books(user, |b| b.newest_id);
            return Planned { token: newest.unsigned_abs(), ..Planned::get(format!("/notes/u{user}")) };
        }
        let seq = self.books(user, |b| {
            b.next_seq += 1;
            b.unknown.insert(b.next_seq);
            b.next_seq
        });
        let new = NewNote { user: format!("u{user}"), text: text_of(user, seq) };
        let body = serde_json::to_vec(&new).unwrap_or_default();
        Planned { token: seq, user, ..Planned::new(Method::POST, "/notes", "application/json", body) }
    }

    fn check(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
        let user = planned.user;
        if planned.method == Method::POST {
            if status != StatusCode::CREATED {
                return Err(format!("status {status} to a new note"));
            }
            let stored: Stored = serde_json::from_slice(body).map_err(|e| format!("not an id: {e}"))?;
            self.books(user, |b| {
                b.unknown.remove(&planned.token);
                b.acknowledged.insert(planned.token, stored.id);
                b.newest_id = b.newest_id.max(stored.id);
            });
            return Ok(());
        }
        if status != StatusCode::OK {
            return Err(format!("status {status}"));
        }
        let listed: Listed = serde_json::from_slice(body).map_err(|e| format!("not a list: {e}"))?;
        if planned.target.strip_prefix("/notes/") != Some(&listed.user) {
            return Err(format!("the notes of {} answered {}", listed.user, planned.target));
        }
        if let Some(note) = listed.notes.iter().find(|n| seq_of(user, &n.text).is_none()) {
            return Err(format!("note {} of {} was not written by it: {:?}", note.id, listed.user, note.text));
        }
        let wanted = i64::try_from(planned.token).unwrap_or(i64::MAX);
        let has = |id| listed.notes.iter().any(|n| n.id == id);
        let crowded_out = listed.notes.len() == NEWEST && listed.notes.iter().all(|n| n.id > wanted);
        if wanted > 0 && !has(wanted) && !crowded_out {
            return Err(format!("u{user} does not see its own note {wanted}, acknowledged before it asked"));
        }
        Ok(())
    }

    fn refused(&self, planned: &Planned) {
        if planned.method == Method::POST {
            self.books(planned.user, |b| b.unknown.remove(&planned.token));
        }
    }
}

/// Every note that the service at `address` has.
pub async fn export(address: std::net::SocketAddr, host: &str) -> Result<Vec<Note>, crate::load::LoadError> {
    let (mut notes, mut after) = (Vec::<Note>::new(), 0);
    loop {
        let target = format!("/export?after={after}");
        let body = crate::load::fetch(address, host, &target).await?;
        let page: Exported = serde_json::from_slice(&body).map_err(|e| crate::load::LoadError::Answer {
            address,
            target,
            problem: e.to_string(),
        })?;
        notes.extend(page.notes);
        match notes.last() {
            Some(last) if page.more => after = last.id,
            _ => return Ok(notes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn ask(app: &Notes, planned: &Planned) -> Answer {
        let body = Bytes::from(planned.body.clone());
        app.answer(&Asked {
            method: planned.method.clone(),
            target: planned.target.clone(),
            body,
            user_fields: Vec::new(),
        })
        .unwrap()
    }

    #[test]
    fn notes_are_kept_listed_and_audited() {
        let dir = tempfile::tempdir().unwrap();
        let app = Notes::open(dir.path(), 1, 1).unwrap();
        let load = NotesWorkload::new(0.5);
        let mut rng = SmallRng::seed_from_u64(3);
        for i in 0..200 {
            let user = i % 3;
            let planned = Planned { user, ..load.plan(user, &mut rng) };
            let answer = ask(&app, &planned);
            assert_eq!(load.check(&planned, answer.status, &answer.body), Ok(()));
        }
        let page = ask(&app, &Planned::get("/export?after=0".into()));
        let mut notes = serde_json::from_slice::<Exported>(&page.body).unwrap().notes;
        let clean = load.audit(&notes);
        assert!(clean.is_clean() && clean.acknowledged == notes.len() as u64, "{clean:?}");
        let lost = notes.remove(5);
        let first = notes[0].clone();
        notes.push(first);
        notes[1].text.push('x');
        let audit = load.audit(&notes);
        assert_eq!(audit.lost.len(), 2, "{lost:?} {audit:?}");
        assert_eq!((audit.doubled.len(), audit.altered.len()), (1, 1));
    }

    #[test]
    fn a_register_is_the_newest_of_its_notes() {
        let dir = tempfile::tempdir().unwrap();
        let app = Notes::open(dir.path(), 0, 0).unwrap();
        let put = |key: &str, text: &str| {
            ask(&app, &Planned::new(Method::PUT, format!("/r/{key}"), "text/plain", text.into()))
        };
        let get = |key: &str| ask(&app, &Planned::get(format!("/r/{key}")));
        assert_eq!(get("1").status, StatusCode::NOT_FOUND);
        for text in ["5", "7"] {
            assert_eq!(put("1", text).status, StatusCode::CREATED);
        }
        assert_eq!(put("2", "9").status, StatusCode::CREATED);
        assert_eq!((&get("1").body[..], &get("2").body[..]), (&b"7\n"[..], &b"9\n"[..]));
        let page = ask(&app, &Planned::get("/export?after=0".into()));
        let all = serde_json::from_slice::<Exported>(&page.body).unwrap().notes;
        assert_eq!(
            all.iter().map(|n| (&*n.user, &*n.text)).collect::<Vec<_>>(),
            [("r/1", "5"), ("r/1", "7"), ("r/2", "9")]
        );
    }

    #[test]
    fn a_stale_reader_is_found_out() {
        let (fresh, stale) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (home, copy) = (Notes::open(fresh.path(), 0, 0).unwrap(), Notes::open(stale.path(), 0, 0).unwrap());
        let load = NotesWorkload::new(1.0);
        let mut rng = SmallRng::seed_from_u64(3);
        let write = Planned { user: 4, ..load.plan(4, &mut rng) };
        let answer = ask(&home, &write);
        load.check(&write, answer.status, &answer.body).unwrap();
        let read = Planned { user: 4, token: 1, ..Planned::get("/notes/u4".into()) };
        let (fine, late) = (ask(&home, &read), ask(&copy, &read));
        assert_eq!(load.check(&read, fine.status, &fine.body), Ok(()));
        assert!(load.check(&read, late.status, &late.body).unwrap_err().contains("own note"));
    }
}
