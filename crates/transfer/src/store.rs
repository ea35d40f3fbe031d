//! Chunks on disk, named by their digest: one store per lease, with a quota.
//!
//! Enters: bytes with the digest they claim. Leaves: bytes that have that digest.
//! Always holds: a chunk appears whole or not at all, and only under its own digest; the quota is never exceeded.

use crate::chunk::{CHUNK_BYTES_MAX, ChunkRef, digest_of};
use crate::tree::TreeManifest;
use pumasi_terms::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A chunk could not be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("chunk store {path}: {source}; our disk is at fault, retry")]
    Io { path: PathBuf, source: io::Error },
    #[error("chunk {digest}: the bytes have digest {found}; the sender is at fault, ask for it again")]
    WrongDigest { digest: Digest, found: Digest },
    #[error("chunk {digest}: {bytes} bytes; 1 to {CHUNK_BYTES_MAX} are allowed; the sender is at fault")]
    Length { digest: Digest, bytes: u64 },
    #[error("chunk store: {bytes} more bytes would exceed the {bytes_max} bytes this lease may keep ({used} used)")]
    Quota { bytes: u64, used: u64, bytes_max: u64 },
    #[error("chunk {digest} is not here; fetch it and retry")]
    Missing { digest: Digest },
    #[error("chunk {digest}: {path} changed after it was read; take a new manifest and retry")]
    Changed { digest: Digest, path: PathBuf },
}

/// Where chunks can be read.
pub trait ChunkSource {
    /// The bytes of a chunk, verified.
    fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError>;
    /// It is not asked for again.
    fn spent(&self, _: &Digest) {}
    /// A chunk that is not asked for again becomes the file `_path`, on the same file system, instead of being written once more: many small
    /// files are so made at the price of a rename each. `None`: this source cannot; read it then.
    fn become_file(&self, _: &ChunkRef, _path: &Path) -> Option<Result<fs::File, StoreError>> {
        None
    }
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub chunks: u64,
    pub bytes: u64,
    pub bytes_max: u64,
}

#[derive(Debug)]
pub struct ChunkStore {
    dir: PathBuf,
    bytes_max: u64,
    bytes: u64,
    lens: BTreeMap<Digest, u32>,
    next_temp: u64,
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

/// With those above it that are missing.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn hex(digest: &Digest) -> String {
    digest.to_string().split_off("blake3:".len())
}

