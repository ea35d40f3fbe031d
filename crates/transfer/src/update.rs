//! Updates: what brings a copy of a tree from one state to the next, in one message and without a question before.
//!
//! Form: `PMTU`, version (1 byte), digest of the base's manifest (32), digest of the new one (32), generation and as_of_ms (u64 LE
//! each), length of the tree delta (u32 LE), the tree delta, then a pack with the chunks that the base has not.
//! Always holds: an update applies to the base it names and to no other; its bounds are checked before memory is taken; whatever
//! comes out has the digest it was announced with.

use crate::chunk::digest_of;
use crate::delta::DeltaIndex;
use crate::pack::{PackError, PackWriter};
use crate::signature::Signatures;
use crate::store::ChunkSource;
use crate::tree::{EntryKind, TreeManifest};
use crate::tree_delta::{TreeDeltaError, diff, patch};
use pumasi_terms::{Digest, Generation, Position};
use std::collections::BTreeSet;

const MAGIC: &[u8; 4] = b"PMTU";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 4 + 1 + 32 + 32 + 8 + 8 + 4;
/// What is more goes as a whole state, in packs.
pub const UPDATE_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("update: not an update of a tree, or broken off; the sender is at fault")]
    Garbled,
    #[error("update: version {found}; this program knows version {VERSION}, update it")]
    Version { found: u8 },
    #[error("update: {bytes} bytes; at most {UPDATE_BYTES_MAX} are taken")]
    TooLarge { bytes: usize },
    #[error("update: it is for {wanted}, the copy is another; send a whole state")]
    OtherBase { wanted: Digest },
    #[error(transparent)]
    Delta(#[from] TreeDeltaError),
    #[error("update: the manifest has digest {found}, {announced} was announced; send a whole state")]
    WrongTree { announced: Digest, found: Digest },
}

/// An update as it came; nothing of it is believed before `tree` and `receive_pack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeUpdate<'a> {
    pub base: Digest,
    pub tree: Digest,
    pub at: Position,
    delta: &'a [u8],
    pub pack: &'a [u8],
}

/// Old chunks that their files do not have any more: what a changed chunk is likely to resemble.
fn replaced(base: &TreeManifest, tree: &TreeManifest) -> BTreeSet<Digest> {
    let mut out = BTreeSet::new();
    for entry in &base.entries {
        let EntryKind::File { chunks, .. } = &entry.kind else { continue };
        let chunks = chunks.iter().filter(|c| !c.is_hole());
        match tree.get(&entry.path).map(|e| &e.kind) {
            Some(kind) if *kind == entry.kind => {}
            Some(EntryKind::File { chunks: now, .. }) => {
                let now: BTreeSet<Digest> = now.iter().map(|c| c.digest).collect();
                out.extend(chunks.map(|c| c.digest).filter(|d| !now.contains(d)));
            }
            _ => out.extend(chunks.map(|c| c.digest)),
        }
    }
    out
}

/// The update from `base`, which the receiver holds, to `tree`, whose chunks `source` has; none if it would be too large.
pub fn encode(
    base: &TreeManifest,
    tree: &TreeManifest,
    at: Position,
    source: &dyn ChunkSource,
    signatures: &Signatures,
) -> Result<Option<Vec<u8>>, PackError> {
    let Some(delta) = diff(base, tree) else { return Ok(None) };
    let mut out = Vec::with_capacity(HEAD_BYTES + delta.len());
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&base.digest().0);
    out.extend_from_slice(&tree.digest().0);
    out.extend_from_slice(&at.generation.0.to_le_bytes());
    out.extend_from_slice(&at.as_of_ms.to_le_bytes());
    out.extend_from_slice(&u32::try_from(delta.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&delta);
    let index = DeltaIndex::new(signatures, replaced(base, tree));
    let mut known = base.digests();
    let mut pack = PackWriter::with_deltas(Vec::new())?;
    for chunk in tree.chunks().filter(|c| known.insert(c.digest)) {
        if out.len() + pack.so_far().len() > UPDATE_BYTES_MAX {
            return Ok(None);
        }
        let bytes = source.chunk(&chunk.digest)?;
        match index.encode(&bytes) {
            Some(delta) => pack.write_delta(&chunk.digest, bytes.len(), &delta)?,
            None => pack.write(&chunk.digest, &bytes)?,
        }
    }
    out.extend_from_slice(&pack.finish()?);
    Ok((out.len() <= UPDATE_BYTES_MAX).then_some(out))
}

impl<'a> TreeUpdate<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, UpdateError> {
        if bytes.len() > UPDATE_BYTES_MAX {
            return Err(UpdateError::TooLarge { bytes: bytes.len() });
        }
        let mut rest = bytes;
        let mut take = |n: usize| -> Result<&'a [u8], UpdateError> {
            let (first, after) = rest.split_at_checked(n).ok_or(UpdateError::Garbled)?;
            rest = after;
            Ok(first)
        };
        if take(4)? != MAGIC {
            return Err(UpdateError::Garbled);
        }
        match take(1)? {
            [VERSION] => {}
            found => return Err(UpdateError::Version { found: found[0] }),
        }
        let base = digest(take(32)?)?;
        let tree = digest(take(32)?)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let at = Position { generation: Generation(number(take(8)?)), as_of_ms: number(take(8)?) };
        let len = number(take(4)?) as usize;
        let delta = take(len)?;
        Ok(Self { base, tree, at, delta, pack: rest })
    }

    /// The new manifest, over the base that the update names.
    pub fn tree(&self, base: &TreeManifest) -> Result<TreeManifest, UpdateError> {
        if base.digest() != self.base {
            return Err(UpdateError::OtherBase { wanted: self.base });
        }
        let tree = patch(base, self.delta)?;
        let found = digest_of(&tree.to_bytes());
        if found != self.tree {
            return Err(UpdateError::WrongTree { announced: self.tree, found });
        }
        Ok(tree)
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, UpdateError> {
    Ok(Digest(bytes.try_into().map_err(|_| UpdateError::Garbled)?))
}
