//! The plan document, version 1.

use pumasi_judge::Verdict;
use pumasi_terms::offer::Requirement;
use pumasi_terms::service::{AutomationMode, RouteMode};
use pumasi_terms::{
    CloudName, DatasetName, Digest, Epoch, JourneyId, LeaseId, Money, PlanId, Ppm, ReservationId, ServiceName, WallMs,
};
use serde::{Deserialize, Serialize};

pub const PLAN_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub version: u32,
    pub id: PlanId,
    pub journey: JourneyId,
    /// 1 for the first of a journey; the parent's number and one.
    pub number: u64,
    pub parent: Option<PlanId>,
    pub service: ServiceName,
    pub epoch: Epoch,
    pub created_at: WallMs,
    /// Why.
    pub verdict: Verdict,
    pub mode: AutomationMode,
    /// New room to be got; none where existing parts only grow less.
    pub borrow: Option<Borrow>,
    /// What every part that exists already shall become.
    pub parts: Vec<Part>,
    pub application: Digest,
    pub datasets: Vec<DatasetName>,
    pub route: Switchover,
    /// Most that it can cost an hour, all parts together.
    pub cost_per_hour_max: Money,
    /// Bytes it sends at most.
    pub bytes_max: u64,
}

/// Hold at all candidates at once, confirm the first granted in order of rank, let the others go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Borrow {
    pub requirement: Requirement,
    /// Best first; three at most.
    pub candidates: Vec<Candidate>,
    pub hold_ttl_ms: u64,
    pub lease_ttl_ms: u64,
    /// Answers that come later than this are let go.
    pub answer_timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    pub cloud: CloudName,
    pub reservation: ReservationId,
    pub lease: LeaseId,
    pub price_per_instance_hour: Money,
    /// Of a standby: what its room costs while it is kept, in percent of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_percent: Option<u32>,
    /// Measured between the daemons, us.
    pub rtt_us: u64,
    /// Lower is better; what it is made of is in `why`.
    pub score: u64,
    pub why: String,
}

/// A lease that goes on, with as many instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub lease: LeaseId,
    pub cloud: CloudName,
    #[serde(default, skip_serializing_if = "Role::is_serving")]
    pub role: Role,
    /// That serve. 0: drain, and give it back unless it is kept.
    pub instances: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    #[default]
    Serving,
    /// Kept ready and fresh as its lease says; no user is sent there.
    Standby,
}

impl Role {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_serving(&self) -> bool {
        *self == Self::Serving
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Switchover {
    pub mode: RouteMode,
    /// First share of a new part, relative to its fair one.
    pub start: Ppm,
    /// Growth of the share a step, and time between steps.
    pub step: Ppm,
    pub step_ms: u64,
}
