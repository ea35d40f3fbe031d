//! What the machine itself was doing: a run is only worth as much as the idle time that was left.

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::time::Duration;

/// CPU time of all cores since boot, in clock ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTicks {
    pub busy: u64,
    pub total: u64,
}

impl CpuTicks {
    /// From /proc/stat; zero where there is none.
    pub fn now() -> Self {
        std::fs::read_to_string("/proc/stat").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(stat: &str) -> Self {
        let Some(line) = stat.lines().next().and_then(|l| l.strip_prefix("cpu ")) else { return Self::default() };
        // user nice system idle iowait irq softirq steal; guest time is within user already.
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|n| n.parse().ok()).collect();
        let total: u64 = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self { busy: total - idle, total }
    }

    /// Part of the time since `earlier` in which cores were busy or taken away by the host, 0 to 1.
    pub fn busy_since(self, earlier: Self) -> f64 {
        match self.total.saturating_sub(earlier.total) {
            0 => 0.0,
            total => self.busy.saturating_sub(earlier.busy) as f64 / total as f64,
        }
    }
}

/// CPU time that this thread has used.
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// CPU time that this process has used.
pub fn process_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// How far the machine, and not what was tested, shaped the figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Validity {
    /// From the intended to the real time of sending.
    pub send_lag_p99_ms: f64,
    /// Mean over the run, 0 to 1.
    pub machine_cpu_busy: f64,
    /// Part of the seconds in which the machine was as good as full.
    pub seconds_full: f64,
    /// Cores that the generator used.
    pub generator_cores: f64,
    /// Requests that the generator could not send: its bound of outstanding ones was reached.
    pub unsent: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ValidityBounds {
    pub send_lag_p99_ms: f64,
    pub machine_cpu_busy: f64,
    /// Of the seconds, how many may be full.
    pub seconds_full: f64,
    pub unsent: u64,
}

impl Default for ValidityBounds {
    fn default() -> Self {
        Self { send_lag_p99_ms: 20.0, machine_cpu_busy: 0.90, seconds_full: 0.10, unsent: 0 }
    }
}

/// A second counts as full from here.
pub const FULL: f64 = 0.97;

impl Validity {
    /// Why the run says nothing about time; empty: it does.
    pub fn problems(&self, bounds: &ValidityBounds) -> Vec<String> {
        let mut problems = Vec::new();
        if self.send_lag_p99_ms > bounds.send_lag_p99_ms {
            problems.push(format!(
                "the generator was late: p99 {:.1} ms, at most {:.1}",
                self.send_lag_p99_ms, bounds.send_lag_p99_ms
            ));
        }
        if self.machine_cpu_busy > bounds.machine_cpu_busy {
            problems.push(format!(
                "the machine was busy {:.0} % of the time, at most {:.0}",
                100.0 * self.machine_cpu_busy,
                100.0 * bounds.machine_cpu_busy
            ));
        }
        if self.seconds_full > bounds.seconds_full {
            problems.push(format!(
                "the machine was full in {:.0} % of the seconds, at most {:.0}",
                100.0 * self.seconds_full,
                100.0 * bounds.seconds_full
            ));
        }
        if self.unsent > bounds.unsent {
            problems.push(format!("{} requests were never sent: too many were outstanding", self.unsent));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_as_the_kernel_writes_them() {
        let early = CpuTicks::parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n");
        assert_eq!(early, CpuTicks { busy: 150, total: 1000 });
        let late = CpuTicks::parse("cpu  150 0 50 830 50 0 0 20 0 0\n");
        assert_eq!(late.busy_since(early), 0.7);
        assert_eq!(CpuTicks::parse("nonsense"), CpuTicks::default());
        assert!(CpuTicks::now().total > 0);
    }

    #[test]
    fn a_late_generator_or_a_full_machine_spoils_a_run() {
        let fine = Validity { send_lag_p99_ms: 1.5, machine_cpu_busy: 0.6, ..Validity::default() };
        assert!(fine.problems(&ValidityBounds::default()).is_empty());
        for spoiled in [
            Validity { send_lag_p99_ms: 100.0, ..fine.clone() },
            Validity { machine_cpu_busy: 0.99, ..fine.clone() },
            Validity { seconds_full: 0.5, ..fine.clone() },
            Validity { unsent: 1, ..fine.clone() },
        ] {
            assert_eq!(spoiled.problems(&ValidityBounds::default()).len(), 1, "{spoiled:?}");
        }
    }
}
