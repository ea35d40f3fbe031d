//! Tree deltas: a manifest told by what it has in common with another.
//!
//! Form: steps along the entries of the base, each beginning with a tag. 1: keep so many; 2: drop so many; 3: a new entry: path,
//! kind (0 directory, 1 file, 2 executable file, 3 link; in version 2 of manifests 4 directory: mode, 5 file: mode and time, 6 hard
//! link, instead of the first three), and its chunks or its target; 4: the next entry, a file, keeps its path: kind and chunks; 0: the
//! end, the rest of the base is dropped. Chunks are steps along those of the base's file (of none for a new
//! entry): 1: keep so many; 2: drop so many; 3: a chunk, digest (32) and length; 0: the end. Numbers are LEB128, texts a number
//! and so many bytes.
//! Always holds: each entry and chunk of the base is used once at most, so that what comes out is no larger than base and delta
//! together; what comes out passes the checks of a manifest.

use crate::chunk::ChunkRef;
use crate::leb::{put_number, put_signed, take_number, take_signed};
use crate::tree::{CHUNKS_MAX, ENTRIES_MAX, Entry, EntryKind, TreeError, TreeManifest};
use pumasi_terms::Digest;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

const END: u8 = 0;
const KEEP: u8 = 1;
const DROP: u8 = 2;
const PUT: u8 = 3;
const EDIT: u8 = 4;

const DIR: u8 = 0;
const FILE: u8 = 1;
const EXECUTABLE: u8 = 2;
const LINK: u8 = 3;
const DIR_MODE: u8 = 4;
const FILE_MODE: u8 = 5;
const HARDLINK: u8 = 6;

