//! What ended since somebody asked: a bounded ring of digests that gateways follow.
//!
//! Always holds: whoever asks with the last number it was told misses nothing, or is told that all must be asked again: after a new
//! start, and where more ended than the ring holds.

use pumasi_realm::gate::{ENDED_MAX, Ended};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

const RING: usize = 4 * ENDED_MAX;

#[derive(Debug)]
pub struct Ring {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    /// The number of the newest; the ring holds those just before it.
    last: u64,
    digests: VecDeque<String>,
}

impl Ring {
    /// Numbers begin at the time, so that those of an earlier process are none of this one's.
    pub fn new(now_ms: u64) -> Self {
        let inner = Inner { last: now_ms << 16, digests: VecDeque::new() };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, digests: Vec<String>) {
        if digests.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for digest in digests {
            inner.last += 1;
            inner.digests.push_back(digest);
        }
        let excess = inner.digests.len().saturating_sub(RING);
        inner.digests.drain(..excess);
        drop(inner);
        self.changed.notify_waiters();
    }

    /// None: nothing ended after it.
    fn since(&self, after: u64) -> Option<Ended> {
        let inner = self.lock();
        let missed = inner.last.checked_sub(after).and_then(|n| usize::try_from(n).ok());
        let all = Ended { next: inner.last, digests: Vec::new(), all: true };
        match missed {
            Some(0) => None,
            Some(n) if n <= inner.digests.len() && n <= ENDED_MAX => {
                let digests = inner.digests.range(inner.digests.len() - n..).cloned().collect();
                Some(Ended { all: false, digests, ..all })
            }
            _ => Some(all),
        }
    }

    /// At once if something ended after it, else within `wait`.
    pub async fn ended(&self, after: u64, wait: std::time::Duration) -> Ended {
        let told = async {
            loop {
                // Registered before it is looked at: what ends in between wakes it.
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(ended) = self.since(after) {
                    return ended;
                }
                changed.await;
            }
        };
        let nothing = Ended { next: after, digests: Vec::new(), all: false };
        tokio::time::timeout(wait, told).await.unwrap_or(nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn some(n: usize) -> Vec<String> {
        (0..n).map(|i| i.to_string()).collect()
    }

    #[test]
    fn whoever_follows_misses_nothing_or_is_told_so() {
        let ring = Ring::new(1_000);
        let first = ring.since(0).unwrap();
        assert!(first.all, "a stranger to this process asks everything again");
        assert_eq!(ring.since(first.next), None);
        ring.push(some(3));
        let told = ring.since(first.next).unwrap();
        assert_eq!((told.all, told.digests.clone(), told.next), (false, some(3), first.next + 3));
        assert_eq!(ring.since(first.next + 2).unwrap().digests, ["2"]);
        ring.push(some(ENDED_MAX + 1));
        assert!(ring.since(told.next).unwrap().all, "more than is told at one time");
        assert!(ring.since(told.next + 10_000).unwrap().all, "a number that was never given out");
        ring.push(some(3 * RING));
        assert_eq!(ring.lock().digests.len(), RING);
        assert_eq!(ring.since(ring.lock_last() - 5).unwrap().digests.len(), 5);
    }

    impl Ring {
        fn lock_last(&self) -> u64 {
            self.lock().last
        }
    }

    #[tokio::test]
    async fn an_open_question_is_answered_when_something_ends() {
        let ring = std::sync::Arc::new(Ring::new(1_000));
        let next = ring.since(0).unwrap().next;
        let asked = tokio::spawn({
            let ring = ring.clone();
            async move { ring.ended(next, Duration::from_secs(20)).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        ring.push(some(1));
        assert_eq!(asked.await.unwrap().digests, ["0"]);
        assert_eq!(ring.ended(next + 1, Duration::from_millis(1)).await.next, next + 1);
    }
}
