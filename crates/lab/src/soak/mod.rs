//! The soak: `pumasi lab soak --minutes N`. Random load and random faults on real processes, oracles that watch all the time.
//!
//! Enters: a seed and a time. Leaves: figures, a verdict on each promise; with the first broken one the story of the run, its logs, and
//! the command that plays the same script again. Always holds: it judges safety, flatness and repair, never speed, so that a busy
//! machine does not spoil it; Ctrl-C ends it in order.

mod flat;
mod ledger;
mod rest;
mod script;
mod strike;
mod tally;
mod watch;
mod world;

use crate::load::Run;
use crate::report::Report;
use crate::story::Story;
use anyhow::{Context, bail, ensure};
use rand::Rng;
use script::{Phase, Script};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strike::Struck;
use tally::Tally;
use watch::Watch;
use world::World;

/// Everything is back within this after the load has gone: a service that borrowed and gave back in turn waits longer each time.
const RETURN_MAX: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(250);
const TELL: Duration = Duration::from_secs(10);
/// Lines of the story that are printed when a promise was broken.
const STORY_LINES: usize = 120;
pub const USAGE: &str = "       pumasi lab soak --minutes N [--seed S] [--json] [--keep]";

#[derive(Debug, Clone)]
pub struct SoakOptions {
    pub executable: PathBuf,
    pub lasts: Duration,
    pub seed: u64,
    /// The report as JSON on standard output.
    pub json: bool,
    /// The run's directory stays, whatever came out.
    pub keep: bool,
}

impl SoakOptions {
    pub fn parse(executable: PathBuf, words: &[&str]) -> anyhow::Result<Self> {
        let seed = rand::rng().random_range(1..1_000_000);
        let mut options = Self { executable, lasts: Duration::from_secs(600), seed, json: false, keep: false };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a number"));
            match *word {
                "--minutes" => {
                    let minutes: f64 = value()?.parse().context("--minutes: not a number")?;
                    ensure!((0.1..=100_000.0).contains(&minutes), "--minutes: 0.1 to 100000");
                    options.lasts = Duration::from_secs_f64(minutes * 60.0);
                }
                "--seed" => options.seed = value()?.parse().context("--seed: not a number")?,
                "--json" => options.json = true,
                "--keep" => options.keep = true,
                other => bail!("{other:?} is not known\nUsage:\n{USAGE}"),
            }
        }
        Ok(options)
    }

    fn again(&self) -> String {
        format!("pumasi lab soak --minutes {} --seed {}", (self.lasts.as_secs_f64() / 6.0).round() / 10.0, self.seed)
    }
}

/// How it came to its end.
enum End {
    Done,
    Interrupted,
    Broken(anyhow::Error),
}

/// Runs the words after `pumasi lab soak`; the exit code.
pub async fn run(options: &SoakOptions) -> anyhow::Result<u8> {
    eprintln!("soak: {}", options.again());
    let page = std::env::temp_dir().join(format!("pumasi-soak-{}.story", std::process::id()));
    let file = std::fs::File::create(&page).with_context(|| format!("writing the story to {}", page.display()))?;
    let story = Story::to(Box::new(file), false);
    let done = soak(options, &story, &page).await;
    // It went with the run's directory where that is kept.
    let _ = std::fs::remove_file(&page);
    let report = done?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.to_json())?);
    } else {
        println!("\n{}", report.to_text());
    }
    Ok(report.verdict().exit_code())
}

async fn soak(options: &SoakOptions, story: &Story, page: &Path) -> anyhow::Result<Report> {
    let mut world = tokio::select! {
        world = World::start(&options.executable, options.seed, story) => world.context("bringing up the clouds")?,
        _ = crate::process::interrupted() => bail!("interrupted before it began"),
    };
    eprintln!(
        "soak: seed {}, {} keeps its daemon and gateway; everything is in {}",
        options.seed,
        world.spared,
        world.dir().display()
    );
    let watch = Watch::default();
    let tally = Tally::default();
    let end = tokio::select! {
        biased;
        _ = crate::process::interrupted() => End::Interrupted,
        broken = watch.watch(&world) => End::Broken(broken),
        done = conduct(&world, options, &watch, &tally) => match done {
            Ok(()) => End::Done,
            Err(broken) => End::Broken(broken),
        },
        () = tell(&world, options, &watch, &tally) => End::Interrupted,
    };
    let report = tally.report(&world, options, &watch, &end);
    if let End::Broken(broken) = &end {
        tell_broken(&world, options, broken);
    }
    if options.keep || report.verdict() != crate::report::Verdict::Kept {
        world.cluster.supervisor.keep();
        let _ = std::fs::copy(page, world.dir().join("story.log"));
        eprintln!("soak: logs, stores and the story (story.log) are kept in {}", world.dir().display());
    }
    Ok(report)
}

fn tell_broken(world: &World, options: &SoakOptions, broken: &anyhow::Error) {
    let events = world.story.events();
    eprintln!("\nThe last of {} lines of the story:", events.len());
    for e in events.iter().skip(events.len().saturating_sub(STORY_LINES)) {
        eprintln!("{:>9.3}  {:<10}  {:<11}  {}", e.at_ms as f64 / 1e3, e.place, e.what, e.text);
    }
    eprintln!("\nBROKEN after {:.0} s: {broken:#}\nagain: {}", world.story.elapsed().as_secs_f64(), options.again());
}

