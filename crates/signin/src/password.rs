//! Passwords: Argon2id, a few at a time.
//!
//! Always holds: at most [`RUNNING_MAX`] hashes are computed at once and [`WAITING_MAX`] callers wait; a caller that goes
//! away gives up its place in the queue, but what already runs keeps its own until it is done; a login that does not exist costs the
//! same work as one that does.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use pumasi_realm::Login;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Semaphore;

const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
pub const BYTES_MIN: usize = 8;
pub const BYTES_MAX: usize = 1_024;
const RUNNING_MAX: usize = 4;
pub const WAITING_MAX: usize = 64;

/// As many wait as may; who asked should come again in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weak {
    Short,
    Long,
    Common,
}

/// Whether somebody may choose it.
pub fn judge(password: &str, login: &Login) -> Result<(), Weak> {
    if password.len() < BYTES_MIN {
        return Err(Weak::Short);
    }
    if password.len() > BYTES_MAX {
        return Err(Weak::Long);
    }
    let low = password.to_lowercase();
    let one = low.chars().next().is_some_and(|first| low.chars().all(|c| c == first));
    if one || low == login.as_str() || COMMON.lines().any(|common| common == low) {
        return Err(Weak::Common);
    }
    Ok(())
}

/// What attackers try first, in lower case, one a line.
const COMMON: &str = include_str!("common.txt");

#[derive(Debug)]
pub struct HashGate {
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// Hashes computed so far, right or wrong.
    done: Arc<AtomicU64>,
    /// A hash of nobody's password, for logins that do not exist.
    nobody: String,
}

impl HashGate {
    pub fn new() -> Result<Self, String> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let nobody = hash(&crate::secret::fresh()).ok_or("computing a first hash failed")?;
        let running = Arc::new(Semaphore::new(cores.min(RUNNING_MAX)));
        Ok(Self { running, waiting: Arc::default(), done: Arc::default(), nobody })
    }

    /// The form in which it is kept.
    pub async fn hash(&self, password: String) -> Result<Option<String>, Busy> {
        self.run(move || hash(&password)).await
    }

    /// None: there is no such user or it has no password here. It costs the same, and is wrong.
    pub async fn is_right(&self, password: String, phc: Option<String>) -> Result<bool, Busy> {
        let known = phc.is_some();
        let phc = phc.unwrap_or_else(|| self.nobody.clone());
        self.run(move || argon().is_some_and(|a| a.verify_password(password.as_bytes(), phc.as_str()).is_ok()) && known)
            .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let permit = match self.running.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = Place::take(&self.waiting).ok_or(Busy)?;
                self.running.clone().acquire_owned().await.map_err(|_| Busy)?
            }
        };
        let done = self.done.clone();
        let result = tokio::task::spawn_blocking(move || {
            // Not the caller's: it may go away while this runs.
            let _permit = permit;
            let result = work();
            done.fetch_add(1, Ordering::Relaxed);
            result
        });
        result.await.map_err(|_| Busy)
    }
}

struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |n: usize| (n < WAITING_MAX).then_some(n + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(waiting.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn argon() -> Option<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str) -> Option<String> {
    let hash = argon()?.hash_password_with_salt(password.as_bytes(), &crate::secret::random::<16>()).ok()?;
    Some(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_attackers_try_first_is_refused() {
        let login = Login::parse("minjun2026").unwrap();
        let judge = |password: &str| judge(password, &login);
        assert_eq!(judge("correct horse"), Ok(()));
        assert_eq!(judge("열려라참깨"), Ok(()));
        assert_eq!(judge("1234567"), Err(Weak::Short));
        assert_eq!(judge(&"x1".repeat(513)), Err(Weak::Long));
        for common in ["Password1", "12345678", "MinJun2026", "aaaaaaaaaaaa", "qwertyuiop"] {
            assert_eq!(judge(common), Err(Weak::Common), "{common}");
        }
        assert!(COMMON.lines().count() >= 100);
        assert!(COMMON.lines().all(|l| l.len() >= BYTES_MIN && l == l.to_lowercase()), "others are refused anyway");
    }

    #[tokio::test]
    async fn right_wrong_and_nobodys_cost_the_same_work() {
        let gate = HashGate::new().unwrap();
        let phc = gate.hash("correct horse".into()).await.unwrap().unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert_eq!(gate.is_right("correct horse".into(), Some(phc.clone())).await, Ok(true));
        assert_eq!(gate.is_right("correct horsf".into(), Some(phc)).await, Ok(false));
        assert_eq!(gate.is_right("correct horse".into(), None).await, Ok(false));
        assert_eq!(gate.done.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_at_once_wait_or_are_sent_away_and_who_leaves_gives_its_place_up() {
        let gate = Arc::new(HashGate::new().unwrap());
        let running_max = gate.running.available_permits();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let ask = || {
            let (gate, held) = (gate.clone(), held.clone());
            tokio::spawn(async move { gate.run(move || held.lock().unwrap().recv().is_ok()).await })
        };
        let running: Vec<_> = (0..running_max).map(|_| ask()).collect();
        while gate.running.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| ask()).collect();
        while gate.waiting.load(Ordering::Relaxed) < WAITING_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask().await.unwrap(), Err(Busy));
        let gone = waiting.pop().unwrap();
        gone.abort();
        assert!(gone.await.is_err());
        assert_eq!(gate.waiting.load(Ordering::Relaxed), WAITING_MAX - 1);
        // Whoever asked for what runs goes away: the work goes on, and its place is not free before it is done.
        running.iter().for_each(tokio::task::JoinHandle::abort);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(gate.running.available_permits(), 0);
        for _ in 0..running_max + WAITING_MAX - 1 {
            release.send(()).unwrap();
        }
        for one in waiting {
            assert_eq!(one.await.unwrap(), Ok(true));
        }
        assert_eq!(gate.done.load(Ordering::Relaxed), (running_max + WAITING_MAX - 1) as u64);
    }
}
