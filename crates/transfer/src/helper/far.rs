//! What a borrower sent: chunks, applications, and the live copies of its datasets.
//!
//! Always holds: a chunk is kept only if a manifest of the lease asked for it and its digest fits; a copy says how far it is and
//! never more; nothing exceeds the storage that the lease agreed.

use super::words::{FarPlace, Refusal, Reply, Set, Why, digests_to_bytes};
use crate::chunk::digest_of;
use crate::load::{self, Base, Chunks, CopyPlace, Replica, failed};
use crate::materialise::{Options, build};
use crate::pack::receive_pack;
use crate::shelf::{Holds, Shelf};
use crate::store::ChunkStore;
use crate::tree::TreeManifest;
use pumasi_terms::{DatasetName, Digest, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

/// Manifests of one lease whose chunks are being sent.
const PENDING_MAX: usize = 8;

#[derive(Debug)]
pub struct Far {
    place: FarPlace,
    chunks: ChunkStore,
    pending: Vec<(Digest, TreeManifest)>,
    sets: BTreeMap<DatasetName, Box<dyn Replica>>,
    /// Two helpers in one place would take each other's chunks away.
    _lock: File,
}

type Answer = Result<(Reply, Vec<u8>), Refusal>;

/// Where `Unpack` builds, below `work`.
pub fn unpacked(digest: &Digest) -> String {
    format!("unpacked-{}", digest.to_string().trim_start_matches("blake3:"))
}

impl Far {
    pub fn open(place: FarPlace) -> Result<Self, Refusal> {
        crate::store::private_dir(&place.work).map_err(failed)?;
        let lock = File::options().write(true).create(true).truncate(false).open(place.work.join("lock"));
        let lock = lock.map_err(failed)?;
        if place.lock {
            lock.try_lock().map_err(|e| failed(format!("another helper still works on this lease ({e}); retry")))?;
        }
        let chunks = ChunkStore::open(place.work.join("chunks"), place.bytes_max).map_err(failed)?;
        Ok(Self { place, chunks, pending: Vec::new(), sets: BTreeMap::new(), _lock: lock })
    }

    /// What copies hold in files of their own.
    fn holds(&self) -> Vec<Holds> {
        self.sets.values().filter_map(|copy| copy.holds()).collect()
    }

    fn waited_for(&self) -> BTreeSet<Digest> {
        self.pending.iter().flat_map(|(_, tree)| tree.digests()).collect()
    }

    pub fn missing(&mut self, bytes: &[u8]) -> Answer {
        let tree = TreeManifest::parse(bytes).map_err(|e| Refusal::new(Why::BadTree, e))?;
        let digest = digest_of(bytes);
        if tree.total_bytes > self.place.bytes_max {
            let text = format!("{} bytes; the lease agreed on {}", tree.total_bytes, self.place.bytes_max);
            return Err(Refusal::new(Why::NoStorage, text));
        }
        let missing = self.chunks.missing(&tree).into_iter().map(|c| c.digest);
        // What copies have need not come again.
        let held: BTreeSet<Digest> = self.holds().iter().flat_map(|(_, tree)| tree.digests()).collect();
        let missing = digests_to_bytes(missing.filter(|d| !held.contains(d)));
        self.pending.retain(|(d, _)| *d != digest);
        if self.pending.len() >= PENDING_MAX {
            self.pending.remove(0);
        }
        self.pending.push((digest, tree));
        Ok((Reply::Digests, missing))
    }

    pub fn receive(&mut self, pack: &[u8]) -> Answer {
        // What was asked for is known to this life of the helper only; to the sender it is no fault of its own.
        if self.pending.is_empty() {
            return Err(failed("nothing was asked for since this helper was started; ask again for what is missing"));
        }
        let asked = self.waited_for();
        receive_pack(pack, &mut self.chunks, &asked).map_err(|e| Refusal::new(Why::BadPack, e))?;
        Ok((Reply::Done, Vec::new()))
    }

    /// A manifest whose chunks were asked for; that is over with it.
    fn asked(&mut self, digest: &Digest) -> Result<TreeManifest, Refusal> {
        let at = self.pending.iter().position(|(d, _)| d == digest);
        // To the sender it is no fault of its own.
        let at = at.ok_or_else(|| failed("this helper was started since; ask again for what is missing"))?;
        Ok(self.pending.remove(at).1)
    }

    /// Beside what an earlier crash left; whoever asked moves it to where it shall be.
    pub fn unpack(&mut self, digest: &Digest) -> Answer {
        let tree = self.asked(digest)?;
        let dest = self.place.work.join(unpacked(digest));
        crate::erase::erase(&dest).map_err(failed)?;
        let options = Options { access: self.place.access, bytes_max: self.place.bytes_max, ..Options::default() };
        // Its chunks stay, for the next one that has many of them.
        let (holds, keep) = (self.holds(), tree.digests());
        let shelf = Shelf::new(&mut self.chunks, holds, &keep);
        build(&tree, &shelf, &dest, &options).map_err(|e| Refusal::new(Why::BadTree, e))?;
        Ok((Reply::Done, Vec::new()))
    }

    /// The copy as this helper holds it, or as an earlier one left it.
    fn take(&mut self, set: &Set) -> Result<Box<dyn Replica>, Refusal> {
        if let Some(copy) = self.sets.remove(&set.name) {
            return Ok(copy);
        }
        let state = self.place.work.join("state");
        crate::store::private_dir(&state).map_err(failed)?;
        let FarPlace { access, layers, bytes_max, durable, .. } = self.place;
        let (dir, apart) = (self.place.data.join(set.name.as_str()), state.join(set.name.as_str()));
        load::replica(set.kind, CopyPlace { dir, file: set.file.clone(), apart, access, layers, bytes_max, durable })
    }

    /// Does something with a copy, and with the chunks that are here for it.
    fn with<T>(
        &mut self,
        set: &Set,
        work: impl FnOnce(&mut dyn Replica, Chunks<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut copy = self.take(set)?;
        let (keep, others) = (self.waited_for(), self.holds());
        let done = work(&mut *copy, Chunks { store: &mut self.chunks, others, keep: &keep });
        self.sets.insert(set.name.clone(), copy);
        done
    }

    pub fn hold(&mut self, sets: &[Set]) -> Answer {
        let mut at = Vec::new();
        for set in sets {
            // What cannot be opened claims nothing, and the next whole state replaces it.
            let held = self.with(set, |copy, _| Ok(copy.position())).ok().flatten();
            at.push((set.name.clone(), held));
        }
        Ok((Reply::Held { at }, Vec::new()))
    }

    /// A whole state of a dataset: the first copy, or any later one.
    pub fn put(&mut self, set: &Set, digest: &Digest, to: Position) -> Answer {
        let tree = self.asked(digest)?;
        let result = self.with(set, |copy, chunks| {
            copy.base(tree, chunks, to)?;
            Ok(copy.position().unwrap_or_default())
        });
        self.tidy();
        result.map(|at| (Reply::At { at }, Vec::new()))
    }

    pub fn change(&mut self, set: &Set, bytes: &[u8]) -> Answer {
        let result = self.with(set, |copy, chunks| copy.apply(bytes, chunks));
        self.tidy();
        result.map(|at| (Reply::At { at }, Vec::new()))
    }

    pub fn promote(&mut self, set: &Set) -> Answer {
        let promoted = self.with(set, |copy, _| copy.promote())?;
        Ok((Reply::Promoted(promoted), Vec::new()))
    }

    pub fn adopt(&mut self, set: &Set, base: Base) -> Answer {
        self.with(set, |copy, _| copy.adopt(base))?;
        Ok((Reply::At { at: base.at }, Vec::new()))
    }

    pub fn digest(&mut self, set: &Set) -> Answer {
        let digest = self.with(set, |copy, _| copy.digest())?;
        Ok((Reply::Digest { digest }, Vec::new()))
    }

    /// Chunks that nothing waits for make room, when there is little: those of the bundle, of which the next one may have many.
    fn tidy(&mut self) {
        let usage = self.chunks.usage();
        if usage.bytes * 2 < usage.bytes_max {
            return;
        }
        let keep = self.waited_for();
        if let Err(e) = self.chunks.gc(&keep) {
            tracing::warn!(error = %e, "chunks that nothing uses were not removed");
        }
    }
}
