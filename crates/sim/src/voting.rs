//! A pact that votes, played under faults: the daemons' own vote, on the simulator's network, disks and clocks.
//!
//! Enters: a seed, times, faults. Leaves: the story, and what was seen of leaders, rights and registers.
//! Always holds: two clouds that show the same revision of the register show the same register; the same seed gives the same story.

use crate::cloud::{Common, Host, Observer, found_pact, operator};
use crate::gateway::Witness;
use crate::life::HostClock;
use crate::net::{Net, Weather};
use crate::oracle::Oracles;
use crate::story::Story;
use crate::world::{LENDS, config};
use anyhow::Context;
use pumasi_api::message::Vote;
use pumasi_node::pact;
use pumasi_ownership::state::Standing;
use pumasi_terms::CloudName;
use pumasi_terms::pact::Terms;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Virtual time between two looks.
const LOOK_MS: u64 = 5;
/// A cloud that was away is well again by then: it has joined, and renewed.
const BACK_MS: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Cloud(usize),
    Leader,
    /// The first that votes and does not lead.
    Follower,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Kill {
        who: Who,
        down_ms: u64,
    },
    PowerCut {
        who: Who,
        down_ms: u64,
    },
    /// From all others, both ways.
    Cut {
        who: Who,
        for_ms: u64,
    },
    /// What it says arrives nowhere; it hears.
    Mute {
        who: Who,
        for_ms: u64,
    },
    /// Whoever leads and one that does not have lost each other, and the others see both.
    Bridge {
        for_ms: u64,
    },
    /// Its gateway answers nothing; it lives and votes.
    Wedge {
        who: Who,
        for_ms: u64,
    },
    Weather {
        weather: Weather,
        for_ms: u64,
    },
    /// A copy of its store is kept for `PutBack`.
    Keep {
        at: usize,
    },
    /// It is killed, and starts on the copy; an operator accepts that later.
    PutBack {
        at: usize,
        machine: bool,
        accept_after_ms: u64,
    },
    /// The pact votes by these clouds from now on; none: not any more.
    Vote {
        voters: Vec<usize>,
    },
}

#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub clouds: usize,
    pub voters: usize,
    pub profile: &'static str,
    /// One way.
    pub delay_ms: u64,
    pub drifts_ppm: Vec<i64>,
    /// After the first right of all.
    pub faults: Vec<(u64, Fault)>,
    pub end_ms: u64,
}

impl Setup {
    pub fn quiet(seed: u64) -> Self {
        Self {
            seed,
            clouds: 3,
            voters: 3,
            profile: "default",
            delay_ms: 1,
            drifts_ppm: Vec::new(),
            faults: Vec::new(),
            end_ms: 20_000,
        }
    }
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub story: Arc<Story>,
    /// From the vote until every cloud had a right.
    pub first_right_ms: Option<u64>,
    /// For how long a cloud that was well, and in touch with a majority, was without a right: the longest, and whose.
    pub fenced: BTreeMap<CloudName, u64>,
    /// From each kill of a leader until a renewal that was sent after it was answered at each other voter.
    pub renewed_after_ms: Vec<u64>,
    /// Two registers of one revision that differ, and other things that must never be.
    pub wrong: Vec<String>,
    pub terms: u64,
    pub revision: u64,
    pub messages: u64,
    /// Entries of the register by which clouds were lost.
    pub lost: BTreeMap<CloudName, BTreeSet<u64>>,
    /// At the end: who has a right, and which registers are known.
    pub with_right: Vec<CloudName>,
    pub on: usize,
}

pub fn play(setup: &Setup) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let shared = Path::new("/dev/shm");
    let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }?;
    runtime.block_on(run(setup, dir.path()))
}

struct World {
    setup: Setup,
    hosts: Vec<Arc<Host>>,
    net: Arc<Net>,
    begin: Instant,
    outcome: Outcome,
    /// Which one each cloud showed last.
    compared: BTreeMap<CloudName, (u64, u64)>,
    /// By the serial with which the voting began, and the revision.
    registers: BTreeMap<(u64, u64), (CloudName, String)>,
    /// Since when a cloud is well, by what this world does to it.
    well: Vec<Option<u64>>,
    /// Until then nobody's network is.
    weather_until_ms: u64,
    fenced_since: Vec<Option<u64>>,
    later: Vec<(u64, Later)>,
    /// Kills of a leader that wait for the first renewal after them.
    waiting: Vec<(u64, usize)>,
    kept: BTreeMap<usize, pumasi_store::sim::Snapshot>,
}

