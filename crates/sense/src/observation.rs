//! An observation: what one service went through lately, dated, with its times kept apart.

use crate::BackendKey;
use pumasi_terms::{BootMs, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rates are in thousandths a second (`_mps`), times in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    pub service: ServiceName,
    /// End of the last window in it.
    pub at: BootMs,
    /// Time it covers.
    pub span_ms: u64,
    pub arrivals_mps: u64,
    pub arrivals_home_only_mps: u64,
    pub completed_mps: u64,
    pub shed_mps: u64,
    pub failed_mps: u64,
    pub errors_mps: u64,
    pub queued: u64,
    pub in_flight: u64,
    pub limit: u64,
    pub queue_delay_p50_us: u64,
    pub queue_delay_p95_us: u64,
    /// Requests whose delay was measured.
    pub queue_delay_samples: u64,
    pub app_time_p50_us: u64,
    pub app_time_p95_us: u64,
    /// What an answer takes when nothing waits: learned, ages slowly. None until learned.
    pub app_time_calm_us: Option<u64>,
    pub user_rtt_p50_us: u64,
    pub user_rtt_p95_us: u64,
    /// What one instance completes when it is saturated: learned. None until it was seen saturated.
    pub capacity_per_instance_mps: Option<u64>,
    pub backends: BTreeMap<BackendKey, BackendObservation>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendObservation {
    pub completed_mps: u64,
    pub failed_mps: u64,
    pub in_flight: u64,
    pub limit: u64,
    /// Part of the windows in which its limit bounded it, percent.
    pub saturated_percent: u8,
    pub app_time_p50_us: u64,
    pub app_time_p95_us: u64,
}
