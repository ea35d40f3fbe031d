//! One directed link between two sites: what it does to every connection that uses it.

use super::lock;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What happens to the link after a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutThen {
    /// New connections work.
    Recover,
    /// Nothing passes in this direction until healed.
    Blackhole,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Handed over at the far end.
    pub bytes: u64,
    pub connections: u64,
    /// Reset by a cut or by `sever`.
    pub resets: u64,
}

/// Faults and limits that can change while bytes are under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    pub extra: Duration,
    pub bytes_per_s: Option<u64>,
    pub blackhole: bool,
    cut: Option<(u64, CutThen)>,
}

struct State {
    shape: Shape,
    /// When the rate limit lets the next byte leave.
    next_free: Option<Instant>,
    jitter: SmallRng,
    stats: LinkStats,
    /// Connections of an older generation are reset.
    generation: u64,
}

pub(super) struct Link {
    base: Duration,
    jitter_max: Duration,
    state: Mutex<State>,
}

/// How much of a chunk may pass.
pub(super) enum Pass {
    All,
    /// So many bytes, then a reset.
    Cut(usize),
}

impl Link {
    pub fn new(base: Duration, jitter_max: Duration, seed: u64) -> Self {
        let state = State {
            shape: Shape::default(),
            next_free: None,
            jitter: SmallRng::seed_from_u64(seed),
            stats: LinkStats::default(),
            generation: 0,
        };
        Self { base, jitter_max, state: Mutex::new(state) }
    }

    pub fn shape(&self, change: impl FnOnce(&mut Shape)) {
        change(&mut lock(&self.state).shape);
    }

    pub fn shape_generation(&self) {
        lock(&self.state).generation += 1;
    }

    pub fn generation(&self) -> u64 {
        lock(&self.state).generation
    }

    pub fn cut_after(&self, bytes: u64, then: CutThen) {
        lock(&self.state).shape.cut = Some((bytes, then));
    }

    pub fn blackholed(&self) -> bool {
        lock(&self.state).shape.blackhole
    }

    pub fn one_way(&self) -> Duration {
        self.base + lock(&self.state).shape.extra
    }

    pub fn stats(&self) -> LinkStats {
        lock(&self.state).stats
    }

    pub fn count_connection(&self) {
        lock(&self.state).stats.connections += 1;
    }

    pub fn count_reset(&self) {
        lock(&self.state).stats.resets += 1;
    }

    /// When bytes that enter at `entered` come out.
    pub fn release(&self, entered: Instant, bytes: usize) -> Instant {
        let mut state = lock(&self.state);
        let departs = match state.shape.bytes_per_s {
            None => entered,
            Some(rate) => {
                let start = state.next_free.map_or(entered, |free| free.max(entered));
                let end = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
                state.next_free = Some(end);
                end
            }
        };
        let jitter = match self.jitter_max {
            Duration::ZERO => Duration::ZERO,
            max => max.mul_f64(state.jitter.random::<f64>()),
        };
        departs + self.base + state.shape.extra + jitter
    }

    /// Counts `bytes` about to be handed over, up to a pending cut.
    pub fn pass(&self, bytes: usize) -> Pass {
        let mut state = lock(&self.state);
        match state.shape.cut {
            Some((left, then)) if (bytes as u64) > left => {
                state.shape.cut = None;
                state.shape.blackhole |= then == CutThen::Blackhole;
                state.stats.bytes += left;
                Pass::Cut(usize::try_from(left).unwrap_or(bytes))
            }
            cut => {
                state.shape.cut = cut.map(|(left, then)| (left - bytes as u64, then));
                state.stats.bytes += bytes as u64;
                Pass::All
            }
        }
    }
}
