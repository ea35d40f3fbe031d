//! Chunks: pieces of files with a content-defined length, named by their BLAKE3 digest.

use fastcdc::v2020::FastCDC;
use pumasi_terms::Digest;
use serde::{Deserialize, Serialize};
use std::io::Read;

/// Lengths of content-defined chunks. A smaller average finds more in common between versions and costs more names.
pub const CHUNK_BYTES_MIN: u32 = 16 << 10;
pub const CHUNK_BYTES_AVERAGE: u32 = 64 << 10;
/// No chunk, from whomever, is longer.
pub const CHUNK_BYTES_MAX: u32 = 256 << 10;

const WINDOW_BYTES: usize = 2 << 20;

/// The name and the length of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkRef {
    pub digest: Digest,
    pub len: u32,
}

impl ChunkRef {
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: digest_of(bytes), len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
    }
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
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
        let window = &buffer[..end];
        let cdc = FastCDC::new(window, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX);
        // Near the end of a window a cut would depend on where the window ends, so it waits for more bytes.
        while start < end && (at_end || end - start >= CHUNK_BYTES_MAX as usize) {
            let (_, to) = cdc.cut(start, end - start);
            let bytes = &window[start..to];
            each(ChunkRef::of(bytes), bytes)?;
            start = to;
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
