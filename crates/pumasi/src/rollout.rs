//! `pumasi rollout`, `restart`, `scale`, and the wait after `apply`: whether a deployment worked, and why not.
//!
//! Always holds: the exit code says whether the new generation gets requests; what is told on the way goes to standard error.

use crate::args::{RolloutCommand, WaitArgs};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Table, note};
use crate::session::Session;
use crate::units::{age, duration_ms};
use pumasi_api::message::{GenerationView, List, Rollout, RolloutState, ScaleService, ServiceView, UndoService, Why};
use pumasi_terms::ServiceName;
use pumasi_terms::service::BundleRef;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(200);
/// A generation that failed so often is waited for no longer.
const TRIES_MAX: u32 = 3;

pub async fn rollout(session: &Session, command: &RolloutCommand) -> Result<(), Failure> {
    match command {
        RolloutCommand::Status { service, now, within } => status(session, service, *now, *within).await,
        RolloutCommand::History { service } => history(session, service).await,
        RolloutCommand::Undo { service, to_generation, why, wait } => {
            let body = UndoService { to: *to_generation, why: why.why.clone() };
            changed(session, service, "undo", &body, "is put back", wait).await
        }
    }
}

pub async fn restart(session: &Session, service: &ServiceName, why: &str, wait: &WaitArgs) -> Result<(), Failure> {
    changed(session, service, "restart", &Why { why: why.to_owned() }, "is restarted", wait).await
}

pub async fn scale(
    session: &Session,
    service: &ServiceName,
    (min, max): (u32, u32),
    why: &str,
    wait: &WaitArgs,
) -> Result<(), Failure> {
    let body = ScaleService { min, max: Some(max), why: why.to_owned() };
    let done = if min == max { format!("runs {min} at home") } else { format!("runs {min} to {max} at home") };
    changed(session, service, "scale", &body, &done, wait).await
}

async fn changed<T: serde::Serialize>(
    session: &Session,
    service: &ServiceName,
    act: &str,
    body: &T,
    did: &str,
    wait: &WaitArgs,
) -> Result<(), Failure> {
    let view: ServiceView = session.client.post(&format!("/v1/services/{service}/{act}"), body).await?;
    let answer = serde_json::to_value(&view).unwrap_or_default();
    let did = format!("{did}: generation {}", view.status.generation);
    session.done(&format!("service/{service}"), &did, &answer)?;
    wait_all(session, std::iter::once(service), wait, Until::All).await
}

async fn look(session: &Session, service: &ServiceName) -> Result<(ServiceView, Rollout), Failure> {
    let view: ServiceView = session.client.get(&format!("/v1/services/{service}")).await?;
    match view.status.rollout.clone() {
        Some(rollout) => Ok((view, rollout)),
        None if view.status.phase == "moved" => {
            Err(Failure::new(Exit::Refused, format!("service {service} is not deployed here: {}", view.status.why)))
        }
        None => Err(Failure::failed("the daemon does not tell how deployments go; it is older than this command")),
    }
}

/// How much of a new generation is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The first instance that gets requests: the rest follows one by one.
    First,
    /// Every instance, and that nothing older is left.
    All,
}

/// Waits for each of them if it was asked for, or if somebody looks on.
pub async fn wait_all<'a>(
    session: &Session,
    services: impl Iterator<Item = &'a ServiceName>,
    wait: &WaitArgs,
    what: Until,
) -> Result<(), Failure> {
    let watched = std::io::stdout().is_terminal() && session.global.output == Format::Table;
    if wait.no_wait || !(wait.wait || watched) {
        return Ok(());
    }
    let until = Instant::now() + Duration::from_millis(wait.within);
    for service in services {
        let enough = |r: &Rollout| match what {
            Until::First => r.ready > 0 || r.wanted == 0,
            Until::All => r.state == RolloutState::Done,
        };
        let came = wait_for(session, service, until, wait.within, enough).await?;
        match came.ready {
            0 => note(&format!("service/{service}: no instance is wanted at home")),
            n => note(&format!(
                "service/{service}: generation {} gets requests, {n} of {} instances",
                came.generation, came.wanted
            )),
        }
    }
    Ok(())
}

