//! Side-by-side benchmarks: what Pumasi does beside what its users would pick instead, in one run, on one machine.
//!
//! Enters: names of races (all by default). Leaves: one table on stdout, progress on stderr.
//! Always holds: both sides run interleaved in the same run; a figure is work per CPU-second, bytes, or a ratio, the median of several
//! pairs; a missing rival is installed or fails the run, and is never left out in silence.

mod chunks;
mod gateway;
mod machine;
mod renewals;
mod row;
mod shedding;
mod sync;

use clap::Parser;
use row::Row;
use std::process::ExitCode;

/// As in the `pumasi` binary, whose gateway is raced.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "pumasi-bench", about = "Races Pumasi's parts against what users would pick instead")]
struct Args {
    /// Races to run: all of them when none is named
    races: Vec<String>,
    /// Pairs of runs; the median counts
    #[arg(long, default_value_t = 5)]
    pairs: u32,
}

/// One race: its name and what runs it.
type Race = (&'static str, fn(pairs: u32) -> anyhow::Result<Vec<Row>>);

const RACES: &[Race] = &[
    ("gateway", gateway::race),
    ("shedding", shedding::race),
    ("sync", sync::race),
    ("chunks", chunks::race),
    ("renewals", renewals::race),
];

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = gateway::gateway_process() {
        return Ok(code);
    }
    let args = Args::parse();
    for name in &args.races {
        anyhow::ensure!(
            RACES.iter().any(|(known, _)| known == name),
            "there is no race named {name}; there are: {}",
            RACES.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ")
        );
    }
    let mut rows = Vec::new();
    for (name, run) in RACES.iter().filter(|(n, _)| args.races.is_empty() || args.races.iter().any(|r| r == n)) {
        eprintln!("== {name}");
        rows.extend(run(args.pairs)?);
    }
    println!("{}\n{}", machine::describe(), row::table(&rows));
    Ok(ExitCode::SUCCESS)
}
