//! The gateway process: started when it is missing, left running when this daemon ends, asked what it still has in flight.

use crate::config::Config;
use crate::identity::gateway_svid;
use crate::node::Note;
use crate::quiet::{IDLE_MS, Rests};
use crate::routes::DRAIN_MS_MAX;
use crate::{Node, clock, witness};
use pumasi_gateway::{BackendStatus, CONFIG_FILE, CONFIG_VERSION, GatewayConfig, GatewayStatus, Listener, TlsFiles};
use pumasi_sense::BackendKey;
use pumasi_terms::{InstanceId, LeaseId};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

pub(crate) mod keeper;
use keeper::End;

const LOOK_MS: u64 = 50;

pub fn dir(config: &Config) -> PathBuf {
    config.cloud.data_dir.join("gateway")
}

/// Whether it runs, whoever started it.
pub fn runs(config: &Config) -> bool {
    pumasi_gateway::is_served(&dir(config))
}

pub fn write_config(config: &Config) -> std::io::Result<()> {
    let dir = dir(config);
    std::fs::create_dir_all(&dir)?;
    let plain = config.gateway.listen.iter().map(|a| Listener { address: *a, tls: None, http2: true });
    let files = config.gateway.tls_certificate.clone().zip(config.gateway.tls_key.clone());
    let tls = files.map(|(cert_path, key_path)| TlsFiles { cert_path, key_path });
    let secure = config.gateway.listen_tls.iter().map(|a| Listener { address: *a, tls: tls.clone(), http2: true });
    let gateway = GatewayConfig {
        version: CONFIG_VERSION,
        cloud: config.cloud.name.clone(),
        listeners: plain.chain(secure).collect(),
        peer_listen: Some(config.gateway.peer_listen),
        source_ip: config.peer.source_ip,
        workers: config.gateway.workers,
        svid_path: Some(gateway_svid(&dir)),
        trusted_proxies: config.gateway.trusted_proxies.clone(),
        proxy_protocol: config.gateway.proxy_protocol,
        access_log: config.gateway.access_log,
        limits: config.gateway.limits.clone(),
    };
    let partial = dir.join("gateway.json.new");
    std::fs::write(&partial, serde_json::to_vec_pretty(&gateway).unwrap_or_default())?;
    std::fs::rename(partial, dir.join(CONFIG_FILE))
}

/// Whether the gateway holds the unsafe requests of a service, and none is in flight. It is asked now: somebody waits for it.
pub async fn is_drained(node: &Node, service: &pumasi_terms::ServiceName) -> bool {
    let Ok(status) = node.gateway.status().await else { return false };
    let drained = status.held.iter().any(|h| &h.service == service && h.in_flight == 0);
    node.gateway_status.set(Some(status));
    drained
}

/// Starts the gateway so that it outlives this process: its own process group, its output to its own file.
pub fn start(dir: &Path, executable: &Path) -> std::io::Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("gateway.log"))?;
    let mut command = Command::new(executable);
    command
        .arg("gateway")
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    command.env_clear();
    for name in ["PATH", "PUMASI_LOG"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.spawn()
}

/// Gateways that this daemon started. Each is waited for when it has ended, also one that hung while another was started beside it.
#[derive(Debug, Default)]
pub struct Started(Vec<Child>);

impl Started {
    pub fn add(&mut self, child: Child) {
        self.0.push(child);
    }

    /// Those that have ended since the last time, in their own words where they left any.
    pub fn reap(&mut self, dir: &Path) -> Vec<End> {
        let mut ends = Vec::new();
        self.0.retain_mut(|child| match child.try_wait() {
            Ok(Some(status)) => {
                ends.push((status, child.id()));
                false
            }
            _ => true,
        });
        // One that ended as it was told to, while the one that follows it is there, is nothing to tell.
        let followed = !self.0.is_empty();
        ends.retain(|(status, _)| !(followed && status.success()));
        ends.into_iter().map(|(status, pid)| end_of(dir, pid, status)).collect()
    }
}

fn end_of(dir: &Path, pid: u32, status: ExitStatus) -> End {
    let taken = status.code() == Some(i32::from(pumasi_gateway::TAKEN));
    let why = match pumasi_gateway::last_words(dir, pid).filter(|_| !status.success()) {
        Some(why) => why,
        None if taken => "the one that runs does not answer".to_owned(),
        None => match (status.code(), status.signal()) {
            (Some(0), _) => "it was told to end".to_owned(),
            (Some(code), _) => format!("it ended with code {code}; see gateway/gateway.log"),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "it ended".to_owned(),
        },
    };
    End { why, taken }
}

