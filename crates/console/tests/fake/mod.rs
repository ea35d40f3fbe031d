//! A daemon of invented data with the shapes of the public API, and the console under `/console/`.
//! A campaign overloads `notes`; two lenders help; one plan waits; somebody else rents from us.
#![allow(dead_code, clippy::unwrap_used)]

mod pages;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// An operator's.
pub const TOKEN: &str = "right-token";
pub const VIEWER: &str = "viewer-token";

#[derive(Debug)]
pub struct Shared {
    started: Instant,
    wall: i64,
    pub plan_state: Mutex<String>,
    pub automation: Mutex<Value>,
    pub recalled: Mutex<bool>,
    /// Method, path and body of every request that changes something.
    pub acts: Mutex<Vec<(String, Value)>>,
    pub empty: bool,
    /// Nobody asks anything.
    pub idle: AtomicBool,
    /// A lab stands behind it.
    pub lab: AtomicBool,
    agreed: Mutex<Vec<String>>,
    made: Mutex<Vec<Value>>,
    revoked: Mutex<Vec<String>>,
    /// What was applied, and when.
    applied: Mutex<Option<(Value, Instant)>>,
    /// Serve the console from there instead of what is embedded.
    pub disk: Option<PathBuf>,
}

impl Shared {
    pub fn new(empty: bool, disk: Option<PathBuf>) -> Arc<Self> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        Arc::new(Self {
            started: Instant::now(),
            wall: i64::try_from(wall).unwrap(),
            plan_state: Mutex::new("waiting".into()),
            automation: Mutex::new(json!({"stopped": false, "why": ""})),
            recalled: Mutex::new(false),
            acts: Mutex::default(),
            idle: AtomicBool::default(),
            lab: AtomicBool::default(),
            agreed: Mutex::default(),
            made: Mutex::default(),
            revoked: Mutex::default(),
            applied: Mutex::default(),
            empty,
            disk,
        })
    }
    fn ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap()
    }
    fn now(&self) -> i64 {
        self.wall + self.ms()
    }
}

