//! The federation of a soak: three small clouds, two services with their homes, the users of each.
//!
//! Always holds: one cloud, chosen by the seed, keeps its daemon and its gateway for the whole soak, so that growth over a long life
//! can be seen; the program is a copy, so that a new build meanwhile does not get into a run.

use super::ledger;
use super::script::{Load, Phase};
use crate::cluster::{CloudPlan, Cluster};
use crate::example::notes::NotesWorkload;
use crate::example::tickets::TicketsWorkload;
use crate::example::{Kind, ManifestOptions, manifest, work};
use crate::follow::Chronicle;
use crate::load::{self, Gaps, LoadOptions, Running, Schedule, Workload};
use crate::process::Found;
use crate::story::Story;
use anyhow::Context;
use pumasi_api::message::{Event, GatewayState, ServiceView};
use pumasi_terms::service::Service;
use pumasi_terms::{Resources, ServiceName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// CPU time of a request; by its quota an instance answers about 75 a second.
const WORK: Duration = Duration::from_micros(1_300);
pub const INSTANCE: Resources = Resources { cpu_millis: 100, memory_mib: 128 };
/// Short times to live, so that much happens; a journal whose retention is reached within the hour.
pub const JOURNAL_ROWS_MAX: u64 = 1_000;
const SETTINGS: &str = "[timing]\nheartbeat_ms = 500\nhold_ttl_ms = 2000\nlease_ttl_ms = 5000\ncalm_ms = 2500\n\n[store]\njournal_rows_max = 1000";
const TIMEOUT: Duration = Duration::from_secs(8);

pub struct Tenant {
    pub name: &'static str,
    pub home: &'static str,
    pub host: String,
    kind: Kind,
    /// Of steady load, requests a second.
    rate: f64,
    workload: Arc<dyn Workload>,
    /// Its users stay the same over all phases, and bring what they were given.
    jars: load::Jars,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenant").field("name", &self.name).field("home", &self.home).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub struct World {
    pub cluster: Cluster,
    pub chronicle: Chronicle,
    pub story: Story,
    pub tenants: Vec<Tenant>,
    pub notes: Arc<NotesWorkload>,
    /// Keeps its daemon and its gateway.
    pub spared: &'static str,
    bundle: PathBuf,
    iterations: u32,
    /// Of the newest application, over all services.
    generation: AtomicU64,
}

/// What each has, and lends of it: together less than what two campaigns want.
fn clouds() -> Vec<CloudPlan> {
    let room = |cpu_millis: u32| Resources { cpu_millis, memory_mib: cpu_millis * 2 };
    vec![
        CloudPlan::new("city-a", "Seoul", room(500), room(200), "0.06"),
        CloudPlan::new("city-b", "Busan", room(700), room(400), "0.05"),
        CloudPlan::new("city-c", "Tokyo", room(800), room(600), "0.04"),
    ]
}

fn worth_telling(event: &Event) -> bool {
    !matches!(event.action.as_str(), "plan_made" | "token_created" | "plan_adopted")
}

impl World {
    pub async fn start(executable: &Path, seed: u64, story: &Story) -> anyhow::Result<Self> {
        let clouds = clouds();
        let spared = clouds.get(usize::try_from(seed % 3).unwrap_or(0)).map_or("city-c", |c| c.name);
        let own = std::env::temp_dir().join(format!("pumasi-soak-{}", std::process::id()));
        std::fs::copy(executable, &own).with_context(|| format!("copying the program to {}", own.display()))?;
        let started = Self::start_from(&own, clouds, spared, story).await;
        if started.is_err() {
            let _ = std::fs::remove_file(&own);
        }
        started
    }

    async fn start_from(
        own: &Path,
        clouds: Vec<CloudPlan>,
        spared: &'static str,
        story: &Story,
    ) -> anyhow::Result<Self> {
        let cluster = Cluster::start(own, &clouds, SETTINGS).await?;
        let chronicle = Chronicle::new(story.clone());
        for cloud in cluster.clouds() {
            chronicle.follow(cloud.name, cluster.client(cloud.name)?, worth_telling);
        }
        let bundle = cluster.supervisor.dir().join("bundle");
        let executable = crate::bundle::slim(own, cluster.supervisor.dir()).await;
        crate::bundle::create(&bundle, &crate::bundle::BundleOptions { executable, bytes_min: 0, seed: 1 })?;
        let notes = Arc::new(NotesWorkload::new(0.05));
        let tenant = |name, home, kind, rate, workload| Tenant {
            name,
            home,
            host: format!("{name}.{home}.example"),
            kind,
            rate,
            workload,
            jars: load::Jars::default(),
        };
        let tenants = vec![
            tenant("notes", "city-a", Kind::Notes, 45.0, notes.clone() as Arc<dyn Workload>),
            tenant("tickets", "city-b", Kind::Tickets, 30.0, Arc::new(TicketsWorkload)),
        ];
        let world = Self {
            cluster,
            chronicle,
            story: story.clone(),
            tenants,
            notes,
            spared,
            bundle,
            iterations: work::calibrate(WORK),
            generation: AtomicU64::new(1),
        };
        for tenant in &world.tenants {
            world.cluster.apply(tenant.home, &world.service(tenant)?).await?;
        }
        Ok(world)
    }

    pub fn dir(&self) -> &Path {
        self.cluster.supervisor.dir()
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.cluster.clouds().iter().map(|c| c.name).collect()
    }

    /// The manifest as of the newest generation.
    pub fn service(&self, tenant: &Tenant) -> anyhow::Result<Service> {
        let every = self.generation.load(Ordering::Relaxed).to_string();
        let args = ["--work", &self.iterations.to_string(), "--workers", "2", "--every", &every];
        let mut service = manifest(&ManifestOptions {
            kind: tenant.kind,
            name: ServiceName::parse(tenant.name)?,
            host: tenant.host.clone(),
            bundle: self.bundle.clone(),
            resources: INSTANCE,
            home_instances: 1,
            args: args.iter().map(|a| (*a).to_owned()).collect(),
        })?;
        service.spec.borrowing.instances_max = 6;
        // A soak does in an hour what a service does in weeks.
        service.spec.borrowing.moves_per_hour_max = 10_000;
        Ok(service)
    }

    /// A new application of this service, at home and wherever it is rented.
    pub async fn release(&self, tenant: &Tenant) -> anyhow::Result<()> {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.cluster.apply(tenant.home, &self.service(tenant)?).await
    }

    /// The users of a service through one phase.
    pub fn users(&self, tenant: &Tenant, phase: &Phase, number: u64) -> anyhow::Result<Running> {
        let place = self.cluster.place(tenant.home)?;
        let seed = phase.seed.wrapping_add(number);
        let options = LoadOptions {
            users: 100,
            users_from: Some(place.users_from),
            timeout: TIMEOUT,
            outstanding_max: 2_000,
            seed,
            jars: tenant.jars.clone(),
            ..LoadOptions::new(schedule(phase, tenant.rate, seed), place.users, tenant.host.clone())
        };
        Ok(load::start(options, tenant.workload.clone())?)
    }

    pub fn store(&self, cloud: &str) -> PathBuf {
        ledger::store_path(&self.cluster.dir(cloud))
    }

    pub fn gateway(&self, cloud: &str) -> Option<Found> {
        let dir = self.cluster.dir(cloud).join("data/gateway").display().to_string();
        self.cluster.supervisor.find(&[dir.as_str()]).into_iter().find(|f| f.command.contains(" gateway "))
    }

    pub fn shims(&self, cloud: &str) -> Vec<Found> {
        let dir = self.cluster.dir(cloud).join("data/engine").display().to_string();
        let mut found = self.cluster.supervisor.find(&[dir.as_str()]);
        found.retain(|f| f.command.contains(" shim "));
        found
    }

    /// An instance sees its bundle at another path: it is known by what stands above it.
    pub fn instances(&self, cloud: &str) -> Vec<Found> {
        let dir = self.cluster.dir(cloud).join("data/engine").display().to_string();
        let above = self.cluster.supervisor.find(&[dir.as_str()]);
        let mut found = self.cluster.supervisor.find(&["lab-app"]);
        found.retain(|f| above.iter().any(|a| a.pid == f.parent));
        found
    }

    /// What is not as it should be while nothing is broken; empty: all is repaired.
    pub async fn unrepaired(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for cloud in self.names() {
            if let Err(e) = self.healthy(cloud).await {
                problems.push(format!("{cloud}: {e:#}"));
            }
        }
        for tenant in &self.tenants {
            match self.view(tenant).await {
                Ok(v) if v.status.home_ready >= v.status.home_wanted => {}
                Ok(v) => problems.push(format!("{}: {} {}", tenant.name, v.status.phase, v.status.why)),
                Err(e) => problems.push(format!("{}: {e:#}", tenant.name)),
            }
            if let Err(e) = self.reachable(tenant).await {
                problems.push(format!("{}: {e:#}", tenant.name));
            }
        }
        problems
    }

    async fn view(&self, tenant: &Tenant) -> anyhow::Result<ServiceView> {
        Ok(self.cluster.client(tenant.home)?.get(&format!("/v1/services/{}", tenant.name)).await?)
    }

    /// What the daemon believes is one thing, what users get another. Shed in overload is no fault.
    async fn reachable(&self, tenant: &Tenant) -> anyhow::Result<()> {
        let asked = load::Planned::get("/healthz".into());
        let (status, body) = match load::ask(self.cluster.place(tenant.home)?.users, &tenant.host, &asked).await {
            Ok(answer) => answer,
            // A busy machine in overload.
            Err(e) if e.to_string().contains("no answer within") => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let said = String::from_utf8_lossy(&body);
        let without =
            ["\"no-backend\"", "\"backend\"", "\"unknown-host\"", "\"starting\""].iter().any(|r| said.contains(r));
        anyhow::ensure!(!status.is_server_error() || !without, "users are answered {status}: {said}");
        Ok(())
    }

    async fn healthy(&self, cloud: &str) -> anyhow::Result<()> {
        let client = self.cluster.client(cloud)?;
        client.text("/readyz").await?;
        let status: pumasi_api::message::CloudStatus = client.get("/v1/cloud").await?;
        anyhow::ensure!(status.standing == "current", "its store is {}", status.standing);
        anyhow::ensure!(status.gateway == GatewayState::Serving, "its gateway is {:?}", status.gateway);
        anyhow::ensure!(!status.automation.stopped, "automation is stopped: {}", status.automation.why);
        for member in &status.members {
            if let Some(trouble) = &member.trouble {
                anyhow::bail!("trouble with {}: {trouble}", member.cloud);
            }
            anyhow::ensure!(member.heard_ms_ago.is_some(), "{} has not been heard", member.cloud);
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(std::env::temp_dir().join(format!("pumasi-soak-{}", std::process::id())));
    }
}

fn schedule(phase: &Phase, steady: f64, seed: u64) -> Schedule {
    let whole = phase.lasts;
    let empty = Schedule::new(Gaps::Poisson, seed);
    match phase.load {
        Load::Rest => empty.level("rest", whole, steady / 6.0),
        Load::Steady => empty.level("steady", whole, steady),
        Load::Campaign { times } => empty.level("campaign", whole, steady * times),
        Load::Ramp { times } => {
            empty.ramp("up", whole / 2, steady, steady * times).ramp("down", whole / 2, steady * times, steady)
        }
        Load::Spikes { times } => {
            let (calm, spike) = (Duration::from_secs(4), Duration::from_secs(3));
            let rounds = u32::try_from(whole.as_secs() / (calm + spike).as_secs()).unwrap_or(1).max(1);
            (0..rounds).fold(empty, |s, _| s.level("calm", calm, steady).level("spike", spike, steady * times))
        }
    }
}
