//! The daemon's hand on its gateway: HTTP/1.1 and JSON over a Unix socket that only its owner may open.
//!
//! Control protocol, version 1: `PUT /v1/table`, `PUT /v1/positions`, `PUT /v1/tenure`, `PUT /v1/keys`, `GET /v1/meter?after=SEQ`, `GET /v1/status`,
//! `GET /v1/wanted?after=N`, `POST /v1/ask`, `POST /v1/reload-identity`, `POST /v1/stop`, `GET /metrics`.

use crate::admission::BackendStatus;
use crate::ask::{self, Question};
use crate::certificates::{self, Reloadable};
use crate::gateway::{Gateway, Phase};
use crate::keys::KeysError;
use crate::meter::MeterReport;
use crate::table::{Service, TABLE_BYTES_MAX, TableError, TenureError};
use crate::{clock, metrics};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pumasi_route::keys::{KEYS_VERSION, Keys};
use pumasi_route::table::{Positions, RouteTable};
use pumasi_route::tenure::{TENURE_VERSION, Tenure};
use pumasi_terms::{BootMs, CloudName, ServiceName};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};

pub const CONTROL_SOCKET: &str = "control.sock";
const STATUS_VERSION: u32 = 1;
const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayStatus {
    pub version: u32,
    pub cloud: CloudName,
    pub gateway_run: u64,
    pub pid: u32,
    /// 0: no table yet.
    pub table_revision: u64,
    pub at: BootMs,
    pub uptime_ms: u64,
    pub stopping: bool,
    /// Addresses for users, in the order of the configuration.
    pub listening: Vec<SocketAddr>,
    pub peer_listening: Option<SocketAddr>,
    pub connections: u32,
    pub tunnels: u32,
    pub services: Vec<PlaceStatus>,
    /// Served here for other clouds.
    pub leases: Vec<PlaceStatus>,
    /// No longer in the table, with requests still in flight.
    pub leaving: Vec<PlaceStatus>,
    /// Services whose requests that may write wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldStatus>,
}

/// A service that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldStatus {
    pub service: ServiceName,
    /// When those that wait are refused.
    pub until: BootMs,
    /// Let in before the hold, not answered whole yet, upgraded connections included. At 0 the service is drained.
    pub in_flight: u32,
    pub waiting: u32,
}

/// One service, or one lease served here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceStatus {
    pub name: String,
    pub queued: u64,
    pub backends: Vec<BackendStatus>,
}

/// The body of every refusal on this socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlProblem {
    pub problem: String,
    /// The revision in force, where an older table was offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
}

type Answer = Response<Full<Bytes>>;

