//! What every written document shares: version, kind, metadata, and validation that names the field.

use serde::{Deserialize, Serialize};

/// The version that this program writes. It reads this one only; a newer one is told apart from a wrong one.
pub const API_VERSION: &str = "pumasi/v1";

/// One wrong field: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FieldError {
    /// Path of the field, as `spec.application.command[0]`.
    pub field: String,
    pub problem: String,
}

/// Checks that types alone cannot express. Collects every fault, not the first.
pub trait Validate {
    fn validate(&self, at: &str, errors: &mut Vec<FieldError>);
}

pub(crate) fn fault(errors: &mut Vec<FieldError>, at: &str, field: &str, problem: impl Into<String>) {
    let field = match (at.is_empty(), field.is_empty()) {
        (true, _) => field.to_owned(),
        (_, true) => at.to_owned(),
        _ => format!("{at}.{field}"),
    };
    errors.push(FieldError { field, problem: problem.into() });
}

/// The head that people write over a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata<N> {
    pub name: N,
    /// The version this document was read at; a change is refused where the stored one is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<crate::Revision>,
}

/// `apiVersion`, `kind`, `metadata`, `spec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document<N, S> {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata<N>,
    pub spec: S,
}
