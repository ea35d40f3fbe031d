//! The port that every driver implements, and the words that pass through it.

use crate::{EngineError, Session};
use pumasi_terms::service::{Platform, Probe};
use pumasi_terms::{InstanceId, Protocol, Resources, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use tokio::sync::watch;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place that runs instances. Every method is idempotent and returns soon: `start` and `stop` make the wish durable and set it
/// going, [`Engine::list`] tells how far it came.
pub trait Engine: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// A number that rises when [`Engine::list`] may answer something else than before, use of CPU and memory aside. None: this driver
    /// does not tell, and whoever wants to know looks.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// The same id and generation again is no new start; it only revives a shim that was killed. A higher generation first stops the
    /// older one and answers [`EngineError::Replacing`] until that is gone.
    fn start(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Everything of a start but its end: the instance is there, isolated and with its secrets, and stands before the first instruction of
    /// the application. It does not have its data, which need not exist yet. [`Engine::start`] with the same spec gives it the data and
    /// lets it begin; without that it ends by itself after its time, counted from the last call. One that runs is left alone.
    fn prepare(&self, spec: InstanceSpec, how: Prepare) -> BoxFuture<'_, Result<(), EngineError>>;

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceStatus>, EngineError>>;

    /// SIGTERM, the grace of the spec, then SIGKILL of everything in the instance. An unknown id is already stopped.
    fn stop<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>>;

    /// The owner's instances stand still, or go on with `None`: their data, logs and places stay. Whoever reads their status is told why.
    fn hold<'a>(&'a self, owner: &'a str, why: Option<&'a str>) -> BoxFuture<'a, Result<(), EngineError>>;

    /// Everything in the owner's instances stops between two instructions, and nothing new of it begins: returns when no process of
    /// them runs any more. They do not know of it, and their state is what it was; `stop` then kills them without a word, so that they
    /// write nothing more. A repetition is the same freeze, also with a bound that is lifted: it is refused
    /// ([`EngineError::Thawed`]) once the freeze of that name is over. A new instance of the owner is not frozen.
    fn freeze<'a>(&'a self, owner: &'a str, freeze: &'a Freeze) -> BoxFuture<'a, Result<(), EngineError>>;

    /// The owner's instances go on, whatever the freeze was called. Without one there is nothing to do.
    fn thaw<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>>;

    /// The data that the owner's instances see through layers have changed: returns when all of them see what is there now.
    fn renew_layers<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>>;

    /// Erases a stopped instance: directory, cgroup. An unknown id is already removed.
    fn remove<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>>;

    /// The end of what the instance wrote to its standard output and error.
    fn logs<'a>(&'a self, id: &'a InstanceId, tail_bytes: usize) -> BoxFuture<'a, Result<Vec<u8>, EngineError>>;

    /// Runs a command in an instance that runs, as its application is run: in its namespaces, as its user, within its limits. It may do
    /// nothing that the application may not. Never in one that is lent.
    fn exec<'a>(
        &'a self,
        id: &'a InstanceId,
        _command: Vec<String>,
        _terminal: Option<TerminalSize>,
    ) -> BoxFuture<'a, Result<Session, EngineError>> {
        let why = "this engine runs no commands in instances".to_owned();
        Box::pin(async move { Err(EngineError::Session { id: id.clone(), why }) })
    }

    /// What is still on the host, of one owner or of all. What can no longer be told whose it is counts for every owner.
    fn remains<'a>(&'a self, owner: Option<&'a str>) -> BoxFuture<'a, Result<Remains, EngineError>>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub platforms: Vec<Platform>,
    pub isolation: Isolation,
    /// By what [`Engine::freeze`] makes instances stand still; none: it cannot.
    #[serde(default)]
    pub freeze: Option<FreezeBy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreezeBy {
    /// `cgroup.freeze`, also of a v2 hierarchy that is mounted beside v1 controllers.
    CgroupV2,
    /// The freezer of cgroup v1.
    CgroupV1,
    /// SIGSTOP to each process, until none is left that runs.
    Signals,
}

impl FreezeBy {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CgroupV2 => "cgroup v2",
            Self::CgroupV1 => "the freezer of cgroup v1",
            Self::Signals => "signals",
        }
    }
}

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// An instance is prepared, and not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    pub at_most_ms: u64,
    /// The owner whose data it will have as its own: its group becomes that of the instance's owner, so that nothing of them has to be
    /// given anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir_of: Option<String>,
}

/// An owner's instances stand still, for a reason that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    pub name: String,
    /// They go on by themselves after so long, counted from the first call, should nobody say more. None: not by themselves.
    pub at_most_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    pub own_uid: bool,
    /// Own pid, mount, ipc and uts namespaces with a root of its own: of the host it sees programs, of others nothing.
    pub namespaces: bool,
    /// No program in it can have a capability, whatever its file or its user says.
    #[serde(default)]
    pub capabilities: bool,
    /// Without it: no CPU limit, and memory by rlimit for each process on its own.
    pub cgroup: Option<CgroupVersion>,
    pub seccomp: bool,
    /// A network of its own, entered by a door only.
    #[serde(default)]
    pub network: bool,
    /// Whether the egress list is enforced.
    pub egress: bool,
    /// Whether an instance that writes faster than its share to disk, or more than its quota, is made to stand still (by the freezer of
    /// cgroup v2; with v1 controllers where that hierarchy is mounted beside them). Without it such an instance is stopped.
    #[serde(default)]
    pub freezer: bool,
    /// Copies of data can be given to an instance under a layer that it may write.
    #[serde(default)]
    pub layers: bool,
    /// Somebody else on this host can take these uids as well.
    #[serde(default)]
    pub uids_of_others: bool,
    /// For people: what failed when the parts that are missing were tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
}

