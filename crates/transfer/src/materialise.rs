//! From a manifest and its chunks to a directory.
//!
//! `build` makes a new directory that appears whole or not at all (application bundles); `live` changes one that is read meanwhile.
//! Always holds: nothing is written outside of the directory; every byte was verified.

use crate::chunk::ChunkRef;
use crate::disk::{self, beside};
use crate::store::{ChunkSource, StoreError};
use crate::tree::{Entry, EntryKind, TreeError, TreeManifest};
use pumasi_terms::Digest;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who may read the copy. Nobody but the owner may ever write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Every user of the machine, e.g. for a bundle that is no secret.
    Everyone,
    /// The owner and one group (a gid).
    Group(u32),
    /// As `Group`, and its members see the copy through layers of their own only: what the modes let them write goes there.
    Layered(u32),
    Owner,
    /// Its owner alone, with the modes of the original: a copy that waits to be promoted, which then costs nothing.
    AsHome,
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub access: Access,
    /// Trees with more bytes than this are refused before anything is written.
    pub bytes_max: u64,
    /// Flush to disk before the result counts.
    pub durable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { access: Access::Owner, bytes_max: 64 << 30, durable: false }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MaterialiseError {
    #[error("writing {path}: {source}; our disk is at fault, retry")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is there already; a bundle is built once, erase it first")]
    Exists { path: PathBuf },
    #[error("the tree has {bytes} bytes; {bytes_max} are allowed here")]
    TooLarge { bytes: u64, bytes_max: u64 },
    #[error("{path}: {source}")]
    Chunk { path: String, source: StoreError },
    #[error("the manifest is refused: {0}")]
    Tree(#[from] TreeError),
    #[error(
        "{path} is not a directory although the copy needs one there; another process changed the copy, rebuild it"
    )]
    Tampered { path: PathBuf },
    #[error(
        "{path} is neither in the copy nor among what was to come into it; the copy is not whole, send a whole state"
    )]
    Torn { path: PathBuf },
}

pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> MaterialiseError {
    let path = path.to_owned();
    move |source| MaterialiseError::Io { path, source }
}

