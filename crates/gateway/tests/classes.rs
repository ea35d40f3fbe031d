//! Two classes of requests: under overload what the service calls less important is refused first, and hardly anything else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use pumasi_terms::class::{FieldIs, LessImportant};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

/// Of one after the other: 100 a second.
const WORK: Duration = Duration::from_millis(10);
const CAPACITY: f64 = 100.0;
const FOR_S: f64 = 5.0;

async fn one_at_a_time() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, place) = (listener.local_addr().unwrap(), Arc::new(Semaphore::new(1)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let place = Arc::clone(&place);
            tokio::spawn(async move {
                let mut reader = BufReader::new(stream);
                while read_message(&mut reader).await.is_some() {
                    let held = place.acquire().await.unwrap();
                    tokio::time::sleep(WORK).await;
                    drop(held);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.";
                    if reader.get_mut().write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// How many of them were answered, and how many asked.
async fn asks(gateway: SocketAddr, path: &'static str, fields: &'static str, per_s: f64) -> (u64, u64) {
    let begun = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    let count = (per_s * FOR_S) as u64;
    for n in 0..count {
        sleep_until(begun + Duration::from_secs_f64(n as f64 / per_s)).await;
        all.spawn(async move { Connection::open(gateway).await.get_with(path, fields).await.status });
    }
    let mut answered = 0;
    while let Some(status) = all.join_next().await {
        match status.unwrap() {
            200 => answered += 1,
            503 => {}
            other => panic!("{other}"),
        }
    }
    (answered, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upper_class_is_served_while_the_lower_one_grows_twelvefold() {
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[one_at_a_time().await]);
    route.admission.limit_max = 4;
    route.admission.limit_initial = 4;
    // Where the machine itself is late, nobody is refused for it.
    route.admission.wait_max_ms = 2_000;
    route.admission.less_important = LessImportant {
        paths: vec!["/feed".into()],
        headers: vec![FieldIs { name: "Sec-Purpose".into(), value: "prefetch".into() }],
    };
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let at = gateway.address;
    let prefetch = "sec-purpose:  Prefetch \r\n";
    // Half of what it can do, and a third of it in both kinds of the lower class together; then twelve times as much of those.
    let (upper, path, field) =
        tokio::join!(asks(at, "/", "", 50.0), asks(at, "/feed/1", "", 15.0), asks(at, "/x", prefetch, 15.0));
    assert_eq!((upper.0, path.0, field.0), (upper.1, path.1, field.1), "there is room for all");
    let (upper, path, field) =
        tokio::join!(asks(at, "/", "", 50.0), asks(at, "/feed/1", "", 180.0), asks(at, "/x", prefetch, 180.0));
    let part = upper.0 as f64 / upper.1 as f64;
    assert!(part >= 0.994, "upper {upper:?}, lower {path:?} and {field:?}");
    let goodput = (upper.0 + path.0 + field.0) as f64 / FOR_S;
    assert!(goodput >= 0.8 * CAPACITY, "{goodput}/s of {CAPACITY}");
    assert!(path.0 > 0 && field.0 > 0, "what is left goes to the lower class");
    let refused = (upper.1 - upper.0, path.1 + field.1 - path.0 - field.0);
    until("both classes are counted", || async {
        let report = gateway.control.meter(0).await.unwrap();
        let meters = report.windows.iter().filter_map(|w| w.services.get(&shop()));
        let (shed, lower) = meters.fold((0, 0), |(a, b), m| (a + m.shed, b + m.shed_less_important));
        (shed - lower, lower) == refused
    })
    .await;
}
