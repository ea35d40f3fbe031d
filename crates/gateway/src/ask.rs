//! One request over a lease, for the daemon: what an instance at a lender answers, before any user is sent there.
//!
//! Enters: a lease that the table need not name yet. Leaves: the status and size of the answer, or whose side failed and how.
//! Always holds: it takes the users' way (this gateway, the lender's, the instance); its body and its time are bounded; it is not metered.

use crate::admission::Destination;
use crate::answer;
use crate::gateway::{Gateway, Worker};
use crate::upload::RequestBody;
use crate::upstream::SendFault;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
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
    let (cloud, lease) = (question.cloud.clone(), question.lease.clone());
    // A worker of its own: it keeps no connection, and no thread of users waits for it.
    let worker = Worker::new(gateway.clone());
    let begun = Instant::now();
    let to = Destination::Peer { cloud, lease };
    // One GET without trailers: what the instance speaks is the lender's to know.
    let sent = worker.pool.send((&to, Protocol::Http1), request, 0, ASK_MS_MAX, None).await;
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
    let mut body = answer.into_body();
    let mut body_bytes: u64 = 0;
    while body_bytes < ANSWER_BYTES_MAX {
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |d| d.len() as u64);
                body_bytes = body_bytes.saturating_add(bytes).min(ANSWER_BYTES_MAX);
            }
            Some(Err(e)) => return none(format!("its answer broke off after {body_bytes} bytes: {e}")),
        }
    }
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Reply::Answer { status, body_bytes, took_ms }
}

fn request(question: &Question) -> Option<Request<RequestBody>> {
    let mut request = Request::get(&question.path).body(RequestBody::Empty).ok()?;
    let fields: &mut HeaderMap = request.headers_mut();
    let mut put = |name: HeaderName, text: &str| HeaderValue::from_str(text).map(|v| fields.insert(name, v)).ok();
    put(HOST, &question.host)?;
    for (name, text) in [
        (answer::LEASE, question.lease.as_str()),
        (answer::SERVICE, question.service.as_str()),
        (answer::EPOCH, question.epoch.0.to_string().as_str()),
        (answer::HOP, "1"),
        (answer::PROTOCOL, answer::PROTOCOL_VERSION.to_string().as_str()),
    ] {
        let _ = put(name, text);
    }
    Some(request)
}
