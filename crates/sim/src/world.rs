//! The world: brings up clouds that trust each other, plays a script on them, and waits until everything came back.

use crate::cloud::{Belongings, Common, Host, found_pact, operator};
use crate::liar::Liar;
use crate::life::HostClock;
use crate::mutant::Mutant;
use crate::net::Net;
use crate::oracle::{Broken, Known, Oracles};
use crate::script::{Fault, Script};
use crate::story::Story;
use anyhow::Context;
use pumasi_api::message::{Automation, RehearseService, RehearsedCause, Vote};
use pumasi_journey::Phase;
use pumasi_node::object::{CLOUD, CloudRecord, JOURNEY, LENT, ONLY, SERVICE, ServiceRecord};
use pumasi_node::{Config, borrower, lender, moves, pact, register};
use pumasi_store::Expect;
use pumasi_terms::pact::Terms;
use pumasi_terms::service::{DatasetMode, RecoveryClass, Service};
use pumasi_terms::{CloudName, Continuity, Epoch, Resources, ServiceName};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

const TICK_MS: u64 = 100;
/// As [`config`] says.
const LEASE_TTL_MS: u64 = 5_000;
/// After the last fault everything must have come back within this.
pub const COME_BACK_MS: u64 = 120_000;
/// What every cloud lends: three instances, and what is left of a fourth.
pub(crate) const LENDS: Resources = Resources { cpu_millis: 1_600, memory_mib: 448 };
pub(crate) const HAS: Resources = Resources { cpu_millis: 4_000, memory_mib: 2_048 };

#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub clouds: usize,
    pub script: Script,
    pub mutant: Option<Mutant>,
    /// Which cloud lies about the others' stores.
    pub liar: Option<usize>,
    /// Engines can make instances stand still.
    pub freezes: bool,
}

impl Setup {
    pub fn random(seed: u64) -> Self {
        Self { seed, clouds: 3, script: Script::random(seed, 3), mutant: None, liar: None, freezes: true }
    }

    /// Of a service that moves.
    pub fn moving(seed: u64) -> Self {
        // Where they cannot, the gateways alone keep two clouds from writing. None of the seeds that are kept had a freezer.
        Self { script: Script::moving(seed, 3), freezes: seed % 3 == 1, ..Self::random(seed) }
    }
}

impl Setup {
    /// Of a pact that votes, and loses a cloud.
    pub fn losing(seed: u64) -> Self {
        Self { script: Script::losing(seed, 3), ..Self::random(seed) }
    }
}

#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub broken: Vec<Broken>,
    pub story: Arc<Story>,
    pub virtual_ms: u64,
    pub messages: u64,
    pub leases: usize,
    pub journeys: usize,
    pub lives: u64,
    /// Of the first cloud's users: answered, and of those by rented instances.
    pub completed: u64,
    pub rented: u64,
    /// Services that were taken over from a cloud that was lost.
    pub taken_over: usize,
    /// Services that were handed over, and requests that wrote and were answered.
    pub moved: usize,
    pub written: usize,
}

fn city(at: usize) -> String {
    format!("city-{}", char::from(b'a' + at as u8))
}

/// Plays one run on this thread, which must be in no runtime.
pub fn play(setup: &Setup) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    // Memory, where there is: the runs write and erase many small files.
    let shared = Path::new("/dev/shm");
    let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }?;
    runtime.block_on(run(setup, dir.path()))
}

pub(crate) fn config(name: &str, at: usize, dir: &Path) -> anyhow::Result<Config> {
    let text = format!(
        "version = 1\n[cloud]\nname = \"{name}\"\n[peer]\nlisten = \"127.0.0.1:{}\"\n[gateway]\npeer_listen = \"127.0.0.1:{}\"\n\
         [capacity]\ncpu_millis = {}\nmemory_mib = {}\nstorage_bytes = 1073741824\n\
         [pact]\nadmit = \"auto\"\n[timing]\ntick_ms = 100\nheartbeat_ms = 1000\nlease_ttl_ms = {LEASE_TTL_MS}\nhold_ttl_ms = 3000\ncalm_ms = 1500\nship_ms = 200\n",
        2_000 + at,
        3_000 + at,
        HAS.cpu_millis,
        HAS.memory_mib,
    );
    let mut config = Config::parse(&text, std::iter::empty()).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    config.cloud.data_dir = dir.join(name);
    Ok(config)
}

