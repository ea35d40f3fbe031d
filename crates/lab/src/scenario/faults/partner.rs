//! Partners that do not answer, answer late, want their capacity back, are cut off, break off in the middle of the data, or are
//! not who they say they are.

use super::Broken;
use super::stage::{Act, Case, FIRST, HOME, LEASE_TTL, PEAK_RATE, SECOND, SLACK, Stage, failures, goes_on};
use crate::load::Running;
use crate::relay::CutThen;
use anyhow::{Context, ensure};
use pumasi_terms::service::AutomationMode;
use std::time::Duration;

/// More than a borrower waits for an answer.
const LATE: Duration = Duration::from_millis(1_200);
/// Into the application, which is larger.
const CUT_BYTES: u64 = 3 << 20;

pub fn cases() -> Vec<Case> {
    let ask = |case: Case| Case { mode: AutomationMode::Ask, ..case };
    vec![
        ask(Case::new(
            "partner-silent",
            "a partner never answers the reservation: told, another one is used",
            |s, a| Box::pin(silent(s, a)),
        )),
        ask(Case::new(
            "partner-late",
            "a partner answers too late: told, another one is used, its hold does not outlive its time",
            |s, a| Box::pin(late(s, a)),
        )),
        Case::new(
            "partner-recalls",
            "a lease in use is called back: another partner replaces it, no request fails",
            |s, a| Box::pin(recalled(s, a)),
        ),
        Case::new(
            "partner-cut-off",
            "a lender is cut off: its lease ends by itself on both sides, traffic goes on elsewhere",
            |s, a| Box::pin(cut_off(s, a)),
        ),
        ask(Case::new(
            "partner-breaks",
            "a partner breaks off in the middle of the data: told, tried again or elsewhere",
            |s, a| Box::pin(breaks(s, a, CutThen::Recover)),
        )),
        ask(Case::new(
            "partner-breaks-off",
            "a partner is gone in the middle of the data: told, another one is used",
            |s, a| Box::pin(breaks(s, a, CutThen::Blackhole)),
        )),
        Case::new(
            "partner-impostor",
            "a member comes back with another authority: refused with the reason, another one is used",
            |s, a| Box::pin(impostor(s, a)),
        ),
    ]
}

/// Users, and the plan that waits because of them.
async fn planned(stage: &Stage, act: &Act) -> anyhow::Result<(Running, String)> {
    let users = stage.users(act, PEAK_RATE)?;
    Ok((users, waiting(stage, act).await?))
}

pub async fn waiting(stage: &Stage, act: &Act) -> anyhow::Result<String> {
    let found = std::sync::Mutex::new(None);
    let look = || async {
        let plans: serde_json::Value = stage.cluster.client(HOME)?.get("/v1/plans").await?;
        let items = plans["items"].as_array().cloned().unwrap_or_default();
        let fits = |p: &&serde_json::Value| p["state"] == "waiting" && p["plan"]["service"] == act.name.as_str();
        let id = items.iter().find(fits).and_then(|p| p["plan"]["id"].as_str()).map(str::to_owned);
        let is_there = id.is_some();
        *found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = id;
        Ok(is_there)
    };
    stage.until("a plan waits", SLACK, look).await?;
    found.into_inner().ok().flatten().context("no plan waits")
}

pub async fn approve(stage: &Stage, plan: &str) -> anyhow::Result<()> {
    stage.cluster.operate(HOME, &["plan", "approve", plan, "--why", "as planned"], None).await.map(drop)
}

/// Approves every plan that waits, until none comes any more.
async fn approve_further(stage: &Stage, act: &Act) -> anyhow::Error {
    loop {
        let step = async { approve(stage, &waiting(stage, act).await?).await };
        if let Err(e) = step.await {
            return e;
        }
    }
}

