//! Connections to backends: kept, handed out, and given back, a pool per worker. Requests without a body go to instances by
//! [`plain`](crate::plain), everything else by hyper.
//!
//! Always holds: a request whose sending did not begin comes back whole to the caller; a connection of HTTP/1.1 serves one
//! request at a time, one of HTTP/2 many ([`crate::multiplex`]); idle connections are bounded in number and age.

use crate::admission::Destination;
use crate::clock::boot_us;
use crate::headers::tokens;
use crate::multiplex::{self, Multiplexed, Seat};
use crate::peers::Peers;
use crate::plain::{self, Connection, Fault, RequestHead};
use crate::tcp;
use crate::upload::{RequestBody, Verdict};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::TokioIo;
use pumasi_door::Place;
use pumasi_terms::{CloudName, Protocol};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// A peer whose kernel acknowledges nothing for so long is taken for lost, ms.
const PEER_SILENT_MS: u64 = 5_000;
/// How many idle connections are looked at before a new one is made.
const LOOK_MAX: usize = 8;

/// Which connections that are open already may be used. The longer one was idle, the likelier the backend closes it at this very moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Any,
    IdleAtMost { ms: u64 },
    None,
}

impl Kept {
    pub fn takes(self, idle_ms: u64) -> bool {
        match self {
            Self::Any => true,
            Self::IdleAtMost { ms } => idle_ms <= ms,
            Self::None => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Instance(Place),
    Peer(CloudName),
}

impl Key {
    fn of(destination: &Destination) -> Self {
        match destination {
            Destination::Instance(place, _) => Self::Instance(place.clone()),
            Destination::Peer { cloud, .. } => Self::Peer(cloud.clone()),
        }
    }
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since_us: u64,
}

#[derive(Debug)]
struct IdlePlain {
    connection: Box<Connection>,
    since_us: u64,
}

#[derive(Debug, Clone)]
pub struct PoolLimits {
    pub connect_timeout_ms: u64,
    pub idle_max: u32,
    pub idle_ms: u64,
    pub source_ip: Option<IpAddr>,
}

#[derive(Debug)]
pub struct Pool {
    limits: PoolLimits,
    peers: Arc<Peers>,
    idle: Mutex<HashMap<Key, Vec<Idle>>>,
    idle_plain: Mutex<HashMap<Place, Vec<IdlePlain>>>,
    multiplexed: Multiplexed<Key>,
}

/// Beside this cloud's own instances a connection takes microseconds; one that found no room at the door is tried again by the
/// kernel after a second, when the request had better be back in the queue.
const INSTANCE_CONNECT_MS: u64 = 400;

enum NoConnection {
    Full,
    Fault(String),
}

/// Why a request was not answered.
#[derive(Debug)]
pub enum SendFault {
    /// No connection: the request was not sent, and is returned where it was handed over.
    Connect(String, Option<Box<Request<RequestBody>>>),
    /// The instance did not take the connection in time, neither was it refused: more wait at its door than it lets wait. Not
    /// sent, and returned where it was handed over.
    Full(Option<Box<Request<RequestBody>>>),
    /// It was sent, in whole or in part, and then the connection broke.
    Broken(String),
    /// No head of an answer within the time.
    Timeout,
}

/// A connection in use, or a part of one.
#[derive(Debug)]
pub struct Loan {
    pool: Arc<Pool>,
    key: Key,
    sender: Sender,
    /// See [`may_serve_another`].
    reusable: bool,
}

#[derive(Debug)]
enum Sender {
    Alone(SendRequest<RequestBody>),
    Among { sender: http2::SendRequest<RequestBody>, _seat: Seat },
}

impl Sender {
    async fn try_send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Alone(sender) => sender.try_send_request(request).await,
            Self::Among { sender, .. } => sender.try_send_request(request).await,
        }
    }
}

