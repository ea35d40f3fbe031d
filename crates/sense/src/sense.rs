//! The senses of one cloud: windows in, observations out, and the two things learned by watching.
//!
//! Enters: [`MeterWindow`]s of one gateway, in order. Leaves: an [`Observation`] a service.
//! Always holds: bounded memory (windows a service, services); a gateway that starts anew starts its counts anew, what was
//! learned of the application stays; the same windows give the same observation.

use crate::{BackendKey, BackendObservation, Histogram, MeterWindow, Observation, ServiceMeter};
use pumasi_terms::{BootMs, InstanceId, Now, ServiceName};
use std::collections::{BTreeMap, VecDeque};

/// The only version of the meter protocol read here.
pub const METER_VERSION: u32 = 1;

/// How far a service's past is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// An observation covers the windows of so long, ms.
    pub span_ms: u64,
    /// Nothing is observed when the last window is older than this, ms.
    pub stale_ms: u64,
    /// Windows kept a service.
    pub windows_max: usize,
    pub services_max: usize,
    /// Capacity is learned where an instance was saturated for so long without a break, ms.
    pub saturation_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { span_ms: 500, stale_ms: 1_500, windows_max: 100, services_max: 1_024, saturation_ms: 300 }
    }
}

/// Why a window was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SenseError {
    #[error("the gateway meters in version {found}, {METER_VERSION} is read here: update the daemon or the gateway")]
    Version { found: u32 },
    #[error("window {seq} of gateway run {run:x} came after window {last}: it is dropped")]
    OutOfOrder { run: u64, seq: u64, last: u64 },
    #[error("window {seq} has {services} services, {services_max} are followed at most")]
    TooManyServices { seq: u64, services: usize, services_max: usize },
    #[error("window {seq} spans {span_ms} ms; 1 to 60000 make sense")]
    Span { seq: u64, span_ms: u64 },
}

/// What a window brought beside its counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ingested {
    /// The gateway has started anew.
    pub new_run: bool,
    /// Windows missing between the last one and this.
    pub missed: u64,
}

#[derive(Debug, Clone)]
pub struct Sense {
    settings: Settings,
    /// Run and number of the last window.
    last: Option<(u64, u64)>,
    last_at: BootMs,
    missed: u64,
    tracks: BTreeMap<ServiceName, Track>,
}

#[derive(Debug, Clone, Default)]
struct Track {
    windows: VecDeque<(BootMs, u64, ServiceMeter)>,
    calm: Calm,
    capacity: Learned,
    streaks: BTreeMap<InstanceId, Streak>,
}

/// What an answer takes when nothing waits: a low percentile that falls fast and rises slowly.
#[derive(Debug, Clone, Default)]
struct Calm {
    samples: Histogram,
    /// 1/256 us, so that slow ageing is not lost to rounding.
    value: Option<u64>,
}

const CALM_SAMPLES: u64 = 8;
const CALM_DELAY_MAX_US: u64 = 1_000;

impl Calm {
    fn watch(&mut self, meter: &ServiceMeter) {
        let waits = meter.queued > 0 || meter.shed > 0 || meter.queue_delay.percentile(95) > CALM_DELAY_MAX_US;
        if waits || meter.failed > 0 || meter.errors > 0 {
            self.samples = Histogram::default();
            return;
        }
        self.samples.merge(&meter.app_time);
        if self.samples.count() < CALM_SAMPLES {
            return;
        }
        let seen = self.samples.percentile(50).saturating_mul(256);
        self.samples = Histogram::default();
        self.value = Some(match self.value {
            None => seen,
            Some(old) if seen < old => old - (old - seen) / 4,
            Some(old) => old.saturating_add((seen - old) / 128),
        });
    }
}

/// One instance saturated without a break.
#[derive(Debug, Clone, Copy, Default)]
struct Streak {
    ms: u64,
    completed: u64,
    failed: u64,
}

/// A mean that follows slowly.
#[derive(Debug, Clone, Copy, Default)]
struct Learned {
    value: Option<u64>,
    samples: u64,
}

