//! The stage of every case: a federation, the journals of its clouds, a service with its load, and the question what is left.

use super::Broken;
use crate::cluster::Cluster;
use crate::example::notes::{NotesWorkload, export};
use crate::example::tickets::TicketsWorkload;
use crate::example::{Kind, ManifestOptions, manifest, work};
use crate::follow::{Chronicle, Seen};
use crate::load::{self, Gaps, LoadOptions, Outcome, Run, Running, Schedule, Stats, Workload};
use crate::run::{Options, three_clouds};
use crate::story::Story;
use anyhow::{Context, ensure};
use pumasi_api::message::{CloudStatus, Event, InstanceView, LeaseView, List};
use pumasi_terms::service::{AutomationMode, Service};
use pumasi_terms::{Resources, ServiceName};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const HOME: &str = "city-a";
pub const LENDERS: [&str; 2] = ["city-b", "city-c"];
/// The nearest at nearly the same price, and so the first choice.
pub const FIRST: &str = "city-b";
pub const SECOND: &str = "city-c";

/// Short times to live, so that what runs out does so within the case.
const TIMING: &str = "[timing]\nheartbeat_ms = 400\nhold_ttl_ms = 2000\nlease_ttl_ms = 4000\ncalm_ms = 3000";
pub const LEASE_TTL: Duration = Duration::from_millis(4_000);
/// What a state may take to show after the last of its causes, also on a busy machine.
pub const SLACK: Duration = Duration::from_secs(20);
/// CPU time of a request; by its quota an instance answers about 150 a second.
const WORK: Duration = Duration::from_micros(1_300);
const INSTANCE: Resources = Resources { cpu_millis: 200, memory_mib: 128 };
pub const PEAK_RATE: f64 = 260.0;
const WRITES: f64 = 0.05;
/// Longer than any case: loads are stopped, not waited for.
const LONG: Duration = Duration::from_secs(300);

pub type Played<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Broken>> + 'a>>;

#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub promise: &'static str,
    pub kind: Kind,
    pub mode: AutomationMode,
    /// For cases that end a process after a step of the journey.
    pub kill: Option<Kill>,
    pub play: for<'a> fn(&'a Stage, &'a Act) -> Played<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    pub whose: Whose,
    /// The entry of the borrower's journal after which it is killed.
    pub after: &'static str,
    /// Played in every run; the others when asked for, by `--full` or by name. The simulator's table of steps kills at each.
    pub always: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Borrower,
    Lender,
}

impl Case {
    pub const fn new(
        name: &'static str,
        promise: &'static str,
        play: for<'a> fn(&'a Stage, &'a Act) -> Played<'a>,
    ) -> Self {
        Self { name, promise, kind: Kind::Notes, mode: AutomationMode::Automatic, kill: None, play }
    }
}

/// A service on the stage, with what its users know.
pub struct Act {
    pub case: Case,
    pub service: Service,
    pub name: String,
    pub host: String,
    pub since: Duration,
    pub notes: Arc<NotesWorkload>,
    workload: Arc<dyn Workload>,
}

pub struct Stage {
    pub cluster: Cluster,
    pub chronicle: Chronicle,
    pub story: Story,
    pub full: bool,
    bundle: PathBuf,
    pub iterations: u32,
}

fn worth_telling(event: &Event) -> bool {
    !matches!(
        event.action.as_str(),
        "plan_made"
            | "token_created"
            | "service_changed"
            | "plan_adopted"
            | "hold_let_go"
            | "hold_granted"
            | "service_deleted"
    )
}

