//! The network, the disks and the clients, in virtual time. After each step the oracles look: one leader a term, one command an index.

use pumasi_quorum::message::{Body, Message};
use pumasi_quorum::storage::digest_of;
use pumasi_quorum::*;
use pumasi_terms::{BootMs, CloudName, Digest, PactId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The same numbers in every run of a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub delay_ms: u64,
    pub jitter_ms: u64,
    pub loss_percent: u64,
    /// Of those, each comes later by up to four times the delay and jitter.
    pub reorder_percent: u64,
    pub twice_percent: u64,
    pub disk_ms: u64,
}

pub const CALM: Weather =
    Weather { delay_ms: 15, jitter_ms: 2, loss_percent: 0, reorder_percent: 0, twice_percent: 0, disk_ms: 1 };
pub const LOOPBACK: Weather = Weather { delay_ms: 0, jitter_ms: 1, ..CALM };

/// What commands make of a voter's state: how many there were, and a digest of all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct App {
    pub count: u64,
    pub chain: [u8; 32],
}

impl App {
    fn apply(&mut self, command: &[u8]) {
        self.count += 1;
        self.chain = digest_of(&[self.chain.as_slice(), command].concat()).0;
    }

    fn bytes(&self) -> Vec<u8> {
        [self.count.to_be_bytes().as_slice(), &self.chain].concat()
    }

    fn read(bytes: &[u8]) -> Self {
        let mut app = Self { count: u64::from_be_bytes(bytes[..8].try_into().unwrap()), ..Self::default() };
        app.chain.copy_from_slice(&bytes[8..]);
        app
    }
}

pub struct Node {
    pub id: RaftId,
    pub driver: Option<Driver>,
    pub disk: Memory,
    pub run: u64,
    /// As written, and as it is on disk.
    pub app: App,
    pub synced: App,
    /// Transactions under way.
    under_way: VecDeque<(u64, App)>,
    disk_free_at: u64,
    pub stalled: bool,
    pub paused: bool,
    /// What came while it was paused: its sockets hold some.
    missed: VecDeque<Event>,
    pub snapshots_sent: u64,
    pub term_led: Option<u64>,
}

impl Node {
    /// All that was taken is on disk, and nobody hears of it.
    pub fn disk_settles(&mut self) {
        self.disk.sync().unwrap();
        self.under_way.clear();
        self.synced = self.app;
    }
}

#[derive(Debug, Clone)]
enum Event {
    Deliver { from: RaftId, bytes: Vec<u8> },
    Synced { run: u64, number: u64 },
    Fetched { run: u64, digest: Digest, bytes: Vec<u8> },
    Tick { run: u64 },
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub weather: Weather,
    pub timers: Timers,
    pub nodes: BTreeMap<RaftId, Node>,
    /// From, to.
    pub cuts: BTreeSet<(RaftId, RaftId)>,
    queue: BTreeMap<(u64, u64), (RaftId, Event)>,
    events: u64,
    /// Who led which term, since when.
    pub leaders: BTreeMap<u64, (RaftId, u64)>,
    pub committed: BTreeMap<u64, (u64, Vec<u8>)>,
    chains: BTreeMap<u64, [u8; 32]>,
    pub commands: u64,
    /// When each index was applied first.
    pub applied_at: BTreeMap<u64, u64>,
    trace: blake3::Hasher,
    seed: u64,
}

pub fn id_of(cloud: &str, incarnation: u64) -> RaftId {
    RaftId::of(&PactId::from_entropy(1), &CloudName::parse(cloud).unwrap(), incarnation)
}

impl World {
    pub fn new(voters: usize, seed: u64, timers: Timers, weather: Weather) -> Self {
        let mut world = Self {
            now: 1_000,
            random: Random(seed),
            weather,
            timers,
            nodes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            queue: BTreeMap::new(),
            events: 0,
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            chains: BTreeMap::new(),
            commands: 0,
            applied_at: BTreeMap::new(),
            trace: blake3::Hasher::new(),
            seed,
        };
        let ids: BTreeSet<RaftId> = (0..voters).map(|n| id_of(&format!("city-{n}"), 1)).collect();
        for id in &ids {
            world.add(*id, Kept::first(*id, ids.clone(), App::default().bytes()).unwrap());
        }
        world
    }

