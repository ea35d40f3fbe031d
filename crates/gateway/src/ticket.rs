//! Tickets of `redirect` mode: what takes a user's session from the service's own host to its alias at a lender.
//!
//! Always holds: a ticket opens only with the lease's key, for the path it was made for, once, and for 30 s at most.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pumasi_terms::LeaseId;
use pumasi_terms::Position;
use pumasi_trust::{Sealer, random_bytes};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub const PARAMETER: &str = "pumasi_ticket";
const VERSION: u32 = 1;
const LIFE_MS: u64 = 30_000;
/// How far the clocks of two clouds may be apart.
const SKEW_MS: u64 = 5_000;
/// A longer Cookie field stays at home: it would not fit into an address that every browser takes.
pub const COOKIES_BYTES_MAX: usize = 3 << 10;
const SPENT_MAX: usize = 65_536;

/// What the user takes along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    version: u32,
    nonce: String,
    made_at_ms: u64,
    /// The Cookie field as the user sent it.
    pub cookies: String,
    pub position: Option<Position>,
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 32 bytes, hex.
pub fn key_of(key: &str) -> Option<[u8; 32]> {
    if key.len() != 64 || !key.is_ascii() {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&key[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

fn sealer(key: &str) -> Option<Sealer> {
    Sealer::new(&key_of(key)?).ok()
}

fn purpose(lease: &LeaseId, path: &str) -> Vec<u8> {
    format!("pumasi ticket {VERSION}\0{lease}\0{path}").into_bytes()
}

/// `path`: path and query to which the user goes.
pub fn seal(key: &str, lease: &LeaseId, path: &str, cookies: &str, position: Option<Position>) -> Option<String> {
    if cookies.len() > COOKIES_BYTES_MAX {
        return None;
    }
    let nonce = u128::from_le_bytes(random_bytes().ok()?);
    let ticket = Ticket {
        version: VERSION,
        nonce: format!("{nonce:032x}"),
        made_at_ms: wall_ms(),
        cookies: cookies.to_owned(),
        position,
    };
    let text = serde_json::to_vec(&ticket).ok()?;
    Some(URL_SAFE_NO_PAD.encode(sealer(key)?.seal(&purpose(lease, path), &text).ok()?))
}

/// Nonces of tickets that were used, until they would have run out anyway.
#[derive(Debug, Default)]
pub struct Spent(Mutex<Nonces>);

#[derive(Debug, Default)]
struct Nonces {
    used: BTreeSet<String>,
    by_end_ms: BTreeMap<u64, Vec<String>>,
}

impl Spent {
    /// True the first time.
    fn spend(&self, nonce: &str, now_ms: u64) -> bool {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Nonces { used, by_end_ms } = &mut *guard;
        let later = by_end_ms.split_off(&now_ms);
        for nonce in std::mem::replace(by_end_ms, later).into_values().flatten() {
            used.remove(&nonce);
        }
        if used.len() >= SPENT_MAX || !used.insert(nonce.to_owned()) {
            return false;
        }
        by_end_ms.entry(now_ms + LIFE_MS + 2 * SKEW_MS).or_default().push(nonce.to_owned());
        true
    }
}

/// Opens a ticket and spends it.
pub fn open(key: &str, lease: &LeaseId, path: &str, text: &str, spent: &Spent) -> Option<Ticket> {
    let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
    let opened = sealer(key)?.open(&purpose(lease, path), &sealed).ok()?;
    let ticket: Ticket = serde_json::from_slice(&opened).ok()?;
    let now = wall_ms();
    let in_time = ticket.made_at_ms <= now + SKEW_MS && now <= ticket.made_at_ms + LIFE_MS + SKEW_MS;
    (ticket.version == VERSION && in_time && spent.spend(&ticket.nonce, now)).then_some(ticket)
}

/// The address of a ticket's bearer.
pub fn attach(path: &str, ticket: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}{PARAMETER}={ticket}")
}

/// Splits path and query into what was meant and the ticket.
pub fn detach(path: &str) -> Option<(String, &str)> {
    let (clean, ticket) = path.rsplit_once(&format!("{PARAMETER}="))?;
    let clean = clean.strip_suffix(['?', '&'])?;
    (!ticket.contains('&')).then(|| (clean.to_owned(), ticket))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f";

    #[test]
    fn a_ticket_opens_once_for_its_path_and_lease() {
        let (lease, other) = (LeaseId::from_entropy(1), LeaseId::from_entropy(2));
        let spent = Spent::default();
        let at = Some(Position::new(pumasi_terms::Generation(1), 2));
        let sealed = seal(KEY, &lease, "/a?b=c", "session=1", at).unwrap();
        assert_eq!(open(KEY, &other, "/a?b=c", &sealed, &spent), None);
        assert_eq!(open(KEY, &lease, "/a?b=d", &sealed, &spent), None);
        assert_eq!(open(&KEY.replace('0', "1"), &lease, "/a?b=c", &sealed, &spent), None);
        let ticket = open(KEY, &lease, "/a?b=c", &sealed, &spent).unwrap();
        assert_eq!((ticket.cookies.as_str(), ticket.position), ("session=1", at));
        assert_eq!(open(KEY, &lease, "/a?b=c", &sealed, &spent), None, "used twice");
        assert_eq!(seal(KEY, &lease, "/", &"x".repeat(COOKIES_BYTES_MAX + 1), None), None);
    }

    #[test]
    fn spent_nonces_are_forgotten_when_their_tickets_have_run_out() {
        let spent = Spent::default();
        assert!(spent.spend("a", 1_000));
        assert!(!spent.spend("a", 2_000));
        assert!(spent.spend("a", 1_000 + LIFE_MS + 3 * SKEW_MS));
        assert_eq!(spent.0.lock().unwrap().used.len(), 1);
    }

    #[test]
    fn addresses_carry_it_and_lose_it() {
        for path in ["/", "/a?b=c", "/a?b="] {
            let full = attach(path, "T");
            assert_eq!(detach(&full), Some((path.to_owned(), "T")), "{full}");
        }
        assert_eq!(detach("/a?b=c"), None);
        assert_eq!(detach("/a?pumasi_ticket=x&b=c"), None);
    }
}
