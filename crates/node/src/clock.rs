//! The clocks and the entropy of a daemon: the only place where they are read.

use crate::world;
use pumasi_terms::{BootMs, Now, WallMs};

/// CLOCK_BOOTTIME, which goes on during suspend (`Instant` does not), and the wall clock.
pub fn now() -> Now {
    Now { boot: boot(), wall: wall() }
}

pub fn boot() -> BootMs {
    world::with(|w| w.now().boot).unwrap_or_else(machine_boot)
}

pub fn wall() -> WallMs {
    world::with(|w| w.now().wall).unwrap_or_else(machine_wall)
}

/// Identity of this boot: boot times are void under another.
pub fn boot_id() -> String {
    world::with(|w| w.boot_id()).unwrap_or_else(machine_boot_id)
}

pub fn entropy() -> u128 {
    world::with(|w| w.entropy()).unwrap_or_else(rand::random)
}

/// The machine's own clocks, whatever world is asked from.
pub fn machine() -> Now {
    Now { boot: machine_boot(), wall: machine_wall() }
}

pub fn machine_boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|t| t.trim().to_owned()).unwrap_or_default()
}

fn machine_wall() -> WallMs {
    WallMs(jiff::Timestamp::now().as_millisecond())
}

fn machine_boot() -> BootMs {
    // The call cannot fail on a kernel that has the clock (2.6.39 and later).
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map(|t| {
            BootMs(u64::try_from(t.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec()).unwrap_or(0) / 1_000_000)
        })
        .unwrap_or_default()
}
