//! Reading what people write: YAML (or JSON, which is YAML) with one or more documents.
//!
//! Enters: a text. Leaves: every Service in it, or every fault of it with its place, its field, and what is wanted there.
//! Always holds: nothing is returned unless all of it is valid. What `pumasi get -o yaml` printed is read, too ([`shown`]).

use crate::document::{API_VERSION, Document, FieldError, Validate};
use crate::faults::{
    FAULTS_MAX, Fault, Found, Language, Problem, Step, find, tree::Node, words::Words, words::nearest, yaml,
};
use crate::service::{self, Service};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::fmt;

mod example;
pub mod shown;
#[cfg(test)]
mod tests;

/// The largest text that is read, bytes.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// The most documents in one text.
pub const DOCUMENTS_MAX: usize = 64;

/// Why a text was refused; the input is at fault and a retry does not help. One line for each fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    pub file: String,
    /// Never empty.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().take(FAULTS_MAX).enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            match (fault.line, fault.column) {
                (0, _) => write!(f, "{line}{}: {fault}", self.file)?,
                (at, column) => write!(f, "{line}{}:{at}:{column}: {fault}", self.file)?,
            }
        }
        if self.faults.len() > FAULTS_MAX {
            write!(f, "\n{}: there are more; mend these first", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}

fn whole(problem: impl Into<String>) -> Fault {
    Fault { line: 0, column: 0, field: String::new(), problem: problem.into() }
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// Of what was printed rather than written.
    #[serde(default)]
    service: Option<IgnoredAny>,
    #[serde(default)]
    items: Option<IgnoredAny>,
}

impl Head {
    fn is_shown(&self) -> bool {
        self.api_version.is_empty() && self.kind.is_empty() && (self.service.is_some() || self.items.is_some())
    }
}

/// One document of a text.
struct Part {
    lines_before: u64,
    text: String,
}

/// Splits at lines that are `---`, keeping each part's first line number.
fn split(text: &str) -> Vec<Part> {
    let mut parts = vec![Part { lines_before: 0, text: String::new() }];
    for (number, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            parts.push(Part { lines_before: number as u64 + 1, text: String::new() });
        } else if let Some(part) = parts.last_mut() {
            part.text.push_str(line);
            part.text.push('\n');
        }
    }
    let blank = |p: &str| p.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
    parts.retain(|part| !blank(&part.text));
    parts
}

/// Parses every Service in `text`; `file` is only used to name it in errors.
pub fn services(file: &str, text: &str) -> Result<Vec<Service>, ManifestError> {
    let refused = |faults| Err(ManifestError { file: file.to_owned(), faults });
    if text.len() > MANIFEST_BYTES_MAX {
        return refused(vec![whole("is larger than 1 MiB, the most that is read")]);
    }
    let parts = split(text);
    if parts.is_empty() {
        return refused(vec![whole("has no document in it")]);
    }
    if parts.len() > DOCUMENTS_MAX {
        return refused(vec![whole(format!("has more than {DOCUMENTS_MAX} documents"))]);
    }
    let (mut services, mut faults) = (Vec::with_capacity(parts.len()), Vec::new());
    for part in &parts {
        match read(part) {
            Some(read) => services.extend(read),
            None if faults.len() <= FAULTS_MAX => faults.extend(wrong(part)),
            None => {}
        }
    }
    services.iter_mut().for_each(|service: &mut Service| service.spec.complete());
    if faults.is_empty() { Ok(services) } else { refused(faults) }
}

/// What a document is read into.
trait Readable: DeserializeOwned {
    /// Each service with the path at which it stands.
    fn services(self) -> Vec<(String, Service)>;
}

impl Readable for Service {
    fn services(self) -> Vec<(String, Service)> {
        vec![(String::new(), self)]
    }
}

/// The document, if it is right.
fn read(part: &Part) -> Option<Vec<Service>> {
    let head: Head = serde_saphyr::from_str(&part.text).ok()?;
    if !head.is_shown() {
        return right::<Service>(&part.text);
    }
    if head.items.is_some() { right::<shown::List>(&part.text) } else { right::<shown::View>(&part.text) }
}

fn right<T: Readable>(text: &str) -> Option<Vec<Service>> {
    let services = serde_saphyr::from_str::<T>(text).ok()?.services();
    let right = services.iter().all(|(at, service)| checked(at, service).is_empty());
    right.then(|| services.into_iter().map(|(_, service)| service).collect())
}

fn within(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") }
}

/// What is wrong with a service that could be read.
fn checked(at: &str, service: &Service) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Document { api_version, kind, metadata, spec } = service;
    if let Err(newer) = check_version(api_version) {
        errors.push(FieldError { field: within(at, "apiVersion"), problem: version(api_version, newer) });
    }
    if kind != service::KIND {
        errors.push(FieldError { field: within(at, "kind"), problem: format!("found {kind:?}; must be Service") });
    }
    metadata.validate(&within(at, "metadata"), &mut errors);
    spec.validate(&within(at, "spec"), &mut errors);
    shown::hidden(&within(at, "spec"), spec, &mut errors);
    errors
}

