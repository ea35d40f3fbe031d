//! The client of the API: for the CLI by token, for a peer by certificate.

use crate::lost;
use crate::problem::Problem;
use crate::way::Way;
use bytes::Bytes;
use reqwest::redirect::Policy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Carries an invitation's secret, in hex.
pub const INVITATION_FIELD: &str = "pumasi-invitation";

/// Says under which epoch an act on a lease is done.
pub const EPOCH_FIELD: &str = "pumasi-epoch";

/// The largest answer that is read whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It may or may not have been done: safe to repeat where the request carries its own id.
    #[error("{}: {problem}", lost::place(.url))]
    Unreachable { url: String, problem: String },
    /// The other side answered and refused.
    #[error("{0}")]
    Refused(#[from] Problem),
    #[error("{url}: the answer is not what this version expects: {problem}")]
    Garbled { url: String, problem: String },
}

impl CallError {
    /// The other side's refusal, if it was one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// How a call identifies itself.
#[derive(Clone)]
pub enum Credentials {
    Token(String),
    None,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// What carries a call instead of a connection: a simulated network. The answer is whole, or why there is none.
pub type Carry = dyn Fn(http::Request<Bytes>) -> Carried + Send + Sync;
pub type Carried = Pin<Box<dyn Future<Output = Result<http::Response<Bytes>, String>> + Send>>;

#[derive(Clone)]
enum Transport {
    Http(reqwest::Client),
    Carry(Arc<Carry>),
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http(_) => "http",
            Self::Carry(_) => "carried",
        })
    }
}

#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
    /// What people are told that they called.
    base: String,
    /// What stands before the path of a request: not the same where a socket's file is called.
    origin: String,
    credentials: Credentials,
    timeout: Duration,
    /// W3C `traceparent`, so that what one cause does at several clouds is found by one id.
    trace: Option<String>,
    /// An invitation's secret, so that a daemon which knows no more of the caller reads its longer bodies.
    proof: Option<String>,
    epoch: Option<u64>,
}

fn people() -> reqwest::ClientBuilder {
    let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).redirect(Policy::none()).no_proxy();
    // A connection of HTTP/2 cannot become another protocol's.
    http.http1_only()
}

struct Request {
    url: String,
    request: http::Request<Bytes>,
}

fn garbled(url: &str, problem: String) -> CallError {
    CallError::Garbled { url: url.to_owned(), problem }
}

fn refusal(url: &str, status: http::StatusCode, body: &[u8]) -> CallError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => CallError::Refused(problem),
        Err(_) => garbled(url, format!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)]))),
    }
}

impl Client {
    /// For people on the daemon's host: its Unix socket. Without a token the socket itself tells who calls.
    pub fn over_socket(socket: &Path, token: Option<&str>, timeout: Duration) -> Result<Self, CallError> {
        let shown = format!("unix:{}", socket.display());
        crate::socket::check(socket).map_err(|problem| CallError::Unreachable { url: shown.clone(), problem })?;
        let http = people().unix_socket(socket).build();
        Self::for_people(http, &shown, "http://daemon", token, timeout)
    }

    /// For people elsewhere: HTTPS to a server that one of `roots` (PEM) vouches for. A token is told to nobody else.
    pub fn over_tls(base: &str, roots: &[u8], token: Option<&str>, timeout: Duration) -> Result<Self, CallError> {
        let roots = reqwest::Certificate::from_pem_bundle(roots)
            .ok()
            .filter(|roots| !roots.is_empty())
            .ok_or_else(|| garbled(base, "there is no PEM certificate in what vouches for it".into()))?;
        let http = roots.into_iter().fold(people().https_only(true), reqwest::ClientBuilder::add_root_certificate);
        Self::for_people(http.build(), base, base, token, timeout)
    }

