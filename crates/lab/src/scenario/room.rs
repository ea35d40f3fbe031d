//! Room: the only standby of a guaranteed service is full, with a deferred service of its own that its terms let stand back.
//!
//! City A owns "notes", two instances, guaranteed; city B keeps it ready and has room for two instances, which "archive" has. City C votes
//! and lends nothing. City A is killed: "archive" stands back, "notes" runs at city B at full size, as it was rehearsed. City A comes back,
//! gets "notes" again, and "archive" runs again.

use super::disaster::{Stage, holds, ms, tell_rehearsal};
use super::overload::{TIMING, bundle, service, worth_telling};
use crate::cluster::{CloudPlan, Cluster};
use crate::example::Kind;
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::Context;
use pumasi_api::message::{InstanceView, List, RehearsedService, ServiceView};
use pumasi_terms::continuity::Continuity;
use pumasi_terms::service::{HomeInstances, RecoveryClass, Service};
use pumasi_terms::{CloudName, Resources};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LOST: &str = "city-a";
const HEIR: &str = "city-b";
const RESCUED: &str = "notes";
const LATER: &str = "archive";
/// Of either service, and what the heir has room for.
const FULL: u32 = 2;
const SLACK: Duration = Duration::from_secs(90);
/// Probation, the way back and a busy machine.
const BACK: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(50);

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("room");
    story.chapter("Three clouds found a pact, and vote; city B has room for two instances, and says what gives way");
    let mut cluster = Cluster::start(&options.executable, &plans(), TIMING).await?;
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let stage = Stage { cluster, story: story.clone(), chronicle };
    stage.cluster.operate(LOST, &["pact", "vote", "--voters", "city-a,city-b,city-c"], None).await?;
    for cloud in [LOST, HEIR, "city-c"] {
        stage.until("every cloud has a right to write", SLACK, || stage.has_right(cloud)).await?;
    }
    stage.cluster.operate(HEIR, &["pact", "terms", "--gives-way", "own-deferred"], None).await?;

    story.chapter("City B is full with a service of its own, and keeps one of city A's ready");
    let dir = bundle(&stage.cluster, &options.executable, options.bundle_mib).await?;
    stage.cluster.apply(HEIR, &made(LATER, RecoveryClass::Deferred, &[], &dir)?).await?;
    stage.cluster.apply(LOST, &made(RESCUED, RecoveryClass::Guaranteed, &[HEIR], &dir)?).await?;
    stage.until("the pact looks after it", SLACK, || stage.is_protected(RESCUED, 1)).await?;
    let said = rehearsed(&stage, &mut report).await?;

    story.chapter("City A is lost");
    let writers = stage.writers(&[RESCUED]);
    let crowded = Crowd::watch(&stage)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost_at = stage.destroy(LOST)?;
    stage.until("city B says what stands back", SLACK, || stage.stands_back()).await?;
    let told = stage.told().await?;
    stage.until("the service runs at full size", SLACK, || stage.runs(RESCUED, FULL)).await?;
    judge(&stage, &mut report, &said, lost_at, &told).await?;
    stage.until("somebody else answers writers", SLACK, || stage.answers(RESCUED)).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (_, writer) in writers {
        let tally = writer.end().await?;
        let there = stage.texts(RESCUED).await?;
        let lost = tally.written.iter().filter(|w| w.at.0 > lost_at && !there.contains(&w.text)).count();
        report.promise(Promise::none("writes lost that were acknowledged after the loss", lost as u64));
    }

    let most = crowded.most.load(Ordering::Relaxed);
    report.figure("most instances that were ready at city B at one time", most.to_string(), format!("room for {FULL}"));
    drop(crowded);

    story.chapter("City A is back");
    stage.cluster.start_daemon(LOST)?;
    stage.cluster.wait_up(LOST).await?;
    stage.until("city A has its service again", BACK, || stage.is_back(RESCUED)).await?;
    let back_at = Instant::now();
    stage.until("what stood back runs again", SLACK, || stage.runs(LATER, FULL)).await?;
    let took = ms(back_at.elapsed());
    report.figure("from the return until what stood back ran again", took.clone(), "");
    report.promise(holds("what stood back runs again at full size", true, took));
    stage.until("city B keeps it ready again", BACK, || stage.is_protected(RESCUED, 1)).await?;
    report.promise(holds("it is kept ready again, though nothing is free", true, "city-b".into()));
    Ok(report)
}

fn plans() -> Vec<CloudPlan> {
    let room = |n: u32| Resources { cpu_millis: 200 * n, memory_mib: 128 * n };
    // City A lends as well: what comes back is kept ready there first.
    let lends = [room(FULL), room(FULL), room(0)];
    let has = [room(8), room(FULL), room(1)];
    let plans = three_clouds().into_iter().zip(lends).zip(has);
    plans.map(|((plan, lends), capacity)| CloudPlan { capacity, lends, ..plan }).collect()
}

