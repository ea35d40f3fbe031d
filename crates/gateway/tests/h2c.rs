//! Applications that speak HTTP/2 (`protocol: h2c`), as gRPC servers do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::h2::{Instance, Pen, User, ended, piece};
use common::*;
use pumasi_terms::Protocol;
use std::time::{Duration, Instant};

async fn before(instance: &Instance) -> Running {
    before_with(instance, config("city-a")).await
}

async fn before_with(instance: &Instance, config: pumasi_gateway::GatewayConfig) -> Running {
    let gateway = Running::start(config).await;
    let mut route = service(&[instance.address]);
    route.protocol = Protocol::H2c;
    route.home[0].protocol = Protocol::H2c;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_arrive_as_they_were_made_and_trailers_come_back() {
    let instance = Instance::start("one", 100).await;
    let gateway = before(&instance).await;
    let called = User::open(gateway.address).await.call("/pkg.Shop/Look", "hello").await;
    assert_eq!((called.status, called.trailers["grpc-status"].as_bytes()), (200, &b"0"[..]));
    assert_eq!((called.trailers["x-app"].as_bytes(), called.trailers.len()), (&b"own"[..], 2), "{called:?}");
    assert_eq!(called.fields["pumasi-served-by"], "city-a");
    let seen = &called.body;
    assert!(seen.starts_with("POST http://shop.example/pkg.Shop/Look HTTP/2.0\n"), "{seen}");
    assert!(seen.contains(r#""te": "trailers""#) && seen.contains(r#""x-forwarded-for": "127.0.0.1""#), "{seen}");
    assert!(!seen.contains("pumasi-") && !seen.contains(r#""host""#) && seen.ends_with("\nhello"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_http1_are_served_too() {
    let instance = Instance::start("one", 100).await;
    let gateway = before(&instance).await;
    let mut c = gateway.connect().await;
    let answer = c.get("/x").await;
    assert_eq!((answer.status, answer.backend()), (200, "one"));
    assert!(answer.body.starts_with("GET http://shop.example/x HTTP/2.0\n"), "{answer:?}");
    assert!(c.post("/x", "hello").await.body.ends_with("hello"));
    // There are no upgrades behind HTTP/2: it is a request as any other.
    let answer = c.get_with("/x", "Connection: upgrade\r\nUpgrade: websocket\r\n").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("upgrade"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_speak_at_one_time_and_hold_no_place() {
    let instance = Instance::start("one", 100).await;
    let gateway = before(&instance).await;
    let mut user = User::open(gateway.address).await;
    let (pen, written) = Pen::new();
    pen.write("hello").await;
    let began = Instant::now();
    let mut answer = user.begin("/echo", written).await;
    assert!(began.elapsed() < Duration::from_millis(400), "it waits for more: {:?}", began.elapsed());
    assert_eq!(piece(&mut answer).await.as_deref(), Some("hello"));
    for said in ["and", "so", "on"] {
        pen.write(said).await;
        assert_eq!(piece(&mut answer).await.as_deref(), Some(said));
    }
    let backend = gateway.control.status().await.unwrap().services[0].backends[0].clone();
    assert_eq!((backend.in_flight, backend.streams), (0, 1));
    drop(pen);
    assert_eq!(ended(answer).await.trailers["grpc-status"], "0");
    // One side at a time.
    let (pen, written) = Pen::new();
    let collecting = tokio::spawn(async move { ended(user.begin("/collect", written).await).await });
    for part in ["a", "b", "c"] {
        pen.write(part).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    drop(pen);
    assert_eq!(collecting.await.unwrap().body, "abc");
    assert_eq!(User::open(gateway.address).await.call("/count", "").await.body, "0 1 2 3 4 5 6 7 8 9 ");
    until("nothing is left", || async {
        let backend = gateway.control.status().await.unwrap().services[0].backends[0].clone();
        (backend.in_flight, backend.streams) == (0, 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_and_another_one_what_it_does_not_take() {
    let instance = Instance::start("one", 10).await;
    let gateway = before(&instance).await;
    let mut user = User::open(gateway.address).await;
    for _ in 0..20 {
        assert_eq!(user.call("/", "x").await.status, 200);
    }
    assert_eq!(instance.connections(), 1);
    let mut going = Vec::new();
    for _ in 0..35 {
        let (pen, written) = Pen::new();
        pen.write("x").await;
        let mut answer = user.begin("/echo", written).await;
        assert_eq!(piece(&mut answer).await.as_deref(), Some("x"));
        going.push((pen, answer));
    }
    assert_eq!(user.call("/", "x").await.status, 200);
    assert_eq!(instance.connections(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_in_nobodys_way() {
    let instance = Instance::start("one", 100).await;
    let gateway = before(&instance).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        let (pen, written) = Pen::new();
        drop(pen);
        held.push(User::open(gateway.address).await.begin("/flood", written).await);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut user = User::open(gateway.address).await;
    for _ in 0..50 {
        let called = tokio::time::timeout(Duration::from_secs(5), user.call("/", "x")).await;
        assert_eq!(called.expect("others wait for those who do not read").status, 200);
    }
    assert_eq!(instance.connections(), 1);
    assert_eq!(held.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_say_nothing_are_in_nobodys_way_and_come_to_an_end() {
    let instance = Instance::start("one", 100).await;
    let mut config = config("city-a");
    (config.limits.body_idle_ms, config.limits.stall_ms) = (600, 600);
    let gateway = before_with(&instance, config).await;
    let mut silent = Vec::new();
    for path in ["/collect", "/late"].repeat(15) {
        let (pen, written) = Pen::new();
        pen.write("x").await;
        let mut user = User::open(gateway.address).await;
        silent.push((pen, tokio::spawn(async move { user.begin(path, written).await })));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut user = User::open(gateway.address).await;
    let began = Instant::now();
    for _ in 0..30 {
        assert_eq!(user.call("/", "x").await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    // Who listens, and is told something now and then, is not silent.
    let (pen, written) = Pen::new();
    pen.write("x").await;
    let mut answer = user.begin("/echo", written).await;
    for _ in 0..8 {
        assert_eq!(piece(&mut answer).await.as_deref(), Some("x"));
        tokio::time::sleep(Duration::from_millis(200)).await;
        pen.write("x").await;
    }
    for (pen, asking) in silent {
        let answer = asking.await.unwrap();
        match answer.status().as_u16() {
            200 => assert!(http_body_util::BodyExt::collect(answer.into_body()).await.is_err()),
            status => assert_eq!(status, 400),
        }
        drop(pen);
    }
    assert_eq!(gateway.control.status().await.unwrap().services[0].backends[0].in_flight, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_not_there_costs_no_call() {
    let (gone, there) = (Instance::start("gone", 100).await, Instance::start("there", 100).await);
    let address = gone.address;
    drop(gone);
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[address, there.address]);
    route.protocol = Protocol::H2c;
    route.home.iter_mut().for_each(|h| h.protocol = Protocol::H2c);
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let mut user = User::open(gateway.address).await;
    for _ in 0..20 {
        let called = user.call("/x", "hello").await;
        assert_eq!((called.status, called.fields["x-backend"].as_bytes()), (200, &b"there"[..]));
        assert!(called.body.contains("shop.example") && called.body.ends_with("hello"), "{called:?}");
    }
}
