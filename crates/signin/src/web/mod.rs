//! The door: connections, keys, bounds, and who is asked.
//!
//! Always holds: without its key nobody but the probe is answered; every body, head, wait and number of connections has an end.

pub mod answer;
pub mod parse;
pub mod request;

use crate::realm::Realm;
use crate::{admin, gate, pages};
use answer::{Answer, bare};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pumasi_realm::PAGES;
use request::Visit;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

pub const BODY_BYTES_MAX: usize = 64 << 10;
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 100;
const CONNECTIONS_MAX: usize = 256;
/// Pages at one time: so many that slow users leave connections to the gateway's own questions.
pub const PAGES_MAX: usize = 192;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// For a head; also how long a connection may rest.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Until `stopping` turns true; then open requests may end, within a bound.
pub async fn serve(realm: Arc<Realm>, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while !*stopping.borrow() {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let socket = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(e) => {
                    tracing::warn!("accepting a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = stopping.changed() => break,
        };
        let (realm, stopping) = (realm.clone(), stopping.clone());
        tokio::spawn(async move {
            connection(realm, socket, stopping).await;
            drop(place);
        });
    }
    drop(listener);
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(STOP_TIMEOUT, places.acquire_many(all)).await;
}

async fn connection(realm: Arc<Realm>, socket: TcpStream, mut stopping: watch::Receiver<bool>) {
    let _ = socket.set_nodelay(true);
    let stop = stopping.clone();
    let service = service_fn(move |request| {
        let (realm, stop) = (realm.clone(), stop.clone());
        async move { Ok::<_, Infallible>(answer(&realm, request, stop).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}

async fn answer(realm: &Arc<Realm>, request: Request<Incoming>, stopping: watch::Receiver<bool>) -> Answer {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path == "/ready" {
        return bare(if parts.method == Method::GET { StatusCode::NO_CONTENT } else { StatusCode::METHOD_NOT_ALLOWED });
    }
    let key = |name: &str| parts.headers.get(name).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let (gate, admin) = (realm.is_gate(key(pumasi_realm::gate::KEY)), realm.is_admin(key(pumasi_realm::admin::KEY)));
    if path.starts_with("/admin/v1/") {
        if !admin {
            return bare(StatusCode::FORBIDDEN);
        }
        return match bounded(body).await {
            Err(status) => bare(status),
            Ok(body) => admin::answer(realm, &parts, &body).await,
        };
    }
    if !gate {
        return bare(StatusCode::FORBIDDEN);
    }
    if path.starts_with("/gate/v1/") {
        return match bounded(body).await {
            Err(status) => bare(status),
            Ok(body) => gate::answer(realm, &parts, &body, stopping).await,
        };
    }
    match format!("{path}/").strip_prefix(PAGES) {
        Some(page) => a_page(realm, &parts, page.trim_end_matches('/'), body).await,
        None => bare(StatusCode::NOT_FOUND),
    }
}

async fn a_page(realm: &Arc<Realm>, parts: &Parts, page: &str, body: Incoming) -> Answer {
    let Ok(_place) = realm.pages.try_acquire() else {
        return answer::retry_after(bare(StatusCode::SERVICE_UNAVAILABLE), 1_000);
    };
    match bounded(body).await {
        Err(status) => bare(status),
        Ok(body) => match Visit::read(parts, page, body) {
            None => bare(StatusCode::BAD_REQUEST),
            Some(visit) => pages::answer(realm, &visit).await,
        },
    }
}

async fn bounded(body: Incoming) -> Result<Bytes, StatusCode> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}
