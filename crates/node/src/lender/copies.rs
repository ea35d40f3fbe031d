//! What borrowers send: chunks, applications, and the live copies of their datasets, each inside its lease's directory.
//!
//! Always holds: a chunk is kept only if a manifest of the lease asked for it and its digest fits; a copy says how far it is and
//! never more; nothing exceeds the storage that the lease agreed.

use crate::bundles::short;
use crate::node::Locked;
use crate::wire::{CopyState, SendTree, SentDataset};
use pumasi_api::{Fault, Problem};
use pumasi_lease::LentLease;
use pumasi_route::table::Position;
use pumasi_terms::service::DatasetKind;
use pumasi_terms::{DatasetName, Digest, LeaseId};
use pumasi_transfer::sqlite::{PageBatch, ReplicaError, ReplicaOptions, SqliteReplica};
use pumasi_transfer::{
    Access, ChunkStore, FilesError, FilesReplica, MaterialiseError, Options, TreeManifest, Watermark, build,
    receive_pack,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Manifests of one lease whose chunks are being sent.
const PENDING_MAX: usize = 8;

#[derive(Default)]
pub struct Copies {
    leases: Locked<BTreeMap<LeaseId, Arc<Locked<Held>>>>,
}

struct Held {
    dir: PathBuf,
    chunks: ChunkStore,
    pending: Vec<TreeManifest>,
    sets: BTreeMap<DatasetName, Copy>,
    bytes_max: u64,
}

struct Copy {
    replica: Replica,
    position: Option<Position>,
}

enum Replica {
    Files(FilesReplica),
    Sqlite(Box<SqliteReplica>),
    /// The home has no database yet.
    Empty,
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Copies({})", self.leases.lock().len())
    }
}

fn position(w: Watermark) -> Position {
    Position { generation: w.generation, as_of_ms: w.as_of_ms }
}
fn watermark(p: Position) -> Watermark {
    Watermark { generation: p.generation, as_of_ms: p.as_of_ms }
}

fn peer(code: &str, detail: impl Into<String>) -> Problem {
    Problem::new(422, code, Fault::Peer, detail)
}

/// Beside the copy, where applications cannot see it.
fn marker(lease_dir: &Path, name: &DatasetName) -> PathBuf {
    lease_dir.join("data").join(format!("{name}.ready"))
}

// The top directory is closed to everybody but the owner's group by the engine; inside, modes are plain.
fn options(bytes_max: u64) -> Options {
    Options { access: Access::Everyone, bytes_max, durable: false }
}
fn replica_options(bytes_max: u64) -> ReplicaOptions {
    ReplicaOptions { access: Access::Everyone, bytes_max, ..ReplicaOptions::default() }
}

impl Copies {
    fn held(&self, lent: &LentLease, dir: &Path) -> Result<Arc<Locked<Held>>, Problem> {
        let mut leases = self.leases.lock();
        if let Some(held) = leases.get(lent.id()) {
            return Ok(held.clone());
        }
        let bytes_max = lent.lease.requirement.storage_bytes;
        let chunks = ChunkStore::open(dir.join("chunks"), bytes_max).map_err(|e| Problem::ours(e.to_string()))?;
        let held = Held { dir: dir.to_owned(), chunks, pending: Vec::new(), sets: BTreeMap::new(), bytes_max };
        let held = Arc::new(Locked::new(held));
        leases.insert(lent.id().clone(), held.clone());
        Ok(held)
    }

    pub fn dir(&self, lease_dir: &Path, name: &DatasetName) -> PathBuf {
        lease_dir.join("data").join(name.as_str())
    }

    /// Whether the first copy is whole. It is on disk, so that a restart of this daemon takes nothing from those that serve.
    pub fn ready(&self, lease_dir: &Path, name: &DatasetName) -> bool {
        marker(lease_dir, name).exists()
    }