    fn for_people(
        http: reqwest::Result<reqwest::Client>,
        shown: &str,
        origin: &str,
        token: Option<&str>,
        timeout: Duration,
    ) -> Result<Self, CallError> {
        let http = http.map_err(|e| CallError::Unreachable { url: shown.to_owned(), problem: lost::words(&e) })?;
        let credentials = token.map_or(Credentials::None, |token| Credentials::Token(token.to_owned()));
        let (base, origin) = (shown.trim_end_matches('/').to_owned(), origin.trim_end_matches('/').to_owned());
        Ok(Self {
            transport: Transport::Http(http),
            base,
            origin,
            credentials,
            timeout,
            trace: None,
            proof: None,
            epoch: None,
        })
    }

    /// For clouds: `tls` checks the other side's SPIFFE identity and shows ours. The address is the other side's word:
    /// nothing but HTTPS to a host that can be a cloud is spoken there, and its redirects lead nowhere.
    pub fn with_tls(base: &str, tls: rustls::ClientConfig, way: Way, timeout: Duration) -> Result<Self, CallError> {
        way.check(base).map_err(|problem| CallError::Unreachable { url: base.to_owned(), problem })?;
        let http = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            .https_only(true)
            .redirect(Policy::none())
            .dns_resolver(Arc::new(way))
            .local_address(way.source)
            .connect_timeout(Duration::from_secs(3))
            .pool_idle_timeout(Duration::from_secs(30))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .http2_keep_alive_timeout(Duration::from_secs(4))
            .http2_keep_alive_while_idle(true)
            .http2_initial_stream_window_size(4 << 20)
            .http2_initial_connection_window_size(16 << 20)
            .no_proxy()
            .build();
        Self::for_people(http, base, base, None, timeout)
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Calls belong to this trace: 32 hex digits (W3C Trace Context, 3.2).
    pub fn with_trace(&self, trace_id: &str) -> Self {
        Self { trace: Some(format!("00-{trace_id}-0000000000000001-01")), ..self.clone() }
    }

    /// Calls prove an invitation before their body is read.
    pub fn with_invitation(&self, secret: &str) -> Self {
        Self { proof: Some(secret.to_owned()), ..self.clone() }
    }

    /// Calls are acts of whoever owns a service at this epoch; a later one makes them void.
    pub fn at_epoch(&self, epoch: pumasi_terms::Epoch) -> Self {
        Self { epoch: Some(epoch.0), ..self.clone() }
    }

    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// For clouds of a simulation.
    pub fn carried(base: &str, carry: Arc<Carry>, timeout: Duration) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        let origin = base.clone();
        let (transport, credentials) = (Transport::Carry(carry), Credentials::None);
        Self { transport, base, origin, credentials, timeout, trace: None, proof: None, epoch: None }
    }

    fn request(&self, method: &str, path: &str, body: Option<(&'static str, Bytes)>) -> Result<Request, CallError> {
        let url = format!("{}{path}", self.base);
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.origin));
        if let Some(trace) = &self.trace {
            request = request.header("traceparent", trace);
        }
        if let Credentials::Token(token) = &self.credentials {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(proof) = &self.proof {
            request = request.header(INVITATION_FIELD, proof);
        }
        if let Some(epoch) = self.epoch {
            request = request.header(EPOCH_FIELD, epoch);
        }
        if let Some((kind, _)) = body {
            request = request.header("content-type", kind);
        }
        let bytes = body.map(|(_, bytes)| bytes).unwrap_or_default();
        let request = request.body(bytes).map_err(|e| garbled(&url, e.to_string()))?;
        Ok(Request { url, request })
    }

