//! How a manifest is written.
//!
//! Version 2: `PMTR`, version (1 byte), number of entries, then each entry: how many bytes its path shares with the one before, the
//! rest of the path, a kind, and what that has. 0, directory: mode. 1, file: mode, time in ns (signed), number of chunks, then each:
//! twice its length, and its digest (32); or twice its length and one, for a hole. 2, link: target. 3, hard link: path of its file.
//! Numbers are LEB128 of 64 bits at most (signed ones folded: 0, -1, 1, -2), texts a number and so many bytes.
//! Version 1: JSON without spaces, fields in the order of the types.
//! Always holds: lengths are checked before memory is taken; what was read is written again as the same bytes, or it is not canonical.

use crate::chunk::ChunkRef;
use crate::leb;
use crate::tree::{CHUNKS_MAX, ENTRIES_MAX, Entry, EntryKind, PATH_BYTES_MAX, TreeError, TreeManifest};
use pumasi_terms::Digest;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

const MAGIC: &[u8; 4] = b"PMTR";
const BINARY: u8 = 2;

/// Of all paths of a manifest, written out.
const PATHS_BYTES_MAX: usize = 256 << 20;

const DIR: u8 = 0;
const FILE: u8 = 1;
const SYMLINK: u8 = 2;
const HARDLINK: u8 = 3;

pub(crate) fn write(tree: &TreeManifest) -> Vec<u8> {
    if tree.version == 1 {
        return json::write(tree);
    }
    let mut out = Vec::with_capacity(16 + tree.entries.len() * 64);
    out.extend_from_slice(MAGIC);
    out.push(BINARY);
    leb::put(&mut out, tree.entries.len() as u64);
    let mut before: &[u8] = b"";
    for entry in &tree.entries {
        let path = entry.path.as_bytes();
        let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
        leb::put(&mut out, shared as u64);
        put_text(&mut out, &path[shared..]);
        before = path;
        match &entry.kind {
            EntryKind::Dir => {
                out.push(DIR);
                leb::put(&mut out, entry.mode.into());
            }
            EntryKind::File { chunks, .. } => {
                out.push(FILE);
                leb::put(&mut out, entry.mode.into());
                leb::put_signed(&mut out, entry.modified_ns);
                leb::put(&mut out, chunks.len() as u64);
                for chunk in chunks {
                    leb::put(&mut out, u64::from(chunk.len) << 1 | u64::from(chunk.is_hole()));
                    if !chunk.is_hole() {
                        out.extend_from_slice(&chunk.digest.0);
                    }
                }
            }
            EntryKind::Symlink { target } => {
                out.push(SYMLINK);
                put_text(&mut out, target.as_bytes());
            }
            EntryKind::Hardlink { to } => {
                out.push(HARDLINK);
                put_text(&mut out, to.as_bytes());
            }
        }
    }
    out
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    leb::put(out, text.len() as u64);
    out.extend_from_slice(text);
}

fn syntax(problem: &str) -> TreeError {
    TreeError::Syntax { problem: problem.into() }
}

/// Nothing of it is checked beyond its form.
pub(crate) fn read(bytes: &[u8]) -> Result<TreeManifest, TreeError> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return json::read(bytes) };
    let mut reader = Reader { rest, chunks: 0 };
    match reader.byte()? {
        BINARY => {}
        found => return Err(TreeError::Version { found: found.into() }),
    }
    let count = reader.number()?;
    if count > ENTRIES_MAX as u64 {
        return Err(TreeError::TooMany { what: "entries", max: ENTRIES_MAX });
    }
    // An entry has three bytes at least.
    let mut entries: Vec<Entry> = Vec::with_capacity((count as usize).min(rest.len() / 3));
    let mut paths_bytes = 0;
    for _ in 0..count {
        let before = entries.last().map_or(&[][..], |e| e.path.as_bytes());
        let shared = reader.number()?;
        let shared = usize::try_from(shared).ok().and_then(|n| before.get(..n));
        let mut path = shared.ok_or_else(|| syntax("a path shares more than there is"))?.to_vec();
        path.extend_from_slice(reader.text()?);
        // What is shared costs nothing to write.
        paths_bytes += path.len();
        if paths_bytes > PATHS_BYTES_MAX {
            return Err(TreeError::TooMany { what: "bytes of paths", max: PATHS_BYTES_MAX });
        }
        entries.push(reader.entry(OsString::from_vec(path))?);
    }
    if !reader.rest.is_empty() {
        return Err(syntax("bytes follow the last entry"));
    }
    let total_bytes = crate::tree::bytes_of(&entries);
    Ok(TreeManifest { version: BINARY.into(), total_bytes, entries })
}

