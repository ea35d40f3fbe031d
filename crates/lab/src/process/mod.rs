//! The processes of a run: started with their logs in files, killed and restarted as a scenario wants, gone at its end.
//!
//! Enters: what to start. Leaves: pids, exits, logs under the run's directory. Always holds: when the supervisor goes, whatever
//! it started is dead, also what detached itself (gateways, shims, instances); nothing else is touched.
//!
//! This process becomes the reaper of orphans below it, so nothing escapes by losing its parent; orphans are known by a mark in
//! their environment or by the run's directory (program, working directory, arguments), and so is all that descends from them.

mod table;

pub use table::Found;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgrp};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use table::{Mark, Row};

/// In the environment of every process of a run; its value is the run's name.
pub const RUN_VARIABLE: &str = "PUMASI_LAB_RUN";
/// In the run's directory: `<pid> <start time in ticks>` of the lab.
const OWNER_FILE: &str = "lab.pid";
const REAP_INTERVAL: Duration = Duration::from_millis(20);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const CLEAN_ROUNDS: u32 = 200;

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("making the lab's directory {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("becoming the reaper of orphans: {0}")]
    Reaper(#[source] Errno),
    #[error("starting {name} ({program}): {source}")]
    Start { name: String, program: PathBuf, source: io::Error },
    #[error("{name} is running already, as process {pid}")]
    Running { name: String, pid: u32 },
    #[error("no process {name:?} was started")]
    Unknown { name: String },
    #[error("process {pid} does not belong to this run, or is gone")]
    NotOurs { pid: u32 },
    #[error("signalling {name}: {source}")]
    Signal { name: String, source: Errno },
    #[error("{name} did not end within {waited_ms} ms")]
    StillRunning { name: String, waited_ms: u64 },
}

/// What to start, and how to start it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Also the name of its log.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// On top of PATH, HOME, LANG, RUST_LOG and RUST_BACKTRACE, which are passed on.
    pub env: BTreeMap<String, String>,
    pub dir: Option<PathBuf>,
}

impl ProcessSpec {
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        let (name, program) = (name.into(), program.into());
        Self { name, program, args: Vec::new(), env: BTreeMap::new(), dir: None }
    }
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }
}

struct Managed {
    spec: ProcessSpec,
    child: Child,
    exit: Option<ExitStatus>,
}

impl Managed {
    fn poll(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit
    }
}

struct Inner {
    mark: Mark,
    managed: Mutex<BTreeMap<String, Managed>>,
}

/// One run's processes and directory. Dropping it ends them all; the directory goes too unless it is kept.
pub struct Supervisor {
    inner: Arc<Inner>,
    keep: bool,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("dir", &self.inner.mark.dir).finish_non_exhaustive()
    }
}

/// Pids that some supervisor of this process started: their exits are its own to collect.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

impl Supervisor {
    /// `parent`: where runs get their directories, as `.lab`; `None`: the system's temporary directory.
    pub fn create(parent: Option<&Path>) -> Result<Self, ProcessError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let run = format!("lab-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = parent.join(&run);
        let fault = |source| ProcessError::Directory { path: path.clone(), source };
        fs::create_dir_all(path.join("logs")).map_err(fault)?;
        let dir = path.canonicalize().map_err(fault)?;
        let started = Row::of(std::process::id()).map_or(0, |r| r.started);
        fs::write(dir.join(OWNER_FILE), format!("{} {started}\n", std::process::id())).map_err(fault)?;
        nix::sys::prctl::set_child_subreaper(true).map_err(ProcessError::Reaper)?;
        let mark = Mark { environment: format!("{RUN_VARIABLE}={run}"), dir };
        let inner = Arc::new(Inner { mark, managed: Mutex::default() });
        let weak = Arc::downgrade(&inner);
        let reaper = thread::Builder::new().name("lab-reaper".into()).spawn(move || reap(weak));
        reaper.map_err(|source| ProcessError::Directory { path, source })?;
        Ok(Self { inner, keep: false })
    }

    /// The run's own directory, canonical.
    pub fn dir(&self) -> &Path {
        &self.inner.mark.dir
    }

