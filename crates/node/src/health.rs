//! What this daemon cannot do now, and why.
//!
//! Enters: how each part of a look at the world went. Leaves: why the daemon is not ready, for `/readyz`, metrics and the log.
//! Always holds: what is told here was so at the last look; it goes away by itself when a look succeeds.

use crate::node::Locked;
use pumasi_api::{Fault, Problem};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Health {
    /// By what could not be done.
    troubles: Locked<BTreeMap<&'static str, String>>,
}

impl Health {
    /// How a part of a look went. A failure is told once, and so is its end.
    pub fn saw(&self, what: &'static str, result: Result<(), Problem>) {
        let mut troubles = self.troubles.lock();
        match result {
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

    /// Why the daemon is not ready.
    pub fn problem(&self) -> Option<String> {
        let troubles = self.troubles.lock();
        let told: Vec<String> = troubles.iter().map(|(what, why)| format!("{what}: {why}")).collect();
        (!told.is_empty()).then(|| format!("nothing is done about {}", told.join("; about ")))
    }
}
