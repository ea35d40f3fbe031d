//! Limits and meters by cgroup, v2 where the controllers are there, else v1.
//!
//! One parent per engine root, one group per instance, and in it two: the application's, which has the limits of the spec, and that of
//! its keepers (shim and init), so that whatever the application exhausts, they live and tell it. Both enter by themselves, the
//! application before it drops root. Each helper has a group of its own beside them, which the daemon puts it into.

use super::processes::signal_all;
use crate::{CgroupVersion, EngineError, FreezeBy};
use pumasi_terms::Resources;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const NEEDED_V1: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
const NEEDED_V2: [&str; 3] = ["cpu", "memory", "pids"];
/// Parts of an instance's group.
const APP: &str = "app";
const KEEPERS: &str = "keepers";
/// Key of the second hierarchy on a host with v1 controllers: without any, but what is in it can be frozen and killed as one.
const UNIFIED: &str = "unified";
/// Of v1: for hosts where nothing of v2 is mounted.
const FREEZER: &str = "freezer";
/// How the groups of sessions begin, below the application's.
const SESSION: &str = "session-";
/// How the groups of helpers begin.
const HELPER: &str = "helper-";
/// One processor; reading and hashing a first copy may take all of it.
const HELPER_CPU_MILLIS: u64 = 1_000;
const HELPER_TASKS_MAX: u32 = 8;
/// The keepers need some MiB, for relayed connections too, and ten threads; an application cannot make them need more.
const KEEPERS_MEMORY_BYTES: u64 = 128 << 20;
const KEEPERS_TASKS_MAX: u32 = 64;
const KEEPERS_CPU_MILLIS_MIN: u64 = 250;
const STRANGER_AGE_MS_MIN: u128 = 10_000;
/// Long, so that all of a start fits into one quota.
const KEEPERS_PERIOD_US: u64 = 100_000;
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
    let (mut v2, mut freezer) = (None, None);
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        match kind {
            "cgroup" => {
                for name in options.split(',').filter(|o| NEEDED_V1.contains(o)) {
                    v1.entry(name.to_owned()).or_insert_with(|| PathBuf::from(at));
                }
                if options.split(',').any(|o| o == FREEZER) {
                    freezer = freezer.or(Some(PathBuf::from(at)));
                }
            }
            "cgroup2" => v2 = v2.or(Some(PathBuf::from(at))),
            _ => {}
        }
    }
    if let Some(at) = v2.clone() {
        let offered = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
        if NEEDED_V2.iter().all(|need| offered.split_whitespace().any(|has| has == *need)) {
            return Some((CgroupVersion::V2, BTreeMap::from([(String::new(), at)])));
        }
    }
    if v1.len() != NEEDED_V1.len() {
        return None;
    }
    v1.extend(v2.map(|at| (UNIFIED.to_owned(), at)));
    v1.extend(freezer.map(|at| (FREEZER.to_owned(), at)));
    Some((CgroupVersion::V1, v1))
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
        for (controller, root) in roots.iter().filter(|(c, _)| *c != FREEZER) {
            let parent = root.join(name);
            if version == CgroupVersion::V2 {
                fs::write(root.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
            }
            match create(&parent) {
                Err(_) if controller == UNIFIED => continue,
                made => made?,
            }
            if version == CgroupVersion::V2 {
                fs::write(parent.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
            }
            parents.insert(controller.clone(), parent);
        }
        let mut tree = Self { version, parents };
        if let Some(root) = roots.get(FREEZER).filter(|_| !tree.can_freeze_v2()) {
            let parent = root.join(name);
            if create(&parent).is_ok() {
                tree.parents.insert(FREEZER.to_owned(), parent);
            }
        }
        Ok(tree)
    }

    pub(super) fn place(&self, name: &str) -> Place {
        Place { version: self.version, dirs: self.parents.iter().map(|(c, p)| (c.clone(), p.join(name))).collect() }
    }

    /// Asked of the parent: it has what every group below it has, but for the root of the hierarchy.
    fn can_freeze_v2(&self) -> bool {
        let dir = self.parents.get(UNIFIED).or_else(|| self.parents.get(""));
        dir.is_some_and(|d| d.join("cgroup.freeze").exists())
    }

    pub(super) fn freezer(&self) -> Option<FreezeBy> {
        let v1 = || self.parents.get(FREEZER).is_some_and(|d| d.join("freezer.state").exists());
        if self.can_freeze_v2() { Some(FreezeBy::CgroupV2) } else { v1().then_some(FreezeBy::CgroupV1) }
    }

    pub(super) fn can_freeze(&self) -> bool {
        self.freezer().is_some()
    }

    /// A new group for one helper.
    pub(super) fn helper(&self, name: &str, memory_bytes: u64) -> Result<Place, EngineError> {
        let place = self.place(&format!("{HELPER}{name}"));
        place.make()?;
        place.limit(APP, quota(HELPER_CPU_MILLIS), memory_bytes, HELPER_TASKS_MAX)?;
        Ok(place)
    }

    /// Takes away the groups of helpers that have ended.
    pub(super) fn remove_ended_helpers(&self) {
        for name in self.all_names().into_iter().filter(|name| name.starts_with(HELPER)) {
            let place = self.place(&name);
            if place.dirs.values().all(|d| is_old(d)) {
                // Fails while a process is in it.
                let _ = place.remove();
            }
        }
    }

    /// Names of the cgroups of instances, whether or not the instance is still known.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.all_names().into_iter().filter(|name| !name.starts_with(HELPER)).collect()
    }

    pub(super) fn all_names(&self) -> BTreeSet<String> {
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

    /// Empty groups below those of other engines, and theirs. One that lives has its instances' shims in its groups, and makes its own
    /// again where it has none.
    pub(super) fn remove_strangers(&self) {
        for parent in self.parents.values() {
            let Some(root) = parent.parent() else { continue };
            for engine in subdirs(root).filter(|d| d != parent && is_engine(d)) {
                for instance in subdirs(&engine).filter(|d| is_old(d)) {
                    remove_parts(&instance);
                }
                if is_old(&engine) {
                    let _ = fs::remove_dir(engine);
                }
            }
        }
    }

    /// The parent itself, when its last instance is gone; it is made again on the next start.
    pub(super) fn close_if_empty(&self) {
        for parent in self.parents.values() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Of what people run in an application's group.
fn sessions(app: &Path) -> impl Iterator<Item = PathBuf> {
    let named = |dir: &PathBuf| dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with(SESSION));
    subdirs(app).filter(named)
}

fn subdirs(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path())
}

