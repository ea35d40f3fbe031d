//! Overload: a campaign brings several times what city A can serve.
//!
//! A's gateway notices within a second, A borrows from the best of its pact, sends application and data, spreads the load, and
//! gives everything back when the campaign is over. The same load without borrowing must break the objective.

use super::rehearsal;
use crate::cluster::Cluster;
use crate::example::notes::{NotesWorkload, export};
use crate::example::tickets::TicketsWorkload;
use crate::example::{Kind, ManifestOptions, manifest, work};
use crate::follow::{Chronicle, Seen};
use crate::load::{self, Gaps, LoadOptions, Outcome, Run, Running, Schedule, Stats};
use crate::machine::ValidityBounds;
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::Context;
use pumasi_api::message::{Event, LeaseView};
use pumasi_terms::service::{AutomationMode, Service};
use pumasi_terms::{LeaseId, Resources, ServiceName};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Before a campaign, requests a second; and what one instance at home can answer at most, about.
pub(super) const CALM_RATE: f64 = 90.0;
/// CPU time of a request; with the quota below an instance answers about 150 a second.
pub(super) const WORK: Duration = Duration::from_micros(1_300);
const INSTANCE: Resources = Resources { cpu_millis: 200, memory_mib: 128 };
pub(super) const JUMP: f64 = 4.0;
pub(super) const NOTES_HOST: &str = "notes.city-a.example";
pub(super) const WRITES: f64 = 0.05;
/// Clients that ask again as soon as they are answered, and for how long.
const CROWD: u32 = 64;
const CROWD_FOR: Duration = Duration::from_secs(3);
const CALM: Duration = Duration::from_secs(6);
const CAMPAIGN: Duration = Duration::from_secs(16);
const AFTER: Duration = Duration::from_secs(16);
/// A rented part shrinks when the load has been low for so long; short, so that a scenario ends.
pub(super) const TIMING: &str = "[timing]\ncalm_ms = 3000\nlease_ttl_ms = 6000";
const VERDICT_MS: f64 = 1_000.0;
const RESTORED_MS: f64 = 5_000.0;
const OBJECTIVE_MS: f64 = 50.0;
const WINDOW: Duration = Duration::from_millis(500);
const RETURNED_MS: f64 = 60_000.0;
/// What is rented stays for several times as long as a start takes, and on a busy machine that is many seconds.
const RETURN_TIMEOUT: Duration = Duration::from_secs(240);

pub(super) fn service(kind: Kind, name: &str, bundle: &Path, iterations: u32) -> anyhow::Result<Service> {
    let options = ManifestOptions {
        kind,
        name: ServiceName::parse(name)?,
        host: format!("{name}.city-a.example"),
        bundle: bundle.to_owned(),
        resources: INSTANCE,
        home_instances: 1,
        args: vec!["--work".into(), iterations.to_string(), "--workers".into(), "2".into()],
    };
    Ok(manifest(&options)?)
}

/// Without its symbols: what a test build knows of itself is two thirds of it, and no application brings that along.
pub(super) async fn bundle(cluster: &Cluster, executable: &Path, mib: u64) -> anyhow::Result<std::path::PathBuf> {
    let dir = cluster.supervisor.dir().join("bundle");
    let executable = crate::bundle::slim(executable, cluster.supervisor.dir()).await;
    let options = crate::bundle::BundleOptions { executable, bytes_min: mib << 20, seed: 1 };
    crate::bundle::create(&dir, &options)?;
    Ok(dir)
}

/// The services of a lab that is only looked at.
pub async fn deploy_examples(cluster: &Cluster, executable: &Path) -> anyhow::Result<()> {
    let dir = bundle(cluster, executable, 0).await?;
    let iterations = work::calibrate(WORK);
    cluster.apply("city-a", &service(Kind::Tickets, "tickets", &dir, iterations)?).await?;
    cluster.apply("city-a", &service(Kind::Notes, "notes", &dir, iterations)?).await
}

/// A little life, so that there is something to see.
pub fn background_load(cluster: &Cluster) -> anyhow::Result<Vec<Running>> {
    let place = cluster.place("city-a")?;
    let day = Duration::from_secs(86_400);
    let tickets = LoadOptions::new(
        Schedule::new(Gaps::Poisson, 1).level("life", day, 20.0),
        place.users,
        "tickets.city-a.example",
    );
    let notes =
        LoadOptions::new(Schedule::new(Gaps::Poisson, 2).level("life", day, 10.0), place.users, "notes.city-a.example");
    Ok(vec![load::start(tickets, Arc::new(TicketsWorkload))?, load::start(notes, Arc::new(NotesWorkload::new(0.1)))?])
}

