//! Whether something that is measured again and again stays flat.
//!
//! Enters: readings of one process, taken when everything was at rest. Leaves: first and last level, and whether it rose. The first
//! reading is warm-up; medians of thirds are compared, so that one odd reading says nothing. A leak climbs from third to third; memory
//! that a larger burst took and the allocator keeps is one step, and no leak.

use serde::Serialize;

/// Fewer readings after the warm-up say nothing about a trend.
const READINGS_MIN: usize = 6;

/// How far the last level may stand above the first.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    pub percent: u64,
    pub plus: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Trend {
    pub first: u64,
    pub last: u64,
    pub readings: usize,
    pub rose: bool,
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

/// `None`: too few readings for a word.
pub fn trend(readings: &[u64], bound: Bound) -> Option<Trend> {
    let (_, warm) = readings.split_first()?;
    if warm.len() < READINGS_MIN {
        return None;
    }
    let third = warm.len() / 3;
    let first = median(warm.get(..third)?);
    let middle = median(warm.get(third..warm.len() - third)?);
    let last = median(warm.get(warm.len() - third..)?);
    let most = first.saturating_add(first.saturating_mul(bound.percent) / 100).saturating_add(bound.plus);
    let quarter = last.saturating_sub(first) / 4;
    let climbs = middle >= first.saturating_add(quarter) && last >= middle.saturating_add(quarter);
    Some(Trend { first, last, readings: readings.len(), rose: last > most && climbs })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound { percent: 10, plus: 5 };

    #[test]
    fn a_leak_rises_and_a_warm_up_or_a_spike_does_not() {
        let leak: Vec<u64> = (0..20).map(|n| 100 + 4 * n).collect();
        assert!(trend(&leak, BOUND).unwrap().rose);
        let mut flat = vec![100; 20];
        flat[0] = 20;
        flat[18] = 900;
        assert_eq!(trend(&flat, BOUND), Some(Trend { first: 100, last: 100, readings: 20, rose: false }));
        let wave: Vec<u64> = (0..20).map(|n| 100 + 8 * (n % 2)).collect();
        assert!(!trend(&wave, BOUND).unwrap().rose);
        let step: Vec<u64> = (0..20).map(|n| if n < 9 { 100 } else { 300 }).collect();
        assert!(!trend(&step, BOUND).unwrap().rose);
        assert_eq!(trend(&leak[..6], BOUND), None);
    }
}
