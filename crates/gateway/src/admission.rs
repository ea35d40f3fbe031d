//! Places at the backends of one service (or of one lease served here), and the queue for them.
//!
//! Enters: what a request wants, answers and failures of backends, new route tables. Leaves: a `Permit` for one backend, or
//! a reason why there is none. Always holds: a backend is given at most its limit of requests to work on (probes of a failed
//! one: one), apart from those that it lets wait ([`crate::ages`]); at most `queue_max` wait here, none longer than
//! `wait_max_ms`; a place comes back exactly once, at the head of the answer or when its `Permit` goes.

use crate::choose;
use crate::clock::boot_us;
pub use crate::permit::{Permit, Stream};
use crate::queue::{Left, Queue, Waiter};
use crate::slot::Slot;
pub use crate::slot::{BackendSpec, BackendStatus, By, Destination, Failure, Want};
use pumasi_route::table::{Admission as Bounds, Positions};
use pumasi_sense::meter::{BackendKey, ServiceMeter};
use pumasi_terms::LeaseId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Retries that may be saved up, and those that a service begins with: the budget bounds what is asked twice for long, while a
/// backend that dies breaks all its requests in flight at once, and each of them deserves a second try.
const RETRIES_SAVED_MAX: f64 = 256.0;
const RETRIES_FIRST: f64 = 64.0;

/// The home as a candidate beside the leases.
const HOME: u64 = 0x686f_6d65;

/// Why no place was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The queue was full.
    QueueFull,
    /// It waited `wait_max_ms` for a place.
    WaitedTooLong,
    /// No backend that works and that it may use came up within `wait_max_ms`.
    NoBackend,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) slots: Vec<Slot>,
    bounds: Bounds,
    home_weight: u32,
    queue: Queue,
    turn: usize,
    next_slot: u32,
    next_waiter: u64,
    pub(crate) meter: ServiceMeter,
    totals: Totals,
    retry_tokens: f64,
}

/// Counts since the start of the gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub arrivals: u64,
    pub admitted: u64,
    pub completed: u64,
    pub shed: u64,
    pub shed_less_important: u64,
    pub failed: u64,
    pub errors: u64,
    pub retries: u64,
}

impl Totals {
    fn add(&mut self, meter: &ServiceMeter) {
        self.arrivals += meter.arrivals;
        self.admitted += meter.admitted;
        self.completed += meter.completed;
        self.shed += meter.shed;
        self.shed_less_important += meter.shed_less_important;
        self.failed += meter.failed;
        self.errors += meter.errors;
        self.retries += meter.retries;
    }
}

#[derive(Debug)]
pub struct Admission {
    inner: Mutex<Inner>,
}

