//! The question in HTTP/2 without TLS: a GET, or gRPC's health check where the path is its.
//!
//! Always holds: an answer with a `grpc-status` tells that a gRPC server is there, whatever it thinks of a GET (some only reset the
//! stream); only the health check tells what it thinks of itself, and a server that has none is well as long as it says so.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pumasi_door::Place;

/// gRPC Health Checking Protocol: `Check` of the whole server.
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// A message of no bytes: not compressed, of length 0.
const EMPTY_MESSAGE: &[u8] = &[0; 5];
const ANSWER_BYTES_MAX: usize = 64 << 10;
const STATUS: &str = "grpc-status";
const OK: &str = "0";
const UNIMPLEMENTED: &str = "12";

pub(super) async fn ask(place: &Place, path: &str) -> Result<(), String> {
    let (method, body) = if path == HEALTH { ("POST", EMPTY_MESSAGE) } else { ("GET", &[][..]) };
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", place.address))
        .header(http::header::USER_AGENT, "pumasi-probe");
    if path == HEALTH {
        request = request.header(http::header::CONTENT_TYPE, "application/grpc").header(http::header::TE, "trailers");
    }
    let request = request.body(Full::new(Bytes::from_static(body))).map_err(|e| format!("{path}: {e}"))?;
    let answer = exchange(place, request).await.map_err(|e| format!("{method} {path}: {e}"))?;
    let well = if path == HEALTH { is_serving(answer).await } else { is_well(&answer) };
    well.map_err(|why| format!("{method} {path} {why}"))
}

async fn exchange(place: &Place, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
    let stream = place.connect().await.map_err(|e| e.to_string())?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| match std::error::Error::source(&e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    })
}

fn is_well(answer: &Response<Incoming>) -> Result<(), String> {
    let code = answer.status().as_u16();
    let well = (200..400).contains(&code) || answer.headers().contains_key(STATUS);
    if well { Ok(()) } else { Err(format!("answered {code}")) }
}

async fn is_serving(answer: Response<Incoming>) -> Result<(), String> {
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("answered {}", head.status.as_u16()));
    }
    let whole = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| format!("broke off: {e}"))?;
    let trailers = whole.trailers().cloned().unwrap_or_default();
    let said = |fields: &HeaderMap| fields.get(STATUS).and_then(|v| v.to_str().ok().map(str::to_owned));
    match said(&trailers).or_else(|| said(&head.headers)).as_deref() {
        Some(UNIMPLEMENTED) => Ok(()),
        Some(OK) if is_status_serving(&whole.to_bytes()) => Ok(()),
        Some(OK) => Err("answered that it is not serving".to_owned()),
        Some(status) => Err(format!("answered with grpc-status {status}")),
        None => Err("answered without a grpc-status".to_owned()),
    }
}

/// A message whose field 1, `status`, is SERVING, which is 1.
fn is_status_serving(bytes: &[u8]) -> bool {
    bytes.get(5..) == Some(&[0x08, 0x01])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::{Body, Frame};
    use hyper::service::service_fn;
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.get_mut().0.pop_front().map(Ok))
        }
    }

    /// An application that speaks HTTP/2 only, and answers by path.
    async fn application() -> Place {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Place::new(listener.local_addr().unwrap(), None);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = service_fn(|request: Request<Incoming>| async move {
                    let (status, message) = match request.uri().path() {
                        "/healthz" => (200, None),
                        "/grpc-of-go" => (405, None),
                        HEALTH => (200, Some(&[0, 0, 0, 0, 2, 8, 1][..])),
                        _ => (404, None),
                    };
                    let trailers = HeaderMap::from_iter([(
                        http::HeaderName::from_static(STATUS),
                        http::HeaderValue::from_static("0"),
                    )]);
                    let frames = message.map(|m| [Frame::data(Bytes::from_static(m)), Frame::trailers(trailers)]);
                    let mut answer = Response::new(Frames(frames.into_iter().flatten().collect()));
                    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                    if status == 405 {
                        answer.headers_mut().insert(STATUS, http::HeaderValue::from_static("13"));
                    }
                    Ok::<_, Infallible>(answer)
                });
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), answer));
            }
        });
        place
    }

    #[tokio::test]
    async fn an_application_that_speaks_http2_only_is_asked_in_http2() {
        let place = application().await;
        for (path, wanted) in [("/healthz", Ok(())), ("/grpc-of-go", Ok(())), (HEALTH, Ok(()))] {
            assert_eq!(ask(&place, path).await, wanted, "{path}");
        }
        assert_eq!(ask(&place, "/none").await, Err("GET /none answered 404".to_owned()));
    }

    #[test]
    fn only_serving_is_serving() {
        assert!(is_status_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for not in [&[0, 0, 0, 0, 2, 8, 2][..], &[0, 0, 0, 0, 0], &[]] {
            assert!(!is_status_serving(not));
        }
    }
}
