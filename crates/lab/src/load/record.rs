//! What became of every request, and the figures over any part of them.

use super::schedule::Schedule;
use crate::machine::Validity;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The longest that a histogram tells apart.
const LATENCY_US_MAX: u64 = 600_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered, and the service's own checker agrees.
    Right,
    /// Answered, and the checker does not agree.
    Wrong,
    /// Refused at admission: 503 with `Pumasi-Shed`. It was not executed.
    Shed,
    /// The gateway says with `Pumasi-Outcome: unknown` that an unsafe request may or may not have been executed.
    Unknown,
    /// Any other 5xx.
    Failed,
    /// No connection. It was not executed.
    Unreachable,
    /// The connection broke before the answer was whole.
    Broken,
    TimedOut,
    /// Never sent: the generator's own bound was reached.
    Unsent,
}

impl Outcome {
    pub const ALL: [Outcome; 9] = [
        Outcome::Right,
        Outcome::Wrong,
        Outcome::Shed,
        Outcome::Unknown,
        Outcome::Failed,
        Outcome::Unreachable,
        Outcome::Broken,
        Outcome::TimedOut,
        Outcome::Unsent,
    ];
}

/// Times are since the start of the run.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub intended_us: u64,
    pub sent_us: u64,
    /// Head of the last answer; 0: none came.
    pub first_byte_us: u64,
    pub done_us: u64,
    pub user: u32,
    pub body_bytes: u32,
    pub phase: u16,
    /// 0: no answer.
    pub status: u16,
    /// Index into [`Run::servers`].
    pub served_by: u16,
    pub outcome: Outcome,
    pub write: bool,
    pub redirects: u8,
}

impl Record {
    /// From the intended time of sending: a stalled server cannot hide by delaying the generator.
    pub fn latency_us(&self) -> u64 {
        self.done_us.saturating_sub(self.intended_us)
    }
    /// Given to the service and not refused at its door.
    pub fn admitted(&self) -> bool {
        !matches!(self.outcome, Outcome::Shed | Outcome::Unsent)
    }
}

/// Figures over some of the records.
#[derive(Debug, Clone)]
pub struct Stats {
    counts: [u64; 9],
    pub writes: u64,
    /// Of the right answers, from the intended time, us.
    latency_us: Histogram<u64>,
    /// Of every request that was sent, us.
    send_lag_us: Histogram<u64>,
}

impl Default for Stats {
    fn default() -> Self {
        Self { counts: [0; 9], writes: 0, latency_us: histogram(), send_lag_us: histogram() }
    }
}

fn histogram() -> Histogram<u64> {
    // Only a wrong precision or range could fail here.
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).unwrap_or_else(|_| unreachable!("fixed bounds are valid"))
}

impl Stats {
    pub fn add(&mut self, record: &Record) {
        if let Some(count) = self.counts.get_mut(record.outcome as usize) {
            *count += 1;
        }
        self.writes += u64::from(record.write);
        if record.outcome == Outcome::Right {
            self.latency_us.saturating_record(record.latency_us().max(1));
        }
        if record.outcome != Outcome::Unsent {
            self.send_lag_us.saturating_record(record.sent_us.saturating_sub(record.intended_us).max(1));
        }
    }

    /// Takes in what others counted.
    pub fn merge(&mut self, other: &Stats) {
        self.counts.iter_mut().zip(other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.writes += other.writes;
        // Both have the same bounds.
        let _ = self.latency_us.add(&other.latency_us);
        let _ = self.send_lag_us.add(&other.send_lag_us);
    }

    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts.get(outcome as usize).copied().unwrap_or(0)
    }
    pub fn offered(&self) -> u64 {
        self.counts.iter().sum()
    }
    pub fn right(&self) -> u64 {
        self.count(Outcome::Right)
    }
    pub fn shed(&self) -> u64 {
        self.count(Outcome::Shed)
    }
    /// Admitted and not answered rightly.
    pub fn failures(&self) -> u64 {
        self.offered() - self.right() - self.shed() - self.count(Outcome::Unsent)
    }
    /// Part of the offered requests that were answered rightly, 0 to 1; 1 if none was offered.
    pub fn served_share(&self) -> f64 {
        match self.offered() {
            0 => 1.0,
            offered => self.right() as f64 / offered as f64,
        }
    }
    /// Of the right answers, from the intended time; `q` from 0 to 1.
    pub fn latency_ms(&self, q: f64) -> f64 {
        self.latency_us.value_at_quantile(q) as f64 / 1000.0
    }
    pub fn send_lag_ms(&self, q: f64) -> f64 {
        self.send_lag_us.value_at_quantile(q) as f64 / 1000.0
    }
    pub fn summary(&self) -> Summary {
        Summary {
            offered: self.offered(),
            outcomes: Outcome::ALL.into_iter().map(|o| (o, self.count(o))).filter(|(_, n)| *n > 0).collect(),
            writes: self.writes,
            p50_ms: self.latency_ms(0.50),
            p95_ms: self.latency_ms(0.95),
            p99_ms: self.latency_ms(0.99),
            max_ms: self.latency_ms(1.0),
        }
    }
}

/// Figures for a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub offered: u64,
    pub outcomes: Vec<(Outcome, u64)>,
    pub writes: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// A finished run.
