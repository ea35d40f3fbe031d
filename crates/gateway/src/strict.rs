//! What hyper reads generously and others on the way may read differently, refused at the users' border: line ends without
//! a carriage return, and a Content-Length beside a Transfer-Encoding (RFC 9112, 2.2 and 6.3).
//!
//! Enters: the bytes of one HTTP/1.1 connection, in whatever pieces they arrive. Leaves: the same bytes, or from the first fault
//! on a NUL, which no head and no frame of a chunk may hold, and line feeds, so that nobody waits for the end of a head: hyper
//! answers 400 and closes.
//! Always holds: a request that is well formed leaves as it came; where one ends and the next begins is read here by the same
//! rules as behind it, so that nothing passes unseen; what is remembered of a line is bounded.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longer than any head or frame that hyper takes.
const LINE_BYTES_MAX: usize = 256 << 10;
const POISON: u8 = 0;
/// After the first.
const POISONED: u8 = b'\n';

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Empty lines before it are allowed (RFC 9112, 2.2).
    RequestLine,
    Fields,
    Body(u64),
    ChunkSize,
    /// With the line end behind it.
    ChunkData(u64),
    Trailers,
    Poisoned,
}

/// How far the connection has been read.
#[derive(Debug)]
pub struct Reader {
    at: At,
    /// The part of a line that arrived before.
    line: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self { at: At::RequestLine, line: Vec::new(), length: None, chunked: false }
    }
}

impl Reader {
    /// Looks at what arrived, and poisons it at the first fault.
    pub fn look(&mut self, bytes: &mut [u8]) {
        let mut from = 0;
        while from < bytes.len() {
            let rest = &bytes[from..];
            let skip = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            match self.at {
                At::Poisoned => {
                    bytes[from..].fill(POISONED);
                    return;
                }
                At::Body(left) => {
                    let taken = skip(left);
                    from += taken;
                    let left = left - taken as u64;
                    self.at = if left == 0 { At::RequestLine } else { At::Body(left) };
                }
                At::ChunkData(left) => {
                    let taken = skip(left);
                    from += taken;
                    let left = left - taken as u64;
                    self.at = if left == 0 { At::ChunkSize } else { At::ChunkData(left) };
                }
                At::RequestLine | At::Fields | At::ChunkSize | At::Trailers => {
                    let Some(length) = memchr::memchr(b'\n', rest) else {
                        self.line.extend_from_slice(rest);
                        if self.line.len() > LINE_BYTES_MAX {
                            self.at = At::Poisoned;
                            bytes[from..].fill(POISONED);
                            bytes[from] = POISON;
                        }
                        return;
                    };
                    let ok = if self.line.is_empty() {
                        self.take_line(&rest[..length])
                    } else {
                        let mut line = std::mem::take(&mut self.line);
                        line.extend_from_slice(&rest[..length]);
                        let ok = self.take_line(&line);
                        line.clear();
                        self.line = line;
                        ok
                    };
                    from += length;
                    if !ok {
                        self.at = At::Poisoned;
                        bytes[from] = POISON;
                    }
                    from += 1;
                }
            }
        }
    }

    /// A line without its line feed; false: it is a fault.
    fn take_line(&mut self, line: &[u8]) -> bool {
        let Some((b'\r', line)) = line.split_last() else { return false };
        match self.at {
            At::RequestLine if line.is_empty() => true,
            At::RequestLine => {
                (self.length, self.chunked) = (None, false);
                self.at = At::Fields;
                true
            }
            At::Fields if line.is_empty() => {
                self.at = match (self.chunked, self.length) {
                    (true, _) => At::ChunkSize,
                    (false, None | Some(0)) => At::RequestLine,
                    (false, Some(length)) => At::Body(length),
                };
                true
            }
            At::Fields => self.take_field(line),
            At::ChunkSize => match chunk_size(line) {
                Some(0) => {
                    self.at = At::Trailers;
                    true
                }
                Some(size) => {
                    self.at = At::ChunkData(size.saturating_add(2));
                    true
                }
                None => false,
            },
            At::Trailers => {
                if line.is_empty() {
                    self.at = At::RequestLine;
                }
                true
            }
            At::Body(_) | At::ChunkData(_) | At::Poisoned => true,
        }
    }

