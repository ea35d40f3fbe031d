//! Standby: a customer wants its service kept ready at city C.
//!
//! There it outlives the end of everything that runs at city A, and a restart of C's own daemon; A comes back and sends the difference only.
//! Under load the standby helps at once, where a service without one has to look for a partner first.

use super::overload::{
    CALM_RATE, JUMP, NOTES_HOST, TIMING, WORK, WRITES, after, bundle, judge_return, ms, run, service, wait_for_return,
    worth_telling,
};
use crate::cluster::Cluster;
use crate::example::notes::{NotesWorkload, export};
use crate::example::{Kind, work};
use crate::follow::{Chronicle, Seen};
use crate::load::{Gaps, Run, Schedule};
use crate::machine::ValidityBounds;
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::{Context, bail};
use pumasi_api::message::{List, StandbyView};
use pumasi_terms::continuity::Continuity;
use pumasi_terms::service::Service;
use pumasi_terms::{CloudName, LeaseId};
use rusqlite::{Connection, OpenFlags};
use std::sync::Arc;
use std::time::{Duration, Instant};

const HOME: &str = "city-a";
const KEEPER: &str = "city-c";
/// What is waited for takes no longer, also on a busy machine.
const GIVEN_UP: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);
/// Longer than the lease's time to live, twice.
const SILENCE: Duration = Duration::from_secs(14);
const KEPT_MS: f64 = 10_000.0;
const HELP_MS: f64 = 1_000.0;
/// Of the first copy, what a return may send again.
const DIFFERENCE: f64 = 0.1;
const CALM: Duration = Duration::from_secs(2);
const CAMPAIGN: Duration = Duration::from_secs(4);

struct Stage<'a> {
    cluster: Cluster,
    chronicle: Chronicle,
    story: &'a Story,
    workload: Arc<NotesWorkload>,
    notes: Service,
}

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("standby");
    let (warm_runs, cold_runs) = if options.full { (20, 5) } else { (2, 1) };
    story.chapter("Three clouds found a pact");
    let stage = set(options, story).await?;
    story.chapter("Kept ready at city-c");
    let first_bytes = keep(&mut report, &stage).await?;
    story.chapter("Under load the standby helps");
    let warm = help(&mut report, &stage, warm_runs, true).await?;
    judge_help(&mut report, "with one warm standby", &warm, true);
    story.chapter("Everything of city-a ends");
    let lease = silence(&mut report, &stage).await?;
    story.chapter("City-a comes back");
    come_back(&mut report, &stage, first_bytes).await?;
    story.chapter("No standby any more");
    stage.cluster.apply(HOME, &Service { spec: without(&stage.notes), ..stage.notes.clone() }).await?;
    wait_for_return(&mut report, &stage.cluster).await?;
    judge_return(&mut report, &stage.cluster, story, Some(&lease)).await?;
    judge_bill(&mut report, &stage, &lease);
    story.chapter("The same load without one");
    let cold = help(&mut report, &stage, cold_runs, false).await?;
    judge_help(&mut report, "without a standby", &cold, false);
    wait_for_return(&mut report, &stage.cluster).await?;
    audit(&mut report, &stage).await?;
    super::stay(options, story, &stage.cluster, &report).await?;
    Ok(report)
}

async fn set<'a>(options: &Options, story: &'a Story) -> anyhow::Result<Stage<'a>> {
    let mut cluster = Cluster::start(&options.executable, &three_clouds(), TIMING).await?;
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let dir = bundle(&cluster, &options.executable, options.bundle_mib).await?;
    let mut notes = service(Kind::Notes, "notes", &dir, work::calibrate(WORK))?;
    let clouds = vec![CloudName::parse(KEEPER)?];
    notes.spec.continuity = Continuity { clouds, warm: 1, ..Continuity::default() };
    cluster.apply(HOME, &notes).await?;
    Ok(Stage { cluster, chronicle, story, workload: Arc::new(NotesWorkload::new(WRITES)), notes })
}

fn without(notes: &Service) -> pumasi_terms::service::ServiceSpec {
    pumasi_terms::service::ServiceSpec { continuity: Continuity::default(), ..notes.spec.clone() }
}

