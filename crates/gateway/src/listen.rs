//! Listeners and connections: from an accepted socket to requests.
//!
//! Always holds: connections are bounded in number; no step before a request may take for ever; a stop lets what is in
//! flight end.

use crate::config::Limits;
use crate::gateway::{Phase, Worker};
use crate::io::UserTcp;
use crate::public::Client;
use crate::strict::Strict;
use crate::timer::HeadTimer;
use crate::{peer, public, tcp};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pumasi_trust::SpiffeId;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

const BACKLOG: u32 = 4_096;
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// `shared`: other threads listen on the same address.
pub fn bind(address: SocketAddr, shared: bool) -> std::io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if shared {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// What is spoken on a listener.
#[derive(Clone)]
pub enum Speaks {
    Plain { http2: bool },
    Tls { acceptor: Arc<std::sync::RwLock<TlsAcceptor>> },
    Peers { acceptor: TlsAcceptor },
}

struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Accepts until the gateway stops.
pub async fn run(worker: Arc<Worker>, listener: TcpListener, speaks: Speaks) {
    let limits = &worker.gateway.config.limits;
    let max = if matches!(speaks, Speaks::Peers { .. }) { limits.peer_connections_max } else { limits.connections_max };
    let room = Arc::new(Semaphore::new(max as usize));
    let mut phase = worker.gateway.phase.subscribe();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|p| *p == Phase::Stopping) => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: some will come back when connections end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        worker.gateway.connections.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(worker.gateway.connections.clone());
        let (worker, speaks) = (worker.clone(), speaks.clone());
        tokio::spawn(async move {
            connection(worker, stream, address, speaks).await;
            drop((permit, counted));
        });
    }
}

async fn connection(worker: Arc<Worker>, stream: TcpStream, address: SocketAddr, speaks: Speaks) {
    let _ = stream.set_nodelay(true);
    let limits = &worker.gateway.config.limits;
    tcp::bound_stall(&stream, limits.send_stall_ms);
    let stream = UserTcp::new(stream);
    let handshake = Duration::from_millis(limits.tls_handshake_ms);
    let address_ip = address.ip().to_canonical();
    match speaks {
        Speaks::Plain { http2 } => {
            let head = Duration::from_millis(limits.head_timeout_ms);
            let two = http2 && matches!(tokio::time::timeout(head, begins_http2(&stream)).await, Ok(true));
            let client = Client::new(address_ip, "http", stream.rtt());
            for_users(worker, stream, client, two).await;
        }
        Speaks::Tls { acceptor } => {
            let acceptor = acceptor.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            let client = Client::new(address_ip, "https", stream.rtt());
            let Ok(Ok(stream)) = tokio::time::timeout(handshake, acceptor.accept(stream)).await else { return };
            let two = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
            for_users(worker, stream, client, two).await;
        }
        Speaks::Peers { acceptor } => {
            let Ok(Ok(stream)) = tokio::time::timeout(handshake, acceptor.accept(stream)).await else { return };
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let Ok(id) = pumasi_trust::peer_identity(certificates) else { return };
            for_peer(worker, stream, Arc::new(id)).await;
        }
    }
}

/// Whether the client begins with the preface of HTTP/2. No method of HTTP/1.1 begins with "PRI".
async fn begins_http2(user: &UserTcp) -> bool {
    let mut seen = [0u8; 4];
    loop {
        match user.stream.peek(&mut seen).await {
            Ok(n) if n >= 4 => return &seen == b"PRI ",
            Ok(n) if n > 0 && b"PRI ".starts_with(&seen[..n]) => tokio::time::sleep(Duration::from_millis(5)).await,
            _ => return false,
        }
    }
}

fn h1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(HeadTimer::default())
        .header_read_timeout(Duration::from_millis(limits.head_timeout_ms))
        .max_header_size(limits.head_bytes_max as usize);
    builder
}

async fn for_users<S>(worker: Arc<Worker>, stream: S, client: Arc<Client>, two: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &worker.gateway.config.limits;
    let phase = worker.gateway.phase.subscribe();
    let serving = worker.clone();
    let tunnelled = client.tunnelled.clone();
    let service = service_fn(move |request| public::serve(serving.clone(), client.clone(), request));
    if two {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.http2_streams_max)
            .max_header_list_size(limits.head_bytes_max)
            .keep_alive_interval(Duration::from_millis(limits.head_timeout_ms))
            .keep_alive_timeout(Duration::from_millis(limits.send_stall_ms));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        if until_stopping(phase, connection.as_mut()).await.is_none() {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    } else {
        let stream = Strict::new(stream, tunnelled);
        let connection = h1(limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = std::pin::pin!(connection);
        if until_stopping(phase, connection.as_mut()).await.is_none() {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// What `work` comes to; None: the gateway stops before it is over.
async fn until_stopping<F: Future + Unpin>(phase: watch::Receiver<Phase>, mut work: F) -> Option<F::Output> {
    let seen = phase.clone();
    let mut stop = std::pin::pin!(stopping(phase));
    let mut waits = false;
    poll_fn(|cx| {
        if let Poll::Ready(done) = Pin::new(&mut work).poll(cx) {
            return Poll::Ready(Some(done));
        }
        // A task has one waker for all its life: once `stop` has it, a glance at the phase will do.
        if waits && !seen.has_changed().unwrap_or(true) {
            return Poll::Pending;
        }
        waits = true;
        stop.as_mut().poll(cx).map(|()| None)
    })
    .await
}

async fn for_peer<S>(worker: Arc<Worker>, stream: S, id: Arc<SpiffeId>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = worker.gateway.phase.subscribe();
    let serving = worker.clone();
    let service = service_fn(move |request| {
        let answer = peer::serve(serving.clone(), id.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = h1(&worker.gateway.config.limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    if until_stopping(phase, connection.as_mut()).await.is_none() {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

async fn stopping(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|p| *p == Phase::Stopping).await;
}

/// The TLS of a public listener, from its PEM files.
pub fn public_tls(files: &crate::config::TlsFiles, http2: bool) -> Result<TlsAcceptor, String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let at = |path: &std::path::Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let chain = CertificateDer::pem_file_iter(&files.cert_path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| at(&files.cert_path, &e))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_path).map_err(|e| at(&files.key_path, &e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(pumasi_trust::provider())
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| at(&files.cert_path, &e))?;
    config.alpn_protocols = if http2 { vec![HTTP2.to_vec(), HTTP1.to_vec()] } else { vec![HTTP1.to_vec()] };
    Ok(TlsAcceptor::from(Arc::new(config)))
}