/// Dropping it closes every connection, as a daemon does that dies.
pub struct Daemon {
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Daemon {
    pub fn start(address: &str, shared: Arc<Shared>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let socket = {
            let _inside = runtime.enter();
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address.parse().unwrap()).unwrap();
            socket.listen(64).unwrap()
        };
        let address = socket.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(shared);
        runtime.spawn(async move { axum::serve(socket, router).await });
        Self { address, runtime: Some(runtime) }
    }
    pub fn url(&self) -> String {
        format!("http://{}/console/", self.address)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

fn id(kind: &str, digit: char) -> String {
    format!("{kind}-{}", String::from(digit).repeat(32))
}

fn console(shared: &Shared, path: &str) -> Response {
    let found = pumasi_console::asset(path);
    let Some(asset) = found else { return StatusCode::NOT_FOUND.into_response() };
    let bytes = match &shared.disk {
        Some(dir) => std::fs::read(dir.join(asset.path)).unwrap_or_default(),
        None => asset.bytes.to_vec(),
    };
    let heads = [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CONTENT_SECURITY_POLICY, pumasi_console::CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (heads, bytes).into_response()
}

fn problem(status: u16, detail: &str) -> Response {
    let body = json!({"code": "refused", "status": status, "detail": detail, "fault": "input", "retry": false});
    (StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, "application/problem+json")], body.to_string())
        .into_response()
}

fn list(items: Vec<Value>) -> Value {
    json!({"revision": 40, "items": items})
}

async fn answer(State(s): State<Arc<Shared>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    if let Some(asset) = path.strip_prefix("/console/") {
        return console(&s, asset);
    }
    let bears =
        |token: &str| headers.get(header::AUTHORIZATION).is_some_and(|v| v == format!("Bearer {token}").as_str());
    let (name, role) = match (bears(TOKEN), bears(VIEWER)) {
        (true, _) => ("min-jun", "operator"),
        (_, true) => ("wall", "viewer"),
        _ => return problem(401, "this token is not known here"),
    };
    if role == "viewer" && (method != Method::GET || path.starts_with("/v1/tokens") || path.starts_with("/v1/bill")) {
        return pages::may_not(name, "change anything");
    }
    let sent: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if method != Method::GET {
        s.acts.lock().unwrap().push((format!("{method} {path}"), sent.clone()));
    }
    let found = match (method.as_str(), path.as_str()) {
        ("GET", "/v1/watch") => {
            // One change so often; the page must not depend on more.
            let changes = futures_util::stream::unfold(41u64, |revision| async move {
                tokio::time::sleep(Duration::from_millis(700)).await;
                let change = json!({"revision": revision, "kind": "journey", "name": "x", "body": {}});
                Some((Ok::<_, std::convert::Infallible>(format!("id: {revision}\ndata: {change}\n\n")), revision + 1))
            });
            return ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(changes)).into_response();
        }
        ("GET", "/v1/whoami") => {
            let who = json!({"name": name, "role": role, "customer": (role == "viewer").then_some("default")});
            let lab = if s.lab.load(Ordering::Relaxed) { "crowd" } else { "" };
            let heads = [("content-type", "application/json"), ("pumasi-lab", lab)];
            return (heads, who.to_string()).into_response();
        }
        ("GET", "/v1/traffic/history") => pages::history(&s),
        ("GET", "/v1/bill") => pages::bill(&s, uri.query().unwrap_or_default()),
        ("GET", "/v1/tokens") => pages::items(pages::tokens(&s)),
        ("GET", "/v1/cloud") => cloud(&s),
        ("GET", "/v1/traffic") => traffic(&s),
        ("GET", "/v1/events") => {
            let after =
                uri.query().and_then(|q| q.split("after=").nth(1)).and_then(|a| a.parse::<i64>().ok()).unwrap_or(0);
            list(events(&s).into_iter().filter(|e| e["seq"].as_i64() > Some(after)).collect())
        }
        ("GET", _) if s.empty => list(vec![]),
        ("GET", "/v1/services") => list(services(&s)),
        ("GET", "/v1/journeys") => list(journeys(&s)),
        ("GET", "/v1/plans") => list(plans(&s)),
        ("GET", "/v1/leases") => list(leases(&s)),
        ("GET", "/v1/continuity") => list(continuity()),
        ("GET", "/v1/divergences") => {
            list(vec![json!({"service": "notes", "id": id("svc", '8'), "customer": "default", "epoch": 3,
            "set_aside_at": 1_764_500_000_000_i64, "bytes": 81_920, "files": 2, "only_here": 17,
            "summary": "data: 15 rows here only, 2 differ, 40 in the surviving data only"})])
        }
        ("GET", "/v1/instances") => list(instances()),
        ("GET", "/v1/pact") => pages::pact(&s),
        ("GET", "/v1/pact/rehearsal") => pages::rehearsal(uri.query().unwrap_or_default()),
        ("GET", "/v1/pact/game-days") => list(pages::game_days(&s)),
        ("GET", "/v1/customers") => list(vec![json!({"name": "acme"})]),
        ("GET", "/v1/settlements") => list(pages::settlements(&s)),
        ("GET", p) if p.ends_with("/generations") => list(pages::generations(&services(&s)[0]["service"], &s)),
        ("GET", p) if p.ends_with("/logs") => {
            return ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], pages::logs(&s)).into_response();
        }
        ("GET", p) if p.starts_with("/v1/services/") => {
            let named = p.trim_start_matches("/v1/services/");
            match services(&s).into_iter().find(|v| v["service"]["metadata"]["name"] == named) {
                Some(found) => found,
                None => return problem(404, "there is no such service"),
            }
        }
        ("POST", "/v1/manifests/read") => pages::read_manifest(&sent),
        ("POST", p) if p.ends_with("/check") => return pages::check(&sent),
        ("PUT", p) if p.starts_with("/v1/services/") => {
            *s.applied.lock().unwrap() = Some((sent, Instant::now()));
            let named = p.trim_start_matches("/v1/services/");
            services(&s).into_iter().find(|v| v["service"]["metadata"]["name"] == named).unwrap_or_default()
        }
        ("POST", "/v1/tokens") => pages::make_token(&s, &sent),
        ("DELETE", p) if p.starts_with("/v1/tokens/") => {
            s.revoked.lock().unwrap().push(p.trim_start_matches("/v1/tokens/").to_owned());
            Value::Null
        }
        ("POST", p) if p.starts_with("/v1/pact/proposals/") => {
            s.agreed.lock().unwrap().push(p.to_owned());
            Value::Null
        }
        ("POST", "/lab/crowd") if s.lab.load(Ordering::Relaxed) => json!({}),
        ("POST", p) if p.ends_with("/undo") || p.ends_with("/restart") || p.starts_with("/v1/settlements/") => {
            Value::Null
        }
        ("POST", "/v1/automation") => {
            *s.automation.lock().unwrap() = sent;
            Value::Null
        }
        ("POST", p) if p.ends_with("/approve") || p.ends_with("/refuse") => {
            *s.plan_state.lock().unwrap() = if p.ends_with("/approve") { "approved" } else { "refused" }.into();
            Value::Null
        }
        ("POST", p) if p.ends_with("/recall") => {
            *s.recalled.lock().unwrap() = true;
            Value::Null
        }
        ("POST", p) if p.ends_with("/cancel") => return problem(409, "the journey is closed already"),
        _ => return problem(404, "there is no such endpoint"),
    };
    ([(header::CONTENT_TYPE, "application/json")], found.to_string()).into_response()
}

