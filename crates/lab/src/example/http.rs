//! A small HTTP/1.1 server: connections on one thread, requests on a few worker threads, both bounded.

use super::ExampleError;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const BODY_BYTES_MAX: usize = 16 << 20;
const REQUESTS_MAX: usize = 512;
const STOP_GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Asked {
    pub method: Method,
    /// Path and query as sent.
    pub target: String,
    pub body: Bytes,
    /// Header fields by which a gateway names a user, as an application of CGI reads them.
    pub user_fields: Vec<(String, String)>,
}

impl Asked {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == name).map(|(_, v)| v)
    }
}

#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Answer {
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let body = Bytes::from(text.into() + "\n");
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }
    pub fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        Self { status, content_type: "application/json", body: Bytes::from(value.to_string()) }
    }
}

pub(super) trait App: Send + Sync + 'static {
    /// Runs on a worker thread. `None`: no answer at all, ever.
    fn answer(&self, asked: &Asked) -> Option<Answer>;
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(answer.content_type));
    response
}

/// All that an application would take for one (RFC 3875, 4.1.18), in order.
fn user_fields(fields: &http::HeaderMap) -> Vec<(String, String)> {
    let variable = |name: &str| name.to_ascii_uppercase().replace('-', "_");
    let all = fields.iter().map(|(name, value)| (variable(name.as_str()), String::from_utf8_lossy(value.as_bytes())));
    all.filter(|(name, _)| name.contains("REMOTE_")).map(|(name, value)| (name, value.into_owned())).collect()
}

async fn handle(app: Arc<dyn App>, places: Arc<Semaphore>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() == "/healthz" {
        return respond(Answer::text(StatusCode::OK, "well"));
    }
    let Ok(place) = places.try_acquire_owned() else {
        return respond(Answer::text(StatusCode::SERVICE_UNAVAILABLE, "too many requests at one time"));
    };
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or_else(|| "/".to_owned(), |p| p.as_str().to_owned());
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|b| b.to_bytes()) else {
        return respond(Answer::text(StatusCode::PAYLOAD_TOO_LARGE, "the body broke off or is above 16 MiB"));
    };
    let user_fields = user_fields(&head.headers);
    let asked = Asked { method: head.method, target, body, user_fields };
    let work = tokio::task::spawn_blocking(move || {
        let answer = app.answer(&asked);
        drop(place);
        answer
    });
    match work.await {
        Ok(Some(answer)) => respond(answer),
        Ok(None) => std::future::pending().await,
        Err(_) => respond(Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the request's work failed")),
    }
}

/// Serves until `stop`, then finishes what is in flight.
pub(super) async fn serve(app: Arc<dyn App>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors: others must end first.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (app, places) = (Arc::clone(&app), Arc::clone(&places));
        let service = service_fn(move |request| {
            let answer = handle(Arc::clone(&app), Arc::clone(&places), request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(75))
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = watched.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(STOP_GRACE, graceful.shutdown()).await;
}

/// The whole process: a runtime of one thread and `workers`, until SIGTERM or SIGINT.
pub(super) fn run(
    app: Arc<dyn App>,
    name: &str,
    listen: std::net::SocketAddr,
    workers: usize,
) -> Result<(), ExampleError> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(workers.max(1))
        .build()
        .map_err(ExampleError::Start)?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(listen).await.map_err(|source| ExampleError::Listen { address: listen, source })?;
        let address = listener.local_addr().map_err(ExampleError::Start)?;
        let mut term = signal(SignalKind::terminate()).map_err(ExampleError::Start)?;
        let mut int = signal(SignalKind::interrupt()).map_err(ExampleError::Start)?;
        eprintln!("{name} listens on {address}");
        serve(app, listener, async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        })
        .await;
        Ok(())
    })?;
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(())
}
