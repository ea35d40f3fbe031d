//! The cases of `tests/cases`, played against this gateway, HAProxy and nginx over instances that note every byte.
//!
//! `cargo run --example cases` prints the table, `cargo run --example cases -- write` writes docs/gateway-cases.md. Needs HAProxy and
//! nginx (`apt-get install haproxy nginx-light`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/cases/mod.rs"]
mod cases;
#[path = "../tests/common/mod.rs"]
mod common;

use cases::{Case, Instance, all, play};
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/gateway-cases.md");
const HEAD: &str = "# The gateway's cases beside HAProxy and nginx

Made by `cargo run --example cases -- write`; the cases are `crates/gateway/tests/cases`, and `cargo test` plays them against the gateway. All stand before
the same instance, which notes every byte and reads strictly. What counts is what the instance read and the users got, not how something was refused.

**Read with care.** The list grew with this gateway and was mended until it held, so it says what we look at, not who is better: the others were built to other wishes. They
run as their manuals set up a reverse proxy (`X-Forwarded-For` set, a rule for `/admin`, keep-alive to the instance, heads within a second) and no further; much of what
fails here can be switched on there. HAProxy passes paths and most fields through by design; nginx normalises paths for its rules. Cases that the RFCs leave open are marked \u{b0}: there we say what
we want. HTTP/2, TLS, floods and slow peers are not in this list (`crates/gateway/tests/connections.rs`, `waiting.rs`).
";

/// What no RFC demands.
const WISHES: &[&str] = &[
    "TRACE is not passed on",
    "X-Forwarded-For is the gateway's word",
    "said twice as well",
    "with an underscore",
    "with one underscore",
    "X-Real-IP",
    "X_Real_IP",
    "Forwarded",
    "X-Forwarded-Host is no user's word",
    "X-Forwarded-Port is no user's word",
    "X-Forwarded-Prefix is no user's word",
    "Proxy (httpoxy)",
    "Proxy-Authorization is not the application's",
    "trailers say nothing of the user",
    "Transfer_Encoding beside a length",
    "what an instance does not read of a body is nobody's request",
    "nor of a chunked one",
    "a body behind a HEAD, later",
    "a body behind 304, later",
    "a body behind 204, later",
    "2,000 fields",
    "a target of 100 KB",
    "a head of 1 MB",
    "a fragment in the target",
    "h2c is no way past the gateway",
    "nor behind another word",
    "nor with blanks and commas",
    "a 101 to something else is no tunnel",
    "no version",
    "an extension of 200 KB",
    "trailers of 200 KB",
    "trailers say nothing of the length",
    "a method in small letters is not another",
];

