//! Who gets which uid and gid: one uid per instance, one gid per owner, none shared and none reused soon.

use super::layout::{VERSION, read_versioned, write_json};
use super::ranges::{Given, conflict};
use crate::EngineError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) const IDS_PER_ENGINE: u32 = 1_024;
/// Of these the last are for those that handle owners' bytes; instances have the others.
const HELPERS: u32 = 256;
const INSTANCES: u32 = IDS_PER_ENGINE - HELPERS;
/// Above what shadow-utils gives to users (to 600,100,000) and systemd to containers (to 0x6fff_ffff), below its foreign ids and 2^31.
const UID_FIRST: u32 = 0x7000_0000;
/// Where ranges began in the first installations, which keep theirs.
const UID_FIRST_BEFORE: u32 = 200_000;
const ENGINES: u64 = 4_096;
/// Owners remembered after their last instance, so that their data keeps its group.
const OWNERS_KEPT: usize = 512;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Table {
    version: u32,
    /// The first of the range; the first installations did not write it down.
    #[serde(default)]
    base: Option<u32>,
    next_uid: u32,
    next_gid: u32,
    owners: BTreeMap<String, u32>,
    #[serde(default)]
    next_helper: u32,
    /// Who handles an owner's bytes, by owner.
    #[serde(default)]
    helpers: BTreeMap<String, u32>,
}

#[derive(Debug)]
pub(super) struct Slots {
    path: PathBuf,
    base: u32,
}

/// Engines on one machine must not share uids, and do not know of each other: the root directory picks the range, and the next one is
/// taken where somebody else has it.
fn default_base(root_hash: u64, given: &[Given]) -> Option<u32> {
    let engine = |i: u64| u32::try_from(root_hash.wrapping_add(i) % ENGINES).unwrap_or(0);
    (0..ENGINES).map(|i| UID_FIRST + engine(i) * IDS_PER_ENGINE).find(|base| conflict(*base, given).is_none())
}

fn base_before(root_hash: u64) -> u32 {
    UID_FIRST_BEFORE + u32::try_from(root_hash % ENGINES).unwrap_or(0) * IDS_PER_ENGINE
}

