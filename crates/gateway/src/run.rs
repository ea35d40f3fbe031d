//! The gateway process: from its directory to serving, and back.

use crate::access::Access;
use crate::config::{ConfigError, GatewayConfig};
use crate::ended::{self, LOCK_FILE, TAKEN};
use crate::gateway::{Gateway, Phase, Worker};
use crate::keys::Keyring;
use crate::listen::{self, Speaks};
use crate::meter::Meter;
use crate::peers::{Peers, PeersError};
use crate::position::Positions;
use crate::table::Tables;
use crate::wanted::Wanted;
use crate::{certificates, clock, control, handover};
use nix::fcntl::{Flock, FlockArg};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_rustls::TlsAcceptor;

const SWEEP: Duration = Duration::from_secs(1);

/// Why the gateway did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("another gateway serves {0}")]
    Taken(PathBuf),
    #[error("{what}: {source}")]
    System { what: String, source: std::io::Error },
    #[error(transparent)]
    Peers(#[from] PeersError),
    #[error("the certificate of a listener is of no use: {0}")]
    Tls(String),
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> GatewayError {
    let what = what.into();
    move |source| GatewayError::System { what, source }
}

/// Runs the gateway of this directory until it is told to stop. Logs go to whatever subscriber the caller has set.
pub fn gateway_main(dir: &Path) -> ExitCode {
    match run(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, dir = %dir.display(), "the gateway ends");
            eprintln!("pumasi gateway: {error}");
            if matches!(error, GatewayError::Taken(_)) {
                return ExitCode::from(TAKEN);
            }
            ended::say(dir, &error.to_string());
            ExitCode::FAILURE
        }
    }
}

type Bound = Vec<(std::net::TcpListener, Speaks)>;

fn run(dir: &Path) -> Result<(), GatewayError> {
    let main = runtime()?;
    // First of all: a signal that comes before somebody listens would end it, SIGHUP too.
    let guard = main.enter();
    let signals = Signals::listen().map_err(system("listening for signals"))?;
    let config = GatewayConfig::load(dir)?;
    let lock = lock(dir)?;
    let mut inherited = handover::take(dir);
    open_more_files(&config);
    let gateway = Arc::new(build(dir, config)?);
    match gateway.tables.load() {
        Ok(true) => tracing::info!(revision = gateway.tables.live().revision, "serving by the table of the run before"),
        Ok(false) => tracing::info!("no table yet"),
        // The daemon sends a new one; a broken file must not keep the gateway down.
        Err(problem) => tracing::error!(problem, "the table on disk is of no use"),
    }
    let public = Arc::new(public_listeners(&gateway)?);
    let mut shares: Vec<Bound> = Vec::new();
    for _ in 0..gateway.config.workers {
        shares.push(bind(&gateway, &public, inherited.as_mut())?);
    }
    let listeners = shares.iter().flatten().map(|(listener, _)| listener.try_clone());
    let listeners = listeners.collect::<Result<Vec<_>, _>>().map_err(system("keeping listeners for a successor"))?;
    let control = control::bind(dir).map_err(system("binding the control socket"))?;
    drop(guard);
    let threads: Vec<_> = shares
        .into_iter()
        .enumerate()
        .map(|(i, share)| {
            let gateway = gateway.clone();
            let work = move || work(gateway, share);
            std::thread::Builder::new().name(format!("worker-{i}")).spawn(work).map_err(system("starting a worker"))
        })
        .collect::<Result<_, _>>()?;
    let mut answers = true;
    main.block_on(async {
        let answering = tokio::spawn(control::run(gateway.clone(), control, public.clone()));
        tokio::spawn(gateway.meter.clone().run(gateway.tables.clone()));
        tokio::spawn(certificates::watch(gateway.clone(), public.clone()));
        if let Some(inherited) = inherited {
            tracing::info!("the listeners of the gateway before were taken over");
            inherited.serving();
        }
        tracing::info!(cloud = %gateway.config.cloud, run = gateway.run, "serving");
        ended::forget(dir);
        match wait_for_stop(&gateway, &public, signals).await {
            Stop::Asked => drop(listeners),
            Stop::Signalled => {
                // The daemon starts a successor when the control socket is silent; it may when the lock is free.
                match handover::open(dir) {
                    Ok(at) => {
                        drop(lock);
                        answering.abort();
                        answers = false;
                        let _ = std::fs::remove_file(dir.join(control::CONTROL_SOCKET));
                        let followed = handover::give(dir, at, listeners).await;
                        tracing::info!(followed, "stopping");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no successor can take over; new users are refused for a moment")
                    }
                }
            }
        }
        gateway.phase.send_replace(Phase::Stopping);
        // As long as nobody else answers there, the control socket and the meter go on, so that the daemon sees the end of it.
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        let bound = Duration::from_millis(gateway.config.limits.stop_ms) + Duration::from_secs(1);
        let _ = tokio::time::timeout(bound, joined).await;
    });
    if answers {
        let _ = std::fs::remove_file(dir.join(control::CONTROL_SOCKET));
    }
    main.shutdown_background();
    Ok(())
}

/// Each connection is a file, and so is the one to the instance behind it. The default of many systems is 1,024.
fn open_more_files(config: &GatewayConfig) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let limits = &config.limits;
    let wanted = u64::from(config.workers) * 2 * u64::from(limits.connections_max + limits.peer_connections_max);
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard);
            if raised < wanted {
                tracing::warn!(
                    open_files_max = raised,
                    wanted,
                    "connections may run out of files; raise the hard limit (LimitNOFILE)"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files was not read"),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, GatewayError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("starting the runtime"))
}

fn lock(dir: &Path) -> Result<Flock<std::fs::File>, GatewayError> {
    let path = dir.join(LOCK_FILE);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(system(format!("opening {}", path.display())))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| GatewayError::Taken(dir.to_owned()))
}

