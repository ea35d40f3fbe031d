//! Keeps an owner from filling the disk of everybody.
//!
//! Enters: what each owner has in its datasets, what the file system has left. Leaves: owners that stand still, and why; whether
//! anything more may be taken in.
//! Always holds: an owner over its bound stands still and nobody else does; when the disk runs full, those who filled it stand still
//! first; nothing is erased. Measuring takes at most a tenth of the time.

use crate::clock;
use crate::node::{Locked, Note};
use crate::object::owner_of_lease;
use crate::quiet::{self, IDLE_MS, Rests};
use crate::{Node, borrower, home, lender, world};
use pumasi_api::{Fault, Problem};
use pumasi_engine::{Measured, measure};
use pumasi_store::{Expect, ReserveState};
use pumasi_terms::service::Dataset;
use pumasi_terms::{BootMs, LeaseId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LOOK_MS: u64 = 250;
/// An instance that used less of a processor since it was measured wrote no hundred megabytes; a probe a second is less.
const STILL_CPU_US: u64 = 50_000;
/// Measured so often all the same.
const STILL_MS_MAX: u64 = 30_000;
/// What is taken in by nobody within a second.
const ROOMY_BYTES: u64 = 4 << 30;
/// A measurement that took so long is followed by nine times as long a rest.
const REST_FACTOR: u64 = 9;
/// Less than this is what any application writes now and then.
const GROWTH_BYTES_MIN: u64 = 1 << 20;
const GROWTH_FILES_MIN: u64 = 1_000;
/// Few of these on a file system stop everybody as well as few bytes do.
const FREE_FILES_MIN: u64 = 4_096;
/// What shipping may keep beside copies of what it ships.
const SHIP_BYTES_MIN: u64 = 256 << 20;
const WRITE_MS_MAX: u64 = 2_000;
const WRITE_EVERY_MS: u64 = 1_000;

/// What the file system of the data directory has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    /// `None`: this file system does not count files.
    pub free_files: Option<u64>,
    pub reserve_bytes: u64,
}

impl Room {
    /// Why nothing more may be taken in.
    pub fn problem(&self) -> Option<String> {
        if self.free_bytes < self.reserve_bytes {
            return Some(format!(
                "disk full: {} of free space are left, {} are kept for the daemon; remove data or add space",
                mib(self.free_bytes),
                mib(self.reserve_bytes)
            ));
        }
        let files = self.free_files.filter(|f| *f < FREE_FILES_MIN)?;
        Some(format!("disk full: room for {files} more files is left; remove files or make a larger file system"))
    }

    /// Twice what is kept, so that nobody stops and goes on by turns.
    fn is_ample(&self) -> bool {
        self.free_bytes >= self.reserve_bytes.saturating_mul(2)
            && self.free_files.is_none_or(|f| f >= FREE_FILES_MIN * 2)
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// One place that an owner writes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub what: String,
    pub dir: PathBuf,
    pub has: Measured,
    pub bytes_max: u64,
    pub files_max: u64,
    /// Since the measurement before.
    pub grown: Measured,
}

impl Place {
    fn excess(&self) -> Option<String> {
        if self.has == Measured::default() {
            return None;
        }
        if self.has.bytes > self.bytes_max {
            return Some(format!("{} has {} of at most {}", self.what, mib(self.has.bytes), mib(self.bytes_max)));
        }
        let files = if self.has.complete { String::new() } else { "more than ".to_owned() };
        (self.has.files > self.files_max || !self.has.complete)
            .then(|| format!("{} has {files}{} files of at most {}", self.what, self.has.files, self.files_max))
    }
}

/// Who is to stand still, and why. Pure.
pub fn decide(
    room: &Room,
    owners: &BTreeMap<String, Vec<Place>>,
    held: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut hold = BTreeMap::new();
    for (owner, places) in owners {
        let excess: Vec<String> = places.iter().filter_map(Place::excess).collect();
        if !excess.is_empty() {
            let why = format!("over its quota: {}; remove some or raise the bound, and it goes on", excess.join("; "));
            hold.insert(owner.clone(), why);
            continue;
        }
        let grew = places.iter().any(|p| p.grown.bytes >= GROWTH_BYTES_MIN || p.grown.files >= GROWTH_FILES_MIN);
        let full = room.problem().is_some() && grew;
        let still_full = !room.is_ample() && held.get(owner).is_some_and(|why| why.starts_with(FILLED));
        if full || still_full {
            hold.insert(owner.clone(), format!("{FILLED}; it goes on when {} are free", mib(room.reserve_bytes * 2)));
        }
    }
    hold
}

const FILLED: &str = "it was writing when the disk ran full";

/// What the guard knows and the rest of the daemon asks.
#[derive(Debug, Default)]
pub struct Disk {
    room: Locked<Option<Room>>,
    /// The last real write, and how it went.
    written: Locked<Option<(BootMs, Result<(), String>)>>,
    /// Bytes of what is being written under promises.
    promised: AtomicU64,
    /// Owners that stand still, and why.
    held: Locked<BTreeMap<String, String>>,
}

/// Room that is kept for one writer until it is done.
#[derive(Debug)]
pub struct Promise<'a> {
    of: &'a Disk,
    bytes: u64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.of.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Disk {
    /// Keeps room for so much: two who ask at once are not promised the same.
    pub fn promise(&self, bytes: u64) -> Result<Promise<'_>, Problem> {
        // Counted first, so that one of two sees the other. What one has written already counts twice until it is done.
        let promise = Promise { of: self, bytes };
        let others = self.promised.fetch_add(bytes, Ordering::Relaxed);
        self.admits(bytes.saturating_add(others))?;
        Ok(promise)
    }

