//! The daemon's side: knocks at an instance's shim and gets the ends of the streams.

use super::super::handles;
use super::super::layout::Layout;
use super::{Reply, Request};
use crate::{EngineError, Session, SessionStream, TerminalSize};
use pumasi_terms::InstanceId;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

/// From the knock to the command's first instruction.
const BEGIN_MS_MAX: u64 = 15_000;
/// Of one answer; a reason for a refusal is no longer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

pub(in super::super) async fn ask(
    layout: &Layout,
    id: &InstanceId,
    command: Vec<String>,
    terminal: Option<TerminalSize>,
) -> Result<Session, EngineError> {
    let failed = |doing: &'static str| EngineError::host(format!("{doing} instance {id}"));
    let begun = tokio::time::timeout(Duration::from_millis(BEGIN_MS_MAX), async {
        let line = match pumasi_door::knock(&layout.sessions()).await {
            // One that was started by an earlier version has no such socket.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let why = "it does not run, or was started by an earlier version of this program".into();
                return Err(EngineError::Session { id: id.clone(), why });
            }
            other => other.map_err(failed("reach the shim of"))?,
        };
        let (reader, mut writer) = line.into_split();
        let mut request = serde_json::to_vec(&Request::new(command, terminal))
            .map_err(|e| EngineError::Session { id: id.clone(), why: e.to_string() })?;
        request.push(b'\n');
        // One that has no place for it answers without reading it.
        let asked = writer.write_all(&request).await;
        let line: &UnixStream = reader.as_ref();
        let given = line.async_io(Interest::READABLE, || handles::receive(line)).await;
        let given = given.map_err(|e| asked.err().unwrap_or(e)).map_err(failed("ask the shim of"))?;
        let mut replies = BufReader::new(reader);
        if given.is_empty() {
            let why = match read(&mut replies).await {
                Some(Reply::Refused { why }) => why,
                _ => "its shim ended before it answered".into(),
            };
            return Err(EngineError::Session { id: id.clone(), why });
        }
        let (input, output, errors) = streams(given).map_err(failed("take the streams of"))?;
        let ended = async move {
            match read(&mut replies).await {
                Some(Reply::Ended(exit)) => exit,
                _ => None,
            }
        };
        Ok(Session { input: Some(input), output, errors, ended: Box::pin(ended), _open: writer })
    });
    let slow = || EngineError::Session {
        id: id.clone(),
        why: "it did not begin in time: does the instance stand still?".into(),
    };
    begun.await.unwrap_or_else(|_| Err(slow()))
}

/// Three pipes, or the one terminal.
fn streams(given: Vec<OwnedFd>) -> io::Result<(SessionStream, SessionStream, Option<SessionStream>)> {
    let mut given = given.into_iter().map(SessionStream::new);
    match (given.next().transpose()?, given.next().transpose()?, given.next().transpose()?) {
        (Some(input), Some(output), Some(errors)) => Ok((input, output, Some(errors))),
        (Some(terminal), None, None) => Ok((terminal.clone(), terminal, None)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "its shim gave other streams than were asked for")),
    }
}

async fn read(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<Reply> {
    let mut line = Vec::new();
    let mut bounded = tokio::io::AsyncReadExt::take(from, ANSWER_BYTES_MAX as u64);
    bounded.read_until(b'\n', &mut line).await.ok()?;
    serde_json::from_slice(&line).ok()
}
