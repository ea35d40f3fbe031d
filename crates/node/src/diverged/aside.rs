//! What a successor has not is moved aside, as soon as this cloud knows that it was succeeded.
//!
//! Always holds: nothing is moved while an instance of the service runs, or its data are being made this cloud's own; a directory that was
//! moved has a record sooner or later, whatever ended in between.

use super::{DIR, dir_of, erasing, key};
use crate::hands::{Hand, MEMORY_BYTES_MAX, Place, Trouble};
use crate::home::data_dir;
use crate::node::Note;
use crate::object::{DIVERGENCE, Divergence, MOVE, SERVICE, ServiceRecord};
use crate::{Node, clock, register, tenancy, world};
use pumasi_api::Problem;
use pumasi_engine::{HelperSpec, Room};
use pumasi_journey::moving::Move;
use pumasi_ownership::Owned;
use pumasi_ownership::state::{Base, Phase};
use pumasi_store::Expect;
use pumasi_terms::service::Dataset;
use pumasi_terms::{DatasetName, Epoch};
use pumasi_transfer::helper::{HomePlace, Reply, Request, Set, VERSION, Why};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Counted at most: how much is told, not billed.
const FILES_MAX: u64 = 1_000_000;
const GIVEN_MAX: u32 = 4;

pub(super) async fn look(node: &Node, service: &ServiceRecord) -> Result<(), Problem> {
    if let Some(owned) = successor(node, service)
        && is_still(node, service)
        && let sets = with_content(node, service)
        && !sets.is_empty()
        && !register::is_handed_on(node, &service.id, service.epoch)?
        && !is_moving(node, service)?
    {
        // What it began from is told with its first word of how far it is.
        let next = owned.epoch == service.epoch.next();
        if next && owned.base.is_empty() && matches!(owned.phase, Phase::Taken { .. }) {
            return Ok(());
        }
        let base = if next { owned.base } else { BTreeMap::new() };
        set_aside(node, service, &sets, &base).await?;
    }
    adopt(node, service).await
}

/// Who owns it by the register, at a later epoch than this cloud's own.
fn successor(node: &Node, service: &ServiceRecord) -> Option<Owned> {
    let state = node.voting.state().filter(|_| service.registered)?;
    let owned = state.services.get(&service.id)?;
    (&owned.owner != node.name() && owned.epoch > service.epoch).then(|| owned.clone())
}

fn is_still(node: &Node, service: &ServiceRecord) -> bool {
    let owner = service.owner();
    service.taking.is_none() && !service.deleting && !node.instances.lock().iter().any(|i| i.owner == owner)
}

fn with_content<'a>(node: &Node, service: &'a ServiceRecord) -> Vec<&'a Dataset> {
    let has_any = |set: &&Dataset| {
        std::fs::read_dir(data_dir(node, service, &set.name)).is_ok_and(|mut entries| entries.next().is_some())
    };
    service.document.spec.datasets.iter().filter(has_any).collect()
}

/// Its owner's word that ends this ownership may still be under way.
fn is_moving(node: &Node, service: &ServiceRecord) -> Result<bool, Problem> {
    Ok(node.item::<Move>(MOVE, service.name().as_str())?.is_some_and(|m| m.id == service.id && m.is_open()))
}

async fn set_aside(
    node: &Node,
    service: &ServiceRecord,
    sets: &[&Dataset],
    base: &BTreeMap<DatasetName, Base>,
) -> Result<(), Problem> {
    let mut same = !base.is_empty();
    for set in sets {
        let began = base.get(&set.name).map(|b| b.digest);
        same = same && began.is_some() && digest(node, service, set).await? == began;
    }
    let dir = tenancy::service_dir(node, service);
    let epoch = service.epoch;
    let to =
        if same { dir.join("before").join(format!("epoch-{epoch}")) } else { dir_of(node, service.place(), epoch) };
    {
        let _promotion = node.moves.files.lock().await;
        let now = node.item::<ServiceRecord>(SERVICE, service.name().as_str())?;
        let unchanged = now.is_some_and(|now| now.id == service.id && now.epoch == epoch && is_still(node, &now));
        if !unchanged || successor(node, service).is_none() {
            return Ok(());
        }
        let pairs: Vec<(PathBuf, PathBuf)> =
            sets.iter().map(|s| (data_dir(node, service, &s.name), to.join(s.name.as_str()))).collect();
        let moved = world::blocking(move || move_all(&to, &pairs)).await.map_err(|e| Problem::ours(e.to_string()))?;
        moved.map_err(|e| Problem::ours(format!("setting data of {} aside: {e}", service.name())))?;
    }
    if same {
        let owner = successor(node, service).map_or_else(|| "its successor".to_owned(), |o| o.owner.to_string());
        let text = format!("{owner} went on with all that was written here under epoch {epoch}: nothing diverged");
        node.note("daemon", Note::new("data_agree", "service", service.name()).because(text)).await;
    }
    Ok(())
}

fn move_all(to: &Path, pairs: &[(PathBuf, PathBuf)]) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for (from, to) in pairs {
        std::fs::rename(from, to)?;
    }
    std::fs::File::open(to)?.sync_all()
}

