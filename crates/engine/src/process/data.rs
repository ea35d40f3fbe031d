//! Gives an owner's group its right to the owner's data.
//!
//! The owner's own instances may be running in these directories while root walks them, so nothing is ever reached by a path that
//! they could exchange for a link: each step is opened from the directory above it, without following links.

use crate::{Access, DataMount, EngineError};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

const DEPTH_MAX: u32 = 64;

pub(super) fn give(mount: &DataMount, gid: u32) -> Result<(), EngineError> {
    let work = || -> io::Result<()> {
        let top = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_DIRECTORY)
            .open(&mount.path)?;
        match mount.access {
            Access::ReadWrite => give_dir(&top, gid, 0),
            // Nothing below becomes writable: whoever could write a `-shm` file could truncate it under the daemon that maps it.
            Access::ReadOnly | Access::Layered => change(&top, gid, 0o2050),
        }
    };
    work().map_err(EngineError::at("give the owner's group its right to", &mount.path))
}

fn give_dir(dir: &File, gid: u32, depth: u32) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("deeper than {DEPTH_MAX} directories")));
    }
    change(dir, gid, 0o2070)?;
    for name in names(dir)? {
        if is_given(dir, &name, gid) {
            continue;
        }
        let Some(file) = open_below(dir, Path::new(&name))? else { continue };
        if file.metadata()?.is_dir() {
            give_dir(&file, gid, depth + 1)?;
        } else if plain(&file)? {
            let mode = file.metadata()?.mode();
            change(&file, gid, if mode & 0o100 == 0 { 0o060 } else { 0o070 })?;
        }
    }
    Ok(())
}

/// Of a file, by one look: most of a large dataset is. What is exchanged for another thing meanwhile is the owner's own doing.
fn is_given(dir: &File, name: &std::ffi::OsStr, gid: u32) -> bool {
    let Ok(stat) = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let (kind, mode) = (rustix::fs::FileType::from_raw_mode(stat.st_mode), stat.st_mode);
    let wanted = if mode & 0o100 == 0 { 0o060 } else { 0o070 };
    kind == rustix::fs::FileType::RegularFile && stat.st_gid == gid && mode & wanted == wanted
}

/// A file with a second name could be somebody else's file.
fn plain(file: &File) -> io::Result<bool> {
    let meta = file.metadata()?;
    Ok(meta.is_file() && meta.nlink() == 1)
}

/// Only what differs is written: a large dataset is given once and merely looked at afterwards.
fn change(file: &File, gid: u32, add_mode: u32) -> io::Result<()> {
    let meta = file.metadata()?;
    if meta.gid() != gid {
        chown(below(file), None, Some(gid))?;
    }
    let mode = meta.mode() & 0o7777;
    // After a change of group the kernel may have taken the setgid bit away.
    if mode | add_mode != mode || (meta.gid() != gid && add_mode & 0o2000 != 0) {
        fs::set_permissions(below(file), Permissions::from_mode(mode | add_mode))?;
    }
    Ok(())
}

fn below(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

fn names(dir: &File) -> io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(below(dir))?.map(|e| e.map(|e| e.file_name())).collect()
}

/// `None` for what vanished meanwhile. Only a handle to the place (O_PATH): closing a real descriptor of a live SQLite file would
/// drop the locks that this process holds on it.
fn open_below(dir: &File, name: &Path) -> io::Result<Option<File>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_PATH;
    match OpenOptions::new().read(true).custom_flags(flags).open(below(dir).join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(e) => match e.raw_os_error() {
            Some(nix::libc::ELOOP | nix::libc::ENOENT | nix::libc::ENXIO) => Ok(None),
            _ => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_gid() -> u32 {
        nix::unistd::getgid().as_raw()
    }

    #[test]
    fn writing_is_given_to_the_whole_tree_and_links_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o600)).unwrap();
        let top = dir.path().join("data");
        fs::create_dir_all(top.join("sub")).unwrap();
        for name in ["a", "sub/b", "twice"] {
            fs::write(top.join(name), "x").unwrap();
            fs::set_permissions(top.join(name), Permissions::from_mode(0o600)).unwrap();
        }
        fs::hard_link(top.join("twice"), dir.path().join("second-name")).unwrap();
        std::os::unix::fs::symlink(&outside, top.join("link")).unwrap();
        give(&DataMount { path: top.clone(), access: Access::ReadWrite }, own_gid()).unwrap();
        let mode = |p: &Path| p.metadata().unwrap().mode() & 0o7777;
        assert_eq!(mode(&top) & 0o2070, 0o2070);
        assert_eq!(mode(&top.join("sub")) & 0o2070, 0o2070);
        assert_eq!(mode(&top.join("a")), 0o660);
        assert_eq!(mode(&top.join("sub/b")), 0o660);
        assert_eq!(mode(&top.join("twice")), 0o600);
        assert_eq!(mode(&outside), 0o600);
    }

    #[test]
    fn reading_changes_the_top_only() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["db", "db-wal", "db-shm"] {
            fs::write(dir.path().join(name), "x").unwrap();
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(0o640)).unwrap();
        }
        give(&DataMount { path: dir.path().into(), access: Access::ReadOnly }, own_gid()).unwrap();
        let mode = |n: &str| dir.path().join(n).metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode("db"), mode("db-wal"), mode("db-shm")), (0o640, 0o640, 0o640));
        assert_eq!(mode("") & 0o2050, 0o2050);
    }
}
