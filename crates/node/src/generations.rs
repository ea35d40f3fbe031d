//! Earlier generations of services: what each ran, since when, on whose word.
//!
//! Enters: each new generation, in the transaction that stores it. Leaves: a service's history; the documents to which it can be put back.
//! Always holds: the newest is the one in force; at most [`KEPT`] are kept, and no more than [`BYTES_KEPT`] of documents beyond the newest;
//! the bundles of those that are kept stay here; nothing outlives its service.

use crate::node::TxError;
use crate::object::{GENERATION, SERVICE, ServiceRecord};
use crate::{Node, moves};
use pumasi_api::Problem;
use pumasi_store::{Expect, Stored, Tx};
use pumasi_terms::service::{BundleRef, Service};
use pumasi_terms::{CustomerName, Digest, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// With the one in force.
pub const KEPT: usize = 6;
/// Of documents, as JSON, beside the newest.
const BYTES_KEPT: usize = 512 << 10;

/// All that is kept of one service, under its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    pub version: u32,
    pub customer: CustomerName,
    /// Oldest first.
    pub kept: Vec<Generation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub generation: u64,
    pub at: WallMs,
    pub by: String,
    pub why: String,
    pub document: Service,
}

impl Generation {
    /// What it ran; nothing for a document that no daemon stores.
    pub fn bundle(&self) -> Option<Digest> {
        match &self.document.spec.application.bundle {
            BundleRef::Digest(digest) => Some(*digest),
            BundleRef::Path(_) => None,
        }
    }
}

impl Generations {
    fn new(customer: CustomerName) -> Self {
        Self { version: 1, customer, kept: Vec::new() }
    }

    /// `next` is in force from now on. The same number again is the same generation, told anew.
    fn push(&mut self, next: Generation) {
        self.kept.retain(|g| g.generation != next.generation);
        self.kept.push(next);
        let excess = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..excess);
        let size = |g: &Generation| serde_json::to_vec(&g.document).map_or(0, |b| b.len());
        let older = self.kept.len().saturating_sub(1);
        let (mut bytes, mut keep) = (0, 0);
        for g in self.kept[..older].iter().rev() {
            bytes += size(g);
            if bytes > BYTES_KEPT {
                break;
            }
            keep += 1;
        }
        self.kept.drain(..older - keep);
    }

    pub fn get(&self, generation: u64) -> Option<&Generation> {
        self.kept.iter().find(|g| g.generation == generation)
    }

    /// The one before the one in force, by what it ran: one that was only started again is no other.
    pub fn before(&self, now: &ServiceRecord) -> Option<&Generation> {
        let other = |g: &&Generation| {
            g.generation < now.generation && g.document.spec.application != now.document.spec.application
        };
        self.kept.iter().rev().find(other)
    }
}

/// Writes down that `record` is of a new generation, with what it was before if that was never written.
pub fn began(
    tx: &mut Tx<'_>,
    before: Option<&ServiceRecord>,
    record: &ServiceRecord,
    by: &str,
    why: impl Into<String>,
    now: WallMs,
) -> Result<(), TxError> {
    // A history that cannot be read stays as it is, and holds up nothing.
    let Ok(stored) = tx.get::<Generations>(GENERATION, record.id.as_str()) else { return Ok(()) };
    let mut all = stored.map_or_else(|| Generations::new(record.customer.clone()), |s| s.body);
    if let Some(before) = before.filter(|b| all.get(b.generation).is_none() && b.generation != record.generation) {
        let why = "it was in force when this history began".to_owned();
        let (generation, document) = (before.generation, before.document.clone());
        all.push(Generation { generation, at: now, by: String::new(), why, document });
    }
    let (generation, document) = (record.generation, record.document.clone());
    all.push(Generation { generation, at: now, by: by.to_owned(), why: why.into(), document });
    tx.put(GENERATION, record.id.as_str(), &all, Expect::Any)?;
    Ok(())
}

/// The same document as a new generation: every instance is exchanged. Whoever calls writes down why.
pub fn next(
    tx: &mut Tx<'_>,
    stored: &Stored<ServiceRecord>,
    by: &str,
    why: impl Into<String>,
    now: WallMs,
) -> Result<ServiceRecord, TxError> {
    moves::leaves_alone(tx, stored.body.name())?;
    let record = ServiceRecord { generation: stored.body.generation + 1, ..stored.body.clone() };
    tx.put(SERVICE, record.name().as_str(), &record, Expect::Revision(stored.revision))?;
    began(tx, Some(&stored.body), &record, by, why, now)?;
    Ok(record)
}

/// With its service.
pub fn forget(tx: &mut Tx<'_>, service: &ServiceRecord) -> Result<(), TxError> {
    if tx.get::<Generations>(GENERATION, service.id.as_str()).is_ok_and(|g| g.is_none()) {
        return Ok(());
    }
    tx.delete(GENERATION, service.id.as_str(), Expect::Any)?;
    Ok(())
}

pub fn of(node: &Node, service: &ServiceRecord) -> Result<Option<Generations>, Problem> {
    Ok(node.item::<Generations>(GENERATION, service.id.as_str())?.map(|g| (*g).clone()))
}

/// Bundles that a customer's services may be put back to; none where a record cannot be read, which may name any.
pub fn bundles(node: &Node, customer: &CustomerName) -> Result<Option<BTreeSet<Digest>>, Problem> {
    let all = node.items::<Generations>(GENERATION)?;
    if !all.unreadable().is_empty() {
        return Ok(None);
    }
    let own = all.iter().filter(|g| g.customer == *customer);
    Ok(Some(own.flat_map(|g| &g.kept).filter_map(Generation::bundle).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(generation: u64, text: &str) -> ServiceRecord {
        let document: Service = serde_json::from_value(json!({
            "apiVersion": "pumasi/v1", "kind": "Service", "metadata": {"name": "notes"},
            "spec": {"hosts": ["n.example"], "application": {"bundle": Digest([1; 32]), "command": ["run", text]}},
        }))
        .unwrap();
        let id = pumasi_terms::ServiceId::from_entropy(1);
        ServiceRecord { generation, ..ServiceRecord::new(document, id, CustomerName::default_customer(), 0) }
    }

    fn generation(n: u64, text: &str) -> Generation {
        let document = record(n, text).document;
        Generation { generation: n, at: WallMs(n as i64), by: "kim".into(), why: String::new(), document }
    }

    #[test]
    fn the_newest_are_kept_by_number_and_by_size() {
        let mut all = Generations::new(CustomerName::default_customer());
        (1..=20).for_each(|n| all.push(generation(n, "small")));
        let numbers = |all: &Generations| all.kept.iter().map(|g| g.generation).collect::<Vec<_>>();
        assert_eq!(numbers(&all), [15, 16, 17, 18, 19, 20]);
        let large = "x".repeat(300 << 10);
        (21..=24).for_each(|n| all.push(generation(n, &large)));
        // One of 300 KiB beside the newest, never two.
        assert_eq!(numbers(&all), [23, 24]);
        all.push(generation(24, "again"));
        assert_eq!(numbers(&all), [23, 24]);
    }

    #[test]
    fn a_restart_is_nothing_to_go_back_to() {
        let mut all = Generations::new(CustomerName::default_customer());
        [(1, "old"), (2, "new"), (3, "new")].iter().for_each(|(n, text)| all.push(generation(*n, text)));
        assert_eq!(all.before(&record(3, "new")).map(|g| g.generation), Some(1));
        assert_eq!(all.before(&record(4, "other")).map(|g| g.generation), Some(3));
        assert_eq!(all.before(&record(1, "old")), None);
    }
}
