//! `pumasi pact game-day`: a service is given up on purpose, and how that goes.

use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Table, note};
use crate::session::Session;
use crate::units::duration_ms;
use pumasi_api::game_day::{AskGameDay, GameDayResult, GameDayView};
use pumasi_api::message::List;
use pumasi_terms::ServiceName;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(500);
/// The daemon ends one within less.
const WITHIN: Duration = Duration::from_secs(1_500);

pub async fn run(session: &Session, service: &ServiceName, asked: AskGameDay) -> Result<(), Failure> {
    let path = format!("/v1/pact/game-days/{service}");
    let mut view: GameDayView = session.client.put(&path, &asked).await?;
    if asked.never {
        let answer = serde_json::to_value(&view).unwrap_or_default();
        return session.done(&format!("service/{service}"), "is not given up on purpose any more", &answer);
    }
    let (begun, mut told) = (Instant::now(), String::new());
    while let Some(step) = &view.step {
        if &told != step {
            told.clone_from(step);
            note(&format!("{:>6.1} s  {}", begun.elapsed().as_secs_f64(), step.replace('_', " ")));
        }
        if begun.elapsed() > WITHIN {
            return Err(Failure::new(Exit::Failed, format!("the game day of {service} is not over: {told}")));
        }
        tokio::time::sleep(LOOK).await;
        match list(session).await {
            Ok(all) => view = all.into_iter().find(|g| &g.service == service).unwrap_or(view),
            // A daemon that is started again goes on with it.
            Err(e) if e.exit == Exit::Unreachable => {}
            Err(e) => return Err(e),
        }
    }
    let Some(last) = &view.last else {
        return Err(Failure::new(Exit::Failed, format!("the game day of {service} left no result")));
    };
    match session.global.output {
        Format::Json => output::print(&output::json(&view)?)?,
        Format::Yaml => output::print(&output::yaml(&view)?)?,
        Format::Name => output::print(&format!("service/{service}\n"))?,
        Format::Table if last.passed => output::print(&format!("{service}: {}\n", in_words(last)))?,
        Format::Table => {}
    }
    match last.passed {
        true => Ok(()),
        false => Err(Failure::failed(format!("the game day of {service} failed: {}", in_words(last)))),
    }
}

async fn list(session: &Session) -> Result<Vec<GameDayView>, Failure> {
    Ok(session.client.get::<List<GameDayView>>("/v1/pact/game-days").await?.items)
}

pub async fn show(session: &Session) -> Result<(), Failure> {
    let all = list(session).await?;
    let names = || all.iter().map(|g| format!("service/{}\n", g.service)).collect();
    session.show(&all, names, || {
        let mut table = Table::new(&["SERVICE", "EVERY", "NEXT", "NOW", "LAST", "HOW"]);
        for g in &all {
            let last = g.last.as_ref();
            table.row(vec![
                g.service.to_string().into(),
                g.every_ms.map_or("-".to_owned(), duration_ms).into(),
                g.next_at.map_or("-".to_owned(), |at| at.to_string()).into(),
                g.step.clone().unwrap_or("-".into()).into(),
                last.map_or("-".to_owned(), |l| (if l.passed { "passed" } else { "failed" }).to_owned()).into(),
                last.map_or("-".to_owned(), in_words).into(),
            ]);
        }
        Ok(table)
    })
}

fn in_words(result: &GameDayResult) -> String {
    let heir = result.heir.as_ref().map_or("nobody".to_owned(), ToString::to_string);
    let told = |what: String, ms: Option<u64>| ms.map(|ms| format!("{what} after {}", duration_ms(ms)));
    let times = [
        told(format!("{heir} owned it"), result.taken_ms),
        told("it answered".into(), result.answered_ms),
        told("it was back".into(), result.back_ms),
    ];
    let why = (!result.why.is_empty()).then(|| result.why.clone());
    why.into_iter().chain(times.into_iter().flatten()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_terms::{CloudName, WallMs};

    #[test]
    fn a_result_is_told_with_its_times() {
        let result = GameDayResult {
            began_at: WallMs(0),
            passed: true,
            why: String::new(),
            heir: CloudName::parse("city-b").ok(),
            taken_ms: Some(2_100),
            answered_ms: Some(2_900),
            back_ms: Some(9_000),
        };
        assert_eq!(in_words(&result), "city-b owned it after 2.1s; it answered after 2.9s; it was back after 9.0s");
    }
}