impl Access {
    /// Of what has mode `original` at home. What the owner may do of the original, its readers may do of the copy.
    pub(crate) fn mode(self, original: u16, is_dir: bool) -> u32 {
        // A directory that its readers may enter may be listed by them too.
        match (self, is_dir || original & 0o111 != 0) {
            (Self::Everyone, false) => 0o644,
            (Self::Everyone, true) => 0o755,
            (Self::Group(_), false) => 0o640,
            (Self::Group(_), true) => 0o750,
            // As it is at home, most likely, so that a promotion has nothing to change; strangers do not come here.
            (Self::Layered(_), false) => 0o660 | u32::from(original & 0o007),
            (Self::Layered(_), true) => 0o770 | u32::from(original & 0o007),
            (Self::Owner, false) => 0o600,
            (Self::Owner, true) => 0o700,
            // As far as it can still be brought forward.
            (Self::AsHome, _) => u32::from(original) | if is_dir { 0o700 } else { 0o400 },
        }
    }
    pub(crate) fn set(self, path: &Path, mode: u32) -> io::Result<()> {
        disk::step()?;
        if let Self::Group(gid) | Self::Layered(gid) = self {
            std::os::unix::fs::lchown(path, None, Some(gid))?;
        }
        // After chown, which may clear bits.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }
}

/// Leftovers that nobody reads.
fn remove(path: &Path) -> Result<(), MaterialiseError> {
    disk::remove(path).map_err(io(path))
}

pub(crate) fn admit(tree: &TreeManifest, options: &Options) -> Result<(), MaterialiseError> {
    tree.check()?;
    if tree.total_bytes > options.bytes_max {
        return Err(MaterialiseError::TooLarge { bytes: tree.total_bytes, bytes_max: options.bytes_max });
    }
    Ok(())
}

/// `uses`: of chunks, after which the source need not have them any more.
pub(crate) fn write_file(
    path: &Path,
    entry: &Entry,
    source: &dyn ChunkSource,
    options: &Options,
    uses: &mut HashMap<Digest, u32>,
) -> Result<(), MaterialiseError> {
    let EntryKind::File { size, chunks } = &entry.kind else { return Ok(()) };
    if let [chunk] = &chunks[..]
        && !chunk.is_hole()
        && uses.get(&chunk.digest) == Some(&1)
        && let Some(made) = source.become_file(chunk, path)
    {
        let fault = |source| MaterialiseError::Chunk { path: entry.path.display().to_string(), source };
        uses.remove(&chunk.digest);
        return finish(path, entry, &made.map_err(fault)?, options);
    }
    let mut file = disk::create_file(path).map_err(io(path))?;
    disk::step().map_err(io(path))?;
    for chunk in chunks {
        if chunk.is_hole() {
            file.seek(SeekFrom::Current(chunk.len.into())).map_err(io(path))?;
            continue;
        }
        let bytes = source
            .chunk(&chunk.digest)
            .and_then(|b| match b.len() == chunk.len as usize {
                true => Ok(b),
                false => Err(StoreError::Length { digest: chunk.digest, bytes: b.len() as u64 }),
            })
            .map_err(|source| MaterialiseError::Chunk { path: entry.path.display().to_string(), source })?;
        file.write_all(&bytes).map_err(io(path))?;
        if let Some(left) = uses.get_mut(&chunk.digest) {
            *left -= 1;
            if *left == 0 {
                uses.remove(&chunk.digest);
                source.spent(&chunk.digest);
            }
        }
    }
    if chunks.last().is_some_and(ChunkRef::is_hole) {
        file.set_len(*size).map_err(io(path))?;
    }
    finish(path, entry, &file, options)
}

/// What is left when the content is there.
fn finish(path: &Path, entry: &Entry, file: &fs::File, options: &Options) -> Result<(), MaterialiseError> {
    options.access.set(path, options.access.mode(entry.mode, false)).map_err(io(path))?;
    if entry.modified_ns != 0 {
        disk::set_modified(file, time(entry.modified_ns)).map_err(io(path))?;
    }
    if options.durable {
        file.sync_all().map_err(io(path))?;
    }
    Ok(())
}

pub(crate) fn time(ns: i64) -> SystemTime {
    let span = Duration::from_nanos(ns.unsigned_abs());
    let there = if ns < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) };
    there.unwrap_or(UNIX_EPOCH)
}

/// `original`: its mode at home.
pub(crate) fn make_dir(path: &Path, original: u16, options: &Options) -> Result<(), MaterialiseError> {
    disk::create_dir(path).map_err(io(path))?;
    options.access.set(path, options.access.mode(original, true)).map_err(io(path))
}

fn sync_dir(path: &Path) -> Result<(), MaterialiseError> {
    disk::sync_dir(path).map_err(io(path))
}

/// Of the directory itself, which no manifest names.
pub(crate) const ROOT_MODE: u16 = 0o700;

/// Builds the tree at `dest`, which must not exist. An unfinished build of before is discarded.
pub fn build(
    tree: &TreeManifest,
    source: &dyn ChunkSource,
    dest: &Path,
    options: &Options,
) -> Result<(), MaterialiseError> {
    admit(tree, options)?;
    if fs::symlink_metadata(dest).is_ok() {
        return Err(MaterialiseError::Exists { path: dest.to_owned() });
    }
    let part = beside(dest, ".part");
    remove(&part)?;
    if let Some(parent) = dest.parent() {
        fs::create_dir_all(parent).map_err(io(parent))?;
    }
    let fill = || -> Result<(), MaterialiseError> {
        make_dir(&part, ROOT_MODE, options)?;
        for entry in &tree.entries {
            let path = part.join(&entry.path);
            match &entry.kind {
                EntryKind::Dir => make_dir(&path, entry.mode, options)?,
                EntryKind::File { .. } => write_file(&path, entry, source, options, &mut HashMap::new())?,
                EntryKind::Symlink { target } => std::os::unix::fs::symlink(target, &path).map_err(io(&path))?,
                EntryKind::Hardlink { to } => fs::hard_link(part.join(to), &path).map_err(io(&path))?,
            }
        }
        fs::rename(&part, dest).map_err(io(dest))?;
        if options.durable { dest.parent().map_or(Ok(()), sync_dir) } else { Ok(()) }
    };
    fill().inspect_err(|_| {
        let _ = remove(&part);
    })
}