    /// The directory stays after the end, as when a scenario failed and its logs are wanted.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    pub fn log_of(&self, name: &str) -> PathBuf {
        self.dir().join("logs").join(format!("{name}.log"))
    }

    /// Starts it in a process group of its own, so that Ctrl-C reaches the lab alone. Its output goes to its log.
    pub fn start(&self, spec: ProcessSpec) -> Result<u32, ProcessError> {
        let mut managed = lock(&self.inner.managed);
        if let Some(old) = managed.get_mut(&spec.name)
            && old.poll().is_none()
        {
            return Err(ProcessError::Running { name: spec.name, pid: old.child.id() });
        }
        let fault = |source| ProcessError::Start { name: spec.name.clone(), program: spec.program.clone(), source };
        let log = fs::File::options().create(true).append(true).open(self.log_of(&spec.name)).map_err(fault)?;
        let mut command = Command::new(&spec.program);
        let passed = ["PATH", "HOME", "LANG", "RUST_LOG", "RUST_BACKTRACE"];
        let passed = passed.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let (variable, run) = self.inner.mark.environment.split_once('=').unwrap_or_default();
        command
            .args(&spec.args)
            .env_clear()
            .envs(passed)
            .envs(&spec.env)
            .env(variable, run)
            .current_dir(spec.dir.as_deref().unwrap_or(self.dir()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(fault)?)
            .stderr(log)
            .process_group(0);
        let child = {
            // The reaper waits, lest it takes the exit of a child that is not known yet.
            let mut own = lock(&OWN);
            let child = command.spawn().map_err(fault)?;
            own.insert(child.id());
            child
        };
        let pid = child.id();
        let name = spec.name.clone();
        if let Some(old) = managed.insert(name, Managed { spec, child, exit: None }) {
            lock(&OWN).remove(&old.child.id());
        }
        Ok(pid)
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Managed) -> T) -> Result<T, ProcessError> {
        let mut managed = lock(&self.inner.managed);
        managed.get_mut(name).map(act).ok_or_else(|| ProcessError::Unknown { name: name.into() })
    }

    /// Its pid while it runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.with(name, |m| m.poll().is_none().then(|| m.child.id())).ok().flatten()
    }

    pub fn exit_status(&self, name: &str) -> Option<ExitStatus> {
        self.with(name, Managed::poll).ok().flatten()
    }

    pub fn signal(&self, name: &str, signal: Signal) -> Result<(), ProcessError> {
        self.with(name, |m| match m.poll() {
            Some(_) => Ok(()),
            None => kill(to_pid(m.child.id()), signal),
        })?
        .map_err(|source| ProcessError::Signal { name: name.into(), source })
    }

    /// `kill -9` of this process alone: what it started lives on. It is dead on return.
    pub fn kill9(&self, name: &str) -> Result<(), ProcessError> {
        self.signal(name, Signal::SIGKILL)?;
        self.with(name, |m| {
            if m.exit.is_none() {
                m.exit = m.child.wait().ok();
            }
        })
    }

    /// SIGSTOP: it stands still and its connections stay open.
    pub fn pause(&self, name: &str) -> Result<(), ProcessError> {
        self.signal(name, Signal::SIGSTOP)
    }

    pub fn resume(&self, name: &str) -> Result<(), ProcessError> {
        self.signal(name, Signal::SIGCONT)
    }

    /// Starts it again as it was started before; it must have ended.
    pub fn restart(&self, name: &str) -> Result<u32, ProcessError> {
        let spec = self.with(name, |m| m.spec.clone())?;
        self.start(spec)
    }

    pub async fn wait_exit(&self, name: &str, at_most: Duration) -> Result<ExitStatus, ProcessError> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.with(name, Managed::poll)? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let waited_ms = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
                return Err(ProcessError::StillRunning { name: name.into(), waited_ms });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// SIGTERM, and SIGKILL after `grace`. `Err(StillRunning)` tells that it had to be killed.
    pub async fn stop(&self, name: &str, grace: Duration) -> Result<ExitStatus, ProcessError> {
        self.signal(name, Signal::SIGTERM)?;
        let ended = self.wait_exit(name, grace).await;
        if matches!(ended, Err(ProcessError::StillRunning { .. })) {
            self.kill9(name)?;
        }
        ended
    }

    /// Every living process of the run: those started here and all that they started, detached or not.
    pub fn belonging(&self) -> Vec<Found> {
        self.inner.mark.find()
    }

    /// Those of the run that were not started by this supervisor itself and whose arguments have all of `words`.
    pub fn find(&self, words: &[&str]) -> Vec<Found> {
        let own: BTreeSet<u32> = lock(&self.inner.managed).values().map(|m| m.child.id()).collect();
        let mut found = self.belonging();
        found.retain(|f| !own.contains(&f.pid) && words.iter().all(|w| f.command.split(' ').any(|c| c.contains(w))));
        found
    }

    /// `kill -9` of one process of the run, as a gateway, a shim or an instance.
    pub fn kill9_pid(&self, pid: u32) -> Result<(), ProcessError> {
        self.signal_pid(pid, Signal::SIGKILL)
    }

    /// Any signal to one process of the run.
    pub fn signal_pid(&self, pid: u32, signal: Signal) -> Result<(), ProcessError> {
        let ours = self.belonging().into_iter().find(|f| f.pid == pid).ok_or(ProcessError::NotOurs { pid })?;
        signal_found(&ours, signal);
        Ok(())
    }

    /// Children of living processes of the run that ended and were not collected by a parent that runs.
    pub fn zombies(&self) -> Vec<Found> {
        let rows = table::all();
        let ours: BTreeSet<u32> = self.belonging().into_iter().map(|f| f.pid).collect();
        let runs = |pid: u32| rows.get(&pid).is_some_and(|r| !r.is_dead() && !matches!(r.state, 'T' | 't'));
        let left = rows.values().filter(|r| r.state == 'Z' && ours.contains(&r.parent) && runs(r.parent));
        left.map(|r| Found { pid: r.pid, parent: r.parent, command: "<defunct>".into(), started: r.started }).collect()
    }

    /// Kills everything of the run; returns what could not be killed, normally nothing.
    pub fn clean(&self) -> Vec<Found> {
        let left = clean(&self.inner.mark);
        for managed in lock(&self.inner.managed).values_mut() {
            managed.poll();
        }
        left
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let left = self.clean();
        if !left.is_empty() {
            tracing::error!(?left, "processes of the lab could not be killed");
        }
        forget_engines(self.dir());
        let mut managed = lock(&self.inner.managed);
        let mut own = lock(&OWN);
        for child in managed.values_mut() {
            child.poll();
            own.remove(&child.child.id());
        }
        if self.keep {
            // Without an owner it is nobody's remains: the next lab does not clear it away.
            let _ = fs::remove_file(self.dir().join(OWNER_FILE));
        } else if let Err(error) = fs::remove_dir_all(self.dir()) {
            tracing::warn!(%error, dir = %self.dir().display(), "the lab's directory could not be removed");
        }
    }
}

