//! Durable lease renewals a second: a daemon as it is served, beside a single-member etcd on the same disk.
//!
//! Enters: the number of pairs. Leaves: renewals a second and per CPU-second of the server's process, the ratio of the pairs.
//! Always holds: a renewal counts when its answer is there, and no answer comes before its fsync. Ours are heartbeats over mutual
//! TLS of members that signed every lease before; they are decided and written by the daemon, and are all still there after a
//! kill -9. etcd writes one key a lease, which is durable; its own lease keep-alive is not (it is never written down) and stands
//! beside for who would use it. etcd listens in plain text, which spares it the cost of TLS.

mod etcd;
mod grpc;
mod ours;

use crate::row::{Row, median};
use anyhow::Context;
use etcd::Etcd;
use ours::Federation;
use std::path::Path;
use std::time::{Duration, Instant};

pub const BORROWERS: usize = 8;
pub const LEASES_EACH: usize = 1_000;
const RUN: Duration = Duration::from_secs(4);
const WARM_UP: Duration = Duration::from_millis(500);

/// What one side did in one turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    per_s: f64,
    per_cpu_s: f64,
}

/// One way in which etcd keeps a lease alive.
struct Rival {
    way: etcd::Way,
    name: &'static str,
    note: &'static str,
}

const RIVALS: [Rival; 3] = [
    Rival { way: etcd::Way::Txn, name: "128 puts a transaction", note: "durable; 32 transactions in flight" },
    Rival { way: etcd::Way::Put, name: "one put a lease", note: "durable; 512 puts in flight" },
    Rival { way: etcd::Way::KeepAlive, name: "LeaseKeepAlive", note: "NOT durable: kept in memory only; 8 streams" },
];

/// What is told of a turn.
type Measure = fn(&Turn) -> f64;

const MEASURES: [(&str, Measure); 2] =
    [("lease renewals, per second", |t| t.per_s), ("lease renewals, per CPU-second", |t| t.per_cpu_s)];

pub fn race(pairs: u32) -> anyhow::Result<Vec<Row>> {
    crate::sync::install()?;
    // One provider for the process; a second installation is no error.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(pairs.max(1)))
}

async fn run(pairs: u32) -> anyhow::Result<Vec<Row>> {
    let federation = Federation::start().await.context("bringing up the federation")?;
    let etcd = Etcd::start(BORROWERS * LEASES_EACH).await.context("starting etcd")?;
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); RIVALS.len()];
    for pair in 1..=pairs {
        federation.renew_for(WARM_UP).await?;
        ours.push(timed(federation.pid()?, || federation.renew_for(RUN)).await?);
        tell("pumasi", pair, &ours);
        for (rival, turns) in RIVALS.iter().zip(&mut theirs) {
            etcd.renew_for(rival.way, WARM_UP).await?;
            turns.push(timed(etcd.pid(), || etcd.renew_for(rival.way, RUN)).await?);
            tell(rival.name, pair, turns);
            // Keep-alives of ours, so that no lease runs out while the others are measured.
            federation.renew_once().await?;
        }
    }
    federation.survives_a_kill().await.context("after kill -9 of the lender")?;
    Ok(rows(&ours, &theirs))
}

fn tell(who: &str, pair: u32, turns: &[Turn]) {
    if let Some(t) = turns.last() {
        eprintln!("   {who}: {:.0} a second, {:.0} a CPU-second (pair {pair})", t.per_s, t.per_cpu_s);
    }
}

/// Runs `work`, which says how much it did, against the CPU time of `pid`.
async fn timed<F: Future<Output = anyhow::Result<u64>>>(pid: u32, work: impl FnOnce() -> F) -> anyhow::Result<Turn> {
    let (cpu, begun) = (cpu_s(pid)?, Instant::now());
    let done = work().await? as f64;
    let (wall_s, cpu_s) = (begun.elapsed().as_secs_f64(), cpu_s(pid)? - cpu);
    Ok(Turn { per_s: done / wall_s, per_cpu_s: done / cpu_s.max(0.01) })
}

/// CPU time of a process so far, user and system.
fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("reading {path}"))?;
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|v| v.parse::<u64>().ok()).sum();
    let per_s = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(ticks as f64 / per_s as f64)
}

fn rows(ours: &[Turn], theirs: &[Vec<Turn>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, of) in MEASURES {
        let middle = |turns: &[Turn]| median(turns.iter().map(of).collect());
        for (rival, turns) in RIVALS.iter().zip(theirs) {
            let ratios: Vec<f64> = ours.iter().zip(turns).map(|(o, t)| of(o) / of(t)).collect();
            let (low, high) = ratios.iter().fold((f64::MAX, 0.0f64), |(l, h), &r| (l.min(r), h.max(r)));
            rows.push(Row {
                what: what.into(),
                ours: format!("{:.0}", middle(ours)),
                rival: format!("etcd, {}", rival.name),
                theirs: format!("{:.0}", middle(turns)),
                ratio: median(ratios),
                note: format!(
                    "{}; ours: {BORROWERS} borrowers with {LEASES_EACH} leases each, a heartbeat for all of them; {low:.2} to {high:.2}",
                    rival.note
                ),
            });
        }
    }
    rows
}
