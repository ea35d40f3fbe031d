//! Three clouds whose pact votes, with services of registers that each is owned by one and kept ready by the two others.
//!
//! Enters: times of the vote, where the clouds are, who shall own what. Leaves: a stage on which faults are played, what users saw there and
//! who owned what meanwhile. Always holds: everything between clouds goes over the lab's relays; users come in at every cloud, and not over
//! those.

pub mod faults;
pub mod judge;
pub mod users;
pub mod watch;

use super::overload::{TIMING, bundle, service, worth_telling};
use crate::cluster::{CloudPlan, Cluster};
use crate::example::Kind;
use crate::example::notes::export;
use crate::follow::{Chronicle, Seen};
use crate::load::{self, Planned};
use crate::run::{Options, WrongUsage};
use crate::story::Story;
use anyhow::{Context, bail, ensure};
use http::{Method, StatusCode};
use pumasi_terms::continuity::Continuity;
use pumasi_terms::service::{DatasetMode, RecoveryClass, Service};
use pumasi_terms::{CloudName, Resources};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub const CLOUDS: [&str; 3] = ["city-a", "city-b", "city-c"];
/// What is waited for takes no longer, also on a busy machine.
pub const SLACK: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(50);
/// Enough for all instances of a run, wherever they go.
const ROOM: Resources = Resources { cpu_millis: 4000, memory_mib: 4096 };
/// Where reads are no plain reads: what is read of a register is read at its owner, within its right to write.
const REGISTERS_AT: &str = "/r/";

/// How the pact votes, and what is asked of the services' data.
#[derive(Debug, Clone)]
pub struct Manner {
    /// `default` or `lan`.
    pub profile: String,
    pub mode: DatasetMode,
}

impl Manner {
    pub fn of(options: &Options) -> anyhow::Result<Self> {
        let profile = options.profile.clone().unwrap_or_else(|| "default".into());
        ensure!(
            ["default", "lan"].contains(&profile.as_str()),
            WrongUsage(format!("--profile is default or lan, not {profile:?}"))
        );
        let mode = options.mode.clone().unwrap_or_else(|| "async".into());
        let Ok(mode) = serde_json::from_value(serde_json::Value::from(mode.clone())) else {
            bail!(WrongUsage(format!("--mode {mode:?}: datasets have no such mode")));
        };
        Ok(Self { profile, mode })
    }

    /// Whether a takeover may lose what was acknowledged a moment before.
    pub fn may_lose(&self) -> bool {
        self.mode == DatasetMode::Async
    }

    /// `lan` is for one city: its times are shorter than the way to the next one.
    fn clouds(&self) -> Vec<CloudPlan> {
        let cities = if self.profile == "lan" { ["Seoul"; 3] } else { ["Seoul", "Busan", "Tokyo"] };
        let plan = |(name, city)| CloudPlan::new(name, city, ROOM, ROOM, "0.05");
        CLOUDS.into_iter().zip(cities).map(plan).collect()
    }
}

#[derive(Debug)]
pub struct Stage {
    pub cluster: Cluster,
    pub story: Story,
    pub chronicle: Chronicle,
    pub manner: Manner,
    bundle: PathBuf,
}

impl Stage {
    /// Three clouds, one pact, one vote, and a right to write for each.
    pub async fn set(options: &Options, manner: &Manner, story: &Story) -> anyhow::Result<Self> {
        let mut cluster = Cluster::start(&options.executable, &manner.clouds(), TIMING).await?;
        let chronicle = super::followed(&mut cluster, options, story, worth_telling)?;
        let bundle = bundle(&cluster, &options.executable, 0).await?;
        let stage = Self { cluster, story: story.clone(), chronicle, manner: manner.clone(), bundle };
        let voters = CLOUDS.join(",");
        let vote = ["pact", "vote", "--voters", &voters, "--profile", &manner.profile];
        stage.cluster.operate(CLOUDS[0], &vote, None).await?;
        for cloud in CLOUDS {
            stage.until("every cloud has a right to write", SLACK, || stage.has_right(cloud)).await?;
        }
        Ok(stage)
    }

    /// A service of registers at one cloud, kept ready by the others, in the register and answering.
    pub async fn protect(&self, name: &str, owner: &str) -> anyhow::Result<()> {
        let mut made: Service = service(Kind::Notes, name, &self.bundle, 0)?;
        let others = CLOUDS.into_iter().filter(|c| *c != owner).map(CloudName::parse);
        let clouds = others.collect::<Result<Vec<_>, _>>()?;
        made.spec.continuity = Continuity { clouds, standbys: Some(2), ..Continuity::default() };
        made.spec.recovery_class = RecoveryClass::Guaranteed;
        made.spec.routing.home_only = vec![REGISTERS_AT.into()];
        made.spec.datasets.iter_mut().for_each(|d| d.mode = self.manner.mode);
        self.cluster.apply(owner, &made).await?;
        self.until("the pact looks after the service", SLACK, || self.is_protected(name, owner)).await?;
        self.until("its owner answers", SLACK, || self.answers(name, owner)).await
    }

