//! Disaster: everything of a cloud is killed at once, and those that agreed on it beforehand go on with its services by themselves.
//!
//! City A owns three services; city B and city C keep them ready, and all three vote. One of them is kept in step: no write of it that was
//! acknowledged may be lost, also not of the last moment. Users write at whichever entrance answers, and some stay at one. City A is killed
//! with all that runs on it; later it is started again, and gets its services back. What it had acknowledged and nobody had copied is then
//! in a divergence, which is downloaded and discarded.

use super::overload::{TIMING, WORK, bundle, service, worth_telling};
use crate::cluster::Cluster;
use crate::example::notes::Exported;
use crate::example::{Kind, work};
use crate::follow::{Chronicle, Seen};
use crate::load::{self, Planned};
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use pumasi_api::message::RehearsalView;
use pumasi_terms::CloudName;
use pumasi_terms::continuity::Continuity;
use pumasi_terms::service::{DatasetMode, RecoveryClass, Service};
use pumasi_terms::sync::OnStandbyLoss;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const LOST: &str = "city-a";
/// The one whose dataset says `mode: sync`.
const IN_STEP: &str = "early";
const CLOUDS: [&str; 3] = ["city-a", "city-b", "city-c"];
const SLACK: Duration = Duration::from_secs(90);
/// Probation, the way back and a busy machine.
const BACK: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(50);
/// Users try the next entrance after this, as resolvers and browsers do.
const TRY: Duration = Duration::from_millis(400);
/// An entrance's table follows the register within a look; the machine is busy.
const ENTRANCE: Duration = Duration::from_secs(20);
/// What was acknowledged so long before the loss is at the heir: copies follow within a fraction of it.
const FOLLOWED: Duration = Duration::from_secs(1);
/// `default` times: silence of 2.2 s, the commit, one start.
const NOTICED_MS: f64 = 5_000.0;

/// What users of one service wrote, and what became of it.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) text: String,
    /// Began, answered.
    pub(super) at: (Instant, Instant),
}

pub(super) struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Tally>,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) written: Vec<Written>,
    refused: u64,
    unknown: u64,
}

pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) story: Story,
    pub(super) chronicle: Chronicle,
}

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("disaster");
    story.chapter("Three clouds found a pact, and vote");
    let mut cluster = Cluster::start(&options.executable, &three_clouds(), TIMING).await?;
    let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let stage = Stage { cluster, story: story.clone(), chronicle };
    let begun = Instant::now();
    let voters = CLOUDS.join(",");
    stage.cluster.operate(LOST, &["pact", "vote", "--voters", &voters], None).await?;
    for cloud in CLOUDS {
        stage.until("every cloud has a right to write", SLACK, || stage.has_right(cloud)).await?;
    }
    report.figure("from the wish to vote to the last cloud's right", ms(begun.elapsed()), "all three");

    story.chapter("City A's services are kept ready at the others");
    let dir = bundle(&stage.cluster, &options.executable, options.bundle_mib).await?;
    let iterations = work::calibrate(WORK) / 10;
    let names = ["notes", "early", "later"];
    for (name, class) in names.iter().zip([RecoveryClass::Guaranteed, RecoveryClass::Early, RecoveryClass::Deferred]) {
        stage.cluster.apply(LOST, &kept(name, class, &dir, iterations)?).await?;
    }
    for name in names {
        stage.until("the pact looks after every service", SLACK, || stage.is_protected(name, 2)).await?;
    }
    stage.judge_entrances(&mut report, &names, "before the loss").await?;
    stage.until("two clouds are in step", SLACK, || stage.is_in_step(IN_STEP, 2)).await?;
    let rehearsed = stage.rehearse().await?;
    tell_rehearsal(&stage.story, &rehearsed);

    story.chapter("City A is lost, with everything on it, while users write");
    let writers = stage.writers(&["notes", "early"]);
    let settled = stage.settled();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let lost_at = stage.destroy(LOST)?;
    for name in ["notes", "early"] {
        stage.until("somebody else answers writers", SLACK, || stage.answers(name)).await?;
    }
    stage.judge_waiting(&mut report, "later").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut tallies = Vec::new();
    for (name, writer) in writers {
        tallies.push((name, writer.end().await?));
    }
    for (at, writer) in settled {
        stage.judge_settled(&mut report, at, &writer.end().await?, lost_at);
    }
    let mut missing = Vec::new();
    for (name, tally) in &tallies {
        missing.push((*name, stage.judge_takeover(&mut report, name, tally, lost_at).await?));
    }
    stage.judge_rehearsal(&mut report, &rehearsed).await?;

    story.chapter("City A is back");
    let writers = stage.writers(&["notes", "early"]);
    stage.cluster.start_daemon(LOST)?;
    stage.cluster.wait_up(LOST).await?;
    for name in names {
        stage.until("city A has its services again", BACK, || stage.is_back(name)).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (name, writer) in writers {
        let tally = writer.end().await?;
        stage.judge_return(&mut report, name, &tally).await?;
    }
    for (name, lost) in &missing {
        stage.judge_divergence(&mut report, name, lost, 1).await?;
    }
    stage.judge_entrances(&mut report, &names, "after the return").await?;

    story.chapter("City A stands still, is taken for lost, and goes on");
    stage.until("a standby is there again", BACK, || stage.is_protected("notes", 1)).await?;
    let writers = stage.writers(&["notes"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let paused = stage.signal(LOST, Signal::SIGSTOP);
    let still_at = Instant::now();
    // It is the second loss within ten minutes: the pact asks operators of a majority.
    for cloud in ["city-b", "city-c"] {
        stage.until("an operator agrees", SLACK, || stage.approves(cloud)).await?;
    }
    stage.until("somebody else answers writers", SLACK, || stage.answers("notes")).await?;
    for pid in paused {
        // The daemon goes on first, and may have ended an instance by now.
        let _ = stage.cluster.supervisor.signal_pid(pid, Signal::SIGCONT);
    }
    // At once, at its own entrance: whatever it acknowledges now must be in the surviving copy.
    let late = stage.writer_at("notes", stage.entrances()[..1].to_vec());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut tally = late.end().await?;
    for (_, writer) in writers {
        let more = writer.end().await?;
        tally.written.extend(more.written);
    }
    stage.judge_pause(&mut report, &tally, still_at).await?;
    let there = stage.texts("notes").await?;
    let gone = tally.written.into_iter().filter(|w| w.at.1 <= still_at && !there.contains(&w.text));
    let lost: Vec<String> = gone.map(|w| w.text).collect();
    stage.judge_divergence(&mut report, "notes", &lost, 2).await?;
    Ok(report)
}

pub(super) fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

fn kept(name: &str, class: RecoveryClass, dir: &std::path::Path, iterations: u32) -> anyhow::Result<Service> {
    let mut made = service(Kind::Notes, name, dir, iterations)?;
    let clouds = ["city-b", "city-c"].map(CloudName::parse).into_iter().collect::<Result<Vec<_>, _>>()?;
    made.spec.continuity = Continuity { clouds, standbys: Some(2), ..Continuity::default() };
    made.spec.recovery_class = class;
    for dataset in made.spec.datasets.iter_mut().filter(|_| name == IN_STEP) {
        // Its heir goes on before it has a standby of its own.
        (dataset.mode, dataset.on_standby_loss) = (DatasetMode::Sync, OnStandbyLoss::Alone);
    }
    Ok(made)
}

pub(super) fn tell_rehearsal(story: &Story, view: &RehearsalView) {
    for s in &view.services {
        let heir = s.heir.as_ref().map_or("nobody", |h| h.as_str());
        story.tell(
            "rehearsal",
            "says",
            format!("{}: {} at {heir}, {} of {}; {}", s.service, s.outcome, s.instances, s.of, s.why),
        );
    }
}

impl Writer {
    pub(super) async fn end(self) -> anyhow::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("a writer ended")
    }
}

impl Stage {
    pub(super) async fn until<F: Future<Output = anyhow::Result<bool>>>(
        &self,
        what: &str,
        at_most: Duration,
        mut fits: impl FnMut() -> F,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            if matches!(fits().await, Ok(true)) {
                return Ok(());
            }
            ensure!(begun.elapsed() < at_most, "not within {at_most:?}: {what}");
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn vote(&self, cloud: &str) -> anyhow::Result<serde_json::Value> {
        let shown: serde_json::Value = self.cluster.client(cloud)?.get("/v1/pact").await?;
        Ok(shown["vote"].clone())
    }

    pub(super) async fn has_right(&self, cloud: &str) -> anyhow::Result<bool> {
        Ok(self.vote(cloud).await?["right_ms"].as_u64().is_some_and(|ms| ms > 0))
    }

    /// The register's entry, as a survivor has it.
    pub(super) async fn entry(&self, name: &str) -> anyhow::Result<serde_json::Value> {
        self.entry_at("city-b", name).await
    }

    pub(super) async fn entry_at(&self, cloud: &str, name: &str) -> anyhow::Result<serde_json::Value> {
        let vote = self.vote(cloud).await?;
        let all = vote["services"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|s| s["service"] == name).with_context(|| format!("{name} is not in the register"))
    }

    pub(super) async fn is_protected(&self, name: &str, by: usize) -> anyhow::Result<bool> {
        Ok(self.entry(name).await?["standbys"].as_array().is_some_and(|s| s.len() >= by))
    }

    pub(super) async fn is_in_step(&self, name: &str, with: usize) -> anyhow::Result<bool> {
        Ok(self.entry(name).await?["in_step"].as_array().is_some_and(|s| s.len() >= with))
    }

    pub(super) async fn rehearse(&self) -> anyhow::Result<RehearsalView> {
        let said = self.cluster.operate("city-b", &["pact", "rehearse", "--lose", LOST, "-o", "json"], None).await?;
        serde_json::from_str(&said).with_context(|| said.clone())
    }

    fn signal(&self, cloud: &str, signal: Signal) -> Vec<u32> {
        let reached = self.cluster.signal_all(cloud, signal);
        self.story.tell(cloud, signal.as_str(), format!("all of it, {} processes", reached.len()));
        reached
    }

    pub(super) fn destroy(&self, cloud: &str) -> anyhow::Result<Instant> {
        self.cluster.supervisor.kill9(cloud)?;
        self.signal(cloud, Signal::SIGKILL);
        // What was answered while one after the other died was answered by it.
        Ok(Instant::now())
    }

    pub(super) fn writers(&self, names: &[&'static str]) -> Vec<(&'static str, Writer)> {
        names.iter().map(|name| (*name, self.writer(name))).collect()
    }

    fn entrances(&self) -> Vec<SocketAddr> {
        CLOUDS.iter().filter_map(|c| self.cluster.place(c).ok()).map(|p| p.users).collect()
    }

    pub(super) fn writer(&self, name: &'static str) -> Writer {
        self.writer_at(name, self.entrances())
    }

    fn writer_at(&self, name: &'static str, entrances: Vec<SocketAddr>) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let task = tokio::spawn(async move {
            let (mut tally, mut at, mut n) = (Tally::default(), 0, 0u64);
            let host = format!("{name}.city-a.example");
            let life = rand::random::<u32>();
            while !until.load(Ordering::Relaxed) {
                n += 1;
                let text = format!("{life:08x}-{n}");
                let begun = Instant::now();
                match tokio::time::timeout(TRY, load::ask(entrances[at], &host, &note(&text))).await {
                    Ok(Ok((status, _))) if status.is_success() => {
                        tally.written.push(Written { text, at: (begun, Instant::now()) });
                    }
                    Ok(Ok(_)) => {
                        tally.refused += 1;
                        at = (at + 1) % entrances.len();
                    }
                    _ => {
                        tally.unknown += 1;
                        at = (at + 1) % entrances.len();
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tally
        });
        Writer { stop, task }
    }

    /// A write that a survivor's entrance acknowledges.
    pub(super) async fn answers(&self, name: &str) -> anyhow::Result<bool> {
        for entrance in self.entrances().into_iter().skip(1) {
            let text = format!("probe-{:08x}", rand::random::<u32>());
            let asked = load::ask(entrance, &format!("{name}.city-a.example"), &note(&text)).await;
            if asked.is_ok_and(|(status, _)| status.is_success()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All that the service has now.
    pub(super) async fn texts(&self, name: &str) -> anyhow::Result<BTreeSet<String>> {
        let (mut all, mut after) = (BTreeSet::new(), 0);
        loop {
            let page = self.page(name, after).await?;
            after = page.notes.iter().map(|n| n.id).max().unwrap_or(after);
            all.extend(page.notes.into_iter().map(|n| n.text));
            if !page.more {
                return Ok(all);
            }
        }
    }

    async fn page(&self, name: &str, after: i64) -> anyhow::Result<Exported> {
        let (mut last, host) = (String::new(), format!("{name}.city-a.example"));
        for entrance in self.entrances() {
            match load::ask(entrance, &host, &Planned::get(format!("/export?after={after}"))).await {
                Ok((status, body)) if status.is_success() => return Ok(serde_json::from_slice(&body)?),
                Ok((status, body)) => last = format!("{status} {}", String::from_utf8_lossy(&body)),
                Err(e) => last = e.to_string(),
            }
        }
        anyhow::bail!("nobody tells what {name} has: {last}")
    }

    async fn judge_takeover(
        &self,
        report: &mut Report,
        name: &str,
        tally: &Tally,
        lost_at: Instant,
    ) -> anyhow::Result<Vec<String>> {
        let there = self.texts(name).await?;
        let before: Vec<&Written> = tally.written.iter().filter(|w| w.at.1 <= lost_at).collect();
        let after = tally.written.iter().find(|w| w.at.0 > lost_at).context("nothing was written after the loss")?;
        let took_ms = (after.at.1 - lost_at).as_secs_f64() * 1e3;
        let missing: Vec<&&Written> = before.iter().filter(|w| !there.contains(&w.text)).collect();
        let oldest = missing.iter().map(|w| lost_at - w.at.1).max().unwrap_or_default();
        let late = missing.iter().filter(|w| lost_at - w.at.1 > FOLLOWED).count();
        let lost_after = tally.written.iter().filter(|w| w.at.0 > lost_at && !there.contains(&w.text)).count();
        let entry = self.entry(name).await?;
        report.figure(
            &format!("{name}: from the loss to the first acknowledged write"),
            format!("{took_ms:.0} ms"),
            format!("owner {}, epoch {}", entry["owner"], entry["epoch"]),
        );
        report.figure(
            &format!("{name}: acknowledged before and not in the surviving copy"),
            format!("{} of {}, the oldest {} before the loss", missing.len(), before.len(), ms(oldest)),
            if name == IN_STEP { "kept in step" } else { "asynchronous copies" },
        );
        report.promise(Promise::within_ms(&format!("{name}: others go on with it"), Some(took_ms), NOTICED_MS));
        report.promise(match name {
            IN_STEP => Promise::none(&format!("{name}: acknowledged writes lost"), missing.len() as u64),
            _ => {
                let what = format!("{name}: writes lost that were acknowledged {FOLLOWED:?} before the loss");
                Promise::none(&what, late as u64)
            }
        });
        report
            .promise(Promise::none(&format!("{name}: writes lost that were acknowledged after it"), lost_after as u64));
        report.promise(holds(
            &format!("{name}: another cloud owns it"),
            entry["owner"] != LOST,
            entry["owner"].to_string(),
        ));
        Ok(missing.iter().map(|w| w.text.clone()).collect())
    }

    /// Users who know one entrance only, of the survivors.
    fn settled(&self) -> Vec<(&'static str, Writer)> {
        let pairs = CLOUDS.into_iter().zip(self.entrances()).skip(1);
        pairs.map(|(cloud, at)| (cloud, self.writer_at("notes", vec![at]))).collect()
    }

    fn judge_settled(&self, report: &mut Report, at: &str, tally: &Tally, lost_at: Instant) {
        let acknowledged = |after: bool| tally.written.iter().filter(|w| (w.at.0 > lost_at) == after).count();
        let (before, after) = (acknowledged(false), acknowledged(true));
        let first = tally.written.iter().find(|w| w.at.0 > lost_at);
        let took = first.map_or("never".to_owned(), |w| ms(w.at.1 - lost_at));
        report.figure(
            &format!("notes, by {at}'s entrance alone"),
            format!("{before} written before the loss, {after} after it, the first {took} after it"),
            format!("{} refused, {} unknown", tally.refused, tally.unknown),
        );
        report.promise(holds(
            &format!("notes: {at} is an entrance before the loss and after it"),
            before > 0 && after > 0,
            format!("{before} and {after}"),
        ));
    }

    /// Each entrance takes a write for each service.
    async fn judge_entrances(&self, report: &mut Report, names: &[&str], when: &str) -> anyhow::Result<()> {
        let mut closed = Vec::new();
        for name in names {
            for (cloud, entrance) in CLOUDS.into_iter().zip(self.entrances()) {
                let host = format!("{name}.city-a.example");
                let takes = || async {
                    let text = format!("entrance-{:08x}", rand::random::<u32>());
                    Ok(load::ask(entrance, &host, &note(&text)).await?.0.is_success())
                };
                // Its table may be a moment behind.
                if self.until("an entrance takes a write", ENTRANCE, takes).await.is_err() {
                    closed.push(format!("{name} at {cloud}"));
                }
            }
        }
        let told = if closed.is_empty() { "every one".to_owned() } else { format!("not {}", closed.join(", ")) };
        report.promise(holds(&format!("every cloud is an entrance of every service {when}"), closed.is_empty(), told));
        Ok(())
    }

    /// What nobody has taken says so at every entrance that is left, at once, with its place.
    async fn judge_waiting(&self, report: &mut Report, name: &str) -> anyhow::Result<()> {
        for (cloud, entrance) in CLOUDS.into_iter().zip(self.entrances()).skip(1) {
            let begun = Instant::now();
            let asked = load::ask(entrance, &format!("{name}.city-a.example"), &Planned::get("/".to_owned())).await;
            let took = begun.elapsed();
            let (status, body) = asked.map_or((0, Vec::new()), |(status, body)| (status.as_u16(), body.to_vec()));
            let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let kept = status == 503 && said["reason"] == "waiting" && said["place"] == 1 && took < TRY;
            let told = format!("{status} after {}: {}", ms(took), said["detail"].as_str().unwrap_or_default());
            report.promise(holds(&format!("{name}: {cloud} tells its users what it waits for"), kept, told));
        }
        Ok(())
    }

    fn settled_aside(&self, name: &str) -> usize {
        let is_it = |e: &&Seen| {
            let action = e.event.action.as_str();
            e.cloud == LOST && e.event.subject == name && matches!(action, "data_set_aside" | "data_agree")
        };
        self.chronicle.all().iter().filter(is_it).count()
    }

    /// What was acknowledged and is not in the surviving copy is in a divergence, which is downloaded and then discarded; `times`: losses.
    async fn judge_divergence(
        &self,
        report: &mut Report,
        name: &str,
        lost: &[String],
        times: usize,
    ) -> anyhow::Result<()> {
        let decided = || async { Ok(self.settled_aside(name) >= times) };
        self.until("what it had written is compared with what its heir began from", BACK, decided).await?;
        let found = self.divergences(name).await?;
        let mut there = 0;
        for one in &found {
            let epoch = one["epoch"].as_u64().context("a divergence has an epoch")?;
            let path = format!("/v1/services/{name}/divergences/{epoch}/archive");
            let archive = self.cluster.client(LOST)?.bytes(&path).await?;
            let has = |text: &&String| archive.windows(text.len()).any(|w| w == text.as_bytes());
            there += lost.iter().filter(has).count();
            self.story.tell(
                LOST,
                "divergence",
                format!("{name}, epoch {epoch}: {} bytes; {}", archive.len(), one["summary"]),
            );
            let epoch = epoch.to_string();
            let asked = ["divergence", "discard", name, "--epoch", &epoch, "--why", "downloaded"];
            self.cluster.operate(LOST, &asked, None).await?;
        }
        report.figure(
            &format!("{name}: acknowledged, lost, and found in a divergence"),
            format!("{there} of {}", lost.len()),
            format!("{} divergences", found.len()),
        );
        let what = format!("{name}: every acknowledged write that is lost is in a divergence ({times})");
        report.promise(holds(&what, there == lost.len(), format!("{there} of {}", lost.len())));
        let left = self.divergences(name).await?.len();
        report.promise(Promise::none(
            &format!("{name}: divergences left after they were discarded ({times})"),
            left as u64,
        ));
        Ok(())
    }

    async fn divergences(&self, name: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let said = self.cluster.operate(LOST, &["get", "divergences", "-o", "json"], None).await?;
        let list: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|d| d["service"] == name).collect())
    }

    async fn judge_rehearsal(&self, report: &mut Report, rehearsed: &RehearsalView) -> anyhow::Result<()> {
        for said in &rehearsed.services {
            let entry = self.entry(said.service.as_str()).await?;
            // Which of two heirs has the fresher copy changes by the millisecond; whether there is one does not.
            let wanted = said.heir.as_ref().map_or(LOST, |h| h.as_str());
            let kept = (entry["owner"] == LOST) == said.heir.is_none();
            let told = format!("{} {}, said: {} at {wanted}", entry["owner"], entry["phase"], said.outcome);
            report.promise(holds(&format!("{}: as it was rehearsed", said.service), kept, told));
        }
        Ok(())
    }

    async fn approves(&self, cloud: &str) -> anyhow::Result<bool> {
        let said = self.cluster.operate(cloud, &["pact", "recover", LOST, "--why", "it stands still"], None).await?;
        self.story.tell(cloud, "agrees", said.trim());
        Ok(true)
    }

    async fn judge_pause(&self, report: &mut Report, tally: &Tally, still_at: Instant) -> anyhow::Result<()> {
        let there = self.texts("notes").await?;
        let after = tally.written.iter().filter(|w| w.at.0 > still_at);
        let lost = after.clone().filter(|w| !there.contains(&w.text)).count();
        let told = format!("{lost} of {}", after.count());
        report.promise(Promise::holds(
            "a cloud that stood still acknowledges nothing that is lost",
            lost == 0,
            told,
            "0",
        ));
        let owner = self.entry("notes").await?["owner"].to_string();
        report.promise(holds(
            "a cloud that stood still owns nothing that was taken over",
            !owner.contains(LOST),
            owner,
        ));
        Ok(())
    }

    pub(super) async fn is_back(&self, name: &str) -> anyhow::Result<bool> {
        let entry = self.entry(name).await?;
        Ok(entry["owner"] == LOST && entry["phase"] == "serving")
    }

    async fn judge_return(&self, report: &mut Report, name: &str, tally: &Tally) -> anyhow::Result<()> {
        let there = self.texts(name).await?;
        let lost = tally.written.iter().filter(|w| !there.contains(&w.text)).count();
        report.promise(Promise::none(&format!("{name}: writes lost on the way back"), lost as u64));
        report.figure(
            &format!("{name}: on the way back"),
            format!("{} written, {} refused, {} unknown", tally.written.len(), tally.refused, tally.unknown),
            "users go to the next entrance after a refusal",
        );
        Ok(())
    }
}

pub(super) fn note(text: &str) -> Planned {
    let body = serde_json::json!({"user": "w", "text": text}).to_string().into_bytes();
    Planned::new(http::Method::POST, "/notes", "application/json", body)
}

pub(super) fn holds(name: &str, kept: bool, told: String) -> Promise {
    Promise::holds(name, kept, told, "so it is")
}