/// Binds the socket; the lock on the directory says that no other gateway serves it.
pub fn bind(dir: &Path) -> std::io::Result<UnixListener> {
    let path = dir.join(CONTROL_SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn run(gateway: Arc<Gateway>, listener: UnixListener, public: Arc<Reloadable>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this task: whoever keeps a connection must not go on hearing a gateway that makes way for another.
    let open = watch::Sender::new(());
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (gateway, public, mut over) = (gateway.clone(), public.clone(), open.subscribe());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (gateway, public) = (gateway.clone(), public.clone());
                async move { Ok::<_, Infallible>(serve(&gateway, &public, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = over.changed() => {
                    // What is being answered is answered.
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(permit);
        });
    }
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = Response::new(Full::new(Bytes::from(bytes)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn problem(status: StatusCode, problem: impl std::fmt::Display) -> Answer {
    json(status, &ControlProblem { problem: problem.to_string(), current: None })
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Answer> {
    match Limited::new(request.into_body(), TABLE_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) => Err(problem(StatusCode::BAD_REQUEST, format!("the body cannot be read: {e}"))),
    }
}

async fn serve(gateway: &Arc<Gateway>, public: &Reloadable, request: Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::PUT, "/v1/table") => match body(request).await {
            Ok(bytes) => put_table(gateway, bytes).await,
            Err(answer) => answer,
        },
        (&Method::PUT, "/v1/positions") => match body(request).await {
            Ok(bytes) => match serde_json::from_slice::<Positions>(&bytes) {
                Ok(positions) => {
                    gateway.tables.put_positions(positions);
                    json(StatusCode::OK, &serde_json::json!({}))
                }
                Err(e) => problem(StatusCode::BAD_REQUEST, format!("positions: {e}")),
            },
            Err(answer) => answer,
        },
        (&Method::PUT, "/v1/tenure") => match body(request).await {
            Ok(bytes) => put_tenure(gateway, &bytes),
            Err(answer) => answer,
        },
        (&Method::PUT, "/v1/keys") => match body(request).await {
            Ok(bytes) => put_keys(gateway, bytes).await,
            Err(answer) => answer,
        },
        (&Method::GET, "/v1/meter") => {
            let query = request.uri().query().unwrap_or_default();
            let after = query.split('&').find_map(|p| p.strip_prefix("after="));
            match after.unwrap_or("0").parse::<u64>() {
                Ok(after) => json::<MeterReport>(StatusCode::OK, &gateway.meter.read(after).await),
                Err(_) => problem(StatusCode::BAD_REQUEST, "after: must be a window's number"),
            }
        }
        (&Method::GET, "/v1/wanted") => match after(&request) {
            Ok(Some(after)) => json(StatusCode::OK, &gateway.wanted.read(after).await),
            Ok(None) => json(StatusCode::OK, &gateway.wanted.since(0)),
            Err(_) => problem(StatusCode::BAD_REQUEST, "after: must be the number of an answer before"),
        },
        (&Method::GET, "/v1/status") => json(StatusCode::OK, &status(gateway)),
        (&Method::POST, "/v1/ask") => match body(request).await {
            Ok(bytes) => match serde_json::from_slice::<Question>(&bytes) {
                Ok(question) => json(StatusCode::OK, &ask::ask(gateway, &question).await),
                Err(e) => problem(StatusCode::BAD_REQUEST, format!("question: {e}")),
            },
            Err(answer) => answer,
        },
        (&Method::GET, "/metrics") => {
            let mut answer = Response::new(Full::new(Bytes::from(metrics::text(gateway))));
            let text = HeaderValue::from_static("text/plain; version=0.0.4");
            answer.headers_mut().insert(header::CONTENT_TYPE, text);
            answer
        }
        (&Method::POST, "/v1/reload-identity") => reload(gateway, public),
        (&Method::POST, "/v1/stop") => {
            gateway.phase.send_replace(Phase::Stopping);
            json(StatusCode::ACCEPTED, &serde_json::json!({}))
        }
        _ => problem(StatusCode::NOT_FOUND, "no such call"),
    }
}

fn after(request: &Request<Incoming>) -> Result<Option<u64>, std::num::ParseIntError> {
    let mut words = request.uri().query().unwrap_or_default().split('&');
    words.find_map(|word| word.strip_prefix("after=")).map(str::parse).transpose()
}

/// Read first: what is of a newer version may not read as this one at all.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

fn put_tenure(gateway: &Gateway, bytes: &[u8]) -> Answer {
    let tenure = match serde_json::from_slice::<Head>(bytes) {
        Ok(head) if head.version != TENURE_VERSION => {
            return problem(StatusCode::BAD_REQUEST, TenureError::Version { found: head.version });
        }
        Ok(_) => serde_json::from_slice::<Tenure>(bytes),
        Err(e) => Err(e),
    };
    match tenure {
        Ok(tenure) => match gateway.tables.put_tenure(tenure) {
            Ok(()) => json(StatusCode::OK, &serde_json::json!({})),
            Err(e) => problem(StatusCode::BAD_REQUEST, e),
        },
        Err(e) => problem(StatusCode::BAD_REQUEST, format!("tenure: {e}")),
    }
}

async fn put_keys(gateway: &Arc<Gateway>, bytes: Bytes) -> Answer {
    let keys = match serde_json::from_slice::<Head>(&bytes) {
        Ok(head) if head.version != KEYS_VERSION => {
            return problem(StatusCode::BAD_REQUEST, KeysError::Version { found: head.version });
        }
        Ok(_) => serde_json::from_slice::<Keys>(&bytes),
        Err(e) => Err(e),
    };
    let keys = match keys {
        Ok(keys) => keys,
        // Nothing of what it holds is told, and what does not read may be a key.
        Err(e) => return problem(StatusCode::BAD_REQUEST, format!("keys: line {} does not read", e.line())),
    };
    let ring = gateway.keys.clone();
    // It waits for the disk.
    match tokio::task::spawn_blocking(move || ring.put(keys)).await {
        Ok(Ok(())) => json(StatusCode::OK, &serde_json::json!({})),
        Ok(Err(e @ KeysError::Keep { .. })) => problem(StatusCode::INTERNAL_SERVER_ERROR, e),
        Ok(Err(e)) => problem(StatusCode::BAD_REQUEST, e),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, e),
    }
}

async fn put_table(gateway: &Arc<Gateway>, bytes: Bytes) -> Answer {
    let table = match serde_json::from_slice::<Head>(&bytes) {
        Ok(head) if !pumasi_route::table::is_read(head.version) => {
            return problem(StatusCode::BAD_REQUEST, TableError::Version { found: head.version });
        }
        Ok(_) => serde_json::from_slice::<RouteTable>(&bytes),
        Err(e) => Err(e),
    };
    let table = match table {
        Ok(table) => table,
        Err(e) => return problem(StatusCode::BAD_REQUEST, format!("table: {e}")),
    };
    let tables = gateway.tables.clone();
    // It waits for the disk.
    let put = tokio::task::spawn_blocking(move || tables.put(table, Some(&bytes))).await;
    match put {
        Ok(Ok(revision)) => json(StatusCode::OK, &serde_json::json!({ "revision": revision })),
        Ok(Err(e @ TableError::Old { current, .. })) => {
            json(StatusCode::CONFLICT, &ControlProblem { problem: e.to_string(), current: Some(current) })
        }
        Ok(Err(e @ TableError::Keep { .. })) => problem(StatusCode::INTERNAL_SERVER_ERROR, e),
        Ok(Err(e)) => problem(StatusCode::BAD_REQUEST, e),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, e),
    }
}

fn reload(gateway: &Gateway, public: &Reloadable) -> Answer {
    match certificates::reload(gateway, public) {
        Ok(read) => json(StatusCode::OK, &read),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, e),
    }
}

pub fn status(gateway: &Gateway) -> GatewayStatus {
    let live = gateway.tables.live();
    let place = |name: String, admission: &crate::admission::Admission| {
        let (queued, backends) = admission.status();
        PlaceStatus { name, queued, backends }
    };
    GatewayStatus {
        version: STATUS_VERSION,
        cloud: gateway.config.cloud.clone(),
        gateway_run: gateway.run,
        pid: std::process::id(),
        table_revision: live.revision,
        at: clock::boot_ms(),
        uptime_ms: clock::boot_us().saturating_sub(gateway.started_us) / 1_000,
        stopping: *gateway.phase.borrow() == Phase::Stopping,
        listening: gateway.bound.get().map(|b| b.0.clone()).unwrap_or_default(),
        peer_listening: gateway.bound.get().and_then(|b| b.1),
        connections: gateway.connections.load(Ordering::Acquire),
        tunnels: gateway.tunnels.load(Ordering::Acquire),
        services: live.services.iter().map(|(n, s)| place(n.to_string(), &s.admission)).collect(),
        leases: live.leases.iter().map(|(id, l)| place(id.to_string(), &l.admission)).collect(),
        leaving: gateway.tables.leaving().into_iter().map(|(n, a)| place(n, &a)).collect(),
        held: live.services.values().filter_map(|s| held(s)).collect(),
    }
}

fn held(service: &Service) -> Option<HeldStatus> {
    let now = service.gate.held()?;
    let (service, until) = (service.name.clone(), now.until);
    Some(HeldStatus { service, until, in_flight: now.inside, waiting: now.waiting })
}
