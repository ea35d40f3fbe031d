//! The Pact document: the common agreement of a federation, signed by every member over its bytes as stored.

use crate::document::{FieldError, Validate, fault};
use crate::{CloudName, Money, PactId, Resources, Serial, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The payload that the members sign. A new serial replaces the last; an older one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pact {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    pub id: PactId,
    pub serial: Serial,
    /// Digest of the signed bytes of the serial before this one; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<crate::Digest>,
    pub created_at: WallMs,
    /// ISO 4217 code in which prices are meant.
    pub currency: String,
    /// In order of joining.
    pub members: Vec<Member>,
    /// None: the pact does not vote; ownership moves by its owner's signature only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voting: Option<Voting>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub cloud: CloudName,
    /// `host:port` of the daemon's API for peers.
    pub api_address: String,
    /// `host:port` of the gateway for peers.
    pub gateway_address: String,
    /// SPIFFE bundle of the member's trust domain: a JWK set as JSON text (SPIFFE Trust Domain and Bundle, 4).
    pub bundle: String,
    /// Public key for documents: a JWK as JSON text.
    pub document_key: String,
    pub terms: Terms,
    #[serde(default, skip_serializing_if = "Role::is_cloud")]
    pub role: Role,
}

/// What a member is to the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    #[default]
    Cloud,
    /// Votes, and holds names and digests only: it lends nothing and owns nothing.
    Witness,
}

impl Role {
    pub fn is_cloud(&self) -> bool {
        *self == Self::Cloud
    }
}

/// Who votes on the ownership of services, by which times. All voters begin from these bytes: it is told in numbers, never by
/// the name of a profile whose numbers another version may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Voting {
    /// The serial with which this voting began. It stays while voters and times change.
    pub since: Serial,
    pub voters: Vec<CloudName>,
    /// Of the voters' stores, where it is not 1: a store that was restored votes under another number than before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub incarnations: BTreeMap<CloudName, u64>,
    pub timers: VotingTimers,
    pub pace: VotingPace,
}

impl Voting {
    pub fn incarnation(&self, cloud: &CloudName) -> u64 {
        self.incarnations.get(cloud).copied().unwrap_or(1)
    }
}

/// Their meaning and the inequalities that they keep are `pumasi_ownership::timers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VotingTimers {
    pub tick_ms: u64,
    pub heartbeat_ms: u64,
    pub election_ms_min: u64,
    pub election_ms_max: u64,
    pub renew_ms: u64,
    pub ttl_ms: u64,
    pub ttl_ms_max: u64,
    pub stop_ms: u64,
    pub margin_ms: u64,
    pub drift_ppm: u32,
    pub probation_ms: u64,
    pub sync_wait_ms_max: u64,
}

/// How many lost clouds are recovered from without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VotingPace {
    pub window_ms: u64,
    /// Unsaid: one, or a third of the members where there are more than four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic: Option<u32>,
}

/// What a member lends, and on which terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The most it lends at one time, over all borrowers.
    pub lends: Resources,
    pub storage_bytes: u64,
    /// Part of `lends` that one borrower may hold at one time, in percent.
    pub share_per_borrower_percent: u32,
    /// Holds that one borrower may have open at one time.
    pub holds_per_borrower: u32,
    pub price_per_cpu_hour: Money,
    /// Warning before a lease is called back.
    pub recall_notice_ms: u64,
    pub hold_ttl_ms_max: u64,
    pub lease_ttl_ms_max: u64,
    /// Members that may ask; empty: every member.
    pub borrowers: Vec<CloudName>,
    /// What makes room for services that this member takes over from one that is lost. A member whose version does not know this does not
    /// sign it.
    #[serde(default, skip_serializing_if = "GiveWay::is_nothing")]
    pub gives_way: GiveWay,
}

/// What stands back for a service that was taken over and was promised more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GiveWay {
    #[default]
    Nothing,
    /// Instances of this member's own deferred services.
    OwnDeferred,
    /// Leases that it lent: they are called back with the notice that was agreed.
    Rented,
    Both,
}

