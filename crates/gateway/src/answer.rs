//! Answers that the gateway gives itself, and the names of its header fields.

use crate::body::AnswerBody;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use pumasi_route::table::Absent;

/// `unknown`: an unsafe request was handed over, and whether it took effect is not known.
pub const OUTCOME: HeaderName = HeaderName::from_static("pumasi-outcome");
/// `queue`: no place came free in time.
pub const SHED: HeaderName = HeaderName::from_static("pumasi-shed");
/// Between gateways: the request was not executed, and why.
pub const REFUSED: HeaderName = HeaderName::from_static("pumasi-refused");
/// Between gateways: the instance broke off; whether a safe request may be sent elsewhere.
pub const FAILED: HeaderName = HeaderName::from_static("pumasi-failed");
/// To users: the cloud whose instance answered.
pub const SERVED_BY: HeaderName = HeaderName::from_static("pumasi-served-by");
pub const LEASE: HeaderName = HeaderName::from_static("pumasi-lease");
pub const SERVICE: HeaderName = HeaderName::from_static("pumasi-service");
pub const EPOCH: HeaderName = HeaderName::from_static("pumasi-epoch");
pub const HOP: HeaderName = HeaderName::from_static("pumasi-hop");
/// Between gateways: the version of what they say to each other.
pub const PROTOCOL: HeaderName = HeaderName::from_static("pumasi-protocol");
pub const PROTOCOL_VERSION: u32 = 1;
/// Between gateways: a request that must be served where the service is at home.
pub const HOMEWARD: HeaderName = HeaderName::from_static("pumasi-homeward");

/// Between gateways: it came in at a cloud that is an entrance of the service only.
pub const ENTRANCE: HeaderName = HeaderName::from_static("pumasi-entrance");
/// Between gateways: who owns the service, and at which epoch, as far as is known where it was asked for in vain.
pub const MOVED: HeaderName = HeaderName::from_static("pumasi-moved");

/// To users: why nobody serves the service now, as a word ([`Absent::reason`](pumasi_route::table::Absent)).
pub const ABSENT: HeaderName = HeaderName::from_static("pumasi-absent");

/// Every field of ours begins so; nobody else's may.
pub const PREFIX: &str = "pumasi-";

pub fn problem(status: StatusCode, reason: &'static str, detail: &str) -> Response<AnswerBody> {
    let body = serde_json::json!({ "status": status.as_u16(), "reason": reason, "detail": detail }).to_string();
    let mut answer = Response::new(AnswerBody::full(Bytes::from(body)));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub fn unavailable(reason: &'static str, detail: &str) -> Response<AnswerBody> {
    let mut answer = problem(StatusCode::SERVICE_UNAVAILABLE, reason, detail);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// Nobody answers for the service now: which class it has, its place, what it waits for.
pub fn absent(why: &Absent) -> Response<AnswerBody> {
    let mut body = serde_json::json!({ "status": 503, "reason": why.reason, "detail": why.detail });
    if let Some(fields) = body.as_object_mut() {
        fields.extend(why.class.map(|class| ("class".to_owned(), serde_json::json!(class))));
        fields.extend(why.place.map(|place| ("place".to_owned(), place.into())));
        fields.extend(why.of.map(|of| ("of".to_owned(), of.into())));
    }
    let mut answer = unavailable("absent", &why.detail);
    *answer.body_mut() = AnswerBody::full(Bytes::from(body.to_string()));
    let fields = answer.headers_mut();
    fields.insert(RETRY_AFTER, HeaderValue::from(why.retry_after_s.max(1)));
    if let Ok(word) = HeaderValue::from_str(&why.reason) {
        fields.insert(ABSENT, word);
    }
    answer
}

pub fn shed() -> Response<AnswerBody> {
    let mut answer = unavailable("shed", "the service is full at the moment; try again");
    answer.headers_mut().insert(SHED, HeaderValue::from_static("queue"));
    answer
}

pub fn unknown_outcome(status: StatusCode, detail: &str) -> Response<AnswerBody> {
    let mut answer = problem(status, "outcome-unknown", detail);
    answer.headers_mut().insert(OUTCOME, HeaderValue::from_static("unknown"));
    answer
}

/// To a peer's gateway: not executed here.
pub fn refused(status: StatusCode, why: &'static str) -> Response<AnswerBody> {
    let mut answer = problem(status, "refused", why);
    answer.headers_mut().insert(REFUSED, HeaderValue::from_static(why));
    answer
}