fn cloud(s: &Shared) -> Value {
    let place =
        |city: &str, latitude: f64, longitude: f64| json!({"city": city, "latitude": latitude, "longitude": longitude});
    let member = |name: &str, place: Value, rtt: u64, heard: u64, lends: u64, free: u64| {
        json!({"cloud": name, "heard_ms_ago": heard, "rtt_us": rtt, "trouble": null, "lends": {"cpu_millis": lends, "memory_mib": lends * 2},
            "free": {"cpu_millis": free, "memory_mib": free * 2}, "place": place})
    };
    let heard = u64::try_from(s.ms() % 1000).unwrap();
    let mut members = vec![
        json!({"cloud": "seoul", "heard_ms_ago": 0, "rtt_us": 0, "trouble": null, "lends": {"cpu_millis": 2000, "memory_mib": 4096}, "free": null, "place": null}),
    ];
    if !s.empty {
        members.extend([
            member("busan", place("Busan", 35.18, 129.08), 5_240, heard, 4000, 1500),
            member("jeju", place("Jeju", 33.5, 126.53), 7_910, heard / 2, 1500, 1500),
            member("fukuoka", place("Fukuoka", 33.59, 130.4), 9_350, heard / 3, 6000, 4750),
            json!({"cloud": "gwangju", "heard_ms_ago": 48_000, "rtt_us": 4_100, "trouble": "connection refused", "lends": {"cpu_millis": 2000, "memory_mib": 2048},
                "free": null, "place": place("Gwangju", 35.16, 126.85)}),
        ]);
    }
    json!({
        "name": "seoul", "version": "0.1.0", "place": place("Seoul", 37.57, 126.98), "standing": "current", "automation": *s.automation.lock().unwrap(),
        "capacity": {"cpu_millis": 8000, "memory_mib": 16384}, "used_home": {"cpu_millis": 4750, "memory_mib": 6000}, "lent": {"cpu_millis": 500, "memory_mib": 512},
        "isolation": "uid, namespaces, seccomp, cgroup v1", "gateway": "serving", "members": members, "journal_seq": 4211,
        "currency": (!s.empty).then_some("KRW"), "ports": {"http": 8080, "https": null},
    })
}

/// The campaign: calm, a jump, relief as the leases begin to serve.
fn traffic(s: &Shared) -> Value {
    let t = s.ms() as f64 / 1000.0;
    let wave = |period: f64, by: f64| (t * std::f64::consts::TAU / period).sin() * by;
    let delay = if t < 3.0 {
        9_000.0
    } else if t < 9.0 {
        180_000.0 - (t - 3.0) * 12_000.0
    } else {
        24_000.0 + wave(7.0, 9_000.0)
    };
    let share = ((t - 4.0) / 8.0).clamp(0.0, 1.0);
    let arrivals = 812_000.0 + wave(5.0, 40_000.0);
    let n = |x: f64| x.max(0.0) as u64;
    let mut services = json!({
        "notes": {"arrivals_mps": n(arrivals), "completed_mps": n(arrivals - 2_000.0), "shed_mps": if delay > 100_000.0 { 41_000 } else { 0 }, "failed_mps": 0, "queue_delay_p95_us": n(delay),
            "app_time_p50_us": 4_100, "app_time_p95_us": 9_400, "user_rtt_p50_us": 21_000, "in_flight": 14, "limit": 16, "objective_queue_delay_p95_us": 50_000,
            "served_by": {"seoul": n(arrivals * (1.0 - 0.62 * share)), "busan": n(arrivals * 0.44 * share), "fukuoka": n(arrivals * 0.18 * share)},
            "judgement": "p95 queue delay 180 ms > 50 ms for 0.8 s; user RTT normal: overload, 4 borrowed instances keep it"},
        "tickets": {"arrivals_mps": n(96_000.0 + wave(3.0, 9_000.0)), "completed_mps": 95_000, "shed_mps": 0, "failed_mps": 0, "queue_delay_p95_us": n(62_000.0 + wave(11.0, 8_000.0)),
            "app_time_p50_us": 11_000, "app_time_p95_us": 31_000, "user_rtt_p50_us": 18_000, "in_flight": 7, "limit": 8, "objective_queue_delay_p95_us": 60_000,
            "served_by": {"seoul": 95_000}, "judgement": "p95 queue delay 66 ms > 60 ms for 1.2 s: overload, 2 borrowed instances wanted; the plan waits for a person"},
        "files": {"arrivals_mps": 4_200, "completed_mps": 4_200, "shed_mps": 0, "failed_mps": 0, "queue_delay_p95_us": 400, "app_time_p50_us": 900, "app_time_p95_us": 2_600,
            "user_rtt_p50_us": 24_000, "in_flight": 0, "limit": 32, "objective_queue_delay_p95_us": 50_000, "served_by": {"seoul": 4_200}, "judgement": "steady: nothing to change"},
    });
    if s.empty || s.idle.load(Ordering::Relaxed) {
        services = json!({});
    }
    json!({"at": s.now(), "services": services})
}

