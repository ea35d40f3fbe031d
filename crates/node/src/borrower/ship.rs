//! Shipping: keeps the copies of a journey's datasets fresh at its lenders, one task a lease and dataset.
//!
//! Always holds: a position is believed only after the lender answered for it, and never goes beyond what was read at home;
//! a copy that cannot be brought forward goes stale and its readers are sent home.

use super::acts::send_chunks;
use crate::home::data_dir;
use crate::node::{Locked, Note};
use crate::object::{SERVICE, ServiceRecord};
use crate::wire::{CopyState, SendTree};
use crate::{Node, clock};
use bytes::Bytes;
use pumasi_api::{CallError, Client};
use pumasi_journey::{Journey, Part, PartState};
use pumasi_route::table::{Position, Positions};
use pumasi_terms::service::{Dataset, DatasetKind};
use pumasi_terms::{CloudName, DatasetName, LeaseId};
use pumasi_transfer::sqlite::{Delta, PageBatch, SourceOptions, SqliteSource};
use pumasi_transfer::{ChunkStore, FilesSource, Sample, ScanLimits, TreeManifest, Watermark};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// So many in a row go into the journal.
const FAILURES_TOLD: u32 = 3;
const RETRY_MS: u64 = 200;
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// An update longer than this that did not get through is not tried again: packs get through where the link is slow.
const UPDATE_RETRIED_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub struct Shipping {
    running: Locked<BTreeMap<(LeaseId, DatasetName), Shipper>>,
    moved: Notify,
}

#[derive(Debug)]
struct Shipper {
    task: JoinHandle<()>,
    position: Option<Position>,
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
        if let Some(shipper) = self.running.lock().get_mut(&(lease.clone(), name.clone())) {
            shipper.position = shipper.position.max(Some(position));
        }
        self.moved.notify_waiters();
    }

    /// The least position over the datasets of each lease.
    fn positions(&self) -> BTreeMap<LeaseId, Position> {
        let mut least: BTreeMap<LeaseId, Position> = BTreeMap::new();
        for ((lease, _), shipper) in self.running.lock().iter() {
            let position = shipper.position.unwrap_or_default();
            least.entry(lease.clone()).and_modify(|p| *p = position.min(*p)).or_insert(position);
        }
        least
    }

    /// How far each copy is behind, ms, for the metrics.
    pub fn lags_ms(&self, generation: u64) -> BTreeMap<(LeaseId, DatasetName), u64> {
        let now = clock::boot().0;
        let lag = |p: Option<Position>| {
            p.filter(|p| p.generation == generation).map_or(u64::MAX, |p| now.saturating_sub(p.as_of_ms))
        };
        self.running.lock().iter().map(|(key, s)| (key.clone(), lag(s.position))).collect()
    }
}

/// Ends the shipping of a lease.
pub fn stop(node: &Node, lease: &LeaseId) {
    node.datasets.running.lock().retain(|(of, _), shipper| {
        if of == lease {
            shipper.task.abort();
        }
        of != lease
    });
}

/// Ships every dataset of the service to this part; those that run already go on.
pub fn start(node: &Arc<Node>, service: &ServiceRecord, part: &Part) {
    let mut running = node.datasets.running.lock();
    for set in &service.document.spec.datasets {
        let key = (part.lease.clone(), set.name.clone());
        if running.get(&key).is_some_and(|s| !s.task.is_finished()) {
            continue;
        }
        let ship = Ship {
            node: node.clone(),
            service: service.clone(),
            set: set.clone(),
            lease: part.lease.clone(),
            lender: part.lender.clone(),
        };
        running.insert(key, Shipper { task: crate::world::spawn(ship.run()), position: None });
    }
}

