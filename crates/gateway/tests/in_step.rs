//! A service that is kept in step: an answer leaves when the copies that the table names have what was written before it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use pumasi_route::table::*;
use pumasi_terms::sync::SyncReads;
use pumasi_terms::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const GENERATION: Generation = Generation(4);

fn lease(n: u128) -> LeaseId {
    LeaseId::from_entropy(n)
}

fn kept(home: std::net::SocketAddr, in_step: InStep) -> ServiceRoute {
    ServiceRoute { in_step: Some(in_step), position_generation: Some(GENERATION), ..service(&[home]) }
}

fn by(leases: &[u128]) -> InStep {
    InStep { leases: leases.iter().map(|n| lease(*n)).collect(), wait_ms: 5_000, ..InStep::default() }
}

async fn put(gateway: &Running, revision: u64, route: ServiceRoute) {
    gateway.control.put_table(&with("city-a", revision, route)).await.unwrap();
}

fn at(copies: &[(u128, u64)]) -> Positions {
    let in_step = copies.iter().map(|(n, ms)| (lease(*n), Position::new(GENERATION, *ms))).collect();
    Positions { in_step, ..Positions::default() }
}

fn posting(gateway: &Running) -> tokio::task::JoinHandle<Answer> {
    let address = gateway.address;
    tokio::spawn(async move { Connection::open(address).await.post("/", "x").await })
}

/// The instant that answers wait for.
async fn wanted(gateway: &Running, after: u64) -> (u64, u64) {
    loop {
        let report = gateway.control.wanted(Some(after)).await.unwrap();
        if let Some(at) = report.services.get(&shop()) {
            return (report.last, at.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_every_copy_and_is_wanted_at_once() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    put(&gateway, 1, kept(backend.address, by(&[1, 2]))).await;
    assert_eq!(gateway.control.wanted(None).await.unwrap().services, BTreeMap::new());
    let (before, begun) = (boot_ms(), Instant::now());
    let user = posting(&gateway);
    let (last, ms) = wanted(&gateway, 0).await;
    assert!(ms > before && ms <= boot_ms() + 1 && begun.elapsed() < Duration::from_millis(900), "{ms}");
    assert_eq!(gateway.get("/").await.status, 200, "who reads sees what there is");
    for copies in [vec![(1, ms)], vec![(2, ms - 1)], vec![(3, ms + 1_000)]] {
        gateway.control.put_positions(&at(&copies)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!user.is_finished(), "{copies:?}");
    }
    gateway.control.put_positions(&at(&[(2, ms)])).await.unwrap();
    let answer = user.await.unwrap();
    assert_eq!((answer.status, answer.backend()), (200, "one"));
    // The next one waits anew, with whoever came with it, and is told under a later number.
    let users: Vec<_> = (0..20).map(|_| posting(&gateway)).collect();
    // Places are not held while answers wait: an instance begins with eight.
    until("all were executed", || async { backend.seen() == 22 }).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (later, ms) = wanted(&gateway, last).await;
    assert!(later > last);
    gateway.control.put_positions(&at(&[(1, ms), (2, ms)])).await.unwrap();
    for user in users {
        assert_eq!(user.await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_confirms_is_answered_as_unknown() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    put(&gateway, 1, kept(backend.address, InStep { wait_ms: 200, ..by(&[1]) })).await;
    let begun = Instant::now();
    let answer = gateway.connect().await.post("/", "x").await;
    assert_eq!((answer.status, answer.field("pumasi-outcome")), (504, Some("unknown")), "{answer:?}");
    assert!(answer.body.contains("within 200 ms") && begun.elapsed() >= Duration::from_millis(200), "{answer:?}");
    assert_eq!(answer.field("set-cookie"), None, "no position is given out");
    // Another clock's positions are none of this one's.
    let strange =
        Positions { in_step: [(lease(1), Position::new(Generation(3), u64::MAX))].into(), ..Positions::default() };
    gateway.control.put_positions(&strange).await.unwrap();
    assert_eq!(gateway.connect().await.post("/", "x").await.status, 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_the_moment_says_for_whom_an_answer_waits() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    // Let in while the service was not kept in step, answered when it is.
    backend.set(Conduct::Sleep { ms: 300 });
    put(&gateway, 1, ServiceRoute { in_step: None, ..kept(backend.address, by(&[])) }).await;
    let user = posting(&gateway);
    until("it is there", || async { backend.seen() == 1 }).await;
    put(&gateway, 2, kept(backend.address, by(&[1]))).await;
    let (_, ms) = wanted(&gateway, 0).await;
    assert!(!user.is_finished());
    // A second one comes in: it is waited for from now on.
    put(&gateway, 3, kept(backend.address, by(&[1, 2]))).await;
    gateway.control.put_positions(&at(&[(1, ms)])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!user.is_finished());
    // And is left out again.
    put(&gateway, 4, kept(backend.address, by(&[1]))).await;
    assert_eq!(user.await.unwrap().status, 200);
    // With nobody to wait for, only where the service may be written alone.
    backend.set(Conduct::Answer);
    put(&gateway, 5, kept(backend.address, by(&[]))).await;
    let refused = gateway.connect().await.post("/", "x").await;
    assert_eq!((refused.status, refused.field("pumasi-outcome"), backend.seen()), (503, None, 1), "not executed");
    assert!(refused.body.contains("no-standby"), "{refused:?}");
    put(&gateway, 6, kept(backend.address, InStep { shut: true, ..by(&[1]) })).await;
    assert_eq!((gateway.connect().await.post("/", "x").await.status, backend.seen()), (503, 1));
    put(&gateway, 7, kept(backend.address, InStep { alone: true, ..by(&[]) })).await;
    assert_eq!(gateway.connect().await.post("/", "x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_waits_does_not_leave_after_the_right_to_write_is_over() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    put(&gateway, 1, ServiceRoute { writes: Writes::Bound, ..kept(backend.address, by(&[1])) }).await;
    gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
    let user = posting(&gateway);
    let (_, ms) = wanted(&gateway, 0).await;
    gateway.control.put_tenure(&tenure(boot_ms())).await.unwrap();
    gateway.control.put_positions(&at(&[(1, ms)])).await.unwrap();
    let answer = user.await.unwrap();
    assert_eq!((answer.status, answer.field("pumasi-outcome")), (503, Some("unknown")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_reads_wait_as_well_and_upgrades_are_refused() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    put(&gateway, 1, kept(backend.address, InStep { reads: SyncReads::Committed, wait_ms: 300, ..by(&[1]) })).await;
    let late = gateway.get("/").await;
    assert_eq!((late.status, late.field("pumasi-outcome")), (503, None), "{late:?}");
    let address = gateway.address;
    let user = tokio::spawn(async move { Connection::open(address).await.get("/").await });
    let (last, _) = wanted(&gateway, 0).await;
    let (_, ms) = wanted(&gateway, last - 1).await;
    gateway.control.put_positions(&at(&[(1, ms)])).await.unwrap();
    let answer = user.await.unwrap();
    assert!(answer.status == 200 || answer.body.contains("not-committed"), "{answer:?}");
    gateway.control.put_positions(&at(&[(1, u64::MAX)])).await.unwrap();
    assert_eq!(gateway.get("/").await.status, 200);
    let fields = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n";
    let seen = backend.seen();
    assert_eq!(gateway.connect().await.get_with("/", fields).await.status, 501);
    assert_eq!(backend.seen(), seen, "not executed");
}
