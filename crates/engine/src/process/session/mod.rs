//! What a person runs in a running instance.
//!
//! Enters: a command, on the instance's Unix socket `sessions` (0600, the daemon's user). Leaves: the other ends of its standard streams, then
//! how it ended.
//! Always holds: the command is in the instance's namespaces, root, user, control group and system call filter, as the application is, and
//! may do nothing that the application may not; it has no handle but its three streams. It ends with the instance, with its shim, and as
//! soon as whoever asked for it closes the socket, together with all that it started.
//!
//! The daemon ([`ask`]) knocks; the shim (`shim/sessions.rs`) makes the streams and starts the *keeper* ([`keep`]), which goes into the
//! instance and starts the command by the same stage as applications. The bytes go from the daemon to the command and back without a
//! process between them.

mod ask;
mod keep;

use crate::{Exit, TerminalSize};
use serde::{Deserialize, Serialize};

pub(super) use ask::ask;
pub(super) use keep::{Visit, keep};

/// Which stage of `instance-exec` a keeper is.
pub(super) const STAGE: &str = "session";
const VERSION: u32 = 1;
/// A longer request is none of ours.
pub(super) const REQUEST_BYTES_MAX: u64 = 256 << 10;
/// Of one instance at one time.
pub(super) const SESSIONS_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A pipe for each stream.
    Pipes,
    /// One terminal for all three.
    Terminal,
}

/// One line of JSON, first of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    version: u32,
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

impl Request {
    pub(super) fn new(command: Vec<String>, terminal: Option<TerminalSize>) -> Self {
        Self { version: VERSION, command, terminal }
    }

    pub(super) fn read(line: &str) -> Result<Self, String> {
        let request: Self = serde_json::from_str(line).map_err(|e| format!("the request: {e}"))?;
        if request.version != VERSION {
            let found = request.version;
            return Err(format!("the request has version {found}, this instance's shim knows {VERSION}; restart it"));
        }
        Ok(request)
    }

    pub(super) fn kind(&self) -> Kind {
        if self.terminal.is_some() { Kind::Terminal } else { Kind::Pipes }
    }
}

/// One line of JSON each: `Refused` after a message without handles, `Ended` after one with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Refused { why: String },
    Ended(Option<Exit>),
}
