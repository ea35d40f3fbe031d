//! What all voters of a pact agree on: which clouds are alive, who owns each service, at which epoch.
//!
//! Enters: a snapshot. Leaves: the same, checked. Always holds: a service that is protected has exactly one owner; its epoch never falls;
//! what has ended stays ended; everything is bounded. Only `apply` changes it. No instant of any clock is in it: `elapsed_ms` is counted from
//! what leaders measured, and is used for pace and probation, never for safety.

use crate::timers::{Inequality, Measured, Timers, Unfit};
use pumasi_terms::service::{AutomationMode, RecoveryClass};
use pumasi_terms::{
    CloudName, DatasetName, Digest, Epoch, LeaseId, PactId, Position, Resources, Serial, ServiceId, ServiceName,
};
use pumasi_trust::PublicKey;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const STATE_VERSION: u32 = 1;
pub const MEMBERS_MAX: usize = 64;
/// With those that left, whose runs are remembered.
pub const CLOUDS_MAX: usize = 256;
pub const SERVICES_MAX: usize = 4_096;
/// Services that a pact can ever know: those that ended are remembered, so that none comes back.
pub const LIVES_MAX: usize = 32_768;
pub const HOSTS_MAX: usize = 16;
pub const STANDBYS_MAX: usize = 8;
pub const DATASETS_MAX: usize = 64;
pub const INSTANCES_MAX: u32 = 256;
pub const MOVED_MAX: usize = 256;
pub const LOSSES_MAX: usize = 64;
pub const SNAPSHOT_BYTES_MAX: usize = 32 << 20;
pub const KEY_CHARS_MAX: usize = 4 << 10;
pub const THUMBPRINT_CHARS_MAX: usize = 64;
/// The last epoch that makes a later generation of positions (`terms::position`).
pub const EPOCH_MAX: Epoch = Epoch((1 << 21) - 1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub version: u32,
    pub pact: PactId,
    /// Index of the last entry that was applied.
    pub revision: u64,
    /// Time in which the pact had a leader, as leaders measured it. It is never ahead of true time by more than clocks drift.
    pub elapsed_ms: u64,
    pub voting: Voting,
    pub clouds: BTreeMap<CloudName, Cloud>,
    pub services: BTreeMap<ServiceId, Owned>,
    /// Under which epoch each ended.
    pub ended: BTreeMap<ServiceId, Epoch>,
    pub recovery: BTreeMap<CloudName, Recovering>,
    /// The last changes of owners, for people.
    pub moved: VecDeque<Moved>,
    /// The last losses of clouds, for the pace.
    pub losses: VecDeque<Loss>,
}

/// What the pact in force says of voting. Every voter holds the same, so that each verifies with the same keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voting {
    pub serial: Serial,
    /// Of the pact's signed bytes.
    pub digest: Digest,
    pub members: BTreeMap<CloudName, Role>,
    /// Their public keys for documents: JWKs as JSON text, as in the pact.
    pub voters: BTreeMap<CloudName, String>,
    pub timers: Timers,
    pub pace: Pace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Cloud,
    /// Votes, and holds names and digests only: it owns nothing and takes nothing, and its ttl binds nobody (I7).
    Witness,
}

/// How many lost clouds are recovered from without asking anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    pub window_ms: u64,
    /// Of losses within `window_ms`; unsaid: one, or a third of the members where there are more than four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic: Option<u32>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { window_ms: 600_000, automatic: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    /// One process of its holder; a new one takes a higher run.
    pub run: u64,
    /// The last renewal of this run. 0: none yet.
    pub seq: u64,
    /// As the last renewal says; a new run keeps it until its first.
    pub ttl_ms: u64,
    pub standing: Standing,
    pub free: Resources,
    pub health: Health,
    /// The present or the last one's length.
    pub probation_ms: u64,
    /// In `elapsed_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    #[default]
    Well,
    /// It serves what it has and takes nothing more.
    Ailing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Alive,
    Lost {
        at_rev: u64,
    },
    /// On probation: it serves what it owns, and takes nothing. In `elapsed_ms`: since when its renewals are unbroken, and the last one.
    Returning {
        since_ms: u64,
        seen_ms: u64,
    },
    /// No member any more.
    Left,
}