    /// None: it was not looked at yet.
    pub fn free_bytes(&self) -> Option<u64> {
        self.room.lock().map(|r| r.free_bytes)
    }

    /// Why an owner stands still: nothing more is written for it either.
    pub fn held(&self, owner: &str) -> Option<String> {
        self.held.lock().get(owner).cloned()
    }

    /// Whether so much more may be taken in without touching what is kept for the daemon.
    pub fn admits(&self, bytes: u64) -> Result<(), Problem> {
        let Some(room) = *self.room.lock() else { return Ok(()) };
        let after = Room { free_bytes: room.free_bytes.saturating_sub(bytes), ..room };
        match after.problem() {
            None => Ok(()),
            Some(why) => Err(Problem { retry: true, ..Problem::new(507, "disk_full", Fault::Us, why) }),
        }
    }
}

/// Whether the store takes a write now: tried for real, at most each second, and within bounds of time.
pub async fn check_write(node: &Node) -> Result<(), String> {
    let now = clock::boot();
    if let Some((at, result)) = node.disk.written.lock().clone()
        && now.since(at) < WRITE_EVERY_MS
    {
        return result;
    }
    let wall = clock::wall();
    let write =
        node.store.transact(move |tx| tx.put(crate::object::PROBE, crate::object::ONLY, &wall, Expect::Any).map(drop));
    let result = match tokio::time::timeout(Duration::from_millis(WRITE_MS_MAX), write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(pumasi_store::StoreError::to_string(&e)),
        Err(_) => Err(format!("the store did not commit a write within {WRITE_MS_MAX} ms")),
    };
    let full = node.disk.room.lock().and_then(|room| room.problem());
    let result = match (result, full) {
        (Err(e), Some(full)) => Err(format!("{full} ({e})")),
        (Ok(()), Some(full)) => Err(full),
        (result, None) => result,
    };
    node.disk.written.set(Some((now, result.clone())));
    result
}

/// One owner's places, and when they are measured next.
#[derive(Debug, Default)]
struct Known {
    places: Vec<Place>,
    next_at: BootMs,
    /// When it was measured last, and what its instances had used of processors by then.
    measured_at: BootMs,
    cpu_us: u64,
}

/// Looks at owners and at the disk until the daemon stops.
pub async fn run(node: Arc<Node>) {
    let (mut stopping, mut rests) = (node.stopping.clone(), Rests::new(&node));
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    // What an earlier daemon held is let go by the first look, unless it is to be held still.
    let mut held: Option<BTreeMap<String, String>> = None;
    let mut reserve_whole = true;
    while !*stopping.borrow() {
        let looked = node.clone();
        let seen = world::blocking(move || (room(&looked), looked.store.fill_reserve())).await;
        match seen {
            Ok((Ok(room), reserve)) => {
                tell_room(node.disk.room.lock().replace(room), room);
                reserve_whole = tell_reserve(&reserve, reserve_whole);
                match look(&node, room, &mut known, held.as_ref()).await {
                    Ok(wanted) => {
                        let now = enforce(&node, held.as_ref(), wanted).await;
                        node.disk.held.set(now.clone());
                        end_helpers(&node, held.as_ref(), &now).await;
                        held = Some(now);
                    }
                    Err(e) => tracing::warn!(error = %e, "the owners' quotas were not looked at; tried again"),
                }
            }
            Ok((Err(e), _)) => tracing::warn!(error = %e, "the disk was not looked at; tried again"),
            Err(e) => tracing::warn!(error = %e, "the disk was not looked at; tried again"),
        }
        tokio::select! {
            biased;
            () = rests.rest(&node, LOOK_MS, if is_roomy(&node) { IDLE_MS } else { LOOK_MS }) => {}
            _ = stopping.changed() => break,
        }
    }
}

