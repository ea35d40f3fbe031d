//! The end of a lease's data: everything goes, and the emptiness is shown.

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is left in a directory. Links count as files and are not followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remains {
    pub files: u64,
    pub dirs: u64,
    pub bytes: u64,
}

impl Remains {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Erasure stopped; what was reached is gone. Retry after the cause is removed: it goes on where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("erasing {path}: {source}; our machine is at fault, retry")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "erasing {path}: {files} files and {bytes} bytes are still there; something still writes to it, stop that and retry"
    )]
    Left { path: PathBuf, files: u64, bytes: u64 },
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> EraseError {
    let path = path.to_owned();
    move |source| EraseError::Io { path, source }
}

/// Directories are gone into so deep. What lies deeper is brought up to be removed, and is not counted.
const DEPTH_MAX: u32 = 64;
const COUNTED_MAX: u64 = 10_000_000;

/// Removes `dir` and all in it; success means that it is not there. A missing directory is success. Links are removed, never followed;
/// handles and stack stay bounded, however deep somebody has built.
pub fn erase(dir: &Path) -> Result<(), EraseError> {
    // One more round for what a process that was just stopped has still written.
    for _ in 0..3 {
        match fs::symlink_metadata(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io(dir)(e)),
            Ok(m) if !m.is_dir() => fs::remove_file(dir).map_err(io(dir))?,
            Ok(_) => match remove(dir) {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {}
                Err(e) => return Err(io(dir)(e)),
            },
        }
    }
    let left = remains(dir)?;
    if fs::symlink_metadata(dir).is_ok() {
        return Err(EraseError::Left { path: dir.to_owned(), files: left.files + left.dirs, bytes: left.bytes });
    }
    Ok(())
}

const INTO: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory below another, with the right to change it. `None`: it is none, or no more.
fn enter(parent: impl AsFd + Copy, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::openat(parent, name, INTO, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(None),
        // Its owner may give itself the right back.
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
            unlock(&rustix::fs::openat(parent, name, flags, Mode::empty())?)?;
            Ok(Some(rustix::fs::openat(parent, name, INTO, Mode::empty())?))
        }
        opened => Ok(Some(opened?)),
    }
}

fn unlock(dir: &OwnedFd) -> io::Result<()> {
    fs::set_permissions(format!("/proc/self/fd/{}", dir.as_raw_fd()), fs::Permissions::from_mode(0o700))
}

fn names(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn remove(dir: &Path) -> io::Result<()> {
    let Some(top) = enter(rustix::fs::CWD, dir.as_os_str())? else { return Ok(()) };
    let mut brought = 0u64;
    loop {
        let before = brought;
        empty(&top, &top, 0, &mut brought)?;
        if brought == before {
            return Ok(rustix::fs::rmdir(dir)?);
        }
    }
}

fn empty(top: &OwnedFd, dir: &OwnedFd, depth: u32, brought: &mut u64) -> io::Result<()> {
    let mut unlocked = false;
    for name in names(dir)? {
        loop {
            let gone = match enter(dir, &name)? {
                None => rustix::fs::unlinkat(dir, &name, AtFlags::empty()),
                Some(below) if depth < DEPTH_MAX => {
                    empty(top, &below, depth + 1, brought)?;
                    rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)
                }
                Some(_) => {
                    *brought += 1;
                    rustix::fs::renameat(dir, &name, top, format!(".deep-{brought}"))
                }
            };
            match gone {
                Ok(()) | Err(Errno::NOENT) => break,
                Err(Errno::ACCESS) if !unlocked => {
                    unlock(dir)?;
                    unlocked = true;
                }
                // Something of that name is there: the next one.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) if depth >= DEPTH_MAX => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

/// Counts what is in `dir`, itself included; a missing directory has nothing. By handles: a tenant may still be building there.
pub fn remains(dir: &Path) -> Result<Remains, EraseError> {
    let mut out = Remains::default();
    let counted = match fs::symlink_metadata(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(m) if !m.is_dir() => {
            (out.files, out.bytes) = (1, m.len());
            Ok(())
        }
        Ok(_) => enter(rustix::fs::CWD, dir.as_os_str()).and_then(|top| match top {
            Some(top) => count(&top, 0, &mut out),
            None => Ok(()),
        }),
    };
    counted.map(|()| out).map_err(io(dir))
}

fn count(dir: &OwnedFd, depth: u32, out: &mut Remains) -> io::Result<()> {
    out.dirs += 1;
    for name in names(dir)? {
        if out.files + out.dirs >= COUNTED_MAX {
            return Ok(());
        }
        let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        let below = if is_dir && depth < DEPTH_MAX { enter(dir, &name)? } else { None };
        match below {
            Some(below) => count(&below, depth + 1, out)?,
            None => (out.files, out.bytes) = (out.files + 1, out.bytes + u64::try_from(stat.st_size).unwrap_or(0)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_and_links_are_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let (lease, other) = (tmp.path().join("lease"), tmp.path().join("other"));
        fs::create_dir_all(lease.join("a/b")).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("kept"), b"kept").unwrap();
        fs::write(lease.join("a/b/key"), b"secret").unwrap();
        std::os::unix::fs::symlink(&other, lease.join("a/out")).unwrap();
        fs::set_permissions(lease.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
        let before = remains(&lease).unwrap();
        assert_eq!((before.files, before.dirs), (2, 3));
        erase(&lease).unwrap();
        assert!(remains(&lease).unwrap().is_nothing());
        assert!(other.join("kept").exists());
        erase(&lease).unwrap();
    }

    #[test]
    fn a_tree_of_any_depth_goes_with_few_handles_and_little_stack() {
        let tmp = tempfile::tempdir().unwrap();
        let top = tmp.path().join("lease");
        fs::create_dir(&top).unwrap();
        fs::write(top.join(".deep-1"), b"in the way").unwrap();
        // By handles: no path is that long.
        let mut at = rustix::fs::open(&top, INTO, Mode::empty()).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, "d", INTO, Mode::empty()).unwrap();
        }
        drop(at);
        assert!(remains(&top).unwrap().dirs > 60);
        std::thread::Builder::new().stack_size(256 << 10).spawn(move || erase(&top).unwrap()).unwrap().join().unwrap();
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
