//! A live directory, brought from one tree to the next while it is read.
//!
//! Enters: what it holds, what it shall hold, chunks. Leaves: the directory, changed file by file: a reader has the old file or the
//! new one, never a half.
//! Always holds: `stage` writes all that is new beside the directory, which stays as it is; `place` puts it in, needs no chunks, and
//! may be cut off anywhere and called again. Nothing is written outside of the two.

use crate::disk::{self, FLUSHED_SINGLY_MAX, beside};
use crate::materialise::{MaterialiseError, Options, ROOT_MODE, admit, io, make_dir, time, write_file};
use crate::store::ChunkSource;
use crate::tree::{Entry, EntryKind, TreeManifest};
use pumasi_terms::Digest;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Brings the live directory `dest` from `before` (what it is known to hold; none: nothing is known) to `tree`. Afterwards it
/// holds exactly the tree. After an error it is a mixture: call it again, with `before` none.
pub fn update(
    before: Option<&TreeManifest>,
    tree: &TreeManifest,
    source: &dyn ChunkSource,
    dest: &Path,
    options: &Options,
) -> Result<(), MaterialiseError> {
    let staging = beside(dest, ".part");
    stage(before, tree, source, (dest, &staging), options)?;
    place(before, tree, (dest, &staging), options)?;
    disk::remove(&staging).map_err(io(&staging))
}

/// What has to be done on the way from one tree to another.
struct Way<'a> {
    before: Option<&'a TreeManifest>,
    tree: &'a TreeManifest,
}

impl<'a> Way<'a> {
    fn held(&self, entry: &Entry) -> Option<&'a Entry> {
        self.before?.get(&entry.path)
    }

    fn is_changed(&self, entry: &Entry) -> bool {
        self.held(entry) != Some(entry)
    }

    /// A file of which nothing but mode or time has changed.
    fn is_only_retold(&self, entry: &Entry) -> bool {
        self.held(entry)
            .is_some_and(|held| matches!(held.kind, EntryKind::File { .. }) && held.kind == entry.kind && held != entry)
    }

    fn is_rewritten(&self, entry: &Entry) -> bool {
        self.is_changed(entry) && !self.is_only_retold(entry)
    }

    /// What is not as it shall be, each with its number, which is its name while it is staged.
    fn steps(&self) -> impl Iterator<Item = (usize, &'a Entry)> {
        let all = self.tree.entries.iter().enumerate();
        all.filter(|(_, e)| match &e.kind {
            // Another name of a file that is written anew is another name of the new one.
            EntryKind::Hardlink { to } => {
                self.is_changed(e) || self.tree.get(to).is_none_or(|first| self.is_rewritten(first))
            }
            _ => self.is_changed(e),
        })
    }
}

/// `places`: the directory, and where files are written before they are put into it, on the same file system.
pub(crate) fn stage(
    before: Option<&TreeManifest>,
    tree: &TreeManifest,
    source: &dyn ChunkSource,
    (dest, staging): (&Path, &Path),
    options: &Options,
) -> Result<(), MaterialiseError> {
    admit(tree, options)?;
    disk::remove(staging).map_err(io(staging))?;
    disk::create_dir(staging).map_err(io(staging))?;
    let way = Way { before, tree };
    let steps: Vec<_> = way.steps().collect();
    let few = steps.len() <= FLUSHED_SINGLY_MAX;
    let singly = Options { durable: options.durable && few, ..*options };
    let fresh = |n: usize| staging.join(n.to_string());
    // Chunks may be found in the copy's own files, under whatever name: so all of this is before anything of it goes.
    let mut uses = uses_of(steps.iter().map(|(_, e)| *e).filter(|e| way.is_rewritten(e)));
    for (n, entry) in steps {
        let path = fresh(n);
        match &entry.kind {
            EntryKind::File { .. } if way.is_rewritten(entry) => write_file(&path, entry, source, &singly, &mut uses)?,
            EntryKind::Symlink { target } => disk::symlink(target, &path).map_err(io(&path))?,
            EntryKind::Hardlink { to } => {
                let first = tree.entries.binary_search_by(|e| e.path.cmp(to)).unwrap_or(usize::MAX);
                let staged = fresh(first);
                let from = if staged.symlink_metadata().is_ok() {
                    staged
                } else {
                    check_parents(dest, to)?;
                    dest.join(to)
                };
                disk::hard_link(&from, &path).map_err(io(&path))?;
            }
            EntryKind::File { .. } | EntryKind::Dir => {}
        }
    }
    match options.durable {
        true if few => disk::sync_dir(staging),
        true => disk::sync_all_around(staging),
        false => Ok(()),
    }
    .map_err(io(staging))
}

