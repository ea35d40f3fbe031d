//! Why a lender (or a borrower's own check) said no: a code that stays, a text for people, and when to ask again.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A refusal as it is spoken and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{code}: {text}")]
pub struct Refused {
    pub code: Code,
    /// What was asked, what stood against it, what to do.
    pub text: String,
    /// The same request may succeed after so long, ms. None: it will not, change it.
    pub retry_after_ms: Option<u64>,
}

impl Refused {
    pub(crate) fn no(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), retry_after_ms: None }
    }
    pub(crate) fn later(code: Code, text: impl Into<String>, retry_after_ms: u64) -> Self {
        Self { code, text: text.into(), retry_after_ms: Some(retry_after_ms) }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// The codes; in JSON and in the journal they are snake_case words that stay.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A code of a newer version.
            #[serde(other)]
            Other,
        }
        impl Code {
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other => "other",
                }
            }
        }
    };
}

codes! {
    /// The requirement or document makes no sense.
    BadRequest = "bad_request",
    /// The terms name other borrowers.
    NotABorrower = "not_a_borrower",
    /// No engine here runs that platform.
    Platform = "platform",
    /// An address that instances would call is not among those that the lender lets them call.
    Egress = "egress",
    /// It keeps nothing ready for others.
    NoStandby = "no_standby",
    /// The price is above the most the borrower pays.
    Price = "price",
    /// Too little free for the least the borrower can use.
    NoRoom = "no_room",
    /// Room there is, but the borrower's share of it is used up.
    ShareQuota = "share_quota",
    /// Too many holds of this borrower are open.
    HoldsQuota = "holds_quota",
    NoStorage = "no_storage",
    /// The id is in use for something else.
    IdConflict = "id_conflict",
    /// No such hold, or it was consumed or let go.
    NoHold = "no_hold",
    HoldExpired = "hold_expired",
    /// The thing belongs to another borrower.
    NotYours = "not_yours",
    /// The document differs from the hold it rests on.
    Mismatch = "mismatch",
    OlderSerial = "older_serial",
    OlderEpoch = "older_epoch",
    /// The lease is over, or ending.
    LeaseEnded = "lease_ended",
    /// It is still in use and cannot be closed.
    StillInUse = "still_in_use",
    /// Something of it is left.
    NotEmpty = "not_empty",
    /// It is not proven empty yet.
    NotEnded = "not_ended",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
