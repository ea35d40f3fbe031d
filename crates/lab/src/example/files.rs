//! `files`: `PUT`, `GET` and `DELETE /files/<name>` in one directory; `GET /files` lists. A file is replaced whole.

use super::ExampleError;
use super::http::{Answer, App, Asked};
use super::work::{chain, mac};
use crate::load::{Planned, Workload};
use bytes::Bytes;
use http::{Method, StatusCode};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    work: u32,
    unique: AtomicU64,
}

fn is_plain(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl Files {
    pub fn open(dir: &Path, work: u32) -> Result<Self, ExampleError> {
        if !dir.is_dir() {
            fs::create_dir_all(dir).map_err(ExampleError::Start)?;
        }
        Ok(Self { dir: dir.to_owned(), work, unique: AtomicU64::new(0) })
    }

    fn route(&self, asked: &Asked) -> io::Result<Answer> {
        let path = asked.path();
        if path == "/files" && asked.method == Method::GET {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                names.extend(entry?.file_name().into_string().ok().filter(|n| is_plain(n)));
            }
            names.sort();
            return Ok(Answer::json(StatusCode::OK, &serde_json::json!({ "files": names })));
        }
        let Some(name) = path.strip_prefix("/files/").filter(|n| is_plain(n)) else {
            return Ok(Answer::text(StatusCode::NOT_FOUND, "ask for /files/<name of letters, digits, '-', '_', '.'>"));
        };
        let file = self.dir.join(name);
        match asked.method {
            Method::GET => {
                let content = fs::read(&file)?;
                std::hint::black_box(chain(name.as_bytes(), self.work));
                Ok(Answer { status: StatusCode::OK, content_type: "application/octet-stream", body: content.into() })
            }
            Method::PUT => {
                let unique = self.unique.fetch_add(1, Ordering::Relaxed);
                let partial = self.dir.join(format!(".{name}.{}.{unique}", std::process::id()));
                let written = write_synced(&partial, &asked.body).and_then(|()| fs::rename(&partial, &file));
                if written.is_err() {
                    let _ = fs::remove_file(&partial);
                }
                written.map(|()| Answer::text(StatusCode::OK, "kept"))
            }
            Method::DELETE => fs::remove_file(&file).map(|()| Answer::text(StatusCode::OK, "gone")),
            _ => Ok(Answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT or DELETE")),
        }
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(content)?;
    file.sync_data()
}

impl App for Files {
    fn answer(&self, asked: &Asked) -> Option<Answer> {
        Some(self.route(asked).unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Answer::text(StatusCode::NOT_FOUND, "no such file"),
            _ => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }))
    }
}

#[derive(Debug, Default, Clone)]
struct Book {
    version: u64,
    acknowledged: u64,
    writing: bool,
}

/// Users who keep one file each and replace it; a file older than what was acknowledged, or damaged, is found out.
#[derive(Debug)]
pub struct FilesWorkload {
    write_share: f64,
    file_bytes: usize,
    users: Mutex<BTreeMap<u32, Book>>,
}

fn content(user: u32, version: u64, bytes: usize) -> Vec<u8> {
    let of = mac(&[&user.to_le_bytes(), &version.to_le_bytes(), &(bytes as u64).to_le_bytes()]);
    let mut content = format!("{version} {bytes} {of}\n").into_bytes();
    let end = content.len() + bytes;
    let filler = blake3::hash(&content);
    while content.len() < end {
        content.extend_from_slice(filler.as_bytes());
    }
    content.truncate(end);
    content
}

/// The version, if the content is whole and of this user.
fn version_of(user: u32, body: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(body.split(|&b| b == b'\n').next()?).ok()?;
    let mut words = line.split(' ');
    let version = words.next()?.parse().ok()?;
    let bytes = words.next()?.parse().ok().filter(|&n: &usize| n <= body.len())?;
    (content(user, version, bytes) == body).then_some(version)
}

impl FilesWorkload {
    pub fn new(write_share: f64, file_bytes: usize) -> Self {
        Self { write_share, file_bytes, users: Mutex::new(BTreeMap::new()) }
    }

    fn book<T>(&self, user: u32, act: impl FnOnce(&mut Book) -> T) -> T {
        act(self.users.lock().unwrap_or_else(PoisonError::into_inner).entry(user).or_default())
    }

