//! How many requests one backend may have at a time.
//!
//! Enters: the application time of each answered request, with how many were in flight when it was handed over.
//! Leaves: a limit near the knee of the backend: where more in flight no longer means more answers, only longer waits.
//! Always holds: `instances <= limit <= max * instances`; no clock and no randomness inside.
//!
//! As in TCP Vegas, the requests that wait inside the application are estimated as `in flight * (1 - unloaded / measured)`.
//! A few may wait there, so that bursts of a steady load pass through; the rest waits in the gateway's own queue, where it
//! is seen. The unloaded time is learnt from requests that met an almost idle backend. If none comes for long (a constant
//! overload, or an application that has become slower), a probe raises the limit for a moment: if the answers rise with it,
//! the backend was below its knee and its time of now is the unloaded one.
//!
//! Where all places are held and nothing is answered for longer than an answer takes, what holds them may be no work at all
//! (long polls): the limit doubles. If it was work, the next answers tell, and the limit goes back at once.
//!
//! Some applications let only a handful of connections wait at their door (Python's `http.server`: five). Where one more found no
//! room, the limit stays below that number, and tries a higher one now and then.

/// Waiting inside the application that is let be, requests an instance.
const INSIDE_MAX: f64 = 6.0;
/// The same as time: slow requests may not pile up to `INSIDE_MAX` of them.
const INSIDE_US: f64 = 100_000.0;
/// Measured times up to this factor above the unloaded one are taken for noise.
const TOLERANCE: f64 = 1.3;
const WINDOW_US: u64 = 200_000;
const PROBE_FIRST_US: u64 = 3_000_000;
const PROBE_LAST_US: u64 = 60_000_000;
/// Nothing was answered for so long, or for twice an unloaded answer's time: places are held by what may be no work.
const STANDSTILL_US: u64 = 100_000;
/// An answer that took so many times the unloaded one's time, or so long, still shows an instance with room.
const QUICK_TIMES: f64 = 3.0;
const QUICK_US: u64 = 20_000;
/// So long after the last overrun one more an instance is tried.
const CEILING_US: u64 = 10_000_000;

#[derive(Debug, Clone, Default)]
struct Window {
    since_us: u64,
    samples: u32,
    app_us: f64,
    in_flight: f64,
    /// A request found no place in it.
    limited: bool,
}

#[derive(Debug, Clone)]
struct Probe {
    limit_before: f64,
    in_flight_before: f64,
    rate_before: f64,
    /// The first window still holds answers to requests from before.
    settled: bool,
}

#[derive(Debug, Clone)]
pub struct Limiter {
    instances: u32,
    max: u32,
    limit: f64,
    unloaded_us: f64,
    unloaded_samples: u32,
    unloaded_at_us: u64,
    window: Window,
    probe: Option<Probe>,
    probe_after_us: u64,
    probe_pause_us: u64,
    /// At least one more than this was too many for its door.
    ceiling: f64,
    overrun_at_us: u64,
    /// Where it stood before it grew because nothing moved.
    before_growth: Option<f64>,
}

impl Limiter {
    /// `initial` and `max` are per instance.
    pub fn new(initial: u32, max: u32, instances: u32) -> Self {
        let (instances, max) = (instances.max(1), max.max(1));
        Self {
            instances,
            max,
            limit: f64::from(initial.clamp(1, max)) * f64::from(instances),
            unloaded_us: 0.0,
            unloaded_samples: 0,
            unloaded_at_us: 0,
            window: Window::default(),
            probe: None,
            probe_after_us: 0,
            probe_pause_us: PROBE_FIRST_US,
            ceiling: f64::INFINITY,
            overrun_at_us: 0,
            before_growth: None,
        }
    }

    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// The backend grew or shrank, or its bounds were changed by people.
    pub fn resize(&mut self, max: u32, instances: u32) {
        let (instances, max) = (instances.max(1), max.max(1));
        if instances != self.instances {
            self.limit *= f64::from(instances) / f64::from(self.instances);
            self.ceiling *= f64::from(instances) / f64::from(self.instances);
            self.probe = None;
        }
        (self.instances, self.max) = (instances, max);
        self.bound();
    }

    /// A request found no place.
    pub fn limited(&mut self) {
        self.window.limited = true;
    }

    /// Whether that answer came as fast as from an instance with little to do.
    pub fn is_quick(&self, app_us: u64) -> bool {
        app_us <= QUICK_US || self.unloaded_samples == 0 || app_us as f64 <= self.unloaded_us * QUICK_TIMES
    }

