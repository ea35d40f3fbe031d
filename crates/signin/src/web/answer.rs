//! Answers: pages that nothing foreign can be put into, and JSON.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

pub type Answer = Response<Full<Bytes>>;

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";
const SAFE: [(HeaderName, &str); 5] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "same-origin"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];

pub fn bare(status: StatusCode) -> Answer {
    with(status, "", Bytes::new())
}

pub fn html(status: StatusCode, markup: maud::Markup) -> Answer {
    with(status, "text/html; charset=utf-8", Bytes::from(markup.into_string()))
}

pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => with(status, "application/json", Bytes::from(bytes)),
        Err(_) => bare(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// A file of this program.
pub fn asset(kind: &'static str, text: &'static str) -> Answer {
    let mut answer = with(StatusCode::OK, kind, Bytes::from_static(text.as_bytes()));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    answer
}

/// To a path on the same host.
pub fn see(path: &str) -> Answer {
    let mut answer = bare(StatusCode::SEE_OTHER);
    let value = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/"));
    answer.headers_mut().insert(LOCATION, value);
    answer
}

fn with(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in SAFE {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !kind.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    answer
}

/// How long a cookie stays.
#[derive(Debug, Clone, Copy)]
pub enum Life {
    Seconds(u64),
    Ends,
    Browser,
}

pub fn set_cookie(answer: &mut Answer, name: &str, value: &str, life: Life) {
    let age = match life {
        Life::Seconds(seconds) => format!("; Max-Age={seconds}"),
        Life::Ends => "; Max-Age=0".to_owned(),
        Life::Browser => String::new(),
    };
    let text = format!("{name}={value}; Secure; HttpOnly; SameSite=Lax; Path=/{age}");
    if let Ok(value) = HeaderValue::from_str(&text) {
        answer.headers_mut().append(SET_COOKIE, value);
    }
}

pub fn retry_after(mut answer: Answer, wait_ms: u64) -> Answer {
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1_000)));
    answer
}