/// Whether a connection that carried this request may carry somebody else's afterwards. Many servers answer without reading
/// a body that they do not expect, and take its bytes for the next request ("CL.0"): whoever wrote the body would then choose
/// what the next user is answered. Nothing tells from outside whether a body was read, so a connection to an instance ends
/// with the first body. Peers' gateways read bodies whole.
fn may_serve_another(key: &Key, request: &Request<RequestBody>) -> bool {
    matches!(key, Key::Peer(_)) || matches!(request.body(), RequestBody::Empty)
}

impl Loan {
    /// The answer was read to its end: the next request may use it.
    pub fn give_back(self) {
        let Sender::Alone(sender) = self.sender else { return };
        if !self.reusable || sender.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(self.key).or_default();
        if kept.len() < self.pool.limits.idle_max as usize {
            kept.push(Idle { sender, since_us: boot_us() });
        }
    }
}

impl Pool {
    pub fn new(limits: PoolLimits, peers: Arc<Peers>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            peers,
            idle: Mutex::default(),
            idle_plain: Mutex::default(),
            multiplexed: Multiplexed::default(),
        })
    }

    fn kept(&self, key: &Key, which: Kept) -> Option<SendRequest<RequestBody>> {
        let now = boot_us();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(key)?;
        let mut at = kept.len();
        for _ in 0..LOOK_MAX.min(at) {
            at -= 1;
            let age_ms = now.saturating_sub(kept[at].since_us) / 1_000;
            if kept[at].sender.is_closed() || age_ms > self.limits.idle_ms {
                kept.remove(at);
            } else if which.takes(age_ms) && kept[at].sender.is_ready() {
                // One that was given back a moment ago may still be finishing: it is left for later.
                return Some(kept.remove(at).sender);
            }
        }
        None
    }

    /// Closes what was idle for too long; whether anything is kept still. Called now and then.
    pub fn sweep(&self) -> bool {
        let now = boot_us();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in idle.values_mut() {
            kept.retain(|i| !i.sender.is_closed() && now.saturating_sub(i.since_us) / 1_000 <= self.limits.idle_ms);
        }
        idle.retain(|_, kept| !kept.is_empty());
        let any = !idle.is_empty();
        drop(idle);
        let any = self.multiplexed.sweep(self.limits.idle_ms) || any;
        let mut idle = self.idle_plain.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in idle.values_mut() {
            kept.retain(|i| now.saturating_sub(i.since_us) / 1_000 <= self.limits.idle_ms && i.connection.is_quiet());
        }
        idle.retain(|_, kept| !kept.is_empty());
        any || !idle.is_empty()
    }

    /// The answer was read to its end: the next request may use the connection.
    pub fn keep_plain(&self, place: &Place, connection: Box<Connection>) {
        let mut idle = self.idle_plain.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(place.clone()).or_default();
        if kept.len() < self.limits.idle_max as usize {
            kept.push(IdlePlain { connection, since_us: boot_us() });
        }
    }

    fn kept_plain(&self, place: &Place, which: Kept) -> Option<Box<Connection>> {
        let now = boot_us();
        let mut idle = self.idle_plain.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(place)?;
        let mut at = kept.len();
        for _ in 0..LOOK_MAX.min(at) {
            at -= 1;
            let age_ms = now.saturating_sub(kept[at].since_us) / 1_000;
            if age_ms > self.limits.idle_ms || !kept[at].connection.is_quiet() {
                kept.remove(at);
            } else if which.takes(age_ms) {
                return Some(kept.remove(at).connection);
            }
        }
        None
    }

    /// Sends a request that has no body to an instance, and waits for the head of its answer.
    pub async fn send_plain(
        self: &Arc<Self>,
        place: &Place,
        mut request: RequestHead<'_>,
        which: Kept,
        answer_timeout_ms: u64,
    ) -> Result<Response<plain::Body>, SendFault> {
        let timeout = Duration::from_millis(answer_timeout_ms);
        loop {
            let (connection, kept) = match self.kept_plain(place, which) {
                Some(connection) => (connection, true),
                None => match Box::pin(self.connect_plain(place)).await {
                    Ok(connection) => (connection, false),
                    Err(NoConnection::Full) => return Err(SendFault::Full(None)),
                    Err(NoConnection::Fault(problem)) => return Err(SendFault::Connect(problem, None)),
                },
            };
            match connection.exchange(&mut request, timeout, (self, place)).await {
                Ok(answer) => return Ok(answer),
                // The kept connection had been closed.
                Err(Fault::Unsent(_)) if kept => {}
                Err(Fault::Unsent(problem)) => return Err(SendFault::Connect(problem, None)),
                Err(Fault::Broken(problem)) => return Err(SendFault::Broken(problem)),
                Err(Fault::Timeout) => return Err(SendFault::Timeout),
            }
        }
    }

    async fn connect_plain(&self, place: &Place) -> Result<Box<Connection>, NoConnection> {
        let limit_ms = self.limits.connect_timeout_ms.min(INSTANCE_CONNECT_MS);
        match tokio::time::timeout(Duration::from_millis(limit_ms), dial_instance(place)).await {
            Ok(stream) => stream.map(Connection::new).map_err(NoConnection::Fault),
            Err(_) => Err(NoConnection::Full),
        }
    }

    /// Sends one request and waits for the head of its answer.
    pub async fn send(
        self: &Arc<Self>,
        (destination, protocol): (&Destination, Protocol),
        mut request: Request<RequestBody>,
        which: Kept,
        answer_timeout_ms: u64,
        verdict: Option<&Verdict>,
    ) -> Result<(Response<Incoming>, Loan), SendFault> {
        let key = Key::of(destination);
        let reusable = may_serve_another(&key, &request);
        loop {
            let kept = match protocol {
                Protocol::Http1 => self.kept(&key, which).map(Sender::Alone),
                Protocol::H2c => {
                    self.multiplexed.seat(&key, which).map(|(sender, _seat)| Sender::Among { sender, _seat })
                }
            };
            let (mut sender, kept) = match kept {
                Some(sender) => (sender, true),
                None => match self.connect(&key, protocol, false).await {
                    Ok(sender) => (sender, false),
                    Err(NoConnection::Full) => return Err(SendFault::Full(Some(Box::new(request)))),
                    Err(NoConnection::Fault(problem)) => {
                        return Err(SendFault::Connect(problem, Some(Box::new(request))));
                    }
                },
            };
            let answer = sender.try_send(request);
            match within(answer_timeout_ms, verdict, answer).await {
                None => return Err(SendFault::Timeout),
                Some(Ok(mut answer)) => {
                    say_length_once(&mut answer).map_err(SendFault::Broken)?;
                    return Ok((answer, Loan { pool: self.clone(), key, sender, reusable }));
                }
                Some(Err(mut fault)) => match fault.take_message() {
                    // The kept connection had been closed: nothing was sent.
                    Some(unsent) if kept => request = unsent,
                    Some(unsent) => {
                        return Err(SendFault::Connect(fault.into_error().to_string(), Some(Box::new(unsent))));
                    }
                    None => return Err(SendFault::Broken(describe(&fault.into_error()))),
                },
            }
        }
    }

    /// Sends a request that asks for an upgrade, over a connection of its own.
    pub async fn send_upgrade(
        &self,
        destination: &Destination,
        request: Request<RequestBody>,
        answer_timeout_ms: u64,
    ) -> Result<Response<Incoming>, SendFault> {
        let mut sender = match self.connect(&Key::of(destination), Protocol::Http1, true).await {
            Ok(sender) => sender,
            Err(NoConnection::Full) => return Err(SendFault::Full(Some(Box::new(request)))),
            Err(NoConnection::Fault(problem)) => return Err(SendFault::Connect(problem, Some(Box::new(request)))),
        };
        match within(answer_timeout_ms, None, sender.try_send(request)).await {
            None => Err(SendFault::Timeout),
            Some(Ok(mut answer)) => {
                say_length_once(&mut answer).map_err(SendFault::Broken)?;
                Ok(answer)
            }
            Some(Err(e)) => Err(SendFault::Broken(describe(&e.into_error()))),
        }
    }

    async fn connect(&self, key: &Key, protocol: Protocol, upgrades: bool) -> Result<Sender, NoConnection> {
        let limit_ms = match key {
            Key::Instance(_) => self.limits.connect_timeout_ms.min(INSTANCE_CONNECT_MS),
            Key::Peer(_) => self.limits.connect_timeout_ms,
        };
        let opened = self.open(key, protocol, upgrades);
        match (tokio::time::timeout(Duration::from_millis(limit_ms), opened).await, key) {
            (Ok(done), _) => done.map_err(NoConnection::Fault),
            (Err(_), Key::Instance(_)) => Err(NoConnection::Full),
            (Err(_), Key::Peer(_)) => Err(NoConnection::Fault(format!("no connection within {limit_ms} ms"))),
        }
    }

    async fn open(&self, key: &Key, protocol: Protocol, upgrades: bool) -> Result<Sender, String> {
        match key {
            Key::Instance(place) => self.begin(key, dial_instance(place).await?, protocol, upgrades).await,
            Key::Peer(cloud) => {
                let (authority, connector) = self.peers.to(cloud, protocol)?;
                let address = tokio::net::lookup_host(&authority)
                    .await
                    .map_err(|e| format!("resolving {authority}: {e}"))?
                    .next()
                    .ok_or_else(|| format!("{authority} has no address"))?;
                let stream =
                    self.dial(address).await.map_err(|e| format!("connecting to {cloud} at {address}: {e}"))?;
                let _ = stream.set_nodelay(true);
                tcp::bound_stall(&stream, PEER_SILENT_MS);
                let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
                let stream =
                    connector.connect(name, stream).await.map_err(|e| format!("proving {cloud} at {address}: {e}"))?;
                self.begin(key, stream, protocol, upgrades).await
            }
        }
    }

    async fn begin<S>(&self, key: &Key, stream: S, protocol: Protocol, upgrades: bool) -> Result<Sender, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        if protocol.is_http1() {
            return handshake(stream, upgrades).await.map(Sender::Alone);
        }
        let ahead = if matches!(key, Key::Instance(_)) { multiplex::NEAR_BYTES } else { multiplex::FAR_BYTES };
        let (sender, _seat) = self.multiplexed.open(key, multiplex::handshake(stream, ahead).await?);
        Ok(Sender::Among { sender, _seat })
    }

    async fn dial(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let Some(source) = self.limits.source_ip.filter(|s| s.is_ipv4() == address.is_ipv4()) else {
            return TcpStream::connect(address).await;
        };
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(address).await
    }
}

