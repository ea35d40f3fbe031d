//! One request over a lease, for the daemon: what an instance at a lender answers, before any user is sent there.
//!
//! Enters: a lease that the table need not name yet. Leaves: the status and size of the answer, or whose side failed and how.
//! Always holds: it takes the users' way (this gateway, the lender's, the instance); its body and its time are bounded; it is not metered.

use crate::admission::{By, Destination};
use crate::answer;
use crate::forward;
use crate::gateway::Gateway;
use crate::peer;
use crate::upload::RequestBody;
use crate::upstream::{Kept, SendFault};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;
use pumasi_terms::{CloudName, Epoch, LeaseId, Protocol, ServiceName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of an answer, so much is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// The longest that anybody waits.
pub const ASK_MS_MAX: u64 = 8_000;

/// `POST /v1/ask`: GET this path there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub cloud: CloudName,
    pub lease: LeaseId,
    pub service: ServiceName,
    pub epoch: Epoch,
    pub host: String,
    pub path: String,
    /// Of the application.
    #[serde(default)]
    pub protocol: Protocol,
}

/// gRPC Health Checking Protocol: asked for by POST, as the probe of such an application does.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";
/// A message of no bytes: not compressed, of length 0.
const EMPTY_MESSAGE: &[u8] = &[0; 5];
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl Question {
    fn is_grpc_health(&self) -> bool {
        !self.protocol.is_http1() && self.path == GRPC_HEALTH
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The instance's. A body that is longer than 1 MiB counts as that.
    Answer { status: u16, body_bytes: u64, took_ms: u64 },
    /// No instance was reached; a retry may help.
    None { why: String },
}

fn none(why: impl Into<String>) -> Reply {
    Reply::None { why: why.into() }
}

pub async fn ask(gateway: &Arc<Gateway>, question: &Question) -> Reply {
    let limit = Duration::from_millis(ASK_MS_MAX);
    match tokio::time::timeout(limit, exchange(gateway, question)).await {
        Ok(reply) => reply,
        Err(_) => none(format!("no whole answer within {ASK_MS_MAX} ms")),
    }
}

async fn exchange(gateway: &Arc<Gateway>, question: &Question) -> Reply {
    let Some(request) = request(question) else { return none("the host or the path cannot be asked for") };
    let (cloud, by) = (question.cloud.clone(), By::Lease(question.lease.clone()));
    // A pool of its own: it keeps no connection.
    let pool = gateway.pool();
    let begun = Instant::now();
    let to = Destination::Peer { cloud, by };
    let sent = pool.send((&to, question.protocol), request, Kept::None, ASK_MS_MAX, None).await;
    let (answer, _loan) = match sent {
        Ok(sent) => sent,
        Err(SendFault::Connect(problem, _) | SendFault::Broken(problem)) => return none(problem),
        Err(SendFault::Full(_)) => return none("the connection was not taken"),
        Err(SendFault::Timeout) => return none(format!("no answer within {ASK_MS_MAX} ms")),
    };
    // What the lender's gateway says itself is no answer of the instance.
    for name in [answer::REFUSED, answer::FAILED, answer::SHED] {
        if let Some(why) = answer.headers().get(&name) {
            let why = why.to_str().unwrap_or("no reason that can be read");
            return none(format!("the gateway of {}: {name}: {why}", question.cloud));
        }
    }
    let status = answer.status().as_u16();
    let mut grpc_status = answer.headers().get(&GRPC_STATUS).cloned();
    let mut body = answer.into_body();
    let mut body_bytes: u64 = 0;
    while body_bytes < ANSWER_BYTES_MAX {
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => {
                let trailer = frame.trailers_ref().and_then(|t| t.get(&GRPC_STATUS));
                grpc_status = trailer.cloned().or(grpc_status);
                let bytes = frame.data_ref().map_or(0, |d| d.len() as u64);
                body_bytes = body_bytes.saturating_add(bytes).min(ANSWER_BYTES_MAX);
            }
            Some(Err(e)) => return none(format!("its answer broke off after {body_bytes} bytes: {e}")),
        }
    }
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Reply::Answer { status: as_http(status, grpc_status.as_ref()), body_bytes, took_ms }
}

/// A gRPC server says by its own status how a call went; one without a health service is well as long as it says so.
fn as_http(status: u16, grpc_status: Option<&HeaderValue>) -> u16 {
    match grpc_status.map(HeaderValue::as_bytes) {
        None | Some(b"0" | b"12") => status,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE.as_u16(),
    }
}

fn request(question: &Question) -> Option<Request<RequestBody>> {
    let mut request = match question.is_grpc_health() {
        true => Request::post(&question.path).body(RequestBody::Kept(Some(Bytes::from_static(EMPTY_MESSAGE)))),
        false => Request::get(&question.path).body(RequestBody::Empty),
    }
    .ok()?;
    let fields: &mut HeaderMap = request.headers_mut();
    let mut put = |name: HeaderName, text: &str| HeaderValue::from_str(text).map(|v| fields.insert(name, v)).ok();
    put(HOST, &question.host)?;
    if question.is_grpc_health() {
        put(CONTENT_TYPE, "application/grpc")?;
        put(TE, "trailers")?;
    }
    peer::set_hop(fields, &By::Lease(question.lease.clone()), &question.service, question.epoch);
    if !question.protocol.is_http1() {
        forward::name_in_target(&mut request);
    }
    Some(request)
}