/// Whether the fastest disk is not full before the next look of an idle cloud.
fn is_roomy(node: &Node) -> bool {
    node.disk.room.lock().is_some_and(|room| room.free_bytes > room.reserve_bytes.saturating_add(ROOMY_BYTES))
}

fn tell_room(before: Option<Room>, now: Room) {
    match (before.and_then(|b| b.problem()), now.problem()) {
        (None, Some(problem)) => tracing::error!(%problem, "nothing more is taken in"),
        (Some(_), None) => tracing::info!("the disk has room again"),
        _ => {}
    }
}

fn tell_reserve(reserve: &ReserveState, was_whole: bool) -> bool {
    match (&reserve.problem, was_whole) {
        (Some(problem), true) => {
            let (held, wanted) = (mib(reserve.held_bytes), mib(reserve.wanted_bytes));
            tracing::error!(%problem, %held, %wanted, "the store's reserve on disk is not whole; it commits while that lasts");
        }
        (None, false) => tracing::info!("the store's reserve on disk is whole again"),
        _ => {}
    }
    reserve.is_whole()
}

fn room(node: &Node) -> std::io::Result<Room> {
    let stat = rustix::fs::statvfs(&node.config.cloud.data_dir)?;
    Ok(Room {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        free_files: (stat.f_files > 0).then_some(stat.f_favail),
        reserve_bytes: node.config.disk.reserve_bytes(),
    })
}

/// Where owners write: datasets of services and what ships them, directories of lent leases, and the homes of instances.
fn places(node: &Node) -> Result<BTreeMap<String, Vec<Place>>, Problem> {
    let place = |what: String, dir, bytes_max, files_max| Place { what, dir, bytes_max, files_max, ..Place::default() };
    let mut owners: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for service in node.services()?.iter() {
        let sets = &service.document.spec.datasets;
        let dataset = |set: &Dataset| {
            let dir = home::data_dir(node, service, &set.name);
            place(format!("dataset {}", set.name), dir, set.bytes_max, set.files_max)
        };
        let own: Vec<Place> = sets.iter().map(dataset).collect();
        let (ship, leases) = borrower::shipping(node, service);
        // A helper keeps what it has sent of each dataset, and what it sends.
        let each =
            |of: fn(&Dataset) -> u64| sets.iter().map(of).fold(0, u64::saturating_add).saturating_mul(2 * leases);
        let (bytes, files) = (each(|s| s.bytes_max), each(|s| s.files_max));
        let (bytes, files) = (bytes.saturating_add(SHIP_BYTES_MIN), files.saturating_add(GROWTH_FILES_MIN));
        let shipping = place("what ships its data".into(), ship, bytes, files);
        owners.insert(shipping_of(&service.owner()), vec![shipping]);
        owners.insert(service.owner(), own);
    }
    for lent in lender::lents(node)?.iter().filter(|l| l.binds()) {
        let (bytes, files) = lender::copies::room_of(lent);
        let whole = place("the lease's directory".into(), node.lease_dir(lent.id()), bytes, files);
        owners.insert(owner_of_lease(lent.id()), vec![whole]);
    }
    let (bytes_max, files_max) = (node.config.disk.home_bytes(), node.config.disk.home_files_max);
    for instance in node.instances.lock().iter() {
        let dir = node.dir("engine").join(instance.id.as_str()).join("private");
        let home = place(format!("the home of {}", instance.id), dir, bytes_max, files_max);
        owners.entry(instance.owner.clone()).or_default().push(home);
    }
    Ok(owners)
}

/// Under which name the helpers of an owner's data are held: its instances may go on when those do not.
pub fn shipping_of(owner: &str) -> String {
    format!("{owner}/shipping")
}

