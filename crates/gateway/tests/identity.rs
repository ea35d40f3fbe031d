//! The gate of a service whose users sign in: a gateway, an application that repeats what it was asked, and a sign-in process that says
//! what it is told to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
use common::clouds::Cloud;
use common::*;
use pumasi_realm::gate::{Check, Checked, ENDED, Ended, User, digest_of};
use pumasi_route::table::*;
use pumasi_terms::identity::{Claim, Gate};
use pumasi_terms::*;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Notify;

const LOCAL: &str = "shop.localhost";
const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const SESSION: &str = "Cookie: a=1; __Host-pumasi_session=secret; b=2\r\n";

#[derive(Default)]
struct Said {
    users: HashMap<String, User>,
    checks: u32,
    ended: Vec<String>,
    pages: Vec<String>,
}

/// Says who is known, and what ended.
struct SignIn {
    address: SocketAddr,
    said: Arc<Mutex<Said>>,
    news: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for SignIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond(said: &Mutex<Said>, news: &Notify, head: &str, body: &[u8]) -> String {
    let path = head.split(' ').nth(1).unwrap().to_owned();
    assert!(head.to_lowercase().contains(&format!("pumasi-gate: {KEY}")), "{head}");
    if let Some(after) = path.strip_prefix(&format!("{ENDED}?after=")) {
        let after: usize = after.parse().unwrap();
        loop {
            let heard = news.notified();
            {
                let said = said.lock().unwrap();
                let next = said.ended.len() + 7;
                if after < 7 || after < next {
                    let digests = said.ended.iter().skip(after.saturating_sub(7)).cloned().collect();
                    return serde_json::to_string(&Ended { next: next as u64, digests, all: after < 7 }).unwrap();
                }
            }
            heard.await;
        }
    }
    let mut said = said.lock().unwrap();
    if path == pumasi_realm::gate::CHECK {
        said.checks += 1;
        let user = match serde_json::from_slice(body).unwrap() {
            Check::Session { digest } => said.users.get(&digest).cloned(),
            Check::App { login, digest } => said.users.get(&digest).filter(|u| u.login.as_str() == login).cloned(),
        };
        return serde_json::to_string(&Checked { user, holds_ms: 60_000 }).unwrap();
    }
    said.pages.push(head.to_owned());
    "{\"page\":1}".to_owned()
}

impl SignIn {
    async fn start(at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (said, news) = (Arc::new(Mutex::new(Said::default())), Arc::new(Notify::new()));
        let shared = (said.clone(), news.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (said, news) = shared.clone();
                connections.spawn(async move {
                    let mut reader = BufReader::new(stream);
                    while let Some((head, body)) = read_message(&mut reader).await {
                        let text = respond(&said, &news, &head, &body).await;
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                        reader.get_mut().write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Self { address, said, news, task }
    }
    fn knows(&self, secret: &str, login: &str) {
        let login = login.parse().unwrap();
        let user = User { subject: "s1".into(), login, name: String::new(), email: String::new(), groups: Vec::new() };
        self.said.lock().unwrap().users.insert(digest_of(secret.as_bytes()), user);
    }
    fn end(&self, secret: &str) {
        let digest = digest_of(secret.as_bytes());
        let mut said = self.said.lock().unwrap();
        said.users.remove(&digest);
        said.ended.push(digest);
        drop(said);
        self.news.notify_waiters();
    }
    fn checks(&self) -> u32 {
        self.said.lock().unwrap().checks
    }
    fn pages(&self) -> Vec<String> {
        self.said.lock().unwrap().pages.clone()
    }
}

fn gated(gate: Gate, home: &[SocketAddr], signin: Option<SocketAddr>) -> ServiceRoute {
    ServiceRoute {
        hosts: vec![LOCAL.into(), HOST.into()],
        identity: Some(IdentityRoute {
            gate,
            basic: true,
            headers: [(Claim::Login, "X-Remote-User".to_owned())].into(),
            public: vec!["/static/".to_owned()],
            signin: signin.map(instance),
            key: KEY.into(),
        }),
        ..service(home)
    }
}

async fn ask(gateway: &Running, path: &str, fields: &str) -> Answer {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {LOCAL}\r\n{fields}\r\n");
    gateway.connect().await.ask(&text).await
}

fn told(answer: &Answer) -> Vec<String> {
    let fields = answer.body.lines().filter(|l| l.to_lowercase().replace('_', "-").starts_with("x-remote-user:"));
    fields.map(str::to_lowercase).collect()
}

const USER: &str = "x-remote-user: minjun";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_signed_in_is_named_and_nobody_else_gets_in() {
    let (app, signin) =
        (Backend::start("app", Conduct::Answer).await, SignIn::start("127.0.0.1:0".parse().unwrap()).await);
    let gateway = Running::start(config("city-a")).await;
    let route = gated(Gate::Required, &[app.address], Some(signin.address));
    gateway.control.put_table(&with("city-a", 1, route)).await.unwrap();
    signin.knows("secret", "minjun");
    signin.knows("app password", "minjun");

    let answer = ask(&gateway, "/", SESSION).await;
    assert_eq!((answer.status, told(&answer)), (200, vec![USER.to_owned()]), "{answer:?}");
    assert!(answer.body.contains("a=1; b=2") && !answer.body.contains("secret"), "no application sees a session");
    for forged in
        ["X-Remote-User: admin\r\n", "x_remote_user: admin\r\nX_Remote-User: root\r\n", "Connection: x-remote-user\r\n"]
    {
        let answer = ask(&gateway, "/", &format!("{forged}{SESSION}{forged}")).await;
        assert_eq!(told(&answer), [USER], "{forged}: {answer:?}");
    }
    // A trailer comes after the head was believed.
    let body = "3\r\nabc\r\n0\r\nX-Remote-User: admin\r\n\r\n";
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {LOCAL}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Remote-User\r\n{SESSION}\r\n"
    );
    let answer = gateway.connect().await.ask(&format!("{head}{body}")).await;
    assert_eq!((answer.status, told(&answer)), (200, vec![USER.to_owned()]), "{answer:?}");

    let before = app.seen();
    let program = ask(&gateway, "/notes", "").await;
    assert_eq!(
        (program.status, program.field("www-authenticate")),
        (401, Some("Basic realm=\"shop\", charset=\"UTF-8\""))
    );
    let person = ask(&gateway, "/notes?x=1", "Accept: text/html\r\n").await;
    assert_eq!((person.status, person.field("location")), (303, Some("/.pumasi/sign-in?return=%2Fnotes%3Fx%3D1")));
    assert_eq!(ask(&gateway, "/", "Cookie: __Host-pumasi_session=guess\r\n").await.status, 401);
    // minjun:app password, minjun:guess, and what is none.
    assert_eq!(ask(&gateway, "/", "Authorization: Basic bWluanVuOmd1ZXNz\r\n").await.status, 401);
    assert_eq!(ask(&gateway, "/", &format!("Authorization: Basic !\r\n{SESSION}")).await.status, 401);
    // The right password of another one.
    assert_eq!(ask(&gateway, "/", "Authorization: Basic c29tZWJvZHk6YXBwIHBhc3N3b3Jk\r\n").await.status, 401);
    assert_eq!(app.seen(), before, "the application is asked nothing");
    let answer = ask(&gateway, "/", "Authorization: Basic bWluanVuOmFwcCBwYXNzd29yZA==\r\n").await;
    assert_eq!((answer.status, told(&answer)), (200, vec![USER.to_owned()]));
    assert!(!answer.body.to_lowercase().contains("authorization"), "{answer:?}");
    let answer = ask(&gateway, "/static/a.css", "X-Remote-User: admin\r\n").await;
    assert_eq!((answer.status, told(&answer)), (200, vec!["x-remote-user: ".to_owned()]), "{answer:?}");
    assert_eq!(ask(&gateway, "/static/../admin", "").await.status, 401);

    // In the clear nobody is known, and no page is shown.
    let clear = gateway.connect().await.get_with("/", SESSION).await;
    assert_eq!((clear.status, clear.body.contains("needs-tls")), (403, true), "{clear:?}");
    assert_eq!(gateway.get("/.pumasi/sign-in").await.status, 403);
    assert_eq!(ask(&gateway, "/.pumasi/sign-in", SESSION).await.body, "{\"page\":1}");
    let page = signin.pages().pop().unwrap().to_lowercase();
    assert!(page.contains("__host-pumasi_session=secret") && page.contains("x-forwarded-proto: http"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_is_asked_for_once_and_an_end_is_heard_at_once() {
    let (app, signin) =
        (Backend::start("app", Conduct::Answer).await, SignIn::start("127.0.0.1:0".parse().unwrap()).await);
    let gateway = Running::start(config("city-a")).await;
    let route = gated(Gate::Required, &[app.address], Some(signin.address));
    gateway.control.put_table(&with("city-a", 1, route.clone())).await.unwrap();
    signin.knows("secret", "minjun");
    until("a session is known", || async { ask(&gateway, "/", SESSION).await.status == 200 }).await;
    // The first word may be forgotten once, when ends begin to be heard.
    tokio::time::sleep(Duration::from_millis(300)).await;
    ask(&gateway, "/", SESSION).await;
    let before = signin.checks();
    for _ in 0..50 {
        assert_eq!(ask(&gateway, "/", SESSION).await.status, 200);
    }
    assert_eq!(signin.checks(), before, "asked once");
    // Another table with the same process forgets nothing.
    gateway.control.put_table(&with("city-a", 2, route)).await.unwrap();
    assert_eq!(ask(&gateway, "/", SESSION).await.status, 200);
    assert_eq!(signin.checks(), before);
    let begun = Instant::now();
    signin.end("secret");
    until("it is out", || async { ask(&gateway, "/", SESSION).await.status == 401 }).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_vouch_for_anybody_nobody_gets_in() {
    let (app, signin) =
        (Backend::start("app", Conduct::Answer).await, SignIn::start("127.0.0.1:0".parse().unwrap()).await);
    let gateway = Running::start(config("city-a")).await;
    let route = |gate, signin| gated(gate, &[app.address], signin);
    gateway.control.put_table(&with("city-a", 1, route(Gate::Required, None))).await.unwrap();
    let answer = ask(&gateway, "/", SESSION).await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(ask(&gateway, "/.pumasi/sign-in", "").await.status, 503);
    // Optional: who brings nothing is nobody, who brings something waits for a word.
    gateway.control.put_table(&with("city-a", 2, route(Gate::Optional, None))).await.unwrap();
    assert_eq!(ask(&gateway, "/", "").await.status, 200);
    assert_eq!(ask(&gateway, "/", SESSION).await.status, 503);
    // Its process dies: what it said counts for some seconds.
    gateway.control.put_table(&with("city-a", 3, route(Gate::Required, Some(signin.address)))).await.unwrap();
    signin.knows("secret", "minjun");
    until("a session is known", || async { ask(&gateway, "/", SESSION).await.status == 200 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ask(&gateway, "/", SESSION).await.status, 200);
    drop(signin);
    let begun = Instant::now();
    assert_eq!(ask(&gateway, "/", SESSION).await.status, 200);
    until("nothing counts any more", || async { ask(&gateway, "/", SESSION).await.status == 503 }).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lenders_instance_hears_the_name_and_sees_no_session() {
    let (a, b) = (Cloud::start("city-a").await, Cloud::start("city-b").await);
    let (app, signin) =
        (Backend::start("rented", Conduct::Answer).await, SignIn::start("127.0.0.1:0".parse().unwrap()).await);
    signin.knows("secret", "minjun");
    let lease = LeaseId::from_entropy(7);
    let until_ms = BootMs(boot_ms() + 600_000);
    let mut route = gated(Gate::Required, &[], Some(signin.address));
    route.home_weight = Ppm(0);
    route.leases = vec![LeaseBackend {
        lease: lease.clone(),
        cloud: b.name.clone(),
        instances: 1,
        weight: Ppm::WHOLE,
        draining: false,
        usable_until: until_ms,
        alias: None,
        datasets: Vec::new(),
        ticket_key: None,
    }];
    let mut home = with("city-a", 1, route);
    home.peers.insert(b.name.clone(), b.link());
    let mut lender = table("city-b", 1);
    lender.leases.insert(
        lease,
        LeaseRoute {
            borrower: a.name.clone(),
            service: shop(),
            epoch: Epoch(1),
            hosts: vec![LOCAL.into()],
            aliases: Vec::new(),
            instances: vec![instance(app.address)],
            expires_at: until_ms,
            home_only: Vec::new(),
            safe_methods: Vec::new(),
            protocol: Default::default(),
            admission: Admission::default(),
            ticket_key: None,
            datasets: Vec::new(),
        },
    );
    lender.peers.insert(a.name.clone(), a.link());
    b.gateway.control.put_table(&lender).await.unwrap();
    a.gateway.control.put_table(&home).await.unwrap();
    let answer = ask(&a.gateway, "/", &format!("X_Remote_User: admin\r\n{SESSION}")).await;
    assert_eq!((answer.status, answer.backend(), told(&answer)), (200, "rented", vec![USER.to_owned()]), "{answer:?}");
    assert!(!answer.body.contains("secret"), "{answer:?}");
    assert_eq!(ask(&a.gateway, "/", "").await.status, 401);
}
