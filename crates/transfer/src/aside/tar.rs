//! A directory as an archive (POSIX `pax`), made while it is read.
//!
//! Enters: a directory whose writers have ended. Leaves: the bytes of the archive, in pieces, in an order that does not change.
//! Always holds: a piece and one open file are all that is in memory, and the names of the directories that are open; no link is followed;
//! whatever `tar` cannot say is said in extended headers; what could not be read is listed in the last entry.

use crate::beneath::Beneath;
use pumasi_terms::DatasetName;
use rustix::fs::{FileType, Stat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const BLOCK: usize = 512;
const NAME_MAX: usize = 100;
/// Eleven digits of octal.
const SIZE_MAX: u64 = (1 << 33) - 1;
const DEPTH_MAX: usize = 256;
/// Names in one directory, which are sorted and so held.
const NAMES_MAX: usize = 1_000_000;
const LEFT_OUT_MAX: usize = 1_000;
/// The entry that tells what is not in the archive.
const LEFT_OUT: &str = "LEFT-OUT.txt";

#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    /// Datasets that are still to come, the next one last.
    sets: Vec<DatasetName>,
    top: Option<(OsString, Beneath)>,
    /// Names that are still to come in each directory on the way, the next one last.
    open: Vec<(OsString, Vec<OsString>)>,
    /// The one whose content comes, how much of it, and its name; without a handle the rest is zeros.
    file: Option<(Option<File>, u64, OsString)>,
    ready: Vec<u8>,
    left_out: Vec<String>,
    left_out_count: u64,
    done: bool,
}

/// One whole entry, of bytes that are at hand.
pub fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let head =
        Head { name: name.as_bytes(), mode: 0o644, size: content.len() as u64, modified_s: 0, kind: b'0', link: b"" };
    head.put(&mut out);
    out.extend_from_slice(content);
    pad(&mut out, content.len() as u64);
    out
}

struct Head<'a> {
    name: &'a [u8],
    mode: u32,
    size: u64,
    modified_s: u64,
    kind: u8,
    link: &'a [u8],
}

impl Head<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        let mut records = Vec::new();
        // Names with odd bytes too: what is not text is said to be none.
        let is_plain = |text: &[u8]| text.len() <= NAME_MAX && text.is_ascii();
        if !is_plain(self.name) || !is_plain(self.link) {
            if std::str::from_utf8(self.name).is_err() || std::str::from_utf8(self.link).is_err() {
                record(&mut records, b"hdrcharset", b"BINARY");
            }
            record(&mut records, b"path", self.name);
            if !self.link.is_empty() {
                record(&mut records, b"linkpath", self.link);
            }
        }
        if self.size > SIZE_MAX {
            record(&mut records, b"size", self.size.to_string().as_bytes());
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            block(out, &Head { name: b"pax", mode: 0o644, size, modified_s: 0, kind: b'x', link: b"" });
            out.extend_from_slice(&records);
            pad(out, size);
        }
        block(out, self);
    }
}

/// `length key=value`, its own length included.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn block(out: &mut Vec<u8>, head: &Head<'_>) {
    let mut block = [0u8; BLOCK];
    let mut text = |at: usize, len: usize, value: &[u8]| {
        let len = len.min(value.len());
        block[at..at + len].copy_from_slice(&value[..len]);
    };
    text(0, NAME_MAX, head.name);
    text(100, 8, format!("{:07o}\0", head.mode & 0o7777).as_bytes());
    text(108, 8, b"0000000\0");
    text(116, 8, b"0000000\0");
    // A larger one stands in the extended header.
    text(124, 12, format!("{:011o}\0", if head.size > SIZE_MAX { 0 } else { head.size }).as_bytes());
    text(136, 12, format!("{:011o}\0", head.modified_s.min(SIZE_MAX)).as_bytes());
    text(148, 8, b"        ");
    text(156, 1, &[head.kind]);
    text(157, NAME_MAX, head.link);
    text(257, 8, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
}

fn pad(out: &mut Vec<u8>, size: u64) {
    let over = (size % BLOCK as u64) as usize;
    if over > 0 {
        out.resize(out.len() + BLOCK - over, 0);
    }
}

fn join(above: &OsStr, name: &OsStr) -> OsString {
    let mut path = above.as_bytes().to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    OsString::from_vec(path)
}

impl Archive {
    pub fn new(dir: &Path, sets: &[DatasetName]) -> Self {
        let (sets, dir) = (sets.iter().rev().cloned().collect(), dir.to_owned());
        Self {
            dir,
            sets,
            top: None,
            open: Vec::new(),
            file: None,
            ready: Vec::new(),
            left_out: Vec::new(),
            left_out_count: 0,
            done: false,
        }
    }

