//! Foreign: applications that were not written for this project run unchanged through the overload case.
//!
//! They come from their package indexes, by pip and npm, and keep their data in SQLite databases and files. What they can serve is
//! measured, not assumed: the campaign asks for a multiple of it. Afterwards everything that was acknowledged is looked for at
//! home, in the dataset's directory and past the application.

mod app;
mod django;
mod install;
mod radicale;
mod sqlite_web;
mod uploadserver;
mod users;
mod verdaccio;

use super::overload::{TIMING, after, judge_return, ms, run_with, share, wait_for_return, worth_telling};
use super::rehearsal;
use crate::cluster::Cluster;
use crate::follow::Chronicle;
use crate::load::{self, Gaps, Jars, Outcome, Record, Run, Schedule, Stats, USER_COOKIE};
use crate::machine::ValidityBounds;
use crate::report::{Promise, Report};
use crate::run::{Options, WrongUsage, three_clouds};
use crate::story::Story;
use anyhow::{Context, bail, ensure};
use app::App;
use pumasi_terms::service::{AutomationMode, BundleRef};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use users::{Audit, Users};

const HOME: &str = "city-a";
const WRITES: f64 = 0.05;
/// As many as the load has.
const USERS: u32 = 200;
/// Of what the home alone was measured to serve.
const CALM_PART: f64 = 0.5;
const CAMPAIGN_PART: f64 = 2.5;
/// The beginning of the measurement, which does not count.
const WARM: Duration = Duration::from_secs(2);
const ALONE: Duration = Duration::from_secs(4);
const CALM: Duration = Duration::from_secs(6);
const CAMPAIGN: Duration = Duration::from_secs(16);
const AFTER: Duration = Duration::from_secs(14);
const VERDICT_MS: f64 = 1_000.0;
/// An interpreter starts slower at the partner than a compiled program: with the CPU of one instance it loads its modules first.
const RESTORED_MS: f64 = 10_000.0;
const OBJECTIVE_MS: f64 = 50.0;
const STEP: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(1);

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut apps = app::all();
    if let Some(wanted) = options.app.as_deref() {
        let known: Vec<&str> = apps.iter().map(|a| a.name()).collect();
        if !known.contains(&wanted) {
            bail!(WrongUsage(format!("--app {wanted}: there are {}", known.join(", "))));
        }
        apps.retain(|a| a.name() == wanted);
    }
    let mut report = Report::new("foreign");
    for app in apps {
        let mut part = Report::new("foreign");
        let app_name = app.name();
        play_one(app, options, story, &mut part).await.with_context(|| format!("playing {app_name}"))?;
        let named = |name: String| format!("{app_name}: {name}");
        report.figures.extend(part.figures.into_iter().map(|mut f| {
            f.name = named(f.name);
            f
        }));
        report.promises.extend(part.promises.into_iter().map(|mut p| {
            p.name = named(p.name);
            p
        }));
        report.validity.extend(part.validity);
        report.invalid_because.extend(part.invalid_because);
    }
    Ok(report)
}

/// What was played, and when it began.
struct Played {
    run: Run,
    begun: Duration,
    calm: Duration,
    jump: Duration,
    calm_p95_ms: f64,
}

