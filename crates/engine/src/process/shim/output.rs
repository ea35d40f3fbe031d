//! The application's output on its way into the log.
//!
//! Enters: the pipe. Leaves: bytes in the log, at the rate of the limits; the rest is dropped and counted.
//! Always holds: over its rate the pipe is emptied [`REST_MS`] apart only, so that an application that floods it waits for its own
//! output and costs its shim next to nothing; it is never stopped for good.

use super::super::logs::LogWriter;
use crate::limits::{Bucket, Rate};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

/// As much as a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;
const REST_MS: u64 = 20;
/// What was dropped is told at most this often.
const TELL_MS: u64 = 1_000;
/// What is still in the pipe when the application is gone.
const LAST_WORDS_BYTES_MAX: usize = 1 << 20;

pub(super) struct Output {
    pipe: pipe::Receiver,
    open: bool,
    chunk: Vec<u8>,
    rate: Rate,
    bucket: Bucket,
    began: Instant,
    rest_until: Instant,
    dropped_bytes: u64,
    tell_at: Instant,
}

impl Output {
    pub(super) fn new(pipe: pipe::Receiver, rate: Rate) -> Self {
        let now = Instant::now();
        Self {
            pipe,
            open: true,
            chunk: vec![0; CHUNK_BYTES],
            rate,
            bucket: Bucket::new(rate, 0),
            began: now,
            rest_until: now,
            dropped_bytes: 0,
            tell_at: now,
        }
    }

    /// Moves what the application says next; never returns once it has closed its end. May be dropped and called again.
    pub(super) async fn pass(&mut self, log: &mut LogWriter) {
        if !self.open {
            return std::future::pending().await;
        }
        sleep_until(self.rest_until).await;
        match self.pipe.read(&mut self.chunk).await {
            Ok(0) | Err(_) => self.open = false,
            Ok(n) => self.take(n, log),
        }
    }

    fn take(&mut self, bytes: usize, log: &mut LogWriter) {
        let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let room = usize::try_from(self.bucket.room_bytes(now_us)).unwrap_or(usize::MAX);
        let kept = bytes.min(room);
        self.bucket.take(kept as u64, now_us);
        // A full disk does not stop an application.
        let _ = log.write(&self.chunk[..kept]);
        self.dropped_bytes += (bytes - kept) as u64;
        if kept < bytes {
            self.rest_until = Instant::now() + Duration::from_millis(REST_MS);
        }
        if self.dropped_bytes > 0 && (kept == bytes || Instant::now() >= self.tell_at) {
            self.tell(log);
        }
    }

    fn tell(&mut self, log: &mut LogWriter) {
        self.tell_at = Instant::now() + Duration::from_millis(TELL_MS);
        let (dropped, rate) = (std::mem::take(&mut self.dropped_bytes), self.rate.bytes_per_s);
        log.note(&format!("{dropped} bytes were dropped: more than {rate} bytes of output a second"));
    }

    pub(super) fn last_words(&mut self, log: &mut LogWriter) {
        let mut left = LAST_WORDS_BYTES_MAX;
        while let Ok(n) = self.pipe.try_read(&mut self.chunk) {
            if n == 0 || left < n {
                break;
            }
            left -= n;
            self.take(n, log);
        }
        if self.dropped_bytes > 0 {
            self.tell(log);
        }
    }
}