impl Admission {
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                slots: Vec::new(),
                bounds,
                home_weight: 0,
                queue: Queue::default(),
                turn: 0,
                next_slot: 0,
                next_waiter: 0,
                meter: ServiceMeter::default(),
                totals: Totals::default(),
                retry_tokens: RETRIES_FIRST,
            }),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new table in force: what is gone or draining takes nothing new, what is in flight ends where it is.
    pub fn update(self: &Arc<Self>, bounds: Bounds, home_weight: u32, specs: Vec<BackendSpec>) {
        let now = boot_us();
        let mut undone = Vec::new();
        {
            let mut inner = self.lock();
            inner.home_weight = home_weight;
            for slot in &mut inner.slots {
                slot.gone = true;
            }
            for spec in specs {
                let max = bounds.limit_max;
                let known =
                    inner.slots.iter_mut().find(|s| s.spec.key == spec.key && s.spec.destination == spec.destination);
                if let Some(slot) = known {
                    slot.gone = false;
                    slot.limiter.resize(max, spec.instances);
                    slot.spec = spec;
                } else {
                    let id = inner.next_slot;
                    inner.next_slot = inner.next_slot.wrapping_add(1);
                    inner.slots.push(Slot::new(id, spec, &bounds));
                }
            }
            inner.bounds = bounds;
            inner.forget_ended();
            self.pump(&mut inner, now, &mut undone);
        }
        drop(undone);
    }

    pub fn set_positions(self: &Arc<Self>, positions: &Positions) {
        let mut undone = Vec::new();
        {
            let mut inner = self.lock();
            for slot in &mut inner.slots {
                if let BackendKey::Lease(_, lease) = &slot.spec.key
                    && let Some(p) = positions.leases.get(lease)
                {
                    slot.position = slot.position.max(Some(*p));
                }
            }
            self.pump(&mut inner, boot_us(), &mut undone);
        }
        drop(undone);
    }

    /// A request of a user, counted before it is decided on.
    pub fn arrived(&self, home_only: bool) {
        let mut inner = self.lock();
        inner.meter.arrivals += 1;
        inner.meter.arrivals_home_only += u64::from(home_only);
        let part = f64::from(inner.bounds.retry_budget.0) / 1e6;
        inner.retry_tokens = (inner.retry_tokens + part).min(RETRIES_SAVED_MAX);
    }

    /// Takes one retry from the budget.
    pub fn may_retry(&self) -> bool {
        let mut inner = self.lock();
        if inner.retry_tokens < 1.0 {
            return false;
        }
        inner.retry_tokens -= 1.0;
        inner.meter.retries += 1;
        true
    }

    /// A retry that costs no budget, since the request was not executed.
    pub fn count_retry(&self) {
        self.lock().meter.retries += 1;
    }

    pub fn count_error(&self) {
        self.lock().meter.errors += 1;
    }

    pub fn bounds(&self) -> Bounds {
        self.lock().bounds.clone()
    }

    /// A place for `want`, at once or after a wait in the queue.
    pub async fn acquire(self: &Arc<Self>, want: Want) -> Result<Permit, Refusal> {
        let now = boot_us();
        let (id, rx, wait_ms, hopeless) = {
            let mut inner = self.lock();
            let hopeless = !inner.any_hope(&want, now);
            if !inner.queue.is_before(&want) {
                if let Some(permit) = self.grant(&mut inner, &want, now) {
                    inner.meter.queue_delay.record(0);
                    return Ok(permit);
                }
            } else {
                inner.note_limited(&want);
            }
            if hopeless && want.hasty {
                return Err(Refusal::NoBackend);
            }
            let (tx, rx) = oneshot::channel();
            let id = inner.next_waiter;
            inner.next_waiter += 1;
            let queue_max = inner.bounds.queue_max as usize;
            if !inner.queue.push(Waiter { id, want, tx }, queue_max) {
                inner.shed(&want);
                return Err(Refusal::QueueFull);
            }
            (id, rx, inner.bounds.wait_max_ms, hopeless)
        };
        // Leaves the queue also when the user goes away in the meantime.
        let mut place = Place { admission: self, id, left: false };
        match tokio::time::timeout(Duration::from_millis(wait_ms), rx).await {
            Ok(Ok(permit)) => {
                place.left = true;
                if !hopeless {
                    self.lock().meter.queue_delay.record(boot_us().saturating_sub(now));
                }
                Ok(permit)
            }
            _ => {
                let mut inner = self.lock();
                if hopeless && !inner.any_hope(&want, boot_us()) {
                    inner.meter.errors += 1;
                    return Err(Refusal::NoBackend);
                }
                inner.shed(&want);
                if !hopeless {
                    inner.meter.queue_delay.record(boot_us().saturating_sub(now));
                }
                Err(Refusal::WaitedTooLong)
            }
        }
    }

    fn grant(self: &Arc<Self>, inner: &mut Inner, want: &Want, now_us: u64) -> Option<Permit> {
        let at = inner.pick(want, now_us)?;
        let slot = &mut inner.slots[at];
        slot.enter(now_us);
        if slot.health.failures > 0 {
            slot.health.probing = true;
        }
        inner.meter.admitted += 1;
        Some(Permit::new(self.clone(), &inner.slots[at], now_us))
    }

    /// Gives free places to those that wait. Permits whose receivers are gone are dropped by the caller, outside the lock.
    fn pump(self: &Arc<Self>, inner: &mut Inner, now_us: u64, undone: &mut Vec<Permit>) {
        let mut queue = std::mem::take(&mut inner.queue);
        let grant = |want: &Want| {
            let left = |inner: &Inner| if inner.any_place(now_us) { Left::Some } else { Left::None };
            self.grant(inner, want, now_us).ok_or_else(|| left(inner))
        };
        queue.pump(grant, undone);
        inner.queue = queue;
    }

    /// Called at each meter tick: failed backends whose time has come are probed by those that wait, and what only waits at a
    /// backend no longer counts as work.
    pub fn tick(self: &Arc<Self>) {
        let mut undone = Vec::new();
        {
            let mut inner = self.lock();
            let now = boot_us();
            let waited_for = !inner.queue.is_empty();
            for slot in &mut inner.slots {
                slot.tick(now, waited_for);
            }
            if waited_for {
                self.pump(&mut inner, now, &mut undone);
            }
            inner.forget_ended();
        }
        drop(undone);
    }

    fn leave_queue(&self, id: u64) {
        self.lock().queue.remove(id);
    }

    /// Closes a meter window of `span_us`.
    pub fn take_meter(&self, span_us: u64) -> ServiceMeter {
        let now = boot_us();
        let mut inner = self.lock();
        let mut meter = std::mem::take(&mut inner.meter);
        inner.totals.add(&meter);
        meter.queued = inner.queue.len() as u64;
        for slot in &mut inner.slots {
            let backend = slot.take_meter(now, span_us);
            meter.in_flight += backend.in_flight;
            meter.limit += backend.limit;
            meter.backends.insert(slot.spec.key.clone(), backend);
        }
        meter
    }

    pub fn status(&self) -> (u64, Vec<BackendStatus>) {
        let inner = self.lock();
        let now = boot_us();
        let backends = inner.slots.iter().map(|s| s.status(now));
        (inner.queue.len() as u64, backends.collect())
    }

    /// The lease that would serve this user; None: the home.
    pub fn would_lease(&self, want: &Want) -> Option<LeaseId> {
        let inner = self.lock();
        let at = inner.chosen_lease(want, boot_us())?;
        match &inner.slots[at].spec.key {
            BackendKey::Lease(_, lease) => Some(lease.clone()),
            BackendKey::Home(_) | BackendKey::Front(_) => None,
        }
    }

    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    /// Whether nothing is in flight and nothing waits.
    pub fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.queue.is_empty() && inner.slots.iter().all(Slot::is_idle)
    }

    /// Changes what one backend has, and gives what came free to those that wait.
    pub(crate) fn change(self: &Arc<Self>, slot: u32, change: impl FnOnce(&mut Slot, &mut ServiceMeter, u64)) {
        let now = boot_us();
        let mut undone = Vec::new();
        {
            let mut inner = self.lock();
            let Inner { slots, meter, .. } = &mut *inner;
            if let Some(slot) = slots.iter_mut().find(|s| s.id == slot) {
                change(slot, meter, now);
                slot.note_room(now);
            }
            inner.forget_ended();
            if !inner.queue.is_empty() {
                self.pump(&mut inner, now, &mut undone);
            }
        }
        drop(undone);
    }
}