pub(crate) fn worth_telling(event: &Event) -> bool {
    !matches!(event.action.as_str(), "plan_made" | "daemon_started" | "token_created" | "service_changed")
}

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("overload");
    story.chapter("Three clouds found a pact");
    let mut cluster = Cluster::start(&options.executable, &three_clouds(), TIMING).await?;
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let _consoles = super::consoles(options, story, &cluster).await?;
    let iterations = work::calibrate(WORK);
    let dir = bundle(&cluster, &options.executable, options.bundle_mib).await?;
    let mut notes = service(Kind::Notes, "notes", &dir, iterations)?;

    story.chapter("Clients that wait for their answers");
    notes.spec.borrowing.mode = AutomationMode::Observe;
    cluster.apply("city-a", &notes).await?;
    let workload = Arc::new(NotesWorkload::new(WRITES));
    judge_crowd(&mut report, &cluster, &chronicle, story, workload.clone()).await?;

    story.chapter("A rehearsal");
    rehearsal::judge(&mut report, &cluster, story, "notes").await?;

    story.chapter("The same load without borrowing");
    let alone = Schedule::new(Gaps::Poisson, 11).level("calm", CALM, CALM_RATE).level(
        "campaign",
        Duration::from_secs(6),
        CALM_RATE * JUMP,
    );
    let alone = run(&cluster, story, NOTES_HOST, alone, workload.clone()).await?;
    let calm_p95_ms = alone.phase("calm").latency_ms(0.95);
    let broken = alone.phase("campaign");
    report.figure("without borrowing", share(&broken), "answered of what the campaign asked");
    let broke = broken.served_share() < 0.9;
    report.promise(
        Promise::holds("without borrowing the objective is broken", broke, share(&broken), "< 90 % answered")
            .about_time(),
    );

    story.chapter("The campaign");
    notes.spec.borrowing.mode = AutomationMode::Automatic;
    cluster.apply("city-a", &notes).await?;
    let schedule = Schedule::new(Gaps::Poisson, 7)
        .level("before", CALM, CALM_RATE)
        .level("campaign", CAMPAIGN, CALM_RATE * JUMP)
        .level("after", AFTER, CALM_RATE);
    let jump = schedule.begins("campaign").unwrap_or_default();
    let begun = story.elapsed();
    let played = run(&cluster, story, NOTES_HOST, schedule, workload.clone()).await?;
    judge_run(&mut report, &cluster, &chronicle, &played, begun, jump, calm_p95_ms)?;

    story.chapter("Everything comes back");
    wait_for_return(&mut report, &cluster).await?;
    judge_return(&mut report, &cluster, story, None).await?;
    let exported = export(cluster.place("city-a")?.users, NOTES_HOST).await.context("reading every note back")?;
    let audit = workload.audit(&exported);
    report.figure("acknowledged writes", audit.acknowledged.to_string(), "all of them looked for at city-a afterwards");
    report.promise(Promise::none("acknowledged writes lost", audit.lost.len() as u64));
    report.promise(Promise::none("writes doubled or altered", (audit.doubled.len() + audit.altered.len()) as u64));
    report.validity("campaign", &played.validity, &ValidityBounds::default());
    super::stay(options, story, &cluster, &report).await?;
    Ok(report)
}

/// They never ask for more than is answered; that they wait too long is overload all the same.
async fn judge_crowd(
    report: &mut Report,
    cluster: &Cluster,
    chronicle: &Chronicle,
    story: &Story,
    workload: Arc<NotesWorkload>,
) -> anyhow::Result<()> {
    let place = cluster.place("city-a")?;
    let schedule = Schedule::new(Gaps::Even, 1).level("crowd", CROWD_FOR, 0.0);
    let options = LoadOptions {
        users: CROWD,
        users_from: Some(place.users_from),
        think: Some(Duration::ZERO),
        ..LoadOptions::new(schedule, place.users, NOTES_HOST)
    };
    let begun = story.elapsed();
    let crowd = play_load(story, options, workload).await?.all();
    let told = after(chronicle, "city-a", "verdict", begun).map(|v| ms(v.at.saturating_sub(begun)));
    report.promise(Promise::within_ms("verdict after 64 clients came that wait for their answers", told, VERDICT_MS));
    report.figure("64 clients", format!("p95 {:.0} ms", crowd.latency_ms(0.95)), "as one instance answers them");
    Ok(())
}

