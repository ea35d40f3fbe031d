//! How a command fails: one message for people, one exit code for programs.

use crate::output::line;
use pumasi_api::{CallError, Fault, Problem};
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

fn hint_of(problem: &Problem) -> Option<&'static str> {
    Some(match (problem.code.as_str(), problem.status) {
        (_, 401) => "name a token with --token-file or PUMASI_TOKEN, or call as a user whom the cloud knows",
        (_, 403) => "your token's role does not allow it; an operator makes others with `pumasi token create`",
        (_, 404) => "`pumasi get KIND` lists what there is",
        (_, 409) => {
            "somebody changed it meanwhile or it is in another state: look with `pumasi describe`, then try again"
        }
        (_, 429) => "wait a little, then try again",
        _ => return None,
    })
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let side = match problem.fault {
            Fault::Input => "the request",
            Fault::Us => "this cloud",
            Fault::Peer => "the other cloud",
            Fault::Engine => "the engine that runs instances",
        };
        let again = match (problem.retry, problem.retry_after_ms) {
            (true, Some(ms)) => format!("try again in {}", crate::units::duration_ms(ms)),
            (true, None) => "trying again may help".into(),
            (false, _) => "trying the same again does not help".into(),
        };
        Self {
            exit: exit_of(problem.status),
            hint: hint_of(&problem).map(Into::into),
            blame: Some(format!("at fault is {side}; {again}")),
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
            CallError::Unreachable { .. } => Self::new(Exit::Unreachable, line(&error.to_string()))
                .hint("does the daemon run (`pumasi serve`), and is --server its address?"),
            CallError::Garbled { .. } => Self::failed(line(&error.to_string()))
                .hint("is --server a Pumasi daemon of about this version? `pumasi --version` tells ours"),
        }
    }
}

impl From<pumasi_terms::manifest::ManifestError> for Failure {
    fn from(error: pumasi_terms::manifest::ManifestError) -> Self {
        Self::input(error.to_string())
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
        assert_eq!(told, "the store is full\n  at fault is this cloud; try again in 2.0s\n  trace abc");
        assert!(Failure::not_found("service", "x").to_string().contains("pumasi get"));
    }
}
