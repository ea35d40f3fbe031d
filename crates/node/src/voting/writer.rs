//! The disk's side of a voter: its batches, in order, as many as there are in one transaction.
//!
//! Always holds: what could not be written ends it, and nothing after it is written; the voter is begun anew from what is there.

use super::keep::Writes;
use crate::node::Note;
use crate::{Node, clock, world};
use pumasi_ownership::Told;
use pumasi_ownership::state::Standing;
use pumasi_store::{Entry, StoreError};
use pumasi_terms::ServiceId;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Batches of one transaction.
const TOGETHER_MAX: usize = 64;

#[derive(Debug)]
pub struct Job {
    pub number: u64,
    pub writes: Box<Writes>,
    pub told: Vec<Told>,
}

/// What became of the jobs up to a number.
#[derive(Debug)]
pub enum Wrote {
    Done(u64),
    Failed(StoreError),
}

pub fn begin(
    node: &Arc<Node>,
    key: String,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    wrote: mpsc::UnboundedSender<Wrote>,
) -> JoinHandle<()> {
    let (store, node) = (node.store.clone(), node.clone());
    world::spawn(async move {
        while let Some(first) = jobs.recv().await {
            let mut together = vec![first];
            while together.len() < TOGETHER_MAX
                && let Ok(next) = jobs.try_recv()
            {
                together.push(next);
            }
            let (last, key) = (together.last().map_or(0, |j| j.number), key.clone());
            let shown = node.voting.state();
            let name = |id: &ServiceId| {
                let owned = shown.as_ref().and_then(|s| s.services.get(id));
                owned.map_or_else(|| id.to_string(), |o| o.agreed.name.to_string())
            };
            let rows: Vec<Entry> = together.iter().flat_map(|j| j.told.iter().filter_map(|t| row(t, &name))).collect();
            let written = store.transact(move |tx| {
                together.iter().try_for_each(|job| job.writes.write(tx, &key))?;
                rows.into_iter().try_for_each(|row| tx.journal(row).map(drop))
            });
            let end = match written.await {
                Ok(()) => Wrote::Done(last),
                Err(e) => Wrote::Failed(e),
            };
            let failed = matches!(end, Wrote::Failed(_));
            if wrote.send(end).is_err() || failed {
                return;
            }
        }
    })
}

fn stands(standing: &Standing) -> &'static str {
    match standing {
        Standing::Alive => "alive",
        Standing::Lost { .. } => "lost",
        Standing::Returning { .. } => "coming back, on probation",
        Standing::Left => "no member any more",
    }
}

/// What the journal has of it, by the services' names. Renewals, progress and sets of standbys come too often; what is protected its
/// owner tells.
fn row(told: &Told, name: &dyn Fn(&ServiceId) -> String) -> Option<Entry> {
    let note = |action, kind, subject: &dyn std::fmt::Display, why: String| {
        Some(Note::new(action, kind, subject).because(why).entry("pact", clock::wall()))
    };
    match told {
        Told::Stands { cloud, standing } => {
            note("cloud_stands", "cloud", cloud, format!("in the register it is {}", stands(standing)))
        }
        Told::Asked { cloud, why } => note("takeover_asked", "cloud", cloud, why.clone()),
        Told::Approved { cloud, by, carried_out } => {
            let more = if *carried_out { "it is carried out" } else { "more approvals are needed" };
            note("takeover_approved", "cloud", cloud, format!("by {by}; {more}"))
        }
        Told::Owner { service, from, to, epoch, cause } => {
            let why = format!("from {from} to {to}, epoch {epoch}: {cause:?}");
            note("owner_changed", "service", &name(service), why)
        }
        Told::Waiting { service, owner, place } => {
            note("service_waits", "service", &name(service), format!("for {owner}, at place {place}"))
        }
        Told::Yielded { service, epoch, why } => {
            note("service_yielded", "service", &name(service), format!("under epoch {epoch}: {why}"))
        }
        Told::Cancelled { service, epoch, id } => {
            note("transfer_cancelled", "service", &name(service), format!("{id} under epoch {epoch}"))
        }
        Told::Pact { serial } => note("register_pact", "pact", serial, format!("the register is of serial {serial}")),
        Told::Protected { .. }
        | Told::Unprotected { .. }
        | Told::Refused(_)
        | Told::InSync { .. }
        | Told::Progress { .. }
        | Told::Key { .. } => None,
    }
}
