//! What arrives in each tenth of a second: the recorded counts made finer, the same for every policy.
//!
//! Enters: a run of counts, a seed. Leaves: arrivals of any tick. Always holds: a tick's arrivals depend on its number and the
//! seed alone, so all policies meet the same requests.

/// Length of a tick, ms: a window of the gateway's meter.
pub const TICK_MS: u64 = pumasi_sense::meter::WINDOW_MS;
pub const TICKS_PER_S: u64 = 1_000 / TICK_MS;

#[derive(Debug, Clone)]
pub struct Arrivals<'a> {
    counts: &'a [u64],
    step_s: u64,
    seed: u64,
    bunch: u64,
}

pub(super) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// In (0, 1).
pub(super) fn unit(state: &mut u64) -> f64 {
    *state = mix(*state);
    ((*state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// A Poisson number; above 50 a rounded normal one, which differs by less than anything here depends on.
fn poisson(mean: f64, state: &mut u64) -> u64 {
    if mean > 50.0 {
        let (a, b) = (unit(state), unit(state));
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        return (mean + mean.sqrt() * normal).round().max(0.0) as u64;
    }
    let (limit, mut product, mut count) = ((-mean).exp(), 1.0, 0);
    loop {
        product *= unit(state);
        if product <= limit {
            return count;
        }
        count += 1;
    }
}

impl<'a> Arrivals<'a> {
    pub fn new(counts: &'a [u64], step_s: u64, seed: u64) -> Self {
        Self { counts, step_s: step_s.max(1), seed, bunch: 1 }
    }

    /// Requests come so many at once: as a page with all that is on it, as retries, as batches.
    #[must_use]
    pub fn bunched(self, bunch: u64) -> Self {
        Self { bunch: bunch.max(1), ..self }
    }

    pub fn ticks(&self) -> u64 {
        self.seconds() * TICKS_PER_S
    }
    pub fn seconds(&self) -> u64 {
        self.counts.len() as u64 * self.step_s
    }

    /// Requests a second at the middle of a tick: straight lines between the middles of the steps; a second is a level.
    pub fn rate(&self, tick: u64) -> f64 {
        let at = (tick as f64 + 0.5) / (self.step_s * TICKS_PER_S) as f64;
        let last = self.counts.len().saturating_sub(1);
        let of = |i: usize| self.counts.get(i.min(last)).map_or(0.0, |c| *c as f64) / self.step_s as f64;
        if self.step_s == 1 {
            return of(at as usize);
        }
        let at = f64::max(at - 0.5, 0.0);
        let (i, part) = (at as usize, at.fract());
        of(i) * (1.0 - part) + of(i + 1) * part
    }

    /// Requests in a tick of the time before the load: its first rate.
    pub fn at_start(&self, tick: u64) -> u64 {
        self.many(self.rate(0), mix(!self.seed ^ mix(tick)))
    }

    /// Requests in a tick.
    pub fn at(&self, tick: u64) -> u64 {
        self.many(self.rate(tick), mix(self.seed ^ mix(tick)))
    }

    fn many(&self, rate: f64, mut state: u64) -> u64 {
        poisson(rate / (TICKS_PER_S * self.bunch) as f64, &mut state) * self.bunch
    }
}