/// A waiter's entry, taken out when its request is dropped or has waited too long.
struct Place<'a> {
    admission: &'a Admission,
    id: u64,
    left: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.admission.leave_queue(self.id);
        }
    }
}

impl Inner {
    fn shed(&mut self, want: &Want) {
        self.meter.shed += 1;
        self.meter.shed_less_important += u64::from(want.less_important);
    }

    fn forget_ended(&mut self) {
        self.slots.retain(|s| !s.gone || !s.is_idle());
    }

    fn any_place(&self, now_us: u64) -> bool {
        self.slots.iter().any(|s| s.takes_new() && s.healthy(now_us) && s.has_room())
    }

    /// Whether some backend works that `want` may use, be it full.
    fn any_hope(&self, want: &Want, now_us: u64) -> bool {
        self.slots.iter().any(|s| s.fits(want, now_us) && s.health.failures == 0)
    }

    /// The lease that the user's weights choose, whether or not it has a place; None: home.
    fn chosen_lease(&self, want: &Want, now_us: u64) -> Option<usize> {
        if want.home_only {
            return None;
        }
        let mut chosen: Option<(usize, f64)> = None;
        for (at, slot) in self.slots.iter().enumerate() {
            if slot.spec.is_home() || !slot.fits(want, now_us) || !slot.healthy(now_us) {
                continue;
            }
            let score = choose::score(want.user, slot.hash, slot.spec.weight);
            if score > 0.0 && chosen.is_none_or(|(_, s)| score > s) {
                chosen = Some((at, score));
            }
        }
        chosen.filter(|&(_, s)| s > choose::score(want.user, HOME, self.home_weight)).map(|(at, _)| at)
    }