impl Learned {
    fn take(&mut self, sample: u64) {
        self.samples = self.samples.saturating_add(1);
        let Some(old) = self.value else {
            self.value = Some(sample);
            return;
        };
        // Faster up than down: an application that got slow has not less capacity by design, it is at fault.
        let weight = self.samples.min(if sample > old { 8 } else { 16 });
        let step = old.abs_diff(sample) / weight;
        self.value = Some(if sample > old { old.saturating_add(step) } else { old - step });
    }
}

/// Completions that make a rate worth learning; fewer are taken after a whole second.
const CAPACITY_COMPLETIONS: u64 = 20;
const CAPACITY_LONGEST_MS: u64 = 1_000;

impl Track {
    fn learn(&mut self, meter: &ServiceMeter, span_ms: u64, saturation_ms: u64) {
        self.calm.watch(meter);
        self.streaks.retain(|id, _| meter.backends.contains_key(&BackendKey::Home(id.clone())));
        for (key, backend) in &meter.backends {
            let BackendKey::Home(id) = key else { continue };
            if !backend.saturated {
                self.streaks.remove(id);
                continue;
            }
            let streak = self.streaks.entry(id.clone()).or_default();
            streak.ms = streak.ms.saturating_add(span_ms);
            streak.completed = streak.completed.saturating_add(backend.completed);
            streak.failed = streak.failed.saturating_add(backend.failed);
            let enough = streak.completed >= CAPACITY_COMPLETIONS || streak.ms >= CAPACITY_LONGEST_MS;
            if streak.ms < saturation_ms || !enough {
                continue;
            }
            let Streak { ms, completed, failed } = std::mem::take(streak);
            // Fast failures are not capacity.
            if completed > 0 && failed.saturating_mul(10) <= completed {
                self.capacity.take(mps(completed, ms));
            }
        }
    }
}

fn mps(count: u64, span_ms: u64) -> u64 {
    u64::try_from(u128::from(count) * 1_000_000 / u128::from(span_ms.max(1))).unwrap_or(u64::MAX)
}

impl Sense {
    pub fn new(settings: Settings) -> Self {
        Self { settings, last: None, last_at: BootMs(0), missed: 0, tracks: BTreeMap::new() }
    }

    /// Takes the next window.
    pub fn ingest(&mut self, window: &MeterWindow) -> Result<Ingested, SenseError> {
        let Settings { windows_max, services_max, saturation_ms, span_ms, .. } = self.settings;
        if window.version != METER_VERSION {
            return Err(SenseError::Version { found: window.version });
        }
        let seq = window.seq;
        if !(1..=60_000).contains(&window.span_ms) {
            return Err(SenseError::Span { seq, span_ms: window.span_ms });
        }
        if window.services.len() > services_max {
            return Err(SenseError::TooManyServices { seq, services: window.services.len(), services_max });
        }
        let mut ingested = Ingested::default();
        match self.last {
            Some((run, last)) if run == window.gateway_run => {
                if seq <= last {
                    return Err(SenseError::OutOfOrder { run, seq, last });
                }
                ingested.missed = seq - last - 1;
            }
            Some(_) => ingested.new_run = true,
            None => {}
        }
        // A clock that went back is another boot.
        if ingested.new_run || window.at < self.last_at {
            for track in self.tracks.values_mut() {
                track.windows.clear();
                track.streaks.clear();
            }
        }
        if ingested.missed > 0 {
            self.tracks.values_mut().for_each(|t| t.streaks.clear());
        }
        self.last = Some((window.gateway_run, seq));
        self.last_at = window.at;
        self.missed = self.missed.saturating_add(ingested.missed);
        self.tracks.retain(|name, _| window.services.contains_key(name));
        for (name, meter) in &window.services {
            let track = self.tracks.entry(name.clone()).or_default();
            track.learn(meter, window.span_ms, saturation_ms);
            track.windows.push_back((window.at, window.span_ms, meter.clone()));
            while track.windows.len() > windows_max.max(1)
                || track.windows.front().is_some_and(|(at, _, _)| window.at.since(*at) >= span_ms.saturating_mul(2))
            {
                track.windows.pop_front();
            }
        }
        Ok(ingested)
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.tracks.keys()
    }

