//! Shipping: keeps the copies of a journey's datasets fresh at its lenders, one task and one helper a lease and dataset.
//!
//! Enters: what helpers found new in datasets, and lenders' answers. Leaves: batches, updates and whole states, sent; positions.
//! Always holds: this process opens no file of a dataset, the helper does (`transfer::helper`), and what it says is checked; a position is believed only after the lender answered for it, and never goes beyond what was read at home;
//! a copy that cannot be brought forward goes stale and its readers are sent home.

use super::acts::send_chunks;
use crate::hands::{Hand, MEMORY_BYTES_MAX, Place, Trouble};
use crate::home::data_dir;
use crate::node::{Locked, Note};
use crate::object::{SERVICE, ServiceRecord};
use crate::quiet::{IDLE_MS, Rests};
use crate::wire::{CopyState, SendTree};
use crate::{Node, clock, disk};
use bytes::Bytes;
use pumasi_api::{CallError, Client};
use pumasi_engine::{HelperSpec, Room};
use pumasi_journey::{Journey, Part, PartState};
use pumasi_route::table::Positions;
use pumasi_terms::service::{Dataset, DatasetKind, DatasetMode, ServiceSpec};
use pumasi_terms::{BootMs, CloudName, DatasetName, Digest, Generation, LeaseId, Position, ServiceName};
use pumasi_transfer::TreeManifest;
use pumasi_transfer::helper::{HomePlace, Reply, Request, VERSION, Why, digests_to_bytes};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// So many in a row go into the journal.
const FAILURES_TOLD: u32 = 3;
/// Somebody else says when to look.
const LONG: Duration = Duration::from_secs(3_600);
const RETRY_MS: u64 = 200;
/// Looks that are taken again at once, each after the group was given its right to what is new.
const GIVEN_MAX: u32 = 4;
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// A helper at home writes nothing but chunks, and the shared memory of databases.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Default)]
pub struct Shipping {
    /// Somebody waits for what is new: it is looked for at once.
    urgent: Notify,
    /// What answers wait for, by service.
    wanted: Locked<BTreeMap<ServiceName, BootMs>>,
    pressed: Notify,
    /// A copy moved that answers wait for.
    came: Notify,
    running: Locked<BTreeMap<(LeaseId, DatasetName), Shipper>>,
    moved: Notify,
}

#[derive(Debug)]
struct Shipper {
    task: JoinHandle<()>,
    /// It is kept in step.
    in_step: bool,
    scratch: PathBuf,
    generation: Generation,
    position: Option<Position>,
    /// What the lender said last. It does not hear that nothing changed since.
    answered: Option<Position>,
}

impl Shipping {
    pub fn all_copied<'a>(&self, lease: &LeaseId, mut names: impl Iterator<Item = &'a DatasetName>) -> bool {
        let running = self.running.lock();
        names.all(|n| running.get(&(lease.clone(), n.clone())).is_some_and(|s| s.position.is_some()))
    }

    /// Returns when some copy moved, or after the time.
    pub async fn moved(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.moved.notified()).await;
    }

    fn reached(&self, lease: &LeaseId, name: &DatasetName, position: Position) {
        let mut in_step = false;
        if let Some(shipper) = self.running.lock().get_mut(&(lease.clone(), name.clone())) {
            shipper.position = shipper.position.max(Some(position));
            in_step = shipper.in_step;
        }
        if in_step {
            // Whoever tells the gateway may be on its way.
            self.came.notify_one();
        }
        self.moved.notify_waiters();
    }

    fn answered(&self, lease: &LeaseId, name: &DatasetName, position: Position) {
        if let Some(shipper) = self.running.lock().get_mut(&(lease.clone(), name.clone())) {
            shipper.answered = Some(position);
        }
    }

    /// The least position over the datasets of each lease.
    fn positions(&self) -> BTreeMap<LeaseId, Position> {
        self.least(|_| true)
    }

    /// The least over those that are kept in step, of leases that have one.
    pub fn in_step(&self) -> BTreeMap<LeaseId, Position> {
        self.least(|shipper| shipper.in_step)
    }

    fn least(&self, counts: impl Fn(&Shipper) -> bool) -> BTreeMap<LeaseId, Position> {
        let mut least: BTreeMap<LeaseId, Position> = BTreeMap::new();
        for ((lease, _), shipper) in self.running.lock().iter().filter(|(_, s)| counts(s)) {
            let position = shipper.position.unwrap_or_default();
            least.entry(lease.clone()).and_modify(|p| *p = position.min(*p)).or_insert(position);
        }
        least
    }

    /// Answers of the service wait until its copies have everything of before this instant.
    pub fn want(&self, service: ServiceName, at: BootMs) {
        self.wanted.lock().insert(service, at);
        self.pressed.notify_waiters();
    }

    pub fn hurry(&self) {
        self.urgent.notify_waiters();
    }

    /// How far the copies of one lease are, those that are whole: up to when they hold everything, and what their lender said last.
    pub fn positions_of(&self, lease: &LeaseId) -> BTreeMap<DatasetName, (Position, Option<Position>)> {
        let running = self.running.lock();
        let own = running.iter().filter(|((of, _), _)| of == lease);
        own.filter_map(|((_, set), s)| Some((set.clone(), (s.position?, s.answered)))).collect()
    }

    /// How far the copies of each lease are behind now, at most; of those that are whole.
    pub fn behind_ms(&self) -> BTreeMap<LeaseId, u64> {
        let now = clock::boot().0;
        let mut most: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for ((lease, _), shipper) in self.running.lock().iter() {
            // One that was not begun is behind by all there is.
            let behind = shipper.position.map_or(u64::MAX, |p| now.saturating_sub(p.as_of_ms));
            most.entry(lease.clone()).and_modify(|b| *b = behind.max(*b)).or_insert(behind);
        }
        most.retain(|_, behind| *behind < u64::MAX);
        most
    }

    /// How far each copy is behind, ms, for the metrics.
    pub fn lags_ms(&self) -> BTreeMap<(LeaseId, DatasetName), u64> {
        let now = clock::boot().0;
        let lag = |s: &Shipper| {
            let own = s.position.filter(|p| p.generation == s.generation);
            own.map_or(u64::MAX, |p| p.lag_ms(now))
        };
        self.running.lock().iter().map(|(key, s)| (key.clone(), lag(s))).collect()
    }
}