    fn take_field(&mut self, line: &[u8]) -> bool {
        let Some(colon) = memchr::memchr(b':', line) else { return true };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            // Two that say the same are one (RFC 9112, 6.3); what does not read is refused here, so that both sides agree.
            let said = std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
            let Some(said) = said.and_then(|v| v.parse::<u64>().ok()) else { return false };
            if self.length.is_some_and(|known| known != said) {
                return false;
            }
            self.length = Some(said);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        }
        !(self.chunked && self.length.is_some())
    }
}

/// The size that begins a chunk (RFC 9112, 7.1), whatever extensions follow it.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let text = std::str::from_utf8(&line[..digits]).ok()?;
    let after = line[digits..].trim_ascii_start();
    if !(after.is_empty() || after.starts_with(b";")) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// A connection that is read strictly, until it becomes a tunnel.
#[derive(Debug)]
pub struct Strict<S> {
    stream: S,
    reader: Reader,
    /// What is spoken is not HTTP any more.
    tunnelled: Arc<AtomicBool>,
}

impl<S> Strict<S> {
    pub fn new(stream: S, tunnelled: Arc<AtomicBool>) -> Self {
        Self { stream, reader: Reader::default(), tunnelled }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if !self.tunnelled.load(Ordering::Relaxed) {
            self.reader.look(&mut buf.filled_mut()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(parts: &[&[u8]]) -> Vec<u8> {
        let mut reader = Reader::default();
        let mut out = Vec::new();
        for part in parts {
            let mut part = part.to_vec();
            reader.look(&mut part);
            out.extend(part);
        }
        out
    }

    const GOOD: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na\nb\nGET /",
        "POST / HTTP/1.1\r\ncontent-length: 2\r\nContent-Length: 2\r\n\r\n\n\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\n\n\n\n\n\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        "DELETE /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ];
    const BAD: &[&str] = &[
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];

    proptest! {
        #[test]
        fn good_requests_leave_as_they_came(order in proptest::collection::vec(0..GOOD.len(), 1..5), step in 1..40usize) {
            let bytes: Vec<u8> = order.iter().flat_map(|&i| GOOD[i].bytes()).collect();
            let parts: Vec<&[u8]> = bytes.chunks(step).collect();
            prop_assert_eq!(read(&parts), bytes);
        }

        #[test]
        fn a_fault_is_found_however_it_arrives(before in 0..GOOD.len(), bad in 0..BAD.len(), step in 1..40usize) {
            let bytes = [GOOD[before].as_bytes(), BAD[bad].as_bytes(), GOOD[0].as_bytes()].concat();
            let parts: Vec<&[u8]> = bytes.chunks(step).collect();
            let out = read(&parts);
            let first = out.iter().position(|&b| b == POISON).expect("nothing was refused");
            prop_assert_eq!(&out[..first], &bytes[..first]);
            prop_assert!(first >= GOOD[before].len(), "the good request before it was touched");
            prop_assert!(first < bytes.len() - GOOD[0].len(), "what follows it was let through");
            prop_assert!(out[first + 1..].iter().all(|&b| b == POISONED));
        }

        #[test]
        fn nothing_makes_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1..40usize) {
            let parts: Vec<&[u8]> = bytes.chunks(step).collect();
            prop_assert_eq!(read(&parts).len(), bytes.len());
        }
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let part = vec![b'a'; 64 << 10];
        let out = read(&[&part, &part, &part, &part, &part]);
        assert!(out.contains(&POISON) && out.last() == Some(&POISONED));
    }
}
