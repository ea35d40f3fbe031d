//! What answers wait for, told to the daemon at once: the furthest instant a service.
//!
//! Enters: instants that copies must reach before an answer leaves. Leaves: those that came since a number. Always holds: numbers only rise;
//! many that wait for one service are one line.

use pumasi_terms::{BootMs, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A question is answered after so long, whether or not anything is wanted.
const ASKED_MS: u64 = 5_000;

/// The answer to `GET /v1/wanted?after=N`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedReport {
    pub gateway_run: u64,
    /// To ask after next time; under another run: 0.
    pub last: u64,
    /// What a copy must have before answers of a service leave: everything of before this instant.
    pub services: BTreeMap<ServiceName, BootMs>,
}

#[derive(Debug)]
pub struct Wanted {
    run: u64,
    inner: Mutex<Inner>,
    turned: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    /// With the number under which it came.
    services: BTreeMap<ServiceName, (u64, BootMs)>,
}

impl Wanted {
    pub fn new(run: u64) -> Self {
        Self { run, inner: Mutex::default(), turned: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn want(&self, service: &ServiceName, at: BootMs) {
        let mut inner = self.lock();
        if inner.services.get(service).is_some_and(|(_, before)| *before >= at) {
            return;
        }
        inner.last += 1;
        let line = (inner.last, at);
        inner.services.insert(service.clone(), line);
        drop(inner);
        self.turned.notify_waiters();
    }

    /// A service that left the table is wanted no more.
    pub fn keep(&self, is_there: impl Fn(&ServiceName) -> bool) {
        self.lock().services.retain(|name, _| is_there(name));
    }

    pub fn since(&self, after: u64) -> WantedReport {
        let inner = self.lock();
        let new = inner.services.iter().filter(|(_, (n, _))| *n > after);
        let services = new.map(|(name, (_, at))| (name.clone(), *at)).collect();
        WantedReport { gateway_run: self.run, last: inner.last, services }
    }

    /// What came after `after`; waits some seconds at most for the first.
    pub async fn read(&self, after: u64) -> WantedReport {
        let turned = self.turned.notified();
        let mut turned = std::pin::pin!(turned);
        turned.as_mut().enable();
        let report = self.since(after);
        if !report.services.is_empty() || report.last < after {
            return report;
        }
        let _ = tokio::time::timeout(Duration::from_millis(ASKED_MS), turned).await;
        self.since(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_question_hears_what_is_new_and_many_wishes_are_one() {
        let (wanted, shop) = (Wanted::new(5), ServiceName::parse("shop").unwrap());
        for at in [10, 12, 11] {
            wanted.want(&shop, BootMs(at));
        }
        let first = wanted.read(0).await;
        assert_eq!((first.last, first.services), (2, [(shop.clone(), BootMs(12))].into()));
        let wanted = std::sync::Arc::new(wanted);
        let asked = wanted.clone();
        let later = tokio::spawn(async move { asked.read(2).await });
        tokio::task::yield_now().await;
        wanted.want(&shop, BootMs(20));
        assert_eq!(later.await.unwrap().services, [(shop, BootMs(20))].into());
        // A number of another life: it is told at once to begin anew.
        assert_eq!(wanted.read(9).await.last, 3);
        wanted.keep(|_| false);
        assert!(wanted.since(0).services.is_empty());
    }
}
