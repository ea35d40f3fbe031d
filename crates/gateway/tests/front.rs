//! Proxies in front: whose word about a user counts, and for what.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::BufReader;
use tokio::net::TcpSocket;

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

async fn from(source: Ipv4Addr, gateway: SocketAddr) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    let stream = socket.connect(gateway).await.unwrap();
    stream.set_nodelay(true).unwrap();
    Connection { reader: BufReader::new(stream) }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_says_whom_it_speaks_for() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let mut config = config("city-a");
    config.trusted_proxies = vec!["127.0.0.9/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    let gateway = Running::start(config).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    let said = "X-Forwarded-For: 6.6.6.6, 198.51.100.7\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n";
    let mut proxy = from(PROXY, gateway.address).await;
    let seen = proxy.get_with("/", said).await.body.to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-for: 198.51.100.7\r\n") && seen.contains("x-forwarded-proto: https"), "{seen}");
    assert!(seen.contains("forwarded: for=198.51.100.7;proto=https;host="), "{seen}");
    assert!(!seen.contains("6.6.6.6") && !seen.contains("10.0.0.1") && !seen.contains("127.0.0.9"), "{seen}");
    // Each request of its connection is of another user.
    let seen = proxy.get_with("/", "X-Forwarded-For: 203.0.113.5\r\n").await.body.to_ascii_lowercase();
    assert!(
        seen.contains("x-forwarded-for: 203.0.113.5\r\n") && seen.contains("x-forwarded-proto: http\r\n"),
        "{seen}"
    );
    let seen = proxy.get("/").await.body.to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-for: 127.0.0.9\r\n"), "it says nothing: {seen}");
    // Nobody else's word counts.
    let seen = from(Ipv4Addr::LOCALHOST, gateway.address).await.get_with("/", said).await.body.to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n") && seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_has_more_connections_than_one_user() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let mut config = config("city-a");
    config.trusted_proxies = vec!["127.0.0.9/32".parse().unwrap()];
    config.limits.connections_per_address_max = 4;
    let gateway = Running::start(config).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..12 {
        let mut c = from(PROXY, gateway.address).await;
        assert_eq!(c.get("/").await.status, 200);
        held.push(c);
    }
    for _ in 0..4 {
        let mut c = from(Ipv4Addr::LOCALHOST, gateway.address).await;
        assert_eq!(c.get("/").await.status, 200);
        held.push(c);
    }
    let mut fifth = from(Ipv4Addr::LOCALHOST, gateway.address).await;
    fifth.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert!(fifth.answer().await.is_none(), "one user has its share");
}

