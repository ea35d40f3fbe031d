//! Strangers at the peer port of a real daemon: 2,000 that say nothing, 600 that never finish a body, 250 streams on one connection.
//! The members' heartbeats go on, and the daemon stays as small as it was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use pumasi_api::message::CloudStatus;
use pumasi_lab::cluster::{CloudPlan, Cluster};
use pumasi_terms::{CloudName, Resources};
use pumasi_trust::{Authority, client_config_pinned};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const IDLE: usize = 2_000;
const BODIES: usize = 600;
const STREAMS: usize = 250;
const FLOOD: Duration = Duration::from_secs(15);
/// Of the daemon's memory, beyond what it had before.
const GROWTH_KIB_MAX: u64 = 96 << 10;
/// A lease lives 15 s.
const HEARD_MS_MAX: u64 = 6_000;

fn plan(name: &'static str, city: &'static str) -> CloudPlan {
    let all = Resources { cpu_millis: 1_000, memory_mib: 1_024 };
    CloudPlan::new(name, city, all, all, "0.05")
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// From one of many addresses, as strangers have.
async fn call(to: SocketAddr, n: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let from = IpAddr::V4(Ipv4Addr::new(127, 77, u8::try_from(n / 250).unwrap(), u8::try_from(n % 250 + 1).unwrap()));
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

async fn greet(to: SocketAddr, n: usize, tls: Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let name = rustls_pki_types::ServerName::try_from("peer.invalid").unwrap();
    TlsConnector::from(tls).connect(name, call(to, n).await?).await
}

/// All but the last KiB of a body as long as the endpoint allows.
async fn unfinished(mut stream: TlsStream<TcpStream>) -> std::io::Result<TlsStream<TcpStream>> {
    let head =
        "PUT /v1/pact/current HTTP/1.1\r\nHost: a\r\ncontent-type: application/json\r\ncontent-length: 524288\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..511 {
        stream.write_all(&[b'['; 1024]).await?;
    }
    stream.flush().await?;
    Ok(stream)
}

/// Many streams on one connection, each with a body that never ends.
async fn streams(stream: TlsStream<TcpStream>) -> Option<()> {
    use bytes::Bytes;
    let (client, connection) = h2::client::handshake(stream).await.ok()?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        let Ok(Ok(mut ready)) = tokio::time::timeout(Duration::from_secs(2), client.clone().ready()).await else {
            break;
        };
        let request = http::Request::put("https://a/v1/pact/current").body(()).unwrap();
        let Ok((answer, mut body)) = ready.send_request(request, false) else { break };
        let _ = body.send_data(Bytes::from(vec![b'['; 511 << 10]), false);
        open.push((answer, body));
    }
    tokio::time::sleep(FLOOD).await;
    drop(open);
    Some(())
}

struct Heard {
    oldest_ms: u64,
    rss_kib_max: u64,
}

async fn watch(cluster: &Cluster, pid: u32, until: Instant) -> Heard {
    let mut heard = Heard { oldest_ms: 0, rss_kib_max: 0 };
    while Instant::now() < until {
        for cloud in ["city-a", "city-b"] {
            let status: CloudStatus = cluster.client(cloud).unwrap().get("/v1/cloud").await.unwrap();
            let ages = status.members.iter().map(|m| m.heard_ms_ago.unwrap_or(u64::MAX));
            heard.oldest_ms = ages.fold(heard.oldest_ms, u64::max);
        }
        heard.rss_kib_max = heard.rss_kib_max.max(rss_kib(pid));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cost_the_members_nothing() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most).unwrap();
    assert!(most > 4_000, "this test opens some thousand connections; the hard limit of open files is {most}");
    let clouds = [plan("city-a", "Seoul"), plan("city-b", "Busan")];
    let cluster = Cluster::start(Path::new(env!("CARGO_BIN_EXE_pumasi")), &clouds, "").await.expect("two clouds");
    let to = cluster.place("city-a").unwrap().peer_listen;
    let pid = cluster.supervisor.pid("city-a").unwrap();
    let root = Authority::load(&cluster.dir("city-a").join("data/trust")).unwrap().fingerprint().unwrap();
    let tls = |alpn: &[&[u8]]| client_config_pinned(&CloudName::parse("city-a").unwrap(), root, alpn).unwrap();
    let (h1, h2) = (tls(&[b"http/1.1"]), tls(&[b"h2"]));
    let before_kib = rss_kib(pid);

    let until = Instant::now() + FLOOD;
    let mut idle = Vec::new();
    for n in 0..IDLE {
        idle.extend(call(to, n).await.ok());
    }
    let flood: Vec<_> = (0..BODIES)
        .map(|n| {
            let h1 = h1.clone();
            tokio::spawn(async move {
                let stream = unfinished(greet(to, n, h1).await?).await?;
                tokio::time::sleep_until(until.into()).await;
                drop(stream);
                Ok::<_, std::io::Error>(())
            })
        })
        .collect();
    let many = tokio::spawn(async move {
        if let Ok(stream) = greet(to, 2_000, h2).await {
            streams(stream).await;
        }
    });
    let heard = watch(&cluster, pid, until).await;
    println!(
        "oldest heartbeat {} ms; memory {} MiB before, {} MiB at most under {IDLE} idle strangers, {BODIES} unfinished bodies, {STREAMS} streams",
        heard.oldest_ms,
        before_kib >> 10,
        heard.rss_kib_max >> 10
    );
    assert!(heard.oldest_ms < HEARD_MS_MAX, "a member was not heard for {} ms", heard.oldest_ms);
    let growth_kib = heard.rss_kib_max.saturating_sub(before_kib);
    assert!(growth_kib < GROWTH_KIB_MAX, "strangers took {} MiB", growth_kib >> 10);

    // Those who say nothing are not kept.
    let mut kept = 0;
    for stream in &mut idle {
        let mut byte = [0];
        kept += usize::from(tokio::time::timeout(Duration::from_millis(1), stream.read(&mut byte)).await.is_err());
    }
    assert!(kept <= 128, "{kept} idle strangers still have a place");
    for task in flood {
        let _ = task.await;
    }
    many.abort();
}

/// A token that was stolen from a person is worth nothing where clouds meet, and neither are metrics or documents to be had there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peer_port_knows_no_tokens() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster =
        Cluster::start(Path::new(env!("CARGO_BIN_EXE_pumasi")), &[plan("city-a", "Seoul")], "").await.unwrap();
    let to = cluster.place("city-a").unwrap().peer_listen;
    let token = std::fs::read_to_string(cluster.dir("city-a").join("data/operator.token")).unwrap();
    let root = Authority::load(&cluster.dir("city-a").join("data/trust")).unwrap().fingerprint().unwrap();
    let tls = client_config_pinned(&CloudName::parse("city-a").unwrap(), root, &[b"http/1.1"]).unwrap();
    for (path, expected) in [
        ("/v1/tokens", 404),
        ("/v1/services", 404),
        ("/v1/pact", 401),
        ("/metrics", 404),
        ("/openapi.json", 404),
        ("/console/", 404),
        ("/readyz", 404),
        ("/v1/leases/lease-1/logs", 401),
    ] {
        let mut stream = greet(to, 1, tls.clone()).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(status, expected, "{path}: {answer}");
    }
    // The same token over the socket is the operator.
    let client = pumasi_api::Client::over_socket(&cluster.socket("city-a"), Some(token.trim()), Duration::from_secs(5));
    let _: serde_json::Value = client.unwrap().get("/v1/tokens").await.unwrap();
}
