//! A rehearsal in a scenario: would the load that is about to come be served by a partner?

use super::overload::ms;
use crate::cluster::Cluster;
use crate::report::{Promise, Report};
use crate::story::Story;
use anyhow::bail;
use pumasi_api::message::{RehearseService, RehearsedCause};
use pumasi_journey::Journey;
use pumasi_journey::record::{Outcome, Phase};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(100);
/// A large application takes its time on the way.
const GIVEN_UP: Duration = Duration::from_secs(180);
const ANSWERED_MS: f64 = 10_000.0;

/// Rehearses `service` of `city-a` and promises what an operator is told of it.
pub async fn judge(report: &mut Report, cluster: &Cluster, story: &Story, service: &str) -> anyhow::Result<()> {
    let client = cluster.client("city-a")?;
    let wish = RehearseService { cause: RehearsedCause::Overload, path: None, at: None };
    let begun = Instant::now();
    let opened: Journey = client.post(&format!("/v1/services/{service}/rehearsals"), &wish).await?;
    let journey = loop {
        let journey: Journey = client.get(&format!("/v1/journeys/{}", opened.id)).await?;
        if matches!(journey.phase, Phase::Closed { .. }) {
            break journey;
        }
        if begun.elapsed() > GIVEN_UP {
            bail!("the rehearsal {} was not over after {} s: {journey:?}", opened.id, GIVEN_UP.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    };
    let rehearsal = journey.rehearsal.clone();
    let answer = rehearsal.as_ref().and_then(|r| r.answer.clone());
    let said = answer.as_ref().map_or("nothing".to_owned(), |a| format!("{} in {} ms", a.status, a.took_ms));
    story.tell("city-a", "rehearsed", format!("{service}: {said}"));
    let good = answer.is_some_and(|a| a.is_good());
    report.promise(Promise::holds("a rehearsal is answered by a rented instance", good, said, "200 to 399"));
    let (back, how) = match &journey.phase {
        Phase::Closed { outcome, .. } => (*outcome == Outcome::Returned, format!("{outcome:?}").to_lowercase()),
        _ => (false, "not yet".to_owned()),
    };
    report.promise(Promise::holds("... and given back whole", back, how, "returned"));
    let users: u64 = journey.parts.iter().map(|p| p.lender_usage.requests.saturating_sub(1)).sum();
    report.promise(Promise::none("... to which no user was sent", users));
    let answered = rehearsal.and_then(|r| r.took_ms).map(|t| t as f64);
    report.promise(Promise::within_ms("... answered", answered, ANSWERED_MS));
    report.figure(
        "rehearsal",
        format!("{:.0} ms", ms(begun.elapsed())),
        "from the wish until everything was given back",
    );
    Ok(())
}
