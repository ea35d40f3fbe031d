//! Who is known by which proof: the word of a service's sign-in process, kept for a while.
//!
//! Enters: digests of sessions and app passwords; what that process says of them, and of which have ended. Leaves: the user, nobody, or
//! that nobody can be asked. Always holds: only what was said counts; a user who was signed out is let in no more once the process told
//! so, and after [`STALE_MS`] at the latest where it cannot be heard; the number of what is kept is bounded.

use crate::admission::Destination;
use crate::clock::boot_us;
use crate::gateway::Gateway;
use crate::upload::RequestBody;
use crate::upstream::{Kept, Pool, SendFault};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use pumasi_realm::gate::{CHECK, Check, Checked, ENDED, Ended, FRESH_MS, KEY, STALE_MS, User, WAIT_MS};
use pumasi_terms::Protocol;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Proofs that are remembered, a service. Beyond them those that are over are forgotten, and if there are none, all.
const KNOWN_MAX: usize = 65_536;
/// A proof that is none is not asked about again for so long: whoever tries at random asks a number that nobody has been given.
const UNKNOWN_MS: u64 = 2_000;
/// For a check. It is a look into a table.
const CHECK_MS_MAX: u64 = 3_000;
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Nobody has to hear of ends where nobody was asked about for so long.
const QUIET_MS: u64 = 10 * 60_000;
const RETRY_MS: u64 = 200;

/// What one sign-in process has said.
#[derive(Debug)]
pub struct Known {
    entries: Mutex<HashMap<String, Entry>>,
    /// Ends are being heard.
    hears: AtomicBool,
    /// A task that hears them runs.
    listens: AtomicBool,
    asked_us: AtomicU64,
    /// How often ends were told.
    told: AtomicU64,
}

#[derive(Debug, Clone)]
struct Entry {
    user: Option<Arc<User>>,
    asked_us: u64,
    until_us: u64,
}

/// Nobody can say now.
#[derive(Debug)]
pub struct NotAsked(pub String);

impl Known {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            hears: AtomicBool::new(false),
            listens: AtomicBool::new(false),
            asked_us: AtomicU64::new(0),
            told: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it was said, where that still counts.
    fn recall(&self, proof: &str, now_us: u64) -> Option<Option<Arc<User>>> {
        let entries = self.lock();
        let entry = entries.get(proof)?;
        let counts = now_us < entry.until_us
            && (self.hears.load(Ordering::Acquire) || now_us.saturating_sub(entry.asked_us) < STALE_MS * 1_000);
        counts.then(|| entry.user.clone())
    }

    fn remember(&self, proof: String, user: Option<Arc<User>>, asked_us: u64, holds_ms: u64) {
        let most_ms = if user.is_some() { FRESH_MS } else { UNKNOWN_MS };
        let entry = Entry { user, asked_us, until_us: asked_us + holds_ms.min(most_ms) * 1_000 };
        let mut entries = self.lock();
        if entries.len() >= KNOWN_MAX {
            entries.retain(|_, e| asked_us < e.until_us);
            if entries.len() >= KNOWN_MAX {
                entries.clear();
            }
        }
        entries.insert(proof, entry);
    }

    /// Not what was asked before ends were told: this may have been among them.
    fn learn(&self, proof: &str, user: Option<Arc<User>>, (asked_us, told): (u64, u64), holds_ms: u64) {
        if self.told.load(Ordering::Acquire) == told {
            self.remember(proof.to_owned(), user, asked_us, holds_ms);
        }
    }

    fn forget(&self, ended: &Ended) {
        let mut entries = self.lock();
        if ended.all || !ended.digests.is_empty() {
            self.told.fetch_add(1, Ordering::AcqRel);
        }
        if ended.all {
            return entries.clear();
        }
        for digest in &ended.digests {
            entries.remove(digest);
        }
    }

    /// Who proves itself so. `proof` tells apart what is asked.
    pub async fn who(
        self: &Arc<Self>,
        gateway: &Arc<Gateway>,
        pool: &Arc<Pool>,
        to: &Process,
        proof: &str,
        check: Check,
    ) -> Result<Option<Arc<User>>, NotAsked> {
        let now_us = boot_us();
        self.asked_us.store(now_us, Ordering::Relaxed);
        if let Some(known) = self.recall(proof, now_us) {
            return Ok(known);
        }
        self.listen(gateway, to);
        // An app password is no other's only because it was said to be.
        let learns_nobody = matches!(check, Check::Session { .. });
        let told = self.told.load(Ordering::Acquire);
        let checked = ask(pool, to, &check).await?;
        let user = checked.user.map(Arc::new);
        if user.is_some() || learns_nobody {
            self.learn(proof, user.clone(), (now_us, told), checked.holds_ms);
        }
        Ok(user)
    }

    /// Has ends told, for as long as anybody is asked about.
    fn listen(self: &Arc<Self>, gateway: &Arc<Gateway>, to: &Process) {
        if self.listens.swap(true, Ordering::AcqRel) {
            return;
        }
        let (known, pool, to) = (Arc::downgrade(self), gateway.pool(), to.clone());
        tokio::spawn(async move {
            let mut after = None;
            // As long as a table names the service's sign-in process as this one.
            while let Some(here) = known.upgrade() {
                if boot_us().saturating_sub(here.asked_us.load(Ordering::Relaxed)) > QUIET_MS * 1_000 {
                    here.hears.store(false, Ordering::Release);
                    here.listens.store(false, Ordering::Release);
                    return;
                }
                drop(here);
                let heard = hear(&pool, &to, after).await;
                let Some(known) = known.upgrade() else { return };
                match heard {
                    Ok(ended) => {
                        // What was said before anybody listened may have ended unheard.
                        known.forget(&Ended { all: ended.all || after.is_none(), ..ended.clone() });
                        after = Some(ended.next);
                        known.hears.store(true, Ordering::Release);
                    }
                    Err(NotAsked(why)) => {
                        tracing::debug!(why, "a sign-in process does not tell who was signed out");
                        known.hears.store(false, Ordering::Release);
                        drop(known);
                        tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                    }
                }
            }
        });
    }
}