fn services(s: &Shared) -> Vec<Value> {
    let service = |name: &str, mode: &str, phase: &str, why: &str, home: u32, borrowed: (u32, u32)| {
        json!({
            "service": {"apiVersion": "pumasi/v1", "kind": "Service", "metadata": {"name": name, "revision": 7}, "spec": {
                "hosts": [format!("{name}.seoul.example")], "application": {"bundle": format!("blake3:{}", "ab".repeat(32)), "command": [format!("./{name}")], "resources": {"cpu_millis": 500, "memory_mib": 256}},
                "objective": {"queue_delay_p95_ms": 50, "answer_p95_ms": 0}, "borrowing": {"mode": mode, "instances_max": 8, "money_per_hour_max": 10_000_000}, "recovery_class": "early"}},
            "status": {"rollout": {"state": "done", "generation": 4, "ready": home, "wanted": home}, "lending": {"state": "yes", "why": []}, "customer": "default", "phase": phase, "why": why, "home_ready": home, "home_wanted": home, "borrowed_ready": borrowed.0, "borrowed_wanted": borrowed.1, "generation": 4, "deleting": false},
        })
    };
    let mut all = vec![
        service("notes", "automatic", "borrowing", "4 of 4 borrowed instances serve", 5, (4, 4)),
        service("tickets", "ask", "degraded", "a plan waits", 3, (0, 0)),
        service("files", "automatic", "serving", "", 1, (0, 0)),
    ];
    // A second after it was applied its first instance is ready, a second later all are.
    if let Some((applied, at)) = &*s.applied.lock().unwrap() {
        let ready = at.elapsed().as_secs().min(2);
        let state = if ready == 2 { "done" } else { "progressing" };
        let name = applied["metadata"]["name"].as_str().unwrap();
        let at = all.iter().position(|v| v["service"]["metadata"]["name"] == name).unwrap_or(all.len());
        if at == all.len() {
            all.push(service(name, "automatic", "starting", "", 2, (0, 0)));
        }
        all[at]["service"]["spec"] = applied["spec"].clone();
        all[at]["status"]["generation"] = json!(5);
        all[at]["status"]["rollout"] = json!({"state": state, "generation": 5, "ready": ready, "wanted": 2});
    }
    all
}

fn instances() -> Vec<Value> {
    let one = |digit: char, service: &str| {
        json!({"id": id("inst", digit), "lease": null, "service": service, "cloud": "seoul", "state": "ready", "why": "", "address": "127.0.0.1:41000", "generation": 4, "restarts": 0,
            "cpu_used_us": 3_200_000, "memory_bytes": 61_943_040})
    };
    vec![one('1', "notes"), one('2', "notes"), one('3', "tickets")]
}

