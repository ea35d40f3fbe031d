//! `pumasi lab`: what its words mean.

use crate::cluster::CloudPlan;
use crate::crowd::{self, Crowd};
use crate::look;
use crate::report::Report;
use crate::scenario;
use crate::soak::{self, SoakOptions};
use crate::story::Story;
use anyhow::{Context, bail};
use pumasi_terms::Resources;
use std::path::PathBuf;

pub const USAGE: &str = "\
Usage: pumasi lab                       three clouds and two services, until Ctrl-C
       pumasi lab list                  the scenarios
       pumasi lab load URL [--clients N]  clients that ask an address; --help tells more
       pumasi lab play SCENARIO [--json] [--keep] [--bundle-mib N] [--app files|sqlite|django|radicale|node]
       pumasi lab play faults [--only NAME] [--full]
       pumasi lab play hostile [--only application|files|resources|holding|partner|stranger]
       pumasi lab play split [--only CASE] [--full] [--profile default|lan] [--mode async]
       pumasi lab play matrix [--rows NAME,..] [--runs N] [--profile default|lan] [--mode async] [-o json]
       pumasi lab replay --load FILE    the policy race over a recorded load; --help tells more
       pumasi lab sim [--seed N]        real daemons in virtual time, under faults; --help tells more
       pumasi lab soak --minutes N [--seed S] [--json] [--keep]

Exit codes of play: 0 every promise was kept, 1 one was broken, 2 wrong usage, 3 the machine itself was the bottleneck.";

/// What was asked for makes no sense, and nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(pub String);

impl WrongUsage {
    fn of(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

/// What a scenario is told.
#[derive(Debug, Clone)]
pub struct Options {
    pub executable: PathBuf,
    /// The report as JSON on standard output, the story on standard error.
    pub json: bool,
    /// The run's directory stays; and at a terminal its clouds, until Ctrl-C.
    pub keep: bool,
    /// Size of the example's bundle, at least.
    pub bundle_mib: u64,
    /// Of a scenario with cases: those whose name begins so.
    pub only: Option<String>,
    /// All cases, and those that watch for a time take their whole time.
    pub full: bool,
    /// Which application, where a scenario has several; without one all of them.
    pub app: Option<String>,
    /// Of a pact that votes: which times.
    pub profile: Option<String>,
    /// Of a service's data: how copies follow.
    pub mode: Option<String>,
    /// Of a matrix: which rows, parted by commas; without one all of them.
    pub rows: Option<String>,
    /// Of a matrix: how often each cell is played.
    pub runs: u32,
}

impl Options {
    pub fn new(executable: PathBuf) -> Self {
        Self {
            executable,
            json: false,
            keep: false,
            bundle_mib: 0,
            app: None,
            only: None,
            full: false,
            profile: None,
            mode: None,
            rows: None,
            runs: 1,
        }
    }
}

/// Runs the words after `pumasi lab`; the exit code.
pub async fn run(executable: PathBuf, args: &[String]) -> anyhow::Result<u8> {
    crate::process::clean_stale(&std::env::temp_dir());
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => look::look(&executable).await.map(|()| 0),
        ["load", .., "--help" | "-h"] => {
            println!("{}", crowd::USAGE);
            Ok(0)
        }
        [.., "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(0)
        }
        ["list"] => {
            for (name, about) in scenario::ALL {
                println!("{name:<12} {about}");
            }
            Ok(0)
        }
        ["play", name, rest @ ..] => {
            let options = options(executable, rest).map_err(WrongUsage::of)?;
            let mut story =
                if options.json { Story::to(Box::new(std::io::stderr()), false) } else { Story::to_stdout() };
            let report = scenario::play(name, &options, &mut story).await?;
            print(&report, options.json)?;
            Ok(report.verdict().exit_code())
        }
        ["load", rest @ ..] => crowd::run(Crowd::parse(rest).map_err(WrongUsage::of)?).await,
        ["soak", rest @ ..] => soak::run(&SoakOptions::parse(executable, rest).map_err(WrongUsage::of)?).await,
        _ => bail!(WrongUsage(USAGE.to_owned())),
    }
}

fn options(executable: PathBuf, words: &[&str]) -> anyhow::Result<Options> {
    let mut options = Options::new(executable);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--json" => options.json = true,
            "-o" => match words.next() {
                Some(&"json") => options.json = true,
                other => bail!("-o {other:?}: the lab knows json\n{USAGE}"),
            },
            "--profile" => options.profile = Some((*words.next().context("--profile needs a name")?).to_owned()),
            "--mode" => options.mode = Some((*words.next().context("--mode needs a name")?).to_owned()),
            "--rows" => options.rows = Some((*words.next().context("--rows needs names")?).to_owned()),
            "--runs" => {
                let number = words.next().context("--runs needs a number")?;
                options.runs = number.parse().with_context(|| format!("--runs {number}: not a number"))?;
            }
            "--keep" => options.keep = true,
            "--full" => options.full = true,
            "--only" => options.only = Some((*words.next().context("--only needs a name")?).to_owned()),
            "--bundle-mib" => {
                let number = words.next().context("--bundle-mib needs a number")?;
                options.bundle_mib = number.parse().with_context(|| format!("--bundle-mib {number}: not a number"))?;
            }
            "--app" => options.app = Some((*words.next().context("--app needs a name")?).to_owned()),
            other => bail!("{other:?} is not known\n{USAGE}"),
        }
    }
    Ok(options)
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&report.to_json())?);
    } else {
        println!("\n{}", report.to_text());
    }
    Ok(())
}

/// The usual three: a small city, a neighbour, and a larger one across the sea.
pub fn three_clouds() -> Vec<CloudPlan> {
    let room = |cpu_millis| Resources { cpu_millis, memory_mib: 4096 };
    vec![
        CloudPlan::new("city-a", "Seoul", room(600), room(200), "0.06"),
        CloudPlan::new("city-b", "Busan", room(2000), room(1600), "0.05"),
        CloudPlan::new("city-c", "Tokyo", room(4000), room(3200), "0.04"),
    ]
}