enum Later {
    Accept(usize),
    Start(usize),
    Mend(usize),
    Join(usize, usize),
    Unwedge(usize),
    Clear,
}

async fn run(setup: &Setup, dir: &Path) -> anyhow::Result<Outcome> {
    let begin = Instant::now();
    let story = Arc::new(Story::default());
    let net = Net::new(setup.seed, begin, story.clone(), None);
    let oracles = Arc::new(Oracles::default());
    let (died, _deaths) = mpsc::unbounded_channel();
    let common = Common {
        seed: setup.seed,
        begin,
        dir: dir.to_owned(),
        net: net.clone(),
        story: story.clone(),
        observer: Arc::new(Nobody),
        witness: oracles.clone() as Arc<dyn Witness>,
        mutant: None,
        freezes: true,
        died,
    };
    let mut hosts = Vec::new();
    for at in 0..setup.clouds {
        let name = format!("city-{}", char::from(b'a' + u8::try_from(at)?));
        let drift = setup.drifts_ppm.get(at).copied().unwrap_or(0);
        let clock = HostClock::new(begin, 1_000_000 * (at as u64 + 1), drift, 0);
        hosts.push(Host::new(&common, CloudName::parse(&name)?, config(&name, at, dir)?, clock));
    }
    for a in &hosts {
        for b in hosts.iter().filter(|b| b.name > a.name) {
            net.set_delay(&a.name, &b.name, setup.delay_ms);
        }
    }
    let count = hosts.len();
    let mut world = World {
        setup: setup.clone(),
        hosts,
        net,
        begin,
        outcome: Outcome { story, ..Outcome::default() },
        compared: BTreeMap::new(),
        registers: BTreeMap::new(),
        well: vec![Some(0); count],
        weather_until_ms: 0,
        fenced_since: vec![None; count],
        later: Vec::new(),
        waiting: Vec::new(),
        kept: BTreeMap::new(),
    };
    world.found().await?;
    world.play().await?;
    Ok(world.end())
}

/// Commits are seen by the vote's own looks.
#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn committed(&self, _: &CloudName, _: &pumasi_store::sim::CommitInfo) {}
}

impl World {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn found(&self) -> anyhow::Result<()> {
        let terms = Terms { lends: LENDS, ..Terms::default() };
        found_pact(&self.hosts, &terms).await?;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        self.vote((0..self.setup.voters).collect()).await
    }

    async fn vote(&self, voters: Vec<usize>) -> anyhow::Result<()> {
        let voters: Vec<CloudName> = voters.iter().filter_map(|at| Some(self.hosts.get(*at)?.name.clone())).collect();
        let profile = Some(self.setup.profile.to_owned()).filter(|_| !voters.is_empty());
        let wish = Vote { stop: voters.is_empty(), voters, profile };
        let first = self.hosts.iter().find(|h| h.node().is_some()).context("nobody lives")?;
        let voted = first.act(async move |node| pact::vote(&node, &operator(), wish).await).await;
        Ok(voted.context("it died")??)
    }

