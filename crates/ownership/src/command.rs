//! What may be asked of the register, as the log carries it.
//!
//! Enters: bytes of an entry. Leaves: the entry, or why it is none. Always holds: what is asked is understood whole; an entry of a newer
//! version stops its reader, since voters that read it differently would no longer agree; an entry of this version that is malformed is
//! malformed for every voter.

use crate::state::{
    Agreed, Base, DATASETS_MAX, EPOCH_MAX, HOSTS_MAX, Health, INSTANCES_MAX, Item, KEY_CHARS_MAX, MEMBERS_MAX, Mode,
    SERVICES_MAX, STANDBYS_MAX, THUMBPRINT_CHARS_MAX, Voting,
};
use pumasi_terms::service::is_host;
use pumasi_terms::{CloudName, DatasetName, Epoch, MoveId, PactId, Position, Resources, ServiceId};
use pumasi_trust::SignedDocument;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub const ENTRY_VERSION: u32 = 2;
/// What says nothing of being in step has the bytes that it always had.
const ENTRY_VERSION_FIRST: u32 = 1;
/// A plan of as many services as there may be has about 500 kB.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
pub const RENEWALS_MAX: usize = 64;
pub const PROGRESS_MAX: usize = 128;
pub const ATTESTATIONS_MAX: usize = 7;
pub const WHY_CHARS_MAX: usize = 400;
/// One entry moves the pact's time by no more than this.
pub const ELAPSED_MS_MAX: u64 = 1_000;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub version: u32,
    /// On whose behalf. The voter that accepted it has authenticated that cloud.
    pub by: CloudName,
    pub command: Command,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A leader's batch. `elapsed_ms`: since its last one, by its boot clock; 0 for the first of its term.
    Renew {
        elapsed_ms: u64,
        renewals: Vec<Renewal>,
    },
    Join {
        cloud: CloudName,
        run: u64,
    },
    /// A new run of a cloud that is known: after a restart, or after it was lost.
    Rejoin {
        cloud: CloudName,
        run: u64,
    },
    /// By its owner: enters a service, or changes what is agreed.
    Protect {
        service: ServiceId,
        epoch: Epoch,
        agreed: Box<Agreed>,
    },
    Unprotect {
        service: ServiceId,
        epoch: Epoch,
    },
    InSync {
        service: ServiceId,
        epoch: Epoch,
        set: BTreeSet<CloudName>,
        /// How often the set had been changed when this was asked. It takes effect on that set only, so that one that was delayed cannot
        /// put a cloud in which its owner waits for no longer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    },
    Lost(Box<Lost>),
    /// The operators of this cloud agree that the plan is carried out.
    Approve {
        cloud: CloudName,
        lost_rev: u64,
    },
    /// More of a lost cloud's services find an owner.
    Recover {
        cloud: CloudName,
        lost_rev: u64,
        items: Vec<Item>,
    },
    /// A service that was yielded finds an owner.
    Relieve {
        item: Item,
    },
    /// Attempts of one epoch are numbered by the owner; a cancel is for all up to its own.
    Transfer {
        service: ServiceId,
        epoch: Epoch,
        to: CloudName,
        id: MoveId,
        attempt: u32,
        positions: BTreeMap<DatasetName, Position>,
    },
    Cancel {
        service: ServiceId,
        epoch: Epoch,
        id: MoveId,
        attempt: u32,
    },
    /// The owner has stopped writing.
    Yield {
        service: ServiceId,
        epoch: Epoch,
        why: String,
    },
    /// Owners tell how far they are.
    Serving {
        items: Vec<Progress>,
    },
    Key {
        service: ServiceId,
        epoch: Epoch,
        cloud: CloudName,
        thumbprint: String,
    },
    Pact {
        voting: Box<Voting>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    pub cloud: CloudName,
    pub run: u64,
    pub seq: u64,
    /// The holder's own. Raising it is free; lowering it binds the holder from the moment of sending.
    pub ttl_ms: u64,
    pub free: Resources,
    pub health: Health,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    pub cloud: CloudName,
    pub run: u64,
    /// The last renewal that the proposer waited for. It must be the last in the log.
    pub seen_seq: u64,
    /// That of the question which the attestations answer.
    pub nonce: u64,
    pub attestations: Vec<SignedDocument>,
    pub plan: Vec<Item>,
}

/// Kind of the signed document that says [`Attestation`].
pub const ATTESTATION_KIND: &str = "silence";

/// A voter's word that it did not hear a cloud directly for so long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    pub version: u32,
    pub pact: PactId,
    pub cloud: CloudName,
    pub run: u64,
    pub seq: u64,
    pub nonce: u64,
    pub silent_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    pub service: ServiceId,
    pub epoch: Epoch,
    pub how: How,
    /// What the owner began from; unsaid: as before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base: BTreeMap<DatasetName, Base>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Full,
    Degraded { have: u32, want: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// This voter must apply nothing more.
    #[error(
        "the log has an entry of version {0}, this program knows {ENTRY_VERSION}: upgrade it, it cannot go on before"
    )]
    Newer(u32),
    /// Every voter passes it over.
    #[error("the entry cannot be read: {0}")]
    Unreadable(String),
    #[error("the entry says of {what}: {problem}")]
    Bounds { what: &'static str, problem: String },
}

fn most(what: &'static str, count: usize, max: usize) -> Result<(), BadEntry> {
    if count <= max { Ok(()) } else { Err(BadEntry::Bounds { what, problem: format!("{count}, at most {max}") }) }
}

