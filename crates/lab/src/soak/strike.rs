//! A fault strikes, lasts, is undone; then everything must be well again within a bound.
//!
//! Enters: a fault of the script. Leaves: what it met and from when to when it was felt. Always holds: whatever was struck is undone
//! before the next one strikes; a fault that finds nothing to strike says so.

use super::ledger::Books;
use super::script::{Fault, Kind};
use super::world::{Tenant, World};
use crate::process::Found;
use crate::relay::CutThen;
use anyhow::Context;
use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::time::{Duration, Instant};

/// All is well again after a fault within this, also on a busy machine.
pub const REPAIR_MAX: Duration = Duration::from_secs(90);
/// Between two looks whether it is.
const LOOK: Duration = Duration::from_millis(200);
/// Looks in a row that find nothing broken: a daemon notices a death a moment later.
const GOOD_LOOKS: u32 = 3;
/// Renewals and readings that a fault delayed arrive within this.
const WAKE: Duration = Duration::from_secs(10);
const UNKNOWN: &str = "nothing was there to strike";

/// A fault that struck; times since the story began.
#[derive(Debug, Clone, Serialize)]
pub struct Struck {
    pub kind: Kind,
    pub what: String,
    /// Clouds that felt it.
    pub clouds: Vec<String>,
    pub at: Duration,
    /// Undone and repaired.
    pub repaired: Duration,
    /// From undone to repaired.
    pub repair: Duration,
}