impl Stage<'_> {
    /// What `cloud` says of the standby of `notes`.
    async fn standby(&self, cloud: &str) -> anyhow::Result<Option<StandbyView>> {
        let all: List<StandbyView> = self.cluster.client(cloud)?.get("/v1/continuity").await?;
        Ok(all.items.into_iter().find(|s| s.service.as_str() == "notes"))
    }

    async fn until(&self, cloud: &str, fits: impl Fn(&StandbyView) -> bool) -> anyhow::Result<(StandbyView, f64)> {
        let begun = Instant::now();
        loop {
            let seen = self.standby(cloud).await;
            if let Ok(Some(view)) = &seen
                && fits(view)
            {
                return Ok((view.clone(), ms(begun.elapsed())));
            }
            if begun.elapsed() > GIVEN_UP {
                bail!("{cloud} never said of its standby what was waited for; it says {seen:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn sent(&self) -> anyhow::Result<u64> {
        Ok(self.cluster.wan.stats(HOME, KEEPER)?.bytes)
    }

    /// Notes in the copy that the keeper has.
    fn copied(&self, lease: &LeaseId) -> anyhow::Result<u64> {
        let dir = self.cluster.dir(KEEPER).join("data/leases").join(lease.as_str()).join("data/notes");
        let found = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?.flatten();
        let file = found.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "db" || e == "sqlite"));
        let file = file.with_context(|| format!("no database in {}", dir.display()))?;
        let copy = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok(copy.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))?.unsigned_abs())
    }
}

async fn keep(report: &mut Report, stage: &Stage<'_>) -> anyhow::Result<u64> {
    let (view, _) = stage.until(HOME, |s| s.state == "kept" && s.ready == 1).await?;
    let applied = after(&stage.chronicle, HOME, "journey_opened", Duration::ZERO).map(|s| s.at);
    let whole = after(&stage.chronicle, HOME, "transferred", Duration::ZERO).map(|s| s.at);
    let took = applied.zip(whole).map(|(a, b)| ms(b.saturating_sub(a)));
    report.promise(Promise::within_ms("application and data kept at city-c after the wish", took, KEPT_MS));
    let said = format!("{} in {:?} ms, loses {:?} ms", view.state, view.serves_in_ms, view.loss_ms);
    let known = view.serves_in_ms == Some(0) && view.loss_ms.is_some();
    report.promise(Promise::holds("if city-a stopped now: where, in how long, with what loss", known, said, "known"));
    let bytes = stage.sent()?;
    report.figure("first copy", format!("{bytes} bytes"), "from city-a to city-c, on the wire");
    Ok(bytes)
}

/// Plays the jump so often; from the verdict until the first answer that came from a partner, each time.
async fn help(report: &mut Report, stage: &Stage<'_>, runs: u64, kept: bool) -> anyhow::Result<Vec<Option<f64>>> {
    let mut took = Vec::new();
    for n in 0..runs {
        let schedule = Schedule::new(Gaps::Poisson, 31 + n).level("calm", CALM, CALM_RATE).level(
            "campaign",
            CAMPAIGN,
            CALM_RATE * JUMP,
        );
        let begun = stage.story.elapsed();
        let played = run(&stage.cluster, stage.story, NOTES_HOST, schedule, stage.workload.clone()).await?;
        report.validity("campaign", &played.validity, &ValidityBounds::default());
        let verdict = after(&stage.chronicle, HOME, "verdict", begun).map(|v| v.at.saturating_sub(begun));
        took.push(first_away(&played).zip(verdict).map(|(away, verdict)| ms(away.saturating_sub(verdict))));
        if kept {
            stage.until(HOME, |s| s.state == "kept" && s.ready == 1).await?;
        }
        rest(stage).await?;
    }
    Ok(took)
}

/// When the first answer of a partner began, in the run.
fn first_away(played: &Run) -> Option<Duration> {
    let away = |r: &&crate::load::Record| {
        played.servers.get(usize::from(r.served_by)).is_some_and(|by| !by.is_empty() && by != HOME)
    };
    let first = played.records.iter().filter(away).map(|r| r.first_byte_us).filter(|us| *us > 0).min();
    first.map(Duration::from_micros)
}

