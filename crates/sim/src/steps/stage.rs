//! The stage: three clouds, one overload of the first, one fault; from the pact to the last settlement.

use super::end::{self, End};
use super::table::{Fault, Play, STEPS};
use super::trap::{Bug, Trap};
use crate::cloud::{Common, Host, found_pact, operator};
use crate::life::HostClock;
use crate::net::Net;
use crate::oracle::{Broken, Known, Oracles};
use crate::story::Story;
use crate::traffic::{Load, Phase};
use crate::world::{HAS, LENDS, config};
use anyhow::Context;
use pumasi_engine::{Engine, InstanceState};
use pumasi_journey::moving::Move;
use pumasi_lease::LentLease;
use pumasi_node::home::data_dir;
use pumasi_node::object::{LENT, LENT_APPLICATION, LentApplication, MOVE};
use pumasi_node::{Node, lender, moves};
use pumasi_store::sim::Hooks;
use pumasi_store::{Options, Store};
use pumasi_terms::pact::Terms;
use pumasi_terms::service::Service;
use pumasi_terms::{CloudName, WallMs};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

const CLOUDS: usize = 3;
const TICK_MS: u64 = 100;
/// A daemon that was killed is started again after this.
const DOWN_MS: u64 = 300;
const CAMPAIGN_MS: (u64, u64) = (500, 4_000);
/// It is called back when it has served so long.
const RECALL_AFTER_MS: u64 = 800;
/// All must have come back within this of the campaign's end.
const COME_BACK_MS: u64 = 90_000;
/// Where starting takes long the judge gives back late, ten times the start after it was needed last: minutes on a machine that stands still for seconds.
const COME_BACK_REAL_MS: u64 = 400_000;
/// One way, where links are slow.
const SLOW_MS: u64 = 120;
/// In real time the campaign ends when lent instances have answered so many, so that a slow machine changes nothing, and at the latest then.
const ENOUGH_RENTED: u64 = 60;
const CAMPAIGN_REAL_MS_MAX: u64 = 240_000;
const FOUNDED_MS_MAX: u64 = 120_000;
/// Users are watched so long after everything came back.
const AFTERWARDS_MS: u64 = 2_000;

/// Other drivers than the simulator's.
pub trait Drivers: Send + Sync {
    fn store(&self, dir: &Path, now: WallMs, entropy: u128, options: Options, hooks: Hooks) -> anyhow::Result<Store>;
    /// A new handle on what runs on this host.
    fn engine<'a>(&'a self, dir: &'a Path) -> Opening<'a>;
    /// The application, where instances are real.
    fn app(&self) -> Option<&Path>;
    /// What runs or is left for others below `dir`, read from the host itself.
    fn there(&self, dir: &Path) -> Vec<There>;
}

/// An instance that was started for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct There {
    pub owner: String,
    pub memory_mib: u32,
    pub runs: bool,
    /// Nothing: it is gone without a trace.
    pub left: Vec<String>,
}

pub type Opening<'a> = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<Arc<dyn Engine>>> + Send + 'a>>;

#[derive(Debug)]
pub struct Played {
    pub end: End,
    /// What was struck; none: the step never came.
    pub fired: Option<String>,
    pub broken: Vec<Broken>,
    pub story: Arc<Story>,
    pub counts: Vec<u64>,
    pub ms: u64,
}

/// Every row with every fault that means something for it.
pub fn cases() -> impl Iterator<Item = (usize, Fault)> {
    STEPS.iter().enumerate().flat_map(|(at, step)| step.faults().iter().map(move |fault| (at, *fault)))
}

/// One journey in virtual time on the simulator's drivers, with a fault or without; on this thread, which must be in no runtime.
pub fn play(what: Play, fault: Option<(usize, Fault)>) -> anyhow::Result<Played> {
    play_with_bug(what, fault, None)
}

/// The same, of a product that is wrong.
pub fn play_with_bug(what: Play, fault: Option<(usize, Fault)>, bug: Option<Bug>) -> anyhow::Result<Played> {
    play_script(Script { play: what, fault, bug, slow: false })
}

/// The same over links so slow that a lease is made ready for seconds before it serves.
pub fn play_slow(fault: Option<(usize, Fault)>) -> anyhow::Result<Played> {
    play_script(Script { play: Play::Borrowed, fault, bug: None, slow: true })
}

fn play_script(script: Script) -> anyhow::Result<Played> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let shared = Path::new("/dev/shm");
    let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }?;
    runtime.block_on(run(script, dir.path(), None))
}

/// What is done to one journey.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    pub play: Play,
    pub fault: Option<(usize, Fault)>,
    pub bug: Option<Bug>,
    pub slow: bool,
}

