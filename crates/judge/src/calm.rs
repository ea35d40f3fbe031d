//! How many instances have been enough, and for how long: what giving back waits for.

use pumasi_terms::BootMs;
use serde::{Deserialize, Serialize};

/// Fewer instances would do. The peak is kept in two halves, so that an old one is forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Calm {
    since: BootMs,
    half_since: BootMs,
    wanted: u32,
    wanted_before: u32,
}

/// The number that has been enough for `for_ms`: its peak over the later half of that time.
pub(crate) fn enough_for(calm: &mut Option<Calm>, wanted: u32, current: u32, for_ms: u64, at: BootMs) -> Option<u32> {
    if wanted >= current {
        *calm = None;
        return None;
    }
    let calm = calm.get_or_insert_with(|| Calm { since: at, half_since: at, wanted, wanted_before: 0 });
    if at.since(calm.half_since) >= for_ms / 2 {
        // Halves end when they are over, not when this is asked next: else the first one still counts when the time is over.
        let half_since = calm.half_since.after(for_ms / 2).max(BootMs(at.0.saturating_sub(for_ms / 2)));
        *calm = Calm { since: calm.since, half_since, wanted: 0, wanted_before: calm.wanted };
    }
    calm.wanted = calm.wanted.max(wanted);
    let peak = calm.wanted.max(calm.wanted_before);
    (at.since(calm.since) >= for_ms && peak < current).then_some(peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first answer of all that are asked for every `every_ms`, and when.
    fn first(every_ms: u64, wanted: impl Fn(u64) -> u32) -> Option<(u64, u32)> {
        let mut calm = None;
        (0..100).map(|n| n * every_ms).find_map(|ms| {
            let enough = enough_for(&mut calm, wanted(ms), 3, 3_000, BootMs(500 + ms));
            enough.map(|n| (ms, n))
        })
    }

    #[test]
    fn what_was_wanted_in_the_first_half_keeps_nothing() {
        for every_ms in [100, 107, 490, 700] {
            let (at_ms, enough) = first(every_ms, |ms| if ms < 800 { 2 } else { 0 }).unwrap();
            assert_eq!(enough, 0, "asked every {every_ms} ms");
            assert!((3_000..3_000 + every_ms).contains(&at_ms), "{at_ms}");
        }
    }

    #[test]
    fn what_was_wanted_in_the_later_half_stays() {
        for every_ms in [100, 107, 490, 700] {
            let peak = |ms: u64| if (2_000..2_800).contains(&ms) { 2 } else { 0 };
            assert_eq!(first(every_ms, peak).map(|f| f.1), Some(2), "asked every {every_ms} ms");
        }
    }

    #[test]
    fn who_needs_all_begins_anew() {
        let (at_ms, _) = first(100, |ms| if ms == 1_000 { 3 } else { 0 }).unwrap();
        assert_eq!(at_ms, 4_100);
    }
}