impl Isolation {
    /// What another organisation's code must not run without; empty if nothing is missing.
    pub fn missing_for_lending(&self) -> Vec<&'static str> {
        let parts = [
            (self.own_uid, "own uid"),
            (!self.uids_of_others, "uids that nobody else can take"),
            (self.namespaces, "namespaces"),
            (self.capabilities, "dropped capabilities"),
            (self.cgroup.is_some(), "cgroups"),
            (self.seccomp, "seccomp"),
            (self.network, "network namespaces"),
            (self.egress, "egress lists"),
        ];
        parts.into_iter().filter(|(has, _)| !has).map(|(_, name)| name).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupVersion {
    V1,
    V2,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub id: InstanceId,
    /// For whom it runs: a local service or a lease. Instances of one owner share a group, and so their data.
    pub owner: String,
    /// Rises with each new version of the spec.
    pub generation: u64,
    /// The unpacked bundle; the instance sees it read-only.
    pub bundle_dir: PathBuf,
    pub command: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub resources: Resources,
    /// What it speaks, and so what the probes speak.
    #[serde(default, skip_serializing_if = "Protocol::is_http1")]
    pub protocol: Protocol,
    pub readiness: Probe,
    #[serde(default)]
    pub liveness: Option<Probe>,
    pub stop_grace_ms: u64,
    /// `ip:port` that the instance may call.
    #[serde(default)]
    pub egress: Vec<String>,
    /// By the suffix of the variable: `NOTES` becomes `DATA_NOTES`.
    #[serde(default)]
    pub data: BTreeMap<String, DataMount>,
    pub listen_ip: IpAddr,
    /// Runs for another organisation.
    #[serde(default)]
    pub lent: bool,
    /// Goes from the driver to the shim and on to the application through pipes; no file holds it.
    #[serde(skip)]
    pub secrets: Secrets,
}

/// Variables whose values are written down nowhere. Two specs that differ in them only are the same: a new value is a new generation.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self(values)
    }
    /// The one way in, so that every use can be found by its name.
    pub fn expose(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} secrets]", self.0.len())
    }
}

impl PartialEq for Secrets {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Secrets {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataMount {
    pub path: PathBuf,
    pub access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// The whole tree is given to the owner's group, and to its writing.
    ReadWrite,
    /// The top directory may be entered and read by the owner's group; modes below stay as whoever made the copy set them, so it must
    /// make files that the group can read.
    ReadOnly,
    /// As `ReadOnly`, through a layer of the instance's own (`Isolation::layers`): it may write, and what it wrote is seen by nobody else
    /// and is gone when the instance starts again or the copy has changed ([`Engine::renew_layers`]).
    Layered,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub id: InstanceId,
    pub owner: String,
    pub generation: u64,
    pub state: InstanceState,
    /// It stands still by [`Engine::freeze`]: its state is of the moment before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
    /// It was prepared only ([`Engine::prepare`]): whatever its state, nothing of the application has run. Where it has a `pid`, it stands
    /// before its first instruction.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prepared: bool,
    /// Why it is not ready; of one that is starting again, why it was not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// Where it listens (or will, while starting): on this host or, with a door, in a network of its own.
    pub address: Option<SocketAddr>,
    /// The only way into an instance that has a network of its own (`pumasi-door`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Protocol::is_http1")]
    pub protocol: Protocol,
    /// The application's process as the host sees it.
    pub pid: Option<u32>,
    /// Of the running application, not of the first one.
    pub started_at: Option<WallMs>,
    /// How often it ended by itself and was started again.
    pub restarts: u32,
    /// This generation of it has been ready at some time: what is wrong now is not how it was deployed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_ready: bool,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<Exit>,
    pub cpu_used_us: u64,
    pub memory_bytes: u64,
    pub memory_max_bytes: u64,
}

/// Why an instance is not ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What the engine found. It says the same for as long as it is the same.
    pub why: String,
    /// The end of what the application said, for whoever may read its log; empty if it said nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_line: String,
}

impl Trouble {
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), last_line: String::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum InstanceState {
    Starting,
    Ready,
    /// Alive, but not to be given requests: its readiness probe fails (at its start: for a while), or it is stopping.
    Unready {
        why: String,
    },
    /// It ended by itself and will be started again.
    BackingOff {
        restarts: u32,
        why: String,
    },
    /// It was asked to stop and every process of it is gone.
    Stopped {
        exit: Option<Exit>,
    },
    /// It does not run and will not by itself: the program cannot be executed, or its shim was killed (then `start` revives it).
    Failed {
        why: String,
    },
}

/// How the application ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    #[serde(default)]
    pub code: Option<i32>,
    #[serde(default)]
    pub signal: Option<i32>,
    /// The kernel killed it for using more memory than its limit.
    #[serde(default)]
    pub out_of_memory: bool,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.out_of_memory, self.code, self.signal) {
            (true, ..) => f.write_str("killed for using more memory than its limit"),
            (_, Some(code), _) => write!(f, "exited with code {code}"),
            (_, None, Some(signal)) => write!(f, "ended by signal {signal}"),
            _ => f.write_str("ended in an unknown way"),
        }
    }
}

/// Counted, and named for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remains {
    pub processes: u32,
    pub directories: u32,
    pub cgroups: u32,
    /// Processes that handle the owner's bytes; of all owners they are not counted.
    pub helpers: u32,
    /// At most 100 of them.
    pub names: Vec<String>,
}

impl Remains {
    pub fn is_empty(&self) -> bool {
        self.processes + self.directories + self.cgroups + self.helpers == 0
    }

    pub(crate) fn name(&mut self, what: impl Into<String>) {
        if self.names.len() < 100 {
            self.names.push(what.into());
        }
    }
}
