//! A cloud's own books, read from the outside as its store's file has them.
//!
//! Enters: the path of a store. Leaves: what binds the cloud's resources, its leases, journeys and settlements, its journal's size, all
//! of one snapshot. Always holds: nothing is written; the daemon's code is not asked, so that it cannot tell what is not there.

use nix::time::{ClockId, clock_gettime};
use pumasi_terms::Resources;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Milliseconds of the boot clock, as stores count them.
pub fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

pub fn store_path(cloud_dir: &Path) -> PathBuf {
    cloud_dir.join("data/store/pumasi.sqlite")
}

/// One reading of a store.
#[derive(Debug, Default)]
pub struct Books {
    /// By id.
    pub lent: BTreeMap<String, Lent>,
    pub holds: Vec<Hold>,
    /// Closed and open, by id.
    pub journeys: BTreeMap<String, Value>,
    /// By lease.
    pub settlements: BTreeMap<String, Value>,
    pub journal_rows: u64,
    pub objects: BTreeMap<String, u64>,
}

#[derive(Debug, Clone)]
pub struct Lent {
    pub state: String,
    pub borrower: String,
    pub service: String,
    pub resources: Resources,
    /// Wall clock, ms: lent, and settled if it is.
    pub since_ms: u64,
    pub over_ms: Option<u64>,
}

impl Lent {
    /// Takes from what the cloud has.
    pub fn binds(&self) -> bool {
        matches!(self.state.as_str(), "active" | "recalled" | "ending")
    }
    /// The borrower may use it.
    pub fn usable(&self) -> bool {
        matches!(self.state.as_str(), "active" | "recalled")
    }
}

