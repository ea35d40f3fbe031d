//! One backend of a service: what the table says of it, how it does, and how much it has.
//!
//! Always holds: at most its limit is in work; one that did not take a request is set aside for a growing while and then
//! probed by one request at a time.

use crate::ages::{Ages, LONG_US};
use crate::choose;
use crate::limiter::Limiter;
use pumasi_door::Place;
use pumasi_route::table::Admission as Bounds;
use pumasi_sense::meter::{BackendKey, BackendMeter};
use pumasi_terms::{BootMs, CloudName, Epoch, LeaseId, Position, Protocol};
use std::sync::Arc;

const SET_ASIDE_FIRST_MS: u64 = 100;
const SET_ASIDE_LAST_MS: u64 = 5_000;
const ALIVE_US: u64 = 1_000_000;

/// Where a place is.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    Instance(Place, Protocol),
    Peer { cloud: CloudName, by: By },
}

/// By what right another cloud's gateway is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// It serves under this lease.
    Lease(LeaseId),
    /// The lease is served here, and this must be served where the service is at home.
    Homeward(LeaseId),
    /// It owns the service at this epoch, and this cloud is an entrance.
    Entrance(Epoch),
}

/// One backend as the route table has it.
#[derive(Debug, Clone)]
pub struct BackendSpec {
    pub key: BackendKey,
    pub destination: Arc<Destination>,
    pub instances: u32,
    /// Of a lease; instances at home share the home's weight.
    pub weight: u32,
    pub draining: bool,
    pub usable_until: Option<BootMs>,
    /// A lease with datasets serves only readers that its copies are not behind.
    pub has_datasets: bool,
}

/// What a request asks of a place.
#[derive(Debug, Clone, Copy, Default)]
pub struct Want {
    pub user: u64,
    pub home_only: bool,
    /// Served after what is not.
    pub less_important: bool,
    /// What the user has seen: copies that are older will not do.
    pub position: Option<Position>,
    /// Does not wait for a backend that works if there is none: it may be served elsewhere.
    pub hasty: bool,
    /// A backend that just failed this request: only if there is no other.
    pub avoid: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) failures: u32,
    pub(crate) aside_until_us: u64,
    pub(crate) probing: bool,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: u32,
    pub(crate) spec: BackendSpec,
    pub(crate) hash: u64,
    pub(crate) limiter: Limiter,
    /// Given to it and not answered, those that wait there included.
    pub(crate) in_flight: u32,
    ages: Ages,
    /// Of those in flight, requests that it lets wait while it answers others at once (long polls): no work.
    waiting: u32,
    /// Answered with bodies that still go on, and bodies of users that still come.
    pub(crate) streams: u32,
    pub(crate) tunnels: u32,
    /// No longer in the table; kept until nothing is in flight.
    pub(crate) gone: bool,
    pub(crate) position: Option<Position>,
    pub(crate) health: Health,
    /// When it answered last.
    pub(crate) answered_us: u64,
    /// When it last answered as fast as one with little to do.
    quick_us: u64,
    /// Since when all its places are held.
    held_us: u64,
    /// When its limit last grew because nothing moved.
    grown_us: u64,
    pub(crate) full_since_us: Option<u64>,
    pub(crate) full_us: u64,
    pub(crate) meter: BackendMeter,
}

/// The counts of one backend for status and metrics.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BackendStatus {
    pub backend: BackendKey,
    pub in_flight: u32,
    /// Answers whose bodies go on, and bodies that still come.
    #[serde(default)]
    pub streams: u32,
    /// Upgraded connections that are still open.
    pub tunnels: u32,
    pub limit: u32,
    /// Takes nothing new.
    pub draining: bool,
    /// Takes nothing new and has nothing left.
    pub drained: bool,
    /// Set aside after failed connections.
    pub set_aside: bool,
}

impl BackendSpec {
    pub(crate) fn is_home(&self) -> bool {
        matches!(self.key, BackendKey::Home(_))
    }
}

impl Slot {
    pub(crate) fn new(id: u32, spec: BackendSpec, bounds: &Bounds) -> Self {
        Self {
            id,
            hash: choose::hash(spec.key.to_string().as_bytes()),
            limiter: Limiter::new(bounds.limit_initial, bounds.limit_max, spec.instances),
            spec,
            in_flight: 0,
            ages: Ages::default(),
            waiting: 0,
            streams: 0,
            tunnels: 0,
            gone: false,
            position: None,
            health: Health::default(),
            answered_us: 0,
            quick_us: 0,
            held_us: 0,
            grown_us: 0,
            full_since_us: None,
            full_us: 0,
            meter: BackendMeter::default(),
        }
    }

