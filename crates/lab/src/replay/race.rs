//! Running the policies over the load.

use super::arrivals::{Arrivals, TICKS_PER_S};
use super::clients::Clients;
use super::hindsight::{self, Schedule, Sight, Tuning};
use super::hpa::{Hpa, Metric};
use super::kpa::Kpa;
use super::load::{Kind, Load, Run};
use super::ours::{Ours, PLACES};
use super::plant::{Plant, Served};
use anyhow::Context;
use serde::Serialize;
use std::sync::Mutex;

/// What is the same for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// What one instance completes, thousandths a second.
    pub instance_mps: u64,
    /// Instances that are always there (HPA: minReplicas).
    pub home: u32,
    /// HPA's and KEDA's target, percent of an instance.
    pub hpa_target_percent: u64,
    /// A request that waited so long is lost, ms.
    pub wait_max_ms: u64,
    /// The promise: p95 of the wait, ms.
    pub objective_ms: u64,
    pub starts_s: Vec<u64>,
    pub seed: u64,
    /// Capacity-hours that hindsight may spend, percent of HPA's.
    pub hours_percent: u64,
    /// Whether the best in hindsight are looked for, which takes most of the time.
    pub hindsight: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            instance_mps: 50_000,
            home: 2,
            hpa_target_percent: 50,
            wait_max_ms: 500,
            objective_ms: 50,
            starts_s: vec![5, 30, 60],
            seed: 1,
            hours_percent: 110,
            hindsight: true,
        }
    }
}

/// Before anything counts: a little more than home can do, so that capacity is learned, then the first count of the load.
const CALIBRATION_S: u64 = 30;
const WARM_UP_S: u64 = 900;

/// One policy at one start delay.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Entry {
    pub policy: String,
    pub start_s: u64,
    pub requests: u64,
    pub lost: u64,
    pub violated_s: u64,
    /// Serving and starting.
    pub instance_seconds: u64,
    pub scale_ups: u64,
    pub peak: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
}

impl Entry {
    pub fn lost_percent(&self) -> f64 {
        100.0 * self.lost as f64 / (self.requests as f64).max(1.0)
    }
    pub fn instance_hours(&self) -> f64 {
        self.instance_seconds as f64 / 3_600.0
    }
    fn add(&mut self, more: &Entry) {
        self.requests += more.requests;
        self.lost += more.lost;
        self.violated_s += more.violated_s;
        self.instance_seconds += more.instance_seconds;
        self.scale_ups += more.scale_ups;
        self.peak = self.peak.max(more.peak);
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Race {
    pub version: u32,
    pub setting: Setting,
    pub step_s: u64,
    pub steps: usize,
    pub runs: usize,
    pub kind: Kind,
    /// Requests of the highest second; None where they depend on the answers.
    pub second_max: Option<u64>,
    pub filled_steps: u64,
    pub entries: Vec<Entry>,
}

enum Contender<'a> {
    Ours(Box<Ours>),
    Hpa(Hpa),
    Kpa(Kpa),
    Schedule(&'a Schedule),
}

impl Contender<'_> {
    fn ready(&mut self, tick: u64, from: u64) -> u32 {
        match self {
            Self::Ours(o) => o.ready(tick),
            Self::Hpa(h) => h.ready(tick),
            Self::Kpa(k) => k.ready(tick),
            Self::Schedule(s) => at(&s.ready, tick, from),
        }
    }
    fn held(&self, tick: u64, from: u64) -> u32 {
        match self {
            Self::Ours(o) => o.held(),
            Self::Hpa(h) => h.held(),
            Self::Kpa(k) => k.held(),
            Self::Schedule(s) => at(&s.held, tick, from),
        }
    }
    fn scale_ups(&self) -> u64 {
        match self {
            Self::Ours(o) => o.scale_ups(),
            Self::Hpa(h) => h.scale_ups(),
            Self::Kpa(k) => k.scale_ups(),
            Self::Schedule(s) => s.scale_ups,
        }
    }
    fn see(&mut self, tick: u64, out: Served) -> anyhow::Result<()> {
        match self {
            Self::Ours(o) => o.see(tick, out),
            Self::Hpa(h) => {
                h.see(tick, &out);
                Ok(())
            }
            Self::Kpa(k) => {
                k.see(tick, &out);
                Ok(())
            }
            Self::Schedule(_) => Ok(()),
        }
    }
}

fn at(of: &[u32], tick: u64, from: u64) -> u32 {
    let s = (tick.saturating_sub(from) / TICKS_PER_S) as usize;
    of.get(s).or(of.last()).copied().unwrap_or(0)
}

/// What happened in one second.
#[derive(Debug, Default)]
struct Second {
    waits: Vec<(u64, u64)>,
    lost: u64,
}

impl Second {
    fn violated(&mut self, objective_ms: u64) -> bool {
        let (late, all) = self
            .waits
            .iter()
            .fold((0, 0), |(late, all), (ms, n)| (late + if *ms > objective_ms { *n } else { 0 }, all + n));
        let violated = self.lost > 0 || late * 20 > all;
        (self.lost, self.waits) = (0, Vec::new());
        violated
    }
}

/// Who asks.
enum Source<'a> {
    Requests(&'a Arrivals<'a>),
    Clients(Box<Clients<'a>>),
}

impl Source<'_> {
    fn ticks(&self) -> u64 {
        match self {
            Self::Requests(arrivals) => arrivals.ticks(),
            Self::Clients(clients) => clients.seconds() * TICKS_PER_S,
        }
    }
    /// `at`: of the load; None before it.
    fn ask(&mut self, tick: u64, at: Option<u64>) -> u64 {
        match self {
            Self::Requests(arrivals) => at.map_or_else(|| arrivals.at_start(tick), |t| arrivals.at(t)),
            Self::Clients(clients) => clients.ask(tick, at),
        }
    }
    fn answered(&mut self, tick: u64, out: &Served) {
        if let Self::Clients(clients) = self {
            clients.answered(tick, out.served + out.lost);
        }
    }
}