/// `data`: its dataset, as the manifest has it.
fn service(name: &str, data: Option<&str>) -> anyhow::Result<Service> {
    let text = format!(
        "apiVersion: pumasi/v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  hosts: [{name}.example]\n  application:\n    bundle: ./bundle\n    command: [shop]\n\
         \x20   platform: {{ os: linux, arch: {} }}\n    resources: {{ cpu_millis: 500, memory_mib: 128 }}\n    readiness: {{ path: /, interval_ms: 50 }}\n    stop_grace_ms: 500\n\
         \x20 instances: {{ home: 1 }}\n  borrowing: {{ mode: automatic, instances_max: 6 }}\n{}",
        std::env::consts::ARCH,
        data.map(|set| format!("  datasets:\n    - {{ {set} }}\n")).unwrap_or_default(),
    );
    let services = pumasi_terms::manifest::services("service.yaml", &text).context("the simulator's own manifest")?;
    services.into_iter().next().context("no service in it")
}

struct World {
    hosts: Vec<Arc<Host>>,
    net: Arc<Net>,
    oracles: Arc<Oracles>,
    begin: Instant,
}

async fn run(setup: &Setup, dir: &Path) -> anyhow::Result<Outcome> {
    let begin = Instant::now();
    let story = Arc::new(Story::default());
    let net = Net::new(setup.seed, begin, story.clone(), setup.mutant);
    if let Some(at) = setup.liar {
        net.set_liar(Liar::new(CloudName::parse(city(at))?));
    }
    let oracles = Arc::new(Oracles::default());
    let (died, mut deaths) = mpsc::unbounded_channel();
    let common = Common {
        seed: setup.seed,
        begin,
        dir: dir.to_owned(),
        net: net.clone(),
        story: story.clone(),
        observer: oracles.clone(),
        witness: oracles.clone(),
        mutant: setup.mutant,
        freezes: setup.freezes,
        died,
    };
    let mut hosts = Vec::new();
    for at in 0..setup.clouds {
        let name = city(at);
        let drift = setup.script.drifts_ppm.get(at).copied().unwrap_or(0);
        let clock = HostClock::new(begin, 1_000_000 * (at as u64 + 1), drift, at as i64 * 300);
        hosts.push(Host::new(&common, CloudName::parse(&name)?, config(&name, at, dir)?, clock));
    }
    let gateways: BTreeMap<_, _> = hosts.iter().map(|h| (h.name.clone(), h.gateway.clone())).collect();
    hosts.iter().for_each(|h| h.gateway.meet(gateways.clone()));
    let terms = Terms { lends: LENDS, ..Terms::default() };
    let known =
        hosts.iter().map(|h| (h.name.clone(), Known { clock: h.clock.clone(), terms: terms.clone(), physical: HAS }));
    oracles.know(known.collect());
    oracles.lock().away_ms = if setup.script.votes { LEASE_TTL_MS } else { 0 };
    oracles.lock().faultless = setup.script.faults.is_empty() && setup.script.weather.lost == 0;
    let of_reads = |f: &Fault| matches!(f, Fault::Unread { .. } | Fault::Garble { .. });
    oracles.lock().only_reads_fail = setup.script.faults.iter().all(|(_, f)| of_reads(f)) && setup.script.steady;
    for (a, b, ms) in &setup.script.delays_ms {
        net.set_delay(&hosts[*a].name, &hosts[*b].name, *ms);
    }
    let world = World { hosts, net, oracles, begin };
    // The gateways' clock runs from the beginning, whatever becomes of the daemons.
    let ticking: Vec<_> = world.hosts.iter().map(|h| h.gateway.clone()).collect();
    let ticker = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(TICK_MS));
        loop {
            every.tick().await;
            ticking.iter().for_each(|g| g.tick());
        }
    });
    world.found(dir, &terms, setup.script.data()).await?;
    if setup.script.votes {
        world.vote(setup.script.in_step).await?;
    }
    let origin_ms = world.now_ms();
    for (cloud, load) in &setup.script.loads {
        let mut load = load.clone();
        load.0.iter_mut().for_each(|p| p.from_ms += origin_ms);
        world.hosts[*cloud].gateway.set_load(format!("shop-{cloud}").parse()?, load);
    }
    world.net.set_weather(setup.script.weather);
    let mut todo = setup.script.faults.iter().map(|(at, f)| (origin_ms + at, f.clone())).collect::<Vec<_>>();
    todo.reverse();
    let mut later: Vec<(u64, After)> = Vec::new();
    let mut fuses: BTreeMap<CloudName, u64> = BTreeMap::new();
    let healed_ms = origin_ms + setup.script.healed_ms;
    let mut healed = false;
    loop {
        tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
        let now_ms = world.now_ms();
        while let Ok(name) = deaths.try_recv() {
            if let Some(at) = world.hosts.iter().position(|h| h.name == name) {
                world.hosts[at].bury();
                later.push((now_ms + fuses.get(&name).copied().unwrap_or(100), After::Start(at)));
            }
        }
        while todo.last().is_some_and(|(at, _)| *at <= now_ms) {
            if let Some((_, fault)) = todo.pop() {
                if let Fault::Fuse { cloud, down_ms, .. } | Fault::FuseOn { cloud, down_ms, .. } = &fault {
                    fuses.insert(world.hosts[*cloud].name.clone(), *down_ms);
                }
                world.strike(&fault, now_ms, &mut later).await;
            }
        }
        if !healed && now_ms >= healed_ms {
            healed = true;
            world.heal();
        }
        let (due, rest): (Vec<_>, Vec<_>) = later.drain(..).partition(|(at, _)| *at <= now_ms);
        later = rest;
        for (_, what) in due {
            world.after(what, now_ms, &mut later).await;
        }
        world.oracles.look(now_ms, &world.hosts);
        if !world.oracles.lock().broken.is_empty() {
            break;
        }
        if healed && later.is_empty() {
            let quiet = world.oracles.unfinished(now_ms, &world.hosts).is_none();
            if quiet || now_ms > healed_ms + COME_BACK_MS {
                world.oracles.lock().durable.lost(world.losses());
                world.oracles.at_end(now_ms, &world.hosts);
                break;
            }
        }
    }
    ticker.abort();
    let totals = world.hosts[0].gateway.totals();
    let taken_over = world.losses().len();
    let lives = world.hosts.iter().map(|h| h.lives()).sum();
    let virtual_ms = world.now_ms();
    for host in &world.hosts {
        host.kill();
    }
    let mut seen = world.oracles.lock();
    for broken in &seen.broken {
        story.tell(broken.at_ms, "ORACLE", format!("{}: {}", broken.oracle, broken.what));
    }
    Ok(Outcome {
        seed: setup.seed,
        broken: std::mem::take(&mut seen.broken),
        story,
        virtual_ms,
        messages: world.net.messages(),
        leases: seen.leases.len(),
        journeys: seen.journeys.len(),
        lives,
        completed: totals.completed,
        rented: totals.rented,
        taken_over,
        moved: seen.handovers.len(),
        written: seen.durable.count(),
    })
}