/// Of leases that have come to stand still: they begin again, with whatever they had open, when there is room.
async fn end_helpers(node: &Node, before: Option<&BTreeMap<String, String>>, now: &BTreeMap<String, String>) {
    for owner in now.keys().filter(|o| before.is_none_or(|b| !b.contains_key(*o))) {
        if let Ok(lease) = LeaseId::parse(owner.clone()) {
            node.copies.close(&lease).await;
        }
    }
}

/// Measures those whose turn it is, and all when the disk runs full.
async fn look(
    node: &Node,
    room: Room,
    known: &mut BTreeMap<String, Known>,
    held: Option<&BTreeMap<String, String>>,
) -> Result<BTreeMap<String, String>, Problem> {
    let mut owners = places(node)?;
    known.retain(|owner, _| owners.contains_key(owner));
    let is_quiet = quiet::is_quiet(node);
    for (owner, places) in &mut owners {
        let entry = known.entry(owner.clone()).or_default();
        // Bounds are today's, figures those of the last measurement.
        for place in places.iter_mut() {
            if let Some(before) = entry.places.iter().find(|p| p.dir == place.dir) {
                (place.has, place.grown) = (before.has, before.grown);
            }
        }
        let begun = clock::boot();
        let cpu_us = cpu_used_us(node, owner);
        let still = is_quiet && entry.is_still(cpu_us, begun);
        if (begun >= entry.next_at && !still) || room.problem().is_some() {
            (entry.measured_at, entry.cpu_us) = (begun, cpu_us);
            let now = places.clone();
            *places = world::blocking(move || now.into_iter().map(measured).collect())
                .await
                .map_err(|e| Problem::ours(e.to_string()))?;
            let now = clock::boot();
            entry.next_at = now.after(LOOK_MS.max(now.since(begun).saturating_mul(REST_FACTOR)));
        }
        entry.places.clone_from(places);
    }
    Ok(decide(&room, &owners, held.unwrap_or(&BTreeMap::new())))
}

fn cpu_used_us(node: &Node, owner: &str) -> u64 {
    let instances = node.instances.lock();
    instances.iter().filter(|i| i.owner == owner).fold(0, |sum: u64, i| sum.saturating_add(i.cpu_used_us))
}

impl Known {
    /// Whether its instances did too little since the last measurement to have written much.
    fn is_still(&self, cpu_us: u64, now: BootMs) -> bool {
        cpu_us.abs_diff(self.cpu_us) < STILL_CPU_US && now.since(self.measured_at) < STILL_MS_MAX
    }
}

