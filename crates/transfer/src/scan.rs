//! From a directory to its manifest, reading only what may have changed since the last time.
//!
//! Always holds: a file in the manifest was not changed while it was read; links are kept, never followed, on no step of any path,
//! whatever is exchanged meanwhile; whatever is not in the manifest is told by name.

use crate::beneath::{Beneath, OpenDir, was_exchanged};
use crate::chunk::{ChunkRef, cut, digest_of};
use crate::signature::Signatures;
use crate::store::{ChunkSource, StoreError};
use crate::tree::{Entry, EntryKind, MODE_MAX, TreeError, TreeManifest, link_stays_inside};
use nix::fcntl::OFlag;
use pumasi_terms::Digest;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How often a file is read again that changes while it is read.
const READS_MAX: u32 = 5;
/// A stamp this fresh may be given to one more change, so that it proves nothing.
const STAMP_SETTLED_NS: i128 = 2_000_000_000;
/// A file that was changed within this time may well change again before its bytes are sent.
const LIVELY_NS: i128 = 60_000_000_000;
/// Of lively files, as they were read.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// What of a directory goes into its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Of a bundle: contents, and whether they can be executed, so that the same files make the same manifest wherever they were put.
    /// Files may have second names outside of it, as where packages are linked from a cache: its owner is the one who asks. What
    /// cannot be moved is refused.
    Contents,
    /// Of a dataset: modes, times, second names and holes too. What has no content to be moved is left out and told, as rsync does
    /// without `-D`.
    Everything,
}

#[derive(Debug, Clone, Copy)]
pub struct ScanLimits {
    pub bytes_max: u64,
    pub entries_max: usize,
    pub keep: Keep,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { bytes_max: 64 << 30, entries_max: crate::tree::ENTRIES_MAX, keep: Keep::Contents }
    }
}

impl ScanLimits {
    /// For a dataset of so many bytes at most.
    pub fn of_dataset(bytes_max: u64) -> Self {
        Self { bytes_max, keep: Keep::Everything, ..Self::default() }
    }
}

/// What no manifest has words for.
pub(crate) fn odd(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::Directory | FileType::RegularFile | FileType::Symlink => None,
        FileType::Fifo => Some("pipe"),
        FileType::Socket => Some("socket"),
        _ => Some("device"),
    }
}

/// What was left out of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    pub count: u64,
    /// The first of them, and what they are.
    pub first: Vec<(PathBuf, &'static str)>,
}

const SKIPPED_TOLD_MAX: usize = 8;

impl Skipped {
    fn add(&mut self, path: PathBuf, what: &'static str) {
        self.count += 1;
        if self.first.len() < SKIPPED_TOLD_MAX {
            self.first.push((path, what));
        }
    }
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> =
            self.first.iter().map(|(path, what)| format!("{} (a {what})", path.display())).collect();
        let more = self.count - self.first.len() as u64;
        write!(f, "{} left out: {}", self.count, names.join(", "))?;
        if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
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
    known: BTreeMap<OsString, Known>,
    buffer: Vec<u8>,
    /// Of all chunks that were read, if they are wanted.
    pub(crate) signatures: Option<Signatures>,
    /// What the last scan read of lively files, if it is to be sent.
    kept: Option<Kept>,
    /// Bytes that the last scan had to read.
    pub last_read_bytes: u64,
    /// What the last scan left out.
    pub skipped: Skipped,
}

impl ChunkCache {
    /// One that also keeps what a copy is brought forward with, of a dataset of so many bytes at most.
    pub fn signing(bytes_max: u64) -> Self {
        let signatures = Some(Signatures::for_dataset(bytes_max));
        Self { signatures, kept: Some(Kept::default()), ..Self::default() }
    }
}

/// Chunks as a scan read them. An application that writes the same small files again and again would otherwise make every manifest
/// one whose bytes are gone.
#[derive(Debug, Default)]
struct Kept {
    chunks: BTreeMap<Digest, Vec<u8>>,
    bytes: usize,
}

impl Kept {
    fn keep(&mut self, digest: Digest, bytes: &[u8]) {
        if self.bytes.saturating_add(bytes.len()) <= KEPT_BYTES_MAX && !self.chunks.contains_key(&digest) {
            self.bytes += bytes.len();
            self.chunks.insert(digest, bytes.to_vec());
        }
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
    scan.cache.kept = scan.cache.kept.take().map(|_| Kept::default());
    scan.cache.skipped = Skipped::default();
    let mut todo = vec![OsString::new()];
    while let Some(at) = todo.pop() {
        let list = match top.dir(&at) {
            Ok(list) => list,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !at.is_empty() => continue,
            Err(e) if was_exchanged(&e) => return Err(ScanError::Changing { path: top.name(&at) }),
            Err(e) => return Err(io(&top.name(&at))(e)),
        };
        for name in list.names().map_err(io(&top.name(&at)))? {
            let name = name.map_err(io(&top.name(&at)))?;
            let below = Path::new(&at).join(&name).into_os_string();
            if scan.take(&list, &name, &below)? {
                todo.push(below);
            }
        }
    }
    scan.no_names_outside()?;
    let entries = scan.finish();
    TreeManifest::new(entries).map_err(|source| ScanError::Tree { dir: dir.to_owned(), source })
}

struct Scan<'a> {
    top: &'a Beneath,
    limits: ScanLimits,
    entries: Vec<Entry>,
    bytes: u64,
    known: BTreeMap<OsString, Known>,
    /// Of files with more than one name, by device and inode: how many names they have, and those that were seen.
    shared: BTreeMap<(u64, u64), (u64, Vec<OsString>)>,
    cache: &'a mut ChunkCache,
}