    /// It answered lately.
    pub(crate) fn answers(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.answered_us) < ALIVE_US
    }

    /// It did not take the request: nothing but a probe now and then until it answers again.
    /// Requests that failed side by side are one failure: a burst of them must not make a pause of seconds.
    pub(crate) fn set_aside(&mut self, now_us: u64) {
        if self.health.aside_until_us > now_us {
            return;
        }
        self.health.failures = self.health.failures.saturating_add(1);
        let pause_ms = (SET_ASIDE_FIRST_MS << (self.health.failures - 1).min(10)).min(SET_ASIDE_LAST_MS);
        self.health.aside_until_us = now_us + pause_ms * 1_000;
    }

    pub(crate) fn status(&self, now_us: u64) -> BackendStatus {
        let draining = !self.takes_new();
        BackendStatus {
            backend: self.spec.key.clone(),
            in_flight: self.in_flight,
            streams: self.streams,
            tunnels: self.tunnels,
            limit: self.limiter.limit(),
            draining,
            drained: draining && self.is_idle(),
            set_aside: self.health.aside_until_us > now_us,
        }
    }

    /// Closes a meter window.
    pub(crate) fn take_meter(&mut self, now_us: u64, span_us: u64) -> BackendMeter {
        let mut meter = std::mem::take(&mut self.meter);
        meter.in_flight = u64::from(self.work());
        meter.limit = if self.takes_new() { u64::from(self.limiter.limit()) } else { 0 };
        let mut full_us = std::mem::take(&mut self.full_us);
        if let Some(since) = &mut self.full_since_us {
            full_us += now_us.saturating_sub(*since);
            *since = now_us;
        }
        meter.saturated = full_us * 2 > span_us;
        meter
    }

    pub(crate) fn takes_new(&self) -> bool {
        !self.gone && !self.spec.draining
    }

    /// Might serve `want` now or soon: all but a free place.
    pub(crate) fn fits(&self, want: &Want, now_us: u64) -> bool {
        self.takes_new()
            && self.spec.usable_until.is_none_or(|until| now_us / 1_000 < until.0)
            && (self.spec.is_home()
                || (!want.home_only
                    && (!self.spec.has_datasets
                        || want.position.is_none_or(|p| self.position.is_some_and(|at| at >= p)))))
    }

    pub(crate) fn healthy(&self, now_us: u64) -> bool {
        self.health.failures == 0 || (!self.health.probing && now_us >= self.health.aside_until_us)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.work() < self.limiter.limit()
    }

    /// What it works on, as far as can be told from here.
    fn work(&self) -> u32 {
        self.in_flight.saturating_sub(self.waiting)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.streams == 0 && self.tunnels == 0
    }

    /// Room for one more body on its way; `max` for each instance.
    pub(crate) fn take_stream(&mut self, max: u32) -> bool {
        let room = self.streams < max.saturating_mul(self.spec.instances.max(1));
        self.streams += u32::from(room);
        room
    }

    /// A request is given to it.
    pub(crate) fn enter(&mut self, now_us: u64) {
        self.in_flight += 1;
        self.ages.enter(now_us);
        if !self.has_room() && self.full_since_us.is_none() {
            (self.full_since_us, self.held_us) = (Some(now_us), now_us);
        }
    }

    /// One that was given to it at `since_us` is not there any more; true: it was let wait.
    pub(crate) fn leave(&mut self, since_us: u64) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let waited = self.ages.leave(since_us) && self.waiting > 0;
        self.waiting -= u32::from(waited);
        waited
    }

    /// How many it works on, for the request that was just given to it.
    pub(crate) fn entered_with(&self) -> u32 {
        self.work()
    }

    /// It answered what it was given at `since_us` after `app_us`; `waited`: what [`leave`](Self::leave) said.
    pub(crate) fn answered(&mut self, now_us: u64, entered_with: u32, app_us: u64, failed: bool, waited: bool) {
        self.health = Health::default();
        self.answered_us = now_us;
        self.meter.completed += 1;
        self.meter.failed += u64::from(failed);
        if waited {
            return;
        }
        self.meter.app_time.record(app_us);
        if app_us < LONG_US && self.limiter.is_quick(app_us) {
            self.quick_us = now_us;
        }
        // A quick error says nothing about how long work takes.
        if !failed {
            self.limiter.sample(now_us, entered_with, app_us);
        }
    }

    /// `waited_for`: requests wait for places of this service.
    pub(crate) fn tick(&mut self, now_us: u64, waited_for: bool) {
        // Work would have been done before what came later: what it answers at once, it has room for.
        let overtaken = now_us.saturating_sub(self.quick_us) < LONG_US;
        let long = self.ages.long(now_us);
        self.waiting = if overtaken { long } else { 0 };
        self.note_room(now_us);
        let still_us = now_us.saturating_sub(self.answered_us.max(self.grown_us).max(self.held_us));
        if waited_for
            && !self.has_room()
            && self.takes_new()
            && self.health.failures == 0
            && self.limiter.stands(still_us)
        {
            self.limiter.grow();
            self.grown_us = now_us;
            self.note_room(now_us);
        }
    }

    pub(crate) fn load(&self) -> f64 {
        f64::from(self.work()) / f64::from(self.limiter.limit().max(1))
    }

    pub(crate) fn note_room(&mut self, now_us: u64) {
        if self.has_room()
            && let Some(since) = self.full_since_us.take()
        {
            self.full_us += now_us.saturating_sub(since);
        }
    }
}

/// How a request that had a place ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It was never sent: the backend does not accept connections.
    Connect,
    /// It was never sent: more connections wait at the instance than it lets wait.
    Full,
    /// Broken off after it was sent, or no answer in time.
    Broken,
    /// The peer's gateway refused it; it was not executed.
    Refused,
    /// The peer's gateway had no place for it at the moment; it was not executed.
    Busy,
}
