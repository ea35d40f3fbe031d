//! From a spec to what is executed: names filled in, the program found, paths as the instance sees them.

use super::layout::{Layout, Record};
use super::session;
use crate::{Access, DataMount, InstanceSpec};
use pumasi_terms::template::{self, fill};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

pub(super) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Where an instance with its own mount namespace finds its things, whatever the host calls them.
const VIEW: &str = "/run/pumasi";
const SCRATCH_BYTES_MIN: u64 = 4 << 20;

/// Handed from the shim to the two stages of `instance-exec`. One program on both sides: it needs no version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// `None` without namespaces.
    pub view: Option<View>,
    /// It is told when to begin; until then it does not have its data.
    pub prepared: bool,
    pub cgroup_entrances: Vec<PathBuf>,
    pub memory_max_bytes: u64,
    pub file_bytes_max: u64,
    pub tasks_max: u32,
    pub seccomp: bool,
    pub capabilities: bool,
    pub host_name: String,
    /// A person's command in a running instance, not the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<session::Kind>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct View {
    /// The instance's own things.
    pub binds: Vec<Bind>,
    /// Where something is put later.
    pub points: Vec<PathBuf>,
    /// Copies that it sees through a layer of its own.
    pub layers: Vec<Layer>,
    /// What else of the host the operator shows, each at its own path.
    pub more: Vec<PathBuf>,
    /// The daemon's directories, should they lie in what is shown.
    pub hide: Vec<PathBuf>,
    pub home: PathBuf,
    /// Of HOME, /tmp and /dev/shm together.
    pub scratch_bytes_max: u64,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub host_name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Bind {
    pub from: PathBuf,
    pub to: PathBuf,
    pub read_only: bool,
    /// Data is no program.
    pub no_exec: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Layer {
    pub from: PathBuf,
    pub to: PathBuf,
    /// Of what is written into it.
    pub bytes_max: u64,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Paths as the instance sees them.
struct Places {
    bundle: PathBuf,
    home: PathBuf,
    tmp: PathBuf,
    data: BTreeMap<String, PathBuf>,
}

fn places(record: &Record, layout: &Layout) -> Places {
    let spec = &record.spec;
    if !record.isolation.namespaces {
        let data = spec.data.iter().map(|(n, m)| (n.clone(), m.path.clone())).collect();
        let (home, tmp) = (layout.private(), layout.private().join("tmp"));
        return Places { bundle: spec.bundle_dir.clone(), home, tmp, data };
    }
    let view = Path::new(VIEW);
    let data = spec.data.keys().map(|n| (n.clone(), data_in_view(n))).collect();
    Places { bundle: view.join("bundle"), home: view.join("home"), tmp: "/tmp".into(), data }
}

pub(super) fn plan(record: &Record, layout: &Layout, address: SocketAddr, prepared: bool) -> Result<Plan, String> {
    let spec = &record.spec;
    let places = places(record, layout);
    let text = |path: &Path| path.display().to_string();
    // Not the application's to choose: probes, mounts and the search for what is left rely on them.
    let mut fixed = BTreeMap::from([
        ("PORT".to_owned(), address.port().to_string()),
        ("HOST".to_owned(), address.ip().to_string()),
        ("BUNDLE".to_owned(), text(&places.bundle)),
        ("HOME".to_owned(), text(&places.home)),
    ]);
    fixed.extend(places.data.iter().map(|(name, path)| (template::data_variable(name), text(path))));
    let mut names = fixed.clone();
    names.extend([
        ("PATH".to_owned(), PATH.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("TMPDIR".to_owned(), text(&places.tmp)),
    ]);
    // Those that the service sets itself come first: what is filled in elsewhere is what the application finds.
    let mut own = BTreeMap::new();
    for key in template::DEFAULTED {
        if let Some(value) = spec.env.get(key) {
            own.insert(key.to_owned(), fill(value, &names).map_err(|e| format!("env {key}: {e}"))?);
        }
    }
    names.extend(own);
    let mut env = names.clone();
    for (key, value) in spec.env.iter().filter(|(key, _)| !template::DEFAULTED.contains(&key.as_str())) {
        env.insert(key.clone(), fill(value, &names).map_err(|e| format!("env {key}: {e}"))?);
    }
    env.extend(fixed);

    let mut argv = Vec::new();
    for (i, part) in spec.command.iter().enumerate() {
        argv.push(fill(part, &names).map_err(|e| format!("command[{i}]: {e}"))?);
    }
    let Some(program) = argv.first_mut() else { return Err("command is empty".into()) };
    if program.contains('/') && !program.starts_with('/') {
        *program = places.bundle.join(inside(program)?).display().to_string();
    }

    let host_name: String = spec.id.to_string().chars().take(63).collect();
    let view = record.isolation.namespaces.then(|| view(record, &places, &host_name, prepared));
    Ok(Plan {
        argv,
        env,
        cwd: places.home,
        uid: record.uid,
        gid: record.gid,
        view,
        prepared,
        cgroup_entrances: record.cgroup.as_ref().map(super::cgroup::Place::entrances).unwrap_or_default(),
        memory_max_bytes: memory_max_bytes(spec),
        file_bytes_max: record.limits.file_bytes_max,
        tasks_max: record.limits.tasks_max,
        seccomp: record.isolation.seccomp,
        capabilities: record.isolation.capabilities,
        host_name,
        session: None,
    })
}

/// The same instance, for a command of a person: the application's environment, rights and limits.
pub(super) fn session_plan(plan: &Plan, command: &[String], kind: session::Kind, entrances: Vec<PathBuf>) -> Plan {
    let mut plan = Plan { argv: command.to_vec(), prepared: false, session: Some(kind), ..plan.clone() };
    plan.cgroup_entrances = entrances;
    if kind == session::Kind::Terminal {
        plan.env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
    }
    plan
}

/// Data that are seen as they are.
fn data_binds(record: &Record) -> impl Iterator<Item = Bind> + '_ {
    let bound = |mount: &&DataMount| mount.access != Access::Layered;
    record.spec.data.iter().filter(move |(_, mount)| bound(mount)).map(|(name, mount)| Bind {
        from: mount.path.clone(),
        to: data_in_view(name),
        read_only: mount.access == Access::ReadOnly,
        no_exec: true,
    })
}

/// What is put into the view of an instance that was prepared, when it begins. Without a view it finds its data where they are.
pub(super) fn late_binds(record: &Record) -> Vec<Bind> {
    if record.isolation.namespaces { data_binds(record).collect() } else { Vec::new() }
}

fn view(record: &Record, places: &Places, host_name: &str, prepared: bool) -> View {
    let spec = &record.spec;
    let bundle = Bind { from: spec.bundle_dir.clone(), to: places.bundle.clone(), read_only: true, no_exec: false };
    let (late, now): (Vec<Bind>, Vec<Bind>) = data_binds(record).partition(|_| prepared);
    View {
        binds: std::iter::once(bundle).chain(now).collect(),
        points: late.into_iter().map(|bind| bind.to).collect(),
        layers: layers(record),
        more: record.view.clone(),
        hide: record.hide.clone(),
        home: places.home.clone(),
        scratch_bytes_max: scratch_bytes_max(spec),
        uid: record.uid,
        gid: record.gid,
        host_name: host_name.to_owned(),
    }
}

/// Where an instance sees a dataset, if it has a view of its own.
fn data_in_view(name: &str) -> PathBuf {
    Path::new(VIEW).join("data").join(name)
}

pub(super) fn layers(record: &Record) -> Vec<Layer> {
    let layered = record.spec.data.iter().filter(|(_, mount)| mount.access == Access::Layered);
    layered
        .map(|(name, mount)| Layer {
            from: mount.path.clone(),
            to: data_in_view(name),
            bytes_max: layer_bytes_max(&record.spec),
            uid: record.uid,
            gid: record.gid,
        })
        .collect()
}

/// For the probe of the host: a view as instances have it, without an instance.
pub(super) fn empty_view(more: &[PathBuf], hide: &[PathBuf], uid: u32) -> View {
    View {
        binds: Vec::new(),
        points: Vec::new(),
        layers: Vec::new(),
        more: more.to_vec(),
        hide: hide.to_vec(),
        home: Path::new(VIEW).join("home"),
        scratch_bytes_max: SCRATCH_BYTES_MIN,
        uid: Some(uid),
        gid: Some(uid),
        host_name: "probe".into(),
    }
}

/// Half of the memory: it is charged to the instance, and a full /tmp must not be the end of the application.
fn scratch_bytes_max(spec: &InstanceSpec) -> u64 {
    (memory_max_bytes(spec) / 2).max(SCRATCH_BYTES_MIN)
}

/// Beside the scratch space, so that a full layer leaves the application a quarter.
fn layer_bytes_max(spec: &InstanceSpec) -> u64 {
    (memory_max_bytes(spec) / 4).max(SCRATCH_BYTES_MIN)
}

pub(super) fn memory_max_bytes(spec: &InstanceSpec) -> u64 {
    u64::from(spec.resources.memory_mib) << 20
}

/// What the instance may call.
pub(super) fn egress(spec: &InstanceSpec) -> Result<Vec<SocketAddr>, String> {
    spec.egress.iter().map(|to| to.parse().map_err(|_| format!("egress {to:?} is not ip:port"))).collect()
}

/// What can be refused before anything is made.
pub(super) fn check(spec: &InstanceSpec) -> Result<(), String> {
    let names = template::names(spec.data.keys().map(String::as_str));
    for (i, part) in spec.command.iter().enumerate() {
        fill(part, &names).map_err(|e| format!("command[{i}]: {e}"))?;
    }
    for (key, value) in &spec.env {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(format!("env: {key:?} is not a variable name"));
        }
        fill(value, &names).map_err(|e| format!("env {key}: {e}"))?;
    }
    if spec.command.iter().chain(spec.env.values()).any(|v| v.contains('\0')) {
        return Err("command and env may not hold NUL".into());
    }
    let Some(program) = spec.command.first().filter(|p| !p.is_empty()) else {
        return Err("command is empty".into());
    };
    for name in spec.data.keys() {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!("data: {name:?} cannot be part of a variable name"));
        }
    }
    let bundle = spec.bundle_dir.canonicalize().map_err(|e| format!("bundle {}: {e}", spec.bundle_dir.display()))?;
    if !bundle.is_dir() {
        return Err(format!("bundle {} is not a directory", bundle.display()));
    }
    if program.contains('/') && !program.starts_with('/') && !program.contains("${") {
        let path = bundle.join(inside(program)?);
        let real = path.canonicalize().map_err(|e| format!("command[0] {program:?} is not in the bundle: {e}"))?;
        if !real.starts_with(&bundle) {
            return Err(format!("command[0] {program:?} leads out of the bundle"));
        }
        let meta = real.metadata().map_err(|e| format!("command[0] {program:?}: {e}"))?;
        if !meta.is_file() || std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 == 0 {
            return Err(format!("command[0] {program:?} is not an executable file"));
        }
    }
    egress(spec)?;
    if spec.owner.is_empty() || spec.owner.len() > 256 {
        return Err("owner must have 1 to 256 bytes".into());
    }
    Ok(())
}

pub(super) fn check_data(spec: &InstanceSpec) -> Result<(), String> {
    match spec.data.iter().find(|(_, mount)| !mount.path.is_dir()) {
        Some((name, mount)) => Err(format!("data {name}: {} is not a directory", mount.path.display())),
        None => Ok(()),
    }
}

fn inside(program: &str) -> Result<PathBuf, String> {
    let mut path = PathBuf::new();
    for part in Path::new(program).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            _ => return Err(format!("command[0] {program:?} leads out of the bundle")),
        }
    }
    Ok(path)
}

/// What execvp would take; searched here so that the error can say where it was looked for.
pub(super) fn find_program(name: &str, path: &str) -> Result<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt;
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    path.split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|p| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        .ok_or_else(|| format!("{name:?} is not in {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_stays_in_its_bundle() {
        assert_eq!(inside("./bin/app").unwrap(), PathBuf::from("bin/app"));
        assert!(inside("../sh").is_err());
        assert!(inside("bin/../../sh").is_err());
    }
}
