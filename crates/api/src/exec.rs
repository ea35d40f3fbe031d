//! A command in an instance, over one connection that was upgraded: what is asked for, and the frames that follow.
//!
//! Enters: bytes of either side. Leaves: frames.
//! Always holds: a frame has a head of five bytes (its kind, the length of its content) and at most [`FRAME_BYTES_MAX`] of content; what
//! is no frame of this version ends the session. A client has at most [`INPUT_BYTES_MAX`] on their way to the command's standard input
//! that were not [taken](Frame::Taken), so that whoever serves it always reads on and sees at once that a client is gone.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pumasi_terms::InstanceId;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Of the `Upgrade` header.
pub const PROTOCOL: &str = "pumasi-exec/1";
pub const FRAME_BYTES_MAX: usize = 64 << 10;
pub const INPUT_BYTES_MAX: usize = 256 << 10;
/// Of a command, all words together.
pub const COMMAND_BYTES_MAX: usize = 32 << 10;
const HEAD_BYTES: usize = 5;

/// `POST /v1/services/{name}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    /// Program and arguments; no shell reads them.
    pub command: Vec<String>,
    /// Unsaid: one that is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Unsaid: no terminal, but a stream each for input, output and errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// How a command ended, and why if not by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    // From the client.
    Input(Bytes),
    /// Nothing more comes to standard input.
    InputEnds,
    Resize(TerminalSize),
    // From the daemon.
    Output(Bytes),
    Errors(Bytes),
    /// So many more bytes of input were read by the command, or will be.
    Taken(u32),
    /// The last one.
    Ended(Ending),
}

const INPUT: u8 = 0;
const INPUT_ENDS: u8 = 1;
const RESIZE: u8 = 2;
const OUTPUT: u8 = 3;
const ERRORS: u8 = 4;
const TAKEN: u8 = 5;
const ENDED: u8 = 6;

fn wrong(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

impl Frame {
    /// What is longer than a frame may be is refused; streams are cut by whoever reads them.
    pub fn encode(&self) -> io::Result<Bytes> {
        let (kind, content) = match self {
            Self::Input(bytes) => (INPUT, bytes.clone()),
            Self::InputEnds => (INPUT_ENDS, Bytes::new()),
            Self::Resize(size) => {
                let (columns, rows) = (size.columns.to_be_bytes(), size.rows.to_be_bytes());
                (RESIZE, Bytes::copy_from_slice(&[columns, rows].concat()))
            }
            Self::Output(bytes) => (OUTPUT, bytes.clone()),
            Self::Errors(bytes) => (ERRORS, bytes.clone()),
            Self::Taken(count) => (TAKEN, Bytes::copy_from_slice(&count.to_be_bytes())),
            Self::Ended(ending) => (ENDED, serde_json::to_vec(ending)?.into()),
        };
        let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| wrong(format!("a frame of {} bytes is too long", content.len())))?;
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES + content.len());
        bytes.put_u8(kind);
        bytes.put_u32(length);
        bytes.put(content);
        Ok(bytes.freeze())
    }

    /// Takes the first frame out of `bytes`; none while it is not whole.
    pub fn decode(bytes: &mut BytesMut) -> io::Result<Option<Self>> {
        let Some((kind, length)) = bytes.first_chunk::<HEAD_BYTES>().map(|[kind, length @ ..]| (*kind, *length)) else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if kind > ENDED || length > FRAME_BYTES_MAX {
            return Err(wrong(format!("kind {kind}, {length} bytes: that is no frame of {PROTOCOL}")));
        }
        if bytes.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        bytes.advance(HEAD_BYTES);
        let content = bytes.split_to(length).freeze();
        let fixed = || wrong(format!("kind {kind} with {length} bytes: that is no frame of {PROTOCOL}"));
        Ok(Some(match kind {
            INPUT => Self::Input(content),
            INPUT_ENDS if content.is_empty() => Self::InputEnds,
            RESIZE => {
                let [c1, c2, r1, r2] = <[u8; 4]>::try_from(&content[..]).map_err(|_| fixed())?;
                let (columns, rows) = (u16::from_be_bytes([c1, c2]), u16::from_be_bytes([r1, r2]));
                Self::Resize(TerminalSize { columns, rows })
            }
            OUTPUT => Self::Output(content),
            ERRORS => Self::Errors(content),
            TAKEN => Self::Taken(u32::from_be_bytes(<[u8; 4]>::try_from(&content[..]).map_err(|_| fixed())?)),
            ENDED => Self::Ended(serde_json::from_slice(&content).map_err(|e| wrong(format!("the ending: {e}")))?),
            _ => return Err(fixed()),
        }))
    }
}

/// Frames of a stream. Memory is bounded by one frame and one read.
#[derive(Debug)]
pub struct Frames<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub fn of(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new() }
    }

    /// None at the end. May be dropped and called again at any time.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off within a frame")),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        let ending = Ending { code: Some(3), ..Ending::default() };
        vec![
            Frame::Input(Bytes::from_static(b"in")),
            Frame::InputEnds,
            Frame::Resize(TerminalSize { columns: 80, rows: 24 }),
            Frame::Output(Bytes::new()),
            Frame::Errors(Bytes::from(vec![7; FRAME_BYTES_MAX])),
            Frame::Taken(u32::MAX),
            Frame::Ended(ending),
        ]
    }

    #[tokio::test]
    async fn frames_come_as_they_were_sent_however_they_are_cut() {
        let bytes: Vec<u8> = all().iter().flat_map(|f| f.encode().unwrap()).collect();
        for cut in [1, 3, 7, 4_096] {
            let mut buffer = BytesMut::new();
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, all());
        }
        let mut frames = Frames::of(&bytes[..]);
        assert_eq!(frames.next().await.unwrap(), Some(all().remove(0)));
        let mut broken = Frames::of(&bytes[..6]);
        assert_eq!(broken.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_waited_for() {
        for bytes in
            [&[9u8, 0, 0, 0, 0][..], &[0, 0, 1, 0, 1], &[2, 0, 0, 0, 1, 0], &[1, 0, 0, 0, 1, 0], &[6, 0, 0, 0, 1, 0]]
        {
            assert!(Frame::decode(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
        assert!(Frame::Output(Bytes::from(vec![0; FRAME_BYTES_MAX + 1])).encode().is_err());
    }
}
