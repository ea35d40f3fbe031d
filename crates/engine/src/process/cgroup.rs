//! Limits and meters by cgroup, v2 where the controllers are there, else v1.
//!
//! One parent per engine root, one child per instance. The application's process enters by itself, before it drops root.

use super::layout::read_small;
use crate::{CgroupVersion, EngineError};
use pumasi_terms::Resources;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NEEDED_V1: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
const NEEDED_V2: [&str; 3] = ["cpu", "memory", "pids"];
const PIDS_MAX: u32 = 512;
/// Short, so that a small quota does not stall a request for the usual 100 ms.
const PERIOD_US: u64 = 10_000;
/// The kernel takes no smaller quota.
const QUOTA_US_MIN: u64 = 1_000;

/// Where an engine's cgroups are: by controller for v1, under `""` for v2. Co-mounted controllers share a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tree {
    pub version: CgroupVersion,
    pub parents: BTreeMap<String, PathBuf>,
}

/// One instance's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub version: CgroupVersion,
    pub dirs: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub cpu_us: u64,
    pub memory_bytes: u64,
}

/// From the text of /proc/self/mounts: v2 if it carries the controllers, else v1 with all of them.
fn find_roots(mounts: &str) -> Option<(CgroupVersion, BTreeMap<String, PathBuf>)> {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        match kind {
            "cgroup" => {
                for name in options.split(',').filter(|o| NEEDED_V1.contains(o)) {
                    v1.entry(name.to_owned()).or_insert_with(|| PathBuf::from(at));
                }
            }
            "cgroup2" => v2 = v2.or(Some(PathBuf::from(at))),
            _ => {}
        }
    }
    if let Some(at) = v2 {
        let offered = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
        if NEEDED_V2.iter().all(|need| offered.split_whitespace().any(|has| has == *need)) {
            return Some((CgroupVersion::V2, BTreeMap::from([(String::new(), at)])));
        }
    }
    (v1.len() == NEEDED_V1.len()).then_some((CgroupVersion::V1, v1))
}

impl Tree {
    /// Makes the engine's parent; `None` where that is not possible, which is then said in the capabilities.
    pub(super) fn open(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let (version, roots) = find_roots(&mounts)?;
        match Self::make(version, &roots, name) {
            Ok(tree) => Some(tree),
            Err(e) => {
                tracing::info!(error = %e, "cgroups are here but cannot be used");
                None
            }
        }
    }