fn made(name: &str, class: RecoveryClass, kept_at: &[&str], dir: &Path) -> anyhow::Result<Service> {
    let mut made = service(Kind::Notes, name, dir, 1)?;
    let clouds = kept_at.iter().map(|c| CloudName::parse(*c)).collect::<Result<Vec<_>, _>>()?;
    made.spec.continuity = Continuity { clouds, ..Continuity::default() };
    made.spec.recovery_class = class;
    made.spec.instances.home = HomeInstances::fixed(FULL);
    Ok(made)
}

async fn rehearsed(stage: &Stage, report: &mut Report) -> anyhow::Result<RehearsedService> {
    let view = stage.rehearse().await?;
    tell_rehearsal(&stage.story, &view);
    let said = view.services.into_iter().find(|s| s.service.as_str() == RESCUED).context("it was not rehearsed")?;
    let heir = said.heir.as_ref().map(CloudName::as_str);
    let grows = (heir, said.instances, said.grows_to, said.falls_short) == (Some(HEIR), 0, Some(FULL), false);
    report.promise(holds("the rehearsal says at whose cost, and how soon", grows, format!("{said:?}")));
    Ok(said)
}

async fn judge(
    stage: &Stage,
    report: &mut Report,
    said: &RehearsedService,
    lost_at: Instant,
    told: &str,
) -> anyhow::Result<()> {
    let took = lost_at.elapsed();
    let entry = stage.entry(RESCUED).await?;
    let owner = entry["owner"].as_str().unwrap_or_default();
    report.figure("from the loss to full size", ms(took), format!("owner {owner}, epoch {}", entry["epoch"]));
    let heir = said.heir.as_ref().map_or("", |h| h.as_str());
    report.promise(holds("it lives where it was rehearsed", owner == heir, format!("{owner}, said {heir}")));
    let at_most_ms =
        said.grows_in_ms.context("the rehearsal names a time")?.saturating_add(said.rto_ms.unwrap_or(5_000));
    report.promise(Promise::within_ms(
        "it has its full size within what was rehearsed",
        Some(took.as_secs_f64() * 1e3),
        at_most_ms as f64,
    ));
    report.promise(holds("city B tells for whom its service stands back", told.contains(RESCUED), told.to_owned()));
    let later = stage.view(LATER).await?.status;
    let told = format!("{} of {}, {}", later.home_ready, later.home_wanted, later.why);
    report.promise(holds("what counts less runs no more", later.home_ready == 0, told));
    let journal = stage.cluster.operate(HEIR, &["events", "--limit", "200", "-o", "json"], None).await?;
    for action in ["stood_back", "room_awaited", "room_made"] {
        report.promise(holds(&format!("city B's journal says {action}"), journal.contains(action), action.into()));
    }
    Ok(())
}

/// The most instances that were ready at the heir at one time: what is prepared runs nothing yet.
struct Crowd {
    most: Arc<AtomicUsize>,
    watch: tokio::task::JoinHandle<()>,
}

impl Crowd {
    fn watch(stage: &Stage) -> anyhow::Result<Self> {
        let (client, most) = (stage.cluster.client(HEIR)?, Arc::new(AtomicUsize::new(0)));
        let seen = most.clone();
        let watch = tokio::spawn(async move {
            loop {
                if let Ok(all) = client.get::<List<InstanceView>>("/v1/instances").await {
                    let live = all.items.iter().filter(|i| i.lease.is_none() && i.state == "ready").count();
                    seen.fetch_max(live, Ordering::Relaxed);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Self { most, watch })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Stage {
    async fn view(&self, name: &str) -> anyhow::Result<ServiceView> {
        Ok(self.cluster.client(HEIR)?.get(&format!("/v1/services/{name}")).await?)
    }

    async fn runs(&self, name: &str, count: u32) -> anyhow::Result<bool> {
        let status = self.view(name).await?.status;
        Ok(status.home_ready == count && status.home_wanted == count)
    }

    async fn stands_back(&self) -> anyhow::Result<bool> {
        Ok(self.view(LATER).await?.status.phase == "stands_back")
    }

    /// What people read at the heir.
    async fn told(&self) -> anyhow::Result<String> {
        let services = self.cluster.operate(HEIR, &["get", "services"], None).await?;
        let line = services.lines().find(|l| l.contains("stands back")).unwrap_or_default().to_owned();
        self.story.tell(HEIR, "get", line.trim());
        Ok(line)
    }
}
