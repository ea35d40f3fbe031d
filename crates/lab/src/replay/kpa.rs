//! Knative's pod autoscaler with its defaults.
//!
//! Enters: what each tick served. Leaves: pods. Always holds: the rules of Knative Serving's `autoscaler` as documented: concurrency
//! over a stable window and a panic window, panic at twice what is ready, no pod taken away in panic.

use super::arrivals::{TICK_MS, TICKS_PER_S};
use super::plant::{Fleet, Served};
use std::collections::VecDeque;

/// `tick-interval`.
const TICK_INTERVAL_S: u64 = 2;
/// `stable-window`.
pub const STABLE_S: u64 = 60;
/// `panic-window-percentage`: 10.
pub const PANIC_S: u64 = 6;
/// `panic-threshold-percentage`.
pub const PANIC_PERCENT: u64 = 200;
/// `container-concurrency-target-percentage`.
pub const TARGET_PERCENT: u64 = 70;
/// `max-scale-up-rate` and `max-scale-down-rate`.
const UP_TIMES: u64 = 1_000;
const DOWN_TIMES: u32 = 2;

#[derive(Debug, Clone)]
pub struct Kpa {
    /// Requests that an instance works on at a time (`containerConcurrency`), and for how long on each.
    places: u64,
    work_ms: u64,
    pods_min: u32,
    start_ticks: u64,
    fleet: Fleet,
    /// Mean concurrency of each second, thousandths, the newest last.
    seconds: VecDeque<u64>,
    /// Summed over the ticks of this second.
    sum: u64,
    /// Second in which panic was last called for, and the most pods wanted since it began.
    panic: Option<(u64, u32)>,
    scale_ups: u64,
}

impl Kpa {
    pub fn new(rate_mps: u64, places: u64, pods_min: u32, start_s: u64) -> Self {
        Self {
            places,
            work_ms: places * 1_000_000 / rate_mps.max(1),
            pods_min,
            start_ticks: start_s * TICKS_PER_S,
            fleet: Fleet::of(pods_min),
            seconds: VecDeque::new(),
            sum: 0,
            panic: None,
            scale_ups: 0,
        }
    }
    pub fn ready(&mut self, tick: u64) -> u32 {
        self.fleet.advance(tick);
        self.fleet.ready
    }
    pub fn held(&self) -> u32 {
        self.fleet.all()
    }
    pub fn scale_ups(&self) -> u64 {
        self.scale_ups
    }

    pub fn see(&mut self, tick: u64, out: &Served) {
        // At work, and waiting at the activator.
        self.sum += out.served * self.work_ms * 1_000 / TICK_MS + out.queued * 1_000;
        if !(tick + 1).is_multiple_of(TICKS_PER_S) {
            return;
        }
        self.seconds.push_back(std::mem::take(&mut self.sum) / TICKS_PER_S);
        if self.seconds.len() > STABLE_S as usize {
            self.seconds.pop_front();
        }
        let s = (tick + 1) / TICKS_PER_S;
        if s.is_multiple_of(TICK_INTERVAL_S) {
            let wanted = self.wanted(s);
            self.scale(tick, wanted);
        }
    }

    fn pods_for(&self, window_s: u64) -> u64 {
        let recent = self.seconds.iter().rev().take(window_s as usize);
        let mean = recent.clone().sum::<u64>() / (recent.count() as u64).max(1);
        (mean * 100).div_ceil(self.places * 1_000 * TARGET_PERCENT)
    }

    fn wanted(&mut self, s: u64) -> u32 {
        let ready = u64::from(self.fleet.ready.max(1));
        let within = |pods: u64| u32::try_from(pods.min(ready * UP_TIMES)).unwrap_or(u32::MAX);
        let least = (self.fleet.ready / DOWN_TIMES).max(self.pods_min);
        let (stable, panic) = (within(self.pods_for(STABLE_S)).max(least), within(self.pods_for(PANIC_S)).max(least));
        let over = u64::from(panic) * 100 >= ready * PANIC_PERCENT;
        self.panic = match self.panic {
            _ if over => Some((s, self.panic.map_or(self.fleet.ready, |(_, most)| most))),
            Some((since, most)) if s - since < STABLE_S => Some((since, most)),
            _ => None,
        };
        match &mut self.panic {
            Some((_, most)) => {
                *most = (*most).max(panic).max(stable);
                *most
            }
            None => stable,
        }
    }

    fn scale(&mut self, tick: u64, wanted: u32) {
        let current = self.fleet.all();
        if wanted > current {
            self.fleet.order(wanted - current, tick + 1 + self.start_ticks);
            self.scale_ups += 1;
        } else {
            self.fleet.give_back(current - wanted);
        }
    }
}
