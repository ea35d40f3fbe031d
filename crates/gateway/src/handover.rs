//! A gateway that was told to end hands its listening sockets to the one that follows it, so that nobody is refused in between.
//!
//! Enters: the listeners of a gateway that ends. Leaves: the same sockets in the process of its successor, with those who wait
//! to be accepted. Always holds: the older one accepts until the successor serves; if none comes within a bounded time, it ends
//! as if there had been none. Handover protocol, version 1: for each listener a byte 1 with the socket, then a byte 0; the
//! successor answers with a byte 1 when it serves.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixListener;

pub(crate) const SOCKET: &str = "handover.sock";
const LISTENER: u8 = 1;
const END: u8 = 0;
const SERVING: u8 = 1;
/// A daemon that runs starts a successor at once.
const SUCCESSOR_COMES: Duration = Duration::from_secs(2);
/// It reads its table and its certificates in between.
const SUCCESSOR_SERVES: Duration = Duration::from_secs(5);
const LISTENERS_MAX: usize = 2_048;

/// Where the successor asks. Bound before it can start.
pub fn open(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Waits for a successor and gives it the listeners; true: it serves.
pub async fn give(dir: &Path, at: UnixListener, listeners: Vec<TcpListener>) -> bool {
    let asked = tokio::time::timeout(SUCCESSOR_COMES, at.accept()).await;
    drop(at);
    let _ = std::fs::remove_file(dir.join(SOCKET));
    let Ok(Ok((successor, _))) = asked else { return false };
    let given = tokio::task::spawn_blocking(move || {
        let mut successor = successor.into_std()?;
        successor.set_nonblocking(false)?;
        successor.set_read_timeout(Some(SUCCESSOR_SERVES))?;
        successor.set_write_timeout(Some(SUCCESSOR_SERVES))?;
        for listener in &listeners {
            send(&successor, listener)?;
        }
        successor.write_all(&[END])?;
        let mut word = [0];
        successor.read_exact(&mut word)?;
        Ok::<_, io::Error>(word[0] == SERVING)
    });
    match given.await {
        Ok(Ok(serves)) => serves,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the successor did not come up");
            false
        }
        Err(_) => false,
    }
}

fn send(to: &UnixStream, listener: &TcpListener) -> io::Result<()> {
    let rights = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&rights));
    sendmsg(to.as_fd(), &[IoSlice::new(&[LISTENER])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What the gateway before gave.
#[derive(Debug)]
pub struct Inherited {
    predecessor: UnixStream,
    listeners: Vec<(SocketAddr, TcpListener, bool)>,
}

/// Asks a gateway that ends for its listeners; None: there is none.
pub fn take(dir: &Path) -> Option<Inherited> {
    let predecessor = UnixStream::connect(dir.join(SOCKET)).ok()?;
    match receive(&predecessor) {
        Ok(listeners) => Some(Inherited { predecessor, listeners }),
        Err(error) => {
            tracing::warn!(%error, "the gateway before did not hand over its listeners");
            None
        }
    }
}

fn receive(from: &UnixStream) -> io::Result<Vec<(SocketAddr, TcpListener, bool)>> {
    from.set_read_timeout(Some(SUCCESSOR_COMES))?;
    let mut listeners = Vec::new();
    while listeners.len() < LISTENERS_MAX {
        let mut byte = [END];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(from.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let socket = control.drain().find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut sent) => sent.next(),
            _ => None,
        });
        match (got.bytes, byte[0], socket) {
            (1, LISTENER, Some(socket)) => {
                let listener = TcpListener::from(socket);
                listeners.push((listener.local_addr()?, listener, false));
            }
            (1, END, _) => return Ok(listeners),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "its word is of another version")),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "too many listeners"))
}

impl Inherited {
    /// A listener at `address`: one of its own where there is one, else one that several threads share.
    pub fn listener(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let fits = |at: &SocketAddr| at.ip() == address.ip() && (address.port() == 0 || at.port() == address.port());
        let fresh = self.listeners.iter().position(|(at, _, used)| fits(at) && !used);
        let at = fresh.or_else(|| self.listeners.iter().position(|(at, ..)| fits(at)))?;
        let (_, listener, used) = &mut self.listeners[at];
        *used = true;
        listener.try_clone().ok()
    }

    /// The one before may end.
    pub fn serving(mut self) {
        if let Err(error) = self.predecessor.write_all(&[SERVING]) {
            tracing::debug!(%error, "the gateway before has ended already");
        }
    }
}
