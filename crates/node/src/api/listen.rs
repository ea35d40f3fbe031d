//! The doors of a daemon: people's Unix socket (and TLS, by choice), the peer port, and metrics.
//!
//! Always holds: before anybody has shown who it is, a connection costs little, stays short, and has a place that the next one may
//! take; a member's connection ends with its certificate.

use super::allowance::{Allowance, PACE, Pace, Pot, Pots, STRANGERS_PACE};
use super::auth::Connection;
use super::idle::{Activity, Answering};
use super::places::{Place, Places};
use super::users::Users;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pumasi_trust::peer_leaf;
use std::future::pending;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Open requests may end within this, once a connection is to close.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of people on this host, or with TLS: they are told apart by requests, so the longest idle do not leave.
const PEOPLE_MAX: usize = 512;

#[derive(Debug)]
pub struct Listening {
    /// None: a Unix socket.
    pub address: Option<SocketAddr>,
    pub task: tokio::task::JoinHandle<()>,
}

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// Without a request in flight.
    idle: Duration,
    /// Whatever happens on it.
    life: Option<Duration>,
    pace: Pace,
    streams: u32,
    stream_window: u32,
    connection_window: u32,
}

const STRANGERS: Manner = Manner {
    idle: Duration::from_secs(5),
    // Entering a pact asks every member for its signature while the newcomer waits.
    life: Some(Duration::from_secs(150)),
    pace: STRANGERS_PACE,
    streams: 4,
    stream_window: 64 << 10,
    connection_window: 64 << 10,
};
const MEMBERS: Manner = Manner {
    idle: Duration::from_secs(90),
    life: None,
    pace: PACE,
    streams: 64,
    stream_window: 4 << 20,
    connection_window: 16 << 20,
};
const PEOPLE: Manner =
    Manner { idle: Duration::from_secs(90), stream_window: 1 << 20, connection_window: 4 << 20, ..MEMBERS };

/// What all connections of a door share.
#[derive(Clone)]
struct Door {
    router: Router,
    pots: Arc<Pots>,
    stopping: watch::Receiver<bool>,
    /// Held by every connection, so that stopping can wait for them.
    open: mpsc::Sender<()>,
}

/// Serves until `stopping` turns true; then lets open requests end, within a bound. `Accept` gives the next connection.
fn serve_all<L, F>(
    listener: L,
    router: Router,
    stopping: watch::Receiver<bool>,
    pots: Arc<Pots>,
    serve: F,
) -> tokio::task::JoinHandle<()>
where
    L: axum::serve::Listener,
    F: Fn(Door, L::Io, L::Addr) + Send + 'static,
{
    tokio::spawn(async move {
        let (mut listener, mut until) = (listener, stopping.clone());
        let (open, mut all_closed) = mpsc::channel(1);
        let door = Door { router, pots, stopping, open };
        while !*until.borrow() {
            // Out of file handles it waits by itself.
            tokio::select! {
                (socket, from) = listener.accept() => serve(door.clone(), socket, from),
                _ = until.changed() => {}
            }
        }
        drop((listener, door));
        let _ = tokio::time::timeout(STOP_TIMEOUT + Duration::from_secs(1), all_closed.recv()).await;
    })
}

/// The peer port: members by certificate, and newcomers with an invitation.
pub async fn members(
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<Listening> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let (places, acceptor) = (Places::default(), tokio_rustls::TlsAcceptor::from(tls));
    let task = serve_all(listener, router, stopping, Arc::default(), move |door, socket: TcpStream, from| {
        let (place, acceptor) = (places.arrive(from.ip()), acceptor.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = place.taken() => {}
                () = member(&door, &place, &acceptor, socket) => {}
            }
        });
    });
    Ok(Listening { address: Some(address), task })
}

async fn member(door: &Door, place: &Place, acceptor: &tokio_rustls::TlsAcceptor, socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await else { return };
    let tls = stream.get_ref().1;
    let is_h2 = tls.alpn_protocol() == Some(b"h2");
    let leaf = tls.peer_certificates().and_then(|certs| peer_leaf(certs).ok());
    let (manner, pot, ends) = match &leaf {
        None => (STRANGERS, door.pots.stranger(), None),
        Some((id, not_after)) => {
            place.is_of(id.trust_domain());
            let left_ms = not_after.since(crate::clock::wall());
            (MEMBERS, door.pots.member(id.trust_domain()), Some(Duration::from_millis(left_ms)))
        }
    };
    let manner = Manner { life: ends.or(manner.life), ..manner };
    serve(door, stream, is_h2, Connection::of_peer(leaf.map(|(id, _)| id)), manner, pot).await;
}

