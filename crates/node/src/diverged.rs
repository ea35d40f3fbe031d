//! What this cloud wrote for a service before it was found lost, and its successor has not: set aside, compared, given out, never erased by itself.
//!
//! Enters: the register of the pact, what is in services' directories, words of helpers, people's wishes. Leaves: directories moved aside, a
//! record of each (kind `divergence`), archives.
//!
//! Always holds:
//! - What holds the same as what the successor began from is no divergence; what cannot be compared counts as one.
//! - A divergence is erased by a person's word alone, which is in the journal before anything goes.
//! - This process reads no byte of it: a helper of the service's own compares and packs.
//!
//! `aside` notices and moves, `compare` asks what is lost, `give` hands out and erases.

mod aside;
mod compare;
mod give;

pub use give::{archive, discard};

use crate::hands::{Hand, MEMORY_BYTES_MAX, Place};
use crate::node::{Locked, Note};
use crate::object::{DIVERGENCE, Divergence, RETIRED, SERVICE, ServiceRecord};
use crate::{Node, clock, tenancy, world};
use pumasi_api::Problem;
use pumasi_engine::{HelperSpec, Room};
use pumasi_store::Expect;
use pumasi_terms::{BootMs, Epoch, ServiceId};
use pumasi_transfer::aside::AsidePlace;
use pumasi_transfer::helper::VERSION;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

/// Directories are looked at so often.
const LOOK_MS: u64 = 1_000;
/// Helpers that ended over the same in a row: then it is told that it could not be compared.
const FAILURES_MAX: u32 = 3;
/// Archives that are being read at one time.
const ARCHIVES_MAX: usize = 4;
/// A helper that reads writes the shared memory of databases and nothing else.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Below a service's directory.
const DIR: &str = "diverged";

#[derive(Debug)]
pub struct Diverged {
    looked_at: Locked<Option<BootMs>>,
    busy: AtomicBool,
    /// How often a comparison came to nothing because its helper ended.
    failures: Locked<BTreeMap<String, u32>>,
    archives: Arc<Semaphore>,
}

impl Default for Diverged {
    fn default() -> Self {
        let archives = Arc::new(Semaphore::new(ARCHIVES_MAX));
        Self { looked_at: Locked::default(), busy: AtomicBool::new(false), failures: Locked::default(), archives }
    }
}

/// Names sort by service, then by epoch.
pub fn key(id: &ServiceId, epoch: Epoch) -> String {
    format!("{id}.{:020}", epoch.0)
}

/// Where one lies.
fn dir_of(node: &Node, place: &str, epoch: Epoch) -> PathBuf {
    node.dir("services").join(place).join(DIR).join(format!("epoch-{epoch}"))
}

/// Beside it, what may go.
fn erasing(dir: &Path) -> PathBuf {
    dir.with_extension("erasing")
}

pub fn all(node: &Node) -> Result<pumasi_store::Items<Divergence>, Problem> {
    node.items(DIVERGENCE)
}

/// One line for `/readyz`, if there are any.
pub fn notice(node: &Node) -> Option<String> {
    let count = all(node).ok()?.iter().count();
    (count > 0).then(|| format!("{count} divergences of services are kept; see `pumasi get divergences`"))
}

/// Looks, beside whatever else is done: comparing takes as long as it takes.
pub fn reconcile(node: &Arc<Node>) {
    let now = clock::boot();
    {
        let mut looked_at = node.diverged.looked_at.lock();
        if looked_at.is_some_and(|at| now.since(at) < LOOK_MS) || node.diverged.busy.swap(true, Ordering::Relaxed) {
            return;
        }
        *looked_at = Some(now);
    }
    let node = node.clone();
    world::spawn(async move {
        if let Err(e) = look(&node).await {
            tracing::warn!(error = %e, "what services wrote before this cloud was lost was not looked at; tried again");
        }
        node.diverged.busy.store(false, Ordering::Relaxed);
    });
}

pub(crate) async fn look(node: &Node) -> Result<(), Problem> {
    node.may_act().map_err(Problem::unavailable)?;
    let mut done = Ok(());
    for service in node.services()?.iter() {
        // One that cannot be looked at stands in nobody else's way.
        done = done.and(aside::look(node, service).await);
    }
    for found in all(node)?.iter() {
        done = done.and(compare::look(node, found).await);
        done = done.and(forget(node, found).await);
    }
    done
}

/// Counts a helper that ended over it. Whether it is tried no more.
fn has_failed(node: &Node, key: &str) -> bool {
    let mut failures = node.diverged.failures.lock();
    let count = failures.entry(key.to_owned()).or_default();
    *count += 1;
    let is_over = *count >= FAILURES_MAX;
    if is_over {
        failures.remove(key);
    }
    is_over
}

/// Its data went with a service that was deleted, when their time was over.
async fn forget(node: &Node, found: &Divergence) -> Result<(), Problem> {
    let dir = dir_of(node, &found.place, found.epoch);
    let lives = node.item::<ServiceRecord>(SERVICE, found.service.as_str())?.is_some_and(|s| s.id == found.id);
    if lives || node.exists(RETIRED, found.id.as_str())? || dir.exists() || erasing(&dir).exists() {
        return Ok(());
    }
    let (known, service, epoch) = (key(&found.id, found.epoch), found.service.clone(), found.epoch);
    node.transact(move |tx| {
        if tx.delete(DIVERGENCE, &known, Expect::Any)?.is_some() {
            let text =
                format!("epoch {epoch}: the service was deleted, and the time is over for which its data were kept");
            let note = Note::new("divergence_gone", "service", &service).because(text);
            tx.journal(note.entry("daemon", clock::wall()))?;
        }
        Ok(())
    })
    .await
}

/// A helper of the service's own, for what was set aside and what was gone on with.
fn hand(node: &Node, service: &ServiceRecord, found: &Divergence) -> Arc<Hand> {
    let aside = dir_of(node, &found.place, found.epoch);
    let beside = tenancy::service_dir(node, service).join("data");
    let mut rooms: Vec<(PathBuf, Room)> = Vec::new();
    for set in &found.sets {
        let dirs = [aside.join(set.name.as_str()), beside.join(set.name.as_str())];
        rooms.extend(dirs.into_iter().filter(|dir| dir.is_dir()).map(|dir| (dir, Room::Shared)));
    }
    let has_beside = beside.is_dir();
    let mut view = vec![(aside.clone(), PathBuf::from("/aside"))];
    view.extend(has_beside.then(|| (beside.clone(), PathBuf::from("/beside"))));
    let spec = HelperSpec {
        owner: service.owner(),
        rooms,
        view,
        hidden: Vec::new(),
        memory_bytes_max: MEMORY_BYTES_MAX,
        file_bytes_max: FILE_BYTES_MAX,
    };
    let bytes_max = service.document.spec.datasets.iter().map(|d| d.bytes_max).max().unwrap_or_default();
    let place = AsidePlace { version: VERSION, aside, beside: has_beside.then_some(beside), bytes_max };
    Hand::new(node.hands.clone(), spec, Place::Aside(place))
}
