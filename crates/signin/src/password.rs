//! Passwords: Argon2id, a few at a time.
//!
//! Always holds: at most [`RUNNING_MAX`] hashes are computed at once and [`WAITING_MAX`] callers wait; a caller that goes
//! away gives up its place in the queue, but what already runs keeps its own until it is done; a login that does not exist costs the
//! same work as one that does.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pumasi_realm::Login;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
/// Of the form in which hashes are kept (PHC string format); the salt and the hash follow in base64.
const FORM: &str = "$argon2id$v=19$m=19456,t=2,p=1$";
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
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
    memory: Arc<Memory>,
}

/// The memory of hashes, kept for the next ones: as much as may run at once, and no more, whatever the allocator does with large blocks.
#[derive(Debug, Default)]
struct Memory(Mutex<Vec<Vec<Block>>>);

impl Memory {
    fn with<T>(&self, work: impl FnOnce(&mut [Block]) -> T) -> T {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lock().pop();
        let mut blocks = kept.unwrap_or_else(|| vec![Block::default(); MEMORY_KIB as usize]);
        let result = work(&mut blocks);
        lock().push(blocks);
        result
    }
}

impl HashGate {
    pub fn new() -> Result<Self, String> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let memory = Arc::new(Memory::default());
        let nobody = memory.with(|m| hash(&crate::secret::fresh(), m)).ok_or("computing a first hash failed")?;
        let running = Arc::new(Semaphore::new(cores.min(RUNNING_MAX)));
        Ok(Self { running, waiting: Arc::default(), done: Arc::default(), nobody, memory })
    }

    /// The form in which it is kept.
    pub async fn hash(&self, password: String) -> Result<Option<String>, Busy> {
        self.run(move |memory| hash(&password, memory)).await
    }

    /// None: there is no such user or it has no password here. It costs the same, and is wrong.
    pub async fn is_right(&self, password: String, phc: Option<String>) -> Result<bool, Busy> {
        let known = phc.is_some();
        let phc = phc.unwrap_or_else(|| self.nobody.clone());
        self.run(move |memory| is_of(&phc, &password, memory) && known).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut [Block]) -> T + Send + 'static) -> Result<T, Busy> {
        let permit = match self.running.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = Place::take(&self.waiting).ok_or(Busy)?;
                self.running.clone().acquire_owned().await.map_err(|_| Busy)?
            }
        };
        let (done, memory) = (self.done.clone(), self.memory.clone());
        let result = tokio::task::spawn_blocking(move || {
            // Not the caller's: it may go away while this runs.
            let _permit = permit;
            let result = memory.with(work);
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

fn compute(password: &str, salt: &[u8], memory: &mut [Block]) -> Option<[u8; HASH_BYTES]> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).ok()?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut hash = [0; HASH_BYTES];
    argon.hash_password_into_with_memory(password.as_bytes(), salt, &mut hash, memory).ok()?;
    Some(hash)
}

fn hash(password: &str, memory: &mut [Block]) -> Option<String> {
    let salt = crate::secret::random::<SALT_BYTES>();
    let hash = compute(password, &salt, memory)?;
    Some(format!("{FORM}{}${}", STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash)))
}

fn is_of(phc: &str, password: &str, memory: &mut [Block]) -> bool {
    let mut right = || {
        let (salt, hash) = phc.strip_prefix(FORM)?.split_once('$')?;
        let (salt, hash) = (STANDARD_NO_PAD.decode(salt).ok()?, STANDARD_NO_PAD.decode(hash).ok()?);
        Some(crate::secret::same(&compute(password, &salt, memory)?, &hash))
    };
    right().unwrap_or(false)
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

    /// Made by the reference implementation (PyPI argon2-cffi).
    #[test]
    fn hashes_are_what_others_compute() {
        let known = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$oVLnFW4Vdd+KZaNyuHNZYDlTeeRDSkyoACLFGAAhgLc";
        let memory = Memory::default();
        assert!(memory.with(|m| is_of(known, "correct horse", m)));
        assert!(!memory.with(|m| is_of(known, "correct horsf", m)));
        for bad in
            ["", "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQxMjM0NTY3OA$AAAA", "$argon2id$v=19$m=19456,t=2,p=1$c2$", FORM]
        {
            assert!(!memory.with(|m| is_of(bad, "correct horse", m)), "{bad}");
        }
        assert_eq!(memory.0.lock().unwrap().len(), 1, "one after the other takes the memory of one");
    }

    #[tokio::test]
    async fn right_wrong_and_nobodys_cost_the_same_work() {
        let gate = HashGate::new().unwrap();
        let phc = gate.hash("correct horse".into()).await.unwrap().unwrap();
        assert!(phc.starts_with(FORM), "{phc}");
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
            tokio::spawn(async move { gate.run(move |_| held.lock().unwrap().recv().is_ok()).await })
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
        // Nobody is left who would say that those that ran first are done.
        let all = (running_max + WAITING_MAX - 1) as u64;
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while gate.done.load(Ordering::Relaxed) < all && std::time::Instant::now() < end {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(gate.done.load(Ordering::Relaxed), all);
    }
}
