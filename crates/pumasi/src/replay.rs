//! `pumasi lab replay`: the policy race over a load file.

use crate::failure::Failure;
use crate::output::{self, Format};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pumasi_lab::replay::load::Kind;
use pumasi_lab::replay::{Setting, load, race, synthetic, table};
use std::path::PathBuf;

/// Race this product's judge and planner against Kubernetes HPA, KEDA, Knative and hindsight over a recorded or made load, in virtual time
#[derive(Debug, Parser)]
#[command(
    name = "pumasi lab replay",
    after_help = "\
Examples:
  pumasi lab replay --load requests.csv
  pumasi lab replay --load requests.csv --start 30 --only '1998-05-12 06'
  pumasi lab replay --load requests.csv --instance-rate 20 --home 1 -o json
  pumasi lab replay --load requests.csv --bunch 10 --no-hindsight
  pumasi lab replay --synthetic users

The file has a row a second or a minute: a time (2026-11-05 18:30:00, or seconds) and how many requests came; a head line
and other columns may be there. The file is only read, and nothing is started."
)]
pub struct Replay {
    /// CSV file: a time and a count in each row
    #[arg(long, value_name = "FILE", required_unless_present = "synthetic")]
    load: Option<PathBuf>,
    /// A made load instead of a file
    #[arg(long, value_name = "KIND", conflicts_with = "load", value_parser = synthetic_names())]
    synthetic: Option<String>,
    /// Requests come so many at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    bunch: Option<u64>,
    /// Leave out what is only known in hindsight; it takes most of the time
    #[arg(long)]
    no_hindsight: bool,
    /// Only rows whose time begins so; may be named several times
    #[arg(long, value_name = "TIME")]
    only: Vec<String>,
    /// Seconds a row, where the file has no times
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    step: u64,
    /// Seconds from an order until it serves
    #[arg(long, value_name = "SECONDS", value_delimiter = ',', default_value = "5,30,60", value_parser = clap::value_parser!(u64).range(1..=600))]
    start: Vec<u64>,
    /// Requests a second that one instance completes
    #[arg(long, value_name = "RATE", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    instance_rate: u64,
    /// Instances that are always there
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    home: u32,
    /// How full HPA and KEDA want an instance, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100))]
    hpa_target: u64,
    /// A request that waited so long is lost, ms
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    wait_max: u64,
    /// Chance of the arrivals; the same seed gives the same race
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How the result is written
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

fn synthetic_names() -> clap::builder::PossibleValuesParser {
    let values = synthetic::ALL.iter().map(|s| clap::builder::PossibleValue::new(s.name).help(s.about));
    clap::builder::PossibleValuesParser::new(values)
}

/// The words after `pumasi lab replay`.
pub fn replay(words: &[String], output: Format) -> Result<(), Failure> {
    let name = "pumasi lab replay".to_owned();
    let mut args = Replay::try_parse_from(std::iter::once(&name).chain(words)).unwrap_or_else(|e| e.exit());
    if args.output == Format::Table {
        args.output = output;
    }
    let made = args.synthetic.as_deref().and_then(synthetic::named);
    let (mut load, name) = match (made, &args.load) {
        (Some(load), _) => (load, args.synthetic.clone().unwrap_or_default()),
        (None, Some(file)) => {
            let load = load::read(file, &args.only, args.step).map_err(|e| Failure::input(e.to_string()))?;
            (load, file.display().to_string())
        }
        (None, None) => return Err(Failure::input("a file (--load) or a made load (--synthetic) is wanted")),
    };
    if let (Some(n), Kind::Requests { bunch }) = (args.bunch, &mut load.kind) {
        *bunch = n;
    }
    let mut starts_s = args.start.clone();
    starts_s.sort_unstable();
    starts_s.dedup();
    let setting = Setting {
        instance_mps: args.instance_rate * 1_000,
        home: args.home,
        hpa_target_percent: args.hpa_target,
        wait_max_ms: args.wait_max,
        starts_s,
        seed: args.seed,
        hindsight: !args.no_hindsight,
        ..Setting::default()
    };
    let bar = bar(table::seconds(setting.starts_s.len(), &load));
    let result = race(&load, &setting, &|seconds| bar.inc(seconds));
    bar.finish_and_clear();
    let race = result.map_err(|e| Failure::failed(format!("replaying {name}: {e:#}")))?;
    match args.output {
        Format::Json => output::print(&output::json(&table::to_json(&race))?),
        Format::Yaml => output::print(&output::yaml(&table::to_json(&race))?),
        Format::Table | Format::Name => output::print(&table::text(&race, &load)),
    }
}

fn bar(seconds: u64) -> ProgressBar {
    // Nothing is drawn where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(Some(seconds), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("replaying [{bar:32}] {percent} % {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
