//! What users ask of an application, what they may expect, and what must be at home in the end.
//!
//! Always holds: a user has at most one write under way, as in one browser; what was acknowledged to a user is what it
//! reads next.

use super::app::{App, Found, SEEDS, seed_key};
use crate::load::{Planned, Workload};
use bytes::Bytes;
use http::StatusCode;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Tokens of reads: of a record of the seed; of the list; else of the user's own record.
const SEED: u64 = 1 << 62;
const LIST: u64 = 1 << 63;
/// Part of the reads.
const LIST_SHARE: f64 = 0.02;
const OWN_SHARE: f64 = 0.5;

fn key(user: u32, seq: u64) -> String {
    format!("u{user}-{seq}")
}

fn is_write(planned: &Planned) -> bool {
    !pumasi_terms::method::is_safe(planned.method.as_str())
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
    app: Box<dyn App>,
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
    pub fn new(app: Box<dyn App>, write_share: f64) -> Self {
        Self { app, write_share, books: Mutex::default() }
    }

    pub fn app(&self) -> &dyn App {
        self.app.as_ref()
    }

    fn book<T>(&self, user: u32, act: impl FnOnce(&mut Book) -> T) -> T {
        act(self.books.lock().unwrap_or_else(PoisonError::into_inner).entry(user).or_default())
    }

    fn ended(&self, planned: &Planned, act: impl FnOnce(&mut Book)) {
        if is_write(planned) {
            self.book(planned.user, |b| {
                b.writing = false;
                act(b);
            });
        }
    }

    fn is_read_right(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
        let wanted = match planned.token {
            LIST if self.app.lists(status, body) => return Ok(()),
            LIST => return Err(format!("the list: status {status}: {}", excerpt(body))),
            token if token & SEED != 0 => seed_key(token & !SEED),
            token => key(planned.user, token),
        };
        match self.app.shows(planned, &wanted, status, body) {
            true => Ok(()),
            false => {
                Err(format!("{wanted}, acknowledged before it was asked for: status {status}, {} bytes", body.len()))
            }
        }
    }

    pub fn audit(&self, found: &Found) -> Audit {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let mut audit = Audit { doubled: found.doubled.clone(), ..Audit::default() };
        let own = books.iter().flat_map(|(user, b)| b.acknowledged.iter().map(|seq| key(*user, *seq)));
        for key in own.chain((0..SEEDS).map(seed_key)) {
            audit.acknowledged += 1;
            match found.records.get(&key) {
                None => audit.lost.push(key),
                Some(content) if *content != self.app.kept(&key) => audit.altered.push(key),
                Some(_) => {}
            }
        }
        let refused = books.iter().flat_map(|(user, b)| b.refused.iter().map(|seq| key(*user, *seq)));
        audit.refused = refused.filter(|k| found.records.contains_key(k)).collect();
        audit
    }
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
                return Planned { token: book.next, ..self.app.write(user, &key(user, book.next)) };
            }
            if list < LIST_SHARE {
                return Planned { token: LIST, ..self.app.list(rng) };
            }
            match book.newest {
                Some(seq) if own < OWN_SHARE => Planned { token: seq, ..self.app.read(&key(user, seq), rng) },
                _ => {
                    let n = rng.random_range(0..SEEDS);
                    Planned { token: SEED | n, ..self.app.read(&seed_key(n), rng) }
                }
            }
        })
    }

    fn check(&self, planned: &Planned, status: StatusCode, body: &Bytes) -> Result<(), String> {
        if !is_write(planned) {
            return self.is_read_right(planned, status, body);
        }
        let wrote = self.app.wrote(status, body);
        self.ended(planned, |b| {
            if wrote {
                b.acknowledged.insert(planned.token);
                b.newest = b.newest.max(Some(planned.token));
            }
        });
        if wrote { Ok(()) } else { Err(format!("status {status} to a write: {}", excerpt(body))) }
    }

    fn refused(&self, planned: &Planned) {
        self.ended(planned, |b| {
            b.refused.insert(planned.token);
        });
    }

    fn unknown(&self, planned: &Planned) {
        self.ended(planned, |_| {});
    }

    /// The answer to a write leads to a list; that it does is all that is asked.
    fn follows(&self, _planned: &Planned) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::app::all;
    use super::*;
    use rand::SeedableRng;

    /// As each of them answers a write.
    fn written(app: &dyn App) -> (StatusCode, Bytes) {
        match app.name() {
            "sqlite" => (StatusCode::FOUND, "to /notes/content/?page=last".into()),
            "django" => (StatusCode::FOUND, Bytes::new()),
            "files" => (StatusCode::NO_CONTENT, Bytes::new()),
            _ => (StatusCode::CREATED, Bytes::new()),
        }
    }

    #[test]
    fn what_was_acknowledged_must_be_read_and_found() {
        for app in all() {
            let users = Users::new(app, 0.5);
            let mut rng = SmallRng::seed_from_u64(5);
            let mut records = BTreeMap::new();
            for n in 0..100u32 {
                let planned = Planned { user: n % 4, ..users.plan(n % 4, &mut rng) };
                let absent = (StatusCode::NOT_FOUND, Bytes::from("no such record"));
                let (status, body) = if is_write(&planned) { written(users.app()) } else { absent };
                let right = users.check(&planned, status, &body);
                assert_eq!(right.is_ok(), is_write(&planned), "an absent record passed: {planned:?}");
                if is_write(&planned) {
                    let key = key(planned.user, planned.token);
                    let kept = users.app().kept(&key);
                    records.insert(key, kept);
                }
            }
            assert!(records.len() > 20);
            let mut found = Found { records, doubled: Vec::new(), sound: true };
            assert_eq!(users.audit(&found).lost.len() as u64, SEEDS, "only the seed was never written");
            let first = found.records.keys().next().unwrap().clone();
            let second = found.records.keys().nth(1).unwrap().clone();
            found.records.remove(&first);
            found.records.insert(second, "other".into());
            found.doubled.push("u1-1 (1)".into());
            let audit = users.audit(&found);
            assert_eq!((audit.lost.len() as u64, audit.altered.len(), audit.doubled.len()), (SEEDS + 1, 1, 1));
        }
    }

    #[test]
    fn a_user_writes_one_thing_at_a_time_and_refusals_are_kept_apart() {
        for app in all() {
            let users = Users::new(app, 1.0);
            let mut rng = SmallRng::seed_from_u64(5);
            let first = Planned { user: 3, ..users.plan(3, &mut rng) };
            assert!(is_write(&first) && !is_write(&users.plan(3, &mut rng)));
            users.refused(&first);
            assert!(is_write(&users.plan(3, &mut rng)));
            let key = key(3, first.token);
            let records = BTreeMap::from([(key.clone(), users.app().kept(&key))]);
            assert_eq!(users.audit(&Found { records, doubled: Vec::new(), sound: true }).refused, vec![key]);
        }
    }
}