    /// Windows that were missing, in all.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The service over the last windows; None where there are none, or the gateway has been silent.
    pub fn observe(&self, service: &ServiceName, now: Now) -> Option<Observation> {
        let track = self.tracks.get(service)?;
        let (last_at, _, last) = track.windows.back()?;
        if now.boot.since(*last_at) > self.settings.stale_ms {
            return None;
        }
        let recent: Vec<&(BootMs, u64, ServiceMeter)> =
            track.windows.iter().filter(|(at, _, _)| last_at.since(*at) < self.settings.span_ms).collect();
        let span_ms: u64 = recent.iter().map(|(_, span, _)| span).sum();
        let rate = |count: fn(&ServiceMeter) -> u64| {
            mps(recent.iter().map(|(_, _, m)| count(m)).fold(0, u64::saturating_add), span_ms)
        };
        let merged = |of: fn(&ServiceMeter) -> &Histogram| {
            let mut all = Histogram::default();
            recent.iter().for_each(|(_, _, m)| all.merge(of(m)));
            all
        };
        let (queue_delay, app_time, user_rtt) =
            (merged(|m| &m.queue_delay), merged(|m| &m.app_time), merged(|m| &m.user_rtt));
        Some(Observation {
            service: service.clone(),
            at: *last_at,
            span_ms,
            arrivals_mps: rate(|m| m.arrivals),
            arrivals_home_only_mps: rate(|m| m.arrivals_home_only),
            completed_mps: rate(|m| m.completed),
            shed_mps: rate(|m| m.shed),
            failed_mps: rate(|m| m.failed),
            errors_mps: rate(|m| m.errors),
            queued: last.queued,
            in_flight: last.in_flight,
            limit: last.limit,
            queue_delay_p50_us: queue_delay.percentile(50),
            queue_delay_p95_us: queue_delay.percentile(95),
            queue_delay_samples: queue_delay.count(),
            app_time_p50_us: app_time.percentile(50),
            app_time_p95_us: app_time.percentile(95),
            app_time_calm_us: track.calm.value.map(|v| v / 256),
            user_rtt_p50_us: user_rtt.percentile(50),
            user_rtt_p95_us: user_rtt.percentile(95),
            capacity_per_instance_mps: track.capacity.value,
            backends: last.backends.keys().map(|key| (key.clone(), backend(key, &recent, span_ms))).collect(),
        })
    }
}