/// A line each ten seconds. Never ends.
async fn tell(world: &World, options: &SoakOptions, watch: &Watch, tally: &Tally) {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(TELL).await;
        let (open, bound) = {
            let seen = watch.seen();
            (seen.open, seen.open_most)
        };
        eprintln!(
            "soak {:>5.1} of {:.1} min | {} | {} leases open (most {bound}) | {:.0} s of story",
            begun.elapsed().as_secs_f64() / 60.0,
            options.lasts.as_secs_f64() / 60.0,
            tally.line(),
            open,
            world.story.elapsed().as_secs_f64(),
        );
    }
}

/// Plays the script until its time is over, then lets everything come back.
async fn conduct(world: &World, options: &SoakOptions, watch: &Watch, tally: &Tally) -> anyhow::Result<()> {
    let mut script = Script::new(options.seed);
    let begun = Instant::now();
    let mut struck = Vec::new();
    loop {
        let over = begun.elapsed() >= options.lasts;
        let phase = if over { script.last() } else { script.phase() };
        play(world, &phase, watch, tally, &mut struck).await.with_context(|| format!("phase {}", phase.number))?;
        if phase.is_rest() && over {
            return Ok(());
        }
    }
}

async fn play(
    world: &World,
    phase: &Phase,
    watch: &Watch,
    tally: &Tally,
    struck: &mut Vec<Struck>,
) -> anyhow::Result<()> {
    world.notes.set_write_share(phase.writes);
    let text = format!(
        "{} for {:.0} s, {:.0} % writes, {} faults",
        phase.load.text(),
        phase.lasts.as_secs_f64(),
        phase.writes * 100.0,
        phase.faults.len()
    );
    world.story.tell("lab", "PHASE", format!("{} {text}", phase.number));
    tally.phase(phase.number, &text);
    let begun = world.story.elapsed();
    let mut users = Vec::new();
    for (number, tenant) in world.tenants.iter().enumerate() {
        users.push((tenant, world.users(tenant, phase, number as u64)?));
    }
    let strikes = strike_all(world, phase, watch, tally, struck);
    let served = async {
        let mut runs: Vec<(&str, Run)> = Vec::new();
        for (tenant, running) in users {
            runs.push((tenant.name, running.wait().await?));
        }
        anyhow::Ok(runs)
    };
    let (struck_all, runs) = tokio::join!(strikes, served);
    let hits = struck_all?;
    for (name, run) in runs? {
        let wrong = tally.users(world, name, phase, begun, &run, &hits);
        ensure!(wrong.is_empty(), "{name} was answered wrongly: {}", wrong.join("; "));
    }
    if phase.is_rest() {
        at_rest(world, watch, tally, struck).await?;
    }
    Ok(())
}

/// The faults of a phase, one after the other.
async fn strike_all(
    world: &World,
    phase: &Phase,
    watch: &Watch,
    tally: &Tally,
    struck: &mut Vec<Struck>,
) -> anyhow::Result<Vec<Struck>> {
    let begun = Instant::now();
    let mut hits = Vec::new();
    for fault in &phase.faults {
        tokio::time::sleep(fault.at.saturating_sub(begun.elapsed())).await;
        tally.fault(Some(fault.kind));
        watch.striking(true);
        let done = world.strike(fault).await;
        watch.striking(false);
        tally.fault(None);
        if let Some(hit) = done? {
            struck.push(hit.clone());
            tally.struck(&hit);
            hits.push(hit);
        } else {
            tally.missed();
        }
    }
    Ok(hits)
}

/// Everything must come back; the books are compared; sizes are read.
async fn at_rest(world: &World, watch: &Watch, tally: &Tally, struck: &mut Vec<Struck>) -> anyhow::Result<()> {
    world.cluster.wan.heal_all();
    let begun = Instant::now();
    loop {
        let left = match world.left().await {
            Ok(left) if left.is_empty() => break,
            Ok(left) => left,
            Err(e) => vec![format!("{e:#}")],
        };
        ensure!(
            begun.elapsed() < RETURN_MAX,
            "not everything came back within {} s of rest: {}",
            RETURN_MAX.as_secs(),
            left.join("; ")
        );
        tokio::time::sleep(LOOK).await;
    }
    tally.returned(begun.elapsed());
    world.repaired().await.context("at rest")?;
    // The lender keeps what a settlement needs until the borrower has asked; a few more looks let both write it down.
    let broken = loop {
        let mut account = tally.account();
        let broken = world.audit(&mut account, struck, tally.gave_up())?;
        if broken.is_empty() {
            tally.set_account(account);
            break broken;
        }
        if begun.elapsed() >= RETURN_MAX {
            break broken;
        }
        tokio::time::sleep(LOOK).await;
    };
    ensure!(broken.is_empty(), "the books do not agree: {}", broken.join("; "));
    struck.clear();
    tally.forget_those_who_gave_up();
    tally.notes(world).await?;
    watch.processes(world, true)?;
    for cloud in world.names() {
        let sizes = world.sizes(cloud)?;
        let broken = world.oversized(cloud, &sizes)?;
        ensure!(broken.is_empty(), "{}", broken.join("; "));
        tally.sizes(cloud, sizes);
    }
    let grown = tally::grown(watch, tally);
    ensure!(grown.is_empty(), "it grew: {}", grown.join("; "));
    world.story.tell("lab", "AT REST", format!("after {:.1} s nothing foreign is left", begun.elapsed().as_secs_f64()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_told_again() {
        let parse = |words: &[&str]| SoakOptions::parse("/p".into(), words);
        let options = parse(&["--minutes", "0.5", "--seed", "7", "--json"]).unwrap();
        assert_eq!((options.lasts, options.seed, options.json), (Duration::from_secs(30), 7, true));
        assert_eq!(options.again(), "pumasi lab soak --minutes 0.5 --seed 7");
        for bad in [&["--minutes"][..], &["--minutes", "x"], &["--minutes", "0"], &["--what"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
