//! Deltas: a chunk told by what it has in common with chunks that the receiver holds already.
//!
//! Form: the number of bases (1 to 8) and their digests (32 each), then steps until the chunk is complete. A step begins with a
//! number: even, half of it is a length and so many bytes follow; odd, half of it is a length, and the base (its place in the list)
//! and an offset follow, from where so many bytes are copied. Numbers are LEB128, at most 32 bits.
//! Always holds: a delta gives at most the bytes it was asked for, from at most 8 bases; whether they are the right ones says the
//! chunk's digest alone, which the caller checks.

use crate::leb::{put_number, take_number};
use crate::signature::{Signatures, Weak, key};
use crate::store::{ChunkSource, StoreError};
use pumasi_terms::Digest;

pub const BASES_MAX: usize = 8;
/// More blocks than this are not searched: it bounds memory (16 bytes each) when most of a dataset has changed at once.
const BLOCKS_MAX: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    #[error("delta: {0}; the sender is at fault")]
    Invalid(&'static str),
    #[error("delta against a chunk that is not here: {0}")]
    Base(#[from] StoreError),
}

/// Blocks of the chunks that a change may be based on, to be found by their bytes.
#[derive(Debug)]
pub struct DeltaIndex<'a> {
    signatures: &'a Signatures,
    bases: Vec<Digest>,
    /// Sorted by the key: (key, base, block).
    blocks: Vec<(u64, u32, u32)>,
    /// A bit for each weak sum that occurs, so that most positions cost one look.
    filter: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    base: u32,
    block: u32,
}

enum Step {
    Literal { from: usize, to: usize },
    Copy { base: u32, offset: u32, len: u32 },
}

impl<'a> DeltaIndex<'a> {
    /// Over those of the chunks whose signatures are known.
    pub fn new(signatures: &'a Signatures, candidates: impl IntoIterator<Item = Digest>) -> Self {
        let (mut bases, mut blocks) = (Vec::new(), Vec::new());
        for digest in candidates {
            let Some(signature) = signatures.get(&digest) else { continue };
            let full = signature.len as usize / signatures.block_bytes();
            if blocks.len() + full > BLOCKS_MAX {
                break;
            }
            let base = bases.len() as u32;
            blocks.extend(signature.keys[..full].iter().enumerate().map(|(n, key)| (*key, base, n as u32)));
            bases.push(digest);
        }
        blocks.sort_unstable();
        let bits = (blocks.len() * 8).next_power_of_two().max(64);
        let mut index = Self { signatures, bases, blocks, filter: vec![0; bits / 64] };
        for n in 0..index.blocks.len() {
            let (word, bit) = index.place((index.blocks[n].0 >> 32) as u32);
            index.filter[word] |= bit;
        }
        index
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn place(&self, weak: u32) -> (usize, u64) {
        let spread = u64::from(weak).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        let at = spread as usize & (self.filter.len() * 64 - 1);
        (at / 64, 1 << (at % 64))
    }

    fn find(&self, weak: Weak, block: &[u8]) -> Option<Found> {
        let (word, bit) = self.place(weak.value());
        if self.filter[word] & bit == 0 {
            return None;
        }
        let key = key(weak, block);
        let at = self.blocks.partition_point(|b| b.0 < key);
        self.blocks.get(at).filter(|b| b.0 == key).map(|b| Found { base: b.1, block: b.2 })
    }

    /// Whether the block of `base` after `block` is what `rest` begins with, and its length.
    fn follows(&self, after: Found, rest: &[u8]) -> Option<(Found, usize)> {
        let signature = self.signatures.get(self.bases.get(after.base as usize)?)?;
        let (block, size) = (after.block + 1, self.signatures.block_bytes());
        let len = size.min((signature.len as usize).checked_sub(block as usize * size)?);
        let (bytes, wanted) = (rest.get(..len).filter(|b| !b.is_empty())?, signature.keys.get(block as usize)?);
        (key(Weak::of(bytes), bytes) == *wanted).then_some((Found { base: after.base, block }, len))
    }

    fn steps(&self, chunk: &[u8]) -> Vec<Step> {
        let size = self.signatures.block_bytes();
        let mut steps: Vec<Step> = Vec::new();
        let (mut at, mut literal) = (0usize, 0usize);
        let mut weak: Option<Weak> = None;
        let mut last: Option<Found> = None;
        while at < chunk.len() {
            let mut found = last.and_then(|last| self.follows(last, &chunk[at..]));
            if found.is_none() && at + size <= chunk.len() {
                let block = &chunk[at..at + size];
                let sum = *weak.get_or_insert_with(|| Weak::of(block));
                found = self.find(sum, block).map(|f| (f, size));
            }
            let Some((here, len)) = found else {
                last = None;
                match (&mut weak, chunk.get(at + size)) {
                    (Some(sum), Some(next)) => sum.roll(chunk[at], *next),
                    _ => break,
                }
                at += 1;
                continue;
            };
            if literal < at {
                steps.push(Step::Literal { from: literal, to: at });
            }
            let offset = here.block * size as u32;
            match steps.last_mut() {
                Some(Step::Copy { base, offset: from, len: so_far })
                    if *base == here.base && *from + *so_far == offset =>
                {
                    *so_far += len as u32;
                }
                _ => steps.push(Step::Copy { base: here.base, offset, len: len as u32 }),
            }
            at += len;
            (literal, weak, last) = (at, None, Some(here));
        }
        if literal < chunk.len() {
            steps.push(Step::Literal { from: literal, to: chunk.len() });
        }
        steps
    }

    /// A delta that gives `chunk`; none if it would not be much shorter.
    pub fn encode(&self, chunk: &[u8]) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let steps = self.steps(chunk);
        let mut used: Vec<u32> = Vec::new();
        for step in &steps {
            if let Step::Copy { base, .. } = step
                && !used.contains(base)
            {
                used.push(*base);
            }
        }
        if used.is_empty() || used.len() > BASES_MAX {
            return None;
        }
        let mut out = Vec::new();
        put_number(&mut out, used.len() as u32);
        used.iter().for_each(|base| out.extend_from_slice(&self.bases[*base as usize].0));
        for step in steps {
            match step {
                Step::Literal { from, to } => {
                    put_number(&mut out, ((to - from) as u32) << 1);
                    out.extend_from_slice(&chunk[from..to]);
                }
                Step::Copy { base, offset, len } => {
                    put_number(&mut out, len << 1 | 1);
                    put_number(&mut out, used.iter().position(|u| *u == base)? as u32);
                    put_number(&mut out, offset);
                }
            }
        }
        (out.len() < chunk.len() / 4 * 3).then_some(out)
    }
}

