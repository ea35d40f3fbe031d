//! Sync: what it costs that an acknowledged write is on disk in another cloud, and what becomes of writers when such a cloud is lost.
//!
//! Three clouds in one city, so that no distance is measured. City A owns two services of the same application: the copies of one follow,
//! those of the other are kept in step at city B and city C. Then city B is killed.

use super::disaster::{Stage, ms, note};
use super::overload::{TIMING, bundle, service, worth_telling};
use crate::cluster::{CloudPlan, Cluster};
use crate::example::Kind;
use crate::load::{self, OUTCOME_HEADER};
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use pumasi_terms::CloudName;
use pumasi_terms::continuity::Continuity;
use pumasi_terms::service::{DatasetMode, Service};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const HOME: &str = "city-a";
const LOST: &str = "city-b";
const CITY: &str = "Seoul";
const PLAIN: &str = "plain";
const KEPT: &str = "kept";
const SLACK: Duration = Duration::from_secs(120);
/// Writes of one client, each service.
const SINGLY: usize = 300;
/// Users who write at one time, and for how long.
const USERS: usize = 64;
const CROWDED: Duration = Duration::from_secs(5);
/// A writer waits no longer than this while a cloud in step is lost: `sync_wait_ms`, and a busy machine.
const PAUSE_MS: f64 = 3_000.0;

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("sync");
    story.chapter("Three clouds of one city found a pact, and vote");
    let plans: Vec<CloudPlan> = three_clouds().into_iter().map(|plan| CloudPlan { city: CITY, ..plan }).collect();
    let mut cluster = Cluster::start(&options.executable, &plans, TIMING).await?;
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let stage = Stage { cluster, story: story.clone(), chronicle };
    stage.cluster.operate(HOME, &["pact", "vote", "--voters", "city-a,city-b,city-c"], None).await?;
    for cloud in ["city-a", "city-b", "city-c"] {
        stage.until("every cloud has a right to write", SLACK, || stage.has_right(cloud)).await?;
    }
    let dir = bundle(&stage.cluster, &options.executable, options.bundle_mib).await?;
    for (name, mode) in [(PLAIN, DatasetMode::Async), (KEPT, DatasetMode::Sync)] {
        stage.cluster.apply(HOME, &made(name, mode, &dir)?).await?;
        stage.until("the pact looks after it", SLACK, || stage.is_protected(name, 2)).await?;
    }
    stage.until("two clouds are in step", SLACK, || stage.is_in_step(KEPT, 2)).await?;

    let at = stage.cluster.place(HOME)?.users;
    story.chapter("One client writes, then many");
    for name in [PLAIN, KEPT] {
        singly(&mut report, at, name).await?;
    }
    for name in [PLAIN, KEPT] {
        crowd(&mut report, at, name).await?;
    }
    story.chapter("A cloud in step is lost");
    lose_one(&mut report, &stage, at).await?;
    super::stay(options, story, &stage.cluster, &report).await?;
    Ok(report)
}

fn made(name: &str, mode: DatasetMode, dir: &Path) -> anyhow::Result<Service> {
    let mut made = service(Kind::Notes, name, dir, 1)?;
    let clouds = ["city-b", "city-c"].map(CloudName::parse).into_iter().collect::<Result<Vec<_>, _>>()?;
    made.spec.continuity = Continuity { clouds, standbys: Some(2), ..Continuity::default() };
    made.spec.datasets.iter_mut().for_each(|d| d.mode = mode);
    Ok(made)
}

fn host(name: &str) -> String {
    format!("{name}.city-a.example")
}

/// Whether it was acknowledged; and how long that took.
async fn write(at: SocketAddr, name: &str, text: &str) -> (bool, Duration) {
    let begun = Instant::now();
    let asked = load::ask_whole(at, &host(name), &note(text)).await;
    let well = asked.is_ok_and(|a| a.status.is_success() && !a.headers.contains_key(OUTCOME_HEADER));
    (well, begun.elapsed())
}

fn quantile(sorted: &[Duration], per_mille: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * per_mille / 1_000).min(last)).copied().unwrap_or_default()
}

async fn singly(report: &mut Report, at: SocketAddr, name: &str) -> anyhow::Result<()> {
    let (mut took, mut failed) = (Vec::new(), 0u64);
    for n in 0..SINGLY {
        let (well, time) = write(at, name, &format!("one-{n}")).await;
        took.push(time);
        failed += u64::from(!well);
    }
    took.sort();
    let told = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
    report.figure(
        &format!("{name}: one client, a write"),
        format!("p50 {}, p99 {}", told(quantile(&took, 500)), told(quantile(&took, 990))),
        format!("{SINGLY} writes, each on a connection of its own"),
    );
    report.promise(Promise::none(&format!("{name}: writes of one client that were not acknowledged"), failed));
    Ok(())
}

async fn crowd(report: &mut Report, at: SocketAddr, name: &'static str) -> anyhow::Result<()> {
    let until = Instant::now() + CROWDED;
    let mut users = tokio::task::JoinSet::new();
    for user in 0..USERS {
        users.spawn(async move {
            let (mut took, mut failed, mut n) = (Vec::new(), 0u64, 0u64);
            while Instant::now() < until {
                n += 1;
                match write(at, name, &format!("{user}-{n}")).await {
                    (true, time) => took.push(time),
                    (false, _) => failed += 1,
                }
            }
            (took, failed)
        });
    }
    let (mut took, mut failed) = (Vec::new(), 0);
    while let Some(user) = users.join_next().await {
        let (own, not) = user?;
        took.extend(own);
        failed += not;
    }
    took.sort();
    let per_second = took.len() as f64 / CROWDED.as_secs_f64();
    report.figure(
        &format!("{name}: {USERS} users at a time"),
        format!("{per_second:.0} writes/s, p50 {}, p99 {}", ms(quantile(&took, 500)), ms(quantile(&took, 990))),
        format!("{failed} not acknowledged"),
    );
    Ok(())
}

async fn lose_one(report: &mut Report, stage: &Stage, at: SocketAddr) -> anyhow::Result<()> {
    let writing = tokio::spawn(async move {
        let (mut written, mut unknown, mut longest, mut last) = (Vec::new(), 0u64, Duration::ZERO, Instant::now());
        let until = Instant::now() + Duration::from_secs(6);
        let mut n = 0;
        while Instant::now() < until {
            n += 1;
            let text = format!("lost-{n}");
            if write(at, KEPT, &text).await.0 {
                (longest, last) = (longest.max(last.elapsed()), Instant::now());
                written.push(text);
            } else {
                unknown += 1;
            }
        }
        (written, unknown, longest.max(last.elapsed()))
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.destroy(LOST)?;
    let (written, unknown, longest) = writing.await?;
    let there = stage.texts(KEPT).await?;
    let missing = written.iter().filter(|text| !there.contains(*text)).count();
    report.figure(
        "kept: while a cloud in step was lost",
        format!("{} acknowledged, {unknown} not, the longest time without one {}", written.len(), ms(longest)),
        "no answer left before the register had it out of the set",
    );
    report.promise(Promise::within_ms(
        "kept: its writers go on with the cloud that is left",
        Some(longest.as_secs_f64() * 1e3),
        PAUSE_MS,
    ));
    report.promise(Promise::none("kept: acknowledged writes that are not there", missing as u64));
    let entry = stage.entry_at(HOME, KEPT).await?;
    let in_step = entry["in_step"].to_string();
    report.promise(Promise::holds(
        "kept: the other cloud alone is in step",
        in_step == r#"["city-c"]"#,
        in_step,
        "city-c",
    ));
    Ok(())
}