/// What owner, standbys and customer agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreed {
    pub name: ServiceName,
    pub hosts: BTreeSet<String>,
    pub class: Class,
    /// Higher is first.
    pub priority: u32,
    /// What one instance needs.
    pub unit: Resources,
    pub full: u32,
    pub least: u32,
    pub mode: Mode,
    /// The best first.
    pub standbys: Vec<StandbyAt>,
    /// Of the agreement's signed bytes.
    pub agreement: Digest,
    /// Whether a takeover may happen without a person.
    pub takeover: Takeover,
}

/// The recovery class, in the order in which services are recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Guaranteed,
    Early,
    Deferred,
}

impl From<RecoveryClass> for Class {
    fn from(class: RecoveryClass) -> Self {
        match class {
            RecoveryClass::Guaranteed => Self::Guaranteed,
            RecoveryClass::Early => Self::Early,
            RecoveryClass::Deferred => Self::Deferred,
        }
    }
}

/// The customer's automation mode, for takeovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takeover {
    Automatic,
    Ask,
    Observe,
}

impl From<AutomationMode> for Takeover {
    fn from(mode: AutomationMode) -> Self {
        match mode {
            AutomationMode::Automatic => Self::Automatic,
            AutomationMode::Ask => Self::Ask,
            AutomationMode::Observe => Self::Observe,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// No dataset.
    Stateless,
    Async,
    /// Only a cloud of the committed in-sync set may take it.
    Sync,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandbyAt {
    pub cloud: CloudName,
    pub lease: LeaseId,
    pub warm: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owned {
    pub owner: CloudName,
    pub epoch: Epoch,
    /// Index of the entry that made the owner the owner.
    pub since_rev: u64,
    pub phase: Phase,
    pub agreed: Agreed,
    /// Each of them has every acknowledged write: the owner acknowledges nothing that one of them lacks.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub in_sync: BTreeSet<CloudName>,
    /// How often the set was changed, by a command or with what is agreed: see [`InSync`](crate::Command::InSync).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sync_count: u64,
    /// What the present owner began from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base: BTreeMap<DatasetName, Base>,
    /// Thumbprints of the keys under which each cloud would sign for the service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<CloudName, String>,
    /// Handovers of this epoch that are numbered below were cancelled.
    #[serde(default)]
    pub attempt: u32,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Serving,
    /// It has a new owner, which starts it.
    Taken {
        have: u32,
        want: u32,
    },
    /// It serves, smaller than agreed.
    Degraded {
        have: u32,
        want: u32,
    },
    /// Its owner is lost, and nobody has taken it; the place in the queue counts from 1.
    Waiting {
        place: u32,
    },
    /// Its owner has stopped writing and asks that another take it.
    Yielded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    pub position: Position,
    pub digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovering {
    pub at_rev: u64,
    /// Beyond the pace: the plan waits for the operators of a majority.
    pub asked: bool,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub approved: BTreeSet<CloudName>,
    /// What waits for them; empty once it was carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<Item>,
}

/// What a plan says of one service. It holds for that epoch only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    pub service: ServiceId,
    pub epoch: Epoch,
    pub end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Taken {
        to: CloudName,
        have: u32,
        want: u32,
    },
    /// The owner stays, and resumes at once if it returns.
    Waiting {
        place: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The owner was lost.
    Disaster,
    /// The owner yielded this service alone.
    Failure,
    /// The owner handed it over.
    Handover,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moved {
    pub at_rev: u64,
    pub service: ServiceId,
    pub from: CloudName,
    pub to: CloudName,
    pub epoch: Epoch,
    pub cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    pub cloud: CloudName,
    /// In `elapsed_ms`.
    pub at_ms: u64,
}

/// Why a snapshot is not taken over. It is the sender's fault, or this program is too old.
#[derive(Debug, thiserror::Error)]
pub enum BadState {
    #[error("the snapshot has {0} bytes, at most {SNAPSHOT_BYTES_MAX} are read")]
    TooLarge(usize),
    #[error("the snapshot is of version {0}, this program knows {STATE_VERSION}: upgrade it, it must not vote before")]
    Newer(u32),
    #[error("the snapshot cannot be read: {0}")]
    Unreadable(String),
    #[error("the snapshot says of {what}: {problem}")]
    Wrong { what: String, problem: String },
}

/// How a pact says that it cannot vote so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadVoting(pub String);

impl Voting {
    pub fn check(&self) -> Result<(), BadVoting> {
        let bad = |text: String| Err(BadVoting(text));
        let count = self.voters.len();
        if count == 2 {
            return bad(
                "no automatic takeover: 2 voters cannot tell a dead partner from a cut link; add a witness".into()
            );
        }
        if ![3, 5, 7].contains(&count) {
            return bad(format!(
                "a pact has 3, 5 or 7 voters, not {count}: an even number bears no more losses than one less, and more than 7 are slow"
            ));
        }
        if self.members.len() > MEMBERS_MAX {
            return bad(format!("a pact has at most {MEMBERS_MAX} members, not {}", self.members.len()));
        }
        for (voter, key) in &self.voters {
            if !self.members.contains_key(voter) {
                return bad(format!("{voter} votes, and is no member"));
            }
            if key.len() > KEY_CHARS_MAX {
                return bad(format!("the key of {voter} is too long"));
            }
            if let Err(e) = PublicKey::from_jwk(key) {
                return bad(format!("the key of {voter}: {e}"));
            }
        }
        // What was measured is each cloud's own affair: it raises its ttl. What is stated must fit by itself.
        if let Err(faults) = self.timers.check(Measured::default()) {
            return bad(faults.iter().map(Unfit::to_string).collect::<Vec<_>>().join("; "));
        }
        let Pace { window_ms, automatic } = self.pace;
        if !(1..=86_400_000).contains(&window_ms) || automatic.is_some_and(|n| n as usize > MEMBERS_MAX) {
            return bad(format!(
                "{}: the pace's window must be 1 ms to a day, its number at most {MEMBERS_MAX}",
                Inequality::Bounds
            ));
        }
        Ok(())
    }
    pub fn is_majority(&self, votes: usize) -> bool {
        votes > self.voters.len() / 2
    }
    /// Clouds that may be lost within the pace's window without anybody being asked.
    pub fn automatic(&self) -> u32 {
        let third = u32::try_from(self.members.len() / 3).unwrap_or(u32::MAX);
        self.pace.automatic.unwrap_or(if self.members.len() <= 4 { 1 } else { third })
    }
}

impl State {
    /// The register of a pact that begins to vote.
    pub fn new(pact: PactId, voting: Voting) -> Result<Self, BadVoting> {
        voting.check()?;
        Ok(Self {
            version: STATE_VERSION,
            pact,
            revision: 0,
            elapsed_ms: 0,
            voting,
            clouds: BTreeMap::new(),
            services: BTreeMap::new(),
            ended: BTreeMap::new(),
            recovery: BTreeMap::new(),
            moved: VecDeque::new(),
            losses: VecDeque::new(),
        })
    }

    pub fn to_json(&self) -> Result<Vec<u8>, BadState> {
        serde_json::to_vec(self).map_err(|e| BadState::Unreadable(e.to_string()))
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self, BadState> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(BadState::TooLarge(bytes.len()));
        }
        let unreadable = |e: serde_json::Error| BadState::Unreadable(e.to_string());
        let Version { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version != STATE_VERSION {
            return Err(BadState::Newer(version));
        }
        let state: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        state.check()?;
        Ok(state)
    }

    /// What must hold of every state that `apply` leaves.
    pub fn check(&self) -> Result<(), BadState> {
        let wrong = |what: &dyn std::fmt::Display, problem: &str| {
            Err(BadState::Wrong { what: what.to_string(), problem: problem.to_owned() })
        };
        if let Err(e) = self.voting.check() {
            return wrong(&"voting", &e.0);
        }
        if self.clouds.len() > CLOUDS_MAX
            || self.services.len() > SERVICES_MAX
            || self.services.len() + self.ended.len() > LIVES_MAX
            || self.moved.len() > MOVED_MAX
            || self.losses.len() > LOSSES_MAX
        {
            return wrong(&"its size", "more than is allowed");
        }
        let (mut names, mut hosts) = (BTreeSet::new(), BTreeSet::new());
        for (id, owned) in &self.services {
            if !self.clouds.contains_key(&owned.owner) {
                return wrong(id, "its owner is unknown");
            }
            if self.ended.contains_key(id) {
                return wrong(id, "it has ended");
            }
            if owned.epoch == Epoch(0) || owned.epoch > EPOCH_MAX || owned.since_rev > self.revision {
                return wrong(id, "its epoch or its revision cannot be");
            }
            if !names.insert(&owned.agreed.name) || !owned.agreed.hosts.iter().all(|h| hosts.insert(h)) {
                return wrong(id, "another service has its name or host");
            }
            if !owned.in_sync.iter().all(|c| owned.agreed.standby(c).is_some()) {
                return wrong(id, "a cloud is in sync and no standby");
            }
        }
        for (cloud, recovering) in &self.recovery {
            if self.clouds.get(cloud).map(|c| c.standing) != Some(Standing::Lost { at_rev: recovering.at_rev }) {
                return wrong(cloud, "it is recovered from, and is not lost");
            }
        }
        Ok(())
    }

    /// What made the present owner of a service its owner, as far back as moves are kept.
    pub fn last_move(&self, service: &ServiceId) -> Option<&Moved> {
        let epoch = self.services.get(service)?.epoch;
        self.moved.iter().rev().find(|m| &m.service == service && m.epoch == epoch)
    }

    pub fn is_voter(&self, cloud: &CloudName) -> bool {
        self.voting.voters.contains_key(cloud)
    }
    pub fn is_witness(&self, cloud: &CloudName) -> bool {
        self.voting.members.get(cloud) == Some(&Role::Witness)
    }
    pub fn owned_by<'a>(&'a self, cloud: &'a CloudName) -> impl Iterator<Item = (&'a ServiceId, &'a Owned)> {
        self.services.iter().filter(move |(_, owned)| &owned.owner == cloud)
    }
    /// Whether it may become the owner of anything.
    pub fn may_take(&self, cloud: &CloudName) -> bool {
        !self.is_witness(cloud)
            && self.clouds.get(cloud).is_some_and(|c| c.standing == Standing::Alive && c.health == Health::Well)
    }
    /// Where the next loss of a cloud would be within the pace.
    pub fn within_pace(&self) -> bool {
        let since = self.elapsed_ms.saturating_sub(self.voting.pace.window_ms);
        // A loss at the very beginning counts too.
        let recent = self.losses.iter().filter(|l| l.at_ms > since || since == 0).count();
        u32::try_from(recent).unwrap_or(u32::MAX) < self.voting.automatic()
    }
}

impl Agreed {
    pub fn standby(&self, cloud: &CloudName) -> Option<&StandbyAt> {
        self.standbys.iter().find(|s| &s.cloud == cloud)
    }
}

impl Owned {
    /// Whether this cloud has what the service needs to live there.
    pub fn may_live_at(&self, cloud: &CloudName) -> bool {
        cloud != &self.owner
            && self.agreed.standby(cloud).is_some()
            && (self.agreed.mode != Mode::Sync || self.in_sync.contains(cloud))
    }
}
