//! A small world in virtual time: a seeded Poisson stream, clients that ask again when they are answered, a gateway with one
//! queue, instances with a few places each, the real senses and the real judge, and lenders that deliver what a verdict asks
//! after two seconds.

use pumasi_judge::{Judgement, Memory, Policy, Refusal, Situation, Verdict, judge};
use pumasi_sense::{BackendKey, BackendMeter, MeterWindow, Observation, Sense, ServiceMeter, Settings};
use pumasi_terms::{BootMs, CloudName, InstanceId, LeaseId, Now, ServiceName, WallMs};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Places of one instance.
const PLACES: u64 = 4;
const QUEUE_MAX: usize = 512;
const WAIT_MAX_US: u64 = 1_000_000;
/// From an answer to a client's next request at the soonest, mean, and after one that was refused.
const TURN_US: f64 = 1_000.0;
const REFUSED_US: f64 = 20_000.0;

pub struct Lcg(u64);
impl Lcg {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }
}

/// What the world does at a moment.
#[derive(Clone, Copy)]
pub struct Weather {
    pub arrivals_per_second: f64,
    pub home_only: f64,
    /// Part of answers that fail.
    pub failing: f64,
    /// Time that one place works on a request, mean, ms. An instance does 4000 / this a second.
    pub work_ms: f64,
    pub user_rtt_us: u64,
    /// Requests that come at once.
    pub bunch: u64,
    /// Clients that wait for their answer, think, and ask again.
    pub clients: usize,
    /// Mean.
    pub think_ms: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            arrivals_per_second: 80.0,
            home_only: 0.0,
            failing: 0.0,
            work_ms: 40.0,
            user_rtt_us: 20_000,
            bunch: 1,
            clients: 0,
            think_ms: 0.0,
        }
    }
}

pub struct Told {
    pub at_ms: u64,
    pub what: Judgement,
}

pub struct World {
    pub rng: Lcg,
    pub policy: Policy,
    pub told: Vec<Told>,
    pub memory: Memory,
    pub borrowed: u32,
    pub home: u32,
    /// At home beyond that, and the most that there may be.
    pub spare: u32,
    pub spare_max: u32,
    /// Delivers nothing.
    pub barren: bool,
    /// From a verdict until it serves.
    pub delivery_ms: u64,
    pub lost: u64,
    /// What was observed last.
    pub seen: Option<Observation>,
    /// When, and how many there are then.
    coming: VecDeque<(u64, u32)>,
    sense: Sense,
    now_us: f64,
    next_us: f64,
    waiting: VecDeque<Request>,
    /// When each is done, and where: the first instances are at home.
    serving: Vec<(f64, usize, f64, Request)>,
    /// When each client asks next, us.
    thinking: BinaryHeap<Reverse<u64>>,
    clients: usize,
    seq: u64,
    meter: ServiceMeter,
    done: BTreeMap<usize, BackendMeter>,
}

#[derive(Clone, Copy)]
struct Request {
    arrived: f64,
    /// Of a client that waits for its answer.
    client: bool,
}

