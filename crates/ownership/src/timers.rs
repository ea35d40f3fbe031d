//! The times of a pact that votes, and the inequalities that they must keep.
//!
//! Enters: what the pact says, what was measured. Leaves: the same times, or every inequality they break, with the numbers in it;
//! how long a ttl must be where the measured times outgrew the profile. Always holds: times that passed `check` fence no healthy cloud
//! because a leader died, one failed election included.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The least that a clock's drift may be said to be. NTP slews by up to 500 ppm.
const DRIFT_PPM_MIN: u32 = 100;
const DRIFT_PPM_MAX: u32 = 500_000;
/// Beyond all rounding of milliseconds.
pub const ROUND_MS: u64 = 2;
/// No time of a pact is longer.
const TIME_MS_MAX: u64 = 3_600_000;

/// Times that suit one kind of distance between the voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    Default,
    /// One metropolitan area, or a laboratory.
    Lan,
    /// Round trips above 200 ms.
    Far,
}

/// As the pact says them. A cloud's own ttl is in its renewals; `ttl_ms` is what it begins with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timers {
    pub tick_ms: u64,
    pub heartbeat_ms: u64,
    pub election_ms_min: u64,
    pub election_ms_max: u64,
    pub renew_ms: u64,
    pub ttl_ms: u64,
    /// A cloud may raise its own ttl up to this: on a bad line, or for a planned restart.
    pub ttl_ms_max: u64,
    /// From the end of the right to the last write.
    pub stop_ms: u64,
    /// The right ends so much before the ttl does.
    pub margin_ms: u64,
    /// The most that one clock's rate differs from true time, in parts per million.
    pub drift_ppm: u32,
    /// Unbroken renewals of a cloud that returned before it may be an heir.
    pub probation_ms: u64,
    /// A synchronous write waits no longer than this for a standby.
    pub sync_wait_ms_max: u64,
}

/// The 99th percentiles between the voters, rounded up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    pub rtt_p99_ms: u64,
    pub fsync_p99_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inequality {
    /// Every number has its own bounds.
    Bounds,
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
}

impl fmt::Display for Inequality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One that does not hold. The pact, or the network below it, has to change; trying again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{which}: {text}")]
pub struct Unfit {
    pub which: Inequality,
    pub text: String,
}

/// So many millionths of `ms`, rounded up.
pub fn part_ms(ms: u64, ppm: u32) -> u64 {
    let part = (u128::from(ms) * u128::from(ppm)).div_ceil(1_000_000);
    u64::try_from(part).unwrap_or(u64::MAX)
}

impl Profile {
    pub fn timers(self) -> Timers {
        let base = Timers {
            tick_ms: 20,
            heartbeat_ms: 60,
            election_ms_min: 500,
            election_ms_max: 1_500,
            renew_ms: 250,
            ttl_ms: 2_200,
            ttl_ms_max: 30_000,
            stop_ms: 100,
            margin_ms: 105,
            drift_ppm: 1_000,
            probation_ms: 30_000,
            sync_wait_ms_max: 1_500,
        };
        match self {
            Self::Default => base,
            Self::Lan => Timers {
                tick_ms: 5,
                heartbeat_ms: 10,
                election_ms_min: 40,
                election_ms_max: 120,
                renew_ms: 20,
                ttl_ms: 130,
                stop_ms: 10,
                margin_ms: 13,
                sync_wait_ms_max: 100,
                ..base
            },
            Self::Far => Timers {
                election_ms_min: 800,
                election_ms_max: 2_400,
                renew_ms: 100,
                ttl_ms: 3_000,
                margin_ms: 105,
                ..base
            },
        }
    }
}

