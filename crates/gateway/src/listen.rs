//! Listeners and connections: from an accepted socket to requests.
//!
//! Always holds: connections are bounded in number, in all and by address; no step before a request may take for ever; a stop
//! lets what is in flight end.

use crate::config::{Limits, TlsFiles};
use crate::gateway::{Phase, Worker};
use crate::io::UserTcp;
use crate::keys::{ByName, Keyring};
use crate::link::{Link, UNSENT_BYTES};
use crate::proxied::{self, Said, Unsaid};
use crate::public::Client;
use crate::strict::Strict;
use crate::{front, multiplex, peer, public, tcp};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pumasi_trust::SpiffeId;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

const BACKLOG: u32 = 4_096;
/// A warning that would come with each connection comes so often.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// hyper takes 100 fields of a user.
const PEER_FIELDS_MAX: usize = 128;
const PEER_HEAD_BYTES: usize = 8 << 10;
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// `shared`: other threads listen on the same address.
pub fn bind(address: SocketAddr, shared: bool) -> std::io::Result<std::net::TcpListener> {
    let socket = socket_for(address)?;
    if shared {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Whether one could listen there now. The address is let go at once, and nobody was let in.
pub fn probe(address: SocketAddr) -> std::io::Result<()> {
    socket_for(address)?.bind(address)
}

fn socket_for(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// The TLS of a public listener, and the certificate that it shows where no service has its own.
pub struct PublicTls {
    pub acceptor: TlsAcceptor,
    pub own: CertificateDer<'static>,
}

/// What is spoken on a listener.
#[derive(Clone)]
pub enum Speaks {
    Plain { http2: bool },
    Tls { shown: Arc<std::sync::RwLock<PublicTls>> },
    Peers { acceptor: TlsAcceptor },
}

struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Says once in a while what happens again and again.
#[derive(Default)]
struct Seldom {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// How often it happened since it was last said; None: it was said a moment ago.
    fn say(&mut self) -> Option<u64> {
        self.unsaid += 1;
        if self.last.is_some_and(|at| at.elapsed() < SAID_EVERY) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

type SharedSeldom = Arc<Mutex<Seldom>>;

fn say(seldom: &SharedSeldom) -> Option<u64> {
    seldom.lock().unwrap_or_else(PoisonError::into_inner).say()
}

/// Accepts until the gateway stops.
pub async fn run(worker: Arc<Worker>, listener: TcpListener, speaks: Speaks) {
    let limits = &worker.gateway.config.limits;
    let peers = matches!(speaks, Speaks::Peers { .. });
    let max = if peers { limits.peer_connections_max } else { limits.connections_max };
    let room = Arc::new(Semaphore::new(max as usize));
    let mut phase = worker.gateway.phase.subscribe();
    let mut failing = Seldom::default();
    let (crowding, unsaid) = (SharedSeldom::default(), SharedSeldom::default());
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
                if let Some(times) = failing.say() {
                    tracing::warn!(%error, times, "connections could not be accepted");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let ip = address.ip().to_canonical();
        let is_front = !peers && front::is_trusted(ip, &worker.gateway.config.trusted_proxies);
        worker.gateway.connections.fetch_add(1, Ordering::AcqRel);
        let room = (permit, Counted(worker.gateway.connections.clone()));
        let (worker, speaks, crowding) = (worker.clone(), speaks.clone(), crowding.clone());
        if is_front && worker.gateway.config.proxy_protocol {
            let unsaid = unsaid.clone();
            tokio::spawn(async move {
                match said(&worker, stream, ip).await {
                    Ok(caller) => begin(worker, caller, speaks, room, &crowding),
                    Err(Unsaid::Ended) => {}
                    Err(problem) => {
                        worker.gateway.unsaid.fetch_add(1, Ordering::Relaxed);
                        if let Some(times) = say(&unsaid) {
                            tracing::warn!(proxy = %ip, %problem, times, "connections of a trusted proxy are closed");
                        }
                    }
                }
            });
        } else {
            begin(worker, Caller { stream, ip, is_front, said: None }, speaks, room, &crowding);
        }
    }
}

/// Who is at the other end of a connection.
struct Caller {
    stream: TcpStream,
    /// Of the user, as far as it is known.
    ip: IpAddr,
    /// Each request may be another user's.
    is_front: bool,
    /// By the PROXY protocol: whether the user came by TLS, and what was read beyond.
    said: Option<(bool, Vec<u8>)>,
}

/// What a trusted proxy says by the PROXY protocol. What it passes on was written by its user: only if that user is a trusted proxy
/// itself, the requests may say more.
async fn said(worker: &Worker, mut stream: TcpStream, proxy: IpAddr) -> Result<Caller, Unsaid> {
    let config = &worker.gateway.config;
    let (Said { user, tls }, ahead) =
        proxied::read(&mut stream, Duration::from_millis(config.limits.head_timeout_ms)).await?;
    let is_front = user.is_some_and(|user| front::is_trusted(user, &config.trusted_proxies));
    Ok(Caller { stream, ip: user.unwrap_or(proxy), is_front, said: Some((tls, ahead)) })
}

/// Serves a connection on a task of its own, if its address has room for it.
fn begin(
    worker: Arc<Worker>,
    caller: Caller,
    speaks: Speaks,
    room: (OwnedSemaphorePermit, Counted),
    crowding: &SharedSeldom,
) {
    let limits = &worker.gateway.config.limits;
    let ip = caller.ip;
    // Who speaks for many has no share of one: its own bounds hold.
    let many = caller.is_front || matches!(speaks, Speaks::Peers { .. });
    let speaks_for_itself = caller.said.is_some() && front::is_trusted(ip, &worker.gateway.config.trusted_proxies);
    let link = match many || speaks_for_itself {
        true => Some(worker.links.peer()),
        false => worker.links.user(ip, limits.connections_per_address_max),
    };
    let Some(link) = link else {
        if let Some(times) = say(crowding) {
            let most = limits.connections_per_address_max;
            tracing::warn!(%ip, most, times, "an address has all the connections that it may have; more are closed");
        }
        return;
    };
    let (links, watched) = (worker.links.clone(), link.clone());
    let task = tokio::spawn(async move {
        connection(worker, caller, link, speaks).await;
        drop(room);
    });
    links.watch(&watched, task.abort_handle());
}

async fn connection(worker: Arc<Worker>, caller: Caller, link: Arc<Link>, speaks: Speaks) {
    let Caller { stream, ip, is_front, said } = caller;
    let _ = stream.set_nodelay(true);
    let limits = &worker.gateway.config.limits;
    match &speaks {
        Speaks::Peers { .. } => tcp::bound_stall(&stream, limits.stall_ms),
        _ => tcp::bound_unsent(&stream, UNSENT_BYTES),
    }
    let is_said = said.is_some();
    let (tls_before, ahead) = said.unwrap_or_default();
    let mut stream = UserTcp::new(stream, link.clone(), ahead);
    // How far the user is, a proxy's connection does not tell.
    let rtt = if is_said { Arc::default() } else { stream.rtt() };
    let handshake = Duration::from_millis(limits.tls_handshake_ms);
    match speaks {
        Speaks::Plain { http2 } => {
            let two = http2 && stream.begins_http2().await;
            let scheme = if tls_before { "https" } else { "http" };
            let client = Client::new(ip, scheme, rtt, link, is_front);
            for_users(worker, stream, client, two).await;
        }
        Speaks::Tls { shown } => {
            let acceptor = shown.read().unwrap_or_else(std::sync::PoisonError::into_inner).acceptor.clone();
            let client = Client::new(ip, "https", rtt, link, is_front);
            let Ok(Ok(stream)) = tokio::time::timeout(handshake, acceptor.accept(stream)).await else { return };
            let two = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
            for_users(worker, stream, client, two).await;
        }
        Speaks::Peers { acceptor } => {
            let Ok(Ok(stream)) = tokio::time::timeout(handshake, acceptor.accept(stream)).await else { return };
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let Ok(id) = pumasi_trust::peer_identity(certificates) else { return };
            let two = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
            for_peer(worker, stream, link, Arc::new(id), two).await;
        }
    }
}

fn h1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // What does not come is looked after from outside: a timer for each head costs more.
    builder.header_read_timeout(None).max_header_size(limits.head_bytes_max as usize);
    builder
}

async fn for_users<S>(worker: Arc<Worker>, stream: S, client: Arc<Client>, two: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &worker.gateway.config.limits;
    let phase = worker.gateway.phase.subscribe();
    let serving = worker.clone();
    let (tunnelled, link) = (client.tunnelled.clone(), client.link.clone());
    let service = service_fn(move |request| public::serve(serving.clone(), client.clone(), request));
    if two {
        link.set_multiplexed();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.http2_streams_max)
            .max_header_list_size(limits.head_bytes_max)
            .keep_alive_interval(Duration::from_millis(limits.keep_alive_ms / 2 + 1))
            .keep_alive_timeout(Duration::from_millis(limits.stall_ms));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        serve_out(phase, &link, connection, |c| c.graceful_shutdown()).await;
    } else {
        let stream = Strict::new(stream, tunnelled);
        let connection = h1(limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
        serve_out(phase, &link, connection, |c| c.graceful_shutdown()).await;
    }
}

/// Serves a connection to its end; one that is told to `finish` ends with what it has begun.
async fn serve_out<C: Future>(
    phase: watch::Receiver<Phase>,
    link: &Link,
    connection: C,
    finish: impl FnOnce(Pin<&mut C>),
) {
    let mut connection = std::pin::pin!(connection);
    if until_stopping(phase, link, connection.as_mut()).await.is_none() {
        finish(connection.as_mut());
        let _ = connection.await;
    }
}

/// What `work` comes to; None: before it is over the gateway stops, or the connection had nothing to do for too long.
async fn until_stopping<F: Future + Unpin>(
    phase: watch::Receiver<Phase>,
    link: &Link,
    mut work: F,
) -> Option<F::Output> {
    let seen = phase.clone();
    let mut stop = std::pin::pin!(stopping(phase));
    let mut waits = false;
    poll_fn(|cx| {
        if let Poll::Ready(done) = Pin::new(&mut work).poll(cx) {
            return Poll::Ready(Some(done));
        }
        // A task has one waker for all its life: once `stop` has it, a glance at the phase will do.
        if waits && !seen.has_changed().unwrap_or(true) && !link.is_ending() {
            return Poll::Pending;
        }
        waits = true;
        if link.shall_end(cx.waker()) {
            return Poll::Ready(None);
        }
        stop.as_mut().poll(cx).map(|()| None)
    })
    .await
}

async fn for_peer<S>(worker: Arc<Worker>, stream: S, link: Arc<Link>, id: Arc<SpiffeId>, two: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = worker.gateway.phase.subscribe();
    let serving = worker.clone();
    let serving_link = link.clone();
    let service = service_fn(move |request| {
        let answer = peer::serve(serving.clone(), serving_link.clone(), id.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let limits = &worker.gateway.config.limits;
    if two {
        link.set_multiplexed();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(multiplex::SEATS_MAX)
            .initial_stream_window_size(multiplex::FAR_BYTES)
            .initial_connection_window_size(multiplex::FAR_BYTES * multiplex::SEATS_MAX)
            .max_header_list_size(limits.head_bytes_max + PEER_HEAD_BYTES as u32)
            .keep_alive_interval(Duration::from_millis(limits.keep_alive_ms / 2 + 1))
            .keep_alive_timeout(Duration::from_millis(limits.stall_ms));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        serve_out(phase, &link, connection, |c| c.graceful_shutdown()).await;
        return;
    }
    let mut builder = h1(limits);
    // What a user may say, and what gateways add to it.
    builder.max_headers(PEER_FIELDS_MAX).max_header_size(limits.head_bytes_max as usize + PEER_HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    serve_out(phase, &link, connection, |c| c.graceful_shutdown()).await;
}

async fn stopping(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|p| *p == Phase::Stopping).await;
}

/// The TLS of a public listener: with certificates of services, and its own from its PEM files for every other name.
pub fn public_tls(files: &TlsFiles, http2: bool, keys: &Arc<Keyring>) -> Result<PublicTls, String> {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    let at = |path: &std::path::Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let chain = CertificateDer::pem_file_iter(&files.cert_path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| at(&files.cert_path, &e))?;
    let leaf = chain.first().cloned().ok_or_else(|| at(&files.cert_path, &"it holds no certificate"))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_path).map_err(|e| at(&files.key_path, &e))?;
    let provider = pumasi_trust::provider();
    let own = CertifiedKey::from_der(chain, key, &provider).map_err(|e| at(&files.cert_path, &e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| at(&files.cert_path, &e))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName::new(keys.clone(), own)));
    config.alpn_protocols = if http2 { vec![HTTP2.to_vec(), HTTP1.to_vec()] } else { vec![HTTP1.to_vec()] };
    Ok(PublicTls { acceptor: TlsAcceptor::from(Arc::new(config)), own: leaf })
}
