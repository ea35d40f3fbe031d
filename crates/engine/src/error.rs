//! What an engine answers when it cannot do what it was asked.

use pumasi_terms::InstanceId;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error("instance {id}: {problem}; correct the service's application and start it again")]
    Spec { id: InstanceId, problem: String },
    #[error("instance {id}: generation {asked} is older than {known}, which is here; ask with the newest")]
    Stale { id: InstanceId, asked: u64, known: u64 },
    #[error(
        "instance {id}: generation {generation} is here with another content; a changed spec needs a higher generation"
    )]
    Conflict { id: InstanceId, generation: u64 },
    #[error("instance {id}: generation {generation} was stopped for good; start a higher generation")]
    Ended { id: InstanceId, generation: u64 },
    #[error("instance {id}: generation {older} is still stopping; call again")]
    Replacing { id: InstanceId, older: u64 },
    #[error("instance {id} is not stopped: {what}; stop it and call again")]
    Running { id: InstanceId, what: String },
    #[error("instance {id} does not stand still yet: {what}; call again")]
    Stirs { id: InstanceId, what: String },
    #[error("instance {id} went on since it was frozen as {name}; freeze it anew, by another name")]
    Thawed { id: InstanceId, name: String },
    #[error("nothing was run in instance {id}: {why}")]
    Session { id: InstanceId, why: String },
    #[error("no instance {id} here")]
    Unknown { id: InstanceId },
    #[error(
        "instance {id} is lent and this engine cannot isolate it ({missing}); run it with root, or sign for it by `lend_without_isolation`"
    )]
    NotIsolated { id: InstanceId, missing: String },
    #[error("no free uid or gid is left in the range of {range}; remove instances that ended")]
    Exhausted { range: &'static str },
    #[error(
        "{whose}, so that others could become an instance; choose another engine.uid_base, or leave it out to get a free range"
    )]
    UidsOfOthers { whose: String },
    #[error("{path} cannot be shown to instances: {why}; correct engine.view and start again")]
    View { path: PathBuf, why: String },
    #[error("another daemon uses {root}; give each its own directory")]
    InUse { root: PathBuf },
    #[error("{path} was written in format {found}, this program reads up to {known}; use the newer program")]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error("{path}: {problem}")]
    Damaged { path: PathBuf, problem: String },
    #[error("the shim of instance {id} did not come up: {problem}")]
    Shim { id: InstanceId, problem: String },
    #[error("{doing}: {source}")]
    Host { doing: String, source: io::Error },
}

impl EngineError {
    /// Whether the same call can succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Replacing { .. } | Self::Running { .. } | Self::Stirs { .. } | Self::Shim { .. } | Self::Host { .. }
        )
    }

    /// The same words for each instance: for whoever does not know it by its id.
    pub fn reason(&self) -> String {
        match self {
            Self::Spec { problem, .. } => format!("{problem}; correct the service's application"),
            Self::Shim { problem, .. } => format!("its shim did not come up: {problem}"),
            Self::NotIsolated { missing, .. } => format!("this cloud cannot isolate what is lent to it ({missing})"),
            Self::Stale { id, .. }
            | Self::Conflict { id, .. }
            | Self::Ended { id, .. }
            | Self::Replacing { id, .. }
            | Self::Running { id, .. }
            | Self::Stirs { id, .. }
            | Self::Thawed { id, .. }
            | Self::Session { id, .. }
            | Self::Unknown { id } => self.to_string().replace(id.as_str(), "of it"),
            other => other.to_string(),
        }
    }

    pub(crate) fn host(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Host { doing, source }
    }

    pub(crate) fn at(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let doing = format!("{verb} {}", path.display());
        move |source| Self::Host { doing, source }
    }
}