/// What a fault leaves to be done.
enum After {
    Start(usize),
    /// Reads work again.
    Read {
        at: usize,
        before: Vec<Belongings>,
    },
    /// The record that could not be read is mended.
    Readable {
        at: usize,
        kind: &'static str,
        before: Vec<Belongings>,
    },
    Mend {
        from: usize,
        to: usize,
        both: bool,
    },
    Automate(usize),
    /// No standby is wanted any more.
    Unkeep(usize),
}

impl World {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// One pact, and a service at each cloud; the first one's may have data.
    async fn found(&self, dir: &Path, terms: &Terms, data: Option<&str>) -> anyhow::Result<()> {
        let bundle = dir.join("bundle");
        std::fs::create_dir_all(&bundle)?;
        std::fs::write(bundle.join("shop"), "what runs is made up; what travels is real\n".repeat(40))?;
        found_pact(&self.hosts, terms).await?;
        for (at, host) in self.hosts.iter().enumerate() {
            host.deploy(service(&format!("shop-{at}"), data.filter(|_| at == 0))?, &bundle).await?;
        }
        // Until everybody has heard of everybody's offer.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        Ok(())
    }

    /// By all, in `default` times; returns when every cloud may write by it.
    async fn vote(&self, in_step: bool) -> anyhow::Result<()> {
        let wish = Vote { voters: self.hosts.iter().map(|h| h.name.clone()).collect(), profile: None, stop: false };
        let voted = self.hosts[0].act(async move |node| pact::vote(&node, &operator(), wish).await).await;
        voted.context("it died")??;
        let begun_ms = self.now_ms();
        let right = |h: &Arc<Host>| h.node().is_some_and(|n| n.voting.right_until().is_some());
        while !self.hosts.iter().all(right) {
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            anyhow::ensure!(self.now_ms() < begun_ms + 30_000, "nobody votes");
        }
        let first = self.at_owner("shop-0", async |node, service| {
            node.transact(move |tx| {
                let mut first = service.clone();
                first.document.spec.recovery_class = RecoveryClass::Guaranteed;
                // Who is in step with it is there a moment later; till then what writes is refused.
                let mode = if in_step { DatasetMode::Sync } else { DatasetMode::Async };
                first.document.spec.datasets.iter_mut().for_each(|set| set.mode = mode);
                Ok(tx.put(SERVICE, service.name().as_str(), &first, Expect::Any).map(drop)?)
            })
            .await
        });
        Ok(first.await.context("shop-0 has no owner")??)
    }

