//! What this daemon cannot do now, and why.
//!
//! Enters: how each part of a look at the world went. Leaves: why the daemon is not ready, for `/readyz`, metrics and the log.
//! Always holds: what is told here was so at the last look; it goes away by itself when a look succeeds.

use crate::node::{Locked, Note, UNREADABLE, store_problem};
use crate::object::{self, *};
use crate::{Node, world};
use pumasi_api::{Fault, Problem};
use pumasi_lease::{Hold, LentLease};
use pumasi_store::{Store, StoreError, Unreadable};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;

#[derive(Debug, Default)]
pub struct Health {
    /// By what could not be done.
    troubles: Locked<BTreeMap<&'static str, String>>,
    /// Records that cannot be read, by kind and name, and why.
    aside: Locked<BTreeMap<(String, String), String>>,
    /// Owners of instances that no record explains.
    pub strays: Locked<BTreeSet<String>>,
    /// Tasks of this daemon that are not running now.
    pub(crate) down: Locked<BTreeMap<&'static str, String>>,
    /// Why this process must end.
    failed: watch::Sender<Option<String>>,
    /// Somebody wants it to end: with everything, or alone.
    ending: watch::Sender<Option<bool>>,
}

impl Health {
    /// How a part of a look went. A failure is told once, and so is its end.
    pub fn saw(&self, what: &'static str, result: Result<(), Problem>) {
        let mut troubles = self.troubles.lock();
        match result {
            // One record, by name, is told by `set_aside`; the others were looked after.
            Err(problem) if problem.code == UNREADABLE => {
                troubles.remove(what);
                tracing::warn!(%what, error = %problem, "left as it is");
            }
            // A conflict with somebody else's change is settled by the next look.
            Err(problem) if problem.fault == Fault::Us => {
                if troubles.get(what) != Some(&problem.detail) {
                    tracing::error!(%what, error = %problem, "not looked after: nothing is done about it until this ends");
                    troubles.insert(what, problem.detail);
                }
            }
            Err(problem) => tracing::warn!(%what, error = %problem, "not finished; tried again"),
            Ok(()) => {
                if troubles.remove(what).is_some() {
                    tracing::info!(%what, "looked after again");
                }
            }
        }
    }

    /// This process cannot go on; whoever runs it ends it.
    pub fn fail(&self, why: String) {
        self.failed.send_replace(Some(why));
    }

    pub fn end(&self, everything: bool) {
        self.ending.send_replace(Some(everything));
    }

    /// Answers once somebody wants this daemon to end: whether with everything.
    pub async fn asked_to_end(&self) -> bool {
        let mut ending = self.ending.subscribe();
        match ending.wait_for(Option::is_some).await {
            Ok(everything) => everything.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Answers once the process must end, with why.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether everything that keeps this daemon's promises runs: else it asks for none and gives none.
    pub fn whole(&self) -> Result<(), Problem> {
        match self.down.lock().iter().next() {
            None => Ok(()),
            Some((task, _)) => {
                Err(Problem::unavailable(format!("{task} of this daemon does not run just now; try again")))
            }
        }
    }

    /// Why the daemon is not ready.
    pub fn problem(&self) -> Option<String> {
        let down = self.down.lock();
        let mut told: Vec<String> = down.iter().map(|(task, why)| format!("{task} does not run: {why}")).collect();
        let troubles = self.troubles.lock();
        told.extend(troubles.iter().map(|(what, why)| format!("nothing is done about {what}: {why}")));
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// What it leaves as it is while it looks after everything else, a line each.
    pub fn left_alone(&self) -> Vec<String> {
        let aside = self.aside.lock();
        let mut lines: Vec<String> = aside
            .iter()
            .map(|((kind, name), why)| format!("{kind} {name} cannot be read and is set aside: {why}"))
            .collect();
        lines.extend(self.strays.lock().iter().map(|owner| format!("{owner}: instances that no record explains")));
        lines
    }

    pub fn aside(&self) -> usize {
        self.aside.lock().len()
    }

    /// Looks for records that cannot be read, and tells each once.
    pub async fn set_aside(&self, node: &Node) {
        let store = node.store.clone();
        let found = match world::blocking(move || unreadable(&store)).await {
            Ok(Ok(found)) => found,
            // It stands as a trouble of whoever needed it.
            Ok(Err(e)) => return tracing::warn!(error = %e, "the records were not looked through; tried again"),
            Err(e) => return tracing::warn!(error = %e, "the records were not looked through; tried again"),
        };
        let rows = node.lents.with(&node.store, |s| s.unreadable().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let now: BTreeMap<_, _> = found.into_iter().chain(rows).map(|u| ((u.kind, u.name), u.why)).collect();
        let before = std::mem::replace(&mut *self.aside.lock(), now.clone());
        for ((kind, name), why) in now.iter().filter(|(key, _)| !before.contains_key(key)) {
            let text = format!(
                "{kind} {name} cannot be read ({why}); it and what belongs to it stay as they are: \
                 start the version that wrote it, or restore a backup"
            );
            tracing::error!(%kind, %name, "{text}");
            node.note("daemon", Note::new("record_set_aside", "record", format!("{kind}/{name}")).because(text)).await;
        }
        for (kind, name) in before.keys().filter(|key| !now.contains_key(key)) {
            node.note("daemon", Note::new("record_readable_again", "record", format!("{kind}/{name}"))).await;
        }
    }
}

/// Every stored record that this program cannot read. Renewals are a matter of the lender's book.
fn unreadable(store: &Store) -> Result<Vec<Unreadable>, Problem> {
    fn of<T: serde::de::DeserializeOwned>(store: &Store, kind: &str) -> Result<Vec<Unreadable>, StoreError> {
        Ok(store.list::<T>(kind)?.unreadable)
    }
    let mut all = Vec::new();
    for kind in KINDS {
        let found = match kind {
            SERVICE => of::<ServiceRecord>(store, kind),
            JOURNEY => of::<pumasi_journey::Journey>(store, kind),
            PLAN => of::<PlanRecord>(store, kind),
            HOLD => of::<Hold>(store, kind),
            LENT => of::<LentLease>(store, kind),
            LENT_APPLICATION => of::<LentApplication>(store, kind),
            SIGNED_LEASE | SETTLEMENT => of::<pumasi_trust::SignedDocument>(store, kind),
            TOKEN => of::<TokenRecord>(store, kind),
            CLOUD => of::<CloudRecord>(store, kind),
            PROBE => of::<pumasi_terms::WallMs>(store, kind),
            METERED => of::<Metered>(store, kind),
            object::ENDED => of::<Ended>(store, kind),
            DIVERGENCE => of::<Divergence>(store, kind),
            GENERATION => of::<crate::generations::Generations>(store, kind),
            object::GAME_DAY => of::<crate::takeover::game_day::GameDay>(store, kind),
            // Several types by name; whoever reads them says so.
            _ => of::<serde_json::Value>(store, kind),
        };
        all.extend(found.map_err(|e| store_problem(&e))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