/// Until nothing helps any more.
async fn rest(stage: &Stage<'_>) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let all: serde_json::Value = stage.cluster.client(HOME)?.get("/v1/journeys").await?;
        let open = |j: &serde_json::Value| j["phase"]["phase"] != "closed" && j["cause"] != "continuity";
        if !all["items"].as_array().is_some_and(|items| items.iter().any(open)) {
            return Ok(());
        }
        if begun.elapsed() > GIVEN_UP * 2 {
            bail!("what helped was not given back: {all}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn judge_help(report: &mut Report, how: &str, took: &[Option<f64>], bound: bool) {
    let mut all: Vec<f64> = took.iter().map(|t| t.unwrap_or(f64::INFINITY)).collect();
    all.sort_by(f64::total_cmp);
    let at = |q: f64| all.get(((all.len() as f64 * q).ceil() as usize).clamp(1, all.len().max(1)) - 1).copied();
    let text = |t: Option<f64>| t.map_or("never".to_owned(), |t| format!("{t:.0} ms"));
    report.figure(
        &format!("verdict to first borrowed answer {how}"),
        format!("p50 {}, p99 {}", text(at(0.5)), text(at(0.99))),
        format!("{} runs", all.len()),
    );
    if bound {
        let worst = at(0.99).filter(|t| t.is_finite());
        report.promise(Promise::within_ms("verdict to first borrowed answer with a warm standby, p99", worst, HELP_MS));
    }
}

async fn count(stage: &Stage<'_>) -> anyhow::Result<u64> {
    Ok(export(stage.cluster.place(HOME)?.users, NOTES_HOST).await?.len() as u64)
}

async fn silence(report: &mut Report, stage: &Stage<'_>) -> anyhow::Result<LeaseId> {
    let lease = stage.standby(HOME).await?.and_then(|s| s.lease).context("the standby has a lease")?;
    let written = count(stage).await?;
    let under = stage.cluster.dir(HOME).display().to_string();
    let mut killed = 0;
    // The daemon first, so that nothing is started again. What ends with its parent is gone before its turn.
    stage.cluster.supervisor.kill9(HOME)?;
    for found in stage.cluster.supervisor.belonging().into_iter().filter(|f| f.command.contains(&under)) {
        killed += u64::from(stage.cluster.supervisor.kill9_pid(found.pid).is_ok());
    }
    stage.story.tell(HOME, "killed", format!("{killed} processes, {written} notes were written"));
    let (silent, _) = stage.until(KEEPER, |s| s.state == "silent").await?;
    let said = silent.loss_ms.map_or("nothing".to_owned(), |t| format!("{t} ms behind"));
    let known = silent.loss_ms.is_some();
    report.promise(Promise::holds("the standby says how old its copy is", known, said, "known"));
    tokio::time::sleep(SILENCE).await;
    stage.cluster.supervisor.kill9(KEEPER)?;
    stage.cluster.start_daemon(KEEPER)?;
    stage.cluster.wait_up(KEEPER).await?;
    let (still, _) = stage.until(KEEPER, |s| s.ready == 1).await?;
    report.promise(Promise::holds(
        "it is kept longer than every time to live, and over a restart of its daemon",
        still.state == "silent",
        still.why.clone(),
        "silent",
    ));
    let copied = stage.copied(&lease)?;
    let whole = copied == written;
    report.promise(Promise::holds("every note is in the copy", whole, copied.to_string(), written.to_string()));
    Ok(lease)
}

/// Both sides agree on what was kept and what ran, though one of them was away.
fn judge_bill(report: &mut Report, stage: &Stage<'_>, lease: &LeaseId) {
    let settled = |s: &Seen| s.cloud == HOME && s.event.action == "settled" && s.event.subject == lease.as_str();
    let said = stage.chronicle.all().into_iter().find(settled).map(|s| s.event.reasons.join("; "));
    let agree = said.as_ref().is_some_and(|s| s.contains("the ledgers agree"));
    let said = said.unwrap_or_else(|| "nothing".to_owned());
    report.promise(Promise::holds("both agree on the standby's bill", agree, said, "the ledgers agree"));
}

async fn come_back(report: &mut Report, stage: &Stage<'_>, first_bytes: u64) -> anyhow::Result<()> {
    let before = stage.sent()?;
    stage.cluster.start_daemon(HOME)?;
    stage.cluster.wait_up(HOME).await?;
    let (_, heard_ms) = stage.until(KEEPER, |s| s.state == "kept").await?;
    let (_, fresh_ms) = stage.until(HOME, |s| s.state == "kept" && s.loss_ms.is_some_and(|t| t < 1_000)).await?;
    let sent = stage.sent()?.saturating_sub(before);
    report.figure(
        "difference sent after the return",
        format!("{sent} bytes"),
        format!("heard after {heard_ms:.0} ms, fresh {fresh_ms:.0} ms later"),
    );
    let little = (sent as f64) < first_bytes as f64 * DIFFERENCE;
    let bound = format!("< {:.0} % of the first copy", DIFFERENCE * 100.0);
    report.promise(Promise::holds("only the difference is sent", little, format!("{sent} bytes"), bound));
    Ok(())
}

async fn audit(report: &mut Report, stage: &Stage<'_>) -> anyhow::Result<()> {
    let exported = export(stage.cluster.place(HOME)?.users, NOTES_HOST).await.context("reading every note back")?;
    let audit = stage.workload.audit(&exported);
    report.figure("acknowledged writes", audit.acknowledged.to_string(), "all of them looked for at city-a afterwards");
    report.promise(Promise::none("acknowledged writes lost", audit.lost.len() as u64));
    report.promise(Promise::none("writes doubled or altered", (audit.doubled.len() + audit.altered.len()) as u64));
    Ok(())
}
