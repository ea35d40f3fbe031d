//! Whether a directory could be moved, without reading a file of it.
//!
//! Enters: a directory that its owner goes on writing to. Leaves: how much it holds, or the first thing that a scan would refuse.
//! Always holds: only names, kinds and links are looked at, each from the directory above it and never through a link.

use crate::beneath::{Beneath, was_exchanged};
use crate::scan::{Keep, ScanError, ScanLimits, odd};
use crate::tree::{DEPTH_MAX, TreeError, link_stays_inside};
use rustix::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    /// As a scan reads them: of a dataset without holes, about.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

/// What vanishes meanwhile is left out, and what a scan would leave out.
pub fn survey(dir: &Path, limits: ScanLimits) -> Result<Survey, ScanError> {
    let top = Beneath::open(dir).map_err(|source| ScanError::Io { path: dir.to_owned(), source })?;
    let mut found = Survey::default();
    let mut todo = vec![PathBuf::new()];
    while let Some(at) = todo.pop() {
        let fault = |source| ScanError::Io { path: top.name(&at), source };
        let list = match top.dir(&at) {
            Ok(list) => list,
            Err(e) if e.kind() == io::ErrorKind::NotFound || was_exchanged(&e) => continue,
            Err(e) => return Err(fault(e)),
        };
        for name in list.names().map_err(fault)? {
            let name = name.map_err(fault)?;
            let below = at.join(&name);
            let path = || top.name(&below);
            let stat = match list.stat(&name) {
                Ok(stat) => stat,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(ScanError::Io { path: path(), source }),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            match odd(kind) {
                Some(_) if limits.keep == Keep::Everything => continue,
                Some(what) => return Err(ScanError::Unmovable { path: path(), what }),
                None => {}
            }
            match kind {
                FileType::Directory => todo.push(below.clone()),
                FileType::RegularFile => {
                    let size = u64::try_from(stat.st_size).unwrap_or(0);
                    let takes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                    let holes = limits.keep == Keep::Everything && takes < size;
                    found.bytes = found.bytes.saturating_add(if holes { takes } else { size });
                    if size > limits.bytes_max {
                        found.bytes = size;
                    }
                }
                _ => match list.read_link(&name) {
                    Ok(target) if link_stays_inside(below.as_os_str(), &target) => {}
                    Ok(_) if limits.keep == Keep::Everything => continue,
                    Ok(target) => {
                        return Err(ScanError::LinkOutside { path: path(), target: target.display().to_string() });
                    }
                    // Exchanged meanwhile.
                    Err(_) => continue,
                },
            }
            found.entries += 1;
            let over = |what, max| Err(ScanError::Limit { dir: dir.to_owned(), what, max });
            if found.entries > limits.entries_max as u64 {
                return over("entries", limits.entries_max as u64);
            }
            if found.bytes > limits.bytes_max {
                return over("bytes", limits.bytes_max);
            }
            if below.iter().count() > DEPTH_MAX {
                let problem = format!("is deeper than {DEPTH_MAX} directories");
                let path = below.display().to_string();
                return Err(ScanError::Tree { dir: dir.to_owned(), source: TreeError::Entry { path, problem } });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{ChunkCache, scan};
    use std::fs;

    /// A survey and a scan of the same directory say the same.
    fn both(dir: &Path, limits: ScanLimits) -> Result<Survey, String> {
        let surveyed = survey(dir, limits).map_err(|e| e.to_string());
        let scanned = scan(dir, &mut ChunkCache::default(), limits).map_err(|e| e.to_string());
        let scanned = scanned.map(|t| Survey { bytes: t.total_bytes, entries: t.entries.len() as u64 });
        assert_eq!(surveyed, scanned);
        surveyed
    }

    #[test]
    fn it_refuses_what_a_scan_refuses_and_counts_what_it_counts() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("data");
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/c"), "text").unwrap();
        fs::File::create(dir.join("sparse")).unwrap().set_len(10_000).unwrap();
        std::os::unix::fs::symlink("a/b", dir.join("link")).unwrap();
        let limits = ScanLimits::default();
        assert_eq!(both(&dir, limits), Ok(Survey { bytes: 10_004, entries: 5 }));
        for few in [ScanLimits { entries_max: 4, ..limits }, ScanLimits { bytes_max: 10_003, ..limits }] {
            assert!(both(&dir, few).unwrap_err().contains("the limit set for it"));
        }
        let odd = dir.join("a/odd");
        std::os::unix::fs::symlink("/etc/passwd", &odd).unwrap();
        assert!(both(&dir, limits).unwrap_err().contains("out of its directory"));
        fs::remove_file(&odd).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(&odd).unwrap();
        assert!(both(&dir, limits).unwrap_err().contains("is a socket"));
        drop(socket);
        fs::remove_file(&odd).unwrap();
        // Names are bytes, and of a dataset what has no content is left out.
        let bad: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(b"a\xff".to_vec());
        fs::write(dir.join(&bad), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&odd).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join("out")).unwrap();
        assert_eq!(both(&dir, ScanLimits::of_dataset(20_000)), Ok(Survey { bytes: 4, entries: 6 }));
        assert!(both(&dir, ScanLimits::of_dataset(9_999)).unwrap_err().contains("bytes"));
    }
}
