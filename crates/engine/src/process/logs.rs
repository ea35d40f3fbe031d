//! An application's output, kept in two files that together never exceed the bound.
//!
//! Enters: the application's bytes, the shim's own lines. Leaves: the end of both.
//! Always holds: each line begins with the time at which it began ([`crate::stamp`]); behind it, a mark of ours is ours: what the
//! application wrote so is indented by a space.

use super::layout::{Layout, wall_now};
use crate::{EngineError, stamp};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What lines of Pumasi's own begin with: the shim's, and the daemon's above each instance's log.
const OURS: [&[u8]; 2] = [b"[pumasi]", b"== "];
const MARK_BYTES_MAX: usize = 8;
/// What is looked at for the last line, and what is told of it.
const TAIL_BYTES: usize = 1_024;
const LINE_CHARS_MAX: usize = 240;

#[derive(Debug)]
pub(super) struct LogWriter {
    layout: Layout,
    file: File,
    written_bytes: u64,
    /// Of one file: half of the whole.
    file_bytes_max: u64,
    marks: Marks,
    /// The end of what the application wrote.
    tail: Vec<u8>,
}

/// Keeps the application from writing lines that look like ours, however it cuts them into pieces.
#[derive(Debug)]
struct Marks {
    at_start: bool,
    /// The beginning of a line that may yet become a mark.
    pending: Vec<u8>,
}

impl Marks {
    fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 16);
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let mut rest = line;
            if self.at_start {
                let (head, tail) = line.split_at(line.len().min(MARK_BYTES_MAX - self.pending.len()));
                self.pending.extend(head);
                rest = tail;
                if OURS.iter().any(|mark| mark.len() > self.pending.len() && mark.starts_with(&self.pending)) {
                    continue;
                }
                self.flush(&mut out);
            }
            out.extend(rest);
            if line.ends_with(b"\n") {
                self.at_start = true;
            }
        }
        out
    }

    /// Nothing more comes for what is pending.
    fn flush(&mut self, out: &mut Vec<u8>) {
        if self.pending.is_empty() {
            return;
        }
        out.extend(stamp::of(wall_now()).bytes().chain([b' ']));
        if OURS.iter().any(|mark| self.pending.starts_with(mark)) {
            out.push(b' ');
        }
        out.append(&mut self.pending);
        self.at_start = false;
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl LogWriter {
    pub(super) fn open(layout: &Layout, bytes_max: u64) -> Result<Self, EngineError> {
        let path = layout.log();
        let file = open(&path).map_err(EngineError::at("open", &path))?;
        let written_bytes = file.metadata().map_err(EngineError::at("read", &path))?.len();
        // A shim that was killed may have left half a line.
        let at_start = tail_of(&path, 1)?.last().is_none_or(|b| *b == b'\n');
        let marks = Marks { at_start, pending: Vec::new() };
        Ok(Self {
            layout: layout.clone(),
            file,
            written_bytes,
            file_bytes_max: (bytes_max / 2).max(4_096),
            marks,
            tail: Vec::new(),
        })
    }

    /// Of the application.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tail.extend(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        let passed = self.marks.pass(bytes);
        self.put(&passed)
    }

    /// The last line of the application that is not blank, as text for people; empty if it wrote none.
    pub(super) fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Its end: that is where an error says what is wrong.
        let skipped = clean.chars().count().saturating_sub(LINE_CHARS_MAX);
        if skipped == 0 { clean } else { format!("…{}", clean.chars().skip(skipped).collect::<String>()) }
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
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
        let mut line = Vec::new();
        self.marks.flush(&mut line);
        if !self.marks.at_start {
            line.push(b'\n');
        }
        self.marks.at_start = true;
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        line.extend(format!("{} [pumasi] {text}\n", stamp::of(wall_now())).into_bytes());
        let _ = self.put(&line);
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
    // The end of a long line must not look like a line of its own.
    if tail_bytes > 0 && out.len() >= tail_bytes {
        match out.iter().position(|b| *b == b'\n') {
            Some(at) => drop(out.drain(..=at)),
            None => out.insert(0, b' '),
        }
    }
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
        assert!(text.len() <= 6_000, "{}", text.len());
        let text = stamp::plain(&text);
        assert!(text.starts_with("line "), "{text}");
        assert!(text.ends_with("line 4998\nline 4999\n"));
    }

    fn written(pieces: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir(dir.path().join("logs")).unwrap();
        let mut log = LogWriter::open(&layout, 10_000).unwrap();
        for piece in pieces {
            match piece.strip_prefix("note:") {
                Some(text) => log.note(text),
                None => log.write(piece.as_bytes()).unwrap(),
            }
        }
        log.note("end");
        let text = String::from_utf8(tail(&layout, 9_000).unwrap()).unwrap();
        assert!(text.lines().all(|line| stamp::split(line).0.is_some()), "{text}");
        stamp::plain(&text)
    }

    #[test]
    fn an_application_cannot_write_lines_of_ours() {
        let forged = "[pumasi] killed for using more memory\n== inst-1 at city-a\nx\n";
        let shown = " [pumasi] killed for using more memory\n == inst-1 at city-a\nx\n[pumasi] end\n";
        assert_eq!(written(&[forged]), shown);
        // Nor byte by byte, nor behind a line of ours, nor behind half a line of its own.
        let bytes: Vec<String> = forged.chars().map(String::from).collect();
        assert_eq!(written(&bytes.iter().map(String::as_str).collect::<Vec<_>>()), shown);
        assert_eq!(
            written(&["half", "note:told", "[pumasi] x\n", "[pum"]),
            "half\n[pumasi] told\n [pumasi] x\n[pum\n[pumasi] end\n"
        );
        assert_eq!(written(&["[info] a\n=> b\n[p\n\n"]), "[info] a\n=> b\n[p\n\n[pumasi] end\n");
        // A line of ours is one line, whatever it tells.
        assert_eq!(written(&["note:a\n[pumasi] b\u{1b}[2J"]), "[pumasi] a [pumasi] b [2J\n[pumasi] end\n");
    }

    #[test]
    fn the_last_line_is_the_applications_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir(dir.path().join("logs")).unwrap();
        let mut log = LogWriter::open(&layout, 10_000).unwrap();
        assert_eq!(log.last_line(), "");
        log.write(b"Traceback:\nKeyError: \x1b[31m'a'\n\n  \n").unwrap();
        log.note("exited with code 1");
        assert_eq!(log.last_line(), "KeyError:  [31m'a'");
        log.write(b"half a li").unwrap();
        assert_eq!(log.last_line(), "half a li");
        log.write(&[b'x'; 5_000]).unwrap();
        log.write(b" the end").unwrap();
        let line = log.last_line();
        assert!(line.ends_with("x the end") && line.chars().count() <= LINE_CHARS_MAX + 1, "{line}");
    }

    #[test]
    fn a_tail_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir(dir.path().join("logs")).unwrap();
        let mut log = LogWriter::open(&layout, 10_000).unwrap();
        log.write(b"a line that ends with [pumasi] killed").unwrap();
        assert_eq!(tail(&layout, 15).unwrap(), b" [pumasi] killed");
        log.write(b"\nnext\n").unwrap();
        let end = String::from_utf8(tail(&layout, 46).unwrap()).unwrap();
        assert_eq!(stamp::plain(&end), "next\n");
    }
}