    /// The whole answer, whatever its status.
    async fn exchange(&self, Request { url, request }: Request) -> Result<(http::StatusCode, Bytes), CallError> {
        let lost = |problem: String| CallError::Unreachable { url: url.clone(), problem };
        match &self.transport {
            Transport::Carry(carry) => {
                let answer = tokio::time::timeout(self.timeout, carry(request)).await;
                let answer = answer.map_err(|_| lost("no answer in time".into()))?.map_err(lost)?;
                Ok((answer.status(), answer.into_body()))
            }
            Transport::Http(http) => {
                let mut request = reqwest::Request::try_from(request).map_err(|e| garbled(&url, lost::words(&e)))?;
                *request.timeout_mut() = Some(self.timeout);
                let mut answer = http.execute(request).await.map_err(|e| lost(lost::words(&e)))?;
                let status = answer.status();
                let mut body = Vec::new();
                while let Some(chunk) = answer.chunk().await.map_err(|e| lost(lost::words(&e)))? {
                    if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                        return Err(garbled(&url, format!("longer than {ANSWER_BYTES_MAX} bytes")));
                    }
                    body.extend_from_slice(&chunk);
                }
                Ok((status, body.into()))
            }
        }
    }

    /// Passes a request on and its answer back as it comes: for a forwarder. Only what is named here goes along.
    pub async fn pass(
        &self,
        method: &str,
        path: &str,
        accept: Option<&http::HeaderValue>,
        body: Option<Bytes>,
    ) -> Result<http::Response<reqwest::Body>, CallError> {
        let Request { url, mut request } = self.request(method, path, body.map(|b| ("application/json", b)))?;
        if let Some(accept) = accept {
            request.headers_mut().insert("accept", accept.clone());
        }
        let lost = |e: reqwest::Error| CallError::Unreachable { url: url.clone(), problem: lost::words(&e) };
        let Transport::Http(http) = &self.transport else {
            return Err(garbled(&url, "this transport passes nothing on".into()));
        };
        let request = reqwest::Request::try_from(request).map_err(lost)?;
        Ok(http.execute(request).await.map_err(lost)?.into())
    }

    /// The body of a good answer.
    async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<(String, Bytes), CallError> {
        let request = self.request(method, path, body)?;
        let url = request.url.clone();
        let (status, body) = self.exchange(request).await?;
        if status.is_success() {
            return Ok((url, body));
        }
        Err(refusal(&url, status, &body))
    }

    fn decode<A: DeserializeOwned>((url, body): (String, Bytes)) -> Result<A, CallError> {
        let body = if body.is_empty() { b"null" } else { &body[..] };
        serde_json::from_slice(body).map_err(|e| garbled(&url, e.to_string()))
    }

    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, CallError> {
        Self::decode(self.call("GET", path, None).await?)
    }

    /// JSON in, JSON out. `()` as the answer accepts an empty one.
    pub async fn send<A: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, CallError> {
        let bytes = serde_json::to_vec(body).map_err(|e| garbled(path, format!("what was to be sent: {e}")))?;
        Self::decode(self.call(method, path, Some(("application/json", bytes.into()))).await?)
    }

    pub async fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, CallError> {
        self.send("POST", path, body).await
    }

    pub async fn put<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, CallError> {
        self.send("PUT", path, body).await
    }

    pub async fn delete<A: DeserializeOwned>(&self, path: &str) -> Result<A, CallError> {
        Self::decode(self.call("DELETE", path, None).await?)
    }

    /// Raw bytes in, JSON out.
    pub async fn send_bytes<A: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        bytes: Bytes,
    ) -> Result<A, CallError> {
        Self::decode(self.call(method, path, Some(("application/octet-stream", bytes))).await?)
    }

    /// The bytes of an answer.
    pub async fn bytes(&self, path: &str) -> Result<Bytes, CallError> {
        Ok(self.call("GET", path, None).await?.1)
    }

    /// Asks for another protocol on this connection, which is the caller's from then on.
    pub async fn upgrade(
        &self,
        path: &str,
        protocol: &'static str,
        body: &impl Serialize,
    ) -> Result<reqwest::Upgraded, CallError> {
        let bytes = serde_json::to_vec(body).map_err(|e| garbled(path, format!("what was to be sent: {e}")))?;
        let Request { url, mut request } = self.request("POST", path, Some(("application/json", bytes.into())))?;
        request.headers_mut().insert("connection", http::HeaderValue::from_static("upgrade"));
        request.headers_mut().insert("upgrade", http::HeaderValue::from_static(protocol));
        let lost = |e: reqwest::Error| CallError::Unreachable { url: url.clone(), problem: lost::words(&e) };
        let Transport::Http(http) = &self.transport else {
            return Err(garbled(&url, "this transport knows no other protocol".into()));
        };
        let request = reqwest::Request::try_from(request).map_err(lost)?;
        let answer = tokio::time::timeout(self.timeout, http.execute(request)).await;
        let late = || CallError::Unreachable { url: url.clone(), problem: "no answer in time".into() };
        let answer = answer.map_err(|_| late())?.map_err(lost)?;
        if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            let (status, body) = (answer.status(), answer.bytes().await.map_err(lost)?);
            return Err(refusal(&url, status, &body));
        }
        answer.upgrade().await.map_err(lost)
    }

    /// The bytes of an answer as they come, however many: each piece is given to `each`. One that breaks off is an error.
    pub async fn stream(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), CallError> {
        let Request { url, request } = self.request("GET", path, None)?;
        let lost = |problem: String| CallError::Unreachable { url: url.clone(), problem };
        let Transport::Http(http) = &self.transport else {
            return Err(garbled(&url, "this transport streams nothing".into()));
        };
        let request = reqwest::Request::try_from(request).map_err(|e| garbled(&url, lost::words(&e)))?;
        let mut answer = http.execute(request).await.map_err(|e| lost(lost::words(&e)))?;
        if !answer.status().is_success() {
            let (status, body) = (answer.status(), answer.bytes().await.map_err(|e| lost(lost::words(&e)))?);
            return Err(refusal(&url, status, &body));
        }
        while let Some(piece) = answer.chunk().await.map_err(|e| lost(lost::words(&e)))? {
            each(&piece).map_err(|e| lost(format!("writing what came: {e}")))?;
        }
        Ok(())
    }

    /// The text of an answer, as `/metrics` or logs.
    pub async fn text(&self, path: &str) -> Result<String, CallError> {
        let (_, body) = self.call("GET", path, None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Follows `GET /v1/watch?...`: calls `each` with every change until it returns false or the stream ends.
    pub async fn watch(
        &self,
        path: &str,
        mut each: impl FnMut(crate::message::Change) -> bool,
    ) -> Result<(), CallError> {
        let Request { url, mut request } = self.request("GET", path, None)?;
        let lost = |e: reqwest::Error| CallError::Unreachable { url: url.clone(), problem: lost::words(&e) };
        let Transport::Http(http) = &self.transport else {
            return Err(garbled(&url, "changes are not followed over this transport".into()));
        };
        request.headers_mut().insert("accept", http::HeaderValue::from_static("text/event-stream"));
        let request = reqwest::Request::try_from(request).map_err(lost)?;
        let mut answer = http.execute(request).await.map_err(lost)?;
        if !answer.status().is_success() {
            let (status, body) = (answer.status(), answer.bytes().await.map_err(lost)?);
            return Err(refusal(&url, status, &body));
        }
        let mut buffer: Vec<u8> = Vec::new();
        let mut refused = false;
        while let Some(chunk) = answer.chunk().await.map_err(lost)? {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if line.starts_with(b"event:") {
                    refused = line.trim_ascii().ends_with(b"problem");
                }
                let Some(data) = line.strip_prefix(b"data:") else { continue };
                if std::mem::take(&mut refused) {
                    return Err(CallError::Refused(Self::decode((url, Bytes::copy_from_slice(data.trim_ascii())))?));
                }
                let change = Self::decode((url.clone(), Bytes::copy_from_slice(data.trim_ascii())))?;
                if !each(change) {
                    return Ok(());
                }
            }
            if buffer.len() > ANSWER_BYTES_MAX {
                return Err(garbled(&url, "a line without end".into()));
            }
        }
        Ok(())
    }
}