impl Timers {
    /// What the holder takes off a ttl: its clock may be slow, and stopping takes time.
    pub fn margin_ms(&self, ttl_ms: u64) -> u64 {
        let least = part_ms(ttl_ms, self.drift_ppm).saturating_add(ROUND_MS).saturating_add(self.stop_ms);
        least.max(self.margin_ms)
    }
    /// What a taker waits from its first sight: its clock may be fast.
    pub fn wait_ms(&self, ttl_ms: u64) -> u64 {
        ttl_ms.saturating_add(part_ms(ttl_ms, self.drift_ppm)).saturating_add(ROUND_MS)
    }
    /// A voter attests silence from this on.
    pub fn silence_ms(&self, ttl_ms: u64) -> u64 {
        (ttl_ms / 2).max(self.renew_ms.saturating_mul(4))
    }
    /// A probation that fits the cloud's ttl (I5).
    pub fn probation_ms(&self, ttl_ms: u64) -> u64 {
        self.probation_ms.max(ttl_ms.saturating_mul(10))
    }
    /// Between two voters' elections: long enough for the first one's to be over.
    pub fn slot_ms(&self, measured: Measured) -> u64 {
        measured.rtt_p99_ms.saturating_mul(2).max(self.tick_ms)
    }
    /// When a voter of this rank, (index + term) mod n, calls an election. `chance` is the caller's randomness, over a third of a slot.
    pub fn election_ms(&self, rank: u32, chance: u32, measured: Measured) -> u64 {
        let slot = self.slot_ms(measured);
        let random = part_ms(slot / 3, chance % 1_000_001);
        let at = self.election_ms_min.saturating_add(slot.saturating_mul(u64::from(rank))).saturating_add(random);
        at.min(self.election_ms_max)
    }
    /// From the death of a leader to the first renewal under the next one, if the first two elections came to nothing.
    fn leaderless_ms(&self, measured: Measured) -> u64 {
        let third = self.election_ms(2, 1_000_000, measured);
        let round = measured.rtt_p99_ms.saturating_mul(2).saturating_add(measured.fsync_p99_ms);
        third.saturating_add(round).saturating_add(self.renew_ms)
    }

