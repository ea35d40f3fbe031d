//! Uploads of bundles under way: who asked for which chunks, and the store of each customer that they come into.
//!
//! Enters: manifests and packs of principals. Leaves: chunks that were asked for.
//! Always holds: what one principal asks for never stands in the way of another; everything asked for ends after a while; chunks
//! that nobody waits for go; nobody completes what it did not ask for, or more than its customer's share.

use crate::node::Locked;
use pumasi_api::{Fault, Problem};
use pumasi_terms::{BootMs, Digest};
use pumasi_transfer::{ChunkStore, TreeManifest, receive_pack};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of the chunks of one customer.
const BYTES_MAX: u64 = 64 << 30;
/// Of the unpacked bundles of one customer, with those of the last day that nothing names any more.
const UNPACKED_BYTES_MAX: u64 = 64 << 30;
const UNPACKED_FILES_MAX: u64 = 4 << 20;
const SIZES_MAX: usize = 1_024;
/// So long a bundle that was set aside counts still.
const UNPACKED_MS: u64 = 24 * 3_600_000;
/// Of what one principal has asked for and not completed.
const BYTES_EACH_MAX: u64 = 16 << 30;
/// Uploads of one principal at a time; its oldest goes first.
const PENDING_MAX: usize = 8;
/// Chunks of all pending uploads of one principal, and of all.
const CHUNKS_EACH_MAX: usize = 1 << 20;
const CHUNKS_MAX: usize = 4 << 20;
/// An upload from which nothing is heard for so long is over.
const PENDING_MS: u64 = 3_600_000;
/// Between two collections.
const COLLECT_MS: u64 = 600_000;

#[derive(Debug)]
struct Pending {
    tree: Digest,
    bytes: u64,
    chunks: BTreeSet<Digest>,
    at: BootMs,
}

/// What unpacking a bundle takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub bytes: u64,
    pub files: u64,
    at: BootMs,
}

impl Size {
    pub fn of(tree: &TreeManifest, at: BootMs) -> Self {
        Self { bytes: tree.total_bytes, files: tree.entries.len() as u64, at }
    }
}

#[derive(Debug, Default)]
pub struct Uploads {
    /// Of bundles that were asked about: a manifest of many files is not read each time.
    sizes: Locked<BTreeMap<(PathBuf, Digest), Size>>,
    /// Of each customer's directory.
    unpacked: Locked<BTreeMap<PathBuf, BTreeMap<Digest, Size>>>,
    pending: Locked<BTreeMap<String, Vec<Pending>>>,
    stores: Locked<BTreeMap<PathBuf, Arc<Locked<ChunkStore>>>>,
    collected_at: Locked<Option<BootMs>>,
}

impl Uploads {
    /// Each is opened once: whoever opens it anew would take away what others are just writing.
    pub fn store(&self, dir: PathBuf) -> Result<Arc<Locked<ChunkStore>>, Problem> {
        let mut held = self.stores.lock();
        if let Some(store) = held.get(&dir) {
            return Ok(store.clone());
        }
        let store = ChunkStore::open(&dir, BYTES_MAX).map_err(|e| Problem::ours(e.to_string()))?;
        Ok(held.entry(dir).or_insert(Arc::new(Locked::new(store))).clone())
    }

    /// What lies below `dir` is over.
    pub fn forget(&self, dir: &Path) {
        self.stores.lock().retain(|at, _| !at.starts_with(dir));
        self.unpacked.lock().retain(|at, _| !at.starts_with(dir));
    }

    /// Whether this principal asked for it, and not too long ago.
    pub fn asked(&self, who: &str, tree: &Digest, now: BootMs) -> bool {
        let mut pending = self.pending.lock();
        drop_old(&mut pending, now);
        pending.get(who).is_some_and(|own| own.iter().any(|p| p.tree == *tree))
    }

    /// What unpacking a bundle took that stands below `dir`; `manifest` is read the first time.
    pub fn size_of(
        &self,
        dir: &Path,
        digest: &Digest,
        manifest: impl FnOnce() -> Result<TreeManifest, Problem>,
    ) -> Result<Size, Problem> {
        let key = (dir.to_owned(), *digest);
        if let Some(size) = self.sizes.lock().get(&key) {
            return Ok(*size);
        }
        let size = Size::of(&manifest()?, BootMs(0));
        let mut sizes = self.sizes.lock();
        if sizes.len() >= SIZES_MAX {
            sizes.clear();
        }
        sizes.insert(key, size);
        Ok(size)
    }

