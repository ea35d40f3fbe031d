//! Requests per CPU-second of one gateway process: 20-byte answers, 64 kept connections.
//! `cargo run --release -p pumasi-gateway --example requests_per_cpu_second [SECONDS]`

use pumasi_gateway::{CONFIG_FILE, ControlClient, GatewayConfig};
use pumasi_route::table::*;
use pumasi_terms::service::RouteMode;
use pumasi_terms::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Fault = Box<dyn std::error::Error + Send + Sync>;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\ncontent-type: text/plain\r\n\r\nhello, twenty bytes!";
const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const CONNECTIONS: usize = 64;

fn main() -> Result<(), Fault> {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    if first.as_deref() == Some("gateway") {
        let dir = args.next().ok_or("gateway DIR")?;
        pumasi_gateway::gateway_main(std::path::Path::new(&dir));
        return Ok(());
    }
    let seconds = first.and_then(|s| s.parse().ok()).unwrap_or(5);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bench(seconds))
}

async fn backend(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let mut buffer = [0u8; 4096];
            while let Ok(n) = stream.read(&mut buffer).await {
                if n == 0 || stream.write_all(ANSWER).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// User and system time of a process, s.
fn cpu_s(pid: u32) -> Result<f64, Fault> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / 100.0)
}

async fn bench(seconds: u64) -> Result<(), Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(backend(listener));
    let dir = std::env::temp_dir().join(format!("pumasi-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let cloud = CloudName::parse("bench")?;
    let config = GatewayConfig::plain(cloud.clone(), "127.0.0.1:0".parse()?);
    std::fs::write(dir.join(CONFIG_FILE), serde_json::to_vec(&config)?)?;
    let mut child = std::process::Command::new(std::env::current_exe()?).arg("gateway").arg(&dir).spawn()?;
    let control = ControlClient::new(&dir);
    let gateway = loop {
        match control.status().await {
            Ok(status) => break status.listening[0],
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    control.put_table(&table(cloud, address)?).await?;

    let counted = Arc::new(AtomicU64::new(0));
    for _ in 0..CONNECTIONS {
        let counted = counted.clone();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(gateway).await?;
            stream.set_nodelay(true)?;
            let mut buffer = vec![0u8; 4096];
            loop {
                stream.write_all(REQUEST).await?;
                let mut held = 0;
                while !buffer[..held].ends_with(b"twenty bytes!") {
                    let n = stream.read(&mut buffer[held..]).await?;
                    if n == 0 {
                        return Err::<(), Fault>("closed".into());
                    }
                    held += n;
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (cpu, count, since) = (cpu_s(child.id())?, counted.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (cpu, count) = (cpu_s(child.id())? - cpu, counted.load(Ordering::Relaxed) - count);
    let wall = since.elapsed().as_secs_f64();
    println!("{count} requests in {wall:.1} s, {cpu:.2} s of the gateway's CPU");
    println!("{:.0} requests a CPU-second, {:.1} us a request", count as f64 / cpu, cpu * 1e6 / count as f64);
    control.stop().await?;
    child.wait()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn table(cloud: CloudName, address: std::net::SocketAddr) -> Result<RouteTable, Fault> {
    let home = HomeBackend {
        instance: InstanceId::from_entropy(1),
        address,
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
        admission: Admission { limit_initial: 128, ..Admission::default() },
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
