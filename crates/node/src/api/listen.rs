//! Listeners: plain HTTP on loopback for people, TLS for peers (and for people elsewhere, with a token).

use super::auth::Connection;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use pumasi_trust::peer_identity;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

const CONNECTIONS_MAX: usize = 2_048;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Listening {
    pub address: SocketAddr,
    pub task: tokio::task::JoinHandle<()>,
}

/// Serves until `stopping` turns true; then lets open requests end, within a bound.
pub async fn listen(
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<Listening> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let acceptor = tls.map(tokio_rustls::TlsAcceptor::from);
    let task = tokio::spawn(async move {
        let graceful = GracefulShutdown::new();
        loop {
            let place = tokio::select! {
                place = places.clone().acquire_owned() => place,
                _ = stopping.changed() => break,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopping.changed() => break,
            };
            let (Ok(place), Ok((socket, _))) = (place, accepted) else {
                // Out of file handles: give the others time to end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let _ = socket.set_nodelay(true);
            let (router, acceptor, watcher) = (router.clone(), acceptor.clone(), graceful.watcher());
            tokio::spawn(async move {
                let _place = place;
                match acceptor {
                    None => serve(socket, Connection::default(), router, watcher).await,
                    Some(acceptor) => {
                        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await
                        else {
                            return;
                        };
                        let peer = stream.get_ref().1.peer_certificates().and_then(|c| peer_identity(c).ok());
                        serve(stream, Connection { tls: true, peer }, router, watcher).await;
                    }
                }
            });
        }
        let _ = tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await;
    });
    Ok(Listening { address, task })
}

async fn serve<S>(socket: S, connection: Connection, router: Router, watcher: hyper_util::server::graceful::Watcher)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(connection.clone());
        router.clone().oneshot(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(256);
    let connection = builder.serve_connection(TokioIo::new(socket), service).into_owned();
    let _ = watcher.watch(connection).await;
}
