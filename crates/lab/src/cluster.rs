//! A federation on this machine: real daemons, brought up by the commands that an operator types.
//!
//! Enters: names, cities and capacities. Leaves: running clouds in one pact, with an operator's client for each.
//! Always holds: everything goes through the public command line and API; what was started ends with the supervisor.

use crate::process::{ProcessSpec, Supervisor};
use crate::relay::{Wan, WanConfig};
use crate::topology::{CloudPlace, Topology};
use anyhow::{Context, bail, ensure};
use pumasi_api::Client;
use pumasi_api::message::{CloudStatus, LeaseView, List, ServiceView, Traffic};
use pumasi_console::Forwarder;
use pumasi_terms::service::Service;
use pumasi_terms::{Resources, ServiceName};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A daemon is up within this, also on a busy machine.
const UP_TIMEOUT: Duration = Duration::from_secs(30);
const HTTPS_PORT: u16 = 8443;
/// An operator's command ends within this.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// One cloud as the scenario wants it.
#[derive(Debug, Clone)]
pub struct CloudPlan {
    pub name: &'static str,
    pub city: &'static str,
    /// What it has for instances.
    pub capacity: Resources,
    /// What it lends.
    pub lends: Resources,
    /// Of one CPU-hour, as `0.05`.
    pub price: &'static str,
    /// It votes and holds nothing.
    pub witness: bool,
}

impl CloudPlan {
    /// One that has services, and lends.
    pub fn new(
        name: &'static str,
        city: &'static str,
        capacity: Resources,
        lends: Resources,
        price: &'static str,
    ) -> Self {
        Self { name, city, capacity, lends, price, witness: false }
    }
}

#[derive(Debug)]
pub struct Cluster {
    pub topology: Topology,
    pub wan: Wan,
    pub supervisor: Supervisor,
    executable: PathBuf,
    clouds: Vec<CloudPlan>,
    /// Lines added to every configuration, as `[timing]` and what follows it.
    timing: String,
    /// Users may come by HTTPS as well.
    https: bool,
}

impl Cluster {
    /// Lays out, writes the configurations, starts every daemon and founds the pact.
    pub async fn start(executable: &Path, clouds: &[CloudPlan], timing: &str) -> anyhow::Result<Self> {
        Self::begin(Self::prepare(executable, clouds, timing, false)?, clouds).await
    }

    /// The same with listeners for HTTPS, where each operator shows a certificate of its own cloud's name.
    pub async fn start_https(executable: &Path, clouds: &[CloudPlan], timing: &str) -> anyhow::Result<Self> {
        Self::begin(Self::prepare(executable, clouds, timing, true)?, clouds).await
    }

    /// The same with something laid into the clouds' directories before anything runs there.
    pub async fn start_laid(
        executable: &Path,
        clouds: &[CloudPlan],
        timing: &str,
        lay: impl FnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let cluster = Self::prepare(executable, clouds, timing, false)?;
        lay(&cluster)?;
        Self::begin(cluster, clouds).await
    }

    async fn begin(cluster: Self, clouds: &[CloudPlan]) -> anyhow::Result<Self> {
        for cloud in clouds {
            cluster.start_daemon(cloud.name)?;
        }
        for cloud in clouds {
            cluster.wait_up(cloud.name).await?;
        }
        cluster.found_pact().await?;
        Ok(cluster)
    }

