//! How much a directory that its owner goes on writing to takes up.
//!
//! Enters: the directory. Leaves: bytes and files.
//! Always holds: nothing is opened but directories, each from the one above it and never through a link, so nothing outside is
//! reached or counted whatever is exchanged meanwhile; depth and number are bounded.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// As allocated; of a file with several names a share for each.
    pub bytes: u64,
    /// Directories too.
    pub files: u64,
    /// `false`: there are more files, or deeper directories, than were asked for.
    pub complete: bool,
}

/// Counts at most `files_max` files and a few more.
pub fn measure(top: &Path, files_max: u64) -> io::Result<Measured> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut found = Measured { complete: true, ..Measured::default() };
    let top = openat(CWD, top, flags, Mode::empty())?;
    let mut open = vec![Dir::new(top)?];
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.next() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // What vanished meanwhile takes up nothing.
        let stat = match statat(dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let names = if is_dir { 1 } else { u64::from(stat.st_nlink as u32).max(1) };
        found.files += 1;
        found.bytes = found.bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0) * 512 / names);
        if found.files > files_max || is_dir && open.len() >= DEPTH_MAX {
            found.complete = false;
            return Ok(found);
        }
        if is_dir {
            let Some(dir) = open.last() else { continue };
            match openat(dir.fd()?, name, flags, Mode::empty()) {
                Ok(below) => open.push(Dir::new(below)?),
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_outside_is_neither_followed_nor_counted() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("large"), vec![1u8; 1 << 20]).unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), vec![1u8; 64 << 10]).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("a/link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("large"), dir.path().join("file")).unwrap();
        let found = measure(dir.path(), 1_000).unwrap();
        assert_eq!((found.files, found.complete), (5, true));
        assert!((64 << 10..256 << 10).contains(&found.bytes), "{found:?}");
        assert!(measure(&dir.path().join("a/link"), 10).is_err(), "nor is the top a link");
    }

    #[test]
    fn a_million_files_or_a_deep_hole_cost_no_more_than_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..500 {
            fs::write(dir.path().join(i.to_string()), "").unwrap();
        }
        let found = measure(dir.path(), 100).unwrap();
        assert_eq!((found.files, found.complete), (101, false));
        let deep = dir.path().join("d/".repeat(200));
        fs::create_dir_all(&deep).unwrap();
        assert!(!measure(dir.path(), 10_000).unwrap().complete);
    }
}
