//! The stage: three clouds, a victim with things to steal, and an attacker as a customer beside it.

use crate::cluster::Cluster;
use crate::follow::Chronicle;
use crate::load::{self, Gaps, LoadOptions, Planned, Running, Schedule, Workload};
use crate::report::{Promise, Report};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::StatusCode;
use pumasi_api::message::{InstanceView, LeaseView, List};
use pumasi_terms::service::Service;
use rand::rngs::SmallRng;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const HOME: &str = "city-a";
pub const LENDERS: [&str; 2] = ["city-b", "city-c"];
pub const VICTIM: &str = "victim";
pub const ATTACKER: &str = "mallory";
const AGENT: &str = include_str!("agent.py");
const TIMING: &str = "[timing]\nheartbeat_ms = 400\nhold_ttl_ms = 2000\nlease_ttl_ms = 4000\ncalm_ms = 3000";
/// Of a dataset, so that filling it takes seconds.
pub const DATASET_BYTES_MAX: u64 = 96 << 20;
/// What a state may take to show, also on a busy machine.
const SLACK: Duration = Duration::from_secs(40);
/// More than an instance of the attacker answers.
const CROWD_RATE: f64 = 90.0;
const CROWD: Duration = Duration::from_secs(120);

pub struct Stage {
    pub cluster: Cluster,
    pub story: Story,
    /// Stands in the victim's database, in its bundle and in its environment, and nowhere else.
    pub mark: String,
    /// The attacker's own secret, and its victim's: known to their instances, and in no file.
    pub secrets: [String; 2],
    pids: Vec<(&'static str, u32)>,
    chronicle: Chronicle,
}

/// What the hostile application says of an attack.
#[derive(Debug, Clone, Deserialize)]
pub struct Told {
    pub got: Option<String>,
    #[serde(default)]
    pub how: String,
    #[serde(default)]
    pub at: String,
}

struct Crowd;

impl Workload for Crowd {
    fn plan(&self, _user: u32, _rng: &mut SmallRng) -> Planned {
        Planned::get("/".into())
    }
    fn check(&self, _planned: &Planned, _status: StatusCode, _body: &Bytes) -> Result<(), String> {
        Ok(())
    }
}

/// The document of one service of the scenario.
fn manifest(name: &str, bundle: &Path, mark: &str) -> anyhow::Result<Service> {
    let text = format!(
        r#"
apiVersion: pumasi/v1
kind: Service
metadata: {{ name: {name} }}
spec:
  hosts: [{name}.city-a.example]
  application:
    bundle: {bundle}
    command: [python3, "${{BUNDLE}}/agent.py"]
    env: {{ NOTE: "{mark}" }}
    secrets: {{ API_KEY: {name}-key }}
    platform: {{ runtimes: [python3] }}
    resources: {{ cpu_millis: 200, memory_mib: 192 }}
    readiness: {{ path: /, interval_ms: 200 }}
  datasets:
    - {{ name: db, kind: sqlite, file: db.sqlite, bytes_max: {DATASET_BYTES_MAX} }}
    - {{ name: files, kind: files, bytes_max: {DATASET_BYTES_MAX} }}
  routing: {{ user_cookie: user }}
  borrowing: {{ mode: {mode}, instances_max: 2 }}
"#,
        bundle = bundle.display(),
        mode = if name == ATTACKER { "automatic" } else { "observe" },
    );
    let found = pumasi_terms::manifest::services("hostile.yaml", &text)?;
    found.into_iter().next().context("a manifest of one service")
}

impl Stage {
    /// Verdicts about a service so far, whether or not they may be acted upon.
    pub fn verdicts(&self, service: &str) -> usize {
        let of = |e: &pumasi_api::message::Event| e.action.starts_with("verdict") && e.subject == service;
        self.chronicle.all().iter().filter(|s| of(&s.event)).count()
    }