    fn prepare(executable: &Path, clouds: &[CloudPlan], timing: &str, https: bool) -> anyhow::Result<Self> {
        let places: Vec<_> = clouds.iter().map(|c| (c.name, c.city)).collect();
        let topology = Topology::lay_out(&places).context("laying out the clouds")?;
        let wan = topology.wan(WanConfig::default()).context("starting the network between the clouds")?;
        let supervisor = Supervisor::create(None).context("preparing the run's directory")?;
        let cluster = Self {
            topology,
            wan,
            supervisor,
            executable: executable.to_owned(),
            clouds: clouds.to_vec(),
            timing: timing.to_owned(),
            https,
        };
        // Instances run under uids of their own and must get through to their bundles.
        std::fs::set_permissions(cluster.supervisor.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        for cloud in clouds {
            cluster.write_config(cloud)?;
        }
        Ok(cluster)
    }

    pub fn clouds(&self) -> &[CloudPlan] {
        &self.clouds
    }

    pub fn place(&self, cloud: &str) -> anyhow::Result<&CloudPlace> {
        self.topology.cloud(cloud).with_context(|| format!("there is no cloud {cloud} in this lab"))
    }

    /// Where its users come in by HTTPS.
    pub fn https(&self, cloud: &str) -> anyhow::Result<SocketAddr> {
        Ok((self.place(cloud)?.address, HTTPS_PORT).into())
    }

    pub fn dir(&self, cloud: &str) -> PathBuf {
        self.supervisor.dir().join(cloud)
    }

    pub fn config(&self, cloud: &str) -> PathBuf {
        self.dir(cloud).join("cloud.toml")
    }

    fn write_config(&self, cloud: &CloudPlan) -> anyhow::Result<()> {
        let place = self.place(cloud.name)?;
        let (latitude, longitude) = place.city.coordinates();
        std::fs::create_dir_all(self.dir(cloud.name))?;
        let https = if self.https { self.serve_https(cloud.name)? } else { String::new() };
        let text = format!(
            "version = 1\n\n[cloud]\nname = \"{name}\"\ndata_dir = \"data\"\nplace = {{ city = \"{city}\", latitude = {latitude}, longitude = {longitude} }}\n\n\
             [peer]\nlisten = \"{peer}\"\nadvertise = \"{peer_adv}\"\nsource_ip = \"{ip}\"\n\n\
             [gateway]\nlisten = [\"{users}\"]\npeer_listen = \"{gw}\"\npeer_advertise = \"{gw_adv}\"\n{https}\n\
             [capacity]\ncpu_millis = {cpu}\nmemory_mib = {mem}\n\n[engine]\ninstance_ip = \"{ip}\"\n{risk}\n[pact]\nadmit = \"auto\"\n{role}{timing}\n",
            name = cloud.name,
            city = cloud.city,
            peer = place.peer_listen,
            peer_adv = place.peer_advertise,
            ip = place.address,
            users = place.users,
            gw = place.gateway_listen,
            gw_adv = place.gateway_advertise,
            cpu = cloud.capacity.cpu_millis,
            mem = cloud.capacity.memory_mib,
            // Without root nothing can be isolated; the clouds of a lab all belong to whoever runs it.
            risk = if is_root() { "" } else { "lend_without_isolation = \"i-accept-the-risk\"" },
            role = if cloud.witness { "role = \"witness\"\n" } else { "" },
            timing = self.timing,
            https = https,
        );
        let path = self.config(cloud.name);
        std::fs::set_permissions(self.dir(cloud.name), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// What its operator puts beside the configuration, and writes into `[gateway]`.
    fn serve_https(&self, cloud: &str) -> anyhow::Result<String> {
        let made = rcgen::generate_simple_self_signed(vec![format!("{cloud}.example")])?;
        std::fs::write(self.dir(cloud).join("tls.crt"), made.cert.pem())?;
        std::fs::write(self.dir(cloud).join("tls.key"), made.signing_key.serialize_pem())?;
        let listen = self.https(cloud)?;
        Ok(format!("listen_tls = [\"{listen}\"]\ntls_certificate = \"tls.crt\"\ntls_key = \"tls.key\"\n"))
    }

    pub fn start_daemon(&self, cloud: &str) -> anyhow::Result<u32> {
        let spec = ProcessSpec::new(cloud, &self.executable)
            .arg("serve")
            .arg("--config")
            .arg(self.config(cloud))
            .env("PUMASI_LOG", std::env::var("PUMASI_LOG").unwrap_or_else(|_| "info".into()));
        self.supervisor.start(spec).with_context(|| format!("starting {cloud}"))
    }

    /// Until the daemon answers and its gateway serves.
    pub async fn wait_up(&self, cloud: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.supervisor.exit_status(cloud) {
                let log = std::fs::read_to_string(self.supervisor.log_of(cloud)).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                bail!(
                    "the daemon of {cloud} ended with {status}: {}",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
            if let Ok(client) = self.client(cloud)
                && client.text("/readyz").await.is_ok()
            {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < UP_TIMEOUT,
                "{cloud} was not up within {UP_TIMEOUT:?}; see {}",
                self.supervisor.log_of(cloud).display()
            );
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Where people call its daemon.
    pub fn socket(&self, cloud: &str) -> PathBuf {
        self.dir(cloud).join("data/api.sock")
    }

    /// The operator of a cloud: the user who runs this lab.
    pub fn client(&self, cloud: &str) -> anyhow::Result<Client> {
        Ok(Client::over_socket(&self.socket(cloud), None, CALL_TIMEOUT)?)
    }

    /// Consoles of all clouds, each for its operator, told with their addresses, open as long as what is returned lives.
    /// `crowd`: in the console of which cloud a crowd can be wished for, and where the wish goes.
    pub async fn open_consoles(
        &self,
        story: &crate::story::Story,
        crowd: Option<(&str, mpsc::Sender<()>)>,
    ) -> anyhow::Result<Vec<Forwarder>> {
        let mut open = Vec::new();
        for cloud in self.clouds() {
            let client = self.client(cloud.name)?;
            let console = match &crowd {
                Some((at, wish)) if *at == cloud.name => Forwarder::start_with_crowd(client, 0, wish.clone()).await?,
                _ => Forwarder::start(client, 0).await?,
            };
            story.tell(cloud.name, "up", format!("{:<8} console {}", cloud.city, console.url()));
            open.push(console);
        }
        Ok(open)
    }

    /// Runs a command of the CLI as this cloud's operator; its standard output.
    pub async fn operate(&self, cloud: &str, args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new(&self.executable);
        command.arg("--config").arg(self.config(cloud)).args(args).kill_on_drop(true);
        command
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.env_remove("PUMASI_SERVER").env_remove("PUMASI_TOKEN").env_remove("PUMASI_TOKEN_FILE");
        let mut child = command.spawn().with_context(|| format!("running pumasi {}", args.join(" ")))?;
        if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
            use tokio::io::AsyncWriteExt;
            pipe.write_all(text.as_bytes()).await?;
        }
        let done = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output())
            .await
            .context("the command did not end")??;
        ensure!(
            done.status.success(),
            "pumasi {} at {cloud}: {}",
            args.join(" "),
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    async fn found_pact(&self) -> anyhow::Result<()> {
        let Some((first, others)) = self.clouds.split_first() else { return Ok(()) };
        if others.is_empty() {
            return Ok(());
        }
        let terms = |c: &CloudPlan| {
            [
                format!("--lends-cpu={}", c.lends.cpu_millis),
                format!("--lends-memory={}", c.lends.memory_mib),
                format!("--price={}", c.price),
            ]
        };
        let own = terms(first);
        let mut args = vec!["pact", "init", "--currency", "EUR"];
        args.extend(own.iter().map(String::as_str));
        self.operate(first.name, &args, None).await?;
        for cloud in others {
            let invitation = self.operate(first.name, &["pact", "invite", cloud.name], None).await?;
            let theirs = terms(cloud);
            let mut args = vec!["pact", "join", "--invitation-file", "-"];
            args.extend(theirs.iter().map(String::as_str));
            self.operate(cloud.name, &args, Some(&invitation)).await?;
        }
        // Offers are known once every member has answered a heartbeat.
        let begun = Instant::now();
        for cloud in &self.clouds {
            loop {
                let status: CloudStatus = self.client(cloud.name)?.get("/v1/cloud").await?;
                if status.members.len() == others.len() && status.members.iter().all(|m| m.free.is_some()) {
                    break;
                }
                ensure!(
                    begun.elapsed() < UP_TIMEOUT,
                    "{} has not heard of every member within {UP_TIMEOUT:?}",
                    cloud.name
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Where a service at home keeps what is its own: by its id.
    pub async fn service_dir(&self, cloud: &str, name: &ServiceName) -> anyhow::Result<PathBuf> {
        let view: ServiceView = self.client(cloud)?.get(&format!("/v1/services/{name}")).await?;
        let id = view.status.id.with_context(|| format!("{cloud} tells no id of {name}"))?;
        Ok(self.dir(cloud).join("data/services").join(id.as_str()))
    }

    /// Writes the manifest and applies it as a customer would; returns when its instances at home are ready.
    pub async fn apply(&self, cloud: &str, service: &Service) -> anyhow::Result<()> {
        let path = self.dir(cloud).join(format!("{}.yaml", service.metadata.name));
        std::fs::write(&path, serde_json::to_string_pretty(service)?)?;
        self.operate(cloud, &["apply", "-f", &path.display().to_string()], None).await?;
        let begun = Instant::now();
        loop {
            let view: ServiceView = self.client(cloud)?.get(&format!("/v1/services/{}", service.metadata.name)).await?;
            if view.status.home_ready >= view.status.home_wanted {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < UP_TIMEOUT,
                "{} is not ready at {cloud} within {UP_TIMEOUT:?}: {} {}",
                service.metadata.name,
                view.status.phase,
                view.status.why
            );
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// To everything that runs for a cloud: instances, gateway, daemon. Whom it reached.
    pub fn signal_all(&self, cloud: &str, signal: nix::sys::signal::Signal) -> Vec<u32> {
        let dir = self.dir(cloud).display().to_string();
        // Instances tell their cloud by where their files are.
        let lives_in = |pid: u32| {
            std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|mounts| mounts.contains(&dir))
        };
        let all = self.supervisor.belonging().into_iter();
        let its = all.filter(|found| found.command.contains(&dir) || lives_in(found.pid)).map(|found| found.pid);
        its.filter(|pid| self.supervisor.signal_pid(*pid, signal).is_ok()).collect()
    }

    pub async fn leases(&self, cloud: &str) -> anyhow::Result<Vec<LeaseView>> {
        Ok(self.client(cloud)?.get::<List<LeaseView>>("/v1/leases").await?.items)
    }

    pub async fn traffic(&self, cloud: &str) -> anyhow::Result<Traffic> {
        Ok(self.client(cloud)?.get("/v1/traffic").await?)
    }

    /// Until no lease of any cloud is open, as seen by both sides.
    pub async fn wait_all_over(&self, at_most: Duration) -> anyhow::Result<bool> {
        let begun = Instant::now();
        loop {
            let mut open = 0;
            for cloud in &self.clouds {
                let over = |l: &LeaseView| match l.side.as_str() {
                    "rented" => l.state.starts_with("ended"),
                    _ => matches!(l.state.as_str(), "ended" | "settled"),
                };
                open += self.leases(cloud.name).await?.iter().filter(|l| !over(l)).count();
                let journeys: serde_json::Value = self.client(cloud.name)?.get("/v1/journeys").await?;
                let items = journeys["items"].as_array().cloned().unwrap_or_default();
                open += items.iter().filter(|j| j["phase"]["phase"] != "closed").count();
            }
            if open == 0 {
                return Ok(true);
            }
            if begun.elapsed() >= at_most {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a lender still has of others' leases: processes, directories. Empty: nothing foreign is left.
    pub fn remains(&self, cloud: &str) -> Vec<String> {
        let dir = self.dir(cloud);
        let leases = std::fs::read_dir(dir.join("data/leases")).into_iter().flatten().flatten();
        let mut left: Vec<String> = leases.map(|e| e.path().display().to_string()).collect();
        let under = dir.join("data/engine").display().to_string();
        let shims = self
            .supervisor
            .belonging()
            .into_iter()
            .filter(|f| f.command.contains(&under) && f.command.contains(" shim "));
        let own = |f: &crate::process::Found| {
            let spec = f.command.split(' ').find(|w| w.contains(&under)).map(|d| Path::new(d).join("spec.json"));
            let text = spec.and_then(|p| std::fs::read_to_string(p).ok()).unwrap_or_default();
            text.contains("\"owner\":\"service-") || text.contains("\"owner\": \"service-")
        };
        left.extend(shims.filter(|f| !own(f)).map(|f| format!("process {} {}", f.pid, f.command)));
        left
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