impl Stage {
    pub async fn set(options: &Options, story: &Story) -> anyhow::Result<Self> {
        story.chapter("Three clouds found a pact");
        let mut cluster = Cluster::start(&options.executable, &three_clouds(), TIMING).await?;
        let chronicle = super::super::followed(&mut cluster, options, story, worth_telling)?;
        let bundle = cluster.supervisor.dir().join("bundle");
        let executable = crate::bundle::slim(&options.executable, cluster.supervisor.dir()).await;
        let made = crate::bundle::BundleOptions { executable, bytes_min: 0, seed: 1 };
        crate::bundle::create(&bundle, &made)?;
        let iterations = work::calibrate(WORK);
        Ok(Self { cluster, chronicle, story: story.clone(), full: options.full, bundle, iterations })
    }

    /// The same stage built again, after a case that left it in an unknown state.
    pub async fn anew(self, options: &Options, story: &Story) -> anyhow::Result<Self> {
        drop(self);
        Self::set(options, story).await
    }

    /// One case: its service comes, the case is played, and afterwards nothing of it is anywhere.
    pub async fn play(&self, case: &Case, number: usize) -> anyhow::Result<Broken> {
        let act = self.act(*case, number).await?;
        let mut broken = (case.play)(self, &act).await?;
        self.cluster.wan.heal_all();
        broken.extend(self.leave(&act).await?);
        Ok(broken)
    }

    async fn act(&self, case: Case, number: usize) -> anyhow::Result<Act> {
        let name = format!("n{number}-{}", case.name.chars().take(20).collect::<String>());
        let service = self.service(case.kind, &name, case.mode, &[])?;
        let notes = Arc::new(NotesWorkload::new(if case.kind == Kind::Writer { 1.0 } else { WRITES }));
        let keeps = matches!(case.kind, Kind::Notes | Kind::Writer);
        let workload: Arc<dyn Workload> = if keeps { notes.clone() } else { Arc::new(TicketsWorkload) };
        let host = service.spec.hosts.first().cloned().unwrap_or_default();
        let act = Act { case, name, host, since: self.story.elapsed(), notes, workload, service };
        self.cluster.apply(HOME, &act.service).await?;
        Ok(act)
    }

    pub fn service(&self, kind: Kind, name: &str, mode: AutomationMode, args: &[&str]) -> anyhow::Result<Service> {
        let work = ["--work".to_owned(), self.iterations.to_string(), "--workers".into(), "2".into()];
        let options = ManifestOptions {
            kind,
            name: ServiceName::parse(name)?,
            host: format!("{name}.{HOME}.example"),
            bundle: self.bundle.clone(),
            resources: INSTANCE,
            home_instances: 1,
            args: work.into_iter().chain(args.iter().map(|a| (*a).to_owned())).collect(),
        };
        let mut service = manifest(&options)?;
        service.spec.borrowing.mode = mode;
        // Two of the usual instances are enough relief, and leave room at each partner for a second lease.
        service.spec.borrowing.instances_max = 3;
        Ok(service)
    }

    /// Users at a rate until they are stopped.
    pub fn users(&self, act: &Act, rate: f64) -> anyhow::Result<Running> {
        let place = self.cluster.place(HOME)?;
        let schedule = Schedule::new(Gaps::Poisson, 5).level("all", LONG, rate);
        let options = LoadOptions {
            users_from: Some(place.users_from),
            timeout: Duration::from_secs(8),
            ..LoadOptions::new(schedule, place.users, act.host.clone())
        };
        Ok(load::start(options, act.workload.clone())?)
    }

    pub async fn end(&self, users: Running) -> anyhow::Result<Run> {
        users.stop();
        let run = users.wait().await?;
        let s = run.all().summary();
        self.story.tell("users", "ended", format!("{} asked: {:?}, p95 {:.0} ms", s.offered, s.outcomes, s.p95_ms));
        for sample in run.samples.iter().take(4) {
            self.story.tell("users", "sample", sample);
        }
        Ok(run)
    }

    /// The first entry of a cloud's journal since `since`, there or yet to come.
    pub async fn told(&self, cloud: &str, action: &str, since: Duration) -> anyhow::Result<Seen> {
        let fits = |s: &Seen| s.cloud == cloud && s.event.action == action && s.at >= since;
        self.chronicle
            .wait_for(SLACK, fits)
            .await
            .with_context(|| format!("{cloud} did not tell of {action} within {} s", SLACK.as_secs()))
    }

