//! What the tests of both drivers share: a rig per driver, and applications that each can run.
#![allow(dead_code)]

use pumasi_door::Place;
use pumasi_engine::*;
use pumasi_terms::service::Probe;
use pumasi_terms::{InstanceId, Resources};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How an application of the conformance suite behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    Well,
    /// Ends by itself so long after each start.
    Crashes {
        after_ms: u64,
    },
    /// Its liveness probe fails from then on.
    Sick {
        after_ms: u64,
    },
    IgnoresTerm,
}

pub trait Rig {
    fn engine(&self) -> &dyn Engine;
    fn spec(&self, number: u32, app: App) -> InstanceSpec;
    /// Lets time pass.
    async fn pass(&self, ms: u64);
    /// The daemon dies and another takes its place.
    async fn reopen(&mut self);
    /// SIGKILL to the shim.
    async fn kill_shim(&self, id: &InstanceId);
}

pub fn id(number: u32) -> InstanceId {
    InstanceId::from_entropy(u128::from(number))
}

fn spec(number: u32, bundle_dir: PathBuf, command: Vec<String>) -> InstanceSpec {
    InstanceSpec {
        id: id(number),
        owner: "service-a".into(),
        generation: 1,
        bundle_dir,
        command,
        env: BTreeMap::new(),
        resources: Resources { cpu_millis: 1_000, memory_mib: 128 },
        protocol: Default::default(),
        readiness: Probe { interval_ms: 20, ..Probe::default() },
        liveness: None,
        stop_grace_ms: 5_000,
        egress: Vec::new(),
        data: BTreeMap::new(),
        listen_ip: "127.0.0.1".parse().unwrap(),
        lent: false,
        secrets: Default::default(),
    }
}

fn liveness() -> Probe {
    Probe { path: "/live".into(), interval_ms: 20, timeout_ms: 1_000, failures: 3 }
}

pub struct SimRig {
    engine: SimEngine,
}

impl SimRig {
    pub fn new() -> Self {
        Self { engine: SimEngine::new() }
    }
}

impl Rig for SimRig {
    fn engine(&self) -> &dyn Engine {
        &self.engine
    }
    fn spec(&self, number: u32, app: App) -> InstanceSpec {
        let program = format!("{app:?}");
        let exit = Exit { code: Some(3), ..Exit::default() };
        let behaviour = match app {
            App::Well => SimApp::default(),
            App::Crashes { after_ms } => SimApp { ends: Some(SimExit { after_ms, exit }), ..SimApp::default() },
            App::Sick { after_ms } => SimApp { sick_after_ms: Some(after_ms), ..SimApp::default() },
            App::IgnoresTerm => SimApp { stops_in_ms: None, ..SimApp::default() },
        };
        self.engine.teach(&program, behaviour);
        let mut spec = spec(number, "/bundle".into(), vec![program]);
        spec.liveness = matches!(app, App::Sick { .. }).then(liveness);
        spec
    }
    async fn pass(&self, ms: u64) {
        self.engine.advance(ms);
    }
    async fn reopen(&mut self) {
        self.engine = self.engine.clone();
    }
    async fn kill_shim(&self, id: &InstanceId) {
        assert!(self.engine.kill_shim(id));
    }
}

pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not built", path.display());
    path
}

pub struct ProcessRig {
    pub dir: tempfile::TempDir,
    pub config: ProcessConfig,
    engine: Option<ProcessEngine>,
}

