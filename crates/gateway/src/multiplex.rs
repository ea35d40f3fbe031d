//! HTTP/2 to backends that speak it: instances of `protocol: h2c`, and the gateways of lenders for their services.
//!
//! Enters: connections. Leaves: seats on them, one a request.
//! Always holds: a connection carries at most as many requests as the other side takes, and [`SEATS_MAX`]; a body that nobody
//! reads takes nobody else's room: all that may wait on a connection fits into its window.

use crate::clock::boot_us;
use crate::upload::RequestBody;
use crate::upstream::Kept;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};

/// Requests at one time on one connection.
pub const SEATS_MAX: u32 = 100;
/// What an answer's body may be ahead of its user, from an instance beside us and from a gateway far away.
pub const NEAR_BYTES: u32 = 64 << 10;
pub const FAR_BYTES: u32 = 256 << 10;
/// The fields of an answer.
const HEAD_BYTES_MAX: u32 = 256 << 10;

/// What is under way on one connection.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicU32,
    /// The most, as the other side says.
    most: AtomicU32,
    since_us: AtomicU64,
}

/// One request's part of a connection, until it is dropped.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    fn hear(&self, most: usize) {
        self.most.store(u32::try_from(most).unwrap_or(u32::MAX).min(SEATS_MAX), Relaxed);
    }
}

impl Seat {
    fn take(seats: &Arc<Seats>) -> Self {
        seats.taken.fetch_add(1, Relaxed);
        Self(seats.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.since_us.store(boot_us(), Relaxed);
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<RequestBody>,
    seats: Arc<Seats>,
}

impl Open {
    fn idle_ms(&self) -> u64 {
        let since_us = self.seats.since_us.load(Relaxed);
        if self.seats.taken.load(Relaxed) > 0 { 0 } else { boot_us().saturating_sub(since_us) / 1_000 }
    }

    fn has_room(&self) -> bool {
        self.seats.taken.load(Relaxed) < self.seats.most.load(Relaxed)
    }
}

/// The connections to backends of one kind, by whom they lead to.
#[derive(Debug)]
pub struct Multiplexed<K>(Mutex<HashMap<K, Vec<Open>>>);

impl<K> Default for Multiplexed<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone> Multiplexed<K> {
    /// A seat on a connection that is there.
    pub fn seat(&self, key: &K, which: Kept) -> Option<(SendRequest<RequestBody>, Seat)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.get_mut(key)?;
        open.retain(|o| !o.sender.is_closed());
        let found = open.iter().find(|o| o.has_room() && which.takes(o.idle_ms()))?;
        Some((found.sender.clone(), Seat::take(&found.seats)))
    }

    /// The first seat on a new connection.
    pub fn open(&self, key: &K, (sender, seats): Shaken) -> (SendRequest<RequestBody>, Seat) {
        let seat = Seat::take(&seats);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key.clone()).or_default().push(Open { sender: sender.clone(), seats });
        (sender, seat)
    }

    /// Closes what nobody has used for so long.
    /// Whether anything is open still.
    pub fn sweep(&self, idle_ms: u64) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for open in all.values_mut() {
            open.retain(|o| !o.sender.is_closed() && o.idle_ms() <= idle_ms);
        }
        all.retain(|_, open| !open.is_empty());
        !all.is_empty()
    }
}

type Shaken = (SendRequest<RequestBody>, Arc<Seats>);

/// `ahead`: what a body may be ahead of its user.
pub async fn handshake<S>(stream: S, ahead: u32) -> Result<Shaken, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(ahead)
        .initial_connection_window_size(ahead * SEATS_MAX)
        .max_send_buf_size(ahead as usize)
        .max_header_list_size(HEAD_BYTES_MAX);
    let (sender, mut connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let seats =
        Arc::new(Seats { taken: AtomicU32::new(0), most: AtomicU32::new(SEATS_MAX), since_us: AtomicU64::new(0) });
    let told = seats.clone();
    // Its errors reach the requests under way.
    tokio::spawn(poll_fn(move |cx| {
        let done = Pin::new(&mut connection).poll(cx);
        told.hear(connection.current_max_send_streams());
        done.map(drop)
    }));
    Ok((sender, seats))
}
