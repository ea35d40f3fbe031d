//! The state of one running daemon: handles to the rooms, and what it has observed. Nothing here is a decision or the only copy of a fact.

use crate::clock;
use crate::config::Config;
use crate::ground::{GatewayPort, Ground, Wire};
use crate::identity::Identity;
use crate::object::{self, CloudRecord};
use crate::pact::PactView;
use crate::peers::Peers;
use crate::sensing::Sensing;
use pumasi_api::{Fault, Problem};
use pumasi_engine::{Engine, InstanceStatus};
use pumasi_journey::Journey;
use pumasi_store::{Entry, Store, StoreError, Tx};
use pumasi_terms::{CloudName, Epoch, Generation, LeaseId, WallMs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Notify, Semaphore, watch};

pub struct Node {
    pub config: Config,
    pub store: Store,
    pub identity: Identity,
    pub engine: Arc<dyn Engine>,
    /// Who reads and writes tenants' files.
    pub hands: crate::ground::Hands,
    pub gateway: Arc<dyn GatewayPort>,
    /// `None`: mutual TLS.
    pub wire: Option<Arc<dyn Wire>>,
    /// The bundle of sign-in processes.
    pub signin: Option<crate::realm::Program>,
    pub boot_id: String,
    boot_count: u64,
    pub peers: Peers,
    pub sensing: Sensing,
    /// What the engine said last; refreshed by the fleet reconciler.
    pub instances: Locked<Vec<InstanceStatus>>,
    /// Open datasets, both ways.
    pub datasets: crate::borrower::Shipping,
    pub uploads: Arc<crate::uploads::Uploads>,
    pub copies: crate::lender::Copies,
    pub lents: Arc<crate::lender::Lents>,
    pub holds_told: Arc<crate::lender::Told>,
    pub routes: crate::routes::Routes,
    /// Acts in flight, so that none runs twice at a time.
    pub acts: crate::borrower::Acts,
    /// How long starts took.
    pub starts: crate::starts::Starts,
    /// Moves whose heir is being asked.
    pub moves: crate::moves::Moves,
    /// Keys of services, as they were read and told last.
    pub keys: crate::keys::Known,
    /// Services that are kept ready elsewhere, and wait.
    pub keeping: crate::borrower::Keeping,
    pub gateway_status: Locked<Option<pumasi_gateway::GatewayStatus>>,
    /// Why there is none, once one that was started has ended.
    pub gateway_down: Locked<Option<String>>,
    /// People's certificate, where it is read from files.
    pub people_certificate: OnceLock<Arc<crate::api::OwnCertificate>>,
    /// What is wrong with certificates in files that are, or would be, shown.
    pub certificate_trouble: Locked<Option<String>>,
    /// What the disk has left, for whoever takes something in.
    pub disk: crate::disk::Disk,
    /// What cannot be done now and why, as `/readyz` tells it.
    pub health: crate::health::Health,
    /// Why instances do not get ready, and when a refused start is tried again.
    pub troubles: crate::trouble::Troubles,
    /// What runs at home beyond the least.
    pub growth: crate::growth::Growth,
    /// The vote of the pact, where it votes.
    pub voting: crate::voting::Voting,
    pub takeover: crate::takeover::Takeover,
    /// What was written here and is not in what others went on with.
    pub diverged: crate::diverged::Diverged,
    /// Whether services could be lent, as found last.
    pub lendable: crate::lendable::Known,
    /// Of commands that people run in instances.
    pub exec_places: Arc<Semaphore>,
    /// Looks at the store again, soon.
    pub wake: Notify,
    /// Something moved that neither the store nor the engine tells of.
    pub stirred: watch::Sender<u64>,
    pub stopping: watch::Receiver<bool>,
}

/// A mutex that a panic elsewhere does not take away: what is behind it is observation only.
#[derive(Debug, Default)]
pub struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn set(&self, value: T) {
        *self.lock() = value;
    }
}

impl<T: Clone> Locked<T> {
    pub fn get(&self) -> T {
        self.lock().clone()
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.config.cloud.name)
    }
}

/// The field of an entry's personal payload.
pub const LAST_LINE: &str = "last_line";

