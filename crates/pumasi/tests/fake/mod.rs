//! A daemon that knows just enough of the API, and remembers what it was asked.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use pumasi_api::Problem;
use pumasi_terms::Digest;
use pumasi_transfer::{PackReader, TreeManifest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Memory {
    seen: Vec<(String, Value)>,
    services: BTreeMap<String, Value>,
    chunks: BTreeSet<Digest>,
    named: BTreeSet<Digest>,
}

pub struct Fake {
    pub url: String,
    memory: Arc<Mutex<Memory>>,
    _runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn run(fake: &Fake, args: &[&str]) -> Done {
    run_with(fake, args, |c| c)
}

pub fn run_with(fake: &Fake, args: &[&str], more: impl FnOnce(&mut Command) -> &mut Command) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pumasi"));
    for name in ["PUMASI_TOKEN_FILE", "PUMASI_CONFIG", "PUMASI_LOG"] {
        command.env_remove(name);
    }
    command.args(args).env("PUMASI_SERVER", &fake.url).env("PUMASI_TOKEN", "right").stdin(Stdio::null());
    let done = more(&mut command).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: done.status.code().unwrap(), out: text(done.stdout), err: text(done.stderr) }
}

impl Fake {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let memory = Arc::new(Mutex::new(Memory::default()));
        let router = Router::new().fallback(answer).with_state(memory.clone());
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(&socket).unwrap()
        };
        let url = format!("unix:{}", socket.display());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, memory, _runtime: runtime, _dir: dir }
    }
    pub fn seen(&self) -> Vec<String> {
        self.memory.lock().unwrap().seen.iter().map(|(r, _)| r.clone()).collect()
    }
    pub fn count(&self, request: &str) -> usize {
        self.seen().iter().filter(|r| *r == request).count()
    }
    pub fn bodies(&self, request: &str) -> Vec<Value> {
        self.memory.lock().unwrap().seen.iter().filter(|(r, _)| r == request).map(|(_, b)| b.clone()).collect()
    }
    pub fn chunks(&self) -> BTreeSet<Digest> {
        self.memory.lock().unwrap().chunks.clone()
    }
    pub fn named_chunks(&self) -> BTreeSet<Digest> {
        self.memory.lock().unwrap().named.clone()
    }
    pub fn put_sample(&self) {
        let service = json!({
            "apiVersion": "pumasi/v1", "kind": "Service", "metadata": {"name": "sample"},
            "spec": {"hosts": ["sample.example"], "application": {"bundle": Digest([1; 32]), "command": ["./sample"]}},
        });
        self.memory.lock().unwrap().services.insert("sample".into(), service);
    }
}

fn refuse(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], serde_json::to_vec(&problem).unwrap())
        .into_response()
}

fn view(service: &Value) -> Value {
    json!({"service": service, "status": {
        "phase": "serving", "why": "", "home_ready": 1, "home_wanted": 1, "borrowed_ready": 0, "borrowed_wanted": 0,
        "generation": 1, "deleting": false,
    }})
}

