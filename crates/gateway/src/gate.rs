//! The gate of one service for requests that may write: it puts the [rules](crate::right) in force, and wakes those that wait.
//!
//! Enters: the table's entry of the service, what the daemon last said of this cloud's tenure, requests that may write.
//! Leaves: a [`Pass`] for each that goes on, in the order in which they came. Always holds: a pass counts until the last byte of
//! its answer.

use crate::clock::boot_ms;
use crate::commit::{self, Fate};
use crate::right::{HeldNow, Right};
use pumasi_route::table::ServiceRoute;
use pumasi_route::tenure::Tenure;
use pumasi_terms::sync::SyncReads;
use pumasi_terms::{Epoch, LeaseId, Position, ServiceName};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Gate {
    right: Mutex<Right>,
    /// Whether those that only read may have to wait: asked by each of them, without the lock.
    holds_reads: AtomicBool,
    /// Whether answers may have to wait for copies: to what writes, and to what only reads.
    in_step: AtomicBool,
    reads_in_step: AtomicBool,
    turned: Notify,
}

/// What becomes of a request that may write.
#[derive(Debug)]
pub enum Turn {
    In(Pass),
    /// The service is held: it has to [`wait`](Gate::wait).
    Wait,
    /// No right to write.
    Shut,
    /// No other cloud is in step.
    Unkept,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Right> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a table's entry and the tenure in force.
    pub fn set(&self, name: &ServiceName, route: Option<&ServiceRoute>, tenure: Option<&Tenure>) {
        let now = boot_ms();
        let mut right = self.lock();
        let before = right.clone();
        right.set(name, route, tenure, now);
        self.holds_reads.store(right.may_hold_reads(), Ordering::Release);
        let reads = right.in_step.as_ref().map(|in_step| in_step.reads);
        self.in_step.store(reads.is_some(), Ordering::Release);
        self.reads_in_step.store(reads == Some(SyncReads::Committed), Ordering::Release);
        let turned = right.differs(&before);
        drop(right);
        if turned {
            self.turned.notify_waiters();
        }
    }

    /// Whether what began at `epoch` may write, or let go of an answer, now.
    pub fn may_write(&self, epoch: Epoch) -> bool {
        self.lock().may_write(epoch, boot_ms())
    }

    pub fn is_held(&self, epoch: Epoch) -> bool {
        self.lock().is_held(epoch)
    }

    /// Whether an answer has to be asked about its [`fate`](Self::fate).
    pub fn waits(&self, writes: bool) -> bool {
        let asked = if writes { &self.in_step } else { &self.reads_in_step };
        asked.load(Ordering::Acquire)
    }

    /// How long an answer may wait for copies.
    pub fn wait_ms(&self) -> u64 {
        self.lock().in_step.as_ref().map_or(0, |in_step| in_step.wait_ms)
    }

    /// What becomes now of an answer whose application had done its part before `at`.
    pub fn fate(&self, epoch: Epoch, at: Position, copies: &BTreeMap<LeaseId, Position>) -> Fate {
        commit::fate(&self.lock(), epoch, at, copies, boot_ms())
    }

    /// Whether one that only reads has to [`wait`](Gate::wait).
    pub fn holds_reads(&self, epoch: Epoch) -> bool {
        self.holds_reads.load(Ordering::Acquire) && self.lock().holds_reads(epoch)
    }

    /// At the owner.
    pub fn enter(self: &Arc<Self>, epoch: Epoch) -> Turn {
        let mut right = self.lock();
        match right.enter(epoch, boot_ms()) {
            crate::right::Turn::In => Turn::In(Pass { gate: self.clone(), epoch, bound: right.is_bound() }),
            crate::right::Turn::Wait => Turn::Wait,
            crate::right::Turn::Shut => Turn::Shut,
            crate::right::Turn::Unkept => Turn::Unkept,
        }
    }