    fn note_limited(&mut self, want: &Want) {
        let home_only = want.home_only;
        // Only what is full was the limit: a limit that nobody reached has no reason to grow.
        for slot in self.slots.iter_mut().filter(|s| s.takes_new() && (!home_only || s.spec.is_home())) {
            if !slot.has_room() {
                slot.limiter.limited();
            }
        }
    }

    /// The user's own cloud if it has a place, else any that has (spill before shedding).
    fn pick(&mut self, want: &Want, now_us: u64) -> Option<usize> {
        let mut best_home: Option<(usize, f64)> = None;
        let mut best_lease: Option<(usize, f64)> = None;
        let mut last_resort = None;
        // Equally loaded ones take turns.
        self.turn = self.turn.wrapping_add(1);
        let count = self.slots.len();
        for at in (0..count).map(|i| (i + self.turn) % count) {
            let slot = &self.slots[at];
            if !slot.fits(want, now_us) || !slot.healthy(now_us) {
                continue;
            }
            if !slot.has_room() {
                continue;
            }
            if want.avoid == Some(slot.id) {
                last_resort = Some(at);
                continue;
            }
            let best = if slot.spec.is_home() { &mut best_home } else { &mut best_lease };
            let load = slot.load();
            if best.is_none_or(|(_, l)| load < l) {
                *best = Some((at, load));
            }
        }
        // Chosen before it is asked whether there is a place, so that a full cloud does not shift its users for good.
        let leased = self.chosen_lease(want, now_us);
        let full = |at: usize| !self.slots[at].has_room() || want.avoid == Some(self.slots[at].id);
        let found = match leased {
            Some(at) if !full(at) => Some(at),
            _ => best_home.or(best_lease).map(|(at, _)| at).or(last_resort),
        };
        if found.is_none() || leased.is_some_and(full) || (leased.is_none() && best_home.is_none()) {
            self.note_limited(want);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_dies_is_made_good_and_a_storm_of_retries_is_not() {
        let admission = Admission::new(Bounds::default());
        let mut at_once = 0;
        while admission.may_retry() {
            at_once += 1;
        }
        assert_eq!(at_once, 64, "all that may be in flight at a backend of a new service");
        for _ in 0..100_000 {
            admission.arrived(false);
        }
        let saved = (0..100_000).filter(|_| admission.may_retry()).count();
        assert_eq!(saved, 256);
        (0..100).for_each(|_| admission.arrived(false));
        let lasting = (0..100).filter(|_| admission.may_retry()).count();
        assert!((9..=10).contains(&lasting), "a tenth of what comes: {lasting}");
    }
}
