//! The gate of one service for requests that may write: open, shut, or held while the service is handed over.
//!
//! Enters: the table's entry of the service, what the daemon last said of this cloud's tenure, requests that may write.
//! Leaves: a [`Pass`] for each that goes on, in the order in which they came. Always holds: nothing writes for a bound service
//! but within the right last told, at its epoch; a hold ends by the daemon's word alone, tenure or table (after its time those
//! that wait are refused, and nobody is let in); a pass counts until the last byte of its answer.

use crate::clock::boot_ms;
use pumasi_route::table::{ServiceRoute, Writes};
use pumasi_route::tenure::Tenure;
use pumasi_terms::{BootMs, Epoch, ServiceName};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The longest that a hold has requests wait, from the message that began it, ms.
pub const HOLD_MS_MAX: u64 = 2_000;
/// Those that only read wait longer, from the same message: nothing of theirs can be executed twice, and where a daemon dies on the way
/// this is the difference between a slow answer and none.
pub const READS_HOLD_MS_MAX: u64 = 5_000;
/// So many wait at one service. Their bodies stay with their users: none is read before.
pub const WAITING_MAX: u32 = 512;
/// So many of those that only read: there are more of them, and they have no bodies.
pub const READS_WAITING_MAX: u32 = 2_048;

/// What the table in force says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    owner: bool,
    writes: Writes,
    epoch: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    epoch: Epoch,
    since: BootMs,
    until: BootMs,
    reads: bool,
}

impl Hold {
    /// Whether one that writes, or one that reads, waits under it.
    fn is_for(self, writes: bool) -> bool {
        writes || self.reads
    }

    fn ends(self, writes: bool) -> BootMs {
        if writes { self.until } else { self.since.after(READS_HOLD_MS_MAX) }
    }
}

#[derive(Debug, Default)]
struct State {
    /// None: the table does not have the service, or not any more.
    entry: Option<Entry>,
    /// As the tenure has them.
    until: BootMs,
    owned_at: Option<Epoch>,
    hold: Option<Hold>,
    inside: u32,
    waiting: u32,
    reads_waiting: u32,
}

impl State {
    /// Whether what began at `epoch` may write now.
    fn may_write(&self, epoch: Epoch) -> bool {
        self.entry.is_some_and(|entry| {
            let in_time = || self.owned_at == Some(epoch) && boot_ms() < self.until;
            entry.owner && entry.epoch == epoch && (entry.writes == Writes::Unbound || in_time())
        })
    }

    /// The hold that what began at `epoch` is under.
    fn hold(&self, epoch: Epoch) -> Option<Hold> {
        self.hold.filter(|hold| hold.epoch == epoch && self.entry.is_some_and(|entry| entry.epoch == epoch))
    }

    fn waiting(&mut self, writes: bool) -> &mut u32 {
        if writes { &mut self.waiting } else { &mut self.reads_waiting }
    }

    /// All but the end of the right, whose growth wakes nobody.
    fn turns(&self) -> (Option<Entry>, Option<Epoch>, Option<Hold>) {
        (self.entry, self.owned_at, self.hold)
    }
}

#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    /// Whether those that only read may have to wait: asked by each of them, without the lock.
    holds_reads: AtomicBool,
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

/// What the daemon is told of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldNow {
    pub until: BootMs,
    pub inside: u32,
    pub waiting: u32,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let (before, until) = (state.turns(), state.until);
        change(&mut state);
        self.holds_reads.store(state.hold.is_some_and(|hold| hold.reads), Ordering::Release);
        let turned = state.turns() != before || state.until < until;
        drop(state);
        if turned {
            self.turned.notify_waiters();
        }
    }

    /// Puts a table's entry and the tenure in force.
    pub fn set(&self, name: &ServiceName, route: Option<&ServiceRoute>, tenure: Option<&Tenure>) {
        let now = boot_ms();
        self.change(|state| {
            let entry = |r: &ServiceRoute| Entry { owner: r.role.is_owner(), writes: r.writes, epoch: r.epoch };
            state.entry = route.map(entry);
            state.until = tenure.and_then(|t| t.until).unwrap_or_default();
            state.owned_at = tenure.and_then(|t| t.epochs.get(name).copied());
            let before = state.hold;
            state.hold = tenure.and_then(|t| t.held.get(name)).map(|held| {
                let since = before.filter(|hold| hold.epoch == held.epoch).map_or(now, |hold| hold.since);
                let until = held.until.min(since.after(HOLD_MS_MAX));
                Hold { epoch: held.epoch, since, until, reads: held.reads }
            });
        });
    }

    /// Whether what began at `epoch` may write, or let go of an answer, now.
    pub fn may_write(&self, epoch: Epoch) -> bool {
        self.lock().may_write(epoch)
    }

    pub fn is_held(&self, epoch: Epoch) -> bool {
        self.lock().hold(epoch).is_some()
    }

    /// Whether one that only reads has to [`wait`](Gate::wait).
    pub fn holds_reads(&self, epoch: Epoch) -> bool {
        self.holds_reads.load(Ordering::Acquire) && self.lock().hold(epoch).is_some_and(|hold| hold.reads)
    }

    /// At the owner.
    pub fn enter(self: &Arc<Self>, epoch: Epoch) -> Turn {
        let mut state = self.lock();
        if state.hold(epoch).is_some() {
            return Turn::Wait;
        }
        if !state.may_write(epoch) {
            return Turn::Shut;
        }
        state.inside += 1;
        let bound = state.entry.is_some_and(|entry| entry.writes == Writes::Bound);
        Turn::In(Pass { gate: self.clone(), epoch, bound })
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
                let mut state = self.lock();
                let Some(hold) = state.hold(epoch).filter(|hold| hold.is_for(writes)) else { return true };
                let left_ms = hold.ends(writes).since(boot_ms());
                let most = if writes { WAITING_MAX } else { READS_WAITING_MAX };
                let waiting = state.waiting(writes);
                if left_ms == 0 || (place.is_none() && *waiting >= most) {
                    return false;
                }
                if place.is_none() {
                    *waiting += 1;
                    place = Some(Waiting { gate: self, writes });
                }
                left_ms
            };
            let _ = tokio::time::timeout(Duration::from_millis(left_ms), turned).await;
        }
    }

    /// None: it is not held.
    pub fn held(&self) -> Option<HeldNow> {
        let state = self.lock();
        let hold = state.entry.and_then(|entry| state.hold(entry.epoch));
        hold.map(|hold| HeldNow {
            until: hold.until,
            inside: state.inside,
            waiting: state.waiting + state.reads_waiting,
        })
    }
}