/// Of the content; none: it cannot be told, and so counts as another one.
async fn digest(node: &Node, service: &ServiceRecord, set: &Dataset) -> Result<Option<pumasi_terms::Digest>, Problem> {
    let (dir, scratch) = (data_dir(node, service, &set.name), tenancy::service_dir(node, service).join("aside"));
    let spec = HelperSpec {
        owner: service.owner(),
        rooms: vec![(dir.clone(), Room::Shared), (scratch.clone(), Room::Private)],
        view: vec![(dir.clone(), "/data".into()), (scratch.clone(), "/work".into())],
        hidden: Vec::new(),
        memory_bytes_max: MEMORY_BYTES_MAX,
        file_bytes_max: super::FILE_BYTES_MAX,
    };
    let place = HomePlace {
        version: VERSION,
        dir: dir.clone(),
        scratch: scratch.clone(),
        kind: set.kind,
        file: set.file.clone(),
        generation: node.generation(service.epoch),
        bytes_max: set.bytes_max,
    };
    let hand = Hand::new(node.hands.clone(), spec, Place::Home(place));
    let mut given = 0;
    let found = loop {
        match hand.ask(Request::Digest, Vec::new()).await {
            Err(Trouble::Refused(refusal)) if refusal.why == Why::Denied && given < GIVEN_MAX => {
                given += 1;
                if let Err(e) = node.hands.give(&service.owner(), &dir).await {
                    tracing::warn!(dataset = %set.name, error = %e, "the group got no right to what is to be compared");
                }
            }
            found => break found,
        }
    };
    hand.end().await;
    let _ = world::blocking(move || pumasi_transfer::erase(&scratch).map(|_| ())).await;
    match found {
        Ok((Reply::Digest { digest }, _)) => Ok(Some(digest)),
        Ok(_) => Err(Problem::ours("the dataset's helper gave an answer that does not fit the question")),
        Err(Trouble::Refused(refusal)) => {
            tracing::warn!(service = %service.name(), dataset = %set.name, why = %refusal, "what was written here does not read; it is kept as another one than its successor's");
            Ok(None)
        }
        // A helper that ends of it again and again can tell nothing of it either.
        Err(e) if super::has_failed(node, &key(&service.id, service.epoch)) => {
            tracing::warn!(service = %service.name(), dataset = %set.name, error = %e, "what was written here could not be compared; it is kept");
            Ok(None)
        }
        Err(e) => Err(Problem::unavailable(e.to_string())),
    }
}

/// Each directory has its record, and each record that is left its directory.
async fn adopt(node: &Node, service: &ServiceRecord) -> Result<(), Problem> {
    let entries = match std::fs::read_dir(tenancy::service_dir(node, service).join(DIR)) {
        Err(_) => return Ok(()),
        Ok(entries) => entries,
    };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let (number, goes) = match name.strip_suffix(".erasing") {
            Some(rest) => (rest, true),
            None => (name.as_str(), false),
        };
        let Some(epoch) = number.strip_prefix("epoch-").and_then(|n| n.parse().ok()).map(Epoch) else { continue };
        let (dir, known) = (dir_of(node, service.place(), epoch), key(&service.id, epoch));
        match (node.exists(DIVERGENCE, &known)?, goes) {
            (false, true) => {
                let gone = erasing(&dir);
                let erased = world::blocking(move || world::erase(&gone)).await;
                erased.map_err(|e| Problem::ours(e.to_string()))?.map_err(|e| Problem::ours(e.to_string()))?;
            }
            // Nobody's word to erase it was written down.
            (true, true) => {
                std::fs::rename(erasing(&dir), &dir).map_err(|e| Problem::ours(format!("{}: {e}", dir.display())))?;
            }
            (false, false) => enter(node, service, epoch, dir, known).await?,
            (true, false) => {}
        }
    }
    Ok(())
}

async fn enter(node: &Node, service: &ServiceRecord, epoch: Epoch, dir: PathBuf, key: String) -> Result<(), Problem> {
    let there = |set: &&Dataset| dir.join(set.name.as_str()).is_dir();
    let of = |set: &Dataset| Set { name: set.name.clone(), kind: set.kind, file: set.file.clone() };
    let sets: Vec<Set> = service.document.spec.datasets.iter().filter(there).map(of).collect();
    let measured = world::blocking(move || pumasi_engine::measure(&dir, FILES_MAX)).await;
    let measured = measured.map_err(|e| Problem::ours(e.to_string()))?.unwrap_or_default();
    let found = Divergence {
        version: 1,
        id: service.id.clone(),
        service: service.name().clone(),
        customer: service.customer.clone(),
        epoch,
        place: service.place().to_owned(),
        at: clock::wall(),
        sets,
        bytes: measured.bytes,
        files: measured.files,
        compared: None,
        compared_at: None,
    };
    node.transact(move |tx| {
        if tx.get::<Divergence>(DIVERGENCE, &key)?.is_some() {
            return Ok(());
        }
        tx.put(DIVERGENCE, &key, &found, Expect::Absent)?;
        let text = format!(
            "what was written here under epoch {epoch} and is not in the surviving copy is kept ({} files, {} bytes) until somebody discards it; see `pumasi get divergences`",
            found.files, found.bytes
        );
        tx.journal(Note::new("data_set_aside", "service", &found.service).because(text).entry("daemon", clock::wall()))?;
        Ok(())
    })
    .await
}