    pub async fn until<F: Future<Output = anyhow::Result<bool>>>(
        &self,
        what: &str,
        at_most: Duration,
        mut fits: impl FnMut() -> F,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            match fits().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => last = format!(": {e:#}"),
            }
            ensure!(begun.elapsed() < at_most, "not within {at_most:?}: {what}{last}");
            tokio::time::sleep(LOOK).await;
        }
    }

    pub async fn vote(&self, cloud: &str) -> anyhow::Result<serde_json::Value> {
        let shown: serde_json::Value = self.cluster.client(cloud)?.get("/v1/pact").await?;
        Ok(shown["vote"].clone())
    }

    async fn has_right(&self, cloud: &str) -> anyhow::Result<bool> {
        Ok(self.vote(cloud).await?["right_ms"].as_u64().is_some_and(|ms| ms > 0))
    }

    /// Who leads, as all of them say.
    pub async fn leader(&self) -> anyhow::Result<&'static str> {
        let begun = Instant::now();
        loop {
            let mut said = BTreeSet::new();
            for cloud in CLOUDS {
                said.insert(self.vote(cloud).await?["leader"].as_str().unwrap_or_default().to_owned());
            }
            let known = CLOUDS.into_iter().find(|c| said.contains(*c));
            if let (1, Some(leader)) = (said.len(), known) {
                return Ok(leader);
            }
            ensure!(begun.elapsed() < SLACK, "the clouds do not agree who leads: {said:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn is_protected(&self, name: &str, owner: &str) -> anyhow::Result<bool> {
        let vote = self.vote(owner).await?;
        let entry = vote["services"].as_array().into_iter().flatten().find(|s| s["service"] == name);
        Ok(entry.is_some_and(|e| e["owner"] == owner && e["standbys"].as_array().is_some_and(|s| s.len() == 2)))
    }

    /// What an entrance says to a write.
    async fn said(&self, name: &str, entrance: &str) -> anyhow::Result<Option<StatusCode>> {
        let users = self.cluster.place(entrance)?.users;
        let asked = Planned::new(Method::PUT, format!("{REGISTERS_AT}probe"), "text/plain", b"0".to_vec());
        let host = host(name);
        let answer = tokio::time::timeout(watch::PATIENCE, load::ask(users, &host, &asked)).await;
        Ok(answer.ok().and_then(Result::ok).map(|(status, _)| status))
    }

    async fn answers(&self, name: &str, entrance: &str) -> anyhow::Result<bool> {
        Ok(self.said(name, entrance).await?.is_some_and(|status| status.is_success()))
    }

    /// Whether users are served at this entrance, or it is none of this service.
    pub async fn is_answered_at(&self, name: &str, entrance: &str) -> anyhow::Result<bool> {
        let said = self.said(name, entrance).await?;
        Ok(said.is_some_and(|status| status.is_success() || status == StatusCode::MISDIRECTED_REQUEST))
    }

    /// How often the pact's vote gave the service to another cloud because its owner was lost.
    pub fn takeovers(&self, name: &str, since: Duration) -> usize {
        let is_one = |s: &&Seen| {
            let event = &s.event;
            let lost = event.reasons.iter().any(|r| r.contains("is lost"));
            s.at >= since && event.action == "tenure_taken" && event.subject == name && lost
        };
        self.chronicle.all().iter().filter(is_one).count()
    }

    /// All values that the surviving copy has, whichever entrance tells them.
    pub async fn surviving(&self, name: &str) -> anyhow::Result<BTreeSet<u64>> {
        let begun = Instant::now();
        loop {
            let mut last = String::new();
            let owner = self.owner(name).await.unwrap_or(CLOUDS[0]);
            match export(self.cluster.place(owner)?.users, &host(name)).await {
                Ok(notes) => return Ok(notes.iter().filter_map(|n| n.text.parse().ok()).collect()),
                Err(e) => last.push_str(&e.to_string()),
            }
            ensure!(begun.elapsed() < SLACK, "nobody tells what {name} has: {last}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// By the greatest epoch that any cloud knows of.
    pub async fn owner(&self, name: &str) -> anyhow::Result<&'static str> {
        let mut best: Option<(u64, &str)> = None;
        for cloud in CLOUDS {
            let Ok(Ok(vote)) = tokio::time::timeout(watch::PATIENCE, self.vote(cloud)).await else { continue };
            for entry in vote["services"].as_array().into_iter().flatten().filter(|s| s["service"] == name) {
                let epoch = entry["epoch"].as_u64().unwrap_or(0);
                let owner = CLOUDS.into_iter().find(|c| entry["owner"] == *c);
                best = best.max(owner.map(|o| (epoch, o)));
            }
        }
        best.map(|(_, owner)| owner).with_context(|| format!("{name} is in nobody's register"))
    }
}

pub fn host(name: &str) -> String {
    format!("{name}.city-a.example")
}
