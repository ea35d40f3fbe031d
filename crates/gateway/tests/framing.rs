//! Bytes stay with whom they belong to: bodies beside upgrades, two framings, cookies of all kinds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// An instance that answers every request with these bytes, and then with `later` a moment after them.
async fn saying(text: &'static str, later: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.set_nodelay(true).unwrap();
                let mut reader = BufReader::new(stream);
                while read_message(&mut reader).await.is_some() {
                    if reader.get_mut().write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                    if !later.is_empty() {
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        let _ = reader.get_mut().write_all(later.as_bytes()).await;
                    }
                }
            });
        }
    });
    address
}

async fn before(instance: SocketAddr) -> Running {
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[instance]))).await.unwrap();
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_body_is_no_upgrade() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = before(backend.address).await;
    let head = "POST /x HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n";
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        let answer = gateway.connect().await.ask(&format!("{head}{body}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.ends_with("hello") && !answer.body.to_ascii_lowercase().contains("upgrade"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_leads_only_to_what_was_asked_for_and_never_to_http() {
    let ask =
        |to: &str| format!("GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n\r\n");
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = before(backend.address).await;
    for to in ["h2c", ",h2c", "H2C, h2c", "HTTP/2.0", "h2"] {
        let answer = gateway.connect().await.ask(&ask(to)).await;
        assert!(!answer.body.to_ascii_lowercase().contains("upgrade"), "{to}: {answer:?}");
    }
    let answer = gateway.connect().await.ask(&ask("websocket, h2c")).await;
    assert!(answer.body.contains("upgrade: websocket\r\n"), "{answer:?}");
    for other in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket, ssh\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
    ] {
        let gateway = before(saying(other, "").await).await;
        let answer = gateway.connect().await.ask(&ask("websocket, h2c")).await;
        assert_eq!(answer.status, 502, "{other}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_stand_over_a_length_whatever_the_method() {
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let gateway = before(saying(both, "").await).await;
    let mut c = gateway.connect().await;
    for answer in [c.get("/").await, c.post("/", "x").await, c.get("/").await] {
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{answer:?}");
    }
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello";
    let gateway = before(saying(twice, "").await).await;
    let mut c = gateway.connect().await;
    for answer in [c.get("/").await, c.post("/", "x").await] {
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        assert_eq!(answer.head.matches("ontent-").count(), 1, "{}", answer.head);
    }
    let gzip = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let gateway = before(saying(gzip, "").await).await;
    let mut c = gateway.connect().await;
    assert_eq!((c.get("/").await.status, c.post("/", "x").await.status), (502, 502));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coding_that_cannot_be_passed_on_is_not_passed_over() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = before(backend.address).await;
    let gzip = "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(gateway.connect().await.ask(gzip).await.status, 501);
    assert_eq!(backend.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_where_there_is_none_is_nobody_elses_answer() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (method, text) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ] {
        let gateway = before(saying(text, evil).await).await;
        let mut users = Vec::new();
        for _ in 0..40 {
            let mut c = gateway.connect().await;
            c.send(&format!("{method} / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")).await;
            let mut all = String::new();
            c.reader.read_to_string(&mut all).await.unwrap();
            users.push(all);
        }
        assert!(users.iter().all(|all| !all.contains("evil") && all.len() > 9), "{method} {text}: {users:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_wrote_is_known_beside_cookies_of_any_kind() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[backend.address]);
    route.position_generation = Some(pumasi_terms::Generation(1));
    // A copy that is behind everything: who has written may not be sent there.
    route.leases = vec![pumasi_route::table::LeaseBackend {
        lease: pumasi_terms::LeaseId::from_entropy(1),
        cloud: pumasi_terms::CloudName::parse("city-b").unwrap(),
        instances: 1,
        weight: pumasi_terms::Ppm(1_000_000),
        draining: false,
        usable_until: pumasi_terms::BootMs(boot_ms() + 600_000),
        alias: None,
        datasets: vec![pumasi_terms::DatasetName::parse("data").unwrap()],
        ticket_key: None,
    }];
    route.home_weight = pumasi_terms::Ppm(1);
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let mut c = gateway.connect().await;
    let written = c.post("/", "x").await;
    let set = written.field("set-cookie").unwrap().to_owned();
    assert!(!set.contains("Secure"), "{set}");
    let cookie = set.split(';').next().unwrap().to_owned();
    // Without it the lease is chosen, which nobody can reach: the table names no gateway of city-b.
    let lease_was_asked = || async {
        let status = gateway.control.status().await.unwrap();
        status.services[0].backends.iter().any(|b| b.set_aside)
    };
    let forged = cookie.rsplit_once('.').unwrap().0.to_owned() + ".00000000000000000000000000000000";
    for field in [
        cookie.clone(),
        format!("name=\u{d55c}\u{ae00}; {cookie}"),
        format!("{forged}; {cookie}; x=\u{e9}"),
        format!("{cookie}\r\nCookie: b=\u{d55c}"),
    ] {
        let answer = c.get_with("/", &format!("Cookie: {field}\r\n")).await;
        assert_eq!(answer.status, 200, "{field}: {answer:?}");
        assert!(!lease_was_asked().await, "{field}");
        assert!(!answer.body.contains("pumasi_pos"), "{field}: the application sees it: {}", answer.body);
        let other = if field.contains('\u{d55c}') { "\u{d55c}" } else { "" };
        assert!(answer.body.contains(other), "{field}: another cookie is lost: {}", answer.body);
    }
    assert_eq!(c.get("/").await.status, 200);
    assert!(lease_was_asked().await);
}
