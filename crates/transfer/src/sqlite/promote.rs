//! The two ends of a copy: it becomes the database itself, or a database becomes a copy.
//!
//! Enters: a copy, or a database that nobody has open any more. Leaves: the file, byte for byte as the home's own was after a checkpoint;
//! or a copy.
//! Always holds: from the time that the marker is there the copy takes nothing more, and promoting it again goes on where it was cut off.

use super::first_page::{self, HEADER_BYTES};
use super::replica::{ReplicaError, ReplicaOptions, SqliteReplica, state_path};
use super::source::{SourceError, fault, read_only};
use super::{is_lock_page, page_size_of};
use crate::disk::{self, beside, write_state};
use crate::load::{Base, Promoted};
use pumasi_terms::{Digest, Position};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What is written of a promotion, beside the dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    version: u32,
    at: Position,
    mode: u16,
    /// Of the database as it was promoted; with it, all is done.
    digest: Option<Digest>,
}

const MARKER_VERSION: u32 = 1;

impl Marker {
    fn read(path: &Path) -> Result<Option<Self>, ReplicaError> {
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(SqliteReplica::io(path))?,
        };
        let marker: Option<Self> = serde_json::from_slice(&bytes).ok();
        match marker.filter(|m| m.version == MARKER_VERSION) {
            Some(marker) => Ok(Some(marker)),
            None => Err(SqliteReplica::io(path)(io::ErrorKind::InvalidData.into())),
        }
    }

    fn write(&self, path: &Path) -> Result<(), ReplicaError> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        write_state(path, &bytes, true).map_err(SqliteReplica::io(path))
    }
}

/// Whether the copy was promoted, or this was begun: then it is no copy any more.
pub fn is_promoted(marker: &Path) -> bool {
    fs::symlink_metadata(marker).is_ok()
}

/// Makes the copy at `path` the database. Its readers have ended. `copy`: as it is open; none to go on where an earlier call was cut off.
pub fn promote(path: &Path, copy: Option<SqliteReplica>, marker: &Path) -> Result<Promoted, ReplicaError> {
    let mut begun = match (Marker::read(marker)?, copy) {
        (Some(begun), copy) => {
            drop(copy);
            begun
        }
        (None, Some(copy)) => {
            let (at, mode) = copy.close()?;
            let begun = Marker { version: MARKER_VERSION, at, mode, digest: None };
            begun.write(marker)?;
            begun
        }
        // The home never had a database: that there is none is what is promoted.
        (None, None) if is_nothing(path) => {
            let digest = Some(crate::digest_of(b""));
            let begun = Marker { version: MARKER_VERSION, at: Position::default(), mode: 0, digest };
            begun.write(marker)?;
            begun
        }
        (None, None) => return Err(ReplicaError::NotWhole { path: path.to_owned() }),
    };
    let digest = match begun.digest {
        Some(digest) => digest,
        None => {
            restore(path, begun.mode)?;
            let digest = digest_of_file(path).map_err(SqliteReplica::io(path))?;
            begun.digest = Some(digest);
            begun.write(marker)?;
            digest
        }
    };
    Ok(Promoted { at: begun.at, digest })
}

/// Neither a copy nor the word that there was one.
fn is_nothing(path: &Path) -> bool {
    let gone = |path: &Path| matches!(fs::symlink_metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound);
    gone(path) && gone(&state_path(path))
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    let nofollow = OFlags::NOFOLLOW.bits() as i32;
    fs::OpenOptions::new().read(true).write(write).custom_flags(nofollow).open(path)
}

/// No SQLite has the file open here: see the caution in the module above.
fn restore(path: &Path, mode: u16) -> Result<(), ReplicaError> {
    let fault = SqliteReplica::io;
    let work = || -> io::Result<()> {
        let file = open(path, true)?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        if let (Some(pages), Some(page_size)) = (first_page::pages_of_copy(&header), page_size_of(&header)) {
            let len = u64::from(pages) * u64::from(page_size);
            if file.metadata()?.len() > len {
                disk::step()?;
                file.set_len(len)?;
            }
        }
        if first_page::restore(&mut header) {
            // Within one sector, so that there is no half of it.
            disk::step()?;
            file.write_all_at(&header, 0)?;
        }
        if mode != 0 {
            disk::step()?;
            file.set_permissions(fs::Permissions::from_mode(mode.into()))?;
        }
        disk::step()?;
        file.sync_all()
    };
    work().map_err(fault(path))?;
    for side in [state_path(path), beside(path, "-wal"), beside(path, "-shm")] {
        disk::remove_file(&side).map_err(fault(&side))?;
    }
    let above = path.parent().unwrap_or(Path::new("."));
    disk::sync_dir(above).map_err(fault(above))
}