/// The `len` bytes that the delta gives over its bases.
pub fn apply(mut delta: &[u8], len: usize, source: &dyn ChunkSource) -> Result<Vec<u8>, DeltaError> {
    let invalid = DeltaError::Invalid;
    let broken = || invalid("it is broken off or a number is too large");
    let count = take_number(&mut delta).ok_or_else(broken)? as usize;
    if count == 0 || count > BASES_MAX {
        return Err(invalid("it names no base or more than 8"));
    }
    let mut bases = Vec::with_capacity(count);
    for _ in 0..count {
        let (digest, rest) = delta.split_first_chunk::<32>().ok_or_else(broken)?;
        delta = rest;
        bases.push(source.chunk(&Digest(*digest))?);
    }
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let step = take_number(&mut delta).ok_or_else(broken)?;
        let n = (step >> 1) as usize;
        if n == 0 || n > len - out.len() {
            return Err(invalid("a step gives nothing or more than the chunk"));
        }
        if step & 1 == 0 {
            let (bytes, rest) = delta.split_at_checked(n).ok_or_else(broken)?;
            delta = rest;
            out.extend_from_slice(bytes);
        } else {
            let base = take_number(&mut delta).ok_or_else(broken)? as usize;
            let offset = take_number(&mut delta).ok_or_else(broken)? as usize;
            let bytes = bases.get(base).and_then(|b| b.get(offset..offset.checked_add(n)?));
            out.extend_from_slice(bytes.ok_or(invalid("it copies from outside of its bases"))?);
        }
    }
    if !delta.is_empty() {
        return Err(invalid("bytes follow the end"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkRef, digest_of};
    use crate::leb::put_number;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Shelf(BTreeMap<Digest, Vec<u8>>);
    impl ChunkSource for Shelf {
        fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
            self.0.get(digest).cloned().ok_or(StoreError::Missing { digest: *digest })
        }
    }

    fn shelf(bases: &[Vec<u8>]) -> (Shelf, Signatures) {
        let (mut shelf, mut signatures) = (Shelf::default(), Signatures::for_dataset(1 << 20));
        for base in bases.iter().filter(|b| !b.is_empty()) {
            signatures.sign(ChunkRef::of(base), base);
            shelf.0.insert(digest_of(base), base.clone());
        }
        (shelf, signatures)
    }

    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        seed |= 1;
        while out.len() < len {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            out.extend_from_slice(&seed.to_le_bytes());
        }
        out.truncate(len);
        out
    }

    fn delta_len(base: &[u8], fresh: &[u8]) -> usize {
        let (shelf, signatures) = shelf(&[base.to_vec()]);
        let delta = DeltaIndex::new(&signatures, shelf.0.keys().copied()).encode(fresh).unwrap();
        assert!(apply(&delta, fresh.len(), &shelf).unwrap() == fresh, "another chunk came out");
        delta.len()
    }

    #[test]
    fn a_change_costs_about_a_block_more_than_itself() {
        let base = noise(70_001, 5);
        let mut fresh = base.clone();
        fresh.splice(30_001..30_001, *b"inserted");
        let inserted = delta_len(&base, &fresh);
        assert!(inserted <= 33 + 20 + 8 + 256, "{inserted}");
        let mut fresh = base.clone();
        fresh[10_000..14_096].copy_from_slice(&noise(4096, 9));
        let overwritten = delta_len(&base, &fresh);
        assert!(overwritten <= 33 + 20 + 4096 + 256, "{overwritten}");
        let mut fresh = base.clone();
        fresh.extend_from_slice(b"appended");
        // The last block of the base is a short one; it is found because it follows.
        assert!(delta_len(&base, &fresh) <= 33 + 20 + 8);
        assert!(delta_len(&base, &base[1000..]) <= 33 + 20 + 256);
    }

    #[test]
    fn equal_blocks_do_not_cost() {
        let base = vec![0u8; 200_000];
        let mut fresh = base.clone();
        fresh[77_777] = 1;
        assert!(delta_len(&base, &fresh) <= 33 + 30 + 2 * 256);
    }

    #[test]
    fn hostile_deltas_are_refused() {
        let base = noise(1000, 3);
        let (shelf, _) = shelf(std::slice::from_ref(&base));
        let with = |count: u32, steps: &[u8]| {
            let mut out = Vec::new();
            put_number(&mut out, count);
            (0..count).for_each(|_| out.extend_from_slice(&digest_of(&base).0));
            out.extend_from_slice(steps);
            apply(&out, 10, &shelf)
        };
        assert!(with(1, &[21, 0, 0]).is_ok_and(|b| b == base[..10]));
        for (count, steps) in [
            (0, &[21u8, 0, 0][..]),
            (9, &[21, 0, 0]),
            (1, &[]),
            (1, &[0]),
            (1, &[1, 0, 0]),
            (1, &[23, 0, 0]),
            (1, &[21, 1, 0]),
            (1, &[21, 0, 0xdf, 0x07]),
            (1, &[21, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            (1, &[21, 0, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            (1, &[20, 1, 2]),
            (1, &[21, 0, 0, 0]),
        ] {
            assert!(matches!(with(count, steps), Err(DeltaError::Invalid(_))), "{count} {steps:?}");
        }
        let mut foreign = vec![1];
        foreign.extend_from_slice(&[7; 32]);
        foreign.extend_from_slice(&[21, 0, 0]);
        assert!(matches!(apply(&foreign, 10, &shelf), Err(DeltaError::Base(StoreError::Missing { .. }))));
    }

    #[derive(Debug, Clone)]
    enum Piece {
        Old(usize, usize),
        New(usize, u64),
        Same(usize, u8),
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let piece = prop_oneof![
            (any::<usize>(), 0usize..3000).prop_map(|(at, len)| Piece::Old(at, len)),
            (0usize..600, any::<u64>()).prop_map(|(len, seed)| Piece::New(len, seed)),
            (0usize..600, 0u8..2).prop_map(|(len, byte)| Piece::Same(len, byte)),
        ];
        proptest::collection::vec(piece, 0..10)
    }

    fn assemble(old: &[u8], pieces: &[Piece]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Old(at, len) if !old.is_empty() => {
                    let at = at % old.len();
                    out.extend_from_slice(&old[at..old.len().min(at + len)]);
                }
                Piece::Old(..) => {}
                Piece::New(len, seed) => out.extend_from_slice(&noise(*len, *seed)),
                Piece::Same(len, byte) => out.extend(std::iter::repeat_n(*byte, *len)),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn any_change_over_any_bases_comes_out_again(a in pieces(), b in pieces(), change in pieces()) {
            let first = assemble(&[], &a);
            let second = assemble(&first, &b);
            let mut both = first.clone();
            both.extend_from_slice(&second);
            let fresh = assemble(&both, &change);
            let (shelf, signatures) = shelf(&[first, second]);
            if let Some(delta) = DeltaIndex::new(&signatures, shelf.0.keys().copied()).encode(&fresh) {
                prop_assert!(delta.len() < fresh.len());
                prop_assert!(apply(&delta, fresh.len(), &shelf).is_ok_and(|b| b == fresh));
            }
        }

        #[test]
        fn arbitrary_deltas_never_panic_nor_give_more(steps in proptest::collection::vec(any::<u8>(), 0..60), len in 0usize..5000) {
            let base = noise(3000, 1);
            let (shelf, _) = shelf(std::slice::from_ref(&base));
            let mut delta = vec![1];
            delta.extend_from_slice(&digest_of(&base).0);
            delta.extend_from_slice(&steps);
            if let Ok(out) = apply(&delta, len, &shelf) {
                prop_assert_eq!(out.len(), len);
            }
            let _ = apply(&steps, len, &shelf);
        }
    }
}
