//! A live copy of a directory.
//!
//! Enters: whole states and updates. Leaves: the directory, read meanwhile. Its state lies beside it, where the application cannot see it.
//! Always holds: a copy that is cut off at any point is, when it is opened again, the old state or the new one, whole. For this all
//! that is new is written beside it first, then the new state as `.next`; from there on the way forward needs nothing but what is there,
//! and at its end `.next` becomes `.state`. A copy that is not flushed counts as none after a reboot.

use super::FilesError;
use super::state::State;
use crate::disk::{self, beside};
use crate::live::{place, stage};
use crate::materialise::{Access, MaterialiseError, Options};
use crate::pack::receive_onto;
use crate::shelf::{Holds, Shelf};
use crate::store::{ChunkSource, ChunkStore};
use crate::tree::TreeManifest;
use crate::update::{TreeUpdate, UpdateError};
use pumasi_terms::{Digest, Position};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug)]
pub struct FilesReplica {
    pub(super) dir: PathBuf,
    /// Beginning of the names of its state and of what is being written, on the same file system.
    apart: PathBuf,
    pub(super) options: Options,
    pub(super) held: Option<State>,
    /// It is a copy no more, or stops being one.
    pub(super) promoted: Option<State>,
}

impl FilesReplica {
    /// Opens the copy in `dir`, which need not exist yet. A state that cannot be read counts as none: the next `apply` then
    /// rewrites everything.
    pub fn open(dir: impl Into<PathBuf>, options: Options) -> Self {
        let dir = dir.into();
        let apart = dir.clone();
        Self::open_apart(&dir, &apart, options)
    }