    /// Whether nothing moves: all places held, and nothing answered for `still_us`.
    pub fn stands(&self, still_us: u64) -> bool {
        still_us >= STANDSTILL_US.max(2 * self.unloaded_us as u64)
    }

    /// Nothing moved.
    pub fn grow(&mut self) {
        self.before_growth.get_or_insert(self.limit);
        self.limit *= 2.0;
        self.bound();
    }

    /// A connection found no room at the backend's door, when `in_flight` requests were there, itself included.
    pub fn overrun(&mut self, now_us: u64, in_flight: u32) {
        let fewer = f64::from(in_flight.saturating_sub(1).max(self.instances));
        self.ceiling = self.ceiling.min(fewer);
        self.overrun_at_us = now_us;
        self.probe = None;
        self.bound();
    }

    /// An answer came `app_us` after it was asked for, when `in_flight` requests were there, itself included.
    pub fn sample(&mut self, now_us: u64, in_flight: u32, app_us: u64) {
        let app_us = app_us.max(1) as f64;
        if in_flight <= (self.limit() / 4).max(self.instances) {
            self.learn(app_us);
            self.unloaded_at_us = now_us;
        }
        let w = &mut self.window;
        if w.samples == 0 && w.since_us == 0 {
            w.since_us = now_us;
        }
        w.samples += 1;
        w.app_us += app_us;
        w.in_flight += f64::from(in_flight);
        let (age, round) = (now_us.saturating_sub(w.since_us), (self.limit as u32).max(8));
        if w.samples >= round || (age >= WINDOW_US && w.samples >= 3) {
            self.close(now_us);
        }
    }

    fn learn(&mut self, app_us: f64) {
        self.unloaded_samples = (self.unloaded_samples + 1).min(50);
        self.unloaded_us += (app_us - self.unloaded_us) / f64::from(self.unloaded_samples);
    }

    fn close(&mut self, now_us: u64) {
        if self.ceiling.is_finite() && now_us.saturating_sub(self.overrun_at_us) >= CEILING_US {
            self.ceiling += f64::from(self.instances);
            self.overrun_at_us = now_us;
        }
        let w = std::mem::replace(&mut self.window, Window { since_us: now_us, ..Window::default() });
        let n = f64::from(w.samples);
        let (app_us, in_flight) = (w.app_us / n, w.in_flight / n);
        let rate = n / (now_us.saturating_sub(w.since_us).max(1) as f64);
        if self.unloaded_samples == 0 {
            self.unloaded_us = app_us;
            self.unloaded_at_us = now_us;
        } else if app_us < self.unloaded_us {
            self.unloaded_us += (app_us - self.unloaded_us) * 0.1;
        }
        if self.ends_probe(now_us, app_us, in_flight, rate) {
            return;
        }
        let instances = f64::from(self.instances);
        let inside = in_flight * (1.0 - self.unloaded_us * TOLERANCE / app_us).max(0.0);
        let per_instance_us = app_us / in_flight.max(1.0) * instances;
        let low = (INSIDE_US / per_instance_us).clamp(1.0, INSIDE_MAX) * instances;
        let high = low + (low * 2.0 / 3.0).max(instances);
        if inside <= high {
            self.before_growth = None;
        }
        if inside > high {
            // The share of the requests that is being worked on, and room for those that may wait.
            let target = in_flight - inside + (low + high) / 2.0;
            let floor = self.before_growth.take().unwrap_or(self.limit * 0.7);
            self.limit = self.limit.min(target.max(floor));
        } else if w.limited && inside < low {
            self.limit += (self.limit * 0.5 * (1.0 - inside / low)).max(1.0);
        } else if w.limited && self.may_probe(now_us) {
            self.probe = Some(Probe {
                limit_before: self.limit,
                in_flight_before: in_flight,
                rate_before: rate,
                settled: false,
            });
            self.limit += (self.limit * 0.5).max(2.0 * instances);
        }
        self.bound();
    }

    fn may_probe(&mut self, now_us: u64) -> bool {
        if self.probe_after_us == 0 {
            self.probe_after_us = now_us + self.probe_pause_us;
        }
        now_us >= self.probe_after_us && now_us.saturating_sub(self.unloaded_at_us) >= PROBE_FIRST_US
    }

