//! The way into an instance that has a network of its own, which no route leads into.
//!
//! Enters: the path of a door, a Unix socket of the instance's shim. Leaves: a TCP stream that was made inside the
//! instance's network and leads to its server.
//! Always holds: who may write to the socket's file may enter, nobody else; a knock is answered at once by one byte, with a
//! socket that is connecting or without one, so that whoever knocks and says nothing costs the shim nothing.

mod answer;
mod enter;
mod place;

pub use answer::{Answer, answer, listen};
pub use enter::{enter, enter_blocking, knock};
pub use place::Place;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// `sun_path` has 108 bytes, the last of them NUL.
const PATH_BYTES_MAX: usize = 107;

/// A path that fits into a Unix socket's address: the door's own, or one through a handle of its directory, which must be kept
/// open as long as the path is used.
fn short(door: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if door.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok((door.to_owned(), None));
    }
    let (Some(dir), Some(name)) = (door.parent(), door.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no path of a door", door.display())));
    };
    let flags = i32::try_from((rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY).bits());
    let dir = OpenOptions::new().read(true).custom_flags(flags.map_err(io::Error::other)?).open(dir)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name), Some(dir)))
}
