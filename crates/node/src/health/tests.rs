//! A daemon over records that it cannot read, over strays, and over tasks that panic: nothing goes that should not.

use super::*;
use crate::config::Config;
use crate::ground::{GatewayPort, Ground};
use crate::testing::Gate;
use crate::{clock, lender, quarantine, serve};
use pumasi_engine::{
    BoxFuture, Capabilities, Engine, EngineError, Freeze, InstanceSpec, InstanceStatus, Prepare, Remains, SimApp,
    SimEngine,
};
use pumasi_lease::LentState;
use pumasi_lease::document::{KIND, Lease};
use pumasi_lease::record::Usage;
use pumasi_route::table::RouteTable;
use pumasi_store::sim::{Hooks, MemoryDisk};
use pumasi_store::{Expect, JournalFilter, Options};
use pumasi_terms::offer::Requirement;
use pumasi_terms::service::{BundleRef, Platform};
use pumasi_terms::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Panics while it is asked to: a bug of the reconciler, planted.
struct Fragile(SimEngine, AtomicBool);

impl Engine for Fragile {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn start(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        self.0.start(spec)
    }
    fn prepare(&self, spec: InstanceSpec, how: Prepare) -> BoxFuture<'_, Result<(), EngineError>> {
        self.0.prepare(spec, how)
    }
    fn stop<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        self.0.stop(id)
    }
    fn hold<'a>(&'a self, owner: &'a str, why: Option<&'a str>) -> BoxFuture<'a, Result<(), EngineError>> {
        self.0.hold(owner, why)
    }
    fn freeze<'a>(&'a self, owner: &'a str, freeze: &'a Freeze) -> BoxFuture<'a, Result<(), EngineError>> {
        self.0.freeze(owner, freeze)
    }
    fn thaw<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        self.0.thaw(owner)
    }
    fn remove<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), EngineError>> {
        self.0.remove(id)
    }
    fn renew_layers<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        self.0.renew_layers(owner)
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceStatus>, EngineError>> {
        assert!(!self.1.load(Ordering::SeqCst), "a planted bug");
        self.0.list()
    }
    fn logs<'a>(&'a self, id: &'a InstanceId, bytes_max: usize) -> BoxFuture<'a, Result<Vec<u8>, EngineError>> {
        self.0.logs(id, bytes_max)
    }
    fn remains<'a>(&'a self, owner: Option<&'a str>) -> BoxFuture<'a, Result<Remains, EngineError>> {
        self.0.remains(owner)
    }
}

/// What outlives daemons.
struct House {
    dir: PathBuf,
    disk: MemoryDisk,
    engine: Arc<Fragile>,
    gate: Arc<Gate>,
    /// Reads of the store fail.
    locked: Arc<AtomicBool>,
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl House {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("pumasi-absence-{:032x}", clock::entropy()));
        std::fs::create_dir_all(&dir).unwrap();
        let sim = SimEngine::new();
        sim.teach("shop", SimApp::default());
        let (engine, gate) = (Arc::new(Fragile(sim, AtomicBool::new(false))), Arc::default());
        Self { dir, disk: MemoryDisk::new("absence"), engine, gate, locked: Arc::default() }
    }

    /// A daemon on what is there; one before must have been closed.
    async fn open(&self) -> (Arc<Node>, watch::Sender<bool>) {
        let text = "version = 1\n[cloud]\nname = \"city-a\"\n[timing]\ntick_ms = 20\n";
        let mut config = Config::parse(text, std::iter::empty()).unwrap();
        config.cloud.data_dir = self.dir.clone();
        let locked = self.locked.clone();
        let on_read: pumasi_store::sim::OnRead = Arc::new(move |_, _| !locked.load(Ordering::SeqCst));
        let hooks = Hooks { on_read: Some(on_read), ..Hooks::default() };
        let store = Store::open_inline(&self.disk, clock::wall(), clock::entropy(), Options::default(), hooks).unwrap();
        let (stop, stopping) = watch::channel(false);
        let (engine, gateway) = (self.engine.clone(), self.gate.clone());
        let ground = Ground { store, engine, hands: Default::default(), gateway, wire: None, signin: None };
        let node = serve::open(config, ground, stopping).await.unwrap();
        self.look(&node, 3).await;
        (node, stop)
    }

    async fn look(&self, node: &Arc<Node>, times: usize) {
        for _ in 0..times {
            node.gateway_status.set(Some(self.gate.status().await.unwrap()));
            serve::look(node).await;
            self.engine.0.advance(100);
        }
    }

    fn garble(&self, kind: &str, name: &str) {
        let body = "'[\"of another version\",' || body || ']'";
        self.disk
            .tamper(&format!("UPDATE objects SET body = {body} WHERE kind = '{kind}' AND name = '{name}'"))
            .unwrap();
    }

    fn mend(&self) {
        let sql = "UPDATE objects SET body = json_extract(body, '$[1]') WHERE json_extract(body, '$[0]') = 'of another version'";
        self.disk.tamper(sql).unwrap();
    }

    fn table(&self) -> RouteTable {
        self.gate.in_force().unwrap()
    }

    /// Ready instances in the table in force, by service.
    fn served(&self) -> BTreeMap<String, usize> {
        self.table().services.iter().map(|(n, s)| (n.to_string(), s.home.len())).collect()
    }

    fn file(&self, path: &str) -> PathBuf {
        let path = self.dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "precious").unwrap();
        path
    }
}