fn journeys(s: &Shared) -> Vec<Value> {
    let part = |lease: char, lender: &str, granted: u32| {
        json!({"lease": id("lease", lease), "lender": lender, "reservation": id("hold", lease), "plan": id("plan", '1'), "granted": granted, "wanted": granted,
            "state": {"state": "serving"}, "ready": granted, "weight": 1_000_000})
    };
    vec![
        json!({"version": 1, "id": id("jrn", '1'), "service": "notes", "cause": "overload", "epoch": 3, "opened_at": s.wall - 9_200, "phase": {"phase": "running"},
            "plan": id("plan", '1'), "plan_number": 1, "seeking": null, "parts": [part('a', "busan", 3), part('b', "fukuoka", 1)], "failed": []}),
        json!({"version": 1, "id": id("jrn", '2'), "service": "tickets", "cause": "overload", "epoch": 1, "opened_at": s.wall - 4_000, "phase": {"phase": "waiting"},
            "plan": id("plan", '2'), "plan_number": 1, "seeking": null, "parts": [], "failed": []}),
        json!({"version": 1, "id": id("jrn", '3'), "service": "notes", "cause": "overload", "epoch": 2, "opened_at": s.wall - 86_000_000,
            "phase": {"phase": "closed", "at": s.wall - 85_000_000, "outcome": "returned", "why": "everything came back and was settled"},
            "plan": id("plan", '3'), "plan_number": 3, "seeking": null, "parts": [], "failed": []}),
    ]
}

fn plans(s: &Shared) -> Vec<Value> {
    let candidate = |cloud: &str, digit: char, rtt: u64, price: u64, score: u64, why: &str| json!({"cloud": cloud, "reservation": id("hold", digit), "lease": id("lease", digit), "price_per_instance_hour": price, "rtt_us": rtt, "score": score, "why": why});
    // Ids of one plan never stand in another.
    let own = |plan: char, c: char| if plan == '1' { c } else { char::from(c as u8 - b'a' + b'5') };
    let plan = |digit: char, number: u32, service: &str, journey: char, at: i64, text: &str| {
        json!({"version": 1, "id": id("plan", digit), "journey": id("jrn", journey), "number": number, "parent": null, "service": service, "epoch": 1, "created_at": s.wall - at,
            "verdict": {"service": service, "cause": "overload", "at": s.wall - at, "borrowed_wanted": 2, "reasons": [{"measure": "queue_delay_p95", "text": text},
                {"measure": "user_rtt", "text": "user RTT 18 ms is as ever: the servers are slow, not the way to them"}, {"measure": "home_only_share", "text": "4 % of the requests are writes: readers elsewhere help"}]},
            "mode": "ask", "borrow": {"requirement": {"service": service, "instances": 2, "instances_min": 1}, "hold_ttl_ms": 5000, "lease_ttl_ms": 15000, "answer_timeout_ms": 400, "candidates": [
                candidate("busan", own(digit, 'a'), 5_240, 25_000, 118, "nearest, has the application's chunks already"), candidate("fukuoka", own(digit, 'b'), 9_350, 20_000, 141, "cheapest, 9 ms away"),
                candidate("jeju", own(digit, 'e'), 7_910, 30_000, 180, "room for two only")]},
            "parts": [], "application": format!("blake3:{}", "ab".repeat(32)), "datasets": ["bookings"], "route": {"mode": "proxy", "start": 50_000, "step": 150_000, "step_ms": 250},
            "cost_per_hour_max": 60_000, "bytes_max": 188_743_680})
    };
    vec![
        json!({"plan": plan('2', 1, "tickets", '2', 4_000, "p95 queue delay 66 ms > 60 ms for 1.2 s"), "state": *s.plan_state.lock().unwrap()}),
        json!({"plan": plan('1', 1, "notes", '1', 9_000, "p95 queue delay 180 ms > 50 ms for 0.8 s"), "state": "adopted"}),
    ]
}

fn continuity() -> Vec<Value> {
    let seat = |service: &str, owner: &str, at: Option<&str>, state: &str, serves: Option<u64>, loss: Option<u64>| {
        json!({"service": service, "owner": owner, "cloud": at, "lease": at.map(|_| id("lease", 'c')), "state": state, "ready": u32::from(serves == Some(0)),
            "room": u32::from(at.is_some()), "serves_in_ms": serves, "loss_ms": loss, "kept_ms": at.map(|_| 2_592_000_000_u64), "why": ""})
    };
    vec![
        seat("notes", "seoul", Some("busan"), "kept", Some(0), Some(14)),
        seat("notes", "seoul", Some("fukuoka"), "coming", None, None),
        seat("tickets", "seoul", None, "none", None, None),
        seat("tiles", "jeju", Some("seoul"), "silent", Some(410), Some(0)),
    ]
}

