//! What instances may answer, byte for byte, and what users get of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// Path, what the instance sends (`|` at the end: and closes), what the user gets.
const CASES: &[(&str, &str, u16, &str)] = &[
    ("/plain", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
    ("/none", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""),
    (
        "/chunks",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
        200,
        "hello world",
    ),
    (
        "/interim",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        200,
        "ok",
    ),
    ("/same", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok", 200, "ok"),
    ("/unchanged", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, ""),
    ("/close", "HTTP/1.1 200 OK\r\n\r\nuntil the end|", 200, "until the end"),
    ("/old", "HTTP/1.0 200 Fine\r\nContent-Length: 3\r\n\r\nold|", 200, "old"),
    ("/bye", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye|", 200, "bye"),
    ("/gone", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngone|", 200, "gone"),
    // Two framings: the chunks count, and nothing that follows is an answer to anybody.
    (
        "/both",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        200,
        "ok",
    ),
    (
        "/more",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        200,
        "ok",
    ),
    ("/gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n|", 502, ""),
    ("/two", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd|", 502, ""),
    ("/sign", "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc|", 502, ""),
    ("/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n|", 502, ""),
    ("/noise", "220 ready\r\n\r\n|", 502, ""),
    ("/nothing", "|", 502, ""),
    ("/switch", "HTTP/1.1 101 Switching Protocols\r\n\r\n|", 502, ""),
];

struct Scripted {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
}

/// Answers by the path, `step` bytes at a time.
async fn scripted(step: usize) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                stream.set_nodelay(true).unwrap();
                let mut reader = BufReader::new(stream);
                while let Some((head, _)) = read_message(&mut reader).await {
                    let path = head.split(' ').nth(1).unwrap();
                    let long;
                    let text = match CASES.iter().find(|c| c.0 == path) {
                        Some(case) => case.1,
                        None => {
                            let length: usize = path.trim_start_matches("/long/").parse().unwrap();
                            long = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
                            &long
                        }
                    };
                    let sent = text.trim_end_matches('|');
                    let stream = reader.get_mut();
                    for piece in sent.as_bytes().chunks(step) {
                        if stream.write_all(piece).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                    if sent.len() < text.len() {
                        return;
                    }
                }
            });
        }
    });
    Scripted { address, connections }
}

async fn gateway_before(instance: &Scripted) -> Running {
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[instance.address]);
    // Each safe request that breaks is sent again; that shall not run dry here.
    route.admission.retry_budget = pumasi_terms::Ppm::WHOLE;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reads_as_one_answer_is_passed_on_and_nothing_else() {
    for step in [1, 7, usize::MAX] {
        let instance = scripted(step).await;
        let gateway = gateway_before(&instance).await;
        let mut user = gateway.connect().await;
        for _ in 0..2 {
            // What comes too late to be seen with its answer, nobody can tell from the next one.
            let late = |path: &str| step < usize::MAX && ["/both", "/more"].contains(&path);
            for &(path, _, status, body) in CASES.iter().filter(|c| !late(c.0)) {
                let answer = user.get(path).await;
                assert_eq!(answer.status, status, "{path} in steps of {step}: {answer:?}");
                if status == 200 {
                    assert_eq!(answer.body, body, "{path} in steps of {step}");
                    let framings = ["content-length", "transfer-encoding"].map(|n| answer.field(n).is_some());
                    assert_eq!(framings.iter().filter(|f| **f).count(), 1, "{path}: {}", answer.head);
                }
            }
        }
        assert!(user.get("/old").await.head.starts_with("HTTP/1.1 200 Fine"), "an instance may word its reason");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_connection_is_kept() {
    let instance = scripted(usize::MAX).await;
    let gateway = gateway_before(&instance).await;
    let mut user = gateway.connect().await;
    for path in ["/plain", "/chunks", "/none", "/interim", "/long/3000000", "/plain", "/long/8192"] {
        let answer = user.get(path).await;
        let length = path.strip_prefix("/long/").map_or(answer.body.len(), |l| l.parse().unwrap());
        assert_eq!(answer.body.len(), length, "{path}");
    }
    assert_eq!(instance.connections.load(Ordering::SeqCst), 1);
    user.get("/more").await;
    user.get("/plain").await;
    assert_eq!(instance.connections.load(Ordering::SeqCst), 2, "what sent too much is not used again");
    user.get("/unchanged").await;
    user.get("/plain").await;
    assert_eq!(instance.connections.load(Ordering::SeqCst), 3, "a body may follow where there is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_head_has_a_length_and_no_body() {
    let instance = scripted(usize::MAX).await;
    let gateway = gateway_before(&instance).await;
    let mut user = gateway.connect().await;
    // The instance sends a body all the same: it goes nowhere.
    for _ in 0..2 {
        user.send("HEAD /plain HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(user.reader.read_line(&mut head).await.unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 5"), "{head}");
    }
    assert_eq!(user.get("/plain").await.body, "hello");
}

/// Each of its first two connections answers once, when both are there, and then breaks off at the next request, as those of a process
/// that was killed do one after the other. Later ones answer.
async fn dies_by_connection() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let both = Arc::new(tokio::sync::Barrier::new(2));
        for n in 0u32.. {
            let (stream, _) = listener.accept().await.unwrap();
            let both = both.clone();
            tokio::spawn(async move {
                let mut reader = BufReader::new(stream);
                let mut answered = false;
                while read_message(&mut reader).await.is_some() {
                    if n < 2 && answered {
                        return;
                    }
                    if n < 2 {
                        both.wait().await;
                    }
                    answered = true;
                    let said = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}", n.min(9));
                    if reader.get_mut().write_all(said.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_is_not_sent_again_over_a_connection_that_was_open() {
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[dies_by_connection().await]))).await.unwrap();
    let (one, other) = tokio::join!(gateway.get("/"), gateway.get("/"));
    assert_eq!((one.status, other.status), (200, 200));
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "2"), "{answer:?}");
}
