//! A gateway on a thread of its own, backends that do as they are told, and a plain HTTP/1.1 client.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod clouds;
pub mod h2;
pub mod websocket;

use pumasi_gateway::{CONFIG_FILE, ControlClient, GatewayConfig, GatewayStatus};
use pumasi_route::table::*;
use pumasi_route::tenure::{Held, TENURE_VERSION, Tenure};
use pumasi_terms::service::RouteMode;
use pumasi_terms::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub const HOST: &str = "shop.example";

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

pub fn boot_ms() -> u64 {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    t.tv_sec() as u64 * 1_000 + t.tv_nsec() as u64 / 1_000_000
}

pub fn config(cloud: &str) -> GatewayConfig {
    GatewayConfig::plain(CloudName::parse(cloud).unwrap(), "127.0.0.1:0".parse().unwrap())
}

pub struct Running {
    pub dir: TempDir,
    pub control: ControlClient,
    pub address: SocketAddr,
    pub peer_address: Option<SocketAddr>,
    thread: Option<std::thread::JoinHandle<std::process::ExitCode>>,
}

pub async fn status_of(control: &ControlClient) -> GatewayStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match control.status().await {
            Ok(status) if !status.listening.is_empty() => return status,
            other => assert!(Instant::now() < deadline, "the gateway does not come up: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Running {
    pub async fn start(config: GatewayConfig) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config).await
    }
    pub async fn start_in(dir: TempDir, config: GatewayConfig) -> Self {
        std::fs::write(dir.path().join(CONFIG_FILE), serde_json::to_vec(&config).unwrap()).unwrap();
        let path = dir.path().to_owned();
        let thread = Some(std::thread::spawn(move || pumasi_gateway::gateway_main(&path)));
        let control = ControlClient::new(dir.path());
        let status = status_of(&control).await;
        Self { control, address: status.listening[0], peer_address: status.peer_listening, dir, thread }
    }
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    /// Stops it and keeps its directory.
    pub async fn stop(mut self) -> TempDir {
        self.control.stop().await.unwrap();
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
        self.dir
    }
    pub async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }
    pub async fn get(&self, path: &str) -> Answer {
        self.connect().await.get(path).await
    }
}

pub fn table(cloud: &str, revision: u64) -> RouteTable {
    RouteTable {
        version: TABLE_VERSION,
        cloud: CloudName::parse(cloud).unwrap(),
        boot_id: boot_id(),
        revision,
        services: BTreeMap::new(),
        leases: BTreeMap::new(),
        peers: BTreeMap::new(),
    }
}

pub fn shop() -> ServiceName {
    ServiceName::parse("shop").unwrap()
}

pub fn service(home: &[SocketAddr]) -> ServiceRoute {
    ServiceRoute {
        hosts: vec![HOST.into()],
        epoch: Epoch(1),
        writes: Writes::Unbound,
        role: Role::Owner,
        absent: None,
        entrances: Default::default(),
        mode: RouteMode::Proxy,
        home_only: vec!["/admin".into()],
        safe_methods: Vec::new(),
        user_cookie: Some("session".into()),
        protocol: Default::default(),
        underscored_fields: false,
        home: home.iter().map(|&address| instance(address)).collect(),
        leases: Vec::new(),
        home_weight: Ppm::WHOLE,
        admission: Admission::default(),
        position_generation: None,
        in_step: None,
        identity: None,
        position_key: None,
    }
}

/// This cloud owns the shop at epoch 1, and may write until then.
pub fn tenure(until: u64) -> Tenure {
    Tenure {
        version: TENURE_VERSION,
        boot_id: boot_id(),
        at: BootMs(boot_ms()),
        until: Some(BootMs(until)),
        registered: BTreeMap::new(),
        epochs: [(shop(), Epoch(1))].into(),
        held: BTreeMap::new(),
    }
}

/// As above, and the shop is handed over: held for so long.
pub fn held_for(ms: u64) -> Tenure {
    let held = Held { epoch: Epoch(1), until: BootMs(boot_ms() + ms), reads: false };
    Tenure { held: [(shop(), held)].into(), ..tenure(boot_ms() + 600_000) }
}

pub fn instance(address: SocketAddr) -> HomeBackend {
    HomeBackend {
        instance: InstanceId::from_entropy(u128::from(address.port())),
        address,
        door: None,
        protocol: Default::default(),
        generation: 1,
        draining: false,
    }
}

pub fn with(cloud: &str, revision: u64, route: ServiceRoute) -> RouteTable {
    let mut table = table(cloud, revision);
    table.services.insert(shop(), route);
    table
}

/// What a backend does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// Answers with its name and what it saw.
    Answer,
    /// Takes its time first; one after another, so that it has a capacity.
    Work { ms: u64 },
    /// All at once.
    Sleep { ms: u64 },
    /// Reads the request and breaks off, as a killed process does.
    Die,
    /// Takes the request and never answers.
    Hang,
    /// Sends half of the body it announced, then breaks off.
    Half,
    /// Answers 500.
    Fail,
}

