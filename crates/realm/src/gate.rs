//! What a gateway asks a sign-in process, over HTTP/1.1. Protocol version 1.
//!
//! | request | answer |
//! |---|---|
//! | `POST /gate/v1/check` with a [`Check`] | [`Checked`] |
//! | `GET /gate/v1/ended?after=N` | [`Ended`], at once if something ended after `N`, else within [`WAIT_MS`] |
//! | any method below [`crate::PAGES`] | a page for the user, whose request it is as the user sent it, but for what gateways put on |
//!
//! Each request proves by [`KEY`] that it is the gateway's. Whoever is asked for with another key or none answers 403.

use crate::Login;
use serde::{Deserialize, Serialize};

/// The field with the key.
pub const KEY: &str = "pumasi-gate";
pub const CHECK: &str = "/gate/v1/check";
pub const ENDED: &str = "/gate/v1/ended";
/// The longest that a question for ends is left open.
pub const WAIT_MS: u64 = 20_000;
/// How long the word of a sign-in process counts whose ends are being heard.
pub const FRESH_MS: u64 = 60_000;
/// How long it counts where they are not: nobody who was signed out is let in for longer.
pub const STALE_MS: u64 = 4_000;
/// Ends told at one time; beyond it everything is to be asked again.
pub const ENDED_MAX: usize = 1_024;

/// The BLAKE3 digest of a secret, in hex.
pub fn digest_of(secret: &[u8]) -> String {
    blake3::hash(secret).to_hex().to_string()
}

/// Who is it?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// The digest of a session cookie's value.
    Session { digest: String },
    /// An app password and whose it is said to be (RFC 7617).
    App { login: String, digest: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// None: nobody.
    pub user: Option<User>,
    /// How long this holds by itself, from now; what ends sooner is told by [`Ended`].
    pub holds_ms: u64,
}

/// As applications are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Never another's, also after this one is gone.
    pub subject: String,
    pub login: Login,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// What counts no more, since `after`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// To be asked for next.
    pub next: u64,
    /// Digests of sessions and app passwords that ended or whose user changed.
    pub digests: Vec<String>,
    /// More than is told here: nothing that was heard before counts any more.
    pub all: bool,
}