impl ChunkStore {
    /// Opens or makes the store in `dir`. Half-written chunks of an earlier crash are removed.
    /// One process opens a store once.
    pub fn open(dir: impl Into<PathBuf>, bytes_max: u64) -> Result<Self, StoreError> {
        let dir = dir.into();
        let mut store = Self { dir, bytes_max, bytes: 0, lens: BTreeMap::new(), next_temp: 0 };
        let temp = store.temp_dir();
        match fs::remove_dir_all(&temp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(&temp)(e)),
            _ => private_dir(&temp).map_err(io(&temp))?,
        }
        for fan in fs::read_dir(&store.dir).map_err(io(&store.dir))? {
            let fan = fan.map_err(io(&store.dir))?;
            if fan.file_name() == "temp" || !fan.file_type().map_err(io(&fan.path()))?.is_dir() {
                continue;
            }
            for item in fs::read_dir(fan.path()).map_err(io(&fan.path()))? {
                let item = item.map_err(io(&fan.path()))?;
                let name = item.file_name();
                let Some(Ok(digest)) = name.to_str().map(|n| format!("blake3:{n}").parse::<Digest>()) else { continue };
                let len = item.metadata().map_err(io(&item.path()))?.len();
                // A power cut can leave a name without its bytes; such a file is not a chunk.
                match u32::try_from(len) {
                    Ok(len) if len > 0 && len <= CHUNK_BYTES_MAX => {
                        store.lens.insert(digest, len);
                        store.bytes += u64::from(len);
                    }
                    _ => fs::remove_file(item.path()).map_err(io(&item.path()))?,
                }
            }
        }
        Ok(store)
    }

    fn temp_dir(&self) -> PathBuf {
        self.dir.join("temp")
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name = hex(digest);
        self.dir.join(&name[..2]).join(name)
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.lens.contains_key(digest)
    }

    pub(crate) fn len_of(&self, digest: &Digest) -> Option<u32> {
        self.lens.get(digest).copied()
    }

    /// The chunks of the tree that are not here, each once, in the order of the tree.
    pub fn missing(&self, tree: &TreeManifest) -> Vec<ChunkRef> {
        let mut seen = BTreeSet::new();
        tree.chunks().filter(|c| !self.has(&c.digest) && seen.insert(c.digest)).copied().collect()
    }

    /// Keeps a chunk after verifying it; one that is here already costs nothing.
    pub fn put(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let len = match u32::try_from(bytes.len()) {
            Ok(len) if len > 0 && len <= CHUNK_BYTES_MAX => len,
            _ => return Err(StoreError::Length { digest, bytes: bytes.len() as u64 }),
        };
        let found = digest_of(bytes);
        if found != digest {
            return Err(StoreError::WrongDigest { digest, found });
        }
        if self.has(&digest) {
            return Ok(());
        }
        if self.bytes.saturating_add(len.into()) > self.bytes_max {
            return Err(StoreError::Quota { bytes: len.into(), used: self.bytes, bytes_max: self.bytes_max });
        }
        let path = self.path(&digest);
        let temp = self.temp_dir().join(self.next_temp.to_string());
        self.next_temp += 1;
        let write = || -> io::Result<()> {
            // Whatever the umask: a chunk is nobody else's to read.
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?.write_all(bytes)?;
            match fs::rename(&temp, &path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    path.parent().map_or(Ok(()), private_dir)?;
                    fs::rename(&temp, &path)
                }
                other => other,
            }
        };
        if let Err(e) = write() {
            let _ = fs::remove_file(&temp);
            return Err(io(&path)(e));
        }
        self.lens.insert(digest, len);
        self.bytes += u64::from(len);
        Ok(())
    }

    /// The bytes of a chunk. One that the disk has damaged is reported missing and can be `put` again after `forget`.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let Some(len) = self.lens.get(digest) else { return Err(StoreError::Missing { digest: *digest }) };
        let path = self.path(digest);
        let mut bytes = Vec::with_capacity(*len as usize);
        match crate::scan::open_file(&path).and_then(|f| f.take(u64::from(*len) + 1).read_to_end(&mut bytes)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io(&path)(e)),
            Ok(_) if digest_of(&bytes) == *digest => Ok(bytes),
            _ => Err(StoreError::Missing { digest: *digest }),
        }
    }

    /// Moves a verified chunk out of the store, where it lies on the same file system as `path`.
    pub(crate) fn move_out(&mut self, digest: &Digest, path: &Path) -> Result<fs::File, StoreError> {
        self.read(digest)?;
        let from = self.path(digest);
        fs::rename(&from, path).map_err(io(path))?;
        let len = self.lens.remove(digest).unwrap_or(0);
        self.bytes = self.bytes.saturating_sub(len.into());
        fs::OpenOptions::new().write(true).open(path).map_err(io(path))
    }

    /// Drops one chunk, e.g. one that `read` found damaged.
    pub fn forget(&mut self, digest: &Digest) -> Result<(), StoreError> {
        if let Some(len) = self.lens.get(digest).copied() {
            let path = self.path(digest);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(&path)(e)),
                _ => {}
            }
            self.lens.remove(digest);
            self.bytes = self.bytes.saturating_sub(len.into());
        }
        Ok(())
    }

    /// Removes every chunk that is not in `keep`; returns the bytes freed.
    pub fn gc(&mut self, keep: &BTreeSet<Digest>) -> Result<u64, StoreError> {
        let before = self.bytes;
        let gone: Vec<Digest> = self.lens.keys().filter(|d| !keep.contains(d)).copied().collect();
        gone.iter().try_for_each(|d| self.forget(d))?;
        Ok(before - self.bytes)
    }

    pub fn usage(&self) -> Usage {
        Usage { chunks: self.lens.len() as u64, bytes: self.bytes, bytes_max: self.bytes_max }
    }
}

impl ChunkSource for ChunkStore {
    fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.read(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_kept_only_under_its_own_digest_and_within_the_quota() {
        let tmp = tempfile::tempdir().unwrap();
        let mut store = ChunkStore::open(tmp.path().join("s"), 10).unwrap();
        let (a, b) = (digest_of(b"aaaaaa"), digest_of(b"bbbbbb"));
        assert!(matches!(store.put(b, b"aaaaaa"), Err(StoreError::WrongDigest { .. })));
        store.put(a, b"aaaaaa").unwrap();
        store.put(a, b"aaaaaa").unwrap();
        assert!(matches!(store.put(b, b"bbbbbb"), Err(StoreError::Quota { used: 6, .. })));
        assert!(!store.has(&b));
        drop(store);
        let mut store = ChunkStore::open(tmp.path().join("s"), 12).unwrap();
        assert_eq!(store.usage(), Usage { chunks: 1, bytes: 6, bytes_max: 12 });
        store.put(b, b"bbbbbb").unwrap();
        assert_eq!(store.read(&b).unwrap(), b"bbbbbb");
        assert_eq!(store.gc(&[b].into()).unwrap(), 6);
        assert!(!store.has(&a) && store.has(&b));
        fs::write(store.path(&b), b"bbbbbx").unwrap();
        assert!(matches!(store.read(&b), Err(StoreError::Missing { .. })));
        store.forget(&b).unwrap();
        store.put(b, b"bbbbbb").unwrap();
        assert_eq!(store.read(&b).unwrap(), b"bbbbbb");
    }
}
