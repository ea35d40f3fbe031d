//! Starts one cloud's daemon and keeps it running until it is asked to stop. Gateway and instances outlive it.

use crate::config::{ACCEPT_RISK, Config, ConfigError};
use crate::ground::{GatewayPort, GatewayProcess, Ground, Hands};
use crate::identity::Identity;
use crate::node::Note;
use crate::object::{CLOUD, CloudRecord, ONLY};
use crate::quiet::{IDLE_MS, Rests};
use crate::supervise::Task;
use crate::{
    Node, api, borrower, bundles, clock, disk, diverged, fleet, former, gateway, home, lendable, lender, moves, pact,
    peers, quarantine, realm, reload, routes, sensing, supervise, takeover, tenancy, trouble, voting, witness, world,
};
use axum::Router;
use pumasi_api::Door;
use pumasi_api::message::Automation;
use pumasi_engine::{EgressPolicy, ProcessConfig, ProcessEngine};
use pumasi_store::{Expect, Options, Store};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Housekeeping: certificates, journal, bundles.
const KEEP_MS: u64 = 30_000;
/// Where everything is to end, instances are waited for so long.
const INSTANCES_MS: u64 = 20_000;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{doing}: {problem}")]
    Start { doing: String, problem: String },
    #[error("the daemon could not go on: {why}; gateway and instances do, and it must be started again")]
    Failed { why: String },
}

fn failed(doing: impl Into<String>) -> impl FnOnce(String) -> ServeError {
    let doing = doing.into();
    move |problem| ServeError::Start { doing, problem }
}

/// Runs until `stop` resolves; each of `reloads` has certificates read again. `executable` answers `gateway`, `shim` and `instance-exec`; `extra` is served beside the API.
pub async fn serve(
    config: Config,
    executable: PathBuf,
    extra: Router<Arc<Node>>,
    stop: impl Future<Output = ()>,
    mut reloads: mpsc::Receiver<()>,
) -> Result<(), ServeError> {
    supervise::log_panics();
    let (stopper, stopping) = watch::channel(false);
    let ground = lay(&config, executable).await?;
    let node = open(config, ground, stopping).await?;
    let server = node.identity.daemon.clone();
    let tls = pumasi_trust::server_config_open(server, node.identity.trust.clone(), &[b"h2", b"http/1.1"])
        .map_err(|e| failed("TLS for peers")(e.to_string()))?;
    // Whoever asked for the end hears of it: the doors close last.
    let (shutter, shutting) = watch::channel(false);
    let doors = doors(&node, tls, extra, &shutting).await?;
    let mut tasks = work(&node);
    // Not in `work`: it is about this host.
    tasks.push(supervise::keep(&node, Task::new("looking after the disk", disk::run)));
    tasks.push(supervise::keep(&node, Task::new("finding what could be lent", lendable::run)));
    let again = node.clone();
    let reloading = world::spawn(async move {
        while reloads.recv().await.is_some() {
            reload::at_signal(&again).await;
        }
    });
    tasks.push(supervise::keep(&node, Task::new("finding datasets that take no write", takeover::stalled::run)));
    let (failed, everything) = tokio::select! {
        () = stop => (None, false),
        why = node.health.failed() => (Some(why), false),
        everything = node.health.asked_to_end() => (None, everything),
    };
    reloading.abort();
    tracing::info!(everything, "stopping; gateway and instances go on unless everything ends");
    let _ = stopper.send(true);
    join(tasks).await;
    if everything {
        end_everything(&node).await;
    }
    let _ = shutter.send(true);
    join(doors).await;
    node.note("daemon", Note::new("daemon_stopped", "cloud", node.name())).await;
    let store = node.store.clone();
    let _ = world::blocking(move || store.close()).await;
    match failed {
        None => Ok(()),
        Some(why) => Err(ServeError::Failed { why }),
    }
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        let abort = task.abort_handle();
        if tokio::time::timeout(Duration::from_secs(6), task).await.is_err() {
            abort.abort();
        }
    }
}

