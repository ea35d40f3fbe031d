//! Yields: one service alone is given up, by a cloud that lives. A heir cannot take what it was given; an owner's dataset takes no write.
//!
//! Two directories of city B are small file systems in memory. The one for applications becomes read-only: what it is given from city A,
//! which is killed, it cannot take, so it gives it up, and city C has it. The one for datasets runs full: its own service goes to city C,
//! and city B stays a member that lives. (A disk that hangs needs a kernel module; a full one takes no write either.)

use super::disaster::{Stage, holds, ms};
use super::overload::{TIMING, bundle, service, worth_telling};
use crate::cluster::Cluster;
use crate::example::Kind;
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use pumasi_terms::CloudName;
use pumasi_terms::continuity::Continuity;
use pumasi_terms::service::{RecoveryClass, Service};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of city A's; city B is given it and cannot take it.
const STICKS: &str = "sticks";
/// Of city B's, whose disk runs full.
const STALLS: &str = "stalls";
const SLACK: Duration = Duration::from_secs(90);
const SMALL_MIB: u32 = 96;
const LARGE_MIB: u32 = 512;
/// A heir tries for ten seconds; then the leader looks, each two seconds.
const GIVEN_UP_MS: f64 = 30_000.0;
/// A write fails for five seconds; then the same.
const STALLED_MS: f64 = 20_000.0;

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("yields");
    if !nix::unistd::geteuid().is_root() {
        report.figure("not played", "without root no file system can be laid out".to_owned(), "run it as root");
        return Ok(report);
    }
    story.chapter("Three clouds found a pact, and vote; two directories are small file systems of their own");
    let (mut data, mut bundles) = (None, None);
    let lay = |cluster: &Cluster| {
        data = Some(Disk::lay(&cluster.dir("city-b").join("data/services"), SMALL_MIB)?);
        bundles = Some(Disk::lay(&cluster.dir("city-b").join("data/bundles"), LARGE_MIB)?);
        Ok(())
    };
    let mut cluster = Cluster::start_laid(&options.executable, &three_clouds(), TIMING, lay).await?;
    let (data, bundles) = (data.context("a disk for data")?, bundles.context("a disk for bundles")?);
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let stage = Stage { cluster, story: story.clone(), chronicle };
    let done = acts(&stage, options, &mut report, &data, &bundles).await;
    // What instances hold on to goes with them.
    drop(data);
    drop(bundles);
    done?;
    Ok(report)
}

async fn acts(
    stage: &Stage,
    options: &Options,
    report: &mut Report,
    data: &Disk,
    bundles: &Disk,
) -> anyhow::Result<()> {
    stage.cluster.operate("city-a", &["pact", "vote", "--voters", "city-a,city-b,city-c"], None).await?;
    for cloud in ["city-a", "city-b", "city-c"] {
        stage.until("every cloud has a right to write", SLACK, || stage.has_right(cloud)).await?;
    }
    let dir = bundle(&stage.cluster, &options.executable, options.bundle_mib).await?;
    stage.cluster.apply("city-a", &made(STICKS, &["city-b", "city-c"], &dir)?).await?;
    stage.cluster.apply("city-b", &made(STALLS, &["city-c", "city-a"], &dir)?).await?;
    for name in [STICKS, STALLS] {
        stage.until("the pact looks after it", SLACK, || stage.is_protected(name, 2)).await?;
    }
    a_heir_cannot_take(stage, report, bundles).await?;
    a_disk_runs_full(stage, report, data).await
}

fn made(name: &str, kept_at: &[&str], dir: &Path) -> anyhow::Result<Service> {
    let mut made = service(Kind::Notes, name, dir, 1)?;
    let clouds = kept_at.iter().map(|c| CloudName::parse(*c)).collect::<Result<Vec<_>, _>>()?;
    made.spec.continuity = Continuity { clouds, ..Continuity::default() };
    made.spec.recovery_class = RecoveryClass::Guaranteed;
    Ok(made)
}