/// One backend over the windows in which it was.
fn backend(key: &BackendKey, recent: &[&(BootMs, u64, ServiceMeter)], span_ms: u64) -> BackendObservation {
    let mut out = BackendObservation::default();
    let (mut completed, mut failed, mut saturated_ms, mut present_ms) = (0u64, 0u64, 0u64, 0u64);
    let mut app_time = Histogram::default();
    for (_, span, meter) in recent {
        let Some(b) = meter.backends.get(key) else { continue };
        completed = completed.saturating_add(b.completed);
        failed = failed.saturating_add(b.failed);
        present_ms += span;
        saturated_ms += if b.saturated { *span } else { 0 };
        app_time.merge(&b.app_time);
        (out.in_flight, out.limit) = (b.in_flight, b.limit);
    }
    out.completed_mps = mps(completed, span_ms);
    out.failed_mps = mps(failed, span_ms);
    out.saturated_percent = u8::try_from(saturated_ms * 100 / present_ms.max(1)).unwrap_or(100);
    out.app_time_p50_us = app_time.percentile(50);
    out.app_time_p95_us = app_time.percentile(95);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BackendMeter;

    fn name() -> ServiceName {
        ServiceName::parse("shop").unwrap()
    }
    fn home() -> BackendKey {
        BackendKey::Home(InstanceId::from_entropy(1))
    }
    fn of(us: u64, times: u64) -> Histogram {
        let mut h = Histogram::default();
        (0..times).for_each(|_| h.record(us));
        h
    }
    fn window(run: u64, seq: u64, meter: ServiceMeter) -> MeterWindow {
        MeterWindow {
            version: 1,
            gateway_run: run,
            seq,
            at: BootMs(seq * 100),
            span_ms: 100,
            table_revision: 1,
            services: [(name(), meter)].into(),
            leases: BTreeMap::new(),
        }
    }
    fn busy(completed: u64, saturated: bool) -> ServiceMeter {
        let backend = BackendMeter { completed, saturated, limit: 4, in_flight: 4, ..BackendMeter::default() };
        ServiceMeter {
            arrivals: completed,
            completed,
            queued: u64::from(saturated),
            app_time: of(5_000, completed),
            queue_delay: of(if saturated { 80_000 } else { 0 }, completed),
            backends: [(home(), backend)].into(),
            ..ServiceMeter::default()
        }
    }
    fn now(seq: u64) -> Now {
        Now { boot: BootMs(seq * 100), ..Now::default() }
    }

    #[test]
    fn rates_and_percentiles_cover_the_span_only() {
        let mut sense = Sense::new(Settings::default());
        for seq in 1..=20 {
            sense.ingest(&window(7, seq, busy(if seq <= 15 { 100 } else { 10 }, false))).unwrap();
        }
        let seen = sense.observe(&name(), now(20)).unwrap();
        assert_eq!((seen.span_ms, seen.arrivals_mps, seen.queue_delay_samples), (500, 100_000, 50));
        assert_eq!(seen.backends[&home()].completed_mps, 100_000);
        assert!(sense.observe(&name(), now(36)).is_none(), "a silent gateway is not observed");
        assert!(sense.tracks[&name()].windows.len() <= 10);
    }

    #[test]
    fn versions_order_and_runs_are_minded() {
        let mut sense = Sense::new(Settings::default());
        let mut newer = window(7, 1, busy(1, false));
        newer.version = 2;
        assert_eq!(sense.ingest(&newer), Err(SenseError::Version { found: 2 }));
        assert_eq!(sense.ingest(&window(7, 1, busy(1, false))), Ok(Ingested::default()));
        assert_eq!(sense.ingest(&window(7, 4, busy(1, false))), Ok(Ingested { new_run: false, missed: 2 }));
        assert!(matches!(sense.ingest(&window(7, 4, busy(1, false))), Err(SenseError::OutOfOrder { .. })));
        assert_eq!(sense.missed(), 2);
        assert_eq!(sense.ingest(&window(8, 2, busy(1, false))), Ok(Ingested { new_run: true, missed: 0 }));
        assert_eq!(sense.observe(&name(), now(2)).unwrap().span_ms, 100);
    }

    #[test]
    fn capacity_is_learned_from_long_saturation_only() {
        let mut sense = Sense::new(Settings::default());
        for seq in 1..=100 {
            // Two windows in three are saturated: never 300 ms without a break.
            sense.ingest(&window(7, seq, busy(9, seq % 3 != 1))).unwrap();
        }
        assert_eq!(sense.observe(&name(), now(100)).unwrap().capacity_per_instance_mps, None);
        for seq in 101..=106 {
            sense.ingest(&window(7, seq, busy(20, true))).unwrap();
        }
        assert_eq!(sense.observe(&name(), now(106)).unwrap().capacity_per_instance_mps, Some(200_000));
        for seq in 107..=118 {
            sense.ingest(&window(7, seq, busy(5, true))).unwrap();
        }
        let slow = sense.observe(&name(), now(118)).unwrap().capacity_per_instance_mps.unwrap();
        assert!((100_000..200_000).contains(&slow), "it follows slowly: {slow}");
    }

    #[test]
    fn calm_is_what_an_answer_takes_without_waiting() {
        let mut sense = Sense::new(Settings::default());
        for seq in 1..=10 {
            sense.ingest(&window(7, seq, busy(3, false))).unwrap();
        }
        let calm = sense.observe(&name(), now(10)).unwrap().app_time_calm_us.unwrap();
        assert!((5_000..5_400).contains(&calm), "{calm}");
        for seq in 11..=60 {
            let mut slow = busy(10, true);
            slow.app_time = of(80_000, 10);
            sense.ingest(&window(7, seq, slow)).unwrap();
        }
        assert_eq!(sense.observe(&name(), now(60)).unwrap().app_time_calm_us, Some(calm));
    }
}
