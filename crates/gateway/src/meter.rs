//! Meter windows: closed every tenth of a second of boot time, kept for a minute, handed to the daemon.

use crate::clock::boot_us;
use crate::table::Tables;
use pumasi_sense::meter::{BackendMeter, MeterWindow, ServiceMeter, WINDOW_MS};
use pumasi_terms::BootMs;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Windows that are kept.
pub const WINDOWS_MAX: usize = 600;
const METER_VERSION: u32 = 1;

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
}

impl Meter {
    pub fn new(run: u64) -> Self {
        let ring = Ring { last_us: boot_us(), ..Ring::default() };
        Self { run, ring: Mutex::new(ring), closed: Notify::new() }
    }

    /// Closes a window at each tenth of a second, for ever.
    pub async fn run(self: Arc<Self>, tables: Arc<Tables>) {
        let window_us = WINDOW_MS * 1_000;
        loop {
            let into = boot_us() % window_us;
            tokio::time::sleep(std::time::Duration::from_micros(window_us - into)).await;
            self.close(&tables);
        }
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
