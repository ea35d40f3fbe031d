//! The boot clock, read at the edge. It goes on during suspend, which `Instant` does not.

use nix::time::{ClockId, clock_gettime};
use pumasi_terms::BootMs;

/// Microseconds of CLOCK_BOOTTIME.
pub fn boot_us() -> u64 {
    // It cannot fail on Linux; if it did, everything that is bounded in time would have to count as over.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(|t| u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0) / 1_000)
        .unwrap_or(u64::MAX / 2)
}

pub fn boot_ms() -> BootMs {
    BootMs(boot_us() / 1_000)
}

/// Names this boot of the kernel.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