fn service(name: &str, datasets: bool, real: bool) -> anyhow::Result<Service> {
    let text = format!(
        "apiVersion: pumasi/v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  hosts: [{name}.example]\n  application:\n    bundle: ./bundle\n    command: [{}]\n\
         \x20   platform: {{ os: linux, arch: {} }}\n    resources: {{ cpu_millis: 500, memory_mib: 128 }}\n    readiness: {{ path: /, interval_ms: 50 }}\n    stop_grace_ms: 500\n{}\
         \x20 instances: {{ home: 1 }}\n  borrowing: {{ mode: automatic, instances_max: 6 }}\n{}",
        if real { "./shop" } else { "shop" },
        std::env::consts::ARCH,
        // Of the one that borrows.
        if datasets { "    secrets: { API_KEY: key }\n" } else { "" },
        if datasets { "  datasets:\n    - { name: notes, kind: files }\n" } else { "" },
    );
    let services = pumasi_terms::manifest::services("service.yaml", &text).context("the simulator's own manifest")?;
    services.into_iter().next().context("no service in it")
}

/// Users who write a lot, and are too few to be helped.
fn quiet(origin_ms: u64) -> Load {
    Load(vec![Phase { from_ms: origin_ms, per_second: 30.0, home_only: 0.3 }])
}

fn campaign(origin_ms: u64, end_ms: u64) -> Load {
    let phase = |from_ms: u64, per_second| Phase { from_ms, per_second, home_only: 0.05 };
    Load(vec![phase(origin_ms, 20.0), phase(origin_ms + CAMPAIGN_MS.0, 160.0), phase(end_ms, 10.0)])
}

struct Stage {
    hosts: Vec<Arc<Host>>,
    trap: Arc<Trap>,
    begin: Instant,
    /// Instances are processes of it.
    app: Option<PathBuf>,
}

