//! What a cloud may write, told to its gateway in one small message, many times a second and apart from the table. Format
//! version 1.
//!
//! The gateway keeps it in memory only: one that was started again writes for no bound service until it is told anew.

use pumasi_terms::{BootMs, Epoch, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const TENURE_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenure {
    pub version: u32,
    /// Boot id of the kernel whose clock the instants are of: under another the message is void.
    pub boot_id: String,
    /// When it was said. One that was overtaken by a later one counts for nothing.
    pub at: BootMs,
    /// Until when this cloud may write for its bound services; None: not at all.
    pub until: Option<BootMs>,
    /// The same for services whose owner is in the register of a pact that votes: this cloud's right by its renewals.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registered: BTreeMap<ServiceName, BootMs>,
    /// What it owns, and at which epoch. Not writable: what is not named, and what the table has at another epoch.
    pub epochs: BTreeMap<ServiceName, Epoch>,
    /// What is handed over at this moment: requests that may write wait, at the owner and at its entrances.
    pub held: BTreeMap<ServiceName, Held>,
}

impl Tenure {
    pub fn until(&self, service: &ServiceName) -> Option<BootMs> {
        self.registered.get(service).copied().or(self.until)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The ownership that ends. A table with another one is past the hold, and sends those that wait on their way.
    pub epoch: Epoch,
    /// Those that wait are refused then. Nobody is let in before a message without this entry, or such a table.
    pub until: BootMs,
    /// Those that only read wait as well: the instances stand still.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads: bool,
}