/// `progress`: seconds of load done since the last call.
fn run(
    policy: &str,
    mut contender: Contender<'_>,
    mut source: Source<'_>,
    setting: &Setting,
    start_s: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Entry> {
    let mut plant = Plant::new(setting.instance_mps, setting.wait_max_ms);
    let warm = (CALIBRATION_S + WARM_UP_S) * TICKS_PER_S;
    let calibration = setting.instance_mps * u64::from(setting.home) * 13 / 10 / 1_000 / TICKS_PER_S + 1;
    let mut entry = Entry { policy: policy.into(), start_s, ..Entry::default() };
    let mut second = Second::default();
    let mut ups_before = 0;
    for tick in 0..warm + source.ticks() {
        let calibrates = tick < CALIBRATION_S * TICKS_PER_S;
        let arrived = if calibrates { calibration } else { source.ask(tick, tick.checked_sub(warm)) };
        let ready = contender.ready(tick, warm);
        let out = plant.step(tick, arrived, ready);
        if !calibrates {
            source.answered(tick, &out);
        }
        if tick < warm {
            contender.see(tick, out)?;
            ups_before = match contender {
                Contender::Schedule(_) => 0,
                _ => contender.scale_ups(),
            };
            continue;
        }
        let held = contender.held(tick, warm);
        entry.requests += out.arrived;
        entry.lost += out.lost;
        entry.instance_seconds += u64::from(held);
        entry.peak = entry.peak.max(held);
        second.lost += out.lost;
        second.waits.extend(out.waits.iter().copied());
        contender.see(tick, out)?;
        if (tick + 1) % TICKS_PER_S == 0 {
            entry.violated_s += u64::from(second.violated(setting.objective_ms));
            if (tick + 1) % (600 * TICKS_PER_S) == 0 {
                progress(600);
            }
        }
    }
    entry.instance_seconds /= TICKS_PER_S;
    entry.scale_ups = contender.scale_ups() - ups_before;
    Ok(entry)
}

/// All policies over one run of the load at one start delay, but for the tuned ones.
fn contenders(
    load: &Load,
    index: usize,
    setting: &Setting,
    start_s: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Vec<Entry>> {
    let Some(one) = load.runs.get(index) else { return Ok(Vec::new()) };
    let arrivals = arrivals_of(load, one, index, setting);
    let source = || match load.kind {
        Kind::Requests { .. } => Source::Requests(&arrivals),
        Kind::Clients { think_ms } => {
            Source::Clients(Box::new(Clients::new(&one.counts, load.step_s, think_ms, setting.seed)))
        }
    };
    let silent = |_| {};
    let hpa = |metric| {
        Contender::Hpa(Hpa::new(metric, setting.instance_mps, setting.hpa_target_percent, setting.home, start_s))
    };
    let kpa = Contender::Kpa(Kpa::new(setting.instance_mps, PLACES, setting.home, start_s));
    let ours = Contender::Ours(Box::new(Ours::new(setting, start_s)?));
    let mut entries = vec![run(OURS, ours, source(), setting, start_s, progress)?];
    let others = [(HPA, hpa(Metric::Cpu)), (DELAYED, hpa(Metric::CpuDelayed)), (KEDA, hpa(Metric::Keda)), (KPA, kpa)];
    for (name, contender) in others {
        entries.push(run(name, contender, source(), setting, start_s, &silent)?);
    }
    // What clients ask depends on what they were answered: nobody knows it beforehand.
    if load.is_of_requests() {
        let known = hindsight::clairvoyant(&arrivals, setting, start_s);
        entries.push(run(CLAIRVOYANT, Contender::Schedule(&known), source(), setting, start_s, &silent)?);
    }
    Ok(entries)
}

pub const OURS: &str = "pumasi";
pub const HPA: &str = "hpa";
pub const DELAYED: &str = "hpa-delayed";
pub const KEDA: &str = "keda";
pub const KPA: &str = "kpa";
pub const TUNED: &str = "tuned";
pub const HINDSIGHT: &str = "hindsight";
pub const CLAIRVOYANT: &str = "clairvoyant";

fn arrivals_of<'a>(load: &Load, run: &'a Run, index: usize, setting: &Setting) -> Arrivals<'a> {
    let bunch = match load.kind {
        Kind::Requests { bunch } => bunch,
        Kind::Clients { .. } => 1,
    };
    let seed = setting.seed.wrapping_mul(1_000_003).wrapping_add(index as u64);
    Arrivals::new(&run.counts, load.step_s, seed).bunched(bunch)
}

