//! Oracle 2, as far as moved services are concerned: every write that its user was told of is in the data of the owner in the end,
//! once; nothing is there twice. What a cloud acknowledged shortly before it was lost may be missing, but not of a service that is kept in
//! step: of that one nothing may. Where instances are real processes, the simulated gateway has nobody to write for it: nothing is judged then.

use super::Seen;
use crate::cloud::Host;
use crate::engine::WRITES;
use crate::gateway::Write;
use crate::ledger;
use pumasi_terms::service::{Dataset, DatasetMode};
use pumasi_terms::{Epoch, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ORACLE: &str = "2 durable";
/// So many missing ones are named.
const NAMED_MAX: usize = 3;

#[derive(Debug, Default)]
pub struct Durable {
    /// By the ownership under which they were let in.
    acknowledged: BTreeMap<ServiceName, Vec<(Epoch, String)>>,
    /// Ownerships that ended by a loss: what was not copied then may be gone.
    lost: BTreeSet<(ServiceName, Epoch)>,
    /// Services of which anything was ever written down.
    written: BTreeSet<ServiceName>,
}

impl Durable {
    pub(super) fn wrote(&mut self, service: &ServiceName) {
        if !self.written.contains(service) {
            self.written.insert(service.clone());
        }
    }

    pub(super) fn acknowledged(&mut self, service: &ServiceName, write: &Write) {
        self.acknowledged.entry(service.clone()).or_default().push((write.epoch, write.id.clone()));
    }

    pub fn lost(&mut self, ownerships: Vec<(ServiceName, Epoch)>) {
        self.lost.extend(ownerships);
    }

    pub fn count(&self) -> usize {
        self.acknowledged.values().map(Vec::len).sum()
    }
}

/// Where the owner has the data of a service; none: it has no data, or no owner.
fn data_of(seen: &Seen, hosts: &[Arc<Host>], name: &ServiceName) -> Option<(PathBuf, Dataset)> {
    let own = |host: &Arc<Host>| {
        let disk = seen.disks.get(&host.name)?;
        let record = disk.services().find(|s| s.name() == name)?;
        let epoch = disk.owned_at(&host.name, record)?;
        let set = record.document.spec.datasets.first()?;
        let dir = host.dir.join("services").join(record.place()).join("data").join(set.name.as_str());
        Some((epoch, (dir, set.clone())))
    };
    hosts.iter().filter_map(own).max_by_key(|(epoch, _)| *epoch).map(|(_, found)| found)
}

fn lines(dir: &Path, set: &Dataset) -> Result<Vec<String>, String> {
    if set.name.as_str() == ledger::DATASET {
        return ledger::all(dir).map_err(|e| e.to_string());
    }
    let text = std::fs::read_to_string(dir.join(WRITES)).map_err(|e| e.to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

pub(super) fn at_end(seen: &mut Seen, now_ms: u64, hosts: &[Arc<Host>]) {
    let mut wrong = Vec::new();
    let Durable { acknowledged, written, lost } = &seen.durable;
    for (name, told) in acknowledged.iter().filter(|(name, _)| written.contains(*name)) {
        let Some((dir, set)) = data_of(seen, hosts, name) else { continue };
        let lines = match lines(&dir, &set) {
            Ok(lines) => lines,
            Err(e) => {
                wrong.push(format!("{name}: {} were acknowledged, and the data cannot be read: {e}", told.len()));
                continue;
            }
        };
        let mut there = BTreeSet::new();
        let twice: Vec<&String> = lines.iter().filter(|line| !there.insert(line.as_str())).take(NAMED_MAX).collect();
        if !twice.is_empty() {
            wrong.push(format!("{name}: written twice: {twice:?}"));
        }
        let in_step = set.mode == DatasetMode::Sync;
        let survives = |epoch: Epoch| in_step || !lost.contains(&(name.clone(), epoch));
        let missing: Vec<&String> =
            told.iter().filter(|(at, id)| survives(*at) && !there.contains(id.as_str())).map(|(_, id)| id).collect();
        if !missing.is_empty() {
            let named: Vec<_> = missing.iter().take(NAMED_MAX).collect();
            wrong.push(format!("{name}: {} of {} acknowledged writes are lost: {named:?}", missing.len(), told.len()));
        }
    }
    for what in wrong {
        seen.breaks(ORACLE, now_ms, what);
    }
}
