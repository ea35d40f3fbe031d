//! A user's TCP connection on its way into the HTTP machinery: it measures its round trip now and then, and small answers
//! leave in one piece. It marks what moves, for those who look after connections ([`crate::link`]).

use crate::clock;
use crate::link::Link;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long a measured round trip holds, us.
const RTT_HOLDS_US: u64 = 200_000;
/// Pieces that are shorter together are copied into one: that costs less than the kernel's handling of a list of pieces.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// What is read to see which version is spoken: most first requests are shorter, and are not asked for again.
const AHEAD_BYTES: usize = 2 << 10;

/// Round trip to the user, us; 0: not known.
#[derive(Debug, Default)]
pub struct Rtt(AtomicU32);

impl Rtt {
    pub fn us(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&us| us > 0)
    }
}

#[derive(Debug)]
pub struct UserTcp {
    stream: TcpStream,
    link: Arc<Link>,
    rtt: Arc<Rtt>,
    rtt_at_us: u64,
    joined: Vec<u8>,
    /// What arrived and was looked at, to be read again.
    ahead: Vec<u8>,
}

/// How a connection of HTTP/2 begins (RFC 9113, 3.4). No method of HTTP/1.1 begins with "PRI".
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl UserTcp {
    /// `ahead`: what was read of it already.
    pub fn new(stream: TcpStream, link: Arc<Link>, ahead: Vec<u8>) -> Self {
        if !ahead.is_empty() {
            link.read();
        }
        Self { stream, link, rtt: Arc::default(), rtt_at_us: 0, joined: Vec::new(), ahead }
    }

    /// Whether it begins with the preface of HTTP/2; waits for as much of it as tells. What was read stays to be read.
    pub async fn begins_http2(&mut self) -> bool {
        let mut seen = [0u8; AHEAD_BYTES];
        let mut length = self.ahead.len().min(AHEAD_BYTES);
        seen[..length].copy_from_slice(&self.ahead[..length]);
        self.ahead.clear();
        while length < PREFACE.len() && PREFACE.starts_with(&seen[..length]) {
            match self.stream.read(&mut seen[length..]).await {
                Ok(0) | Err(_) => break,
                Ok(n) => length += n,
            }
            self.link.read();
        }
        self.ahead.extend_from_slice(&seen[..length]);
        seen[..length].starts_with(PREFACE)
    }

    pub fn rtt(&self) -> Arc<Rtt> {
        self.rtt.clone()
    }

    fn measure(&mut self) {
        let now = clock::boot_us();
        if now.saturating_sub(self.rtt_at_us) > RTT_HOLDS_US {
            self.rtt_at_us = now;
            self.rtt.0.store(crate::tcp::rtt_us(&self.stream).unwrap_or(0), Ordering::Relaxed);
        }
    }
}

impl AsyncRead for UserTcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..length]);
            self.ahead.drain(..length);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            self.measure();
            return Poll::Ready(Ok(()));
        }
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = &done {
            self.link.read();
            self.measure();
        }
        done
    }
}

impl AsyncWrite for UserTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.link.wrote(done.is_pending());
        done
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let done = match bufs {
            [one] => Pin::new(&mut this.stream).poll_write(cx, one),
            _ if bufs.iter().map(|b| b.len()).sum::<usize>() <= COPIED_BYTES_MAX => {
                this.joined.clear();
                bufs.iter().for_each(|b| this.joined.extend_from_slice(b));
                Pin::new(&mut this.stream).poll_write(cx, &this.joined)
            }
            _ => Pin::new(&mut this.stream).poll_write_vectored(cx, bufs),
        };
        this.link.wrote(done.is_pending());
        done
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
