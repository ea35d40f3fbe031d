//! The gate of one service for requests that may write: it puts the [rules](crate::right) in force, and wakes those that wait.
//!
//! Enters: the table's entry of the service, what the daemon last said of this cloud's tenure, requests that may write.
//! Leaves: a [`Pass`] for each that goes on, in the order in which they came. Always holds: a pass counts until the last byte of
//! its answer.

use crate::clock::boot_ms;
use crate::right::{HeldNow, Right};
use pumasi_route::table::ServiceRoute;
use pumasi_route::tenure::Tenure;
use pumasi_terms::{Epoch, ServiceName};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Gate {
    right: Mutex<Right>,
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

    /// At the owner.
    pub fn enter(self: &Arc<Self>, epoch: Epoch) -> Turn {
        let mut right = self.lock();
        match right.enter(epoch, boot_ms()) {
            crate::right::Turn::In => Turn::In(Pass { gate: self.clone(), epoch, bound: right.is_bound() }),
            crate::right::Turn::Wait => Turn::Wait,
            crate::right::Turn::Shut => Turn::Shut,
        }
    }

    /// Until the service is held no longer, or the table has another owner or epoch; in the order in which they came. False:
    /// the hold is over its time, or as many wait as may; the request was not executed.
    pub async fn wait(&self, epoch: Epoch) -> bool {
        let mut place: Option<Waiting<'_>> = None;
        loop {
            let turned = self.turned.notified();
            let mut turned = std::pin::pin!(turned);
            turned.as_mut().enable();
            let left_ms = {
                let mut right = self.lock();
                let Some(left_ms) = right.wait_left_ms(epoch, boot_ms()) else { return true };
                if left_ms == 0 || (place.is_none() && !right.begin_to_wait()) {
                    return false;
                }
                place.get_or_insert(Waiting(self));
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

struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().end_to_wait();
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