    /// Which ownerships ended by a loss, as the newest register has them.
    fn losses(&self) -> Vec<(ServiceName, Epoch)> {
        let states = self.hosts.iter().filter_map(|h| h.node()?.voting.state());
        let Some(newest) = states.max_by_key(|s| s.revision) else { return Vec::new() };
        let lost = newest.moved.iter().filter(|m| m.cause == pumasi_ownership::state::Cause::Disaster);
        lost.filter_map(|m| {
            Some((newest.services.get(&m.service)?.agreed.name.clone(), Epoch(m.epoch.0.saturating_sub(1))))
        })
        .collect()
    }

    async fn strike(&self, fault: &Fault, now_ms: u64, later: &mut Vec<(u64, After)>) {
        match fault {
            Fault::Crash { cloud, down_ms } => {
                self.hosts[*cloud].kill();
                later.push((now_ms + down_ms, After::Start(*cloud)));
            }
            Fault::Fuse { cloud, commits, .. } => self.hosts[*cloud].light_fuse(*commits),
            Fault::FuseOn { cloud, kind, .. } => self.hosts[*cloud].light_fuse_on(Some(kind)),
            Fault::LateHandover { late_ms } => self.net.set_late_handover(Some(*late_ms)),
            Fault::PowerCut { cloud, down_ms } => {
                self.hosts[*cloud].power_cut();
                later.push((now_ms + down_ms, After::Start(*cloud)));
            }
            Fault::Unread { cloud, kind, reads, for_ms } => {
                let host = &self.hosts[*cloud];
                host.set_unread(Some((*kind, *reads)));
                host.tell(format!("{reads} reads of {} fail", kind.unwrap_or("every kind")));
                later.push((now_ms + for_ms, After::Read { at: *cloud, before: self.belongings() }));
            }
            Fault::Garble { cloud, kind, for_ms } => {
                let host = &self.hosts[*cloud];
                if host.node().is_none() {
                    return;
                }
                let before = self.belongings();
                host.kill();
                match host.garble(kind) {
                    Ok(()) => host.tell(format!("the newest {kind} cannot be read any more")),
                    Err(e) => host.tell(format!("the record was not changed: {e:#}")),
                }
                later.push((now_ms, After::Start(*cloud)));
                later.push((now_ms + for_ms, After::Readable { at: *cloud, kind, before }));
            }
            Fault::Gateway { cloud } => {
                self.hosts[*cloud].gateway.crash();
                self.hosts[*cloud].tell("gateway killed and started again");
            }
            Fault::Cut { from, to, both, for_ms } => {
                let (a, b) = (&self.hosts[*from], &self.hosts[*to]);
                self.net.cut(&a.name, &b.name, true);
                if *both {
                    self.net.cut(&b.name, &a.name, true);
                }
                a.tell(format!("the link to {} is cut{}", b.name, if *both { ", both ways" } else { "" }));
                later.push((now_ms + for_ms, After::Mend { from: *from, to: *to, both: *both }));
            }
            Fault::Recall { cloud } => {
                let acted = self.hosts[*cloud].act(async |node| {
                    for lent in
                        node.list::<pumasi_lease::LentLease>(LENT).unwrap_or_default().iter().filter(|l| l.binds())
                    {
                        let _ = lender::recall(&node, &operator(), lent.id().clone(), "needed here".into()).await;
                    }
                });
                acted.await;
                self.hosts[*cloud].tell("the operator recalls what is lent");
            }
            Fault::Shim { cloud } => {
                let host = &self.hosts[*cloud];
                let listed = crate::gateway::now_or_never(pumasi_engine::Engine::list(host.engine.catch_up()));
                if let Some(instance) = listed.and_then(Result::ok).and_then(|l| l.into_iter().next()) {
                    host.engine.catch_up().kill_shim(&instance.id);
                    host.tell(format!("the shim of {} is killed", instance.id));
                }
            }
            Fault::Automation { cloud, for_ms } => {
                self.automation(*cloud, true).await;
                later.push((now_ms + for_ms, After::Automate(*cloud)));
            }
            Fault::Rehearse { cloud } => {
                let wish = RehearseService { cause: RehearsedCause::Overload, path: None, at: None };
                let acted = self.hosts[*cloud].act(async |node| {
                    let service = node.services().ok()?.iter().next().cloned()?;
                    Some(borrower::rehearse(&node, "operator", &service, wish).await)
                });
                match acted.await.flatten() {
                    Some(Ok(id)) => self.hosts[*cloud].tell(format!("the operator rehearses: {id}")),
                    Some(Err(e)) => self.hosts[*cloud].tell(format!("the operator cannot rehearse: {e}")),
                    None => {}
                }
            }
            Fault::Keep { cloud, standbys, warm, for_ms } => {
                let wish = Continuity { standbys: Some(*standbys), warm: *warm, ..Continuity::default() };
                self.wish(*cloud, wish).await;
                later.push((now_ms + for_ms, After::Unkeep(*cloud)));
            }
            Fault::Move { to } => {
                let heir = self.hosts[*to].name.clone();
                let asked = self.at_owner("shop-0", async move |node, service| {
                    moves::begin(&node, "operator", &service, heir).await.map(|m| m.wish).map_err(|e| e.detail)
                });
                let heir = &self.hosts[*to];
                match asked.await {
                    Some(Ok(wish)) => heir.tell(format!("the customer moves shop-0 here: {wish}")),
                    Some(Err(why)) => heir.tell(format!("shop-0 cannot be moved here: {why}")),
                    None => heir.tell("shop-0 has no owner that could move it here"),
                }
            }
            Fault::CancelMove => {
                let asked = self.at_owner("shop-0", async |node, service| {
                    moves::cancel(&node, "operator", service.name().clone(), "not now").await.map_err(|e| e.detail)
                });
                if let Some(done) = asked.await {
                    let text =
                        done.map_or_else(|why| format!("the move goes on: {why}"), |_| "the move is cancelled".into());
                    self.hosts[0].tell(text);
                }
            }
            Fault::Cancel { cloud } => {
                let acted = self.hosts[*cloud].act(async |node| {
                    let open = node.list::<pumasi_journey::Journey>(JOURNEY).unwrap_or_default().into_iter();
                    for journey in open.filter(|j| !matches!(j.phase, Phase::Closed { .. })) {
                        let _ = borrower::cancel(&node, "operator", &journey.id, "not now").await;
                    }
                });
                acted.await;
                self.hosts[*cloud].tell("the operator cancels what runs");
            }
        }
    }

