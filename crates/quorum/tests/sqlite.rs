//! The daemon's store keeps for a voter what the disk in memory keeps, transaction by transaction, over kills and restarts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pumasi_quorum::message::{Entry, HardState, Kind};
use pumasi_quorum::storage::At;
use pumasi_quorum::{Conf, Driver, Kept, Memory, Outgoing, Persist, RaftId, Role, Settings, Snapshot, Storage, Timers};
use pumasi_store::sim::{Hooks, MemoryDisk};
use pumasi_store::{Options, RaftEntry, RaftHardState, RaftKept, RaftSnapshot, Store, StoreError, Tx};
use pumasi_terms::{BootMs, WallMs};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const PACT: &str = "pact-1";

fn entry_out(entry: &Entry) -> RaftEntry {
    let (kind, data) = entry.kind.stored().unwrap();
    RaftEntry { term: entry.term, kind, data }
}

fn hard_out(hard: &HardState) -> RaftHardState {
    RaftHardState { term: hard.term, vote: hard.vote.map(RaftId::get), commit: hard.commit }
}

fn snapshot_out(snapshot: &Snapshot) -> RaftSnapshot {
    let (meta, state) = (&snapshot.meta, snapshot.state.clone());
    RaftSnapshot { index: meta.index, term: meta.term, conf: meta.conf.stored().unwrap(), state }
}

fn kept_out(kept: &Kept) -> RaftKept {
    RaftKept {
        raft_id: kept.id.get(),
        hard: hard_out(&kept.hard),
        conf: kept.conf.stored().unwrap(),
        applied: kept.applied,
        floor_index: kept.floor.index,
        floor_term: kept.floor.term,
        entries: kept.entries.iter().map(entry_out).collect(),
        snapshot: kept.snapshot.as_ref().map(snapshot_out),
    }
}

fn kept_in(kept: RaftKept) -> Kept {
    let entry = |e: &RaftEntry| Entry { term: e.term, kind: Kind::from_stored(e.kind, &e.data).unwrap() };
    let snapshot = |s: RaftSnapshot| {
        Snapshot::of(At { index: s.index, term: s.term }, Conf::from_stored(&s.conf).unwrap(), s.state)
    };
    let RaftHardState { term, vote, commit } = kept.hard;
    Kept {
        id: RaftId::new(kept.raft_id).unwrap(),
        hard: HardState { term, vote: vote.and_then(RaftId::new), commit },
        conf: Conf::from_stored(&kept.conf).unwrap(),
        applied: kept.applied,
        floor: At { index: kept.floor_index, term: kept.floor_term },
        entries: kept.entries.iter().map(entry).collect(),
        snapshot: kept.snapshot.map(snapshot),
    }
}

/// As the daemon does it: one transaction, in which its own rows would stand too.
fn write(tx: &mut Tx<'_>, persist: &Persist) -> Result<(), StoreError> {
    if let Some(after) = persist.truncate_after {
        tx.raft_truncate(PACT, after)?;
    }
    if let Some(snapshot) = &persist.snapshot {
        tx.raft_snapshot(PACT, &snapshot_out(snapshot))?;
    }
    if let Some(floor) = persist.floor {
        tx.raft_compact(PACT, floor.index, floor.term)?;
    }
    if let Some((first, entries)) = &persist.entries {
        tx.raft_append(PACT, *first, &entries.iter().map(entry_out).collect::<Vec<_>>())?;
    }
    if let Some(hard) = &persist.hard {
        tx.raft_hard_state(PACT, hard_out(hard))?;
    }
    if let Some(applied) = persist.applied {
        let conf = persist.conf.as_ref().map(|c| c.stored().unwrap());
        tx.raft_applied(PACT, applied, conf.as_deref())?;
    }
    Ok(())
}

struct Sqlite {
    disk: MemoryDisk,
    store: Store,
}

impl Sqlite {
    fn new(name: &str) -> Self {
        let disk = MemoryDisk::new(name);
        let store = Self::open(&disk);
        Self { disk, store }
    }

    fn open(disk: &MemoryDisk) -> Store {
        Store::open_inline(disk, WallMs(1_000), 42, Options::default(), Hooks::default()).unwrap()
    }

    fn kill(&mut self) {
        self.disk.kill();
        self.store = Self::open(&self.disk);
    }
}

impl Storage for Sqlite {
    type Error = StoreError;

    fn load(&self) -> Result<Option<Kept>, StoreError> {
        Ok(self.store.raft(PACT)?.map(kept_in))
    }

    fn begin(&mut self, kept: Kept) -> Result<(), StoreError> {
        self.store.transact_blocking(move |tx| tx.raft_begin(PACT, &kept_out(&kept)))
    }

