//! What a gateway reports: one window of one tenth of a second, a service a row. The gateway's meter protocol, version 1.

use crate::Histogram;
use pumasi_terms::{BootMs, CloudName, InstanceId, LeaseId, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Length of a window, ms.
pub const WINDOW_MS: u64 = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterWindow {
    /// 1; a reader refuses others.
    pub version: u32,
    /// Random at each start of a gateway: a new one begins its counts anew.
    pub gateway_run: u64,
    /// Rises by one a window.
    pub seq: u64,
    /// End of the window.
    pub at: BootMs,
    pub span_ms: u64,
    /// Revision of the route table in force at its end.
    pub table_revision: u64,
    pub services: BTreeMap<ServiceName, ServiceMeter>,
    /// Served here for another cloud, by lease.
    pub leases: BTreeMap<LeaseId, BackendMeter>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// One service of this cloud within a window. Counts are of this window, gauges are at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceMeter {
    /// Requests that came from users.
    pub arrivals: u64,
    /// Of these, requests that must go home: unsafe methods and home-only routes.
    pub arrivals_home_only: u64,
    /// Sent on to a backend.
    pub admitted: u64,
    /// Refused at admission with 503: the queue was full or the wait too long.
    pub shed: u64,
    /// Of these, requests that the service calls less important.
    #[serde(skip_serializing_if = "is_zero")]
    pub shed_less_important: u64,
    /// Answered 5xx by an instance, or broken off by it.
    pub failed: u64,
    /// Lost by us: no backend, retry budget spent, peer link broken.
    pub errors: u64,
    pub retries: u64,
    pub completed: u64,
    /// Gauge: waiting for a place.
    pub queued: u64,
    /// Gauge: given to a backend and not yet answered.
    pub in_flight: u64,
    /// Gauge: sum of the concurrency limits of the backends.
    pub limit: u64,
    /// Wait for a place, us.
    pub queue_delay: Histogram,
    /// From handing over to the first byte of the answer, us, instances at home and away.
    pub app_time: Histogram,
    /// Round trip of the user's connection as the kernel measures it (TCP_INFO), us.
    pub user_rtt: Histogram,
    pub backends: BTreeMap<BackendKey, BackendMeter>,
}

/// A place that answers: an instance here, or all of a lease there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendKey {
    Home(InstanceId),
    Lease(CloudName, LeaseId),
    /// The owner's gateway, at a cloud that is an entrance only.
    Front(CloudName),
}

impl std::fmt::Display for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Home(instance) => write!(f, "home/{instance}"),
            Self::Lease(cloud, lease) => write!(f, "{cloud}/{lease}"),
            Self::Front(owner) => write!(f, "front:{owner}"),
        }
    }
}

impl Serialize for BackendKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackendKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(d)?;
        if let Some(owner) = text.strip_prefix("front:") {
            return CloudName::parse(owner).map(Self::Front).map_err(D::Error::custom);
        }
        match text.split_once('/') {
            // A cloud may be called "home": the kind of id after the slash decides.
            Some((_, id)) if id.starts_with("inst-") => InstanceId::parse(id).map(Self::Home).map_err(D::Error::custom),
            Some((cloud, id)) => Ok(Self::Lease(
                CloudName::parse(cloud).map_err(D::Error::custom)?,
                LeaseId::parse(id).map_err(D::Error::custom)?,
            )),
            None => Err(D::Error::custom("a backend is home/<instance>, <cloud>/<lease> or front:<cloud>")),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendMeter {
    pub completed: u64,
    pub failed: u64,
    /// Gauge.
    pub in_flight: u64,
    /// Gauge: adaptive concurrency limit.
    pub limit: u64,
    pub bytes_out: u64,
    /// Whether the limit, not the load, bounded it for most of the window.
    pub saturated: bool,
    pub app_time: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_reads_as_it_is_written() {
        let cloud = |name: &str| CloudName::parse(name).unwrap();
        for (key, text) in [
            (BackendKey::Home(InstanceId::from_entropy(1)), "home/inst-00000000000000000000000000000001"),
            (BackendKey::Lease(cloud("home"), LeaseId::from_entropy(1)), "home/lease-00000000000000000000000000000001"),
            (BackendKey::Front(cloud("front")), "front:front"),
        ] {
            assert_eq!(serde_json::to_value(&key).unwrap(), text);
            assert_eq!(serde_json::from_value::<BackendKey>(text.into()).unwrap(), key);
        }
        assert!(serde_json::from_value::<BackendKey>("front:".into()).is_err());
    }
}