/// Puts in what `stage` wrote for the same two trees. What is in already, is.
pub(crate) fn place(
    before: Option<&TreeManifest>,
    tree: &TreeManifest,
    (dest, staging): (&Path, &Path),
    options: &Options,
) -> Result<(), MaterialiseError> {
    if fs::symlink_metadata(dest).is_err() {
        if let Some(parent) = dest.parent() {
            fs::create_dir_all(parent).map_err(io(parent))?;
        }
        make_dir(dest, ROOT_MODE, options)?;
    }
    let way = Way { before, tree };
    let mut touched = BTreeSet::from([dest.to_owned()]);
    for (n, entry) in way.steps() {
        check_parents(dest, &entry.path)?;
        let path = dest.join(&entry.path);
        touched.extend(path.parent().map(Path::to_owned));
        match &entry.kind {
            EntryKind::Dir => put_dir(&path, entry, options)?,
            _ if way.is_only_retold(entry) => {
                retell(&path, entry, options)?;
                touched.insert(path);
            }
            kind => {
                let linked = matches!(kind, EntryKind::Hardlink { .. });
                put(&staging.join(n.to_string()), &path, linked)?;
            }
        }
    }
    match before {
        Some(before) => {
            for entry in before.entries.iter().rev().filter(|e| tree.get(&e.path).is_none()) {
                let path = dest.join(&entry.path);
                // Its directory may have become a file, and then it is gone already.
                if check_parents(dest, &entry.path).is_ok() {
                    disk::remove(&path).map_err(io(&path))?;
                    touched.extend(path.parent().map(Path::to_owned));
                }
            }
        }
        None => sweep(dest, tree)?,
    }
    match options.durable {
        true if before.is_none() => disk::sync_all_around(dest).map_err(io(dest)),
        true => disk::flush(dest, &touched).map_err(io(dest)),
        false => Ok(()),
    }
}

fn put_dir(path: &Path, entry: &Entry, options: &Options) -> Result<(), MaterialiseError> {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => {
            return options.access.set(path, options.access.mode(entry.mode, true)).map_err(io(path));
        }
        Ok(_) => disk::remove(path).map_err(io(path))?,
        Err(_) => {}
    }
    make_dir(path, entry.mode, options)
}

fn put(staged: &Path, path: &Path, linked: bool) -> Result<(), MaterialiseError> {
    let there = fs::symlink_metadata(path).ok();
    if fs::symlink_metadata(staged).is_err() {
        return match there {
            Some(m) if !m.is_dir() => Ok(()),
            _ => Err(MaterialiseError::Torn { path: path.to_owned() }),
        };
    }
    // A rename cannot replace a directory, and between two names of one file it does nothing: only then there is a gap.
    if there.is_some_and(|m| m.is_dir() || linked) {
        disk::remove(path).map_err(io(path))?;
    }
    disk::rename(staged, path).map_err(io(path))
}

fn retell(path: &Path, entry: &Entry, options: &Options) -> Result<(), MaterialiseError> {
    // Neither follows a link that was planted there, nor waits for a pipe.
    let file = crate::scan::open_file(path).map_err(io(path))?;
    if !file.metadata().map_err(io(path))?.is_file() {
        return Err(MaterialiseError::Tampered { path: path.to_owned() });
    }
    disk::set_mode(path, options.access.mode(entry.mode, false)).map_err(io(path))?;
    disk::set_modified(&file, time(entry.modified_ns)).map_err(io(path))
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
                None => disk::remove(&path).map_err(io(&path))?,
                Some(entry) if entry.is_dir() => todo.push((path, at)),
                Some(_) => {}
            }
        }
    }
    Ok(())
}
