//! Changed pages of a database, on their way.
//!
//! Form: `PMPB`, version (1), from and to (generation, as_of_ms: u64 each), page_size, db_pages, pages, coded length (u32 each),
//! the zstd of page numbers (u32 each) and then page contents, BLAKE3 of all before it. Integers are little-endian.

use super::{DB_PAGES_MAX, is_lock_page, is_page_size};
use pumasi_terms::{Generation, Position};

const MAGIC: &[u8; 4] = b"PMPB";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 4 + 1 + 32 + 16;
const LEVEL: i32 = 1;
/// The most page bytes in one batch; what is more goes as a base.
pub const BATCH_BYTES_MAX: usize = 256 << 20;

/// The pages that turn a copy of any position in `[from, to)` into the snapshot `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageBatch {
    pub from: Position,
    pub to: Position,
    pub page_size: u32,
    /// The size of the database afterwards.
    pub db_pages: u32,
    /// Page numbers (from 1) rise.
    pub pages: Vec<(u32, Vec<u8>)>,
}

/// Why a batch is refused; the sender or the link is at fault. Ask for it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("page batch: broken off or garbled: its digest does not match; ask for it again")]
    Garbled,
    #[error("page batch: version {found}; this program knows version {VERSION}, update it")]
    Version { found: u8 },
    #[error("page batch: {problem}; the sender is at fault")]
    Invalid { problem: &'static str },
}

impl PageBatch {
    pub fn check(&self) -> Result<(), BatchError> {
        let invalid = |problem| Err(BatchError::Invalid { problem });
        if !is_page_size(self.page_size) {
            return invalid("its page size is none of SQLite's");
        }
        if self.db_pages == 0 || self.db_pages > DB_PAGES_MAX {
            return invalid("its database size is not possible");
        }
        if self.from.generation != self.to.generation || self.from >= self.to {
            return invalid("it does not lead forwards within one generation");
        }
        if self.pages.len() * self.page_size as usize > BATCH_BYTES_MAX {
            return invalid("it is too large");
        }
        let mut before = 0;
        for (pgno, bytes) in &self.pages {
            if *pgno <= before || *pgno > self.db_pages {
                return invalid("its page numbers do not rise within the database");
            }
            if bytes.len() != self.page_size as usize {
                return invalid("a page has another size");
            }
            if is_lock_page(*pgno, self.page_size) {
                return invalid("it has the page of the locks");
            }
            before = *pgno;
        }
        Ok(())
    }

    pub fn encode(&self) -> Result<Vec<u8>, BatchError> {
        self.check()?;
        let mut body = Vec::with_capacity(self.pages.len() * (self.page_size as usize + 4));
        self.pages.iter().for_each(|(n, _)| body.extend_from_slice(&n.to_le_bytes()));
        self.pages.iter().for_each(|(_, b)| body.extend_from_slice(b));
        let coded =
            zstd::bulk::compress(&body, LEVEL).map_err(|_| BatchError::Invalid { problem: "it does not compress" })?;
        let mut out = Vec::with_capacity(HEAD_BYTES + coded.len() + 32);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        for n in [self.from.generation.0, self.from.as_of_ms, self.to.generation.0, self.to.as_of_ms] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        for n in [self.page_size, self.db_pages, self.pages.len() as u32, coded.len() as u32] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&coded);
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        Ok(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let invalid = |problem| BatchError::Invalid { problem };
        if bytes.len() < HEAD_BYTES + 32 || !bytes.starts_with(MAGIC) {
            return Err(BatchError::Garbled);
        }
        if bytes[4] != VERSION {
            return Err(BatchError::Version { found: bytes[4] });
        }
        let (signed, digest) = bytes.split_at(bytes.len() - 32);
        if blake3::hash(signed).as_bytes() != digest {
            return Err(BatchError::Garbled);
        }
        let (head, coded) = signed.split_at(HEAD_BYTES);
        let u64_at = |at: usize| head[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let u32_at = |at: usize| head[at..at + 4].iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
        let from = Position { generation: Generation(u64_at(5)), as_of_ms: u64_at(13) };
        let to = Position { generation: Generation(u64_at(21)), as_of_ms: u64_at(29) };
        let (page_size, db_pages, count, coded_len) =
            (u32_at(37), u32_at(41), u32_at(45) as usize, u32_at(49) as usize);
        if !is_page_size(page_size) {
            return Err(invalid("its page size is none of SQLite's"));
        }
        if coded_len != coded.len() {
            return Err(invalid("its length is another"));
        }
        if count.saturating_mul(page_size as usize) > BATCH_BYTES_MAX {
            return Err(invalid("it is too large"));
        }
        let body_len = count * (page_size as usize + 4);
        // The capacity is the bound: a bomb fails here instead of growing.
        let body = zstd::bulk::decompress(coded, body_len).map_err(|_| invalid("does not decompress to its length"))?;
        if body.len() != body_len {
            return Err(invalid("does not decompress to its length"));
        }
        let (numbers, contents) = body.split_at(count * 4);
        let pages = numbers
            .chunks_exact(4)
            .map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]]))
            .zip(contents.chunks_exact(page_size as usize).map(<[u8]>::to_vec))
            .collect();
        let batch = Self { from, to, page_size, db_pages, pages };
        batch.check()?;
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(pages: &[(u32, u8)]) -> PageBatch {
        let mark = |as_of_ms| Position { generation: Generation(3), as_of_ms };
        let pages = pages.iter().map(|(n, b)| (*n, vec![*b; 512])).collect();
        PageBatch { from: mark(5), to: mark(9), page_size: 512, db_pages: 100, pages }
    }

    #[test]
    fn broken_off_anywhere_is_an_error() {
        let bytes = batch(&[(1, 7), (50, 9), (100, 0)]).encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(PageBatch::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(PageBatch::decode(&bad).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn impossible_batches_are_refused() {
        for pages in [&[(0, 1)][..], &[(101, 1)], &[(2, 1), (2, 1)], &[(3, 1), (2, 1)]] {
            assert!(batch(pages).encode().is_err(), "{pages:?}");
        }
        let mut b = batch(&[(1, 1)]);
        b.to = b.from;
        assert!(b.encode().is_err());
        let mut b = batch(&[]);
        (b.page_size, b.db_pages) = (65_536, 20_000);
        b.pages = vec![(16_385, vec![0; 65_536])];
        assert!(b.encode().is_err(), "the lock page passed");
    }

    proptest! {
        #[test]
        fn batches_round_trip(pages in proptest::collection::btree_map(1u32..=100, any::<u8>(), 0..20)) {
            let b = batch(&pages.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(PageBatch::decode(&b.encode().unwrap()), Ok(b));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), sign in any::<bool>()) {
            if sign {
                bytes.splice(0..bytes.len().min(5), *b"PMPB\x01");
                let digest = blake3::hash(&bytes);
                bytes.extend_from_slice(digest.as_bytes());
            }
            let _ = PageBatch::decode(&bytes);
        }
    }
}