async fn wait_for(
    session: &Session,
    service: &ServiceName,
    until: Instant,
    within_ms: u64,
    enough: impl Fn(&Rollout) -> bool,
) -> Result<Rollout, Failure> {
    let mut said = String::new();
    loop {
        let (view, rollout) = look(session, service).await?;
        let line = brief(&view, &rollout);
        if line != said {
            note(&format!("service/{service}: {line}"));
            said = line;
        }
        if enough(&rollout) {
            return Ok(rollout);
        }
        if view.status.deleting {
            return Err(Failure::new(Exit::Refused, format!("service {service} is being deleted")));
        }
        if rollout.state == RolloutState::Failing && rollout.tries >= TRIES_MAX {
            return Err(failed(service, &rollout, "fails; it is tried again meanwhile"));
        }
        if Instant::now() >= until {
            let late = format!("was not ready after {}", duration_ms(within_ms));
            return Err(failed(service, &rollout, &late));
        }
        tokio::time::sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

fn failed(service: &ServiceName, rollout: &Rollout, how: &str) -> Failure {
    let why = if rollout.why.is_empty() { String::new() } else { format!(": {}", rollout.why) };
    let older = rollout.older.as_ref().map(|o| format!("; generation {} goes on serving", o.generation));
    let text =
        format!("generation {} of service {service} {how}{why}{}", rollout.generation, older.unwrap_or_default());
    Failure::failed(text)
        .hint(format!("`pumasi logs {service}` tells what it said, `pumasi rollout undo {service}` goes back"))
}

fn brief(view: &ServiceView, rollout: &Rollout) -> String {
    let older = rollout.older.as_ref().map(|o| format!(", {} of generation {}", o.ready, o.generation));
    let why = if rollout.why.is_empty() { String::new() } else { format!(": {}", rollout.why) };
    format!(
        "{}, {} of {} instances of generation {} ready{}{why}",
        view.status.phase,
        rollout.ready,
        rollout.wanted,
        rollout.generation,
        older.unwrap_or_default()
    )
}

async fn status(session: &Session, service: &ServiceName, now: bool, within_ms: u64) -> Result<(), Failure> {
    let done = |r: &Rollout| r.state == RolloutState::Done;
    let (view, mut rollout) = look(session, service).await?;
    if !now && !done(&rollout) {
        let until = Instant::now() + Duration::from_millis(within_ms);
        rollout = wait_for(session, service, until, within_ms, done).await?;
    }
    match session.global.output {
        Format::Table => output::print(&format!("service/{service} {}\n", brief(&view_of(view, &rollout), &rollout)))?,
        Format::Name => output::print(&format!("service/{service}\n"))?,
        Format::Json => output::print(&output::json(&rollout)?)?,
        Format::Yaml => output::print(&output::yaml(&rollout)?)?,
    }
    match rollout.state {
        RolloutState::Done => Ok(()),
        RolloutState::Failing => Err(failed(service, &rollout, "fails; it is tried again meanwhile")),
        RolloutState::Progressing => Err(failed(service, &rollout, "is not ready yet")),
    }
}

/// The phase that goes with a rollout that was looked at later.
fn view_of(mut view: ServiceView, rollout: &Rollout) -> ServiceView {
    if rollout.state == RolloutState::Done && matches!(view.status.phase.as_str(), "starting" | "failing" | "degraded")
    {
        view.status.phase = "serving".into();
    }
    view
}

async fn history(session: &Session, service: &ServiceName) -> Result<(), Failure> {
    let list: List<GenerationView> = session.client.get(&format!("/v1/services/{service}/generations")).await?;
    let names = || list.items.iter().map(|g| format!("generation/{}\n", g.generation)).collect();
    session.show(&list, names, || {
        let mut table = Table::new(&["GENERATION", "NOW", "AGE", "BY", "BUNDLE", "COMMAND", "WHY"]);
        for g in &list.items {
            let app = &g.service.spec.application;
            let bundle = match &app.bundle {
                BundleRef::Digest(digest) => {
                    digest.to_string().trim_start_matches("blake3:").chars().take(12).collect()
                }
                BundleRef::Path(path) => path.clone(),
            };
            table.row(vec![
                g.generation.to_string().into(),
                if g.current { "yes".into() } else { "".into() },
                age(session.now, g.at).into(),
                if g.by.is_empty() { "-".into() } else { g.by.as_str().into() },
                bundle.into(),
                app.command.join(" ").chars().take(48).collect::<String>().into(),
                g.why.as_str().into(),
            ]);
        }
        Ok(table)
    })
}
