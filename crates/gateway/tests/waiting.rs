//! Who waits holds no place: slow senders, slow readers, event streams and long polls beside users who ask and are answered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use pumasi_gateway::BackendStatus;
use pumasi_sense::meter::ServiceMeter;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

const LARGE: usize = 8 << 20;

/// An instance that answers at once, but `/poll/MS` after so long; `/events` begins and does not end; `/large` is large.
/// A body is read whole before it answers.
async fn instance() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut reader = BufReader::new(stream);
                while let Some((head, body)) = read_message(&mut reader).await {
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    let stream = reader.get_mut();
                    if path == "/events" {
                        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nevent\n\r\n";
                        stream.write_all(head.as_bytes()).await.unwrap();
                        // Until the other side leaves.
                        let _ = stream.read(&mut [0]).await;
                        return;
                    }
                    if path == "/large" {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                        if stream.write_all(head.as_bytes()).await.is_err()
                            || stream.write_all(&vec![b'x'; LARGE]).await.is_err()
                        {
                            return;
                        }
                        continue;
                    }
                    if let Some(ms) = path.strip_prefix("/poll/") {
                        tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
                    }
                    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nx-length: {}\r\n\r\n.", body.len());
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn gateway_with(change: impl FnOnce(&mut pumasi_gateway::Limits)) -> Running {
    let mut config = config("city-a");
    change(&mut config.limits);
    let gateway = Running::start(config).await;
    gateway.control.put_table(&with("city-a", 1, service(&[instance().await]))).await.unwrap();
    gateway
}

async fn backend(gateway: &Running) -> BackendStatus {
    gateway.control.status().await.unwrap().services.remove(0).backends.remove(0)
}

/// Everything that was measured until now, gauges as they were last.
async fn measured(gateway: &Running) -> ServiceMeter {
    let report = gateway.control.meter(0).await.unwrap();
    let last = report.windows.last().unwrap().seq;
    until("the next windows", || async { gateway.control.meter(last).await.unwrap().windows.len() > 1 }).await;
    let mut sum = ServiceMeter::default();
    for m in gateway.control.meter(0).await.unwrap().windows.iter().filter_map(|w| w.services.get(&shop())) {
        sum.arrivals += m.arrivals;
        sum.shed += m.shed;
        sum.completed += m.completed;
        sum.app_time.merge(&m.app_time);
        (sum.queued, sum.in_flight) = (m.queued, m.in_flight);
    }
    sum
}

/// Users who ask and are answered at once.
async fn users_are_served(gateway: &Running, times: usize) {
    for _ in 0..times {
        let began = Instant::now();
        let answer = gateway.get("/").await;
        assert_eq!(answer.status, 200, "{answer:?} after {:?}", began.elapsed());
    }
}

async fn sends(gateway: &Running, bytes: &str) -> Connection {
    let mut c = gateway.connect().await;
    c.send(bytes).await;
    c
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_stand_still_hold_no_place() {
    let gateway = gateway_with(|_| {}).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let told = "POST /x HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1000\r\n\r\nx";
        held.push(sends(&gateway, told).await);
        let chunks = "POST /x HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
        held.push(sends(&gateway, chunks).await);
    }
    users_are_served(&gateway, 5).await;
    until("what does not say how long it is is passed on", || async { backend(&gateway).await.streams == 20 }).await;
    users_are_served(&gateway, 5).await;
    let seen = measured(&gateway).await;
    assert_eq!((seen.shed, seen.queued, seen.in_flight), (0, 0, 0), "{seen:?}");
    assert_eq!(seen.arrivals, 10 + 20, "those of whom nothing is passed on have not arrived");
    // One that goes on is served like any other.
    held[0].send(&"y".repeat(999)).await;
    assert_eq!(held[0].answer().await.unwrap().field("x-length"), Some("1000"));
    held[1].send("2\r\nyz\r\n0\r\n\r\n").await;
    assert_eq!(held[1].answer().await.unwrap().field("x-length"), Some("3"));
    drop(held);
    until("nothing is left of them", || async { backend(&gateway).await.streams == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stops_half_way_gives_its_place_back() {
    let gateway = gateway_with(|_| {}).await;
    let mut route = service(&[instance().await]);
    (route.admission.limit_initial, route.admission.limit_max, route.admission.wait_max_ms) = (1, 1, 10_000);
    gateway.control.put_table(&with("city-a", 2, route)).await.unwrap();
    let mut slow = sends(&gateway, "PUT /x HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 200000\r\n\r\n").await;
    slow.send(&"x".repeat(150_000)).await;
    until("it is under way", || async {
        let at = backend(&gateway).await;
        at.in_flight + at.streams == 1
    })
    .await;
    users_are_served(&gateway, 3).await;
    let at = backend(&gateway).await;
    assert_eq!((at.in_flight, at.streams), (0, 1));
    slow.send(&"x".repeat(50_000)).await;
    assert_eq!(slow.answer().await.unwrap().field("x-length"), Some("200000"));
    let at = backend(&gateway).await;
    assert_eq!((at.in_flight, at.streams), (0, 0));
    let seen = measured(&gateway).await;
    assert_eq!(seen.completed, 4);
    assert!(seen.app_time.max() < 400_000, "what the user took is not the instance's time: {} us", seen.app_time.max());
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_hold_no_place() {
    let gateway = gateway_with(|_| {}).await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut c = sends(&gateway, "GET /events HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        let mut first = [0u8; 15];
        c.reader.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        open.push(c);
    }
    users_are_served(&gateway, 5).await;
    let at = backend(&gateway).await;
    assert_eq!((at.in_flight, at.streams), (0, 100));
    let seen = measured(&gateway).await;
    assert_eq!((seen.arrivals, seen.completed, seen.shed, seen.queued, seen.in_flight), (105, 105, 0, 0, 0));
    drop(open);
    until("they end with their users", || async { backend(&gateway).await.streams == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polls_are_let_wait_and_are_not_work() {
    let gateway = gateway_with(|_| {}).await;
    // Places grow from 8 to 60 by doubling, which a busy machine may take longer for than users wait by default.
    let mut route = service(&[instance().await]);
    route.admission.wait_max_ms = 5_000;
    gateway.control.put_table(&with("city-a", 2, route)).await.unwrap();
    let mut polls = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let mut c = sends(&gateway, "GET /poll/6000 HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        polls.spawn(async move { c.answer().await.unwrap().status });
    }
    until("all of them are there", || async { backend(&gateway).await.in_flight == 60 }).await;
    // Those who ask meanwhile are answered, and who waits is seen to wait.
    until("they do not count as work", || async {
        assert_eq!(gateway.get("/").await.status, 200);
        let at = gateway.control.meter(0).await.unwrap();
        at.windows.last().unwrap().services.get(&shop()).is_some_and(|m| m.in_flight == 0)
    })
    .await;
    while let Some(status) = polls.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let seen = measured(&gateway).await;
    assert_eq!((seen.shed, seen.queued, seen.in_flight), (0, 0, 0));
}

/// Over one connection of HTTP/2: its users take nothing of what they asked for.
async fn asks_and_takes_nothing(gateway: &Running, count: usize) -> Vec<Box<dyn std::any::Any + Send>> {
    let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(hyper_util::rt::TokioIo::new(stream))
        .await
        .unwrap();
    let mut held: Vec<Box<dyn std::any::Any + Send>> = vec![Box::new(tokio::spawn(connection))];
    for _ in 0..count {
        let request =
            http::Request::get("http://shop.example/large").body(http_body_util::Empty::<bytes::Bytes>::new());
        let answer = sender.clone().send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        held.push(Box::new(answer));
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_takes_nothing_over_http2_holds_no_place_and_no_instance() {
    let gateway = gateway_with(|limits| limits.stall_ms = 1_500).await;
    let held = asks_and_takes_nothing(&gateway, 40).await;
    let at = backend(&gateway).await;
    assert_eq!((at.in_flight, at.streams), (0, 40));
    users_are_served(&gateway, 5).await;
    until("the instance is rid of them", || async { backend(&gateway).await.streams == 0 }).await;
    let seen = measured(&gateway).await;
    assert_eq!((seen.shed, seen.queued, seen.in_flight), (0, 0, 0));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_stops_reading_is_given_up_and_a_slow_one_is_not() {
    let gateway = gateway_with(|limits| {
        limits.stall_ms = 500;
        limits.rate_min_bytes_per_s = 100_000;
    })
    .await;
    let ask = "GET /large HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let stopped = sends(&gateway, ask).await;
    let mut slow = sends(&gateway, ask).await;
    // Half a megabyte a second, in bites.
    let (began, mut got) = (Instant::now(), 0);
    let mut bite = vec![0u8; 32 << 10];
    while began.elapsed() < Duration::from_secs(4) {
        let n = slow.reader.read(&mut bite).await.unwrap();
        assert!(n > 0, "cut off after {got} bytes and {:?}", began.elapsed());
        got += n;
        let due = Duration::from_micros(got as u64 * 2);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    until("one of them is left", || async {
        let status = gateway.control.status().await.unwrap();
        status.connections == 1 && status.services[0].backends[0].streams <= 1
    })
    .await;
    while got < LARGE {
        let n = slow.reader.read(&mut bite).await.unwrap();
        assert!(n > 0, "cut off after {got} bytes");
        got += n;
    }
    drop(stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_broken_off() {
    let gateway = gateway_with(|limits| {
        limits.stall_ms = 600;
        limits.rate_min_bytes_per_s = 1_000;
    })
    .await;
    let mut c = sends(&gateway, "POST /x HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1000\r\n\r\n").await;
    let dripping = async {
        loop {
            if c.reader.get_mut().write_all(b"x").await.is_err() {
                return;
            }
            let mut first = [0u8; 12];
            let read = c.reader.read_exact(&mut first);
            if let Ok(read) = tokio::time::timeout(Duration::from_millis(100), read).await {
                read.unwrap();
                assert_eq!(&first, b"HTTP/1.1 408");
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dripping).await.expect("it drips for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_share_of_bodies_under_way() {
    let gateway = gateway_with(|limits| limits.streams_per_address_max = 3).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut c = sends(&gateway, "GET /events HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        c.reader.read_exact(&mut [0u8; 15]).await.unwrap();
        open.push(c);
    }
    open.push(sends(&gateway, "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 9\r\n\r\nx").await);
    let upload = "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 9\r\n\r\nx";
    until("the share is used up", || async {
        let mut c = gateway.connect().await;
        c.send(upload).await;
        let answer = tokio::time::timeout(Duration::from_millis(200), c.answer()).await;
        answer.is_ok_and(|a| a.unwrap().status == 429)
    })
    .await;
    let refused = gateway.get("/events").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    users_are_served(&gateway, 3).await;
    assert_eq!(gateway.connect().await.post("/", "short").await.status, 200, "what is there needs no share");
}
