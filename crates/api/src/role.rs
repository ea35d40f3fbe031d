//! Who may ask.

use pumasi_terms::{CloudName, CustomerName, PrincipalName};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees what its customer owns, but no value of an environment; changes nothing.
    Viewer,
    /// Acts for its customer: applies and deletes services, reads their logs, decides their plans.
    Customer,
    /// Runs the cloud: sees and may do everything.
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
    Person {
        name: PrincipalName,
        role: Role,
        /// The tenant that it acts for; none: an operator, of the whole cloud.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        customer: Option<CustomerName>,
    },
    /// By certificate: `spiffe://<cloud>/daemon`.
    Peer(CloudName),
    /// By certificate alone, of a cloud that is no member yet.
    Stranger,
    /// The daemon itself, in its journal.
    Daemon,
}

impl Principal {
    /// Whoever is no operator and names no customer acts for the default one, never for all.
    pub fn person(name: PrincipalName, role: Role, customer: Option<CustomerName>) -> Self {
        let customer = match role {
            Role::Operator => None,
            _ => Some(customer.unwrap_or_else(CustomerName::default_customer)),
        };
        Self::Person { name, role, customer }
    }
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
