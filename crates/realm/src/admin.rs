//! What a daemon asks a sign-in process, over HTTP/1.1. Protocol version 1.
//!
//! | request | answer |
//! |---|---|
//! | `GET /admin/v1/users?after=LOGIN&limit=N` | [`Users`], by login |
//! | `GET /admin/v1/users/{login}` | [`User`] |
//! | `POST /admin/v1/users/{login}` with a [`Change`] | [`User`] |
//! | `DELETE /admin/v1/users/{login}` | [`User`] as it was: its sessions, app passwords, passkeys and password ended in one transaction, and it never comes back |
//! | `POST /admin/v1/invitations` with an [`Invite`] | [`Invitation`] |
//! | `GET /admin/v1/status` | [`Status`] |
//!
//! `{login}` is percent-encoded. A refusal has a [`Refusal`] as its body.

use crate::Login;
use serde::{Deserialize, Serialize};

/// The field with the key.
pub const KEY: &str = "pumasi-admin";
pub const USERS_MAX: u32 = 500;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Users {
    pub items: Vec<User>,
    /// More follow after this login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Login>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub subject: String,
    pub login: Login,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// May not sign in, and is signed in nowhere.
    pub disabled: bool,
    pub passkeys: u32,
    /// Whether this cloud knows its password; one that is withheld is known at one cloud only.
    pub password: bool,
    pub app_passwords: u32,
    pub sessions: u32,
    pub created_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_in_at_ms: Option<u64>,
}

/// What is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Also ends its sessions and app passwords where true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// Ends its sessions and app passwords.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sign_out: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The login it is for; None: whoever has it chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// An existing user gets back in by it (a lost passkey, a forgotten password).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovery: bool,
    /// How long it may be used, hours, at most 720.
    pub ttl_hours: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// On the service's own host: `/.pumasi/sign-up?invitation=…`. It is told once.
    pub path: String,
    pub ends_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Status {
    pub users: u64,
    pub sessions: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A word for programs: `no_such_user`, `bad_request`, `exists`, `full`.
    pub code: String,
    pub detail: String,
}
