//! Chunks: pieces of files with a content-defined length, named by their BLAKE3 digest.
//!
//! A cut is made where a rolling hash over the last 64 bytes (Gear) has 13 leading zeros, not before `CHUNK_BYTES_MIN` and at
//! `CHUNK_BYTES_MAX` at the latest. The minimum is seven eighths of the average, so that seven eighths of the bytes are never
//! rolled over. Cuts fall in step again some chunks later than they could; it costs little, since changed chunks travel as deltas.

use pumasi_terms::Digest;
use serde::{Deserialize, Serialize};
use std::io::Read;

/// Lengths of content-defined chunks. Whoever receives chunks relies on the maximum alone.
pub const CHUNK_BYTES_MIN: u32 = 56 << 10;
pub const CHUNK_BYTES_AVERAGE: u32 = CHUNK_BYTES_MIN + (1 << CUT_BITS);
/// No chunk, from whomever, is longer.
pub const CHUNK_BYTES_MAX: u32 = 256 << 10;

const CUT_BITS: u32 = 13;
const CUT_BELOW: u64 = 1 << (u64::BITS - CUT_BITS);
/// The hash forgets a byte after so many more.
const ROLL_BYTES: usize = 64;
/// Small enough to stay in the processor's cache between reading, cutting and hashing.
const WINDOW_BYTES: usize = 1 << 20;

/// A fixed number for each byte. Another table would cut elsewhere: what was sent before would be sent again.
const GEAR: [u64; 256] = {
    let (mut table, mut n, mut state) = ([0u64; 256], 0, 0x70_75_6d_61_73_69_u64);
    while n < 256 {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[n] = z ^ (z >> 31);
        n += 1;
    }
    table
};

/// The name and the length of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkRef {
    pub digest: Digest,
    pub len: u32,
}

/// What no chunk has: bytes with this digest are not known.
const HOLE: Digest = Digest([0; 32]);

impl ChunkRef {
    /// So many zeros that the file system does not keep.
    pub fn hole(len: u32) -> Self {
        Self { digest: HOLE, len }
    }
    pub fn is_hole(&self) -> bool {
        self.digest == HOLE
    }
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: digest_of(bytes), len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
    }
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// The length of the first chunk of `bytes`; none if more bytes must be seen first. It depends on the chunk's bytes alone.
fn first_cut(bytes: &[u8], at_end: bool) -> Option<usize> {
    let (min, max) = (CHUNK_BYTES_MIN as usize, CHUNK_BYTES_MAX as usize);
    let rest = || at_end.then_some(bytes.len());
    if bytes.len() <= min {
        return rest();
    }
    let roll = |h: u64, b: u8| (h << 1).wrapping_add(GEAR[usize::from(b)]);
    let mut h = bytes[min - ROLL_BYTES..min].iter().fold(0, |h, b| roll(h, *b));
    let (groups, rest_of) = bytes[min..bytes.len().min(max)].as_chunks::<8>();
    for (n, group) in groups.iter().enumerate() {
        for (m, b) in group.iter().enumerate() {
            h = roll(h, *b);
            if h < CUT_BELOW {
                return Some(min + 8 * n + m + 1);
            }
        }
    }
    for (m, b) in rest_of.iter().enumerate() {
        h = roll(h, *b);
        if h < CUT_BELOW {
            return Some(min + 8 * groups.len() + m + 1);
        }
    }
    if bytes.len() >= max { Some(max) } else { rest() }
}

/// Cuts what `reader` yields into chunks and hands each to `each`. Returns the number of bytes read.
pub fn cut<E: From<std::io::Error>>(
    mut reader: impl Read,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(ChunkRef, &[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    buffer.resize(WINDOW_BYTES, 0);
    let (mut start, mut end, mut total, mut at_end) = (0usize, 0usize, 0u64, false);
    loop {
        while !at_end && end < buffer.len() {
            match reader.read(&mut buffer[end..]) {
                Ok(0) => at_end = true,
                Ok(n) => (end, total) = (end + n, total + n as u64),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        while start < end
            && let Some(len) = first_cut(&buffer[start..end], at_end)
        {
            let bytes = &buffer[start..start + len];
            each(ChunkRef::of(bytes), bytes)?;
            start += len;
        }
        if at_end {
            return Ok(total);
        }
        buffer.copy_within(start..end, 0);
        (start, end) = (0, end - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            out.extend_from_slice(&seed.to_le_bytes());
        }
        out.truncate(len);
        out
    }

    /// Gives its bytes out in uneven portions.
    struct Dribble<'a>(&'a [u8], usize);
    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(self.0.len()).min(out.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            self.1 = self.1 % 70_001 + 977;
            Ok(n)
        }
    }

    fn chunks(bytes: &[u8], portion: usize) -> Vec<ChunkRef> {
        let (mut out, mut whole) = (Vec::new(), Vec::new());
        let n = cut::<std::io::Error>(Dribble(bytes, portion), &mut Vec::new(), |c, b| {
            assert_eq!(c.len as usize, b.len());
            assert!(c.len <= CHUNK_BYTES_MAX);
            out.push(c);
            whole.extend_from_slice(b);
            Ok(())
        })
        .unwrap();
        assert_eq!(n, bytes.len() as u64);
        assert!(whole == bytes, "the chunks are not the file");
        out
    }

    #[test]
    fn cuts_depend_on_the_content_alone() {
        let data = noise(9 << 20, 42);
        let whole = chunks(&data, 1 << 20);
        assert_eq!(whole, chunks(&data, 1));
        assert!((60..=400).contains(&whole.len()), "{} chunks", whole.len());
        assert!(chunks(&[], 5).is_empty());
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let data = noise(8 << 20, 7);
        let before: std::collections::BTreeSet<_> = chunks(&data, 4096).into_iter().collect();
        let mut edited = data.clone();
        edited.splice(3_000_000..3_000_000, *b"a few bytes more");
        let fresh = chunks(&edited, 4096).into_iter().filter(|c| !before.contains(c)).count();
        assert!(fresh <= 4, "{fresh} chunks are new");
    }
}
