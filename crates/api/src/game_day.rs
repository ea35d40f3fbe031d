//! Game days: a service is given up on purpose, taken over, asked once, and brought back.

use pumasi_terms::{CloudName, ServiceName, WallMs};
use serde::{Deserialize, Serialize};

/// `PUT /v1/pact/game-days/{service}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskGameDay {
    /// Again and again after so long, for the first time now. Unsaid: once, now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// No more of them; one that is under way ends in order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never: bool,
}

/// What is known of one service's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GameDayView {
    pub service: ServiceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<WallMs>,
    /// `letting_go`, `away` or `returning`; none: none is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<GameDayResult>,
}

/// How one went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GameDayResult {
    pub began_at: WallMs,
    pub passed: bool,
    /// What went wrong; empty if it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir: Option<CloudName>,
    /// From letting go until another cloud owned it, until that cloud answered, and until it was back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_ms: Option<u64>,
}
