//! What a gateway must hold for its services and nobody else may see: keys of positions, certificates with their keys. Told in a message
//! of its own, apart from the table. Format version 1.
//!
//! A gateway keeps it in a file that only its owner may read: one that starts without its daemon shows certificates and knows its users.

use pumasi_terms::ServiceName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub const KEYS_VERSION: u32 = 1;
/// Of one service so many are read.
pub const POSITIONS_MAX: usize = 8;

/// Replaces what was told before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    pub version: u32,
    pub services: BTreeMap<ServiceName, ServiceKeys>,
    /// Of these nothing can be read at the moment: what was told of them stays.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unknown: BTreeSet<ServiceName>,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceKeys {
    /// 32 bytes each, in hexadecimal digits. The first signs, all are read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Pair>,
}

/// A certificate of a service's own, shown to users who ask for one of these hosts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    pub hosts: Vec<String>,
    /// The certificate with its chain, and the private key.
    pub pem: String,
}

impl fmt::Debug for ServiceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceKeys({} of positions, {:?})", self.positions.len(), self.tls)
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({:?}, [secret])", self.hosts)
    }
}
