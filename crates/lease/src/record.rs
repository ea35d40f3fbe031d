//! What the lender keeps of a hold and of a lease.

use crate::document::Lease;
use pumasi_terms::offer::Requirement;
use pumasi_terms::{BootMs, CloudName, Epoch, LeaseId, Money, Now, ReservationId, Standby, WallMs};
use serde::{Deserialize, Serialize};

/// A provisional hold: room set aside for seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    pub id: ReservationId,
    pub borrower: CloudName,
    pub requirement: Requirement,
    /// Granted: between the requirement's least and its wish.
    pub instances: u32,
    pub price_per_instance_hour: Money,
    /// Of a standby: what its room costs while it is kept, in percent of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_percent: Option<u32>,
    pub expires_at: BootMs,
    pub created_at: WallMs,
}

/// What was used, as one side metered it. It is told: kinds of use that a later version adds are passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Usage {
    /// Milliseconds of ready instances, summed over instances.
    pub instance_ms: u64,
    pub requests: u64,
    pub bytes_out: u64,
    /// Of a standby: milliseconds for which room was kept, summed over instances, whether they ran or not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved_instance_ms: u64,
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms of instances, {} requests, {} bytes out", self.instance_ms, self.requests, self.bytes_out)?;
        if self.reserved_instance_ms == 0 {
            Ok(())
        } else {
            write!(f, ", {} ms of kept room", self.reserved_instance_ms)
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LentLease {
    pub lease: Lease,
    pub state: LentState,
    /// By this cloud's boot clock.
    pub expires_at: BootMs,
    /// Instances the borrower wants now, at most `lease.instances`.
    pub instances_wanted: u32,
    pub usage: Usage,
    pub since: WallMs,
    /// Newest epoch the borrower acted under; acts under an older one are refused.
    #[serde(default)]
    pub epoch: Epoch,
    /// Of a standby: from when its room is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_since: Option<WallMs>,
    /// Of a standby whose borrower is not heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
}

/// A standby outlives its borrower's silence, until what it promised to keep it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// When it was last heard, as far as is known.
    pub since: WallMs,
    /// Counted by this cloud's boot clock, so that a wall clock that is set forward ends nothing. Time for which the machine is off is
    /// not counted: whatever is kept is kept longer then.
    pub counted_ms: u64,
    pub counted_at: BootMs,
    /// How far its copies were behind when it was last heard: the most that is lost if it is gone; none: it never said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
}

impl Silence {
    /// So long, up to now.
    pub fn lasted_ms(&self, now: Now) -> u64 {
        self.counted_ms.saturating_add(now.boot.since(self.counted_at))
    }
}

/// What renewals change of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    pub expires_at: BootMs,
    pub instances_wanted: u32,
    pub epoch: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum LentState {
    Active,
    /// Called back: the borrower shall be gone by then.
    Recalled {
        deadline: BootMs,
        why: String,
    },
    /// Being emptied: released by the borrower, or its time ran out, or the recall's notice did.
    Ending {
        why: EndedBy,
    },
    /// Proven empty; waits for the settlement.
    Ended {
        why: EndedBy,
        at: WallMs,
    },
    Settled {
        at: WallMs,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    Release,
    Expiry,
    Recall,
    /// Its service was handed over to the lender.
    Handover,
    /// A standby was kept as long as was promised, and nobody was heard.
    Retention,
}

impl LentLease {
    pub fn id(&self) -> &LeaseId {
        &self.lease.id
    }
    /// As its last renewal left it.
    pub fn renewed(&self) -> Renewed {
        Renewed { expires_at: self.expires_at, instances_wanted: self.instances_wanted, epoch: self.epoch }
    }
    pub fn set(&mut self, renewed: Renewed) {
        let Renewed { expires_at, instances_wanted, epoch } = renewed;
        (self.expires_at, self.instances_wanted, self.epoch) = (expires_at, instances_wanted, epoch);
    }
    #[must_use]
    pub fn with(mut self, renewed: Renewed) -> Self {
        self.set(renewed);
        self
    }
    /// Whether it still binds the lender's resources.
    pub fn binds(&self) -> bool {
        matches!(self.state, LentState::Active | LentState::Recalled { .. } | LentState::Ending { .. })
    }
    /// Time left until it ends by itself, ms.
    pub fn expires_in_ms(&self, now: Now) -> u64 {
        if self.usable() { self.expires_at.since(now.boot) } else { 0 }
    }
    /// Time left of a recall's notice, ms.
    pub fn recall_in_ms(&self, now: Now) -> Option<u64> {
        match &self.state {
            LentState::Recalled { deadline, .. } => Some(deadline.since(now.boot)),
            _ => None,
        }
    }
    /// What it promises as a standby, if it is one.
    pub fn standby(&self) -> Option<Standby> {
        self.lease.requirement.standby
    }
    /// What was used up to now. Kept room is not metered but reckoned, so that no silence and no restart loses any of it.
    pub fn used(&self, now: Now) -> Usage {
        match self.kept_since.filter(|_| self.usable()) {
            Some(since) => Usage {
                reserved_instance_ms: now.wall.since(since).saturating_mul(self.lease.instances.into()),
                ..self.usage
            },
            None => self.usage,
        }
    }
    /// Whether the borrower's time is over, which ends a lease that is no standby.
    pub fn is_late(&self, now: Now) -> bool {
        self.expires_at <= now.boot
    }
    /// Whether the borrower may use it.
    pub fn usable(&self) -> bool {
        matches!(self.state, LentState::Active | LentState::Recalled { .. })
    }
}
