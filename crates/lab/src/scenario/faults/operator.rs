//! People stand above automation: releases while rented, stopping, observing, asking, and an old store put back.

use super::Broken;
use super::partner::{approve, waiting};
use super::stage::{Act, Case, HOME, PEAK_RATE, SLACK, Stage, failures};
use crate::example::Kind;
use anyhow::{Context, ensure};
use pumasi_api::message::LeaseView;
use pumasi_terms::service::AutomationMode;
use std::time::Duration;

/// Long enough for a verdict and what would follow from it.
const VERDICT: Duration = Duration::from_secs(4);

pub fn cases() -> Vec<Case> {
    let mode = |mode, case: Case| Case { mode, ..case };
    vec![
        Case::new(
            "release-new-version",
            "a new version while part is rented: no request fails, both sides run it afterwards",
            |s, a| Box::pin(new_version(s, a)),
        ),
        Case::new(
            "operator-stops",
            "automation is stopped: nothing is borrowed and that is said; resumed, it is",
            |s, a| Box::pin(stops(s, a)),
        ),
        mode(
            AutomationMode::Observe,
            Case::new("operator-observes", "observe only: the plan is seen, nothing is borrowed", |s, a| {
                Box::pin(observes(s, a))
            }),
        ),
        mode(
            AutomationMode::Ask,
            Case::new("operator-approves", "ask first: the plan waits, and begins when it is approved", |s, a| {
                Box::pin(approves(s, a))
            }),
        ),
        mode(
            AutomationMode::Ask,
            Case::new("operator-refuses", "ask first: a refused plan borrows nothing", |s, a| Box::pin(refuses(s, a))),
        ),
        Case::new(
            "restore-old",
            "an old backup is put back while part is rented: nothing is done to others until it is accepted",
            |s, a| Box::pin(restore(s, a)),
        ),
    ]
}

async fn new_version(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let users = stage.users(act, PEAK_RATE)?;
    let lease = stage.serving(act, None).await?;
    let next = stage.service(Kind::Notes, &act.name, AutomationMode::Automatic, &["--every", "2"])?;
    stage.cluster.apply(HOME, &next).await?;
    let lender = lease.lender.to_string();
    let both = || async {
        let mut generations = Vec::new();
        for cloud in [HOME, lender.as_str()] {
            let mine: Vec<_> = stage
                .instances(cloud)
                .await?
                .into_iter()
                .filter(|i| i.service.as_str() == act.name && i.state != "stopped")
                .collect();
            if !mine.iter().any(|i| i.state == "ready") {
                return Ok(false);
            }
            generations.extend(mine.iter().map(|i| i.generation));
        }
        let newest = generations.iter().max().copied().unwrap_or(0);
        Ok(newest > 1 && generations.iter().all(|g| *g == newest))
    };
    stage.until("both sides run the new version alone", SLACK, both).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let broken = failures("of all requests", &stage.end(users).await?.all());
    ensure!(
        stage.rented(act).await?.iter().any(|l| l.id == lease.id && l.state == "serving"),
        "the lease did not outlive the release"
    );
    Ok(broken)
}

/// Rented, seeking or planned: none of it.
async fn nothing_rented(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let leases: Vec<LeaseView> = stage.rented(act).await?;
    let mut broken: Broken = leases.iter().map(|l| format!("{} was rented from {}", l.id, l.lender)).collect();
    for lender in super::stage::LENDERS {
        let holds = stage.has_told(lender, "hold_granted", act.since);
        broken.extend(holds.iter().map(|h| format!("{lender} held: {}", h.event.reasons.join("; "))));
    }
    Ok(broken)
}

async fn stops(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    stage.cluster.operate(HOME, &["stop-automation", "--why", "network maintenance"], None).await?;
    let users = stage.users(act, PEAK_RATE)?;
    let unheeded = stage.told(HOME, "verdict_unheeded", act.since).await;
    tokio::time::sleep(VERDICT).await;
    let mut broken = nothing_rented(stage, act).await?;
    stage.cluster.operate(HOME, &["resume-automation", "--why", "done"], None).await?;
    match unheeded {
        Ok(s) if s.event.reasons.iter().any(|r| r.contains("network maintenance")) => {}
        Ok(s) => broken.push(format!("the operator's reason is not told: {:?}", s.event.reasons)),
        Err(e) => broken.push(e.to_string()),
    }
    stage.serving(act, None).await?;
    broken.extend(failures("of all requests", &stage.end(users).await?.all()));
    Ok(broken)
}