async fn play_one(app: Box<dyn App>, options: &Options, story: &Story, report: &mut Report) -> anyhow::Result<()> {
    let mut service = app.service()?;
    let host = service.spec.hosts.first().context("a service has a host")?.clone();
    let name = service.metadata.name.to_string();
    story.chapter(&format!("{name}, as it comes from the package index"));
    let bundle = install::bundle(app.as_ref()).await?;
    let (files, bytes) = install::size(&bundle)?;
    story.tell("lab", "bundle", bundle.display().to_string());
    report.figure("bundle", format!("{files} files"), format!("{} MiB", bytes >> 20));
    service.spec.application.bundle = BundleRef::Path(bundle.display().to_string());

    let mut cluster = Cluster::start(&options.executable, &three_clouds(), TIMING).await?;
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    service.spec.borrowing.mode = AutomationMode::Observe;
    cluster.apply(HOME, &service).await?;
    let app = prepared(&cluster, app, &host).await?;
    let jars = jars(app.as_ref());

    story.chapter("What the home serves alone");
    let users = Arc::new(Users::new(app, WRITES));
    let too_much = users.app().too_much();
    let alone = Schedule::new(Gaps::Poisson, 11).level("warm", WARM, too_much).level("alone", ALONE, too_much);
    let alone = run_with(&cluster, story, &host, alone, users.clone(), jars.clone()).await?;
    let measured = alone.phase("alone");
    let capacity = measured.right() as f64 / ALONE.as_secs_f64();
    report.figure("the home alone", format!("{capacity:.0}/s"), format!("of {too_much:.0}/s asked, without borrowing"));
    report.promise(Promise::holds(
        "without borrowing the objective is broken",
        measured.served_share() < 0.9,
        share(&measured),
        "< 90 % answered",
    ));
    ensure!(capacity >= 5.0, "{name} answered {capacity:.1} requests a second: {}", alone.samples.join("; "));

    story.chapter("A rehearsal");
    rehearsal::judge(report, &cluster, story, &name).await?;

    story.chapter("The campaign");
    service.spec.borrowing.mode = AutomationMode::Automatic;
    cluster.apply(HOME, &service).await?;
    let (calm_rate, campaign_rate) = (capacity * CALM_PART, capacity * CAMPAIGN_PART);
    report.figure(
        "asked",
        format!("{campaign_rate:.0}/s"),
        format!("in the campaign; {calm_rate:.0}/s before and after"),
    );
    let schedule = Schedule::new(Gaps::Poisson, 7)
        .level("rest", CALM / 2, calm_rate)
        .level("before", CALM, calm_rate)
        .level("campaign", CAMPAIGN, campaign_rate)
        .level("after", AFTER, calm_rate);
    let calm = schedule.begins("before").unwrap_or_default();
    let jump = schedule.begins("campaign").unwrap_or_default();
    let begun = story.elapsed();
    let run = run_with(&cluster, story, &host, schedule, users.clone(), jars).await?;
    run.samples.iter().chain(&alone.samples).for_each(|s| story.tell("users", "problem", s));
    let calm_p95_ms = run.phase("before").latency_ms(0.95);
    let played = Played { run, begun, calm, jump, calm_p95_ms };
    judge_time(report, &cluster, &chronicle, &played);
    judge_answers(report, &[&alone, &played.run]);

    story.chapter("Everything comes back");
    wait_for_return(report, &cluster).await?;
    judge_return(report, &cluster, story, None).await?;
    let data = cluster.service_dir(HOME, &service.metadata.name).await?.join("data");
    let found = users.app().found(&data).await?;
    report.promise(Promise::holds(
        "the data at home is sound",
        found.sound,
        if found.sound { "yes" } else { "no" },
        "yes",
    ));
    judge_data(report, story, &users.audit(&found), found.records.len());
    report.validity(&format!("{} campaign", users.app().name()), &played.run.validity, &ValidityBounds::default());
    Ok(())
}

/// With its data in place and what its users need to be let in.
async fn prepared(cluster: &Cluster, mut app: Box<dyn App>, host: &str) -> anyhow::Result<Box<dyn App>> {
    let mut before = None;
    for step in 0.. {
        let planned = app.prepare(step, before.as_ref()).with_context(|| format!("preparing it, step {step}"))?;
        let Some(planned) = planned else { break };
        let answer = load::ask_whole(cluster.place(HOME)?.users, host, &planned).await?;
        let fine = !answer.status.is_client_error() && !answer.status.is_server_error();
        ensure!(fine, "{} answered {}: {}", planned.target, answer.status, String::from_utf8_lossy(&answer.body));
        before = Some(answer);
    }
    Ok(app)
}

fn jars(app: &dyn App) -> Jars {
    let jar = |user: u32| {
        let own = (USER_COOKIE.to_owned(), format!("u{user}"));
        std::iter::once(own).chain(app.cookies()).collect()
    };
    Jars::new(Mutex::new((0..USERS).map(|user| (user, jar(user))).collect()))
}

