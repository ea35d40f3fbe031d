//! The manifest of a directory tree: what is in it, in chunks. Its digest names the tree.
//!
//! Enters: entries found by a scan, or bytes from a peer. Leaves: one canonical form (`tree_form`).
//! Always holds: entries are sorted and unique, every parent is a directory of the same manifest, lengths add up, and
//! no path or link leads out of the tree; so a manifest that exists can be built anywhere safely. Names are bytes, as the kernel's.

use crate::chunk::{CHUNK_BYTES_MAX, ChunkRef, digest_of};
use crate::tree_form;
use pumasi_terms::Digest;
use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Of what is written today. Version 1 knows no times, modes (but executable or not), hard links and holes, and names in UTF-8 only.
pub const VERSION: u32 = 2;
pub const ENTRIES_MAX: usize = 1_200_000;
pub const CHUNKS_MAX: usize = 4_000_000;
/// A manifest of this many bytes is read at most; the sender is refused before it is parsed.
pub const MANIFEST_BYTES_MAX: usize = 256 << 20;
/// Deeper trees are refused: other tools recurse.
pub const DEPTH_MAX: usize = 64;
/// Of a path, so that with the directory above it the kernel takes it (4,096).
pub const PATH_BYTES_MAX: usize = 3_072;
const NAME_BYTES_MAX: usize = 255;
/// Who may do what. Bits that give away the owner's rights (set-uid, set-gid) and the sticky one stay behind.
pub const MODE_MAX: u16 = 0o777;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeManifest {
    pub version: u32,
    /// Of contents, without holes; each file counts as often as it has chunks.
    pub total_bytes: u64,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: OsString,
    pub kind: EntryKind,
    /// Nothing for links, which have none of their own.
    pub mode: u16,
    /// When the content changed last, ns since 1970; 0: not told. Of files only: a directory's changes with each copy that is put there.
    pub modified_ns: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    Dir,
    /// `size` with its holes.
    File {
        size: u64,
        chunks: Vec<ChunkRef>,
    },
    Symlink {
        target: OsString,
    },
    /// Another name of a file whose path sorts before this one.
    Hardlink {
        to: OsString,
    },
}

const DIR_MODE: u16 = 0o755;
const FILE_MODE: u16 = 0o644;

impl Entry {
    pub fn dir(path: impl Into<OsString>) -> Self {
        Self { path: path.into(), kind: EntryKind::Dir, mode: DIR_MODE, modified_ns: 0 }
    }
    pub fn file(path: impl Into<OsString>, chunks: Vec<ChunkRef>) -> Self {
        let size = chunks.iter().map(|c| u64::from(c.len)).fold(0, u64::saturating_add);
        Self { path: path.into(), kind: EntryKind::File { size, chunks }, mode: FILE_MODE, modified_ns: 0 }
    }
    pub fn symlink(path: impl Into<OsString>, target: impl Into<OsString>) -> Self {
        Self { path: path.into(), kind: EntryKind::Symlink { target: target.into() }, mode: 0, modified_ns: 0 }
    }
    pub fn hardlink(path: impl Into<OsString>, to: impl Into<OsString>) -> Self {
        Self { path: path.into(), kind: EntryKind::Hardlink { to: to.into() }, mode: 0, modified_ns: 0 }
    }
    pub fn is_dir(&self) -> bool {
        self.kind == EntryKind::Dir
    }
    pub fn is_executable(&self) -> bool {
        self.mode & 0o111 != 0
    }
}

/// Why a manifest is refused. The sender (or, for a scan, the directory) is at fault; a retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("manifest of {bytes} bytes; at most {MANIFEST_BYTES_MAX} are read")]
    TooLarge { bytes: usize },
    #[error("manifest is not readable: {problem}")]
    Syntax { problem: String },
    #[error("manifest has version {found}; this program knows versions up to {VERSION}, update it")]
    Version { found: u32 },
    #[error("manifest is not in canonical form: the same tree has been written differently")]
    NotCanonical,
    #[error("entry {path:?}: {problem}")]
    Entry { path: String, problem: String },
    #[error("the tree has more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
    #[error("the manifest says {said} bytes, its files have {found}")]
    TotalBytes { said: u64, found: u64 },
}

/// A relative path that climbs nowhere.
pub fn is_inside(path: &OsStr) -> bool {
    let path = path.as_bytes();
    !path.is_empty()
        && path.len() <= PATH_BYTES_MAX
        && !path.contains(&0)
        && path.split(|b| *b == b'/').all(|part| !part.is_empty() && part != b"." && part != b"..")
}

fn depth(path: &OsStr) -> usize {
    path.as_bytes().iter().filter(|b| **b == b'/').count() + 1
}