/// Chunks that recur further on are taken from there only this near, or if the one after them fits too.
const SKIP_CHUNKS_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeDeltaError {
    #[error("tree delta: {0}; the sender is at fault")]
    Invalid(&'static str),
    #[error("tree delta: what comes out is no good: {0}")]
    Tree(#[from] TreeError),
}

/// Joins equal steps that follow each other.
#[derive(Default)]
struct Runs {
    out: Vec<u8>,
    run: Option<(u8, u32)>,
}

impl Runs {
    fn step(&mut self, tag: u8, n: usize) {
        match &mut self.run {
            _ if n == 0 => {}
            Some((last, count)) if *last == tag => *count += n as u32,
            _ => {
                self.flush();
                self.run = Some((tag, n as u32));
            }
        }
    }

    fn flush(&mut self) {
        if let Some((tag, n)) = self.run.take() {
            self.out.push(tag);
            put_number(&mut self.out, n);
        }
    }

    fn tag(&mut self, tag: u8) {
        self.flush();
        self.out.push(tag);
    }

    fn text(&mut self, text: &OsStr) {
        put_number(&mut self.out, text.len() as u32);
        self.out.extend_from_slice(text.as_bytes());
    }

    /// All of an entry but its path.
    fn rest(&mut self, version: u32, entry: &Entry, base: &[ChunkRef]) {
        match &entry.kind {
            EntryKind::Dir if version == 1 => self.out.push(DIR),
            EntryKind::Dir => {
                self.out.push(DIR_MODE);
                put_number(&mut self.out, entry.mode.into());
            }
            EntryKind::Symlink { target } => {
                self.out.push(LINK);
                self.text(target);
            }
            EntryKind::Hardlink { to } => {
                self.out.push(HARDLINK);
                self.text(to);
            }
            EntryKind::File { chunks, .. } => {
                if version == 1 {
                    self.out.push(if entry.is_executable() { EXECUTABLE } else { FILE });
                } else {
                    self.out.push(FILE_MODE);
                    put_number(&mut self.out, entry.mode.into());
                    put_signed(&mut self.out, entry.modified_ns);
                }
                self.chunks(base, chunks);
                self.tag(END);
            }
        }
    }

    fn chunks(&mut self, base: &[ChunkRef], fresh: &[ChunkRef]) {
        let mut places: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        if base != fresh {
            base.iter().enumerate().for_each(|(at, c)| places.entry(c.digest).or_default().push(at));
        }
        let mut at = 0;
        for (n, chunk) in fresh.iter().enumerate() {
            if base.get(at) == Some(chunk) {
                self.step(KEEP, 1);
                at += 1;
                continue;
            }
            let later = places.get(&chunk.digest).and_then(|p| p.get(p.partition_point(|p| *p < at)).copied());
            let worth = |to: usize| {
                base.get(to) == Some(chunk)
                    && (to - at <= SKIP_CHUNKS_MAX || (fresh.len() > n + 1 && base.get(to + 1) == fresh.get(n + 1)))
            };
            match later.filter(|to| worth(*to)) {
                Some(to) => {
                    self.step(DROP, to - at);
                    self.step(KEEP, 1);
                    at = to + 1;
                }
                None => {
                    self.tag(PUT);
                    self.out.extend_from_slice(&chunk.digest.0);
                    put_number(&mut self.out, chunk.len);
                }
            }
        }
    }
}

/// What turns `base` into `tree`; none where they are of different versions.
pub fn diff(base: &TreeManifest, tree: &TreeManifest) -> Option<Vec<u8>> {
    if base.version != tree.version {
        return None;
    }
    let version = tree.version;
    let mut runs = Runs::default();
    let put = |runs: &mut Runs, entry: &Entry| {
        runs.tag(PUT);
        runs.text(&entry.path);
        runs.rest(version, entry, &[]);
    };
    let (mut old, mut new) = (base.entries.iter().peekable(), tree.entries.iter().peekable());
    while let Some(entry) = new.peek().copied() {
        match old.peek().map(|o| o.path.cmp(&entry.path)) {
            Some(Ordering::Less) => {
                runs.step(DROP, 1);
                old.next();
                continue;
            }
            Some(Ordering::Equal) => match old.next() {
                Some(before) if before == entry => runs.step(KEEP, 1),
                Some(Entry { kind: EntryKind::File { chunks, .. }, .. })
                    if matches!(entry.kind, EntryKind::File { .. }) =>
                {
                    runs.tag(EDIT);
                    runs.rest(version, entry, chunks);
                }
                _ => {
                    runs.step(DROP, 1);
                    put(&mut runs, entry);
                }
            },
            Some(Ordering::Greater) | None => put(&mut runs, entry),
        }
        new.next();
    }
    runs.tag(END);
    Some(runs.out)
}

struct Reader<'a> {
    input: &'a [u8],
    chunks: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, TreeDeltaError> {
        let (first, rest) = self.input.split_first().ok_or(TreeDeltaError::Invalid("it is broken off"))?;
        self.input = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<usize, TreeDeltaError> {
        let n = take_number(&mut self.input).ok_or(TreeDeltaError::Invalid("a number is broken off or too large"))?;
        Ok(n as usize)
    }

    fn text(&mut self) -> Result<OsString, TreeDeltaError> {
        let len = self.number()?;
        let (text, rest) = self.input.split_at_checked(len).ok_or(TreeDeltaError::Invalid("a text is broken off"))?;
        self.input = rest;
        Ok(OsString::from_vec(text.to_vec()))
    }

    fn mode(&mut self) -> Result<u16, TreeDeltaError> {
        u16::try_from(self.number()?).map_err(|_| TreeDeltaError::Invalid("a mode is too large"))
    }

    /// All of an entry but its path.
    fn rest(&mut self, path: OsString, base: &[ChunkRef]) -> Result<Entry, TreeDeltaError> {
        match self.byte()? {
            DIR => Ok(Entry::dir(path)),
            DIR_MODE => Ok(Entry { mode: self.mode()?, ..Entry::dir(path) }),
            LINK => Ok(Entry::symlink(path, self.text()?)),
            HARDLINK => Ok(Entry::hardlink(path, self.text()?)),
            FILE => Ok(Entry::file(path, self.chunks(base)?)),
            EXECUTABLE => Ok(Entry { mode: 0o755, ..Entry::file(path, self.chunks(base)?) }),
            FILE_MODE => {
                let mode = self.mode()?;
                let time = take_signed(&mut self.input);
                let modified_ns = time.ok_or(TreeDeltaError::Invalid("a time is broken off or too large"))?;
                Ok(Entry { mode, modified_ns, ..Entry::file(path, self.chunks(base)?) })
            }
            _ => Err(TreeDeltaError::Invalid("an entry of unknown kind")),
        }
    }

    fn chunks(&mut self, mut base: &[ChunkRef]) -> Result<Vec<ChunkRef>, TreeDeltaError> {
        let mut out = Vec::new();
        loop {
            let before = out.len();
            match self.byte()? {
                END => return Ok(out),
                tag @ (KEEP | DROP) => {
                    let (next, rest) = split(base, self.number()?)?;
                    base = rest;
                    out.extend_from_slice(if tag == KEEP { next } else { &[] });
                }
                PUT => {
                    let broken = TreeDeltaError::Invalid("a digest is broken off");
                    let (digest, rest) = self.input.split_first_chunk::<32>().ok_or(broken)?;
                    self.input = rest;
                    let len = self.number()? as u32;
                    out.push(ChunkRef { digest: Digest(*digest), len });
                }
                _ => return Err(TreeDeltaError::Invalid("an unknown step")),
            }
            self.chunks += out.len() - before;
            if self.chunks > CHUNKS_MAX {
                return Err(TreeError::TooMany { what: "chunks", max: CHUNKS_MAX }.into());
            }
        }
    }
}

fn split<T>(base: &[T], n: usize) -> Result<(&[T], &[T]), TreeDeltaError> {
    base.split_at_checked(n).ok_or(TreeDeltaError::Invalid("it uses more than its base has"))
}

/// What `diff` made, over the same base.
pub fn patch(base: &TreeManifest, delta: &[u8]) -> Result<TreeManifest, TreeDeltaError> {
    let mut reader = Reader { input: delta, chunks: 0 };
    let (mut rest, mut entries) = (base.entries.as_slice(), Vec::new());
    loop {
        match reader.byte()? {
            END if reader.input.is_empty() => break,
            END => return Err(TreeDeltaError::Invalid("bytes follow the end")),
            tag @ (KEEP | DROP) => {
                let (next, after) = split(rest, reader.number()?)?;
                rest = after;
                entries.extend_from_slice(if tag == KEEP { next } else { &[] });
            }
            PUT => {
                let path = reader.text()?;
                entries.push(reader.rest(path, &[])?);
            }
            EDIT => {
                let (next, after) = split(rest, 1)?;
                rest = after;
                let [Entry { path, kind: EntryKind::File { chunks, .. }, .. }] = next else {
                    return Err(TreeDeltaError::Invalid("it edits what is no file"));
                };
                entries.push(reader.rest(path.clone(), chunks)?);
            }
            _ => return Err(TreeDeltaError::Invalid("an unknown step")),
        }
        if entries.len() > ENTRIES_MAX {
            return Err(TreeError::TooMany { what: "entries", max: ENTRIES_MAX }.into());
        }
    }
    Ok(TreeManifest::of_version(base.version, entries)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(n: u8) -> ChunkRef {
        ChunkRef { digest: Digest([n; 32]), len: u32::from(n) + 1 }
    }

    fn tree(entries: &[(u8, u8, Vec<u8>)]) -> TreeManifest {
        let mut seen = BTreeMap::new();
        for (n, kind, chunks) in entries {
            let (path, chunks) = (format!("p{n}"), chunks.iter().map(|n| chunk(*n)).collect());
            let entry = match kind {
                0 => Entry { mode: 0o700 + u16::from(*n), ..Entry::dir(&path) },
                3 => Entry::symlink(&path, "p0"),
                2 => Entry { mode: 0o755, modified_ns: i64::from(*n) - 4, ..Entry::file(&path, chunks) },
                _ => Entry::file(&path, chunks),
            };
            seen.insert(path, entry);
        }
        let first = seen.values().find(|e| matches!(e.kind, EntryKind::File { .. })).map(|e| e.path.clone());
        let second = first.map(|to| Entry::hardlink("q", to));
        TreeManifest::new(seen.into_values().chain(second).collect()).unwrap()
    }

    fn trees() -> impl Strategy<Value = TreeManifest> {
        let entry = (
            0u8..8,
            prop_oneof![6 => Just(1u8), 1 => Just(0), 1 => Just(2), 1 => Just(3)],
            proptest::collection::vec(0u8..12, 0..20),
        );
        proptest::collection::vec(entry, 0..8).prop_map(|e| tree(&e))
    }

    #[test]
    fn a_small_change_in_a_large_tree_is_told_shortly() {
        let entries: Vec<Entry> = (0..3000u32)
            .map(|n| {
                let mut digest = [0; 32];
                digest[..4].copy_from_slice(&n.to_le_bytes());
                let chunks = vec![ChunkRef { digest: Digest(digest), len: 5 }; 4];
                Entry::file(format!("file-{n:05}"), chunks)
            })
            .collect();
        let base = TreeManifest::new(entries.clone()).unwrap();
        let mut fresh = entries;
        if let EntryKind::File { chunks, .. } = &mut fresh[1500].kind {
            chunks[2] = ChunkRef { digest: Digest([9; 32]), len: 5 };
        }
        fresh.remove(7);
        let fresh = TreeManifest::new(fresh).unwrap();
        let delta = diff(&base, &fresh).unwrap();
        assert!(delta.len() <= 60, "{}", delta.len());
        assert_eq!(patch(&base, &delta), Ok(fresh));
        assert_eq!(diff(&base, &base).unwrap().len(), 4);
        assert_eq!(diff(&TreeManifest::of_version(1, Vec::new()).unwrap(), &base), None);
    }

    #[test]
    fn hostile_deltas_are_refused() {
        let base =
            TreeManifest::new(vec![Entry::file("p1", vec![chunk(1), chunk(2), chunk(3)]), Entry::dir("p2")]).unwrap();
        for (delta, why) in [
            (&[][..], "broken off"),
            (&[KEEP, 3, END], "more than its base"),
            (&[KEEP, 2, KEEP, 1, END], "more than its base"),
            (&[KEEP, 1, EDIT, FILE, END, END], "no file"),
            (&[EDIT, FILE, KEEP, 4, END, END], "more than its base"),
            (&[EDIT, FILE, PUT, 1, 2], "digest"),
            (&[EDIT, 9, END], "unknown kind"),
            (&[7], "unknown step"),
            (&[END, END], "follow"),
            (&[PUT, 0xff, 0xff, 0xff, 0xff, 0x0f, b'a'], "text"),
            (&[PUT, 1, 0xff, DIR_MODE, 0xff, 0xff, 0xff, 0x7f, END], "mode"),
            (&[PUT, 1, b'z', HARDLINK, 1, b'y', END], "another name"),
            (&[PUT, 3, b'.', b'.', b'/', DIR, END], "stays inside"),
            (&[PUT, 1, b'a', LINK, 2, b'.', b'.', END], "out of the tree"),
            (&[KEEP, 0xff, 0xff, 0xff, 0xff, 0x7f, END], "number"),
        ] {
            let e = patch(&base, delta).unwrap_err().to_string();
            assert!(e.contains(why), "{delta:?}: {e}");
        }
    }

    proptest! {
        #[test]
        fn any_tree_comes_out_again(base in trees(), fresh in trees()) {
            prop_assert_eq!(patch(&base, &diff(&base, &fresh).unwrap()), Ok(fresh));
        }

        #[test]
        fn arbitrary_bytes_never_panic(base in trees(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(tree) = patch(&base, &bytes) {
                prop_assert!(tree.check().is_ok());
            }
        }

        #[test]
        fn damaged_deltas_never_panic(base in trees(), fresh in trees(), at in any::<usize>(), byte in any::<u8>()) {
            let mut delta = diff(&base, &fresh).unwrap();
            let at = at % delta.len();
            delta[at] = byte;
            let _ = patch(&base, &delta);
        }
    }
}
