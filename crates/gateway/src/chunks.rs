//! The chunked transfer coding (RFC 9112, 7.1), read.
//!
//! Always holds: what does not read is an error; a chunk's frame and the trailer section are bounded.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A chunk's size with its extensions.
const FRAME_BYTES_MAX: usize = 4 << 10;
const TRAILERS_BYTES_MAX: usize = 16 << 10;
const TRAILERS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Over,
}

#[derive(Debug)]
pub struct Chunks(At);

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Nothing comes after it.
    Over,
    /// The rest has not arrived yet.
    More,
}

impl Chunks {
    pub fn new() -> Self {
        Self(At::Size)
    }

    /// Takes the next piece off what arrived.
    pub fn next(&mut self, arrived: &mut BytesMut) -> Result<Piece, &'static str> {
        loop {
            match self.0 {
                At::Size if arrived.first().is_some_and(|b| !b.is_ascii_hexdigit()) => {
                    return Err("a chunk has no size");
                }
                At::Size => match httparse::parse_chunk_size(arrived) {
                    // As if it had arrived byte by byte.
                    Ok(httparse::Status::Complete((length, _))) if length > FRAME_BYTES_MAX => {
                        return Err("the frame of a chunk is too long");
                    }
                    Ok(httparse::Status::Complete((length, size))) => {
                        arrived.advance(length);
                        self.0 = if size == 0 { At::Trailers } else { At::Data(size) };
                    }
                    Ok(httparse::Status::Partial) if arrived.len() < FRAME_BYTES_MAX => return Ok(Piece::More),
                    Ok(httparse::Status::Partial) => return Err("the frame of a chunk is too long"),
                    Err(_) => return Err("the size of a chunk does not read"),
                },
                At::Data(_) if arrived.is_empty() => return Ok(Piece::More),
                At::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(arrived.len());
                    let left = left - take as u64;
                    self.0 = if left == 0 { At::DataEnd } else { At::Data(left) };
                    return Ok(Piece::Data(arrived.split_to(take).freeze()));
                }
                At::DataEnd if arrived.len() < 2 => return Ok(Piece::More),
                At::DataEnd if arrived.starts_with(b"\r\n") => {
                    arrived.advance(2);
                    self.0 = At::Size;
                }
                At::DataEnd => return Err("a chunk is longer than it said"),
                At::Trailers => return self.trailers(arrived),
                At::Over => return Ok(Piece::Over),
            }
        }
    }

    fn trailers(&mut self, arrived: &mut BytesMut) -> Result<Piece, &'static str> {
        let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
        match httparse::parse_headers(arrived, &mut fields) {
            Ok(httparse::Status::Complete((length, _))) if length > TRAILERS_BYTES_MAX => {
                Err("the trailers are too long")
            }
            Ok(httparse::Status::Complete((length, fields))) => {
                let mut trailers = HeaderMap::new();
                for field in fields {
                    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a trailer has a bad name")?;
                    let value = HeaderValue::from_bytes(field.value).map_err(|_| "a trailer has a bad value")?;
                    trailers.append(name, value);
                }
                arrived.advance(length);
                self.0 = At::Over;
                Ok(if trailers.is_empty() { Piece::Over } else { Piece::Trailers(trailers) })
            }
            Ok(httparse::Status::Partial) if arrived.len() < TRAILERS_BYTES_MAX => Ok(Piece::More),
            Ok(httparse::Status::Partial) => Err("the trailers are too long"),
            Err(_) => Err("the trailers do not read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{Chunked, chunked};

    /// What comes out when it arrives in steps of `step` bytes.
    fn read(text: &[u8], step: usize) -> Result<Chunked, &'static str> {
        chunked(&text.chunks(step).collect::<Vec<_>>())?.ok_or("it ends too early")
    }

    #[test]
    fn chunks_become_one_body_however_they_arrive() {
        let text = b"4\r\nWiki\r\n6;x=y\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nsum: 7\r\n\r\nnext";
        for step in 1..text.len() {
            let (data, trailers, rest) = read(text, step).unwrap();
            assert_eq!(data, b"Wikipedia in \r\n\r\nchunks.");
            assert_eq!(trailers.unwrap()["sum"], "7");
            assert_eq!(rest, b"next", "what comes after is left alone");
        }
    }

    #[test]
    fn what_is_not_chunked_is_refused() {
        for bad in [
            &b"x\r\n"[..],
            b"\r\n",
            b";x\r\n",
            b"-1\r\nab\r\n0\r\n\r\n",
            b"2\r\nabc\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"2\r\nab\r\n0\r\nno colon\r\n\r\n",
            b"2\r\nab\r\n0\r\n",
            b"5\r\nab",
        ] {
            assert!(read(bad, 3).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let long = [b"1;".as_slice(), &[b'x'; FRAME_BYTES_MAX], b"\r\na\r\n0\r\n\r\n"].concat();
        assert!(read(&long, 100).is_err());
        assert!(read(&long, long.len()).is_err(), "it arrives at once");
    }
}