impl Scan<'_> {
    fn keeps_everything(&self) -> bool {
        self.limits.keep == Keep::Everything
    }

    /// Adds what is called `name` in `dir`; true if it is a directory to descend into.
    fn take(&mut self, dir: &OpenDir, name: &OsStr, at: &OsStr) -> Result<bool, ScanError> {
        let path = self.top.name(at);
        let stat = match dir.stat(name) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(io(&path)(e)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let entry = match kind {
            FileType::Directory => Entry { mode: self.mode(stat.st_mode, true), ..Entry::dir(at) },
            FileType::Symlink => {
                let target = match dir.read_link(name) {
                    Ok(target) => target,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                    Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Err(ScanError::Changing { path }),
                    Err(e) => return Err(io(&path)(e)),
                };
                match link_stays_inside(at, &target) {
                    true => Entry::symlink(at, target),
                    false if self.keeps_everything() => return self.skip(at, "link out of the directory"),
                    false => return Err(ScanError::LinkOutside { path, target: target.display().to_string() }),
                }
            }
            FileType::RegularFile => match self.file(&path, at)? {
                Some(entry) => entry,
                None => return Ok(false),
            },
            _ => return self.skip(at, odd(kind).unwrap_or("device")),
        };
        let descend = entry.is_dir();
        if self.entries.len() >= self.limits.entries_max {
            let max = self.limits.entries_max as u64;
            return Err(ScanError::Limit { dir: self.top.name(""), what: "entries", max });
        }
        self.entries.push(entry);
        Ok(descend)
    }

    fn skip(&mut self, at: &OsStr, what: &'static str) -> Result<bool, ScanError> {
        if !self.keeps_everything() {
            return Err(ScanError::Unmovable { path: self.top.name(at), what });
        }
        self.cache.skipped.add(PathBuf::from(at), what);
        Ok(false)
    }

    fn mode(&self, mode: u32, is_dir: bool) -> u16 {
        let plain = if is_dir || mode & 0o111 != 0 { 0o755 } else { 0o644 };
        if self.keeps_everything() { (mode as u16) & MODE_MAX } else { plain }
    }

    /// A file whose other name is elsewhere could be somebody else's; one whose names are all in here cannot.
    fn no_names_outside(&self) -> Result<(), ScanError> {
        let outside = self.shared.values().find(|(names, seen)| (seen.len() as u64) < *names);
        match outside.and_then(|(_, seen)| seen.first()) {
            Some(at) if self.keeps_everything() => Err(ScanError::NameOutside { path: self.top.name(at) }),
            _ => Ok(()),
        }
    }

    /// The entries, sorted. The first name of a file has its content, the others name that one.
    fn finish(self) -> Vec<Entry> {
        let everything = self.keeps_everything();
        let mut entries = self.entries;
        // A directory that vanished and came back during the scan can leave entries twice or without their parent.
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        let mut second: BTreeMap<OsString, OsString> = BTreeMap::new();
        for (_, mut names) in self.shared.into_values().filter(|_| everything) {
            names.sort();
            names.dedup();
            let mut names = names.into_iter();
            let Some(first) = names.next() else { continue };
            second.extend(names.map(|name| (name, first.clone())));
        }
        for entry in &mut entries {
            if let Some(to) = second.remove(&entry.path) {
                *entry = Entry::hardlink(std::mem::take(&mut entry.path), to);
            }
        }
        self.cache.known = self.known;
        entries
    }

    fn file(&mut self, path: &Path, at: &OsStr) -> Result<Option<Entry>, ScanError> {
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
            let stamp = Stamp::of(&meta);
            // Without its holes, about.
            let sparse = self.keeps_everything() && meta.blocks().saturating_mul(512) < stamp.size;
            let takes = if sparse { meta.blocks().saturating_mul(512) } else { stamp.size };
            let max = self.limits.bytes_max;
            if self.bytes.saturating_add(takes) > max || stamp.size > max {
                return Err(ScanError::Limit { dir: self.top.name(""), what: "bytes", max });
            }
            let known = self.cache.known.get(at).filter(|k| {
                k.stamp == stamp && stamp.modified_ns.max(stamp.changed_ns) + STAMP_SETTLED_NS < k.read_at_ns
            });
            let known = match known {
                Some(known) => known.clone(),
                None => {
                    let read_at_ns = wall_ns();
                    let lively = stamp.modified_ns.max(stamp.changed_ns) + LIVELY_NS > read_at_ns;
                    let chunks = self.cache.read(&file, stamp.size, sparse, lively).map_err(io(path))?;
                    let read = chunks.iter().map(|c| u64::from(c.len)).sum::<u64>();
                    if read != stamp.size || Stamp::of(&file.metadata().map_err(io(path))?) != stamp {
                        continue;
                    }
                    Known { stamp, read_at_ns, chunks }
                }
            };
            self.bytes += known.chunks.iter().filter(|c| !c.is_hole()).map(|c| u64::from(c.len)).sum::<u64>();
            if meta.nlink() > 1 {
                let shared = self.shared.entry((stamp.device, stamp.inode)).or_default();
                shared.0 = meta.nlink();
                shared.1.push(at.to_owned());
            }
            let modified_ns = match self.limits.keep {
                Keep::Everything => i64::try_from(stamp.modified_ns).unwrap_or_default(),
                Keep::Contents => 0,
            };
            let mode = self.mode(meta.mode(), false);
            let entry = Entry { mode, modified_ns, ..Entry::file(at, known.chunks.clone()) };
            self.known.insert(at.to_owned(), known);
            return Ok(Some(entry));
        }
        Err(ScanError::Changing { path: path.to_owned() })
    }
}