async fn dial_instance(place: &Place) -> Result<TcpStream, String> {
    let stream = place.connect().await.map_err(|e| format!("connecting to {place}: {e}"))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// As `plain` does: chunks stand over a length, and a length that is said twice is said once, so that nobody further on reads
/// another end (RFC 9112, 6.3).
fn say_length_once(answer: &mut Response<Incoming>) -> Result<(), String> {
    if answer.headers().contains_key(TRANSFER_ENCODING) {
        plain::is_chunked(answer.headers())?;
        answer.headers_mut().remove(CONTENT_LENGTH);
    } else if tokens(answer.headers(), &CONTENT_LENGTH).nth(1).is_some()
        && let Some(length) = answer.body().size_hint().exact()
    {
        answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    Ok(())
}

fn describe(error: &hyper::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |s| format!("{error}: {s}"))
}

async fn handshake<S>(stream: S, upgrades: bool) -> Result<SendRequest<RequestBody>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Its errors reach the request in flight; an idle one has nobody to tell.
    if upgrades {
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
    } else {
        tokio::spawn(async move { drop(connection.await) });
    }
    Ok(sender)
}

/// Waits for an answer; the time begins anew while the request's body still moves, or its user is waited for.
async fn within<T>(ms: u64, verdict: Option<&Verdict>, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    loop {
        match tokio::time::timeout(Duration::from_millis(ms), &mut answer).await {
            Ok(done) => return Some(done),
            Err(_) if verdict.is_some_and(|v| v.take_moved() || v.is_awaited()) => {}
            Err(_) => return None,
        }
    }
}
