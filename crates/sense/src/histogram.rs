//! A small mergeable histogram of durations: buckets a sixteenth of an octave wide (at most 4.5 % off), in microseconds.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts by bucket. Sparse, so that a quiet window costs little on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    counts: BTreeMap<u16, u64>,
}

const STEPS_PER_OCTAVE: u64 = 16;

/// Exact below 16 us; above, 16 linear steps an octave.
fn bucket(us: u64) -> u16 {
    if us < STEPS_PER_OCTAVE {
        return us as u16;
    }
    let octave = us.ilog2() as u64;
    let step = (us >> (octave - 4)) - STEPS_PER_OCTAVE;
    ((octave - 3) * STEPS_PER_OCTAVE + step) as u16
}

/// The largest value of a bucket.
fn ceiling(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < STEPS_PER_OCTAVE {
        return bucket;
    }
    let (octave, step) = (bucket / STEPS_PER_OCTAVE + 3, bucket % STEPS_PER_OCTAVE);
    if octave >= 64 {
        return u64::MAX;
    }
    let base = (STEPS_PER_OCTAVE + step) << (octave - 4);
    base + ((1u64 << (octave - 4)) - 1)
}

impl Histogram {
    pub fn record(&mut self, us: u64) {
        self.record_many(us, 1);
    }
    /// As many samples of one value.
    pub fn record_many(&mut self, us: u64, count: u64) {
        if count > 0 {
            let slot = self.counts.entry(bucket(us)).or_default();
            *slot = slot.saturating_add(count);
        }
    }
    pub fn merge(&mut self, other: &Histogram) {
        for (&b, &n) in &other.counts {
            let slot = self.counts.entry(b).or_default();
            *slot = slot.saturating_add(n);
        }
    }
    pub fn count(&self) -> u64 {
        self.counts.values().fold(0u64, |a, &n| a.saturating_add(n))
    }
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
    /// The value that `percent` of the samples do not exceed, us; 0 when empty.
    pub fn percentile(&self, percent: u8) -> u64 {
        let total = self.count();
        let rank = (u128::from(total) * u128::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0u128;
        for (&b, &n) in &self.counts {
            seen += u128::from(n);
            if seen >= rank {
                return ceiling(b);
            }
        }
        0
    }
    pub fn max(&self) -> u64 {
        self.counts.keys().next_back().map_or(0, |&b| ceiling(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_value(us in any::<u64>()) {
            let top = ceiling(bucket(us));
            prop_assert!(top >= us);
            prop_assert!(u128::from(top) <= u128::from(us) + u128::from(us) / 16 + 1);
        }

        #[test]
        fn merging_is_recording_together(a in prop::collection::vec(0u64..10_000_000, 0..50), b in prop::collection::vec(0u64..10_000_000, 0..50)) {
            let of = |v: &[u64]| { let mut h = Histogram::default(); v.iter().for_each(|&x| h.record(x)); h };
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let both: Vec<u64> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(merged, of(&both));
        }
    }

    #[test]
    fn many_at_once_are_many() {
        let (mut one, mut many) = (Histogram::default(), Histogram::default());
        (0..7).for_each(|_| one.record(900));
        many.record_many(900, 7);
        many.record_many(5, 0);
        assert_eq!(one, many);
    }

    #[test]
    fn percentiles_are_near() {
        let mut h = Histogram::default();
        (1..=1000).for_each(|x| h.record(x * 100));
        let p95 = h.percentile(95);
        assert!((95_000..=101_000).contains(&p95), "{p95}");
        assert_eq!(Histogram::default().percentile(95), 0);
    }
}
