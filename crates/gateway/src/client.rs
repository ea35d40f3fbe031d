//! What the daemon calls its gateway with.

use crate::ask::{Question, Reply};
use crate::certificates::Reloaded;
use crate::control::{CONTROL_SOCKET, ControlProblem, GatewayStatus};
use crate::meter::MeterReport;
use crate::wanted::WantedReport;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use pumasi_route::table::{Positions, RouteTable};
use pumasi_route::{Keys, Tenure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const ANSWER_BYTES_MAX: usize = 64 << 20;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call to the gateway failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It does not run, or is about to; a retry may help.
    #[error("the gateway at {socket} cannot be reached: {problem}")]
    Unreachable { socket: PathBuf, problem: String },
    /// The caller is at fault; a retry does not help.
    #[error("the gateway refused: {0}")]
    Refused(String),
    /// The gateway has a newer table.
    #[error("the gateway is at revision {current} already")]
    Old { current: u64 },
    #[error("the gateway failed: {0}")]
    Failed(String),
    #[error("the gateway's answer does not read: {0}")]
    Unreadable(String),
}

type Sender = SendRequest<Full<Bytes>>;

/// Connections that are kept for the next question.
const KEPT_MAX: usize = 4;

/// One per gateway directory; cheap to clone. Questions that change nothing go over connections that are kept: an idle cloud asks for ever.
#[derive(Clone)]
pub struct ControlClient {
    socket: PathBuf,
    kept: Arc<Mutex<Vec<Sender>>>,
}

impl std::fmt::Debug for ControlClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlClient({})", self.socket.display())
    }
}

impl ControlClient {
    pub fn new(dir: &Path) -> Self {
        Self { socket: dir.join(CONTROL_SOCKET), kept: Arc::default() }
    }

    /// Returns once the table is on disk and in force.
    pub async fn put_table(&self, table: &RouteTable) -> Result<(), ControlError> {
        self.call::<serde_json::Value>(Method::PUT, "/v1/table", Some(body(table)?)).await.map(drop)
    }

    pub async fn put_positions(&self, positions: &Positions) -> Result<(), ControlError> {
        self.call::<serde_json::Value>(Method::PUT, "/v1/positions", Some(body(positions)?)).await.map(drop)
    }

    /// Returns once it is in force.
    pub async fn put_tenure(&self, tenure: &Tenure) -> Result<(), ControlError> {
        self.call::<serde_json::Value>(Method::PUT, "/v1/tenure", Some(body(tenure)?)).await.map(drop)
    }

    /// Returns once they are on disk and in force. A gateway of before there were any refuses.
    pub async fn put_keys(&self, keys: &Keys) -> Result<(), ControlError> {
        self.call::<serde_json::Value>(Method::PUT, "/v1/keys", Some(body(keys)?)).await.map(drop)
    }

    /// Windows after `after`; waits up to a second for the first. Another `gateway_run` than before: begin at 0.
    pub async fn meter(&self, after: u64) -> Result<MeterReport, ControlError> {
        self.call(Method::GET, &format!("/v1/meter?after={after}"), None).await
    }

    /// What answers wait for that came after `after`; waits up to a second for the first. Another `gateway_run` than before: begin at 0. None:
    /// whatever there is, at once. A gateway of before there was any refuses.
    pub async fn wanted(&self, after: Option<u64>) -> Result<WantedReport, ControlError> {
        let path = after.map_or("/v1/wanted".to_owned(), |after| format!("/v1/wanted?after={after}"));
        self.call(Method::GET, &path, None).await
    }

    pub async fn status(&self) -> Result<GatewayStatus, ControlError> {
        self.call(Method::GET, "/v1/status", None).await
    }

    /// One request over a lease; it takes some seconds where nobody answers.
    pub async fn ask(&self, question: &Question) -> Result<Reply, ControlError> {
        self.call(Method::POST, "/v1/ask", Some(body(question)?)).await
    }

    /// What is of no use changes nothing and is told as a failure.
    pub async fn reload_identity(&self) -> Result<Reloaded, ControlError> {
        self.call(Method::POST, "/v1/reload-identity", None).await
    }

    /// Returns when the stop has begun, not when it has ended.
    pub async fn stop(&self) -> Result<(), ControlError> {
        self.call::<serde_json::Value>(Method::POST, "/v1/stop", None).await.map(drop)
    }

    /// Prometheus text.
    pub async fn metrics(&self) -> Result<String, ControlError> {
        let bytes = self.bytes(Method::GET, "/metrics", None).await?;
        String::from_utf8(bytes.into()).map_err(|e| ControlError::Unreadable(e.to_string()))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, ControlError> {
        let bytes = self.bytes(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|e| ControlError::Unreadable(e.to_string()))
    }

    async fn bytes(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, ControlError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, body)).await {
            Ok(done) => done,
            Err(_) => Err(self.unreachable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }

    fn unreachable(&self, problem: impl std::fmt::Display) -> ControlError {
        ControlError::Unreachable { socket: self.socket.clone(), problem: problem.to_string() }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, ControlError> {
        let keeps = method == Method::GET;
        while let Some(sender) = keeps.then(|| self.take_kept()).flatten() {
            // One that broke says nothing about the gateway: it may be another one by now.
            if let Ok(done) = self.ask_over(sender, request(&method, path, &body)?, keeps).await {
                return done;
            }
        }
        let stream = tokio::net::UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.unreachable(e))?;
        // It ends when nobody has the sender any more.
        tokio::spawn(connection);
        self.ask_over(sender, request(&method, path, &body)?, keeps).await.map_err(|e| self.unreachable(e))?
    }

    fn take_kept(&self) -> Option<Sender> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|sender| !sender.is_closed());
        let ready = kept.iter().position(SendRequest::is_ready)?;
        Some(kept.swap_remove(ready))
    }

    /// `Err`: the connection is of no use; what came of the question is inside.
    async fn ask_over(
        &self,
        mut sender: Sender,
        request: Request<Full<Bytes>>,
        keeps: bool,
    ) -> Result<Result<Bytes, ControlError>, hyper::Error> {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let bytes = match Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return Ok(Err(self.unreachable(e))),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if keeps && kept.len() < KEPT_MAX {
            kept.push(sender);
        }
        drop(kept);
        if status.is_success() {
            return Ok(Ok(bytes));
        }
        let told = serde_json::from_slice::<ControlProblem>(&bytes).unwrap_or(ControlProblem {
            problem: String::from_utf8_lossy(&bytes).chars().take(400).collect(),
            current: None,
        });
        Ok(Err(match (status, told.current) {
            (StatusCode::CONFLICT, Some(current)) => ControlError::Old { current },
            (s, _) if s.is_client_error() => ControlError::Refused(told.problem),
            _ => ControlError::Failed(told.problem),
        }))
    }
}

fn request(method: &Method, path: &str, body: &Option<Bytes>) -> Result<Request<Full<Bytes>>, ControlError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "gateway")
        .body(Full::new(body.clone().unwrap_or_default()))
        .map_err(|e| ControlError::Refused(e.to_string()))
}

fn body<T: Serialize>(value: &T) -> Result<Bytes, ControlError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| ControlError::Refused(e.to_string()))
}
