//! `raft` ends by a panic where its input is impossible ("tocommit out of range"). Here that ends one group's vote, not the daemon.
//!
//! Enters: a step, and whose message it is. Leaves: its result, or a [`Fault`]. Always holds: what panicked is never used again.

use crate::id::RaftId;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why this voter takes no part any more, until it is built anew from what is on disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "consensus of the pact: {during}{} ended in: {text}. This voter counts as down until it is built anew from its store; the others go on. \
     Should it come again at once, look at the sender and at this store's disk",
    sender.map(|s| format!(" of voter {s}")).unwrap_or_default()
)]
pub struct Fault {
    pub during: &'static str,
    /// Whose message it was.
    pub sender: Option<RaftId>,
    pub text: String,
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a word".into())
}

/// Runs a step. Whoever gets a fault must drop what the step worked on.
pub(crate) fn guarded<R>(
    during: &'static str,
    sender: Option<RaftId>,
    step: impl FnOnce() -> Result<R, crate::convert::Unsaid>,
) -> Result<R, Fault> {
    let text = match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(result)) => return Ok(result),
        Ok(Err(unsaid)) => unsaid.to_string(),
        Err(panic) => said(&*panic),
    };
    let fault = Fault { during, sender, text };
    tracing::error!("{fault}");
    Err(fault)
}