fn second_max(load: &Load, setting: &Setting) -> u64 {
    let of = |(i, run): (usize, &Run)| {
        let arrivals = arrivals_of(load, run, i, setting);
        let second = |s: u64| (s * TICKS_PER_S..(s + 1) * TICKS_PER_S).map(|t| arrivals.at(t)).sum::<u64>();
        (0..arrivals.seconds()).map(second).max().unwrap_or(0)
    };
    load.runs.iter().enumerate().map(of).max().unwrap_or(0)
}

/// The whole race. `progress` hears of seconds of load that are done, of `runs * starts` in all.
pub fn race(load: &Load, setting: &Setting, progress: &(dyn Fn(u64) + Sync)) -> anyhow::Result<Race> {
    let jobs: Vec<(usize, u64)> =
        setting.starts_s.iter().flat_map(|start| (0..load.runs.len()).map(move |i| (i, *start))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done: Mutex<Vec<Option<anyhow::Result<Vec<Entry>>>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len()).min(16);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((i, start_s)) = jobs.get(n) else { return };
                    let result = contenders(load, *i, setting, *start_s, progress);
                    if let Ok(mut done) = done.lock() {
                        done[n] = Some(result);
                    }
                }
            });
        }
    });
    let done = done.into_inner().map_err(|_| anyhow::anyhow!("a worker of the race broke off"))?;
    let mut entries: Vec<Entry> = Vec::new();
    for result in done {
        for entry in result.context("a worker of the race broke off")?? {
            match entries.iter_mut().find(|e| e.policy == entry.policy && e.start_s == entry.start_s) {
                Some(sum) => sum.add(&entry),
                None => entries.push(entry),
            }
        }
    }
    for start_s in setting.starts_s.iter().filter(|_| load.is_of_requests() && setting.hindsight) {
        let hpa = entries.iter().find(|e| e.policy == HPA && e.start_s == *start_s).map_or(0, |e| e.instance_seconds);
        for (policy, sight) in [(TUNED, Sight::Counts), (HINDSIGHT, Sight::Rate)] {
            entries.push(best_of(policy, sight, load, setting, *start_s, hpa * setting.hours_percent / 100)?);
        }
    }
    let order = [OURS, HPA, DELAYED, KEDA, KPA, TUNED, HINDSIGHT, CLAIRVOYANT];
    entries.sort_by_key(|e| (e.start_s, order.iter().position(|o| *o == e.policy)));
    Ok(Race {
        version: 1,
        setting: setting.clone(),
        step_s: load.step_s,
        steps: load.steps(),
        runs: load.runs.len(),
        kind: load.kind,
        second_max: load.is_of_requests().then(|| second_max(load, setting)),
        filled_steps: load.filled,
        entries,
    })
}