    /// Counts a bundle that is to be unpacked below `dir`, or refuses it. `stands`: whether one is there; `standing`: those that a daemon
    /// before unpacked.
    pub fn admit(
        &self,
        dir: &Path,
        (digest, size): (Digest, Size),
        stands: impl Fn(&Digest) -> bool,
        standing: impl FnOnce() -> BTreeMap<Digest, Size>,
    ) -> Result<(), Problem> {
        let mut all = self.unpacked.lock();
        let own = all.entry(dir.to_owned()).or_insert_with(standing);
        own.retain(|d, s| *d != digest && (stands(d) || size.at.since(s.at) < UNPACKED_MS));
        let (bytes, files) = own
            .values()
            .fold((size.bytes, size.files), |(b, f), s| (b.saturating_add(s.bytes), f.saturating_add(s.files)));
        if bytes > UNPACKED_BYTES_MAX || files > UNPACKED_FILES_MAX {
            let text = format!(
                "with this bundle the customer's would have {bytes} bytes in {files} files; at most {UNPACKED_BYTES_MAX} in {UNPACKED_FILES_MAX}, with those that were replaced in the last day"
            );
            return Err(Problem::new(422, "too_large", Fault::Input, text));
        }
        own.insert(digest, size);
        Ok(())
    }

    /// Remembers what a principal asks for.
    pub fn ask(&self, who: &str, tree: &TreeManifest, now: BootMs) -> Result<(), Problem> {
        let mut pending = self.pending.lock();
        let (digest, chunks) = (tree.digest(), tree.digests());
        if tree.total_bytes > BYTES_EACH_MAX || chunks.len() > CHUNKS_EACH_MAX {
            let text = format!("a bundle has at most {BYTES_EACH_MAX} bytes in {CHUNKS_EACH_MAX} chunks");
            return Err(Problem::new(422, "too_large", Fault::Input, text));
        }
        drop_old(&mut pending, now);
        let of_others: usize =
            pending.iter().filter(|(name, _)| *name != who).flat_map(|(_, p)| p).map(|p| p.chunks.len()).sum();
        if of_others + chunks.len() > CHUNKS_MAX {
            return Err(Problem::unavailable("too many bundles are being uploaded; try again later"));
        }
        let own = pending.entry(who.to_owned()).or_default();
        own.retain(|p| p.tree != digest);
        own.push(Pending { tree: digest, bytes: tree.total_bytes, chunks, at: now });
        let fits = |own: &Vec<Pending>| {
            own.len() <= PENDING_MAX
                && own.iter().map(|p| p.bytes).sum::<u64>() <= BYTES_EACH_MAX
                && own.iter().map(|p| p.chunks.len()).sum::<usize>() <= CHUNKS_EACH_MAX
        };
        while !fits(own) {
            own.remove(0);
        }
        Ok(())
    }

    /// Chunks that this principal asked for and nobody else's.
    pub fn receive(&self, who: &str, pack: &[u8], store: &Locked<ChunkStore>, now: BootMs) -> Result<(), Problem> {
        let asked: BTreeSet<Digest> = {
            let mut pending = self.pending.lock();
            drop_old(&mut pending, now);
            let mut asked = BTreeSet::new();
            for upload in pending.get_mut(who).into_iter().flatten() {
                upload.at = now;
                asked.extend(upload.chunks.iter().copied());
            }
            asked
        };
        receive_pack(pack, &mut store.lock(), &asked).map(|_| ()).map_err(|e| Problem::bad_request(e.to_string()))
    }

    /// The upload is complete, or its principal gave it up.
    pub fn done(&self, who: &str, tree: &Digest) {
        let mut pending = self.pending.lock();
        if let Some(own) = pending.get_mut(who) {
            own.retain(|p| p.tree != *tree);
        }
        pending.retain(|_, own| !own.is_empty());
    }

    /// Whether it is time to collect again.
    pub fn due(&self, now: BootMs) -> bool {
        let mut at = self.collected_at.lock();
        let due = at.is_none_or(|at| now.since(at) >= COLLECT_MS);
        if due {
            *at = Some(now);
        }
        due
    }

    /// Removes chunks that neither an upload under way waits for nor a bundle in use is made of: the next version of that
    /// finds them. Unpacked bundles hold their own bytes.
    pub fn collect(&self, dir: &Path, in_use: BTreeSet<Digest>, now: BootMs) -> Result<u64, Problem> {
        let Some(store) = self.stores.lock().get(dir).cloned() else { return Ok(0) };
        // The store first: whoever asks meanwhile finds missing what went, and sends it.
        let mut store = store.lock();
        let mut keep = in_use;
        {
            let mut pending = self.pending.lock();
            drop_old(&mut pending, now);
            keep.extend(pending.values().flatten().flat_map(|p| p.chunks.iter().copied()));
        }
        store.gc(&keep).map_err(|e| Problem::ours(e.to_string()))
    }
}