async fn answer(
    State(memory): State<Arc<Mutex<Memory>>>,
    method: Method,
    uri: Uri,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|v| v != "Bearer right") {
        return refuse(Problem::new(401, "unauthenticated", pumasi_api::Fault::Input, "this token is not known"));
    }
    let mut memory = memory.lock().unwrap();
    memory.seen.push((format!("{method} {uri}"), serde_json::from_slice(&body).unwrap_or(Value::Null)));
    let plan = json!({"id": format!("plan-{}", "a".repeat(32)), "number": 1, "service": "notes", "mode": "ask", "state": "waiting", "created_at": 0,
        "verdict": {"cause": "overload", "reasons": [{"measure": "queue_delay_p95", "text": "p95 queue delay 180 ms > 50 ms"}]}});
    let list = |items: Vec<Value>| json!({"revision": 1, "items": items});
    let path = uri.path();
    let answered = match (method.as_str(), path) {
        ("GET", "/v1/services") => list(memory.services.values().map(view).collect()),
        ("GET", "/v1/plans") => list(vec![plan]),
        ("GET", p) if p.starts_with("/v1/plans/") => plan,
        ("GET", "/v1/events") => list(vec![json!({"seq": 1, "at": 0, "actor": "daemon", "action": "journey.opened",
            "subject_kind": "service", "subject": "sample", "cause": "overload", "reasons": ["full"], "trace_id": null, "data": null})]),
        ("GET", "/v1/traffic") => {
            json!({"at": 0, "services": {"sample": {"queue_delay_p95_us": 180_000, "objective_queue_delay_p95_us": 50_000}}})
        }
        ("GET", "/v1/watch") => {
            // Two changes, then the connection ends; the next begins after the revision that was named.
            let from: u64 = uri.query().and_then(|q| q.split("after=").nth(1)).map_or(4, |r| r.parse().unwrap());
            let lines: String = (from + 1..=from + 2)
                .map(|r| {
                    format!(
                        "id: {r}\ndata: {}\n\n",
                        json!({"revision": r, "kind": "service", "name": format!("s{r}"), "body": {}})
                    )
                })
                .collect();
            return ([(header::CONTENT_TYPE, "text/event-stream")], Body::from(lines)).into_response();
        }
        ("GET", "/v1/services/hostile") => {
            let detail = "there is none\u{1b}[2J\u{9b}31m\u{202e}\r\nservice/notes deleted\u{7}";
            return refuse(Problem { detail: detail.into(), ..Problem::not_found("service", "hostile") });
        }
        ("GET", "/v1/services/hostile/logs") => {
            return Body::from("first\n\u{1b}]0;owned\u{7}\u{202e}second\u{9b}2J\rthird\n").into_response();
        }
        ("GET", p) if p.starts_with("/v1/services/") => {
            let name = p.rsplit('/').next().unwrap();
            match memory.services.get(name) {
                Some(service) => view(service),
                None => return refuse(Problem::not_found("service", name)),
            }
        }
        ("PUT", p) if p.starts_with("/v1/services/") => {
            let service: Value = serde_json::from_slice(&body).unwrap();
            memory.services.insert(p.rsplit('/').next().unwrap().to_owned(), service.clone());
            view(&service)
        }
        ("DELETE", p) if p.starts_with("/v1/services/") => {
            memory.services.remove(p.rsplit('/').next().unwrap());
            Value::Null
        }
        ("POST", "/v1/services/notes/check") => {
            json!({"state": "no", "why": ["dataset files: inbox/x is a socket"]})
        }
        ("POST", "/v1/bundles/missing") => {
            let tree = TreeManifest::parse(&body).unwrap();
            let missing: Vec<Digest> = tree.digests().into_iter().filter(|d| !memory.chunks.contains(d)).collect();
            json!({"chunks": missing})
        }
        ("POST", "/v1/bundles/chunks") => {
            let mut pack = PackReader::new(&body[..]).unwrap();
            while let Some((digest, _)) = pack.next_chunk().unwrap() {
                assert!(memory.chunks.insert(digest), "a chunk was sent twice");
            }
            Value::Null
        }
        ("POST", "/v1/bundles") => {
            let tree = TreeManifest::parse(&body).unwrap();
            memory.named.extend(tree.digests());
            json!({"bundle": tree.digest(), "bytes": tree.total_bytes})
        }
        ("POST", "/v1/tokens") => {
            json!({"id": "tok-1", "name": "ci", "role": "customer", "created_at": 0, "expires_at": null, "secret": "sesame"})
        }
        ("POST", "/v1/automation") => return refuse(Problem::forbidden("only operators may stop automation")),
        ("POST", "/v1/backup") => return refuse(Problem::unavailable("the disk is full")),
        ("POST", p) if p.starts_with("/v1/plans/") => Value::Null,
        ("GET", _) => list(vec![]),
        _ => return refuse(Problem::not_found("endpoint", path)),
    };
    serde_json::to_vec(&answered).unwrap().into_response()
}