/// Of all pages, but the one that SQLite keeps for its locks. A source says the same of the same content.
pub(super) fn digest_of_file(path: &Path) -> io::Result<Digest> {
    let mut file = open(path, false)?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let page_size = page_size_of(&header).ok_or(io::ErrorKind::InvalidData)?;
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; (1 << 20).max(page_size as usize)];
    let mut pgno = 1u32;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return Ok(Digest(hash.finalize().into()));
        }
        for page in buffer[..filled].chunks(page_size as usize) {
            if !is_lock_page(pgno, page_size) {
                hash.update(page);
            }
            pgno = pgno.saturating_add(1);
        }
    }
}

/// The same of a database that is in use: of the content, and not of what a copy has made of it.
pub(super) fn digest_of_database(path: &Path) -> Result<Digest, SourceError> {
    let hash = || -> rusqlite::Result<Digest> {
        let db = read_only(path)?;
        db.execute_batch("BEGIN")?;
        let page_size: u32 = db.query_row("PRAGMA page_size", [], |r| r.get(0))?;
        let mut hash = blake3::Hasher::new();
        let mut pages = db.prepare("SELECT pgno, data FROM sqlite_dbpage")?;
        let mut rows = pages.query([])?;
        while let Some(row) = rows.next()? {
            let (pgno, page): (u32, _) = (row.get(0)?, row.get_ref(1)?.as_blob()?);
            let header = page.first_chunk::<HEADER_BYTES>().filter(|_| pgno == 1);
            match header.copied() {
                Some(mut header) => {
                    first_page::restore(&mut header);
                    hash.update(&header).update(&page[HEADER_BYTES..]);
                }
                None if is_lock_page(pgno, page_size) => {}
                None => {
                    hash.update(page);
                }
            }
        }
        Ok(Digest(hash.finalize().into()))
    };
    hash().map_err(|e| fault(path, e))
}

/// Makes a copy at `at` of a database that still has the content `digest`: nothing has to be sent for it. Nobody has it open.
pub fn adopt(path: &Path, Base { at, digest }: Base, options: ReplicaOptions) -> Result<SqliteReplica, ReplicaError> {
    let fault = SqliteReplica::io;
    // What its last writer left in the log goes into the file.
    SqliteReplica::open(path, options)?.empty_log()?;
    let not_whole = || ReplicaError::NotWhole { path: path.to_owned() };
    if digest_of_file(path).map_err(fault(path))? != digest {
        return Err(not_whole());
    }
    let work = || -> io::Result<u16> {
        let file = open(path, true)?;
        let mut page = vec![0; HEADER_BYTES];
        file.read_exact_at(&mut page, 0)?;
        let page_size = page_size_of(&page).ok_or(io::ErrorKind::InvalidData)?;
        let meta = file.metadata()?;
        let db_pages = u32::try_from(meta.len() / u64::from(page_size)).map_err(io::Error::other)?;
        first_page::adapt(&mut page, db_pages);
        disk::step()?;
        file.write_all_at(&page, 0)?;
        options.access.set(path, options.access.mode(0o600, false))?;
        file.sync_all()?;
        Ok((meta.permissions().mode() & 0o777) as u16)
    };
    let mode = work().map_err(fault(path))?;
    SqliteReplica::open_at(path, at, mode, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_never_had_a_database_is_taken_over_and_a_copy_that_is_missing_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, marker) = (dir.path().join("app.db"), dir.path().join("data.promoted"));
        let first = promote(&path, None, &marker).unwrap();
        assert_eq!(promote(&path, None, &marker).unwrap(), first, "again, it is done");
        assert!(is_promoted(&marker) && !path.exists());
        fs::remove_file(&marker).unwrap();
        fs::write(state_path(&path), b"{}").unwrap();
        assert!(matches!(promote(&path, None, &marker), Err(ReplicaError::NotWhole { .. })));
    }
}