/// Whether a link at `path` with this target stays in the tree. Steps up are allowed only in front: behind another name
/// they could climb from wherever that name, itself a link, leads.
pub fn link_stays_inside(path: &OsStr, target: &OsStr) -> bool {
    let mut rest = target.as_bytes();
    let mut ups = 0;
    while let Some(after) = rest.strip_prefix(b"..").filter(|r| r.is_empty() || r.starts_with(b"/")) {
        ups += 1;
        rest = after.strip_prefix(b"/").unwrap_or(after);
        if after == b"/" {
            return false;
        }
    }
    ups < depth(path)
        && target.len() <= PATH_BYTES_MAX
        && !target.as_bytes().contains(&0)
        && ((ups > 0 && rest.is_empty()) || is_inside(OsStr::from_bytes(rest)))
}

impl TreeManifest {
    /// Sorts and checks the entries.
    pub fn new(entries: Vec<Entry>) -> Result<Self, TreeError> {
        Self::of_version(VERSION, entries)
    }

    /// One that is written as `version` was, to be changed for whoever holds one of that.
    pub fn of_version(version: u32, mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let total_bytes = bytes_of(&entries);
        let tree = Self { version, total_bytes, entries };
        tree.check()?;
        Ok(tree)
    }

    /// A tree of one file.
    pub fn of_file(name: &str, chunks: Vec<ChunkRef>) -> Result<Self, TreeError> {
        Self::new(vec![Entry::file(name, chunks)])
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, TreeError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(TreeError::TooLarge { bytes: bytes.len() });
        }
        let tree = tree_form::read(bytes)?;
        tree.check()?;
        if tree.to_bytes() != bytes {
            return Err(TreeError::NotCanonical);
        }
        Ok(tree)
    }

    /// The canonical bytes, in the form of its version.
    pub fn to_bytes(&self) -> Vec<u8> {
        tree_form::write(self)
    }

    pub fn digest(&self) -> Digest {
        digest_of(&self.to_bytes())
    }

    /// The entry with this path.
    pub fn get(&self, path: &OsStr) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|e| e.path.as_os_str().cmp(path)).ok()?;
        self.entries.get(at)
    }

    pub fn check(&self) -> Result<(), TreeError> {
        if !(1..=VERSION).contains(&self.version) {
            return Err(TreeError::Version { found: self.version });
        }
        if self.entries.len() > ENTRIES_MAX {
            return Err(TreeError::TooMany { what: "entries", max: ENTRIES_MAX });
        }
        let (mut dirs, mut chunks_total) = (HashSet::new(), 0usize);
        let mut before: Option<&OsStr> = None;
        for entry in &self.entries {
            let path = entry.path.as_os_str();
            let bad = |problem: String| {
                let path = path.to_string_lossy().chars().take(200).collect();
                Err(TreeError::Entry { path, problem })
            };
            if !is_inside(path) || path.as_bytes().split(|b| *b == b'/').any(|part| part.len() > NAME_BYTES_MAX) {
                return bad(format!(
                    "is not a relative path that stays inside ({PATH_BYTES_MAX} bytes, {NAME_BYTES_MAX} a part)"
                ));
            }
            if depth(path) > DEPTH_MAX {
                return bad(format!("is deeper than {DEPTH_MAX} directories"));
            }
            if before.is_some_and(|b| b >= path) {
                return bad("is out of order or there twice".into());
            }
            before = Some(path);
            if let Some(at) = path.as_bytes().iter().rposition(|b| *b == b'/')
                && !dirs.contains(&path.as_bytes()[..at])
            {
                return bad("lies in something that is not a directory of this manifest".into());
            }
            if let Err(problem) = self.check_kind(entry, &mut chunks_total) {
                return bad(problem);
            }
            if self.version == 1 && !is_of_version_1(entry) {
                return bad("is what version 1 of manifests has no words for".into());
            }
            if entry.is_dir() {
                dirs.insert(path.as_bytes());
            }
            if chunks_total > CHUNKS_MAX {
                return Err(TreeError::TooMany { what: "chunks", max: CHUNKS_MAX });
            }
        }
        let found = bytes_of(&self.entries);
        if found != self.total_bytes {
            return Err(TreeError::TotalBytes { said: self.total_bytes, found });
        }
        Ok(())
    }

    fn check_kind(&self, entry: &Entry, chunks_total: &mut usize) -> Result<(), String> {
        let has_none = entry.mode == 0 && entry.modified_ns == 0;
        match &entry.kind {
            EntryKind::Dir if entry.modified_ns != 0 => Err("is a directory with a time".into()),
            EntryKind::Dir | EntryKind::File { .. } if entry.mode > MODE_MAX => {
                Err(format!("has mode {:o}; at most {MODE_MAX:o} is carried", entry.mode))
            }
            EntryKind::Dir => Ok(()),
            EntryKind::File { size, chunks } => {
                if let Some(c) = chunks.iter().find(|c| c.len == 0 || (c.len > CHUNK_BYTES_MAX && !c.is_hole())) {
                    return Err(format!("has a chunk of {} bytes; 1 to {CHUNK_BYTES_MAX} are allowed", c.len));
                }
                let sum = chunks.iter().map(|c| u64::from(c.len)).fold(0, u64::saturating_add);
                if sum != *size || i64::try_from(sum).is_err() {
                    return Err(format!("says {size} bytes, its chunks have {sum}"));
                }
                *chunks_total += chunks.len();
                Ok(())
            }
            EntryKind::Symlink { .. } | EntryKind::Hardlink { .. } if !has_none => {
                Err("is a link with a mode or a time".into())
            }
            EntryKind::Symlink { target } if !link_stays_inside(&entry.path, target) => {
                Err(format!("is a link out of the tree, to {:?}", short(target)))
            }
            EntryKind::Symlink { .. } => Ok(()),
            EntryKind::Hardlink { to } => match self.get(to) {
                Some(Entry { kind: EntryKind::File { .. }, path, .. }) if *path < entry.path => Ok(()),
                _ => Err(format!("is another name of {:?}, which is no file before it", short(to))),
            },
        }
    }

    /// What is kept and sent. Holes are neither.
    pub fn chunks(&self) -> impl Iterator<Item = &ChunkRef> {
        let all = self.entries.iter().flat_map(|e| match &e.kind {
            EntryKind::File { chunks, .. } => chunks.as_slice(),
            _ => &[],
        });
        all.filter(|c| !c.is_hole())
    }

    /// What a garbage collection must keep for this tree.
    pub fn digests(&self) -> BTreeSet<Digest> {
        self.chunks().map(|c| c.digest).collect()
    }
}

