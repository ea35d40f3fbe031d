//! Two clouds: leases through mutual TLS, refusals, positions, aliases.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::clouds::{Cloud, now};
use common::*;
use pumasi_gateway::{Question, Reply};
use pumasi_route::table::*;
use pumasi_terms::service::RouteMode;
use pumasi_terms::*;
use pumasi_trust::{Authority, SpiffeId};

const TICKET_KEY: &str = "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f";
const ALIAS: &str = "city-b.shop.example";

fn lease() -> LeaseId {
    LeaseId::from_entropy(77)
}

fn away(lender: &Cloud) -> LeaseBackend {
    LeaseBackend {
        lease: lease(),
        cloud: lender.name.clone(),
        instances: 1,
        weight: Ppm::WHOLE,
        draining: false,
        usable_until: BootMs(boot_ms() + 600_000),
        alias: None,
        datasets: Vec::new(),
        ticket_key: None,
    }
}

fn here(borrower: &Cloud, instances: &[std::net::SocketAddr]) -> LeaseRoute {
    LeaseRoute {
        borrower: borrower.name.clone(),
        service: shop(),
        epoch: Epoch(1),
        hosts: vec![HOST.into()],
        aliases: vec![ALIAS.into()],
        instances: instances.iter().map(|&a| instance(a)).collect(),
        expires_at: BootMs(boot_ms() + 600_000),
        home_only: vec!["/admin".into()],
        safe_methods: Vec::new(),
        protocol: Default::default(),
        admission: Admission::default(),
        ticket_key: Some(TICKET_KEY.into()),
        datasets: Vec::new(),
    }
}

struct Pair {
    a: Cloud,
    b: Cloud,
    home: Backend,
    rented: Backend,
    revision: u64,
}

