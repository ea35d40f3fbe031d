//! One gateway, its home instances, plain HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn requests_reach_the_service_of_their_host() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    let early = gateway.get("/").await;
    assert_eq!((early.status, early.field("retry-after")), (503, Some("1")), "no table yet");
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    let mut c = gateway.connect().await;
    let answer = c
        .get_with("/x?y=1", "X-Forwarded-For: 6.6.6.6\r\nPumasi-Lease: lease-1\r\nConnection: X-Gone\r\nX-Gone: 1\r\n")
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.backend(), "one");
    assert!(answer.field("pumasi-refused").is_none(), "an application's claim got out");
    let seen = answer.body.to_ascii_lowercase();
    assert!(seen.contains("get /x?y=1 http/1.1"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 127.0.0.1") && seen.contains("traceparent: 00-"), "{seen}");
    assert!(!seen.contains("6.6.6.6") && !seen.contains("pumasi-lease") && !seen.contains("x-gone"), "{seen}");
    // The same connection again, with a body, and in chunks.
    assert!(c.post("/p", "hello").await.body.ends_with("hello"));
    let chunked =
        "POST /c HTTP/1.1\r\nHost: shop.example:80\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert!(c.ask(chunked).await.body.ends_with("abc"));
    assert_eq!(c.ask("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").await.status, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_heads_are_refused() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: shop.example\r\nHost: shop.example\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: +5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost : shop.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@shop.example\r\n\r\n",
    ] {
        let mut c = gateway.connect().await;
        c.send(bad).await;
        let status = c.answer().await.map_or(400, |a| a.status);
        assert!((400..500).contains(&status), "{bad:?}: {status}");
    }
    let huge = format!("GET / HTTP/1.1\r\nHost: shop.example\r\nX: {}\r\n\r\n", "a".repeat(40 << 10));
    assert_eq!(gateway.connect().await.ask(&huge).await.status, 431);
    assert_eq!(backend.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_unknown_tables_are_refused_and_the_last_one_is_kept() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    let control = gateway.control.clone();
    control.put_table(&with("city-a", 5, service(&[backend.address]))).await.unwrap();
    for old in [4, 5] {
        match control.put_table(&with("city-a", old, service(&[]))).await {
            Err(pumasi_gateway::ControlError::Old { current: 5 }) => {}
            other => panic!("{other:?}"),
        }
    }
    let mut newer = with("city-a", 6, service(&[]));
    newer.version = pumasi_route::table::TABLE_VERSION + 1;
    assert!(matches!(control.put_table(&newer).await, Err(pumasi_gateway::ControlError::Refused(_))));
    let foreign = with("city-b", 7, service(&[]));
    assert!(matches!(control.put_table(&foreign).await, Err(pumasi_gateway::ControlError::Refused(_))));
    assert_eq!(gateway.get("/").await.status, 200);
    let dir = gateway.stop().await;
    let again = Running::start_in(dir, config("city-a")).await;
    assert_eq!(again.control.status().await.unwrap().table_revision, 5);
    assert_eq!(again.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_queued_and_then_shed() {
    let backend = Backend::start("one", Conduct::Work { ms: 20 }).await;
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[backend.address]);
    route.admission.limit_initial = 2;
    route.admission.limit_max = 2;
    route.admission.queue_max = 10;
    route.admission.wait_max_ms = 300;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let address = gateway.address;
        all.spawn(async move { Connection::open(address).await.get("/").await });
    }
    let (mut fine, mut shed) = (0, 0);
    while let Some(answer) = all.join_next().await {
        let answer = answer.unwrap();
        match answer.status {
            200 => fine += 1,
            503 => {
                assert_eq!(answer.field("pumasi-shed"), Some("queue"));
                assert!(answer.field("retry-after").is_some());
                shed += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(fine >= 12 && shed >= 1, "{fine} answered, {shed} shed");
    assert!(backend.at_once_max.load(Ordering::SeqCst) <= 2);
    // The meter tells the same, once the last window is closed.
    let last = gateway.control.meter(0).await.unwrap().windows.last().unwrap().seq;
    until("the next window", || async { gateway.control.meter(last).await.unwrap().windows.len() > 1 }).await;
    let mut sums = (0, 0, 0, 0);
    let report = gateway.control.meter(0).await.unwrap();
    // A window may have closed before there was a table.
    let meters: Vec<_> = report.windows.iter().filter_map(|w| w.services.get(&shop())).collect();
    for m in &meters {
        sums = (sums.0 + m.arrivals, sums.1 + m.shed, sums.2 + m.completed, sums.3 + m.queue_delay.count());
    }
    assert_eq!((sums.0, sums.1, sums.2), (40, shed, fine));
    assert!(sums.3 >= fine, "every answered request has its delay");
    let waited = meters.iter().map(|m| m.queue_delay.max()).max().unwrap();
    assert!(waited > 20_000, "{waited} us");
    assert!(meters.iter().any(|m| !m.user_rtt.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_costs_safe_requests_nothing_and_unsafe_ones_are_told() {
    let (good, bad) = (Backend::start("good", Conduct::Answer).await, Backend::start("bad", Conduct::Die).await);
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[good.address, bad.address]);
    route.admission.retry_budget = pumasi_terms::Ppm(1_000_000);
    gateway.control.put_table(&with("city-a", 1, route.clone())).await.unwrap();
    let mut c = gateway.connect().await;
    for _ in 0..20 {
        let answer = c.get("/").await;
        assert_eq!((answer.status, answer.backend()), (200, "good"));
    }
    assert!(bad.seen() > 0, "the bad one was never asked");
    // The only one breaks off: an unsafe request is neither repeated nor called failed.
    route.home.remove(0);
    gateway.control.put_table(&with("city-a", 2, route.clone())).await.unwrap();
    let before = bad.seen();
    let answer = c.post("/", "x").await;
    assert_eq!((answer.status, answer.field("pumasi-outcome")), (502, Some("unknown")));
    assert_eq!(bad.seen(), before + 1);
    // Nobody listens: nothing was executed, and both wait for the instance to come back.
    let address = bad.address;
    drop(bad);
    until("the port is free", || async { tokio::net::TcpStream::connect(address).await.is_err() }).await;
    let asking = tokio::spawn({
        let gateway = gateway.address;
        async move { Connection::open(gateway).await.post("/", "y").await }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let _back = Backend::start_at("back", Conduct::Answer, address).await;
    let answer = asking.await.unwrap();
    assert_eq!((answer.status, answer.backend()), (200, "back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_of_a_path_that_writes_is_treated_as_a_write() {
    let (good, bad) = (Backend::start("good", Conduct::Answer).await, Backend::start("bad", Conduct::Die).await);
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[bad.address]);
    route.admission.retry_budget = pumasi_terms::Ppm(1_000_000);
    route.home_only = vec!["/run".into()];
    route.position_generation = Some(pumasi_terms::Generation(1));
    gateway.control.put_table(&with("city-a", 1, route.clone())).await.unwrap();
    let mut c = gateway.connect().await;
    // It may have taken effect, so it is not sent again; a plain GET is.
    let answer = c.get("/run?what=counter").await;
    assert_eq!((answer.status, answer.field("pumasi-outcome")), (502, Some("unknown")));
    assert_eq!(bad.seen(), 1);
    assert_eq!(c.get("/").await.field("pumasi-outcome"), None);
    assert!(bad.seen() > 2);
    // Its user reads what it wrote.
    route.home = service(&[good.address]).home;
    gateway.control.put_table(&with("city-a", 2, route.clone())).await.unwrap();
    assert!(c.get("/run?what=counter").await.field("set-cookie").is_some_and(|c| c.starts_with("pumasi_pos=")));
    assert_eq!(c.get("/").await.field("set-cookie"), None);
    // A cloud that may not write does not run it.
    route.writes = pumasi_route::table::Writes::Bound;
    gateway.control.put_table(&with("city-a", 3, route)).await.unwrap();
    let seen = good.seen();
    assert_eq!(c.get("/run?what=counter").await.status, 503);
    assert_eq!((good.seen(), c.get("/").await.status), (seen, 200));
}

/// As Python's `http.server`: a connection a request, and hardly any may wait at the door.
async fn narrow_door() -> std::net::SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let mut stream = listener.accept().await.unwrap().0;
            tokio::time::sleep(Duration::from_millis(5)).await;
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_with_a_narrow_door_is_given_less_and_not_taken_for_dead() {
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[narrow_door().await]);
    route.admission.queue_max = 1_000;
    route.admission.wait_max_ms = 20_000;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let users: Vec<_> = (0..30)
        .map(|_| {
            let address = gateway.address;
            tokio::spawn(async move {
                let mut c = Connection::open(address).await;
                for _ in 0..20 {
                    assert_eq!(c.get("/").await.status, 200);
                }
            })
        })
        .collect();
    for user in users {
        user.await.unwrap();
    }
    let backends = status_of(&gateway.control).await.services.remove(0).backends;
    assert!(backends.iter().all(|b| b.limit < 8 && !b.set_aside), "{backends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_not_made_whole() {
    let backend = Backend::start("half", Conduct::Half).await;
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    let mut c = gateway.connect().await;
    c.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert!(c.answer().await.is_none(), "the break must reach the user");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_instance_is_given_up_and_its_place_comes_back() {
    let backend = Backend::start("one", Conduct::Hang).await;
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[backend.address]);
    route.admission.answer_timeout_ms = 100;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let mut c = gateway.connect().await;
    assert_eq!(c.get("/").await.status, 504);
    let answer = c.post("/", "x").await;
    assert_eq!((answer.status, answer.field("pumasi-outcome")), (504, Some("unknown")));
    // A user who goes away takes the place along.
    let mut gone = gateway.connect().await;
    gone.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    drop(gone);
    until("places come back", || async {
        gateway.control.status().await.unwrap().services[0].backends[0].in_flight == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_write_that_ran_out_is_checked_on_the_way_in_and_out() {
    let backend = Backend::start("one", Conduct::Sleep { ms: 400 }).await;
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[backend.address]);
    route.writes = pumasi_route::table::Writes::Bound;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    gateway.control.put_tenure(&tenure(boot_ms() + 200)).await.unwrap();
    let mut c = gateway.connect().await;
    let late = c.post("/", "x").await;
    assert_eq!((late.status, late.field("pumasi-outcome")), (503, Some("unknown")));
    let refused = c.post("/", "x").await;
    assert_eq!((refused.status, refused.field("pumasi-outcome")), (503, None));
    assert_eq!(backend.seen(), 1);
    assert_eq!(c.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_when_tables_change_under_load() {
    let backends =
        [Backend::start("a", Conduct::Sleep { ms: 5 }).await, Backend::start("b", Conduct::Sleep { ms: 5 }).await];
    let gateway = Running::start(config("city-a")).await;
    let both = [backends[0].address, backends[1].address];
    gateway.control.put_table(&with("city-a", 1, service(&both))).await.unwrap();
    let stop = Arc::new(AtomicU32::new(0));
    let mut users = tokio::task::JoinSet::new();
    for i in 0..16 {
        let (address, stop) = (gateway.address, stop.clone());
        users.spawn(async move {
            let mut c = Connection::open(address).await;
            let mut n = 0;
            while stop.load(Ordering::SeqCst) == 0 {
                let answer = if i % 2 == 0 { c.get("/").await } else { c.post("/", "x").await };
                assert_eq!(answer.status, 200, "{answer:?}");
                n += 1;
            }
            n
        });
    }
    for revision in 2..60 {
        let mut route = service(&both);
        match revision % 3 {
            0 => route.home[0].draining = true,
            1 => drop(route.home.remove(1)),
            _ => {}
        }
        gateway.control.put_table(&with("city-a", revision, route)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let mut route = service(&both);
    route.home[0].draining = true;
    gateway.control.put_table(&with("city-a", 60, route)).await.unwrap();
    until("the draining one is drained", || async {
        let status = gateway.control.status().await.unwrap();
        let own = |b: &&pumasi_gateway::BackendStatus| b.draining;
        status.services[0].backends.iter().find(own).is_none_or(|b| b.drained)
    })
    .await;
    let before = backends[0].seen();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(backends[0].seen(), before, "a drained instance got a request");
    stop.store(1, Ordering::SeqCst);
    let mut total = 0;
    while let Some(n) = users.join_next().await {
        total += n.unwrap();
    }
    assert!(total > 500, "{total} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_and_are_bounded() {
    // Answers each line at once, as long as the request's body goes on.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0u8; 4096];
                let n = stream.read(&mut buffer).await.unwrap();
                assert!(n > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await.unwrap();
                while let Ok(n) = stream.read(&mut buffer).await {
                    if n == 0 || buffer[..n].ends_with(b"0\r\n\r\n") {
                        break;
                    }
                }
                let _ = stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await;
            });
        }
    });
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[address]);
    route.admission.body_bytes_max = 100;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let mut c = gateway.connect().await;
    c.send("POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut got = Vec::new();
    let mut buffer = [0u8; 1024];
    while !String::from_utf8_lossy(&got).contains("first") {
        let n = c.reader.read(&mut buffer).await.unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..n]);
    }
    c.send("0\r\n\r\n").await;
    while !String::from_utf8_lossy(&got).contains("last") {
        let n = c.reader.read(&mut buffer).await.unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..n]);
    }
    let mut c = gateway.connect().await;
    assert_eq!(c.ask("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 101\r\n\r\n").await.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn expectations_are_met() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    let mut c = gateway.connect().await;
    let first =
        c.ask("POST / HTTP/1.1\r\nHost: shop.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(first.status, 100);
    assert!(c.ask("hello").await.body.ends_with("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_is_a_tunnel() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut reader = tokio::io::BufReader::new(stream);
        let (head, _) = read_message(&mut reader).await.unwrap();
        assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
        assert!(head.to_ascii_lowercase().contains("sec-websocket-key: abc"), "{head}");
        let stream = reader.get_mut();
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi!")
            .await
            .unwrap();
        let mut buffer = [0u8; 64];
        loop {
            let n = stream.read(&mut buffer).await.unwrap();
            if n == 0 {
                return;
            }
            stream.write_all(&buffer[..n]).await.unwrap();
        }
    });
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[address]))).await.unwrap();
    let mut c = gateway.connect().await;
    c.send(
        "GET /ws HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: abc\r\n\r\n",
    )
    .await;
    let (head, _) = read_message(&mut c.reader).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut three = [0u8; 3];
    c.reader.read_exact(&mut three).await.unwrap();
    assert_eq!(&three, b"hi!");
    c.send("ping").await;
    let mut four = [0u8; 4];
    c.reader.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    let status = gateway.control.status().await.unwrap();
    assert_eq!((status.tunnels, status.services[0].backends[0].in_flight), (1, 0));
    drop(c);
    until("the tunnel ends with its user", || async { gateway.control.status().await.unwrap().tunnels == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_without_tls_too() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://shop.example/two")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(http_body_util::Full::new(bytes::Bytes::from("hello")))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body).to_ascii_lowercase();
    assert!(body.contains("host: shop.example") && body.contains("cookie: a=1; b=2"), "{body}");
    assert!(body.ends_with("hello"));
}
