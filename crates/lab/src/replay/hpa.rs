//! Kubernetes' HorizontalPodAutoscaler with its defaults, the same as users have it, with the delays of what feeds it, and KEDA,
//! which feeds it another measure.
//!
//! Enters: what each tick served. Leaves: replicas. Always holds: the rules of kube-controller-manager 1.3x as documented, with
//! everything that the documentation leaves to the cluster taken in the autoscaler's favour (see docs/policy-race.md).

use super::arrivals::TICKS_PER_S;
use super::plant::{Fleet, Served};
use std::collections::VecDeque;

/// `--horizontal-pod-autoscaler-sync-period`.
pub const SYNC_S: u64 = 15;
/// `--horizontal-pod-autoscaler-tolerance`, percent.
pub const TOLERANCE_PERCENT: u64 = 10;
/// `behavior.scaleDown.stabilizationWindowSeconds`.
pub const STABILIZATION_S: u64 = 300;
/// `behavior.scaleUp.policies`: the greater of both in each period.
pub const UP_PERCENT: u32 = 100;
pub const UP_PODS: u32 = 4;
/// The kubelet's look at what its containers use, and metrics-server's `--metric-resolution` as users have it.
pub const KUBELET_S: u64 = 10;
pub const METRICS_S: u64 = 30;
/// Nothing keeps the three in step: each begins in the middle of the other's period.
const KUBELET_AT_S: u64 = 5;
const SYNC_AT_S: u64 = 7;
/// KEDA's `pollingInterval`.
pub const POLLING_S: u64 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// CPU of the pods that are ready, in percent of their request: an instance at work all the time uses 100.
    Cpu,
    /// The same, as the kubelet saw it, as metrics-server fetched it, as the controller looks at it.
    CpuDelayed,
    /// Requests a second, told every [`POLLING_S`], as an average value per replica.
    Keda,
}

#[derive(Debug, Clone)]
pub struct Hpa {
    metric: Metric,
    rate_mps: u64,
    target_percent: u64,
    replicas_min: u32,
    start_ticks: u64,
    fleet: Fleet,
    /// Served and possible so far, thousandths.
    used: (u64, u64),
    /// The same when the kubelet looked last.
    sampled: (u64, u64),
    /// The last that the controller may know, and the one before: what is between them is the usage.
    known: [(u64, u64); 2],
    /// Arrivals since the last poll, and what the last poll said, thousandths a second.
    arrived: u64,
    polled_mps: Option<u64>,
    recommended: VecDeque<(u64, u32)>,
    scale_ups: u64,
}

impl Hpa {
    pub fn new(metric: Metric, rate_mps: u64, target_percent: u64, replicas_min: u32, start_s: u64) -> Self {
        Self {
            metric,
            rate_mps,
            target_percent,
            replicas_min,
            start_ticks: start_s * TICKS_PER_S,
            fleet: Fleet::of(replicas_min),
            used: (0, 0),
            sampled: (0, 0),
            known: [(0, 0); 2],
            arrived: 0,
            polled_mps: None,
            recommended: VecDeque::new(),
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
        self.used.0 += out.served * 1_000;
        self.used.1 += self.rate_mps * u64::from(self.fleet.ready) / TICKS_PER_S;
        self.arrived += out.arrived;
        let s = (tick + 1) / TICKS_PER_S;
        if !(tick + 1).is_multiple_of(TICKS_PER_S) {
            return;
        }
        if s.is_multiple_of(POLLING_S) {
            self.polled_mps = Some(self.arrived * 1_000 / POLLING_S);
            self.arrived = 0;
        }
        let delayed = self.metric == Metric::CpuDelayed;
        if s % KUBELET_S == KUBELET_AT_S {
            self.sampled = self.used;
        }
        if delayed && s.is_multiple_of(METRICS_S) {
            self.known = [self.known[1], self.sampled];
        }
        if s % SYNC_S == if delayed { SYNC_AT_S } else { 0 } {
            if self.metric == Metric::Cpu {
                self.known = [self.known[1], self.used];
            }
            let proposal = match self.metric {
                Metric::Cpu | Metric::CpuDelayed => self.by_cpu(),
                Metric::Keda => self.by_average_value(),
            };
            self.scale(tick, s, proposal);
        }
    }

    /// `GetResourceReplicas`: unready pods count as using nothing where more would be wanted.
    fn by_cpu(&self) -> u32 {
        let (ready, all) = (u128::from(self.fleet.ready), u128::from(self.fleet.all()));
        let [before, now] = self.known;
        let (used, possible) = (u128::from(now.0 - before.0), u128::from(now.1 - before.1));
        if ready == 0 || possible == 0 {
            return self.fleet.all();
        }
        // Usage over target, as a fraction.
        let (up, down) = (used * 100, possible * u128::from(self.target_percent));
        if up > down && all > ready {
            let (up, down) = (up * ready, down * all);
            if within_tolerance(up, down) || up < down {
                return self.fleet.all();
            }
            return count((up * all).div_ceil(down)).max(self.fleet.all());
        }
        if within_tolerance(up, down) {
            return self.fleet.all();
        }
        count((up * ready).div_ceil(down))
    }

    /// `GetExternalPerPodMetricReplicas`.
    fn by_average_value(&self) -> u32 {
        let Some(total) = self.polled_mps else { return self.fleet.all() };
        let each = u128::from(self.rate_mps) * u128::from(self.target_percent);
        let total = u128::from(total) * 100;
        if within_tolerance(total, each * u128::from(self.fleet.all())) {
            return self.fleet.all();
        }
        count(total.div_ceil(each.max(1)))
    }

    fn scale(&mut self, tick: u64, s: u64, proposal: u32) {
        let current = self.fleet.all();
        let proposal = proposal.max(self.replicas_min);
        self.recommended.retain(|(then, _)| s - then < STABILIZATION_S);
        self.recommended.push_back((s, proposal));
        let highest = self.recommended.iter().map(|(_, n)| *n).max().unwrap_or(proposal);
        let wanted = if proposal < current { highest.min(current) } else { proposal };
        if wanted > current {
            let bound = (current + current * UP_PERCENT / 100).max(current + UP_PODS);
            self.fleet.order(wanted.min(bound) - current, tick + 1 + self.start_ticks);
            self.scale_ups += 1;
        } else if wanted < current {
            self.fleet.give_back(current - wanted);
        }
    }
}

fn count(n: u128) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn within_tolerance(up: u128, down: u128) -> bool {
    up.abs_diff(down) * 100 <= down * u128::from(TOLERANCE_PERCENT)
}