/// What must be done when its time is over.
enum Undo {
    Nothing,
    Start(&'static str),
    Resume(Vec<u32>),
    ResumeDaemon(&'static str),
    Heal(Vec<(&'static str, &'static str)>),
    Automate(&'static str),
    /// The daemon starts another.
    AwaitGateway(&'static str, u32),
}

struct Hit {
    what: String,
    clouds: Vec<&'static str>,
    undo: Undo,
}

impl Struck {
    /// Whether a lease between the two can have felt it; `from` and `to` since the story began.
    pub fn felt(&self, lender: &str, borrower: &str, from: Duration, to: Duration) -> bool {
        let there = self.clouds.iter().any(|c| c == lender || c == borrower);
        // A cut waits for the transfer that it breaks.
        let lasting = self.kind == Kind::BreakTransfer;
        there && self.at <= to && (lasting || from <= self.repaired + WAKE)
    }
}

impl Hit {
    fn on(cloud: &'static str, what: String, undo: Undo) -> Self {
        Self { what, clouds: vec![cloud], undo }
    }
}

impl World {
    /// `None`: it found nothing to strike. An error: it could not be undone, or not everything was well again in time.
    pub async fn strike(&self, fault: &Fault) -> anyhow::Result<Option<Struck>> {
        let mut rng = SmallRng::seed_from_u64(fault.pick);
        let at = self.story.elapsed();
        let Some(hit) = self.hit(fault.kind, &mut rng).await? else {
            self.story.tell("lab", "no fault", format!("{}: {UNKNOWN}", fault.kind.text()));
            return Ok(None);
        };
        self.story.tell(
            hit.clouds.first().copied().unwrap_or("lab"),
            "FAULT",
            format!("{}: {} (for {} ms)", fault.kind.text(), hit.what, fault.lasts.as_millis()),
        );
        self.last(fault, &hit, &mut rng).await?;
        self.undo(&hit.undo).await.with_context(|| format!("undoing: {}", hit.what))?;
        let undone = self.story.elapsed();
        let repair = self.repaired().await.with_context(|| format!("after {}: {}", fault.kind.text(), hit.what))?;
        self.story.tell("lab", "repaired", format!("{} ms after {}", repair.as_millis(), fault.kind.text()));
        let clouds = hit.clouds.iter().map(|c| (*c).to_owned()).collect();
        Ok(Some(Struck { kind: fault.kind, what: hit.what, clouds, at, repaired: undone + repair, repair }))
    }

    /// Until nothing is broken any more.
    pub async fn repaired(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let (mut good, mut since) = (0, Duration::ZERO);
        loop {
            tokio::time::sleep(LOOK).await;
            let problems = self.unrepaired().await;
            if problems.is_empty() {
                if good == 0 {
                    since = begun.elapsed();
                }
                good += 1;
                if good == GOOD_LOOKS {
                    return Ok(since);
                }
                continue;
            }
            good = 0;
            anyhow::ensure!(
                begun.elapsed() < REPAIR_MAX,
                "not well again within {} s: {}",
                REPAIR_MAX.as_secs(),
                problems.join("; ")
            );
        }
    }

    async fn last(&self, fault: &Fault, hit: &Hit, rng: &mut SmallRng) -> anyhow::Result<()> {
        let begun = Instant::now();
        if fault.kind == Kind::Lossy
            && let Undo::Heal(links) = &hit.undo
        {
            while begun.elapsed() < fault.lasts {
                for (a, b) in links {
                    self.cluster.wan.sever(a, b)?;
                    self.cluster.wan.add_latency(a, b, Duration::from_millis(rng.random_range(0..150)))?;
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(150..1_200))).await;
            }
            return Ok(());
        }
        tokio::time::sleep(fault.lasts).await;
        Ok(())
    }

    async fn undo(&self, undo: &Undo) -> anyhow::Result<()> {
        match undo {
            Undo::Nothing => {}
            Undo::Start(cloud) => {
                self.cluster.supervisor.restart(cloud)?;
                self.cluster.wait_up(cloud).await?;
            }
            Undo::Resume(pids) => {
                // One that was ended meanwhile needs no waking.
                pids.iter().for_each(|p| drop(self.cluster.supervisor.signal_pid(*p, Signal::SIGCONT)));
            }
            Undo::ResumeDaemon(cloud) => self.cluster.supervisor.resume(cloud)?,
            Undo::Heal(links) => links.iter().try_for_each(|(a, b)| self.cluster.wan.heal(a, b))?,
            Undo::AwaitGateway(cloud, old) => {
                let begun = Instant::now();
                while self.gateway(cloud).is_none_or(|g| g.pid == *old) {
                    anyhow::ensure!(begun.elapsed() < REPAIR_MAX, "{cloud} has no new gateway");
                    tokio::time::sleep(LOOK).await;
                }
            }
            Undo::Automate(cloud) => {
                self.cluster.operate(cloud, &["resume-automation", "--why", "the soak goes on"], None).await?;
            }
        }
        Ok(())
    }

    fn a_cloud(&self, rng: &mut SmallRng, spare: bool) -> Option<&'static str> {
        let mut names = self.names();
        names.retain(|n| !spare || *n != self.spared);
        names.choose(rng).copied()
    }

    fn a_process(&self, rng: &mut SmallRng, of: impl Fn(&Self, &str) -> Vec<Found>) -> Option<(&'static str, Found)> {
        let all: Vec<_> = self.names().into_iter().flat_map(|c| of(self, c).into_iter().map(move |f| (c, f))).collect();
        all.choose(rng).cloned()
    }

    fn a_link(&self, rng: &mut SmallRng) -> Option<(&'static str, &'static str)> {
        let names = self.names();
        let pairs: Vec<_> =
            names.iter().flat_map(|a| names.iter().filter(move |b| a != *b).map(move |b| (*a, *b))).collect();
        pairs.choose(rng).copied()
    }

    async fn hit(&self, kind: Kind, rng: &mut SmallRng) -> anyhow::Result<Option<Hit>> {
        let wan = &self.cluster.wan;
        let processes = &self.cluster.supervisor;
        Ok(match kind {
            Kind::KillDaemon => match self.a_cloud(rng, true) {
                Some(cloud) => {
                    processes.kill9(cloud)?;
                    Some(Hit::on(cloud, format!("the daemon of {cloud}"), Undo::Start(cloud)))
                }
                None => None,
            },
            Kind::PauseDaemon => self
                .a_cloud(rng, false)
                .map(|cloud| {
                    processes.pause(cloud)?;
                    anyhow::Ok(Hit::on(cloud, format!("the daemon of {cloud}"), Undo::ResumeDaemon(cloud)))
                })
                .transpose()?,
            Kind::KillGateway | Kind::PauseGateway => {
                let kill = kind == Kind::KillGateway;
                let found = self.a_cloud(rng, kill).and_then(|c| Some((c, self.gateway(c)?)));
                let old = found.clone();
                let hit = self.signal(found, kill, "the gateway");
                match (hit, old) {
                    (Some(hit), Some((cloud, old))) if kill => {
                        Some(Hit { undo: Undo::AwaitGateway(cloud, old.pid), ..hit })
                    }
                    (hit, _) => hit,
                }
            }
            Kind::KillShim => {
                let found = self.a_process(rng, Self::shims);
                self.signal(found, true, "a shim")
            }
            Kind::KillInstance | Kind::PauseInstance => {
                let found = self.a_process(rng, Self::instances);
                self.signal(found, kind == Kind::KillInstance, "an instance")
            }
            Kind::Partition | Kind::OneWay | Kind::Slow | Kind::Narrow | Kind::Lossy => {
                let Some((a, b)) = self.a_link(rng) else { return Ok(None) };
                let what = match kind {
                    Kind::Partition => {
                        wan.partition(a, b)?;
                        String::new()
                    }
                    Kind::OneWay => {
                        wan.drop_one_way(a, b)?;
                        String::new()
                    }
                    Kind::Slow => {
                        let extra = Duration::from_millis(rng.random_range(50..1_500));
                        wan.add_latency(a, b, extra)?;
                        format!(", {} ms more", extra.as_millis())
                    }
                    Kind::Narrow => {
                        let rate = rng.random_range(20_000..400_000);
                        wan.limit_rate(a, b, Some(rate))?;
                        format!(", {rate} bytes a second")
                    }
                    _ => String::new(),
                };
                let what = format!("from {a} to {b}{what}");
                Some(Hit { what, clouds: vec![a, b], undo: Undo::Heal(vec![(a, b)]) })
            }
            Kind::CutOff => {
                let Some(cloud) = self.a_cloud(rng, false) else { return Ok(None) };
                wan.isolate(cloud)?;
                let links = self.names().into_iter().filter(|n| *n != cloud).map(|n| (cloud, n)).collect();
                Some(Hit { what: cloud.into(), clouds: self.names(), undo: Undo::Heal(links) })
            }
            Kind::BreakTransfer => {
                let Some(tenant) = self.tenants.choose(rng) else { return Ok(None) };
                let lenders: Vec<_> = self.names().into_iter().filter(|n| *n != tenant.home).collect();
                let Some(lender) = lenders.choose(rng) else { return Ok(None) };
                let bytes = rng.random_range(1_000..3_000_000);
                wan.cut_after(tenant.home, lender, bytes, CutThen::Recover)?;
                let what = format!("from {} to {lender} after {bytes} bytes", tenant.home);
                // What never came to it stays as it is: the next transfer meets it.
                Some(Hit { what, clouds: vec![tenant.home, lender], undo: Undo::Nothing })
            }
            Kind::StopAutomation => match self.a_cloud(rng, false) {
                Some(cloud) => {
                    self.cluster.operate(cloud, &["stop-automation", "--why", "the soak stops it"], None).await?;
                    Some(Hit::on(cloud, cloud.into(), Undo::Automate(cloud)))
                }
                None => None,
            },
            Kind::NewGeneration => match self.tenants.choose(rng) {
                Some(tenant) => {
                    self.release(tenant).await?;
                    Some(Hit::on(tenant.home, tenant.name.into(), Undo::Nothing))
                }
                None => None,
            },
            Kind::Recall => self.recall(rng).await?,
            Kind::Cancel => self.cancel(rng).await?,
        })
    }

    fn signal(&self, found: Option<(&'static str, Found)>, kill: bool, name: &str) -> Option<Hit> {
        let (cloud, process) = found?;
        let signal = if kill { Signal::SIGKILL } else { Signal::SIGSTOP };
        // It may have ended since it was seen.
        self.cluster.supervisor.signal_pid(process.pid, signal).ok()?;
        let undo = if kill { Undo::Nothing } else { Undo::Resume(vec![process.pid]) };
        Some(Hit::on(cloud, format!("{name} of {cloud}, process {}", process.pid), undo))
    }

    async fn recall(&self, rng: &mut SmallRng) -> anyhow::Result<Option<Hit>> {
        let mut lent = Vec::new();
        for cloud in self.names() {
            let books = Books::of_lender(&self.store(cloud)).unwrap_or_default();
            lent.extend(books.lent.into_iter().filter(|(_, l)| l.state == "active").map(|(id, l)| (cloud, id, l)));
        }
        let Some((cloud, id, lease)) = lent.choose(rng) else { return Ok(None) };
        let done = self.cluster.operate(cloud, &["lease", "recall", id, "--why", "our own peak"], None).await;
        // It may end between the look and the word.
        Ok(done.ok().map(|_| Hit {
            what: format!("{id} of {} for {}", cloud, lease.service),
            clouds: self.names().into_iter().filter(|n| n == cloud || *n == lease.borrower).collect(),
            undo: Undo::Nothing,
        }))
    }

    async fn cancel(&self, rng: &mut SmallRng) -> anyhow::Result<Option<Hit>> {
        let mut open: Vec<(&Tenant, String)> = Vec::new();
        for tenant in &self.tenants {
            let journeys: serde_json::Value = self.cluster.client(tenant.home)?.get("/v1/journeys").await?;
            let items = journeys["items"].as_array().into_iter().flatten();
            let ids = items.filter(|j| j["phase"]["phase"] != "closed").filter_map(|j| j["id"].as_str());
            open.extend(ids.map(|id| (tenant, id.to_owned())));
        }
        let Some((tenant, id)) = open.choose(rng) else { return Ok(None) };
        let done = self.cluster.operate(tenant.home, &["journey", "cancel", id, "--why", "the soak"], None).await;
        Ok(done.ok().map(|_| Hit::on(tenant.home, format!("{id} of {}", tenant.name), Undo::Nothing)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_explains_what_its_clouds_felt_in_its_time() {
        let s = Duration::from_secs;
        let struck = |kind| Struck {
            kind,
            what: String::new(),
            clouds: vec!["a".into()],
            at: s(100),
            repaired: s(110),
            repair: s(1),
        };
        let pause = struck(Kind::PauseDaemon);
        assert!(pause.felt("a", "b", s(50), s(101)) && pause.felt("b", "a", s(115), s(200)));
        assert!(!pause.felt("b", "c", s(50), s(200)), "others");
        assert!(!pause.felt("a", "b", s(50), s(99)), "over before");
        assert!(!pause.felt("a", "b", s(121), s(200)), "begun long after");
        assert!(struck(Kind::BreakTransfer).felt("a", "b", s(300), s(400)));
    }
}