/// As [`super::host::kernel_name`] names them.
fn is_engine(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("pumasi_"));
    name.is_some_and(|n| n.len() == 16 && n.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A younger one may be about to be entered.
fn is_old(dir: &Path) -> bool {
    let modified = dir.metadata().and_then(|m| m.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_millis() > STRANGER_AGE_MS_MIN))
}

/// The keepers' part first: while a shim is in it, it has a use for the application's too, empty as that is between two starts.
fn remove_parts(instance: &Path) {
    let gone = |dir: PathBuf| {
        sessions(&dir).for_each(|session| drop(fs::remove_dir(session)));
        fs::remove_dir(&dir).is_ok() || !dir.exists()
    };
    let _ = gone(instance.join(KEEPERS)) && gone(instance.join(APP)) && gone(instance.to_owned());
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

    /// Where the application is. An instance of an earlier version has no parts until its next start.
    fn app(&self, controller: &str) -> Option<PathBuf> {
        let dir = self.dir(controller)?;
        let app = dir.join(APP);
        Some(if app.is_dir() { app } else { dir.clone() })
    }

    fn make(&self) -> Result<(), EngineError> {
        for dir in self.dirs.values() {
            if let Some(parent) = dir.parent() {
                create(parent).map_err(EngineError::at("create cgroup", parent))?;
                // It was taken away with its last instance, maybe.
                if self.version == CgroupVersion::V2 {
                    let to = parent.join("cgroup.subtree_control");
                    fs::write(&to, "+cpu +memory +pids").map_err(EngineError::at("write", &to))?;
                }
            }
            create(dir).map_err(EngineError::at("create cgroup", dir))?;
            if self.version == CgroupVersion::V2 {
                let to = dir.join("cgroup.subtree_control");
                fs::write(&to, "+cpu +memory +pids").map_err(EngineError::at("write", &to))?;
            }
            for part in [APP, KEEPERS].map(|p| dir.join(p)) {
                create(&part).map_err(EngineError::at("create cgroup", &part))?;
            }
        }
        Ok(())
    }

    /// Makes it and sets its limits; repeated before every start of the application.
    pub(super) fn prepare(&self, resources: Resources, memory_bytes: u64, tasks_max: u32) -> Result<(), EngineError> {
        self.make()?;
        let cpu_millis = u64::from(resources.cpu_millis);
        self.limit(APP, quota(cpu_millis), memory_bytes, tasks_max)?;
        // As much again as the instance has: its own requests are all that can keep them busy.
        let quota_us = cpu_millis.max(KEEPERS_CPU_MILLIS_MIN) * KEEPERS_PERIOD_US / 1_000;
        self.limit(KEEPERS, (quota_us, KEEPERS_PERIOD_US), KEEPERS_MEMORY_BYTES, KEEPERS_TASKS_MAX)
    }

    fn limit(&self, part: &str, cpu_us: (u64, u64), memory_bytes: u64, tasks_max: u32) -> Result<(), EngineError> {
        let (quota_us, period_us) = cpu_us;
        let memory = memory_bytes.to_string();
        let limits: Vec<(&str, &str, String)> = match self.version {
            CgroupVersion::V1 => vec![
                ("cpu", "cpu.cfs_period_us", period_us.to_string()),
                ("cpu", "cpu.cfs_quota_us", quota_us.to_string()),
                ("memory", "memory.limit_in_bytes", memory.clone()),
                ("pids", "pids.max", tasks_max.to_string()),
            ],
            CgroupVersion::V2 => vec![
                ("", "cpu.max", format!("{quota_us} {period_us}")),
                ("", "memory.max", memory.clone()),
                ("", "pids.max", tasks_max.to_string()),
            ],
        };
        for (controller, file, value) in limits {
            let Some(dir) = self.dir(controller) else { continue };
            let path = dir.join(part).join(file);
            fs::write(&path, &value).map_err(EngineError::host(format!("set {} to {value}", path.display())))?;
        }
        // Swap is not accounted on every kernel; where it is, there is to be none.
        let (controller, file, value) = match self.version {
            CgroupVersion::V1 => ("memory", "memory.memsw.limit_in_bytes", memory.as_str()),
            CgroupVersion::V2 => ("", "memory.swap.max", "0"),
        };
        if let Some(dir) = self.dir(controller) {
            let _ = fs::write(dir.join(part).join(file), value);
        }
        Ok(())
    }

    /// The caller, which is the instance's shim, enters its part; so does whatever it starts.
    pub(super) fn keep(&self) -> Result<(), EngineError> {
        for dir in self.dirs.values() {
            let to = dir.join(KEEPERS).join("cgroup.procs");
            fs::write(&to, "0").map_err(EngineError::at("enter", &to))?;
        }
        Ok(())
    }

    /// Puts a process into the application's part.
    pub(super) fn take(&self, pid: u32) -> Result<(), EngineError> {
        for to in self.entrances() {
            fs::write(&to, pid.to_string()).map_err(EngineError::at("put a process into", &to))?;
        }
        Ok(())
    }

    /// A process that writes "0" to each of these enters the application's part.
    pub(super) fn entrances(&self) -> Vec<PathBuf> {
        let dirs: BTreeSet<_> = self.dirs.values().collect();
        dirs.into_iter().map(|d| d.join(APP).join("cgroup.procs")).collect()
    }

    /// A group of its own for what a person runs in it, below the application's and bound by its limits: all of it can be ended at one
    /// instant. Where only v1 controllers are mounted there is none. What writes "0" to each of the answer's files is in it.
    pub(super) fn session(&self, name: &str) -> io::Result<Vec<PathBuf>> {
        let mut entrances = self.entrances();
        if let Some(app) = self.switch("cgroup.kill").as_deref().and_then(Path::parent) {
            let own = app.join(format!("{SESSION}{name}"));
            create(&own)?;
            entrances.retain(|to| to.parent() != Some(app));
            entrances.push(own.join("cgroup.procs"));
        }
        Ok(entrances)
    }

    /// Kills what is left of a session and takes its group away. False: a process of it has not gone yet.
    pub(super) fn end_session(&self, name: &str) -> bool {
        let Some(app) = self.dir(UNIFIED).map(|dir| dir.join(APP)) else { return true };
        let own = app.join(format!("{SESSION}{name}"));
        if !own.is_dir() {
            return true;
        }
        let _ = fs::write(own.join("cgroup.kill"), "1");
        fs::remove_dir(&own).is_ok()
    }

    fn processes_in(&self, parts: &[&str]) -> BTreeSet<u32> {
        self.dirs
            .values()
            .flat_map(|d| parts.iter().map(move |p| d.join(p)))
            .flat_map(|part| sessions(&part).chain([part.clone()]).collect::<Vec<_>>())
            .map(|group| group.join("cgroup.procs"))
            .filter_map(|procs| fs::read_to_string(procs).ok())
            .flat_map(|text| text.lines().filter_map(|l| l.trim().parse().ok()).collect::<Vec<u32>>())
            .collect()
    }

    /// Of the application.
    pub(super) fn processes(&self) -> BTreeSet<u32> {
        self.processes_in(&["", APP])
    }

    /// Those of its keepers too.
    pub(super) fn all_processes(&self) -> BTreeSet<u32> {
        self.processes_in(&["", APP, KEEPERS])
    }

    fn switch(&self, file: &str) -> Option<PathBuf> {
        Some(self.dir(UNIFIED)?.join(APP).join(file)).filter(|p| p.exists())
    }

    fn switch_v1(&self) -> Option<PathBuf> {
        Some(self.dirs.get(FREEZER)?.join(APP).join("freezer.state")).filter(|p| p.exists())
    }

    pub(super) fn can_freeze(&self) -> bool {
        self.switch("cgroup.freeze").or_else(|| self.switch_v1()).is_some()
    }

    /// The application stands still, soon, and goes on. What is frozen can be killed all the same, by v1 once it [may](Self::let_die).
    pub(super) fn freeze(&self, on: bool) -> io::Result<()> {
        match (self.switch("cgroup.freeze"), self.switch_v1()) {
            (Some(path), _) => fs::write(path, if on { "1" } else { "0" }),
            (None, Some(path)) => fs::write(path, if on { "FROZEN" } else { "THAWED" }),
            (None, None) => Ok(()),
        }
    }

    /// Whether no task of the application runs. That of v1 passes over who goes to sleep in vfork at the wrong moment until it is told again.
    pub(super) fn is_frozen(&self) -> bool {
        match (self.switch("cgroup.events"), self.switch_v1()) {
            (Some(path), _) => fs::read_to_string(path).is_ok_and(|text| text.lines().any(|l| l == "frozen 1")),
            (None, Some(path)) => match fs::read_to_string(&path).as_deref().map(str::trim) {
                Ok("FREEZING") => {
                    let _ = fs::write(path, "FROZEN");
                    false
                }
                state => matches!(state, Ok("FROZEN")),
            },
            (None, None) => false,
        }
    }

    /// What the freezer of v1 holds dies of a signal only when it is let go: first all are killed, then they may.
    pub(super) fn let_die(&self) {
        if let Some(path) = self.switch_v1() {
            signal_all(&self.processes());
            let _ = fs::write(path, "THAWED");
        }
    }

    /// All of the application at one instant: no process of it can be born meanwhile.
    pub(super) fn kill(&self) {
        if let Some(path) = self.switch("cgroup.kill")
            && let Err(e) = fs::write(path, "1")
        {
            tracing::debug!(error = %e, "a cgroup is not killed as one");
        }
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        fs::read_to_string(self.app(controller)?.join(file)).ok()?.trim().parse().ok()
    }

    /// The value of `key` in a file of `key value` lines.
    fn keyed(&self, controller: &str, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.app(controller)?.join(file)).ok()?;
        text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// CPU of all runs of the instance; memory without page cache that the kernel can take back.
    pub(super) fn usage(&self) -> Usage {
        let (memory, idle) = match self.version {
            CgroupVersion::V1 => (
                self.number("memory", "memory.usage_in_bytes"),
                self.keyed("memory", "memory.stat", "total_inactive_file"),
            ),
            CgroupVersion::V2 => (self.number("", "memory.current"), self.keyed("", "memory.stat", "inactive_file")),
        };
        Usage {
            cpu_us: self.cpu_us().unwrap_or(0),
            memory_bytes: memory.unwrap_or(0).saturating_sub(idle.unwrap_or(0)),
        }
    }

    /// What its processes have used of processors, us; none where the kernel does not say.
    pub(super) fn cpu_us(&self) -> Option<u64> {
        match self.version {
            CgroupVersion::V1 => self.number("cpuacct", "cpuacct.usage").map(|ns| ns / 1_000),
            CgroupVersion::V2 => self.keyed("", "cpu.stat", "usage_usec"),
        }
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
            for part in sessions(&dir.join(APP)).chain([dir.join(APP), dir.join(KEEPERS), dir.clone()]) {
                match fs::remove_dir(&part) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(EngineError::at("remove cgroup", &part)(e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
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
        assert_eq!(roots[UNIFIED], PathBuf::from("/nowhere/unified"));
        let without_pids = mounts.replace("pids", "freezer");
        assert!(find_roots(&without_pids).is_none());
        let with_freezer = format!("{mounts}cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n");
        assert_eq!(find_roots(&with_freezer).unwrap().1[FREEZER], PathBuf::from("/sys/fs/cgroup/freezer"));
        assert!(!roots.contains_key(FREEZER));
    }
}
