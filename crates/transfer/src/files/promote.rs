//! The two ends of a copy: it becomes the dataset itself, or a dataset becomes a copy.
//!
//! Enters: a whole copy, or a directory that was a dataset. Leaves: the directory with the modes that the home gave it, or a copy.
//! Always holds: from the first line of `promote` on the copy takes nothing more, and promoting it again goes on where it was cut off.

use super::FilesError;
use super::replica::FilesReplica;
use super::state::State;
use crate::disk::{self, beside};
use crate::load::{Base, Differences, Promoted};
use crate::materialise::{Access, MaterialiseError, Options};
use crate::scan::{ChunkCache, ScanLimits, scan};
use crate::tree::{EntryKind, TreeManifest};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl FilesReplica {
    /// Makes the copy the dataset. Its readers have ended. The directory stays where it is; whoever may write above moves it.
    pub fn promote(&mut self) -> Result<Promoted, FilesError> {
        let (begun, done) = (self.beside(".promoting"), self.beside(".promoted"));
        let again = self.promoted.is_some();
        let state = match (&self.promoted, &self.held) {
            (Some(state), _) => state.clone(),
            (None, Some(held)) => {
                held.write(&begun, true).map_err(Self::fault(&begun))?;
                held.clone()
            }
            (None, None) => return Err(FilesError::NotWhole { dir: self.dir.clone() }),
        };
        self.held = None;
        self.promoted = Some(state.clone());
        if fs::symlink_metadata(&done).is_err() {
            let touched = self.restore(&state)?;
            // Where it was cut off before, the last time may have touched anything.
            match again {
                true => disk::sync_all_around(&self.dir),
                false => disk::flush(&self.dir, &touched),
            }
            .map_err(Self::fault(&self.dir))?;
            disk::rename(&begun, &done).map_err(Self::fault(&done))?;
            let above = done.parent().unwrap_or(Path::new("."));
            disk::sync_dir(above).map_err(Self::fault(above))?;
        }
        for stale in [".state", ".next", ".part"].map(|s| self.beside(s)) {
            disk::remove(&stale).map_err(Self::fault(&stale))?;
        }
        Ok(Promoted { at: state.at, digest: state.tree.digest() })
    }

    /// What it began from, by then in its manifest; for whoever compares another's directory with it.
    pub fn promoted_from(&self) -> Option<&TreeManifest> {
        self.promoted.as_ref().map(|s| &*s.tree)
    }

    /// Modes as at home, what is deeper first: what is closed by then is not gone into again. Says what it touched.
    fn restore(&self, state: &State) -> Result<BTreeSet<PathBuf>, FilesError> {
        let mut touched = BTreeSet::new();
        // It may have been closed before it was cut off.
        for entry in state.tree.entries.iter().filter(|e| e.is_dir() && e.mode & 0o700 != 0o700) {
            set_mode(&self.dir, &entry.path, entry.mode | 0o700)?;
        }
        for entry in state.tree.entries.iter().rev() {
            let is_dir = entry.is_dir();
            if !is_dir && !matches!(entry.kind, EntryKind::File { .. }) {
                continue;
            }
            if state.as_home && Access::AsHome.mode(entry.mode, is_dir) == u32::from(entry.mode) {
                continue;
            }
            touched.extend(set_mode(&self.dir, &entry.path, entry.mode)?);
        }
        Ok(touched)
    }

    /// Makes a copy at `at` of a directory that was a dataset and still has the content `digest`: nothing has to be sent for it.
    pub fn adopt(dir: &Path, apart: &Path, options: Options, Base { at, digest }: Base) -> Result<Self, FilesError> {
        let tree = scan(dir, &mut ChunkCache::default(), ScanLimits::of_dataset(options.bytes_max))?;
        if tree.digest() != digest {
            return Err(FilesError::NotWhole { dir: dir.to_owned() });
        }
        for entry in &tree.entries {
            if matches!(entry.kind, EntryKind::Dir | EntryKind::File { .. }) {
                let path = dir.join(&entry.path);
                let mode = options.access.mode(entry.mode, entry.is_dir());
                options.access.set(&path, mode).map_err(Self::fault(&path))?;
            }
        }
        disk::sync_all_around(dir).map_err(Self::fault(dir))?;
        let as_home = options.access == Access::AsHome;
        let path = beside(apart, ".state");
        let state = State { at, tree: Arc::new(tree), as_home };
        state.write(&path, options.durable).map_err(Self::fault(&path))?;
        Ok(Self::open_apart(dir, apart, options))
    }
}

/// Only where it is another: a look costs less than a change. Says what it changed.
fn set_mode(dir: &Path, at: &OsStr, mode: u16) -> Result<Option<PathBuf>, FilesError> {
    let path = dir.join(at);
    let meta = fs::symlink_metadata(&path).map_err(FilesReplica::fault(&path))?;
    if meta.is_symlink() {
        return Err(MaterialiseError::Tampered { path }.into());
    }
    let set = || -> io::Result<()> {
        disk::step()?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode.into()))
    };
    // Whether what is made in a directory has its group is the cloud's to say.
    let counts = if meta.is_dir() { 0o5777 } else { 0o7777 };
    if (meta.permissions().mode() ^ u32::from(mode)) & counts == 0 {
        return Ok(None);
    }
    set().map_err(FilesReplica::fault(&path))?;
    Ok(Some(path))
}

/// What became of `base` on the way to `now`.
pub fn differences(base: &TreeManifest, now: &TreeManifest) -> Differences {
    let mut out = Differences::default();
    for entry in &now.entries {
        match base.get(&entry.path) {
            None => out.added.add(&entry.path),
            Some(before) if before != entry => out.changed.add(&entry.path),
            Some(_) => {}
        }
    }
    base.entries.iter().filter(|e| now.get(&e.path).is_none()).for_each(|e| out.removed.add(&e.path));
    out
}
