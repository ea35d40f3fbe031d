//! Real drivers below the stage: the store on files, instances as processes of their own, in real time.
//!
//! Always holds: nothing that a run started outlives `play_real`; what is said to be left is read from the host and the files, not
//! asked of the drivers.

use super::stage::{Drivers, Opening, Played, Script, There, run};
use super::table::{Fault, Play};
use anyhow::{Context, ensure};
use pumasi_engine::{Engine, InstanceState, ProcessConfig, ProcessEngine};
use pumasi_node::object::{HOLD, JOURNEY, LENT, LENT_APPLICATION};
use pumasi_store::sim::Hooks;
use pumasi_store::{Options, Store};
use pumasi_terms::WallMs;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// uids of an engine; below them are those of people and of engines that choose their own.
const UIDS: u32 = 1_024;
const UID_FIRST: u32 = 0x4000_0000;
const CLEARED_WITHIN: Duration = Duration::from_secs(30);

/// What a run on real drivers needs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Answers `shim` and `instance-exec`.
    pub host: PathBuf,
    /// An HTTP application on `HOST` and `PORT`.
    pub app: PathBuf,
}

#[derive(Debug)]
struct Real {
    programs: Programs,
    /// Runs beside each other have uids of their own.
    world: u32,
    /// Every instance for a lease that was ever seen, by its directory.
    seen: Mutex<BTreeMap<PathBuf, Seen>>,
}

/// Where an instance can leave something, as its driver wrote it down.
#[derive(Debug, Default)]
struct Seen {
    owner: String,
    memory_mib: u32,
    cgroups: Vec<PathBuf>,
    /// Of its shim.
    pid: Option<u32>,
}

impl Seen {
    fn of(spec: &Value) -> Option<Self> {
        let owner = spec["spec"]["owner"].as_str().filter(|o| o.starts_with("lease-"))?.to_owned();
        let memory_mib = spec["spec"]["resources"]["memory_mib"].as_u64().and_then(|m| u32::try_from(m).ok());
        let cgroups = spec["cgroup"]["dirs"].as_object().into_iter().flat_map(|dirs| dirs.values());
        let cgroups = cgroups.filter_map(Value::as_str).map(PathBuf::from).collect();
        Some(Self { owner, memory_mib: memory_mib.unwrap_or(u32::MAX), cgroups, pid: None })
    }

    fn there(&self, dir: &Path) -> There {
        let mut left = Vec::new();
        if dir.exists() {
            left.push(format!("directory {}", dir.display()));
        }
        let mut runs = false;
        for cgroup in self.cgroups.iter().filter(|c| c.exists()) {
            let inside = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            runs |= !inside.is_empty();
            left.push(format!("cgroup {}", cgroup.display()));
        }
        // A pid may be another's by now; a shim's command line names its directory.
        let shim = self.pid.and_then(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
        if shim.is_some_and(|c| String::from_utf8_lossy(&c).contains(&*dir.to_string_lossy())) {
            left.push("its shim".to_owned());
        }
        There { owner: self.owner.clone(), memory_mib: self.memory_mib, runs, left }
    }
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn host_dirs(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.join("engine").is_dir()).collect()
}

impl Real {
    fn uid_base(&self, dir: &Path) -> u32 {
        let host = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.bytes().last()).unwrap_or(0);
        UID_FIRST + (self.world * 32 + u32::from(host % 32)) * UIDS
    }

    fn config(&self, dir: &Path) -> ProcessConfig {
        ProcessConfig {
            uid_base: Some(self.uid_base(dir)),
            hide: ["store", "trust", "gateway"].iter().map(|d| dir.join(d)).collect(),
            ..ProcessConfig::new(dir.join("engine"), self.programs.host.clone())
        }
    }
}

impl Drivers for Real {
    fn store(&self, dir: &Path, now: WallMs, entropy: u128, options: Options, hooks: Hooks) -> anyhow::Result<Store> {
        let path = dir.join("store/pumasi.sqlite");
        std::fs::create_dir_all(dir.join("store"))?;
        Ok(Store::open_hooked(path, now, entropy, options, hooks)?)
    }