    /// At least one byte and about `most`, and whether these are the last.
    pub fn piece(&mut self, most: usize) -> io::Result<(Vec<u8>, bool)> {
        let most = (most / BLOCK).max(1) * BLOCK;
        while self.ready.len() < most && !self.done {
            self.step(most)?;
        }
        let rest = self.ready.split_off(most.min(self.ready.len()));
        let piece = std::mem::replace(&mut self.ready, rest);
        Ok((piece, self.done && self.ready.is_empty()))
    }

    fn step(&mut self, most: usize) -> io::Result<()> {
        if self.file.is_some() {
            return self.content(most);
        }
        let next = self.open.last_mut().map(|(dir, names)| (dir.clone(), names.pop()));
        match next {
            Some((dir, Some(name))) => self.one(&join(&dir, &name)),
            Some((_, None)) => {
                self.open.pop();
            }
            // Of the dataset before nothing is left.
            None => match self.sets.pop() {
                Some(set) => self.set(&set),
                None => self.end(),
            },
        }
        Ok(())
    }

    fn set(&mut self, set: &DatasetName) {
        match Beneath::open(&self.dir.join(set.as_str())) {
            Ok(top) => {
                self.top = Some((set.as_str().into(), top));
                self.enter(OsStr::new(""));
            }
            Err(e) => self.leave_out(OsStr::new(set.as_str()), &e.to_string()),
        }
    }

    fn shown(&self, below: &OsStr) -> OsString {
        let set = self.top.as_ref().map(|(set, _)| set.clone()).unwrap_or_default();
        if below.is_empty() { set } else { join(&set, below) }
    }

    fn enter(&mut self, below: &OsStr) {
        let Some((_, top)) = &self.top else { return };
        let names = || -> io::Result<Vec<OsString>> {
            let mut names = Vec::new();
            for name in top.dir(below)?.names()? {
                if names.len() >= NAMES_MAX {
                    return Err(io::Error::other(format!("more than {NAMES_MAX} names in one directory")));
                }
                names.push(name?);
            }
            names.sort_by(|a, b| b.cmp(a));
            Ok(names)
        };
        match names() {
            Ok(_) if self.open.len() >= DEPTH_MAX => self.leave_out(below, "too deep"),
            Ok(names) => {
                let shown = self.shown(below);
                let mut name = shown.into_vec();
                name.push(b'/');
                Head { name: &name, mode: 0o755, size: 0, modified_s: 0, kind: b'5', link: b"" }.put(&mut self.ready);
                self.open.push((below.to_owned(), names));
            }
            Err(e) => self.leave_out(below, &e.to_string()),
        }
    }

    fn one(&mut self, below: &OsStr) {
        if let Err(e) = self.try_one(below) {
            self.leave_out(below, &e.to_string());
        }
    }

    fn try_one(&mut self, below: &OsStr) -> io::Result<()> {
        let Some((_, top)) = &self.top else { return Ok(()) };
        let path = Path::new(below);
        let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let dir = top.dir(above.as_os_str())?;
        let stat = dir.stat(name)?;
        let shown = self.shown(below);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.enter(below),
            FileType::Symlink => {
                let target = dir.read_link(name)?;
                let (name, link) = (shown.as_bytes(), target.as_bytes());
                let head = Head { name, mode: 0o777, size: 0, modified_s: seconds(&stat), kind: b'2', link };
                head.put(&mut self.ready);
            }
            FileType::RegularFile => {
                let file = top.file(below)?;
                let meta = file.metadata()?;
                if !meta.is_file() {
                    return Err(io::Error::other("it was exchanged"));
                }
                let size = meta.len();
                let mode = stat.st_mode & 0o777;
                let head =
                    Head { name: shown.as_bytes(), mode, size, modified_s: seconds(&stat), kind: b'0', link: b"" };
                head.put(&mut self.ready);
                self.file = Some((Some(file), size, below.to_owned()));
            }
            _ => return Err(io::Error::other("it is no file, directory or link")),
        }
        Ok(())
    }

    /// Exactly as many bytes as its header says.
    fn content(&mut self, most: usize) -> io::Result<()> {
        let Some((file, left, below)) = self.file.take() else { return Ok(()) };
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(most);
        let end = self.ready.len() + take;
        let read = match file {
            Some(mut file) => {
                (&mut file).take(take as u64).read_to_end(&mut self.ready).map(|n| (n == take).then_some(file))
            }
            None => Ok(None),
        };
        let file = match read {
            Ok(Some(file)) => Some(file),
            Ok(None) | Err(_) if self.ready.len() == end => None,
            read => {
                let why =
                    read.err().map_or_else(|| "it became shorter while it was read".to_owned(), |e| e.to_string());
                self.leave_out(&below, &format!("its end, which is zeros here: {why}"));
                None
            }
        };
        self.ready.resize(end, 0);
        let left = left - take as u64;
        if left > 0 {
            self.file = Some((file, left, below));
        } else {
            // What was given out before was whole blocks.
            self.ready.resize(self.ready.len().next_multiple_of(BLOCK), 0);
        }
        Ok(())
    }

    fn leave_out(&mut self, below: &OsStr, why: &str) {
        self.left_out_count += 1;
        if self.left_out.len() < LEFT_OUT_MAX {
            let name: String = self.shown(below).to_string_lossy().chars().take(400).collect();
            self.left_out.push(format!("{name:?}: {why}"));
        }
    }

    fn end(&mut self) {
        if self.left_out_count > 0 {
            let mut text = format!("{} not in this archive, or not wholly:\n", self.left_out_count);
            self.left_out.iter().for_each(|line| text.extend([line.as_str(), "\n"]));
            self.ready.extend(entry(LEFT_OUT, text.as_bytes()));
        }
        self.ready.resize(self.ready.len() + 2 * BLOCK, 0);
        self.done = true;
    }
}

