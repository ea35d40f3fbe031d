//! A service that moved: its users still come in at its former cloud, which stands at its front.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::clouds::Cloud;
use common::websocket::{HELLO, RESTART, rest, talker, upgraded};
use common::*;
use pumasi_route::Tenure;
use pumasi_route::keys::{KEYS_VERSION, Keys, ServiceKeys};
use pumasi_route::table::*;
use pumasi_route::tenure::Held;
use pumasi_terms::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// `city-b` owns the shop at epoch 2; `city-a`, which owned it at epoch 1, is an entrance.
struct Moved {
    a: Cloud,
    b: Cloud,
    old: Backend,
    new: Backend,
    revision: u64,
}

fn far() -> u64 {
    boot_ms() + 600_000
}

fn owner(address: SocketAddr, epoch: u64, entrances: &[&Cloud]) -> ServiceRoute {
    let entrances: BTreeSet<_> = entrances.iter().map(|c| c.name.clone()).collect();
    ServiceRoute { writes: Writes::Bound, epoch: Epoch(epoch), entrances, ..service(&[address]) }
}

fn front(of: &Cloud, epoch: u64) -> ServiceRoute {
    let role = Role::Front { owner: of.name.clone() };
    ServiceRoute { writes: Writes::Bound, epoch: Epoch(epoch), role, ..service(&[]) }
}

fn right(epoch: u64) -> Tenure {
    Tenure { epochs: [(shop(), Epoch(epoch))].into(), ..tenure(far()) }
}

fn held_at(epoch: u64) -> BTreeMap<ServiceName, Held> {
    [(shop(), Held { epoch: Epoch(epoch), until: BootMs(boot_ms() + 2_000), reads: false })].into()
}

async fn put(cloud: &Cloud, revision: u64, route: ServiceRoute, peers: &[&Cloud]) {
    let mut table = with(cloud.name.as_str(), revision, route);
    table.peers = peers.iter().map(|peer| (peer.name.clone(), peer.link())).collect();
    cloud.gateway.control.put_table(&table).await.unwrap();
}