/// Steady load at four fifths of what home can do, for so long, must bring no order: who would take chance for growth every
/// few minutes is no policy that anybody lets borrow.
const STEADY_S: usize = 600;

fn keeps_still(setting: &Setting, start_s: u64, tuning: Tuning) -> bool {
    let counts = vec![setting.instance_mps * u64::from(setting.home) * 4 / 5 / 1_000; STEADY_S];
    let steady = Arrivals::new(&counts, 1, setting.seed.wrapping_mul(7_368_787));
    let seen = hindsight::seen(&steady, &hindsight::rates(&steady), Sight::Counts, tuning.over_s);
    hindsight::tuned(&seen, setting, start_s, tuning).held.iter().all(|n| *n == setting.home)
}

/// So many of the family are played out; the others are left out by a reckoning without chance.
const PLAYED_OUT: usize = 8;

/// The best of the family on this very load, within so many instance-seconds.
fn best_of(
    policy: &str,
    sight: Sight,
    load: &Load,
    setting: &Setting,
    start_s: u64,
    seconds_max: u64,
) -> anyhow::Result<Entry> {
    let arrivals: Vec<Arrivals<'_>> =
        load.runs.iter().enumerate().map(|(i, r)| arrivals_of(load, r, i, setting)).collect();
    let rates: Vec<Vec<f64>> = arrivals.iter().map(hindsight::rates).collect();
    let mut family = hindsight::family(sight);
    if sight == Sight::Counts {
        family.retain(|t| keeps_still(setting, start_s, *t));
    }
    family.sort_by_key(|t| t.over_s);
    let mut reckoned: Vec<((bool, u64, u64), Tuning)> = Vec::new();
    for same_length in family.chunk_by(|a, b| a.over_s == b.over_s) {
        let Some(over_s) = same_length.first().map(|t| t.over_s) else { continue };
        let seen: Vec<_> = arrivals.iter().zip(&rates).map(|(a, r)| hindsight::seen(a, r, sight, over_s)).collect();
        for tuning in same_length {
            let (mut lost, mut seconds) = (0.0, 0);
            for (seen, rates) in seen.iter().zip(&rates) {
                let schedule = hindsight::tuned(seen, setting, start_s, *tuning);
                lost += hindsight::lost_without_noise(rates, setting, &schedule);
                seconds += schedule.instance_seconds();
            }
            let over = seconds > seconds_max;
            reckoned.push(((over, if over { 0 } else { lost.round() as u64 }, seconds), *tuning));
        }
    }
    reckoned.sort_by_key(|(rank, _)| *rank);
    let mut best: Option<Entry> = None;
    let fits = reckoned.first().is_some_and(|((over, ..), _)| !over);
    for (_, tuning) in reckoned.iter().filter(|((over, ..), _)| !(fits && *over)).take(PLAYED_OUT) {
        let mut sum = Entry { policy: policy.into(), start_s, tuning: Some(*tuning), ..Entry::default() };
        for (a, rates) in arrivals.iter().zip(&rates) {
            let seen = hindsight::seen(a, rates, sight, tuning.over_s);
            let schedule = hindsight::tuned(&seen, setting, start_s, *tuning);
            sum.add(&run(policy, Contender::Schedule(&schedule), Source::Requests(a), setting, start_s, &|_| {})?);
        }
        if best.as_ref().is_none_or(|b| (sum.lost, sum.instance_seconds) < (b.lost, b.instance_seconds)) {
            best = Some(sum);
        }
    }
    best.context("no policy to choose from")
}