#[derive(Debug, Clone)]
pub struct Hold {
    pub resources: Resources,
    pub expires_at: u64,
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn small(value: &Value, pointer: &str) -> u32 {
    u32::try_from(number(value, pointer)).unwrap_or(u32::MAX)
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn resources(value: &Value, requirement: &str, instances: u32) -> Resources {
    let one = Resources {
        cpu_millis: small(value, &format!("{requirement}/resources/cpu_millis")),
        memory_mib: small(value, &format!("{requirement}/resources/memory_mib")),
    };
    one.times(instances)
}

impl Lent {
    fn read(body: &Value) -> Self {
        Self {
            state: text(body, "/state/state"),
            borrower: text(body, "/lease/borrower"),
            service: text(body, "/lease/service"),
            resources: resources(body, "/lease/requirement", small(body, "/lease/instances")),
            since_ms: number(body, "/since"),
            over_ms: body.pointer("/state/at").and_then(Value::as_u64),
        }
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    Ok(connection)
}

impl Books {
    /// Holds and leases alone: what oracle 3 asks for, often.
    pub fn of_lender(path: &Path) -> rusqlite::Result<Self> {
        Self::read(path, &["hold", "lent"])
    }

    pub fn whole(path: &Path) -> rusqlite::Result<Self> {
        Self::read(path, &["hold", "lent", "journey", "settlement"])
    }

    fn read(path: &Path, kinds: &[&str]) -> rusqlite::Result<Self> {
        let mut connection = open(path)?;
        let snapshot = connection.transaction()?;
        let mut books = Self::default();
        for kind in kinds {
            let mut select = snapshot.prepare_cached("SELECT name, body FROM objects WHERE kind = ?1")?;
            let mut rows = select.query([kind])?;
            while let Some(row) = rows.next()? {
                let (name, body): (String, String) = (row.get(0)?, row.get(1)?);
                books.take(kind, name, serde_json::from_str(&body).unwrap_or_default());
            }
        }
        if kinds.len() > 2 {
            books.journal_rows = snapshot.query_row("SELECT count(*) FROM journal", [], |r| r.get(0))?;
            let mut select = snapshot.prepare("SELECT kind, count(*) FROM objects GROUP BY kind")?;
            let counts = select.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
            books.objects = counts.collect::<rusqlite::Result<_>>()?;
        }
        Ok(books)
    }

    fn take(&mut self, kind: &str, name: String, body: Value) {
        match kind {
            "hold" => self.holds.push(Hold {
                resources: resources(&body, "/requirement", small(&body, "/instances")),
                expires_at: number(&body, "/expires_at"),
            }),
            "lent" => {
                self.lent.insert(name, Lent::read(&body));
            }
            "journey" => {
                self.journeys.insert(name, body);
            }
            _ => {
                self.settlements.insert(name, body);
            }
        }
    }

    /// What live holds and leases bind at `now`, ms of the boot clock.
    pub fn bound(&self, now: u64) -> Resources {
        let leases = self.lent.values().filter(|l| l.binds()).map(|l| l.resources);
        let holds = self.holds.iter().filter(|h| h.expires_at > now).map(|h| h.resources);
        leases.chain(holds).fold(Resources::default(), Resources::plus)
    }

    /// Parts of journeys, by lease: state and whether it was settled.
    pub fn rented(&self) -> BTreeMap<String, Rented> {
        let parts = self.journeys.values().flat_map(|j| j["parts"].as_array().into_iter().flatten());
        parts
            .map(|p| {
                let rented = Rented {
                    state: text(p, "/state/state"),
                    proven: p["state"]["proven"].as_bool().unwrap_or(false),
                    why: text(p, "/state/why"),
                };
                (text(p, "/lease"), rented)
            })
            .collect()
    }

    pub fn open_journeys(&self) -> Vec<String> {
        let open = |j: &&Value| j["phase"]["phase"] != "closed";
        self.journeys.values().filter(open).map(|j| format!("{} of {}", text(j, "/id"), text(j, "/service"))).collect()
    }
}

#[derive(Debug, Clone)]
pub struct Rented {
    pub state: String,
    pub proven: bool,
    pub why: String,
}

/// A settlement as stored: who signed, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub signers: usize,
    pub agreed: bool,
    pub text: String,
}

impl Settled {
    pub fn read(document: &Value) -> Option<Self> {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let payload = URL_SAFE_NO_PAD.decode(document["payload"].as_str()?).ok()?;
        let said: Value = serde_json::from_slice(&payload).ok()?;
        let signed = document["signatures"].as_array()?;
        let signers: std::collections::BTreeSet<String> =
            signed.iter().filter_map(|s| Some(s["protected"].as_str()?.to_owned())).collect();
        let text = format!("lender {}, borrower {}", said["lender_usage"], said["borrower_usage"]);
        Some(Self { signers: signers.len(), agreed: said["agreed"].as_bool()?, text })
    }
}

/// Bytes of the database and of its write-ahead log.
pub fn store_bytes(path: &Path) -> (u64, u64) {
    let size = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    (size(path), size(Path::new(&wal)))
}

/// The oldest and the newest row of the journal.
pub fn journal_span(path: &Path) -> rusqlite::Result<Option<(u64, u64)>> {
    let span = open(path)?
        .query_row("SELECT min(seq), max(seq) FROM journal", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    Ok(span.and_then(|(a, b): (Option<u64>, Option<u64>)| a.zip(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(rows: &[(&str, &str, Value)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pumasi.sqlite");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE objects (kind TEXT, name TEXT, body TEXT); CREATE TABLE journal (seq INTEGER);")
            .unwrap();
        for (kind, name, body) in rows {
            db.execute("INSERT INTO objects VALUES (?1, ?2, ?3)", (kind, name, body.to_string())).unwrap();
        }
        (dir, path)
    }

    #[test]
    fn what_binds_is_summed_over_leases_and_live_holds() {
        let need = serde_json::json!({ "resources": { "cpu_millis": 100, "memory_mib": 64 } });
        let lent = |state: &str| {
            serde_json::json!({ "lease": { "requirement": need, "instances": 3, "borrower": "a", "service": "s" },
                "state": { "state": state }, "expires_at": 9 })
        };
        let hold = |expires_at| serde_json::json!({ "requirement": need, "instances": 1, "expires_at": expires_at });
        let (_dir, path) = store(&[
            ("lent", "l1", lent("active")),
            ("lent", "l2", lent("ending")),
            ("lent", "l3", lent("settled")),
            ("hold", "h1", hold(100)),
            ("hold", "h2", hold(50)),
        ]);
        let books = Books::of_lender(&path).unwrap();
        assert_eq!(books.bound(60), Resources { cpu_millis: 700, memory_mib: 448 });
        assert_eq!(Books::whole(&path).unwrap().objects["lent"], 3);
        assert_eq!(journal_span(&path).unwrap(), None);
    }
}
