//! `pumasi move`: a service lives at another cloud from now on.

use crate::args::MoveCommand;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, note};
use crate::session::Session;
use crate::units::{bytes, duration_ms, money};
use pumasi_api::message::{AbandonMove, MoveOutlook, MoveService, Why};
use pumasi_journey::moving::{Move, Step};
use pumasi_terms::ServiceName;
use serde::Serialize;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(200);

pub async fn moving(session: &Session, command: &MoveCommand) -> Result<(), Failure> {
    match command {
        MoveCommand::Service { service, to, dry_run, within } => {
            let asked = MoveService { to: to.clone(), dry_run: *dry_run };
            let outlook: MoveOutlook = session.client.post(&format!("/v1/services/{service}/move"), &asked).await?;
            if *dry_run {
                return print(session, &outlook, || tell(&outlook));
            }
            let done = follow(session, service, Duration::from_millis(*within)).await?;
            ended(session, &done)
        }
        MoveCommand::Cancel { service, why } => {
            let asked = Why { why: why.why.clone() };
            let now: Move = session.client.post(&format!("/v1/services/{service}/move/cancel"), &asked).await?;
            print(session, &now, || format!("move of {service}: {}\n", stage(&now)))
        }
        MoveCommand::Abandon { service, heir_is_gone, why } => {
            let asked = AbandonMove { heir: heir_is_gone.clone(), why: why.clone() };
            let now: Move = session.client.post(&format!("/v1/services/{service}/move/abandon"), &asked).await?;
            print(session, &now, || format!("service/{service} is served here again; {}\n", stage(&now)))
        }
    }
}

fn print<T: Serialize>(session: &Session, value: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
    match session.global.output {
        Format::Table | Format::Name => output::print(&text()),
        Format::Json => output::print(&output::json(value)?),
        Format::Yaml => output::print(&output::yaml(value)?),
    }
}

/// What would come of it, a line each.
fn tell(outlook: &MoveOutlook) -> String {
    let MoveOutlook { service, from, to, .. } = outlook;
    let sent = match outlook.is_ready {
        true => format!("nothing but the difference: {to} keeps it ready already"),
        false => format!("{}, before anybody waits", bytes(outlook.bytes)),
    };
    let pause = outlook.pause_ms.map_or("not known".into(), |ms| format!("about {}", duration_ms(ms)));
    let cost = outlook.cost_per_hour.map_or("not known".into(), |c| format!("{} an hour until it has moved", money(c)));
    let mut text = format!("{service}: from {from} to {to}\n  sends   {sent}\n  pause   {pause}\n  costs   {cost}\n");
    for risk in &outlook.risks {
        text.push_str(&format!("  risk    {risk}\n"));
    }
    text
}

fn stage(m: &Move) -> String {
    let to = &m.to;
    let text = match &m.step {
        Step::Placing => format!("{to} gets application and data"),
        Step::Preparing => format!("{to} makes everything ready"),
        Step::Alerting => format!("{to} is told that requests will wait"),
        Step::Holding => "requests that change something wait; those in flight end".into(),
        Step::Freezing => "its instances are made to stand still, and all requests wait".into(),
        Step::Catching => "the last of the data is sent".into(),
        Step::Committing => format!("both sign that {to} owns it"),
        Step::Opening => format!("{to} opens"),
        Step::Fronted { .. } => format!("{to} serves"),
        Step::Cancelling { why } => format!("cancelling: {why}"),
        Step::Cancelled { why, .. } => format!("cancelled: {why}"),
    };
    match &m.trouble {
        Some(trouble) => format!("{text}: {trouble}"),
        None => text,
    }
}

async fn follow(session: &Session, service: &ServiceName, within: Duration) -> Result<Move, Failure> {
    let begun = Instant::now();
    let path = format!("/v1/services/{service}/move");
    let mut told = String::new();
    loop {
        match session.client.get::<Move>(&path).await {
            Ok(m) => {
                let stage = stage(&m);
                if stage != told {
                    note(&format!("{:>6.1} s  {stage}", begun.elapsed().as_secs_f64()));
                    told = stage;
                }
                if !m.is_open() {
                    return Ok(m);
                }
            }
            // A daemon that is started again goes on with it.
            Err(error) if error.is_unreachable() => {}
            Err(error) => return Err(error.into()),
        }
        if begun.elapsed() > within {
            let text = format!("the move was not over after {}: {told}", duration_ms(within.as_millis() as u64));
            let hint = format!("it goes on; `pumasi move cancel {service}` ends it");
            return Err(Failure::new(Exit::Failed, text).hint(hint));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn ended(session: &Session, m: &Move) -> Result<(), Failure> {
    if let Step::Cancelled { why, .. } = &m.step {
        return Err(Failure::failed(format!("{} stays where it is: {why}", m.service)));
    }
    print(session, m, || {
        let waited = |ms| format!("; requests that change something waited {}", duration_ms(ms));
        format!("service/{} is at {} now{}\n", m.service, m.to, m.pause_ms.map_or(String::new(), waited))
    })
}
