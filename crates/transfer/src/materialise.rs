//! From a manifest and its chunks to a directory.
//!
//! `build` makes a new directory that appears whole or not at all (application bundles); `update` changes a live one file
//! by file, so that a reader has the old file or the new one, never a half.
//! Always holds: nothing is written outside of the directory; every byte was verified.

use crate::chunk::ChunkRef;
use crate::store::{ChunkSource, StoreError};
use crate::tree::{Entry, EntryKind, TreeError, TreeManifest};
use pumasi_terms::Digest;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
    /// What the owner may do of the original, its readers may do of the copy.
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

/// `uses`: of chunks, after which the source need not have them any more.
fn write_file(
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
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io(path))?;
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
    options.access.set(path, options.access.file_mode(entry.is_executable())).map_err(io(path))?;
    if entry.modified_ns != 0 {
        file.set_modified(time(entry.modified_ns)).map_err(io(path))?;
    }
    if options.durable {
        file.sync_all().map_err(io(path))?;
    }
    Ok(())
}

fn time(ns: i64) -> SystemTime {
    let span = Duration::from_nanos(ns.unsigned_abs());
    let there = if ns < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) };
    there.unwrap_or(UNIX_EPOCH)
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
    fs::create_dir(staging).map_err(io(staging))?;
    let changed = |entry: &Entry| before.and_then(|b| b.get(&entry.path)) != Some(entry);
    // Another name of a file that is written anew is another name of the new one.
    let rewritten = |entry: &Entry| changed(entry) && only_retold(before, entry).is_none();
    let todo: Vec<(usize, &Entry)> = tree
        .entries
        .iter()
        .enumerate()
        .filter(|(_, e)| match &e.kind {
            EntryKind::Hardlink { to } => changed(e) || tree.get(to).is_none_or(rewritten),
            _ => changed(e),
        })
        .collect();
    let fresh = |n: usize| staging.join(n.to_string());
    // All that is new is written before anything of the copy goes: chunks may be found in its files, under whatever name.
    let mut uses = uses_of(todo.iter().map(|(_, e)| *e).filter(|e| rewritten(e)));
    for (n, entry) in &todo {
        let path = fresh(*n);
        match &entry.kind {
            EntryKind::File { .. } if rewritten(entry) => write_file(&path, entry, source, options, &mut uses)?,
            EntryKind::Symlink { target } => std::os::unix::fs::symlink(target, &path).map_err(io(&path))?,
            EntryKind::Hardlink { to } => {
                let first = tree.entries.binary_search_by(|e| e.path.cmp(to)).unwrap_or(usize::MAX);
                let staged = fresh(first);
                let held = dest.join(to);
                check_parents(dest, to)?;
                let from = if staged.symlink_metadata().is_ok() { &staged } else { &held };
                fs::hard_link(from, &path).map_err(io(&path))?;
            }
            EntryKind::File { .. } | EntryKind::Dir => {}
        }
    }
    for (n, entry) in todo {
        let path = dest.join(&entry.path);
        check_parents(dest, &entry.path)?;
        let there = fs::symlink_metadata(&path).ok();
        if entry.is_dir() {
            if there.as_ref().is_some_and(|m| !m.is_dir()) {
                remove(&path)?;
            }
            if there.is_none_or(|m| !m.is_dir()) {
                make_dir(&path, options)?;
            }
            continue;
        }
        if only_retold(before, entry).is_some() {
            retell(&path, entry, options)?;
            continue;
        }
        // A rename cannot replace a directory, and between two names of one file it does nothing: only then there is a gap.
        let linked = matches!(entry.kind, EntryKind::Hardlink { .. });
        if there.is_some_and(|m| m.is_dir() || linked) {
            remove(&path)?;
        }
        fs::rename(fresh(n), &path).map_err(io(&path))?;
    }
    remove(staging)?;
    match before {
        Some(before) => {
            for entry in before.entries.iter().rev().filter(|e| tree.get(&e.path).is_none()) {
                // Its directory may have become a file, and then it is gone already.
                if check_parents(dest, &entry.path).is_ok() {
                    remove(&dest.join(&entry.path))?;
                }
            }
        }
        None => sweep(dest, tree)?,
    }
    Ok(())
}

/// A file of which nothing but mode or time has changed.
fn only_retold<'a>(before: Option<&'a TreeManifest>, entry: &Entry) -> Option<&'a Entry> {
    let held = before?.get(&entry.path)?;
    (matches!(held.kind, EntryKind::File { .. }) && held.kind == entry.kind && held != entry).then_some(held)
}

fn retell(path: &Path, entry: &Entry, options: &Options) -> Result<(), MaterialiseError> {
    // Neither follows a link that was planted there, nor waits for a pipe.
    let file = crate::scan::open_file(path).map_err(io(path))?;
    if !file.metadata().map_err(io(path))?.is_file() {
        return Err(MaterialiseError::Tampered { path: path.to_owned() });
    }
    let mode = options.access.file_mode(entry.is_executable());
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(io(path))?;
    file.set_modified(time(entry.modified_ns)).map_err(io(path))
}

/// How often each chunk is still to be read.
fn uses_of<'a>(entries: impl Iterator<Item = &'a Entry>) -> HashMap<Digest, u32> {
    let mut uses = HashMap::new();
    for entry in entries {
        if let EntryKind::File { chunks, .. } = &entry.kind {
            chunks.iter().filter(|c| !c.is_hole()).for_each(|c| *uses.entry(c.digest).or_default() += 1);
        }
    }
    uses
}

/// A link planted in the place of a directory would lead the write elsewhere.
fn check_parents(dest: &Path, path: &OsStr) -> Result<(), MaterialiseError> {
    let mut at = dest.to_owned();
    let above = Path::new(path).parent().into_iter().flat_map(Path::iter);
    for part in std::iter::once(OsStr::new("")).chain(above) {
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
fn sweep(dest: &Path, tree: &TreeManifest) -> Result<(), MaterialiseError> {
    let mut todo = vec![(dest.to_owned(), PathBuf::new())];
    while let Some((dir, prefix)) = todo.pop() {
        for item in fs::read_dir(&dir).map_err(io(&dir))? {
            let item = item.map_err(io(&dir))?;
            let (path, at) = (item.path(), prefix.join(item.file_name()));
            match tree.get(at.as_os_str()) {
                None => remove(&path)?,
                Some(entry) if entry.is_dir() => todo.push((path, at)),
                Some(_) => {}
            }
        }
    }
    Ok(())
}
