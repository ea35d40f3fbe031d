//! Hostile: everything foreign attacks what it runs on, what it rents from, and what it calls.
//!
//! A customer's application at home and rented (`application`, `files`, `resources`), users who hold on to what they get (`holding`), a member of the pact that lies (`partner`),
//! and strangers on the network (`stranger`).
//! Each attack is a row: what is tried, and what must not come of it. An attack that gets something breaks the run, and the story
//! says what it got.

mod application;
mod files;
mod holding;
mod partner;
mod resources;
mod stage;
mod stranger;
mod wire;

use crate::report::{Promise, Report};
use crate::run::{Options, WrongUsage};
use crate::story::Story;
use anyhow::{Context, bail};
use stage::Stage;

/// Plays every part, or those whose name begins with `options.only`.
pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    if !nix::unistd::geteuid().is_root() {
        // The parts that hold an application in are root's to make; without them a cloud lends nothing unless its operator signs.
        bail!(WrongUsage("hostile attacks the isolation of instances, which needs root: run it as root".into()));
    }
    let mut report = Report::new("hostile");
    let mut stage = Stage::set(options, story).await?;
    let parts = ["application", "files", "resources", "holding", "partner", "stranger"];
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| part.starts_with(only));
    if !parts.into_iter().any(wanted) {
        bail!(WrongUsage(format!("no part is named so; there are {}", parts.join(", "))));
    }
    if wanted("application") {
        application::play(&mut stage, &mut report).await.context("the application's attacks")?;
    }
    if wanted("files") {
        files::play(&mut stage, &mut report).await.context("the attacks by files")?;
    }
    if wanted("resources") {
        resources::play(&mut stage, &mut report).await.context("the attacks on shared resources")?;
    }
    if wanted("holding") {
        holding::play(&mut stage, &mut report).await.context("users who hold on")?;
    }
    if wanted("partner") {
        partner::play(&mut stage, &mut report).await.context("the partner's attacks")?;
    }
    if wanted("stranger") {
        stranger::play(&mut stage, &mut report).await.context("the strangers' attacks")?;
    }
    story.chapter("What is left");
    let alive = stage.daemons_that_died();
    report.promise(Promise::holds("every daemon lived through it", alive.is_empty(), alive.join(", "), "all"));
    Ok(report)
}
