//! Foreign: two applications that were not written for this project run unchanged through the overload case.
//!
//! `sqlite-web` keeps an SQLite database, `uploadserver` keeps files; both come from the package index by pip. What they can serve is
//! measured, not assumed: the campaign asks for a multiple of it. Afterwards everything that was acknowledged is looked for at
//! home, in the dataset's directory and past the application.

mod install;
mod users;

use super::overload::{TIMING, after, judge_return, ms, run, share, wait_for_return, worth_telling};
use crate::cluster::Cluster;
use crate::follow::Chronicle;
use crate::load::{self, Gaps, Outcome, Record, Run, Schedule, Stats};
use crate::machine::ValidityBounds;
use crate::report::{Promise, Report};
use crate::run::{Options, WrongUsage, three_clouds};
use crate::story::Story;
use anyhow::{Context, bail, ensure};
use pumasi_terms::service::{AutomationMode, BundleRef, Service};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use users::{Audit, Users};

const HOME: &str = "city-a";
const WRITES: f64 = 0.05;
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    Files,
    Sqlite,
}

impl App {
    const ALL: [App; 2] = [App::Files, App::Sqlite];

    fn name(self) -> &'static str {
        match self {
            App::Files => "files",
            App::Sqlite => "sqlite",
        }
    }

    fn manifest(self) -> (&'static str, &'static str) {
        match self {
            App::Files => {
                ("examples/uploadserver/service.yaml", include_str!("../../../../examples/uploadserver/service.yaml"))
            }
            App::Sqlite => {
                ("examples/sqlite-web/service.yaml", include_str!("../../../../examples/sqlite-web/service.yaml"))
            }
        }
    }

    fn requirements(self) -> &'static str {
        match self {
            App::Files => include_str!("../../../../examples/uploadserver/requirements.txt"),
            App::Sqlite => include_str!("../../../../examples/sqlite-web/requirements.txt"),
        }
    }

    /// Requests a second that no instance of its size answers.
    fn too_much(self) -> f64 {
        match self {
            App::Files => 300.0,
            App::Sqlite => 150.0,
        }
    }

    fn service(self) -> anyhow::Result<Service> {
        let (file, text) = self.manifest();
        pumasi_terms::manifest::services(file, text)?.into_iter().next().context("a manifest of one service")
    }
}

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let apps: Vec<App> = match options.app.as_deref() {
        None => App::ALL.to_vec(),
        Some(name) => match App::ALL.into_iter().find(|a| a.name() == name) {
            Some(app) => vec![app],
            None => bail!(WrongUsage(format!("--app {name}: there are {}", App::ALL.map(App::name).join(" and ")))),
        },
    };
    let mut report = Report::new("foreign");
    for app in apps {
        let mut part = Report::new("foreign");
        play_one(app, options, story, &mut part).await.with_context(|| format!("playing {}", app.name()))?;
        let named = |name: String| format!("{}: {name}", app.name());
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

async fn play_one(app: App, options: &Options, story: &Story, report: &mut Report) -> anyhow::Result<()> {
    let mut service = app.service()?;
    let host = service.spec.hosts.first().context("a service has a host")?.clone();
    let name = service.metadata.name.to_string();
    story.chapter(&format!("{name}, as it comes from the package index"));
    let bundle = install::bundle(app).await?;
    story.tell("lab", "bundle", bundle.display().to_string());
    service.spec.application.bundle = BundleRef::Path(bundle.display().to_string());

    let mut cluster = Cluster::start(&options.executable, &three_clouds(), TIMING).await?;
    if options.keep {
        cluster.supervisor.keep();
        story.tell("lab", "keeps", cluster.supervisor.dir().display().to_string());
    }
    let chronicle = Chronicle::new(story.clone());
    for cloud in cluster.clouds() {
        chronicle.follow(cloud.name, cluster.client(cloud.name)?, worth_telling);
    }
    service.spec.borrowing.mode = AutomationMode::Observe;
    cluster.apply(HOME, &service).await?;
    seed(&cluster, app, &host).await?;

    story.chapter("What the home serves alone");
    let users = Arc::new(Users::new(app, WRITES));
    let alone =
        Schedule::new(Gaps::Poisson, 11).level("warm", WARM, app.too_much()).level("alone", ALONE, app.too_much());
    let alone = run(&cluster, story, &host, alone, users.clone()).await?;
    let measured = alone.phase("alone");
    let capacity = measured.right() as f64 / ALONE.as_secs_f64();
    report.figure(
        "the home alone",
        format!("{capacity:.0}/s"),
        format!("of {:.0}/s asked, without borrowing", app.too_much()),
    );
    report.promise(Promise::holds(
        "without borrowing the objective is broken",
        measured.served_share() < 0.9,
        share(&measured),
        "< 90 % answered",
    ));
    ensure!(capacity >= 5.0, "{name} answered {capacity:.1} requests a second: {}", alone.samples.join("; "));

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
    let run = run(&cluster, story, &host, schedule, users.clone()).await?;
    run.samples.iter().chain(&alone.samples).for_each(|s| story.tell("users", "problem", s));
    let calm_p95_ms = run.phase("before").latency_ms(0.95);
    let played = Played { run, begun, calm, jump, calm_p95_ms };
    judge_time(report, &cluster, &chronicle, &played);
    judge_answers(report, &[&alone, &played.run]);

    story.chapter("Everything comes back");
    wait_for_return(report, &cluster).await?;
    judge_return(report, &cluster, story).await?;
    let (found, sound) = users::found(app, &data_dir(&cluster, &service).await?).await?;
    report.promise(Promise::holds("the data at home is sound", sound, if sound { "yes" } else { "no" }, "yes"));
    judge_data(report, story, &users.audit(&found), found.len());
    report.validity(&format!("{} campaign", app.name()), &played.run.validity, &ValidityBounds::default());
    Ok(())
}

async fn data_dir(cluster: &Cluster, service: &Service) -> anyhow::Result<PathBuf> {
    let dataset = service.spec.datasets.first().context("the service keeps data")?;
    Ok(cluster.service_dir(HOME, &service.metadata.name).await?.join("data").join(dataset.name.as_str()))
}

async fn seed(cluster: &Cluster, app: App, host: &str) -> anyhow::Result<()> {
    for planned in users::seeds(app) {
        let (status, body) = load::ask(cluster.place(HOME)?.users, host, &planned).await?;
        ensure!(status.is_success(), "{} answered {status}: {}", planned.target, String::from_utf8_lossy(&body));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use pumasi_terms::service::DatasetKind;

    #[test]
    fn the_manifests_are_ones_that_the_daemon_reads() {
        let kinds = App::ALL.map(|a| a.service().unwrap().spec.datasets[0].kind);
        assert_eq!(kinds, [DatasetKind::Files, DatasetKind::Sqlite]);
        assert!(App::ALL.into_iter().all(|a| a.requirements().lines().all(|l| l.contains("=="))));
    }
}
