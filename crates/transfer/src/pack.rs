//! Many chunks in one stream.
//!
//! Form: `PMCP`, version (1 byte), then frames: tag (1: zstd, 2: as it is), digest (32), length (u32 LE), coded length
//! (u32 LE), coded bytes; last a frame with tag 0 and the number of chunks (u32 LE). Version 2 also has tags 3 and 4: the same for
//! a delta (`delta`) that gives the chunk; a delta is never longer than its chunk. A pack without deltas is of version 1.
//! Always holds: lengths are checked before memory is taken, and each chunk is verified before it is given out, so a
//! stream that breaks off loses at most its last chunk and what came before may be kept.

use crate::chunk::{CHUNK_BYTES_MAX, digest_of};
use crate::delta::{self, DeltaError};
use crate::shelf::Shelf;
use crate::store::{ChunkSource, ChunkStore, StoreError};
use pumasi_terms::Digest;
use std::io::{self, Read, Write};

const MAGIC: &[u8; 4] = b"PMCP";
const VERSION: u8 = 1;
const VERSION_DELTAS: u8 = 2;
const END: u8 = 0;
const ZSTD: u8 = 1;
const PLAIN: u8 = 2;
const DELTA_ZSTD: u8 = 3;
const DELTA_PLAIN: u8 = 4;
const LEVEL: i32 = 1;

/// The most chunks in one pack.
pub const PACK_CHUNKS_MAX: u32 = 65_536;

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("pack: the stream failed after {chunks} chunks: {source}; retry, what arrived is kept")]
    Io { chunks: u32, source: io::Error },
    #[error("pack: the stream ended in the middle, after {chunks} whole chunks; retry, what arrived is kept")]
    Truncated { chunks: u32 },
    #[error("pack: not a pack of chunks; the sender is at fault")]
    Magic,
    #[error("pack: version {found}; this program knows versions up to {VERSION_DELTAS}, update it")]
    Version { found: u8 },
    #[error("pack: chunk {chunk}: {problem}; the sender or the link is at fault")]
    Garbled { chunk: u32, problem: &'static str },
    #[error("pack: chunk {chunk}: {source}")]
    Delta { chunk: u32, source: DeltaError },
    #[error("pack: chunk {chunk} was not asked for; the sender is at fault")]
    Unasked { chunk: u32 },
    #[error("pack: more than {PACK_CHUNKS_MAX} chunks")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub struct PackWriter<W: Write> {
    out: W,
    chunks: u32,
    coded: Vec<u8>,
}

impl<W: Write> PackWriter<W> {
    pub fn new(out: W) -> Result<Self, PackError> {
        Self::of_version(out, VERSION)
    }

    /// A pack that may hold deltas. Its reader must know version 2.
    pub fn with_deltas(out: W) -> Result<Self, PackError> {
        Self::of_version(out, VERSION_DELTAS)
    }

    fn of_version(mut out: W, version: u8) -> Result<Self, PackError> {
        out.write_all(MAGIC)
            .and_then(|()| out.write_all(&[version]))
            .map_err(|source| PackError::Io { chunks: 0, source })?;
        Ok(Self { out, chunks: 0, coded: Vec::new() })
    }

    pub fn write(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), PackError> {
        self.frame(digest, bytes.len(), bytes, (ZSTD, PLAIN))
    }

    /// A chunk of `len` bytes by its delta, which is the shorter one. Only `with_deltas`.
    pub fn write_delta(&mut self, digest: &Digest, len: usize, delta: &[u8]) -> Result<(), PackError> {
        self.frame(digest, len, delta, (DELTA_ZSTD, DELTA_PLAIN))
    }

    /// How many bytes were written so far, if the pack goes into memory.
    pub fn so_far(&self) -> &W {
        &self.out
    }

