//! The manifest of a directory tree: what is in it, in chunks. Its digest names the tree.
//!
//! Enters: entries found by a scan, or bytes from a peer. Leaves: one canonical form.
//! Always holds: entries are sorted and unique, every parent is a directory of the same manifest, lengths add up, and
//! no path or link leads out of the tree; so a manifest that exists can be built anywhere safely.

use crate::chunk::{CHUNK_BYTES_MAX, ChunkRef, digest_of};
use pumasi_terms::Digest;
use pumasi_terms::service::is_inside;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub const VERSION: u32 = 1;
pub const ENTRIES_MAX: usize = 200_000;
pub const CHUNKS_MAX: usize = 4_000_000;
/// A manifest of this many bytes is read at most; the sender is refused before it is parsed.
pub const MANIFEST_BYTES_MAX: usize = 512 << 20;
/// Deeper trees are refused: other tools recurse.
pub const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeManifest {
    pub version: u32,
    pub total_bytes: u64,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub path: String,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EntryKind {
    Dir,
    File { size: u64, executable: bool, chunks: Vec<ChunkRef> },
    Symlink { target: String },
}

/// Why a manifest is refused. The sender (or, for a scan, the directory) is at fault; a retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("manifest of {bytes} bytes; at most {MANIFEST_BYTES_MAX} are read")]
    TooLarge { bytes: usize },
    #[error("manifest is not readable: {problem}")]
    Syntax { problem: String },
    #[error("manifest has version {found}; this program knows version {VERSION}, update it")]
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

/// Whether a link at `path` with this target stays in the tree. Steps up are allowed only in front: behind another name
/// they could climb from wherever that name, itself a link, leads.
pub fn link_stays_inside(path: &str, target: &str) -> bool {
    let depth = path.split('/').count() - 1;
    let ups = target.split('/').take_while(|p| *p == "..").count();
    let rest = target.split('/').skip(ups).collect::<Vec<_>>().join("/");
    ups <= depth
        && target.len() <= 1024
        && !target.contains('\0')
        && (if ups > 0 && rest.is_empty() { true } else { is_inside(&rest) })
}

impl TreeManifest {
    /// Sorts and checks the entries.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let total_bytes = entries
            .iter()
            .map(|e| if let EntryKind::File { size, .. } = &e.kind { *size } else { 0 })
            .fold(0u64, u64::saturating_add);
        let tree = Self { version: VERSION, total_bytes, entries };
        tree.check()?;
        Ok(tree)
    }

    /// A tree of one file.
    pub fn of_file(name: &str, chunks: Vec<ChunkRef>) -> Result<Self, TreeError> {
        let size = chunks.iter().map(|c| u64::from(c.len)).sum();
        Self::new(vec![Entry { path: name.to_owned(), kind: EntryKind::File { size, executable: false, chunks } }])
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, TreeError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(TreeError::TooLarge { bytes: bytes.len() });
        }
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let syntax = |e: serde_json::Error| TreeError::Syntax { problem: e.to_string().chars().take(300).collect() };
        let head: Head = serde_json::from_slice(bytes).map_err(syntax)?;
        if head.version != VERSION {
            return Err(TreeError::Version { found: head.version });
        }
        let tree: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        tree.check()?;
        if tree.to_bytes() != bytes {
            return Err(TreeError::NotCanonical);
        }
        Ok(tree)
    }

    /// The canonical bytes: JSON without spaces, fields in the order of the types, entries sorted by path.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Neither a map with odd keys nor a failing Serialize is in these types, so this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn digest(&self) -> Digest {
        digest_of(&self.to_bytes())
    }

    pub fn check(&self) -> Result<(), TreeError> {
        if self.version != VERSION {
            return Err(TreeError::Version { found: self.version });
        }
        if self.entries.len() > ENTRIES_MAX {
            return Err(TreeError::TooMany { what: "entries", max: ENTRIES_MAX });
        }
        let (mut dirs, mut total, mut chunks_total) = (BTreeSet::new(), 0u64, 0usize);
        let mut before: Option<&str> = None;
        for entry in &self.entries {
            let bad = |problem: String| TreeError::Entry { path: entry.path.chars().take(200).collect(), problem };
            if !is_inside(&entry.path) || entry.path.split('/').any(|part| part.len() > 255) {
                return Err(bad("is not a relative path that stays inside (1024 bytes, 255 a part)".into()));
            }
            if entry.path.split('/').count() > DEPTH_MAX {
                return Err(bad(format!("is deeper than {DEPTH_MAX} directories")));
            }
            if before.is_some_and(|b| b >= entry.path.as_str()) {
                return Err(bad("is out of order or there twice".into()));
            }
            before = Some(&entry.path);
            if let Some((parent, _)) = entry.path.rsplit_once('/')
                && !dirs.contains(parent)
            {
                return Err(bad("lies in something that is not a directory of this manifest".into()));
            }
            match &entry.kind {
                EntryKind::Dir => {
                    dirs.insert(entry.path.as_str());
                }
                EntryKind::File { size, chunks, .. } => {
                    if let Some(c) = chunks.iter().find(|c| c.len == 0 || c.len > CHUNK_BYTES_MAX) {
                        return Err(bad(format!("has a chunk of {} bytes; 1 to {CHUNK_BYTES_MAX} are allowed", c.len)));
                    }
                    let sum: u64 = chunks.iter().map(|c| u64::from(c.len)).sum();
                    if sum != *size {
                        return Err(bad(format!("says {size} bytes, its chunks have {sum}")));
                    }
                    total = total.saturating_add(sum);
                    chunks_total += chunks.len();
                    if chunks_total > CHUNKS_MAX {
                        return Err(TreeError::TooMany { what: "chunks", max: CHUNKS_MAX });
                    }
                }
                EntryKind::Symlink { target } if !link_stays_inside(&entry.path, target) => {
                    return Err(bad(format!(
                        "is a link out of the tree, to {:?}",
                        target.chars().take(200).collect::<String>()
                    )));
                }
                EntryKind::Symlink { .. } => {}
            }
        }
        if total != self.total_bytes {
            return Err(TreeError::TotalBytes { said: self.total_bytes, found: total });
        }
        Ok(())
    }

    pub fn chunks(&self) -> impl Iterator<Item = &ChunkRef> {
        self.entries.iter().flat_map(|e| match &e.kind {
            EntryKind::File { chunks, .. } => chunks.as_slice(),
            _ => &[],
        })
    }

    /// What a garbage collection must keep for this tree.
    pub fn digests(&self) -> BTreeSet<Digest> {
        self.chunks().map(|c| c.digest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, len: u32) -> Entry {
        let chunks = vec![ChunkRef { digest: Digest([7; 32]), len }];
        Entry { path: path.into(), kind: EntryKind::File { size: len.into(), executable: false, chunks } }
    }
    fn dir(path: &str) -> Entry {
        Entry { path: path.into(), kind: EntryKind::Dir }
    }
    fn link(path: &str, target: &str) -> Entry {
        Entry { path: path.into(), kind: EntryKind::Symlink { target: target.into() } }
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
        let mut tree = TreeManifest::new(vec![file("a", 1)]).unwrap();
        tree.total_bytes = 9;
        assert!(matches!(TreeManifest::parse(&tree.to_bytes()), Err(TreeError::TotalBytes { .. })));
        tree.version = 2;
        assert_eq!(TreeManifest::parse(&tree.to_bytes()), Err(TreeError::Version { found: 2 }));
    }

    #[test]
    fn one_tree_has_one_form() {
        let tree = TreeManifest::new(vec![dir("a"), file("a/b", 3), link("c", "a/b")]).unwrap();
        let bytes = tree.to_bytes();
        assert_eq!(TreeManifest::parse(&bytes).as_ref(), Ok(&tree));
        let mut spaced = bytes.clone();
        spaced.push(b' ');
        assert_eq!(TreeManifest::parse(&spaced), Err(TreeError::NotCanonical));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = TreeManifest::parse(&bytes);
        }

        #[test]
        fn damaged_manifests_never_panic(at in 0usize..400, byte in any::<u8>()) {
            let tree = TreeManifest::new(vec![dir("a"), file("a/b", 3), link("c", "a/b")]).unwrap();
            let mut bytes = tree.to_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(parsed) = TreeManifest::parse(&bytes) {
                prop_assert!(parsed.check().is_ok());
                prop_assert_eq!(parsed.to_bytes(), bytes);
            }
        }
    }
}