/// Users first, then instances: nobody is sent to one that is ending. The next start makes all of it anew.
async fn end_everything(node: &Node) {
    const GATEWAY_MS: u64 = 10_000;
    let until = clock::boot().after(GATEWAY_MS);
    let pid = node.gateway.status().await.ok().map(|s| s.pid);
    if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1) {
        if let Err(e) = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM) {
            tracing::warn!(error = %e, "the gateway was not ended");
        }
        while node.gateway.status().await.is_ok() && clock::boot() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let ids: Vec<_> = node.instances.get().into_iter().map(|i| i.id).collect();
    for id in &ids {
        if let Err(e) = node.engine.stop(id).await {
            tracing::warn!(instance = %id, error = %e, "an instance was not ended");
        }
    }
    // Each has its own grace, which is bounded by its manifest.
    let until = clock::boot().after(INSTANCES_MS);
    while clock::boot() < until {
        fleet::refresh(node).await;
        let ended = |i: &pumasi_engine::InstanceStatus| matches!(i.state, pumasi_engine::InstanceState::Stopped { .. });
        if node.instances.lock().iter().all(ended) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tracing::warn!("some instances have not ended yet; they were asked to");
}

/// Opens every door of the configuration.
async fn doors(
    node: &Arc<Node>,
    tls: Arc<rustls::ServerConfig>,
    extra: Router<Arc<Node>>,
    shutting: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, ServeError> {
    let (config, stopping) = (&node.config, || shutting.clone());
    let bind = |address: std::net::SocketAddr| {
        move |e: std::io::Error| failed(format!("listening on {address}"))(e.to_string())
    };
    let users = api::Users::of_host(&config.api).map_err(failed("users of the API"))?;
    let (people, socket) = (api::router(node.clone(), Door::People, extra), config.api_socket());
    let open = api::people(&socket, users, people.clone(), stopping()).await;
    let mut doors = vec![open.map_err(|e| failed(format!("listening on {}", socket.display()))(e.to_string()))?.task];
    if let Some(at) = config.api.listen {
        let tls = api::people_tls_config(node).map_err(failed("TLS for people"))?;
        doors.push(api::people_tls(at, tls, people, stopping()).await.map_err(bind(at))?.task);
    }
    if let Some(at) = config.metrics.listen {
        let router = api::router(node.clone(), Door::Monitors, Router::new());
        doors.push(api::monitors(at, router, stopping()).await.map_err(bind(at))?.task);
    }
    let (router, at) = (api::router(node.clone(), Door::Members, Router::new()), config.peer.listen);
    let members = api::members(at, tls, router, stopping()).await.map_err(bind(at))?;
    tracing::info!(cloud = %node.name(), api = %socket.display(), peers = ?members.address, "serving");
    doors.push(members.task);
    Ok(doors)
}

/// Everything that a daemon does by itself, a task each.
pub fn work(node: &Arc<Node>) -> Vec<JoinHandle<()>> {
    // A witness has no gateway.
    let serves = !witness::is(&node.config);
    let tasks = [
        (serves, Task::new("looking after the gateway", gateway::run)),
        (true, Task::new("heartbeats", peers::run)),
        (true, Task::new("the vote of the pact", voting::run)),
        (true, Task::new("what the pact protects", takeover::run)),
        (true, Task::new("who is in step", takeover::in_sync::run)),
        (true, Task::new("judging whether a cloud is lost", takeover::judge::run)),
        (serves, Task::new("sensing", sensing::run)),
        (serves, Task::new("telling positions", borrower::pump_positions)),
        (serves, Task::new("what answers wait for", borrower::wanted::follow)),
        (true, Task::new("reconciling", reconcile)),
        (true, Task::new("housekeeping", keep)),
    ];
    tasks.into_iter().filter(|(runs, _)| *runs).map(|(_, task)| supervise::keep(node, task)).collect()
}

/// The real ground: files, processes, sockets.
async fn lay(config: &Config, executable: PathBuf) -> Result<Ground, ServeError> {
    let data = &config.cloud.data_dir;
    prepare(data).map_err(|e| failed(format!("preparing {}", data.display()))(e.to_string()))?;
    let path = data.join("store/pumasi.sqlite");
    let options = Options { reserve_bytes: config.disk.reserve_bytes(), ..Options::default() };
    let store = world::blocking(move || Store::open_with(&path, clock::wall(), clock::entropy(), options))
        .await
        .map_err(|e| failed("opening the store")(e.to_string()))?
        .map_err(|e| failed("opening the store")(e.to_string()))?;
    gateway::write_config(config).map_err(|e| failed("writing the gateway's configuration")(e.to_string()))?;
    let engine = ProcessConfig {
        uid_base: config.engine.uid_base,
        hide: vec![data.clone()],
        view: config.engine.view.clone(),
        limits: config.instances.of_each(),
        lend_without_isolation: config.engine.lend_without_isolation == ACCEPT_RISK,
        egress: EgressPolicy {
            home: config.engine.home_egress.clone(),
            lent: config.lend.egress.clone(),
            own: config.own_addresses(),
        },
        ..ProcessConfig::new(data.join("engine"), executable.clone())
    };
    let engine = ProcessEngine::open(engine).await.map_err(|e| failed("the process engine")(e.to_string()))?;
    let gateway: Arc<dyn GatewayPort> = match witness::is(config) {
        true => Arc::new(witness::NoGateway),
        false => Arc::new(GatewayProcess::new(&gateway::dir(config), executable.clone())),
    };
    let signin = realm::Program::new(data, executable).map_err(|e| failed("looking at this program")(e.to_string()))?;
    let hands = Hands::Apart(engine.clone());
    Ok(Ground { store, engine: Arc::new(engine), hands, gateway, wire: None, signin: Some(signin) })
}

/// Everything that must be there before anything is served.
pub async fn open(config: Config, ground: Ground, stopping: watch::Receiver<bool>) -> Result<Arc<Node>, ServeError> {
    let data = &config.cloud.data_dir;
    let isolation = ground.engine.capabilities().isolation;
    // People of `api.group` go through to a socket that lies there.
    let passed = config.api.group.is_some() && config.api_socket().starts_with(data);
    let whole = !passed && (isolation.namespaces || !isolation.own_uid);
    prepare(data)
        .and_then(|()| shut(data, whole))
        .map_err(|e| failed(format!("preparing {}", data.display()))(e.to_string()))?;
    let identity = Identity::load(&config).map_err(|e| failed("identity")(e.to_string()))?;
    identity.renew().map_err(failed("certificates"))?;
    let boot_count = record_boot(&ground.store, &clock::boot_id()).await.map_err(failed("recording this start"))?;
    let node = Node::new(config, identity, ground, boot_count, stopping);
    // Before the first table: one without instances would take the routes from those that serve.
    fleet::refresh(&node).await;
    pact::load(&node).map_err(|e| failed("the pact")(e.to_string()))?;
    // Before anything is done for a service: who owns it is in there.
    if let Err(e) = voting::load(&node) {
        tracing::error!(error = %e, "the register of the pact was not read; it is tried again, and nothing that it protects is written here before");
    }
    if let Some(why) = witness::obstacle(&node) {
        return Err(failed("starting as a witness")(why));
    }
    api::bootstrap_operator_token(&node).await.map_err(|e| failed("the operator's token")(e.to_string()))?;
    node.health.set_aside(&node).await;
    if let Err(e) = sensing::admit_loss(&node).await {
        tracing::warn!(error = %e, "what the daemon before may not have metered of rented instances was not written down");
    }
    node.note(
        "daemon",
        Note::new("daemon_started", "cloud", node.name()).because(format!("version {}", env!("CARGO_PKG_VERSION"))),
    )
    .await;
    if let Err(why) = node.may_act() {
        tracing::error!(%why, "nothing is asked of or given to others until an operator accepts this store");
    }
    Ok(node)
}

fn prepare(data: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(data)?;
    for (part, mode) in [
        ("store", 0o700),
        ("trust", 0o700),
        ("gateway", 0o700),
        ("engine", 0o711),
        ("bundles", 0o711),
        ("services", 0o711),
        ("leases", 0o711),
        ("quarantine", 0o700),
    ] {
        let dir = data.join(part);
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Nobody else gets in, except where instances with uids of their own have no root of their own: they go through to their bundle and data.
/// What lies there shuts its own doors.
fn shut(data: &Path, whole: bool) -> std::io::Result<()> {
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(if whole { 0o700 } else { 0o711 }))
}

/// After a reboot everything that was lent is forfeit and positions of datasets begin anew.
async fn record_boot(store: &Store, boot_id: &str) -> Result<u64, String> {
    let boot_id = boot_id.to_owned();
    let result = store
        .transact(move |tx| {
            let old = tx.get::<CloudRecord>(CLOUD, ONLY)?.map(|s| s.body);
            let rebooted = old.as_ref().is_none_or(|r| r.boot_id != boot_id);
            let boot_count = old.as_ref().map_or(0, |r| r.boot_count) + u64::from(rebooted);
            if rebooted {
                lender::forfeit(tx)?;
                borrower::forfeit(tx)?;
                moves::forfeit(tx)?;
            }
            let automation = old.map_or(Automation { stopped: false, why: String::new() }, |r| r.automation);
            tx.put(CLOUD, ONLY, &CloudRecord { automation, boot_id, boot_count }, Expect::Any)?;
            Ok::<_, crate::node::TxError>(boot_count)
        })
        .await;
    result.map_err(|e| pumasi_api::Problem::from(e).to_string())
}

/// The level-triggered loop: looks at everything, acts, and looks again when something moved or a tick has passed.
async fn reconcile(node: Arc<Node>) {
    let (mut stopping, mut rests) = (node.stopping.clone(), Rests::new(&node));
    while !*stopping.borrow() {
        look(&node).await;
        tokio::select! {
            biased;
            // Changes come in bursts: a short rest lets one look serve them all.
            () = async { node.wake.notified().await; tokio::time::sleep(rest(&node)).await; } => {}
            () = rests.rest(&node, node.config.timing.tick_ms, IDLE_MS) => {}
            _ = stopping.changed() => break,
        }
    }
}

fn rest(node: &Node) -> Duration {
    // The users of a service that moves wait for each of these looks.
    Duration::from_millis(if node.moves.hurries() { 1 } else { 5 })
}

/// One look at everything. Whoever cannot read what it must know does nothing this time, and `/readyz` says so.
pub async fn look(node: &Arc<Node>) {
    fleet::refresh(node).await;
    node.health.saw("services at home", home::reconcile(node).await);
    node.health.saw("what is lent", lender::reconcile(node).await);
    node.health.saw("what is rented", borrower::reconcile(node).await);
    node.health.saw("what is moved", moves::reconcile(node).await);
    diverged::reconcile(node);
    node.health.saw("the route table", routes::reconcile(node).await);
    node.health.saw("what is not ready", trouble::tell(node).await);
}

async fn keep(node: Arc<Node>) {
    let mut stopping = node.stopping.clone();
    loop {
        match node.identity.renew() {
            Ok(true) => {
                if let Err(e) = node.gateway.reload_identity().await {
                    tracing::warn!(error = %e, "the gateway did not take its new certificate; tried again");
                }
            }
            Ok(false) => {}
            Err(e) => tracing::error!(error = %e, "certificates were not renewed; tried again"),
        }
        reload::look(&node);
        // Addresses or authority may have changed while this daemon was away; every member must sign that.
        if node.pact().is_some() {
            match pact::refresh_own_entry(&node).await {
                Ok(true) => tracing::info!("the pact has this cloud's new entry"),
                Ok(false) => {}
                Err(e) => tracing::debug!(error = %e, "the pact does not have this cloud's new entry yet; tried again"),
            }
        }
        if let Err(e) = borrower::settle_open(&node).await {
            tracing::debug!(error = %e, "open settlements were not asked for; tried again");
        }
        if let Err(e) = pact::go_on(&node).await {
            tracing::debug!(error = %e, "what was asked of the members is not through yet; tried again");
        }
        if let Err(e) = node.store.retain(node.config.store.journal_rows_max, "daemon").await {
            tracing::warn!(error = %e, "the journal was not shortened");
        }
        if let Err(e) = bundles::collect(&node).await {
            tracing::warn!(error = %e, "unused bundles were not set aside");
        }
        if let Err(e) = quarantine::expire(&node).await {
            tracing::warn!(error = %e, "what has lain its day in quarantine was not erased; tried again");
        }
        if let Err(e) = tenancy::erase_retired(&node).await {
            tracing::warn!(error = %e, "data of deleted services were not erased; tried again");
        }
        if let Err(e) = former::erase_due(&node).await {
            tracing::warn!(error = %e, "what is kept of moved services was not erased; tried again");
        }
        node.health.set_aside(&node).await;
        tokio::select! {
            biased;
            () = tokio::time::sleep(Duration::from_millis(KEEP_MS)) => {}
            _ = stopping.changed() => break,
        }
    }
}
