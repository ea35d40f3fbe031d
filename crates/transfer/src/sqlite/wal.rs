//! Which pages a write-ahead log has frames for. Contents are never taken from here: SQLite alone says what a page holds.
//!
//! The log is read while others write to it. What makes that safe: a frame that a reader's snapshot includes is complete and
//! chained by checksums from the header on, and it is not overwritten before the header has got other salts. So a walk along
//! the chain finds at least the frames of every snapshot that began before it, if the header is the same before and after.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: usize = 24;

/// A generation of the log: it gets other salts when it begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogHeader {
    pub page_size: u32,
    pub salts: [u8; 8],
    big_endian: bool,
    sum: (u32, u32),
}

/// A place in the log: so many frames from its beginning, and the checksum up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub header: LogHeader,
    pub frames: u64,
    sum: (u32, u32),
}

impl Place {
    pub(super) fn beginning(header: LogHeader) -> Self {
        Self { header, frames: 0, sum: header.sum }
    }
}

#[derive(Debug)]
pub(super) struct Walk {
    /// The pages of all frames from the start on, unordered and repeated.
    pub pages: Vec<u32>,
    /// After the last frame.
    #[cfg(test)]
    pub end: Place,
    /// A place that every snapshot which begins after this walk is at or behind: see `walk`.
    pub settled: Place,
}

fn sum(big_endian: bool, bytes: &[u8], (mut a, mut b): (u32, u32)) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |i: usize| {
            let w = [pair[i], pair[i + 1], pair[i + 2], pair[i + 3]];
            if big_endian { u32::from_be_bytes(w) } else { u32::from_le_bytes(w) }
        };
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    (a, b)
}

fn be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads as much as is there.
fn read_at(file: &File, out: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(out, at) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Opens the log; none if there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match crate::scan::open_file(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The header; none while the log is empty or its header is being written.
pub(super) fn header(file: &File) -> io::Result<Option<LogHeader>> {
    let mut h = [0u8; HEADER_BYTES as usize];
    if !read_at(file, &mut h, 0)? {
        return Ok(None);
    }
    let (magic, page_size) = (be(&h, 0), be(&h, 8));
    let big_endian = magic & 1 == 1;
    let found = sum(big_endian, &h[..24], (0, 0));
    if magic & !1 != 0x377f_0682 || !super::is_page_size(page_size) || found != (be(&h, 24), be(&h, 28)) {
        return Ok(None);
    }
    let mut salts = [0; 8];
    salts.copy_from_slice(&h[16..24]);
    Ok(Some(LogHeader { page_size, salts, big_endian, sum: found }))
}

/// Walks along the valid frames from `start` to the end.
///
/// `settled` is the end of the last transaction that is *followed by the end of another one*: a writer begins only when the
/// one before it is known to all, while the last transaction in the file may not be known to anybody yet.
pub(super) fn walk(file: &File, start: Place) -> io::Result<Walk> {
    let page = start.header.page_size as usize;
    let mut frame = vec![0u8; FRAME_HEADER_BYTES + page];
    let (mut at, mut settled, mut last_commit, mut pages) = (start, start, None, Vec::new());
    loop {
        let offset = HEADER_BYTES + at.frames * frame.len() as u64;
        if !read_at(file, &mut frame, offset)? || frame[8..16] != at.header.salts {
            break;
        }
        let found = sum(at.header.big_endian, &frame[..8], at.sum);
        let found = sum(at.header.big_endian, &frame[FRAME_HEADER_BYTES..], found);
        if found != (be(&frame, 16), be(&frame, 20)) {
            break;
        }
        at = Place { header: at.header, frames: at.frames + 1, sum: found };
        pages.push(be(&frame, 0));
        if be(&frame, 4) != 0 {
            settled = last_commit.unwrap_or(settled);
            last_commit = Some(at);
        }
    }
    Ok(Walk {
        pages,
        #[cfg(test)]
        end: at,
        settled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_finds_what_sqlite_wrote() {
        let tmp = tempfile::tempdir().unwrap();
        let db = rusqlite::Connection::open(tmp.path().join("d")).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x);").unwrap();
        let log = || open(&tmp.path().join("d-wal")).unwrap().unwrap();
        let first = header(&log()).unwrap().unwrap();
        let one = walk(&log(), Place::beginning(first)).unwrap();
        assert_eq!((one.end.frames, one.settled.frames), (one.pages.len() as u64, 0));
        db.execute_batch("INSERT INTO t VALUES(1);").unwrap();
        let two = walk(&log(), one.end).unwrap();
        assert_eq!(two.pages, vec![2]);
        assert_eq!(walk(&log(), one.settled).unwrap().settled, one.end);
        db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        assert_eq!(header(&log()).unwrap().unwrap(), first);
        db.execute_batch("INSERT INTO t VALUES(2);").unwrap();
        let next = header(&log()).unwrap().unwrap();
        assert_ne!(next.salts, first.salts);
        // Stale frames of the generation before are behind the new one and do not count.
        assert_eq!(walk(&log(), Place::beginning(next)).unwrap().pages, vec![2]);
        assert!(walk(&log(), Place::beginning(first)).unwrap().pages.is_empty());
    }
}