    pub fn ids(&self) -> Vec<RaftId> {
        self.nodes.keys().copied().collect()
    }

    pub fn add(&mut self, id: RaftId, kept: Kept) {
        let mut disk = Memory::default();
        disk.begin(kept).unwrap();
        let node = Node {
            id,
            driver: None,
            disk,
            run: 0,
            app: App::default(),
            synced: App::default(),
            under_way: VecDeque::new(),
            disk_free_at: 0,
            stalled: false,
            paused: false,
            missed: VecDeque::new(),
            snapshots_sent: 0,
            term_led: None,
        };
        self.nodes.insert(id, node);
        self.start(id);
    }

    pub fn settings(&self, id: RaftId, run: u64) -> Settings {
        let round_trip_ms = 2 * (self.weather.delay_ms + self.weather.jitter_ms);
        Settings { id, run, seed: self.seed ^ id.get(), timers: self.timers, round_trip_ms }
    }

    pub fn start(&mut self, id: RaftId) {
        let kept = self.nodes[&id].disk.load().unwrap().unwrap();
        let run = self.nodes[&id].run + 1;
        let driver = Driver::start(self.settings(id, run), &kept, BootMs(self.now)).unwrap();
        let node = self.nodes.get_mut(&id).unwrap();
        (node.driver, node.run, node.app) = (Some(driver), run, node.synced);
        let first = self.random.below(self.timers.tick_ms);
        self.at(self.now + first, id, Event::Tick { run });
        self.pump(id);
    }

    /// The process and the power end: what was not on disk is gone, though some of it may have arrived there unheard.
    pub fn crash(&mut self, id: RaftId) {
        let arrived = self.random.below(3) as usize;
        let node = self.nodes.get_mut(&id).unwrap();
        let arrived = if node.stalled { 0 } else { arrived.min(node.under_way.len()) };
        node.disk.sync_some(arrived).unwrap();
        if let Some((_, app)) = node.under_way.drain(..arrived).next_back() {
            node.synced = app;
        }
        node.disk.power_cut();
        node.under_way.clear();
        node.missed.clear();
        node.driver = None;
        (node.paused, node.stalled, node.term_led) = (false, false, None);
    }