/// Until every lease is over; that it ends is a matter of correctness, when it ends one of time.
pub(super) async fn wait_for_return(report: &mut Report, cluster: &Cluster) -> anyhow::Result<()> {
    let begun = Instant::now();
    let over = cluster.wait_all_over(RETURN_TIMEOUT).await?;
    report.promise(Promise::holds("every lease is over on both sides", over, if over { "yes" } else { "no" }, "yes"));
    let took_ms = over.then(|| ms(begun.elapsed()));
    report.promise(Promise::within_ms("everything came back after the load", took_ms, RETURNED_MS));
    Ok(())
}

pub(super) fn share(stats: &Stats) -> String {
    format!("{:.1} %", 100.0 * stats.served_share())
}

pub(super) async fn run(
    cluster: &Cluster,
    story: &Story,
    host: &str,
    schedule: Schedule,
    workload: Arc<dyn load::Workload>,
) -> anyhow::Result<Run> {
    run_with(cluster, story, host, schedule, workload, load::Jars::default()).await
}

/// With what users bring along.
pub(super) async fn run_with(
    cluster: &Cluster,
    story: &Story,
    host: &str,
    schedule: Schedule,
    workload: Arc<dyn load::Workload>,
    jars: load::Jars,
) -> anyhow::Result<Run> {
    let place = cluster.place("city-a")?;
    let options =
        LoadOptions { users_from: Some(place.users_from), jars, ..LoadOptions::new(schedule, place.users, host) };
    play_load(story, options, workload).await
}

async fn play_load(story: &Story, options: LoadOptions, workload: Arc<dyn load::Workload>) -> anyhow::Result<Run> {
    told(story, load::start(options, workload)?).await
}

/// Tells of a load each second until it is over.
pub(crate) async fn told(story: &Story, running: Running) -> anyhow::Result<Run> {
    let mut progress = running.progress();
    let told = story.clone();
    let teller = tokio::spawn(async move {
        while progress.changed().await.is_ok() {
            let p = progress.borrow_and_update().clone();
            let text = format!(
                "{:<9} {:>4}/s asked, {:>4} right, {:>3} shed, {:>2} failed, p50 {:>4.0} ms, p95 {:>4.0} ms, machine {:>2.0} %",
                p.phase,
                p.offered,
                p.right,
                p.shed,
                p.failures,
                p.p50_ms,
                p.p95_ms,
                100.0 * p.machine_cpu_busy
            );
            told.tell("users", "load", text);
        }
    });
    let run = running.wait().await?;
    teller.abort();
    Ok(run)
}

pub(super) fn after(chronicle: &Chronicle, cloud: &str, action: &str, since: Duration) -> Option<Seen> {
    chronicle
        .all()
        .into_iter()
        .filter(|s| s.cloud == cloud && s.event.action == action && s.at >= since)
        .min_by_key(|s| s.at)
}