fn leases(s: &Shared) -> Vec<Value> {
    let lease = |digit: char, side: &str, other: &str, service: &str, n: u32, state: &str, price: u64| {
        let (borrower, lender) = if side == "rented" { ("seoul", other) } else { (other, "seoul") };
        let lived = s.ms() + 8_000;
        json!({"id": id("lease", digit), "side": side, "borrower": borrower, "lender": lender, "service": service, "state": state, "instances_granted": n, "instances_wanted": n,
            "instances_ready": n, "price_per_instance_hour": price, "expires_in_ms": 15_000 - (s.ms() % 5_000), "instance_ms": lived * i64::from(n), "requests": lived / 3 * i64::from(n), "since": s.wall - 8_000,
            "why": "p95 queue delay 180 ms > 50 ms"})
    };
    let lent = if *s.recalled.lock().unwrap() { "recalled" } else { "active" };
    vec![
        lease('a', "rented", "busan", "notes", 3, "active", 25_000),
        lease('b', "rented", "fukuoka", "notes", 1, "active", 20_000),
        lease('f', "lent", "jeju", "tiles", 2, lent, 22_000),
    ]
}

fn events(s: &Shared) -> Vec<Value> {
    if s.empty {
        return vec![];
    }
    let mut seq = 4_190;
    let mut event = |at: i64, action: &str, kind: &str, subject: String, reasons: &[&str]| {
        seq += 1;
        json!({"seq": seq, "at": s.wall - 9_200 + at, "actor": "daemon", "action": action, "subject_kind": kind, "subject": subject, "cause": "overload", "reasons": reasons,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "data": {}})
    };
    let mut all = vec![
        event(
            0,
            "verdict",
            "service",
            "notes".into(),
            &[
                "p95 queue delay 180 ms > 50 ms for 0.8 s",
                "user RTT 21 ms is as ever: overload, not distance",
                "4 borrowed instances wanted",
            ],
        ),
        event(4, "plan_made", "plan", id("plan", '1'), &["borrow 4 at busan, fukuoka or jeju"]),
        event(5, "journey_opened", "journey", id("jrn", '1'), &["overload"]),
        event(
            12,
            "plan_adopted",
            "journey",
            id("jrn", '1'),
            &["plan 1 of this journey: borrow 4 at busan, fukuoka or jeju, at most 0.10 an hour"],
        ),
        event(31, "hold_granted", "reservation", id("hold", 'a'), &["busan holds 3 of 4 for 5 s"]),
        event(44, "hold_refused", "reservation", id("hold", 'e'), &["jeju: the quota of one borrower is used up"]),
        event(52, "hold_granted", "reservation", id("hold", 'b'), &["fukuoka holds 4 of 4 for 5 s"]),
        event(
            60,
            "lender_chosen",
            "lease",
            id("lease", 'a'),
            &["busan: nearest, has the application's chunks already"],
        ),
        event(61, "lender_chosen", "lease", id("lease", 'b'), &["fukuoka: one more for what busan lacks"]),
        event(
            118,
            "lease_signed",
            "lease",
            id("lease", 'a'),
            &["3 instances, 15 s from each renewal, 0.025 an hour each"],
        ),
        event(141, "lease_signed", "lease", id("lease", 'b'), &["1 instance, 15 s from each renewal, 0.02 an hour"]),
        event(
            760,
            "transferred",
            "lease",
            id("lease", 'a'),
            &["application generation 4 and first copies are complete and verified at busan"],
        ),
        event(
            1_420,
            "switchover",
            "lease",
            id("lease", 'a'),
            &["3 of 3 ready; first share 5 %, 15 % more each 250 ms"],
        ),
        event(
            2_350,
            "transferred",
            "lease",
            id("lease", 'b'),
            &["application generation 4 and first copies are complete and verified at fukuoka"],
        ),
        event(3_100, "switchover", "lease", id("lease", 'b'), &["1 of 1 ready; first share 5 %"]),
        event(5_200, "journey_opened", "journey", id("jrn", '2'), &["p95 queue delay 66 ms > 60 ms for 1.2 s"]),
        event(5_206, "plan_made", "plan", id("plan", '2'), &["borrow 2 instances, asking first"]),
        event(7_000, "lease_lent", "lease", id("lease", 'f'), &["jeju rents 2 instances for tiles"]),
    ];
    all[0]["data"] = json!({"journey": id("jrn", '1'), "borrowed_wanted": 4, "plan": id("plan", '1')});
    if *s.recalled.lock().unwrap() {
        all.push(event(9_900, "lease_recalled", "lease", id("lease", 'f'), &["an operator asked"]));
    }
    all
}
