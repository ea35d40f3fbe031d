//! Connections as they look from outside: who they are from, and whether anything moves on them.
//!
//! Enters: what each connection and each body marks as it moves. Leaves: the end of those that only stand, told by one clock
//! of the worker, so that it needs nobody who asks the connection or the body. Always holds: an address has at most its share of
//! connections and streams; a connection without a request, a head that does not end, and a user who neither takes nor sends
//! what is due come to an end; nothing is measured on the way of a request but marks without a clock.

use crate::body::{Flow, Pace};
use crate::clock::boot_us;
use crate::config::Limits;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What the kernel is left with beyond what a user has acknowledged, so that a slow reader is seen to move.
pub const UNSENT_BYTES: u32 = 128 << 10;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// A connection that was asked to end is given so long.
const FAREWELL_MS: u64 = 2_000;

/// What one address has of a worker.
#[derive(Debug, Default)]
pub struct Share {
    connections: AtomicU32,
    streams: AtomicU32,
}

/// One of those that an address may have at one time.
#[derive(Debug)]
pub struct Taken {
    share: Arc<Share>,
    what: fn(&Share) -> &AtomicU32,
}

impl Taken {
    fn take(share: &Arc<Share>, what: fn(&Share) -> &AtomicU32, max: u32) -> Option<Self> {
        let taken = what(share).fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1));
        taken.ok().map(|_| Self { share: share.clone(), what })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        (self.what)(&self.share).fetch_sub(1, Relaxed);
    }
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// None: a peer's gateway, which speaks for many users.
    share: Option<Arc<Share>>,
    _connection: Option<Taken>,
    /// Something arrived since the last request ended.
    arrived: AtomicBool,
    /// Bytes left.
    wrote: AtomicBool,
    /// A request ended.
    served: AtomicBool,
    /// What is to be sent is not taken.
    blocked: AtomicBool,
    /// Requests that are not answered and bodies that go on.
    busy: AtomicU32,
    /// A user gave up on whom nothing else depends.
    doomed: AtomicBool,
    /// Asked to end in good order.
    ending: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// Many requests share it.
    multiplexed: AtomicBool,
}

impl Link {
    fn new(share: Option<Arc<Share>>, connection: Option<Taken>) -> Arc<Self> {
        Arc::new(Self {
            share,
            _connection: connection,
            arrived: AtomicBool::default(),
            wrote: AtomicBool::default(),
            served: AtomicBool::default(),
            blocked: AtomicBool::default(),
            busy: AtomicU32::default(),
            doomed: AtomicBool::default(),
            ending: AtomicBool::default(),
            waker: Mutex::default(),
            multiplexed: AtomicBool::default(),
        })
    }

    /// Bytes came.
    pub fn read(&self) {
        self.arrived.store(true, Relaxed);
    }

    /// Bytes left, or could not.
    pub fn wrote(&self, blocked: bool) {
        self.blocked.store(blocked, Relaxed);
        if !blocked {
            self.wrote.store(true, Relaxed);
        }
    }

    pub fn set_multiplexed(&self) {
        self.multiplexed.store(true, Relaxed);
    }

    /// A request begins, or a body that outlives it; until the guard is dropped.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        Busy(self.clone())
    }

    /// Room for one more body that goes on, or upgraded connection.
    pub fn take_stream(&self, max: u32) -> Result<Option<Taken>, TooMany> {
        match &self.share {
            None => Ok(None),
            Some(share) => Taken::take(share, |s| &s.streams, max).map(Some).ok_or(TooMany),
        }
    }

    /// Nothing more comes of it; over HTTP/2 it may still serve others.
    pub fn give_up(&self) {
        if !self.multiplexed.load(Relaxed) {
            self.doomed.store(true, Relaxed);
        }
    }

    /// Whether it shall end in good order; if not, `waker` is called when it shall.
    pub fn shall_end(&self, waker: &Waker) -> bool {
        if self.ending.load(Relaxed) {
            return true;
        }
        let mut held = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(waker.clone());
        }
        false
    }

    /// As above, for one who has given its waker.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }

    fn end(&self) {
        self.ending.store(true, Relaxed);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}

/// The address has all that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// Something of a connection is not over yet.
#[derive(Debug)]
pub struct Busy(Arc<Link>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
        self.0.arrived.store(false, Relaxed);
        self.0.served.store(true, Relaxed);
    }
}

struct Entry {
    link: Weak<Link>,
    task: AbortHandle,
    /// Since when it has no request.
    idle_ms: u64,
    /// When bytes last left, or there were none to leave.
    wrote_ms: u64,
    /// When a head was first seen to have begun.
    half_ms: Option<u64>,
    asked_ms: Option<u64>,
}