    /// For each user with an acknowledged file: its name and the least version that must be there.
    pub fn acknowledged(&self) -> Vec<(u32, String, u64)> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users
            .iter()
            .filter(|(_, b)| b.acknowledged > 0)
            .map(|(&u, b)| (u, format!("u{u}.dat"), b.acknowledged))
            .collect()
    }

    /// Whether `body` is a fit answer for the user's file, `version_min` or later.
    pub fn verify(user: u32, version_min: u64, body: &[u8]) -> Result<(), String> {
        match version_of(user, body) {
            None => Err(format!("the file of u{user} is damaged or not its own ({} bytes)", body.len())),
            Some(version) if version < version_min => {
                Err(format!("the file of u{user} is version {version}, and {version_min} was acknowledged"))
            }
            Some(_) => Ok(()),
        }
    }
}

impl Workload for FilesWorkload {
    fn plan(&self, user: u32, rng: &mut SmallRng) -> Planned {
        let name = format!("/files/u{user}.dat");
        let wants_write = rng.random::<f64>() < self.write_share;
        let write = self.book(user, |b| {
            // Two at a time would leave open which comes last.
            let write = (wants_write || b.acknowledged == 0) && !b.writing;
            if write {
                b.writing = true;
                b.version += 1;
            }
            (write, if write { b.version } else { b.acknowledged })
        });
        match write {
            (true, version) => {
                let body = content(user, version, self.file_bytes);
                Planned { token: version, user, ..Planned::new(Method::PUT, name, "application/octet-stream", body) }
            }
            (false, acknowledged) => Planned { token: acknowledged, user, ..Planned::get(name) },
        }
    }

    fn check(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
        let user = planned.user;
        if planned.method == Method::PUT {
            let kept = status == StatusCode::OK;
            self.book(user, |b| {
                b.writing = false;
                if kept {
                    b.acknowledged = b.acknowledged.max(planned.token);
                }
            });
            return if kept { Ok(()) } else { Err(format!("status {status} to a file")) };
        }
        match status {
            StatusCode::NOT_FOUND if planned.token == 0 => Ok(()),
            StatusCode::OK => Self::verify(user, planned.token, body),
            _ => Err(format!("status {status} for a file of which version {} was acknowledged", planned.token)),
        }
    }

    fn refused(&self, planned: &Planned) {
        if planned.method == Method::PUT {
            self.book(planned.user, |b| b.writing = false);
        }
    }

    /// A late write may still come last: this user writes no more.
    fn unknown(&self, _planned: &Planned) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn files_are_kept_whole_and_old_ones_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let app = Files::open(dir.path(), 0).unwrap();
        let load = FilesWorkload::new(0.5, 1000);
        let mut rng = SmallRng::seed_from_u64(9);
        let ask = |method: Method, target: &str, body: Vec<u8>| {
            app.answer(&Asked { method, target: target.into(), body: body.into(), user_fields: Vec::new() }).unwrap()
        };
        for _ in 0..50 {
            let planned = Planned { user: 2, ..load.plan(2, &mut rng) };
            let answer = ask(planned.method.clone(), &planned.target, planned.body.clone());
            assert_eq!(load.check(&planned, answer.status, &answer.body), Ok(()));
        }
        let (user, name, version) = load.acknowledged().remove(0);
        let body = ask(Method::GET, &format!("/files/{name}"), vec![]).body;
        assert_eq!(FilesWorkload::verify(user, version, &body), Ok(()));
        assert!(FilesWorkload::verify(user, version + 1, &body).is_err());
        assert!(FilesWorkload::verify(user + 1, 0, &body).is_err());
        assert!(FilesWorkload::verify(user, 0, &body[..body.len() - 1]).is_err(), "cut short");
        let mut damaged = body.to_vec();
        damaged[900] ^= 1;
        assert!(FilesWorkload::verify(user, 0, &damaged).is_err());
        assert_eq!(ask(Method::GET, "/files/../x", vec![]).status, StatusCode::NOT_FOUND);
        assert_eq!(ask(Method::GET, "/files/none", vec![]).status, StatusCode::NOT_FOUND);
    }
}