/// After a restart of this daemon, parts that serve are shipped to again; parts that are over no more.
pub fn keep_shipping(node: &Arc<Node>, journey: &Journey) {
    for part in &journey.parts {
        match &part.state {
            PartState::Starting | PartState::Serving => {
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
    let mut stopping = node.stopping.clone();
    while !*stopping.borrow() {
        let mut leases = node.datasets.positions();
        leases.extend(node.copies.positions());
        let positions = Positions { leases };
        if positions != last && node.gateway.put_positions(&positions).await.is_ok() {
            last = positions;
        }
        let pace = Duration::from_millis(node.config.timing.ship_ms.min(50));
        tokio::select! {
            biased;
            () = async { node.datasets.moved(pace).await; tokio::time::sleep(Duration::from_millis(5)).await; } => {}
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

/// What a step came to.
enum Shipped {
    /// The copy holds everything up to here.
    At(Watermark),
    /// Nothing new: copies of this content are good up to here.
    Still { as_of: Watermark },
}

fn position(w: Watermark) -> Position {
    Position { generation: w.generation, as_of_ms: w.as_of_ms }
}

impl Ship {
    async fn run(self) {
        let generation = self.node.boot_count;
        let dir = data_dir(&self.node, self.service.name(), &self.set.name);
        let mut source = match (self.set.kind, &self.set.file) {
            (DatasetKind::Sqlite, Some(file)) => {
                Source::Sqlite(Box::new(SqliteSource::open(dir.join(file), generation, SourceOptions::default())))
            }
            _ => Source::Files(self.files_source()),
        };
        let mut failures = 0u32;
        let mut late = false;
        loop {
            let begun = tokio::time::Instant::now();
            let (back, result) = self.step(source).await;
            source = back;
            match result {
                Ok(Shipped::At(at) | Shipped::Still { as_of: at }) => {
                    self.node.datasets.reached(&self.lease, &self.set.name, position(at));
                    failures = 0;
                }
                Err(trouble) => {
                    tracing::warn!(lease = %self.lease, dataset = %self.set.name, error = %trouble, "a dataset was not shipped; tried again");
                    failures = failures.saturating_add(1);
                    // Once is usual: a file that the application made and took away again while it was read.
                    if failures == FAILURES_TOLD {
                        let note = Note::new("copy_stale", "lease", &self.lease).caused_by(self.service.name());
                        self.node
                            .note(
                                "daemon",
                                note.because(format!(
                                    "dataset {}: {trouble}; its readers are served at home",
                                    self.set.name
                                )),
                            )
                            .await;
                    }
                    tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                }
            }
            self.watch_rpo(&mut late).await;
            // Looking at a large dataset costs: at most a tenth of the time goes into it.
            let pace = Duration::from_millis(self.node.config.timing.ship_ms)
                .max(begun.elapsed().min(Duration::from_secs(1)) * source.rest());
            tokio::time::sleep(pace).await;
        }
    }

    async fn watch_rpo(&self, late: &mut bool) {
        let key = (self.lease.clone(), self.set.name.clone());
        let lag_ms = self.node.datasets.lags_ms(self.node.boot_count).get(&key).copied().unwrap_or(0);
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
            .map(|c| c.with_timeout(SEND_TIMEOUT))
            .map_err(|e| e.to_string())
    }

    async fn step(&self, source: Source) -> (Source, Result<Shipped, String>) {
        match source {
            Source::Files(mut files) => {
                let looked = crate::world::blocking(move || {
                    let sample = files.sample(|| clock::boot().0);
                    (files, sample)
                })
                .await;
                let Ok((files, sample)) = looked else {
                    return (Source::Files(self.files_source()), Err("looking at the files was cut off".into()));
                };
                let (files, result) = match sample {
                    Ok(Sample::Unchanged { as_of }) => (files, Ok(Shipped::Still { as_of })),
                    Ok(Sample::Changed { as_of, tree }) => self.send_files(files, tree, as_of).await,
                    Err(e) => (files, Err(e.to_string())),
                };
                (Source::Files(files), result)
            }
            Source::Sqlite(source) => {
                let (source, result) = self.step_database(source).await;
                (Source::Sqlite(source), result)
            }
        }
    }

    fn files_source(&self) -> Box<FilesSource> {
        let dir = data_dir(&self.node, self.service.name(), &self.set.name);
        let limits = ScanLimits { bytes_max: self.set.bytes_max, names_outside: false, ..ScanLimits::default() };
        Box::new(FilesSource::new(dir, self.node.boot_count, limits))
    }

    /// What changed since the state that the lender acknowledged; all of it where the lender holds another.
    async fn send_files(
        &self,
        files: Box<FilesSource>,
        tree: TreeManifest,
        as_of: Watermark,
    ) -> (Box<FilesSource>, Result<Shipped, String>) {
        let made = crate::world::blocking(move || {
            let update = files.update(&tree, as_of);
            (files, tree, update)
        })
        .await;
        let Ok((mut files, tree, update)) = made else {
            return (self.files_source(), Err("reading what changed was cut off".into()));
        };
        let large = matches!(&update, Ok(Some(update)) if update.len() > UPDATE_RETRIED_BYTES_MAX);
        let sent = match update {
            Ok(Some(update)) => match self.send_changes(update).await {
                // A lender of an earlier version takes an update for a garbled batch of pages.
                Err(e) if e.problem().is_some_and(|p| matches!(p.code.as_str(), "needs_base" | "bad_batch")) => {
                    self.send_tree(tree.clone(), Arc::new(files.chunks(&tree)), as_of).await
                }
                sent => sent.map_err(|e| e.to_string()),
            },
            Ok(None) => self.send_tree(tree.clone(), Arc::new(files.chunks(&tree)), as_of).await,
            Err(e) => Err(e.to_string()),
        };
        match sent {
            Ok(_) => files.acknowledged(Some(tree)),
            Err(_) => {
                files.forget_shipped();
                if large {
                    files.acknowledged(None);
                }
            }
        }
        (files, sent)
    }

    async fn step_database(&self, mut source: Box<SqliteSource>) -> (Box<SqliteSource>, Result<Shipped, String>) {
        let dir = data_dir(&self.node, self.service.name(), &self.set.name);
        let path = dir.join(self.set.file.as_deref().unwrap_or_default());
        let looked = crate::world::blocking(move || {
            use pumasi_transfer::sqlite::Polled;
            let found = match source.poll(|| clock::boot().0) {
                Ok(Polled::Changed) => source.delta(|| clock::boot().0).map(Found::Delta),
                Ok(Polled::Unchanged { as_of, .. }) => Ok(Found::Still(as_of)),
                Ok(Polled::Absent) => Ok(Found::Absent),
                Err(e) => Err(e),
            };
            (source, found)
        })
        .await;
        let Ok((source, found)) = looked else {
            return (
                Box::new(SqliteSource::open(path, self.node.boot_count, SourceOptions::default())),
                Err("looking at the database was cut off".into()),
            );
        };
        match found {
            Ok(Found::Still(as_of)) => (source, Ok(Shipped::Still { as_of })),
            Ok(Found::Delta(Delta::Unchanged { as_of, .. })) => (source, Ok(Shipped::Still { as_of })),
            Ok(Found::Absent) => {
                let as_of = Watermark { generation: self.node.boot_count, as_of_ms: clock::boot().0 };
                let result = self.put_tree(TreeManifest::new(Vec::new()).map_err(|e| e.to_string()), as_of).await;
                (source, result)
            }
            Ok(Found::Delta(Delta::Batch(batch))) => match self.send_batch(&batch).await {
                Ok(at) => (source, Ok(at)),
                Err(e) if e.problem().is_some_and(|p| p.code == "needs_base") => self.send_base(source).await,
                // The batch is lost to the source, which believes it shipped: the next step starts from a base.
                Err(e) => {
                    let fresh = Box::new(SqliteSource::open(path, self.node.boot_count, SourceOptions::default()));
                    (fresh, Err(e.to_string()))
                }
            },
            Ok(Found::Delta(Delta::NeedsBase(_))) => self.send_base(source).await,
            Err(e) => (source, Err(e.to_string())),
        }
    }

    fn scratch(&self) -> PathBuf {
        self.node
            .dir("services")
            .join(self.service.name().as_str())
            .join("ship")
            .join(self.lease.as_str())
            .join(self.set.name.as_str())
    }

    async fn send_base(&self, mut source: Box<SqliteSource>) -> (Box<SqliteSource>, Result<Shipped, String>) {
        let scratch = self.scratch();
        let dir = data_dir(&self.node, self.service.name(), &self.set.name);
        let path = dir.join(self.set.file.as_deref().unwrap_or_default());
        let bytes_max = self.set.bytes_max;
        let place = scratch.clone();
        let made = crate::world::blocking(move || {
            let made = ChunkStore::open(&place, bytes_max).map_err(|e| e.to_string()).and_then(|mut store| {
                Ok((source.snapshot(|| clock::boot().0, &mut store).map_err(|e| e.to_string())?, store))
            });
            (source, made)
        })
        .await;
        let again = || Box::new(SqliteSource::open(&path, self.node.boot_count, SourceOptions::default()));
        let Ok((source, made)) = made else { return (again(), Err("the first copy was cut off".into())) };
        let result = match made {
            Ok((Some(snapshot), store)) => self.send_tree(snapshot.tree, Arc::new(store), snapshot.at).await,
            Ok((None, _)) => Err("there is no database yet".into()),
            Err(e) => Err(e),
        };
        let _ = crate::world::blocking(move || pumasi_transfer::erase(&scratch)).await;
        match result {
            Ok(at) => (source, Ok(at)),
            Err(e) => (again(), Err(e)),
        }
    }

    async fn send_tree<S>(&self, tree: TreeManifest, source: Arc<S>, as_of: Watermark) -> Result<Shipped, String>
    where
        S: pumasi_transfer::ChunkSource + Send + Sync + 'static,
    {
        let client = self.client()?;
        send_chunks(&client, &self.lease, &tree, source).await.map_err(|e| e.to_string())?;
        self.put_tree(Ok(tree), as_of).await
    }

    async fn put_tree(&self, tree: Result<TreeManifest, String>, as_of: Watermark) -> Result<Shipped, String> {
        let sent = SendTree { epoch: self.service.epoch, tree: tree?, position: position(as_of) };
        let path = format!("/v1/leases/{}/datasets/{}", self.lease, self.set.name);
        let state: CopyState = self.client()?.put(&path, &sent).await.map_err(|e| e.to_string())?;
        Ok(Shipped::At(Watermark { generation: state.position.generation, as_of_ms: state.position.as_of_ms }))
    }

    async fn send_batch(&self, batch: &PageBatch) -> Result<Shipped, CallError> {
        let garbled = |problem: String| CallError::Garbled { url: self.lender.to_string(), problem };
        self.send_changes(batch.encode().map_err(|e| garbled(e.to_string()))?).await
    }

    /// A batch of pages or an update of files.
    async fn send_changes(&self, bytes: Vec<u8>) -> Result<Shipped, CallError> {
        let garbled = |problem: String| CallError::Garbled { url: self.lender.to_string(), problem };
        let path = format!("/v1/leases/{}/datasets/{}/batches", self.lease, self.set.name);
        let state: CopyState = self.client().map_err(garbled)?.send_bytes("POST", &path, Bytes::from(bytes)).await?;
        Ok(Shipped::At(Watermark { generation: state.position.generation, as_of_ms: state.position.as_of_ms }))
    }
}

enum Source {
    Files(Box<FilesSource>),
    Sqlite(Box<SqliteSource>),
}

impl Source {
    /// A tree is scanned whole at each look; a database is asked for one number.
    fn rest(&self) -> u32 {
        match self {
            Self::Files(_) => 9,
            Self::Sqlite(_) => 1,
        }
    }
}

enum Found {
    Still(Watermark),
    Delta(Delta),
    Absent,
}
