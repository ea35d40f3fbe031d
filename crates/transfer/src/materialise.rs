//! From a manifest and its chunks to a directory.
//!
//! `build` makes a new directory that appears whole or not at all (application bundles); `update` changes a live one file
//! by file, so that a reader has the old file or the new one, never a half.
//! Always holds: nothing is written outside of the directory; every byte was verified.

use crate::store::{ChunkSource, StoreError};
use crate::tree::{Entry, EntryKind, TreeError, TreeManifest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> MaterialiseError {
    let path = path.to_owned();
    move |source| MaterialiseError::Io { path, source }
}

impl Access {
    pub(crate) fn file_mode(self, executable: bool) -> u32 {
        match (self, executable) {
            (Self::Everyone, false) => 0o644,
            (Self::Everyone, true) => 0o755,
            (Self::Group(_), false) => 0o640,
            (Self::Group(_), true) => 0o750,
            (Self::Layered(_), false) => 0o660,
            (Self::Layered(_), true) => 0o770,
            (Self::Owner, false) => 0o600,
            (Self::Owner, true) => 0o700,
        }
    }
    pub(crate) fn set(self, path: &Path, mode: u32) -> io::Result<()> {
        if let Self::Group(gid) | Self::Layered(gid) = self {
            std::os::unix::fs::lchown(path, None, Some(gid))?;
        }
        // After chown, which may clear bits.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }
}

/// A name beside `dest`, on the same file system.
pub(crate) fn beside(dest: &Path, suffix: &str) -> PathBuf {
    let mut name = dest.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    dest.with_file_name(name)
}

fn remove(path: &Path) -> Result<(), MaterialiseError> {
    let result = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io(path)(e)),
        _ => Ok(()),
    }
}

fn admit(tree: &TreeManifest, options: &Options) -> Result<(), MaterialiseError> {
    tree.check()?;
    if tree.total_bytes > options.bytes_max {
        return Err(MaterialiseError::TooLarge { bytes: tree.total_bytes, bytes_max: options.bytes_max });
    }
    Ok(())
}

fn write_file(path: &Path, entry: &Entry, source: &dyn ChunkSource, options: &Options) -> Result<(), MaterialiseError> {
    let EntryKind::File { executable, chunks, .. } = &entry.kind else { return Ok(()) };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io(path))?;
    for chunk in chunks {
        let bytes = source
            .chunk(&chunk.digest)
            .and_then(|b| match b.len() == chunk.len as usize {
                true => Ok(b),
                false => Err(StoreError::Length { digest: chunk.digest, bytes: b.len() as u64 }),
            })
            .map_err(|source| MaterialiseError::Chunk { path: entry.path.clone(), source })?;
        file.write_all(&bytes).map_err(io(path))?;
    }
    options.access.set(path, options.access.file_mode(*executable)).map_err(io(path))?;
    if options.durable {
        file.sync_all().map_err(io(path))?;
    }
    Ok(())
}

pub(crate) fn make_dir(path: &Path, options: &Options) -> Result<(), MaterialiseError> {
    fs::create_dir(path).map_err(io(path))?;
    // A directory that its readers may enter may be listed by them too.
    options.access.set(path, options.access.file_mode(true)).map_err(io(path))
}

fn sync_dir(path: &Path) -> Result<(), MaterialiseError> {
    fs::File::open(path).and_then(|d| d.sync_all()).map_err(io(path))
}

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
        make_dir(&part, options)?;
        for entry in &tree.entries {
            let path = part.join(&entry.path);
            match &entry.kind {
                EntryKind::Dir => make_dir(&path, options)?,
                EntryKind::File { .. } => write_file(&path, entry, source, options)?,
                EntryKind::Symlink { target } => std::os::unix::fs::symlink(target, &path).map_err(io(&path))?,
            }
        }
        fs::rename(&part, dest).map_err(io(dest))?;
        if options.durable { dest.parent().map_or(Ok(()), sync_dir) } else { Ok(()) }
    };
    fill().inspect_err(|_| {
        let _ = remove(&part);
    })
}

