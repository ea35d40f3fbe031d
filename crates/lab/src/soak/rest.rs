//! What must be so when everything is at rest: nothing foreign anywhere, the books of both sides agree, nothing has grown.
//!
//! Enters: a federation whose load has fallen. Leaves: what is left over, in words; none: all came back.

use super::ledger::{Books, Settled, journal_span, store_bytes};
use super::strike::Struck;
use super::watch::table;
use super::world::{JOURNAL_ROWS_MAX, World};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The retention drops whole segments; what may stand above it.
const JOURNAL_ROWS_SLACK: u64 = JOURNAL_ROWS_MAX;
const STORE_BYTES_MAX: u64 = 64 << 20;
const WAL_BYTES_MAX: u64 = 64 << 20;

/// Sizes of one cloud, taken at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    pub store_bytes: u64,
    pub wal_bytes: u64,
    pub journal_rows: u64,
    /// Everything the cloud keeps, without its services' own data and without its store.
    pub other_bytes: u64,
    pub objects: BTreeMap<String, u64>,
}

/// Leases that were looked at, and what was found.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Account {
    #[serde(skip)]
    seen: BTreeSet<String>,
    pub leases: u64,
    pub settled: u64,
    /// Settled with readings that differ; a fault, or users who went away, explain it.
    pub disputed: u64,
    /// Over without proof or settlement; a fault explains it.
    pub unproven: u64,
}

impl World {
    /// What is not back, not ended, not released. Empty: all is.
    pub async fn left(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        for cloud in self.names() {
            let mut here = self.cluster.remains(cloud);
            let books = Books::whole(&self.store(cloud))?;
            here.extend(books.open_journeys().into_iter().map(|j| format!("open: {j}")));
            here.extend(books.lent.iter().filter(|(_, l)| l.binds()).map(|(id, l)| format!("{id} is {}", l.state)));
            here.extend(routes(&table(self, cloud).unwrap_or_default()));
            here.extend(self.engine(cloud)?);
            let metrics = self.cluster.client(cloud)?.text("/metrics").await?;
            for name in ["pumasi_holds", "pumasi_lent_leases", "pumasi_journeys_open"] {
                match metric(&metrics, name) {
                    Some(0.0) => {}
                    value => here.push(format!("{name} is {value:?}")),
                }
            }
            let status: pumasi_api::message::CloudStatus = self.cluster.client(cloud)?.get("/v1/cloud").await?;
            let less = |m: &&pumasi_api::message::MemberStatus| m.free != Some(m.lends);
            here.extend(
                status
                    .members
                    .iter()
                    .filter(less)
                    .map(|m| format!("{} has {:?} of {:?} free", m.cloud, m.free, m.lends)),
            );
            left.extend(here.into_iter().map(|what| format!("{cloud}: {what}")));
        }
        let running: usize = self.names().iter().map(|c| self.instances(c).len()).sum();
        if running != self.tenants.len() {
            left.push(format!("{running} instances run, {} are wanted", self.tenants.len()));
        }
        Ok(left)
    }

    /// Directories and control groups of an engine: only those of instances of this cloud's own services.
    fn engine(&self, cloud: &str) -> anyhow::Result<Vec<String>> {
        let root = self.cluster.dir(cloud).join("data/engine");
        let mut left = Vec::new();
        let (mut names, mut groups) = (BTreeSet::new(), BTreeSet::new());
        for dir in std::fs::read_dir(&root)?.flatten().filter(|e| e.path().is_dir()) {
            let name = dir.file_name().to_string_lossy().into_owned();
            let spec = std::fs::read(dir.path().join("spec.json")).unwrap_or_default();
            let record: Value = serde_json::from_slice(&spec).unwrap_or_default();
            match record["spec"]["owner"].as_str() {
                Some(owner) if owner.starts_with("service-") => {}
                owner => left.push(format!("the engine's directory {name} of {}", owner.unwrap_or("nobody"))),
            }
            groups.extend(
                record["cgroup"]["dirs"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(_, d)| Some(Path::new(d.as_str()?).parent()?.to_owned())),
            );
            names.insert(name);
        }
        for group in &groups {
            let within = std::fs::read_dir(group).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
            let within = within.map(|e| e.file_name().to_string_lossy().into_owned());
            left.extend(
                within.filter(|n| !names.contains(n)).map(|n| format!("the control group {}", group.join(n).display())),
            );
        }
        Ok(left)
    }