    /// True while a probe has the word.
    fn ends_probe(&mut self, now_us: u64, app_us: f64, in_flight: f64, rate: f64) -> bool {
        let Some(probe) = &mut self.probe else { return false };
        if !probe.settled {
            probe.settled = true;
            return true;
        }
        let grown = in_flight / probe.in_flight_before.max(1.0) - 1.0;
        if grown > 0.05 && rate >= probe.rate_before * (1.0 + grown / 2.0) {
            self.unloaded_us = app_us;
            self.unloaded_samples = 1;
            self.probe_pause_us = PROBE_FIRST_US;
        } else {
            self.limit = probe.limit_before;
            self.probe_pause_us = (self.probe_pause_us * 2).min(PROBE_LAST_US);
        }
        self.probe = None;
        self.probe_after_us = now_us + self.probe_pause_us;
        self.bound();
        true
    }

    fn bound(&mut self) {
        let instances = f64::from(self.instances);
        let most = self.ceiling.min(f64::from(self.max) * instances).max(instances);
        self.limit = self.limit.clamp(instances, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, VecDeque};

    /// A backend of `servers` equal workers that take requests in order, behind a limiter and a bounded queue.
    struct Sim {
        limiter: Limiter,
        servers: usize,
        seed: u64,
        now: u64,
        wait_max: u64,
        queue: VecDeque<u64>,
        inside: VecDeque<(u64, u32)>,
        busy: BTreeMap<(u64, u64), (u64, u32)>,
        serial: u64,
        in_flight: u32,
    }

    #[derive(Default)]
    struct Seen {
        delays: Vec<u64>,
        answered: u64,
        shed: u64,
        in_flight_max: u32,
    }

    impl Seen {
        fn p95(&mut self) -> u64 {
            self.delays.sort_unstable();
            self.delays.get(self.delays.len() * 95 / 100).copied().unwrap_or(0)
        }
    }

    impl Sim {
        fn new(limiter: Limiter, servers: usize) -> Self {
            Self {
                limiter,
                servers,
                seed: 42,
                now: 1,
                wait_max: 1_000_000,
                queue: VecDeque::new(),
                inside: VecDeque::new(),
                busy: BTreeMap::new(),
                serial: 0,
                in_flight: 0,
            }
        }
        fn random(&mut self) -> f64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.seed >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        }
        /// Arrivals at random with `rate` a second; `work` gives the work of each, us.
        fn run(&mut self, seconds: f64, rate: f64, work: impl Fn(f64) -> u64) -> Seen {
            let mut seen = Seen::default();
            let end = self.now + (seconds * 1e6) as u64;
            let mut next = self.now;
            while self.now < end {
                let done = self.busy.keys().next().map_or(u64::MAX, |k| k.0);
                if next <= done {
                    self.now = next;
                    self.queue.push_back(next);
                    next += (-self.random().ln() / rate * 1e6) as u64 + 1;
                } else {
                    self.now = done;
                    if let Some((_, (entered, n))) = self.busy.pop_first() {
                        self.in_flight -= 1;
                        seen.answered += 1;
                        self.limiter.sample(self.now, n, self.now - entered);
                    }
                }
                while let Some(&since) = self.queue.front() {
                    if self.now - since > self.wait_max {
                        self.queue.pop_front();
                        seen.shed += 1;
                        continue;
                    }
                    if self.in_flight >= self.limiter.limit() {
                        self.limiter.limited();
                        break;
                    }
                    self.queue.pop_front();
                    seen.delays.push(self.now - since);
                    self.in_flight += 1;
                    seen.in_flight_max = seen.in_flight_max.max(self.in_flight);
                    self.inside.push_back((self.now, self.in_flight));
                }
                while self.busy.len() < self.servers {
                    let Some(entry) = self.inside.pop_front() else { break };
                    let r = self.random();
                    self.serial += 1;
                    self.busy.insert((self.now + work(r), self.serial), entry);
                }
            }
            seen
        }
    }

    #[test]
    fn four_fifths_of_a_single_worker_pass_without_a_wait() {
        let mut sim = Sim::new(Limiter::new(8, 256, 1), 1);
        let mut seen = sim.run(60.0, 80.0, |_| 10_000);
        assert!(seen.p95() <= 20_000, "p95 {} us", seen.p95());
        assert_eq!(seen.shed, 0);
    }

    #[test]
    fn an_overload_waits_in_our_queue_and_not_in_the_application() {
        let mut sim = Sim::new(Limiter::new(8, 256, 1), 1);
        sim.run(10.0, 50.0, |_| 10_000);
        // Within a second of the jump the wait is plain to see, and it stays so for minutes.
        let mut first = sim.run(1.0, 300.0, |_| 10_000);
        assert!(first.p95() > 100_000, "p95 {} us", first.p95());
        let mut long = sim.run(120.0, 300.0, |_| 10_000);
        assert!(long.p95() > 500_000, "p95 {} us", long.p95());
        assert!(long.in_flight_max <= 24, "{} in flight", long.in_flight_max);
        assert!(long.answered >= 119 * 100, "{} answered", long.answered);
    }