    pub async fn set(options: &Options, story: &Story) -> anyhow::Result<Self> {
        story.chapter("Three clouds found a pact, and take in a victim and an attacker");
        let mut cluster = Cluster::start(&options.executable, &three_clouds(), TIMING).await?;
        let told = |e: &pumasi_api::message::Event| {
            !matches!(
                e.action.as_str(),
                "plan_made"
                    | "token_created"
                    | "automation_stopped"
                    | "automation_resumed"
                    | "service_changed"
                    | "hold_granted"
                    | "hold_let_go"
            )
        };
        let chronicle = super::super::followed(&mut cluster, options, story, told)?;
        let mark = format!("VICTIM-{:016x}", rand::random::<u64>());
        let secrets = [ATTACKER, VICTIM].map(|of| format!("SECRET-{of}-{:016x}", rand::random::<u64>()));
        for (name, value) in [ATTACKER, VICTIM].iter().zip(&secrets) {
            let set = serde_json::json!({ "value": value });
            let _: serde_json::Value = cluster
                .client(HOME)?
                .put(&format!("/v1/secrets/{name}-key"), &set)
                .await
                .context("setting a secret")?;
        }
        let mut stage = Self { cluster, story: story.clone(), mark, secrets, pids: Vec::new(), chronicle };
        for name in [VICTIM, ATTACKER] {
            let bundle = stage.cluster.supervisor.dir().join(format!("bundle-{name}"));
            std::fs::create_dir_all(&bundle)?;
            std::fs::write(bundle.join("agent.py"), AGENT)?;
            let mark = if name == VICTIM { stage.mark.clone() } else { String::new() };
            std::fs::write(bundle.join("secret.txt"), &mark)?;
            stage.cluster.apply(HOME, &manifest(name, &bundle, &mark)?).await?;
        }
        let mark = stage.mark.clone();
        stage.ask(VICTIM, &format!("own-database?text={mark}")).await?;
        stage.ask(ATTACKER, "own-database").await?;
        stage.pids = stage
            .cluster
            .clouds()
            .iter()
            .filter_map(|c| Some((c.name, stage.cluster.supervisor.pid(c.name)?)))
            .collect();
        Ok(stage)
    }

    pub fn daemons_that_died(&self) -> Vec<String> {
        let same = |(name, pid): &(&'static str, u32)| {
            self.cluster.supervisor.pid(name) == Some(*pid) && self.cluster.supervisor.exit_status(name).is_none()
        };
        self.pids.iter().filter(|p| !same(p)).map(|(name, _)| (*name).to_owned()).collect()
    }

    /// Stops a daemon on purpose.
    pub async fn let_die(&mut self, cloud: &str) -> anyhow::Result<()> {
        self.pids.retain(|(name, _)| *name != cloud);
        self.cluster
            .supervisor
            .stop(cloud, Duration::from_secs(15))
            .await
            .with_context(|| format!("stopping {cloud}"))?;
        Ok(())
    }

    pub async fn restart(&mut self, cloud: &'static str) -> anyhow::Result<()> {
        let pid = self.cluster.supervisor.restart(cloud)?;
        self.pids.push((cloud, pid));
        self.cluster.wait_up(cloud).await
    }

    pub fn data(&self, cloud: &str) -> PathBuf {
        self.cluster.dir(cloud).join("data")
    }