impl Pair {
    /// `city-a` owns the service, `city-b` lends one instance.
    async fn start() -> Self {
        let (a, b) = (Cloud::start("city-a").await, Cloud::start("city-b").await);
        let home = Backend::start("home", Conduct::Answer).await;
        let rented = Backend::start("rented", Conduct::Answer).await;
        let mut pair = Self { a, b, home, rented, revision: 0 };
        pair.lend(|_| {}).await;
        pair.own(|_| {}).await;
        pair
    }
    async fn own(&mut self, change: impl FnOnce(&mut ServiceRoute)) {
        self.revision += 1;
        let mut route = service(&[self.home.address]);
        route.leases.push(away(&self.b));
        change(&mut route);
        let mut table = with("city-a", self.revision, route);
        table.peers.insert(self.b.name.clone(), self.b.link());
        self.a.gateway.control.put_table(&table).await.unwrap();
    }
    async fn lend(&mut self, change: impl FnOnce(&mut RouteTable)) {
        self.revision += 1;
        let mut table = table("city-b", self.revision);
        table.leases.insert(lease(), here(&self.a, &[self.rented.address]));
        table.peers.insert(self.a.name.clone(), self.a.link());
        change(&mut table);
        self.b.gateway.control.put_table(&table).await.unwrap();
    }
    async fn connect(&self) -> Connection {
        self.a.gateway.connect().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_shared_by_weight_and_stay_put() {
    let mut pair = Pair::start().await;
    pair.own(|r| r.home_weight = Ppm(500_000)).await;
    let mut c = pair.connect().await;
    let mut first = Vec::new();
    for user in 0..100 {
        let answer = c.get_with("/", &format!("Cookie: session=u{user}\r\n")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        first.push(answer.backend().to_owned());
    }
    let away = first.iter().filter(|b| *b == "rented").count();
    assert!((45..90).contains(&away), "{away} of 100 at weights 1/2 and 1");
    for (user, backend) in first.iter().enumerate() {
        let answer = c.get_with("/", &format!("Cookie: session=u{user}\r\n")).await;
        assert_eq!(answer.backend(), backend, "user {user} moved");
    }
    // What must be served at home is, whoever asks.
    for user in 0..20 {
        let cookie = format!("Cookie: session=u{user}\r\n");
        assert_eq!(c.post_with("/", &cookie, "x").await.backend(), "home");
        assert_eq!(c.get_with("/admin/x", &cookie).await.backend(), "home");
    }
    // Both sides count.
    pair.own(|r| r.home_weight = Ppm(0)).await;
    let answer = c.get("/x").await;
    assert_eq!(answer.backend(), "rented");
    let seen = answer.body.to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-for: 127.0.0.1") && !seen.contains("pumasi-"), "{seen}");
    until("the lender's meter", || async {
        let report = pair.b.gateway.control.meter(0).await.unwrap();
        report.windows.iter().map(|w| w.leases.get(&lease()).map_or(0, |l| l.completed)).sum::<u64>() as usize > away
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_asks_over_a_lease_that_no_user_is_sent_to() {
    let mut pair = Pair::start().await;
    pair.own(|r| r.leases.clear()).await;
    let question = |lease: LeaseId, path: &str| Question {
        cloud: CloudName::parse("city-b").unwrap(),
        lease,
        service: shop(),
        epoch: Epoch(1),
        host: HOST.into(),
        path: path.into(),
        protocol: Protocol::Http1,
    };
    let control = pair.a.gateway.control.clone();
    match control.ask(&question(lease(), "/x?y=1")).await.unwrap() {
        Reply::Answer { status: 200, body_bytes, .. } => assert!(body_bytes > 0),
        other => panic!("{other:?}"),
    }
    // What the lender's gateway says itself is no answer of an instance.
    for (question, word) in [
        (question(LeaseId::from_entropy(78), "/"), "no-such-lease"),
        (question(lease(), "/admin/x"), "home-only"),
        (Question { epoch: Epoch(2), ..question(lease(), "/") }, "epoch"),
        (Question { cloud: CloudName::parse("city-c").unwrap(), ..question(lease(), "/") }, "city-c"),
        (question(lease(), "no path"), "cannot be asked for"),
        (Question { host: "a\nb".into(), ..question(lease(), "/") }, "cannot be asked for"),
    ] {
        match control.ask(&question).await.unwrap() {
            Reply::None { why } => assert!(why.contains(word), "{why}"),
            other => panic!("{word}: {other:?}"),
        }
    }
    let dead = instance("127.0.0.1:1".parse().unwrap());
    pair.lend(|t| t.leases.get_mut(&lease()).unwrap().instances = vec![dead]).await;
    match control.ask(&question(lease(), "/")).await.unwrap() {
        Reply::None { why } => assert!(why.contains("city-b"), "{why}"),
        other => panic!("a dead instance answered: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_gets_through_between_gateways() {
    let mut pair = Pair::start().await;
    let rented = h2::Instance::start("rented", 100).await;
    let h2c = |instance: HomeBackend| HomeBackend { protocol: Protocol::H2c, ..instance };
    let safe = || vec!["POST".to_owned()];
    pair.lend(|t| {
        let lease = t.leases.get_mut(&lease()).unwrap();
        lease.instances = vec![h2c(instance(rented.address))];
        (lease.protocol, lease.safe_methods) = (Protocol::H2c, safe());
    })
    .await;
    pair.own(|r| (r.home_weight, r.protocol, r.safe_methods) = (Ppm(0), Protocol::H2c, safe())).await;
    let mut user = h2::User::open(pair.a.gateway.address).await;
    let called = user.call("/pkg.Shop/Look", "hello").await;
    assert_eq!((called.status, called.fields["x-backend"].as_bytes()), (200, &b"rented"[..]), "{called:?}");
    assert_eq!((called.trailers["grpc-status"].as_bytes(), called.trailers.len()), (&b"0"[..], 2), "{called:?}");
    assert_eq!(called.fields["pumasi-served-by"], "city-b");
    let seen = &called.body;
    assert!(seen.starts_with("POST http://shop.example/pkg.Shop/Look HTTP/2.0\n"), "{seen}");
    assert!(seen.contains(r#""te": "trailers""#) && seen.contains(r#""x-forwarded-for": "127.0.0.1""#), "{seen}");
    assert!(!seen.contains("pumasi-") && seen.ends_with("\nhello"), "{seen}");
    // A rehearsal asks gRPC's health check as a probe does.
    let question = Question {
        cloud: pair.b.name.clone(),
        lease: lease(),
        service: shop(),
        epoch: Epoch(1),
        host: HOST.into(),
        path: "/grpc.health.v1.Health/Check".into(),
        protocol: Protocol::H2c,
    };
    match pair.a.gateway.control.ask(&question).await.unwrap() {
        Reply::Answer { status: 200, body_bytes, .. } => assert!(body_bytes > 0),
        other => panic!("{other:?}"),
    }
    // Both sides at one time.
    let (pen, written) = h2::Pen::new();
    pen.write("hello").await;
    let mut answer = user.begin("/echo", written).await;
    for said in ["hello", "and", "so", "on"] {
        assert_eq!(h2::piece(&mut answer).await.as_deref(), Some(said));
        pen.write(match said {
            "hello" => "and",
            "and" => "so",
            _ => "on",
        })
        .await;
    }
    drop(pen);
    assert_eq!(h2::ended(answer).await.trailers["grpc-status"], "0");
    // A user of HTTP/1.1 goes the same way; a peer that is called for others is still called in HTTP/1.1.
    assert_eq!(pair.connect().await.post("/x", "hello").await.backend(), "rented");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_safe_as_the_registry_says_and_as_the_service_says() {
    let mut pair = Pair::start().await;
    pair.own(|r| r.home_weight = Ppm(0)).await;
    let mut c = pair.connect().await;
    let ask = |method: &str, path: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/xml\r\nContent-Length: 3\r\n\r\n<a>"
        )
    };
    for (method, by) in [
        ("PROPFIND", "rented"),
        ("REPORT", "rented"),
        ("SEARCH", "rented"),
        ("QUERY", "rented"),
        ("OPTIONS", "rented"),
        ("PROPPATCH", "home"),
        ("MKCALENDAR", "home"),
        ("LOCK", "home"),
        ("POST", "home"),
        ("PUT", "home"),
        ("FETCH", "home"),
    ] {
        let answer = c.ask(&ask(method, "/cal/")).await;
        assert_eq!((answer.status, answer.backend()), (200, by), "{method}");
    }
    assert_eq!(c.ask(&ask("REPORT", "/admin/")).await.backend(), "home");
    // The service says more. Until its lender knows, the home still answers.
    let own = || vec!["POST".to_owned(), "FETCH".to_owned()];
    pair.own(|r| (r.home_weight, r.safe_methods) = (Ppm(0), own())).await;
    assert_eq!(c.ask(&ask("FETCH", "/")).await.backend(), "home");
    pair.lend(|t| t.leases.get_mut(&lease()).unwrap().safe_methods = own()).await;
    // A peer that refused is left alone for a moment.
    let mut tries = 0;
    while c.ask(&ask("POST", "/")).await.backend() != "rented" {
        tries += 1;
        assert!(tries < 500, "the lender is not asked again");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(c.ask(&ask("FETCH", "/")).await.backend(), "rented");
    assert_eq!(c.ask(&ask("PUT", "/")).await.backend(), "home");
    // What was met at home as a write is counted so, for whoever judges whether renting helps.
    // Six unsafe methods, one path, and the last PUT.
    until("eight writes are counted", || async {
        let report = pair.a.gateway.control.meter(0).await.unwrap();
        let of = report.windows.iter().filter_map(|w| w.services.get(&shop()));
        of.map(|m| m.arrivals_home_only).sum::<u64>() == 8
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_home_spills_before_it_sheds() {
    let mut pair = Pair::start().await;
    pair.home.set(Conduct::Sleep { ms: 300 });
    pair.own(|r| {
        r.leases[0].weight = Ppm(0);
        r.admission.limit_initial = 2;
        r.admission.limit_max = 2;
        r.leases[0].instances = 8;
    })
    .await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let address = pair.a.gateway.address;
        all.spawn(async move { Connection::open(address).await.get("/").await });
    }
    let mut by = (0, 0);
    while let Some(answer) = all.join_next().await {
        match answer.unwrap().backend() {
            "home" => by.0 += 1,
            "rented" => by.1 += 1,
            other => panic!("{other}"),
        }
    }
    assert!(by.0 >= 2 && by.1 >= 6, "{by:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_served_elsewhere() {
    let mut pair = Pair::start().await;
    pair.own(|r| r.home_weight = Ppm(0)).await;
    let mut c = pair.connect().await;
    assert_eq!(c.get("/").await.backend(), "rented");
    // Expired, gone, of another cloud, of another epoch; then no gateway there at all.
    pair.lend(|t| t.leases.get_mut(&lease()).unwrap().expires_at = BootMs(1)).await;
    assert_eq!(c.get("/").await.backend(), "home");
    pair.lend(|t| t.leases.clear()).await;
    assert_eq!(c.get("/").await.backend(), "home");
    pair.lend(|t| t.leases.get_mut(&lease()).unwrap().borrower = CloudName::parse("city-c").unwrap()).await;
    assert_eq!(c.get("/").await.backend(), "home");
    pair.lend(|t| t.leases.get_mut(&lease()).unwrap().epoch = Epoch(9)).await;
    assert_eq!(c.get("/").await.backend(), "home");
    pair.lend(|_| {}).await;
    until("the lease is used again", || async { pair.a.gateway.get("/").await.backend() == "rented" }).await;
    // No longer a member: also on connections that are open.
    pair.lend(|t| t.peers.clear()).await;
    assert_eq!(c.get("/").await.backend(), "home");
    // After its time nothing is sent.
    pair.lend(|_| {}).await;
    pair.own(|r| {
        r.home_weight = Ppm(0);
        r.leases[0].usable_until = BootMs(1);
    })
    .await;
    let before = pair.rented.seen();
    assert_eq!(c.get("/").await.backend(), "home");
    assert_eq!(pair.rented.seen(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_peer_costs_no_safe_request() {
    let mut pair = Pair::start().await;
    pair.own(|r| {
        r.home_weight = Ppm(0);
        r.admission.retry_budget = Ppm(1_000_000);
    })
    .await;
    let mut c = pair.connect().await;
    assert_eq!(c.get("/").await.backend(), "rented");
    pair.rented.set(Conduct::Die);
    let answer = c.get("/").await;
    assert_eq!((answer.status, answer.backend()), (200, "home"));
    // Its instance is gone, which its gateway knows at once.
    let address = pair.rented.address;
    pair.rented = Backend::start("other", Conduct::Answer).await;
    until("the port is free", || async { tokio::net::TcpStream::connect(address).await.is_err() }).await;
    let answer = c.get("/").await;
    assert_eq!((answer.status, answer.backend()), (200, "home"));
    let Pair { b, home: _home, .. } = pair;
    drop(b.gateway.stop().await);
    for _ in 0..5 {
        let answer = c.get("/").await;
        assert_eq!((answer.status, answer.backend()), (200, "home"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stumbles_over_its_copy_is_asked_at_home() {
    let mut pair = Pair::start().await;
    pair.own(|r| r.home_weight = Ppm(0)).await;
    let mut c = pair.connect().await;
    assert_eq!(c.get("/").await.backend(), "rented");
    pair.rented.set(Conduct::Fail);
    let answer = c.get("/").await;
    assert_eq!((answer.status, answer.backend()), (200, "home"));
    // An application that is broken everywhere says so itself, after one more question.
    pair.home.set(Conduct::Fail);
    let (home, rented) = (pair.home.seen(), pair.rented.seen());
    let answer = c.get("/").await;
    assert_eq!((answer.status, answer.backend()), (500, "home"));
    assert_eq!((pair.home.seen() - home, pair.rented.seen() - rented), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_get_to_a_lease() {
    let pair = Pair::start().await;
    let stranger = Cloud::start("city-x").await;
    let mut route = service(&[pair.home.address]);
    route.leases.push(away(&pair.b));
    route.home_weight = Ppm(0);
    let mut table = with("city-x", 1, route);
    table.peers.insert(pair.b.name.clone(), pair.b.link());
    stranger.gateway.control.put_table(&table).await.unwrap();
    let answer = stranger.gateway.get("/").await;
    assert_eq!((answer.status, answer.backend()), (200, "home"));
    assert_eq!(pair.rented.seen(), 0);
    // Nor does who speaks no TLS there.
    let mut plain = Connection::open(pair.b.gateway.peer_address.unwrap()).await;
    plain.send("GET / HTTP/1.1\r\nHost: shop.example\r\nPumasi-Hop: 1\r\n\r\n").await;
    assert!(plain.answer().await.is_none());
    assert_eq!(pair.rented.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_read_their_own_writes() {
    let mut pair = Pair::start().await;
    let with_data = |r: &mut ServiceRoute| {
        r.home_weight = Ppm(0);
        r.position_generation = Some(pumasi_terms::Generation(4));
        r.leases[0].datasets = vec![DatasetName::parse("db").unwrap()];
    };
    pair.own(with_data).await;
    let control = pair.a.gateway.control.clone();
    let at = |as_of_ms| Positions {
        leases: [(lease(), Position::new(Generation(4), as_of_ms))].into(),
        ..Positions::default()
    };
    control.put_positions(&at(boot_ms())).await.unwrap();
    let mut c = pair.connect().await;
    assert_eq!(c.get("/").await.backend(), "rented");
    let written = c.post("/", "x").await;
    assert_eq!(written.backend(), "home");
    let cookie = written.field("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("pumasi_pos=") && cookie.contains("HttpOnly"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let answer = c.get_with("/", &format!("Cookie: a=1; {cookie}\r\n")).await;
    assert_eq!(answer.backend(), "home", "the copy is behind this user");
    assert!(answer.body.contains("a=1") && !answer.body.contains("pumasi_pos"), "{}", answer.body);
    assert_eq!(c.get("/").await.backend(), "rented", "others are served there");
    // Without cookies, by Authorization.
    assert_eq!(c.post_with("/", "Authorization: Bearer t\r\n", "x").await.backend(), "home");
    assert_eq!(c.get_with("/", "Authorization: Bearer t\r\n").await.backend(), "home");
    assert_eq!(c.get_with("/", "Authorization: Bearer u\r\n").await.backend(), "rented");
    // The copy catches up; an older report changes nothing.
    control.put_positions(&at(boot_ms() + 1_000)).await.unwrap();
    control.put_positions(&at(5)).await.unwrap();
    assert_eq!(c.get_with("/", &format!("Cookie: {cookie}\r\n")).await.backend(), "rented");
    // A forged one counts as none.
    let forged = format!("Cookie: pumasi_pos=1.9.9.{}\r\n", "0".repeat(32));
    assert_eq!(c.get_with("/", &forged).await.backend(), "rented");
    // A generation later is later, whatever the clock says.
    pair.own(|r| {
        with_data(r);
        r.position_generation = Some(pumasi_terms::Generation(5));
    })
    .await;
    let written = c.post("/", "x").await;
    let cookie = written.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(c.get_with("/", &format!("Cookie: {cookie}\r\n")).await.backend(), "home");
}

#[tokio::test(flavor = "multi_thread")]
async fn navigations_are_redirected_with_a_ticket_that_works_once() {
    let mut pair = Pair::start().await;
    pair.own(|r| {
        r.mode = RouteMode::Redirect;
        r.home_weight = Ppm(0);
        r.position_generation = Some(pumasi_terms::Generation(1));
        r.leases[0].alias = Some(ALIAS.into());
        r.leases[0].ticket_key = Some(TICKET_KEY.into());
    })
    .await;
    let mut c = pair.connect().await;
    let navigate =
        "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nCookie: session=session-of-one; theme=dark\r\n";
    // What is not a person's way to a page is proxied.
    assert_eq!(c.get_with("/page?x=1", "Sec-Fetch-Mode: cors\r\nAccept: text/html\r\n").await.backend(), "rented");
    assert_eq!(c.get_with("/", "Sec-Fetch-Mode: navigate\r\nAuthorization: Basic x\r\n").await.backend(), "rented");
    assert_eq!(c.get_with("/admin", navigate).await.backend(), "home");
    let answer = c.get_with("/page?x=1", navigate).await;
    assert_eq!(answer.status, 307, "{answer:?}");
    let location = answer.field("location").unwrap().to_owned();
    let path = location.strip_prefix(&format!("http://{ALIAS}")).unwrap().to_owned();
    assert!(path.starts_with("/page?x=1&pumasi_ticket=") && !path.contains("session-of-one"), "{path}");

    let mut b = Connection::open(pair.b.gateway.address).await;
    let ask = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: {ALIAS}\r\n{fields}\r\n");
    let moved = path.replace("/page", "/elsewhere");
    assert!(b.ask(&ask(&moved, "")).await.field("set-cookie").is_none(), "a ticket for another path");
    let welcome = b.ask(&ask(&path, "")).await;
    assert_eq!((welcome.status, welcome.field("location")), (303, Some("/page?x=1")));
    let cookies: Vec<&str> =
        welcome.head.lines().filter(|l| l.to_ascii_lowercase().starts_with("set-cookie")).collect();
    assert!(cookies.len() == 2 && cookies[0].contains("session=session-of-one; Path=/; HttpOnly"), "{cookies:?}");
    let again = b.ask(&ask(&path, "")).await;
    assert_eq!((again.status, again.field("set-cookie")), (303, None), "used twice");

    // From here on the alias is served there; what must go home does, over the peer link.
    let answer = b.ask(&ask("/page?x=1", "Cookie: session=session-of-one\r\n")).await;
    assert_eq!((answer.status, answer.backend()), (200, "rented"));
    let post = format!("POST /w HTTP/1.1\r\nHost: {ALIAS}\r\nContent-Length: 2\r\n\r\nhi");
    let written = b.ask(&post).await;
    assert_eq!((written.status, written.backend()), (200, "home"), "{written:?}");
    assert!(written.field("set-cookie").is_some_and(|c| c.starts_with("pumasi_pos=")), "{written:?}");
    assert!(written.field("pumasi-position").is_none());
    let told = written.body.to_ascii_lowercase();
    assert!(told.contains("forwarded: for=127.0.0.1;") && told.contains(";by=_city-b"), "whose word it is: {told}");
    assert_eq!(b.ask(&ask("/admin", "")).await.backend(), "home");
    // A write that breaks at home is told as such here.
    pair.home.set(Conduct::Die);
    let broken = b.ask(&post).await;
    assert_eq!((broken.status, broken.field("pumasi-outcome")), (502, Some("unknown")), "{broken:?}");
    // The lease ends: people go home.
    pair.lend(|t| t.leases.get_mut(&lease()).unwrap().expires_at = BootMs(1)).await;
    let over = b.ask(&ask("/page", "Accept: text/html\r\n")).await;
    assert_eq!((over.status, over.field("location")), (307, Some("http://shop.example/page")));
    assert_eq!(b.ask(&ask("/page", "")).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lender_sends_nobody_home_where_users_are_not_redirected() {
    let mut pair = Pair::start().await;
    pair.own(|r| r.leases[0].alias = Some(ALIAS.into())).await;
    let mut b = Connection::open(pair.b.gateway.address).await;
    for attack in [
        format!("POST /w HTTP/1.1\r\nHost: {ALIAS}\r\nX-Forwarded-For: 10.9.8.7\r\nContent-Length: 2\r\n\r\nhi"),
        format!("GET /admin HTTP/1.1\r\nHost: {ALIAS}\r\n\r\n"),
    ] {
        let answer = b.ask(&attack).await;
        assert!(answer.status >= 400 && answer.backend() == "none", "{answer:?}");
    }
    assert_eq!(pair.home.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_listeners_speak_http2_and_the_certificate_is_replaced_while_serving() {
    let pair = Pair::start().await;
    let status = pair.a.gateway.control.status().await.unwrap();
    let store = pumasi_trust::TrustStore::new(
        [(pair.a.name.clone(), pumasi_trust::Bundle::from_json(&pair.a.bundle).unwrap())].into(),
        [SpiffeId::gateway(&pair.a.name)].into(),
    )
    .unwrap();
    let expect = pumasi_trust::ExpectPeer::Exactly(SpiffeId::gateway(&pair.a.name));
    let trust = pumasi_trust::SharedTrust::new(store);
    let config = pumasi_trust::client_config_anonymous(trust, expect, &[b"h2"]).unwrap();
    let ask = async || {
        let stream = tokio::net::TcpStream::connect(status.listening[1]).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("shop.example").unwrap();
        let stream = tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(
            hyper_util::rt::TokioExecutor::new(),
            hyper_util::rt::TokioIo::new(stream),
        )
        .await
        .unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("https://shop.example/admin")
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("x-forwarded-proto: https"));
        certificate
    };
    let first = ask().await;
    let authority = Authority::load(&pair.a.authority.path().join("ca")).unwrap();
    let svid = authority.issue(&SpiffeId::gateway(&pair.a.name), 3_600_000, now(), &[]).unwrap();
    svid.save(&pair.a.gateway.path().join("svid.pem")).unwrap();
    assert_eq!(ask().await, first, "not before it is asked for");
    pair.a.gateway.control.reload_identity().await.unwrap();
    assert_ne!(ask().await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_at_home_is_served_at_the_lender_whatever_its_head() {
    let mut pair = Pair::start().await;
    pair.own(|r| r.home_weight = Ppm(0)).await;
    let mut c = pair.connect().await;
    for count in [1, 90, 98] {
        let fields: String = (0..count).map(|n| format!("x-{n}: 1\r\n")).collect();
        let answer = c.get_with("/", &fields).await;
        assert_eq!((answer.status, answer.backend()), (200, "rented"), "{count} fields: {}", answer.head);
    }
    let answer = c.get_with("/", &format!("x: {}\r\n", "y".repeat(32_500))).await;
    assert_eq!((answer.status, answer.backend()), (200, "rented"), "{}", answer.head);
}