/// Brings the live directory `dest` from `before` (what it is known to hold; none: nothing is known) to `tree`. Afterwards it
/// holds exactly the tree. After an error it is a mixture: call it again, with `before` none.
pub fn update(
    before: Option<&TreeManifest>,
    tree: &TreeManifest,
    source: &dyn ChunkSource,
    dest: &Path,
    options: &Options,
) -> Result<(), MaterialiseError> {
    update_apart(before, tree, source, dest, &beside(dest, ".part"), options)
}

/// `staging`: where files are written before they are put in place, on the same file system.
pub(crate) fn update_apart(
    before: Option<&TreeManifest>,
    tree: &TreeManifest,
    source: &dyn ChunkSource,
    dest: &Path,
    staging: &Path,
    options: &Options,
) -> Result<(), MaterialiseError> {
    admit(tree, options)?;
    remove(staging)?;
    if fs::symlink_metadata(dest).is_err() {
        if let Some(parent) = dest.parent() {
            fs::create_dir_all(parent).map_err(io(parent))?;
        }
        make_dir(dest, options)?;
    }
    let held: BTreeMap<&str, &EntryKind> =
        before.iter().flat_map(|t| &t.entries).map(|e| (e.path.as_str(), &e.kind)).collect();
    fs::create_dir(staging).map_err(io(staging))?;
    for (n, entry) in tree.entries.iter().enumerate() {
        if held.get(entry.path.as_str()).is_some_and(|k| **k == entry.kind) {
            continue;
        }
        let (path, fresh) = (dest.join(&entry.path), staging.join(n.to_string()));
        check_parents(dest, &entry.path)?;
        let there = fs::symlink_metadata(&path).ok();
        match &entry.kind {
            EntryKind::Dir => {
                if there.as_ref().is_some_and(|m| !m.is_dir()) {
                    remove(&path)?;
                }
                if there.is_none_or(|m| !m.is_dir()) {
                    make_dir(&path, options)?;
                }
                continue;
            }
            EntryKind::File { .. } => write_file(&fresh, entry, source, options)?,
            EntryKind::Symlink { target } => std::os::unix::fs::symlink(target, &fresh).map_err(io(&fresh))?,
        }
        // Only a directory in the way makes a gap; a rename cannot replace it.
        if there.is_some_and(|m| m.is_dir()) {
            remove(&path)?;
        }
        fs::rename(&fresh, &path).map_err(io(&path))?;
    }
    remove(staging)?;
    let wanted: BTreeMap<&str, bool> =
        tree.entries.iter().map(|e| (e.path.as_str(), e.kind == EntryKind::Dir)).collect();
    match before {
        Some(before) => {
            for entry in before.entries.iter().rev().filter(|e| !wanted.contains_key(e.path.as_str())) {
                // Its directory may have become a file, and then it is gone already.
                if check_parents(dest, &entry.path).is_ok() {
                    remove(&dest.join(&entry.path))?;
                }
            }
        }
        None => sweep(dest, &wanted)?,
    }
    Ok(())
}

/// A link planted in the place of a directory would lead the write elsewhere.
fn check_parents(dest: &Path, path: &str) -> Result<(), MaterialiseError> {
    let mut at = dest.to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    for part in std::iter::once("").chain(parts[..parts.len() - 1].iter().copied()) {
        if !part.is_empty() {
            at.push(part);
        }
        if !fs::symlink_metadata(&at).map_err(io(&at))?.is_dir() {
            return Err(MaterialiseError::Tampered { path: at });
        }
    }
    Ok(())
}

/// Removes whatever the tree does not name.
fn sweep(dest: &Path, wanted: &BTreeMap<&str, bool>) -> Result<(), MaterialiseError> {
    let mut todo = vec![(dest.to_owned(), String::new())];
    while let Some((dir, prefix)) = todo.pop() {
        for item in fs::read_dir(&dir).map_err(io(&dir))? {
            let path = item.map_err(io(&dir))?.path();
            let at = path.file_name().and_then(|n| n.to_str()).map(|n| match prefix.is_empty() {
                true => n.to_owned(),
                false => format!("{prefix}/{n}"),
            });
            match at.as_deref().and_then(|a| wanted.get(a)) {
                None => remove(&path)?,
                Some(true) => todo.push((path, at.unwrap_or_default())),
                Some(false) => {}
            }
        }
    }
    Ok(())
}
