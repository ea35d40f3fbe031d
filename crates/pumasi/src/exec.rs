//! `pumasi exec`: a command in an instance, with this terminal's streams.
//!
//! Always holds: the terminal is as it was when the command is over, however that came; the exit code is the command's.

use crate::args::{ExecArgs, Kind};
use crate::failure::Failure;
use crate::session::Session;
use bytes::Bytes;
use pumasi_api::exec::{Ending, FRAME_BYTES_MAX, Frame, Frames, INPUT_BYTES_MAX, PROTOCOL, RunCommand, TerminalSize};
use pumasi_terms::{InstanceId, ServiceName};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

const READ_BYTES: usize = 16 << 10;
/// As shells tell it.
const SIGNALLED: i32 = 128;

pub async fn exec(session: &Session, args: &ExecArgs) -> Result<ExitCode, Failure> {
    let instance = match &args.instance {
        Some(id) => Some(InstanceId::parse(session.id(Kind::Instances, id).await?)?),
        None => None,
    };
    if args.tty && !io::stdin().is_terminal() {
        return Err(Failure::input("-t needs a terminal, and standard input is none").hint("leave -t out"));
    }
    let terminal = if args.tty { Some(size()?) } else { None };
    let ask = RunCommand { command: args.command.clone(), instance, terminal };
    let connection = open(session, &args.service, &ask).await?;
    let raw = if args.tty { Some(Raw::set()?) } else { None };
    let resized = if args.tty { signal(SignalKind::window_change()).ok() } else { None };
    let input = args.stdin.then(|| pieces(io::stdin()));
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let ended = drive(connection, input, resized, |frame| match frame {
        Frame::Output(bytes) => out.write_all(&bytes).and_then(|()| out.flush()),
        Frame::Errors(bytes) => err.write_all(&bytes),
        _ => Ok(()),
    })
    .await;
    drop(raw);
    code(&ended?).map(ExitCode::from)
}

pub async fn open(session: &Session, service: &ServiceName, ask: &RunCommand) -> Result<reqwest::Upgraded, Failure> {
    Ok(session.client.upgrade(&format!("/v1/services/{service}/exec"), PROTOCOL, ask).await?)
}

/// The code to end with.
pub fn code(ending: &Ending) -> Result<u8, Failure> {
    let code = ending.code.or_else(|| ending.signal.map(|s| SIGNALLED.saturating_add(s)));
    match code {
        Some(code) if ending.why.is_empty() => Ok(u8::try_from(code.clamp(0, 255)).unwrap_or(u8::MAX)),
        _ => Err(Failure::failed(format!("the command was ended: {}", ending.why))),
    }
}

fn size() -> Result<TerminalSize, Failure> {
    let size = tcgetwinsize(io::stdin()).map_err(|e| Failure::failed(format!("the terminal's size: {e}")))?;
    Ok(TerminalSize { columns: size.ws_col, rows: size.ws_row })
}

/// What is read there, piece by piece. The thread ends with the program: nobody waits for a key that is not pressed.
pub fn pieces(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Bytes> {
    let (give, take) = mpsc::channel(2);
    std::thread::spawn(move || {
        let mut buffer = vec![0u8; READ_BYTES];
        while let Ok(count) = from.read(&mut buffer) {
            let piece = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
            if count == 0 || give.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    take
}

/// Carries the streams until the command has ended.
pub async fn drive(
    connection: reqwest::Upgraded,
    mut input: Option<mpsc::Receiver<Bytes>>,
    mut resized: Option<Signal>,
    mut take: impl FnMut(Frame) -> io::Result<()>,
) -> Result<Ending, Failure> {
    let lost = |e: io::Error| Failure::failed(format!("the connection to the command was lost: {e}"));
    let (reader, mut writer) = tokio::io::split(connection);
    let mut frames = Frames::of(reader);
    let mut on_their_way = 0usize;
    if input.is_none() {
        // One that is over already is told by what can be read.
        let _ = writer.write_all(&Frame::InputEnds.encode().map_err(lost)?).await;
    }
    loop {
        let room = on_their_way + READ_BYTES.max(FRAME_BYTES_MAX) <= INPUT_BYTES_MAX;
        let frame = tokio::select! {
            frame = frames.next() => match frame.map_err(lost)? {
                Some(Frame::Ended(ending)) => return Ok(ending),
                Some(Frame::Taken(count)) => {
                    on_their_way = on_their_way.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
                    continue;
                }
                Some(frame) => {
                    take(frame).map_err(|e| match e.kind() {
                        io::ErrorKind::BrokenPipe => Failure::reader_gone(),
                        _ => Failure::failed(format!("writing what the command said: {e}")),
                    })?;
                    continue;
                }
                None => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
            },
            piece = next(&mut input), if input.is_some() && room => match piece {
                Some(piece) => {
                    on_their_way += piece.len();
                    Frame::Input(piece)
                }
                None => {
                    input = None;
                    Frame::InputEnds
                }
            },
            true = changed(&mut resized), if resized.is_some() => match size() {
                Ok(size) => Frame::Resize(size),
                Err(_) => continue,
            },
        };
        let sent = writer.write_all(&frame.encode().map_err(lost)?).await;
        // Its last words may be there to be read all the same.
        if sent.is_err() {
            input = None;
        }
    }
}

async fn next(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => None,
    }
}

async fn changed(resized: &mut Option<Signal>) -> bool {
    match resized {
        Some(signal) => signal.recv().await.is_some(),
        None => false,
    }
}

/// Every key goes to the command, Ctrl-C too, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> Result<Self, Failure> {
        let failed = |e: rustix::io::Errno| Failure::failed(format!("setting up the terminal: {e}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_commands() {
        let ending = |code, signal, why: &str| Ending { code, signal, why: why.into() };
        assert_eq!(code(&ending(Some(0), None, "")).unwrap(), 0);
        assert_eq!(code(&ending(Some(3), None, "")).unwrap(), 3);
        assert_eq!(code(&ending(None, Some(9), "")).unwrap(), 137);
        assert!(code(&ending(None, None, "its instance ended")).unwrap_err().message.contains("its instance ended"));
    }
}
