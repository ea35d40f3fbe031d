//! What users ask of the two applications, what they may expect, and what must be at home in the end.
//!
//! Always holds: a user has at most one write under way, as in one browser; what was acknowledged to a user is what it
//! reads next; contents follow from their keys, so that nothing but keys is remembered.

use super::App;
use super::install::python;
use crate::load::{Planned, Workload};
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use http::{Method, StatusCode};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Records that are there before the load.
pub const SEEDS: u64 = 100;
/// Tokens of reads: of a record of the seed; of the list; else of the user's own record.
const SEED: u64 = 1 << 62;
const LIST: u64 = 1 << 63;
/// Part of the reads.
const LIST_SHARE: f64 = 0.02;
const OWN_SHARE: f64 = 0.5;
const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=pumasi-lab-part";
const FILE_BYTES: std::ops::Range<u64> = 400..20_000;

fn seed_key(n: u64) -> String {
    format!("seed-{n}")
}

fn key(user: u32, seq: u64) -> String {
    format!("u{user}-{seq}")
}

/// Of a row.
fn text(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex().chars().take(40).collect()
}

/// Of a file: short ones too, because uploads below 1000 bytes take another way through the application.
pub fn content(key: &str) -> Vec<u8> {
    let mut noise = blake3::Hasher::new().update(key.as_bytes()).finalize_xof();
    let mut length = [0; 8];
    noise.fill(&mut length);
    let bytes = FILE_BYTES.start + u64::from_le_bytes(length) % (FILE_BYTES.end - FILE_BYTES.start);
    let mut content = vec![0; usize::try_from(bytes).unwrap_or_default()];
    noise.fill(&mut content);
    content
}

fn write_of(app: App, user: u32, key: &str) -> Planned {
    match app {
        App::Sqlite => {
            let body = format!("key={key}&user={user}&body={}", text(key));
            Planned::new(Method::POST, "/notes/insert/", FORM, body.into_bytes())
        }
        App::Files => {
            let mut body = format!(
                "--pumasi-lab-part\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{key}.bin\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            )
            .into_bytes();
            body.extend(content(key));
            body.extend(b"\r\n--pumasi-lab-part--\r\n");
            Planned::new(Method::POST, "/upload", MULTIPART, body)
        }
    }
}

fn read_of(app: App, key: &str) -> Planned {
    match app {
        App::Sqlite => Planned::get(format!("/notes/row/{}/", URL_SAFE.encode(format!("[\"{key}\"]")))),
        App::Files => Planned::get(format!("/{key}.bin")),
    }
}

/// What has to be done before the load, in order.
pub fn seeds(app: App) -> Vec<Planned> {
    let sql = |sql: String| Planned::new(Method::POST, "/query/", FORM, format!("sql={sql}").into_bytes());
    match app {
        App::Sqlite => {
            let rows: Vec<String> = (0..SEEDS).map(seed_key).map(|k| format!("('{k}',0,'{}')", text(&k))).collect();
            vec![
                sql("CREATE TABLE notes (key TEXT PRIMARY KEY, user INTEGER, body TEXT)".into()),
                sql(format!("INSERT INTO notes VALUES {}", rows.join(","))),
            ]
        }
        App::Files => (0..SEEDS).map(|n| write_of(app, 0, &seed_key(n))).collect(),
    }
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    writing: bool,
    newest: Option<u64>,
    acknowledged: BTreeSet<u64>,
    refused: BTreeSet<u64>,
}

#[derive(Debug)]
pub struct Users {
    app: App,
    write_share: f64,
    books: Mutex<BTreeMap<u32, Book>>,
}

/// What the home has, compared with what users were told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub acknowledged: u64,
    pub lost: Vec<String>,
    pub altered: Vec<String>,
    /// Written twice.
    pub doubled: Vec<String>,
    /// Refused at the door, and there all the same.
    pub refused: Vec<String>,
}

impl Users {
    pub fn new(app: App, write_share: f64) -> Self {
        Self { app, write_share, books: Mutex::default() }
    }

    fn book<T>(&self, user: u32, act: impl FnOnce(&mut Book) -> T) -> T {
        act(self.books.lock().unwrap_or_else(PoisonError::into_inner).entry(user).or_default())
    }