pub(super) async fn run(script: Script, dir: &Path, drivers: Option<Arc<dyn Drivers>>) -> anyhow::Result<Played> {
    let Script { play, fault, bug, slow } = script;
    let begin = Instant::now();
    let seed = 7;
    let story = Arc::new(Story::default());
    let net = Net::new(seed, begin, story.clone(), None);
    let oracles = Arc::new(Oracles::default());
    let (died, mut deaths) = mpsc::unbounded_channel();
    let common = Common {
        seed,
        begin,
        dir: dir.to_owned(),
        net: net.clone(),
        story: story.clone(),
        observer: oracles.clone(),
        witness: oracles.clone(),
        mutant: None,
        freezes: true,
        died,
    };
    let mut hosts = Vec::new();
    for at in 0..CLOUDS {
        let name = format!("city-{}", char::from(b'a' + at as u8));
        // Real drivers and the store's writer read the machine's clocks: then all do.
        let clock = match drivers {
            Some(_) => HostClock::of_machine(begin),
            None => HostClock::new(begin, 1_000_000 * (at as u64 + 1), 0, 0),
        };
        hosts.push(Host::new(&common, CloudName::parse(&name)?, config(&name, at, dir)?, clock));
    }
    for (a, b) in hosts.iter().flat_map(|a| hosts.iter().map(move |b| (a, b))).filter(|_| slow) {
        net.set_delay(&a.name, &b.name, SLOW_MS);
    }
    let trap = Trap::new(hosts[0].name.clone(), fault, bug);
    net.set_trap(trap.clone());
    hosts.iter().for_each(|h| h.set_trap(trap.clone()));
    if let Some(drivers) = &drivers {
        hosts.iter().for_each(|h| h.set_drivers(drivers.clone()));
    }
    let by_name: BTreeMap<CloudName, Arc<Host>> = hosts.iter().map(|h| (h.name.clone(), h.clone())).collect();
    let weak: BTreeMap<_, _> = by_name.iter().map(|(n, h)| (n.clone(), Arc::downgrade(h))).collect();
    let told = weak.clone();
    let host_of = |all: &BTreeMap<CloudName, std::sync::Weak<Host>>, name: &CloudName| all.get(name)?.upgrade();
    trap.give_hands(
        Arc::new(move |name| {
            if let Some(host) = host_of(&weak, name) {
                host.die();
            }
        }),
        Arc::new(move |name, what| {
            if let Some(host) = host_of(&told, name) {
                host.tell(what);
            }
        }),
    );
    let gateways: BTreeMap<_, _> = hosts.iter().map(|h| (h.name.clone(), h.gateway.clone())).collect();
    hosts.iter().for_each(|h| h.gateway.meet(gateways.clone()));
    let terms = Terms { lends: LENDS, ..Terms::default() };
    let known =
        hosts.iter().map(|h| (h.name.clone(), Known { clock: h.clock.clone(), terms: terms.clone(), physical: HAS }));
    oracles.know(known.collect());
    oracles.lock().faultless = fault.is_none();
    let ticking: Vec<_> = hosts.iter().map(|h| h.gateway.clone()).collect();
    let ticker = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(TICK_MS));
        loop {
            every.tick().await;
            ticking.iter().for_each(|g| g.tick());
        }
    });
    let app = drivers.as_ref().and_then(|d| d.app()).map(Path::to_owned);
    let stage = Stage { hosts, trap, begin, app };
    if let Err(e) = stage.found(dir, &terms).await {
        ticker.abort();
        stage.hosts.iter().for_each(|h| h.kill());
        return Err(e);
    }
    let origin_ms = stage.now_ms();
    let (campaign_ms_max, come_back_ms) = match stage.app {
        Some(_) => (CAMPAIGN_REAL_MS_MAX, COME_BACK_REAL_MS),
        None if slow => (CAMPAIGN_MS.1 + 10_000, 4 * COME_BACK_MS),
        None => (CAMPAIGN_MS.1, COME_BACK_MS),
    };
    let mut over_ms = origin_ms + campaign_ms_max;
    let load = if play == Play::Moved { quiet(origin_ms) } else { campaign(origin_ms, over_ms) };
    stage.hosts[0].gateway.set_load("shop-0".parse()?, load);
    stage.trap.set();
    let mut starts: Vec<(u64, usize)> = Vec::new();
    let (mut killed_ms, mut down_ms) = (BTreeMap::new(), 0);
    let (mut lent_since, mut recalled) = (None, play != Play::Recalled);
    let mut asked = play != Play::Moved;
    let mut quiet_since = None;
    loop {
        tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
        let now_ms = stage.now_ms();
        while let Ok(name) = deaths.try_recv() {
            if let Some(at) = stage.hosts.iter().position(|h| h.name == name) {
                stage.hosts[at].bury();
                killed_ms.entry(at).or_insert(now_ms);
                starts.push((now_ms + DOWN_MS, at));
            }
        }
        let (due, rest): (Vec<_>, Vec<_>) = starts.drain(..).partition(|(at_ms, _)| *at_ms <= now_ms);
        starts = rest;
        for (_, at) in due {
            let host = &stage.hosts[at];
            if let Err(e) = host.start().await {
                host.tell(format!("did not start: {e:#}"));
                starts.push((now_ms + 500, at));
            } else if let Some(since) = killed_ms.remove(&at) {
                down_ms += stage.now_ms() - since;
            }
        }
        if play != Play::Moved {
            stage.write(now_ms);
        }
        stage.show();
        if !asked && now_ms >= origin_ms + CAMPAIGN_MS.0 {
            asked = stage.ask_to_move().await;
        }
        if !recalled && stage.serves() {
            let since = *lent_since.get_or_insert(now_ms);
            if now_ms >= since + RECALL_AFTER_MS {
                recalled = stage.recall().await;
            }
        }
        oracles.look(now_ms, &stage.hosts);
        let enough = match play {
            Play::Moved => asked && stage.has_moved(),
            _ => recalled && stage.hosts[0].gateway.totals().rented >= ENOUGH_RENTED,
        };
        if stage.app.is_some() && now_ms < over_ms && enough {
            over_ms = now_ms;
        }
        if stage.app.is_some() && over_ms == now_ms && play != Play::Moved {
            stage.hosts[0].gateway.set_load("shop-0".parse()?, campaign(origin_ms, over_ms));
        }
        let late = now_ms > over_ms + come_back_ms;
        if now_ms > over_ms + 1_000 && starts.is_empty() {
            let quiet = end::unfinished(&stage.hosts).is_empty() && !end::unsettled(&stage.hosts);
            quiet_since = if quiet { quiet_since.or(Some((now_ms, stage.hosts[0].gateway.totals()))) } else { None };
        }
        if late || quiet_since.is_some_and(|(since, _)| now_ms >= since + AFTERWARDS_MS) {
            break;
        }
    }
    ticker.abort();
    let totals = stage.hosts[0].gateway.totals();
    let before = quiet_since.map_or(totals, |(_, t)| t);
    oracles.at_end(stage.now_ms(), &stage.hosts);
    let unanswered = totals.shed + totals.lost - before.shed - before.lost;
    let mut end = End::of(&stage.hosts, totals.completed - before.completed, unanswered);
    end.down_ms = down_ms;
    let played = Played {
        end,
        fired: stage.trap.fired(),
        broken: std::mem::take(&mut oracles.lock().broken),
        story,
        counts: stage.trap.counts(),
        ms: stage.now_ms() - origin_ms,
    };
    stage.hosts.iter().for_each(|h| h.kill());
    Ok(played)
}

