//! A load of clients: each waits for its answer, thinks, and asks again.
//!
//! Enters: how many clients there are in each step, what was answered. Leaves: requests of each tick. Always holds: a client has
//! one request at a time; the same answers and seed give the same requests.

use super::arrivals::{TICK_MS, TICKS_PER_S, mix, unit};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct Clients<'a> {
    counts: &'a [u64],
    step_s: u64,
    think_ms: u64,
    /// How many ask at which tick.
    due: BTreeMap<u64, u64>,
    /// With a request in the queue or at work.
    asking: u64,
    state: u64,
}

impl<'a> Clients<'a> {
    pub fn new(counts: &'a [u64], step_s: u64, think_ms: u64, seed: u64) -> Self {
        Self { counts, step_s: step_s.max(1), think_ms, due: BTreeMap::new(), asking: 0, state: mix(seed) }
    }

    pub fn seconds(&self) -> u64 {
        self.counts.len() as u64 * self.step_s
    }

    /// Requests in a tick; `at`: of the load, None before it.
    pub fn ask(&mut self, tick: u64, at: Option<u64>) -> u64 {
        let step = at.map_or(0, |t| (t / TICKS_PER_S / self.step_s) as usize);
        let wanted = self.counts.get(step).copied().unwrap_or(0);
        let mut asks = 0;
        while let Some(first) = self.due.first_entry().filter(|e| *e.key() <= tick) {
            asks += first.remove();
        }
        let all = self.asking + self.due.values().sum::<u64>() + asks;
        // Who joins asks at once; who is too many leaves when it is his turn to ask.
        asks = (asks + wanted.saturating_sub(all)).saturating_sub(all.saturating_sub(wanted));
        self.asking += asks;
        asks
    }

    /// So many have their answer, or were refused.
    pub fn answered(&mut self, tick: u64, count: u64) {
        self.asking -= count.min(self.asking);
        for _ in 0..count {
            let thought_ms = -unit(&mut self.state).ln() * self.think_ms as f64;
            *self.due.entry(tick + 1 + (thought_ms / TICK_MS as f64) as u64).or_default() += 1;
        }
    }
}