async fn silent(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let (users, plan) = planned(stage, act).await?;
    stage.cluster.wan.partition(HOME, FIRST)?;
    approve(stage, &plan).await?;
    let lease = stage.serving(act, None).await?;
    let mut broken = told_of(stage, act, &["hold_refused", "hold_too_late"], FIRST).await;
    if lease.lender.as_str() != SECOND {
        broken.push(format!("{} serves, which does not answer", lease.lender));
    }
    stage.cluster.wan.heal_all();
    broken.extend(failures("of all requests", &stage.end(users).await?.all()));
    Ok(broken)
}

async fn late(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let (users, plan) = planned(stage, act).await?;
    stage.cluster.wan.add_latency(FIRST, HOME, LATE)?;
    approve(stage, &plan).await?;
    let lease = stage.serving(act, None).await?;
    let mut broken = told_of(stage, act, &["hold_refused", "hold_too_late"], FIRST).await;
    if lease.lender.as_str() != SECOND {
        broken.push(format!("{} serves, which answered too late", lease.lender));
    }
    stage.cluster.wan.heal_all();
    broken.extend(failures("of all requests", &stage.end(users).await?.all()));
    Ok(broken)
}

/// Something that the journal of the borrower must say about a partner.
async fn told_of(stage: &Stage, act: &Act, actions: &[&str], about: &str) -> Broken {
    let fits = |s: &crate::follow::Seen| {
        s.cloud == HOME
            && s.at >= act.since
            && actions.contains(&s.event.action.as_str())
            && (s.event.subject == about || s.event.reasons.iter().any(|r| r.contains(about)))
    };
    match stage.chronicle.wait_for(SLACK, fits).await {
        Some(_) => Vec::new(),
        None => vec![format!("the journal says nothing about {about} ({})", actions.join(" or "))],
    }
}

async fn recalled(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let users = stage.users(act, PEAK_RATE)?;
    let first = stage.serving(act, None).await?;
    stage
        .cluster
        .operate(first.lender.as_str(), &["lease", "recall", first.id.as_str(), "--why", "our own peak"], None)
        .await?;
    let second = stage.serving(act, Some(first.lender.as_str())).await?;
    stage.story.tell("lab", "replaced", format!("{} by {}", first.lender, second.lender));
    let over = || async {
        let leases = stage.rented(act).await?;
        Ok(leases.iter().any(|l| l.id == first.id && l.state == "ended"))
    };
    stage.until("the recalled lease is over", SLACK, over).await?;
    let mut broken = told_of(stage, act, &["recall_heard"], first.lender.as_str()).await;
    broken.extend(failures("of all requests", &stage.end(users).await?.all()));
    Ok(broken)
}

async fn cut_off(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let users = stage.users(act, PEAK_RATE)?;
    let begun = users.started();
    let first = stage.serving(act, None).await?;
    let lender = first.lender.as_str();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let at = begun.elapsed();
    stage.cluster.wan.isolate(lender)?;
    stage.story.tell("lab", "cut off", lender);
    let since = stage.story.elapsed();
    // On its own, without a word from the other side.
    stage.told(lender, "lease_ended", since).await?;
    let ended = stage.story.elapsed().saturating_sub(since);
    let second = stage.serving(act, Some(lender)).await?;
    stage.story.tell(
        "lab",
        "replaced",
        format!("{lender} by {}; it ended there after {:.1} s", second.lender, ended.as_secs_f64()),
    );
    let emptied = || async { Ok(stage.cluster.remains(lender).is_empty()) };
    stage.until("the lender is empty on its own", SLACK, emptied).await?;
    let here = stage.rented(act).await?;
    let mut broken = Broken::new();
    if let Some(lease) =
        here.iter().find(|l| l.id == first.id && matches!(l.state.as_str(), "serving" | "starting" | "sending"))
    {
        broken.push(format!("{} is still {} here", lease.id, lease.state));
    }
    stage.cluster.wan.heal_all();
    let run = stage.end(users).await?;
    let end = Duration::from_secs(3_600);
    broken.extend(failures("before", &run.between(Duration::ZERO, at.saturating_sub(Duration::from_secs(1)))));
    // What was under way to it is unknown for as long as the lease could have been renewed.
    let gap = LEASE_TTL + Duration::from_secs(2);
    broken.extend(failures("after the lease's end", &run.between(at + gap, end)));
    broken.extend(goes_on(&run, at + Duration::from_secs(1), at + gap));
    let wrong = run.all().count(crate::load::Outcome::Wrong);
    if wrong > 0 {
        broken.push(format!("{wrong} wrong answers"));
    }
    let lost = run.between(at.saturating_sub(Duration::from_secs(1)), at + gap);
    stage.story.tell("users", "in the gap", format!("{} of {} failed", lost.failures(), lost.offered()));
    Ok(broken)
}

