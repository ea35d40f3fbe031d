//! An error that keeps apart what serde's own errors turn into a sentence.

use serde::de::{self, Expected, Unexpected};
use std::fmt;

/// Why a visitor did not take what it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// Of another kind than it wants.
    Kind,
    Missing(&'static str),
    Unknown(&'static [&'static str]),
    Variant(&'static [&'static str]),
    Said(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind => f.write_str("is of another kind"),
            Self::Missing(field) => write!(f, "{field} is missing"),
            Self::Unknown(_) => f.write_str("is not known"),
            Self::Variant(_) => f.write_str("is no choice"),
            Self::Said(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self::Said(problem.to_string())
    }
    fn invalid_type(_: Unexpected<'_>, _: &dyn Expected) -> Self {
        Self::Kind
    }
    fn invalid_value(_: Unexpected<'_>, _: &dyn Expected) -> Self {
        Self::Kind
    }
    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::Variant(known)
    }
    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::Unknown(known)
    }
    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}