    /// After a restart: readers of a database need this daemon to hold it open as well.
    pub fn reopen(&self, lent: &LentLease, dir: &Path, sets: &[SentDataset]) {
        if self.leases.lock().contains_key(lent.id()) || !sets.iter().any(|s| self.ready(dir, &s.name)) {
            return;
        }
        let Ok(held) = self.held(lent, dir) else { return };
        let mut held = held.lock();
        for set in sets.iter().filter(|s| self.ready(dir, &s.name)) {
            let target = self.dir(dir, &set.name);
            let copy = match (set.kind, &set.file) {
                (DatasetKind::Files, _) => {
                    let replica = FilesReplica::open(&target, options(held.bytes_max));
                    Copy { position: replica.watermark().map(position), replica: Replica::Files(replica) }
                }
                (DatasetKind::Sqlite, Some(file)) => {
                    match SqliteReplica::open(target.join(file), replica_options(held.bytes_max)) {
                        Ok(replica) => Copy {
                            position: replica.watermark().map(position),
                            replica: Replica::Sqlite(Box::new(replica)),
                        },
                        Err(_) => Copy { replica: Replica::Empty, position: None },
                    }
                }
                (DatasetKind::Sqlite, None) => continue,
            };
            held.sets.insert(set.name.clone(), copy);
        }
    }

    /// The least position over the lease's datasets, for the gateway.
    pub fn positions(&self) -> BTreeMap<LeaseId, Position> {
        let leases: Vec<_> = self.leases.lock().iter().map(|(id, held)| (id.clone(), held.clone())).collect();
        leases
            .into_iter()
            .filter_map(|(id, held)| {
                let held = held.lock();
                let least = held.sets.values().map(|c| c.position.unwrap_or_default()).min()?;
                Some((id, least))
            })
            .collect()
    }

    /// Lets go of every file handle of a lease, so that it can be erased.
    pub fn close(&self, lease: &LeaseId) {
        self.leases.lock().remove(lease);
    }

    pub fn missing(&self, lent: &LentLease, dir: &Path, tree: TreeManifest) -> Result<Vec<Digest>, Problem> {
        tree.check().map_err(|e| peer("bad_tree", e.to_string()))?;
        let held = self.held(lent, dir)?;
        let mut held = held.lock();
        if tree.total_bytes > held.bytes_max {
            return Err(peer(
                "no_storage",
                format!("{} bytes; the lease agreed on {}", tree.total_bytes, held.bytes_max),
            ));
        }
        let missing = held.chunks.missing(&tree).into_iter().map(|c| c.digest).collect();
        if held.pending.len() >= PENDING_MAX {
            held.pending.remove(0);
        }
        held.pending.push(tree);
        Ok(missing)
    }

    pub fn receive(&self, lent: &LentLease, dir: &Path, pack: &[u8]) -> Result<(), Problem> {
        let held = self.held(lent, dir)?;
        let mut held = held.lock();
        let asked: BTreeSet<Digest> = held.pending.iter().flat_map(TreeManifest::digests).collect();
        receive_pack(pack, &mut held.chunks, &asked).map(|_| ()).map_err(|e| peer("bad_pack", e.to_string()))
    }

    /// Unpacks a bundle beside the `current` one, whose instances may still run. Whatever else lies there goes, and all together
    /// stays within what the lease agreed, in bytes as unpacked and in files.
    pub fn unpack(
        &self,
        lent: &LentLease,
        dir: &Path,
        tree: &TreeManifest,
        digest: &Digest,
        current: Option<&Digest>,
    ) -> Result<(), Problem> {
        tree.check().map_err(|e| peer("bad_tree", e.to_string()))?;
        if tree.digest() != *digest {
            return Err(peer(
                "bad_digest",
                format!("the manifest has digest {}, {digest} was announced", tree.digest()),
            ));
        }
        let held = self.held(lent, dir)?;
        let mut held = held.lock();
        let place = dir.join("application");
        let dest = place.join(short(digest));
        if !dest.exists() {
            only(&place, current).map_err(|e| Problem::ours(format!("{}: {e}", place.display())))?;
            has_room(&place, tree, held.bytes_max)?;
            let options = Options { access: Access::Everyone, bytes_max: held.bytes_max, ..Options::default() };
            build(tree, &held.chunks, &dest, &options).map_err(|e| peer("bad_tree", e.to_string()))?;
        }
        held.pending.retain(|p| p.digest() != *digest);
        Ok(())
    }