#[derive(Debug)]
pub struct Run {
    pub schedule: Schedule,
    /// In the order in which they ended.
    pub records: Vec<Record>,
    /// Values of `Pumasi-Served-By`; the first is "", for none.
    pub servers: Vec<String>,
    pub validity: Validity,
    /// The first few wrong answers and failures, for people.
    pub samples: Vec<String>,
}

impl Run {
    pub fn stats(&self, of: impl Fn(&Record) -> bool) -> Stats {
        let mut stats = Stats::default();
        self.records.iter().filter(|r| of(r)).for_each(|r| stats.add(r));
        stats
    }

    pub fn all(&self) -> Stats {
        self.stats(|_| true)
    }

    /// Requests intended within the phase.
    pub fn phase(&self, name: &str) -> Stats {
        let index = self.schedule.phases.iter().position(|p| p.name == name);
        self.stats(|r| Some(usize::from(r.phase)) == index)
    }

    /// Requests intended from `from` up to `to`.
    pub fn between(&self, from: Duration, to: Duration) -> Stats {
        let (from, to) = (us(from), us(to));
        self.stats(|r| (from..to).contains(&r.intended_us))
    }

    /// Consecutive windows from `from` to `to`, by intended time.
    pub fn windows(&self, from: Duration, to: Duration, width: Duration) -> Vec<Stats> {
        let (from, to, width) = (us(from), us(to), us(width).max(1));
        let mut windows = vec![Stats::default(); usize::try_from(to.saturating_sub(from).div_ceil(width)).unwrap_or(0)];
        for record in self.records.iter().filter(|r| (from..to).contains(&r.intended_us)) {
            if let Some(stats) =
                usize::try_from((record.intended_us - from) / width).ok().and_then(|i| windows.get_mut(i))
            {
                stats.add(record);
            }
        }
        windows
    }

    pub fn per_second(&self) -> Vec<Stats> {
        self.windows(Duration::ZERO, self.schedule.duration(), Duration::from_secs(1))
    }

    /// How long after `from` the service was good for good: the end of the last window before `to` that was not. Zero: it was
    /// never bad. `None`: the last window was bad, so it was not restored.
    pub fn restored_after(
        &self,
        from: Duration,
        to: Duration,
        width: Duration,
        good: impl Fn(&Stats) -> bool,
    ) -> Option<Duration> {
        let windows = self.windows(from, to, width);
        let bad = windows.iter().rposition(|w| !good(w));
        match bad {
            None => Some(Duration::ZERO),
            Some(last) if last + 1 == windows.len() => None,
            Some(last) => Some(width * u32::try_from(last + 1).unwrap_or(u32::MAX)),
        }
    }

    /// Part of the answers by who served them, 0 to 1, within `from..to`.
    pub fn served_by(&self, from: Duration, to: Duration) -> Vec<(String, f64)> {
        let (from, to) = (us(from), us(to));
        let mut counts = vec![0u64; self.servers.len()];
        for record in self.records.iter().filter(|r| (from..to).contains(&r.intended_us) && r.outcome == Outcome::Right)
        {
            if let Some(count) = counts.get_mut(usize::from(record.served_by)) {
                *count += 1;
            }
        }
        let all = counts.iter().sum::<u64>().max(1) as f64;
        self.servers.iter().cloned().zip(counts.into_iter().map(|n| n as f64 / all)).filter(|(_, p)| *p > 0.0).collect()
    }
}

fn us(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::schedule::Gaps;

    fn record(intended_ms: u64, took_ms: u64, outcome: Outcome) -> Record {
        let at = intended_ms * 1000;
        Record {
            intended_us: at,
            sent_us: at + 100,
            first_byte_us: 0,
            done_us: at + took_ms * 1000,
            user: 0,
            body_bytes: 0,
            phase: 0,
            status: 200,
            served_by: 0,
            outcome,
            write: false,
            redirects: 0,
        }
    }

    #[test]
    fn restoration_is_the_end_of_the_last_bad_window() {
        let s = Duration::from_secs(1);
        let records = (0..100).map(|i| {
            let took = if (30..52).contains(&i) { 500 } else { 5 };
            record(i * 100, took, if i == 60 { Outcome::Shed } else { Outcome::Right })
        });
        let run = Run {
            schedule: Schedule::new(Gaps::Even, 1).level("a", 10 * s, 10.0),
            records: records.collect(),
            servers: vec![String::new()],
            validity: Validity::default(),
            samples: Vec::new(),
        };
        let fast = |w: &Stats| w.latency_ms(0.95) < 50.0;
        assert_eq!(run.restored_after(3 * s, 10 * s, s / 2, fast), Some(s * 5 / 2));
        assert_eq!(run.restored_after(6 * s, 10 * s, s, fast), Some(Duration::ZERO));
        assert_eq!(run.restored_after(3 * s, 5 * s, s, fast), None);
        assert_eq!((run.all().offered(), run.all().shed(), run.all().failures()), (100, 1, 0));
        assert_eq!(run.per_second().len(), 10);
        assert_eq!(run.served_by(Duration::ZERO, 10 * s), vec![(String::new(), 1.0)]);
    }
}
