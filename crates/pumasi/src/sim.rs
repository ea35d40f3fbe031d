//! `pumasi lab sim`: clouds in virtual time, seed by seed, until an oracle is broken or all seeds have held.

use crate::failure::Failure;
use crate::output::{self, Format};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pumasi_sim::mutant::Mutant;
use pumasi_sim::{Outcome, Setup, play};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Play real daemons in virtual time under random loads and faults, and let the oracles watch
#[derive(Debug, Parser)]
#[command(
    name = "pumasi lab sim",
    after_help = "\
Examples:
  pumasi lab sim                      500 seeds, on all processors
  pumasi lab sim --first 7000 --count 5000
  pumasi lab sim --seed 188           one seed, and its story: who sent what when
  pumasi lab sim --seed 1 --mutant zombie
  pumasi lab sim --moves --count 200  seeds in which a service moves from cloud to cloud
  pumasi lab sim --losses --count 50  seeds in which a pact votes and loses a cloud

A broken oracle ends the run with exit code 1 and names the seed. The same seed of the same program is the same story."
)]
pub struct Sim {
    /// One seed, told as a story
    #[arg(long, value_name = "N", conflicts_with_all = ["first", "count"])]
    seed: Option<u64>,
    /// The first of many seeds
    #[arg(long, value_name = "N", default_value_t = 1)]
    first: u64,
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    count: u64,
    /// Every seed moves a service, several times
    #[arg(long, conflicts_with = "losses")]
    moves: bool,
    /// In every seed the pact votes, and a cloud is away
    #[arg(long)]
    losses: bool,
    /// Plants a bug that the oracles must find
    #[arg(long, value_name = "NAME", value_parser = mutant)]
    mutant: Option<Mutant>,
    /// How the result is written
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

impl Sim {
    fn setup(&self) -> fn(u64) -> Setup {
        match (self.moves, self.losses) {
            (true, _) => Setup::moving,
            (_, true) => Setup::losing,
            _ => Setup::random,
        }
    }
}

fn mutant(name: &str) -> Result<Mutant, String> {
    Mutant::by_name(name).ok_or_else(|| {
        let known: Vec<String> = Mutant::ALL.iter().map(|m| format!("  {:<14} {}", m.name(), m.about())).collect();
        format!("no such bug is kept; there are:\n{}", known.join("\n"))
    })
}

#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    virtual_ms: u64,
    messages: u64,
    leases: usize,
    journeys: usize,
    lives: u64,
    moved: usize,
    taken_over: usize,
    written: usize,
    broken: Option<Outcome>,
}

/// The words after `pumasi lab sim`.
pub fn sim(words: &[String], output: Format) -> Result<(), Failure> {
    let name = "pumasi lab sim".to_owned();
    let mut args = Sim::try_parse_from(std::iter::once(&name).chain(words)).unwrap_or_else(|e| e.exit());
    if args.output == Format::Table {
        args.output = output;
    }
    let (first, count) = args.seed.map_or((args.first, args.count), |seed| (seed, 1));
    let began = Instant::now();
    let mut sum = all((first, count), args.setup(), args.mutant)?;
    let real_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let broken = sum.broken.take();
    if args.output == Format::Table {
        if let Some(outcome) = broken.as_ref().filter(|o| args.seed.is_some() || !o.broken.is_empty()) {
            output::print(&outcome.story.text())?;
        }
        output::note(&format!(
            "{} seeds: {} virtual s in {} s ({} times real time), {} messages, {} journeys, {} leases, {} lives of daemons, \
             {} handovers, {} acknowledged writes",
            sum.seeds,
            sum.virtual_ms / 1_000,
            real_ms / 1_000,
            sum.virtual_ms / real_ms,
            sum.messages,
            sum.journeys,
            sum.leases,
            sum.lives,
            sum.moved,
            sum.written
        ));
    } else {
        let broken: Vec<_> = broken
            .iter()
            .flat_map(|o| {
                o.broken.iter().map(|b| json!({ "seed": o.seed, "oracle": b.oracle, "at_ms": b.at_ms, "what": b.what }))
            })
            .collect();
        let all = json!({
            "seeds": sum.seeds, "virtual_ms": sum.virtual_ms, "real_ms": real_ms, "messages": sum.messages,
            "journeys": sum.journeys, "leases": sum.leases, "lives": sum.lives, "handovers": sum.moved, "takeovers": sum.taken_over,
            "acknowledged_writes": sum.written, "broken": broken,
        });
        output::print(&if args.output == Format::Yaml { output::yaml(&all)? } else { output::json(&all)? })?;
    }
    match broken.filter(|o| !o.broken.is_empty()) {
        None => Ok(()),
        Some(outcome) => {
            let what: Vec<String> = outcome.broken.iter().map(|b| format!("oracle {}: {}", b.oracle, b.what)).collect();
            let mutant = args.mutant.map_or_else(String::new, |m| format!(" --mutant {}", m.name()));
            let kind = match (args.moves, args.losses) {
                (true, _) => " --moves",
                (_, true) => " --losses",
                _ => "",
            };
            let again = format!("play it again: pumasi lab sim --seed {}{kind}{mutant}", outcome.seed);
            Err(Failure::failed(format!("seed {}: {}", outcome.seed, what.join("; "))).hint(again))
        }
    }
}

/// Plays seeds on all processors until one breaks. A single seed's outcome is kept in any case.
fn all((first, count): (u64, u64), setup: fn(u64) -> Setup, mutant: Option<Mutant>) -> Result<Sum, Failure> {
    // Nothing is drawn where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("playing [{bar:32}] {pos}/{len} seeds {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let (next, sum) = (AtomicU64::new(0), Mutex::new((Sum::default(), None)));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let played = play(&Setup { mutant, ..setup(first.saturating_add(at)) });
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match played {
                        Err(e) => {
                            sum.1.get_or_insert(format!("seed {} was not played: {e:#}", first.saturating_add(at)));
                            next.store(count, Ordering::Relaxed);
                        }
                        Ok(outcome) => {
                            sum.0.add(&outcome);
                            if !outcome.broken.is_empty() || count == 1 {
                                next.store(count, Ordering::Relaxed);
                                sum.0.broken.get_or_insert(outcome);
                            }
                        }
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let (sum, failed) = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.map_or(Ok(sum), |e| Err(Failure::failed(e)))
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.virtual_ms += outcome.virtual_ms;
        self.messages += outcome.messages;
        self.leases += outcome.leases;
        self.journeys += outcome.journeys;
        self.lives += outcome.lives;
        self.moved += outcome.moved;
        self.taken_over += outcome.taken_over;
        self.written += outcome.written;
    }
}
