//! The `process` driver: real processes on this host, each under a shim of its own.
//!
//! Enters: specs. Leaves: directories, shims, cgroups, network namespaces, and statuses read back from them.
//! Always holds: this object has no state that matters; all of it is in the root directory and the kernel, where the next daemon finds it.

mod cgroup;
mod changes;
mod data;
mod egress;
mod exec;
mod freeze;
mod handles;
mod helper;
mod host;
mod launch;
mod layout;
mod logs;
mod net;
mod netlink;
mod prepared;
mod probe;
mod processes;
mod ranges;
mod relay;
mod rights;
mod seccomp;
mod session;
mod shim;
mod slots;
mod throttle;
mod trial;
mod view;

use crate::port::BoxFuture;
use crate::{
    Capabilities, Engine, EngineError, Freeze, InstanceSpec, InstanceStatus, Limits, Prepare, Remains, Session,
    TerminalSize,
};
use host::Host;
use pumasi_terms::InstanceId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

pub use egress::{EgressPolicy, is_of_this_host};
pub use exec::instance_exec_main;
pub use helper::{Helper, HelperSpec, Room};
pub use host::is_in_use;
pub use shim::shim_main;

#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// This engine's own; no other daemon may use it.
    pub root_dir: PathBuf,
    /// A program that answers `shim --dir DIR` by [`shim_main`], `instance-exec --dir DIR` by [`instance_exec_main`], and
    /// `data-helper` by [`crate::enter_cell`] and the work that follows.
    pub executable: PathBuf,
    /// First of 1024 uids and gids that are nobody else's; by default a free range, chosen by the name of `root_dir`.
    pub uid_base: Option<u32>,
    /// Directories that instances must not see, besides `root_dir`, wherever they lie: the daemon's.
    pub hide: Vec<PathBuf>,
    /// Directories and files of the host that instances see besides the system's own, read-only and at the same path.
    pub view: Vec<PathBuf>,
    /// Of one instance's output; older output is dropped.
    pub log_bytes_max: u64,
    /// Of each instance.
    pub limits: Limits,
    /// The operator signs for running others' code without isolation.
    pub lend_without_isolation: bool,
    pub egress: EgressPolicy,
}

impl ProcessConfig {
    pub fn new(root_dir: impl Into<PathBuf>, executable: impl Into<PathBuf>) -> Self {
        Self {
            root_dir: root_dir.into(),
            executable: executable.into(),
            uid_base: None,
            hide: Vec::new(),
            view: Vec::new(),
            log_bytes_max: 4 << 20,
            limits: Limits::default(),
            lend_without_isolation: false,
            egress: EgressPolicy::default(),
        }
    }
}

/// Work is blocking and short; it runs on tokio's blocking threads.
#[derive(Debug, Clone)]
pub struct ProcessEngine {
    host: Arc<Host>,
    changes: Option<watch::Receiver<u64>>,
}

impl ProcessEngine {
    /// Adopts whatever an earlier daemon left running below `root_dir`, and clears away what it left half made.
    pub async fn open(config: ProcessConfig) -> Result<Self, EngineError> {
        let host = blocking(move || Host::open(config)).await?;
        let changes = changes::watch(&host.root);
        Ok(Self { host: Arc::new(host), changes })
    }

    /// The group that instances of `owner` run in, once one was started: whoever writes a replica for them gives it this group.
    pub async fn owner_gid(&self, owner: &str) -> Result<Option<u32>, EngineError> {
        let (host, owner) = (Arc::clone(&self.host), owner.to_owned());
        blocking(move || host.owner_gid(&owner)).await
    }

    /// Starts a process that handles an owner's bytes, and waits until it is where it can reach nothing else.
    pub async fn helper(&self, spec: HelperSpec) -> Result<Helper, EngineError> {
        let host = Arc::clone(&self.host);
        let (cell, group) = blocking(move || host.prepare(&spec)).await?;
        helper::start(self.host.executable(), &cell, group).await
    }

    /// Gives an owner's group its right to what its instances made in a dataset since.
    pub async fn give(&self, owner: &str, dir: &Path) -> Result<(), EngineError> {
        let (host, owner, dir) = (Arc::clone(&self.host), owner.to_owned(), dir.to_owned());
        blocking(move || host.give(&owner, &dir)).await
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> Result<T, EngineError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, EngineError>> {
        let host = Arc::clone(&self.host);
        Box::pin(blocking(move || work(&host)))
    }
}

/// Who else on this host has some of the 1024 uids that begin at `base`.
pub fn uids_of_others(base: u32) -> Option<String> {
    ranges::conflict(base, &ranges::given())
}

/// Takes away the control groups of an engine whose processes are all gone and whose directory goes next: nobody
/// else ever would. What has a process in it stays.
pub fn forget(root_dir: &Path) {
    let Ok(root) = root_dir.canonicalize() else { return };
    let name = host::kernel_name(&root);
    if let Some(tree) = cgroup::Tree::open(&name) {
        for group in tree.all_names() {
            if let Err(e) = tree.place(&group).remove() {
                tracing::debug!(error = %e, "a cgroup stays");
            }
        }
        tree.close_if_empty();
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(EngineError::Host { doing: "run the engine's work".into(), source: io::Error::other(e) }),
    }
}

impl Engine for ProcessEngine {
    fn capabilities(&self) -> Capabilities {
        self.host.capabilities()
    }
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.changes.clone()
    }
    fn start(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        self.run(move |host| host.start(spec))
    }
    fn prepare(&self, spec: InstanceSpec, how: Prepare) -> BoxFuture<'_, Result<(), EngineError>> {
        self.run(move |host| host.make_ready(spec, &how))
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceStatus>, EngineError>> {
        self.run(Host::list)
    }
    fn stop<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        let id = id.clone();
        self.run(move |host| host.stop(&id))
    }
    fn remove<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        let id = id.clone();
        self.run(move |host| host.remove(&id))
    }
    fn hold<'a>(&'a self, owner: &'a str, why: Option<&'a str>) -> BoxFuture<'a, Result<(), EngineError>> {
        let (owner, why) = (owner.to_owned(), why.map(str::to_owned));
        self.run(move |host| host.hold(&owner, why.as_deref()))
    }
    fn freeze<'a>(&'a self, owner: &'a str, freeze: &'a Freeze) -> BoxFuture<'a, Result<(), EngineError>> {
        let (owner, freeze) = (owner.to_owned(), freeze.clone());
        self.run(move |host| host.freeze(&owner, &freeze))
    }
    fn thaw<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        let owner = owner.to_owned();
        self.run(move |host| host.thaw(&owner))
    }
    fn renew_layers<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        let owner = owner.to_owned();
        self.run(move |host| host.renew_layers(&owner))
    }
    fn logs<'a>(&'a self, id: &'a InstanceId, tail_bytes: usize) -> BoxFuture<'a, Result<Vec<u8>, EngineError>> {
        let id = id.clone();
        self.run(move |host| host.logs(&id, tail_bytes))
    }
    fn exec<'a>(
        &'a self,
        id: &'a InstanceId,
        command: Vec<String>,
        terminal: Option<TerminalSize>,
    ) -> BoxFuture<'a, Result<Session, EngineError>> {
        Box::pin(async move {
            let asked = id.clone();
            let layout = self.run(move |host| host.of_this_cloud(&asked)).await?;
            session::ask(&layout, id, command, terminal).await
        })
    }
    fn remains<'a>(&'a self, owner: Option<&'a str>) -> BoxFuture<'a, Result<Remains, EngineError>> {
        let owner = owner.map(str::to_owned);
        self.run(move |host| host.remains(owner.as_deref()))
    }
}
