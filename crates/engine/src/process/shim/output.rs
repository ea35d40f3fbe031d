//! The application's output on its way into the log.

use super::super::logs::LogWriter;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

const CHUNK_BYTES: usize = 16 << 10;
/// What is still in the pipe when the application is gone.
const LAST_WORDS_BYTES_MAX: usize = 1 << 20;

pub(super) struct Output {
    pipe: pipe::Receiver,
    open: bool,
    chunk: Vec<u8>,
}

impl Output {
    pub(super) fn new(pipe: pipe::Receiver) -> Self {
        Self { pipe, open: true, chunk: vec![0; CHUNK_BYTES] }
    }

    /// Moves what the application says next; never returns once it has closed its end. May be dropped and called again.
    pub(super) async fn pass(&mut self, log: &mut LogWriter) {
        if !self.open {
            return std::future::pending().await;
        }
        match self.pipe.read(&mut self.chunk).await {
            Ok(0) | Err(_) => self.open = false,
            Ok(n) => drop(log.write(&self.chunk[..n])),
        }
    }

    pub(super) fn last_words(&mut self, log: &mut LogWriter) {
        let mut left = LAST_WORDS_BYTES_MAX;
        while let Ok(n) = self.pipe.try_read(&mut self.chunk) {
            if n == 0 || left < n {
                break;
            }
            left -= n;
            let _ = log.write(&self.chunk[..n]);
        }
    }
}