struct Waiting<'a> {
    gate: &'a Gate,
    writes: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.gate.lock().waiting(self.writes) -= 1;
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
        self.gate.lock().inside -= 1;
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
                let state = self.gate.lock();
                let left_alone = state.entry.is_none() && !self.bound;
                if state.hold(self.epoch).is_some() || !(left_alone || state.may_write(self.epoch)) {
                    return;
                }
                let bound = state.entry.is_some_and(|entry| entry.writes == Writes::Bound);
                bound.then(|| state.until.since(boot_ms()))
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

    fn tenure(until: u64, epoch: u64, held_until: Option<u64>) -> Tenure {
        let name = shop();
        let held = held_until.map(|until| {
            (name.clone(), pumasi_route::tenure::Held { epoch: Epoch(epoch), until: BootMs(until), reads: false })
        });
        Tenure {
            version: 1,
            boot_id: String::new(),
            at: BootMs(0),
            until: Some(BootMs(until)),
            epochs: [(name, Epoch(epoch))].into(),
            held: held.into_iter().collect(),
        }
    }

    fn shop() -> ServiceName {
        ServiceName::parse("shop").unwrap()
    }

    fn open(gate: &Gate, writes: Writes) {
        gate.lock().entry = Some(Entry { owner: true, writes, epoch: Epoch(2) });
    }

    /// A table's entry stays as it is.
    fn told(gate: &Gate, tenure: Option<&Tenure>) {
        let entry = gate.lock().entry;
        gate.set(&shop(), None, tenure);
        gate.lock().entry = entry;
    }

    #[test]
    fn a_bound_service_is_written_within_the_right_at_its_epoch_and_no_other_way() {
        let (gate, far) = (Arc::new(Gate::default()), boot_ms().0 + 60_000);
        assert!(!gate.may_write(Epoch(2)), "a service that no table has");
        open(&gate, Writes::Unbound);
        assert!(gate.may_write(Epoch(2)) && !gate.may_write(Epoch(1)));
        open(&gate, Writes::Bound);
        assert!(!gate.may_write(Epoch(2)), "nothing was said yet");
        for (word, may) in [
            (Some(tenure(far, 2, None)), true),
            (Some(tenure(far, 1, None)), false),
            (Some(tenure(far, 3, None)), false),
            (Some(tenure(boot_ms().0, 2, None)), false),
            (Some(Tenure { until: None, ..tenure(far, 2, None) }), false),
            (Some(Tenure { epochs: Default::default(), ..tenure(far, 2, None) }), false),
            (None, false),
        ] {
            told(&gate, word.as_ref());
            assert_eq!(gate.may_write(Epoch(2)), may, "{word:?}");
        }
    }

    #[test]
    fn passes_are_counted_and_a_hold_that_is_told_again_grows_no_longer() {
        let (gate, now) = (Arc::new(Gate::default()), boot_ms().0);
        open(&gate, Writes::Bound);
        told(&gate, Some(&tenure(now + 60_000, 2, None)));
        let Turn::In(pass) = gate.enter(Epoch(2)) else { panic!("it may write") };
        assert_eq!(gate.held(), None);
        told(&gate, Some(&tenure(now + 60_000, 2, Some(now + 60_000))));
        let first = gate.held().unwrap();
        assert!(first.inside == 1 && first.until.0 <= boot_ms().0 + HOLD_MS_MAX);
        std::thread::sleep(Duration::from_millis(5));
        told(&gate, Some(&tenure(now + 60_000, 2, Some(now + 90_000))));
        assert_eq!(gate.held().unwrap().until, first.until);
        assert!(matches!(gate.enter(Epoch(2)), Turn::Wait));
        drop(pass);
        assert_eq!(gate.held().unwrap().inside, 0);
        // Another ownership is not what is handed over.
        assert!(gate.is_held(Epoch(2)) && !gate.is_held(Epoch(3)));
        gate.lock().entry = Some(Entry { owner: false, writes: Writes::Bound, epoch: Epoch(3) });
        assert!(gate.held().is_none() && !gate.is_held(Epoch(2)));
    }

    #[tokio::test]
    async fn those_that_only_read_wait_while_the_instances_stand_still_and_no_longer() {
        let (gate, now) = (Arc::new(Gate::default()), boot_ms().0);
        open(&gate, Writes::Bound);
        let writers = tenure(now + 60_000, 2, Some(now + 60_000));
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
        told(&gate, Some(&tenure(now + 60_000, 2, None)));
        assert!(writer.await.unwrap());
    }
}
