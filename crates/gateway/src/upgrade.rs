//! What a request asks to become, and what it became.
//!
//! Always holds: nothing becomes what was not asked for, and nothing becomes HTTP, which would be carried past the gateway.

use crate::headers;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Version};
use hyper::body::Incoming;

/// What it asks to become. With a body it asks for nothing: the body would have nowhere to go.
pub fn wants(request: &Request<Incoming>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 || !hyper::body::Body::is_end_stream(request.body()) {
        return None;
    }
    if !headers::tokens(request.headers(), &CONNECTION).any(|t| t.eq_ignore_ascii_case(b"upgrade")) {
        return None;
    }
    // h2c by Upgrade is obsolete, and would carry HTTP past us.
    let http = |t: &&[u8]| [&b"h2c"[..], b"h2", b"http"].iter().any(|own| protocol(t).eq_ignore_ascii_case(own));
    let left: Vec<&[u8]> = headers::tokens(request.headers(), &UPGRADE).filter(|t| !http(t)).collect();
    if left.is_empty() { None } else { HeaderValue::from_bytes(&left.join(&b", "[..])).ok() }
}

/// Its name, without the version (RFC 9110, 7.8).
fn protocol(token: &[u8]) -> &[u8] {
    token.split(|&b| b == b'/').next().unwrap_or_default()
}

/// Whether the other side became what was asked for.
pub fn became_what_was_asked(asked: &HeaderValue, answer: &HeaderMap) -> bool {
    let offered = |token: &[u8]| {
        let names = asked.as_bytes().split(|&b| b == b',').map(|t| protocol(t.trim_ascii()));
        names.into_iter().any(|name| name.eq_ignore_ascii_case(protocol(token)))
    };
    let mut became = headers::tokens(answer, &UPGRADE).peekable();
    became.peek().is_some() && became.all(offered)
}

/// Whether it asks to become something else than HTTP.
pub fn is_asked_for(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(UPGRADE) && wants(request).is_some()
}

/// Whether what it became is WebSocket (RFC 6455).
pub fn is_websocket(answer: &HeaderMap) -> bool {
    headers::tokens(answer, &UPGRADE).any(|token| token.eq_ignore_ascii_case(b"websocket"))
}