/// Who did something and why, for the journal.
#[derive(Debug, Clone, Default)]
pub struct Note {
    pub action: &'static str,
    pub subject_kind: &'static str,
    pub subject: String,
    pub cause: Option<String>,
    pub reasons: Vec<String>,
    pub data: serde_json::Value,
    /// The end of an application's log. It may speak of persons: it can be erased, and viewers are not shown it.
    pub last_line: String,
}

impl Note {
    pub fn new(action: &'static str, subject_kind: &'static str, subject: impl std::fmt::Display) -> Self {
        Self { action, subject_kind, subject: subject.to_string(), ..Self::default() }
    }
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }
    pub fn caused_by(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }
    pub fn with(mut self, data: serde_json::Value) -> Self {
        self.data = data;
        self
    }
    pub fn entry(self, actor: &str, at: WallMs) -> Entry {
        Entry {
            at,
            actor: actor.to_owned(),
            action: self.action.to_owned(),
            subject_kind: self.subject_kind.to_owned(),
            subject: self.subject,
            cause: self.cause,
            reasons: self.reasons,
            trace_id: crate::trace::current(),
            data: self.data,
            personal: Some(self.last_line).filter(|l| !l.is_empty()).map(|l| serde_json::json!({ LAST_LINE: l })),
        }
    }
}

/// Why a transaction of the daemon failed: the store, or a rule that the closure found broken.
#[derive(Debug)]
pub enum TxError {
    Store(StoreError),
    Problem(Box<Problem>),
}

impl TxError {
    /// Of which of several things a rule was broken.
    pub fn during(self, what: &str) -> Self {
        match self {
            Self::Problem(problem) => Self::Problem(Box::new(problem.during(what))),
            store => store,
        }
    }
}

impl From<StoreError> for TxError {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}
impl From<Problem> for TxError {
    fn from(p: Problem) -> Self {
        Self::Problem(Box::new(p))
    }
}
impl From<TxError> for Problem {
    fn from(e: TxError) -> Self {
        match e {
            TxError::Problem(problem) => *problem,
            TxError::Store(e) => store_problem(&e),
        }
    }
}

/// The code of a [`Problem`] about one record that is there and cannot be read.
pub const UNREADABLE: &str = "unreadable";

pub fn store_problem(e: &StoreError) -> Problem {
    match e {
        StoreError::Conflict { .. } => Problem::changed_meanwhile(e.to_string()),
        StoreError::Decode { .. } => Problem::new(500, UNREADABLE, Fault::Us, e.to_string()),
        StoreError::TooLarge { .. } | StoreError::BadKey { .. } => Problem::bad_request(e.to_string()),
        other if other.is_retryable() => Problem::unavailable(other.to_string()),
        other => Problem::ours(other.to_string()),
    }
}