/// A place that cannot be measured keeps its figures: what is unknown is neither over nor under.
fn measured(mut place: Place) -> Place {
    match measure(&place.dir, place.files_max) {
        Ok(now) => {
            let before = std::mem::replace(&mut place.has, now);
            let known = before != Measured::default();
            place.grown = Measured {
                bytes: if known { now.bytes.saturating_sub(before.bytes) } else { 0 },
                files: if known { now.files.saturating_sub(before.files) } else { 0 },
                complete: true,
            };
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => tracing::warn!(what = %place.what, error = %e, "its size was not measured; tried again"),
    }
    place
}

/// Holds and lets go; what is held now.
async fn enforce(
    node: &Node,
    before: Option<&BTreeMap<String, String>>,
    wanted: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let none = BTreeMap::new();
    let told = before.unwrap_or(&none);
    let mut owners: Vec<String> = wanted.keys().chain(told.keys()).cloned().collect();
    if before.is_none() {
        owners.extend(node.instances.lock().iter().map(|i| i.owner.clone()));
    }
    owners.sort();
    owners.dedup();
    let mut held = BTreeMap::new();
    for owner in owners {
        let why = wanted.get(&owner);
        // Each time: an instance may have been started since. The figures in the words may change; the first are kept.
        let why = why.map(|w| told.get(&owner).filter(|old| kind(old) == kind(w)).unwrap_or(w));
        if let Err(e) = node.engine.hold(&owner, why.map(String::as_str)).await {
            tracing::warn!(%owner, error = %e, "an owner's instances were not held or let go; tried again");
            if let Some(old) = told.get(&owner) {
                held.insert(owner, old.clone());
            }
            continue;
        }
        let service = crate::object::service_named_by(&owner).map(str::to_owned);
        let (kind_of, subject) = service.map_or(("lease", owner.clone()), |service| ("service", service));
        match (told.get(&owner), why) {
            (None, Some(why)) => {
                node.note("daemon", Note::new("service_held", kind_of, subject).because(why.clone())).await
            }
            (Some(old), None) => {
                let over = format!("no longer so: {old}");
                node.note("daemon", Note::new("service_let_go", kind_of, subject).because(over)).await;
            }
            _ => {}
        }
        if let Some(why) = why {
            held.insert(owner, why.clone());
        }
    }
    held
}

/// The part of the reason without figures.
fn kind(why: &str) -> &str {
    why.split([':', ';']).next().unwrap_or(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn place(bytes: u64, grown: u64) -> Place {
        Place {
            what: "dataset notes".into(),
            has: Measured { bytes, files: 10, complete: true },
            bytes_max: 100 * MIB,
            files_max: 1_000,
            grown: Measured { bytes: grown, files: 0, complete: true },
            ..Place::default()
        }
    }

    fn owners(all: &[(&str, Place)]) -> BTreeMap<String, Vec<Place>> {
        all.iter().map(|(name, place)| ((*name).to_owned(), vec![place.clone()])).collect()
    }

    fn with(free_mib: u64) -> Room {
        Room { free_bytes: free_mib * MIB, free_files: Some(1_000_000), reserve_bytes: 64 * MIB }
    }

    #[test]
    fn an_owner_whose_instances_did_next_to_nothing_is_measured_seldom() {
        let known = Known { measured_at: BootMs(1_000), cpu_us: 900_000, ..Known::default() };
        assert!(known.is_still(900_000 + STILL_CPU_US - 1, BootMs(30_999)));
        assert!(!known.is_still(900_000 + STILL_CPU_US, BootMs(1_001)), "it did something");
        assert!(!known.is_still(900_000, BootMs(1_000 + STILL_MS_MAX)), "its time has come");
        assert!(!known.is_still(0, BootMs(1_001)), "its instances are others");
    }

    #[test]
    fn over_its_bound_an_owner_is_held_and_nobody_else() {
        let mut many = place(MIB, 0);
        many.has.files = 1_001;
        let mut deep = place(MIB, 0);
        deep.has.complete = false;
        let all = owners(&[("a", place(101 * MIB, 0)), ("b", place(100 * MIB, 50 * MIB)), ("c", many), ("d", deep)]);
        let held = decide(&with(1_000), &all, &BTreeMap::new());
        assert_eq!(held.keys().collect::<Vec<_>>(), ["a", "c", "d"]);
        assert!(held["a"].contains("dataset notes has 101 MiB of at most 100 MiB"), "{}", held["a"]);
        assert!(held["c"].contains("1001 files of at most 1000"), "{}", held["c"]);
        // Under it again, it goes on.
        assert!(decide(&with(1_000), &owners(&[("a", place(99 * MIB, 0))]), &held).is_empty());
    }

    #[test]
    fn on_a_full_disk_those_who_write_are_held_until_there_is_ample_room() {
        let quiet = place(90 * MIB, 0);
        let all = owners(&[("a", place(50 * MIB, 8 * MIB)), ("b", quiet.clone())]);
        assert!(decide(&with(65), &all, &BTreeMap::new()).is_empty());
        let held = decide(&with(63), &all, &BTreeMap::new());
        assert_eq!(held.keys().collect::<Vec<_>>(), ["a"]);
        // It does not write any more, because it is held: that alone does not let it go.
        let still = owners(&[("a", place(58 * MIB, 0)), ("b", quiet)]);
        assert_eq!(decide(&with(100), &still, &held).len(), 1);
        assert!(decide(&with(128), &still, &held).is_empty());
        let no_files = Room { free_files: Some(10), ..with(1_000) };
        assert!(no_files.problem().is_some() && with(63).problem().is_some());
    }

    #[test]
    fn nothing_is_taken_in_that_would_touch_the_reserve() {
        let disk = Disk::default();
        disk.admits(u64::MAX).unwrap();
        disk.room.set(Some(with(100)));
        disk.admits(36 * MIB).unwrap();
        let refused = disk.admits(37 * MIB).unwrap_err();
        let first = disk.promise(30 * MIB).unwrap();
        assert!(disk.promise(7 * MIB).is_err() && disk.promise(6 * MIB).is_ok());
        drop(first);
        disk.promise(36 * MIB).unwrap();
        assert_eq!((refused.status, refused.code.as_str(), refused.retry), (507, "disk_full", true));
    }
}