    /// An unpacked bundle that was refused after all.
    pub fn discard(&self, lease: &LeaseId, dir: &Path, digest: &Digest) -> Result<(), Problem> {
        let held = self.leases.lock().get(lease).cloned();
        // Nobody unpacks the same one meanwhile.
        let _held = held.as_ref().map(|h| h.lock());
        let dest = dir.join("application").join(short(digest));
        pumasi_transfer::erase(&dest).map_err(|e| Problem::ours(e.to_string()))
    }

    /// A whole state of a dataset: the first copy, or any later one.
    pub fn put(&self, lent: &LentLease, dir: &Path, set: &SentDataset, sent: SendTree) -> Result<CopyState, Problem> {
        let held = self.held(lent, dir)?;
        let mut held = held.lock();
        let target = held.dir.join("data").join(set.name.as_str());
        let bytes_max = held.bytes_max;
        let digest = sent.tree.digest();
        let mut copy = held.sets.remove(&set.name).unwrap_or(Copy { replica: Replica::Empty, position: None });
        let result = copy.put(set, &target, &held.chunks, bytes_max, sent);
        held.pending.retain(|p| p.digest() != digest);
        held.tidy(&copy);
        let marked = result.and_then(|()| {
            let path = marker(&held.dir, &set.name);
            if path.exists() {
                Ok(())
            } else {
                std::fs::write(&path, b"").map_err(|e| Problem::ours(format!("{}: {e}", path.display())))
            }
        });
        let state = marked.map(|()| CopyState { position: copy.position.unwrap_or_default() });
        held.sets.insert(set.name.clone(), copy);
        state
    }

    pub fn batch(&self, lent: &LentLease, dir: &Path, set: &SentDataset, bytes: &[u8]) -> Result<CopyState, Problem> {
        if set.kind == DatasetKind::Files {
            return self.held(lent, dir)?.lock().bring_forward(set, bytes);
        }
        let batch = PageBatch::decode(bytes).map_err(|e| peer("bad_batch", e.to_string()))?;
        let held = self.held(lent, dir)?;
        let mut held = held.lock();
        let Some(copy) = held.sets.get_mut(&set.name) else { return Err(needs_base("there is no copy yet")) };
        let Replica::Sqlite(replica) = &mut copy.replica else { return Err(needs_base("there is no database yet")) };
        let applied = replica.apply(&batch).map_err(replica_problem)?;
        copy.position = Some(position(applied.at));
        Ok(CopyState { position: position(applied.at) })
    }
}

/// Bundles of generations before the current one, and builds that were broken off.
fn only(place: &Path, current: Option<&Digest>) -> std::io::Result<()> {
    let kept = current.map(short);
    let entries = match std::fs::read_dir(place) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str() != kept.as_deref() {
            pumasi_transfer::erase(&entry.path()).map_err(std::io::Error::other)?;
        }
    }
    Ok(())
}

/// A lease has a file for each of so many bytes that it agreed on, and some more.
const BYTES_PER_FILE: u64 = 4 << 10;
const FILES_MIN: u64 = 1_024;

/// Counted as unpacked: a chunk that repeats costs each time.
fn has_room(place: &Path, tree: &TreeManifest, bytes_max: u64) -> Result<(), Problem> {
    let there = match place.exists() {
        true => pumasi_transfer::remains(place).map_err(|e| Problem::ours(e.to_string()))?,
        false => Default::default(),
    };
    let (bytes, files) =
        (there.bytes.saturating_add(tree.total_bytes), there.files.saturating_add(tree.entries.len() as u64));
    let files_max = FILES_MIN.saturating_add(bytes_max / BYTES_PER_FILE);
    if bytes > bytes_max || files > files_max {
        let text = format!(
            "unpacked it would be {bytes} bytes in {files} files; the lease agreed on {bytes_max} bytes, {files_max} files"
        );
        return Err(peer("no_storage", text));
    }
    Ok(())
}