pub struct Backend {
    pub address: SocketAddr,
    pub seen: Arc<AtomicU32>,
    pub at_once_max: Arc<AtomicU32>,
    pub conduct: Arc<std::sync::Mutex<Conduct>>,
    paths: Arc<std::sync::Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    pub async fn start(name: &'static str, conduct: Conduct) -> Self {
        Self::start_at(name, conduct, "127.0.0.1:0".parse().unwrap()).await
    }
    pub async fn start_at(name: &'static str, conduct: Conduct, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, at_once_max) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let conduct = Arc::new(std::sync::Mutex::new(conduct));
        let paths = Arc::new(std::sync::Mutex::new(Vec::new()));
        let shared = (seen.clone(), at_once_max.clone(), conduct.clone(), paths.clone());
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        let at_once = Arc::new(AtomicU32::new(0));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, max, conduct, paths) = shared.clone();
                let (turn, at_once) = (turn.clone(), at_once.clone());
                connections.spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    let mut reader = BufReader::new(stream);
                    while let Some((head, body)) = read_message(&mut reader).await {
                        seen.fetch_add(1, Ordering::SeqCst);
                        paths.lock().unwrap().push(head.split(' ').nth(1).unwrap_or_default().to_owned());
                        max.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let what = *conduct.lock().unwrap();
                        match what {
                            Conduct::Work { ms } => {
                                let _turn = turn.lock().await;
                                tokio::time::sleep(Duration::from_millis(ms)).await;
                            }
                            Conduct::Sleep { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
                            Conduct::Hang => std::future::pending().await,
                            _ => {}
                        }
                        at_once.fetch_sub(1, Ordering::SeqCst);
                        let text = format!("{name}\n{head}\n{}", String::from_utf8_lossy(&body));
                        let status = if what == Conduct::Fail { "500 Internal Server Error" } else { "200 OK" };
                        let mut answer = format!("HTTP/1.1 {status}\r\nx-backend: {name}\r\n");
                        let length = if what == Conduct::Half { text.len() * 2 } else { text.len() };
                        answer += &format!("content-length: {length}\r\npumasi-refused: forged\r\n\r\n{text}");
                        if what == Conduct::Die {
                            return;
                        }
                        let stream = reader.get_mut();
                        if stream.write_all(answer.as_bytes()).await.is_err() || what == Conduct::Half {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen, at_once_max, conduct, paths, task }
    }
    pub fn seen(&self) -> u32 {
        self.seen.load(Ordering::SeqCst)
    }
    /// What was asked for, in order.
    pub fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap().clone()
    }
    pub fn set(&self, conduct: Conduct) {
        *self.conduct.lock().unwrap() = conduct;
    }
}

/// Head as text and the body, whichever way it is framed. None at the end of the stream.
pub async fn read_message(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        if &head[before..] == "\r\n" {
            break;
        }
    }
    let field = |name: &str| {
        head.lines()
            .find_map(|l| l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()))
    };
    let mut body = Vec::new();
    if let Some(length) = field("content-length") {
        let no_body = head.starts_with("HTTP/1.1 304");
        body.resize(if no_body { 0 } else { length.parse().ok()? }, 0);
        reader.read_exact(&mut body).await.ok()?;
    } else if field("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).await.ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size];
            reader.read_exact(&mut chunk).await.ok()?;
            body.extend_from_slice(&chunk);
            line.clear();
            if size == 0 {
                while reader.read_line(&mut line).await.ok()? > 2 {
                    line.clear();
                }
                break;
            }
            reader.read_line(&mut line).await.ok()?;
        }
    }
    Some((head, body))
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|l| l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()))
    }
    pub fn backend(&self) -> &str {
        self.field("x-backend").unwrap_or("none")
    }
}

pub struct Connection {
    pub reader: BufReader<TcpStream>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream) }
    }
    pub async fn send(&mut self, bytes: &str) {
        self.reader.get_mut().write_all(bytes.as_bytes()).await.unwrap();
    }
    pub async fn answer(&mut self) -> Option<Answer> {
        let (head, body) = read_message(&mut self.reader).await?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
    }
    pub async fn ask(&mut self, bytes: &str) -> Answer {
        self.send(bytes).await;
        self.answer().await.expect("no answer")
    }
    pub async fn get(&mut self, path: &str) -> Answer {
        self.get_with(path, "").await
    }
    pub async fn get_with(&mut self, path: &str, fields: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")).await
    }
    pub async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.post_with(path, "", body).await
    }
    pub async fn post_with(&mut self, path: &str, fields: &str, body: &str) -> Answer {
        let length = body.len();
        self.ask(&format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}Content-Length: {length}\r\n\r\n{body}"))
            .await
    }
}

/// Waits until `check` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check().await {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What this gateway adds to an answer where `home_only` took hold: it counts as a write.
pub const RULE: &str = "set-cookie: pumasi_pos=";

/// A gateway for the cases, with a short time for heads.
pub async fn for_cases(instance: SocketAddr) -> Running {
    let mut config = config("city-a");
    config.limits.head_timeout_ms = 1_000;
    let gateway = Running::start(config).await;
    let mut route = service(&[instance]);
    route.position_generation = Some(pumasi_terms::Generation(1));
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    gateway
}