    /// Both sides' ledgers of every lease since the last look. `struck`: the faults since then; `gave_up`: users went away in
    /// mid-request, which is metered by one side only.
    pub fn audit(&self, account: &mut Account, struck: &[Struck], gave_up: bool) -> anyhow::Result<Vec<String>> {
        let (now, elapsed) = (SystemTime::now().duration_since(UNIX_EPOCH)?, self.story.elapsed());
        // Of the story, from wall clock.
        let at = |ms: u64| (Duration::from_millis(ms) + elapsed).saturating_sub(now);
        let mut books = BTreeMap::new();
        for cloud in self.names() {
            books.insert(cloud, Books::whole(&self.store(cloud))?);
        }
        let mut broken = Vec::new();
        for (lender, of_lender) in &books {
            for (id, lent) in &of_lender.lent {
                if !account.seen.insert(id.clone()) {
                    continue;
                }
                let (from, to) = (at(lent.since_ms), lent.over_ms.map_or(elapsed, at));
                let excused = struck.iter().any(|f| f.felt(lender, &lent.borrower, from, to));
                let Some(of_borrower) = books.get(lent.borrower.as_str()) else {
                    broken.push(format!("{id} of {lender} names {:?} as its borrower", lent.borrower));
                    continue;
                };
                let settlements = (of_lender.settlements.get(id), of_borrower.settlements.get(id));
                match (lent.state.as_str(), settlements) {
                    ("settled", (Some(here), Some(there))) if here == there => match Settled::read(here) {
                        Some(s) if s.signers != 2 => {
                            broken.push(format!("the settlement of {id} has {} signers", s.signers))
                        }
                        Some(s) if s.agreed => account.settled += 1,
                        Some(_) if excused || gave_up => account.disputed += 1,
                        Some(s) => broken.push(format!(
                            "the ledgers of {id}, {lender} to {}, differ and no fault explains it: {}",
                            lent.borrower, s.text
                        )),
                        None => broken.push(format!("the settlement of {id} cannot be read")),
                    },
                    // The borrower has the lender's signature as soon as it is answered; a fault can take the answer.
                    _ if excused => account.unproven += 1,
                    (state, (here, there)) => broken.push(format!(
                        "{id}, {lender} to {}, is {state} without a settlement on both sides ({}, {}): {}",
                        lent.borrower,
                        here.is_some(),
                        there.is_some(),
                        of_borrower.rented().get(id).map_or("unknown there".into(), |r| format!(
                            "{} there, proven: {}, {}",
                            r.state, r.proven, r.why
                        ))
                    )),
                }
                account.leases += 1;
            }
        }
        Ok(broken)
    }

    pub fn sizes(&self, cloud: &str) -> anyhow::Result<Sizes> {
        let path = self.store(cloud);
        let (store_bytes, wal_bytes) = store_bytes(&path);
        let books = Books::whole(&path)?;
        let data = self.cluster.dir(cloud).join("data");
        let other_bytes = ["engine", "leases", "bundles", "gateway", "trust", "services"]
            .iter()
            .map(|d| bytes_in(&data.join(d)))
            .sum();
        Ok(Sizes { store_bytes, wal_bytes, journal_rows: books.journal_rows, other_bytes, objects: books.objects })
    }

    /// Bounds that hold at any time.
    pub fn oversized(&self, cloud: &str, sizes: &Sizes) -> anyhow::Result<Vec<String>> {
        let mut broken = Vec::new();
        if sizes.journal_rows > JOURNAL_ROWS_MAX + JOURNAL_ROWS_SLACK {
            let span = journal_span(&self.store(cloud))?;
            broken.push(format!(
                "{cloud} keeps {} rows of its journal ({span:?}), {JOURNAL_ROWS_MAX} are configured",
                sizes.journal_rows
            ));
        }
        if sizes.store_bytes > STORE_BYTES_MAX || sizes.wal_bytes > WAL_BYTES_MAX {
            broken.push(format!(
                "the store of {cloud} has {} bytes and {} in its log",
                sizes.store_bytes, sizes.wal_bytes
            ));
        }
        Ok(broken)
    }
}

/// Allocated on disk: application data of the services grows by what users write and is left out.
fn bytes_in(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            if entry.file_name() != "data" {
                sum += bytes_in(&entry.path());
            }
        } else {
            sum += std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
        }
    }
    sum
}

fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Routes to and from others.
fn routes(table: &Value) -> Vec<String> {
    let lent = table["leases"].as_object().into_iter().flatten().map(|(id, _)| format!("a route for {id}"));
    let services = table["services"].as_object().into_iter().flatten();
    let rented = services.flat_map(|(name, s)| {
        s["leases"].as_array().into_iter().flatten().map(move |l| format!("a route of {name} to {}", l["lease"]))
    });
    lent.chain(rented).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_to_and_from_others_are_counted() {
        let table = serde_json::json!({ "leases": { "l1": {} }, "services": { "notes": { "leases": [{ "lease": "l2" }] }, "web": { "leases": [] } } });
        assert_eq!(routes(&table).len(), 2);
        assert_eq!(metric("# HELP pumasi_holds x\npumasi_holds 3\n", "pumasi_holds"), Some(3.0));
        assert_eq!(metric("pumasi_holds_more 3\n", "pumasi_holds"), None);
    }
}
