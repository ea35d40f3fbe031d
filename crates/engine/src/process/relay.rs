//! What an instance may call: its addresses are on the instance's own `lo`, and whoever calls them there is relayed to the real
//! ones outside.
//!
//! Enters: listeners that were opened inside. Leaves: bytes, both ways.
//! Always holds: an instance reaches the addresses of its list and nothing else; connections and sessions are bounded, and
//! those beyond the bound are reset, or dropped where the protocol knows no reset.

use rustix::net::sockopt::{set_socket_keepalive, set_socket_linger};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Open at one time, of one instance, to all addresses together.
const CONNECTIONS_MAX: usize = 256;
const SESSIONS_MAX: usize = 64;
const CONNECT_MS_MAX: u64 = 10_000;
/// A UDP session without an answer for so long is over.
const SESSION_IDLE_MS: u64 = 60_000;
const DATAGRAM_BYTES_MAX: usize = 65_535;
const BUFFER_BYTES: usize = 16 << 10;

/// Opened inside; the address of each is where it leads outside.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    tcp: Vec<(SocketAddr, std::net::TcpListener)>,
    udp: Vec<(SocketAddr, std::net::UdpSocket)>,
}

impl Listeners {
    /// The calling thread is inside, and the addresses are on `lo`.
    pub(super) fn open(egress: &[SocketAddr]) -> Result<Self, String> {
        let mut all = Self::default();
        for &to in egress {
            let err = |e: io::Error| format!("listen at {to} for what is called there: {e}");
            let tcp = std::net::TcpListener::bind(to).map_err(err)?;
            let udp = std::net::UdpSocket::bind(to).map_err(err)?;
            tcp.set_nonblocking(true).and_then(|()| udp.set_nonblocking(true)).map_err(err)?;
            all.tcp.push((to, tcp));
            all.udp.push((to, udp));
        }
        Ok(all)
    }
}

/// On a thread of its own, outside: what an instance sends must not hold up its probes and its log.
pub(super) fn start(listeners: Listeners) -> Result<(), String> {
    if listeners.tcp.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("start the relay: {e}"))?;
    let work = move || {
        runtime.block_on(async {
            let (connections, sessions) =
                (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(SESSIONS_MAX)));
            for (to, listener) in listeners.tcp {
                tokio::spawn(relay_streams(to, listener, connections.clone()));
            }
            for (to, socket) in listeners.udp {
                tokio::spawn(relay_datagrams(to, socket, sessions.clone()));
            }
            std::future::pending::<()>().await;
        });
    };
    std::thread::Builder::new().name("relay".into()).spawn(work).map(drop).map_err(|e| format!("start the relay: {e}"))
}

async fn relay_streams(to: SocketAddr, listener: std::net::TcpListener, places: Arc<Semaphore>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return eprintln!("shim: relay to {to}: {e}"),
    };
    loop {
        let Ok((inside, _)) = listener.accept().await else {
            // No handle is free at the moment.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => drop(tokio::spawn(relay_stream(to, inside, place))),
            Err(_) => reset(inside),
        }
    }
}

async fn relay_stream(to: SocketAddr, mut inside: TcpStream, place: OwnedSemaphorePermit) {
    let connecting = tokio::time::timeout(Duration::from_millis(CONNECT_MS_MAX), TcpStream::connect(to));
    match connecting.await {
        Ok(Ok(mut outside)) => {
            let _ = set_socket_keepalive(&outside, true);
            let _ = (inside.set_nodelay(true), outside.set_nodelay(true));
            let copied =
                tokio::io::copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER_BYTES, BUFFER_BYTES).await;
            if copied.is_err() {
                reset(inside);
                reset(outside);
            }
        }
        _ => reset(inside),
    }
    drop(place);
}

/// An end that cannot be taken for a good one.
fn reset(stream: TcpStream) {
    let _ = set_socket_linger(&stream, Some(Duration::ZERO));
}

type Sessions = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

async fn relay_datagrams(to: SocketAddr, inside: std::net::UdpSocket, places: Arc<Semaphore>) {
    let inside = match UdpSocket::from_std(inside) {
        Ok(inside) => Arc::new(inside),
        Err(e) => return eprintln!("shim: relay to {to}: {e}"),
    };
    let sessions = Sessions::default();
    let mut datagram = vec![0u8; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, from)) = inside.recv_from(&mut datagram).await else { continue };
        let known = sessions.lock().unwrap_or_else(PoisonError::into_inner).get(&from).cloned();
        let outside = match known {
            Some(outside) => outside,
            None => {
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let Ok(outside) = outward(to).await.map(Arc::new) else { continue };
                sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(from, outside.clone());
                tokio::spawn(answers(from, outside.clone(), inside.clone(), sessions.clone(), place));
                outside
            }
        };
        // An error is told by the session's end.
        let _ = outside.send(datagram.get(..length).unwrap_or_default()).await;
    }
}

async fn outward(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Until none comes for long enough.
async fn answers(
    to: SocketAddr,
    outside: Arc<UdpSocket>,
    inside: Arc<UdpSocket>,
    sessions: Sessions,
    place: OwnedSemaphorePermit,
) {
    let mut datagram = vec![0u8; DATAGRAM_BYTES_MAX];
    let idle = Duration::from_millis(SESSION_IDLE_MS);
    while let Ok(Ok(length)) = tokio::time::timeout(idle, outside.recv(&mut datagram)).await {
        let _ = inside.send_to(datagram.get(..length).unwrap_or_default(), to).await;
    }
    sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&to);
    drop(place);
}