impl GiveWay {
    pub fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }
    pub fn own_deferred(self) -> bool {
        matches!(self, Self::OwnDeferred | Self::Both)
    }
    pub fn rented(self) -> bool {
        matches!(self, Self::Rented | Self::Both)
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::OwnDeferred => "own_deferred",
            Self::Rented => "rented",
            Self::Both => "both",
        }
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            lends: Resources { cpu_millis: 0, memory_mib: 0 },
            storage_bytes: 8 << 30,
            share_per_borrower_percent: 100,
            holds_per_borrower: 4,
            price_per_cpu_hour: Money(50_000),
            recall_notice_ms: 5_000,
            hold_ttl_ms_max: 10_000,
            lease_ttl_ms_max: 30_000,
            borrowers: Vec::new(),
            gives_way: GiveWay::Nothing,
        }
    }
}

impl Validate for Terms {
    fn validate(&self, at: &str, e: &mut Vec<FieldError>) {
        if !(1..=100).contains(&self.share_per_borrower_percent) {
            fault(e, at, "share_per_borrower_percent", "must be 1 to 100");
        }
        if !(1..=64).contains(&self.holds_per_borrower) {
            fault(e, at, "holds_per_borrower", "must be 1 to 64");
        }
        if !(1_000..=60_000).contains(&self.hold_ttl_ms_max) {
            fault(e, at, "hold_ttl_ms_max", "must be 1000 to 60000");
        }
        if !(2_000..=86_400_000).contains(&self.lease_ttl_ms_max) {
            fault(e, at, "lease_ttl_ms_max", "must be 2000 to 86400000");
        }
        if self.recall_notice_ms > 86_400_000 {
            fault(e, at, "recall_notice_ms", "at most 86400000");
        }
    }
}

impl Validate for Pact {
    fn validate(&self, at: &str, e: &mut Vec<FieldError>) {
        if self.currency.len() != 3 || !self.currency.bytes().all(|b| b.is_ascii_uppercase()) {
            fault(e, at, "currency", "must be an ISO 4217 code as EUR");
        }
        if self.members.is_empty() || self.members.len() > 64 {
            fault(e, at, "members", "a pact has 1 to 64 members");
        }
        for (i, member) in self.members.iter().enumerate() {
            if self.members[..i].iter().any(|m| m.cloud == member.cloud) {
                fault(e, at, &format!("members[{i}].cloud"), format!("{} is a member already", member.cloud));
            }
            for (field, address) in [("api_address", &member.api_address), ("gateway_address", &member.gateway_address)]
            {
                let fine = address.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok());
                if !fine || address.len() > 255 {
                    fault(e, at, &format!("members[{i}].{field}"), "must be host:port");
                }
            }
            if member.bundle.len() > 64 << 10 || member.document_key.len() > 4 << 10 {
                fault(e, at, &format!("members[{i}]"), "bundle or document_key is too long");
            }
            member.terms.validate(&format!("members[{i}].terms"), e);
            if !member.role.is_cloud() && member.terms.lends != Resources::default() {
                fault(e, at, &format!("members[{i}].terms.lends"), "a witness lends nothing");
            }
        }
        if let Some(voting) = &self.voting {
            if voting.since == Serial(0) || voting.since > self.serial {
                fault(e, at, "voting.since", "must be a serial up to this one");
            }
            let strangers = voting.incarnations.iter().any(|(c, n)| *n == 0 || !voting.voters.contains(c));
            let twice = voting.voters.iter().enumerate().any(|(i, v)| voting.voters[..i].contains(v));
            if twice || strangers || voting.voters.len() > 7 {
                fault(e, at, "voting.voters", "at most 7 clouds, each once; incarnations are of voters, from 1");
            }
        }
    }
}

impl Pact {
    pub fn member(&self, cloud: &CloudName) -> Option<&Member> {
        self.members.iter().find(|m| &m.cloud == cloud)
    }
}