    /// While a store was not readable, nothing may have gone for it. In a run with other faults something may go for those.
    fn nothing_went(&self, before: &[Belongings], now_ms: u64) {
        let missing: Vec<_> =
            self.hosts.iter().zip(before).map(|(h, b)| (&h.name, b.missing(&h.belongings()))).collect();
        let mut seen = self.oracles.lock();
        if !seen.only_reads_fail {
            return;
        }
        for (name, what) in missing.into_iter().flat_map(|(name, all)| all.into_iter().map(move |what| (name, what))) {
            let what = format!("{name}: {what} went while a store could not be read");
            seen.breaks("absence destroys nothing", now_ms, what);
        }
    }

    fn belongings(&self) -> Vec<Belongings> {
        self.hosts.iter().map(|h| h.belongings()).collect()
    }

    /// Acts as an operator of the cloud that owns a service; none: it runs nowhere now.
    async fn at_owner<T>(
        &self,
        name: &str,
        act: impl AsyncFnOnce(Arc<pumasi_node::Node>, ServiceRecord) -> T,
    ) -> Option<T> {
        let name = ServiceName::parse(name).ok()?;
        let own = |node: &pumasi_node::Node| {
            let services = node.services().ok()?;
            let found = services.iter().find(|s| s.name() == &name)?;
            register::is_ours(node, found).then(|| ServiceRecord::clone(found))
        };
        let (host, service) = self.hosts.iter().find_map(|h| Some((h, own(&*h.node()?)?)))?;
        host.act(async move |node| act(node, service).await).await
    }