async fn a_heir_cannot_take(stage: &Stage, report: &mut Report, bundles: &Disk) -> anyhow::Result<()> {
    stage.story.clone().chapter("City A is lost; city B is its heir, and cannot take");
    bundles.read_only(true)?;
    // City B is the only one that may be the heir at first.
    stage.cluster.operate("city-c", &["stop-automation", "--why", "city B comes first"], None).await?;
    stage.destroy("city-a")?;
    stage.until("city B is given it", SLACK, || stage.is_owner(STICKS, "city-b")).await?;
    let given = Instant::now();
    stage.cluster.operate("city-c", &["resume-automation"], None).await?;
    stage.until("city C is given it", SLACK, || stage.is_owner(STICKS, "city-c")).await?;
    let took = given.elapsed();
    stage.until("city C serves it", SLACK, || stage.answers(STICKS)).await?;
    report.figure("from the heir's turn to the next one's", ms(took), format!("served after {}", ms(given.elapsed())));
    report.promise(Promise::within_ms("what the heir cannot take another one has", Some(ms_of(took)), GIVEN_UP_MS));
    // Before it is its own, or while its data are made so.
    let mut told = stage.journal("city-b", "takeover_given_up").await?;
    told.push_str(&stage.journal("city-b", "tenure_given_up").await?);
    report.promise(holds("city B's journal says why it gave it up", !told.is_empty(), told));
    bundles.read_only(false)
}

async fn a_disk_runs_full(stage: &Stage, report: &mut Report, data: &Disk) -> anyhow::Result<()> {
    stage.story.clone().chapter("The disk of city B's datasets takes no write any more");
    let writers = stage.writers(&[STALLS]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    data.fill()?;
    let full_at = Instant::now();
    stage.until("city C is given it", SLACK, || stage.is_owner(STALLS, "city-c")).await?;
    let took = full_at.elapsed();
    stage.until("city C serves it", SLACK, || stage.answers(STALLS)).await?;
    let served_at = Instant::now();
    report.figure("from the full disk to the next owner", ms(took), format!("served after {}", ms(full_at.elapsed())));
    report.promise(Promise::within_ms("a service whose disk is full moves alone", Some(ms_of(took)), STALLED_MS));
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (_, writer) in writers {
        let (tally, there) = (writer.end().await?, stage.texts(STALLS).await?);
        let lost = |since: Instant| tally.written.iter().filter(|w| w.at.0 > since && !there.contains(&w.text)).count();
        let (before, after) = (lost(full_at), lost(served_at));
        // A database may go on for a while in what it has on disk; copies need more than that.
        report.figure(
            "acknowledged with a full disk, and not at the heir",
            before.to_string(),
            "asynchronous copies; what was written there is set aside",
        );
        report.promise(Promise::none("writes lost that were acknowledged once it was served", after as u64));
    }
    let vote = stage.vote("city-c").await?;
    let clouds = vote["clouds"].as_array().cloned().unwrap_or_default();
    let it = clouds.into_iter().find(|c| c["cloud"] == "city-b").unwrap_or_default();
    report.promise(holds("city B is a member that lives", it["standing"] == "alive", it.to_string()));
    let told = stage.journal("city-b", "tenure_given_up").await?;
    report.promise(holds("city B's journal says why", told.contains("No space left"), told));
    Ok(())
}

fn ms_of(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A small file system in memory, in the place of a directory, as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn lay(dir: &Path, mib: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let size = format!("size={mib}m");
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .with_context(|| format!("a file system at {}", dir.display()))?;
        Ok(Self(dir.to_owned()))
    }

    fn read_only(&self, yes: bool) -> anyhow::Result<()> {
        let flags = if yes { MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY } else { MsFlags::MS_REMOUNT };
        Ok(mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>)?)
    }

    /// To the last page.
    fn fill(&self) -> anyhow::Result<()> {
        let mut file = std::fs::File::create(self.0.join("filler"))?;
        let page = vec![0u8; 4096];
        while file.write_all(&page).is_ok() {}
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its run's directory is removed after this; who still has files open there keeps them till it ends.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

impl Stage {
    async fn is_owner(&self, name: &str, cloud: &str) -> anyhow::Result<bool> {
        Ok(self.entry(name).await?["owner"] == cloud)
    }

    /// Why a cloud did this, last.
    async fn journal(&self, cloud: &str, action: &str) -> anyhow::Result<String> {
        let said = self.cluster.operate(cloud, &["events", "--limit", "300", "-o", "json"], None).await?;
        let events: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let all = events["items"].as_array().or(events.as_array()).cloned().unwrap_or_default();
        let last = all.into_iter().rfind(|e| e["action"] == action);
        Ok(last.map(|e| e["reasons"].to_string()).unwrap_or_default())
    }
}
