//! The end of a lease's data: everything goes, and the emptiness is shown.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
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

/// Removes `dir` and all in it; success means that it is not there. A missing directory is success. Links are removed,
/// never followed.
pub fn erase(dir: &Path) -> Result<(), EraseError> {
    // One more round for what a process that was just stopped has still written.
    for _ in 0..3 {
        match fs::symlink_metadata(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io(dir)(e)),
            Ok(m) if !m.is_dir() => fs::remove_file(dir).map_err(io(dir))?,
            Ok(_) => match fs::remove_dir_all(dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    unlock(rustix::fs::CWD, dir).map_err(io(dir))?
                }
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

/// Counts what is in `dir`, itself included; a missing directory has nothing.
pub fn remains(dir: &Path) -> Result<Remains, EraseError> {
    let mut out = Remains::default();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = match fs::symlink_metadata(&path) {
            Ok(m) => m,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io(&path)(e)),
        };
        if !meta.is_dir() {
            (out.files, out.bytes) = (out.files + 1, out.bytes + meta.len());
            continue;
        }
        out.dirs += 1;
        let list = match fs::read_dir(&path) {
            Ok(l) => l,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io(&path)(e)),
        };
        for item in list {
            todo.push(item.map_err(io(&path))?.path());
        }
    }
    Ok(out)
}

/// Gives the owner back the right to remove what is in the directories. By handles: what was a directory may be a link by now.
fn unlock(parent: impl AsFd, name: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(()),
        dir => dir?,
    };
    let by_handle = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    fs::set_permissions(&by_handle, fs::Permissions::from_mode(0o700))?;
    for item in fs::read_dir(&by_handle)? {
        unlock(&dir, Path::new(&item?.file_name()))?;
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
}
