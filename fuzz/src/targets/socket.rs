//! Raw bytes at the front of a whole gateway, and from the instance behind it.
//!
//! Behind it stands a backend that minds what it gets: a request with two hosts, with two ideas of its length or with fields
//! that only the gateway may set is a hole. After each input the gateway still serves, and nobody gets another's answer.

use pumasi_gateway::{CONFIG_FILE, ControlClient, GatewayConfig, Limits, TABLE_FILE};
use pumasi_route::RouteTable;
use pumasi_route::table::{Admission, HomeBackend, Role, ServiceRoute, TABLE_VERSION, Writes};
use pumasi_terms::service::RouteMode;
use pumasi_terms::{CloudName, Epoch, InstanceId, Ppm, ServiceName};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const HOST: &str = "shop.example";
const PATIENCE: Duration = Duration::from_secs(20);
/// So long without a byte is the end of an answer.
const PAUSE: Duration = Duration::from_millis(10);
/// Faults that the backend saw.
static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn fault(text: String) {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

/// What the instance answers under `STRANGE`, as it is.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());
const STRANGE: &str = "/strange";

/// Reads one request and gives its path; none at the end of the stream.
fn request(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if reader.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
        if &head[before..] == b"\r\n" {
            break;
        }
    }
    let told = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head[..head.len() - 4].split(|&b| b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let start = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    if start.split(' ').count() != 3 || !start.ends_with(" HTTP/1.1") {
        fault(format!("a strange request line: {told:?}"));
    }
    let fields: Vec<(String, Vec<u8>)> = lines
        .filter_map(|l| {
            let colon = l.iter().position(|&b| b == b':')?;
            Some((String::from_utf8_lossy(&l[..colon]).to_ascii_lowercase(), l[colon + 1..].trim_ascii().to_vec()))
        })
        .collect();
    let all = |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect::<Vec<_>>();
    if all("host").len() != 1 {
        fault(format!("{} hosts: {told:?}", all("host").len()));
    }
    if fields.iter().any(|(n, _)| n.starts_with("pumasi-")) || fields.iter().any(|(n, _)| n.contains(' ')) {
        fault(format!("fields that nobody may set: {told:?}"));
    }
    if all("x-forwarded-for") != [b"127.0.0.1"] {
        fault(format!("a claim about the sender: {told:?}"));
    }
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    if lengths.len() + codings.len() > 1 || codings.iter().any(|c| *c != b"chunked") {
        fault(format!("two ideas of its length: {told:?}"));
    }
    if let Some(length) = lengths.first() {
        let length: u64 = String::from_utf8_lossy(length).parse().ok()?;
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
    } else if !codings.is_empty() {
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                // The user hung up in the middle of it.
                return None;
            }
            let Ok(size) = u64::from_str_radix(line.trim_end().split(';').next()?, 16) else {
                fault(format!("a chunk of {line:?} bytes"));
                return None;
            };
            std::io::copy(&mut reader.by_ref().take(size + if size == 0 { 0 } else { 2 }), &mut std::io::sink())
                .ok()?;
            if size == 0 {
                while reader.read_line(&mut line).ok()? > 2 {}
                break;
            }
        }
    }
    start.split(' ').nth(1).map(str::to_owned)
}

fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                while let Some(path) = request(&mut reader) {
                    let answer = match path == STRANGE {
                        true => ANSWER.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                        false => {
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).into_bytes()
                        }
                    };
                    if reader.get_mut().write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// A gateway on a thread of its own, for as long as the process lives.
fn gateway() -> SocketAddr {
    static STARTED: OnceLock<SocketAddr> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let cloud = CloudName::parse("city-a").unwrap();
        let config = GatewayConfig {
            limits: Limits { head_timeout_ms: 1_000, body_idle_ms: 1_000, ..Limits::default() },
            ..GatewayConfig::plain(cloud.clone(), "127.0.0.1:0".parse().unwrap())
        };
        let home = HomeBackend {
            instance: InstanceId::from_entropy(1),
            address: backend(),
            door: None,
            protocol: Default::default(),
            generation: 1,
            draining: false,
        };
        let service = ServiceRoute {
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
            home: vec![home],
            leases: Vec::new(),
            home_weight: Ppm::WHOLE,
            admission: Admission::default(),
            position_generation: Some(pumasi_terms::Generation(1)),
            in_step: None,
            identity: None,
            position_key: None,
        };
        let table = RouteTable {
            version: TABLE_VERSION,
            cloud,
            boot_id: boot_id(),
            revision: 1,
            services: BTreeMap::from([(ServiceName::parse("shop").unwrap(), service)]),
            leases: BTreeMap::new(),
            peers: BTreeMap::new(),
        };
        let dir = tempfile::tempdir().unwrap().keep();
        std::fs::write(dir.join(CONFIG_FILE), serde_json::to_vec(&config).unwrap()).unwrap();
        std::fs::write(dir.join(TABLE_FILE), serde_json::to_vec(&table).unwrap()).unwrap();
        let path = dir.clone();
        std::thread::spawn(move || pumasi_gateway::gateway_main(&path));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let control = ControlClient::new(&dir);
            let begun = Instant::now();
            loop {
                match control.status().await {
                    Ok(status) if !status.listening.is_empty() => return status.listening[0],
                    other => assert!(begun.elapsed() < PATIENCE, "the gateway does not come up: {other:?}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    })
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends, takes whatever comes, and hangs up.
fn visit(address: SocketAddr, bytes: &[u8]) {
    let mut stream = open(address);
    // The gateway may hang up on what it does not like.
    let _ = stream.write_all(bytes);
    // Whoever hangs up gets no answer: first whatever comes without that.
    stream.set_read_timeout(Some(PAUSE)).unwrap();
    let mut some = [0u8; 4_096];
    while stream.read(&mut some).is_ok_and(|n| n > 0) {}
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read_to_end(&mut Vec::new()) {
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("the connection is never ended"),
        _ => {}
    }
}

/// A request of somebody else; where it is served, it gets its own answer. Whether it was served.
fn other(address: SocketAddr) -> bool {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let path = format!("/{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut stream = open(address);
    let asked = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let served = answer.starts_with("HTTP/1.1 200 ");
    assert!(served || answer.starts_with("HTTP/1.1 50"), "{answer:?}");
    assert!(!served || answer.ends_with(&format!("\r\n\r\n{path}")), "{path} got another's answer: {answer:?}");
    served
}

/// Until it serves again: an instance that failed is let rest.
fn serves(address: SocketAddr) {
    let begun = Instant::now();
    while !other(address) {
        assert!(begun.elapsed() < PATIENCE, "it serves no more");
        std::thread::sleep(PAUSE);
    }
    let seen = std::mem::take(&mut *SEEN.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(seen.is_empty(), "{}", seen.join("\n"));
}

pub fn socket(input: &[u8]) {
    let address = gateway();
    visit(address, input);
    serves(address);
}

/// The answer of an instance, which may be foreign code.
pub fn instance(input: &[u8]) {
    let address = gateway();
    *ANSWER.lock().unwrap_or_else(PoisonError::into_inner) = input.to_vec();
    visit(address, format!("GET {STRANGE} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes());
    serves(address);
    serves(address);
}
