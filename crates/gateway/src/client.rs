//! What the daemon calls its gateway with.

use crate::ask::{Question, Reply};
use crate::control::{CONTROL_SOCKET, ControlProblem, GatewayStatus};
use crate::meter::MeterReport;
use crate::wanted::WantedReport;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pumasi_route::table::{Positions, RouteTable};
use pumasi_route::{Keys, Tenure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
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

/// One per gateway directory; cheap to clone. Each call opens a connection of its own.
#[derive(Debug, Clone)]
pub struct ControlClient {
    socket: PathBuf,
}

impl ControlClient {
    pub fn new(dir: &Path) -> Self {
        Self { socket: dir.join(CONTROL_SOCKET) }
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

    pub async fn reload_identity(&self) -> Result<(), ControlError> {
        self.call::<serde_json::Value>(Method::POST, "/v1/reload-identity", None).await.map(drop)
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
        let stream = tokio::net::UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.unreachable(e))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "gateway")
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|e| ControlError::Refused(e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|e| self.unreachable(e))?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| self.unreachable(e))?
            .to_bytes();
        drop(sender);
        connection.abort();
        if status.is_success() {
            return Ok(bytes);
        }
        let told = serde_json::from_slice::<ControlProblem>(&bytes).unwrap_or(ControlProblem {
            problem: String::from_utf8_lossy(&bytes).chars().take(400).collect(),
            current: None,
        });
        Err(match (status, told.current) {
            (StatusCode::CONFLICT, Some(current)) => ControlError::Old { current },
            (s, _) if s.is_client_error() => ControlError::Refused(told.problem),
            _ => ControlError::Failed(told.problem),
        })
    }
}

fn body<T: Serialize>(value: &T) -> Result<Bytes, ControlError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| ControlError::Refused(e.to_string()))
}
