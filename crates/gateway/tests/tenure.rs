//! What a cloud may write: only within the right that its daemon told last, and not while the service is handed over.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::websocket::{HELLO, RESTART, rest, talker, upgraded};
use common::*;
use pumasi_route::Tenure;
use pumasi_route::table::*;
use pumasi_terms::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

fn bound(home: std::net::SocketAddr) -> ServiceRoute {
    ServiceRoute { writes: Writes::Bound, ..service(&[home]) }
}

async fn gateway_of(route: ServiceRoute) -> Running {
    let gateway = Running::start(config("city-a")).await;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    gateway
}

/// A user who writes in the background.
fn posting(gateway: &Running, path: &str) -> tokio::task::JoinHandle<Answer> {
    let (address, path) = (gateway.address, path.to_owned());
    tokio::spawn(async move { Connection::open(address).await.post(&path, "x").await })
}

async fn waiting(gateway: &Running, count: u32) {
    until("so many wait", || async {
        gateway.control.status().await.unwrap().held.first().is_some_and(|h| h.waiting == count)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_service_is_written_as_its_tenure_says() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = gateway_of(bound(backend.address)).await;
    let mut c = gateway.connect().await;
    let far = boot_ms() + 600_000;
    let told = tenure(far);
    for (word, status) in [
        (None, 503),
        (Some(told.clone()), 200),
        (Some(Tenure { epochs: [(shop(), Epoch(2))].into(), ..told.clone() }), 503),
        (Some(Tenure { epochs: Default::default(), ..told.clone() }), 503),
        (Some(Tenure { until: None, ..told.clone() }), 503),
        (Some(tenure(boot_ms())), 503),
    ] {
        if let Some(word) = word {
            let now = Tenure { at: BootMs(boot_ms()), ..word };
            gateway.control.put_tenure(&now).await.unwrap();
        }
        assert_eq!(c.post("/", "x").await.status, status);
        assert_eq!(c.get("/admin").await.status, status, "a path that writes");
        assert_eq!(c.get("/").await.status, 200);
    }
    gateway.control.put_tenure(&tenure(far)).await.unwrap();
    // Said before the last one, for the future, in another version: what was said stands.
    for wrong in [
        Tenure { at: BootMs(1), until: None, ..told.clone() },
        Tenure { at: BootMs(far), until: None, ..told.clone() },
        Tenure { version: 2, until: None, ..told.clone() },
    ] {
        gateway.control.put_tenure(&wrong).await.unwrap_err();
        assert_eq!(c.post("/", "x").await.status, 200, "{wrong:?}");
    }
    // A table of another epoch waits for a tenure of the same.
    gateway
        .control
        .put_table(&with("city-a", 2, ServiceRoute { epoch: Epoch(2), ..bound(backend.address) }))
        .await
        .unwrap();
    assert_eq!(c.post("/", "x").await.status, 503);
    let next = Tenure { epochs: [(shop(), Epoch(2))].into(), ..tenure(far) };
    gateway.control.put_tenure(&next).await.unwrap();
    assert_eq!(c.post("/", "x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_requests_go_on_in_their_order_when_the_hold_is_lifted() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let mut route = bound(backend.address);
    // One after another, so that the order is seen.
    (route.admission.limit_initial, route.admission.limit_max) = (1, 1);
    let gateway = gateway_of(route).await;
    gateway.control.put_tenure(&held_for(2_000)).await.unwrap();
    let mut users = Vec::new();
    for n in 0..20 {
        users.push(posting(&gateway, &format!("/{n}")));
        waiting(&gateway, n + 1).await;
    }
    assert_eq!(gateway.get("/").await.status, 200, "who reads goes on as ever");
    assert_eq!(backend.seen(), 1);
    let order = Arc::new(AtomicU32::new(0));
    let users = users.into_iter().map(|user| {
        let order = order.clone();
        tokio::spawn(async move { (user.await.unwrap(), order.fetch_add(1, Ordering::SeqCst)) })
    });
    let users: Vec<_> = users.collect();
    gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
    for user in users {
        assert_eq!(user.await.unwrap().0.status, 200);
    }
    assert_eq!(backend.seen(), 21, "each was executed once");
    assert_eq!(backend.paths()[1..], (0..20).map(|n| format!("/{n}")).collect::<Vec<_>>(), "as they came");
    assert_eq!(gateway.control.status().await.unwrap().held, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_runs_out_refuses_and_lets_nobody_in() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = gateway_of(service(&[backend.address])).await;
    gateway.control.put_tenure(&held_for(300)).await.unwrap();
    let user = posting(&gateway, "/");
    waiting(&gateway, 1).await;
    // Told again, it grows no longer than the first message allows.
    let begun = Instant::now();
    let answer = user.await.unwrap();
    assert_eq!((answer.status, answer.field("retry-after"), answer.field("pumasi-outcome")), (503, Some("1"), None));
    assert!(begun.elapsed() < Duration::from_millis(1_900) && answer.body.contains("held"), "{answer:?}");
    let late = gateway.connect().await.post("/", "x").await;
    assert_eq!((late.status, backend.seen()), (503, 0), "no clock ends a hold");
    gateway.control.put_tenure(&held_for(600_000)).await.unwrap();
    let begun = Instant::now();
    assert_eq!(gateway.connect().await.post("/", "x").await.status, 503);
    assert!(begun.elapsed() < Duration::from_millis(2_500), "it is bounded, whatever the message says");
    gateway.control.put_tenure(&tenure(boot_ms())).await.unwrap();
    assert_eq!(gateway.connect().await.post("/", "x").await.status, 200, "an unbound service needs no right");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_in_before_a_hold_is_counted_until_its_answer_is_out() {
    let backend = Backend::start("one", Conduct::Sleep { ms: 300 }).await;
    let gateway = gateway_of(bound(backend.address)).await;
    gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
    let user = posting(&gateway, "/");
    let reader = tokio::spawn({
        let address = gateway.address;
        async move { Connection::open(address).await.get("/").await }
    });
    until("both are there", || async { backend.seen() == 2 }).await;
    gateway.control.put_tenure(&held_for(2_000)).await.unwrap();
    let held = gateway.control.status().await.unwrap().held.remove(0);
    assert_eq!((held.service, held.in_flight, held.waiting), (shop(), 1, 0), "readers do not count");
    assert_eq!(user.await.unwrap().status, 200, "it ends in peace");
    until("it is drained", || async { gateway.control.status().await.unwrap().held[0].in_flight == 0 }).await;
    assert_eq!(reader.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_that_wait_are_bounded() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let mut config = config("city-a");
    config.limits.connections_per_address_max = 2_000;
    let gateway = Running::start(config).await;
    let mut route = bound(backend.address);
    (route.admission.queue_max, route.admission.wait_max_ms) = (2_000, 20_000);
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    gateway.control.put_tenure(&held_for(2_000)).await.unwrap();
    let users: Vec<_> = (0..1_000).map(|_| posting(&gateway, "/")).collect();
    waiting(&gateway, 512).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
    let (mut served, mut refused) = (0, 0);
    for user in users {
        match user.await.unwrap().status {
            200 => served += 1,
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused > 0 && served >= 512 && served + refused == 1_000, "{served} served, {refused} refused");
    assert_eq!(backend.seen(), served, "those that were refused were not executed");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgraded_connections_end_with_the_right_or_at_a_hold() {
    let gateway = gateway_of(bound(talker(HELLO).await)).await;
    for word in [
        || tenure(boot_ms() + 100),
        || held_for(500),
        || Tenure { epochs: Default::default(), ..tenure(boot_ms() + 600_000) },
    ] {
        gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
        let (web, raw) = (upgraded(&gateway, "websocket").await, upgraded(&gateway, "echo").await);
        until("both are open", || async { gateway.control.status().await.unwrap().tunnels == 2 }).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        gateway.control.put_tenure(&word()).await.unwrap();
        assert_eq!(rest(web).await, [HELLO, RESTART].concat(), "a user of WebSocket is told to come again");
        assert_eq!(rest(raw).await, HELLO);
        until("none is left", || async {
            let status = gateway.control.status().await.unwrap();
            status.tunnels == 0 && status.held.iter().all(|h| h.in_flight == 0)
        })
        .await;
    }
    // Renewals leave them alone.
    gateway.control.put_tenure(&tenure(boot_ms() + 200)).await.unwrap();
    let mut web = upgraded(&gateway, "websocket").await;
    for _ in 0..6 {
        gateway.control.put_tenure(&tenure(boot_ms() + 200)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(gateway.control.status().await.unwrap().tunnels, 1);
    web.send("x").await;
    assert_eq!(rest(web).await, [HELLO, RESTART].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_word_of_ours_gets_into_a_frame() {
    let gateway = gateway_of(bound(talker(b"\x82\x7e\x01\x00half").await)).await;
    gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
    let web = upgraded(&gateway, "websocket").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    gateway.control.put_tenure(&held_for(500)).await.unwrap();
    assert_eq!(rest(web).await, b"\x82\x7e\x01\x00half");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_upgrade_waits_like_a_write() {
    let gateway = gateway_of(service(&[talker(HELLO).await])).await;
    gateway.control.put_tenure(&held_for(2_000)).await.unwrap();
    let opening = async { upgraded(&gateway, "websocket").await };
    let lifting = async {
        waiting(&gateway, 1).await;
        gateway.control.put_tenure(&tenure(boot_ms())).await.unwrap();
    };
    let (_open, ()) = tokio::join!(opening, lifting);
    assert_eq!(gateway.control.status().await.unwrap().tunnels, 1);
}
