//! Guessing gets slower: each failure of one login, or from one address, makes the next try wait longer. Pure.
//!
//! Always holds: a try counts before it is worked on, so that many at once are many; whoever waits makes the wait no longer by asking;
//! memory is bounded, and what failed most is forgotten last.

use crate::clock::{HOUR_MS, MINUTE_MS};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

const ENTRIES_MAX: usize = 4_096;
const DELAY_MS_MIN: u64 = 1_000;
const DELAY_MS_MAX: u64 = MINUTE_MS;
const FORGOTTEN_AFTER_MS: u64 = HOUR_MS / 4;

#[derive(Debug)]
pub struct Throttle<K> {
    /// Tries without a wait.
    free: u32,
    tries: HashMap<K, Tries>,
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    count: u32,
    last_ms: u64,
}

impl<K: Hash + Eq + Clone> Throttle<K> {
    pub fn new(free: u32) -> Self {
        Self { free, tries: HashMap::new() }
    }

    /// One more try. `Err`: not yet, but after so many milliseconds.
    pub fn admit(&mut self, key: &K, now_ms: u64) -> Result<(), u64> {
        if let Some(tries) = self.tries.get(key) {
            let since = now_ms.saturating_sub(tries.last_ms);
            if since >= FORGOTTEN_AFTER_MS {
                self.tries.remove(key);
            } else {
                let wait = self.delay_ms(tries.count).saturating_sub(since);
                if wait > 0 {
                    return Err(wait);
                }
            }
        }
        if !self.tries.contains_key(key) {
            self.make_room(now_ms);
        }
        let tries = self.tries.entry(key.clone()).or_insert(Tries { count: 0, last_ms: now_ms });
        *tries = Tries { count: tries.count.saturating_add(1), last_ms: now_ms };
        Ok(())
    }

    /// The try was none: it was not worked on, or it was right.
    pub fn take_back(&mut self, key: &K) {
        if let Some(tries) = self.tries.get_mut(key) {
            tries.count = tries.count.saturating_sub(1);
        }
    }

    pub fn forget(&mut self, key: &K) {
        self.tries.remove(key);
    }

    fn delay_ms(&self, count: u32) -> u64 {
        match count.checked_sub(self.free) {
            None => 0,
            Some(over) => DELAY_MS_MIN.saturating_mul(1 << over.min(16)).min(DELAY_MS_MAX),
        }
    }

    fn make_room(&mut self, now_ms: u64) {
        if self.tries.len() < ENTRIES_MAX {
            return;
        }
        self.tries.retain(|_, t| now_ms.saturating_sub(t.last_ms) < FORGOTTEN_AFTER_MS);
        if self.tries.len() >= ENTRIES_MAX {
            let least = self.tries.iter().min_by_key(|(_, t)| (t.count, t.last_ms)).map(|(k, _)| k.clone());
            least.map(|k| self.tries.remove(&k));
        }
    }
}

/// What one subscriber has: a whole /64 of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(a) => a.into(),
            None => std::net::Ipv6Addr::from(u128::from(a) & !u128::from(u64::MAX)).into(),
        },
        a => a,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_makes_the_next_try_wait_longer() {
        let mut throttle = Throttle::new(5);
        for _ in 0..5 {
            assert_eq!(throttle.admit(&"a", 0), Ok(()));
        }
        let mut now_ms = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert_eq!(throttle.admit(&"a", now_ms), Err(wait));
            assert_eq!(throttle.admit(&"a", now_ms + wait - 1), Err(1), "asking makes it no longer");
            now_ms += wait;
            assert_eq!(throttle.admit(&"a", now_ms), Ok(()));
        }
        assert_eq!(throttle.admit(&"b", now_ms), Ok(()), "another is not concerned");
        assert_eq!(throttle.admit(&"a", now_ms + FORGOTTEN_AFTER_MS), Ok(()));
        assert_eq!(throttle.admit(&"a", now_ms + FORGOTTEN_AFTER_MS), Ok(()));
    }

    #[test]
    fn many_tries_at_once_are_many() {
        let mut throttle = Throttle::new(5);
        let admitted = (0..500).filter(|_| throttle.admit(&"a", 7).is_ok()).count();
        assert_eq!(admitted, 5);
        throttle.take_back(&"a");
        assert_eq!(throttle.admit(&"a", 7), Ok(()));
    }

    #[test]
    fn strangers_do_not_push_out_who_failed_often() {
        let mut throttle = Throttle::new(5);
        for _ in 0..5 {
            throttle.admit(&0, 0).unwrap();
        }
        for key in 1..20_000 {
            throttle.admit(&key, 1).unwrap();
        }
        assert_eq!(throttle.tries.len(), ENTRIES_MAX);
        assert!(throttle.admit(&0, 1).is_err());
    }

    #[test]
    fn a_subscriber_is_one() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
    }
}
