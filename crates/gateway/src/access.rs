//! One line of JSON for each request of a user, where the operator asked for it: `access.log` in the gateway's directory.
//!
//! Enters: what was asked and how it was answered. Leaves: lines, in two files that together never exceed the bound.
//! Always holds: no request waits for the disk: what cannot be taken in is counted, and the count is written; queries and fields are left out,
//! since they carry what is secret and what is personal.

use http::Method;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

const FILE: &str = "access.log";
/// Of one file; there are two.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Lines on their way to the disk.
const WAITING_MAX: usize = 8_192;
const FLUSH: Duration = Duration::from_millis(500);
/// Of a host or a path, as it was asked for.
const TEXT_CHARS_MAX: usize = 1_024;

/// A request, before it is answered.
#[derive(Debug)]
pub struct Asked {
    client: IpAddr,
    method: Method,
    host: String,
    path: String,
    begun_us: u64,
}

impl Asked {
    pub fn new<B>(client: IpAddr, request: &http::Request<B>, begun_us: u64) -> Self {
        let short = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
        let host = request.headers().get(http::header::HOST).and_then(|v| v.to_str().ok());
        let host = request.uri().authority().map(|a| a.as_str()).or(host).unwrap_or_default();
        Self {
            client,
            method: request.method().clone(),
            host: short(host),
            path: short(request.uri().path()),
            begun_us,
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    /// Unix time, ms, at which the answer began.
    at_ms: u64,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    status: u16,
    /// Until the head of the answer left; its body may have taken longer.
    took_us: u64,
    /// The cloud whose instance answered; none: this gateway did.
    #[serde(skip_serializing_if = "Option::is_none")]
    served_by: Option<&'a str>,
}

#[derive(Debug)]
pub struct Access {
    lines: SyncSender<Vec<u8>>,
    lost: std::sync::Arc<AtomicU64>,
}

impl Access {
    /// # Errors
    /// The file cannot be opened, or no thread started.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(WAITING_MAX);
        let lost = std::sync::Arc::<AtomicU64>::default();
        let mut writer = Writer::open(dir.join(FILE), FILE_BYTES_MAX)?;
        let uncounted = lost.clone();
        std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&waiting, &uncounted))?;
        Ok(Self { lines, lost })
    }

    pub fn answered(&self, asked: &Asked, status: u16, served_by: Option<&str>, now_us: u64) {
        let at_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
        let line = Line {
            at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX),
            client: asked.client,
            method: asked.method.as_str(),
            host: &asked.host,
            path: &asked.path,
            status,
            took_us: now_us.saturating_sub(asked.begun_us),
            served_by,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        if self.lines.try_send(text).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    written_bytes: u64,
    file_bytes_max: u64,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl Writer {
    fn open(path: PathBuf, file_bytes_max: u64) -> io::Result<Self> {
        let file = open(&path)?;
        let written_bytes = file.metadata()?.len();
        Ok(Self { path, file: BufWriter::new(file), written_bytes, file_bytes_max })
    }

    /// Until nobody sends any more. A full disk costs lines, and nothing else.
    fn run(&mut self, waiting: &Receiver<Vec<u8>>, lost: &AtomicU64) {
        loop {
            let put = match waiting.recv_timeout(FLUSH) {
                Ok(line) => self.put(&line),
                Err(RecvTimeoutError::Timeout) => self.file.flush(),
                Err(RecvTimeoutError::Disconnected) => return drop(self.file.flush()),
            };
            let missing = lost.swap(0, Ordering::Relaxed) + u64::from(put.is_err());
            if missing > 0 && self.put(format!("{{\"lost\":{missing}}}\n").as_bytes()).is_err() {
                lost.fetch_add(missing, Ordering::Relaxed);
            }
        }
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.written_bytes > 0 && self.written_bytes + length > self.file_bytes_max {
            self.file.flush()?;
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.file = BufWriter::new(open(&self.path)?);
            self.written_bytes = 0;
        }
        self.file.write_all(line)?;
        self.written_bytes += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_line_tells_what_was_asked_and_nothing_that_is_secret() {
        let dir = tempfile::tempdir().unwrap();
        let access = Access::open(dir.path()).unwrap();
        let request = http::Request::get("/a/b?token=secret")
            .header("host", "n.example:8080")
            .header("cookie", "session=secret")
            .body(())
            .unwrap();
        let asked = Asked::new("192.0.2.7".parse().unwrap(), &request, 1_000);
        access.answered(&asked, 503, None, 3_500);
        access.answered(&asked, 200, Some("city-b"), 4_000);
        drop(access);
        let path = dir.path().join(FILE);
        let until = std::time::Instant::now() + Duration::from_secs(10);
        let mut text = String::new();
        while text.lines().count() < 2 && std::time::Instant::now() < until {
            text = std::fs::read_to_string(&path).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!text.contains("secret"), "{text}");
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(
            (&lines[0]["path"], &lines[0]["status"], &lines[0]["took_us"]),
            (&"/a/b".into(), &503.into(), &2500.into())
        );
        assert_eq!((&lines[0]["served_by"], &lines[1]["served_by"]), (&Value::Null, &"city-b".into()));
        assert_eq!((&lines[1]["client"], &lines[1]["host"]), (&"192.0.2.7".into(), &"n.example:8080".into()));
    }

    #[test]
    fn two_files_hold_the_newest_and_stay_within_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut writer = Writer::open(path.clone(), 1_000).unwrap();
        for n in 0..1_000 {
            writer.put(format!("line {n:05}\n").as_bytes()).unwrap();
        }
        writer.file.flush().unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (old, new) = (read(&path.with_extension("log.1")), read(&path));
        assert!(old.len() <= 1_000 && new.len() <= 1_000 && new.ends_with("line 00999\n"));
        assert!(old.ends_with(&format!("line {:05}\n", 999 - new.lines().count())), "nothing is between them");
    }
}