/// People's Unix socket. The kernel tells which user calls.
pub async fn people(
    socket: &Path,
    users: Users,
    router: Router,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<Listening> {
    // The store's lock says that no other daemon runs here: what is left is of one that has ended.
    match std::fs::symlink_metadata(socket) {
        Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            return Err(std::io::Error::other("something that is no socket is there already"));
        }
        Ok(_) => std::fs::remove_file(socket)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket)?;
    if let Some(group) = users.group() {
        std::os::unix::fs::chown(socket, None, Some(group))?;
    }
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))?;
    let places = Arc::new(tokio::sync::Semaphore::new(PEOPLE_MAX));
    let task = serve_all(listener, router, stopping, Arc::default(), move |door, socket: tokio::net::UnixStream, _| {
        let Ok(place) = places.clone().try_acquire_owned() else { return };
        let user = socket.peer_cred().ok().and_then(|c| users.of(c.uid()));
        tokio::spawn(async move {
            let _place = place;
            let pot = door.pots.people();
            serve(&door, socket, false, Connection::of_user(user), PEOPLE, pot).await;
        });
    });
    Ok(Listening { address: None, task })
}

/// The same for people elsewhere: TLS always, and a token.
pub async fn people_tls(
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<Listening> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let (places, acceptor) = (Places::default(), tokio_rustls::TlsAcceptor::from(tls));
    let task = serve_all(listener, router, stopping, Arc::default(), move |door, socket: TcpStream, from| {
        let (place, acceptor) = (places.arrive(from.ip()), acceptor.clone());
        tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            let served = async {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await else {
                    return;
                };
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let pot = door.pots.people();
                serve(&door, stream, is_h2, Connection::of_user(None), PEOPLE, pot).await;
            };
            tokio::select! { () = place.taken() => {}, () = served => {} }
        });
    });
    Ok(Listening { address: Some(address), task })
}

/// Metrics for a monitor on this host.
pub async fn monitors(
    address: SocketAddr,
    router: Router,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<Listening> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let places = Places::default();
    let task = serve_all(listener, router, stopping, Arc::default(), move |door, socket: TcpStream, from| {
        let place = places.arrive(from.ip());
        tokio::spawn(async move {
            let pot = door.pots.stranger();
            let manner = Manner { life: Some(Duration::from_secs(60)), ..STRANGERS };
            tokio::select! {
                () = place.taken() => {}
                () = serve(&door, socket, false, Connection::of_monitor(), manner, pot) => {}
            }
        });
    });
    Ok(Listening { address: Some(address), task })
}

async fn serve<S>(door: &Door, socket: S, is_h2: bool, connection: Connection, manner: Manner, pot: Pot)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (router, activity) = (door.router.clone(), Activity::new());
    let (busy, pace) = (activity.clone(), manner.pace);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let allowance = Allowance::new(pot.clone(), pace);
        let answering = Answering::new(&busy, allowance.clone());
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(connection.clone());
        request.extensions_mut().insert(allowance);
        let answered = router.clone().oneshot(request);
        async move { answered.await.map(|answer| answering.until_sent(answer)) }
    });
    let io = TokioIo::new(socket);
    let ends = async {
        let mut stopping = door.stopping.clone();
        let life = async {
            match manner.life {
                Some(life) => tokio::time::sleep(life).await,
                None => pending().await,
            }
        };
        let stopped = async { while !*stopping.borrow() && stopping.changed().await.is_ok() {} };
        tokio::select! { () = activity.idle_for(manner.idle) => {}, () = life => {}, () = stopped => {} }
    };
    let _open = door.open.clone();
    if is_h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(5)))
            .keep_alive_timeout(Duration::from_secs(10))
            .initial_stream_window_size(manner.stream_window)
            .initial_connection_window_size(manner.connection_window)
            .max_concurrent_streams(manner.streams)
            .max_pending_accept_reset_streams(Some(16))
            .max_local_error_reset_streams(Some(64))
            .max_header_list_size(16 << 10);
        drive(builder.serve_connection(io, service), ends, |c| c.graceful_shutdown()).await;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
        // What became another protocol's is not this connection's any more, and bounded by whoever took it.
        drive(builder.serve_connection(io, service).with_upgrades(), ends, |c| c.graceful_shutdown()).await;
    }
}

/// Until it ends by itself, or `ends` says so and what is open has had its time.
async fn drive<C: Future>(connection: C, ends: impl Future<Output = ()>, stop: impl FnOnce(Pin<&mut C>)) {
    tokio::pin!(connection, ends);
    tokio::select! {
        biased;
        _ = &mut connection => return,
        () = &mut ends => {}
    }
    stop(connection.as_mut());
    let _ = tokio::time::timeout(STOP_TIMEOUT, connection).await;
}
