//! Who gets which uid and gid: one uid per instance, one gid per owner, none shared and none reused soon.

use super::layout::{VERSION, read_versioned, write_json};
use crate::EngineError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) const IDS_PER_ENGINE: u32 = 1_024;
const UID_FIRST: u32 = 200_000;
const ENGINES: u64 = 4_096;
/// Owners remembered after their last instance, so that their data keeps its group.
const OWNERS_KEPT: usize = 512;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Table {
    version: u32,
    next_uid: u32,
    next_gid: u32,
    owners: BTreeMap<String, u32>,
}

#[derive(Debug)]
pub(super) struct Slots {
    path: PathBuf,
    base: u32,
}

/// Engines on one machine must not share uids, and do not know of each other: by default the root directory picks the range.
pub(super) fn default_base(root_hash: u64) -> u32 {
    let engine = u32::try_from(root_hash % ENGINES).unwrap_or(0);
    UID_FIRST + engine * IDS_PER_ENGINE
}

/// FNV-1a: short, stable over versions and hosts; nothing depends on it being hard to meet.
pub(super) fn hash(root: &Path) -> u64 {
    root.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Slots {
    pub(super) fn new(root: &Path, base: u32) -> Self {
        Self { path: root.join("slots.json"), base }
    }

    pub(super) fn range(&self) -> Range<u32> {
        self.base..self.base.saturating_add(IDS_PER_ENGINE)
    }

    fn read(&self) -> Result<Table, EngineError> {
        let table = read_versioned(&self.path)?;
        Ok(table.unwrap_or(Table { version: VERSION, next_uid: 0, next_gid: 0, owners: BTreeMap::new() }))
    }

    /// A uid that neither an instance nor a process has.
    pub(super) fn take_uid(&self, taken: &BTreeSet<u32>) -> Result<u32, EngineError> {
        let mut table = self.read()?;
        let (uid, next) = next_free(self.base, table.next_uid, |u| taken.contains(&u))
            .ok_or(EngineError::Exhausted { range: "uids" })?;
        table.next_uid = next;
        write_json(&self.path, &table, false)?;
        Ok(uid)
    }

    pub(super) fn gid_of(&self, owner: &str) -> Result<Option<u32>, EngineError> {
        Ok(self.read()?.owners.get(owner).copied())
    }

    /// Durable before it is used: data carries it.
    pub(super) fn gid_for(&self, owner: &str, owners_here: &BTreeSet<String>) -> Result<u32, EngineError> {
        let mut table = self.read()?;
        if let Some(gid) = table.owners.get(owner) {
            return Ok(*gid);
        }
        if table.owners.len() >= OWNERS_KEPT {
            table.owners.retain(|o, _| owners_here.contains(o));
        }
        let taken: BTreeSet<u32> = table.owners.values().copied().collect();
        let (gid, next) = next_free(self.base, table.next_gid, |g| taken.contains(&g))
            .ok_or(EngineError::Exhausted { range: "gids" })?;
        table.next_gid = next;
        table.owners.insert(owner.to_owned(), gid);
        write_json(&self.path, &table, true)?;
        Ok(gid)
    }
}

/// Goes round the range, so that a number rests as long as possible before it is used again.
fn next_free(base: u32, next: u32, taken: impl Fn(u32) -> bool) -> Option<(u32, u32)> {
    (0..IDS_PER_ENGINE)
        .map(|i| (next + i) % IDS_PER_ENGINE)
        .find(|offset| !taken(base + offset))
        .map(|offset| (base + offset, (offset + 1) % IDS_PER_ENGINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round_and_are_never_shared() {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::new(dir.path(), 200_000);
        let mut taken = BTreeSet::new();
        for _ in 0..IDS_PER_ENGINE {
            assert!(taken.insert(slots.take_uid(&taken).unwrap()));
        }
        assert!(matches!(slots.take_uid(&taken), Err(EngineError::Exhausted { .. })));
        taken.remove(&200_005);
        assert_eq!(slots.take_uid(&taken).unwrap(), 200_005);
    }

    #[test]
    fn an_owner_keeps_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::new(dir.path(), 200_000);
        let here = BTreeSet::new();
        let a = slots.gid_for("a", &here).unwrap();
        let b = slots.gid_for("b", &here).unwrap();
        assert_ne!(a, b);
        assert_eq!(Slots::new(dir.path(), 200_000).gid_for("a", &here).unwrap(), a);
    }
}
