//! What changes on disk, one step after the other.
//!
//! Enters: paths. Leaves: files and directories, changed.
//! Always holds: each change of a live copy, of its state and of what it becomes goes through here; after a step that failed because
//! of `Outage` no later one is taken by that thread, as if the power had gone. So tests can stop the world before any of them.

use crate::beneath::Beneath;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

thread_local! {
    /// Steps that may still be taken, and whether one more was asked for.
    static LEFT: Cell<Option<(u64, bool)>> = const { Cell::new(None) };
}

/// For tests: while it lives, this thread takes so many steps and no more.
#[derive(Debug)]
pub struct Outage(());

impl Outage {
    pub fn after(steps: u64) -> Self {
        LEFT.set(Some((steps, false)));
        Self(())
    }

    /// Whether a step was refused.
    pub fn came(&self) -> bool {
        LEFT.get().is_some_and(|(_, came)| came)
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        LEFT.set(None);
    }
}

/// Before anything is changed.
pub(crate) fn step() -> io::Result<()> {
    match LEFT.get() {
        None => Ok(()),
        Some((0, _)) => {
            LEFT.set(Some((0, true)));
            Err(io::Error::other("the power is gone"))
        }
        Some((left, came)) => {
            LEFT.set(Some((left - 1, came)));
            Ok(())
        }
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step()?;
    fs::rename(from, to)
}

pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    step()?;
    fs::create_dir(path)
}

pub(crate) fn symlink(target: &std::ffi::OsStr, path: &Path) -> io::Result<()> {
    step()?;
    std::os::unix::fs::symlink(target, path)
}

pub(crate) fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    step()?;
    fs::hard_link(from, to)
}

pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    step()?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Neither follows a link at the path's end nor waits for a pipe.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    step()?;
    crate::scan::open_file(path)?.set_permissions(Permissions::from_mode(mode))
}

pub(crate) fn set_modified(file: &File, time: SystemTime) -> io::Result<()> {
    step()?;
    file.set_modified(time)
}

/// A file that is not there is removed already.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    step()?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Whatever is there, with all in it. Links are not followed. A directory goes name by name, so that it can be cut off anywhere.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let mut todo = vec![(path.to_owned(), false)];
    while let Some((path, emptied)) = todo.pop() {
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(m) if !m.is_dir() => remove_file(&path)?,
            Ok(_) if emptied => {
                step()?;
                fs::remove_dir(&path)?;
            }
            Ok(m) => {
                if m.permissions().mode() & 0o300 != 0o300 {
                    set_mode(&path, 0o700)?;
                }
                let below =
                    fs::read_dir(&path)?.map(|e| e.map(|e| (e.path(), false))).collect::<io::Result<Vec<_>>>()?;
                todo.push((path, true));
                todo.extend(below);
            }
        }
    }
    Ok(())
}

pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    step()?;
    File::open(path)?.sync_all()
}

/// Everything that was changed on the file system of `path`, at one go: the way to flush many files.
pub(crate) fn sync_all_around(path: &Path) -> io::Result<()> {
    step()?;
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// So many files or directories are flushed one by one; more of them by flushing all of their file system.
pub(crate) const FLUSHED_SINGLY_MAX: usize = 64;

/// What was touched in `dir`. What is gone since had a directory that was touched too.
pub(crate) fn flush(dir: &Path, touched: &BTreeSet<PathBuf>) -> io::Result<()> {
    if touched.len() > FLUSHED_SINGLY_MAX {
        return sync_all_around(dir);
    }
    for path in touched {
        step()?;
        match crate::scan::open_file(path) {
            Ok(file) => file.sync_all()?,
            Err(e) if e.kind() == io::ErrorKind::NotFound && path != dir => {}
            // Closed to its owner too.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return sync_all_around(dir),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A name beside `dest`, on the same file system.
pub(crate) fn beside(dest: &Path, suffix: &str) -> PathBuf {
    let mut name = dest.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    dest.with_file_name(name)
}

/// Replaces a small file at once; `durable`: it survives a power cut.
pub(crate) fn write_state(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temp = beside(path, ".new");
    step()?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    step()?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    drop(file);
    rename(&temp, path)?;
    match path.parent() {
        Some(dir) if durable => sync_dir(dir),
        _ => Ok(()),
    }
}

/// Which boot of this machine it is. What was not flushed is worth nothing after the next one.
pub(crate) fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|s| s.trim().to_owned())
}

/// What a state that was written by `durable` or not says of its boot.
pub(crate) fn written_in(durable: bool) -> Option<String> {
    // Where it cannot be told, no later look fits either.
    if durable { None } else { boot_id().or_else(|| Some(String::new())) }
}

pub(crate) fn still_counts(written_in: &Option<String>) -> bool {
    written_in.is_none() || *written_in == boot_id()
}

/// Moves a directory whole to where nothing is yet, once: called again after it was cut off, it finds it done.
///
/// The directories above both places are the caller's alone, and on one file system.
pub fn move_dir(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() && fs::symlink_metadata(from).is_err() {
        return Ok(());
    }
    // Not a link that somebody put there.
    Beneath::open(from)?;
    if let Some(above) = to.parent() {
        fs::create_dir_all(above)?;
    }
    step()?;
    rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, rustix::fs::RenameFlags::NOREPLACE)?;
    for above in [from.parent(), to.parent()].into_iter().flatten() {
        sync_dir(above)?;
    }
    Ok(())
}