fn version(found: &str, newer: bool) -> String {
    match newer {
        true => format!("{found} is newer than {API_VERSION}; update this program"),
        false => format!("found {found:?}; must be {API_VERSION}"),
    }
}

/// Everything that is wrong with a document that [`read`] did not take.
fn wrong(part: &Part) -> Vec<Fault> {
    if let Some(fault) = yaml::syntax(&part.text, part.lines_before) {
        return vec![fault];
    }
    let Some(tree) = yaml::tree(&part.text, part.lines_before) else {
        let fault = whole("cannot be read");
        return vec![Fault { line: part.lines_before + 1, column: 1, ..fault }];
    };
    // A document of another program or version has fields of its own: nothing but that is told.
    let top = |key: &str| match tree.at(&[Step::Key(key.to_owned())]) {
        Some(Node::Plain(text) | Node::Quoted(text)) => Some(text.as_str()),
        _ => None,
    };
    let foreign = match (top("apiVersion"), top("kind")) {
        (Some(found), _) if check_version(found) == Err(true) => Some(("apiVersion", version(found, true))),
        (_, Some(kind)) if kind != service::KIND => Some(("kind", format!("found {kind:?}; must be Service"))),
        _ => None,
    };
    if let Some((field, problem)) = foreign {
        let at = tree.place_of_value(&[Step::Key(field.to_owned())]);
        return vec![Fault { line: at.line, column: at.column, field: field.to_owned(), problem }];
    }
    let has = |key: &str| tree.at(&[Step::Key(key.to_owned())]).is_some();
    let shown = !has("apiVersion") && !has("kind") && !has("spec");
    let faults = match (shown && has("items"), shown && has("service")) {
        (true, _) => faults_of::<shown::List>(&part.text, &tree),
        (_, true) => faults_of::<shown::View>(&part.text, &tree),
        _ => faults_of::<Service>(&part.text, &tree),
    };
    match faults.is_empty() {
        false => faults,
        // What cannot be found twice is told as it was found first.
        true => vec![first::<Service>(part)],
    }
}

fn first<T: Readable>(part: &Part) -> Fault {
    match serde_saphyr::from_str::<T>(&part.text) {
        Err(error) => yaml::told(&error, part.lines_before),
        Ok(_) => Fault { line: part.lines_before + 1, column: 1, ..whole("cannot be read") },
    }
}

fn faults_of<T: Readable>(text: &str, tree: &Node) -> Vec<Fault> {
    let mut found: Found<T> = find(|walk| yaml::read(text, walk));
    let services = found.value.take().map(T::services).unwrap_or_default();
    let checked = services.iter().flat_map(|(at, service)| checked(at, service)).collect();
    for (at, _) in &services {
        touch_dependents(tree, at, &mut found);
    }
    Words { tree, language: Language::Yaml, example: example::of }.faults(&found, checked)
}

/// Parts of a spec that are checked by others, which were left out or made up.
fn touch_dependents<T>(tree: &Node, at: &str, found: &mut Found<T>) {
    let spec = tree.path_of(&within(at, "spec"));
    let path = |fields: &[&str]| {
        let fields = fields.iter().map(|f| Step::Key((*f).to_owned()));
        spec.iter().cloned().chain(fields).collect::<Vec<_>>()
    };
    // Under a name that is not known may stand any of them.
    let misspelt = |section: &str| {
        found.troubles.iter().any(|t| match (&t.problem, t.path.split_last()) {
            (Problem::Unknown(known), Some((Step::Key(key), parent))) if parent == spec => {
                nearest(key, known).is_none_or(|meant| meant == section)
            }
            _ => false,
        })
    };
    let misspelt = ["datasets", "continuity", "borrowing"].map(misspelt);
    let dependents: [(&str, &[&[&str]]); 3] = [
        ("datasets", &[&["application", "command"], &["application", "env"]]),
        ("continuity", &[&["datasets"]]),
        ("borrowing", &[&["continuity"]]),
    ];
    for ((section, others), misspelt) in dependents.into_iter().zip(misspelt) {
        let section = path(&[section]);
        if misspelt || found.touched.iter().any(|p| p.starts_with(&section)) {
            found.touched.extend(others.iter().map(|other| path(other)));
        }
    }
}

/// `Err(true)`: of a later version of this program; `Err(false)`: not ours.
pub fn check_version(found: &str) -> Result<(), bool> {
    if found == API_VERSION {
        return Ok(());
    }
    let number = |v: &str| v.strip_prefix("pumasi/v").and_then(|n| n.parse::<u64>().ok());
    Err(number(found) > number(API_VERSION))
}
