//! Two classes of requests: what a service says matters less waits behind everything else, and is refused first.

use crate::document::{FieldError, fault};
use serde::{Deserialize, Serialize};

/// Prefixes and fields that one service names.
const NAMED_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 256;

/// Requests that are less important: those below one of the paths, or with one of the header fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LessImportant {
    /// Path prefixes, compared as they are sent.
    pub paths: Vec<String>,
    pub headers: Vec<FieldIs>,
}

/// A header field with a value, both compared without case: `sec-purpose: prefetch`, `priority: u=6`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldIs {
    pub name: String,
    pub value: String,
}

impl LessImportant {
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.headers.is_empty()
    }

    pub(crate) fn validate(&self, at: &str, e: &mut Vec<FieldError>) {
        if self.paths.len() + self.headers.len() > NAMED_MAX {
            fault(e, at, "", format!("names at most {NAMED_MAX} paths and header fields"));
        }
        for (i, path) in self.paths.iter().enumerate() {
            if !path.starts_with('/') || path.len() > TEXT_BYTES_MAX {
                let problem = format!("a path prefix begins with '/' and has at most {TEXT_BYTES_MAX} bytes");
                fault(e, at, &format!("paths[{i}]"), problem);
            }
        }
        for (i, field) in self.headers.iter().enumerate() {
            // RFC 9110, 5.6.2.
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if field.name.is_empty() || field.name.len() > TEXT_BYTES_MAX || !field.name.bytes().all(token) {
                fault(e, at, &format!("headers[{i}].name"), format!("{:?} is no name of a header field", field.name));
            }
            let text = field.value.trim();
            if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.bytes().any(|b| b.is_ascii_control()) {
                let problem = format!("must have 1 to {TEXT_BYTES_MAX} bytes, and no control characters");
                fault(e, at, &format!("headers[{i}].value"), problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_match_nothing_is_refused_with_its_field() {
        let class = LessImportant {
            paths: vec!["/feed".into(), "feed".into()],
            headers: vec![
                FieldIs { name: "priority".into(), value: "u=6".into() },
                FieldIs { name: "a b".into(), value: " ".into() },
            ],
        };
        let mut e = Vec::new();
        class.validate("spec.routing.less_important", &mut e);
        let fields: Vec<&str> = e.iter().map(|f| f.field.as_str()).collect();
        let at = "spec.routing.less_important";
        assert_eq!(fields, ["paths[1]", "headers[1].name", "headers[1].value"].map(|f| format!("{at}.{f}")));
    }
}