async fn ids(house: &House) -> BTreeSet<InstanceId> {
    house.engine.0.list().await.unwrap().into_iter().filter(|i| i.pid.is_some()).map(|i| i.id).collect()
}

async fn told(node: &Node, action: &str) -> usize {
    let rows = node.store.journal_page(0, 10_000, &JournalFilter::default()).unwrap();
    rows.iter().filter(|r| r.entry.action == action).count()
}

fn service(name: &str, bundle: u8) -> ServiceRecord {
    let text = format!(
        "apiVersion: pumasi/v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  hosts: [{name}.example]\n  application:\n    bundle: ./b\n    command: [shop]\n"
    );
    let mut document = manifest::services("s.yaml", &text).unwrap().remove(0);
    document.spec.application.bundle = BundleRef::Digest(Digest([bundle; 32]));
    // Of the name, so that it is the same service whenever it is made again.
    let id =
        ServiceId::from_entropy(u128::from_le_bytes(*blake3::hash(name.as_bytes()).as_bytes().first_chunk().unwrap()));
    ServiceRecord::new(document, id, CustomerName::default_customer(), 0)
}

async fn put<T: serde::Serialize + Send + 'static>(node: &Node, kind: &'static str, name: &str, body: T) {
    let name = name.to_owned();
    node.transact(move |tx| Ok(tx.put(kind, &name, &body, Expect::Any).map(drop)?)).await.unwrap();
}

fn lent(n: u128, for_ms: u64, state: LentState) -> LentLease {
    let service = ServiceName::parse("shop").unwrap();
    let requirement = Requirement {
        service: service.clone(),
        platform: Platform::default(),
        resources: Resources { cpu_millis: 100, memory_mib: 64 },
        instances: 1,
        instances_min: 1,
        storage_bytes: 10,
        price_per_instance_hour_max: Money(9),
        egress: Vec::new(),
        standby: None,
    };
    let lease = Lease {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        id: LeaseId::from_entropy(n),
        serial: Serial(1),
        pact: PactId::from_entropy(1),
        pact_serial: Serial(1),
        reservation: ReservationId::from_entropy(n),
        borrower: "city-b".parse().unwrap(),
        lender: "city-a".parse().unwrap(),
        service,
        epoch: Epoch(1),
        requirement,
        instances: 1,
        price_per_instance_hour: Money(1),
        ttl_ms: 10_000,
        recall_notice_ms: 5_000,
        application: Digest([1; 32]),
        datasets: Vec::new(),
        hosts: Vec::new(),
        created_at: clock::wall(),
        standby_percent: None,
    };
    LentLease {
        lease,
        state,
        expires_at: clock::boot().after(for_ms),
        instances_wanted: 1,
        usage: Usage::default(),
        since: clock::wall(),
        epoch: Epoch(1),
        kept_since: None,
        silence: None,
    }
}

fn days_old(path: &Path) {
    let day = std::time::SystemTime::now() - Duration::from_secs(100_000);
    std::fs::File::open(path).unwrap().set_modified(day).unwrap();
}