    fn make(version: CgroupVersion, roots: &BTreeMap<String, PathBuf>, name: &str) -> io::Result<Self> {
        let mut parents = BTreeMap::new();
        for (controller, root) in roots {
            let parent = root.join(name);
            if version == CgroupVersion::V2 {
                fs::write(root.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
            }
            create(&parent)?;
            if version == CgroupVersion::V2 {
                fs::write(parent.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
            }
            parents.insert(controller.clone(), parent);
        }
        Ok(Self { version, parents })
    }

    pub(super) fn place(&self, name: &str) -> Place {
        Place { version: self.version, dirs: self.parents.iter().map(|(c, p)| (c.clone(), p.join(name))).collect() }
    }

    /// Names of the cgroups of instances, whether or not the instance is still known.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for parent in self.parents.values() {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        names
    }

    /// The parent itself, when its last instance is gone; it is made again on the next start.
    pub(super) fn close_if_empty(&self) {
        for parent in self.parents.values() {
            let _ = fs::remove_dir(parent);
        }
    }
}

fn create(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Quota and period in microseconds.
fn quota(cpu_millis: u64) -> (u64, u64) {
    let quota_us = cpu_millis * PERIOD_US / 1_000;
    if quota_us >= QUOTA_US_MIN {
        (quota_us, PERIOD_US)
    } else {
        (QUOTA_US_MIN, QUOTA_US_MIN * 1_000 / cpu_millis.max(1))
    }
}

impl Place {
    fn dir(&self, controller: &str) -> Option<&PathBuf> {
        self.dirs.get(controller).or_else(|| self.dirs.get(""))
    }

    /// Makes it and sets its limits; repeated before every start of the application.
    pub(super) fn prepare(&self, resources: Resources, memory_max_bytes: u64) -> Result<(), EngineError> {
        for dir in self.dirs.values() {
            if let Some(parent) = dir.parent() {
                create(parent).map_err(EngineError::at("create cgroup", parent))?;
            }
            create(dir).map_err(EngineError::at("create cgroup", dir))?;
        }
        let (quota_us, period_us) = quota(u64::from(resources.cpu_millis));
        let memory = memory_max_bytes.to_string();
        let pids = PIDS_MAX.to_string();
        let limits: Vec<(&str, &str, String)> = match self.version {
            CgroupVersion::V1 => vec![
                ("cpu", "cpu.cfs_period_us", period_us.to_string()),
                ("cpu", "cpu.cfs_quota_us", quota_us.to_string()),
                ("memory", "memory.limit_in_bytes", memory.clone()),
                ("pids", "pids.max", pids),
            ],
            CgroupVersion::V2 => vec![
                ("", "cpu.max", format!("{quota_us} {period_us}")),
                ("", "memory.max", memory.clone()),
                ("", "pids.max", pids),
            ],
        };
        for (controller, file, value) in limits {
            let Some(dir) = self.dir(controller) else { continue };
            let path = dir.join(file);
            fs::write(&path, &value).map_err(EngineError::host(format!("set {} to {value}", path.display())))?;
        }
        // Swap is not accounted on every kernel; where it is, there is to be none.
        let (controller, file, value) = match self.version {
            CgroupVersion::V1 => ("memory", "memory.memsw.limit_in_bytes", memory.as_str()),
            CgroupVersion::V2 => ("", "memory.swap.max", "0"),
        };
        if let Some(dir) = self.dir(controller) {
            let _ = fs::write(dir.join(file), value);
        }
        Ok(())
    }

    /// A process that writes "0" to each of these enters the cgroup.
    pub(super) fn entrances(&self) -> Vec<PathBuf> {
        let dirs: BTreeSet<_> = self.dirs.values().collect();
        dirs.into_iter().map(|d| d.join("cgroup.procs")).collect()
    }

    pub(super) fn processes(&self) -> BTreeSet<u32> {
        self.dirs
            .values()
            .filter_map(|d| fs::read_to_string(d.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|l| l.trim().parse().ok()).collect::<Vec<u32>>())
            .collect()
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        fs::read_to_string(self.dir(controller)?.join(file)).ok()?.trim().parse().ok()
    }

    /// The value of `key` in a file of `key value` lines.
    fn keyed(&self, controller: &str, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.dir(controller)?.join(file)).ok()?;
        text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// CPU of all runs of the instance; memory without page cache that the kernel can take back.
    pub(super) fn usage(&self) -> Usage {
        let (cpu_us, memory, idle) = match self.version {
            CgroupVersion::V1 => (
                self.number("cpuacct", "cpuacct.usage").map(|ns| ns / 1_000),
                self.number("memory", "memory.usage_in_bytes"),
                self.keyed("memory", "memory.stat", "total_inactive_file"),
            ),
            CgroupVersion::V2 => (
                self.keyed("", "cpu.stat", "usage_usec"),
                self.number("", "memory.current"),
                self.keyed("", "memory.stat", "inactive_file"),
            ),
        };
        Usage { cpu_us: cpu_us.unwrap_or(0), memory_bytes: memory.unwrap_or(0).saturating_sub(idle.unwrap_or(0)) }
    }

    /// How often the kernel killed in it for lack of memory; it only rises.
    pub(super) fn memory_kills(&self) -> u64 {
        match self.version {
            CgroupVersion::V1 => self.keyed("memory", "memory.oom_control", "oom_kill"),
            CgroupVersion::V2 => self.keyed("", "memory.events", "oom_kill"),
        }
        .unwrap_or(0)
    }

    /// Fails while a process is in it.
    pub(super) fn remove(&self) -> Result<(), EngineError> {
        for dir in self.dirs.values() {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(EngineError::at("remove cgroup", dir)(e)),
                _ => {}
            }
        }
        Ok(())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_quotas_stretch_the_period() {
        assert_eq!(quota(250), (2_500, 10_000));
        assert_eq!(quota(100), (1_000, 10_000));
        assert_eq!(quota(10), (1_000, 100_000));
        assert_eq!(quota(4_000), (40_000, 10_000));
    }

    #[test]
    fn controllers_mounted_together_or_apart_are_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
            cgroup2 /nowhere/unified cgroup2 rw 0 0\n";
        let (version, roots) = find_roots(mounts).unwrap();
        assert_eq!(version, CgroupVersion::V1);
        assert_eq!(roots["cpuacct"], PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
        let without_pids = mounts.replace("pids", "freezer");
        assert!(find_roots(&without_pids).is_none());
    }
}
