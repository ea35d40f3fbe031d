//! What every written document shares: version, kind, metadata, and validation that names the field.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// For people and their tools; nothing follows from them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The version this document was read at; a change is refused where the stored one is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<crate::Revision>,
}

/// Labels of one document.
const LABELS_MAX: usize = 32;
/// Of a label's name and of its value, bytes.
const LABEL_BYTES_MAX: usize = 63;

impl<N> Metadata<N> {
    pub fn new(name: N) -> Self {
        Self { name, labels: BTreeMap::new(), revision: None }
    }
}

impl<N> Validate for Metadata<N> {
    fn validate(&self, at: &str, errors: &mut Vec<FieldError>) {
        if self.labels.len() > LABELS_MAX {
            fault(errors, at, "labels", format!("at most {LABELS_MAX}"));
        }
        let fine = |text: &str, more: &[u8]| {
            text.len() <= LABEL_BYTES_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        for (key, value) in &self.labels {
            if key.is_empty() || !fine(key, b"-_./") {
                let hint = "is no label: 1 to 63 letters, digits, and - _ . /";
                fault(errors, at, "labels", format!("{key:?} {hint}"));
            }
            if !fine(value, b"-_.") {
                let hint = "at most 63 letters, digits, and - _ .";
                fault(errors, at, &format!("labels.{key}"), format!("{value:?}: {hint}"));
            }
        }
    }
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