/// All connections and all bodies that go on, of one worker.
#[derive(Default)]
pub struct Links {
    entries: Mutex<Vec<Entry>>,
    flows: Mutex<Vec<Weak<Flow>>>,
    shares: Mutex<HashMap<IpAddr, Arc<Share>>>,
    /// A connection came.
    came: Notify,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Links")
    }
}

/// A household has a /64 of its own, and its hosts change address within it.
fn holder(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) >> 64 << 64).to_be_bytes()),
    }
}

impl Links {
    /// A user's connection; None: its address has its share.
    pub fn user(&self, address: IpAddr, max: u32) -> Option<Arc<Link>> {
        let share = {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            shares.entry(holder(address)).or_default().clone()
        };
        let taken = Taken::take(&share, |s| &s.connections, max)?;
        Some(Link::new(Some(share), Some(taken)))
    }

    pub fn peer(&self) -> Arc<Link> {
        Link::new(None, None)
    }

    /// From now on it is looked after.
    pub fn watch(&self, link: &Arc<Link>, task: AbortHandle) {
        let now_ms = boot_us() / 1_000;
        let link = Arc::downgrade(link);
        let entry = Entry { link, task, idle_ms: now_ms, wrote_ms: now_ms, half_ms: None, asked_ms: None };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        self.came.notify_waiters();
    }

    /// Returns at once while there are connections, else when one comes.
    pub async fn any(&self) {
        let mut came = std::pin::pin!(self.came.notified());
        came.as_mut().enable();
        if self.entries.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            came.await;
        }
    }

    pub fn watch_body(&self, flow: &Arc<Flow>) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(flow));
    }

    /// Looks after all of them, for ever.
    pub async fn run(self: Arc<Self>, limits: Limits) {
        let mut look = tokio::time::interval(LOOK.min(Duration::from_millis(limits.stall_ms / 2 + 1)));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.any().await;
            look.tick().await;
            self.look(&limits, boot_us() / 1_000);
        }
    }

    fn look(&self, limits: &Limits, now_ms: u64) {
        let pace = Pace {
            stall_ms: limits.stall_ms,
            rate_min: limits.rate_min_bytes_per_s,
            idle_ms: limits.body_idle_ms,
            streams_max: limits.streams_per_address_max,
        };
        // Taken out, so that nobody who serves a request waits for the look to end.
        let mut flows = std::mem::take(&mut *self.flows.lock().unwrap_or_else(PoisonError::into_inner));
        flows.retain(|flow| flow.upgrade().is_some_and(|flow| flow.look(&pace, now_ms)));
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).append(&mut flows);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Where little room is left, those that do nothing go sooner.
        let crowded = entries.len() > limits.connections_max as usize * 3 / 4;
        entries.retain_mut(|entry| entry.look(limits, &pace, crowded, now_ms));
        drop(entries);
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| Arc::strong_count(share) > 1);
    }
}

impl Entry {
    /// False: there is nothing more to look after.
    fn look(&mut self, limits: &Limits, pace: &Pace, crowded: bool, now_ms: u64) -> bool {
        let Some(link) = self.link.upgrade() else { return false };
        let (busy, blocked) = (link.busy.load(Relaxed) > 0, link.blocked.load(Relaxed));
        if link.wrote.swap(false, Relaxed) || !blocked {
            self.wrote_ms = now_ms;
        }
        if link.served.swap(false, Relaxed) || busy {
            (self.idle_ms, self.half_ms, self.asked_ms) = (now_ms, None, None);
        }
        // Over HTTP/2 there is no telling a head from other frames.
        let multiplexed = link.multiplexed.load(Relaxed);
        if !busy && !multiplexed && link.arrived.load(Relaxed) {
            self.half_ms.get_or_insert(now_ms);
        }
        let for_ms = |since_ms: u64| now_ms.saturating_sub(since_ms);
        let stalled = for_ms(self.wrote_ms) > pace.user_ms(u64::from(UNSENT_BYTES), u64::from(UNSENT_BYTES));
        let half = self.half_ms.is_some_and(|since| for_ms(since) > limits.head_timeout_ms);
        let keep_ms = if crowded { limits.keep_alive_ms / 8 } else { limits.keep_alive_ms };
        let idle = !busy && !blocked && for_ms(self.idle_ms) > keep_ms;
        if stalled || half || link.doomed.load(Relaxed) || (idle && !multiplexed) {
            self.task.abort();
            return false;
        }
        match self.asked_ms {
            None if idle => {
                self.asked_ms = Some(now_ms);
                link.end();
            }
            Some(at) if for_ms(at) > FAREWELL_MS => {
                self.task.abort();
                return false;
            }
            _ => {}
        }
        true
    }
}
