//! An application's output, kept in two files that together never exceed the bound.

use super::layout::Layout;
use crate::EngineError;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

#[derive(Debug)]
pub(super) struct LogWriter {
    layout: Layout,
    file: File,
    written_bytes: u64,
    /// Of one file: half of the whole.
    file_bytes_max: u64,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl LogWriter {
    pub(super) fn open(layout: &Layout, bytes_max: u64) -> Result<Self, EngineError> {
        let path = layout.log();
        let file = open(&path).map_err(EngineError::at("open", &path))?;
        let written_bytes = file.metadata().map_err(EngineError::at("read", &path))?.len();
        Ok(Self { layout: layout.clone(), file, written_bytes, file_bytes_max: (bytes_max / 2).max(4_096) })
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.file_bytes_max.saturating_sub(self.written_bytes);
            if room == 0 {
                fs::rename(self.layout.log(), self.layout.old_log())?;
                self.file = open(&self.layout.log())?;
                self.written_bytes = 0;
                continue;
            }
            let now = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            self.file.write_all(&bytes[..now])?;
            self.written_bytes += now as u64;
            bytes = &bytes[now..];
        }
        Ok(())
    }

    /// A line of the shim's own among the application's.
    pub(super) fn note(&mut self, text: &str) {
        let _ = self.write(format!("[pumasi] {text}\n").as_bytes());
    }
}

fn tail_of(path: &Path, tail_bytes: u64) -> Result<Vec<u8>, EngineError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(tail_bytes)))?;
        let mut out = Vec::new();
        file.take(tail_bytes).read_to_end(&mut out)?;
        Ok(out)
    };
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(EngineError::at("read", path)),
    }
}

pub(super) fn tail(layout: &Layout, tail_bytes: usize) -> Result<Vec<u8>, EngineError> {
    let new = tail_of(&layout.log(), tail_bytes as u64)?;
    let mut out = match tail_bytes - new.len().min(tail_bytes) {
        0 => Vec::new(),
        rest => tail_of(&layout.old_log(), rest as u64)?,
    };
    out.extend(new);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_the_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir(dir.path().join("logs")).unwrap();
        let mut log = LogWriter::open(&layout, 10_000).unwrap();
        for i in 0..5_000 {
            log.write(format!("line {i}\n").as_bytes()).unwrap();
        }
        let size = |p: &Path| p.metadata().unwrap().len();
        assert!(size(&layout.log()) + size(&layout.old_log()) <= 10_000);
        let text = String::from_utf8(tail(&layout, 6_000).unwrap()).unwrap();
        assert_eq!(text.len(), 6_000);
        assert!(text.ends_with("line 4998\nline 4999\n"));
    }
}