    /// The customer of a cloud's own service changes its mind; whether that was written down.
    async fn wish(&self, cloud: usize, wish: Continuity) -> bool {
        let text = format!("the customer wants {} standbys, {} instances of each warm", wish.wanted(), wish.warm);
        let name = format!("shop-{cloud}");
        let done = self.at_owner(&name, async move |node, service| {
            let name = service.name().clone();
            node.transact(move |tx| {
                moves::leaves_alone(tx, &name)?;
                if let Some(mut stored) = tx.get::<ServiceRecord>(SERVICE, name.as_str())? {
                    stored.body.document.spec.continuity = wish;
                    tx.put(SERVICE, name.as_str(), &stored.body, Expect::Any)?;
                }
                Ok(())
            })
            .await
        });
        let written = matches!(done.await, Some(Ok(())));
        self.hosts[cloud].tell(if written { text } else { "the customer's wish was not written down".to_owned() });
        written
    }

    async fn automation(&self, cloud: usize, stopped: bool) {
        let done = self.hosts[cloud].act(async move |node| {
            node.transact(move |tx| {
                if let Some(stored) = tx.get::<CloudRecord>(CLOUD, ONLY)? {
                    let automation = Automation { stopped, why: "a test of nerves".into() };
                    tx.put(CLOUD, ONLY, &CloudRecord { automation, ..stored.body }, Expect::Any)?;
                }
                Ok(())
            })
            .await
        });
        done.await;
        self.hosts[cloud].tell(if stopped { "automation is stopped" } else { "automation goes on" });
    }

    async fn after(&self, what: After, now_ms: u64, later: &mut Vec<(u64, After)>) {
        match what {
            After::Start(at) => {
                let host = &self.hosts[at];
                if host.node().is_none()
                    && let Err(e) = host.start().await
                {
                    host.tell(format!("did not start: {e:#}"));
                    later.push((now_ms + 500, After::Start(at)));
                }
            }
            After::Mend { from, to, both } => {
                let (a, b) = (&self.hosts[from], &self.hosts[to]);
                self.net.cut(&a.name, &b.name, false);
                if both {
                    self.net.cut(&b.name, &a.name, false);
                }
                a.tell(format!("the link to {} is whole again", b.name));
            }
            After::Read { at, before } => {
                self.nothing_went(&before, now_ms);
                self.hosts[at].set_unread(None);
                self.hosts[at].tell("every read works again");
            }
            After::Readable { at, kind, before } => {
                let host = &self.hosts[at];
                self.nothing_went(&before, now_ms);
                host.kill();
                if let Err(e) = host.mend(kind) {
                    host.tell(format!("the record was not mended: {e:#}"));
                }
                host.tell(format!("the {kind} can be read again"));
                later.push((now_ms, After::Start(at)));
            }
            After::Unkeep(at) => {
                if !self.wish(at, Continuity::default()).await {
                    later.push((now_ms + 500, After::Unkeep(at)));
                }
            }
            After::Automate(at) if self.hosts[at].node().is_some() => self.automation(at, false).await,
            After::Automate(at) => later.push((now_ms + 500, After::Automate(at))),
        }
    }

    fn heal(&self) {
        self.net.set_weather(Default::default());
        self.net.set_late_handover(None);
        for a in &self.hosts {
            a.light_fuse(0);
            a.light_fuse_on(None);
            for b in &self.hosts {
                self.net.cut(&a.name, &b.name, false);
            }
        }
    }
}
