//! Meter windows: closed every tenth of a second of boot time, kept for a minute, handed to the daemon.
//!
//! While nobody is served, and no lease is metered, a window is a second long; it ends at once when somebody comes.

use crate::clock::boot_us;
use crate::table::{Service, Tables};
use pumasi_sense::meter::{BackendMeter, MeterWindow, ServiceMeter, WINDOW_MS};
use pumasi_terms::BootMs;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Windows that are kept.
pub const WINDOWS_MAX: usize = 600;
const METER_VERSION: u32 = 1;
/// A window while nobody is served: shorter than what a reader still takes for now.
const IDLE_MS: u64 = 1_000;

/// The answer to `GET /v1/meter`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterReport {
    pub gateway_run: u64,
    pub windows: Vec<MeterWindow>,
}

#[derive(Debug, Default)]
struct Ring {
    windows: VecDeque<MeterWindow>,
    last_seq: u64,
    last_us: u64,
}

#[derive(Debug)]
pub struct Meter {
    run: u64,
    ring: Mutex<Ring>,
    closed: Notify,
    /// Nobody is served, and the next one to come says so.
    asleep: AtomicBool,
    stirred: Notify,
}

impl Meter {
    pub fn new(run: u64) -> Self {
        let ring = Ring { last_us: boot_us(), ..Ring::default() };
        let (closed, stirred) = (Notify::new(), Notify::new());
        Self { run, ring: Mutex::new(ring), closed, asleep: AtomicBool::new(false), stirred }
    }

    /// Closes a window at each tenth of a second, for ever.
    pub async fn run(self: Arc<Self>, tables: Arc<Tables>) {
        let window_us = WINDOW_MS * 1_000;
        loop {
            let into = boot_us() % window_us;
            tokio::time::sleep(std::time::Duration::from_micros(window_us - into)).await;
            self.close(&tables);
            while is_idle(&tables) {
                let undisturbed = self.sleep().await;
                self.close(&tables);
                if !undisturbed {
                    break;
                }
            }
        }
    }

    /// A request came. One that comes just when nobody was found to be served is in a window that is longer than others, and nothing else.
    pub fn stir(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.stirred.notify_one();
        }
    }

    /// Until the second is over. False: somebody came first, and what was quiet until then is a window of its own.
    async fn sleep(&self) -> bool {
        self.asleep.store(true, Ordering::Release);
        let left_us = IDLE_MS * 1_000 - boot_us() % (IDLE_MS * 1_000);
        let left = std::time::Duration::from_micros(left_us);
        let undisturbed = tokio::time::timeout(left, self.stirred.notified()).await.is_err();
        self.asleep.store(false, Ordering::Release);
        undisturbed
    }

    fn close(&self, tables: &Tables) {
        let live = tables.live();
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            let now = boot_us();
            let span_us = now.saturating_sub(ring.last_us).max(1);
            ring.last_us = now;
            ring.last_seq += 1;
            let mut window = MeterWindow {
                version: METER_VERSION,
                gateway_run: self.run,
                seq: ring.last_seq,
                at: BootMs(now / 1_000),
                span_ms: (span_us + 500) / 1_000,
                table_revision: live.revision,
                services: Default::default(),
                leases: Default::default(),
            };
            for (name, service) in &live.services {
                service.admission.tick();
                window.services.insert(name.clone(), service.admission.take_meter(span_us));
            }
            for (id, lease) in &live.leases {
                lease.admission.tick();
                window.leases.insert(id.clone(), sum(lease.admission.take_meter(span_us)));
            }
            if ring.windows.len() == WINDOWS_MAX {
                ring.windows.pop_front();
            }
            ring.windows.push_back(window);
        }
        for (_, admission) in tables.leaving() {
            admission.tick();
        }
        self.closed.notify_waiters();
    }

    fn since(&self, after: u64) -> MeterReport {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = ring.windows.iter().filter(|w| w.seq > after).cloned().collect();
        MeterReport { gateway_run: self.run, windows }
    }

    /// Windows after `after`; waits a second at most for the first.
    pub async fn read(&self, after: u64) -> MeterReport {
        let closed = self.closed.notified();
        let report = self.since(after);
        if !report.windows.is_empty() {
            return report;
        }
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), closed).await;
        self.since(after)
    }
}

/// Whether nothing is under way, and nothing that is paid for by time.
fn is_idle(tables: &Tables) -> bool {
    let live = tables.live();
    let at_rest = |s: &Arc<Service>| s.route.leases.is_empty() && s.admission.is_idle();
    live.leases.is_empty() && live.services.values().all(at_rest) && tables.leaving().is_empty()
}

/// A lease served here is one row, whatever its instances.
fn sum(meter: ServiceMeter) -> BackendMeter {
    let mut out = BackendMeter {
        completed: meter.completed,
        failed: meter.failed,
        in_flight: meter.in_flight,
        limit: meter.limit,
        app_time: meter.app_time,
        ..BackendMeter::default()
    };
    out.saturated = !meter.backends.is_empty() && meter.backends.values().all(|b| b.saturated);
    out.bytes_out = meter.backends.values().map(|b| b.bytes_out).sum();
    out
}
