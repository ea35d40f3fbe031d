//! Who may ask.

use pumasi_terms::{CloudName, PrincipalName};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything, changes nothing.
    Viewer,
    /// Owns services: applies, deletes, decides their plans.
    Customer,
    /// Runs the cloud.
    Operator,
    /// The daemon of another member, by its certificate.
    Peer,
    /// Whoever holds a pact's invitation: may ask for admission and nothing else.
    Invited,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// By token.
    Person { name: PrincipalName, role: Role },
    /// By certificate: `spiffe://<cloud>/daemon`.
    Peer(CloudName),
    /// By certificate alone, of a cloud that is no member yet.
    Stranger,
    /// The daemon itself, in its journal.
    Daemon,
}

impl Principal {
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Person { role, .. } => Some(*role),
            Self::Peer(_) => Some(Role::Peer),
            Self::Stranger => Some(Role::Invited),
            Self::Daemon => None,
        }
    }
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Person { name, .. } => write!(f, "{name}"),
            Self::Peer(cloud) => write!(f, "cloud {cloud}"),
            Self::Stranger => f.write_str("a stranger"),
            Self::Daemon => f.write_str("daemon"),
        }
    }
}