fn needs_base(why: &str) -> Problem {
    Problem::new(409, "needs_base", Fault::Peer, format!("{why}; send a whole copy"))
}

fn replica_problem(e: ReplicaError) -> Problem {
    match &e {
        ReplicaError::NeedsBase { .. } | ReplicaError::PageSize { .. } => needs_base(&e.to_string()),
        ReplicaError::Older { .. } => Problem::new(409, "older_position", Fault::Peer, e.to_string()),
        _ => Problem::new(500, "copy_failed", Fault::Us, e.to_string()),
    }
}

fn files_problem(e: FilesError) -> Problem {
    match &e {
        FilesError::Older { .. } => Problem::new(409, "older_position", Fault::Peer, e.to_string()),
        FilesError::State { .. } | FilesError::Materialise(MaterialiseError::Io { .. }) => {
            Problem::new(500, "copy_failed", Fault::Us, e.to_string())
        }
        _ => needs_base(&e.to_string()),
    }
}

impl Held {
    /// Changed files, against what the copy holds.
    fn bring_forward(&mut self, set: &SentDataset, update: &[u8]) -> Result<CopyState, Problem> {
        let Some(mut copy) = self.sets.remove(&set.name) else { return Err(needs_base("there is no copy yet")) };
        let brought = match &mut copy.replica {
            Replica::Files(replica) => replica.bring_forward(update, &mut self.chunks).map_err(files_problem),
            _ => Err(needs_base("there is no copy yet")),
        };
        let state = brought.map(|at| {
            copy.position = Some(position(at));
            CopyState { position: position(at) }
        });
        self.tidy(&copy);
        self.sets.insert(set.name.clone(), copy);
        state
    }

    /// Chunks that only older states used make room, when there is little.
    fn tidy(&mut self, fresh: &Copy) {
        let usage = self.chunks.usage();
        if usage.bytes * 2 < usage.bytes_max {
            return;
        }
        let mut keep: BTreeSet<Digest> = self.pending.iter().flat_map(TreeManifest::digests).collect();
        for copy in self.sets.values().chain([fresh]) {
            if let Replica::Files(replica) = &copy.replica {
                keep.extend(replica.tree().into_iter().flat_map(TreeManifest::digests));
            }
        }
        if let Err(e) = self.chunks.gc(&keep) {
            tracing::warn!(error = %e, "chunks that nothing uses were not removed");
        }
    }
}

impl Copy {
    fn put(
        &mut self,
        set: &SentDataset,
        target: &Path,
        chunks: &ChunkStore,
        bytes_max: u64,
        sent: SendTree,
    ) -> Result<(), Problem> {
        let at = watermark(sent.position);
        if self.position.is_some_and(|held| held > sent.position) {
            return Err(Problem::new(
                409,
                "older_position",
                Fault::Peer,
                format!("the copy is at {:?} already", self.position),
            ));
        }
        match set.kind {
            DatasetKind::Files => {
                if !matches!(self.replica, Replica::Files(_)) {
                    self.replica = Replica::Files(FilesReplica::open(target, options(bytes_max)));
                }
                if let Replica::Files(replica) = &mut self.replica {
                    replica.apply(sent.tree, chunks, at).map_err(|e| peer("bad_tree", e.to_string()))?;
                }
            }
            DatasetKind::Sqlite if sent.tree.entries.is_empty() => {
                std::fs::create_dir_all(target).map_err(|e| Problem::ours(format!("{}: {e}", target.display())))?;
            }
            DatasetKind::Sqlite => self.put_database(set, target, chunks, bytes_max, &sent.tree, at)?,
        }
        self.position = Some(sent.position);
        Ok(())
    }

