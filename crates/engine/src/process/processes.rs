//! Processes of the host: found by owner or home, measured, killed.

use super::cgroup::{Place, Usage};
use super::layout::{Layout, Record, read_small};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For killed processes to be gone.
const DEATH_MS_MAX: u64 = 1_000;

/// Processes whose owner is in `uids`, by uid. For hosts where a process could have left its cgroup, and for what has no cgroup.
pub(super) fn processes_by_uid(uids: std::ops::Range<u32>) -> BTreeMap<u32, BTreeSet<u32>> {
    let mut found: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (pid, path) in all_processes() {
        let Ok(Some(status)) = read_small(&path.join("status")) else { continue };
        // A zombie is only an entry that its parent has not read yet.
        if status.lines().any(|l| l.starts_with("State:\tZ")) {
            continue;
        }
        let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u32>().ok());
        if let Some(uid) = uid.filter(|u| uids.contains(u)) {
            found.entry(uid).or_default().insert(pid);
        }
    }
    found
}

/// Processes whose HOME is at or below `dir`: how an instance without a uid of its own is told from the rest.
pub(super) fn processes_by_home(dir: &Path) -> BTreeSet<u32> {
    all_processes()
        .filter(|(_, path)| {
            let environ = fs::read(path.join("environ")).unwrap_or_default();
            let home = environ.split(|b| *b == 0).find_map(|v| v.strip_prefix(b"HOME="));
            home.is_some_and(|h| Path::new(std::ffi::OsStr::from_bytes(h)).starts_with(dir))
        })
        .map(|(pid, _)| pid)
        .collect()
}

fn all_processes() -> impl Iterator<Item = (u32, PathBuf)> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path())))
}

/// Every process of an instance but its shim and its init.
pub(super) fn processes_of(layout: &Layout, record: &Record) -> BTreeSet<u32> {
    let mut all = record.cgroup.as_ref().map(Place::processes).unwrap_or_default();
    match record.uid {
        Some(uid) => all.extend(processes_by_uid(uid..uid.saturating_add(1)).into_values().flatten()),
        None => all.extend(processes_by_home(&layout.private())),
    }
    all
}

pub(super) fn children(pid: u32) -> BTreeSet<u32> {
    // They are listed by the thread that made or adopted them.
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let listed = tasks.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    listed.flat_map(|l| l.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Children, and theirs. Those of a process that ended meanwhile may be missing.
pub(super) fn descendants(pid: u32) -> BTreeSet<u32> {
    let (mut found, mut next) = (BTreeSet::new(), vec![pid]);
    while let Some(pid) = next.pop() {
        next.extend(children(pid).into_iter().filter(|child| found.insert(*child)));
    }
    found
}

pub(super) fn signal_all(pids: &BTreeSet<u32>) {
    signal_all_with(pids, Signal::SIGKILL);
}

pub(super) fn signal_all_with(pids: &BTreeSet<u32>, signal: Signal) {
    for pid in pids.iter().filter_map(|p| i32::try_from(*p).ok()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Kills until nothing is found any more; what is still there after [`DEATH_MS_MAX`] is returned.
pub(super) fn end_all(find: &dyn Fn() -> BTreeSet<u32>) -> BTreeSet<u32> {
    let until = Instant::now() + Duration::from_millis(DEATH_MS_MAX);
    loop {
        let pids = find();
        if pids.is_empty() || Instant::now() > until {
            return pids;
        }
        signal_all(&pids);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Without a cgroup: of the application's first process alone.
pub(super) fn usage_of(pid: u32) -> Usage {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = read("stat");
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let status: BTreeMap<String, u64> = read("status")
        .lines()
        .filter_map(|l| {
            let (key, value) = l.split_once(':')?;
            Some((key.to_owned(), value.split_whitespace().next()?.parse().ok()?))
        })
        .collect();
    Usage {
        // 100 ticks a second on every Linux that user space sees.
        cpu_us: (ticks(11) + ticks(12)) * 10_000,
        memory_bytes: status.get("VmRSS").copied().unwrap_or(0) << 10,
    }
}
