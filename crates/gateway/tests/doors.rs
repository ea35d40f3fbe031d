//! Instances behind doors: all of them have one address, and only the door tells them apart.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::*;
use pumasi_route::table::HomeBackend;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// As of every instance in a network of its own. Nothing listens there on this host.
const INSIDE: &str = "127.0.0.1:1";

/// A shim that connects to `server` for whoever knocks, until it is killed.
struct Shim {
    door: PathBuf,
    knocks: Arc<AtomicU32>,
    dead: Arc<AtomicBool>,
}

impl Shim {
    fn at(door: PathBuf, server: SocketAddr) -> Self {
        let listener = pumasi_door::listen(&door).unwrap();
        let (knocks, dead) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (knocks.clone(), dead.clone());
        std::thread::spawn(move || {
            for knock in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let socket = std::net::TcpStream::connect(server).ok();
                let word = if socket.is_some() { pumasi_door::Answer::Socket } else { pumasi_door::Answer::Refused };
                let _ = pumasi_door::answer(&knock, word, socket.as_ref().map(AsFd::as_fd));
            }
        });
        Self { door, knocks, dead }
    }

    fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        drop(std::os::unix::net::UnixStream::connect(&self.door));
        while std::os::unix::net::UnixStream::connect(&self.door).is_ok() {
            std::thread::yield_now();
        }
    }
}

fn behind(number: u128, door: &Path) -> HomeBackend {
    HomeBackend {
        instance: pumasi_terms::InstanceId::from_entropy(number),
        address: INSIDE.parse().unwrap(),
        door: Some(door.to_owned()),
        protocol: Default::default(),
        generation: 1,
        draining: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_kind_reach_the_instance_whose_door_it_is() {
    let (one, two) = (Backend::start("one", Conduct::Answer).await, Backend::start("two", Conduct::Answer).await);
    let dir = tempfile::tempdir().unwrap();
    let shims = [("a", one.address), ("b", two.address)].map(|(name, at)| Shim::at(dir.path().join(name), at));
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[]);
    route.home = vec![behind(1, &shims[0].door), behind(2, &shims[1].door)];
    gateway.control.put_table(&with("city-a", 1, route.clone())).await.unwrap();
    for number in 0..40 {
        let mut user = gateway.connect().await;
        let got = user.get_with("/x", &format!("Cookie: session={number}\r\n")).await;
        assert_eq!(got.status, 200, "{got:?}");
        assert_eq!(user.post("/x", "body").await.status, 200);
    }
    // Kept connections are kept by door: with one pool for the one address, one of them would have got all.
    assert!(one.seen() > 0 && two.seen() > 0, "{} {}", one.seen(), two.seen());
    let knocks: u32 = shims.iter().map(|s| s.knocks.load(Ordering::SeqCst)).sum();
    // One for each body, which nobody else may follow; the requests without one share.
    assert!((40..60).contains(&knocks), "connections are kept: {knocks} knocks for 80 requests");

    // Only one is left in the table: nothing may go by a connection that was kept to the other.
    route.home.remove(1);
    gateway.control.put_table(&with("city-a", 2, route)).await.unwrap();
    let before = two.seen();
    for number in 0..20 {
        let mut user = gateway.connect().await;
        assert_eq!(user.get_with("/x", &format!("Cookie: session={number}\r\n")).await.status, 200);
    }
    assert_eq!(two.seen(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_shim_is_a_refused_connection_until_it_is_revived() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let dir = tempfile::tempdir().unwrap();
    let shim = Shim::at(dir.path().join("door"), backend.address);
    let gateway = Running::start(config("city-a")).await;
    let mut route = service(&[]);
    route.home = vec![behind(1, &shim.door)];
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    assert_eq!(gateway.connect().await.get_with("/x", "Connection: close\r\n").await.status, 200);
    shim.kill();
    // The kept connection goes with the instance, as it does when the kernel ends its processes.
    drop(backend);
    let gone = gateway.get("/x").await;
    assert_eq!(gone.status, 503, "{gone:?}");
    let again = Backend::start("again", Conduct::Answer).await;
    let _shim = Shim::at(shim.door.clone(), again.address);
    until("the revived instance serves", || async { gateway.get("/x").await.status == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_version_1_is_still_taken() {
    let backend = Backend::start("one", Conduct::Answer).await;
    let gateway = Running::start(config("city-a")).await;
    let mut table = with("city-a", 1, service(&[backend.address]));
    table.version = 1;
    gateway.control.put_table(&table).await.unwrap();
    assert_eq!(gateway.get("/x").await.status, 200);
}
