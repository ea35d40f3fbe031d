//! How a command fails: one message for people, one exit code for programs.

use crate::output::line;
use pumasi_api::problem::CHANGED_MEANWHILE;
use pumasi_api::{CallError, Fault, Problem};
use pumasi_terms::manifest::ManifestError;
use std::fmt;

/// Exit codes; scripts rest on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unreachable = 5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    /// Whose fault it was, and whether the same command may work later.
    pub blame: Option<String>,
    pub trace_id: Option<String>,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), blame: None, trace_id: None, hint: None }
    }
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::from(Problem::not_found(what, name))
    }
    /// The reader of standard output has gone: nothing is wrong and nothing more can be said.
    pub fn reader_gone() -> Self {
        Self::new(Exit::Done, "")
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// What was being done, in front of the message.
    pub fn during(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

fn exit_of(status: u16) -> Exit {
    match status {
        404 | 410 => Exit::NotFound,
        401 | 402 | 403 | 405 | 409 | 412 | 423 | 451 => Exit::Refused,
        400 | 406..=408 | 411 | 413..=422 => Exit::Usage,
        _ => Exit::Failed,
    }
}

fn hint_of(problem: &Problem) -> Option<String> {
    let hint = match (problem.code.as_str(), problem.status) {
        (_, 401) => "name a token with --token-file or PUMASI_TOKEN, or call as a user whom the cloud knows",
        (_, 403) => "your token's role does not allow it; an operator makes others with `pumasi token create`",
        ("not_found", _) => return listing(&problem.detail).map(|list| format!("`{list}` lists what there is")),
        (CHANGED_MEANWHILE, _) => "somebody changed it meanwhile: look with `pumasi describe`, then try again",
        (_, 429) => "wait a little, then try again",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// What lists the things of which one was not found: by the daemon's own sentence, `there is no service x`.
fn listing(detail: &str) -> Option<&'static str> {
    let (_, what) = detail.rsplit_once("there is no ")?;
    let lists = [
        ("service", "pumasi get services"),
        ("instance", "pumasi get instances"),
        ("journey", "pumasi get journeys"),
        ("plan", "pumasi get plans"),
        ("lease", "pumasi get leases"),
        ("lent lease", "pumasi get leases"),
        ("open settlement", "pumasi get leases"),
        ("offer", "pumasi get offers"),
        ("member", "pumasi get members"),
        ("other member", "pumasi get members"),
        ("proposal of the pact", "pumasi pact show"),
        ("token", "pumasi token list"),
        ("customer", "pumasi customer list"),
        ("secret", "pumasi secret list"),
        ("deleted service", "pumasi get retired"),
        ("retired", "pumasi get retired"),
        ("divergence", "pumasi get divergences"),
        ("entry of the quarantine", "pumasi quarantine list"),
    ];
    lists
        .into_iter()
        .find(|(kind, _)| what.strip_prefix(kind).is_some_and(|r| r.starts_with(' ')))
        .map(|(_, list)| list)
}

/// Whose fault it was where it was not the request's, and whether the same command may work later.
fn blame_of(problem: &Problem) -> Option<String> {
    let side = match problem.fault {
        Fault::Input => None,
        Fault::Us => Some("This cloud"),
        Fault::Peer => Some("The other cloud"),
        Fault::Engine => Some("The engine that runs instances"),
    };
    // What cannot be done now has not failed: the message says why, and what is left to say is when.
    let failed = side.filter(|_| problem.status >= 500 && problem.status != 503);
    let failed = failed.map(|side| format!("{side} failed, not your request."));
    let again = match (problem.retry, problem.retry_after_ms) {
        (true, Some(ms)) => Some(format!("Try again in {}.", crate::units::duration_ms(ms))),
        (true, None) if !problem.detail.contains("try again") => Some("Try again later.".to_owned()),
        _ => None,
    };
    let told: Vec<String> = failed.into_iter().chain(again).collect();
    (!told.is_empty()).then(|| told.join(" "))
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self {
            exit: exit_of(problem.status),
            hint: hint_of(&problem),
            blame: blame_of(&problem),
            trace_id: problem.trace_id.clone(),
            message: told(&problem),
        }
    }
}

/// A problem may hold words of another cloud: each stays on the line where it belongs.
fn told(problem: &Problem) -> String {
    let mut text = line(&problem.detail);
    for field in &problem.fields {
        text.push_str(&format!("\n  {}: {}", line(&field.field), line(&field.problem)));
    }
    text
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(problem) => problem.into(),
            CallError::Unreachable { .. } => {
                let told = Self::new(Exit::Unreachable, line(&error.to_string()));
                // The message may have said so itself.
                let asked = told.message.contains("does the daemon run");
                if asked { told } else { told.hint("does the daemon run (`pumasi serve`), and is that its address?") }
            }
            CallError::Garbled { .. } => Self::failed(line(&error.to_string()))
                .hint("is --server a Pumasi daemon of about this version? `pumasi --version` tells ours"),
        }
    }
}

impl From<Vec<ManifestError>> for Failure {
    fn from(errors: Vec<ManifestError>) -> Self {
        let told = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        match errors.iter().map(|e| e.faults.len()).sum() {
            1 => Self::input(told),
            n => Self::input(format!("{n} faults, and nothing was sent:\n{told}")),
        }
    }
}

impl From<pumasi_terms::BadId> for Failure {
    fn from(error: pumasi_terms::BadId) -> Self {
        Self::input(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(blame) = &self.blame {
            write!(f, "\n  {blame}")?;
        }
        if let Some(trace) = &self.trace_id {
            write!(f, "\n  trace {trace}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_one_exit_code() {
        let exit = |status| Failure::from(Problem::new(status, "x", Fault::Us, "d")).exit;
        assert_eq!(exit(404), Exit::NotFound);
        assert_eq!([401, 403, 409].map(exit), [Exit::Refused; 3]);
        assert_eq!([400, 413, 422].map(exit), [Exit::Usage; 3]);
        assert_eq!([429, 500, 503].map(exit), [Exit::Failed; 3]);
    }

    #[test]
    fn a_refusal_says_whose_fault_and_what_to_do() {
        let mut problem = Problem::unavailable("the store is full");
        problem.retry_after_ms = Some(2_000);
        problem.trace_id = Some("abc".into());
        let told = Failure::from(problem).to_string();
        assert_eq!(told, "the store is full\n  Try again in 2.0s.\n  trace abc");
        let told = Failure::from(Problem::ours("a row is damaged")).to_string();
        assert_eq!(told, "a row is damaged\n  This cloud failed, not your request.");
        let told = Failure::from(Problem::unavailable("another change is under way; try again")).to_string();
        assert_eq!(told, "another change is under way; try again");
    }

    #[test]
    fn a_hint_fits_what_went_wrong_or_is_not_there() {
        let hint = |problem: Problem| Failure::from(problem).hint.unwrap_or_default();
        assert_eq!(hint(Problem::not_found("service", "x")), "`pumasi get services` lists what there is");
        assert_eq!(hint(Problem::not_found("token", "x")), "`pumasi token list` lists what there is");
        assert_eq!(hint(Problem::not_found("plan", "x")), "`pumasi get plans` lists what there is");
        assert_eq!(hint(Problem::not_found("planet", "x")), "");
        assert_eq!(hint(Problem::new(404, "no_pact", Fault::Input, "this cloud is in no pact")), "");
        assert_eq!(hint(Problem::conflict("spec.hosts: a.example belongs to service b")), "");
        assert!(hint(Problem::changed_meanwhile("service/a: expected 3, found 4")).contains("pumasi describe"));
    }
}