pub(super) fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn judge_run(
    report: &mut Report,
    cluster: &Cluster,
    chronicle: &Chronicle,
    played: &Run,
    begun: Duration,
    jump: Duration,
    calm_p95_ms: f64,
) -> anyhow::Result<()> {
    let jumped = begun + jump;
    let verdict = after(chronicle, "city-a", "verdict", begun);
    let early = verdict.as_ref().is_some_and(|v| v.at < jumped);
    report.promise(
        Promise::holds("no verdict before the jump", !early, if early { "one" } else { "none" }, "none").about_time(),
    );
    let until = |seen: &Option<Seen>| seen.as_ref().map(|s| ms(s.at.saturating_sub(jumped)));
    report.promise(Promise::within_ms("verdict after the jump", until(&verdict), VERDICT_MS));
    let steps = [
        ("lease signed", "lease_signed"),
        ("application and data sent", "transferred"),
        ("access switched over", "switchover"),
    ];
    for (name, action) in steps {
        let at = until(&after(chronicle, "city-a", action, jumped));
        report.figure(name, at.map_or("never".into(), |t| format!("{t:.0} ms")), "after the jump");
    }
    if let Some(lease) = after(chronicle, "city-a", "lender_chosen", jumped) {
        report.figure("lender", lease.event.reasons.join("; "), "");
    }
    // From outside: what a calm answer takes, the promised wait, and the way to the farthest lender.
    let rtt_ms =
        cluster.clouds().iter().filter_map(|c| cluster.wan.rtt("city-a", c.name).ok()).map(ms).fold(0.0, f64::max);
    let bound_ms = calm_p95_ms + OBJECTIVE_MS + rtt_ms;
    let end = jump + CAMPAIGN;
    let good = |w: &Stats| w.shed() == 0 && w.failures() == 0 && w.latency_ms(0.95) <= bound_ms;
    let restored = played.restored_after(jump, end, WINDOW, good).map(ms);
    report.promise(Promise::within_ms("objective restored after the jump", restored, RESTORED_MS));
    report.figure(
        "objective as users see it",
        format!("p95 <= {bound_ms:.0} ms"),
        format!("calm p95 {calm_p95_ms:.0} + wait {OBJECTIVE_MS:.0} + way {rtt_ms:.0} ms, none shed"),
    );
    let all = played.all();
    let campaign = played.phase("campaign");
    report.figure(
        "campaign",
        share(&campaign),
        format!("answered of {}; {} shed before relief", campaign.offered(), campaign.shed()),
    );
    let unavoidable = CALM_RATE * JUMP * (restored.unwrap_or(ms(CAMPAIGN)) / 1e3) * (1.0 - 1.0 / JUMP);
    report.figure("shed", all.shed().to_string(), format!("about {unavoidable:.0} could not be served before relief"));
    for outcome in
        [Outcome::Wrong, Outcome::Unknown, Outcome::Failed, Outcome::Unreachable, Outcome::Broken, Outcome::TimedOut]
    {
        report.promise(Promise::none(&format!("admitted requests: {outcome:?}").to_lowercase(), all.count(outcome)));
    }
    let calm = played.phase("before");
    // Where other work takes the machine, a home may shed at any load: these speak of the product only on a free one.
    report.promise(Promise::none("shed before the jump", calm.shed()).about_time());
    let late = played.between(end + Duration::from_secs(1), end + AFTER);
    report.promise(Promise::none("shed while going back", late.shed()).about_time());
    report.promise(Promise::none("failed while going back", late.failures()));
    let served_by = played.served_by(jump, end).into_iter().map(|(by, part)| format!("{by} {:.0} %", 100.0 * part));
    report.figure("answers", served_by.collect::<Vec<_>>().join(", "), "during the campaign");
    let served_away = after(chronicle, "city-a", "switchover", jumped).is_some();
    report.promise(
        Promise::holds("a partner served", served_away, if served_away { "yes" } else { "no" }, "yes").about_time(),
    );
    Ok(())
}

/// `away`: a lease whose borrower could not meter it for a while. Its settlement says whether the two agree.
pub(super) async fn judge_return(
    report: &mut Report,
    cluster: &Cluster,
    story: &Story,
    away: Option<&LeaseId>,
) -> anyhow::Result<()> {
    let rented = cluster.leases("city-a").await?;
    let mut lent: Vec<LeaseView> = Vec::new();
    let mut left = 0;
    for cloud in cluster.clouds().iter().filter(|c| c.name != "city-a") {
        lent.extend(cluster.leases(cloud.name).await?.into_iter().filter(|l| l.side == "lent"));
        for what in cluster.remains(cloud.name) {
            story.tell(cloud.name, "left", &what);
            left += 1;
        }
    }
    report.promise(Promise::none("processes and directories left at lenders", left));
    let unsettled = lent.iter().filter(|l| l.state != "settled").count();
    report.promise(Promise::none("leases without a signed settlement", unsettled as u64));
    let mut differ = 0;
    for mine in rented.iter().filter(|l| l.side == "rented" && Some(&l.id) != away) {
        match lent.iter().find(|l| l.id == mine.id) {
            Some(theirs) => {
                let same_requests = mine.requests.abs_diff(theirs.requests) <= 8 + mine.requests / 1_000;
                let same_time =
                    mine.instance_ms.abs_diff(theirs.instance_ms) <= 2_000 * u64::from(mine.instances_granted.max(1));
                differ += u64::from(!(same_requests && same_time));
                report.figure(
                    "ledger",
                    format!("{} requests, {} instance-ms", mine.requests, mine.instance_ms),
                    format!("{}: there {} and {}", mine.lender, theirs.requests, theirs.instance_ms),
                );
            }
            None => differ += 1,
        }
    }
    report.promise(Promise::none("leases whose ledgers differ", differ));
    report.figure("leases", rented.len().to_string(), "");
    Ok(())
}
