//! The gateway as a process of its own: killed, started again, told to stop.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pumasi_gateway::{CONFIG_FILE, ControlClient};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const DIR: &str = "PUMASI_GATEWAY_TEST_DIR";

/// Not a test: what the tests below start as a child process.
#[test]
fn child() {
    if let Some(dir) = std::env::var_os(DIR) {
        pumasi_gateway::gateway_main(Path::new(&dir));
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn ended(mut child: Child) -> std::process::ExitStatus {
    tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_comes_back_with_its_table_and_a_stopped_one_finishes_first() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(CONFIG_FILE), serde_json::to_vec(&config("city-a")).unwrap()).unwrap();
    let control = ControlClient::new(dir.path());
    let mut first = spawn(dir.path());
    status_of(&control).await;
    control.put_table(&with("city-a", 3, service(&[backend.address]))).await.unwrap();
    let run = control.meter(0).await.unwrap().gateway_run;
    // Two at once in one directory would take each other's control socket.
    ended(spawn(dir.path())).await;
    assert_eq!(control.status().await.unwrap().pid, first.id());
    first.kill().unwrap();
    ended(first).await;

    let second = spawn(dir.path());
    until("it answers", || async { control.status().await.is_ok() }).await;
    let status = status_of(&control).await;
    assert_eq!(status.table_revision, 3);
    assert_ne!(control.meter(0).await.unwrap().gateway_run, run);
    let mut c = Connection::open(status.listening[0]).await;
    assert_eq!(c.get("/").await.backend(), "one");

    backend.set(Conduct::Sleep { ms: 300 });
    c.send("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\nhi").await;
    until("it is in flight", || async { control.status().await.unwrap().services[0].backends[0].in_flight == 1 }).await;
    kill(Pid::from_raw(second.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(c.answer().await.unwrap().status, 200, "what was in flight is answered");
    ended(second).await;
    assert!(tokio::net::TcpStream::connect(status.listening[0]).await.is_err());
}

/// Asks over new connections, one after another, until it is told to stop; how often it was answered.
async fn new_users(address: std::net::SocketAddr, stop: std::sync::Arc<std::sync::atomic::AtomicBool>) -> u32 {
    let mut answered = 0;
    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
        let stream = tokio::net::TcpStream::connect(address).await.expect("a new user is refused");
        drop(stream);
        let answer = Connection::open(address).await.get("/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answered += 1;
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_ends_hands_its_listeners_over_and_nobody_is_refused() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("city-a");
    config.limits.stop_ms = 3_000;
    std::fs::write(dir.path().join(CONFIG_FILE), serde_json::to_vec(&config).unwrap()).unwrap();
    let control = ControlClient::new(dir.path());
    let first = spawn(dir.path());
    let address = status_of(&control).await.listening[0];
    control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    // Somebody whose request is under way when the older one ends.
    backend.set(Conduct::Sleep { ms: 2_000 });
    let mut slow = Connection::open(address).await;
    slow.send("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\nhi").await;
    until("it is in flight", || async { control.status().await.unwrap().services[0].backends[0].in_flight >= 1 }).await;
    backend.set(Conduct::Answer);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let users: Vec<_> = (0..4).map(|_| tokio::spawn(new_users(address, stop.clone()))).collect();
    let pid = first.id();
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
    until("it makes way", || async { control.status().await.is_err() }).await;
    let second = spawn(dir.path());
    until("the second one answers", || async { control.status().await.is_ok_and(|s| s.pid == second.id()) }).await;
    assert_eq!(status_of(&control).await.listening[0], address);
    assert_eq!(slow.answer().await.unwrap().status, 200, "what was in flight is answered");
    assert!(ended(first).await.success());
    assert!(control.status().await.is_ok_and(|s| s.pid == second.id()), "the older one took nothing along");
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    for user in users {
        assert!(user.await.unwrap() > 10);
    }
    // Without a successor it ends all the same.
    kill(Pid::from_raw(second.id() as i32), Signal::SIGTERM).unwrap();
    assert!(ended(second).await.success());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn boot_times_of_another_boot_are_void() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[backend.address]);
    route.writes = pumasi_route::table::Writes::Bound;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    let void = pumasi_route::Tenure { boot_id: "another".into(), ..tenure(boot_ms() + 600_000) };
    assert!(gateway.control.put_tenure(&void).await.unwrap_err().to_string().contains("another boot"));
    assert_eq!(gateway.connect().await.post("/", "x").await.status, 503);
    gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
    assert_eq!(gateway.connect().await.post("/", "x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_started_again_writes_nothing_that_is_bound_until_it_is_told() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[backend.address]);
    route.writes = pumasi_route::table::Writes::Bound;
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
    assert_eq!(gateway.connect().await.post("/", "x").await.status, 200);
    let gateway = Running::start_in(gateway.stop().await, config("city-a")).await;
    assert_eq!(gateway.get("/").await.status, 200, "the home still serves");
    let refused = gateway.connect().await.post("/", "x").await;
    assert_eq!((refused.status, refused.field("pumasi-outcome")), (503, None), "who may write is not known any more");
    gateway.control.put_tenure(&tenure(boot_ms() + 600_000)).await.unwrap();
    assert_eq!(gateway.connect().await.post("/", "x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_share_one_address() {
    let backend = Backend::start("one", Conduct::Answer).await;
    // Kept and never listened at: the workers may share the port, and no other test is given it.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.set_reuseport(true).unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut config = config("city-a");
    config.workers = 2;
    config.listeners[0].address = held.local_addr().unwrap();
    let gateway = Running::start(config).await;
    gateway.control.put_table(&with("city-a", 1, service(&[backend.address]))).await.unwrap();
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    let text = gateway.control.metrics().await.unwrap();
    assert!(text.contains("pumasi_gateway_table_revision 1"), "{text}");
}
