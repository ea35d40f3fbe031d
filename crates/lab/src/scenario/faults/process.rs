//! `kill -9` of daemons after each step of the journey, of gateways under load, of instances in mid-request.

use super::Broken;
use super::stage::{Act, Case, FIRST, HOME, Kill, PEAK_RATE, SLACK, Stage, Whose, failures, goes_on};
use crate::load::{Outcome, Record, Run};
use crate::scenario::overload::ms;
use anyhow::{Context, ensure};
use pumasi_route::table::Admission;
use std::time::{Duration, Instant};

/// Added to the way between the clouds, so that a kill falls into the step that was just told of, and not into a later one.
const SLOW: Duration = Duration::from_millis(60);
/// A process that was killed is back within this, also on a busy machine.
const GAP: Duration = Duration::from_secs(5);

const BORROWER: &str =
    "the borrower's daemon dies; journey and leases end on both sides, no request fails, nothing is left";
const LENDER: &str =
    "the lender's daemon dies; journey and leases end on both sides, no request fails, nothing is left";

pub fn cases() -> Vec<Case> {
    let kill = |name, whose, after, always| {
        let promise = if whose == Whose::Borrower { BORROWER } else { LENDER };
        Case { kill: Some(Kill { whose, after, always }), ..Case::new(name, promise, |s, a| Box::pin(daemon(s, a))) }
    };
    vec![
        kill("borrower-plan", Whose::Borrower, "plan_adopted", false),
        kill("borrower-hold", Whose::Borrower, "hold_granted", true),
        kill("borrower-chosen", Whose::Borrower, "lender_chosen", false),
        kill("borrower-signed", Whose::Borrower, "lease_signed", true),
        kill("borrower-sent", Whose::Borrower, "transferred", false),
        kill("borrower-serving", Whose::Borrower, "switchover", true),
        kill("borrower-back", Whose::Borrower, "switchback", false),
        kill("borrower-settled", Whose::Borrower, "settled", true),
        kill("lender-plan", Whose::Lender, "plan_adopted", false),
        kill("lender-hold", Whose::Lender, "hold_granted", false),
        kill("lender-chosen", Whose::Lender, "lender_chosen", true),
        kill("lender-signed", Whose::Lender, "lease_signed", false),
        kill("lender-sent", Whose::Lender, "transferred", true),
        kill("lender-serving", Whose::Lender, "switchover", false),
        kill("lender-back", Whose::Lender, "switchback", true),
        kill("lender-settled", Whose::Lender, "settled", false),
        Case::new(
            "gateway-home",
            "the home's gateway dies under load: it is back with its table, errors only in the gap",
            |s, a| Box::pin(gateway(s, a, HOME)),
        ),
        Case::new(
            "gateway-lender",
            "the lender's gateway dies under load: no request fails, it serves again",
            |s, a| Box::pin(gateway(s, a, FIRST)),
        ),
        Case::new(
            "instance-home",
            "the only instance at home dies in mid-request: reads are retried, writes told as unknown or refused",
            |s, a| Box::pin(instance(s, a, HOME)),
        ),
        Case::new(
            "instance-lender",
            "rented instances die in mid-request: reads are retried, no request fails",
            |s, a| Box::pin(instance(s, a, FIRST)),
        ),
    ]
}

async fn daemon(stage: &Stage, act: &Act) -> anyhow::Result<Broken> {
    let Kill { whose, after, .. } = act.case.kill.context("the case names no kill")?;
    for lender in super::stage::LENDERS {
        stage.cluster.wan.add_latency(HOME, lender, SLOW)?;
        stage.cluster.wan.add_latency(lender, HOME, SLOW)?;
    }
    let users = stage.users(act, PEAK_RATE)?;
    let going_back = matches!(after, "switchback" | "settled");
    if going_back {
        stage.serving(act, None).await?;
    }
    let run = if going_back {
        // The load goes first, or the journey would begin anew.
        let run = stage.end(users).await?;
        stage.cancel(act).await?;
        kill(stage, act, whose, after).await?;
        run
    } else {
        kill(stage, act, whose, after).await?;
        stage.serving(act, None).await?;
        stage.end(users).await?
    };
    Ok(failures("of all requests", &run.all()))
}

async fn kill(stage: &Stage, act: &Act, whose: Whose, after: &str) -> anyhow::Result<()> {
    stage.told(HOME, after, act.since).await?;
    let victim = match whose {
        Whose::Borrower => HOME.to_owned(),
        // Before a lender is chosen, the likely one.
        Whose::Lender => stage.rented(act).await?.first().map_or(FIRST.to_owned(), |l| l.lender.to_string()),
    };
    stage.kill_and_restart(&victim).await
}

