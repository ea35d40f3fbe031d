//! When a gateway that does not answer is started, and what is said of one that does not come up.
//!
//! Enters: whether it answers, which of those that were started have ended and of what, the boot clock. Leaves: whether one is to be
//! started now; why nobody is served.
//! Always holds: one that came up and ends is started at once; one that does not come up, or ends again soon, rests twice as long each
//! time, up to [`REST_MS_MAX`]; a reason stands until a gateway answers.

use pumasi_terms::BootMs;

/// One that is coming up is given so long; one that hangs keeps the lock of its directory and is not started beside.
const COMING_UP_MS: u64 = 3_000;
const REST_MS: u64 = 200;
const REST_MS_MAX: u64 = 30_000;
/// Beside one that hangs: it may be gone at any moment.
const TAKEN_MS: u64 = 1_000;
/// One that answered for so long did not end of how it was started.
const LIVED_MS: u64 = 3_000;

/// How a gateway that was started here ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub why: String,
    /// It found another one in its directory.
    pub taken: bool,
}

#[derive(Debug, Default)]
pub struct Keeper {
    started_at: Option<BootMs>,
    came_up_at: Option<BootMs>,
    not_before: Option<BootMs>,
    /// Ends in a row without one that lived.
    ends: u32,
    why: Option<String>,
}

impl Keeper {
    /// Why nobody is served; none while it answers, and before the first one had its time.
    pub fn down(&self) -> Option<&str> {
        self.why.as_deref()
    }

    pub fn answers(&mut self, now: BootMs) {
        let up_since = *self.came_up_at.get_or_insert(now);
        if now.since(up_since) >= LIVED_MS {
            self.ends = 0;
        }
        (self.started_at, self.not_before, self.why) = (None, None, None);
    }

    /// One of those that were started here has ended.
    pub fn ended(&mut self, end: End, now: BootMs) {
        let came_up = self.came_up_at.take_if(|_| !end.taken).is_some();
        let rest_ms = match (end.taken, came_up, self.ends) {
            (true, ..) => TAKEN_MS,
            (_, true, 0) => 0,
            (_, _, ends) => (REST_MS << ends.min(16)).min(REST_MS_MAX),
        };
        if !end.taken {
            self.ends = self.ends.saturating_add(1);
        }
        self.started_at = None;
        self.not_before = Some(now.after(rest_ms));
        self.why = Some(end.why);
    }

    /// Nobody answers: whether one is to be started now. Whoever does so tells what became of it.
    pub fn silent(&mut self, now: BootMs) -> bool {
        if self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        if let Some(at) = self.started_at {
            if now.since(at) <= COMING_UP_MS {
                return false;
            }
            self.why.get_or_insert_with(|| "it runs and does not answer".to_owned());
        }
        self.started_at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN_PORT: &str = "listening on 0.0.0.0:80: Address in use";

    fn end(why: &str) -> End {
        End { why: why.into(), taken: false }
    }

    #[test]
    fn one_that_does_not_come_up_rests_ever_longer_and_its_reason_stands() {
        let (mut keeper, mut started) = (Keeper::default(), Vec::new());
        for ms in (0..300_000).step_by(50) {
            if keeper.silent(BootMs(ms)) {
                started.push(ms);
                keeper.ended(end(TAKEN_PORT), BootMs(ms));
            }
            assert_eq!(keeper.down(), Some(TAKEN_PORT), "from the first end on");
        }
        assert!((12..=20).contains(&started.len()), "{started:?}");
        assert!(started.windows(2).all(|w| w[1] - w[0] <= REST_MS_MAX + 50), "{started:?}");
        keeper.answers(BootMs(300_000));
        assert_eq!(keeper.down(), None);
    }

    #[test]
    fn the_first_one_is_started_without_a_word_and_one_that_served_is_started_again_at_once() {
        let mut keeper = Keeper::default();
        assert!(keeper.silent(BootMs(0)) && keeper.down().is_none());
        assert!(!keeper.silent(BootMs(50)) && keeper.down().is_none());
        keeper.answers(BootMs(100));
        keeper.answers(BootMs(5_000));
        keeper.ended(end("killed"), BootMs(6_000));
        assert_eq!(keeper.down(), Some("killed"));
        assert!(keeper.silent(BootMs(6_000)));
        // Soon again: a moment's rest.
        keeper.answers(BootMs(6_100));
        keeper.ended(end("killed"), BootMs(6_200));
        assert!(!keeper.silent(BootMs(6_300)) && keeper.silent(BootMs(6_600)));
        // It serves for long enough: as before.
        keeper.answers(BootMs(6_700));
        keeper.answers(BootMs(20_000));
        keeper.ended(end("killed"), BootMs(20_001));
        assert!(keeper.silent(BootMs(20_001)));
    }

    #[test]
    fn one_that_hangs_is_told_and_replaced_soon_after_it_is_gone() {
        let mut keeper = Keeper::default();
        keeper.answers(BootMs(0));
        keeper.answers(BootMs(9_000));
        // It stands still; the one that is started beside it finds its lock held.
        for at in [10_000, 11_000, 12_000, 13_000] {
            assert!(keeper.silent(BootMs(at)), "{at}");
            keeper.ended(End { why: "held".into(), taken: true }, BootMs(at));
            assert!(!keeper.silent(BootMs(at + 999)));
        }
        // Started here, and it is neither up nor gone.
        assert!(keeper.silent(BootMs(14_000)));
        assert!(!keeper.silent(BootMs(16_000)) && keeper.silent(BootMs(17_001)));
    }
}