    /// Every inequality that does not hold, with its numbers.
    pub fn check(&self, measured: Measured) -> Result<(), Vec<Unfit>> {
        let mut faults = self.bounds();
        if faults.is_empty() {
            faults.extend(self.own(self.ttl_ms));
            faults.extend(self.against(self.ttl_ms, measured));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The least ttl that keeps I1, I2 and I6 with what was measured. A cloud raises its own to it, which needs nobody's leave.
    pub fn ttl_needed(&self, measured: Measured) -> Result<u64, Unfit> {
        let right = (self.renew_ms.saturating_mul(3)).max(self.leaderless_ms(measured).saturating_add(1));
        let least = self.ttl_ms.max(self.sync_wait_ms_max.saturating_add(1));
        let mut ttl = least.max(right.saturating_add(self.margin_ms(right)));
        while ttl.saturating_sub(self.margin_ms(ttl)) < right && ttl <= self.ttl_ms_max {
            ttl = ttl.saturating_add(1);
        }
        if ttl <= self.ttl_ms_max {
            return Ok(ttl);
        }
        let Measured { rtt_p99_ms, fsync_p99_ms } = measured;
        Err(Unfit {
            which: Inequality::I2,
            text: format!(
                "with round trips of {rtt_p99_ms} ms and disk writes of {fsync_p99_ms} ms (p99) a ttl of {ttl} ms is needed, the pact allows {} ms; \
                 choose nearer voters, faster disks, or a pact with a longer ttl_ms_max",
                self.ttl_ms_max
            ),
        })
    }

    fn bounds(&self) -> Vec<Unfit> {
        let mut faults = Vec::new();
        let mut fault = |text: String| faults.push(Unfit { which: Inequality::Bounds, text });
        for (name, ms) in [
            ("tick_ms", self.tick_ms),
            ("heartbeat_ms", self.heartbeat_ms),
            ("election_ms_min", self.election_ms_min),
            ("election_ms_max", self.election_ms_max),
            ("renew_ms", self.renew_ms),
            ("ttl_ms", self.ttl_ms),
            ("ttl_ms_max", self.ttl_ms_max),
            ("stop_ms", self.stop_ms),
            ("margin_ms", self.margin_ms),
            ("probation_ms", self.probation_ms),
            ("sync_wait_ms_max", self.sync_wait_ms_max),
        ] {
            if !(1..=TIME_MS_MAX).contains(&ms) {
                fault(format!("{name} is {ms}, it must be 1 to {TIME_MS_MAX}"));
            }
        }
        if !(DRIFT_PPM_MIN..=DRIFT_PPM_MAX).contains(&self.drift_ppm) {
            fault(format!("drift_ppm is {}, it must be {DRIFT_PPM_MIN} to {DRIFT_PPM_MAX}", self.drift_ppm));
        }
        if self.ttl_ms > self.ttl_ms_max {
            fault(format!("ttl_ms {} is above ttl_ms_max {}", self.ttl_ms, self.ttl_ms_max));
        }
        if self.election_ms_min >= self.election_ms_max {
            fault(format!(
                "election_ms_min {} is not below election_ms_max {}",
                self.election_ms_min, self.election_ms_max
            ));
        }
        faults
    }

    /// Those that need no measurement.
    fn own(&self, ttl: u64) -> Vec<Unfit> {
        let mut faults = Vec::new();
        let mut fault = |which, text: String| faults.push(Unfit { which, text });
        let Self { renew_ms, stop_ms, margin_ms, drift_ppm, probation_ms, sync_wait_ms_max, .. } = self;
        let right = ttl.saturating_sub(self.margin_ms(ttl));
        if *renew_ms > right / 3 {
            fault(
                Inequality::I1,
                format!(
                    "renew {renew_ms} ms must be at most a third of ttl {ttl} - margin {} = {right} ms, so that two lost renewals fence nobody",
                    self.margin_ms(ttl)
                ),
            );
        }
        let least = part_ms(ttl, *drift_ppm) + ROUND_MS + stop_ms;
        if *margin_ms < least {
            fault(
                Inequality::I4,
                format!(
                    "margin {margin_ms} ms must be at least ttl {ttl} x drift {drift_ppm} ppm + {ROUND_MS} + stop {stop_ms} = {least} ms"
                ),
            );
        }
        if *probation_ms < ttl.saturating_mul(10) {
            fault(
                Inequality::I5,
                format!("probation {probation_ms} ms must be at least 10 x ttl {ttl} = {} ms", ttl.saturating_mul(10)),
            );
        }
        if *sync_wait_ms_max >= ttl {
            fault(Inequality::I6, format!("sync_wait_ms_max {sync_wait_ms_max} must be below ttl {ttl} ms"));
        }
        faults
    }

    /// Those that need what was measured.
    fn against(&self, ttl: u64, measured: Measured) -> Vec<Unfit> {
        let mut faults = Vec::new();
        let mut fault = |which, text: String| faults.push(Unfit { which, text });
        let Measured { rtt_p99_ms: rtt, fsync_p99_ms: fsync } = measured;
        let (right, leaderless) = (ttl.saturating_sub(self.margin_ms(ttl)), self.leaderless_ms(measured));
        if right <= leaderless {
            fault(
                Inequality::I2,
                format!(
                    "ttl {ttl} - margin {} = {right} ms must be above the third election {} + 2 x rtt {rtt} + fsync {fsync} + renew {} = {leaderless} ms, \
                 or a leader's death fences healthy clouds",
                    self.margin_ms(ttl),
                    self.election_ms(2, 1_000_000, measured),
                    self.renew_ms
                ),
            );
        }
        let (beats, round) = (self.heartbeat_ms.saturating_mul(4), rtt.saturating_mul(2).saturating_add(fsync));
        if self.election_ms_min < beats || self.election_ms_min < round {
            fault(
                Inequality::I3,
                format!(
                    "election_ms_min {} must be at least 4 x heartbeat {} = {beats} ms and 2 x rtt {rtt} + fsync {fsync} = {round} ms",
                    self.election_ms_min, self.heartbeat_ms
                ),
            );
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Measured = Measured { rtt_p99_ms: 2, fsync_p99_ms: 3 };
    const WAN: Measured = Measured { rtt_p99_ms: 60, fsync_p99_ms: 20 };
    const FAR: Measured = Measured { rtt_p99_ms: 250, fsync_p99_ms: 20 };

    #[test]
    fn each_profile_keeps_every_inequality_where_it_is_meant_for() {
        for (profile, measured) in [(Profile::Default, WAN), (Profile::Lan, NEAR), (Profile::Far, FAR)] {
            assert_eq!(profile.timers().check(measured), Ok(()), "{profile:?}");
        }
    }

    /// The inequality that a change breaks, and nothing else; its sentence has the numbers.
    fn broken(change: impl FnOnce(&mut Timers), numbers: &[&str]) -> Inequality {
        let mut timers = Profile::Default.timers();
        change(&mut timers);
        let faults = timers.check(WAN).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let text = faults[0].to_string();
        assert!(numbers.iter().all(|n| text.contains(n)), "{text}");
        faults[0].which
    }

    #[test]
    fn each_inequality_is_refused_by_its_name_with_the_numbers() {
        assert_eq!(broken(|t| t.renew_ms = 699, &["699", "2200", "105", "2095"]), Inequality::I1);
        assert_eq!(
            broken(|t| (t.ttl_ms, t.sync_wait_ms_max) = (1_200, 500), &["1200", "1095", "1170", "780"]),
            Inequality::I2
        );
        assert_eq!(broken(|t| t.heartbeat_ms = 126, &["500", "126", "504"]), Inequality::I3);
        assert_eq!(broken(|t| t.margin_ms = 104, &["104", "2200", "105"]), Inequality::I4);
        assert_eq!(broken(|t| t.probation_ms = 21_999, &["21999", "22000"]), Inequality::I5);
        assert_eq!(broken(|t| t.sync_wait_ms_max = 2_200, &["2200"]), Inequality::I6);
        assert_eq!(broken(|t| t.drift_ppm = 0, &["drift_ppm"]), Inequality::Bounds);
        assert_eq!(broken(|t| t.ttl_ms_max = 2_000, &["2200", "2000"]), Inequality::Bounds);
    }

    #[test]
    fn a_slower_network_asks_for_a_longer_ttl_and_says_when_there_is_none() {
        let timers = Profile::Default.timers();
        assert_eq!(timers.ttl_needed(WAN), Ok(2_200), "the profile's is enough");
        let slow = Measured { rtt_p99_ms: 200, fsync_p99_ms: 50 };
        let ttl = timers.ttl_needed(slow).unwrap();
        assert!(ttl > 2_200);
        let raised = Timers { ttl_ms: ttl, probation_ms: 10 * ttl, ..timers.clone() };
        assert_eq!(raised.against(ttl, slow), []);
        let short = Timers { ttl_ms: ttl - 1, ..raised };
        assert_eq!(short.against(ttl - 1, slow)[0].which, Inequality::I2, "one less is not enough");
        let stalled = Measured { rtt_p99_ms: 200, fsync_p99_ms: 40_000 };
        assert!(timers.ttl_needed(stalled).unwrap_err().text.contains("40000"));
    }

    #[test]
    fn elections_of_different_ranks_do_not_meet() {
        let timers = Profile::Default.timers();
        for rank in 0..4 {
            let (last, next) = (timers.election_ms(rank, 1_000_000, WAN), timers.election_ms(rank + 1, 0, WAN));
            assert!(next >= last + WAN.rtt_p99_ms, "{rank}: {last} {next}");
        }
        assert_eq!(timers.election_ms(99, 0, WAN), timers.election_ms_max);
    }

    #[test]
    fn a_longer_ttl_has_a_longer_margin_and_a_longer_wait() {
        let timers = Profile::Default.timers();
        assert_eq!((timers.margin_ms(2_200), timers.wait_ms(2_200)), (105, 2_205));
        assert_eq!((timers.margin_ms(30_000), timers.wait_ms(30_000)), (132, 30_032));
        assert_eq!((timers.silence_ms(2_200), timers.silence_ms(1_000)), (1_100, 1_000));
        assert_eq!(part_ms(u64::MAX, 1_000_000), u64::MAX);
    }
}
