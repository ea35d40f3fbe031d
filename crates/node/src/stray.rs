//! Instances that no record explains: of a service or a lease that the store does not know.
//!
//! Enters: owners of instances. Leaves: whether an owner's end is on record, a word to the operator where it is not.
//! Always holds: what no record explains gets no requests and is not stopped. Only a record of the end stops it: one that was written
//! when its service was deleted, or an operator's own word.

use crate::node::Note;
use crate::object::{ENDED, Ended};
use crate::{Node, clock};
use pumasi_api::Problem;
use pumasi_store::{Expect, StoreError, Tx};
use std::collections::BTreeSet;

/// Ends that are kept; the oldest make room.
const ENDED_MAX: usize = 1_000;

/// The end of an owner is on record from now on.
pub fn bury(tx: &mut Tx<'_>, owner: &str, why: &str) -> Result<(), StoreError> {
    let mut all = tx.list::<Ended>(ENDED)?.items;
    all.sort_by_key(|e| e.body.at);
    for old in all.iter().take((all.len() + 1).saturating_sub(ENDED_MAX)) {
        tx.delete(ENDED, &old.name, Expect::Any)?;
    }
    let ended = Ended { version: 1, at: clock::wall(), why: why.to_owned() };
    tx.put(ENDED, owner, &ended, Expect::Any).map(drop)
}

/// Whether the end of this owner, which has no record of its own, is on record. An instance that was started since says otherwise.
pub fn is_over(node: &Node, owner: &str) -> Result<bool, Problem> {
    let Some(ended) = node.item::<Ended>(ENDED, owner)? else { return Ok(false) };
    let since = |at| at > ended.at;
    Ok(!node.instances.lock().iter().any(|i| i.owner == owner && i.started_at.is_some_and(since)))
}

/// Owners of instances here that nothing explains, as of the last look.
pub fn found(node: &Node, strays: BTreeSet<String>, prefix: &str) -> BTreeSet<String> {
    let mut known = node.health.strays.lock();
    let new = strays.difference(&known).cloned().collect();
    known.retain(|owner| !owner.starts_with(prefix) || strays.contains(owner));
    known.extend(strays);
    new
}

/// The operator learns of those that are new.
pub async fn tell(node: &Node, owners: BTreeSet<String>) {
    for owner in owners {
        let text = "instances run under this name and no record explains them; they get no requests and are not stopped: \
                    restore the store that knows them, or stop them with `pumasi quarantine empty`";
        tracing::error!(%owner, "{text}");
        node.note("daemon", Note::new("stray_instances", "owner", &owner).because(text)).await;
    }
}
