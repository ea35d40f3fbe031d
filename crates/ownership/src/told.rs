//! What applying an entry tells: to the journal, to whoever proposed it, and to the tasks that act on it.
//!
//! Always holds: a refusal changed nothing; its code stays, its sentence says what was asked, what stood against it, and what to do.

use crate::state::{Cause, Standing};
use pumasi_terms::{CloudName, Epoch, MoveId, Serial, ServiceId};
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    Refused(Refused),
    Stands {
        cloud: CloudName,
        standing: Standing,
    },
    /// Its takeover waits for operators of a majority.
    Asked {
        cloud: CloudName,
        why: String,
    },
    Approved {
        cloud: CloudName,
        by: CloudName,
        carried_out: bool,
    },
    Protected {
        service: ServiceId,
        owner: CloudName,
        epoch: Epoch,
    },
    Unprotected {
        service: ServiceId,
        epoch: Epoch,
    },
    /// The service has another owner. The new one begins, the former one may write no more.
    Owner {
        service: ServiceId,
        from: CloudName,
        to: CloudName,
        epoch: Epoch,
        cause: Cause,
    },
    Waiting {
        service: ServiceId,
        owner: CloudName,
        place: u32,
    },
    InSync {
        service: ServiceId,
        epoch: Epoch,
    },
    Progress {
        service: ServiceId,
        epoch: Epoch,
    },
    Yielded {
        service: ServiceId,
        epoch: Epoch,
        why: String,
    },
    /// The owner writes on.
    Cancelled {
        service: ServiceId,
        epoch: Epoch,
        id: MoveId,
    },
    Key {
        service: ServiceId,
        cloud: CloudName,
    },
    Pact {
        serial: Serial,
    },
}

/// Why nothing came of what was asked; none: it was not refused.
pub fn refusal(told: &[Told]) -> Option<&Refused> {
    told.iter().find_map(|t| if let Told::Refused(refused) = t { Some(refused) } else { None })
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Refused {
    pub code: Code,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Whoever asks may not ask this.
    NotYours,
    Unreadable,
    UnknownCloud,
    UnknownService,
    /// The service has another epoch than the one that was asked about.
    OtherEpoch,
    /// The cloud has another run, or another standing.
    OtherRun,
    /// A renewal came after the one that the proposer waited for.
    NotTheLast,
    /// No majority of voters attests silence.
    NotSilent,
    NameTaken,
    HostTaken,
    Ended,
    Full,
    NotAStandby,
    /// The cloud that shall take it is not alive, ailing, or on probation.
    NotAlive,
    NotInSync,
    /// The set of clouds in step was changed since it was asked about.
    OtherSet,
    Cancelled,
    NotAsked,
    OlderSerial,
    Unfit,
    OwnsStill,
    Bounds,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotYours => "not_yours",
            Self::Unreadable => "unreadable",
            Self::UnknownCloud => "unknown_cloud",
            Self::UnknownService => "unknown_service",
            Self::OtherEpoch => "other_epoch",
            Self::OtherRun => "other_run",
            Self::NotTheLast => "not_the_last",
            Self::NotSilent => "not_silent",
            Self::NameTaken => "name_taken",
            Self::HostTaken => "host_taken",
            Self::Ended => "ended",
            Self::Full => "full",
            Self::NotAStandby => "not_a_standby",
            Self::NotAlive => "not_alive",
            Self::NotInSync => "not_in_sync",
            Self::OtherSet => "other_set",
            Self::Cancelled => "cancelled",
            Self::NotAsked => "not_asked",
            Self::OlderSerial => "older_serial",
            Self::Unfit => "unfit",
            Self::OwnsStill => "owns_still",
            Self::Bounds => "bounds",
        }
    }
    /// Whether the same may succeed after the asker has read the register again.
    pub fn read_again(self) -> bool {
        matches!(
            self,
            Self::OtherEpoch
                | Self::OtherRun
                | Self::NotTheLast
                | Self::NotSilent
                | Self::NotAlive
                | Self::NotInSync
                | Self::OtherSet
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(crate) fn no<T>(code: Code, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, text: text.into() })
}
