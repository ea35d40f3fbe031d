//! Read-your-writes: what a user has seen, carried by the user as a signed cookie, or remembered by a hash of the
//! `Authorization` field for clients without cookies.
//!
//! Always holds: a position that was signed with no key of this gateway or of the service counts as none; the memory is bounded in size and time.

use crate::ticket;
use pumasi_terms::Position;
use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub const COOKIE: &str = "pumasi_pos";
const VERSION: &str = "1";
/// So many of one name are looked at.
const COOKIES_MAX: usize = 8;
const REMEMBERED_MAX: usize = 65_536;
const REMEMBERED_MS: u64 = 5 * 60_000;

#[derive(Debug, Default)]
struct Remembered {
    by_user: HashMap<u128, (Position, u64)>,
    /// In the order of the writes; an entry that was renewed since is skipped.
    order: VecDeque<(u128, u64)>,
}

/// What a cookie is signed with.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key([secret])")
    }
}

impl Key {
    /// 32 bytes, hex.
    pub fn from_hex(text: &str) -> Option<Self> {
        ticket::key_of(text).map(Self)
    }

    fn seal(&self, service: &str, text: &str) -> String {
        let mut mac = blake3::Hasher::new_keyed(&self.0);
        mac.update(service.as_bytes()).update(&[0]).update(text.as_bytes());
        mac.finalize().to_hex()[..32].to_owned()
    }

    /// The cookie's value for a user of `service`.
    pub fn write(&self, service: &str, position: Position) -> String {
        let text = format!("{VERSION}.{position}");
        let mac = self.seal(service, &text);
        format!("{text}.{mac}")
    }

    /// The furthest of several: one in front that somebody made up hides none that is true.
    pub fn furthest<'a>(&self, service: &str, cookies: impl Iterator<Item = &'a [u8]>) -> Option<Position> {
        let read = |cookie| self.read(service, std::str::from_utf8(cookie).ok()?);
        cookies.take(COOKIES_MAX).filter_map(read).max()
    }

    pub fn read(&self, service: &str, cookie: &str) -> Option<Position> {
        let (text, mac) = cookie.rsplit_once('.')?;
        if !pumasi_trust::constant_time_eq(self.seal(service, text).as_bytes(), mac.as_bytes()) {
            return None;
        }
        let (version, position) = text.split_once('.')?;
        position.parse().ok().filter(|_| version == VERSION)
    }
}

pub struct Positions {
    key: Key,
    remembered: Mutex<Remembered>,
}

impl std::fmt::Debug for Positions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Positions([secret])")
    }
}

impl Positions {
    pub fn new(key: [u8; 32]) -> Self {
        Self { key: Key(key), remembered: Mutex::default() }
    }

    /// This gateway's own.
    pub fn own(&self) -> &Key {
        &self.key
    }

    /// With the key of this directory, made at the first start.
    pub fn open(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join("position.key");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let key = bytes.try_into().map_err(|_| std::io::Error::other("position.key has not 32 bytes"))?;
                Ok(Self::new(key))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let key: [u8; 32] = pumasi_trust::random_bytes().map_err(std::io::Error::other)?;
                let temporary = dir.join("position.key.new");
                let _ = std::fs::remove_file(&temporary);
                let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
                file.write_all(&key)?;
                file.sync_all()?;
                std::fs::rename(&temporary, &path)?;
                Ok(Self::new(key))
            }
            Err(e) => Err(e),
        }
    }

    fn user(&self, service: &str, authorization: &[u8]) -> u128 {
        let mut hash = blake3::Hasher::new_keyed(&self.key.0);
        hash.update(service.as_bytes()).update(&[1]).update(authorization);
        let mut out = [0u8; 16];
        hash.finalize_xof().fill(&mut out);
        u128::from_le_bytes(out)
    }

    pub fn remember(&self, service: &str, authorization: &[u8], position: Position, now_ms: u64) {
        let user = self.user(service, authorization);
        let mut guard = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let r = &mut *guard;
        while let Some(&(oldest, at)) = r.order.front() {
            if r.order.len() < REMEMBERED_MAX && now_ms.saturating_sub(at) < REMEMBERED_MS {
                break;
            }
            r.order.pop_front();
            if r.by_user.get(&oldest).is_some_and(|&(_, renewed)| renewed == at) {
                r.by_user.remove(&oldest);
            }
        }
        r.by_user.insert(user, (position, now_ms));
        r.order.push_back((user, now_ms));
    }

    pub fn recall(&self, service: &str, authorization: &[u8], now_ms: u64) -> Option<Position> {
        let r = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if r.by_user.is_empty() {
            return None;
        }
        let (position, at) = r.by_user.get(&self.user(service, authorization))?;
        (now_ms.saturating_sub(*at) < REMEMBERED_MS).then_some(*position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_terms::Generation;

    const AT: Position = Position::new(Generation(3), 99);

    #[test]
    fn only_what_was_signed_here_for_this_service_counts() {
        let p = Key([7; 32]);
        let cookie = p.write("shop", AT);
        assert_eq!(p.read("shop", &cookie), Some(AT));
        assert_eq!(p.read("other", &cookie), None);
        assert_eq!(Key([8; 32]).read("shop", &cookie), None);
        assert_eq!(p.read("shop", &cookie.replace("99", "98")), None);
        for bad in ["", ".", "1.2", "1.2.3", "1.3.99.", "1.3.99.00"] {
            assert_eq!(p.read("shop", bad), None, "{bad}");
        }
    }

    #[test]
    fn memory_is_bounded_in_time_and_size() {
        let p = Positions::new([7; 32]);
        p.remember("shop", b"Bearer a", AT, 1_000);
        assert_eq!(p.recall("shop", b"Bearer a", 2_000), Some(AT));
        assert_eq!(p.recall("shop", b"Bearer b", 2_000), None);
        assert_eq!(p.recall("shop", b"Bearer a", 1_000 + REMEMBERED_MS), None);
        for i in 0..REMEMBERED_MAX as u64 + 10 {
            p.remember("shop", &i.to_le_bytes(), AT, 2_000 + i / 1_000);
        }
        assert!(p.remembered.lock().unwrap().by_user.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn the_key_outlives_the_process() {
        let dir = std::env::temp_dir().join(format!("pumasi-position-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let cookie = Positions::open(&dir).unwrap().own().write("shop", AT);
        assert_eq!(Positions::open(&dir).unwrap().own().read("shop", &cookie), Some(AT));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