fn seconds(stat: &Stat) -> u64 {
    u64::try_from(stat.st_mtime).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn whole(dir: &Path, sets: &[&str], most: usize) -> Vec<u8> {
        let sets: Vec<DatasetName> = sets.iter().map(|s| s.parse().unwrap()).collect();
        let mut archive = Archive::new(dir, &sets);
        let mut out = Vec::new();
        loop {
            let (bytes, last) = archive.piece(most).unwrap();
            assert!(bytes.len() <= most.max(BLOCK), "{}", bytes.len());
            out.extend(bytes);
            if last {
                return out;
            }
        }
    }

    /// By the system's own `tar`, which is everybody's.
    fn unpacked(archive: &[u8]) -> tempfile::TempDir {
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("x.tar");
        fs::write(&file, archive).unwrap();
        let to = out.path().join("out");
        fs::create_dir(&to).unwrap();
        let done = std::process::Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(&to).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        out
    }

    #[test]
    fn odd_names_and_contents_come_out_as_they_went_in_whatever_the_size_of_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let (set, deep) = (dir.path().join("files"), "d".repeat(120));
        fs::create_dir_all(set.join(&deep).join("e".repeat(200))).unwrap();
        fs::create_dir(set.join("empty")).unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let odd = OsString::from_vec(b"not \xff text".to_vec());
        let names: Vec<OsString> = ["plain", "with\nnewline", "\u{d488}\u{c557}\u{c774} \u{1f33e}", "block"]
            .iter()
            .map(|s| (*s).into())
            .chain([odd])
            .collect();
        for (n, name) in names.iter().enumerate() {
            fs::write(set.join(name), &bytes[..[0, 1, 511, 512, 300_000][n]]).unwrap();
        }
        fs::write(set.join(&deep).join("e".repeat(200)).join("deep"), "deep").unwrap();
        symlink("/etc/passwd", set.join("link")).unwrap();
        symlink("x".repeat(150), set.join("long link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(set.join("socket")).unwrap();
        let all = whole(dir.path(), &["files", "gone"], 1 << 20);
        for most in [1, 512, 5_000] {
            assert_eq!(whole(dir.path(), &["files", "gone"], most), all, "{most}");
        }
        let out = unpacked(&all);
        let there = out.path().join("out/files");
        for name in &names {
            assert_eq!(fs::read(there.join(name)).unwrap(), fs::read(set.join(name)).unwrap(), "{name:?}");
        }
        assert_eq!(fs::read(there.join(&deep).join("e".repeat(200)).join("deep")).unwrap(), b"deep");
        assert_eq!(fs::read_link(there.join("link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read_link(there.join("long link")).unwrap(), Path::new(&"x".repeat(150)));
        assert!(there.join("empty").is_dir());
        let told = fs::read_to_string(out.path().join("out").join(LEFT_OUT)).unwrap();
        assert!(
            told.starts_with("2 not in this archive") && told.contains("socket") && told.contains("gone"),
            "{told}"
        );
    }

    #[test]
    fn an_entry_of_bytes_at_hand_stands_before_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("set")).unwrap();
        let mut all = entry("divergence.json", b"{}");
        all.extend(whole(dir.path(), &["set"], 512));
        let out = unpacked(&all);
        assert_eq!(fs::read(out.path().join("out/divergence.json")).unwrap(), b"{}");
        assert!(out.path().join("out/set").is_dir());
    }

    #[test]
    fn lengths_of_records_count_themselves() {
        for n in 1..300 {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; n]);
            let told: usize = std::str::from_utf8(&out).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, out.len());
        }
    }
}
