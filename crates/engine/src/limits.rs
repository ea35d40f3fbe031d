//! How much of the host's disks and output one instance may use up.
//!
//! Enters: figures of the operator. Leaves: what a shim holds its application to.

use serde::{Deserialize, Serialize};

/// What flows: `burst_bytes` at once, `bytes_per_s` for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub bytes_per_s: u64,
    pub burst_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Of standard output and error together; what exceeds it is dropped.
    pub log: Rate,
    /// Of what its processes write to file systems; what exceeds it stands still for a while.
    pub disk_write: Rate,
    /// Of one file.
    pub file_bytes_max: u64,
    /// Processes and threads together.
    pub tasks_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            log: Rate { bytes_per_s: 1 << 20, burst_bytes: 2 << 20 },
            disk_write: Rate { bytes_per_s: 64 << 20, burst_bytes: 256 << 20 },
            file_bytes_max: 64 << 30,
            tasks_max: 512,
        }
    }
}

/// A token bucket in bytes that may go into debt: what was done already is counted, and paid for by waiting.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    /// In millionths of a byte, so that short steps lose nothing.
    level: i128,
    at_us: u64,
}

const MILLION: i128 = 1_000_000;

impl Bucket {
    pub(crate) fn new(rate: Rate, now_us: u64) -> Self {
        Self { rate, level: i128::from(rate.burst_bytes) * MILLION, at_us: now_us }
    }

    fn flow(&mut self, now_us: u64) {
        let passed_us = now_us.saturating_sub(self.at_us);
        self.at_us = self.at_us.max(now_us);
        let grown = self.level + i128::from(passed_us) * i128::from(self.rate.bytes_per_s);
        self.level = grown.min(i128::from(self.rate.burst_bytes) * MILLION);
    }

    /// Bytes that may pass now.
    pub(crate) fn room_bytes(&mut self, now_us: u64) -> u64 {
        self.flow(now_us);
        u64::try_from((self.level / MILLION).max(0)).unwrap_or(u64::MAX)
    }

    pub(crate) fn take(&mut self, bytes: u64, now_us: u64) {
        self.flow(now_us);
        self.level -= i128::from(bytes) * MILLION;
    }

    /// Until the debt is paid; 0 without one.
    pub(crate) fn wait_us(&mut self, now_us: u64) -> u64 {
        self.flow(now_us);
        let debt = (-self.level).max(0);
        u64::try_from(debt.div_euclid(i128::from(self.rate.bytes_per_s.max(1)))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(Rate { bytes_per_s: 1_000, burst_bytes: 500 }, 0);
        assert_eq!(bucket.room_bytes(0), 500);
        bucket.take(500, 0);
        assert_eq!((bucket.room_bytes(0), bucket.wait_us(0)), (0, 0));
        // In ten thousand short steps as in one long one.
        for us in (0..=100_000).step_by(10) {
            bucket.room_bytes(us);
        }
        assert_eq!(bucket.room_bytes(100_000), 100);
        bucket.take(1_100, 100_000);
        assert_eq!(bucket.wait_us(100_000), 1_000_000);
        assert_eq!(bucket.room_bytes(1_100_000), 0);
        assert_eq!(bucket.room_bytes(60_000_000), 500, "it never holds more than its burst");
    }

    #[test]
    fn a_clock_that_stands_still_gives_nothing() {
        let mut bucket = Bucket::new(Rate { bytes_per_s: u64::MAX, burst_bytes: 10 }, 5);
        bucket.take(u64::MAX, 5);
        assert!(bucket.wait_us(4) > 0);
        assert_eq!(bucket.room_bytes(4), 0);
    }
}