fn signal_found(found: &Found, signal: Signal) {
    // The number may name another by now.
    if Row::of(found.pid).is_some_and(|r| r.started == found.started) {
        let _ = kill(to_pid(found.pid), signal);
    }
}

fn clean(mark: &Mark) -> Vec<Found> {
    let mut left = Vec::new();
    for _ in 0..CLEAN_ROUNDS {
        left = mark.find();
        if left.is_empty() {
            break;
        }
        // Stopped first, so that none can start another while they are counted.
        left.iter().for_each(|f| signal_found(f, Signal::SIGSTOP));
        left = mark.find();
        left.iter().for_each(|f| signal_found(f, Signal::SIGKILL));
        thread::sleep(POLL_INTERVAL);
    }
    left
}

/// Collects the exits of started processes and of the orphans that came to this process, as init would.
fn reap(inner: Weak<Inner>) {
    loop {
        thread::sleep(REAP_INTERVAL);
        let Some(inner) = inner.upgrade() else { return };
        for managed in lock(&inner.managed).values_mut() {
            managed.poll();
        }
        drop(inner);
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if matches!(waitid(Id::All, peek), Ok(WaitStatus::StillAlive) | Err(_)) {
            continue;
        }
        let own = lock(&OWN);
        let (me, group) = (std::process::id(), getpgrp().as_raw());
        for row in table::all().into_values() {
            // What is in this process's own group was started by other code here, which waits for it itself.
            if row.parent == me && row.state == 'Z' && row.group != group && !own.contains(&row.pid) {
                let _ = waitpid(to_pid(row.pid), Some(WaitPidFlag::WNOHANG));
            }
        }
    }
}

/// What the kernel keeps for the engines of a run's clouds outlives their processes.
fn forget_engines(dir: &Path) {
    for cloud in fs::read_dir(dir).into_iter().flatten().flatten() {
        let root = cloud.path().join("data/engine");
        if root.is_dir() {
            pumasi_engine::forget(&root);
        }
    }
}

/// Ends what earlier runs under `parent` left behind because their lab was killed, and removes their directories.
pub fn clean_stale(parent: &Path) -> Vec<Found> {
    let mut killed = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let Ok(dir) = entry.path().canonicalize() else { continue };
        let Ok(owner) = fs::read_to_string(dir.join(OWNER_FILE)) else { continue };
        let mut words = owner.split_whitespace().filter_map(|w| w.parse::<u64>().ok());
        let (Some(pid), Some(started)) = (words.next().and_then(|p| u32::try_from(p).ok()), words.next()) else {
            continue;
        };
        if Row::of(pid).is_some_and(|r| r.started == started && !r.is_dead()) {
            continue;
        }
        let run = entry.file_name().to_string_lossy().into_owned();
        let mark = Mark { environment: format!("{RUN_VARIABLE}={run}"), dir: dir.clone() };
        killed.extend(mark.find());
        if clean(&mark).is_empty() {
            forget_engines(&dir);
            let _ = fs::remove_dir_all(&dir);
        }
    }
    killed
}

/// Until Ctrl-C, SIGTERM or SIGHUP: a scenario selects on it and lets its supervisor go.
pub async fn interrupted() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    let [int, term, hup] = &mut signals;
    tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
    Ok(())
}