    fn frame(&mut self, digest: &Digest, len: usize, bytes: &[u8], (zstd, plain): (u8, u8)) -> Result<(), PackError> {
        if self.chunks >= PACK_CHUNKS_MAX {
            return Err(PackError::TooMany);
        }
        let len = match u32::try_from(len) {
            Ok(len) if len > 0 && len <= CHUNK_BYTES_MAX && bytes.len() <= len as usize => len,
            _ => return Err(StoreError::Length { digest: *digest, bytes: len as u64 }.into()),
        };
        let io = |source| PackError::Io { chunks: self.chunks, source };
        self.coded.resize(zstd::zstd_safe::compress_bound(bytes.len()), 0);
        let coded_len = zstd::bulk::compress_to_buffer(bytes, &mut self.coded, LEVEL).map_err(io)?;
        let (tag, coded) = if coded_len < bytes.len() { (zstd, &self.coded[..coded_len]) } else { (plain, bytes) };
        let mut head = [0u8; 41];
        head[0] = tag;
        head[1..33].copy_from_slice(&digest.0);
        head[33..37].copy_from_slice(&len.to_le_bytes());
        head[37..41].copy_from_slice(&(coded.len() as u32).to_le_bytes());
        self.out.write_all(&head).and_then(|()| self.out.write_all(coded)).map_err(io)?;
        self.chunks += 1;
        Ok(())
    }

    /// Without it the reader takes the stream for broken off.
    pub fn finish(mut self) -> Result<W, PackError> {
        let io = |source| PackError::Io { chunks: self.chunks, source };
        self.out.write_all(&[END]).map_err(io)?;
        self.out.write_all(&self.chunks.to_le_bytes()).and_then(|()| self.out.flush()).map_err(io)?;
        Ok(self.out)
    }
}

struct NoBases;

impl ChunkSource for NoBases {
    fn chunk(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        Err(StoreError::Missing { digest: *digest })
    }
}

#[derive(Debug)]
pub struct PackReader<R: Read> {
    input: R,
    version: u8,
    chunks: u32,
    ended: bool,
}

impl<R: Read> PackReader<R> {
    pub fn new(input: R) -> Result<Self, PackError> {
        let mut reader = Self { input, version: 0, chunks: 0, ended: false };
        let magic: [u8; 4] = reader.take()?;
        if &magic != MAGIC {
            return Err(PackError::Magic);
        }
        let [found] = reader.take()?;
        if found != VERSION && found != VERSION_DELTAS {
            return Err(PackError::Version { found });
        }
        reader.version = found;
        Ok(reader)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), PackError> {
        self.input.read_exact(out).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => PackError::Truncated { chunks: self.chunks },
            _ => PackError::Io { chunks: self.chunks, source },
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PackError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    /// As `next_chunk_over`, where there is nothing that a delta could be based on.
    pub fn next_chunk(&mut self) -> Result<Option<(Digest, Vec<u8>)>, PackError> {
        self.next_chunk_over(&NoBases)
    }

    /// The next chunk, verified; none after the last. What follows the end of the pack is a fault.
    pub fn next_chunk_over(&mut self, bases: &dyn ChunkSource) -> Result<Option<(Digest, Vec<u8>)>, PackError> {
        if self.ended {
            return Ok(None);
        }
        let chunk = self.chunks;
        let garbled = |problem| PackError::Garbled { chunk, problem };
        let [tag] = self.take()?;
        if tag == END {
            let count = u32::from_le_bytes(self.take()?);
            if count != self.chunks {
                return Err(garbled("the count at the end is another"));
            }
            let mut more = [0u8; 1];
            match self.input.read(&mut more) {
                Ok(0) => {}
                Ok(_) => return Err(garbled("bytes follow the end")),
                Err(source) => return Err(PackError::Io { chunks: self.chunks, source }),
            }
            self.ended = true;
            return Ok(None);
        }
        let (is_delta, is_zstd) = match tag {
            ZSTD | PLAIN => (false, tag == ZSTD),
            DELTA_ZSTD | DELTA_PLAIN if self.version == VERSION_DELTAS => (true, tag == DELTA_ZSTD),
            _ => return Err(garbled("unknown coding")),
        };
        if self.chunks >= PACK_CHUNKS_MAX {
            return Err(PackError::TooMany);
        }
        let digest = Digest(self.take()?);
        let len = u32::from_le_bytes(self.take()?);
        let coded_len = u32::from_le_bytes(self.take()?);
        if len == 0 || len > CHUNK_BYTES_MAX {
            return Err(garbled("its length is not allowed"));
        }
        if coded_len == 0 || coded_len > len || (tag == PLAIN && coded_len != len) {
            return Err(garbled("its coded length is not allowed"));
        }
        let mut bytes = vec![0; coded_len as usize];
        self.fill(&mut bytes)?;
        if is_zstd {
            // The capacity is the bound: a bomb fails here instead of growing.
            bytes = zstd::bulk::decompress(&bytes, len as usize)
                .map_err(|_| garbled("does not decompress to its length"))?;
        }
        if is_delta {
            bytes = delta::apply(&bytes, len as usize, bases)
                .map_err(|source| PackError::Delta { chunk: self.chunks, source })?;
        }
        if bytes.len() != len as usize || digest_of(&bytes) != digest {
            return Err(garbled("its bytes do not have its digest"));
        }
        self.chunks += 1;
        Ok(Some((digest, bytes)))
    }
}

/// The chunks named, in a pack. Ask for batches: the pack is held in memory.
pub fn encode_pack(source: &dyn ChunkSource, digests: &[Digest]) -> Result<Vec<u8>, PackError> {
    let mut pack = PackWriter::new(Vec::new())?;
    for digest in digests {
        pack.write(digest, &source.chunk(digest)?)?;
    }
    pack.finish()
}

/// What a pack brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    pub chunks: u32,
    pub bytes: u64,
}