    /// Until the service is held no longer (for those that only read: until reading is not), or the table has another owner or epoch; in
    /// the order in which they came. False:
    /// the hold is over its time, or as many wait as may; the request was not executed.
    pub async fn wait(&self, epoch: Epoch, writes: bool) -> bool {
        let mut place: Option<Waiting<'_>> = None;
        loop {
            let turned = self.turned.notified();
            let mut turned = std::pin::pin!(turned);
            turned.as_mut().enable();
            let left_ms = {
                let mut right = self.lock();
                let Some(left_ms) = right.wait_left_ms(epoch, writes, boot_ms()) else { return true };
                if left_ms == 0 || (place.is_none() && !right.begin_to_wait(writes)) {
                    return false;
                }
                // Not by `get_or_insert`: what is not taken is dropped there, under the lock.
                if place.is_none() {
                    place = Some(Waiting { gate: self, writes });
                }
                left_ms
            };
            let _ = tokio::time::timeout(Duration::from_millis(left_ms), turned).await;
        }
    }

    /// None: it is not held.
    pub fn held(&self) -> Option<HeldNow> {
        self.lock().held()
    }
}

struct Waiting<'a> {
    gate: &'a Gate,
    writes: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.lock().end_to_wait(self.writes);
    }
}

/// A request that was let in, until nothing of it is under way.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    epoch: Epoch,
    bound: bool,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.lock().leave();
    }
}

impl Pass {
    /// Returns when a connection that it opened has to end: the right to write is over, or the service is held. One of an
    /// unbound service that merely left the table ends by itself.
    pub async fn over(&self) {
        loop {
            let turned = self.gate.turned.notified();
            let mut turned = std::pin::pin!(turned);
            turned.as_mut().enable();
            let left_ms = {
                let (right, now) = (self.gate.lock(), boot_ms());
                if right.is_over(self.epoch, self.bound, now) {
                    return;
                }
                right.right_left_ms(now)
            };
            match left_ms {
                Some(ms) => drop(tokio::time::timeout(Duration::from_millis(ms), turned).await),
                None => turned.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::right::Entry;
    use pumasi_route::table::Writes;
    use pumasi_terms::BootMs;

    fn tenure(until: u64, held_until: Option<u64>) -> Tenure {
        let name = ServiceName::parse("shop").unwrap();
        let held = held_until.map(|until| {
            (name.clone(), pumasi_route::tenure::Held { epoch: Epoch(2), until: BootMs(until), reads: false })
        });
        Tenure {
            version: 1,
            boot_id: String::new(),
            at: BootMs(0),
            until: Some(BootMs(until)),
            registered: Default::default(),
            epochs: [(name, Epoch(2))].into(),
            held: held.into_iter().collect(),
        }
    }

    /// A table's entry stays as it is.
    fn told(gate: &Gate, tenure: Option<&Tenure>) {
        let entry = gate.lock().entry;
        gate.set(&ServiceName::parse("shop").unwrap(), None, tenure);
        gate.lock().entry = entry;
    }

    #[tokio::test]
    async fn those_that_only_read_wait_while_the_instances_stand_still_and_no_longer() {
        let (gate, now) = (Arc::new(Gate::default()), boot_ms().0);
        gate.lock().entry = Some(Entry { owner: true, writes: Writes::Bound, epoch: Epoch(2) });
        let writers = tenure(now + 60_000, Some(now + 60_000));
        told(&gate, Some(&writers));
        assert!(gate.is_held(Epoch(2)) && !gate.holds_reads(Epoch(2)));
        assert!(gate.wait(Epoch(2), false).await, "nobody who reads waits for those who write");
        let mut all = writers.clone();
        all.held.values_mut().for_each(|held| held.reads = true);
        told(&gate, Some(&all));
        assert!(gate.holds_reads(Epoch(2)) && !gate.holds_reads(Epoch(3)));
        let (reader, writer) = (gate.clone(), gate.clone());
        let reader = tokio::spawn(async move { reader.wait(Epoch(2), false).await });
        let writer = tokio::spawn(async move { writer.wait(Epoch(2), true).await });
        while gate.held().unwrap().waiting < 2 {
            tokio::task::yield_now().await;
        }
        // The move is put off: readers go on, writers wait for the hold's end.
        told(&gate, Some(&writers));
        assert!(reader.await.unwrap() && !writer.is_finished());
        assert_eq!(gate.held().unwrap().waiting, 1);
        told(&gate, Some(&tenure(now + 60_000, None)));
        assert!(writer.await.unwrap());
    }
}
