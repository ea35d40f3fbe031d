//! What is watched all the time, from the outside: ledgers, routes, processes, logs.
//!
//! Enters: stores' files, gateways' tables on disk, /proc, logs. Leaves: the first thing that must not be, or nothing for as long as
//! the soak lasts; peaks and readings for the report. Always holds: a doubt that a fault explains is dropped, and looked at anew.

use super::ledger::{Books, boot_ms};
use super::world::World;
use crate::process::Found;
use anyhow::bail;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(500);
/// Every so many looks, processes and logs too.
const SLOW_LOOKS: u64 = 8;
/// A gateway without a new table goes on by the last one; its own clock ends leases. Longer than that, while nothing is broken, is a
/// route that was forgotten.
const ROUTE_MAX: Duration = Duration::from_secs(30);
/// So many looks at processes in a row see a zombie before it counts as one.
const ZOMBIE_LOOKS: u32 = 4;
/// No daemon, gateway or shim is ever so large, or holds so many.
const RSS_KIB_MAX: u64 = 400 << 10;
const HANDLES_MAX: u64 = 4_000;
const LOG_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Daemon,
    Gateway,
    Shim,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Daemon => "daemon",
            Role::Gateway => "gateway",
            Role::Shim => "shim",
        }
    }

    fn of(command: &str) -> Option<Self> {
        let is = |word: &str| command.split(' ').nth(1) == Some(word);
        match () {
            () if is("serve") => Some(Role::Daemon),
            () if is("gateway") => Some(Role::Gateway),
            () if is("shim") => Some(Role::Shim),
            () => None,
        }
    }
}

/// One reading of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// Memory of its own: what the program's file maps comes and goes with the machine.
    pub rss_kib: u64,
    pub handles: u64,
    pub threads: u64,
    /// The most handles of any reading up to this one.
    pub handles_most: u64,
}

impl Reading {
    fn of(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        let handles = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        Some(Self { rss_kib: field("RssAnon")?, handles, threads: field("Threads")?, handles_most: handles })
    }
}

/// A daemon, gateway or shim, from its first to its last reading.
#[derive(Debug, Clone, Serialize)]
pub struct Life {
    pub cloud: String,
    pub role: Role,
    pub pid: u32,
    /// When everything was at rest.
    pub rests: Vec<Reading>,
    pub most: Reading,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub looks: u64,
    pub ledgers: u64,
    /// Parts of what is lent that were bound at most, percent, by cloud.
    pub bound_most: BTreeMap<String, u64>,
    pub open: u64,
    pub open_most: u64,
    /// By cloud, role, process.
    pub lives: BTreeMap<(String, Role, u32, u64), Life>,
    zombies: BTreeMap<(u32, u64), u32>,
    routes: BTreeMap<(String, String), Instant>,
    logs: BTreeMap<PathBuf, u64>,
}

/// Shared by the conductor and the watch.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Mutex<Seen>,
    /// A fault is felt now.
    striking: AtomicBool,
}

impl Watch {
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn striking(&self, now: bool) {
        self.striking.store(now, Ordering::Relaxed);
    }

    fn is_striking(&self) -> bool {
        self.striking.load(Ordering::Relaxed)
    }