struct Reader<'a> {
    rest: &'a [u8],
    /// By now, of all files.
    chunks: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, TreeError> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], TreeError> {
        let (first, rest) = self.rest.split_at_checked(n).ok_or_else(|| syntax("it is broken off"))?;
        self.rest = rest;
        Ok(first)
    }

    fn number(&mut self) -> Result<u64, TreeError> {
        leb::take(&mut self.rest).ok_or_else(|| syntax("a number is broken off or too large"))
    }

    fn text(&mut self) -> Result<&'a [u8], TreeError> {
        match usize::try_from(self.number()?) {
            Ok(len) if len <= PATH_BYTES_MAX => self.take(len),
            _ => Err(syntax("a text is too long")),
        }
    }

    fn mode(&mut self) -> Result<u16, TreeError> {
        u16::try_from(self.number()?).map_err(|_| syntax("a mode is too large"))
    }

    fn entry(&mut self, path: OsString) -> Result<Entry, TreeError> {
        let text = |reader: &mut Self| reader.text().map(|t| OsString::from_vec(t.to_vec()));
        Ok(match self.byte()? {
            DIR => Entry { mode: self.mode()?, ..Entry::dir(path) },
            FILE => {
                let mode = self.mode()?;
                let modified_ns =
                    leb::take_signed(&mut self.rest).ok_or_else(|| syntax("a time is broken off or too large"))?;
                Entry { mode, modified_ns, ..Entry::file(path, self.chunks()?) }
            }
            SYMLINK => Entry::symlink(path, text(self)?),
            HARDLINK => Entry::hardlink(path, text(self)?),
            _ => return Err(syntax("an entry of unknown kind")),
        })
    }

    fn chunks(&mut self) -> Result<Vec<ChunkRef>, TreeError> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        // A hole is the shortest.
        self.chunks = self.chunks.saturating_add(count);
        if self.chunks > CHUNKS_MAX {
            return Err(TreeError::TooMany { what: "chunks", max: CHUNKS_MAX });
        }
        let mut chunks = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            let number = self.number()?;
            let len = u32::try_from(number >> 1).map_err(|_| syntax("a chunk is too long"))?;
            chunks.push(match number & 1 {
                1 => ChunkRef::hole(len),
                _ => ChunkRef { digest: self.digest()?, len },
            });
        }
        Ok(chunks)
    }

    fn digest(&mut self) -> Result<Digest, TreeError> {
        let bytes = self.take(32)?;
        bytes.try_into().map(Digest).map_err(|_| syntax("a digest is broken off"))
    }
}

/// Version 1, which stands on disk still where it was written.
mod json {
    use super::{Deserialize, Entry, EntryKind, OsString, Serialize, TreeError, TreeManifest};
    use crate::chunk::ChunkRef;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Tree {
        version: u32,
        total_bytes: u64,
        entries: Vec<Item>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        path: String,
        kind: Kind,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    enum Kind {
        Dir,
        File { size: u64, executable: bool, chunks: Vec<ChunkRef> },
        Symlink { target: String },
    }

    pub(super) fn write(tree: &TreeManifest) -> Vec<u8> {
        // What is not of version 1 does not pass its check; here it would be written wrongly and refused by whoever reads it.
        let text = |t: &OsString| t.to_string_lossy().into_owned();
        let item = |e: &Entry| Item {
            path: text(&e.path),
            kind: match &e.kind {
                EntryKind::Dir => Kind::Dir,
                EntryKind::File { size, chunks } => {
                    Kind::File { size: *size, executable: e.is_executable(), chunks: chunks.clone() }
                }
                EntryKind::Symlink { target } | EntryKind::Hardlink { to: target } => {
                    Kind::Symlink { target: text(target) }
                }
            },
        };
        let entries = tree.entries.iter().map(item).collect();
        // Neither a map with odd keys nor a failing Serialize is in these types, so this cannot fail.
        serde_json::to_vec(&Tree { version: 1, total_bytes: tree.total_bytes, entries }).unwrap_or_default()
    }

    pub(super) fn read(bytes: &[u8]) -> Result<TreeManifest, TreeError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let syntax = |e: serde_json::Error| TreeError::Syntax { problem: e.to_string().chars().take(300).collect() };
        let head: Head = serde_json::from_slice(bytes).map_err(syntax)?;
        if head.version != 1 {
            return Err(TreeError::Version { found: head.version });
        }
        let tree: Tree = serde_json::from_slice(bytes).map_err(syntax)?;
        let entry = |item: Item| match item.kind {
            Kind::Dir => Entry::dir(item.path),
            Kind::File { size, executable, chunks } => {
                let mode = if executable { 0o755 } else { 0o644 };
                Entry { kind: EntryKind::File { size, chunks }, mode, ..Entry::dir(item.path) }
            }
            Kind::Symlink { target } => Entry::symlink(item.path, target),
        };
        let entries = tree.entries.into_iter().map(entry).collect();
        Ok(TreeManifest { version: 1, total_bytes: tree.total_bytes, entries })
    }
}