impl Node {
    /// A daemon that has observed nothing yet.
    pub fn new(
        config: Config,
        identity: Identity,
        ground: Ground,
        boot_count: u64,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: ground.store,
            identity,
            engine: ground.engine,
            hands: ground.hands,
            gateway: ground.gateway,
            wire: ground.wire,
            signin: ground.signin,
            boot_id: clock::boot_id(),
            boot_count,
            peers: Default::default(),
            sensing: Default::default(),
            instances: Locked::new(Vec::new()),
            datasets: Default::default(),
            uploads: Default::default(),
            copies: Default::default(),
            lents: Default::default(),
            holds_told: Default::default(),
            acts: Default::default(),
            starts: Default::default(),
            moves: Default::default(),
            keys: Default::default(),
            keeping: Default::default(),
            routes: Default::default(),
            gateway_status: Locked::new(None),
            gateway_down: Locked::new(None),
            people_certificate: OnceLock::new(),
            certificate_trouble: Locked::new(None),
            disk: Default::default(),
            health: Default::default(),
            troubles: Default::default(),
            growth: Default::default(),
            voting: Default::default(),
            takeover: Default::default(),
            diverged: Default::default(),
            lendable: Default::default(),
            exec_places: Arc::new(Semaphore::new(crate::api::EXECS_MAX)),
            wake: Notify::new(),
            stirred: watch::channel(0).0,
            stopping,
            config,
        })
    }

    /// The clock by which positions of a service are told while this cloud owns it under this epoch. The only place where one is made.
    pub fn generation(&self, epoch: Epoch) -> Generation {
        Generation::of(epoch, self.boot_count)
    }

    /// Whoever rests while nothing is under way looks now.
    pub fn stir(&self) {
        self.stirred.send_modify(|number| *number += 1);
    }

    pub fn name(&self) -> &CloudName {
        &self.config.cloud.name
    }

    pub fn dir(&self, part: &str) -> PathBuf {
        self.config.cloud.data_dir.join(part)
    }

    /// Everything that this cloud keeps of a lease it lends.
    pub fn lease_dir(&self, lease: &LeaseId) -> PathBuf {
        self.dir("leases").join(lease.as_str())
    }

    pub async fn transact<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Tx<'_>) -> Result<T, TxError> + Send + 'static,
    ) -> Result<T, Problem> {
        let trace = crate::trace::current();
        let result = self.store.transact(move |tx| crate::trace::carried(trace, || f(tx))).await.map_err(Problem::from);
        self.wake.notify_one();
        result
    }

    pub async fn note(&self, actor: &str, note: Note) {
        let entry = note.entry(actor, clock::wall());
        if let Err(e) = self.store.transact(move |tx| tx.journal(entry).map(|_| ())).await {
            tracing::error!(error = %e, "a journal entry was not written");
        }
    }

    /// What this cloud is. It is written at each start: one that is not there counts as one that cannot be read.
    pub fn cloud_record(&self) -> Result<Arc<CloudRecord>, Problem> {
        let record = self.item::<CloudRecord>(object::CLOUD, object::ONLY)?;
        record.ok_or_else(|| Problem::ours("this cloud has no record of itself"))
    }

    /// The pact in force, if this cloud has one.
    pub fn pact(&self) -> Option<Arc<PactView>> {
        self.identity.pact()
    }

    /// Whether it may act on other organisations on its own.
    pub fn may_act(&self) -> Result<(), String> {
        if let pumasi_store::Standing::Restored { why } = self.store.standing() {
            return Err(format!("the store may be old: {why}"));
        }
        Ok(())
    }

    /// Whether an operator has stopped automation; also where that cannot be read.
    pub fn automation_stopped(&self) -> bool {
        self.cloud_record().map_or(true, |record| record.automation.stopped)
    }

    // Reads. What cannot be read is an error and never an absence: whoever asks decides on purpose what to do without it, and nothing is
    // stopped, erased, released or billed for it.

    pub fn list<T: serde::de::DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>, Problem> {
        let items = self.store.list::<T>(kind).map_err(|e| store_problem(&e))?;
        Ok(items.into_iter().map(|s| s.body).collect())
    }

    /// Whether there is such an object, readable or not.
    pub fn exists(&self, kind: &str, name: &str) -> Result<bool, Problem> {
        self.store.exists(kind, name).map_err(|e| store_problem(&e))
    }

    /// `list` for what is read often: what did not change since is not decoded again.
    pub fn items<T>(&self, kind: &'static str) -> Result<pumasi_store::Items<T>, Problem>
    where
        T: serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        self.store.items(kind).map_err(|e| store_problem(&e))
    }

    /// `get` for what is read often.
    pub fn item<T>(&self, kind: &'static str, name: &str) -> Result<Option<Arc<T>>, Problem>
    where
        T: serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        self.store.item(kind, name).map_err(|e| store_problem(&e))
    }

    /// The services of this cloud, in order of name.
    pub fn services(&self) -> Result<pumasi_store::Items<object::ServiceRecord>, Problem> {
        self.items(object::SERVICE)
    }

    /// All journeys that are kept, those that are over with them.
    pub fn journeys(&self) -> Result<pumasi_store::Items<Journey>, Problem> {
        self.items(object::JOURNEY)
    }

    pub fn open_journeys(&self) -> Result<Vec<Arc<Journey>>, Problem> {
        Ok(self.journeys()?.iter().filter(|j| j.is_open()).cloned().collect())
    }

    pub fn get<T: serde::de::DeserializeOwned>(&self, kind: &str, name: &str) -> Result<Option<T>, Problem> {
        Ok(self.store.get::<T>(kind, name).map_err(|e| store_problem(&e))?.map(|s| s.body))
    }
}
