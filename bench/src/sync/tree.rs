//! A tree and its changes, both from seeds. The bytes do not compress: what is sent is what changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub const TREE_BYTES: u64 = 500_000_000;
const FILE_BYTES_MIN: u64 = 4 << 10;
/// Sizes are spread evenly over their logarithms: twelve doublings above the least.
const FILE_DOUBLINGS: u64 = 12;
const INSERTIONS: u32 = 200;
const INSERTED_BYTES_MAX: u64 = 200;
const OVERWRITES: u32 = 200;
const BLOCK_BYTES: u64 = 4096;
const APPENDED_FILES: u32 = 20;
const APPENDED_BYTES: usize = 1024;

/// xorshift64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..8).for_each(|_| {
            rng.next();
        });
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    Rng::new(seed).bytes(len)
}

#[derive(Debug)]
pub struct Tree {
    dir: PathBuf,
    files: Vec<(PathBuf, u64)>,
}

impl Tree {
    pub fn make(dir: &Path, seed: u64) -> anyhow::Result<Self> {
        let mut rng = Rng::new(seed);
        let (mut files, mut total) = (Vec::new(), 0u64);
        while total < TREE_BYTES {
            let least = FILE_BYTES_MIN << rng.below(FILE_DOUBLINGS);
            let size = (least + rng.below(least)).min(TREE_BYTES - total);
            let n = files.len();
            let path = dir.join(format!("d{:02}/e{}/f{n:05}", n % 20, n % 3));
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&path, rng.bytes(size as usize))?;
            files.push((path, size));
            total += size;
        }
        Ok(Self { dir: dir.to_owned(), files })
    }

    pub fn files(&self) -> usize {
        self.files.len()
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }

    /// A file, each byte of the tree being as likely.
    fn pick(&self, rng: &mut Rng) -> usize {
        let mut at = rng.below(self.bytes());
        self.files.iter().position(|(_, size)| at.checked_sub(*size).map(|rest| at = rest).is_none()).unwrap_or(0)
    }

    /// Changes files in place; returns the bytes inserted, overwritten and appended.
    pub fn change(&mut self, seed: u64) -> anyhow::Result<u64> {
        let mut rng = Rng::new(seed);
        let mut changes: BTreeMap<usize, Vec<(u64, bool, Vec<u8>)>> = BTreeMap::new();
        let mut changed = 0;
        for n in 0..INSERTIONS + OVERWRITES {
            let file = self.pick(&mut rng);
            let size = self.files[file].1;
            let (at, overwrite, bytes) = if n < INSERTIONS {
                let len = 1 + rng.below(INSERTED_BYTES_MAX);
                (rng.below(size), false, rng.bytes(len as usize))
            } else {
                let at = rng.below(size / BLOCK_BYTES) * BLOCK_BYTES;
                (at, true, rng.bytes(BLOCK_BYTES.min(size - at) as usize))
            };
            changed += bytes.len() as u64;
            changes.entry(file).or_default().push((at, overwrite, bytes));
        }
        for _ in 0..APPENDED_FILES {
            let file = rng.below(self.files.len() as u64) as usize;
            changed += APPENDED_BYTES as u64;
            changes.entry(file).or_default().push((u64::MAX, false, rng.bytes(APPENDED_BYTES)));
        }
        for (file, mut edits) in changes {
            // From the end, so that places stay what they were drawn as.
            edits.sort_by_key(|edit| std::cmp::Reverse(edit.0));
            let (path, size) = &mut self.files[file];
            let mut bytes = fs::read(&*path)?;
            for (at, overwrite, fresh) in edits {
                let at = (at as usize).min(bytes.len());
                let to = if overwrite { at + fresh.len() } else { at };
                bytes.splice(at..to, fresh);
            }
            fs::write(&*path, &bytes)?;
            *size = bytes.len() as u64;
        }
        Ok(changed)
    }

    /// Fails unless `copy` holds this tree, byte for byte, and nothing else.
    pub fn same_as(&self, copy: &Path) -> anyhow::Result<()> {
        for (path, _) in &self.files {
            let there = copy.join(path.strip_prefix(&self.dir)?);
            anyhow::ensure!(fs::read(path)? == fs::read(&there)?, "{} is not what it should be", there.display());
        }
        let (mut found, mut todo) = (0, vec![copy.to_owned()]);
        while let Some(dir) = todo.pop() {
            for item in fs::read_dir(dir)? {
                let item = item?;
                if item.file_type()?.is_dir() {
                    todo.push(item.path());
                } else {
                    found += 1;
                }
            }
        }
        anyhow::ensure!(
            found == self.files.len(),
            "{} has {found} files instead of {}",
            copy.display(),
            self.files.len()
        );
        Ok(())
    }
}