#[tokio::test]
async fn a_service_whose_record_cannot_be_read_keeps_instances_routes_and_bundles_and_the_others_are_served() {
    let house = House::new();
    let (node, _stop) = house.open().await;
    put(&node, SERVICE, "one", service("one", 1)).await;
    put(&node, SERVICE, "two", service("two", 2)).await;
    house.look(&node, 4).await;
    let (before, both) = (ids(&house).await, BTreeMap::from([("one".to_owned(), 1), ("two".to_owned(), 1)]));
    assert_eq!((before.len(), house.served()), (2, both.clone()));
    let bundles: Vec<_> = [1, 2].map(|b| format!("bundles/unpacked/{}", hex::encode([b; 32]))).into();
    for bundle in &bundles {
        house.file(&format!("{bundle}/app"));
        days_old(&house.dir.join(bundle));
    }
    node.store.close();
    // As a rollback by one version leaves it.
    house.garble(SERVICE, "one");
    let (node, _stop) = house.open().await;
    house.look(&node, 5).await;
    crate::bundles::collect(&node).await.unwrap();
    assert_eq!((ids(&house).await, house.served()), (before.clone(), both.clone()));
    assert!(bundles.iter().all(|b| house.dir.join(b).exists()), "a bundle went");
    assert_eq!(node.health.problem(), None, "the others are looked after");
    assert!(node.health.left_alone().iter().any(|l| l.contains("service one")), "{:?}", node.health.left_alone());
    assert_eq!(told(&node, "record_set_aside").await, 1);
    // The other one is as alive as ever.
    put(&node, SERVICE, "two", ServiceRecord { deleting: true, ..service("two", 2) }).await;
    put(&node, SERVICE, "three", service("three", 2)).await;
    house.look(&node, 6).await;
    assert_eq!(house.served(), BTreeMap::from([("one".to_owned(), 1), ("three".to_owned(), 1)]));
    node.store.close();
    house.mend();
    let (node, _stop) = house.open().await;
    house.look(&node, 5).await;
    assert_eq!(node.health.left_alone(), Vec::<String>::new());
    assert!(before.intersection(&ids(&house).await).count() == 1, "its instance was exchanged");
    crate::bundles::collect(&node).await.unwrap();
    assert!(bundles.iter().all(|b| house.dir.join(b).exists()), "both are named again");
}

#[tokio::test]
async fn a_lease_whose_record_cannot_be_read_keeps_its_copies_and_so_does_its_neighbour() {
    let house = House::new();
    let (node, _stop) = house.open().await;
    let (one, two, over) =
        (lent(1, 60_000, LentState::Active), lent(2, 60_000, LentState::Active), lent(3, 400, LentState::Active));
    for lease in [&one, &two, &over] {
        put(&node, LENT, lease.id().as_str(), lease.clone()).await;
    }
    let settled = lent(4, 0, LentState::Settled { at: clock::wall() });
    put(&node, LENT, settled.id().as_str(), settled.clone()).await;
    let of = |l: &LentLease| house.file(&format!("leases/{}/data/x", l.id()));
    let (one_file, two_file, over_file, settled_file) = (of(&one), of(&two), of(&over), of(&settled));
    let stray = house.file(&format!("leases/{}/data/x", LeaseId::from_entropy(9)));
    node.store.close();
    house.garble(LENT, two.id().as_str());
    let (node, _stop) = house.open().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    house.look(&node, 6).await;
    assert!(one_file.exists() && two_file.exists(), "a copy went for a record that could not be read");
    assert!(!settled_file.exists(), "a lease that is over on record is erased");
    assert!(!over_file.exists(), "the others end in time");
    assert!(lender::lent(&node, two.id()).is_err() && lender::lent(&node, one.id()).unwrap().is_some());
    // What no record explains lies in quarantine, and can be put back.
    assert!(!stray.exists());
    let held = quarantine::list(&node).unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    quarantine::restore(&node, "an operator", &held[0].name).await.unwrap();
    assert!(stray.exists() && quarantine::list(&node).unwrap().is_empty());
    house.look(&node, 1).await;
    let held = quarantine::list(&node).unwrap();
    quarantine::expire(&node).await.unwrap();
    assert!(!stray.exists() && quarantine::list(&node).unwrap() == held, "it has its day");
    assert!(quarantine::empty(&node, "an operator", "../store").await.is_err());
    quarantine::empty(&node, "an operator", &held[0].name).await.unwrap();
    assert!(quarantine::list(&node).unwrap().is_empty());
    node.store.close();
    house.mend();
    let (node, _stop) = house.open().await;
    house.look(&node, 2).await;
    assert!(two_file.exists() && lender::lent(&node, two.id()).unwrap().is_some_and(|l| l.usable()));
}