    /// The disk answers nothing, or answers all that waited.
    pub fn stall(&mut self, id: RaftId, stalled: bool) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.stalled = stalled;
        if !stalled {
            let (run, waits): (u64, Vec<u64>) = (node.run, node.under_way.iter().map(|w| w.0).collect());
            for number in waits {
                self.at(self.now, id, Event::Synced { run, number });
            }
        }
    }

    pub fn pause(&mut self, id: RaftId, paused: bool) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.paused = paused;
        if !paused {
            let missed = std::mem::take(&mut node.missed);
            missed.into_iter().for_each(|event| self.at(self.now, id, event));
        }
    }

    pub fn cut(&mut self, a: RaftId, b: RaftId) {
        self.cuts.extend([(a, b), (b, a)]);
    }

    fn at(&mut self, at: u64, node: RaftId, event: Event) {
        self.events += 1;
        self.queue.insert((at, self.events), (node, event));
    }

    /// Of several that believe it, the one of the latest term.
    pub fn leader(&self) -> Option<RaftId> {
        let leads = |node: &Node| {
            let status = node.driver.as_ref()?.status().ok()?;
            (status.role == Role::Leader && !node.paused).then_some((status.term, node.id))
        };
        self.nodes.values().filter_map(leads).max().map(|(_, id)| id)
    }

    pub fn status(&self, id: RaftId) -> Status {
        self.nodes[&id].driver.as_ref().unwrap().status().unwrap().clone()
    }

    /// A client asks whoever leads; none: nobody took it.
    pub fn propose(&mut self) -> Option<Place> {
        let id = self.leader()?;
        self.commands += 1;
        let command = format!("command {}", self.commands).into_bytes();
        let placed = self.nodes.get_mut(&id)?.driver.as_mut()?.propose(command).ok();
        self.pump(id);
        placed
    }

    pub fn run(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    /// Until `done`, for so long at most. How long it took.
    pub fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        let (begun, end) = (self.now, self.now + ms);
        while !done(self) {
            let next = self.queue.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= end);
            let Some(at) = next else {
                self.now = end;
                return None;
            };
            self.now = self.now.max(at);
            let (_, (id, event)) = self.queue.pop_first().unwrap();
            self.handle(id, event);
        }
        Some(self.now - begun)
    }

    /// With a client that asks each so many ms.
    pub fn run_busy(&mut self, ms: u64, each_ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.propose();
            self.run(each_ms);
        }
    }

    fn handle(&mut self, id: RaftId, event: Event) {
        let tick_ms = self.timers.tick_ms;
        let now = BootMs(self.now);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.paused && node.driver.is_some() {
            // What its sockets cannot hold is lost; its timer and its disk are not.
            if node.missed.len() < 200 || !matches!(event, Event::Deliver { .. }) {
                node.missed.push_back(event);
            }
            return;
        }
        let Some(driver) = node.driver.as_mut() else { return };
        self.trace.update(&self.now.to_be_bytes()).update(&id.get().to_be_bytes());
        match event {
            Event::Deliver { from, bytes } => {
                self.trace.update(&bytes);
                match driver.receive(from, &bytes) {
                    Ok(_) | Err(ReceiveError::NotForUs { .. } | ReceiveError::Busy { .. }) => {}
                    Err(e) => panic!("seed {}: {e}", self.seed),
                }
            }
            Event::Synced { run, number } if run == node.run && !node.stalled => {
                // A disk that stalled in the meantime may tell of one twice.
                let Some((_, app)) = node.under_way.front().copied().filter(|w| w.0 == number) else { return };
                node.under_way.pop_front();
                node.disk.sync_some(1).unwrap();
                node.synced = app;
                driver.persisted(number).unwrap();
            }
            Event::Fetched { run, digest, bytes } if run == node.run => match driver.fetched(digest, bytes) {
                Ok(()) | Err(SnapshotError::NotAsked { .. }) => {}
                Err(e) => panic!("seed {}: {e}", self.seed),
            },
            Event::Tick { run } if run == node.run => {
                driver.tick(now).unwrap();
                self.at(self.now + tick_ms, id, Event::Tick { run });
            }
            _ => return,
        }
        self.pump(id);
    }

    /// Does what a voter wants done, and looks at it.
    pub fn pump(&mut self, id: RaftId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(driver) = node.driver.as_mut() else { return };
        let out = driver.take();
        let status = driver.status().unwrap().clone();
        if status.role == Role::Leader {
            node.term_led = Some(status.term);
            let (leader, _) = *self.leaders.entry(status.term).or_insert((id, self.now));
            assert_eq!(leader, id, "seed {}: two leaders in term {}", self.seed, status.term);
        }
        let mut sync_at = None;
        if let Some(work) = out.work {
            node.disk.write(&work.persist).unwrap();
            for apply in &work.apply {
                match apply {
                    Apply::Command { command, .. } => node.app.apply(command),
                    Apply::Restore { state, .. } => node.app = App::read(state),
                }
            }
            node.under_way.push_back((work.number, node.app));
            if !node.stalled {
                node.disk_free_at = node.disk_free_at.max(self.now + self.weather.disk_ms);
                sync_at = Some((node.disk_free_at, node.run, work.number));
            }
            self.look(id, &work.apply);
        }
        if let Some((at, run, number)) = sync_at {
            self.at(at, id, Event::Synced { run, number });
        }
        if out.snapshot_due {
            let node = self.nodes.get_mut(&id).unwrap();
            let (applied, state) = (status.applied, node.synced.bytes());
            node.driver.as_mut().unwrap().snapshot(applied, state).unwrap();
            self.pump(id);
        }
        out.messages.into_iter().for_each(|m| self.send(id, m));
        if let Some(fetch) = out.fetch {
            self.fetch(id, fetch);
        }
    }

    /// Every voter applies the same at each index, and a snapshot is the state that those before have made.
    fn look(&mut self, id: RaftId, applies: &[Apply]) {
        let seed = self.seed;
        for apply in applies {
            match apply {
                Apply::Command { index, term, command } => {
                    let known = self.committed.entry(*index).or_insert_with(|| (*term, command.clone()));
                    assert_eq!((known.0, &known.1), (*term, command), "seed {seed}: index {index} differs at {id}");
                    self.applied_at.entry(*index).or_insert(self.now);
                }
                Apply::Restore { index, state } => {
                    let (_, chain) = self.chains.range(..=*index).next_back().map_or((0, [0; 32]), |(i, c)| (*i, *c));
                    assert_eq!(App::read(state).chain, chain, "seed {seed}: the snapshot at {index} differs at {id}");
                }
            }
        }
        // The chain of the whole list, as far as it is known without a gap.
        let from = self.chains.last_key_value().map_or(0, |(i, _)| *i);
        let mut app = App { count: 0, chain: self.chains.get(&from).copied().unwrap_or_default() };
        for (index, (_, command)) in self.committed.range(from + 1..) {
            app.apply(command);
            self.chains.insert(*index, app.chain);
        }
    }

    fn send(&mut self, from: RaftId, message: Outgoing) {
        let Weather { delay_ms, jitter_ms, loss_percent, reorder_percent, twice_percent, .. } = self.weather;
        if matches!(Message::decode(&message.bytes).unwrap().body, Body::Snapshot(_)) {
            self.nodes.get_mut(&from).unwrap().snapshots_sent += 1;
        }
        if self.cuts.contains(&(from, message.to)) {
            return;
        }
        let copies = 1 + u64::from(self.random.percent(twice_percent));
        for _ in 0..copies {
            if self.random.percent(loss_percent) {
                continue;
            }
            let mut delay = delay_ms + self.random.below(jitter_ms + 1);
            if self.random.percent(reorder_percent) {
                delay += self.random.below(4 * (delay_ms + jitter_ms) + 2);
            }
            self.at(self.now + delay, message.to, Event::Deliver { from, bytes: message.bytes.clone() });
        }
    }

    fn fetch(&mut self, id: RaftId, fetch: Fetch) {
        let from = fetch.from;
        if self.cuts.contains(&(from, id)) || self.cuts.contains(&(id, from)) {
            return;
        }
        let Some(source) = self.nodes.get(&from).filter(|n| n.driver.is_some()) else { return };
        let Some(snapshot) = source.disk.load().unwrap().unwrap().snapshot else { return };
        if snapshot.meta.digest == fetch.meta.digest {
            let run = self.nodes[&id].run;
            let at = self.now + 3 * self.weather.delay_ms + 5;
            self.at(at, id, Event::Fetched { run, digest: snapshot.meta.digest, bytes: snapshot.state });
        }
    }

    /// Everybody up and connected.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.weather = Weather { loss_percent: 0, reorder_percent: 0, twice_percent: 0, ..self.weather };
        for id in self.ids() {
            self.stall(id, false);
            self.pause(id, false);
            if self.nodes[&id].driver.is_none() {
                self.start(id);
            }
        }
    }

    /// A command now proposed is applied by all within so many ms. A leader that is none any more may lose some before.
    pub fn all_agree_within(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            let Some(place) = self.propose() else {
                self.run(20);
                continue;
            };
            let applied = |n: &Node| n.driver.as_ref().unwrap().status().unwrap().applied;
            let all = |w: &Self| w.nodes.values().all(|n| applied(n) >= place.index);
            if self.run_until(1_000, all).is_some()
                && self.committed.get(&place.index).is_some_and(|c| c.0 == place.term)
            {
                return self.same_state();
            }
        }
        let status: Vec<_> = self.ids().into_iter().map(|id| self.status(id)).collect();
        panic!("seed {}: no agreement within {ms} ms: {status:#?}", self.seed);
    }

    /// What commands made of each voter is what all commands up to there make.
    fn same_state(&self) {
        for node in self.nodes.values() {
            let applied = self.status(node.id).applied;
            let chain = self.chains.range(..=applied).next_back().map_or([0; 32], |(_, chain)| *chain);
            assert_eq!(node.synced.chain, chain, "seed {}: the state of {}", self.seed, node.id);
        }
    }

    pub fn trace(&self) -> Digest {
        Digest(*self.trace.finalize().as_bytes())
    }
}
