//! From a directory to its manifest, reading only what may have changed since the last time.
//!
//! Always holds: a file in the manifest was not changed while it was read; links are kept, never followed, on no step of any path,
//! whatever is exchanged meanwhile; whatever is neither file, directory nor link is refused by name.

use crate::beneath::{Beneath, OpenDir, was_exchanged};
use crate::chunk::{ChunkRef, cut, digest_of};
use crate::signature::Signatures;
use crate::store::{ChunkSource, StoreError};
use crate::tree::{Entry, EntryKind, TreeError, TreeManifest, link_stays_inside};
use nix::fcntl::OFlag;
use pumasi_terms::Digest;
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How often a file is read again that changes while it is read.
const READS_MAX: u32 = 5;
/// A stamp this fresh may be given to one more change, so that it proves nothing.
const STAMP_SETTLED_NS: i128 = 2_000_000_000;

#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    pub bytes_max: u64,
    pub entries_max: usize,
    /// Files may have a second name outside of the directory: fine where the directory's owner is the one who asks, as with a bundle
    /// whose packages are linked from a cache.
    pub names_outside: bool,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { bytes_max: 64 << 30, entries_max: crate::tree::ENTRIES_MAX, names_outside: true }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("reading {path}: {source}; check that it is there and readable")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is a {what}; only files, directories and links can be moved, remove it")]
    Unmovable { path: PathBuf, what: &'static str },
    #[error("{path} links to {target}, out of its directory; make it relative and inside, or remove it")]
    LinkOutside { path: PathBuf, target: String },
    #[error("{path} has another name outside of its directory; a copy of it can be moved, a hard link cannot")]
    NameOutside { path: PathBuf },
    #[error("{path}: names must be UTF-8 text")]
    Name { path: PathBuf },
    #[error("{path} changed each of the {READS_MAX} times it was read; retry when it is quieter")]
    Changing { path: PathBuf },
    #[error("{dir} holds more than {max} {what}, the limit set for it")]
    Limit { dir: PathBuf, what: &'static str, max: u64 },
    #[error("{dir}: {source}")]
    Tree { dir: PathBuf, source: TreeError },
}

impl ScanError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Changing { .. })
    }

    /// Whether the reader lacks a right that the directory's owner could give.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        let ns = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    read_at_ns: i128,
    chunks: Vec<ChunkRef>,
}

/// What is known of a directory's files from earlier scans. It may be thrown away at any time.
#[derive(Debug, Default)]
pub struct ChunkCache {
    known: BTreeMap<String, Known>,
    buffer: Vec<u8>,
    /// Of all chunks that were read, if they are wanted.
    pub(crate) signatures: Option<Signatures>,
    /// Bytes that the last scan had to read.
    pub last_read_bytes: u64,
}

impl ChunkCache {
    /// One that also keeps the signatures of a dataset of so many bytes at most.
    pub fn signing(bytes_max: u64) -> Self {
        Self { signatures: Some(Signatures::for_dataset(bytes_max)), ..Self::default() }
    }
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> ScanError {
    let path = path.to_owned();
    move |source| ScanError::Io { path, source }
}

fn wall_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128)
}

/// Neither follows a link nor waits for the writer of a pipe.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// The manifest of what is in `dir` now. What vanishes while the scan runs is left out.
pub fn scan(dir: &Path, cache: &mut ChunkCache, limits: ScanLimits) -> Result<TreeManifest, ScanError> {
    let top = Beneath::open(dir).map_err(io(dir))?;
    let shared = BTreeMap::new();
    let mut scan = Scan { top: &top, limits, entries: Vec::new(), bytes: 0, known: BTreeMap::new(), shared, cache };
    scan.cache.last_read_bytes = 0;
    let mut todo = vec![String::new()];
    while let Some(at) = todo.pop() {
        let list = match top.dir(&at) {
            Ok(list) => list,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !at.is_empty() => continue,
            Err(e) if was_exchanged(&e) => return Err(ScanError::Changing { path: top.name(&at) }),
            Err(e) => return Err(io(&top.name(&at))(e)),
        };
        for name in list.names().map_err(io(&top.name(&at)))? {
            let name = name.map_err(io(&top.name(&at)))?;
            let name = name.ok_or_else(|| ScanError::Name { path: top.name(&at) })?;
            let below = if at.is_empty() { name.clone() } else { format!("{at}/{name}") };
            if scan.take(&list, &name, &below)? {
                todo.push(below);
            }
        }
    }
    scan.no_names_outside()?;
    let Scan { entries, known, cache, .. } = scan;
    cache.known = known;
    TreeManifest::new(drop_orphans(entries)).map_err(|source| ScanError::Tree { dir: dir.to_owned(), source })
}

/// A directory that vanished and came back during the scan can leave entries twice or without their parent.
fn drop_orphans(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries.dedup_by(|a, b| a.path == b.path);
    entries
}

struct Scan<'a> {
    top: &'a Beneath,
    limits: ScanLimits,
    entries: Vec<Entry>,
    bytes: u64,
    known: BTreeMap<String, Known>,
    /// Of files with more than one name, by device and inode: how many names they have, and those that were seen.
    shared: BTreeMap<(u64, u64), (u64, Vec<String>)>,
    cache: &'a mut ChunkCache,
}

