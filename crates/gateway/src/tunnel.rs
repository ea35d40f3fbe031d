//! Upgraded connections (WebSocket): bytes both ways until one side ends, or both are silent for too long.

use crate::link::Taken;
use crate::permit::Stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const BUFFER_BYTES: usize = 16 << 10;

/// One of the tunnels that are allowed at one time.
#[derive(Debug)]
pub struct TunnelSlot(Arc<AtomicU32>);

impl TunnelSlot {
    pub fn take(count: &Arc<AtomicU32>, max: u32) -> Option<Self> {
        let taken = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1));
        taken.ok().map(|_| Self(count.clone()))
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts what moves through one side.
struct Watched<T> {
    inner: T,
    moved: Arc<AtomicU32>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_read(cx, buf);
        if done.is_ready() {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Joins the two sides in the background. `stream` counts it at its backend until it ends, `room` here and at its address.
pub fn spawn(user: OnUpgrade, backend: OnUpgrade, mut stream: Stream, room: (TunnelSlot, Option<Taken>), idle_ms: u64) {
    tokio::spawn(async move {
        if let Some(bytes) = join(user, backend, idle_ms).await {
            stream.add_bytes(bytes);
        }
        drop(room);
    });
}

async fn join(user: OnUpgrade, backend: OnUpgrade, idle_ms: u64) -> Option<u64> {
    let (user, backend) = tokio::join!(user, backend);
    let moved = Arc::new(AtomicU32::new(0));
    let mut user = Watched { inner: TokioIo::new(user.ok()?), moved: moved.clone() };
    let mut backend = Watched { inner: TokioIo::new(backend.ok()?), moved: moved.clone() };
    let copy = tokio::io::copy_bidirectional_with_sizes(&mut user, &mut backend, BUFFER_BYTES, BUFFER_BYTES);
    let mut copy = std::pin::pin!(copy);
    let mut idle = std::pin::pin!(tokio::time::sleep(Duration::from_millis(idle_ms)));
    let mut seen = 0;
    poll_fn(|cx| {
        if let Poll::Ready(done) = copy.as_mut().poll(cx) {
            return Poll::Ready(done.ok().map(|(_, to_user)| to_user));
        }
        while idle.as_mut().poll(cx).is_ready() {
            let now = moved.load(Ordering::Relaxed);
            if now == seen {
                return Poll::Ready(None);
            }
            seen = now;
            idle.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(idle_ms));
        }
        Poll::Pending
    })
    .await
}