    fn put_database(
        &mut self,
        set: &SentDataset,
        target: &Path,
        chunks: &ChunkStore,
        bytes_max: u64,
        tree: &TreeManifest,
        at: Watermark,
    ) -> Result<(), Problem> {
        let file = set.file.as_deref().filter(|f| pumasi_terms::service::is_inside(f) && !f.contains('/'));
        let file = file.ok_or_else(|| peer("bad_dataset", "a sqlite dataset names its file"))?;
        let path = target.join(file);
        let options = replica_options(bytes_max);
        if !matches!(self.replica, Replica::Sqlite(_)) && path.exists() {
            // After a restart of this daemon: readers have it open, so its pages change inside a transaction.
            if let Ok(replica) = SqliteReplica::open(&path, options) {
                self.replica = Replica::Sqlite(Box::new(replica));
            }
        }
        if let Replica::Sqlite(replica) = &mut self.replica {
            replica.rebase(tree, chunks, at).map_err(replica_problem)?;
            return Ok(());
        }
        std::fs::create_dir_all(target).map_err(|e| Problem::ours(format!("{}: {e}", target.display())))?;
        let replica = SqliteReplica::create(tree, chunks, at, &path, options).map_err(replica_problem)?;
        self.replica = Replica::Sqlite(Box::new(replica));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_terms::Epoch;
    use pumasi_transfer::{FilesSource, Sample, ScanLimits, encode_pack};

    #[test]
    fn files_come_forward_by_updates_and_what_does_not_fit_asks_for_the_whole() {
        let tmp = std::env::temp_dir().join(format!("pumasi-copies-{:032x}", crate::clock::entropy()));
        let home = tmp.join("home");
        std::fs::create_dir_all(&home).unwrap();
        let set = SentDataset { name: "files".parse().unwrap(), kind: DatasetKind::Files, file: None };
        let chunks = ChunkStore::open(tmp.join("chunks"), 1 << 20).unwrap();
        let mut held =
            Held { dir: tmp.clone(), chunks, pending: Vec::new(), sets: BTreeMap::new(), bytes_max: 1 << 20 };
        let mut source = FilesSource::new(&home, 1, ScanLimits::default());
        let mut look = |ms: u64, bytes: &[u8]| {
            std::fs::write(home.join("a"), bytes).unwrap();
            let Sample::Changed { tree, as_of } = source.sample(|| ms).unwrap() else { panic!("not seen") };
            let update = source.update(&tree, as_of).unwrap();
            let digests: Vec<_> = tree.chunks().map(|c| c.digest).collect();
            let pack = encode_pack(&source.chunks(&tree), &digests).unwrap();
            source.acknowledged(Some(tree.clone()));
            (tree, as_of, update, pack)
        };
        let (tree, as_of, none, pack) = look(1, &[1; 5000]);
        assert!(none.is_none());
        let code = |r: Result<CopyState, Problem>| r.unwrap_err().code;
        assert_eq!(code(held.bring_forward(&set, b"anything")), "needs_base");
        receive_pack(&pack[..], &mut held.chunks, &tree.digests()).unwrap();
        let mut copy = Copy { replica: Replica::Empty, position: None };
        let sent = SendTree { epoch: Epoch(1), tree, position: position(as_of) };
        copy.put(&set, &tmp.join("copy"), &held.chunks, 1 << 20, sent).unwrap();
        held.sets.insert(set.name.clone(), copy);
        let (_, as_of, update, _) = look(2, &[2; 5000]);
        let first = update.unwrap();
        assert_eq!(held.bring_forward(&set, &first).unwrap().position, position(as_of));
        assert_eq!(std::fs::read(tmp.join("copy/a")).unwrap(), [2; 5000]);
        // One was lost on the way: the next is for a state that this copy never had.
        look(3, &[3; 5000]);
        let (_, _, update, _) = look(4, &[4; 5000]);
        assert_eq!(code(held.bring_forward(&set, &update.unwrap())), "needs_base");
        assert_eq!(code(held.bring_forward(&set, b"anything")), "needs_base");
        assert_eq!(held.sets[&set.name].position, Some(position(as_of)));
        assert_eq!(std::fs::read(tmp.join("copy/a")).unwrap(), [2; 5000]);
        std::fs::remove_dir_all(tmp).unwrap();
    }
}