fn short(text: &OsStr) -> String {
    text.to_string_lossy().chars().take(200).collect()
}

pub(crate) fn bytes_of(entries: &[Entry]) -> u64 {
    let of = |e: &Entry| match &e.kind {
        EntryKind::File { chunks, .. } => {
            chunks.iter().filter(|c| !c.is_hole()).map(|c| u64::from(c.len)).fold(0, u64::saturating_add)
        }
        _ => 0,
    };
    entries.iter().map(of).fold(0, u64::saturating_add)
}

fn is_of_version_1(entry: &Entry) -> bool {
    let plain = entry.path.to_str().is_some() && entry.modified_ns == 0;
    plain
        && match &entry.kind {
            EntryKind::Dir => entry.mode == DIR_MODE,
            EntryKind::File { chunks, .. } => {
                matches!(entry.mode, FILE_MODE | DIR_MODE) && !chunks.iter().any(ChunkRef::is_hole)
            }
            EntryKind::Symlink { target } => target.to_str().is_some(),
            EntryKind::Hardlink { .. } => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, len: u32) -> Entry {
        Entry::file(path, vec![ChunkRef { digest: Digest([7; 32]), len }])
    }
    fn dir(path: &str) -> Entry {
        Entry::dir(path)
    }
    fn link(path: &str, target: &str) -> Entry {
        Entry::symlink(path, target)
    }

    #[test]
    fn escapes_are_refused_by_name() {
        for path in ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "", "a/\0"] {
            let e = TreeManifest::new(vec![dir("a"), file(path, 1)]).unwrap_err();
            assert!(matches!(e, TreeError::Entry { .. }), "{path:?}: {e}");
        }
        for target in ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "a/../b", ".", "", "../..", "a/\0"] {
            assert!(TreeManifest::new(vec![dir("a"), link("l", target)]).is_err(), "{target:?} passed");
        }
        assert!(TreeManifest::new(vec![dir("a"), link("a/l", "../a/x"), link("a/up", "..")]).is_ok());
        // A link in the place of a directory would lead what follows it elsewhere.
        assert!(TreeManifest::new(vec![link("d", "e"), file("d/x", 1)]).is_err());
        assert!(TreeManifest::new(vec![file("d/x", 1)]).is_err());
    }

    #[test]
    fn faults_name_the_entry() {
        let e = TreeManifest::new(vec![file("big", CHUNK_BYTES_MAX + 1)]).unwrap_err();
        assert!(e.to_string().contains("\"big\""), "{e}");
        let mut tree = TreeManifest::new(vec![file("a", 1), file("b", 2)]).unwrap();
        tree.entries.swap(0, 1);
        assert!(matches!(TreeManifest::parse(&tree.to_bytes()), Err(TreeError::Entry { .. })));
        let mut tree = TreeManifest::of_version(1, vec![file("a", 1)]).unwrap();
        tree.total_bytes = 9;
        assert!(matches!(TreeManifest::parse(&tree.to_bytes()), Err(TreeError::TotalBytes { .. })));
        let newer = [b"PMTR".as_slice(), &[3, 0]].concat();
        assert_eq!(TreeManifest::parse(&newer), Err(TreeError::Version { found: 3 }));
        let newer = br#"{"version":9,"total_bytes":0,"entries":[]}"#;
        assert_eq!(TreeManifest::parse(newer), Err(TreeError::Version { found: 9 }));
    }

    #[test]
    fn one_tree_has_one_form() {
        for version in [1, 2] {
            let entries = vec![dir("a"), file("a/b", 3), link("c", "a/b")];
            let tree = TreeManifest::of_version(version, entries).unwrap();
            let bytes = tree.to_bytes();
            assert_eq!(TreeManifest::parse(&bytes).as_ref(), Ok(&tree));
            let mut spaced = bytes.clone();
            spaced.push(b' ');
            assert!(TreeManifest::parse(&spaced).is_err());
        }
        // A path that shares less than it could.
        let lax = [b"PMTR".as_slice(), &[2, 2, 0, 1, b'a', 0, 0, 0, 2, b'a', b'b', 0, 0]].concat();
        assert_eq!(TreeManifest::parse(&lax), Err(TreeError::NotCanonical));
    }

    /// Names that are no text, holes, times, modes and second names of files.
    fn odd() -> TreeManifest {
        let bytes = |b: &[u8]| OsStr::from_bytes(b).to_owned();
        let chunk = |n, len| ChunkRef { digest: Digest([n; 32]), len };
        let holes = vec![ChunkRef::hole(u32::MAX), chunk(1, 5), ChunkRef::hole(4096)];
        TreeManifest::new(vec![
            Entry { mode: 0o700, ..Entry::dir(bytes(b"\xff\xfe")) },
            Entry { mode: 0o640, modified_ns: -1, ..Entry::file(bytes(b"\xff\xfe/\n \x01"), holes) },
            Entry::hardlink(bytes(b"\xff\xff"), bytes(b"\xff\xfe/\n \x01")),
            Entry::symlink("l", bytes(b"\xff\xfe/\x80")),
            file("plain", 3),
        ])
        .unwrap()
    }

    #[test]
    fn whatever_a_directory_can_hold_has_words() {
        let tree = odd();
        assert_eq!(TreeManifest::parse(&tree.to_bytes()).as_ref(), Ok(&tree));
        assert_eq!((tree.total_bytes, tree.chunks().count()), (8, 2), "holes are not kept");
        assert!(TreeManifest::of_version(1, tree.entries).is_err());
    }

    #[test]
    fn second_names_and_modes_that_lead_away_are_refused() {
        let first = || file("a", 1);
        for bad in [
            vec![first(), Entry::hardlink("b", "c")],
            vec![first(), Entry::hardlink("0", "a")],
            vec![dir("a"), Entry::hardlink("b", "a")],
            vec![first(), Entry::hardlink("b", "a"), Entry::hardlink("c", "b")],
            vec![first(), Entry::hardlink("b", "../a")],
            vec![Entry { mode: 0o4755, ..first() }],
            vec![Entry { modified_ns: 1, ..dir("a") }],
        ] {
            assert!(matches!(TreeManifest::new(bad.clone()), Err(TreeError::Entry { .. })), "{bad:?}");
        }
        let endless = Entry::file("a", vec![ChunkRef::hole(u32::MAX); 3]);
        assert!(TreeManifest::new(vec![endless]).is_ok());
    }

    #[test]
    fn a_short_manifest_takes_little_memory() {
        // Long paths, each but one byte of it shared.
        let mut bytes = [b"PMTR".as_slice(), &[2]].concat();
        crate::leb::put(&mut bytes, 1_000_000);
        for n in 0..1_000_000u64 {
            crate::leb::put(&mut bytes, if n == 0 { 0 } else { 3_000 });
            let text = if n == 0 { "x".repeat(3_000) } else { "y".into() };
            crate::leb::put(&mut bytes, text.len() as u64);
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(&[0, 0]);
        }
        assert!(matches!(TreeManifest::parse(&bytes), Err(TreeError::TooMany { what: "bytes of paths", .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = TreeManifest::parse(&bytes);
        }

        #[test]
        fn damaged_manifests_never_panic(at in 0usize..400, byte in any::<u8>()) {
            let mut bytes = odd().to_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(parsed) = TreeManifest::parse(&bytes) {
                prop_assert!(parsed.check().is_ok());
                prop_assert_eq!(parsed.to_bytes(), bytes);
            }
        }
    }
}