impl ChunkCache {
    /// A file of so many bytes, in chunks and (where it is `sparse`) holes. What it has grown by meanwhile shows as one byte more.
    fn read(&mut self, file: &File, size: u64, sparse: bool, lively: bool) -> io::Result<Vec<ChunkRef>> {
        let mut chunks = Vec::new();
        let mut at = 0;
        while at < size {
            let (data, end) = if sparse { next_data(file, at, size)? } else { (at, size) };
            let mut hole = data - at;
            while hole > 0 {
                let len = u32::try_from(hole).unwrap_or(u32::MAX);
                chunks.push(ChunkRef::hole(len));
                hole -= u64::from(len);
            }
            if end > data {
                rustix::fs::seek(file, rustix::fs::SeekFrom::Start(data))?;
                let input = file.take(end - data + u64::from(end == size));
                let read = self.read_data(input, lively, &mut chunks)?;
                if read != end - data {
                    // It shrank or grew: the sum of the chunks tells.
                    return Ok(chunks);
                }
            }
            at = end;
        }
        Ok(chunks)
    }

    fn read_data(&mut self, input: impl Read, lively: bool, chunks: &mut Vec<ChunkRef>) -> io::Result<u64> {
        let Self { buffer, signatures, kept, .. } = self;
        let mut kept = kept.as_mut().filter(|_| lively);
        let read = cut::<io::Error>(input, buffer, |c, bytes| {
            chunks.push(c);
            if let Some(signatures) = signatures {
                signatures.sign(c, bytes);
            }
            if let Some(kept) = &mut kept {
                kept.keep(c.digest, bytes);
            }
            Ok(())
        })?;
        self.last_read_bytes += read;
        Ok(read)
    }
}

/// Where the next data begin and end, at or after `at`.
fn next_data(file: &File, at: u64, size: u64) -> io::Result<(u64, u64)> {
    use rustix::fs::{SeekFrom, seek};
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => {
            let end = seek(file, SeekFrom::Hole(data))?;
            Ok((data.min(size), end.min(size)))
        }
        // Nothing but a hole to the end.
        Err(Errno::NXIO) => Ok((size, size)),
        // This file system cannot tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((at, size)),
        Err(e) => Err(e.into()),
    }
}

/// The chunks of a tree, read from the directory it was scanned from; nothing is copied.
/// A file that has changed since is noticed by the digest.
#[derive(Debug)]
pub struct TreeChunks {
    /// None: the directory is not there any more.
    top: Option<Beneath>,
    paths: Vec<OsString>,
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
                if !chunk.is_hole() {
                    out.places.entry(chunk.digest).or_insert((index, offset, chunk.len));
                }
                offset += u64::from(chunk.len);
            }
        }
        out
    }
}

impl TreeChunks {
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.top.is_some() && self.places.contains_key(digest)
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

/// The chunks of the tree that was scanned last: as they were read then, where the file may have changed since.
#[derive(Debug)]
pub struct SampledChunks<'a> {
    kept: Option<&'a Kept>,
    tree: TreeChunks,
}

impl<'a> SampledChunks<'a> {
    pub fn new(cache: &'a ChunkCache, tree: TreeChunks) -> Self {
        Self { kept: cache.kept.as_ref(), tree }
    }
}

impl ChunkSource for SampledChunks<'_> {
    fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        match self.kept.and_then(|kept| kept.chunks.get(digest)) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.tree.chunk(digest),
        }
    }
}