impl Moved {
    async fn start() -> Self {
        let (a, b) = (Cloud::start("city-a").await, Cloud::start("city-b").await);
        let old = Backend::start("old", Conduct::Answer).await;
        let new = Backend::start("new", Conduct::Answer).await;
        let mut moved = Self { a, b, old, new, revision: 0 };
        moved.own(|_| {}).await;
        moved.b.gateway.control.put_tenure(&right(2)).await.unwrap();
        moved.front(|_| {}).await;
        moved
    }
    async fn own(&mut self, change: impl FnOnce(&mut ServiceRoute)) {
        self.revision += 1;
        let mut route = owner(self.new.address, 2, &[&self.a]);
        change(&mut route);
        put(&self.b, self.revision, route, &[&self.a]).await;
    }
    async fn front(&mut self, change: impl FnOnce(&mut ServiceRoute)) {
        self.revision += 1;
        let mut route = front(&self.b, 2);
        change(&mut route);
        put(&self.a, self.revision, route, &[&self.b]).await;
    }
    /// As it was before the move.
    async fn before(&mut self) {
        self.revision += 1;
        put(&self.a, self.revision, owner(self.old.address, 1, &[]), &[&self.b]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_sends_every_request_to_the_owner() {
    let moved = Moved::start().await;
    let mut c = moved.a.gateway.connect().await;
    for n in 0..5 {
        let read = c.get_with("/x", "Cookie: session=a\r\nPumasi-Entrance: 1\r\nX-Forwarded-For: 6.6.6.6\r\n").await;
        assert_eq!((read.status, read.backend(), read.field("pumasi-served-by")), (200, "new", Some("city-b")));
        let seen = read.body.to_ascii_lowercase();
        assert!(seen.contains("cookie: session=a\r\n") && !seen.contains("pumasi-"), "{seen}");
        assert!(
            seen.contains("x-forwarded-for: 127.0.0.1\r\n") && seen.contains("x-forwarded-proto: http\r\n"),
            "{seen}"
        );
        assert!(seen.contains("forwarded: for=127.0.0.1;proto=http;") && seen.contains(";by=_city-a"), "{seen}");
        assert_eq!(c.post("/", &"x".repeat(100_000 * n)).await.backend(), "new");
        assert_eq!(c.get("/admin").await.backend(), "new");
    }
    let chunked =
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert!(c.ask(&chunked).await.body.ends_with("hello"));
    assert_eq!((moved.old.seen(), moved.new.seen()), (0, 16));
    let key = pumasi_sense::meter::BackendKey::Front(moved.b.name.clone());
    until("the front counts them", || async {
        let report = moved.a.gateway.control.meter(0).await.unwrap();
        let services = report.windows.iter().filter_map(|w| w.services.get(&shop()));
        services.filter_map(|s| s.backends.get(&key)).map(|b| b.completed).sum::<u64>() == 16
    })
    .await;
    // A user is nobody's entrance.
    let forged = "Pumasi-Entrance: 1\r\nPumasi-Hop: 1\r\nPumasi-Service: shop\r\nPumasi-Epoch: 2\r\nX-Forwarded-For: 6.6.6.6\r\n";
    let direct = moved.b.gateway.connect().await.get_with("/", forged).await;
    assert_eq!((direct.status, direct.field("pumasi-served-by")), (200, Some("city-b")));
    assert!(!direct.body.contains("6.6.6.6") && !direct.body.to_ascii_lowercase().contains("pumasi-"), "{direct:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn held_requests_are_executed_once_and_by_the_new_owner() {
    let mut moved = Moved::start().await;
    moved.before().await;
    let control = moved.a.gateway.control.clone();
    control.put_tenure(&right(1)).await.unwrap();
    assert_eq!(moved.a.gateway.connect().await.post("/", "x").await.backend(), "old");
    control.put_tenure(&Tenure { held: held_at(1), ..right(1) }).await.unwrap();
    let users: Vec<_> = (0..50)
        .map(|n| {
            let address = moved.a.gateway.address;
            tokio::spawn(async move { Connection::open(address).await.post(&format!("/{n}"), "x").await })
        })
        .collect();
    until("all wait", || async { control.status().await.unwrap().held[0].waiting == 50 }).await;
    // The table alone sends them on, and what the tenure says no longer is no hindrance.
    moved.front(|_| {}).await;
    for user in users {
        let answer = user.await.unwrap();
        assert_eq!((answer.status, answer.backend()), (200, "new"), "{answer:?}");
    }
    control.put_tenure(&tenure(boot_ms())).await.unwrap();
    assert_eq!(moved.a.gateway.connect().await.post("/", "x").await.backend(), "new");
    assert_eq!((moved.old.seen(), moved.new.seen()), (1, 51));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_place_while_the_service_moves_is_served_by_the_owner() {
    let mut moved = Moved::start().await;
    moved.revision += 1;
    let mut route = owner(moved.old.address, 1, &[]);
    (route.admission.limit_initial, route.admission.limit_max) = (1, 1);
    moved.old.set(Conduct::Sleep { ms: 400 });
    put(&moved.a, moved.revision, route, &[&moved.b]).await;
    let address = moved.a.gateway.address;
    let get = || tokio::spawn(async move { Connection::open(address).await.get("/").await });
    let first = get();
    until("one is served", || async { moved.old.seen() == 1 }).await;
    let second = get();
    until("one waits", || async { moved.a.gateway.control.status().await.unwrap().services[0].queued == 1 }).await;
    moved.front(|_| {}).await;
    assert_eq!(second.await.unwrap().backend(), "new");
    assert_eq!(first.await.unwrap().backend(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whom_the_former_owner_turns_away_is_served_by_the_next() {
    let mut moved = Moved::start().await;
    // A request is under way to `city-b`, by a way that takes its time, while the service comes back.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far_end) = (relay.local_addr().unwrap(), moved.b.gateway.peer_address.unwrap());
    tokio::spawn(async move {
        while let Ok((mut user, _)) = relay.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let mut owner = tokio::net::TcpStream::connect(far_end).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut user, &mut owner).await;
            });
        }
    });
    let slow = PeerLink { gateway_address: near.to_string(), ..moved.b.link() };
    let mut table = with("city-a", 50, front(&moved.b, 2));
    table.peers.insert(moved.b.name.clone(), slow);
    moved.a.gateway.control.put_table(&table).await.unwrap();
    let address = moved.a.gateway.address;
    let reader = tokio::spawn(async move { Connection::open(address).await.get("/").await });
    let writer = tokio::spawn(async move { Connection::open(address).await.post("/", "x").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    put(&moved.a, 51, owner(moved.old.address, 3, &[&moved.b]), &[&moved.b]).await;
    let role = Role::Front { owner: moved.a.name.clone() };
    moved.own(|r| (r.role, r.epoch) = (role, Epoch(3))).await;
    assert_eq!(reader.await.unwrap().backend(), "old");
    let refused = writer.await.unwrap();
    assert_eq!((refused.status, refused.field("pumasi-outcome")), (503, None), "its body is gone");
    assert_eq!((moved.old.seen(), moved.new.seen()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_the_owner_says_so_once() {
    let mut moved = Moved::start().await;
    let ask = async |moved: &Moved| {
        let begun = Instant::now();
        for answer in [moved.a.gateway.get("/").await, moved.a.gateway.connect().await.post("/", "x").await] {
            assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{answer:?}");
            assert_eq!(answer.field("pumasi-outcome"), None, "it was not executed");
            assert!(answer.head.to_ascii_lowercase().find("pumasi-moved").is_none(), "{}", answer.head);
        }
        assert!(begun.elapsed() < Duration::from_millis(400), "it goes round in circles");
    };
    // Another epoch there; each the front of the other; not named as an entrance; no such service; nothing to write with.
    moved.own(|r| r.epoch = Epoch(3)).await;
    ask(&moved).await;
    let back = Role::Front { owner: moved.a.name.clone() };
    moved.own(|r| r.role = back).await;
    ask(&moved).await;
    moved.own(|r| r.entrances.clear()).await;
    ask(&moved).await;
    moved.revision += 1;
    let mut empty = table("city-b", moved.revision);
    empty.peers.insert(moved.a.name.clone(), moved.a.link());
    moved.b.gateway.control.put_table(&empty).await.unwrap();
    ask(&moved).await;
    assert_eq!((moved.old.seen(), moved.new.seen()), (0, 0));
    // At once when the tables agree.
    moved.own(|_| {}).await;
    assert_eq!(moved.a.gateway.connect().await.post("/", "x").await.backend(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_no_entrance_is_refused_and_nobody_makes_a_third_hop() {
    let moved = Moved::start().await;
    let c = Cloud::start("city-c").await;
    put(&c, 1, front(&moved.b, 2), &[&moved.b]).await;
    put(&moved.b, 50, owner(moved.new.address, 2, &[&moved.a]), &[&moved.a, &c]).await;
    assert_eq!(c.gateway.get("/").await.status, 503);
    // Of a front one cannot be the front, though it names one as its entrance.
    put(&c, 2, front(&moved.a, 2), &[&moved.a]).await;
    let entrances = [c.name.clone()].into();
    put(&moved.a, 50, ServiceRoute { entrances, ..front(&moved.b, 2) }, &[&moved.b, &c]).await;
    assert_eq!(c.gateway.get("/").await.status, 503);
    assert_eq!(c.gateway.connect().await.post("/", "x").await.status, 503);
    assert_eq!(moved.new.seen(), 0);
    assert_eq!(moved.a.gateway.get("/").await.backend(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_rented_instances_serve_no_entrance() {
    let mut moved = Moved::start().await;
    let c = Cloud::start("city-c").await;
    moved.own(|r| r.home_weight = Ppm(0)).await;
    let mut table = with("city-b", 50, owner(moved.new.address, 2, &[&moved.a]));
    table.peers = [(moved.a.name.clone(), moved.a.link()), (c.name.clone(), c.link())].into();
    let route = table.services.get_mut(&shop()).unwrap();
    route.home_weight = Ppm(0);
    route.leases.push(rents(&c));
    moved.b.gateway.control.put_table(&table).await.unwrap();
    for _ in 0..10 {
        assert_eq!(moved.a.gateway.get("/").await.backend(), "new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_write_is_sent_once_and_what_was_not_sent_goes_elsewhere() {
    let moved = Moved::start().await;
    moved.new.set(Conduct::Die);
    let mut c = moved.a.gateway.connect().await;
    let broken = c.post("/", "x").await;
    assert_eq!((broken.status, broken.field("pumasi-outcome")), (502, Some("unknown")), "{broken:?}");
    assert_eq!(moved.new.seen(), 1);
    assert_eq!(c.get("/").await.status, 502);
    assert_eq!(moved.new.seen(), 3, "the owner asks twice, the front does not ask again");
    // The right to write runs out under way.
    moved.new.set(Conduct::Sleep { ms: 300 });
    moved.b.gateway.control.put_tenure(&Tenure { until: Some(BootMs(boot_ms() + 150)), ..right(2) }).await.unwrap();
    let late = c.post("/", "x").await;
    assert_eq!((late.status, late.field("pumasi-outcome")), (503, Some("unknown")), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_not_reached_is_waited_for_and_found_again() {
    let mut moved = Moved::start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    moved.revision += 1;
    let mut table = with("city-a", moved.revision, front(&moved.b, 2));
    let wrong = PeerLink { gateway_address: nobody.to_string(), ..moved.b.link() };
    table.peers.insert(moved.b.name.clone(), wrong);
    moved.a.gateway.control.put_table(&table).await.unwrap();
    let begun = Instant::now();
    let refused = moved.a.gateway.connect().await.post("/", "x").await;
    assert_eq!((refused.status, refused.field("pumasi-outcome"), moved.new.seen()), (503, None, 0), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // Its right address comes while somebody waits.
    let address = moved.a.gateway.address;
    let waiting = tokio::spawn(async move { Connection::open(address).await.post("/", "x").await });
    moved.front(|_| {}).await;
    let answer = waiting.await.unwrap();
    assert!(answer.status == 200 || answer.field("pumasi-outcome").is_none(), "{answer:?}");
    until("the owner is found again", || async { moved.a.gateway.get("/").await.status == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_goes_through_a_front_and_ends_with_the_owners_right() {
    let mut moved = Moved::start().await;
    let talker = talker(HELLO).await;
    moved.own(|r| r.home = service(&[talker]).home).await;
    let web = upgraded(&moved.a.gateway, "websocket").await;
    until("both are open", || async { moved.b.gateway.control.status().await.unwrap().tunnels == 1 }).await;
    assert_eq!(moved.a.gateway.control.status().await.unwrap().tunnels, 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    moved.b.gateway.control.put_tenure(&Tenure { until: None, ..right(2) }).await.unwrap();
    assert_eq!(rest(web).await, [HELLO, RESTART].concat(), "once, and by the owner");
    until("none is left", || async { moved.a.gateway.control.status().await.unwrap().tunnels == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_goes_through_a_front() {
    let mut moved = Moved::start().await;
    // A user of HTTP/2, an application of HTTP/1.1.
    let mut user = h2::User::open(moved.a.gateway.address).await;
    let called = user.call("/x", "hello").await;
    assert_eq!((called.status, called.fields["x-backend"].as_bytes()), (200, &b"new"[..]), "{called:?}");
    // And HTTP/2 all of the way, both sides at one time.
    let instance = h2::Instance::start("new", 100).await;
    moved
        .own(|r| {
            r.protocol = Protocol::H2c;
            r.home = service(&[instance.address]).home;
            r.home[0].protocol = Protocol::H2c;
        })
        .await;
    moved.front(|r| r.protocol = Protocol::H2c).await;
    let called = user.call("/pkg.Shop/Buy", "hello").await;
    assert_eq!((called.status, called.trailers["grpc-status"].as_bytes()), (200, &b"0"[..]), "{called:?}");
    assert!(!called.body.contains("pumasi-"), "{}", called.body);
    let (pen, written) = h2::Pen::new();
    pen.write("hello").await;
    let mut answer = user.begin("/echo", written).await;
    assert_eq!(h2::piece(&mut answer).await.as_deref(), Some("hello"));
    pen.write("and").await;
    assert_eq!(h2::piece(&mut answer).await.as_deref(), Some("and"));
    // A stream that may write counts as under way, until it ends.
    let hold = Tenure { held: held_at(2), ..right(2) };
    moved.b.gateway.control.put_tenure(&hold).await.unwrap();
    assert_eq!(moved.b.gateway.control.status().await.unwrap().held[0].in_flight, 1);
    drop(pen);
    assert_eq!(h2::ended(answer).await.trailers["grpc-status"], "0");
    until("it is drained", || async { moved.b.gateway.control.status().await.unwrap().held[0].in_flight == 0 }).await;
}

fn db() -> Vec<DatasetName> {
    vec![DatasetName::parse("db").unwrap()]
}

/// `city-a` lends one instance to the owner, with a copy.
fn lends(moved: &Moved, instance_at: SocketAddr) -> RouteTable {
    let mut table = table("city-a", 100);
    table.peers.insert(moved.b.name.clone(), moved.b.link());
    let lease = LeaseRoute {
        borrower: moved.b.name.clone(),
        service: shop(),
        epoch: Epoch(2),
        hosts: vec![HOST.into()],
        aliases: Vec::new(),
        instances: vec![instance(instance_at)],
        expires_at: BootMs(far()),
        home_only: Vec::new(),
        safe_methods: Vec::new(),
        protocol: Default::default(),
        admission: Admission::default(),
        ticket_key: None,
        datasets: db(),
    };
    table.leases.insert(LeaseId::from_entropy(7), lease);
    table
}

fn rents(lender: &Cloud) -> LeaseBackend {
    LeaseBackend {
        lease: LeaseId::from_entropy(7),
        cloud: lender.name.clone(),
        instances: 1,
        weight: Ppm::WHOLE,
        draining: false,
        usable_until: BootMs(far()),
        alias: None,
        datasets: Vec::new(),
        ticket_key: None,
    }
}

const KEY: &str = "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f";

#[tokio::test(flavor = "multi_thread")]
async fn owners_with_the_same_key_read_each_others_cookies() {
    let mut moved = Moved::start().await;
    let with_data = |r: &mut ServiceRoute, key: Option<&str>| {
        r.position_generation = Some(Generation(4));
        r.position_key = key.map(str::to_owned);
    };
    // A cookie of `city-a`, with its own key and with the service's; and one that a front only hands on.
    let cookie_of = |answer: Answer| answer.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    moved.a.gateway.control.put_tenure(&right(1)).await.unwrap();
    let mut cookies = Vec::new();
    for key in [None, Some(KEY)] {
        moved.revision += 1;
        let mut route = owner(moved.old.address, 1, &[]);
        with_data(&mut route, key);
        put(&moved.a, moved.revision, route, &[&moved.b]).await;
        cookies.push(cookie_of(moved.a.gateway.connect().await.post("/", "x").await));
    }
    moved.own(|r| with_data(r, Some(KEY))).await;
    moved.front(|_| {}).await;
    let through = moved.a.gateway.connect().await.post("/", "x").await;
    assert_eq!(through.backend(), "new");
    cookies.push(cookie_of(through));
    // At `city-b`, who is ahead of the copy at `city-a` is served at home.
    let rented = Backend::start("rented", Conduct::Answer).await;
    moved.a.gateway.control.put_table(&lends(&moved, rented.address)).await.unwrap();
    let backend = LeaseBackend { datasets: db(), ..rents(&moved.a) };
    moved
        .own(|r| {
            with_data(r, Some(KEY));
            r.home_weight = Ppm(0);
            r.leases.push(backend);
        })
        .await;
    let at = Positions {
        leases: [(LeaseId::from_entropy(7), Position::new(Generation(4), 1))].into(),
        ..Positions::default()
    };
    moved.b.gateway.control.put_positions(&at).await.unwrap();
    let mut c = moved.b.gateway.connect().await;
    let mut by = Vec::new();
    for cookie in &cookies {
        by.push(c.get_with("/", &format!("Cookie: {cookie}\r\n")).await.backend().to_owned());
    }
    assert_eq!(by, ["rented", "new", "new"], "only what was signed with the service's key counts here");
}

const OLDER: &str = "f00102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f";

fn keys(positions: &[&str]) -> Keys {
    let of = ServiceKeys { positions: positions.iter().map(|k| (*k).to_owned()).collect(), tls: None };
    Keys { version: KEYS_VERSION, services: [(shop(), of)].into(), unknown: Default::default() }
}

async fn count(cloud: &Cloud, signature: &str) -> u64 {
    let metrics = cloud.gateway.control.metrics().await.unwrap();
    let name = format!("pumasi_gateway_position_cookies_total{{signature=\"{signature}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_the_owner_before_is_known_by_the_keys_that_were_told() {
    let mut moved = Moved::start().await;
    let has_data = |r: &mut ServiceRoute| r.position_generation = Some(Generation(4));
    // Two ownerships of city-a, each with a key of its own.
    moved.a.gateway.control.put_tenure(&right(1)).await.unwrap();
    moved.revision += 1;
    let mut route = owner(moved.old.address, 1, &[]);
    has_data(&mut route);
    put(&moved.a, moved.revision, route, &[&moved.b]).await;
    let mut cookies = Vec::new();
    for told in [&[OLDER][..], &[KEY, OLDER]] {
        moved.a.gateway.control.put_keys(&keys(told)).await.unwrap();
        let answer = moved.a.gateway.connect().await.post("/", "x").await;
        cookies.push(answer.field("set-cookie").unwrap().split(';').next().unwrap().to_owned());
    }
    let forged = cookies[1].replace("=1.", "=1.9");
    let rented = Backend::start("rented", Conduct::Answer).await;
    moved.a.gateway.control.put_table(&lends(&moved, rented.address)).await.unwrap();
    let backend = LeaseBackend { datasets: db(), ..rents(&moved.a) };
    moved
        .own(|r| {
            has_data(r);
            r.home_weight = Ppm(0);
            r.leases.push(backend);
        })
        .await;
    let at = Positions {
        leases: [(LeaseId::from_entropy(7), Position::new(Generation(4), 1))].into(),
        ..Positions::default()
    };
    moved.b.gateway.control.put_positions(&at).await.unwrap();
    let mut c = moved.b.gateway.connect().await;
    let mut by = async |told: &[&str]| {
        moved.b.gateway.control.put_keys(&keys(told)).await.unwrap();
        let mut by = Vec::new();
        for cookie in [&cookies[0], &cookies[1], &forged] {
            by.push(c.get_with("/", &format!("Cookie: {cookie}\r\n")).await.backend().to_owned());
        }
        by
    };
    // Who is ahead of the copy is served at home, if it is known who that is.
    assert_eq!(by(&[]).await, ["rented", "rented", "rented"]);
    assert_eq!(by(&[KEY, OLDER]).await, ["new", "new", "rented"]);
    assert_eq!(by(&[KEY]).await, ["rented", "new", "rented"], "a key that is not told any more is not read");
    assert_eq!((count(&moved.b, "read").await, count(&moved.b, "not_read").await), (3, 6));
    assert_eq!((count(&moved.a, "read").await, count(&moved.a, "not_read").await), (0, 0), "a front reads none");
}

/// One move, as two daemons drive it: held at the front and at the owner, drained, owned anew, and at the front.
async fn hand_over(from: &Cloud, to: &Cloud, instances: [SocketAddr; 2], epoch: u64, revision: u64) {
    let (giver, heir) = (&from.gateway.control, &to.gateway.control);
    heir.put_tenure(&Tenure { held: held_at(epoch), ..tenure(far()) }).await.unwrap();
    giver.put_tenure(&Tenure { held: held_at(epoch), ..right(epoch) }).await.unwrap();
    until("it is drained", || async { giver.status().await.unwrap().held[0].in_flight == 0 }).await;
    giver.put_tenure(&Tenure { held: held_at(epoch), epochs: Default::default(), ..right(epoch) }).await.unwrap();
    heir.put_tenure(&Tenure { held: held_at(epoch), ..right(epoch + 1) }).await.unwrap();
    put(to, revision, owner(instances[1], epoch + 1, &[from]), &[from]).await;
    put(from, revision, front(to, epoch + 1), &[to]).await;
    giver.put_tenure(&Tenure { epochs: Default::default(), ..right(epoch) }).await.unwrap();
    heir.put_tenure(&right(epoch + 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_moves_to_and_fro_and_each_write_is_executed_once() {
    let mut moved = Moved::start().await;
    moved.revision = 100;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let users: Vec<_> = (0..12)
        .map(|user| {
            let address = if user % 2 == 0 { moved.a.gateway.address } else { moved.b.gateway.address };
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut c = Connection::open(address).await;
                let (mut done, mut refused) = (Vec::new(), 0u32);
                for n in 0.. {
                    if stop.load(std::sync::atomic::Ordering::SeqCst) {
                        break;
                    }
                    let path = format!("/{user}/{n}");
                    // One that waits for a place at the former owner is told to come again.
                    let read = c.get("/").await;
                    refused += u32::from(read.status == 503);
                    assert!(read.status == 200 || read.status == 503, "{read:?}");
                    let answer = c.post(&path, "x").await;
                    match answer.status {
                        200 => done.push(path),
                        503 if answer.field("pumasi-outcome").is_none() => refused += 1,
                        _ => panic!("{answer:?}"),
                    }
                }
                (done, refused)
            })
        })
        .collect();
    let instances = [moved.old.address, moved.new.address];
    for turn in 0..20 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let (from, to) = if turn % 2 == 0 { (&moved.b, &moved.a) } else { (&moved.a, &moved.b) };
        let to_whom = if turn % 2 == 0 { [instances[1], instances[0]] } else { instances };
        hand_over(from, to, to_whom, 2 + turn, moved.revision + turn).await;
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let (mut done, mut refused) = (Vec::new(), 0);
    for user in users {
        let (paths, count) = user.await.unwrap();
        done.extend(paths);
        refused += count;
    }
    let mut executed: Vec<_> = [moved.old.paths(), moved.new.paths()].concat();
    executed.retain(|path| path != "/");
    executed.sort();
    done.sort();
    assert!(executed == done, "{} executed, {} answered", executed.len(), done.len());
    assert!(
        moved.old.seen() > 100 && moved.new.seen() > 100 && refused as usize * 20 < done.len(),
        "{refused} of {}",
        done.len()
    );
}

fn waits() -> Absent {
    Absent {
        reason: "waiting".into(),
        class: Some(pumasi_terms::service::RecoveryClass::Deferred),
        place: Some(4),
        of: Some(6),
        detail: "nobody serves shop now: class deferred, place 4 of 6, waits for 2 CPU".into(),
        retry_after_s: 10,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_owns_it_users_are_told_at_once_why_and_what_it_waits_for() {
    let mut moved = Moved::start().await;
    moved.front(|route| route.absent = Some(waits())).await;
    let mut c = moved.a.gateway.connect().await;
    for answer in [c.get("/").await, c.post("/", "x").await] {
        assert_eq!((answer.status, answer.field("retry-after")), (503, Some("10")), "{answer:?}");
        assert_eq!(answer.field("pumasi-absent"), Some("waiting"));
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((&body["reason"], &body["class"]), (&"waiting".into(), &"deferred".into()));
        assert_eq!((&body["place"], &body["of"]), (&4.into(), &6.into()));
        assert!(body["detail"].as_str().unwrap().contains("place 4 of 6"), "{body}");
    }
    assert_eq!(moved.new.seen(), 0);
    // It found an owner.
    moved.front(|_| {}).await;
    assert_eq!(c.post("/", "x").await.backend(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_owner_that_is_not_heard_its_gateway_may_still_answer_who_only_reads() {
    let mut moved = Moved::start().await;
    let silent = || Some(Absent { reason: Absent::SILENT.into(), ..waits() });
    moved.front(|route| route.absent = silent()).await;
    let mut c = moved.a.gateway.connect().await;
    assert_eq!(c.get("/").await.backend(), "new");
    let write = c.post("/", "x").await;
    assert_eq!(
        (write.status, write.field("pumasi-absent"), write.field("pumasi-outcome")),
        (503, Some("silent"), None)
    );
    // It does not answer: the next entrance is tried soon.
    let dead = Backend::start("dead", Conduct::Hang).await;
    let a = CloudName::parse("city-a").unwrap();
    moved.own(|route| *route = ServiceRoute { entrances: [a].into(), ..owner(dead.address, 2, &[]) }).await;
    let begun = Instant::now();
    let read = c.get("/").await;
    assert_eq!((read.status, read.field("pumasi-absent")), (503, Some("silent")), "{read:?}");
    assert!(begun.elapsed() < Duration::from_secs(5) && moved.new.seen() == 1, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_long_for_an_owner_that_does_not_answer_any_more() {
    let mut moved = Moved::start().await;
    let dead = Backend::start("dead", Conduct::Hang).await;
    moved.own(|route| *route = owner(dead.address, 2, &[])).await;
    moved
        .own(|route| {
            let a = CloudName::parse("city-a").unwrap();
            *route = ServiceRoute { entrances: [a].into(), ..owner(dead.address, 2, &[]) };
        })
        .await;
    let address = moved.a.gateway.address;
    let ask = |line: &'static str| {
        tokio::spawn(async move {
            let mut c = Connection::open(address).await;
            if line == "GET" { c.get("/").await } else { c.post("/", "x").await }
        })
    };
    let (reads, writes) = (ask("GET"), ask("POST"));
    until("both are under way", || async { dead.seen() == 2 }).await;
    moved.front(|route| route.absent = Some(Absent { reason: "silent".into(), ..waits() })).await;
    let begun = Instant::now();
    let (reads, writes) = (reads.await.unwrap(), writes.await.unwrap());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((reads.status, reads.field("pumasi-outcome")), (503, None), "{reads:?}");
    assert_eq!((writes.status, writes.field("pumasi-outcome")), (504, Some("unknown")), "{writes:?}");
}
