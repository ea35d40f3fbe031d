//! How long requests have been at a backend, without a list of them.
//!
//! Enters: when each was given to it and when it left. Leaves: how many have been there for [`LONG_US`] and more, to a tenth of
//! that. Always holds: counts of constant size, and no more than entered.

/// Longer is long: an instance that answers others at once meanwhile lets it wait.
pub(crate) const LONG_US: u64 = 1_000_000;
const SPANS: usize = 10;
const SPAN_US: u64 = LONG_US / SPANS as u64;

#[derive(Debug, Default)]
pub(crate) struct Ages {
    /// By the span in which they entered, the last `SPANS` of them.
    recent: [u32; SPANS],
    /// The latest span in `recent`.
    at: u64,
    long: u32,
}

impl Ages {
    fn turn(&mut self, now_us: u64) {
        let now = now_us / SPAN_US;
        if now <= self.at {
            return;
        }
        let turns = (now - self.at).min(SPANS as u64);
        for span in now - turns + 1..=now {
            self.long += std::mem::take(&mut self.recent[span as usize % SPANS]);
        }
        self.at = now;
    }

    pub(crate) fn enter(&mut self, now_us: u64) {
        self.turn(now_us);
        self.recent[self.at as usize % SPANS] += 1;
    }

    /// One that entered at `since_us` has left; true: it counted as long.
    pub(crate) fn leave(&mut self, since_us: u64) -> bool {
        let span = since_us / SPAN_US;
        let long = span + SPANS as u64 <= self.at;
        let count = if long { &mut self.long } else { &mut self.recent[span as usize % SPANS] };
        *count = count.saturating_sub(1);
        long
    }

    pub(crate) fn long(&mut self, now_us: u64) -> u32 {
        self.turn(now_us);
        self.long
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_counts_as_a_list_would(steps in proptest::collection::vec((0..400_000u64, 0..3u8, any::<u16>()), 1..200)) {
            let (mut ages, mut list, mut now) = (Ages::default(), Vec::<u64>::new(), 5_000_000u64);
            for (pause, what, which) in steps {
                now += pause;
                if what < 2 {
                    ages.enter(now);
                    list.push(now);
                } else if !list.is_empty() {
                    let at = usize::from(which) % list.len();
                    ages.leave(list.swap_remove(at));
                }
                let surely = list.iter().filter(|&&t| now - t >= LONG_US).count() as u32;
                let perhaps = list.iter().filter(|&&t| now - t + SPAN_US >= LONG_US).count() as u32;
                let counted = ages.long(now);
                prop_assert!((surely..=perhaps).contains(&counted), "{surely} {counted} {perhaps}");
            }
        }
    }
}