/// A gateway that is told by the PROXY protocol, and its instance.
async fn told(limits: impl FnOnce(&mut pumasi_gateway::Limits)) -> (Running, Backend) {
    let backend = Backend::start("one", Conduct::Answer).await;
    let mut config = config("city-a");
    config.trusted_proxies = vec!["127.0.0.9/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    config.proxy_protocol = true;
    limits(&mut config.limits);
    let gateway = Running::start(config).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    (gateway, backend)
}

/// Version 2, with what is told of TLS.
fn binary(user: [u8; 4], tls: bool) -> Vec<u8> {
    let mut all = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x14".to_vec();
    all.extend(user);
    all.extend([10, 0, 0, 1, 0x1f, 0x90, 1, 0xbb]);
    all.extend([0x20, 0, 5, u8::from(tls), 0, 0, 0, 0]);
    all
}

async fn send(c: &mut Connection, bytes: &[u8]) {
    tokio::io::AsyncWriteExt::write_all(c.reader.get_mut(), bytes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_tells_the_user_of_a_connection() {
    let (gateway, _backend) = told(|_| {}).await;
    let forged = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n";
    let mut c = from(PROXY, gateway.address).await;
    c.send("PROXY TCP4 198.51.100.7 10.0.0.1 8080 443\r\n").await;
    for _ in 0..2 {
        let seen = c.get_with("/", forged).await.body.to_ascii_lowercase();
        assert!(seen.contains("x-forwarded-for: 198.51.100.7\r\n"), "{seen}");
        assert!(seen.contains("x-forwarded-proto: http\r\n") && !seen.contains("6.6.6.6"), "{seen}");
    }
    // Byte by byte, and with the request behind it in one piece.
    let ask = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let whole = [binary([198, 51, 100, 8], true), ask.into_bytes()].concat();
    for step in [1, 7, whole.len()] {
        let mut c = from(PROXY, gateway.address).await;
        for part in whole.chunks(step) {
            send(&mut c, part).await;
            if step < whole.len() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        let seen = c.answer().await.unwrap().body.to_ascii_lowercase();
        assert!(seen.contains("x-forwarded-for: 198.51.100.8\r\n"), "{seen}");
        assert!(seen.contains("x-forwarded-proto: https\r\n"), "{seen}");
    }
    // HTTP/2 begins behind it as well.
    let mut c = from(PROXY, gateway.address).await;
    send(
        &mut c,
        &[&binary([198, 51, 100, 9], false)[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"].concat(),
    )
    .await;
    let mut frame = [0u8; 9];
    tokio::io::AsyncReadExt::read_exact(&mut c.reader, &mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "SETTINGS");
    // The proxy for itself: what it passes on is still not believed. A proxy behind it is.
    for (line, user) in [("UNKNOWN", "127.0.0.9"), ("TCP4 10.1.2.3 10.0.0.1 1 2", "6.6.6.6")] {
        let mut c = from(PROXY, gateway.address).await;
        c.send(&format!("PROXY {line}\r\n")).await;
        let seen = c.get_with("/", forged).await.body.to_ascii_lowercase();
        assert!(seen.contains(&format!("x-forwarded-for: {user}\r\n")), "{line}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_speaks_the_proxy_protocol_and_a_proxy_must() {
    let (gateway, backend) = told(|limits| limits.head_timeout_ms = 300).await;
    let mut stranger = from(Ipv4Addr::LOCALHOST, gateway.address).await;
    stranger.send("PROXY TCP4 198.51.100.7 10.0.0.1 8080 443\r\n").await;
    assert_eq!(stranger.get("/").await.status, 400);
    assert_eq!(from(Ipv4Addr::LOCALHOST, gateway.address).await.get("/").await.status, 200);
    let seen = backend.seen();
    for wrong in ["GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "PROXY", ""] {
        let mut c = from(PROXY, gateway.address).await;
        c.send(wrong).await;
        assert!(c.answer().await.is_none(), "{wrong}");
    }
    // One that only looks whether the port is open.
    drop(from(PROXY, gateway.address).await);
    assert_eq!(backend.seen(), seen);
    until("none is left", || async { gateway.control.status().await.unwrap().connections <= 2 }).await;
    // Each is counted just after its connection was closed.
    let told = async || gateway.control.metrics().await.unwrap();
    let counted =
        |metrics: &str, n: u32| metrics.contains(&format!("\npumasi_gateway_proxy_headers_refused_total {n}\n"));
    until("all are counted", || async { counted(&told().await, 4) }).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let metrics = told().await;
    assert!(counted(&metrics, 4), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_each_user_has_a_share_of_connections() {
    let (gateway, _backend) = told(|limits| limits.connections_per_address_max = 3).await;
    let by = |user: u8| {
        let address = gateway.address;
        async move {
            let mut c = from(PROXY, address).await;
            c.send(&format!(
                "PROXY TCP4 198.51.100.{user} 10.0.0.1 8080 443\r\nGET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
            ))
            .await;
            let answered = c.answer().await.is_some();
            (c, answered)
        }
    };
    let mut held = Vec::new();
    for user in [1, 2] {
        for _ in 0..3 {
            let (c, answered) = by(user).await;
            assert!(answered);
            held.push(c);
        }
        assert!(!by(user).await.1, "a fourth one");
    }
}