fn service() -> ServiceName {
    ServiceName::parse("shop").unwrap()
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Lcg::new(seed),
            policy: Policy::default(),
            told: Vec::new(),
            memory: Memory::default(),
            borrowed: 0,
            home: 1,
            spare: 0,
            spare_max: 0,
            barren: false,
            delivery_ms: 2_000,
            lost: 0,
            seen: None,
            coming: VecDeque::new(),
            sense: Sense::new(Settings::default()),
            now_us: 0.0,
            next_us: 0.0,
            waiting: VecDeque::new(),
            serving: Vec::new(),
            thinking: BinaryHeap::new(),
            clients: 0,
            seq: 0,
            meter: ServiceMeter::default(),
            done: BTreeMap::new(),
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.seq * 100
    }

    fn free_place(&self) -> Option<usize> {
        let mut busy = vec![0; (self.home + self.spare + self.borrowed) as usize];
        self.serving.iter().for_each(|(_, i, ..)| busy[*i] += 1);
        (0..busy.len()).filter(|i| busy[*i] < PLACES).min_by_key(|i| busy[*i])
    }

    fn start(&mut self, request: Request, at: f64, weather: &Weather, work_us: Option<f64>) {
        let Some(i) = self.free_place() else { return };
        self.meter.admitted += 1;
        self.meter.queue_delay.record((at - request.arrived) as u64);
        let work = work_us.unwrap_or_else(|| self.rng.exponential(weather.work_ms * 1_000.0));
        self.serving.push((at + work, i, work, request));
    }

    /// A client has its answer, or its refusal.
    fn think(&mut self, at: f64, refused: bool, weather: &Weather) {
        if self.clients > weather.clients {
            self.clients -= 1;
            return;
        }
        let turn = self.rng.exponential(if refused { REFUSED_US } else { TURN_US });
        let thought = self.rng.exponential(weather.think_ms * 1_000.0);
        self.thinking.push(Reverse((at + turn + thought) as u64));
    }

    fn shed(&mut self, request: Request, at: f64, weather: &Weather) {
        self.meter.shed += 1;
        if request.client {
            self.think(at, true, weather);
        }
    }

    /// One more request now, which takes so long.
    pub fn slow_request(&mut self, work_ms: f64, weather: &Weather) {
        self.meter.arrivals += 1;
        let request = Request { arrived: self.now_us, client: false };
        self.start(request, self.now_us, weather, Some(work_ms * 1_000.0));
    }

    /// Many requests at once.
    pub fn burst(&mut self, count: u64, weather: &Weather) {
        for _ in 0..count {
            self.arrive(self.now_us, false, weather);
        }
    }

    fn arrive(&mut self, at: f64, client: bool, weather: &Weather) {
        self.meter.arrivals += 1;
        self.meter.arrivals_home_only += u64::from(self.rng.unit() < weather.home_only);
        let request = Request { arrived: at, client };
        if self.free_place().is_some() {
            self.start(request, at, weather, None);
        } else if self.waiting.len() < QUEUE_MAX {
            self.waiting.push_back(request);
        } else {
            self.shed(request, at, weather);
        }
    }

    fn finish(&mut self, k: usize, weather: &Weather) {
        let (at, i, work, request) = self.serving.swap_remove(k);
        let failed = u64::from(self.rng.unit() < weather.failing);
        self.meter.completed += 1;
        self.meter.failed += failed;
        self.meter.app_time.record(work as u64);
        self.meter.user_rtt.record(weather.user_rtt_us);
        let done = self.done.entry(i).or_default();
        done.completed += 1;
        done.failed += failed;
        if request.client {
            self.think(at, false, weather);
        }
        self.fill(at, weather);
    }

    /// Who waits takes what is free.
    fn fill(&mut self, at: f64, weather: &Weather) {
        while self.free_place().is_some()
            && let Some(request) = self.waiting.pop_front()
        {
            if at - request.arrived > WAIT_MAX_US as f64 {
                self.shed(request, at, weather);
            } else {
                self.start(request, at, weather, None);
            }
        }
    }

    /// A tenth of a second.
    pub fn tick(&mut self, weather: &Weather) {
        let end = self.now_us + 100_000.0;
        if self.next_us < self.now_us {
            self.next_us = self.now_us;
        }
        while self.clients < weather.clients {
            self.clients += 1;
            self.think(self.now_us, false, weather);
        }
        self.fill(self.now_us, weather);
        let mut saturated_us = 0.0;
        loop {
            let first = (0..self.serving.len()).min_by(|a, b| self.serving[*a].0.total_cmp(&self.serving[*b].0));
            let done_at = first.map_or(f64::INFINITY, |k| self.serving[k].0);
            let asks_at = self.thinking.peek().map_or(f64::INFINITY, |at| f64::max(at.0 as f64, self.now_us));
            let at = done_at.min(self.next_us).min(asks_at).min(end);
            if self.free_place().is_none() {
                saturated_us += at - self.now_us;
            }
            self.now_us = at;
            if at >= end {
                break;
            }
            match first {
                Some(k) if done_at <= at => self.finish(k, weather),
                _ if asks_at <= at => {
                    self.thinking.pop();
                    if self.clients > weather.clients {
                        self.clients -= 1;
                    } else {
                        self.arrive(at, true, weather);
                    }
                }
                _ => {
                    (0..weather.bunch).for_each(|_| self.arrive(at, false, weather));
                    let bunches = weather.arrivals_per_second.max(0.001) / weather.bunch as f64;
                    self.next_us = at + self.rng.exponential(1_000_000.0 / bunches);
                }
            }
        }
        self.close(saturated_us > 50_000.0, weather);
    }

    fn close(&mut self, saturated: bool, weather: &Weather) {
        self.seq += 1;
        let mut meter = std::mem::take(&mut self.meter);
        self.lost += meter.shed;
        meter.queued = self.waiting.len() as u64;
        meter.in_flight = self.serving.len() as u64;
        meter.limit = u64::from(self.home + self.spare + self.borrowed) * PLACES;
        for i in 0..(self.home + self.spare + self.borrowed) as usize {
            let mut backend = self.done.remove(&i).unwrap_or_default();
            backend.limit = PLACES;
            backend.in_flight = self.serving.iter().filter(|(_, who, ..)| *who == i).count() as u64;
            backend.saturated = saturated;
            let key = if i < (self.home + self.spare) as usize {
                BackendKey::Home(InstanceId::from_entropy(i as u128))
            } else {
                BackendKey::Lease(CloudName::parse("b").unwrap(), LeaseId::from_entropy(i as u128))
            };
            meter.backends.insert(key, backend);
        }
        self.done.clear();
        let at = BootMs(self.seq * 100);
        let window = MeterWindow {
            version: 1,
            gateway_run: 1,
            seq: self.seq,
            at,
            span_ms: 100,
            table_revision: 1,
            services: [(service(), meter)].into(),
            leases: BTreeMap::new(),
        };
        self.sense.ingest(&window).unwrap();
        while let Some((when, count)) = self.coming.front().copied()
            && self.now_ms() >= when
        {
            self.spare = count.min(self.spare_max);
            self.borrowed = count - self.spare;
            self.coming.pop_front();
        }
        let now = Now { boot: at, wall: WallMs(self.seq as i64 * 100) };
        let seen = self.sense.observe(&service(), now).unwrap();
        let wanted = self.coming.back().map_or(self.spare + self.borrowed, |(_, n)| *n);
        let spare_wanted = wanted.min(self.spare_max);
        let situation = Situation {
            home_instances_ready: self.home + self.spare,
            home_instances_spare: self.spare,
            home_instances_coming: spare_wanted - self.spare,
            home_instances_room: self.spare_max - spare_wanted,
            borrowed_instances_ready: self.borrowed,
            borrowed_instances_coming: (wanted - spare_wanted).saturating_sub(self.borrowed),
            application_generation: 1,
        };
        let (memory, what) = judge(&self.memory, &seen, &self.policy, &situation, now);
        self.memory = memory;
        self.seen = Some(seen);
        if let Judgement::Change(verdict) = &what {
            let count = verdict.borrowed_wanted;
            if count < self.spare + self.borrowed {
                // What is borrowed goes first.
                self.spare = self.spare.min(count);
                self.borrowed = count - self.spare;
                self.coming.clear();
                let last = (self.home + self.spare + self.borrowed) as usize;
                let (stay, leave) = std::mem::take(&mut self.serving).into_iter().partition(|(_, i, ..)| *i < last);
                self.serving = stay;
                let leave: Vec<(f64, usize, f64, Request)> = leave;
                for (at, _, _, request) in leave {
                    if request.client {
                        self.think(at, false, weather);
                    }
                }
            } else if !self.barren {
                self.coming.push_back((self.now_ms() + self.delivery_ms, count));
            }
        }
        if what != Judgement::Steady {
            self.told.push(Told { at_ms: self.now_ms(), what });
        }
    }

    pub fn run(&mut self, ms: u64, weather: &Weather) {
        for _ in 0..ms / 100 {
            self.tick(weather);
        }
    }

    pub fn verdicts(&self) -> Vec<(u64, Verdict)> {
        let change = |t: &Told| match &t.what {
            Judgement::Change(v) => Some((t.at_ms, v.clone())),
            _ => None,
        };
        self.told.iter().filter_map(change).collect()
    }

    pub fn refusals(&self) -> Vec<Refusal> {
        let refused = |t: &Told| match &t.what {
            Judgement::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        };
        self.told.iter().filter_map(refused).collect()
    }
}
