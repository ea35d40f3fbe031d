//! `pumasi rehearse`: whether borrowing would work, seen before it must.

use crate::args::RehearseCommand;
use crate::events::recent;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, note};
use crate::session::Session;
use crate::units::{age, duration_ms};
use pumasi_api::message::{RehearseService, RehearsedCause};
use pumasi_journey::{Journey, PartState, Phase, TryState};
use pumasi_terms::{ServiceName, WallMs};
use serde_json::Value;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(200);
/// Of the journal, for why nobody could help.
const EVENTS_READ: u32 = 200;

pub async fn rehearse(session: &Session, command: &RehearseCommand) -> Result<(), Failure> {
    let RehearseCommand::Overload { service, at, path, within } = command;
    let wish = RehearseService { cause: RehearsedCause::Overload, path: path.clone(), at: at.clone() };
    let begun = Instant::now();
    let opened: Journey = session.client.post(&format!("/v1/services/{service}/rehearsals"), &wish).await?;
    let journey = follow(session, opened, begun, Duration::from_millis(*within)).await?;
    match session.global.output {
        Format::Table => {}
        Format::Json => output::print(&output::json(&journey)?)?,
        Format::Yaml => output::print(&output::yaml(&journey)?)?,
        Format::Name => output::print(&format!("journey/{}\n", journey.id))?,
    }
    match verdict(service, &journey) {
        Ok(text) if session.global.output == Format::Table => output::print(&format!("{text}\n")),
        Ok(_) => Ok(()),
        Err(text) => {
            let why = refusals(session, &journey).await;
            let text = if why.is_empty() { text } else { format!("{text}: {why}") };
            let hint = format!("`pumasi describe journey {}` tells every step", journey.id);
            Err(Failure::failed(text).hint(hint))
        }
    }
}

/// Until everything came back: what was borrowed is then given back, emptied and settled.
async fn follow(session: &Session, opened: Journey, begun: Instant, within: Duration) -> Result<Journey, Failure> {
    let path = format!("/v1/journeys/{}", opened.id);
    let mut journey = opened;
    let mut told = String::new();
    loop {
        let stage = stage(&journey);
        if stage != told {
            note(&format!("{:>6.1} s  {stage}", begun.elapsed().as_secs_f64()));
            told = stage;
        }
        if matches!(journey.phase, Phase::Closed { .. }) || journey.rehearsal.is_none() {
            return Ok(journey);
        }
        if begun.elapsed() > within {
            let text = format!("the rehearsal was not over after {}: {told}", duration_ms(within.as_millis() as u64));
            let hint = format!("it goes on; `pumasi journey cancel {}` gives everything back", journey.id);
            return Err(Failure::new(Exit::Failed, text).hint(hint));
        }
        tokio::time::sleep(LOOK).await;
        match session.client.get::<Journey>(&path).await {
            Ok(now) => journey = now,
            // A daemon that is started again goes on with it.
            Err(error) if error.is_unreachable() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn stage(journey: &Journey) -> String {
    let Some(part) = journey.parts.last() else {
        let asked = journey.seeking.iter().flat_map(|s| &s.tries).filter(|t| t.state == TryState::Asking);
        let clouds: Vec<&str> = asked.map(|t| t.candidate.cloud.as_str()).collect();
        return if clouds.is_empty() { "choosing a partner".into() } else { format!("asking {}", clouds.join(", ")) };
    };
    let lender = &part.lender;
    let with = |text: String, trouble: Option<&String>| match trouble {
        Some(trouble) => format!("{text}: {trouble}"),
        None => text,
    };
    match &part.state {
        PartState::Signing => format!("signing with {lender}, {} an instance-hour", part.price_per_instance_hour),
        PartState::Sending => with(format!("sending application and first copies to {lender}"), part.trouble.as_ref()),
        PartState::Starting => with(format!("starting an instance at {lender}"), part.trouble.as_ref()),
        PartState::Serving => {
            let trouble = journey.rehearsal.as_ref().and_then(|r| r.trouble.as_ref());
            with(format!("asking the instance at {lender}"), trouble)
        }
        PartState::Resting | PartState::Kept => format!("kept ready at {lender}"),
        PartState::Ending { why, .. } => format!("giving back to {lender}: {why}"),
        PartState::Ended { .. } => format!("over at {lender}"),
    }
}

/// What the last rehearsal among these journeys has shown, and how long ago.
pub fn last(journeys: &[Value], now: WallMs) -> Option<String> {
    let rehearsals = journeys.iter().filter(|j| j.get("rehearsal").is_some());
    let read = rehearsals.filter_map(|j| serde_json::from_value::<Journey>(j.clone()).ok());
    let journey = read.filter(|j| matches!(j.phase, Phase::Closed { .. })).max_by_key(|j| j.opened_at)?;
    let (word, text) = match verdict(&journey.service, &journey) {
        Ok(text) => ("yes", text),
        Err(text) => ("no", text),
    };
    Some(format!("{word}, {} ago: {text}", age(now, journey.opened_at)))
}

/// What a rehearsal that is over has shown.
fn verdict(service: &ServiceName, journey: &Journey) -> Result<String, String> {
    let Some(rehearsal) = &journey.rehearsal else {
        return Err(format!("load came while {service} was rehearsed: it borrows in earnest now, see {}", journey.id));
    };
    let Some(part) = journey.parts.last() else { return Err(format!("{service} found nobody to borrow from")) };
    let (lender, path) = (&part.lender, &rehearsal.path);
    let (proven, why) = match &part.state {
        PartState::Ended { why, proven, .. } => (*proven, why.as_str()),
        _ => (false, ""),
    };
    let Some(answer) = &rehearsal.answer else {
        return Err(format!("{service} could not be served at {lender}: {why}"));
    };
    let said = format!(
        "GET {path} at {lender} was answered {} with {} bytes in {}",
        answer.status,
        answer.body_bytes,
        duration_ms(answer.took_ms)
    );
    if !answer.is_good() {
        return Err(format!("{service} ran, but {said}"));
    }
    if !proven {
        return Err(format!("{said}, but {lender} could not prove that nothing is left there"));
    }
    let after = rehearsal.took_ms.map(|ms| format!(", {} after it was asked for", duration_ms(ms))).unwrap_or_default();
    Ok(format!("{service} can borrow: {said}{after}; nothing is left there"))
}

/// Why partners said no.
async fn refusals(session: &Session, journey: &Journey) -> String {
    if !journey.parts.is_empty() {
        return String::new();
    }
    let Ok(list) = recent(session, None, EVENTS_READ).await else { return String::new() };
    let text = |event: &Value, field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = list.items.iter().filter(|e| text(e, "cause") == journey.id.as_str());
    let no = own.filter(|e| {
        matches!(text(e, "action").as_str(), "hold_refused" | "hold_too_late" | "hold_distrusted" | "lease_refused")
    });
    let reasons = no.filter_map(|e| e.get("reasons")?.as_array()?.first()?.as_str().map(str::to_owned));
    reasons.collect::<Vec<_>>().join("; ")
}