/// Where a sign-in process is, and what it knows this gateway by.
#[derive(Debug, Clone)]
pub struct Process {
    pub at: Arc<Destination>,
    pub key: HeaderValue,
    pub host: HeaderValue,
}

fn request(to: &Process, method: Method, path: &str, body: RequestBody) -> Result<Request<RequestBody>, NotAsked> {
    let request = Request::builder().method(method).uri(path).header(HOST, &to.host).header(KEY, &to.key);
    let request = request.header(CONTENT_TYPE, "application/json").body(body);
    request.map_err(|e| NotAsked(e.to_string()))
}

async fn send(
    pool: &Arc<Pool>,
    to: &Process,
    request: Request<RequestBody>,
    ms_max: u64,
) -> Result<Response<Incoming>, NotAsked> {
    let sent = pool.send((&to.at, Protocol::Http1), request, Kept::None, ms_max, None).await;
    let (answer, _loan) = sent.map_err(|fault| match fault {
        SendFault::Connect(problem, _) | SendFault::Broken(problem) => NotAsked(problem),
        SendFault::Full(_) => NotAsked("it has too many connections to take".into()),
        SendFault::Timeout => NotAsked(format!("no answer within {ms_max} ms")),
    })?;
    if answer.status() != StatusCode::OK {
        return Err(NotAsked(format!("it answered {}", answer.status())));
    }
    Ok(answer)
}

async fn read<T: serde::de::DeserializeOwned>(answer: Response<Incoming>) -> Result<T, NotAsked> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
    let body = tokio::time::timeout(Duration::from_millis(CHECK_MS_MAX), body).await;
    let body = body.map_err(|_| NotAsked("its answer does not end".into()))?;
    let bytes = body.map_err(|e| NotAsked(e.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| NotAsked(format!("its answer does not read: {e}")))
}

async fn ask(pool: &Arc<Pool>, to: &Process, check: &Check) -> Result<Checked, NotAsked> {
    let body = serde_json::to_vec(check).map_err(|e| NotAsked(e.to_string()))?;
    let request = request(to, Method::POST, CHECK, RequestBody::Kept(Some(Bytes::from(body))))?;
    read(send(pool, to, request, CHECK_MS_MAX).await?).await
}

async fn hear(pool: &Arc<Pool>, to: &Process, after: Option<u64>) -> Result<Ended, NotAsked> {
    // A number that it never told is answered at once with where it is.
    let path = format!("{ENDED}?after={}", after.unwrap_or(0));
    let request = request(to, Method::GET, &path, RequestBody::Empty)?;
    read(send(pool, to, request, WAIT_MS + CHECK_MS_MAX).await?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(login: &str) -> Option<Arc<User>> {
        let (subject, login) = (format!("s-{login}"), login.parse().unwrap());
        Some(Arc::new(User { subject, login, name: String::new(), email: String::new(), groups: Vec::new() }))
    }

    fn knows(known: &Known, proof: &str, now_us: u64) -> bool {
        matches!(known.recall(proof, now_us), Some(Some(_)))
    }

    #[test]
    fn a_word_counts_for_as_long_as_ends_are_heard_and_a_moment_where_they_are_not() {
        let known = Known::new();
        known.remember("a".into(), user("a"), 1, u64::MAX);
        assert!(knows(&known, "a", STALE_MS * 1_000));
        assert!(!knows(&known, "a", STALE_MS * 1_000 + 1));
        known.hears.store(true, Ordering::Release);
        assert!(knows(&known, "a", FRESH_MS * 1_000));
        assert!(!knows(&known, "a", FRESH_MS * 1_000 + 1), "also a word that was to hold for longer");
        known.remember("b".into(), user("b"), 1, 5);
        assert!(knows(&known, "b", 5_000) && !knows(&known, "b", 5_001), "and no longer than it was to hold");
    }

    #[test]
    fn what_ended_counts_no_more() {
        let known = Known::new();
        for name in ["a", "b", "c"] {
            known.remember(name.into(), user(name), 0, 1_000);
        }
        known.forget(&Ended { next: 1, digests: vec!["a".into(), "x".into()], all: false });
        assert!(!knows(&known, "a", 1) && knows(&known, "b", 1));
        known.forget(&Ended { next: 2, digests: Vec::new(), all: true });
        assert!(!knows(&known, "b", 1) && !knows(&known, "c", 1));
    }

    #[test]
    fn a_word_that_an_end_overtook_is_not_kept() {
        let known = Known::new();
        let told = known.told.load(Ordering::Acquire);
        known.forget(&Ended { next: 1, digests: vec!["a".into()], all: false });
        known.learn("a", user("a"), (0, told), 1_000);
        assert!(!knows(&known, "a", 1));
        known.learn("a", user("a"), (0, known.told.load(Ordering::Acquire)), 1_000);
        assert!(knows(&known, "a", 1));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let known = Known::new();
        for i in 0..KNOWN_MAX + 10 {
            known.remember(format!("{i}"), None, 0, 1_000);
        }
        assert!(known.lock().len() <= KNOWN_MAX);
        assert_eq!(known.recall(&format!("{}", KNOWN_MAX + 9), 1), Some(None));
    }
}
