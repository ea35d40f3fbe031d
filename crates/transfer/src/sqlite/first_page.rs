//! The first page of a database, as a copy has it and as the home had it.
//!
//! Enters: the home's first page. Leaves: one that readers of a copy can use while it is written, and the home's again.
//! Always holds: what was changed stands in the same page, so that no crash can part the two. It stands in the 20 bytes from 72 on, which
//! the file format reserves, which are zero in every database, and which SQLite neither reads nor writes.

use std::ops::Range;

pub(super) const HEADER_BYTES: usize = 100;
/// Journal mode: of the writer and of the reader.
const MODE: Range<usize> = 18..20;
const CHANGES: Range<usize> = 24..28;
const PAGES: Range<usize> = 28..32;
const LARGEST_ROOT: Range<usize> = 52..56;
const INCREMENTAL: Range<usize> = 64..68;
const RESERVED: Range<usize> = 72..92;
/// Which change the number of pages was stated at, and by which SQLite. The copy's own rewrites them, as it does `CHANGES`.
const STATED: Range<usize> = 92..100;
const STAMP: u8 = 1;

/// In WAL mode; its size stated; and not vacuumed by our own commits, which SQLite would do if the home were in the mode
/// `auto_vacuum=FULL` (INCREMENTAL keeps the same layout).
pub(super) fn adapt(page: &mut [u8], db_pages: u32) {
    let mut stamp = vec![STAMP];
    [MODE, CHANGES, PAGES, STATED].into_iter().for_each(|range| stamp.extend_from_slice(&page[range]));
    stamp.push(u8::from(page[INCREMENTAL] != [0; 4]));
    page[RESERVED].copy_from_slice(&stamp);
    page[MODE].copy_from_slice(&[2, 2]);
    page[PAGES].copy_from_slice(&db_pages.to_be_bytes());
    if page[LARGEST_ROOT] != [0; 4] {
        page[INCREMENTAL].copy_from_slice(&1u32.to_be_bytes());
    }
}

/// How many pages a copy has by its own header; what its file has behind them is nothing.
pub(super) fn pages_of_copy(header: &[u8; HEADER_BYTES]) -> Option<u32> {
    let pages = u32::from_be_bytes(header[PAGES].try_into().ok()?);
    (header[RESERVED.start] == STAMP).then_some(pages)
}

/// Makes the header the home's again; false: it is so already, or was written before there were stamps.
pub(super) fn restore(header: &mut [u8; HEADER_BYTES]) -> bool {
    let mut stamp = [0; 20];
    stamp.copy_from_slice(&header[RESERVED]);
    let [STAMP, kept @ .., incremental] = &stamp else { return false };
    let mut kept = &kept[..];
    for range in [MODE, CHANGES, PAGES, STATED] {
        let (now, rest) = kept.split_at(range.len());
        header[range].copy_from_slice(now);
        kept = rest;
    }
    header[INCREMENTAL].copy_from_slice(&u32::from(*incremental).to_be_bytes());
    header[RESERVED].fill(0);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_comes_back_and_only_once() {
        for (largest_root, incremental) in [(0u32, 0u32), (7, 0), (7, 1)] {
            let mut home = [0x5a; HEADER_BYTES];
            home[RESERVED].fill(0);
            home[LARGEST_ROOT].copy_from_slice(&largest_root.to_be_bytes());
            home[INCREMENTAL].copy_from_slice(&incremental.to_be_bytes());
            let mut copy = home;
            adapt(&mut copy, 9);
            assert_eq!((&copy[MODE], &copy[PAGES]), (&[2, 2][..], &9u32.to_be_bytes()[..]));
            // What the copy's own SQLite does.
            copy[CHANGES].fill(1);
            copy[STATED].fill(1);
            assert!(restore(&mut copy));
            assert_eq!(copy, home);
            assert!(!restore(&mut copy));
        }
    }
}