fn wrong(what: &'static str, problem: impl Into<String>) -> Result<(), BadEntry> {
    Err(BadEntry::Bounds { what, problem: problem.into() })
}

impl Entry {
    pub fn new(by: CloudName, command: Command) -> Self {
        Self { version: command.version(), by, command }
    }

    /// What the log carries. Whoever proposes finds out here what no voter would take.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BadEntry> {
        self.command.bounds()?;
        let bytes = serde_json::to_vec(self).map_err(|e| BadEntry::Unreadable(e.to_string()))?;
        most("its bytes", bytes.len(), ENTRY_BYTES_MAX)?;
        Ok(bytes)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadEntry> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        most("its bytes", bytes.len(), ENTRY_BYTES_MAX)?;
        let unreadable = |e: serde_json::Error| BadEntry::Unreadable(e.to_string());
        let Version { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version > ENTRY_VERSION {
            return Err(BadEntry::Newer(version));
        }
        let entry: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        entry.command.bounds()?;
        Ok(entry)
    }
}

impl Command {
    /// A voter that does not count changes of a set would make another register of these: it must stop instead, and say so.
    fn version(&self) -> u32 {
        match self {
            Self::InSync { after: Some(_), .. } => ENTRY_VERSION,
            Self::Protect { agreed, .. } if agreed.mode == Mode::Sync => ENTRY_VERSION,
            _ => ENTRY_VERSION_FIRST,
        }
    }

    /// Bounds that need no state.
    pub fn bounds(&self) -> Result<(), BadEntry> {
        match self {
            Self::Renew { renewals, .. } => most("renewals", renewals.len(), RENEWALS_MAX),
            Self::Join { run, .. } | Self::Rejoin { run, .. } if *run == 0 => wrong("run", "runs count from 1"),
            Self::Protect { epoch, agreed, .. } => {
                if *epoch == Epoch(0) || *epoch > EPOCH_MAX {
                    return wrong("epoch", format!("{epoch}, it must be 1 to {EPOCH_MAX}"));
                }
                agreed.bounds()
            }
            Self::InSync { set, .. } => most("the set", set.len(), STANDBYS_MAX),
            Self::Lost(lost) => {
                most("attestations", lost.attestations.len(), ATTESTATIONS_MAX)?;
                items(&lost.plan)
            }
            Self::Recover { items: more, .. } => items(more),
            Self::Relieve { item } => items(std::slice::from_ref(item)),
            Self::Transfer { positions, attempt, .. } => {
                most("positions", positions.len(), DATASETS_MAX)?;
                if *attempt == u32::MAX { wrong("attempt", "too many") } else { Ok(()) }
            }
            Self::Cancel { attempt, .. } if *attempt == u32::MAX => wrong("attempt", "too many"),
            Self::Yield { why, .. } => most("why", why.chars().count(), WHY_CHARS_MAX),
            Self::Serving { items } => {
                most("items", items.len(), PROGRESS_MAX)?;
                items.iter().try_for_each(|item| {
                    most("base", item.base.len(), DATASETS_MAX)?;
                    match item.how {
                        How::Degraded { have, want } if have >= want || want > INSTANCES_MAX => {
                            wrong("degraded", format!("{have} of {want} instances"))
                        }
                        How::Degraded { .. } | How::Full => Ok(()),
                    }
                })
            }
            Self::Key { thumbprint, .. } => {
                let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                if thumbprint.is_empty() || thumbprint.len() > THUMBPRINT_CHARS_MAX || !thumbprint.bytes().all(fine) {
                    return wrong("thumbprint", format!("must be 1 to {THUMBPRINT_CHARS_MAX} characters of base64url"));
                }
                Ok(())
            }
            Self::Pact { voting } => {
                most("members", voting.members.len(), MEMBERS_MAX)?;
                voting.voters.values().try_for_each(|key| most("a key", key.len(), KEY_CHARS_MAX))
            }
            Self::Join { .. }
            | Self::Rejoin { .. }
            | Self::Unprotect { .. }
            | Self::Approve { .. }
            | Self::Cancel { .. } => Ok(()),
        }
    }
}

fn items(items: &[Item]) -> Result<(), BadEntry> {
    most("the plan", items.len(), SERVICES_MAX)
}

impl Agreed {
    fn bounds(&self) -> Result<(), BadEntry> {
        most("hosts", self.hosts.len(), HOSTS_MAX)?;
        most("standbys", self.standbys.len(), STANDBYS_MAX)?;
        if let Some(host) = self.hosts.iter().find(|h| !is_host(h)) {
            return wrong("hosts", format!("{:?} is no host", host.chars().take(80).collect::<String>()));
        }
        let clouds: BTreeSet<_> = self.standbys.iter().map(|s| &s.cloud).collect();
        if clouds.len() != self.standbys.len() {
            return wrong("standbys", "a cloud stands twice among them");
        }
        if self.least == 0 || self.least > self.full || self.full > INSTANCES_MAX {
            return wrong(
                "size",
                format!(
                    "{} at least and {} in full, it must be 1 <= least <= full <= {INSTANCES_MAX}",
                    self.least, self.full
                ),
            );
        }
        if self.unit.cpu_millis == 0 && self.unit.memory_mib == 0 {
            return wrong("unit", "an instance needs something");
        }
        Ok(())
    }
}
