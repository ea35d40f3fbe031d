//! Starts a process that handles a tenant's bytes, with directories that are its own or its tenant's.

use super::cgroup::Place;
use super::host::Host;
use super::{data, slots};
use crate::confine::{Cell, Said};
use crate::{Access, DataMount, EngineError};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

const READY_MS_MAX: u64 = 10_000;
/// What the kernel keeps of files for a helper, beside its own memory.
const FILES_BYTES: u64 = 512 << 20;
/// Of address space, at a time.
const ARENA_KIB: &str = "32768";
const LINE_BYTES_MAX: usize = 8 << 10;
const DEPTH_MAX: u32 = 64;

/// Whose a directory of a helper is. Each lies in a directory that is the daemon's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// A dataset at home: the owner's group writes, as the owner's instances do.
    Shared,
    /// The helper's and nobody else's.
    Private,
    /// Written by the helper, read by the owner's group.
    Copy,
    /// The daemon's; what lies there is not given to anybody.
    Kept,
}

#[derive(Debug, Clone)]
pub struct HelperSpec {
    /// As of instances.
    pub owner: String,
    pub rooms: Vec<(PathBuf, Room)>,
    /// What the helper sees, and where; nothing else is there.
    pub view: Vec<(PathBuf, PathBuf)>,
    /// Directories of the view that it sees empty, by its own paths.
    pub hidden: Vec<PathBuf>,
    pub memory_bytes_max: u64,
    pub file_bytes_max: u64,
}

/// A helper that runs. It ends with this value.
#[derive(Debug)]
pub struct Helper {
    pub line: UnixStream,
    pub child: Child,
    /// The owner's group, if it has one.
    pub gid: Option<u32>,
    /// Whether paths are those of the view.
    pub confined: bool,
}

impl HelperSpec {
    /// What `path` is called by the helper.
    pub fn seen(&self, confined: bool, path: &Path) -> PathBuf {
        let through = |(from, to): &(PathBuf, PathBuf)| path.strip_prefix(from).ok().map(|rest| to.join(rest));
        self.view.iter().find_map(through).filter(|_| confined).unwrap_or_else(|| path.to_owned())
    }
}

impl Host {
    /// Everything that must be there before the process starts.
    pub(super) fn prepare(&self, spec: &HelperSpec) -> Result<(Cell, Option<Place>), EngineError> {
        let mut cell = Cell::new(spec.memory_bytes_max, spec.file_bytes_max);
        cell.ids = self.helper_ids(&spec.owner)?;
        if cell.ids.is_some() && self.isolation().namespaces {
            cell.view = Some(spec.view.clone());
            cell.hidden.clone_from(&spec.hidden);
        }
        for (path, room) in &spec.rooms {
            furnish(path, *room, cell.ids)?;
        }
        let group = self.helper_group(spec.memory_bytes_max.saturating_add(FILES_BYTES))?;
        Ok((cell, group))
    }

    /// Once more, for what the owner's instances have made since.
    pub(super) fn give(&self, owner: &str, path: &Path) -> Result<(), EngineError> {
        match self.helper_ids(owner)? {
            Some(ids) => furnish(path, Room::Shared, Some(ids)),
            None => Ok(()),
        }
    }
}

fn furnish(path: &Path, room: Room, ids: Option<(u32, u32)>) -> Result<(), EngineError> {
    let work = || -> io::Result<()> {
        let make = |at: &Path, mode| fs::DirBuilder::new().recursive(true).mode(mode).create(at);
        path.parent().map_or(Ok(()), |parent| make(parent, 0o711))?;
        make(path, if room == Room::Private { 0o700 } else { 0o711 })?;
        let (Some((uid, gid)), false) = (ids, room == Room::Kept) else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::open(path, flags, Mode::empty())?;
        if fs::File::from(top.try_clone()?).metadata()?.uid() != uid {
            own_all(&top, uid, gid, 0)?;
        }
        let mode = if room == Room::Private { 0o700 } else { 0o2750 };
        rustix::fs::fchown(&top, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        rustix::fs::fchmod(&top, Mode::from_raw_mode(mode))?;
        Ok(())
    };
    match (room, ids) {
        (Room::Shared, Some((_, gid))) => {
            data::give(&DataMount { path: path.to_owned(), access: Access::ReadWrite }, gid)
        }
        (Room::Shared, None) => Ok(()),
        _ => work().map_err(EngineError::at("prepare a helper's directory", path)),
    }
}

/// What a helper with other ids left. Nobody else writes there, and no link is followed all the same.
fn own_all(dir: &OwnedFd, uid: u32, gid: u32, depth: u32) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("deeper than {DEPTH_MAX} directories")));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for entry in rustix::fs::Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let (uid_of, gid_of) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(dir, name, uid_of, gid_of, AtFlags::SYMLINK_NOFOLLOW)?;
        match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(below) => own_all(&below, uid, gid, depth + 1)?,
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn host_fault(doing: &str) -> impl FnOnce(io::Error) -> EngineError {
    let doing = doing.to_owned();
    move |source| EngineError::Host { doing, source }
}

/// Starts the process and waits until it is in its cell.
pub(super) async fn start(executable: &Path, cell: &Cell, group: Option<Place>) -> Result<Helper, EngineError> {
    let fault = |e| host_fault("start a data helper")(e);
    let (ours, theirs) = StdStream::pair().map_err(fault)?;
    ours.set_nonblocking(true).map_err(fault)?;
    let child = Command::new(executable)
        .arg("data-helper")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_clear()
        // Else the allocator reserves a gibibyte ahead, all that the cell may have.
        .env("MIMALLOC_ARENA_RESERVE", ARENA_KIB)
        .current_dir("/")
        .kill_on_drop(true)
        .spawn()
        .map_err(fault)?;
    if let (Some(group), Some(pid)) = (group, child.id()) {
        group.take(pid)?;
    }
    let mut line = UnixStream::from_std(ours).map_err(fault)?;
    let mut text = serde_json::to_vec(cell).map_err(|e| fault(e.into()))?;
    text.push(b'\n');
    let said = async {
        line.write_all(&text).await?;
        let mut answer = Vec::new();
        loop {
            match line.read_u8().await? {
                b'\n' => return Ok(answer),
                byte if answer.len() < LINE_BYTES_MAX => answer.push(byte),
                _ => return Err(io::Error::other("it says more than it should")),
            }
        }
    };
    let said = tokio::time::timeout(Duration::from_millis(READY_MS_MAX), said).await;
    let said = said.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))).map_err(fault)?;
    match serde_json::from_slice(&said).map_err(|e| fault(e.into()))? {
        Said::Ready => Ok(Helper { line, child, gid: cell.ids.map(|(_, gid)| gid), confined: cell.view.is_some() }),
        Said::Failed { why } => Err(fault(io::Error::other(why))),
    }
}

/// Helpers of an earlier daemon have nobody to answer to.
pub(super) fn end_strays(slots: &slots::Slots) {
    let left = super::processes::end_all(&|| {
        super::processes::processes_by_uid(slots.helpers()).into_values().flatten().collect()
    });
    if !left.is_empty() {
        tracing::warn!(?left, "data helpers of an earlier daemon do not end");
    }
}