fn drop_old(pending: &mut BTreeMap<String, Vec<Pending>>, now: BootMs) {
    pending.retain(|_, own| {
        own.retain(|p| now.since(p.at) < PENDING_MS);
        !own.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_transfer::{ChunkRef, encode_pack};

    fn bundle(n: u32) -> (TreeManifest, Vec<u8>) {
        let dir = std::env::temp_dir().join(format!("pumasi-uploads-{:032x}", crate::clock::entropy()));
        let bytes = [&n.to_le_bytes()[..], &[7; 5_000]].concat();
        let digest = Digest(*blake3::hash(&bytes).as_bytes());
        let mut source = ChunkStore::open(&dir, 1 << 20).unwrap();
        source.put(digest, &bytes).unwrap();
        let tree = TreeManifest::of_file("a", vec![ChunkRef { digest, len: bytes.len() as u32 }]).unwrap();
        let pack = encode_pack(&source, &[digest]).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        (tree, pack)
    }

    #[test]
    fn junk_of_one_customer_never_fails_anothers_upload() {
        let dir = std::env::temp_dir().join(format!("pumasi-uploads-{:032x}", crate::clock::entropy()));
        let uploads = Uploads::default();
        let store = uploads.store(dir.clone()).unwrap();
        assert!(Arc::ptr_eq(&store, &uploads.store(dir.clone()).unwrap()), "one store");
        let now = BootMs(1);
        let (mine, pack) = bundle(0);
        uploads.ask("kim", &mine, now).unwrap();
        for n in 1..600 {
            uploads.ask("eve", &bundle(n).0, now).unwrap();
        }
        assert_eq!(uploads.pending.lock()["eve"].len(), PENDING_MAX);
        assert!(uploads.receive("eve", &pack, &store, now).is_err(), "nobody sends what another asked for");
        uploads.receive("kim", &pack, &store, now).unwrap();
        assert!(store.lock().missing(&mine).is_empty());
        assert!(uploads.asked("kim", &mine.digest(), now) && !uploads.asked("eve", &mine.digest(), now));
        assert_eq!(uploads.collect(&dir, BTreeSet::new(), now).unwrap(), 0, "what is waited for stays");
        uploads.done("kim", &mine.digest());
        assert!(uploads.collect(&dir, BTreeSet::new(), now).unwrap() > 0);
        assert_eq!(store.lock().usage().chunks, 0);
        // And what nobody goes on with ends by itself.
        uploads.collect(&dir, BTreeSet::new(), BootMs(1 + PENDING_MS)).unwrap();
        assert!(uploads.pending.lock().is_empty());
        assert!(uploads.receive("eve", &pack, &store, BootMs(1 + PENDING_MS)).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_a_customer_unpacks_is_bounded_and_what_was_replaced_counts_for_a_day() {
        let (uploads, dir) = (Uploads::default(), Path::new("bundles/of/acme"));
        let digest = |n: u8| Digest([n; 32]);
        let size = |bytes, at| Size { bytes, files: 1, at: BootMs(at) };
        let admit = |n, bytes, at, stands: bool| {
            uploads.admit(dir, (digest(n), size(bytes, at)), |_| stands, || [(digest(0), size(1 << 30, 0))].into())
        };
        admit(1, 62 << 30, 1, true).unwrap();
        let refused = admit(2, 2 << 30, 2, true).unwrap_err();
        assert!(refused.detail.contains("at most"), "{refused}");
        admit(1, 62 << 30, 3, true).unwrap();
        admit(2, 1 << 30, 3, false).unwrap();
        assert!(admit(3, 1, 4, false).is_err(), "set aside is not gone");
        admit(3, 1, 3 + UNPACKED_MS, false).unwrap();
        let many = Size { bytes: 1, files: UNPACKED_FILES_MAX, at: BootMs(9 + UNPACKED_MS) };
        assert!(uploads.admit(dir, (digest(4), many), |_| true, BTreeMap::new).is_err());
    }

    #[test]
    fn two_uploads_at_once_do_not_disturb_each_other() {
        let dir = std::env::temp_dir().join(format!("pumasi-uploads-{:032x}", crate::clock::entropy()));
        let uploads = Uploads::default();
        std::thread::scope(|scope| {
            for who in ["a", "b", "c", "d"] {
                let (uploads, dir) = (&uploads, dir.clone());
                scope.spawn(move || {
                    for n in 0..20 {
                        let (tree, pack) = bundle(n * 10 + u32::from(who.as_bytes()[0]) * 1_000);
                        let store = uploads.store(dir.clone()).unwrap();
                        uploads.ask(who, &tree, BootMs(1)).unwrap();
                        uploads.receive(who, &pack, &store, BootMs(1)).unwrap();
                        assert!(store.lock().missing(&tree).is_empty());
                        uploads.done(who, &tree.digest());
                    }
                });
            }
        });
        std::fs::remove_dir_all(dir).unwrap();
    }
}
