//! A command that runs in an instance, as its caller sees it.

use crate::Exit;
use crate::port::TerminalSize;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::OwnedWriteHalf;

/// Dropping it ends the command and all that it started.
pub struct Session {
    /// Dropping it is the end of the command's input, unless that is a terminal.
    pub input: Option<SessionStream>,
    pub output: SessionStream,
    /// None: a terminal, which has one output.
    pub errors: Option<SessionStream>,
    /// How it ended. None: nobody could tell, as when its instance was killed.
    pub ended: Pin<Box<dyn Future<Output = Option<Exit>> + Send>>,
    /// The shim ends the command when this closes.
    pub(crate) _open: OwnedWriteHalf,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("terminal", &self.errors.is_none()).finish_non_exhaustive()
    }
}

/// This side of a pipe or of a terminal. Nothing is kept here: what is not read makes the command wait.
#[derive(Debug, Clone)]
pub struct SessionStream(Arc<AsyncFd<OwnedFd>>);

impl SessionStream {
    pub(crate) fn new(handle: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&handle, true)?;
        #[expect(deprecated, reason = "its successor is unsafe; sound for a handle that is owned and never exchanged")]
        let registered = AsyncFd::new(handle)?;
        Ok(Self(Arc::new(registered)))
    }

    /// Zero at the end. May be dropped and called again at any time.
    pub async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.async_io(Interest::READABLE, |handle| Ok(rustix::io::read(handle, &mut *into)?)).await {
            // What a terminal says when nobody has it open any more.
            Err(e) if e.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
            other => other,
        }
    }

    /// So much of it as there is room for.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |handle| Ok(rustix::io::write(handle, bytes)?)).await
    }

    /// Of a terminal; whoever runs in it is told.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(self.0.get_ref().as_fd(), size)?)
    }
}