/// Where the helpers that ship a service's data keep what is theirs, and for how many leases they do.
pub fn shipping(node: &Node, service: &ServiceRecord) -> (PathBuf, u64) {
    let dir = crate::tenancy::service_dir(node, service).join("ship");
    let leases = std::fs::read_dir(&dir).into_iter().flatten().count() as u64;
    (dir, leases)
}

/// Ends the shipping of a lease, and what its helpers had for it.
pub fn stop(node: &Node, lease: &LeaseId) {
    let mut running = node.datasets.running.lock();
    let keys: Vec<_> = running.keys().filter(|(of, _)| of == lease).cloned().collect();
    for key in keys {
        let Some(shipper) = running.remove(&key) else { continue };
        let scratch = shipper.scratch;
        crate::world::spawn(async move {
            shipper.task.abort();
            let _ = shipper.task.await;
            let erased = move || pumasi_transfer::erase(&scratch).map(|()| scratch.parent().map(std::fs::remove_dir));
            let _ = crate::world::blocking(erased).await;
        });
    }
}

/// What goes to a part. Who the users are leaves this cloud only for one that may have to serve them by itself.
pub fn of_part<'a>(spec: &'a ServiceSpec, part: &Part) -> impl Iterator<Item = &'a Dataset> + use<'a> {
    let kept = part.standby.is_some();
    spec.datasets.iter().filter(move |set| kept || !set.name.is_realm())
}

/// Ships what goes to this part; those that run already go on.
pub fn start(node: &Arc<Node>, service: &ServiceRecord, part: &Part) {
    let mut running = node.datasets.running.lock();
    for set in of_part(&service.document.spec, part) {
        let key = (part.lease.clone(), set.name.clone());
        let in_step = set.mode == DatasetMode::Sync;
        if let Some(shipper) = running.get_mut(&key).filter(|s| !s.task.is_finished()) {
            shipper.in_step = in_step;
            continue;
        }
        let ship = Ship {
            node: node.clone(),
            service: service.clone(),
            set: set.clone(),
            lease: part.lease.clone(),
            lender: part.lender.clone(),
        };
        let (scratch, generation) = (ship.scratch(), ship.generation());
        let task = crate::world::spawn(ship.run());
        running.insert(key, Shipper { task, in_step, scratch, generation, position: None, answered: None });
    }
}

/// After a restart of this daemon, parts that serve are shipped to again; parts that are over no more.
pub fn keep_shipping(node: &Arc<Node>, journey: &Journey) {
    for part in &journey.parts {
        match &part.state {
            PartState::Starting | PartState::Serving | PartState::Resting | PartState::Kept => {
                match node.get::<ServiceRecord>(SERVICE, journey.service.as_str()) {
                    Ok(Some(service)) => start(node, &service, part),
                    Ok(None) => {}
                    Err(e) => {
                        tracing::warn!(journey = %journey.id, error = %e, "its copies are not begun; tried again")
                    }
                }
            }
            PartState::Ended { .. } => stop(node, &part.lease),
            _ => {}
        }
    }
}

