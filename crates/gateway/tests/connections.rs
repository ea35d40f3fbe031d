//! Connections that say little or nothing, and many of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn gateway_with(change: impl FnOnce(&mut pumasi_gateway::Limits)) -> (Running, Backend) {
    let backend = Backend::start("one", Conduct::Answer).await;
    let mut config = config("city-a");
    change(&mut config.limits);
    let gateway = Running::start(config).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    (gateway, backend)
}

async fn nobody_is_left(gateway: &Running) {
    until("no connection is left", || async { gateway.control.status().await.unwrap().connections == 0 }).await;
}

/// Processor time of this process, s.
fn worked() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_and_gone_leaves_nothing_behind() {
    let (gateway, _backend) = gateway_with(|_| {}).await;
    for byte in [&b"P"[..], b"PRI", b"G", b"PRI * HTTP/2.0\r\n"] {
        for _ in 0..100 {
            let mut c = TcpStream::connect(gateway.address).await.unwrap();
            c.write_all(byte).await.unwrap();
        }
    }
    let began = Instant::now();
    nobody_is_left(&gateway).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_may_come_one_by_one() {
    let (gateway, _backend) = gateway_with(|_| {}).await;
    for text in [
        "PUT / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\nhi",
        "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    ] {
        let mut c = gateway.connect().await;
        for byte in text.as_bytes().chunks(1) {
            c.reader.get_mut().write_all(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(c.answer().await.unwrap().status, 200);
    }
    let mut two = TcpStream::connect(gateway.address).await.unwrap();
    two.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".chunks(1) {
        two.write_all(byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    two.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut head = [0u8; 9];
    two.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame answers: {head:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_say_nothing_cost_nothing_and_come_to_an_end() {
    let (gateway, _backend) = gateway_with(|limits| {
        (limits.head_timeout_ms, limits.keep_alive_ms) = (500, 2_000);
    })
    .await;
    let mut quiet = Vec::new();
    for text in ["", "P", "GET / HTTP/1.1\r\nHost: shop.ex", "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"] {
        for _ in 0..25 {
            let mut c = TcpStream::connect(gateway.address).await.unwrap();
            c.write_all(text.as_bytes()).await.unwrap();
            quiet.push(c);
        }
    }
    let before = worked();
    until("those that began a head are gone", || async { gateway.control.status().await.unwrap().connections <= 50 })
        .await;
    assert!(worked() - before < 2.0, "it spins");
    nobody_is_left(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_of_http2_ends_though_it_answers_pings() {
    let (gateway, _backend) = gateway_with(|limits| limits.keep_alive_ms = 1_000).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(100))
        .keep_alive_while_idle(true)
        .handshake(hyper_util::rt::TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request =
        http::Request::get("http://shop.example/").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let ended = tokio::time::timeout(Duration::from_secs(20), connection).await;
    assert!(ended.expect("it lives for ever").unwrap().is_ok(), "it ends in good order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_long_is_no_idle_connection() {
    let (gateway, backend) = gateway_with(|limits| {
        (limits.head_timeout_ms, limits.keep_alive_ms) = (200, 200);
    })
    .await;
    backend.set(Conduct::Sleep { ms: 1_500 });
    let mut c = gateway.connect().await;
    assert_eq!(c.get("/").await.status, 200);
    assert_eq!(c.post("/", "x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_share_of_connections() {
    let (gateway, _backend) = gateway_with(|limits| limits.connections_per_address_max = 5).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut c = gateway.connect().await;
        assert_eq!(c.get("/").await.status, 200);
        held.push(c);
    }
    let mut more = TcpStream::connect(gateway.address).await.unwrap();
    assert!(matches!(more.read(&mut [0]).await, Ok(0) | Err(_)), "one more is closed");
    held.pop();
    until("one that went makes room", || async {
        let mut c = gateway.connect().await;
        let sent = c.reader.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        sent.is_ok() && c.answer().await.is_some_and(|a| a.status == 200)
    })
    .await;
}