    fn engine<'a>(&'a self, dir: &'a Path) -> Opening<'a> {
        Box::pin(async move {
            std::fs::create_dir_all(dir)?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))?;
            let engine: Arc<dyn Engine> = Arc::new(ProcessEngine::open(self.config(dir)).await?);
            Ok(engine)
        })
    }

    fn app(&self) -> Option<&Path> {
        Some(&self.programs.app)
    }

    fn there(&self, dir: &Path) -> Vec<There> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = dir.join("engine");
        let entries = std::fs::read_dir(&engine).into_iter().flatten().flatten();
        // What is being made or deleted has another name, and is not counted twice.
        let made = entries.filter(|e| e.file_name().to_string_lossy().starts_with("inst-"));
        for instance in made.map(|e| e.path()) {
            if !seen.contains_key(&instance)
                && let Some(found) = json(&instance.join("spec.json")).as_ref().and_then(Seen::of)
            {
                seen.insert(instance.clone(), found);
            }
            if let Some(found) = seen.get_mut(&instance)
                && let Ok(pid) = std::fs::read_to_string(instance.join("shim.pid"))
            {
                found.pid = pid.trim().parse().ok().or(found.pid);
            }
        }
        seen.iter().filter(|(at, _)| at.starts_with(&engine)).map(|(at, s)| s.there(at)).collect()
    }
}

/// One journey in real time below `at`, with a fault or without. Needs root, as lending does. `world`: unlike that of any run beside it.
pub fn play_real(
    programs: &Programs,
    at: &Path,
    world: u32,
    what: Play,
    fault: Option<(usize, Fault)>,
) -> anyhow::Result<Played> {
    let dir = tempfile::tempdir_in(at)?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let real = Arc::new(Real { programs: programs.clone(), world, seen: Mutex::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let played =
        runtime.block_on(run(Script { play: what, fault, bug: None, slow: false }, dir.path(), Some(real.clone())));
    // Daemons' tasks end here, and with them the handles on stores and engines.
    drop(runtime);
    let clearing = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cleared = clearing.block_on(clear(&real, dir.path()));
    let mut played = played?;
    played.end.left.extend(stored(dir.path())?);
    played.end.left.extend(cleared?);
    Ok(played)
}

/// Ends what runs at home, and answers what of the lent was there before, and what is there after.
async fn clear(real: &Real, dir: &Path) -> anyhow::Result<Vec<String>> {
    let begun = Instant::now();
    let mut left = Vec::new();
    for host in host_dirs(dir) {
        let engine = loop {
            match ProcessEngine::open(real.config(&host)).await {
                Ok(engine) => break engine,
                Err(e) if begun.elapsed() > CLEARED_WITHIN => return Err(e).context("opening the engine to clear up"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let mut first = true;
        loop {
            let all = engine.list().await?;
            let lent = all.iter().filter(|i| first && i.owner.starts_with("lease-"));
            left.extend(lent.map(|i| format!("{}: {} of {} is {:?}", host.display(), i.id, i.owner, i.state)));
            first = false;
            if all.is_empty() {
                break;
            }
            ensure!(begun.elapsed() < CLEARED_WITHIN, "{} does not end: {all:?}", host.display());
            for i in &all {
                match i.state {
                    InstanceState::Stopped { .. } => engine.remove(&i.id).await?,
                    _ => engine.stop(&i.id).await?,
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let remains = engine.remains(None).await?;
        if !remains.is_empty() {
            left.push(format!("{}: {remains:?}", host.display()));
        }
        drop(engine);
        left.extend(processes(real.uid_base(&host)));
    }
    let seen = real.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let parents = seen.values().flat_map(|s| &s.cgroups).filter_map(|c| c.parent()).filter(|p| p.exists());
    left.extend(parents.map(|p| format!("cgroup {}", p.display())));
    Ok(left)
}

/// Processes that run as one of an engine's uids.
fn processes(uid_base: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_engine = entries.filter(|e| {
        let is_pid = e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        is_pid && e.metadata().is_ok_and(|m| (uid_base..uid_base + UIDS).contains(&m.uid()))
    });
    of_engine.map(|e| format!("process {} of uids {uid_base}..", e.file_name().display())).collect()
}

/// What the files of the stores still show as open, and whether they are whole.
fn stored(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for host in host_dirs(dir) {
        let path = host.join("store/pumasi.sqlite");
        let store = Store::open(&path, WallMs(0), 0).with_context(|| format!("opening {}", path.display()))?;
        let name = host.file_name().unwrap_or_default().display().to_string();
        if let Err(e) = store.verify_journal() {
            left.push(format!("{name}: the journal's chain: {e}"));
        }
        for kind in [HOLD, LENT_APPLICATION] {
            left.extend(store.list_raw(kind)?.iter().map(|o| format!("{name}: {kind} {} is stored", o.name)));
        }
        let open = |kind, is_open: fn(&Value) -> bool| -> anyhow::Result<Vec<String>> {
            let rows = store.list_raw(kind)?.into_iter().filter(|o| is_open(&o.body));
            Ok(rows.map(|o| format!("{name}: {kind} {} is stored as {}", o.name, o.body["state"])).collect())
        };
        left.extend(open(JOURNEY, |j| j["phase"]["phase"] != "closed")?);
        left.extend(open(LENT, |l| !matches!(l["state"]["state"].as_str(), Some("ended" | "settled")))?);
    }
    Ok(left)
}
