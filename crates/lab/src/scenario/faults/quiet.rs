//! Where nothing may be borrowed: a steady load, a single slow request, a broken application, a load of writes.

use super::Broken;
use super::stage::{Act, Case, HOME, Stage, failures};
use crate::example::Kind;
use std::time::Duration;

/// Of what an instance at home can answer, about four fifths.
const STEADY_RATE: f64 = 115.0;
const TOO_MUCH: f64 = 260.0;

pub fn cases() -> Vec<Case> {
    let kind = |kind, case: Case| Case { kind, ..case };
    vec![
        kind(
            Kind::Tickets,
            Case::new("quiet-steady", "steady load of four fifths: nothing is borrowed, no request fails", |s, a| {
                Box::pin(steady(s, a, true))
            }),
        ),
        kind(
            Kind::SlowOne,
            Case::new("quiet-slow-one", "one slow request in a thousand: nothing is borrowed", |s, a| {
                Box::pin(steady(s, a, true))
            }),
        ),
        kind(
            Kind::Broken,
            Case::new(
                "quiet-broken",
                "the application answers errors: nothing is borrowed, and that is said",
                |s, a| Box::pin(refused(s, a)),
            ),
        ),
        kind(
            Kind::Writer,
            Case::new("quiet-writer", "a load of writes: nothing is borrowed, and that is said", |s, a| {
                Box::pin(refused(s, a))
            }),
        ),
    ]
}

async fn nothing_borrowed(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let mut broken = Broken::new();
    for lease in stage.rented(act).await? {
        broken.push(format!("{} was rented from {}", lease.id, lease.lender));
    }
    let about = stage.has_told(HOME, "verdict", act.since);
    broken.extend(
        about
            .iter()
            .filter(|s| s.event.subject == act.name)
            .map(|s| format!("a verdict: {}", s.event.reasons.join("; "))),
    );
    Ok(broken)
}

async fn steady(stage: &Stage, act: &Act, clean: bool) -> anyhow::Result<Broken> {
    let users = stage.users(act, STEADY_RATE)?;
    tokio::time::sleep(Duration::from_secs(if stage.full { 60 } else { 20 })).await;
    let run = stage.end(users).await?;
    let mut broken = nothing_borrowed(stage, act).await?;
    if clean {
        broken.extend(failures("of all requests", &run.all()));
    }
    Ok(broken)
}

async fn refused(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let users = stage.users(act, TOO_MUCH)?;
    tokio::time::sleep(Duration::from_secs(if stage.full { 30 } else { 6 })).await;
    stage.end(users).await?;
    let mut broken = nothing_borrowed(stage, act).await?;
    let said = stage.has_told(HOME, "borrowing_refused", act.since);
    match said.iter().find(|s| s.event.subject == act.name) {
        Some(s) => stage.story.tell(HOME, "said", s.event.reasons.join("; ")),
        None => broken.push("the journal does not say why nothing is borrowed".into()),
    }
    Ok(broken)
}