    pub fn has_told(&self, cloud: &str, action: &str, since: Duration) -> Vec<Seen> {
        let fits = |s: &Seen| s.cloud == cloud && s.event.action == action && s.at >= since;
        self.chronicle.all().into_iter().filter(fits).collect()
    }

    /// Looks until it is so.
    pub async fn until<F, Fut>(&self, what: &str, at_most: Duration, mut look: F) -> anyhow::Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = anyhow::Result<bool>>,
    {
        let begun = Instant::now();
        loop {
            let problem = match look().await {
                Ok(true) => return Ok(()),
                Ok(false) => String::new(),
                Err(e) => format!(": {e:#}"),
            };
            ensure!(begun.elapsed() < at_most, "within {} s it did not come that {what}{problem}", at_most.as_secs());
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }

    pub async fn rented(&self, act: &Act) -> anyhow::Result<Vec<LeaseView>> {
        let leases = self.cluster.leases(HOME).await?;
        Ok(leases.into_iter().filter(|l| l.side == "rented" && l.service.as_str() == act.name).collect())
    }

    /// The lease by which a partner serves, waited for.
    pub async fn serving(&self, act: &Act, not_at: Option<&str>) -> anyhow::Result<LeaseView> {
        let begun = Instant::now();
        loop {
            let leases = self.rented(act).await.unwrap_or_default();
            let fits = |l: &&LeaseView| l.state == "serving" && l.instances_ready > 0;
            let elsewhere = |l: &&LeaseView| not_at.is_none_or(|not| l.lender.as_str() != not);
            if let Some(lease) = leases.iter().filter(fits).find(elsewhere) {
                return Ok(lease.clone());
            }
            let states: Vec<String> = leases.iter().map(|l| format!("{} {} ({})", l.lender, l.state, l.why)).collect();
            ensure!(begun.elapsed() < SLACK, "no partner serves within {} s: [{}]", SLACK.as_secs(), states.join(", "));
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }

    pub async fn instances(&self, cloud: &str) -> anyhow::Result<Vec<InstanceView>> {
        Ok(self.cluster.client(cloud)?.get::<List<InstanceView>>("/v1/instances").await?.items)
    }

    pub async fn status(&self, cloud: &str) -> anyhow::Result<CloudStatus> {
        Ok(self.cluster.client(cloud)?.get("/v1/cloud").await?)
    }

    pub async fn restart(&self, cloud: &str) -> anyhow::Result<()> {
        self.cluster.supervisor.restart(cloud)?;
        self.cluster.wait_up(cloud).await
    }

    pub async fn kill_and_restart(&self, cloud: &str) -> anyhow::Result<()> {
        self.cluster.supervisor.kill9(cloud)?;
        self.story.tell(cloud, "kill -9", "its daemon");
        self.restart(cloud).await
    }

    /// The operator ends what is open, once the load is gone.
    pub async fn cancel(&self, act: &Act) -> anyhow::Result<()> {
        let journeys: serde_json::Value = self.cluster.client(HOME)?.get("/v1/journeys").await?;
        for journey in journeys["items"].as_array().into_iter().flatten() {
            let open = journey["phase"]["phase"] != "closed" && journey["service"] == act.name.as_str();
            if let (true, Some(id)) = (open, journey["id"].as_str()) {
                // It may end by itself meanwhile.
                let _ = self.cluster.operate(HOME, &["journey", "cancel", id, "--why", "the case is over"], None).await;
            }
        }
        Ok(())
    }

    /// Everything is given back and deleted; the promises about what is left.
    async fn leave(&self, act: &Act) -> anyhow::Result<Broken> {
        let mut broken = Broken::new();
        self.cancel(act).await?;
        if !self.cluster.wait_all_over(SLACK).await? {
            let open: Vec<String> = self.open().await?;
            broken.push(format!("not over within {} s: {}", SLACK.as_secs(), open.join(", ")));
        }
        for lease in self.rented(act).await? {
            if lease.state == "ended_unproven" {
                broken.push(format!("{} at {} ended without proof", lease.id, lease.lender));
            }
        }
        if matches!(act.case.kind, Kind::Notes | Kind::Writer) {
            let all = export(self.cluster.place(HOME)?.users, &act.host).await.context("reading every note back")?;
            let audit = act.notes.audit(&all);
            if !audit.is_clean() {
                broken.push(format!(
                    "acknowledged writes: {} lost, {} doubled, {} altered",
                    audit.lost.len(),
                    audit.doubled.len(),
                    audit.altered.len()
                ));
            }
        }
        self.cluster.operate(HOME, &["delete", "service", &act.name], None).await?;
        for cloud in LENDERS {
            let empty = || async { Ok(self.cluster.remains(cloud).is_empty()) };
            if self.until("nothing is left", SLACK, empty).await.is_err() {
                broken.push(format!("left at {cloud}: {}", self.cluster.remains(cloud).join(", ")));
            }
        }
        let gone = || async { Ok(self.cluster.supervisor.find(&["lab-app"]).is_empty()) };
        if self.until("no instance runs", SLACK, gone).await.is_err() {
            let left: Vec<String> =
                self.cluster.supervisor.find(&["lab-app"]).iter().map(|f| format!("{} {}", f.pid, f.command)).collect();
            broken.push(format!("processes without a service: {}", left.join(", ")));
        }
        // Holds and leases take from what is free; all of it is free again.
        let free = || async {
            let status = self.status(HOME).await?;
            Ok(status
                .members
                .iter()
                .all(|m| m.trouble.is_none() && m.free.is_some_and(|f| f.cpu_millis == m.lends.cpu_millis)))
        };
        if let Err(e) = self.until("all that is lent is free again", SLACK, free).await {
            broken.push(e.to_string());
        }
        Ok(broken)
    }

    /// Daemons that have ended, with how.
    pub fn dead(&self) -> Broken {
        let ended = |c: &crate::cluster::CloudPlan| {
            Some(format!("the daemon of {} ended: {}", c.name, self.cluster.supervisor.exit_status(c.name)?))
        };
        self.cluster.clouds().iter().filter_map(ended).collect()
    }

    async fn open(&self) -> anyhow::Result<Vec<String>> {
        let mut open = Vec::new();
        for cloud in self.cluster.clouds() {
            for lease in self.cluster.leases(cloud.name).await? {
                open.push(format!("{} {} {} {}", cloud.name, lease.side, lease.id, lease.state));
            }
        }
        Ok(open)
    }
}

/// Requests that were admitted and not answered as they should; `shed` is no failure where there is overload.
pub fn failures(of: &str, stats: &Stats) -> Broken {
    let bad =
        [Outcome::Wrong, Outcome::Unknown, Outcome::Failed, Outcome::Unreachable, Outcome::Broken, Outcome::TimedOut];
    let counts: Vec<String> = bad
        .into_iter()
        .map(|o| (o, stats.count(o)))
        .filter(|(_, n)| *n > 0)
        .map(|(o, n)| format!("{n} {o:?}").to_lowercase())
        .collect();
    if counts.is_empty() { Vec::new() } else { vec![format!("{of}: {} of {}", counts.join(", "), stats.offered())] }
}

/// After `from`, requests are answered rightly again.
pub fn goes_on(run: &Run, from: Duration, to: Duration) -> Broken {
    let stats = run.between(from, to);
    if stats.right() == 0 {
        vec![format!("no request was answered from {:.1} to {:.1} s", from.as_secs_f64(), to.as_secs_f64())]
    } else {
        Vec::new()
    }
}
