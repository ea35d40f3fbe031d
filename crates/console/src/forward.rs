//! A console for one person: a loopback port that passes a browser's requests on to the daemon, as that person.
//!
//! Enters: requests with the token of this forwarder, which the page's fragment carries. Leaves: the daemon's answers.
//! Of a lab it may also take the wish for a crowd, which no daemon knows of.
//! Always holds: only 127.0.0.1 is listened on, and only its own name is answered to; the daemon's credentials stay here; the token is
//! made for this forwarder and is worth nothing once it has ended.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use pumasi_api::{CallError, Client, Fault, Problem};
use pumasi_trust::{constant_time_eq, random_bytes};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// The longest that a console sends is a manifest as JSON text.
const BODY_BYTES_MAX: usize = 2 << 20;
/// What goes back to the browser of the daemon's answer.
const PASSED: [header::HeaderName; 9] = [
    header::CONTENT_TYPE,
    header::ETAG,
    header::CACHE_CONTROL,
    header::CONTENT_SECURITY_POLICY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::REFERRER_POLICY,
    header::RETRY_AFTER,
    header::LOCATION,
    header::ALLOW,
];

/// Tells the page what the lab behind it offers, in the answer of who asks; outside a lab nobody sends it.
const LAB_FIELD: header::HeaderName = header::HeaderName::from_static("pumasi-lab");
const CROWD: &str = "/lab/crowd";

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("listening on 127.0.0.1:{port}: {source}")]
    Listen { port: u16, source: std::io::Error },
    #[error("no random bytes for the console's token: {0}")]
    Entropy(String),
}

/// One that runs until it is dropped.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    token: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Behind {
    client: Client,
    token: String,
    port: u16,
    /// Where the wish for a crowd goes, in a lab.
    crowd: Option<mpsc::Sender<()>>,
}

impl Forwarder {
    /// `port`: 0 takes a free one. `client` calls the daemon as the person whom the console is for.
    pub async fn start(client: Client, port: u16) -> Result<Self, ForwardError> {
        Self::listen(client, port, None).await
    }

    /// In a lab: with a button that asks for a crowd.
    pub async fn start_with_crowd(client: Client, port: u16, crowd: mpsc::Sender<()>) -> Result<Self, ForwardError> {
        Self::listen(client, port, Some(crowd)).await
    }

    async fn listen(client: Client, port: u16, crowd: Option<mpsc::Sender<()>>) -> Result<Self, ForwardError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.map_err(|source| ForwardError::Listen { port, source })?;
        let address = listener.local_addr().map_err(|source| ForwardError::Listen { port, source })?;
        let bytes: [u8; 24] = random_bytes().map_err(|e| ForwardError::Entropy(e.to_string()))?;
        let token: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let behind = Arc::new(Behind { client, token: token.clone(), port: address.port(), crowd });
        let router = Router::new().fallback(pass).with_state(behind);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, token, task })
    }

    /// The console's address, with the token in its fragment. A secret as long as this runs.
    pub fn url(&self) -> String {
        format!("http://{}/console/#token={}", self.address, self.token)
    }

    /// Until it ends, which it does by itself only when something is broken.
    pub async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }
}

fn refuse(status: u16, code: &str, text: &str) -> Response {
    let problem = Problem::new(status, code, Fault::Input, text);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

fn token_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

async fn pass(State(behind): State<Arc<Behind>>, method: Method, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    // A page elsewhere whose own name points here (DNS rebinding) asks by that name.
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if host != format!("127.0.0.1:{}", behind.port) && host != format!("localhost:{}", behind.port) {
        return refuse(421, "other_host", "this console answers at 127.0.0.1 only");
    }
    let path = uri.path();
    let is_page = method == Method::GET && (path == "/" || path == "/console" || path.starts_with("/console/"));
    let known = token_of(&headers).is_some_and(|t| constant_time_eq(t.as_bytes(), behind.token.as_bytes()));
    if !known && !is_page {
        return refuse(
            401,
            "unauthenticated",
            "open the address that `pumasi console` printed; this one has another token",
        );
    }
    if let (Some(crowd), CROWD) = (&behind.crowd, path) {
        return ask_for_crowd(crowd, &method);
    }
    let bytes = match axum::body::to_bytes(body, BODY_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(_) => return refuse(413, "too_large", "a console sends no such bodies"),
    };
    let is_who = path == "/v1/whoami";
    let path = uri.path_and_query().map_or(path, |p| p.as_str());
    match behind.client.pass(method.as_str(), path, headers.get(header::ACCEPT), some(bytes)).await {
        Ok(answer) => {
            let mut answer = answered(answer.map(Body::new));
            if is_who && behind.crowd.is_some() {
                answer.headers_mut().insert(LAB_FIELD, HeaderValue::from_static("crowd"));
            }
            answer
        }
        Err(CallError::Unreachable { url, problem }) => refuse(502, "daemon_unreachable", &format!("{url}: {problem}")),
        Err(e) => refuse(502, "daemon_garbled", &e.to_string()),
    }
}

fn ask_for_crowd(crowd: &mpsc::Sender<()>, method: &Method) -> Response {
    if method != Method::POST {
        return refuse(405, "wrong_method", "a crowd is asked for by POST");
    }
    match crowd.try_send(()) {
        Ok(()) => (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], "{}").into_response(),
        Err(TrySendError::Full(())) => {
            refuse(409, "conflict", "another crowd waits already: they come one after the other")
        }
        Err(TrySendError::Closed(())) => refuse(410, "gone", "the lab ends and sends no more crowds"),
    }
}

fn some(bytes: Bytes) -> Option<Bytes> {
    (!bytes.is_empty()).then_some(bytes)
}

fn answered(answer: axum::http::Response<Body>) -> Response {
    let (mut head, body) = answer.into_parts();
    let all = std::mem::take(&mut head.headers);
    head.headers =
        all.into_iter().filter_map(|(name, value)| Some((name.filter(|n| PASSED.contains(n))?, value))).collect();
    Response::from_parts(head, body)
}
