//! What a borrower sent: chunks, applications, and the live copies of its datasets.
//!
//! Always holds: a chunk is kept only if a manifest of the lease asked for it and its digest fits; a copy says how far it is and
//! never more; nothing exceeds the storage that the lease agreed.

use super::home::plain_file;
use super::words::{FarPlace, Refusal, Reply, Set, Why, digests_to_bytes};
use crate::chunk::digest_of;
use crate::files::{FilesError, FilesReplica};
use crate::materialise::{Access, MaterialiseError, Options, build};
use crate::pack::receive_pack;
use crate::shelf::{Holds, Shelf};
use crate::sqlite::{PageBatch, ReplicaError, ReplicaOptions, SqliteReplica};
use crate::store::ChunkStore;
use crate::tree::TreeManifest;
use pumasi_terms::service::DatasetKind;
use pumasi_terms::{DatasetName, Digest, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;

/// Manifests of one lease whose chunks are being sent.
const PENDING_MAX: usize = 8;

#[derive(Debug)]
pub struct Far {
    place: FarPlace,
    chunks: ChunkStore,
    pending: Vec<(Digest, TreeManifest)>,
    sets: BTreeMap<DatasetName, Copy>,
    /// Two helpers in one place would take each other's chunks away.
    _lock: File,
}

#[derive(Debug)]
struct Copy {
    replica: Replica,
    position: Option<Position>,
}

#[derive(Debug)]
enum Replica {
    Files(Box<FilesReplica>),
    Sqlite(Box<SqliteReplica>),
    /// The home has no database yet.
    Empty,
}

type Answer = Result<(Reply, Vec<u8>), Refusal>;

fn failed(e: impl std::fmt::Display) -> Refusal {
    Refusal::new(Why::Failed, e)
}

fn needs_base(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Why::NeedsBase, format!("{why}; send a whole copy"))
}

fn replica_refusal(e: ReplicaError) -> Refusal {
    match &e {
        ReplicaError::NeedsBase { .. } | ReplicaError::PageSize { .. } => needs_base(e),
        ReplicaError::Older { .. } => Refusal::new(Why::Older, e),
        _ => failed(e),
    }
}