    /// One attack, played by whichever instance answers.
    pub async fn ask(&self, service: &str, attack: &str) -> anyhow::Result<Told> {
        let (users, host) = (self.cluster.place(HOME)?.users, format!("{service}.{HOME}.example"));
        let begun = Instant::now();
        loop {
            // Under load some are shed, and a restarting application is away for a moment.
            let asked = load::ask(users, &host, &Planned::get(format!("/attack/{attack}"))).await;
            match asked {
                Ok((StatusCode::OK, body)) => return Ok(serde_json::from_slice(&body)?),
                Ok((status, _)) if !status.is_server_error() => {
                    anyhow::bail!("{service} answered {attack} with {status}")
                }
                _ => {}
            }
            ensure!(begun.elapsed() < SLACK, "{service} did not answer {attack} within {} s", SLACK.as_secs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// An attack played by whichever instance serves this user; none: it was shed, or the answer did not come.
    pub async fn ask_as(&self, user: u32, attack: &str) -> anyhow::Result<Option<Told>> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let users = self.cluster.place(HOME)?.users;
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect(users).await?;
            let head = format!(
                "GET /attack/{attack} HTTP/1.1\r\nHost: {ATTACKER}.{HOME}.example\r\nCookie: user={user}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer =
            tokio::time::timeout(Duration::from_secs(20), ask).await.ok().and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&answer);
        let body = text.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200")).map(|(_, b)| b);
        Ok(body.and_then(|b| serde_json::from_str(b).ok()))
    }

    /// An attack that must get nothing.
    pub async fn attack(&self, report: &mut Report, place: &str, name: &str, attack: &str) -> anyhow::Result<()> {
        let told = self.ask(ATTACKER, attack).await?;
        self.judge(report, place, name, &told);
        Ok(())
    }

    pub fn judge(&self, report: &mut Report, place: &str, name: &str, told: &Told) {
        let short = |text: &str| text.chars().take(160).collect::<String>();
        let (kept, measured) = match &told.got {
            Some(got) => (false, short(got)),
            None => (true, short(&told.how)),
        };
        self.story.tell(place, if kept { "held" } else { "BROKEN" }, format!("{name}: {measured}"));
        report.promise(Promise::holds(&format!("{place}: {name}"), kept, measured, "gets nothing"));
    }

    /// Enough users at the attacker's service that its cloud borrows for it.
    pub fn crowd(&self) -> anyhow::Result<Running> {
        let place = self.cluster.place(HOME)?;
        let schedule = Schedule::new(Gaps::Poisson, 3).level("crowd", CROWD, CROWD_RATE);
        let options = LoadOptions {
            users_from: Some(place.users_from),
            timeout: Duration::from_secs(8),
            ..LoadOptions::new(schedule, place.users, format!("{ATTACKER}.{HOME}.example"))
        };
        Ok(load::start(options, Arc::new(Crowd))?)
    }

    /// The attacker's lease by which a partner serves.
    pub async fn rented(&self) -> anyhow::Result<LeaseView> {
        let begun = Instant::now();
        loop {
            let leases = self.cluster.leases(HOME).await.unwrap_or_default();
            let serving = |l: &&LeaseView| l.side == "rented" && l.state == "serving" && l.instances_ready > 0;
            if let Some(lease) = leases.iter().find(serving) {
                return Ok(lease.clone());
            }
            let states: Vec<String> = leases.iter().map(|l| format!("{} {} ({})", l.lender, l.state, l.why)).collect();
            ensure!(begun.elapsed() < SLACK, "no partner serves within {} s: [{}]", SLACK.as_secs(), states.join(", "));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn instances(&self, cloud: &str) -> anyhow::Result<Vec<InstanceView>> {
        Ok(self.cluster.client(cloud)?.get::<List<InstanceView>>("/v1/instances").await?.items)
    }

    /// The load goes, and everything that was rented with it.
    pub async fn alone_again(&self, crowd: Running) -> anyhow::Result<()> {
        crowd.stop();
        crowd.wait().await?;
        ensure!(self.cluster.wait_all_over(Duration::from_secs(120)).await?, "what was rented did not come back");
        Ok(())
    }

    /// The scenario's directory: data of all clouds, their instances' files and logs.
    pub fn everything(&self) -> PathBuf {
        self.cluster.supervisor.dir().to_owned()
    }

    /// Files below `root` that hold `needle`.
    pub fn holding(root: &Path, needle: &[u8]) -> Vec<PathBuf> {
        let (mut found, mut ahead) = (Vec::new(), vec![root.to_owned()]);
        while let Some(dir) = ahead.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                match entry.file_type() {
                    Ok(t) if t.is_dir() => ahead.push(path),
                    Ok(t) if t.is_file() => {
                        let bytes = std::fs::read(&path).unwrap_or_default();
                        if bytes.windows(needle.len()).any(|w| w == needle) {
                            found.push(path);
                        }
                    }
                    _ => {}
                }
            }
        }
        found
    }
}