    fn ended(&self, planned: &Planned, act: impl FnOnce(&mut Book)) {
        if planned.method == Method::POST {
            self.book(planned.user, |b| {
                b.writing = false;
                act(b);
            });
        }
    }

    fn wrote(&self, status: StatusCode, body: &Bytes) -> Result<(), String> {
        let fine = match self.app {
            // The form comes back with 200 where the row was not inserted.
            App::Sqlite => status == StatusCode::FOUND && contains(body, "/notes/content/"),
            App::Files => status == StatusCode::NO_CONTENT,
        };
        if fine { Ok(()) } else { Err(format!("status {status} to a write: {}", excerpt(body))) }
    }

    fn is_read_right(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
        let wanted = match planned.token {
            LIST => seed_key(0),
            token if token & SEED != 0 => seed_key(token & !SEED),
            token => key(planned.user, token),
        };
        let fine = status == StatusCode::OK
            && match (self.app, planned.token) {
                (_, LIST) => contains(body, &wanted),
                (App::Sqlite, _) => contains(body, &text(&wanted)),
                (App::Files, _) => body.as_ref() == content(&wanted),
            };
        match fine {
            true => Ok(()),
            false => {
                Err(format!("{wanted}, acknowledged before it was asked for: status {status}, {} bytes", body.len()))
            }
        }
    }

    /// `found`: what is at home, contents by key.
    pub fn audit(&self, found: &BTreeMap<String, String>) -> Audit {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let mut audit = Audit::default();
        let kept = |k: &str| match self.app {
            App::Sqlite => text(k),
            App::Files => blake3::hash(&content(k)).to_hex().to_string(),
        };
        let own = books.iter().flat_map(|(user, b)| b.acknowledged.iter().map(|seq| key(*user, *seq)));
        for key in own.chain((0..SEEDS).map(seed_key)) {
            audit.acknowledged += 1;
            match found.get(&key) {
                None => audit.lost.push(key),
                Some(content) if *content != kept(&key) => audit.altered.push(key),
                Some(_) => {}
            }
        }
        // The file server keeps a second upload of a name under another one; a second insert of a key would have failed.
        audit.doubled = found.keys().filter(|k| k.contains(" (")).cloned().collect();
        let refused = books.iter().flat_map(|(user, b)| b.refused.iter().map(|seq| key(*user, *seq)));
        audit.refused = refused.filter(|k| found.contains_key(k)).collect();
        audit
    }
}

fn contains(body: &Bytes, text: &str) -> bool {
    body.windows(text.len().max(1)).any(|w| w == text.as_bytes())
}

fn excerpt(body: &Bytes) -> String {
    String::from_utf8_lossy(body).split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect()
}

impl Workload for Users {
    fn plan(&self, user: u32, rng: &mut SmallRng) -> Planned {
        let (write, list, own) = (rng.random::<f64>(), rng.random::<f64>(), rng.random::<f64>());
        self.book(user, |book| {
            if write < self.write_share && !book.writing {
                book.next += 1;
                book.writing = true;
                return Planned { token: book.next, ..write_of(self.app, user, &key(user, book.next)) };
            }
            if list < LIST_SHARE {
                let target = if self.app == App::Sqlite { "/notes/content/" } else { "/" };
                return Planned { token: LIST, ..Planned::get(target.into()) };
            }
            match book.newest {
                Some(seq) if own < OWN_SHARE => Planned { token: seq, ..read_of(self.app, &key(user, seq)) },
                _ => {
                    let n = rng.random_range(0..SEEDS);
                    Planned { token: SEED | n, ..read_of(self.app, &seed_key(n)) }
                }
            }
        })
    }

    fn check(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
        if planned.method == Method::GET {
            return self.is_read_right(planned, status, body);
        }
        let wrote = self.wrote(status, body);
        self.ended(planned, |b| {
            if wrote.is_ok() {
                b.acknowledged.insert(planned.token);
                b.newest = b.newest.max(Some(planned.token));
            }
        });
        wrote
    }

    fn refused(&self, planned: &Planned) {
        self.ended(planned, |b| {
            b.refused.insert(planned.token);
        });
    }