/// Why nobody is served through this cloud's gateway now.
pub fn trouble(node: &Node) -> Option<String> {
    if witness::is(&node.config) {
        return None;
    }
    if let Some(why) = node.gateway_down.lock().as_ref() {
        return Some(format!("the gateway is down: {why}"));
    }
    node.gateway_status.lock().is_none().then(|| "the gateway does not answer yet".to_owned())
}

/// Writes down that the gateway went down, of what, and that it is up again: each once.
async fn tell(node: &Node, down: Option<String>) {
    let before = std::mem::replace(&mut *node.gateway_down.lock(), down.clone());
    if before == down {
        return;
    }
    match down {
        Some(why) => {
            tracing::error!(%why, "the gateway is down and nobody is served; it is started again");
            node.note("daemon", Note::new("gateway_down", "cloud", node.name()).because(why)).await;
        }
        None => {
            tracing::info!("the gateway is up again");
            node.note("daemon", Note::new("gateway_up", "cloud", node.name())).await;
        }
    }
}

/// Looks after the gateway and keeps its last status.
pub async fn run(node: Arc<Node>) {
    let (mut stopping, mut rests) = (node.stopping.clone(), Rests::new(&node));
    loop {
        match node.gateway.status().await {
            Ok(status) => {
                node.voting.gateway_answered(clock::boot());
                let down = node.gateway.look_after(true);
                node.gateway_status.set(Some(status));
                tell(&node, down).await;
            }
            Err(e) => {
                tracing::debug!(error = %e, "the gateway's status was not read");
                let down = node.gateway.look_after(false);
                node.gateway_status.set(None);
                tell(&node, down).await;
            }
        }
        tokio::select! {
            biased;
            // One that ends breaks off what it is asked for all the time, and that stirs.
            () = rests.rest(&node, LOOK_MS, IDLE_MS) => {}
            _ = stopping.changed() => break,
        }
    }
}

fn backend(status: &GatewayStatus, wanted: impl Fn(&BackendKey) -> bool) -> Option<&BackendStatus> {
    status
        .services
        .iter()
        .chain(&status.leases)
        .chain(&status.leaving)
        .flat_map(|p| &p.backends)
        .find(|b| wanted(&b.backend))
}

/// The gateway sends it nothing more and waits for nothing from it; or it was waited for long enough.
fn quiet(node: &Node, name: &str, wanted: impl Fn(&BackendKey) -> bool) -> bool {
    let Some(since) = node.routes.draining_since(name) else { return false };
    if clock::boot().since(since) >= DRAIN_MS_MAX {
        return true;
    }
    let status = node.gateway_status.lock();
    let Some(status) = status.as_ref() else { return false };
    if status.table_revision < node.routes.revision() {
        return false;
    }
    backend(status, wanted).is_none_or(|b| b.drained)
}

pub fn instance_is_quiet(node: &Node, id: &InstanceId) -> bool {
    quiet(node, id.as_str(), |key| matches!(key, BackendKey::Home(i) if i == id))
}

pub fn lease_is_quiet(node: &Node, id: &LeaseId) -> bool {
    quiet(node, id.as_str(), |key| matches!(key, BackendKey::Lease(_, l) if l == id))
}

/// Whether its answers come without trouble, as the gateway sees it.
pub fn lease_is_healthy(node: &Node, id: &LeaseId) -> bool {
    let status = node.gateway_status.lock();
    let Some(status) = status.as_ref() else { return false };
    backend(status, |key| matches!(key, BackendKey::Lease(_, l) if l == id)).is_none_or(|b| !b.set_aside)
}

/// Whether a lent lease can still be reached here.
pub fn has_route(node: &Node, id: &LeaseId) -> bool {
    let status = node.gateway_status.lock();
    // A gateway that does not answer may still serve by its last table.
    let Some(status) = status.as_ref() else { return true };
    status.leases.iter().any(|p| p.name == id.as_str()) || status.table_revision < node.routes.revision()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_gateway_that_hung_while_another_was_started_is_waited_for_too() {
        let mut started = Started::default();
        let mut hung = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = hung.id();
        hung.kill().unwrap();
        // As in `run`: it is dead, and the next one is started before anybody asked.
        started.add(hung);
        started.add(Command::new("true").spawn().unwrap());
        let begun = Instant::now();
        let mut ended = 0;
        while ended < 2 && begun.elapsed() < Duration::from_secs(20) {
            ended += started.reap(Path::new("/nowhere")).len();
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(ended, 2);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is still there as a zombie");
    }
}