impl Stage {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// One pact, and a service at each cloud; the first one's has data.
    async fn found(&self, dir: &Path, terms: &Terms) -> anyhow::Result<()> {
        let bundle = dir.join("bundle");
        std::fs::create_dir_all(&bundle)?;
        match &self.app {
            Some(app) => drop(std::fs::copy(app, bundle.join("shop"))?),
            None => std::fs::write(bundle.join("shop"), "what runs is made up; what travels is real\n".repeat(40))?,
        }
        found_pact(&self.hosts, terms).await?;
        for (at, host) in self.hosts.iter().enumerate() {
            host.deploy(service(&format!("shop-{at}"), at == 0, self.app.is_some())?, &bundle).await?;
        }
        for _ in 0..FOUNDED_MS_MAX / TICK_MS {
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            self.write(0);
            self.show();
            let ready = |n: &Node| n.instances.lock().iter().any(|i| i.state == InstanceState::Ready);
            let met = |n: &Node| {
                let others = self.hosts.iter().filter(|h| h.name != *n.name());
                others.into_iter().all(|h| n.peers.of(&h.name).offer.is_some())
            };
            if self.now_ms() > 2_500 && self.hosts.iter().all(|h| h.node().is_some_and(|n| ready(&n) && met(&n))) {
                return Ok(());
            }
        }
        let states: Vec<_> = self
            .hosts
            .iter()
            .filter_map(|h| h.node())
            .map(|n| {
                let instances: Vec<_> = n.instances.lock().iter().map(|i| i.state.clone()).collect();
                let heard: Vec<_> =
                    self.hosts.iter().filter(|h| h.name != *n.name()).map(|h| n.peers.of(&h.name)).collect();
                format!("{}: instances {instances:?}, peers {heard:?}", n.name())
            })
            .collect();
        anyhow::bail!("the clouds were not up and known to each other within {FOUNDED_MS_MAX} ms: {states:?}")
    }

    /// The application at home writes.
    fn write(&self, now_ms: u64) {
        let Ok(set) = "notes".parse() else { return };
        if let Some(node) = self.hosts[0].node()
            && (now_ms / TICK_MS).is_multiple_of(5)
            && let Ok(services) = node.services()
            && let Some(service) = services.iter().find(|s| s.name().as_str() == "shop-0")
        {
            let path = data_dir(&node, service, &set).join("notes.txt");
            let _ = std::fs::write(path, format!("it is {now_ms}\n").repeat(20));
        }
    }

    /// What gateways may send to, where the simulator's engine does not know it.
    fn show(&self) {
        if self.app.is_some() {
            for host in &self.hosts {
                if let Some(node) = host.node() {
                    host.engine.show(node.instances.get());
                }
            }
        }
    }

    /// Whether that was written down.
    async fn ask_to_move(&self) -> bool {
        let to = self.hosts[1].name.clone();
        let asked = self.hosts[0].act(async move |node| {
            let services = node.services().ok()?;
            let service = services.iter().find(|s| s.name().as_str() == "shop-0")?;
            if node.item::<Move>(MOVE, service.name().as_str()).is_ok_and(|m| m.is_some()) {
                return Some(());
            }
            moves::begin(&node, "operator", service, to).await.ok().map(drop)
        });
        asked.await.flatten().is_some()
    }

    fn has_moved(&self) -> bool {
        let done = |n: Arc<Node>| n.item::<Move>(MOVE, "shop-0").ok().flatten().is_some_and(|m| !m.is_open());
        self.hosts[0].node().is_some_and(done)
    }

    fn serves(&self) -> bool {
        self.hosts[1..].iter().filter_map(|h| h.node()).any(|n| {
            n.list::<LentApplication>(LENT_APPLICATION).is_ok_and(|all| !all.is_empty())
                && n.list::<LentLease>(LENT).is_ok_and(|all| all.iter().any(|l| n.routes.serving(l.id()) > 0))
        })
    }

    /// Whether there was something to call back.
    async fn recall(&self) -> bool {
        let mut any = false;
        for host in &self.hosts[1..] {
            let done = host.act(async |node| {
                let mut any = false;
                for lent in node.list::<LentLease>(LENT).unwrap_or_default().iter().filter(|l| l.usable()) {
                    any |= lender::recall(&node, &operator(), lent.id().clone(), "needed here".into()).await.is_ok();
                }
                any
            });
            any |= done.await.unwrap_or(false);
        }
        any
    }
}
