//! What this daemon asks the sign-in process of a service: one request, one connection.
//!
//! Enters: questions of people who look after users. Leaves: its answers, or whose fault it is that there is none. Always holds: bodies and
//! time are bounded; nothing is asked twice.

use crate::Node;
use crate::object::ServiceRecord;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pumasi_api::{Fault, Problem};
use pumasi_door::Place;
use pumasi_realm::admin::{KEY, Refusal};
use pumasi_realm::{Login, percent};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

const ANSWER_MS_MAX: u64 = 10_000;
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// `path` below `/admin/v1/`.
pub async fn ask<T: DeserializeOwned>(
    node: &Node,
    service: &ServiceRecord,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, Problem> {
    let name = service.name();
    if service.document.spec.identity.is_none() {
        let text = format!("users of service {name} do not sign in here: its manifest has no `identity`");
        return Err(Problem::conflict(text));
    }
    let Some(process) = super::process(node, service) else {
        let why = super::trouble(node, service).unwrap_or_else(|| "its sign-in process does not run here".to_owned());
        return Err(Problem::unavailable(format!("service {name}: {why}")));
    };
    let place = Place::new(process.address, process.door.as_deref());
    let body = body.map(serde_json::to_vec).transpose().map_err(|e| Problem::ours(e.to_string()))?;
    let request = Request::builder()
        .method(method)
        .uri(format!("/admin/v1/{path}"))
        .header(HOST, name.as_str())
        .header(KEY, node.identity.realm_key(&service.id, "admin"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|e| Problem::ours(e.to_string()))?;
    let answer = tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), exchange(&place, request)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_MS_MAX} ms")));
    let (status, bytes) =
        answer.map_err(|why| Problem::unavailable(format!("asking the sign-in process of {name}: {why}")))?;
    match status.is_success() {
        true => serde_json::from_slice(&bytes).map_err(|e| Problem::ours(format!("its answer does not read: {e}"))),
        false => Err(refused(status, &bytes)),
    }
}

async fn exchange(place: &Place, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let stream = place.connect().await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends when the sender is dropped.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
}

fn refused(status: StatusCode, bytes: &[u8]) -> Problem {
    let Ok(Refusal { detail, .. }) = serde_json::from_slice(bytes) else {
        return Problem::ours(format!("the sign-in process answered {status}"));
    };
    match status {
        StatusCode::NOT_FOUND => Problem::new(404, "not_found", Fault::Input, detail),
        StatusCode::CONFLICT => Problem::conflict(detail),
        StatusCode::SERVICE_UNAVAILABLE => Problem::unavailable(detail),
        status if status.is_client_error() => Problem::bad_request(detail),
        _ => Problem::ours(detail),
    }
}

/// A login in a path.
pub fn segment(login: &Login) -> String {
    percent::encode(login.as_str(), b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_one_segment_of_a_path() {
        assert_eq!(segment(&"민준@a.example".parse().unwrap()), "%EB%AF%BC%EC%A4%80%40a.example");
    }

    #[test]
    fn a_refusal_says_whose_fault_it_is() {
        let body = serde_json::to_vec(&Refusal { code: "no_such_user".into(), detail: "no user x".into() }).unwrap();
        let of = |status: u16| refused(StatusCode::from_u16(status).unwrap(), &body).status;
        assert_eq!([404, 409, 400, 503].map(of), [404, 409, 400, 503]);
        assert_eq!(
            refused(StatusCode::BAD_REQUEST, b"").status,
            500,
            "what does not read is no word of a user's fault"
        );
    }
}
