//! What a service promises of writes that it has acknowledged, where its datasets are kept in step (`mode: sync`).
//!
//! Enters: the datasets of a service. Leaves: one rule for all of them, the strictest of each; what a manifest gets wrong.
//! Always holds: a dataset that is not kept in step says nothing of how.

use crate::document::{FieldError, fault};
use crate::service::{Dataset, DatasetKind, DatasetMode, ServiceSpec};
use serde::{Deserialize, Serialize};

/// An answer that waits for its standbys waits no longer, unless the manifest says otherwise, ms.
pub const SYNC_WAIT_MS: u64 = 1_500;
/// What a manifest may say, ms. A pact's own bound, the time after which a silent cloud is lost, is known later.
const WAIT_MS_MIN: u64 = 50;
const WAIT_MS_MAX: u64 = 10_000;

pub(crate) fn default_wait_ms() -> u64 {
    SYNC_WAIT_MS
}
pub(crate) fn is_default_wait(ms: &u64) -> bool {
    *ms == SYNC_WAIT_MS
}

/// What happens to requests that write while no other cloud is in step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnStandbyLoss {
    /// They are refused: what is acknowledged is always in two clouds.
    #[default]
    Refuse,
    /// They are served, unprotected, and that is shown.
    Alone,
}

impl OnStandbyLoss {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What those that only read may see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncReads {
    /// Whatever the application has, also what a loss may still take away.
    #[default]
    Fresh,
    /// Nothing that could still be lost: the owner's answers to them wait as well.
    Committed,
}

impl SyncReads {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The rule of a service, over all of its datasets that are kept in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncRule {
    pub on_loss: OnStandbyLoss,
    pub reads: SyncReads,
    pub wait_ms: u64,
}

impl SyncRule {
    /// None: nothing is kept in step.
    pub fn of(datasets: &[Dataset]) -> Option<Self> {
        let own = || datasets.iter().filter(|d| d.mode == DatasetMode::Sync);
        let wait_ms = own().map(|d| d.sync_wait_ms).min()?;
        let refuses = own().any(|d| d.on_standby_loss == OnStandbyLoss::Refuse);
        let committed = own().any(|d| d.reads == SyncReads::Committed);
        Some(Self {
            on_loss: if refuses { OnStandbyLoss::Refuse } else { OnStandbyLoss::Alone },
            reads: if committed { SyncReads::Committed } else { SyncReads::Fresh },
            wait_ms,
        })
    }
}

/// What cannot be so in the datasets of a service.
pub(crate) fn validate(spec: &ServiceSpec, at: &str, e: &mut Vec<FieldError>) {
    for (i, dataset) in spec.datasets.iter().enumerate() {
        let here = format!("datasets[{i}]");
        if dataset.mode == DatasetMode::Async {
            let says =
                [("on_standby_loss", dataset.on_standby_loss.is_default()), ("reads", dataset.reads.is_default())];
            let wait = ("sync_wait_ms", is_default_wait(&dataset.sync_wait_ms));
            for (field, _) in says.into_iter().chain([wait]).filter(|(_, unsaid)| !unsaid) {
                fault(e, at, &format!("{here}.{field}"), "only a dataset of mode sync has it");
            }
            continue;
        }
        if dataset.kind == DatasetKind::Files {
            let problem = "must be async for files: each answer would wait for a look at the whole tree; only sqlite is kept in step";
            fault(e, at, &format!("{here}.mode"), problem);
        }
        if !(WAIT_MS_MIN..=WAIT_MS_MAX).contains(&dataset.sync_wait_ms) {
            fault(e, at, &format!("{here}.sync_wait_ms"), format!("must be {WAIT_MS_MIN} to {WAIT_MS_MAX}"));
        }
        if spec.continuity.wanted() == 0 {
            let problem = "sync needs another cloud to be in step with: say which in continuity.clouds, or how many in continuity.standbys";
            fault(e, at, &format!("{here}.mode"), problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(datasets: &str, continuity: &str) -> ServiceSpec {
        let text = format!(
            r#"{{"hosts": ["a.example"], "application": {{"bundle": "app", "command": ["./a"]}}, "datasets": [{datasets}]{continuity}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn faults(datasets: &str, continuity: &str) -> Vec<String> {
        let mut e = Vec::new();
        validate(&spec(datasets, continuity), "spec", &mut e);
        e.into_iter().map(|f| format!("{}: {}", f.field, f.problem)).collect()
    }

    const KEPT: &str = r#", "continuity": {"clouds": ["city-b"]}"#;

    #[test]
    fn what_cannot_be_kept_in_step_is_refused_by_its_field() {
        let sqlite = r#"{"name": "x", "kind": "sqlite", "file": "x.db", "mode": "sync"}"#;
        assert!(faults(sqlite, KEPT).is_empty());
        let alone = faults(sqlite, "");
        assert!(alone[0].starts_with("spec.datasets[0].mode: sync needs another cloud"), "{alone:?}");
        let files = faults(r#"{"name": "x", "kind": "files", "mode": "sync"}"#, KEPT);
        assert!(files[0].starts_with("spec.datasets[0].mode: must be async for files"), "{files:?}");
        let long = faults(&sqlite.replace("}", r#", "sync_wait_ms": 10001}"#), KEPT);
        assert!(long[0].starts_with("spec.datasets[0].sync_wait_ms: must be 50 to 10000"), "{long:?}");
        let other = r#"{"name": "x", "kind": "files", "reads": "committed", "on_standby_loss": "alone"}"#;
        let told = faults(other, KEPT);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|t| t.ends_with("only a dataset of mode sync has it")), "{told:?}");
    }

    #[test]
    fn one_rule_holds_for_all_and_it_is_the_strictest() {
        let one = r#"{"name": "x", "kind": "sqlite", "file": "x.db", "mode": "sync", "on_standby_loss": "alone", "sync_wait_ms": 900}"#;
        let two = r#"{"name": "y", "kind": "sqlite", "file": "y.db", "mode": "sync", "reads": "committed"}"#;
        let files = r#"{"name": "z", "kind": "files"}"#;
        let rule = |sets: &str| SyncRule::of(&spec(sets, KEPT).datasets);
        assert_eq!(rule(files), None);
        let (on_loss, reads) = (OnStandbyLoss::Alone, SyncReads::Fresh);
        assert_eq!(rule(&format!("{one}, {files}")), Some(SyncRule { on_loss, reads, wait_ms: 900 }));
        let both = SyncRule { on_loss: OnStandbyLoss::Refuse, reads: SyncReads::Committed, wait_ms: 900 };
        assert_eq!(rule(&format!("{one}, {two}")), Some(both));
    }

    #[test]
    fn what_says_nothing_of_it_is_written_as_it_was() {
        let dataset: Dataset = serde_json::from_str(r#"{"name": "x", "kind": "files"}"#).unwrap();
        let text = serde_json::to_string(&dataset).unwrap();
        assert!(
            !text.contains("sync_wait_ms") && !text.contains("reads") && !text.contains("on_standby_loss"),
            "{text}"
        );
    }
}
