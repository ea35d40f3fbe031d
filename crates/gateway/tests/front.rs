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
