//! When a voter asks for votes.
//!
//! Enters: a profile, the measured round trip, the voters, the term, entropy of the caller. Leaves: timeouts in ticks.
//! Always holds: two voters of one rank there are not, so that after a leader's death one of them asks first and the next one waits
//! for two round trips more: votes are hardly ever split (measured: with random timeouts, clouds were fenced by split votes).

use crate::conf::Conf;
use crate::id::RaftId;

/// A pact's timing. Times are ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    pub tick_ms: u64,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTimers {
    #[error("timers of a pact: tick_ms {tick_ms} does not divide heartbeat_ms {heartbeat_ms} into whole ticks")]
    Ticks { tick_ms: u64, heartbeat_ms: u64 },
    #[error(
        "timers of a pact: election_min_ms {election_min_ms} is less than four heartbeats of {heartbeat_ms} ms: a lost one or two would look like a dead leader"
    )]
    Hasty { election_min_ms: u64, heartbeat_ms: u64 },
    #[error(
        "timers of a pact: election_max_ms {election_max_ms} is less than twice election_min_ms {election_min_ms}: there is no room for ranks"
    )]
    NoRoom { election_min_ms: u64, election_max_ms: u64 },
}

impl Timers {
    pub const DEFAULT: Self = Self { tick_ms: 20, heartbeat_ms: 60, election_min_ms: 500, election_max_ms: 1_500 };
    /// One machine, or one metropolitan network.
    pub const LAN: Self = Self { tick_ms: 5, heartbeat_ms: 10, election_min_ms: 40, election_max_ms: 120 };
    /// Round trips above 200 ms.
    pub const FAR: Self = Self { tick_ms: 20, heartbeat_ms: 60, election_min_ms: 800, election_max_ms: 2_400 };

    pub fn check(&self) -> Result<(), BadTimers> {
        let Self { tick_ms, heartbeat_ms, election_min_ms, election_max_ms } = *self;
        if tick_ms == 0 || heartbeat_ms == 0 || !heartbeat_ms.is_multiple_of(tick_ms) {
            return Err(BadTimers::Ticks { tick_ms, heartbeat_ms });
        }
        if election_min_ms < heartbeat_ms.saturating_mul(4) {
            return Err(BadTimers::Hasty { election_min_ms, heartbeat_ms });
        }
        if election_max_ms < election_min_ms.saturating_mul(2) {
            return Err(BadTimers::NoRoom { election_min_ms, election_max_ms });
        }
        Ok(())
    }

    pub(crate) fn heartbeat_ticks(&self) -> usize {
        ticks(self.heartbeat_ms, self.tick_ms)
    }

    pub(crate) fn election_min_ticks(&self) -> usize {
        ticks(self.election_min_ms, self.tick_ms)
    }

    /// Exclusive, as `raft` takes it.
    pub(crate) fn election_max_ticks(&self) -> usize {
        ticks(self.election_max_ms, self.tick_ms) + 1
    }

    /// For how long a write may be under way before a leader counts as one whose disk stalls: so that the others, who then hear
    /// nothing more, have another leader soon after one election timeout from the last write.
    pub fn stall_ms(&self) -> u64 {
        self.election_min_ms.saturating_sub(self.heartbeat_ms)
    }

    /// The timeout of a voter in a term, in ticks.
    pub(crate) fn election_ticks(&self, place: Place, round_trip_ms: u64, entropy: u64) -> usize {
        let (min, max) = (self.election_min_ticks(), self.election_max_ticks());
        let room = (max - 1 - min) / place.of.max(1);
        let slot = ticks(round_trip_ms.saturating_mul(2), self.tick_ms).clamp(1, room.max(1));
        let third = slot / 3 + 1;
        let scatter = usize::try_from(mixed(entropy) % third as u64).unwrap_or(0);
        (min + place.rank * slot + scatter).clamp(min, max - 1)
    }
}

fn ticks(ms: u64, tick_ms: u64) -> usize {
    usize::try_from(ms.div_ceil(tick_ms.max(1))).unwrap_or(usize::MAX / 2).min(1 << 20)
}

/// At which place of how many a voter stands in a term; the places move on with each term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    pub(crate) of: usize,
}

impl Place {
    pub(crate) fn of(conf: &Conf, id: RaftId, term: u64) -> Self {
        let voting = conf.voting();
        let of = voting.len().max(1);
        let index = voting.iter().position(|v| *v == id).unwrap_or(of - 1);
        let turn = usize::try_from(term % of as u64).unwrap_or(0);
        Self { rank: (index + turn) % of, of }
    }
}

/// Spreads the bits of a number (the finalizer of splitmix64).
pub(crate) fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_voters_have_one_rank_in_a_term() {
        let ids: Vec<RaftId> = [3, 9, 12, 40, 77].into_iter().map(|n| RaftId::new(n).unwrap()).collect();
        let conf = Conf::of(ids.iter().copied().collect()).unwrap();
        for term in 0..20 {
            let mut ranks: Vec<usize> = ids.iter().map(|id| Place::of(&conf, *id, term).rank).collect();
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn slots_are_two_round_trips_apart_and_stay_within_the_profile() {
        for timers in [Timers::DEFAULT, Timers::LAN, Timers::FAR] {
            timers.check().unwrap();
            for of in [1, 3, 5, 7] {
                for round_trip_ms in [0, 1, 30, 100, 5_000] {
                    let ticks = |rank, entropy| timers.election_ticks(Place { rank, of }, round_trip_ms, entropy);
                    for entropy in 0..50 {
                        for rank in 0..of {
                            let t = ticks(rank, entropy);
                            assert!((timers.election_min_ticks()..timers.election_max_ticks()).contains(&t));
                            assert!(rank == 0 || t > ticks(rank - 1, entropy + 1), "{timers:?} {of} {round_trip_ms}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn hasty_profiles_are_refused_with_their_numbers() {
        let hasty = Timers { election_min_ms: 200, ..Timers::DEFAULT };
        assert!(hasty.check().unwrap_err().to_string().contains("200"));
        assert!(Timers { tick_ms: 0, ..Timers::DEFAULT }.check().is_err());
        assert!(Timers { election_max_ms: 600, ..Timers::DEFAULT }.check().is_err());
    }
}
