//! Takeover by hand: a pact of two has nobody who votes. One of them is gone, and a person says so at the other.
//!
//! City A owns a service that city B keeps ready. A person is refused as long as city A answers. Then everything of city A is killed,
//! city B's operator takes over, city A comes back, hears of it before it serves anything, and gets the service back by a move.

use super::overload::{TIMING, WORK, bundle, service, worth_telling};
use crate::cluster::Cluster;
use crate::example::notes::export;
use crate::example::{Kind, work};
use crate::load::{self, Planned};
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use pumasi_api::message::{List, StandbyView};
use pumasi_terms::CloudName;
use pumasi_terms::continuity::Continuity;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const GONE: &str = "city-a";
const HEIR: &str = "city-b";
const HOST: &str = "notes.city-a.example";
const SLACK: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Copies follow within a fraction of it.
const FOLLOWED: Duration = Duration::from_secs(1);
const NOTES: usize = 20;

struct Stage {
    cluster: Cluster,
    written: BTreeSet<String>,
}

pub async fn play(options: &Options, story: &mut Story) -> anyhow::Result<Report> {
    let mut report = Report::new("takeover");
    story.chapter("Two clouds found a pact");
    let clouds = &three_clouds()[..2];
    let mut cluster = Cluster::start(&options.executable, clouds, TIMING).await?;
    let _chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
    let dir = bundle(&cluster, &options.executable, options.bundle_mib).await?;
    let mut notes = service(Kind::Notes, "notes", &dir, work::calibrate(WORK) / 10)?;
    notes.spec.continuity = Continuity { clouds: vec![CloudName::parse(HEIR)?], ..Continuity::default() };
    cluster.apply(GONE, &notes).await?;
    let mut stage = Stage { cluster, written: BTreeSet::new() };
    stage.until("city-b keeps it ready", || stage.is_kept()).await?;
    stage.write(GONE).await?;
    tokio::time::sleep(FOLLOWED).await;

    story.chapter("A person is wrong");
    let refused = stage.refused().await;
    report.promise(holds("nothing is taken over while city-a answers", refused.contains("answers"), refused));
    stage.cluster.supervisor.kill9(GONE)?;
    let refused = stage.refused().await;
    let told = refused.contains("the gateway of city-a answers");
    report.promise(holds("nor while its gateway serves users without a daemon", told, refused));

    story.chapter("City A is gone");
    let ended = stage.cluster.signal_all(GONE, Signal::SIGKILL);
    story.tell(GONE, "killed", format!("all of it, {} processes", ended.len()));
    let begun = Instant::now();
    stage.take_over().await.context("city-b's operator takes over")?;
    stage.until("city-b answers writers", || stage.note(HEIR, "first")).await?;
    stage.written.insert("first".into());
    report.figure(
        "from the operator's word to the first acknowledged write",
        ms(begun.elapsed()),
        "three looks at city-a",
    );
    stage.write(HEIR).await?;
    let missing = stage.missing(HEIR).await?;
    report.promise(holds("no acknowledged write is missing at city-b", missing.is_empty(), format!("{missing:?}")));

    story.chapter("City A is back");
    stage.cluster.start_daemon(GONE)?;
    stage.cluster.wait_up(GONE).await?;
    stage.until("city-a forwards", || stage.note(GONE, "through-a")).await?;
    stage.written.insert("through-a".into());
    let missing = stage.missing(HEIR).await?;
    let served = format!("missing at city-b: {missing:?}");
    report.promise(holds("what comes in at city-a is written at city-b", missing.is_empty(), served));
    stage.cluster.operate(HEIR, &["move", "service", "notes", "--to", GONE], None).await?;
    stage.write(GONE).await?;
    let missing = stage.missing(GONE).await?;
    report.promise(holds("moved back, nothing is missing at city-a", missing.is_empty(), format!("{missing:?}")));
    super::stay(options, story, &stage.cluster, &report).await?;
    Ok(report)
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

fn holds(name: &str, kept: bool, told: String) -> Promise {
    Promise::holds(name, kept, told, "so it is")
}

impl Stage {
    async fn until<F: Future<Output = anyhow::Result<()>>>(
        &self,
        what: &str,
        mut fits: impl FnMut() -> F,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match fits().await {
                Ok(()) => return Ok(()),
                Err(e) => ensure!(begun.elapsed() < SLACK, "not within {SLACK:?}: {what}: {e:#}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn is_kept(&self) -> anyhow::Result<()> {
        let all: List<StandbyView> = self.cluster.client(HEIR)?.get("/v1/continuity").await?;
        let seen = all.items.into_iter().find(|s| s.service.as_str() == "notes").context("no standby")?;
        ensure!(seen.state == "kept" && seen.loss_ms.is_some(), "{seen:?}");
        Ok(())
    }

    async fn take_over(&self) -> anyhow::Result<String> {
        let words = ["pact", "takeover", "--lost", GONE, "--i-have-fenced-it", "--why", "its site burnt", "-o", "json"];
        self.cluster.operate(HEIR, &words, None).await
    }

    /// What it says of a takeover, in one line.
    async fn refused(&self) -> String {
        let said = self.take_over().await.err().map(|e| format!("{e:#}")).unwrap_or_default();
        said.lines().next().unwrap_or_default().to_owned()
    }

    async fn note(&self, at: &str, text: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({"user": "w", "text": text}).to_string().into_bytes();
        let asked = Planned::new(http::Method::POST, "/notes", "application/json", body);
        let (status, body) = load::ask(self.cluster.place(at)?.users, HOST, &asked).await?;
        if !status.is_success() {
            bail!("{status} {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }

    async fn write(&mut self, at: &str) -> anyhow::Result<()> {
        for n in 0..NOTES {
            let text = format!("{at}-{n}-{:08x}", rand::random::<u32>());
            self.note(at, &text).await?;
            self.written.insert(text);
        }
        Ok(())
    }

    async fn missing(&self, at: &str) -> anyhow::Result<Vec<String>> {
        let there: BTreeSet<String> =
            export(self.cluster.place(at)?.users, HOST).await?.into_iter().map(|n| n.text).collect();
        Ok(self.written.difference(&there).cloned().collect())
    }
}
