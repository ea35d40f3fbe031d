//! Requirement and offer: what a borrower needs, what a lender has. The same words serve the broker later.

use crate::egress::{EgressRule, check_lent};
use crate::service::Platform;
use crate::told;
use crate::{CloudName, Money, Resources, ServiceName, Standby, WallMs};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What one journey needs from a lender. It is asked: who does not understand all of it refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    pub service: ServiceName,
    pub platform: Platform,
    /// Of one instance.
    pub resources: Resources,
    pub instances: u32,
    /// Fewer than this are of no use.
    pub instances_min: u32,
    /// Bytes of application and data to be kept by the lender.
    pub storage_bytes: u64,
    pub price_per_instance_hour_max: Money,
    /// What its instances call; the lease that rests on this covers no other address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<SocketAddr>,
    /// It is to be kept ready, not to serve; who does not know what that is refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
}

/// A lender's standing offer to one member, dated: it promises nothing until it is reserved. It is told: what a later version adds is
/// passed over, and a platform or a rule that is not understood is not offered to us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Offer {
    pub cloud: CloudName,
    pub at: WallMs,
    /// Free now, for this borrower.
    #[serde(deserialize_with = "told::resources")]
    pub free: Resources,
    /// The same for a standby of which nothing runs, where that is more: what is to make room for it is still in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_free: Option<Resources>,
    pub storage_free_bytes: u64,
    /// For each 1000 cpu_millis an instance has, an hour.
    pub price_per_cpu_hour: Money,
    /// What room costs that is kept for a standby, in percent of what it costs in use; none: it keeps nothing ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_percent: Option<u32>,
    #[serde(deserialize_with = "told::readable_each")]
    pub platforms: Vec<Platform>,
    pub recall_notice_ms: u64,
    pub lease_ttl_ms_max: u64,
    /// All that lent instances may call there.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "told::readable_each")]
    pub egress: Vec<EgressRule>,
}

impl Offer {
    /// Room for what is asked for.
    pub fn free_for(&self, standby: Option<Standby>) -> Resources {
        match (standby, self.standby_free) {
            (Some(Standby { warm: 0, .. }), Some(free)) => free,
            _ => self.free,
        }
    }
    /// Rent of one instance an hour.
    pub fn price_per_instance_hour(&self, one: Resources) -> Money {
        Money(
            u64::try_from(u128::from(self.price_per_cpu_hour.0) * u128::from(one.cpu_millis) / 1000)
                .unwrap_or(u64::MAX),
        )
    }
    /// Whether instances may call all of `wanted` there.
    ///
    /// # Errors
    /// In words, which not and why.
    pub fn may_call(&self, wanted: &[SocketAddr]) -> Result<(), String> {
        wanted.iter().try_for_each(|to| check_lent(*to, &self.egress, &[]))
    }
    /// Whether an application made for `need` can run here.
    pub fn can_run(&self, need: &Platform) -> bool {
        self.platforms
            .iter()
            .any(|p| p.os == need.os && p.arch == need.arch && need.runtimes.iter().all(|r| p.runtimes.contains(r)))
    }
}