    fn write(&mut self, persist: &Persist) -> Result<(), StoreError> {
        let persist = persist.clone();
        self.store.transact_blocking(move |tx| write(tx, &persist))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

struct Voter {
    driver: Driver,
    sqlite: Sqlite,
    memory: Memory,
    run: u64,
}

impl Voter {
    fn new(kept: &Kept) -> Self {
        let (mut sqlite, mut memory) = (Sqlite::new(&kept.id.to_string()), Memory::default());
        sqlite.begin(kept.clone()).unwrap();
        memory.begin(kept.clone()).unwrap();
        Self { driver: start(kept, 1, 0), sqlite, memory, run: 1 }
    }

    /// What it says; everything that it wants kept is kept at both places, and compared.
    fn work(&mut self, snapshots: &mut Vec<Snapshot>) -> Vec<Outgoing> {
        let mut said = Vec::new();
        loop {
            let out = self.driver.take();
            said.extend(out.messages);
            let there = out.fetch.and_then(|f| snapshots.iter().find(|s| s.meta == f.meta));
            if let Some(snapshot) = there {
                self.driver.fetched(snapshot.meta.digest, snapshot.state.clone()).unwrap();
            }
            let fetched = there.is_some();
            if out.snapshot_due {
                let applied = self.driver.status().unwrap().applied;
                self.driver.snapshot(applied, format!("state at {applied}").into_bytes()).unwrap();
            }
            let Some(work) = out.work else {
                match fetched || out.snapshot_due {
                    true => continue,
                    false => return said,
                }
            };
            snapshots.extend(work.persist.snapshot.clone());
            self.sqlite.write(&work.persist).unwrap();
            self.memory.write(&work.persist).unwrap();
            self.memory.sync().unwrap();
            assert_eq!(self.sqlite.load().unwrap(), self.memory.load().unwrap());
            self.driver.persisted(work.number).unwrap();
        }
    }

    fn restart(&mut self, now: u64) {
        self.sqlite.kill();
        self.run += 1;
        self.driver = start(&self.sqlite.load().unwrap().unwrap(), self.run, now);
    }
}

fn start(kept: &Kept, run: u64, now: u64) -> Driver {
    let settings = Settings { id: kept.id, run, seed: 5 ^ kept.id.get(), timers: Timers::LAN, round_trip_ms: 2 };
    Driver::start(settings, kept, BootMs(now)).unwrap()
}

#[test]
fn a_store_keeps_what_a_disk_in_memory_keeps() {
    // Numbers above what a signed integer holds too.
    let ids = [7, 1 << 63, u64::MAX].map(|n| RaftId::new(n).unwrap());
    let set: BTreeSet<RaftId> = ids.into();
    let first = |id: &RaftId| Kept::first(*id, set.clone(), b"nothing".to_vec()).unwrap();
    let mut voters: BTreeMap<RaftId, Voter> = ids.iter().map(|id| (*id, Voter::new(&first(id)))).collect();
    let joining = RaftId::new(99).unwrap();
    let mut under_way: VecDeque<(RaftId, Outgoing)> = VecDeque::new();
    let (mut proposed, mut snapshots) = (0, Vec::new());
    for now in 1..6_000u64 {
        if now == 3_000 {
            voters.insert(joining, Voter::new(&Kept::joining(joining)));
        }
        if now > 3_000 {
            let target: BTreeSet<RaftId> = [ids[0], ids[1], joining].into();
            voters.values_mut().for_each(|v| v.driver.aim(target.clone()).unwrap());
        }
        for _ in 0..under_way.len() {
            let Some((from, message)) = under_way.pop_front() else { break };
            let Some(voter) = voters.get_mut(&message.to) else { continue };
            voter.driver.receive(from, &message.bytes).unwrap();
        }
        for (id, voter) in &mut voters {
            voter.driver.tick(BootMs(now)).unwrap();
            if now % 10 == 0 && voter.driver.status().unwrap().role == Role::Leader {
                proposed += 1;
                let _ = voter.driver.propose(format!("command {proposed}").into_bytes());
            }
            if now % 700 == id.get() % 700 {
                voter.restart(now);
            }
            under_way.extend(voter.work(&mut snapshots).into_iter().map(|m| (*id, m)));
        }
    }
    let status: Vec<_> = voters.values().map(|v| v.driver.status().unwrap().clone()).collect();
    assert!(proposed > 400);
    assert!(status.iter().any(|s| s.role == Role::Leader && s.commit > 400), "{status:#?}");
    assert!(status.iter().any(|s| s.id == joining && s.conf.voters.contains(&joining)), "{status:#?}");
}
