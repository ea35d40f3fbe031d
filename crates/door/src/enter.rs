//! The side of whoever enters: the gateway, the shim's own probes, tools.

use crate::answer::Answer;
use crate::short;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Before a door at which too many knock is tried again.
const AGAIN_MS: u64 = 1;

/// A stream to the instance's server. Waits as long as a TCP connection would; the caller bounds it.
///
/// # Errors
/// As of a TCP connection: `ConnectionRefused` where nobody listens, inside or at the door; also `NotFound` where there is no door.
pub async fn enter(door: &Path) -> io::Result<tokio::net::TcpStream> {
    let knocking = knock(door).await?;
    let socket = knocking.async_io(Interest::READABLE, || receive(&knocking)).await?;
    drop(knocking);
    socket.set_nonblocking(true)?;
    let stream = tokio::net::TcpStream::from_std(socket)?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(e) => Err(e),
        None => Ok(stream),
    }
}

/// Connects to a socket of the instance's shim.
///
/// # Errors
/// What the kernel says: `NotFound` where there is none, `ConnectionRefused` where its shim has ended.
pub async fn knock(door: &Path) -> io::Result<UnixStream> {
    let (path, _dir) = short(door)?;
    loop {
        match UnixStream::connect(&path).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
            }
            other => return other,
        }
    }
}

/// The same for those who have no runtime.
///
/// # Errors
/// As [`enter`]; `TimedOut` if the server did not take it within `timeout`.
pub fn enter_blocking(door: &Path, timeout: Duration) -> io::Result<TcpStream> {
    let (path, _dir) = short(door)?;
    let knocking = std::os::unix::net::UnixStream::connect(&path)?;
    knocking.set_read_timeout(Some(timeout))?;
    let socket = receive(&knocking)?;
    let limit = Timespec::try_from(timeout).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&limit))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match socket.take_error()? {
        Some(e) => Err(e),
        None => socket.set_nonblocking(false).map(|()| socket),
    }
}

fn receive(from: &impl AsFd) -> io::Result<TcpStream> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(from.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let socket = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut sent) => sent.next(),
        _ => None,
    });
    if got.bytes == 0 {
        let text = "the door closed without an answer: its shim has just ended";
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
    }
    match (Answer::of(byte[0]), socket) {
        (Some(Answer::Socket), Some(socket)) => Ok(TcpStream::from(socket)),
        (Some(Answer::Refused), _) => Err(io::ErrorKind::ConnectionRefused.into()),
        (Some(Answer::Short), _) => Err(io::Error::other("the instance's shim could not make a socket; try again")),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the door's answer is of another version")),
    }
}
