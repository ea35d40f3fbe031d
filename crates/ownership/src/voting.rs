//! What a signed pact says of voting, as the register holds it.
//!
//! Enters: a pact, the digest of its signed bytes. Leaves: [`Voting`], not checked. Always holds: one pact gives one `Voting`, so that
//! all first voters begin from the same bytes; a voter that is no member (any more) is not in it.

use crate::state::{Pace, Role, Voting};
use crate::timers::{Profile, Timers};
use pumasi_terms::Digest;
use pumasi_terms::pact::{Pact, Role as MemberRole, VotingPace, VotingTimers};

impl Voting {
    /// None: the pact does not vote. `pact` is as all signed it: what members said since may have come to one voter and not yet to another.
    pub fn of(pact: &Pact, digest: Digest) -> Option<Self> {
        let voting = pact.voting.as_ref()?;
        let votes = |m: &&pumasi_terms::pact::Member| voting.voters.contains(&m.cloud);
        Some(Self {
            serial: pact.serial,
            digest,
            members: pact.members.iter().map(|m| (m.cloud.clone(), m.role.into())).collect(),
            voters: pact.members.iter().filter(votes).map(|m| (m.cloud.clone(), m.document_key.clone())).collect(),
            timers: (&voting.timers).into(),
            pace: Pace { window_ms: voting.pace.window_ms, automatic: voting.pace.automatic },
        })
    }
}

impl From<MemberRole> for Role {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Cloud => Self::Cloud,
            MemberRole::Witness => Self::Witness,
        }
    }
}

impl From<&VotingTimers> for Timers {
    fn from(t: &VotingTimers) -> Self {
        Self {
            tick_ms: t.tick_ms,
            heartbeat_ms: t.heartbeat_ms,
            election_ms_min: t.election_ms_min,
            election_ms_max: t.election_ms_max,
            renew_ms: t.renew_ms,
            ttl_ms: t.ttl_ms,
            ttl_ms_max: t.ttl_ms_max,
            stop_ms: t.stop_ms,
            margin_ms: t.margin_ms,
            drift_ppm: t.drift_ppm,
            probation_ms: t.probation_ms,
            sync_wait_ms_max: t.sync_wait_ms_max,
        }
    }
}

impl From<&Timers> for VotingTimers {
    fn from(t: &Timers) -> Self {
        Self {
            tick_ms: t.tick_ms,
            heartbeat_ms: t.heartbeat_ms,
            election_ms_min: t.election_ms_min,
            election_ms_max: t.election_ms_max,
            renew_ms: t.renew_ms,
            ttl_ms: t.ttl_ms,
            ttl_ms_max: t.ttl_ms_max,
            stop_ms: t.stop_ms,
            margin_ms: t.margin_ms,
            drift_ppm: t.drift_ppm,
            probation_ms: t.probation_ms,
            sync_wait_ms_max: t.sync_wait_ms_max,
        }
    }
}

impl From<Pace> for VotingPace {
    fn from(p: Pace) -> Self {
        Self { window_ms: p.window_ms, automatic: p.automatic }
    }
}

impl Profile {
    pub const ALL: [Self; 3] = [Self::Default, Self::Lan, Self::Far];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Lan => "lan",
            Self::Far => "far",
        }
    }

    /// The one that these times are, if they are one's.
    pub fn of(timers: &Timers) -> Option<Self> {
        Self::ALL.into_iter().find(|p| &p.timers() == timers)
    }
}

impl std::str::FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str() == text)
            .ok_or_else(|| format!("{text} is no profile of times: default, lan or far"))
    }
}
