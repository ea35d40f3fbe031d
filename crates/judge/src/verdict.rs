//! What a judge says.

use pumasi_terms::{ServiceName, WallMs};
use serde::{Deserialize, Serialize};

/// Why a journey begins or turns. Each new cause costs one judgement and no mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Overload,
    /// Load fell, the user came home, the lost cloud is back.
    Recovery,
    /// The lender calls its capacity back, or lost it.
    Recall,
    /// The customer or an operator asked.
    Request,
    /// The customer wants it kept ready elsewhere.
    Continuity,
    /// Somebody asked to see whether borrowing would work. No user is sent there.
    Rehearsal,
}

/// One measure against its bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// A name that stays: `queue_delay_p95`, `shed_rate`, `user_rtt`, `home_only_share`, ...
    pub measure: String,
    /// A sentence for people: "p95 queue delay 180 ms > 50 ms for 0.5 s".
    pub text: String,
}

/// How many instances beyond the least at home the service wants now, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    pub service: ServiceName,
    pub cause: Cause,
    pub at: WallMs,
    /// In all, not in addition. In a plan those that are to be borrowed: what runs at home is taken off before.
    pub borrowed_wanted: u32,
    pub reasons: Vec<Reason>,
}

/// Something is wrong, and borrowing does not mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Most of the load is writes that must go home anyway.
    HomeBound,
    /// The application fails or is slow without waiting: more of it fails as well.
    ApplicationFault,
    /// The users are far, the servers are not slow.
    Distance,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Nothing to change.
    Steady,
    Change(Verdict),
    Refused {
        refusal: Refusal,
        at: WallMs,
        reasons: Vec<Reason>,
    },
}
