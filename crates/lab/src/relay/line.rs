//! One relayed connection: two delay lines, each a queue of chunks with the instant at which they come out.

use super::link::{Link, Pass};
use bytes::{Bytes, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Passes while no acknowledgement comes back, about a first congestion window grown once or twice.
const UNACKNOWLEDGED_BYTES_MAX: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(super) struct Lane {
    pub link: Arc<Link>,
    pub changed: watch::Receiver<u64>,
}

impl Lane {
    async fn wait_while(&mut self, blocked: impl Fn(&Link) -> bool) {
        loop {
            self.changed.mark_unchanged();
            if !blocked(&self.link) || self.changed.changed().await.is_err() {
                return;
            }
        }
    }
}

enum Item {
    Data(Bytes),
    End,
    Reset,
}

/// The connection broke, or a fault broke it: both ends get a reset.
struct Broken;

pub(super) async fn carry(
    mut near: TcpStream,
    peer: SocketAddr,
    target: SocketAddr,
    mut there: Lane,
    mut back: Lane,
    buffer_bytes: usize,
) {
    let _ = near.set_nodelay(true);
    let accepted = Instant::now();
    wait_until(accepted + there.link.one_way()).await;
    // A handshake needs both directions.
    there.wait_while(Link::blackholed).await;
    back.wait_while(Link::blackholed).await;
    let connected = match timeout(CONNECT_TIMEOUT, connect(peer, target)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some(mut far) = connected else {
        wait_until(Instant::now() + back.link.one_way()).await;
        let _ = near.set_zero_linger();
        return;
    };
    let _ = far.set_nodelay(true);
    there.link.count_connection();
    // The source could send only from here on: its first bytes wait for the handshake.
    let usable = Instant::now() + back.link.one_way();
    let severed = severed(there.clone(), back.clone());
    let broken = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let onward = pump(near_read, far_write, there.clone(), back.clone(), usable, buffer_bytes);
        let homeward = pump(far_read, near_write, back.clone(), there.clone(), accepted, buffer_bytes);
        tokio::select! {
            ended = async { tokio::try_join!(onward, homeward) } => ended.is_err(),
            () = severed => true,
        }
    };
    if broken {
        there.link.count_reset();
        let _ = near.set_zero_linger();
        let _ = far.set_zero_linger();
    }
}

/// From the source's own address, so that the target sees who called.
async fn connect(peer: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if peer.is_ipv4() == target.is_ipv4() {
        socket.bind(SocketAddr::new(peer.ip(), 0))?;
    }
    socket.connect(target).await
}

async fn severed(mut there: Lane, mut back: Lane) {
    let (a, b) = (there.link.generation(), back.link.generation());
    tokio::select! {
        () = there.wait_while(|l| l.generation() == a) => {}
        () = back.wait_while(|l| l.generation() == b) => {}
    }
}

async fn pump(
    from: impl AsyncReadExt + Unpin,
    to: impl AsyncWriteExt + Unpin,
    lane: Lane,
    reverse: Lane,
    usable: Instant,
    buffer_bytes: usize,
) -> Result<(), Broken> {
    let room = Semaphore::new(buffer_bytes);
    // Bounded by `room`: every chunk holds at least one of its permits.
    let (send, receive) = mpsc::unbounded_channel();
    let enter = read_side(from, send, &lane.link, usable, &room, buffer_bytes);
    let leave = write_side(to, receive, lane.clone(), reverse, &room);
    tokio::try_join!(enter, leave).map(|_| ())
}

async fn read_side(
    mut from: impl AsyncReadExt + Unpin,
    send: mpsc::UnboundedSender<(Instant, Item)>,
    link: &Link,
    usable: Instant,
    room: &Semaphore,
    buffer_bytes: usize,
) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    let mut last = usable;
    loop {
        if buffer.capacity() < CHUNK_BYTES / 4 {
            buffer.reserve(CHUNK_BYTES);
        }
        let item = match from.read_buf(&mut buffer).await {
            Ok(0) => Item::End,
            Ok(_) => Item::Data(buffer.split().freeze()),
            Err(_) => Item::Reset,
        };
        let entered = Instant::now().max(usable);
        let bytes = if let Item::Data(data) = &item { data.len() } else { 0 };
        // Order is kept although jitter and latency change.
        last = last.max(link.release(entered, bytes));
        let done = bytes == 0;
        let permits = u32::try_from(bytes.min(buffer_bytes)).unwrap_or(u32::MAX);
        let Ok(permit) = room.acquire_many(permits).await else { return Err(Broken) };
        permit.forget();
        if send.send((last, item)).is_err() || done {
            return Ok(());
        }
    }
}

async fn write_side(
    mut to: impl AsyncWriteExt + Unpin,
    mut receive: mpsc::UnboundedReceiver<(Instant, Item)>,
    mut lane: Lane,
    mut reverse: Lane,
    room: &Semaphore,
) -> Result<(), Broken> {
    let mut unacknowledged = 0;
    while let Some((release, item)) = receive.recv().await {
        wait_until(release).await;
        lane.wait_while(Link::blackholed).await;
        let data = match item {
            Item::End => {
                let _ = to.shutdown().await;
                return Ok(());
            }
            Item::Reset => return Err(Broken),
            Item::Data(data) => data,
        };
        if reverse.link.blackholed() {
            if unacknowledged + data.len() > UNACKNOWLEDGED_BYTES_MAX {
                reverse.wait_while(Link::blackholed).await;
                lane.wait_while(Link::blackholed).await;
            }
            unacknowledged += data.len();
        } else {
            unacknowledged = 0;
        }
        let passes = match lane.link.pass(data.len()) {
            Pass::All => to.write_all(&data).await,
            Pass::Cut(bytes) => {
                let _ = to.write_all(data.get(..bytes).unwrap_or(&data)).await;
                return Err(Broken);
            }
        };
        room.add_permits(data.len());
        if passes.is_err() {
            wait_until(Instant::now() + reverse.link.one_way()).await;
            return Err(Broken);
        }
    }
    Ok(())
}

/// The timer wheel and the poll below it each round up to whole milliseconds, so that a sleep is late by about one: it begins
/// that much earlier.
async fn wait_until(at: Instant) {
    const LATENESS: Duration = Duration::from_millis(1);
    if at > Instant::now() + LATENESS {
        sleep_until(at - LATENESS).await;
    }
}
