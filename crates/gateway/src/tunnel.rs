//! Upgraded connections (WebSocket): bytes both ways until one side ends, both are silent for too long, or the right to write
//! for the service does.

use crate::link::Taken;
use crate::permit::Stream;
use crate::websocket::{CLOSE_RESTART, Frames};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

const BUFFER_BYTES: usize = 16 << 10;
/// A user that is told to come back is given so long to hear it.
const FAREWELL: Duration = Duration::from_secs(1);

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

/// The two sides, and what they speak.
pub struct Ends {
    pub user: OnUpgrade,
    pub backend: OnUpgrade,
    pub websocket: bool,
}

/// Counts what moves through one side.
struct Watched<T> {
    inner: T,
    moved: Arc<AtomicU32>,
    /// What was written to it, where that is WebSocket.
    frames: Option<Frames>,
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
        let done = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let (Poll::Ready(Ok(written)), Some(frames)) = (&done, &mut self.frames) {
            frames.wrote(&buf[..*written]);
        }
        done
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

type Side = Watched<TokioIo<Upgraded>>;

/// Joins the two sides in the background. `stream` counts it at its backend until it ends, `room` here and at its address.
pub fn spawn(ends: Ends, mut stream: Stream, room: (TunnelSlot, Option<Taken>), idle_ms: u64) {
    tokio::spawn(async move {
        let cut_off = match join(ends, &stream, idle_ms).await {
            Some(End::Whole(bytes)) => {
                stream.add_bytes(bytes);
                None
            }
            Some(End::CutOff(user)) => Some(user),
            None => None,
        };
        // The instance is rid of it already, whatever the user does now.
        drop(stream);
        if let Some(user) = cut_off {
            let _ = tokio::time::timeout(FAREWELL, farewell(user)).await;
        }
        drop(room);
    });
}

enum End {
    /// So many bytes went to the user.
    Whole(u64),
    /// The right to write ended first.
    CutOff(Side),
}

/// None: it broke off, or nothing moved for too long.
async fn join(ends: Ends, stream: &Stream, idle_ms: u64) -> Option<End> {
    let (user, backend) = tokio::join!(ends.user, ends.backend);
    let moved = Arc::new(AtomicU32::new(0));
    let frames = ends.websocket.then(Frames::default);
    let mut user = Watched { inner: TokioIo::new(user.ok()?), moved: moved.clone(), frames };
    let mut backend = Watched { inner: TokioIo::new(backend.ok()?), moved: moved.clone(), frames: None };
    let whole = {
        let copy = tokio::io::copy_bidirectional_with_sizes(&mut user, &mut backend, BUFFER_BYTES, BUFFER_BYTES);
        let mut copy = std::pin::pin!(copy);
        let mut idle = std::pin::pin!(tokio::time::sleep(Duration::from_millis(idle_ms)));
        let mut over = std::pin::pin!(stream.over());
        let mut seen = 0;
        poll_fn(|cx| {
            if over.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(None));
            }
            if let Poll::Ready(done) = copy.as_mut().poll(cx) {
                return Poll::Ready(done.ok().map(|(_, to_user)| Some(to_user)));
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
        .await?
    };
    Some(whole.map_or(End::CutOff(user), End::Whole))
}

/// Has a user of WebSocket come again. What the user still sends is read and thrown away: a connection that is closed over
/// unread bytes is reset, and the word with it.
async fn farewell(mut user: Side) -> io::Result<()> {
    if user.frames.as_ref().is_some_and(Frames::may_close) {
        user.write_all(&CLOSE_RESTART).await?;
    }
    user.shutdown().await?;
    let mut unread = [0; 1 << 10];
    while user.read(&mut unread).await? > 0 {}
    Ok(())
}