    #[test]
    fn an_overload_from_the_first_request_on_is_seen() {
        let mut sim = Sim::new(Limiter::new(8, 256, 1), 2);
        let mut seen = sim.run(5.0, 900.0, |_| 5_000);
        assert!(seen.p95() > 300_000, "p95 {} us", seen.p95());
        assert!(seen.in_flight_max <= 32, "{} in flight", seen.in_flight_max);
    }

    #[test]
    fn an_application_that_mostly_waits_gets_its_many_places() {
        let mut sim = Sim::new(Limiter::new(8, 512, 1), 300);
        sim.run(2.0, 1_500.0, |_| 100_000);
        let mut seen = sim.run(10.0, 1_500.0, |_| 100_000);
        assert!(seen.p95() <= 1_000, "p95 {} us, limit {}", seen.p95(), sim.limiter.limit());
    }

    #[test]
    fn an_application_that_became_slower_is_believed_in_the_end() {
        let mut sim = Sim::new(Limiter::new(8, 512, 1), 300);
        sim.run(10.0, 800.0, |_| 50_000);
        sim.run(40.0, 500.0, |_| 400_000);
        let mut seen = sim.run(10.0, 500.0, |_| 400_000);
        assert!(seen.p95() <= 50_000, "p95 {} us, limit {}", seen.p95(), sim.limiter.limit());
    }

    #[test]
    fn cheap_and_dear_requests_together_do_not_starve_it() {
        let work = |r: f64| if r < 0.9 { 2_000 } else { 40_000 };
        // 16 workers at 5.8 ms a request: 2758 a second; three quarters of it.
        let mut sim = Sim::new(Limiter::new(8, 256, 1), 16);
        sim.run(5.0, 2_000.0, work);
        let mut seen = sim.run(20.0, 2_000.0, work);
        assert!(seen.p95() <= 20_000, "p95 {} us, limit {}", seen.p95(), sim.limiter.limit());
    }

    #[test]
    fn places_that_stand_still_are_doubled_and_taken_back_if_it_was_work() {
        let mut limiter = Limiter::new(8, 256, 1);
        (0..20).for_each(|i| limiter.sample(i * 30_000 + 1, 1, 10_000));
        let before = limiter.limit();
        assert!(!limiter.stands(50_000) && limiter.stands(100_000));
        (0..4).for_each(|_| limiter.grow());
        assert_eq!(limiter.limit(), before * 16);
        assert!(
            (0..10)
                .fold(limiter.clone(), |mut l, _| {
                    l.grow();
                    l
                })
                .limit()
                == 256,
            "not beyond all bounds"
        );
        // They waited for the one processor.
        let since = 2_000_000;
        (0..8).for_each(|i| limiter.sample(since + i * 100_000, before * 16, 1_000_000));
        assert!(limiter.limit() <= before * 3 / 2, "{} of {before}", limiter.limit());
        // Slow answers take their time.
        let mut slow = Limiter::new(8, 256, 1);
        slow.sample(1, 1, 400_000);
        assert!(!slow.stands(700_000) && slow.stands(800_000));
    }

    #[test]
    fn a_narrow_door_is_remembered_and_tried_again_later() {
        let mut limiter = Limiter::new(8, 256, 1);
        limiter.overrun(1, 7);
        assert_eq!(limiter.limit(), 6);
        let busy = |limiter: &mut Limiter, from: u64, to: u64| {
            for now in (from..to).step_by(10_000) {
                limiter.limited();
                limiter.sample(now, limiter.limit(), 5_000);
            }
        };
        busy(&mut limiter, 2, CEILING_US - 300_000);
        assert_eq!(limiter.limit(), 6, "it grew back at once");
        busy(&mut limiter, CEILING_US, CEILING_US + 1_000_000);
        assert_eq!(limiter.limit(), 7);
        limiter.overrun(CEILING_US + 1_000_000, 1);
        assert_eq!(limiter.limit(), 1, "one at a time is always let through");
    }

    #[test]
    fn bounds_hold_when_instances_come_and_go() {
        let mut limiter = Limiter::new(8, 16, 1);
        limiter.resize(16, 4);
        assert_eq!(limiter.limit(), 32);
        limiter.resize(2, 1);
        assert_eq!(limiter.limit(), 2);
        for i in 0..1_000 {
            limiter.limited();
            limiter.sample(i * 1_000, 2, 1_000_000);
        }
        assert!((1..=2).contains(&limiter.limit()));
    }
}