#[tokio::test]
async fn instances_that_no_record_explains_run_on_without_requests_until_a_person_says_otherwise() {
    let house = House::new();
    let (node, _stop) = house.open().await;
    let ghost = service("ghost", 1);
    let owner = ghost.owner();
    put(&node, SERVICE, "ghost", ghost).await;
    house.look(&node, 4).await;
    let before = ids(&house).await;
    assert_eq!(before.len(), 1);
    // As where an old backup is in force.
    node.transact(|tx| Ok(tx.delete(SERVICE, "ghost", Expect::Any).map(drop)?)).await.unwrap();
    house.look(&node, 5).await;
    assert_eq!((ids(&house).await, house.served()), (before, BTreeMap::new()));
    assert_eq!(told(&node, "stray_instances").await, 1);
    let held = quarantine::list(&node).unwrap();
    assert_eq!((held.len(), held[0].name.as_str(), held[0].until), (1, owner.as_str(), None));
    quarantine::expire(&node).await.unwrap();
    quarantine::empty(&node, "an operator", &owner).await.unwrap();
    house.look(&node, 6).await;
    assert!(ids(&house).await.is_empty() && quarantine::list(&node).unwrap().is_empty());
}

#[tokio::test]
async fn a_look_that_cannot_read_does_nothing_says_so_and_recovers() {
    let house = House::new();
    let (node, _stop) = house.open().await;
    put(&node, SERVICE, "one", service("one", 1)).await;
    house.look(&node, 4).await;
    let copy = lent(1, 300, LentState::Active);
    put(&node, LENT, copy.id().as_str(), copy.clone()).await;
    let file = house.file(&format!("leases/{}/x", copy.id()));
    let stray = house.file(&format!("leases/{}/x", LeaseId::from_entropy(9)));
    let (before, table) = (ids(&house).await, house.table());
    house.locked.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(400)).await;
    house.look(&node, 5).await;
    assert!(crate::bundles::collect(&node).await.is_err());
    assert!(node.health.problem().is_some_and(|p| p.contains("services at home")), "{:?}", node.health.problem());
    assert!(node.cloud_record().is_err(), "whether automation is stopped is not known");
    assert_eq!((ids(&house).await, house.table()), (before, table));
    assert!(file.exists() && stray.exists());
    house.locked.store(false, Ordering::SeqCst);
    house.look(&node, 5).await;
    assert_eq!(node.health.problem(), None);
    assert!(!file.exists(), "what is over by time is over now");
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn while_the_reconciler_is_dead_no_lease_is_renewed_and_what_cannot_be_kept_running_ends_the_process() {
    let house = House::new();
    let (node, stop) = house.open().await;
    let lease = lent(1, 60_000, LentState::Active);
    put(&node, LENT, lease.id().as_str(), lease.clone()).await;
    let renewal =
        pumasi_lease::message::Renewal { lease: lease.id().clone(), epoch: Epoch(1), instances: 1, behind_ms: None };
    let renewed = async || lender::renew(&node, "city-b".parse().unwrap(), vec![renewal.clone()]).await;
    assert!(renewed().await.is_ok());
    let tasks = serve::work(&node);
    let down = || node.health.problem().is_some_and(|p| p.contains("reconciling"));
    house.engine.1.store(true, Ordering::SeqCst);
    until("the panic was not seen", down).await;
    assert!(renewed().await.is_err_and(|e| e.retry), "a half-dead daemon renews");
    house.engine.1.store(false, Ordering::SeqCst);
    until("it was not started again", || !down()).await;
    assert!(renewed().await.is_ok());
    assert!(told(&node, "task_ended").await >= 1);
    house.engine.1.store(true, Ordering::SeqCst);
    let why = tokio::time::timeout(Duration::from_secs(60), node.health.failed()).await.unwrap();
    assert!(why.contains("reconciling") && why.contains("a planted bug"), "{why}");
    assert!(renewed().await.is_err());
    stop.send(true).unwrap();
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    }
}