    /// Ends with what must not be.
    pub async fn watch(&self, world: &World) -> anyhow::Error {
        loop {
            let looked = tokio::task::block_in_place(|| self.look(world));
            if let Err(broken) = looked {
                return broken;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&self, world: &World) -> anyhow::Result<()> {
        let number = {
            let mut seen = self.seen();
            seen.looks += 1;
            seen.looks
        };
        self.ledgers(world)?;
        if number.is_multiple_of(SLOW_LOOKS) {
            self.ends(world)?;
            self.logs(world)?;
            self.processes(world, false)?;
        }
        Ok(())
    }

    /// Oracle 3 at every lender, and oracle 5 beside it.
    fn ledgers(&self, world: &World) -> anyhow::Result<()> {
        let mut open = 0;
        for cloud in world.cluster.clouds() {
            let now = boot_ms();
            // A store that a dying daemon left can need a writer first: the next look reads it.
            let Ok(books) = Books::of_lender(&world.store(cloud.name)) else { continue };
            let bound = books.bound(now);
            if !bound.fits_in(cloud.lends) {
                bail!(
                    "{} lends {:?} and has bound {bound:?}: leases {:?}, holds {:?}",
                    cloud.name,
                    cloud.lends,
                    books.lent.iter().filter(|(_, l)| l.binds()).collect::<Vec<_>>(),
                    books.holds
                );
            }
            open += books.lent.values().filter(|l| l.binds()).count() as u64;
            let mut seen = self.seen();
            seen.ledgers += 1;
            let part = u64::from(bound.cpu_millis) * 100 / u64::from(cloud.lends.cpu_millis.max(1));
            let most = seen.bound_most.entry(cloud.name.into()).or_default();
            *most = part.max(*most);
            drop(seen);
            self.routes(world, cloud.name, &books, now)?;
        }
        let mut seen = self.seen();
        seen.open = open;
        seen.open_most = seen.open_most.max(open);
        Ok(())
    }

    /// A lender's table, as its gateway has it on disk, against its ledger.
    fn routes(&self, world: &World, cloud: &str, books: &Books, now: u64) -> anyhow::Result<()> {
        let wrong: Vec<String> = table(world, cloud).map(|t| wrong_routes(&t, books, now)).unwrap_or_default();
        let mut seen = self.seen();
        let calm = !self.is_striking();
        seen.routes.retain(|(at, lease), _| at != cloud || (calm && wrong.contains(lease)));
        for lease in wrong.into_iter().filter(|_| calm) {
            let since = *seen.routes.entry((cloud.to_owned(), lease.clone())).or_insert_with(Instant::now);
            if since.elapsed() > ROUTE_MAX {
                bail!(
                    "the gateway of {cloud} has had a route to instances of {lease} for {} s, which its ledger does not know as active",
                    since.elapsed().as_secs()
                );
            }
        }
        Ok(())
    }

    /// A daemon that ended without being struck.
    fn ends(&self, world: &World) -> anyhow::Result<()> {
        for cloud in world.names() {
            if let Some(status) = world.cluster.supervisor.exit_status(cloud)
                && !(status.signal() == Some(9) && self.is_striking())
                // It may have been started again between the two words.
                && world.cluster.supervisor.pid(cloud).is_none()
            {
                bail!("the daemon of {cloud} ended by itself: {status}");
            }
        }
        Ok(())
    }

    fn logs(&self, world: &World) -> anyhow::Result<()> {
        for cloud in world.names() {
            for path in
                [world.cluster.supervisor.log_of(cloud), world.cluster.dir(cloud).join("data/gateway/gateway.log")]
            {
                let from = self.seen().logs.get(&path).copied().unwrap_or(0);
                let Some((text, to)) = read_from(&path, from) else { continue };
                self.seen().logs.insert(path.clone(), to);
                if let Some(line) = text.lines().find(|l| l.contains("panicked at")) {
                    bail!("a panic in {}: {line}", path.display());
                }
            }
        }
        Ok(())
    }

    /// One reading of every daemon, gateway and shim.
    pub fn processes(&self, world: &World, at_rest: bool) -> anyhow::Result<()> {
        let zombies = world.cluster.supervisor.zombies();
        let found = world.cluster.supervisor.belonging();
        let mut seen = self.seen();
        let counts: BTreeMap<_, _> = zombies
            .iter()
            .map(|z| ((z.pid, z.key()), seen.zombies.get(&(z.pid, z.key())).copied().unwrap_or(0) + 1))
            .collect();
        seen.zombies = counts;
        if let Some(z) =
            zombies.iter().find(|z| seen.zombies.get(&(z.pid, z.key())).is_some_and(|n| *n >= ZOMBIE_LOOKS))
        {
            let parent = found.iter().find(|f| f.pid == z.parent).map(|f| f.command.clone()).unwrap_or_default();
            bail!("process {} is dead and not collected by its parent {parent}", z.pid);
        }
        for process in found {
            let Some((cloud, role)) = whose(world, &process) else { continue };
            let Some(reading) = Reading::of(process.pid) else { continue };
            if reading.rss_kib > RSS_KIB_MAX || reading.handles > HANDLES_MAX {
                bail!("the {} of {cloud}, process {}, has {reading:?}", role.name(), process.pid);
            }
            let key = (cloud.to_owned(), role, process.pid, process.key());
            let life = seen.lives.entry(key).or_insert_with(|| Life {
                cloud: cloud.to_owned(),
                role,
                pid: process.pid,
                rests: Vec::new(),
                most: Reading::default(),
            });
            life.most.rss_kib = life.most.rss_kib.max(reading.rss_kib);
            life.most.handles = life.most.handles.max(reading.handles);
            life.most.threads = life.most.threads.max(reading.threads);
            if at_rest {
                let reading = Reading { handles_most: life.most.handles, ..reading };
                life.rests.push(reading);
                if role != Role::Shim {
                    let text = format!("{} KiB, {} handles", reading.rss_kib, reading.handles);
                    world.story.tell(
                        cloud,
                        role.name(),
                        format!("at rest: {text}, {} at most so far", reading.handles_most),
                    );
                }
            }
        }
        // A shim that served for one lease only says nothing about growth.
        let alive = |pid: u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        seen.lives.retain(|(_, role, pid, _), l| *role != Role::Shim || l.rests.len() > 1 || alive(*pid));
        Ok(())
    }
}

fn whose<'a>(world: &'a World, process: &Found) -> Option<(&'a str, Role)> {
    let role = Role::of(&process.command)?;
    let clouds = world.cluster.clouds().iter().map(|c| c.name);
    let of = |c: &&str| process.command.contains(&format!("{}/", world.cluster.dir(c).display()));
    Some((clouds.into_iter().find(of)?, role))
}

/// The table in force, as it stands beside the gateway.
pub fn table(world: &World, cloud: &str) -> Option<Value> {
    let text = std::fs::read(world.cluster.dir(cloud).join("data/gateway/table.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Leases with instances in the table that neither their own end nor the ledger justifies any more.
fn wrong_routes(table: &Value, books: &Books, now: u64) -> Vec<String> {
    let routes = table["leases"].as_object().into_iter().flatten();
    let serves = |r: &Value| {
        r["expires_at"].as_u64().is_some_and(|end| end > now)
            && r["instances"].as_array().is_some_and(|i| !i.is_empty())
    };
    routes
        .filter(|(lease, route)| serves(route) && !books.lent.get(*lease).is_some_and(|l| l.usable()))
        .map(|(lease, _)| lease.clone())
        .collect()
}

fn read_from(path: &PathBuf, from: u64) -> Option<(String, u64)> {
    let mut file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    // It was begun anew.
    let from = if size < from { 0 } else { from };
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some((String::from_utf8_lossy(&bytes).into_owned(), from + bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::ledger::Lent;

    #[test]
    fn a_route_needs_an_active_lease_or_its_own_end() {
        let lent = |state: &str| Lent {
            state: state.into(),
            borrower: "a".into(),
            service: "s".into(),
            resources: Default::default(),
            since_ms: 0,
            over_ms: None,
        };
        let mut books = Books::default();
        books.lent.insert("active".into(), lent("active"));
        books.lent.insert("ended".into(), lent("ended"));
        let route =
            |end: u64, instances: usize| serde_json::json!({ "expires_at": end, "instances": vec![1; instances] });
        let table = serde_json::json!({ "leases": {
            "active": route(100, 1), "ended": route(100, 1), "unknown": route(100, 1), "expired": route(10, 1), "empty": route(100, 0) } });
        assert_eq!(wrong_routes(&table, &books, 50), ["ended", "unknown"]);
    }

    #[test]
    fn roles_and_readings() {
        assert_eq!(Role::of("/x/pumasi serve --config /y"), Some(Role::Daemon));
        assert_eq!(Role::of("/x/pumasi lab-app notes"), None);
        let own = Reading::of(std::process::id()).unwrap();
        assert!(own.rss_kib > 0 && own.handles > 2 && own.threads > 0);
    }
}