fn files_refusal(e: FilesError) -> Refusal {
    match &e {
        FilesError::Older { .. } => Refusal::new(Why::Older, e),
        FilesError::State { .. } | FilesError::Materialise(MaterialiseError::Io { .. }) => failed(e),
        _ => needs_base(e),
    }
}

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

    /// What the copies of files hold.
    fn holds(&self) -> Vec<Holds> {
        let files = self.sets.values().filter_map(|copy| match &copy.replica {
            Replica::Files(replica) => replica.holds(),
            _ => None,
        });
        files.collect()
    }

    fn waited_for(&self) -> BTreeSet<Digest> {
        self.pending.iter().flat_map(|(_, tree)| tree.digests()).collect()
    }

    fn access(&self) -> Access {
        self.place.access
    }

    fn options(&self) -> Options {
        Options { access: self.access(), bytes_max: self.place.bytes_max, durable: false }
    }

    /// Of a dataset of files. A database is never written by who reads it: it could cut a file off under whoever has it mapped.
    fn files_options(&self) -> Options {
        let access = match self.access() {
            Access::Group(gid) if self.place.layers => Access::Layered(gid),
            access => access,
        };
        Options { access, ..self.options() }
    }

    fn replica_options(&self) -> ReplicaOptions {
        ReplicaOptions { access: self.access(), bytes_max: self.place.bytes_max, ..ReplicaOptions::default() }
    }

    fn target(&self, set: &Set) -> PathBuf {
        self.place.data.join(set.name.as_str())
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
        let options = Options { durable: Options::default().durable, ..self.options() };
        // Its chunks stay, for the next one that has many of them.
        let (holds, keep) = (self.holds(), tree.digests());
        let shelf = Shelf::new(&mut self.chunks, holds, &keep);
        build(&tree, &shelf, &dest, &options).map_err(|e| Refusal::new(Why::BadTree, e))?;
        Ok((Reply::Done, Vec::new()))
    }

    /// The copy as this helper holds it, or as an earlier one left it.
    fn take(&mut self, set: &Set) -> Result<Option<Copy>, Refusal> {
        if let Some(copy) = self.sets.remove(&set.name) {
            return Ok(Some(copy));
        }
        let target = self.target(set);
        Ok(match set.kind {
            DatasetKind::Files => {
                let replica = FilesReplica::open_apart(&target, &self.state_dir(set)?, self.files_options());
                replica.position().map(|at| Copy { position: Some(at), replica: Replica::Files(Box::new(replica)) })
            }
            DatasetKind::Sqlite => {
                let path = target.join(plain_file(set.file.as_deref())?);
                if !path.exists() {
                    return Ok(None);
                }
                let replica = SqliteReplica::open(path, self.replica_options()).ok();
                replica.map(|r| Copy { position: r.position(), replica: Replica::Sqlite(Box::new(r)) })
            }
        })
    }

    fn state_dir(&self, set: &Set) -> Result<PathBuf, Refusal> {
        let dir = self.place.work.join("state");
        crate::store::private_dir(&dir).map_err(failed)?;
        Ok(dir.join(set.name.as_str()))
    }

    pub fn hold(&mut self, sets: &[Set]) -> Answer {
        let mut at = Vec::new();
        for set in sets {
            // What cannot be opened claims nothing, and the next whole state replaces it.
            let copy = self.take(set).ok().flatten();
            at.push((set.name.clone(), copy.as_ref().and_then(|c| c.position)));
            if let Some(copy) = copy {
                self.sets.insert(set.name.clone(), copy);
            }
        }
        Ok((Reply::Held { at }, Vec::new()))
    }

    /// A whole state of a dataset: the first copy, or any later one.
    pub fn put(&mut self, set: &Set, digest: &Digest, to: Position) -> Answer {
        let tree = self.asked(digest)?;
        let mut copy = self.take(set)?.unwrap_or(Copy { replica: Replica::Empty, position: None });
        let result = self.bring_to(&mut copy, set, tree, to);
        self.tidy();
        let at = copy.position.unwrap_or_default();
        self.sets.insert(set.name.clone(), copy);
        result.map(|()| (Reply::At { at }, Vec::new()))
    }

    fn bring_to(&mut self, copy: &mut Copy, set: &Set, tree: TreeManifest, to: Position) -> Result<(), Refusal> {
        if let Some(held) = copy.position.filter(|held| *held > to) {
            return Err(Refusal::new(Why::Older, format!("the copy is at {held} already")));
        }
        match set.kind {
            DatasetKind::Files => {
                if !matches!(copy.replica, Replica::Files(_)) {
                    let replica =
                        FilesReplica::open_apart(&self.target(set), &self.state_dir(set)?, self.files_options());
                    copy.replica = Replica::Files(Box::new(replica));
                }
                if let Replica::Files(replica) = &mut copy.replica {
                    let (keep, others) = (self.waited_for(), self.holds());
                    let applied = replica.apply_stored(tree, (&mut self.chunks, others), &keep, to);
                    applied.map_err(|e| Refusal::new(Why::BadTree, e))?;
                }
            }
            DatasetKind::Sqlite if tree.entries.is_empty() => {}
            DatasetKind::Sqlite => {
                self.put_database(copy, set, &tree, to)?;
                let keep = self.waited_for();
                let spent = tree.chunks().map(|c| c.digest).filter(|d| !keep.contains(d));
                spent.collect::<Vec<_>>().iter().try_for_each(|d| self.chunks.forget(d)).map_err(failed)?;
            }
        }
        copy.position = Some(to);
        Ok(())
    }

    fn put_database(&self, copy: &mut Copy, set: &Set, tree: &TreeManifest, to: Position) -> Result<(), Refusal> {
        let path = self.target(set).join(plain_file(set.file.as_deref())?);
        if let Replica::Sqlite(replica) = &mut copy.replica {
            // Readers may have it open, so its pages change inside a transaction.
            return replica.rebase(tree, &self.chunks, to).map(|_| ()).map_err(replica_refusal);
        }
        let made = SqliteReplica::create(tree, &self.chunks, to, &path, self.replica_options());
        copy.replica = Replica::Sqlite(Box::new(made.map_err(replica_refusal)?));
        Ok(())
    }

    pub fn change(&mut self, set: &Set, bytes: &[u8]) -> Answer {
        let mut copy = self.take(set)?.ok_or_else(|| needs_base("there is no copy yet"))?;
        let keep = self.waited_for();
        let changed = match &mut copy.replica {
            Replica::Files(replica) => replica.bring_forward(bytes, &mut self.chunks, &keep).map_err(files_refusal),
            Replica::Sqlite(replica) => PageBatch::decode(bytes)
                .map_err(|e| Refusal::new(Why::BadBatch, e))
                .and_then(|batch| replica.apply(&batch).map(|applied| applied.at).map_err(replica_refusal)),
            Replica::Empty => Err(needs_base("there is no copy yet")),
        };
        if let Ok(at) = &changed {
            copy.position = Some(*at);
        }
        self.tidy();
        self.sets.insert(set.name.clone(), copy);
        changed.map(|at| (Reply::At { at }, Vec::new()))
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
