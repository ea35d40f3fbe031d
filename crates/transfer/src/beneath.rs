//! A directory as a handle, and what is below it.
//!
//! Enters: a directory that the caller trusts, and paths below it that somebody else may exchange at any moment. Leaves: handles.
//! Always holds: whatever is opened is below that directory, and no link was followed on the way to it, the last step included.

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Beneath {
    top: OwnedFd,
    /// For people; nothing is opened by it again.
    path: PathBuf,
}

impl Beneath {
    /// The directory itself may not be a link; the way to it is the caller's.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { top: rustix::fs::open(dir, flags, Mode::empty())?, path: dir.to_owned() })
    }

    /// What people call something in here.
    pub fn name(&self, below: impl AsRef<Path>) -> PathBuf {
        let below = below.as_ref();
        if below.as_os_str().is_empty() { self.path.clone() } else { self.path.join(below) }
    }

    /// A regular file or whatever else is there, for reading. Does not wait for the writer of a pipe.
    pub fn file(&self, below: impl AsRef<OsStr>) -> io::Result<File> {
        Ok(self.step(below.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?.into())
    }

    pub fn dir(&self, below: impl AsRef<OsStr>) -> io::Result<OpenDir> {
        let below = below.as_ref();
        let at = if below.is_empty() { OsStr::new(".") } else { below };
        Ok(OpenDir(self.step(at, OFlags::RDONLY | OFlags::DIRECTORY)?))
    }

    fn step(&self, below: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.top, below, flags, Mode::empty(), resolve) {
                // The kernel asks to look again where something was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS) => return self.step_by_step(below, flags),
                other => return Ok(other?),
            }
        }
    }

    /// For kernels before 5.6.
    fn step_by_step(&self, below: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut parts = below.as_bytes().split(|b| *b == b'/').peekable();
        let mut at: Option<OwnedFd> = None;
        while let Some(part) = parts.next() {
            if part == b".." || (part == b"." && below != ".") || part.is_empty() {
                return Err(Errno::INVAL.into());
            }
            let flags = if parts.peek().is_some() { through } else { flags };
            at = Some(rustix::fs::openat(at.as_ref().unwrap_or(&self.top), part, flags, Mode::empty())?);
        }
        at.ok_or_else(|| Errno::INVAL.into())
    }
}

/// Whether somebody put a link, or something else, where a moment ago there was a directory or file.
pub fn was_exchanged(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV))
}

#[derive(Debug)]
pub struct OpenDir(OwnedFd);

impl OpenDir {
    pub fn names(&self) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
        Ok(Dir::read_from(&self.0)?.filter_map(|entry| match entry {
            Ok(entry) => match entry.file_name().to_bytes() {
                b"." | b".." => None,
                name => Some(Ok(OsString::from_vec(name.to_vec()))),
            },
            Err(e) => Some(Err(e.into())),
        }))
    }

    pub fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        Ok(OsString::from_vec(rustix::fs::readlinkat(&self.0, name, Vec::new())?.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn no_way_leads_out_in_one_step_or_in_many() {
        let tmp = tempfile::tempdir().unwrap();
        let (inside, outside) = (tmp.path().join("in"), tmp.path().join("out"));
        fs::create_dir_all(inside.join("d/e")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "x").unwrap();
        fs::write(inside.join("d/e/f"), "fine").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink("d", inside.join("within")).unwrap();
        std::os::unix::fs::symlink(outside.join("secret"), inside.join("file")).unwrap();
        let top = Beneath::open(&inside).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        for bad in ["link/secret", "file", "../out/secret", "d/../../out/secret", "within/e/f", "/etc/passwd"] {
            assert!(top.file(bad).is_err(), "{bad}");
            assert!(top.step_by_step(bad.as_ref(), flags).is_err(), "{bad} step by step");
        }
        assert!(top.file("d/e/f").is_ok() && top.step_by_step("d/e/f".as_ref(), flags).is_ok());
        assert!(top.dir("").is_ok() && top.dir("d/e").is_ok() && top.dir("link").is_err());
        assert!(Beneath::open(&inside.join("link")).is_err());
    }
}