async fn breaks(stage: &Stage, act: &Act, then: CutThen) -> anyhow::Result<Broken> {
    let (users, plan) = planned(stage, act).await?;
    stage.cluster.wan.cut_after(HOME, FIRST, CUT_BYTES, then)?;
    let resets = stage.cluster.wan.stats(HOME, FIRST)?.resets;
    approve(stage, &plan).await?;
    // What takes its place waits for approval as well.
    let lease = tokio::select! {
        lease = stage.serving(act, None) => lease?,
        _ = approve_further(stage, act) => stage.serving(act, None).await?,
    };
    stage.story.tell("lab", "serves", format!("{} after the break", lease.lender));
    ensure!(stage.cluster.wan.stats(HOME, FIRST)?.resets > resets, "the way was not cut: the application is too small");
    let mut broken = told_of(stage, act, &["transfer_interrupted", "switchback"], FIRST).await;
    if then == CutThen::Blackhole && lease.lender.as_str() != SECOND {
        broken.push(format!("{} serves, which is gone", lease.lender));
    }
    stage.cluster.wan.heal_all();
    broken.extend(failures("of all requests", &stage.end(users).await?.all()));
    Ok(broken)
}

async fn impostor(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let trust = stage.cluster.dir(FIRST).join("data/trust");
    let aside = stage.cluster.dir(FIRST).join("trust-aside");
    let grace = Duration::from_secs(15);
    let stop =
        || async { stage.cluster.supervisor.stop(FIRST, grace).await.with_context(|| format!("stopping {FIRST}")) };
    stop().await?;
    std::fs::rename(&trust, &aside).with_context(|| format!("setting {} aside", trust.display()))?;
    stage.restart(FIRST).await?;
    let played = async {
        let users = stage.users(act, PEAK_RATE)?;
        let lease = stage.serving(act, None).await?;
        let mut broken = Broken::new();
        if lease.lender.as_str() != SECOND {
            broken.push(format!("{} serves, which is not who it says", lease.lender));
        }
        // The first failure may be the pause without a daemon; the certificate is what it is about afterwards.
        let status = stage.status(HOME).await?;
        let trouble = status
            .members
            .iter()
            .find(|m| m.cloud.as_str() == FIRST)
            .and_then(|m| m.trouble.clone())
            .unwrap_or_default();
        stage.story.tell(HOME, "trouble", format!("{FIRST}: {trouble}"));
        let clear = |t: &str| t.to_lowercase().contains("certificate");
        if !clear(&trouble) {
            broken.push(format!("the trouble with {FIRST} does not say what is wrong: {trouble:?}"));
        }
        let fits = |s: &crate::follow::Seen| {
            let about = s.cloud == HOME && s.event.action == "member_unreachable" && s.at >= act.since;
            about && s.event.subject == FIRST && s.event.reasons.iter().any(|r| clear(r))
        };
        if stage.chronicle.wait_for(SLACK, fits).await.is_none() {
            broken.push("the journal does not say that the certificate is wrong".into());
        }
        broken.extend(failures("of all requests", &stage.end(users).await?.all()));
        Ok::<_, anyhow::Error>(broken)
    }
    .await;
    stop().await?;
    std::fs::remove_dir_all(&trust)?;
    std::fs::rename(&aside, &trust)?;
    stage.restart(FIRST).await?;
    played
}
