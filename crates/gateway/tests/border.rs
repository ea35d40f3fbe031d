//! The users' border under attack: what one user sends must never reach another one's answer, nor pass for a gateway's word.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use pumasi_route::table::ServiceRoute;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// An application that never reads a body and keeps its connections, as many small servers do: what it did not read is its
/// next request. It answers each with the path that it believes it was asked for.
async fn careless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut reader = BufReader::new(stream);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if reader.read_line(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let path = head.split(' ').nth(1).unwrap_or("?").to_owned();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
                    if reader.get_mut().write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_read_is_nobody_elses_request() {
    let gateway = Running::start(config("city-a")).await;
    let control = gateway.control.clone();
    control.put_table(&with("city-a", 1, service(&[careless().await]))).await.unwrap();
    let smuggled = "GET /poisoned HTTP/1.1\r\nHost: shop.example\r\nX-Swallow: ";
    for method in ["GET", "HEAD", "DELETE", "POST", "PUT", "PATCH", "OPTIONS", "PROPFIND"] {
        let length = smuggled.len();
        let attack = format!("{method} /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n{smuggled}");
        for _ in 0..4 {
            let mut attacker = gateway.connect().await;
            attacker.send(&attack).await;
            if method != "HEAD" {
                assert_eq!(attacker.answer().await.unwrap().body, "/a");
            }
            for path in ["/one", "/two"] {
                let mut victim = gateway.connect().await;
                assert_eq!(victim.post(path, "").await.body, path, "{method}");
                assert_eq!(victim.post(path, "x=1").await.body, path, "{method}");
                assert_eq!(victim.get(path).await.body, path, "{method}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_an_underscore_stay_outside_unless_the_service_wants_them() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    let route = service(&[backend.address]);
    gateway.control.put_table(&with("city-a", 1, route.clone())).await.unwrap();
    let forged =
        "X_Forwarded_For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\npumasi_lease: l\r\nRemote_User: root\r\nX-Mine: 1\r\n";
    let seen = gateway.connect().await.get_with("/", forged).await.body.to_ascii_lowercase();
    assert!(seen.contains("x-mine: 1"), "{seen}");
    assert!(!seen.contains('_'), "{seen}");
    let wanted = ServiceRoute { underscored_fields: true, ..route };
    gateway.control.put_table(&with("city-a", 2, wanted)).await.unwrap();
    let seen = gateway.connect().await.get_with("/", forged).await.body.to_ascii_lowercase();
    assert!(seen.contains("remote_user: root"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn generous_readings_are_refused() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    for bad in [
        "GET / HTTP/1.1\nHost: shop.example\n\n",
        "GET / HTTP/1.1\r\nHost: shop.example\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop.example\r\nX: y\nZ: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: shop.example\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
    ] {
        let mut c = gateway.connect().await;
        c.send(bad).await;
        let answer = c.answer().await.expect("closed without a word");
        assert_eq!(answer.status, 400, "{bad:?}");
        assert_eq!(c.reader.read(&mut [0; 16]).await.unwrap_or(0), 0, "kept after {bad:?}");
    }
    assert_eq!(backend.seen(), 0);
    // In the middle of a body and behind a good request as well.
    let mut c = gateway.connect().await;
    let good = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\na\nb");
    assert!(c.ask(&good).await.body.ends_with("a\nb"), "a body may hold what it likes");
    assert_eq!(c.ask("GET / HTTP/1.1\nHost: shop.example\n\n").await.status, 400);
}

/// Answers 101 and sends back what comes.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).await.unwrap() > 2 {
            line.clear();
        }
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        reader.get_mut().write_all(switched).await.unwrap();
        let mut bytes = [0u8; 64];
        while let Ok(n @ 1..) = reader.read(&mut bytes).await {
            reader.get_mut().write_all(&bytes[..n]).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_carries_any_bytes() {
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[echo().await]))).await.unwrap();
    let mut c = gateway.connect().await;
    c.send("GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await;
    let mut line = String::new();
    while c.reader.read_line(&mut line).await.unwrap() > 2 {
        line.clear();
    }
    let bytes = "\nno request\n\n\r\nat all\n";
    c.send(bytes).await;
    let mut back = vec![0; bytes.len()];
    c.reader.read_exact(&mut back).await.unwrap();
    assert_eq!(back, bytes.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_gateways_is_answered_by_the_gateway() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    for (head, status) in [
        ("TRACE / HTTP/1.1\r\nHost: shop.example\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 3\r\n\r\n", 405),
        ("OPTIONS /x HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 0\r\n\r\n", 204),
        ("OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n", 204),
        ("GET * HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
        ("GET shop.example HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
        ("GET shop.example:80 HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    ] {
        let answer = gateway.connect().await.ask(head).await;
        assert_eq!(answer.status, status, "{head:?}: {answer:?}");
        assert_eq!(answer.field("allow").is_some(), [204, 405].contains(&status), "{answer:?}");
    }
    assert_eq!(backend.seen(), 0);
    let mut c = gateway.connect().await;
    let passed = c.ask("OPTIONS /x HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 2\r\n\r\n").await.body;
    assert!(passed.contains("max-forwards: 1\r\n"), "{passed}");
    let seen = c.get_with("/", "Via: 1.0 somebody\r\nProxy: http://evil.example\r\nX-Forwarded-Port: 1\r\n").await.body;
    assert!(seen.contains("via: 1.0 somebody\r\nvia: 1.1 city-a\r\n"), "{seen}");
    assert!(!seen.contains("evil") && !seen.contains("x-forwarded-port"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_kills_instances_kills_two() {
    let (one, two) = (Backend::start("one", Conduct::Die).await, Backend::start("two", Conduct::Die).await);
    let three = Backend::start("three", Conduct::Die).await;
    let gateway = Running::start(config("city-a")).await;
    let route = service(&[one.address, two.address, three.address]);
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    assert_eq!(gateway.get("/").await.status, 502);
    assert_eq!(one.seen() + two.seen() + three.seen(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_say_nothing_that_only_heads_may() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, seen) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        while !all.windows(5).any(|w| w == b"0\r\n\r\n" || w == b"m: 7\r") {
            let mut bytes = [0u8; 1024];
            let n = stream.read(&mut bytes).await.unwrap();
            all.extend_from_slice(&bytes[..n]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        told.send(String::from_utf8(all).unwrap()).unwrap();
    });
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[address]))).await.unwrap();
    let request = "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-forwarded-for, pumasi-lease, cookie, x-sum\r\n\r\n\
         2\r\nhi\r\n0\r\nx-forwarded-for: 6.6.6.6\r\npumasi-lease: l\r\ncookie: a=1\r\nx-sum: 7\r\n\r\n";
    assert_eq!(gateway.connect().await.ask(request).await.status, 200);
    let seen = seen.await.unwrap();
    let body = seen.split_once("\r\n\r\n").unwrap().1;
    assert!(body.contains("x-sum: 7"), "{seen}");
    assert!(!body.contains("6.6.6.6") && !body.contains("pumasi-lease") && !body.contains("cookie"), "{seen}");
}