    fn unknown(&self, planned: &Planned) {
        self.ended(planned, |_| {});
    }

    /// The answer to an insert leads to the list; that it does is all that is asked.
    fn follows(&self, _planned: &Planned) -> bool {
        false
    }
}

/// Read by Python's own SQLite, which had no part in moving it.
const DUMP: &str = "
import json, sqlite3, sys
db = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)
ok = [row[0] for row in db.execute('PRAGMA integrity_check')]
print(json.dumps({'ok': ok == ['ok'], 'rows': dict(db.execute('SELECT key, body FROM notes'))}))
";

#[derive(serde::Deserialize)]
struct Dump {
    ok: bool,
    rows: BTreeMap<String, String>,
}

/// What lies in the dataset's directory, past the application; and whether the database is sound.
pub async fn found(app: App, dir: &Path) -> anyhow::Result<(BTreeMap<String, String>, bool)> {
    match app {
        App::Sqlite => {
            let path = dir.join("notes.db").display().to_string();
            let said = python(&["-c", DUMP, &path]).await.context("reading the database at home")?;
            let dump: Dump = serde_json::from_slice(&said).context("reading the rows")?;
            Ok((dump.rows, dump.ok))
        }
        App::Files => {
            let mut files = BTreeMap::new();
            for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Some(key) = name.strip_suffix(".bin") {
                    let content = std::fs::read(entry.path())?;
                    files.insert(key.to_owned(), blake3::hash(&content).to_hex().to_string());
                }
            }
            Ok((files, true))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn answer(app: App, planned: &Planned) -> (StatusCode, Bytes) {
        match (app, &planned.method) {
            (App::Sqlite, &Method::POST) => (StatusCode::FOUND, "to /notes/content/?page=last".into()),
            (App::Files, &Method::POST) => (StatusCode::NO_CONTENT, Bytes::new()),
            (App::Sqlite, _) => (StatusCode::FOUND, "no such row, to /notes/content/".into()),
            _ => (StatusCode::NOT_FOUND, Bytes::new()),
        }
    }

    #[test]
    fn what_was_acknowledged_must_be_read_and_found() {
        for app in App::ALL {
            let users = Users::new(app, 0.5);
            let mut rng = SmallRng::seed_from_u64(5);
            let mut written = BTreeMap::new();
            for n in 0..100u32 {
                let planned = Planned { user: n % 4, ..users.plan(n % 4, &mut rng) };
                let (status, body) = answer(app, &planned);
                let right = users.check(&planned, status, &body);
                assert_eq!(right.is_ok(), planned.method == Method::POST, "an absent record passed: {planned:?}");
                if planned.method == Method::POST {
                    let key = key(planned.user, planned.token);
                    let kept = match app {
                        App::Sqlite => text(&key),
                        App::Files => blake3::hash(&content(&key)).to_hex().to_string(),
                    };
                    written.insert(key, kept);
                }
            }
            assert!(written.len() > 20);
            let audit = users.audit(&written);
            assert_eq!(audit.lost.len() as u64, SEEDS, "only the seed was never written");
            let (first, second) = (written.keys().next().unwrap().clone(), written.keys().nth(1).unwrap().clone());
            written.remove(&first);
            written.insert(second, "other".into());
            written.insert("u1-1 (1)".into(), String::new());
            let audit = users.audit(&written);
            assert_eq!((audit.lost.len() as u64, audit.altered.len(), audit.doubled.len()), (SEEDS + 1, 1, 1));
        }
    }

    #[test]
    fn a_user_writes_one_thing_at_a_time_and_refusals_are_kept_apart() {
        let users = Users::new(App::Sqlite, 1.0);
        let mut rng = SmallRng::seed_from_u64(5);
        let first = Planned { user: 3, ..users.plan(3, &mut rng) };
        assert_eq!((first.method.clone(), users.plan(3, &mut rng).method), (Method::POST, Method::GET));
        users.refused(&first);
        assert_eq!(users.plan(3, &mut rng).method, Method::POST);
        let there = BTreeMap::from([(key(3, first.token), text(&key(3, first.token)))]);
        assert_eq!(users.audit(&there).refused, vec![key(3, first.token)]);
    }
}
