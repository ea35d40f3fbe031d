//! `diary`: writes by itself, asked by nobody: a numbered line each few milliseconds, on the disk before the next. `GET /` tells the last.
//!
//! Always holds: a line says who wrote it, so that one that was lost and written again by somebody else is told from the first; it goes
//! on after the last line that is there, and ends if what is there is no diary.

use super::ExampleError;
use super::http::{Answer, App, Asked};
use http::StatusCode;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub const FILE: &str = "diary.txt";
const PACE: Duration = Duration::from_millis(4);
/// A reader's copy takes no lines.
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub struct Diary {
    last: Arc<AtomicU64>,
}

/// The number of the last line.
///
/// # Errors
/// The first line that is torn, missing or there twice.
pub fn last(text: &str) -> Result<u64, String> {
    let mut last = 0;
    for line in text.split_inclusive('\n') {
        let number = line.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        if number != Some(last + 1) || !line.ends_with('\n') {
            return Err(format!("{line:?} follows line {last}"));
        }
        last += 1;
    }
    Ok(last)
}

impl Diary {
    pub fn open(dir: &Path) -> Result<Self, ExampleError> {
        let diary = Self::default();
        let (path, told) = (dir.join(FILE), diary.last.clone());
        std::thread::Builder::new()
            .name("diary".into())
            .spawn(move || {
                let mut open = OpenOptions::new().create(true).append(true).read(true).open(&path);
                while matches!(&open, Err(e) if e.kind() == io::ErrorKind::PermissionDenied || e.raw_os_error() == Some(30)) {
                    std::thread::sleep(AGAIN);
                    open = OpenOptions::new().create(true).append(true).read(true).open(&path);
                }
                let written = open.map_err(|e| e.to_string()).and_then(|file| write(file, &told));
                eprintln!("the diary ends: {}", written.err().unwrap_or_default());
                std::process::exit(4);
            })
            .map_err(ExampleError::Start)?;
        Ok(diary)
    }
}

fn write(mut file: File, told: &AtomicU64) -> Result<(), String> {
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|e| e.to_string())?;
    let mut number = last(&text)?;
    let who: u64 = rand::random();
    loop {
        told.store(number, Ordering::Relaxed);
        std::thread::sleep(PACE);
        number += 1;
        file.write_all(format!("{number} {who:016x}\n").as_bytes()).map_err(|e| e.to_string())?;
        file.sync_data().map_err(|e| e.to_string())?;
    }
}

impl App for Diary {
    fn answer(&self, _: &Asked) -> Option<Answer> {
        Some(Answer::text(StatusCode::OK, self.last.load(Ordering::Relaxed).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diary_with_a_hole_a_double_or_a_torn_end_is_found_out() {
        assert_eq!(last(""), Ok(0));
        assert_eq!(last("1 a\n2 a\n3 b\n"), Ok(3));
        for bad in ["2 a\n", "1 a\n3 a\n", "1 a\n1 a\n", "1 a\n2", "1 a\n2 a", "\n", "x\n"] {
            assert!(last(bad).is_err(), "{bad:?}");
        }
    }
}
