//! What happens to the requests: one queue in front of all instances, the same for every policy.
//!
//! Enters: arrivals of a tick and what is ready. Leaves: what was served, lost and how long it waited. Always holds: what came is
//! served, lost or still waits; nothing waits longer than allowed.

use super::arrivals::{TICK_MS, TICKS_PER_S};
use std::collections::VecDeque;

#[derive(Debug, Clone)]
pub struct Plant {
    rate_mps: u64,
    wait_ticks: u64,
    queue: VecDeque<Waiting>,
    queued: u64,
    /// Thousandths of a request that may be served, left over.
    credit: u64,
}

/// Those of one tick, who came evenly over it.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    tick: u64,
    came: u64,
    left: u64,
}

/// One tick.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    pub arrived: u64,
    pub served: u64,
    pub lost: u64,
    /// At the end.
    pub queued: u64,
    /// How many waited how long, ms; those served.
    pub waits: Vec<(u64, u64)>,
    /// All that could be served was.
    pub saturated: bool,
}

impl Plant {
    pub fn new(rate_mps: u64, wait_max_ms: u64) -> Self {
        Self { rate_mps, wait_ticks: wait_max_ms / TICK_MS, queue: VecDeque::new(), queued: 0, credit: 0 }
    }

    pub fn step(&mut self, tick: u64, arrived: u64, ready: u32) -> Served {
        let mut out = Served { arrived, ..Served::default() };
        if arrived > 0 {
            self.queue.push_back(Waiting { tick, came: arrived, left: arrived });
            self.queued += arrived;
        }
        let capacity = self.rate_mps * u64::from(ready) / TICKS_PER_S;
        let room = (self.credit + capacity) / 1_000;
        while out.served < room
            && let Some(first) = self.queue.front_mut()
        {
            let now = (room - out.served).min(first.left);
            // Middle of those served now: when they came, and when it is their turn.
            let came_ms = (2 * (first.came - first.left) + now) * TICK_MS / (2 * first.came);
            let turn_ms = (2 * out.served + now) * TICK_MS / (2 * room) + (tick - first.tick) * TICK_MS;
            out.waits.push((turn_ms.saturating_sub(came_ms), now));
            first.left -= now;
            (out.served, self.queued) = (out.served + now, self.queued - now);
            if first.left == 0 {
                self.queue.pop_front();
            }
        }
        out.saturated = self.queued > 0;
        // Time in which nothing was there to be served is gone.
        self.credit =
            if out.saturated { self.credit + capacity - out.served * 1_000 } else { (self.credit + capacity) % 1_000 };
        while let Some(first) = self.queue.front().copied()
            && tick - first.tick >= self.wait_ticks
        {
            self.queue.pop_front();
            (out.lost, self.queued) = (out.lost + first.left, self.queued - first.left);
        }
        out.queued = self.queued;
        out
    }
}

/// Instances that were ordered: some serve, some start.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    pub ready: u32,
    /// Tick at which they serve, and how many.
    coming: VecDeque<(u64, u32)>,
}

impl Fleet {
    pub fn of(ready: u32) -> Self {
        Self { ready, coming: VecDeque::new() }
    }
    pub fn coming(&self) -> u32 {
        self.coming.iter().map(|(_, n)| n).sum()
    }
    pub fn all(&self) -> u32 {
        self.ready + self.coming()
    }
    pub fn advance(&mut self, tick: u64) {
        while let Some((at, n)) = self.coming.front().copied()
            && at <= tick
        {
            self.coming.pop_front();
            self.ready += n;
        }
    }
    pub fn order(&mut self, more: u32, ready_at: u64) {
        if more > 0 {
            self.coming.push_back((ready_at, more));
        }
    }
    /// What starts goes first, the latest first.
    pub fn give_back(&mut self, mut fewer: u32) {
        while fewer > 0
            && let Some((_, n)) = self.coming.back_mut()
        {
            let now = fewer.min(*n);
            (*n, fewer) = (*n - now, fewer - now);
            if *n == 0 {
                self.coming.pop_back();
            }
        }
        self.ready -= fewer.min(self.ready);
    }
}
