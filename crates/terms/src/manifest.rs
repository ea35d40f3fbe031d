//! Reading what people write: YAML (or JSON, which is YAML) with one or more documents.
//!
//! Every fault names the file, and the line or the field. Nothing is returned unless all of it is valid.

use crate::document::{API_VERSION, FieldError, Validate};
use crate::service::{self, Service};
use serde::Deserialize;

/// The largest text that is read, bytes.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// The most documents in one text.
pub const DOCUMENTS_MAX: usize = 64;

/// Why a text was refused; the input is at fault and a retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("{file}: {bytes} bytes; at most {MANIFEST_BYTES_MAX} are read")]
    TooLarge { file: String, bytes: usize },
    #[error("{file}:{line}:{column}: {problem}")]
    Syntax { file: String, line: u64, column: u64, problem: String },
    #[error("{file}: document {document}: apiVersion {found:?} is newer than {API_VERSION}; update this program")]
    Newer { file: String, document: usize, found: String },
    #[error("{file}: document {document}: apiVersion {found:?} is not known; write {API_VERSION}")]
    Version { file: String, document: usize, found: String },
    #[error("{file}: document {document}: kind {found:?} is not known; write Service")]
    Kind { file: String, document: usize, found: String },
    #[error("{file}: document {document}: {}", list(.errors))]
    Fields { file: String, document: usize, errors: Vec<FieldError> },
    #[error("{file}: no document in it")]
    Empty { file: String },
    #[error("{file}: more than {DOCUMENTS_MAX} documents")]
    TooMany { file: String },
}

fn list(errors: &[FieldError]) -> String {
    errors.iter().map(|e| format!("{}: {}", e.field, e.problem)).collect::<Vec<_>>().join("; ")
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

fn syntax(file: &str, error: &serde_saphyr::Error, lines_before: u64) -> ManifestError {
    let place = error.location();
    ManifestError::Syntax {
        file: file.to_owned(),
        line: place.map_or(0, |l| l.line()) + lines_before,
        column: place.map_or(0, |l| l.column()),
        problem: first_line(&error.without_snippet().to_string()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("unreadable").chars().take(400).collect()
}

/// Splits at lines that are `---`, keeping each part's first line number.
fn split(text: &str) -> Vec<(u64, String)> {
    let mut parts = vec![(0, String::new())];
    for (number, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            parts.push((number as u64 + 1, String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let blank = |p: &str| p.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
    parts.retain(|(_, part)| !blank(part));
    parts
}

/// Parses every Service in `text`; `file` is only used to name it in errors.
pub fn services(file: &str, text: &str) -> Result<Vec<Service>, ManifestError> {
    let name = || file.to_owned();
    if text.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLarge { file: name(), bytes: text.len() });
    }
    let parts = split(text);
    if parts.is_empty() {
        return Err(ManifestError::Empty { file: name() });
    }
    if parts.len() > DOCUMENTS_MAX {
        return Err(ManifestError::TooMany { file: name() });
    }
    let mut services = Vec::with_capacity(parts.len());
    for (i, (lines_before, part)) in parts.iter().enumerate() {
        let document = i + 1;
        let head: Head = serde_saphyr::from_str(part).map_err(|e| syntax(file, &e, *lines_before))?;
        check_version(&head.api_version).map_err(|newer| match newer {
            true => ManifestError::Newer { file: name(), document, found: head.api_version.clone() },
            false => ManifestError::Version { file: name(), document, found: head.api_version.clone() },
        })?;
        if head.kind != service::KIND {
            return Err(ManifestError::Kind { file: name(), document, found: head.kind });
        }
        let service: Service = serde_saphyr::from_str(part).map_err(|e| syntax(file, &e, *lines_before))?;
        let mut errors = Vec::new();
        service.metadata.validate("metadata", &mut errors);
        service.spec.validate("spec", &mut errors);
        if !errors.is_empty() {
            return Err(ManifestError::Fields { file: name(), document, errors });
        }
        services.push(service);
    }
    Ok(services)
}

/// `Err(true)`: of a later version of this program; `Err(false)`: not ours.
pub fn check_version(found: &str) -> Result<(), bool> {
    if found == API_VERSION {
        return Ok(());
    }
    let number = |v: &str| v.strip_prefix("pumasi/v").and_then(|n| n.parse::<u64>().ok());
    Err(number(found) > number(API_VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "apiVersion: pumasi/v1\nkind: Service\nmetadata: { name: notes }\nspec:\n  hosts: [notes.example]\n  application: { bundle: ./app, command: [./notes] }\n";

    fn fault(text: &str) -> String {
        services("s.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_small_manifest_gets_the_defaults() {
        let read = services("s.yaml", GOOD).unwrap();
        assert_eq!(read[0].metadata.name.as_str(), "notes");
        assert_eq!(read[0].spec.objective.queue_delay_p95_ms, 50);
    }

    #[test]
    fn faults_name_line_or_field() {
        assert!(
            fault(&GOOD.replace("hosts", "hostz")).starts_with("s.yaml:"),
            "{}",
            fault(&GOOD.replace("hosts", "hostz"))
        );
        assert!(fault(&GOOD.replace("notes.example", "Notes")).contains("spec.hosts[0]"));
        assert!(fault(&GOOD.replace("pumasi/v1", "pumasi/v9")).contains("newer"));
        assert!(fault(&GOOD.replace("pumasi/v1", "v1")).contains("not known"));
        assert!(fault(&GOOD.replace("Service", "Pod")).contains("kind"));
        let second = format!("{GOOD}---\n{}", GOOD.replace("[./notes]", "7"));
        let told = fault(&second);
        assert!(told.starts_with("s.yaml:13:"), "{told}");
    }

    #[test]
    fn hostile_texts_end_quickly() {
        let deep = format!("apiVersion: pumasi/v1\nkind: Service\nspec: {}", "[".repeat(100_000));
        assert!(services("deep.yaml", &deep).is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..30 {
            bomb.push_str(&format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n", p = i - 1));
        }
        assert!(services("bomb.yaml", &bomb).is_err());
        assert!(services("big.yaml", &" ".repeat(MANIFEST_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,400}") {
            let _ = services("any.yaml", &text);
        }
    }
}
