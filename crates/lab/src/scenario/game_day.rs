//! Game day: a canary is given up on purpose, taken over, asked and brought back; then nobody may take it, which is told and alerts.

use super::disaster::{Stage, holds, ms};
use super::overload::{TIMING, bundle, service, worth_telling};
use crate::cluster::Cluster;
use crate::example::Kind;
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::Context;
use pumasi_api::game_day::GameDayView;
use pumasi_terms::CloudName;
use pumasi_terms::continuity::Continuity;
use pumasi_terms::service::RecoveryClass;
use std::time::{Duration, Instant};

const HOME: &str = "city-a";
const HEIR: &str = "city-b";
const CANARY: &str = "canary";
const SLACK: Duration = Duration::from_secs(90);
/// Letting go, a look of the leader's, one start; and a busy machine.
const ANSWERED_MS: f64 = 20_000.0;

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("game-day");
    story.chapter("Three clouds found a pact, and vote; a canary is kept ready");
    let mut cluster = Cluster::start(&options.executable, &three_clouds(), TIMING).await?;
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let stage = Stage { cluster, story: story.clone(), chronicle };
    stage.cluster.operate(HOME, &["pact", "vote", "--voters", "city-a,city-b,city-c"], None).await?;
    for cloud in [HOME, HEIR, "city-c"] {
        stage.until("every cloud has a right to write", SLACK, || stage.has_right(cloud)).await?;
    }
    let dir = bundle(&stage.cluster, &options.executable, options.bundle_mib).await?;
    let mut made = service(Kind::Notes, CANARY, &dir, 1)?;
    made.spec.continuity = Continuity { clouds: vec![CloudName::parse(HEIR)?], ..Continuity::default() };
    made.spec.recovery_class = RecoveryClass::Early;
    stage.cluster.apply(HOME, &made).await?;
    stage.until("the pact looks after it", SLACK, || stage.is_protected(CANARY, 1)).await?;
    stage.until("it serves", SLACK, || stage.is_back(CANARY)).await?;

    story.chapter("It is given up on purpose");
    let begun = Instant::now();
    let said = stage.cluster.operate(HOME, &["pact", "game-day", "--service", CANARY, "--every", "7d"], None).await;
    let told = said.map_or_else(|e| format!("{e:#}"), |text| text.trim().to_owned());
    report.figure("one game day", ms(begun.elapsed()), told.clone());
    let last = stage.last().await?;
    let passed = last.as_ref().is_some_and(|l| l.passed && l.heir.as_ref().is_some_and(|h| h.as_str() == HEIR));
    report.promise(holds("it was taken over, asked and brought back", passed, told));
    let answered = last.and_then(|l| l.answered_ms).map(|ms| ms as f64);
    report.promise(Promise::within_ms("it answered where it was taken over", answered, ANSWERED_MS));
    let owner = stage.entry(CANARY).await?;
    report.promise(holds("it is at home again", owner["owner"] == HOME, owner.to_string()));
    report.promise(holds("no alert", stage.alert().await? == Some(0), "pumasi_game_day_failed".into()));

    story.chapter("Nobody may take it");
    stage.until("it is kept ready again", SLACK, || stage.is_protected(CANARY, 1)).await?;
    stage.until("it serves", SLACK, || stage.is_back(CANARY)).await?;
    for cloud in [HEIR, "city-c"] {
        stage.cluster.operate(cloud, &["stop-automation", "--why", "maintenance"], None).await?;
    }
    let said = stage.cluster.operate(HOME, &["pact", "game-day", "--service", CANARY], None).await;
    let told = said.map_or_else(|e| format!("{e:#}"), |text| text.trim().to_owned());
    report.promise(holds("a failed one says why", told.contains("no other cloud took it"), told));
    report.promise(holds("and alerts", stage.alert().await? == Some(1), "pumasi_game_day_failed".into()));
    stage.until("it serves at home all the same", SLACK, || stage.is_back(CANARY)).await?;
    let journal = stage.cluster.operate(HOME, &["events", "--limit", "300", "-o", "json"], None).await?;
    let both = journal.contains("game_day_passed") && journal.contains("game_day_failed");
    report.promise(holds("both stand in the journal", both, "game_day_passed, game_day_failed".into()));
    Ok(report)
}

impl Stage {
    async fn last(&self) -> anyhow::Result<Option<pumasi_api::game_day::GameDayResult>> {
        let said = self.cluster.operate(HOME, &["pact", "game-day", "-o", "json"], None).await?;
        let all: Vec<GameDayView> = serde_json::from_str(&said).with_context(|| said.clone())?;
        Ok(all.into_iter().find(|g| g.service.as_str() == CANARY).and_then(|g| g.last))
    }

    /// The metric that an alert rests on.
    async fn alert(&self) -> anyhow::Result<Option<u32>> {
        let text = self.cluster.client(HOME)?.text("/metrics").await?;
        let line = text.lines().find(|l| l.starts_with("pumasi_game_day_failed{"));
        Ok(line.and_then(|l| l.rsplit(' ').next()).and_then(|n| n.parse().ok()))
    }
}