/// FNV-1a: short, stable over versions and hosts; nothing depends on it being hard to meet.
pub(super) fn hash(root: &Path) -> u64 {
    root.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Slots {
    /// The configured range, else the one that this installation has, else a free one.
    pub(super) fn open(root: &Path, configured: Option<u32>, given: &[Given]) -> Result<Self, EngineError> {
        let path = root.join("slots.json");
        let recorded: Option<Table> = read_versioned(&path)?;
        let of_the_root = hash(root);
        let base = match (configured, recorded) {
            (Some(base), _) => match conflict(base, given) {
                Some(whose) => return Err(EngineError::UidsOfOthers { whose }),
                None => base,
            },
            (None, Some(table)) => table.base.unwrap_or_else(|| base_before(of_the_root)),
            (None, None) => default_base(of_the_root, given).ok_or(EngineError::Exhausted { range: "uids" })?,
        };
        Ok(Self { path, base })
    }

    pub(super) fn base(&self) -> u32 {
        self.base
    }

    pub(super) fn range(&self) -> Range<u32> {
        self.base..self.base.saturating_add(INSTANCES)
    }

    pub(super) fn helpers(&self) -> Range<u32> {
        let first = self.base.saturating_add(INSTANCES);
        first..first.saturating_add(HELPERS)
    }

    fn read(&self) -> Result<Table, EngineError> {
        let table: Option<Table> = read_versioned(&self.path)?;
        let base = Some(self.base);
        let new = || Table { version: VERSION, base, ..Table::default() };
        Ok(table.map_or_else(new, |table| Table { base, ..table }))
    }

    /// A uid that neither an instance nor a process has.
    pub(super) fn take_uid(&self, taken: &BTreeSet<u32>) -> Result<u32, EngineError> {
        let mut table = self.read()?;
        let (uid, next) = next_free(self.range(), table.next_uid, |u| taken.contains(&u))
            .ok_or(EngineError::Exhausted { range: "uids" })?;
        table.next_uid = next;
        write_json(&self.path, &table, false)?;
        Ok(uid)
    }

    /// Who handles the owner's bytes, if anybody does.
    pub(super) fn helper_uid_of(&self, owner: &str) -> Result<Option<u32>, EngineError> {
        Ok(self.read()?.helpers.get(owner).copied())
    }

    /// The same for an owner as long as it is remembered. When there are too many, the next one goes to another owner, unless a process
    /// has it; the directories of the first are given anew if it comes back.
    pub(super) fn helper_uid(&self, owner: &str, busy: impl FnOnce() -> BTreeSet<u32>) -> Result<u32, EngineError> {
        let mut table = self.read()?;
        if let Some(uid) = table.helpers.get(owner) {
            return Ok(*uid);
        }
        let range = self.helpers();
        if table.helpers.len() >= HELPERS as usize {
            let busy = busy();
            if let Some((next, _)) = next_free(range.clone(), table.next_helper, |u| busy.contains(&u)) {
                table.helpers.retain(|_, uid| *uid != next);
            }
        }
        let taken: BTreeSet<u32> = table.helpers.values().copied().collect();
        let (uid, next) = next_free(range, table.next_helper, |u| taken.contains(&u))
            .ok_or(EngineError::Exhausted { range: "helpers' uids" })?;
        table.next_helper = next;
        table.helpers.insert(owner.to_owned(), uid);
        write_json(&self.path, &table, true)?;
        Ok(uid)
    }

    pub(super) fn gid_of(&self, owner: &str) -> Result<Option<u32>, EngineError> {
        Ok(self.read()?.owners.get(owner).copied())
    }

    /// The data of `from` become those of `to`, and so does its group. What `to` had before stays taken for as long as
    /// that of any owner that ended.
    pub(super) fn inherit(&self, from: &str, to: &str) -> Result<(), EngineError> {
        let mut table = self.read()?;
        let Some(gid) = table.owners.get(from).copied() else { return Ok(()) };
        match table.owners.insert(to.to_owned(), gid) {
            Some(same) if same == gid => return Ok(()),
            Some(before) => drop(table.owners.insert(format!("{to}/before"), before)),
            None => {}
        }
        write_json(&self.path, &table, true)
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
        let (gid, next) =
            next_free(self.base..self.base.saturating_add(IDS_PER_ENGINE), table.next_gid, |g| taken.contains(&g))
                .ok_or(EngineError::Exhausted { range: "gids" })?;
        table.next_gid = next;
        table.owners.insert(owner.to_owned(), gid);
        write_json(&self.path, &table, true)?;
        Ok(gid)
    }
}

/// Goes round the range, so that a number rests as long as possible before it is used again.
fn next_free(range: Range<u32>, next: u32, taken: impl Fn(u32) -> bool) -> Option<(u32, u32)> {
    let (base, len) = (range.start, range.end - range.start);
    (0..len)
        .map(|i| (next % len + i) % len)
        .find(|offset| !taken(base + offset))
        .map(|offset| (base + offset, (offset + 1) % len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round_and_are_never_shared() {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::open(dir.path(), Some(200_000), &[]).unwrap();
        let mut taken = BTreeSet::new();
        for _ in 0..INSTANCES {
            assert!(taken.insert(slots.take_uid(&taken).unwrap()));
        }
        assert!(matches!(slots.take_uid(&taken), Err(EngineError::Exhausted { .. })));
        taken.remove(&200_005);
        assert_eq!(slots.take_uid(&taken).unwrap(), 200_005);
    }

    #[test]
    fn helpers_have_uids_that_no_instance_gets() {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::open(dir.path(), Some(200_000), &[]).unwrap();
        let given = |owner: &str, busy: &[u32]| slots.helper_uid(owner, || busy.iter().copied().collect());
        let uid = given("lease-a", &[]).unwrap();
        assert!(slots.helpers().contains(&uid) && !slots.range().contains(&uid));
        assert_eq!(given("lease-a", &[]).unwrap(), uid);
        assert_eq!(slots.helper_uid_of("lease-a").unwrap(), Some(uid));
        for other in 1..HELPERS {
            assert!(slots.helpers().contains(&given(&format!("lease-{other}"), &[]).unwrap()));
        }
        // All are given. One that a process still has goes to nobody else.
        assert_eq!(given("late-1", &[uid]).unwrap(), uid + 1);
        assert_eq!(slots.helper_uid_of("lease-1").unwrap(), None);
        assert_eq!(given("late-2", &[]).unwrap(), uid + 2);
        let all: Vec<u32> = slots.helpers().collect();
        assert!(matches!(given("late-3", &all), Err(EngineError::Exhausted { .. })));
    }

    #[test]
    fn an_owner_keeps_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::open(dir.path(), Some(200_000), &[]).unwrap();
        let here = BTreeSet::new();
        let a = slots.gid_for("a", &here).unwrap();
        let b = slots.gid_for("b", &here).unwrap();
        assert_ne!(a, b);
        assert_eq!(Slots::open(dir.path(), Some(200_000), &[]).unwrap().gid_for("a", &here).unwrap(), a);
    }

    #[test]
    fn a_group_is_inherited_and_the_one_before_stays_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::open(dir.path(), Some(200_000), &[]).unwrap();
        let here = BTreeSet::new();
        let (before, lease) = (slots.gid_for("service", &here).unwrap(), slots.gid_for("lease", &here).unwrap());
        for _ in 0..2 {
            slots.inherit("lease", "service").unwrap();
            assert_eq!(slots.gid_of("service").unwrap(), Some(lease));
        }
        slots.inherit("unknown", "service").unwrap();
        assert_eq!(slots.gid_of("service").unwrap(), Some(lease));
        // Within what is remembered of owners that ended.
        for other in 0..OWNERS_KEPT - 3 {
            let gid = slots.gid_for(&format!("other-{other}"), &here).unwrap();
            assert!(gid != before && gid != lease);
        }
    }

    #[test]
    fn a_range_is_nobody_elses_and_stays_once_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let base = |configured, given: &[Given]| Slots::open(dir.path(), configured, given).map(|s| s.base());
        let first = base(None, &[]).unwrap();
        assert!((UID_FIRST..0x7ffe_0000).contains(&first));
        // Somebody has it before we do: another one.
        let others = ["alice", "bob"].map(|name| Given::subordinate(name, first, 1));
        let second = base(None, &others).unwrap();
        assert_ne!(first, second);
        let error = base(Some(first), &others).unwrap_err().to_string();
        assert!(error.contains("alice") && error.contains("uid_base"), "{error}");
        // Taken, it stays, whoever comes later; data carries its gids.
        Slots::open(dir.path(), None, &others).unwrap().take_uid(&BTreeSet::new()).unwrap();
        assert_eq!(base(None, &[]).unwrap(), second);
        assert_eq!(base(None, &[Given::subordinate("late", second, 9)]).unwrap(), second);
    }

    #[test]
    fn an_installation_from_before_keeps_its_range() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("slots.json"),
            r#"{"version":1,"next_uid":7,"next_gid":2,"owners":{"a":200001}}"#,
        )
        .unwrap();
        let slots = Slots::open(dir.path(), None, &[]).unwrap();
        assert_eq!(slots.base(), base_before(hash(dir.path())));
        assert_eq!(slots.take_uid(&BTreeSet::new()).unwrap(), slots.base() + 7);
        assert_eq!(slots.gid_of("a").unwrap(), Some(200_001));
    }
}
