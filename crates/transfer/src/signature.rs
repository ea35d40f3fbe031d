//! Signatures: what a sender remembers of chunks whose bytes it no longer has.
//!
//! An application changes its files in place, so that the old bytes are gone when the change is seen. Eight bytes for each block of
//! a chunk are enough to find again what stayed. They never leave this machine.
//! Always holds: memory is bounded; nothing rests on a signature being right: two blocks taken for one make a delta that does not
//! give its chunk's digest, and then the whole chunk is sent.

use crate::chunk::ChunkRef;
use pumasi_terms::Digest;
use std::collections::BTreeMap;

/// The finest block. A change costs about one block more than itself.
const BLOCK_BYTES_MIN: usize = 256;
/// The coarsest; sums within it fit 16 bits.
const BLOCK_BYTES_MAX: usize = 4096;
/// Blocks are chosen so that the signatures of a dataset as large as it may be keep within this.
const SIGNATURES_BYTES_AIM: u64 = 64 << 20;
/// While a change is on its way there are those of two states. Chunks beyond have none, and are sent whole.
const SIGNATURES_BYTES_MAX: usize = 2 * SIGNATURES_BYTES_AIM as usize;

const LANES: usize = 16;
const KEYS: [u64; 4] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

/// Two sums that can be moved along by one byte at a time: all bytes, and all bytes by their distance from the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weak {
    len: u16,
    sum: u16,
    weighted: u16,
}

impl Weak {
    pub(crate) fn of(block: &[u8]) -> Self {
        let (mut sums, mut earlier) = ([0u16; LANES], [0u16; LANES]);
        let (groups, rest) = block.as_chunks::<LANES>();
        for group in groups {
            for lane in 0..LANES {
                earlier[lane] = earlier[lane].wrapping_add(sums[lane]);
                sums[lane] = sums[lane].wrapping_add(u16::from(group[lane]));
            }
        }
        let (mut sum, mut weighted) = (0u16, 0u16);
        for lane in 0..LANES {
            let after = (LANES - lane) as u16;
            sum = sum.wrapping_add(sums[lane]);
            weighted = weighted
                .wrapping_add(earlier[lane].wrapping_mul(LANES as u16))
                .wrapping_add(sums[lane].wrapping_mul(after));
        }
        for byte in rest {
            sum = sum.wrapping_add(u16::from(*byte));
            weighted = weighted.wrapping_add(sum);
        }
        Self { len: block.len() as u16, sum, weighted }
    }

    pub(crate) fn roll(&mut self, out: u8, into: u8) {
        self.sum = self.sum.wrapping_sub(u16::from(out)).wrapping_add(u16::from(into));
        self.weighted = self.weighted.wrapping_sub(self.len.wrapping_mul(u16::from(out))).wrapping_add(self.sum);
    }

    pub(crate) fn value(self) -> u32 {
        u32::from(self.weighted) << 16 | u32::from(self.sum)
    }
}

fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

/// Fast, and good enough to tell the blocks of a few chunks apart.
fn strong(block: &[u8]) -> u32 {
    fn fold(a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    }
    let mut state = KEYS;
    let mut mix = |group: &[u8; 64]| {
        let (words, _) = group.as_chunks::<8>();
        for lane in 0..4 {
            state[lane] = fold(state[lane] ^ word(&words[2 * lane]), KEYS[lane] ^ word(&words[2 * lane + 1]));
        }
    };
    let (groups, rest) = block.as_chunks::<64>();
    groups.iter().for_each(&mut mix);
    if !rest.is_empty() {
        let mut last = [0u8; 64];
        last[..rest.len()].copy_from_slice(rest);
        mix(&last);
    }
    let whole = state.iter().zip(KEYS).fold(block.len() as u64, |h, (s, key)| fold(h ^ s, key));
    (whole >> 32) as u32
}

/// A block's name: both hashes.
pub(crate) fn key(weak: Weak, block: &[u8]) -> u64 {
    u64::from(weak.value()) << 32 | u64::from(strong(block))
}

/// The blocks of one chunk; the last may be shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) len: u32,
    pub(crate) keys: Box<[u64]>,
}

impl Signature {
    fn of(chunk: &[u8], block_bytes: usize) -> Self {
        let keys = chunk.chunks(block_bytes).map(|block| key(Weak::of(block), block)).collect();
        Self { len: chunk.len() as u32, keys }
    }

    fn bytes(&self) -> usize {
        // With its place in the map.
        self.keys.len() * 8 + 80
    }
}

/// The signatures of a dataset's chunks.
#[derive(Debug)]
pub struct Signatures {
    block_bytes: usize,
    chunks: BTreeMap<Digest, Signature>,
    bytes: usize,
}

impl Signatures {
    /// For a dataset of so many bytes at most.
    pub fn for_dataset(bytes_max: u64) -> Self {
        let mut block_bytes = BLOCK_BYTES_MIN;
        while block_bytes < BLOCK_BYTES_MAX && bytes_max / block_bytes as u64 * 8 > SIGNATURES_BYTES_AIM {
            block_bytes *= 2;
        }
        Self { block_bytes, chunks: BTreeMap::new(), bytes: 0 }
    }

    pub fn sign(&mut self, chunk: ChunkRef, bytes: &[u8]) {
        if self.bytes > SIGNATURES_BYTES_MAX || self.chunks.contains_key(&chunk.digest) {
            return;
        }
        let signature = Signature::of(bytes, self.block_bytes);
        self.bytes += signature.bytes();
        self.chunks.insert(chunk.digest, signature);
    }

    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// About what they take of memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<&Signature> {
        self.chunks.get(digest)
    }

    pub fn retain(&mut self, keep: impl Fn(&Digest) -> bool) {
        self.chunks.retain(|digest, _| keep(digest));
        self.bytes = self.chunks.values().map(Signature::bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rolled_sum_is_the_sum(bytes in proptest::collection::vec(any::<u8>(), 2..1000), len in 1usize..600) {
            let len = len.min(bytes.len() - 1);
            let mut weak = Weak::of(&bytes[..len]);
            for at in 0..bytes.len() - len {
                weak.roll(bytes[at], bytes[at + len]);
                prop_assert_eq!(weak.value(), Weak::of(&bytes[at + 1..at + 1 + len]).value());
            }
        }

        #[test]
        fn each_byte_of_a_block_counts(mut block in proptest::collection::vec(any::<u8>(), 1..300), at in any::<usize>(), by in 1u8..) {
            let before = strong(&block);
            let at = at % block.len();
            block[at] ^= by;
            prop_assert_ne!(before, strong(&block));
        }
    }

    #[test]
    fn a_longer_block_of_zeros_is_another() {
        assert_ne!(strong(&[0; 65]), strong(&[0; 66]));
        assert_ne!(strong(&[0; 64]), strong(&[0; 128]));
    }

    #[test]
    fn memory_is_bounded() {
        let of = |bytes_max: u64| Signatures::for_dataset(bytes_max).block_bytes();
        assert_eq!((of(1 << 30), of(2 << 30), of((2 << 30) + 256), of(64 << 30)), (256, 256, 512, 4096));
        let mut few = Signatures::for_dataset(1 << 30);
        few.bytes = SIGNATURES_BYTES_MAX + 1;
        few.sign(ChunkRef::of(b"more"), b"more");
        assert!(few.is_empty());
    }
}
