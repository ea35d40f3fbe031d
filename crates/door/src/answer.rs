//! The side of the shim.

use crate::short;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fs::{self, Permissions};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// So many may knock at one moment; the next one is told to come again.
const BACKLOG: i32 = 1_024;

/// The one byte of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A socket comes with it.
    Socket,
    /// Nobody listens inside.
    Refused,
    /// No socket could be made.
    Short,
}

impl Answer {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Socket => b'1',
            Self::Refused => b'2',
            Self::Short => b'3',
        }
    }
    pub(crate) fn of(byte: u8) -> Option<Self> {
        [Self::Socket, Self::Refused, Self::Short].into_iter().find(|a| a.byte() == byte)
    }
}

/// Opens the door in place of one that a dead shim left. Only the owner of its file may knock.
///
/// # Errors
/// What the kernel says.
pub fn listen(door: &Path) -> io::Result<UnixListener> {
    let (path, _dir) = short(door)?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    // Once more, with room for a burst of connections.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Answers one knock, and never waits for whoever knocked.
///
/// # Errors
/// What the kernel says; most often, whoever knocked has gone.
pub fn answer(to: &UnixStream, answer: Answer, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let byte = [answer.byte()];
    let rights = socket.map(|s| [s]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(rights) = &rights {
        control.push(SendAncillaryMessage::ScmRights(rights));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(to.as_fd(), &[IoSlice::new(&byte)], &mut control, flags)?;
    Ok(())
}