async fn observes(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let users = stage.users(act, PEAK_RATE)?;
    stage.told(HOME, "verdict", act.since).await?;
    tokio::time::sleep(VERDICT).await;
    let mut broken = nothing_rented(stage, act).await?;
    let plans: serde_json::Value = stage.cluster.client(HOME)?.get("/v1/plans").await?;
    let seen =
        plans["items"].as_array().into_iter().flatten().filter(|p| p["plan"]["service"] == act.name.as_str()).count();
    if seen == 0 {
        broken.push("no plan can be seen".into());
    }
    stage.story.tell(HOME, "observed", format!("{seen} plans"));
    broken.extend(failures("of all requests", &stage.end(users).await?.all()));
    Ok(broken)
}

async fn approves(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let users = stage.users(act, PEAK_RATE)?;
    let plan = waiting(stage, act).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut broken = nothing_rented(stage, act).await?;
    approve(stage, &plan).await?;
    stage.serving(act, None).await?;
    broken.extend(failures("of all requests", &stage.end(users).await?.all()));
    Ok(broken)
}

async fn refuses(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let users = stage.users(act, PEAK_RATE)?;
    let plan = waiting(stage, act).await?;
    stage.cluster.operate(HOME, &["plan", "refuse", &plan, "--why", "the campaign ends at noon"], None).await?;
    tokio::time::sleep(VERDICT).await;
    let mut broken = nothing_rented(stage, act).await?;
    let again = stage.cluster.operate(HOME, &["plan", "approve", &plan], None).await;
    if again.is_ok() {
        broken.push("a refused plan could be approved".into());
    }
    broken.extend(failures("of all requests", &stage.end(users).await?.all()));
    Ok(broken)
}

async fn restore(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let told = stage.cluster.operate(HOME, &["backup", "-o", "json"], None).await?;
    let told: serde_json::Value = serde_json::from_str(&told).context("what backup printed")?;
    let backup = told["path"].as_str().context("backup names no file")?.to_owned();
    let users = stage.users(act, PEAK_RATE)?;
    let lease = stage.serving(act, None).await?;
    let lender = lease.lender.to_string();
    stage.cluster.supervisor.kill9(HOME)?;
    let data = stage.cluster.dir(HOME).join("data").display().to_string();
    stage.cluster.operate(HOME, &["restore", "--from", &backup, "--to", &data, "--force"], None).await?;
    stage.story.tell(HOME, "restored", "the backup from before the lease");
    stage.cluster.supervisor.restart(HOME)?;
    let since = stage.story.elapsed();
    let up = || async { Ok(stage.cluster.client(HOME)?.text("/healthz").await.is_ok()) };
    stage.until("the daemon answers", SLACK, up).await?;
    let mut broken = Broken::new();
    let standing = stage.status(HOME).await?.standing;
    if !standing.starts_with("restored") {
        broken.push(format!("it takes itself for {standing}"));
    }
    // Nobody renews the lease that this store does not know: it ends by itself, and nothing new is asked for.
    stage.told(&lender, "lease_ended", since).await?;
    let empty = || async { Ok(stage.cluster.remains(&lender).is_empty()) };
    stage.until("the lender is empty on its own", SLACK, empty).await?;
    tokio::time::sleep(VERDICT).await;
    for cloud in super::stage::LENDERS {
        if !stage.has_told(cloud, "hold_granted", since).is_empty() {
            broken.push(format!("{cloud} was asked although the store is old"));
        }
    }
    stage.cluster.operate(HOME, &["accept-restored", "--why", "compared"], None).await?;
    stage.serving(act, None).await?;
    let run = stage.end(users).await?;
    let wrong = run.all().count(crate::load::Outcome::Wrong);
    if wrong > 0 {
        broken.push(format!("{wrong} wrong answers"));
    }
    broken.extend(failures("of all requests", &run.all()));
    Ok(broken)
}
