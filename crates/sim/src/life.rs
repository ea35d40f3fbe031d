//! A host and its lives: the clock and the entropy that one simulated daemon reads, and everything that ends with it.
//!
//! Always holds: boot time of a host goes on over the daemons' lives and begins anew at a reboot; a life that is over does nothing more.

use pumasi_node::clock;
use pumasi_node::world::World;
use pumasi_terms::{BootMs, Now, WallMs};
use pumasi_transfer::EraseError;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Wall time at which every run begins: 2026-06-01T00:00:00Z.
const WALL_BEGIN_MS: i64 = 1_780_272_000_000;

/// The clock of one host: its boot, its drift, its wall clock's error.
#[derive(Debug)]
pub struct HostClock {
    begin: Instant,
    /// Added to virtual time to give boot time, at most this host's own.
    boot_offset_ms: AtomicU64,
    /// Subtracted: virtual time at which it booted.
    booted_at_ms: AtomicU64,
    boots: AtomicU64,
    drift_ppm: i64,
    wall_error_ms: i64,
    /// The clocks are this machine's: what runs outside the made world reads the same ones.
    of_machine: bool,
}

impl HostClock {
    pub fn new(begin: Instant, boot_offset_ms: u64, drift_ppm: i64, wall_error_ms: i64) -> Self {
        Self {
            begin,
            boot_offset_ms: AtomicU64::new(boot_offset_ms),
            booted_at_ms: AtomicU64::new(0),
            boots: AtomicU64::new(1),
            drift_ppm,
            wall_error_ms,
            of_machine: false,
        }
    }

    /// For a host whose drivers are real.
    pub fn of_machine(begin: Instant) -> Self {
        Self { of_machine: true, ..Self::new(begin, 0, 0, 0) }
    }

    /// Virtual time of the world, ms since it began.
    pub fn true_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn drifted(&self, ms: u64) -> u64 {
        ms.saturating_add_signed(i64::try_from(ms).unwrap_or(i64::MAX) / 1_000 * self.drift_ppm / 1_000)
    }

    pub fn now(&self) -> Now {
        if self.of_machine {
            return clock::machine();
        }
        let true_ms = self.true_ms();
        let since_boot = true_ms.saturating_sub(self.booted_at_ms.load(Ordering::Relaxed));
        let boot = BootMs(self.boot_offset_ms.load(Ordering::Relaxed) + self.drifted(since_boot));
        let wall = WALL_BEGIN_MS + self.wall_error_ms + i64::try_from(self.drifted(true_ms)).unwrap_or(i64::MAX);
        Now { boot, wall: WallMs(wall) }
    }

    pub fn boot_id(&self) -> String {
        if self.of_machine {
            return clock::machine_boot_id();
        }
        format!("boot-{}", self.boots.load(Ordering::Relaxed))
    }

    /// Power off and on.
    pub fn reboot(&self) {
        self.booted_at_ms.store(self.true_ms(), Ordering::Relaxed);
        self.boot_offset_ms.store(5_000, Ordering::Relaxed);
        self.boots.fetch_add(1, Ordering::Relaxed);
    }
}

/// One process of a daemon.
#[derive(Debug)]
pub struct Life {
    clock: Arc<HostClock>,
    entropy: Mutex<StdRng>,
    tasks: Mutex<Vec<AbortHandle>>,
    over: AtomicBool,
    erase: OnceLock<Erasing>,
}

/// Erases a directory, or does not.
pub type OnErase = dyn Fn(&Path) -> Result<(), EraseError> + Send + Sync;

struct Erasing(Arc<OnErase>);

impl std::fmt::Debug for Erasing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Erasing")
    }
}

impl Life {
    pub fn new(clock: Arc<HostClock>, seed: u64) -> Arc<Self> {
        let entropy = Mutex::new(StdRng::seed_from_u64(seed));
        let (tasks, over, erase) = (Mutex::default(), AtomicBool::new(false), OnceLock::new());
        Arc::new(Self { clock, entropy, tasks, over, erase })
    }

    /// As kill -9: nothing of it runs any more. Its tasks are dropped by `bury`, which must not be called from within one of them.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn on_erase(&self, hook: Arc<OnErase>) {
        let _ = self.erase.set(Erasing(hook));
    }

    pub fn bury(&self) {
        self.end();
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

impl World for Life {
    fn now(&self) -> Now {
        self.clock.now()
    }
    fn boot_id(&self) -> String {
        self.clock.boot_id()
    }
    fn entropy(&self) -> u128 {
        self.entropy.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
    fn spawned(&self, task: AbortHandle) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|t| !t.is_finished());
        tasks.push(task);
    }
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
    fn erase(&self, dir: &Path) -> Result<(), EraseError> {
        self.erase.get().map_or_else(|| pumasi_transfer::erase(dir), |hook| (hook.0)(dir))
    }
}
