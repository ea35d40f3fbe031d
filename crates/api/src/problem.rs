//! Errors for people and programs: RFC 9457 with whose fault it was and whether to retry.

use pumasi_terms::FieldError;
use serde::{Deserialize, Serialize};

/// Whose side failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Input,
    Us,
    Peer,
    Engine,
}

/// The code of a refusal because of a revision: reading it again and repeating the change helps. No other conflict has it.
pub const CHANGED_MEANWHILE: &str = "changed_meanwhile";

/// `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Problem {
    /// Stable, for programs: `not_found`, `conflict`, `no_capacity`, ...
    pub code: String,
    pub status: u16,
    /// What was attempted, on what, and what to do.
    pub detail: String,
    pub fault: Fault,
    /// Whether the same request may succeed later.
    pub retry: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

impl Problem {
    pub fn new(status: u16, code: &str, fault: Fault, detail: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            status,
            detail: detail.into(),
            fault,
            retry: status == 503 || status == 429,
            retry_after_ms: None,
            fields: Vec::new(),
            trace_id: None,
        }
    }
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "bad_request", Fault::Input, detail)
    }
    pub fn fields(detail: impl Into<String>, fields: Vec<FieldError>) -> Self {
        Self { fields, ..Self::new(422, "invalid", Fault::Input, detail) }
    }
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(403, "forbidden", Fault::Input, detail)
    }
    pub fn not_found(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(404, "not_found", Fault::Input, format!("there is no {what} {name}"))
    }
    /// Somebody changed what was to be changed: [`CHANGED_MEANWHILE`].
    pub fn changed_meanwhile(detail: impl Into<String>) -> Self {
        Self::new(409, CHANGED_MEANWHILE, Fault::Input, detail)
    }
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "conflict", Fault::Input, detail)
    }
    /// Of which of several things it is told.
    pub fn during(mut self, what: &str) -> Self {
        self.detail = format!("{what}: {}", self.detail);
        self
    }
    pub fn ours(detail: impl Into<String>) -> Self {
        Self::new(500, "internal", Fault::Us, detail)
    }
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(503, "unavailable", Fault::Us, detail)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.detail)?;
        for field in &self.fields {
            write!(f, "\n  {}: {}", field.field, field.problem)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
