//! What the lender keeps of a hold and of a lease.

use crate::document::Lease;
use pumasi_terms::offer::Requirement;
use pumasi_terms::{BootMs, CloudName, Epoch, LeaseId, Money, Now, ReservationId, WallMs};
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
    /// Whether the borrower may use it.
    pub fn usable(&self) -> bool {
        matches!(self.state, LentState::Active | LentState::Recalled { .. })
    }
}