/// Loads until a partner serves, does something to a process, and looks at what users saw.
async fn under_load(
    stage: &Stage,
    act: &Act,
    strike: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<(Run, Duration)> {
    let users = stage.users(act, PEAK_RATE)?;
    let begun = users.started();
    stage.serving(act, None).await?;
    // Until the share has grown.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let at = begun.elapsed();
    strike().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok((stage.end(users).await?, at))
}

async fn gateway(stage: &Stage, act: &Act, cloud: &'static str) -> anyhow::Result<Broken> {
    let dir = stage.cluster.dir(cloud).join("data/gateway").display().to_string();
    let find = || {
        stage.cluster.supervisor.find(&[dir.as_str(), "gateway"]).into_iter().find(|f| f.command.contains(" gateway "))
    };
    let (run, at) = under_load(stage, act, async || {
        let old = find().with_context(|| format!("no gateway of {cloud} runs"))?;
        stage.cluster.supervisor.kill9_pid(old.pid)?;
        stage.story.tell(cloud, "kill -9", format!("its gateway, process {}", old.pid));
        let fresh = || async { Ok(find().is_some_and(|f| f.pid != old.pid)) };
        stage.until("another gateway runs", SLACK, fresh).await?;
        let serves = || async { Ok(stage.status(cloud).await?.gateway == pumasi_api::message::GatewayState::Serving) };
        stage.until("the gateway serves", SLACK, serves).await
    })
    .await?;
    let end = Duration::from_secs(3_600);
    let mut broken =
        failures("before it died", &run.between(Duration::ZERO, at.saturating_sub(Duration::from_secs(1))));
    broken.extend(failures("after the gap", &run.between(at + GAP, end)));
    broken.extend(goes_on(&run, at + Duration::from_secs(2), end));
    if cloud != HOME {
        broken.extend(failures("in the gap", &run.between(at.saturating_sub(Duration::from_secs(1)), at + GAP)));
    } else {
        // The gateway died with what it had taken: nobody can answer that. New connections are served when it is back.
        let gap = run.between(at.saturating_sub(Duration::from_secs(1)), at + GAP);
        for outcome in [Outcome::Wrong, Outcome::TimedOut] {
            if gap.count(outcome) > 0 {
                broken.push(format!("in the gap: {} {outcome:?}", gap.count(outcome)));
            }
        }
    }
    Ok(broken)
}

async fn instance(stage: &Stage, act: &Act, cloud: &'static str) -> anyhow::Result<Broken> {
    // An instance sees its bundle at another path: it is known by the shim above it.
    let dir = stage.cluster.dir(cloud).join("data/engine").display().to_string();
    let find = || {
        let above = stage.cluster.supervisor.find(&[dir.as_str()]);
        let mut found = stage.cluster.supervisor.find(&["lab-app"]);
        found.retain(|f| above.iter().any(|a| a.pid == f.parent));
        found
    };
    let ready =
        |n: usize| async move { Ok(stage.instances(cloud).await?.iter().filter(|i| i.state == "ready").count() >= n) };
    let mut away = Duration::ZERO;
    let (run, at) = under_load(stage, act, async || {
        let victims = find();
        ensure!(!victims.is_empty(), "no instance of {} runs at {cloud}", act.name);
        let count = victims.len();
        for victim in &victims {
            stage.cluster.supervisor.kill9_pid(victim.pid)?;
            stage.story.tell(cloud, "kill -9", format!("an instance, process {}", victim.pid));
        }
        let begun = Instant::now();
        let fresh = || async { Ok(find().iter().filter(|f| victims.iter().all(|v| v.pid != f.pid)).count() >= count) };
        stage.until("instances run again", SLACK, fresh).await?;
        stage.until("instances are ready again", SLACK, || ready(count)).await?;
        away = begun.elapsed();
        stage.story.tell(cloud, "again", format!("{count} instances after {:.0} ms", ms(away)));
        Ok(())
    })
    .await?;
    let all = run.stats(|r| !r.write);
    let mut broken = failures("of the reads", &all);
    let writes = run.stats(|r| r.write);
    let told = writes.count(Outcome::Unknown);
    // A write goes nowhere but home. Where home was away for longer than one may wait, it is refused.
    let wait = Duration::from_millis(Admission::default().wait_max_ms);
    let gap = at.saturating_sub(wait)..at + away;
    let is_refused = |r: &Record| {
        let meanwhile = gap.contains(&Duration::from_micros(r.intended_us));
        r.write && r.status == 503 && r.outcome == Outcome::Failed && meanwhile
    };
    let refused = if away >= wait { run.stats(is_refused).offered() } else { 0 };
    if writes.failures() > told + refused {
        let failed = writes.failures();
        broken.push(format!("{failed} writes failed; {told} were told as unknown, {refused} as not executed"));
    }
    Ok(broken)
}