fn judge_time(report: &mut Report, cluster: &Cluster, chronicle: &Chronicle, played: &Played) {
    let (begun, jump) = (played.begun, played.jump);
    let verdict = after(chronicle, HOME, "verdict", begun + played.calm);
    let early = verdict.as_ref().is_some_and(|v| v.at < begun + jump);
    report.promise(
        Promise::holds("no verdict before the jump", !early, if early { "one" } else { "none" }, "none").about_time(),
    );
    let until =
        |action| after(chronicle, HOME, action, begun + played.calm).map(|s| ms(s.at.saturating_sub(begun + jump)));
    report.promise(Promise::within_ms("verdict after the jump", until("verdict"), VERDICT_MS));
    for (name, action) in [
        ("lease signed", "lease_signed"),
        ("application and data sent", "transferred"),
        ("access switched over", "switchover"),
    ] {
        report.figure(name, until(action).map_or("never".into(), |t| format!("{t:.0} ms")), "after the jump");
    }
    let leased = until("lease_signed").is_some();
    report.promise(Promise::holds("a lease was signed", leased, if leased { "yes" } else { "no" }, "yes"));

    let rtt_ms = cluster.clouds().iter().filter_map(|c| cluster.wan.rtt(HOME, c.name).ok()).map(ms).fold(0.0, f64::max);
    let bound_ms = played.calm_p95_ms + OBJECTIVE_MS + rtt_ms;
    let good = |w: &Stats| w.shed() == 0 && w.failures() == 0 && w.latency_ms(0.95) <= bound_ms;
    let restored = restored(&played.run, jump, jump + CAMPAIGN, good).map(ms);
    report.promise(Promise::within_ms("objective restored after the jump", restored, RESTORED_MS));
    report.figure(
        "objective as users see it",
        format!("p95 <= {bound_ms:.0} ms"),
        format!("calm p95 {:.0} + wait {OBJECTIVE_MS:.0} + way {rtt_ms:.0} ms, none shed", played.calm_p95_ms),
    );
    let campaign = played.run.phase("campaign");
    report.figure(
        "campaign",
        share(&campaign),
        format!("answered of {}; {} shed", campaign.offered(), campaign.shed()),
    );
    let last = played.run.between(jump + CAMPAIGN / 2, jump + CAMPAIGN);
    report.figure("its second half", share(&last), format!("p95 {:.0} ms", last.latency_ms(0.95)));
    let end = jump + CAMPAIGN;
    let late = played.run.between(end + Duration::from_secs(1), end + AFTER);
    report.promise(Promise::none("shed while going back", late.shed()).about_time());
}

/// From when on it was good, both at once and up to the end: these applications answer too few a second for a p95 of each short
/// window to mean anything by itself.
fn restored(run: &Run, from: Duration, to: Duration, good: impl Fn(&Stats) -> bool) -> Option<Duration> {
    let mut at = from;
    while at + WINDOW <= to {
        if good(&run.between(at, at + WINDOW)) && good(&run.between(at, to)) {
            return Some(at - from);
        }
        at += STEP;
    }
    None
}

fn judge_answers(report: &mut Report, runs: &[&Run]) {
    for outcome in
        [Outcome::Wrong, Outcome::Unknown, Outcome::Failed, Outcome::Unreachable, Outcome::Broken, Outcome::TimedOut]
    {
        let count = runs.iter().map(|r| r.all().count(outcome)).sum();
        report.promise(Promise::none(&format!("admitted requests: {outcome:?}").to_lowercase(), count));
    }
    let count = |fits: &dyn Fn(&Record, &str) -> bool| -> u64 {
        let of = |run: &&Run| {
            let by = |r: &Record| run.servers.get(usize::from(r.served_by)).map_or("", String::as_str).to_owned();
            run.records.iter().filter(|r| r.outcome == Outcome::Right && fits(r, &by(r))).count() as u64
        };
        runs.iter().map(of).sum()
    };
    let reads_away = count(&|r, by| !r.write && by != HOME && !by.is_empty());
    let reads = count(&|r, _| !r.write);
    let writes_away = count(&|r, by| r.write && by != HOME);
    report.figure("reads answered by partners", reads_away.to_string(), format!("of {reads}"));
    report.promise(Promise::holds("partners answered reads", reads_away > 0, reads_away.to_string(), "> 0"));
    report.promise(Promise::none("writes answered elsewhere than at home", writes_away));
}

fn judge_data(report: &mut Report, story: &Story, audit: &Audit, found: usize) {
    report.figure(
        "acknowledged records",
        audit.acknowledged.to_string(),
        format!("looked for at {HOME} afterwards; it has {found}"),
    );
    for (name, keys) in [
        ("acknowledged records lost", &audit.lost),
        ("records altered", &audit.altered),
        ("records written twice", &audit.doubled),
        ("refused writes that were executed", &audit.refused),
    ] {
        keys.iter().take(5).for_each(|k| story.tell("lab", "record", format!("{name}: {k}")));
        report.promise(Promise::none(name, keys.len() as u64));
    }
}
