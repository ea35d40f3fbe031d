//! Faults: what breaks while one cloud lends to another, and what must hold all the same.
//!
//! Each case is a row: a name, what it promises, and how it is played. All play on one running federation; every case has its own
//! service, ends with nothing left of it anywhere, and is about correctness alone. A case that breaks its promise gets a fresh
//! federation after it, so that the next one is judged for itself.

mod operator;
mod partner;
mod process;
mod quiet;
mod stage;

use crate::report::{Promise, Report};
use crate::run::{Options, WrongUsage};
use crate::story::Story;
use anyhow::bail;
use stage::{Case, Stage};
use std::time::Instant;

/// The broken promises of a case, in words; none: it was kept.
pub type Broken = Vec<String>;

fn cases() -> Vec<Case> {
    let mut cases = process::cases();
    cases.extend(partner::cases());
    cases.extend(quiet::cases());
    cases.extend(operator::cases());
    cases
}

/// Plays the usual cases, with `options.full` every one, or those whose name begins with `options.only`.
pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let wanted: Vec<Case> = cases()
        .into_iter()
        .filter(|c| match &options.only {
            Some(only) => c.name.starts_with(only.as_str()),
            None => options.full || c.kill.is_none_or(|k| k.always),
        })
        .collect();
    if wanted.is_empty() {
        let known: Vec<&str> = cases().iter().map(|c| c.name).collect();
        bail!(WrongUsage(format!("no case is named so; there are {}", known.join(", "))));
    }
    let mut report = Report::new("faults");
    let mut stage = Stage::set(options, story).await?;
    for (number, case) in wanted.iter().enumerate() {
        story.chapter(&format!("{}: {}", case.name, case.promise));
        let begun = Instant::now();
        let mut broken = match stage.play(case, number).await {
            Ok(broken) => broken,
            Err(e) => {
                let mut broken = vec![format!("{e:#}")];
                broken.extend(stage.dead());
                broken
            }
        };
        broken.truncate(8);
        let took = format!("{:.1} s", begun.elapsed().as_secs_f64());
        let measured = if broken.is_empty() { took } else { broken.join("; ") };
        story.tell("lab", if broken.is_empty() { "kept" } else { "BROKEN" }, format!("{}: {measured}", case.name));
        let again = !broken.is_empty() && number + 1 < wanted.len();
        report.promise(Promise::holds(case.name, broken.is_empty(), measured, case.promise));
        if again {
            stage = stage.anew(options, story).await?;
        }
    }
    Ok(report)
}