struct Proxy {
    name: String,
    address: SocketAddr,
    rule: &'static str,
    child: Option<Child>,
    instance: Instance,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn version(program: &str, told: &str) -> String {
    let out = Command::new(program).arg(told).output().unwrap_or_else(|e| panic!("{program}: {e}; install it first"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let word = text.split([' ', '/', '\n']).find(|w| w.starts_with(|c: char| c.is_ascii_digit()) && w.contains('.'));
    word.unwrap_or("?").split(['-', '+']).next().unwrap_or_default().to_owned()
}

fn started(name: String, command: &mut Command, address: SocketAddr, instance: Instance) -> Proxy {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let proxy = Proxy { name, address, rule: "http/1.1 403", child: Some(child), instance };
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "{} does not take connections", proxy.name);
        std::thread::sleep(Duration::from_millis(20));
    }
    proxy
}

fn haproxy(dir: &Path) -> Proxy {
    let (instance, address) = (Instance::start(), free());
    let config = format!(
        "global\n maxconn 1000\ndefaults\n mode http\n timeout connect 2s\n timeout client 10s\n timeout server 10s\n \
         timeout http-request 1s\n timeout tunnel 10s\nfrontend users\n bind {address}\n http-request deny if {{ path_beg /admin }}\n \
         http-request set-header X-Forwarded-For %[src]\n default_backend shop\nbackend shop\n server one {}\n",
        instance.address
    );
    let path = dir.join("haproxy.cfg");
    std::fs::write(&path, config).unwrap();
    let program = "/usr/sbin/haproxy";
    let name = format!("HAProxy {}", version(program, "-v"));
    started(name, Command::new(program).arg("-db").arg("-f").arg(path), address, instance)
}

fn nginx(dir: &Path) -> Proxy {
    let (instance, address) = (Instance::start(), free());
    let here = dir.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {here}/nginx.pid; error_log {here}/error.log; events {{}}\nhttp {{ access_log off; \
         client_header_timeout 1s; client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; \
         fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
         map $http_upgrade $way {{ default upgrade; '' ''; }}\nupstream shop {{ server {}; keepalive 16; }}\n\
         server {{ listen {address}; location /admin {{ return 403; }}\n location / {{ proxy_pass http://shop; proxy_http_version 1.1; \
         proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Upgrade $http_upgrade; \
         proxy_set_header Connection $way; }} }} }}\n",
        instance.address
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    let program = "/usr/sbin/nginx";
    let name = format!("nginx {}", version(program, "-v"));
    started(name, Command::new(program).arg("-p").arg(dir).arg("-c").arg(path), address, instance)
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let instance = Instance::start();
    let gateway = runtime.block_on(common::for_cases(instance.address));
    let name = format!("Pumasi {}", env!("CARGO_PKG_VERSION"));
    let ours = Proxy { name, address: gateway.address, rule: common::RULE, child: None, instance };
    let proxies = [ours, haproxy(dir.path()), nginx(dir.path())];
    let held: Vec<Vec<bool>> = std::thread::scope(|scope| {
        let playing = proxies.iter().map(|proxy| scope.spawn(|| all().iter().map(|case| holds(case, proxy)).collect()));
        playing.collect::<Vec<_>>().into_iter().map(|p| p.join().unwrap()).collect()
    });
    let page = page(&proxies, &held);
    if std::env::args().nth(1).as_deref() == Some("write") {
        std::fs::write(PAGE, &page).unwrap();
    } else {
        println!("{page}");
    }
}

fn holds(case: &Case, proxy: &Proxy) -> bool {
    let outcome = play(case, proxy.address, &proxy.instance, proxy.rule);
    let held = (case.holds)(&outcome);
    if std::env::var_os("SHOW").is_some_and(|show| show == case.name) {
        eprintln!("{}: {held} {:?}\n{}", proxy.name, outcome.statuses(0), String::from_utf8_lossy(&outcome.seen.raw));
    }
    held
}

fn page(proxies: &[Proxy], held: &[Vec<bool>]) -> String {
    let cases = all();
    let unknown = WISHES.iter().find(|wish| !cases.iter().any(|c| c.name == **wish));
    assert_eq!(unknown, None, "a wish of which there is no case");
    let mut page = format!("{HEAD}\n## In numbers\n\n| cases | all |");
    for proxy in proxies {
        write!(page, " {} |", proxy.name).unwrap();
    }
    page.push_str("\n|---|---|---|---|---|\n");
    let mut subjects: Vec<&str> = cases.iter().map(|c| c.subject).collect();
    subjects.dedup();
    let row = |page: &mut String, name: &str, of: &dyn Fn(&Case) -> bool| {
        let which: Vec<usize> = (0..cases.len()).filter(|&i| of(&cases[i])).collect();
        write!(page, "| {name} | {} |", which.len()).unwrap();
        for held in held {
            write!(page, " {} |", which.iter().filter(|&&i| held[i]).count()).unwrap();
        }
        page.push('\n');
    };
    for subject in &subjects {
        row(&mut page, subject, &|c| c.subject == *subject);
    }
    row(&mut page, "all", &|_| true);
    row(&mut page, "of these, what the RFCs demand", &|c| !is_wish(c));
    page.push_str("\n## Where ours fails\n\n");
    for (case, _) in cases.iter().zip(&held[0]).filter(|(_, held)| !**held) {
        writeln!(page, "- {}: {}", case.name, case.ours_fails.unwrap_or("(not known why)")).unwrap();
    }
    for subject in subjects {
        write!(page, "\n## {subject}\n\n| case |").unwrap();
        for proxy in proxies {
            write!(page, " {} |", proxy.name).unwrap();
        }
        page.push_str("\n|---|---|---|---|\n");
        for (at, case) in cases.iter().enumerate().filter(|(_, c)| c.subject == subject) {
            let mark = if is_wish(case) { " \u{b0}" } else { "" };
            write!(page, "| {}{mark} |", case.name.replace('|', "\\|")).unwrap();
            for held in held {
                page.push_str(if held[at] { " holds |" } else { " **fails** |" });
            }
            page.push('\n');
        }
    }
    page
}

fn is_wish(case: &Case) -> bool {
    WISHES.contains(&case.name) || case.subject == "paths under a rule"
}