impl ProcessRig {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ProcessConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Temporary directories are private; without a mount namespace the instance's uid must get through.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let bundle = dir.path().join("bundle");
        std::fs::create_dir(&bundle).unwrap();
        std::fs::copy(example("pumasi-engine-app"), bundle.join("app")).unwrap();
        let mut config = ProcessConfig::new(dir.path().join("engine"), example("pumasi-engine-host"));
        change(&mut config);
        let engine = ProcessEngine::open(config.clone()).await.unwrap();
        Self { dir, config, engine: Some(engine) }
    }

    pub fn process(&self) -> &ProcessEngine {
        self.engine.as_ref().unwrap()
    }

    /// Another process is the daemon for a moment.
    pub async fn while_closed(&mut self, work: impl FnOnce(&Self)) {
        self.engine = None;
        work(self);
        self.engine = Some(ProcessEngine::open(self.config.clone()).await.unwrap());
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub fn spec_with(&self, number: u32, arguments: &[&str]) -> InstanceSpec {
        let command = std::iter::once(&"./app").chain(arguments).map(|a| (*a).to_owned()).collect();
        spec(number, self.bundle(), command)
    }

    pub fn instance_dir(&self, id: &InstanceId) -> PathBuf {
        self.config.root_dir.join(id.as_str())
    }

    pub fn shim_pid(&self, id: &InstanceId) -> i32 {
        std::fs::read_to_string(self.instance_dir(id).join("shim.pid")).unwrap().trim().parse().unwrap()
    }

    /// Everything it started ends, also when a test failed.
    pub async fn end(&self) {
        for status in self.process().list().await.unwrap() {
            self.process().stop(&status.id).await.unwrap();
            wait(self, &status.id, |s| matches!(s.state, InstanceState::Stopped { .. })).await;
            self.process().remove(&status.id).await.unwrap();
        }
        let left = self.process().remains(None).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for ProcessRig {
    fn drop(&mut self) {
        // After a failed assertion nobody called `end`.
        let kill =
            |pid: i32| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        for entry in std::fs::read_dir(&self.config.root_dir).into_iter().flatten().flatten() {
            let held = std::fs::File::open(entry.path().join("shim.lock")).is_ok_and(|f| f.try_lock_shared().is_err());
            let pid = std::fs::read_to_string(entry.path().join("shim.pid")).ok().and_then(|p| p.trim().parse().ok());
            if let (true, Some(pid)) = (held, pid) {
                let _ = kill(pid);
            }
        }
    }
}

impl Rig for ProcessRig {
    fn engine(&self) -> &dyn Engine {
        self.process()
    }
    fn spec(&self, number: u32, app: App) -> InstanceSpec {
        let mut arguments: Vec<String> = Vec::new();
        match app {
            App::Well => {}
            App::Crashes { after_ms } => arguments.extend(["--crash-after-ms".into(), after_ms.to_string()]),
            App::Sick { after_ms } => arguments.extend(["--sick-after-ms".into(), after_ms.to_string()]),
            App::IgnoresTerm => arguments.push("--ignore-term".into()),
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut spec = self.spec_with(number, &arguments);
        spec.liveness = matches!(app, App::Sick { .. }).then(liveness);
        spec
    }
    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    async fn reopen(&mut self) {
        self.engine = None;
        self.engine = Some(ProcessEngine::open(self.config.clone()).await.unwrap());
    }
    async fn kill_shim(&self, id: &InstanceId) {
        let pid = nix::unistd::Pid::from_raw(self.shim_pid(id));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

pub async fn status(rig: &impl Rig, id: &InstanceId) -> Option<InstanceStatus> {
    rig.engine().list().await.unwrap().into_iter().find(|s| s.id == *id)
}

/// Until the status is as wished; a generous deadline in the rig's own time.
pub async fn wait(rig: &impl Rig, id: &InstanceId, wished: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
    let mut last = None;
    let deadline = Instant::now() + Duration::from_secs(30);
    for _ in 0..30_000 {
        last = status(rig, id).await;
        if let Some(found) = last.as_ref().filter(|s| wished(s)) {
            return found.clone();
        }
        if Instant::now() > deadline {
            break;
        }
        rig.pass(2).await;
    }
    let log = rig.engine().logs(id, 4_096).await.unwrap_or_default();
    panic!("never as wished; last {last:?}\n{}", String::from_utf8_lossy(&log));
}

pub async fn ready(rig: &impl Rig, id: &InstanceId) -> InstanceStatus {
    wait(rig, id, |s| s.state == InstanceState::Ready).await
}

/// Where an instance is reached; copied about by tests, so its door's path is given away for good.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub address: SocketAddr,
    pub door: Option<&'static Path>,
}

impl At {
    pub fn of(status: &InstanceStatus) -> Self {
        let door = status.door.clone().map(|d| &*Box::leak(d.into_boxed_path()));
        Self { address: status.address.unwrap(), door }
    }
    pub fn port(self) -> u16 {
        self.address.port()
    }
    pub fn connect(self) -> std::io::Result<std::net::TcpStream> {
        Place::new(self.address, self.door).connect_blocking(Duration::from_secs(5))
    }
}

pub fn get(at: At, path: &str) -> std::io::Result<String> {
    let mut stream = at.connect()?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // In one piece: the application reads once.
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Runs a shell script inside the instance.
pub fn shell(at: At, script: &str) -> String {
    let hex: String = script.bytes().map(|b| format!("{b:02x}")).collect();
    get(at, &format!("/shell?{hex}")).unwrap()
}

pub fn exists(pid: i32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    status.is_ok_and(|s| !s.lines().any(|l| l.starts_with("State:\tZ")))
}

/// Whether the machine gives the tests what they look at.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