    async fn play(&mut self) -> anyhow::Result<()> {
        let voted_ms = self.now_ms();
        while self.outcome.first_right_ms.is_none() {
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            self.look();
            let all = self.hosts.iter().all(|h| self.right(h));
            let now_ms = self.now_ms();
            if all {
                self.outcome.first_right_ms = Some(now_ms - voted_ms);
            }
            anyhow::ensure!(
                now_ms < voted_ms + 60_000,
                "nobody got a right in a minute\n{}",
                self.outcome.story.text()
            );
        }
        let origin_ms = self.now_ms();
        let mut todo = self.setup.faults.clone();
        todo.reverse();
        while self.now_ms() < origin_ms + self.setup.end_ms {
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            let now_ms = self.now_ms();
            while todo.last().is_some_and(|(at, _)| origin_ms + at <= now_ms) {
                if let Some((_, fault)) = todo.pop() {
                    self.strike(&fault, now_ms).await?;
                }
            }
            let (due, rest) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now_ms);
            self.later = rest;
            for (_, what) in due {
                self.after(what, now_ms).await?;
            }
            self.look();
        }
        Ok(())
    }

    fn right(&self, host: &Host) -> bool {
        let until = host.node().and_then(|n| n.voting.right_until());
        until.is_some_and(|until| until > host.clock.now().boot)
    }

    fn who(&self, who: Who) -> Option<usize> {
        let leads = |h: &Arc<Host>| h.node().is_some_and(|n| n.voting.leader().as_ref() == Some(&h.name));
        match who {
            Who::Cloud(at) => Some(at),
            Who::Leader => self.hosts.iter().position(leads),
            Who::Follower => self.hosts.iter().take(self.setup.voters).position(|h| !leads(h) && h.node().is_some()),
        }
    }

    async fn strike(&mut self, fault: &Fault, now_ms: u64) -> anyhow::Result<()> {
        match fault {
            Fault::Vote { voters } => self.vote(voters.clone()).await?,
            Fault::Keep { at } => drop(self.kept.insert(*at, self.hosts[*at].snapshot()?)),
            Fault::PutBack { at, machine, accept_after_ms } => {
                let host = self.hosts[*at].clone();
                host.kill();
                let copy = self.kept.get(at).context("no copy was kept")?;
                // With its whole machine nothing beside it tells that it is old: the others do.
                if *machine {
                    host.disk.restore_machine(copy)?
                } else {
                    host.disk.restore(copy)?
                }
                host.tell("an older copy of its store is put back");
                self.well[*at] = None;
                host.start().await?;
                self.later.push((now_ms + accept_after_ms, Later::Accept(*at)));
            }
            Fault::Weather { weather, for_ms } => {
                self.net.set_weather(*weather);
                self.well.iter_mut().for_each(|w| *w = None);
                self.weather_until_ms = now_ms + for_ms;
                self.later.push((self.weather_until_ms, Later::Clear));
            }
            Fault::Kill { who, down_ms } | Fault::PowerCut { who, down_ms } => {
                let at = self.who(*who).context("nobody is so")?;
                match fault {
                    Fault::PowerCut { .. } => self.hosts[at].power_cut(),
                    _ => self.hosts[at].kill(),
                }
                self.well[at] = None;
                self.later.push((now_ms + down_ms, Later::Start(at)));
                if *who == Who::Leader {
                    self.waiting.push((now_ms, at));
                }
            }
            Fault::Wedge { who, for_ms } => {
                let at = self.who(*who).context("nobody is so")?;
                self.wedge(at, true);
                self.later.push((now_ms + for_ms, Later::Unwedge(at)));
            }
            Fault::Bridge { for_ms } => self.bridge(now_ms + for_ms)?,
            Fault::Cut { who, for_ms } | Fault::Mute { who, for_ms } => {
                let at = self.who(*who).context("nobody is so")?;
                let both = matches!(fault, Fault::Cut { .. });
                self.cut(at, true, both);
                self.well[at] = None;
                self.later.push((now_ms + for_ms, Later::Mend(at)));
            }
        }
        Ok(())
    }

    fn cut(&self, at: usize, is_cut: bool, both: bool) {
        let one = &self.hosts[at];
        one.tell(if is_cut { "cut off" } else { "in touch again" });
        for other in self.hosts.iter().filter(|h| h.name != one.name) {
            self.net.cut(&one.name, &other.name, is_cut);
            if both {
                self.net.cut(&other.name, &one.name, is_cut);
            }
        }
    }

    /// Both are well: they keep their rights.
    fn bridge(&mut self, until_ms: u64) -> anyhow::Result<()> {
        let (leader, follower) = (self.who(Who::Leader), self.who(Who::Follower));
        let (leader, follower) = leader.zip(follower).context("nobody is so")?;
        self.part(leader, follower, true);
        self.later.push((until_ms, Later::Join(leader, follower)));
        Ok(())
    }

    fn wedge(&mut self, at: usize, wedged: bool) {
        self.hosts[at].tell(if wedged { "its gateway answers nothing" } else { "its gateway answers again" });
        self.hosts[at].gateway.wedged.store(wedged, Ordering::Relaxed);
        self.well[at] = None;
    }

    fn part(&self, one: usize, other: usize, is_cut: bool) {
        let (one, other) = (&self.hosts[one], &self.hosts[other]);
        one.tell(format!("{} {}", if is_cut { "cut off from" } else { "in touch again with" }, other.name));
        self.net.cut(&one.name, &other.name, is_cut);
        self.net.cut(&other.name, &one.name, is_cut);
    }

    async fn after(&mut self, what: Later, now_ms: u64) -> anyhow::Result<()> {
        let well_ms = now_ms.max(self.weather_until_ms) + BACK_MS;
        match what {
            Later::Accept(at) => {
                // It votes and renews nothing before.
                if self.right(&self.hosts[at]) {
                    self.outcome.wrong.push(format!("{now_ms} ms: a cloud whose store was put back has a right"));
                }
                let accepted = self.hosts[at].act(async |node| {
                    let now = pumasi_node::clock::wall();
                    node.store.accept_restored(now, node.store.revision(), "operator").await
                });
                accepted.await.context("it died")??;
                self.hosts[at].tell("its store is accepted");
                self.well[at] = Some(well_ms);
            }
            Later::Start(at) => {
                self.hosts[at].start().await?;
                self.well[at] = Some(well_ms);
            }
            Later::Unwedge(at) => {
                self.wedge(at, false);
                self.well[at] = Some(well_ms);
            }
            Later::Join(one, other) => self.part(one, other, false),
            Later::Mend(at) => {
                self.cut(at, false, true);
                self.well[at] = Some(well_ms);
            }
            Later::Clear => {
                self.net.set_weather(Weather::default());
                self.well.iter_mut().for_each(|w| *w = Some(well_ms));
            }
        }
        Ok(())
    }

    fn look(&mut self) {
        let now_ms = self.now_ms();
        for at in 0..self.hosts.len() {
            let host = self.hosts[at].clone();
            let Some(node) = host.node() else { continue };
            if let Some(state) = node.voting.state() {
                let since = node.pact().and_then(|v| v.pact.voting.as_ref().map(|v| v.since.0)).unwrap_or(0);
                self.compare(&host.name, &state, (since, now_ms));
                for (cloud, known) in &state.clouds {
                    if let Standing::Lost { at_rev } = known.standing {
                        self.outcome.lost.entry(cloud.clone()).or_default().insert(at_rev);
                    }
                }
            }
            let counts = self.outcome.first_right_ms.is_some() && self.well[at].is_some_and(|since| now_ms >= since);
            if counts && node.voting.is_on() && !self.right(&host) {
                let since = *self.fenced_since[at].get_or_insert(now_ms);
                let longest = self.outcome.fenced.entry(host.name.clone()).or_default();
                *longest = (*longest).max(now_ms - since + LOOK_MS);
            } else {
                self.fenced_since[at] = None;
            }
        }
        self.renewed(now_ms);
    }

    /// A right that reaches beyond what could have been renewed before the kill was renewed after it.
    fn renewed(&mut self, now_ms: u64) {
        let (hosts, found) = (&self.hosts, &mut self.outcome.renewed_after_ms);
        self.waiting.retain(|(killed_ms, dead)| {
            let later = |(at, h): (usize, &Arc<Host>)| {
                let Some(node) = h.node().filter(|_| at != *dead) else { return true };
                let Some(timers) = node.voting.state().map(|s| s.voting.timers.clone()) else { return true };
                let right = timers.ttl_ms - timers.margin_ms(timers.ttl_ms);
                let left = node.voting.right_until().map_or(0, |u| u.since(h.clock.now().boot));
                // Sent after the kill: the age of what was answered is less than the time since.
                right.saturating_sub(left) < now_ms - killed_ms
            };
            let all = hosts.iter().enumerate().all(later);
            if all {
                found.push(now_ms - killed_ms);
            }
            !all
        });
    }

    fn compare(&mut self, cloud: &CloudName, state: &pumasi_ownership::State, (since, now_ms): (u64, u64)) {
        if self.compared.insert(cloud.clone(), (since, state.revision)) == Some((since, state.revision)) {
            return;
        }
        let text = serde_json::to_string(state).unwrap_or_default();
        self.outcome.revision = self.outcome.revision.max(state.revision);
        match self.registers.get(&(since, state.revision)) {
            Some((other, same)) if same != &text => {
                self.outcome
                    .wrong
                    .push(format!("{now_ms} ms: revision {} at {cloud} is not that at {other}", state.revision));
            }
            Some(_) => {}
            None => {
                self.registers.insert((since, state.revision), (cloud.clone(), text));
                while self.registers.len() > 4_096 {
                    self.registers.pop_first();
                }
            }
        }
    }

    fn end(mut self) -> Outcome {
        for host in &self.hosts {
            let Some(node) = host.node() else { continue };
            let Some(pact) = node.pact() else { continue };
            let status = node.voting.status(&pact.pact, host.clock.now().boot);
            self.outcome.terms = self.outcome.terms.max(status.term);
            self.outcome.on += usize::from(status.votes);
            if self.right(host) {
                self.outcome.with_right.push(host.name.clone());
            }
            host.tell(format!("at the end: {:?}, revision {}", status.part, status.revision));
        }
        self.outcome.messages = self.net.messages();
        self.hosts.iter().for_each(|h| h.kill());
        self.outcome
    }
}