impl Scan<'_> {
    /// Adds what is called `name` in `dir`; true if it is a directory to descend into.
    fn take(&mut self, dir: &OpenDir, name: &str, at: &str) -> Result<bool, ScanError> {
        let path = self.top.name(at);
        let stat = match dir.stat(name) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(io(&path)(e)),
        };
        let unmovable = |what| Err(ScanError::Unmovable { path: path.clone(), what });
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => EntryKind::Dir,
            FileType::Symlink => {
                let target = match dir.read_link(name) {
                    Ok(target) => target.ok_or_else(|| ScanError::Name { path: path.clone() })?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                    Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Err(ScanError::Changing { path }),
                    Err(e) => return Err(io(&path)(e)),
                };
                if !link_stays_inside(at, &target) {
                    return Err(ScanError::LinkOutside { path, target });
                }
                EntryKind::Symlink { target }
            }
            FileType::RegularFile => match self.file(&path, at)? {
                Some(kind) => kind,
                None => return Ok(false),
            },
            FileType::Fifo => return unmovable("pipe"),
            FileType::Socket => return unmovable("socket"),
            _ => return unmovable("device"),
        };
        let descend = kind == EntryKind::Dir;
        if self.entries.len() >= self.limits.entries_max {
            let max = self.limits.entries_max as u64;
            return Err(ScanError::Limit { dir: self.top.name(""), what: "entries", max });
        }
        self.entries.push(Entry { path: at.to_owned(), kind });
        Ok(descend)
    }

    /// A file whose other name is elsewhere could be somebody else's; one whose names are all in here cannot.
    fn no_names_outside(&self) -> Result<(), ScanError> {
        let outside = self.shared.values().find(|(names, seen)| (seen.len() as u64) < *names);
        match outside.and_then(|(_, seen)| seen.first()) {
            Some(at) if !self.limits.names_outside => Err(ScanError::NameOutside { path: self.top.name(at) }),
            _ => Ok(()),
        }
    }

    fn file(&mut self, path: &Path, at: &str) -> Result<Option<EntryKind>, ScanError> {
        for _ in 0..READS_MAX {
            let file = match self.top.file(at) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) if was_exchanged(&e) => continue,
                Err(e) => return Err(io(path)(e)),
            };
            let meta = file.metadata().map_err(io(path))?;
            if !meta.is_file() {
                continue;
            }
            let (stamp, executable) = (Stamp::of(&meta), meta.mode() & 0o111 != 0);
            if self.bytes.saturating_add(stamp.size) > self.limits.bytes_max {
                return Err(ScanError::Limit { dir: self.top.name(""), what: "bytes", max: self.limits.bytes_max });
            }
            let known = self.cache.known.get(at).filter(|k| {
                k.stamp == stamp && stamp.modified_ns.max(stamp.changed_ns) + STAMP_SETTLED_NS < k.read_at_ns
            });
            let known = match known {
                Some(known) => known.clone(),
                None => {
                    let read_at_ns = wall_ns();
                    let mut chunks = Vec::new();
                    // One byte more than the size shows that the file grows, and nothing more is read then.
                    let input = (&file).take(stamp.size + 1);
                    let ChunkCache { buffer, signatures, .. } = &mut *self.cache;
                    let read = cut::<io::Error>(input, buffer, |c, bytes| {
                        chunks.push(c);
                        if let Some(signatures) = signatures {
                            signatures.sign(c, bytes);
                        }
                        Ok(())
                    });
                    let read = read.map_err(io(path))?;
                    self.cache.last_read_bytes += read;
                    if read != stamp.size || Stamp::of(&file.metadata().map_err(io(path))?) != stamp {
                        continue;
                    }
                    Known { stamp, read_at_ns, chunks }
                }
            };
            self.bytes += stamp.size;
            if meta.nlink() > 1 {
                let shared = self.shared.entry((stamp.device, stamp.inode)).or_default();
                shared.0 = meta.nlink();
                shared.1.push(at.to_owned());
            }
            let kind = EntryKind::File { size: stamp.size, executable, chunks: known.chunks.clone() };
            self.known.insert(at.to_owned(), known);
            return Ok(Some(kind));
        }
        Err(ScanError::Changing { path: path.to_owned() })
    }
}

/// The chunks of a tree, read from the directory it was scanned from; nothing is copied.
/// A file that has changed since is noticed by the digest.
#[derive(Debug)]
pub struct TreeChunks {
    /// None: the directory is not there any more.
    top: Option<Beneath>,
    paths: Vec<String>,
    places: BTreeMap<Digest, (u32, u64, u32)>,
}

impl TreeChunks {
    pub fn new(dir: impl Into<PathBuf>, tree: &TreeManifest) -> Self {
        let top = Beneath::open(&dir.into()).ok();
        let mut out = Self { top, paths: Vec::new(), places: BTreeMap::new() };
        for entry in &tree.entries {
            let EntryKind::File { chunks, .. } = &entry.kind else { continue };
            let (index, mut offset) = (out.paths.len() as u32, 0u64);
            out.paths.push(entry.path.clone());
            for chunk in chunks {
                out.places.entry(chunk.digest).or_insert((index, offset, chunk.len));
                offset += u64::from(chunk.len);
            }
        }
        out
    }
}

impl ChunkSource for TreeChunks {
    fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let place = self.places.get(digest).and_then(|(f, o, l)| Some((self.paths.get(*f as usize)?, *o, *l)));
        let (path, offset, len) = place.ok_or(StoreError::Missing { digest: *digest })?;
        let mut bytes = vec![0; len as usize];
        let read = |top: &Beneath| top.file(path).and_then(|f| f.read_exact_at(&mut bytes, offset)).is_ok();
        if !self.top.as_ref().is_some_and(read) || digest_of(&bytes) != *digest {
            let path = self.top.as_ref().map_or_else(|| PathBuf::from(path), |top| top.name(path));
            return Err(StoreError::Changed { digest: *digest, path });
        }
        Ok(bytes)
    }
}