    /// As `open`, where the directory above is not ours to write: state and staging are named `apart` and something.
    pub fn open_apart(dir: &Path, apart: &Path, options: Options) -> Self {
        let (dir, apart) = (dir.to_owned(), apart.to_owned());
        let promoted = [".promoted", ".promoting"].iter().find_map(|name| State::read(&beside(&apart, name)));
        let mut copy = Self { dir, apart, options, held: None, promoted };
        if copy.promoted.is_none() {
            copy.held = State::read(&copy.beside(".state")).filter(|_| copy.dir.is_dir());
            copy.roll_forward();
        }
        copy
    }

    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.apart, suffix)
    }

    pub(super) fn fault(path: &Path) -> impl FnOnce(io::Error) -> FilesError + use<> {
        let path = path.to_owned();
        move |source| FilesError::State { path, source }
    }

    /// Ends what was begun before, in this life or in an earlier one. What cannot be ended leaves a copy that claims nothing.
    fn roll_forward(&mut self) {
        let Some(next) = State::read(&self.beside(".next")) else { return };
        // Of the state that it leads from; of none, if that was not to be believed then either.
        let before = self.held.take().or_else(|| State::read(&self.beside(".state")));
        if let Err(e) = self.bring_in(before, next) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "a copy was cut off and is not whole; tried again when it is opened next");
        }
    }

    /// From what is staged. Until it is in, the copy claims nothing.
    fn bring_in(&mut self, before: Option<State>, next: State) -> Result<(), FilesError> {
        let (from, to, staging) = (self.beside(".next"), self.beside(".state"), self.beside(".part"));
        place(before.as_ref().map(|s| &*s.tree), &next.tree, (&self.dir, &staging), &self.options)?;
        disk::rename(&from, &to).map_err(Self::fault(&to))?;
        match to.parent() {
            Some(above) if self.options.durable => disk::sync_dir(above).map_err(Self::fault(above))?,
            _ => {}
        }
        self.held = Some(next);
        disk::remove(&staging).map_err(Self::fault(&staging))
    }

    pub fn position(&self) -> Option<Position> {
        self.held.as_ref().map(|s| s.at)
    }

    pub fn tree(&self) -> Option<&TreeManifest> {
        self.held.as_ref().map(|s| &*s.tree)
    }

    /// The home says that nothing changed up to `as_of` since the tree with this digest.
    pub fn advance(&mut self, tree: &Digest, as_of: Position) -> bool {
        match &mut self.held {
            Some(held) if held.tree.digest() == *tree => {
                held.at = as_of.max(held.at);
                true
            }
            _ => false,
        }
    }

    /// Brings the copy to `tree`. After an error it is as it was, or claims nothing; then the next `apply` repairs it.
    pub fn apply(&mut self, tree: TreeManifest, chunks: &dyn ChunkSource, as_of: Position) -> Result<(), FilesError> {
        if let Some(done) = &self.promoted {
            return Err(FilesError::Promoted { dir: self.dir.clone(), at: done.at });
        }
        if self.held.is_none() {
            self.roll_forward();
        }
        if let Some(held) = self.position().filter(|held| *held > as_of) {
            return Err(FilesError::Older { held, offered: as_of });
        }
        if self.held.is_none() {
            // What is there leads nowhere: everything is written anew.
            for stale in [self.beside(".next"), self.beside(".state")] {
                disk::remove_file(&stale).map_err(Self::fault(&stale))?;
            }
        }
        let staging = self.beside(".part");
        let held = self.tree();
        if let Err(e) = stage(held, &tree, chunks, (&self.dir, &staging), &self.options) {
            if matches!(e, MaterialiseError::Tampered { .. }) {
                self.held = None;
            }
            return Err(e.into());
        }
        let as_home = self.options.access == Access::AsHome && self.held.as_ref().is_none_or(|s| s.as_home);
        let next = State { at: as_of, tree: Arc::new(tree), as_home };
        let path = self.beside(".next");
        next.write(&path, self.options.durable).map_err(Self::fault(&path))?;
        let before = self.held.take();
        self.bring_in(before, next)
    }

    /// As `apply`, of chunks that were received into `store`, and of those that this copy or `others` have. They leave the store as
    /// they are built in, but for those in `keep`.
    pub(crate) fn apply_stored(
        &mut self,
        tree: TreeManifest,
        (store, mut others): (&mut ChunkStore, Vec<Holds>),
        keep: &BTreeSet<Digest>,
        as_of: Position,
    ) -> Result<(), FilesError> {
        others.extend(self.holds());
        self.apply(tree, &Shelf::new(store, others, keep), as_of)
    }

    pub(crate) fn holds(&self) -> Option<Holds> {
        self.held.as_ref().map(|held| (self.dir.clone(), held.tree.clone()))
    }

    /// Brings the copy forward by an update. After an error it is as it was, or claims nothing; send a whole state then.
    pub fn bring_forward(
        &mut self,
        update: &[u8],
        store: &mut ChunkStore,
        keep: &BTreeSet<Digest>,
    ) -> Result<Position, FilesError> {
        let update = TreeUpdate::decode(update)?;
        if self.advance(&update.tree, update.at) {
            // Its answer was lost, and it was sent again; or another way led to the same.
            if let Some(held) = self.held.as_ref().filter(|_| self.options.durable) {
                let path = self.beside(".state");
                held.write(&path, true).map_err(Self::fault(&path))?;
            }
            return Ok(update.at);
        }
        let base = self.tree().ok_or(UpdateError::OtherBase { wanted: update.base })?;
        let tree = update.tree(base)?;
        if tree.total_bytes > self.options.bytes_max {
            let (bytes, bytes_max) = (tree.total_bytes, self.options.bytes_max);
            return Err(MaterialiseError::TooLarge { bytes, bytes_max }.into());
        }
        let shelf = Shelf::new(store, self.holds().into_iter().collect(), keep);
        receive_onto(update.pack, &shelf, &tree.digests())?;
        match tree.chunks().filter(|c| !shelf.has(&c.digest)).count() {
            0 => self.apply(tree, &shelf, update.at).map(|()| update.at),
            chunks => Err(FilesError::Incomplete { chunks }),
        }
    }
}