fn build(dir: &Path, config: GatewayConfig) -> Result<Gateway, GatewayError> {
    let peers = Peers::new(config.svid_path.clone())?;
    let boot_id = clock::boot_id().map_err(system("reading the kernel's boot id"))?;
    let tables = Tables::new(dir, config.cloud.clone(), boot_id, peers.clone());
    let positions = Positions::open(dir).map_err(system("opening position.key"))?;
    // JSON readers elsewhere keep 53 bits exactly.
    let run = rand::random::<u64>() >> 11;
    let served_by = http::HeaderValue::from_str(config.cloud.as_str());
    let served_by = served_by.unwrap_or(http::HeaderValue::from_static("unnamed"));
    let via = http::HeaderValue::try_from(format!("1.1 {}", config.cloud));
    let via = via.unwrap_or(http::HeaderValue::from_static("1.1 unnamed"));
    let access = config.access_log.then(|| Access::open(dir)).transpose();
    let access = access.map_err(system("opening access.log"))?;
    Ok(Gateway {
        run,
        access,
        served_by,
        via,
        started_us: clock::boot_us(),
        tables: Arc::new(tables),
        wanted: Wanted::new(run),
        peers,
        positions,
        keys: Arc::new(Keyring::open(dir)),
        positions_read: Default::default(),
        positions_not_read: Default::default(),
        spent: Default::default(),
        meter: Arc::new(Meter::new(run)),
        connections: Arc::default(),
        tunnels: Arc::default(),
        unsaid: Default::default(),
        bound: OnceLock::new(),
        phase: tokio::sync::watch::Sender::new(Phase::Serving),
        config,
    })
}

fn public_listeners(gateway: &Gateway) -> Result<certificates::Reloadable, GatewayError> {
    let listeners = gateway.config.listeners.iter().map(|listener| {
        let speaks = match &listener.tls {
            None => Speaks::Plain { http2: listener.http2 },
            Some(files) => {
                let tls = listen::public_tls(files, listener.http2, &gateway.keys).map_err(GatewayError::Tls)?;
                Speaks::Tls { shown: Arc::new(std::sync::RwLock::new(tls)) }
            }
        };
        Ok((listener.clone(), speaks))
    });
    listeners.collect()
}

fn bind(
    gateway: &Gateway,
    public: &certificates::Reloadable,
    mut inherited: Option<&mut handover::Inherited>,
) -> Result<Bound, GatewayError> {
    let shared = gateway.config.workers > 1;
    let mut at = |address: SocketAddr| match inherited.as_mut().and_then(|i| i.listener(address)) {
        Some(listener) => Ok(listener),
        None => listen::bind(address, shared).map_err(system(format!("listening on {address}"))),
    };
    let mut bound: Bound = Vec::new();
    for (listener, speaks) in public {
        bound.push((at(listener.address)?, speaks.clone()));
    }
    let address = |l: &std::net::TcpListener| l.local_addr().map_err(system("asking for a listener's address"));
    let users = bound.iter().map(|(l, _)| address(l)).collect::<Result<Vec<_>, _>>()?;
    let mut peers = None;
    if let Some(listen) = gateway.config.peer_listen
        && let Some(config) = gateway.peers.server_config()?
    {
        let listener = at(listen)?;
        peers = Some(address(&listener)?);
        bound.push((listener, Speaks::Peers { acceptor: TlsAcceptor::from(config) }));
    }
    let _ = gateway.bound.set((users, peers));
    Ok(bound)
}

/// One thread: serves its listeners until the stop, then lets what is in flight end.
fn work(gateway: Arc<Gateway>, share: Bound) {
    let Ok(runtime) = runtime() else { return };
    runtime.block_on(async {
        let worker = Worker::new(gateway.clone());
        for (listener, speaks) in share {
            match TcpListener::from_std(listener) {
                Ok(listener) => drop(tokio::spawn(listen::run(worker.clone(), listener, speaks))),
                Err(error) => tracing::error!(%error, "a listener is of no use"),
            }
        }
        let sweeping = worker.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                if !sweeping.pool.sweep() {
                    // Nothing is kept before somebody comes.
                    sweeping.links.any().await;
                }
            }
        });
        tokio::spawn(worker.links.clone().run(gateway.config.limits.clone()));
        let mut phase = gateway.phase.subscribe();
        let _ = phase.wait_for(|p| *p == Phase::Stopping).await;
        let deadline = Duration::from_millis(gateway.config.limits.stop_ms);
        let ended = async {
            while gateway.connections.load(std::sync::atomic::Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(deadline, ended).await;
    });
    runtime.shutdown_background();
}

enum Stop {
    /// By the control socket: for good.
    Asked,
    /// A successor may follow.
    Signalled,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Until it is to stop. SIGHUP has certificates read again.
async fn wait_for_stop(gateway: &Gateway, public: &certificates::Reloadable, mut signals: Signals) -> Stop {
    let mut phase = gateway.phase.subscribe();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Stop::Signalled,
            _ = signals.interrupt.recv() => return Stop::Signalled,
            _ = phase.wait_for(|p| *p == Phase::Stopping) => return Stop::Asked,
            _ = signals.hangup.recv() => match certificates::reload(gateway, public) {
                Ok(read) => tracing::info!(changed = ?read.changed, "certificates were read again"),
                Err(problem) => tracing::warn!(problem, "certificates were not read again"),
            },
        }
    }
}