/// Puts the chunks of a pack into the store. `asked` is what the sender may send; anything else is refused.
/// After an error whole chunks that came before it are kept: `missing` then asks for the rest.
pub fn receive_pack(
    input: impl Read,
    store: &mut ChunkStore,
    asked: &std::collections::BTreeSet<Digest>,
) -> Result<Received, PackError> {
    let none = std::collections::BTreeSet::new();
    receive_onto(input, &Shelf::new(store, Vec::new(), &none), asked)
}

/// As [`receive_pack`]; deltas may rest on chunks of the copy.
pub(crate) fn receive_onto(
    input: impl Read,
    shelf: &Shelf<'_>,
    asked: &std::collections::BTreeSet<Digest>,
) -> Result<Received, PackError> {
    let mut pack = PackReader::new(input)?;
    let mut received = Received::default();
    while let Some((digest, bytes)) = pack.next_chunk_over(shelf)? {
        if !asked.contains(&digest) {
            return Err(PackError::Unasked { chunk: received.chunks });
        }
        shelf.put(digest, &bytes)?;
        received = Received { chunks: received.chunks + 1, bytes: received.bytes + bytes.len() as u64 };
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut w = PackWriter::new(Vec::new()).unwrap();
        chunks.iter().for_each(|c| w.write(&digest_of(c), c).unwrap());
        w.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> Result<Vec<Vec<u8>>, PackError> {
        let mut r = PackReader::new(bytes)?;
        let mut out = Vec::new();
        while let Some((_, b)) = r.next_chunk()? {
            out.push(b);
        }
        Ok(out)
    }

    #[test]
    fn broken_off_anywhere_is_an_error() {
        let chunks = vec![vec![b'x'; 5000], (0..=255).collect(), vec![1]];
        let bytes = pack(&chunks);
        assert_eq!(unpack(&bytes).unwrap(), chunks);
        for cut in 0..bytes.len() {
            assert!(matches!(unpack(&bytes[..cut]), Err(PackError::Truncated { .. })), "cut at {cut}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(unpack(&longer), Err(PackError::Garbled { .. })));
    }

    #[test]
    fn a_bomb_is_refused() {
        let zeros = vec![0u8; 64 << 20];
        let coded = zstd::bulk::compress(&zeros, 19).unwrap();
        let mut bytes = b"PMCP\x01\x01".to_vec();
        bytes.extend_from_slice(&digest_of(&zeros).0);
        bytes.extend_from_slice(&CHUNK_BYTES_MAX.to_le_bytes());
        bytes.extend_from_slice(&(coded.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&coded);
        assert!(matches!(unpack(&bytes), Err(PackError::Garbled { .. })));
    }

    #[test]
    fn what_was_not_asked_for_is_not_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let mut store = ChunkStore::open(tmp.path(), 1000).unwrap();
        let bytes = pack(&[b"wanted".to_vec(), b"foisted".to_vec()]);
        let asked = [digest_of(b"wanted")].into();
        assert!(matches!(receive_pack(&bytes[..], &mut store, &asked), Err(PackError::Unasked { chunk: 1 })));
        assert_eq!(store.usage().chunks, 1);
    }

    #[test]
    fn a_delta_is_as_good_as_its_chunk_and_no_better() {
        let tmp = tempfile::tempdir().unwrap();
        let mut store = ChunkStore::open(tmp.path(), 1000).unwrap();
        let base: Vec<u8> = (0..100).collect();
        store.put(digest_of(&base), &base).unwrap();
        let fresh = base[10..60].to_vec();
        let mut delta = vec![1];
        delta.extend_from_slice(&digest_of(&base).0);
        delta.extend_from_slice(&[50 << 1 | 1, 0, 10]);
        let of = |digest: Digest, delta: &[u8]| {
            let mut w = PackWriter::with_deltas(Vec::new()).unwrap();
            w.write_delta(&digest, fresh.len(), delta).unwrap();
            w.finish().unwrap()
        };
        let asked = [digest_of(&fresh), digest_of(b"other")].into();
        let good = of(digest_of(&fresh), &delta);
        // Nothing to base it on.
        let e = unpack(&good).unwrap_err();
        assert!(matches!(e, PackError::Delta { source: DeltaError::Base(StoreError::Missing { .. }), .. }), "{e}");
        // It gives bytes, but of another chunk: as when two blocks were taken for one.
        let e = receive_pack(&of(digest_of(b"other"), &delta)[..], &mut store, &asked).unwrap_err();
        assert!(matches!(e, PackError::Garbled { .. }), "{e}");
        assert_eq!(store.usage().chunks, 1);
        assert_eq!(receive_pack(&good[..], &mut store, &asked).unwrap().bytes, 50);
        assert_eq!(store.read(&digest_of(&fresh)).unwrap(), fresh);
        let mut older = good;
        older[4] = VERSION;
        assert!(matches!(unpack(&older), Err(PackError::Garbled { .. })));
        older[4] = VERSION_DELTAS + 1;
        assert!(matches!(unpack(&older), Err(PackError::Version { found: 3 })));
        let mut w = PackWriter::with_deltas(Vec::new()).unwrap();
        assert!(w.write_delta(&digest_of(b"x"), 1, b"longer than its chunk").is_err());
    }

    proptest! {
        #[test]
        fn packs_round_trip(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 0..8)) {
            prop_assert_eq!(unpack(&pack(&chunks)).unwrap(), chunks);
        }

        #[test]
        fn a_damaged_pack_never_gives_out_other_bytes(at in any::<usize>(), byte in any::<u8>()) {
            let chunks = vec![vec![b'x'; 500], (0..=255).collect::<Vec<u8>>()];
            let mut bytes = pack(&chunks);
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(got) = unpack(&bytes) {
                prop_assert_eq!(got, chunks);
            }
        }
    }
}