/// Tells the gateway how far copies are, on both sides of leases, as often as they move.
pub async fn pump_positions(node: Arc<Node>) {
    let mut last = Positions::default();
    let (mut stopping, mut rests) = (node.stopping.clone(), Rests::new(&node));
    while !*stopping.borrow() {
        let mut leases = node.datasets.positions();
        leases.extend(node.copies.positions());
        let in_step = if node.routes.knows_step() == Some(true) { node.datasets.in_step() } else { BTreeMap::new() };
        let positions = Positions { leases, in_step };
        if positions != last && node.gateway.put_positions(&positions).await.is_ok() {
            last = positions;
        }
        let pace_ms = node.config.timing.ship_ms.min(50);
        let some_moved = async {
            tokio::select! {
                () = node.datasets.moved(LONG) => {}
                () = rests.rest(&node, pace_ms, IDLE_MS) => {}
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        tokio::select! {
            biased;
            () = node.datasets.came.notified() => {}
            () = some_moved => {}
            _ = stopping.changed() => break,
        }
    }
}

struct Ship {
    node: Arc<Node>,
    service: ServiceRecord,
    set: Dataset,
    lease: LeaseId,
    lender: CloudName,
}

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
enum NotShipped {
    #[error(transparent)]
    Helper(#[from] Trouble),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0}")]
    Other(String),
}

fn strange() -> NotShipped {
    NotShipped::Other("the dataset's helper gave an answer that does not fit the question".into())
}

impl Ship {
    async fn run(self) {
        let mut hand = self.hand();
        let mut failures = 0u32;
        let mut late = false;
        loop {
            let begun = tokio::time::Instant::now();
            let mut looked = Duration::ZERO;
            let held = self.node.disk.held(&disk::shipping_of(&self.service.owner()));
            let step = match held {
                None => self.step(&hand, &mut looked).await,
                // With whatever it has open. It begins anew.
                Some(why) => {
                    hand.end().await;
                    hand = self.hand();
                    Err(NotShipped::Other(why))
                }
            };
            match step {
                Ok(at) => {
                    self.node.datasets.reached(&self.lease, &self.set.name, at);
                    failures = 0;
                }
                Err(trouble) => {
                    failures = failures.saturating_add(1);
                    self.tell(&trouble, failures).await;
                    tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                }
            }
            self.watch_rpo(&mut late).await;
            // Looking at a large dataset costs: at most a tenth of the time goes into it. Sending costs the lender, too, and is rested from
            // for no longer than leaves the copy as fresh as it was promised: a first copy may take long, or come to nothing.
            let rest = (begun.elapsed() * 3).min(Duration::from_millis(self.set.rpo_ms / 2));
            let pace = Duration::from_millis(self.node.config.timing.ship_ms)
                .max(looked.min(Duration::from_secs(1)) * self.rest())
                .max(rest);
            self.pause(pace).await;
        }
    }

    /// Until the next look. While answers wait for what is not sent yet there is none: what came meanwhile goes together.
    async fn pause(&self, pace: Duration) {
        let until = tokio::time::Instant::now() + pace;
        loop {
            let pressed = self.node.datasets.pressed.notified();
            let mut pressed = std::pin::pin!(pressed);
            pressed.as_mut().enable();
            if let Some(at) = self.awaited() {
                // A look before that instant would not tell of it.
                return tokio::time::sleep(Duration::from_millis(at.since(clock::boot()))).await;
            }
            tokio::select! {
                biased;
                () = self.node.datasets.urgent.notified() => return,
                () = pressed => {}
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// The instant that this copy must reach for answers that wait, if it has not.
    fn awaited(&self) -> Option<BootMs> {
        let at = self.node.datasets.wanted.lock().get(self.service.name()).copied()?;
        let running = self.node.datasets.running.lock();
        let own = running.get(&(self.lease.clone(), self.set.name.clone())).filter(|s| s.in_step);
        (own?.position? < Position::new(self.generation(), at.0)).then_some(at)
    }

    /// A tree is scanned whole at each look; a database is asked for one number.
    fn rest(&self) -> u32 {
        match self.set.kind {
            DatasetKind::Files => 9,
            DatasetKind::Sqlite => 1,
        }
    }

    async fn tell(&self, trouble: &NotShipped, failures: u32) {
        tracing::warn!(lease = %self.lease, dataset = %self.set.name, error = %trouble, "a dataset was not shipped; tried again");
        let note = |action| Note::new(action, "lease", &self.lease).caused_by(self.service.name());
        if let NotShipped::Helper(Trouble::Ended(why)) = trouble {
            let text = format!("dataset {}: {why}", self.set.name);
            self.node.note("daemon", note("data_helper_ended").because(text)).await;
        }
        // Once is usual: a file that the application made and took away again while it was read.
        if failures == FAILURES_TOLD {
            let text = format!("dataset {}: {trouble}; its readers are served at home", self.set.name);
            self.node.note("daemon", note("copy_stale").because(text)).await;
        }
    }

    async fn watch_rpo(&self, late: &mut bool) {
        let key = (self.lease.clone(), self.set.name.clone());
        let lag_ms = self.node.datasets.lags_ms().get(&key).copied().unwrap_or(0);
        let first = lag_ms == u64::MAX;
        let is_late = !first && lag_ms > self.set.rpo_ms;
        if is_late && !*late {
            let text = format!(
                "dataset {} is {lag_ms} ms behind at {}, {} ms are allowed",
                self.set.name, self.lender, self.set.rpo_ms
            );
            self.node
                .note(
                    "daemon",
                    Note::new("rpo_exceeded", "lease", &self.lease).caused_by(self.service.name()).because(text),
                )
                .await;
        }
        *late = is_late;
    }

    fn client(&self) -> Result<Client, String> {
        self.node
            .peers
            .clients
            .of(&self.node, &self.lender)
            .map(|c| c.with_timeout(SEND_TIMEOUT).at_epoch(self.service.epoch))
            .map_err(|e| e.to_string())
    }

    fn generation(&self) -> Generation {
        self.node.generation(self.service.epoch)
    }

    fn dir(&self) -> PathBuf {
        data_dir(&self.node, &self.service, &self.set.name)
    }

    fn scratch(&self) -> PathBuf {
        let (ship, _) = shipping(&self.node, &self.service);
        ship.join(self.lease.as_str()).join(self.set.name.as_str())
    }

    fn hand(&self) -> Arc<Hand> {
        let (dir, scratch) = (self.dir(), self.scratch());
        let spec = HelperSpec {
            owner: self.service.owner_of(&self.set.name),
            rooms: vec![(dir.clone(), Room::Shared), (scratch.clone(), Room::Private)],
            view: vec![(dir.clone(), "/data".into()), (scratch.clone(), "/work".into())],
            hidden: Vec::new(),
            memory_bytes_max: MEMORY_BYTES_MAX,
            file_bytes_max: FILE_BYTES_MAX,
        };
        let place = HomePlace {
            version: VERSION,
            dir,
            scratch,
            kind: self.set.kind,
            file: self.set.file.clone(),
            generation: self.generation(),
            bytes_max: self.set.bytes_max,
        };
        Hand::new(self.node.hands.clone(), spec, Place::Home(place))
    }

    /// A position counts only up to when the question was put, whoever says more.
    fn no_later(&self, at: Position, now_ms: u64) -> Position {
        at.min(Position::new(self.generation(), now_ms))
    }

    /// `looked`: the part of it that went into looking.
    async fn step(&self, hand: &Hand, looked: &mut Duration) -> Result<Position, NotShipped> {
        let begun = tokio::time::Instant::now();
        let (now_ms, found) = self.look(hand).await;
        *looked = begun.elapsed();
        match found? {
            (Reply::Unchanged { as_of }, _) => Ok(self.no_later(as_of, now_ms)),
            (Reply::Absent, _) => {
                let tree = TreeManifest::new(Vec::new()).map_err(|e| NotShipped::Other(e.to_string()))?;
                let as_of = Position::new(self.generation(), now_ms);
                let nothing = |_| std::future::ready(Err("nothing has no chunks".to_owned()));
                let at = self.send_tree(Bytes::from(tree.to_bytes()), &tree, as_of, nothing).await?;
                Ok(self.no_later(at, now_ms))
            }
            (Reply::Delta { .. }, changes) => match self.send_changes(changes).await {
                Ok(at) => {
                    let at = self.no_later(at, now_ms);
                    // Answers may wait for it. The helper's own part can follow.
                    self.node.datasets.reached(&self.lease, &self.set.name, at);
                    hand.ask(Request::Told { held: true }, Vec::new()).await?;
                    Ok(at)
                }
                // A lender of an earlier version takes an update of files for a garbled batch of pages.
                Err(e) if e.problem().is_some_and(|p| matches!(p.code.as_str(), "needs_base" | "bad_batch")) => {
                    self.send_base(hand).await
                }
                Err(e) => {
                    hand.ask(Request::Told { held: false }, Vec::new()).await?;
                    Err(e.into())
                }
            },
            (Reply::NeedsBase, _) => self.send_base(hand).await,
            _ => Err(strange()),
        }
    }

    /// What is new, and when that was asked. What the application made may be closed to its group: the group's right to it was agreed
    /// with the dataset, so it is given, and the look taken again at once. Many write by way of directories that live for milliseconds.
    async fn look(&self, hand: &Hand) -> (u64, Result<(Reply, Vec<u8>), Trouble>) {
        let mut given = 0;
        loop {
            let now_ms = clock::boot().0;
            match hand.ask(Request::Look { now_ms }, Vec::new()).await {
                Err(Trouble::Refused(refusal)) if refusal.why == Why::Denied && given < GIVEN_MAX => {
                    given += 1;
                    if let Err(e) = self.node.hands.give(&self.service.owner_of(&self.set.name), &self.dir()).await {
                        tracing::warn!(dataset = %self.set.name, error = %e, "the group got no right to what is new");
                    }
                }
                found => return (now_ms, found),
            }
        }
    }

    /// The whole state.
    async fn send_base(&self, hand: &Hand) -> Result<Position, NotShipped> {
        let now_ms = clock::boot().0;
        let sent = self.try_send_base(hand, now_ms).await;
        hand.ask(Request::Told { held: sent.is_ok() }, Vec::new()).await?;
        Ok(self.no_later(sent?, now_ms))
    }

    async fn try_send_base(&self, hand: &Hand, now_ms: u64) -> Result<Position, NotShipped> {
        let (Reply::Base { as_of, skipped }, manifest) = hand.ask(Request::Base { now_ms }, Vec::new()).await? else {
            return Err(strange());
        };
        let manifest = Bytes::from(manifest);
        let parsed = manifest.clone();
        let tree = crate::world::blocking(move || TreeManifest::parse(&parsed)).await;
        let tree = tree.map_err(|e| NotShipped::Other(e.to_string()))?;
        let tree = tree.map_err(|e| NotShipped::Other(e.to_string()))?;
        if tree.total_bytes > self.set.bytes_max {
            let text = format!("it has {} bytes, {} are agreed", tree.total_bytes, self.set.bytes_max);
            return Err(NotShipped::Other(text));
        }
        if let Some(skipped) = skipped {
            let note = Note::new("dataset_incomplete", "service", self.service.name());
            let text = format!("dataset {} as copied for {}: {skipped}", self.set.name, self.lease);
            self.node.note("daemon", note.because(text)).await;
        }
        let pack = |digests| async move {
            match hand.ask(Request::Pack, digests_to_bytes(digests)).await {
                Ok((Reply::Pack, pack)) => Ok(pack),
                Ok(_) => Err(strange().to_string()),
                Err(e) => Err(e.to_string()),
            }
        };
        self.send_tree(manifest, &tree, self.no_later(as_of, now_ms), pack).await
    }

    async fn send_tree<F, P>(
        &self,
        manifest: Bytes,
        tree: &TreeManifest,
        as_of: Position,
        pack: F,
    ) -> Result<Position, NotShipped>
    where
        F: Fn(Vec<Digest>) -> P,
        P: Future<Output = Result<Vec<u8>, String>>,
    {
        let digest = pumasi_transfer::digest_of(&manifest);
        let client = self.client().map_err(NotShipped::Other)?;
        send_chunks(&client, &self.lease, (manifest, tree), pack).await?;
        let sent = SendTree { epoch: self.service.epoch, digest, position: as_of };
        let path = format!("/v1/leases/{}/datasets/{}", self.lease, self.set.name);
        let state: CopyState = client.put(&path, &sent).await?;
        self.node.datasets.answered(&self.lease, &self.set.name, state.position);
        Ok(state.position)
    }

    /// A batch of pages or an update of files.
    async fn send_changes(&self, bytes: Vec<u8>) -> Result<Position, CallError> {
        let garbled = |problem: String| CallError::Garbled { url: self.lender.to_string(), problem };
        let path = format!("/v1/leases/{}/datasets/{}/batches", self.lease, self.set.name);
        let state: CopyState = self.client().map_err(garbled)?.send_bytes("POST", &path, Bytes::from(bytes)).await?;
        self.node.datasets.answered(&self.lease, &self.set.name, state.position);
        Ok(state.position)
    }
}
