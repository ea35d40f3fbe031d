//! Every order of events of one lease and one owner, within bounds, over the crate's own functions.
//!
//! Three clouds vote. `a` owns a service and renews; `b` and `c` hear it, judge it, and may have it called lost in favour of `b`. The log is one
//! sequence (that it is one is the consensus' affair), and an entry reaches it whenever the checker likes. Clocks count units of a
//! second; each may be one unit ahead of true time and fall back again, which is the most that the pact's drift allows over a ttl of three.
//! Messages are lost (never delivered), late, and out of order. A pause of any process is in it too: nothing that may happen has to.
//! `b` counts as writing from the instant at which the log makes it the owner, which is earlier than it can be.

#![allow(clippy::unwrap_used)] // a test fails loudly

mod kit;

use kit::*;
use pumasi_ownership::command::Lost;
use pumasi_ownership::liveness::{Fate, Hearing, Holder, Seal, Sights, may_write};
use pumasi_ownership::state::{Class, Health, Standing};
use pumasi_ownership::timers::{Profile, Timers};
use pumasi_ownership::*;
use pumasi_terms::{BootMs, CloudName, Epoch, MoveId, PactId, ServiceId};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

const UNIT_MS: u64 = 1_000;
const NAMES: [&str; 3] = ["a", "b", "c"];
static A: LazyLock<CloudName> = LazyLock::new(|| cloud("a"));
static B: LazyLock<CloudName> = LazyLock::new(|| cloud("b"));
static VOTERS: [&LazyLock<CloudName>; 2] = [&B, &C];
static C: LazyLock<CloudName> = LazyLock::new(|| cloud("c"));
static SHOP: LazyLock<ServiceId> = LazyLock::new(|| service(1));
const NO_TWO: &str = "no two clouds may write";
const OWNED: &str = "every service has an owner";
const ONLY_CANCEL: &str = "who was sealed writes again only after a cancel is in the log";

/// A margin and a wait of one unit each over a ttl of three, to the millisecond: nothing is to spare.
fn timers() -> Timers {
    Timers {
        ttl_ms: 2 * UNIT_MS,
        renew_ms: 100,
        drift_ppm: 332_333,
        stop_ms: 1,
        margin_ms: UNIT_MS,
        sync_wait_ms_max: 100,
        ..Profile::Lan.timers()
    }
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    ticks: u8,
    sends: u64,
    /// Whether the later ones may have a shorter ttl.
    lowers: bool,
    handovers: u32,
    reboots: u8,
    mutant: Option<Mutant>,
}

/// The log's outcome. Compared by what matters to anybody, and not by how many entries there were.
#[derive(Debug, Clone)]
struct Log(Arc<State>);

impl Log {
    fn key(&self) -> impl Iterator<Item = impl Hash + PartialEq> + '_ {
        let clouds = self.0.clouds.values().map(|c| {
            let standing = match c.standing {
                Standing::Alive => 0,
                Standing::Lost { .. } => 1,
                Standing::Returning { .. } | Standing::Left => 2,
            };
            (c.run, c.seq, c.ttl_ms, standing)
        });
        clouds.chain(self.0.services.values().map(|o| (o.epoch.0, u64::from(o.attempt), u64::from(o.owner == *A), 0)))
    }
    fn then(&self, by: &str, command: Command, mutant: Option<Mutant>) -> Self {
        let index = self.0.revision + 1;
        Self(Arc::new(apply(State::clone(&self.0), index, &Entry::new(cloud(by), command), rules().planted(mutant)).0))
    }
    fn owner(&self) -> &str {
        self.0.services.get(&*SHOP).map_or("nobody", |o| o.owner.as_str())
    }
}
impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        self.key().eq(other.key())
    }
}
impl Hash for Log {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.key().for_each(|part| part.hash(h));
    }
}

/// `Lost`, proposed and not yet in the log: what was waited for, and what both voters attest.
#[derive(Debug, Clone, PartialEq, Hash)]
struct Proposed {
    run: u64,
    seq: u64,
    silent_ms: [u64; 2],
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct World {
    tick: u8,
    ahead: [bool; 3],
    log: Log,
    /// What `a` has applied of it.
    view: Log,
    holder: Arc<Holder>,
    sends: u64,
    /// Those that the log may still take.
    sent: Arc<Vec<(u64, u64, u64)>>,
    /// (seq, run) that reached `b`, `c`.
    reached: [BTreeSet<(u64, u64)>; 2],
    answers: BTreeSet<(u64, u64)>,
    sights: [Arc<Sights>; 2],
    hearing: [Arc<Hearing>; 2],
    proposed: Option<Proposed>,
    seal: Option<Seal>,
    /// Handovers that `a` has begun; whether each one's transfer and cancel are on their way.
    begun: u32,
    transfer: Option<u32>,
    cancel: Option<u32>,
    resumed: Option<Seal>,
    reboots: u8,
}

impl World {
    fn now(&self, who: usize) -> BootMs {
        BootMs((u64::from(self.tick) + u64::from(self.ahead[who])) * UNIT_MS)
    }
    /// What the log has, or will not take any more, is nothing to come. (To hear it still would only hinder a loss.)
    fn forget(&mut self) {
        let known = self.log.0.clouds.get(&*A).map_or((0, 0), |c| (c.run, c.seq));
        Arc::make_mut(&mut self.sent).retain(|s| (s.0, s.1) > known);
        for reached in &mut self.reached {
            reached.retain(|id| *id > known);
        }
    }
    /// `b` and `c` are alike, whichever of them takes it: the same story with both exchanged is looked at once.
    fn ordered(&mut self) {
        let key = |v: usize| {
            let mut hasher = std::hash::DefaultHasher::new();
            (self.ahead[v + 1], &self.reached[v], &self.sights[v], &self.hearing[v]).hash(&mut hasher);
            hasher.finish()
        };
        if key(0) > key(1) {
            self.ahead.swap(1, 2);
            self.reached.swap(0, 1);
            self.sights.swap(0, 1);
            self.hearing.swap(0, 1);
        }
    }
    fn renewal(&self, (run, seq, ttl_ms): (u64, u64, u64)) -> Renewal {
        Renewal { cloud: A.clone(), run, seq, ttl_ms, free: room(0, 0), health: Health::Well }
    }
    /// `b` and `c` apply at once; `a` when the checker likes.
    fn enter(&mut self, by: &str, command: Command, mutant: Option<Mutant>) {
        self.log = self.log.then(by, command, mutant);
        for v in 0..2 {
            let now = self.now(v + 1);
            Arc::make_mut(&mut self.sights[v]).applied(&self.log.0, now);
        }
    }
    fn a_writes(&self) -> bool {
        let Some(owned) = self.view.0.services.get(&*SHOP) else { return false };
        may_write(&self.view.0, (&*SHOP, owned.epoch), &self.holder, self.seal.is_some(), self.now(0)).is_ok()
    }
    fn send(&mut self, ttl_ms: u64) {
        let now = self.now(0);
        let sent =
            Arc::make_mut(&mut self.holder).send(now, ttl_ms, &self.view.0.voting.timers, (room(0, 0), Health::Well));
        self.sends += 1;
        Arc::make_mut(&mut self.sent).push((sent.run, sent.seq, sent.ttl_ms));
    }
    fn reach(&mut self, v: usize, (run, seq): (u64, u64)) {
        let now = self.now(v + 1);
        Arc::make_mut(&mut self.sights[v]).saw(&A, run, seq, now);
        Arc::make_mut(&mut self.hearing[v]).heard(&self.log.0, &A, now);
        self.reached[v].insert((run, seq));
    }
    fn lost(&self, by: &Proposed) -> Lost {
        let says = |silent_ms| Attestation {
            version: 1,
            pact: self.log.0.pact.clone(),
            cloud: A.clone(),
            run: by.run,
            seq: by.seq,
            nonce: 1,
            silent_ms,
        };
        let signed = |v: usize| unsigned(VOTERS[v], &says(by.silent_ms[v]));
        let epoch = self.log.0.services.get(&*SHOP).map_or(0, |o| o.epoch.0);
        Lost {
            cloud: A.clone(),
            run: by.run,
            seen_seq: by.seq,
            nonce: 1,
            attestations: vec![signed(0), signed(1)],
            plan: vec![taken(1, epoch, "b", 1, 1)],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Hash)]
enum Act {
    Tick([bool; 3]),
    Send(u64),
    Reach(usize, (u64, u64)),
    Append((u64, u64, u64)),
    Answer((u64, u64)),
    Propose(usize),
    AppendLost,
    LeaderChanges,
    Learn,
    RebootA,
    RebootVoter(usize),
    Rejoin,
    Seal,
    AskCancel,
    AppendTransfer,
    AppendCancel,
    Unseal,
}

impl Model for Bounds {
    type State = World;
    type Action = Act;

    /// `a` has sent its first renewal, both have it, and no answer has arrived.
    fn init_states(&self) -> Vec<World> {
        let mut log = Log(Arc::new(State::new(PactId::from_entropy(1), voting(&NAMES, timers())).unwrap()));
        for name in NAMES {
            log = log.then(name, Command::Join { cloud: cloud(name), run: 1 }, None);
        }
        let renewals = ["b", "c"].map(|n| Renewal {
            cloud: cloud(n),
            run: 1,
            seq: 1,
            ttl_ms: 2 * UNIT_MS,
            free: room(0, 0),
            health: Health::Well,
        });
        log = log.then("b", Command::Renew { elapsed_ms: 0, renewals: renewals.to_vec() }, None);
        let shop = Box::new(agreed("shop", Class::Guaranteed, 1, (1, 1), &["b"]));
        log = log.then("a", Command::Protect { service: SHOP.clone(), epoch: Epoch(1), agreed: shop }, None);
        let start = BootMs(0);
        let world = World {
            tick: 0,
            ahead: [false; 3],
            view: log.clone(),
            holder: Arc::new(Holder::new(A.clone(), 1).planted(self.mutant)),
            sends: 0,
            sent: Arc::default(),
            reached: [BTreeSet::new(), BTreeSet::new()],
            answers: BTreeSet::new(),
            sights: [0, 1].map(|_| Arc::new(Sights::start(&log.0, start).planted(self.mutant))),
            hearing: [0, 1].map(|_| Arc::new(Hearing::start(start))),
            log,
            proposed: None,
            seal: None,
            begun: 0,
            transfer: None,
            cancel: None,
            resumed: None,
            reboots: self.reboots,
        };
        // Its clock may already be ahead: then it falls back, and is slow.
        [false, true]
            .into_iter()
            .map(|ahead| {
                let mut world = world.clone();
                world.ahead[0] = ahead;
                world.send(3 * UNIT_MS);
                (0..2).for_each(|v| world.reach(v, (1, 1)));
                self.next_state(&world, Act::Append((1, 1, 3 * UNIT_MS))).unwrap_or(world)
            })
            .collect()
    }

    fn actions(&self, w: &World, acts: &mut Vec<Act>) {
        if w.tick < self.ticks {
            acts.extend((0..8u8).map(|bits| Act::Tick([bits & 1 > 0, bits & 2 > 0, bits & 4 > 0])));
        }
        if w.sends < self.sends {
            acts.push(Act::Send(3 * UNIT_MS));
            acts.extend(self.lowers.then_some(Act::Send(2 * UNIT_MS)));
        }
        let known = &w.log.0.clouds[&*A];
        for sent in w.sent.iter() {
            let id = (sent.0, sent.1);
            acts.extend((0..2).filter(|v| !w.reached[*v].contains(&id)).map(|v| Act::Reach(v, id)));
            let there = w.reached.iter().any(|r| r.contains(&id));
            if there
                && id > (known.run, known.seq)
                && sent.0 == known.run
                && !matches!(known.standing, Standing::Lost { .. })
            {
                acts.push(Act::Append(*sent));
            }
        }
        acts.extend(w.answers.iter().map(|id| Act::Answer(*id)));
        if w.proposed.is_none() {
            acts.extend((0..2).map(Act::Propose));
        } else {
            acts.extend([Act::AppendLost, Act::LeaderChanges]);
        }
        if w.view != w.log {
            acts.push(Act::Learn);
        }
        if w.reboots > 0 {
            acts.extend([Act::RebootA, Act::RebootVoter(0), Act::RebootVoter(1)]);
        }
        if w.holder.run() > known.run {
            acts.push(Act::Rejoin);
        }
        match w.seal {
            None if w.begun < self.handovers && w.view.owner() == "a" => acts.push(Act::Seal),
            Some(seal) if w.cancel.is_none_or(|n| n < seal.attempt) => acts.push(Act::AskCancel),
            _ => {}
        }
        acts.extend(w.transfer.map(|_| Act::AppendTransfer));
        acts.extend(w.cancel.map(|_| Act::AppendCancel));
        if w.seal.is_some_and(|s| s.fate(&w.view.0, &SHOP, &A) == Fate::Resumes) {
            acts.push(Act::Unseal);
        }
        // Whoever lost it gains nothing any more but by an answer, or by what it reads in the log: its clock only runs on.
        if w.log.owner() != "a" {
            acts.retain(|act| {
                matches!(act, Act::Answer(_) | Act::Learn | Act::Unseal | Act::AppendTransfer | Act::AppendCancel)
            });
        }
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut w = last.clone();
        match act {
            Act::Tick(ahead) => (w.tick, w.ahead) = (w.tick + 1, ahead),
            Act::Send(ttl_ms) => w.send(ttl_ms),
            Act::Reach(v, id) => w.reach(v, id),
            Act::Append(sent) => {
                for v in 0..2 {
                    let now = w.now(v + 1);
                    Arc::make_mut(&mut w.sights[v]).saw(&A, sent.0, sent.1, now);
                }
                let renewals = vec![w.renewal(sent)];
                w.enter("b", Command::Renew { elapsed_ms: 0, renewals }, self.mutant);
                w.answers.insert((sent.0, sent.1));
            }
            Act::Answer((run, seq)) => {
                let now = w.now(0);
                Arc::make_mut(&mut w.holder).answered(run, seq, now);
                w.answers.remove(&(run, seq));
            }
            Act::Propose(v) => {
                let ripe = w.sights[v].ripe_at(&w.log.0, VOTERS[v], &A)?;
                if w.now(v + 1) < ripe {
                    return None;
                }
                let heard = |v: usize| w.hearing[v].attest(&w.log.0, &A, 1, w.now(v + 1));
                let (b, c) = (heard(0)?, heard(1)?);
                w.proposed = Some(Proposed { run: b.run, seq: b.seq, silent_ms: [b.silent_ms, c.silent_ms] });
            }
            Act::AppendLost => {
                let lost = w.lost(&w.proposed.clone()?);
                w.proposed = None;
                w.enter("b", Command::Lost(Box::new(lost)), self.mutant);
            }
            // What the old one had not entered is gone. How often is not counted: it adds nothing.
            Act::LeaderChanges => w.proposed = None,
            Act::Learn => w.view = w.log.clone(),
            Act::RebootA => {
                w.holder = Arc::new(Holder::new(A.clone(), w.holder.run() + 1).planted(self.mutant));
                (w.answers, w.reboots) = (BTreeSet::new(), w.reboots - 1);
            }
            Act::RebootVoter(v) => {
                let now = w.now(v + 1);
                w.sights[v] = Arc::new(Sights::start(&w.log.0, now).planted(self.mutant));
                (w.hearing[v], w.reboots) = (Arc::new(Hearing::start(now)), w.reboots - 1);
            }
            Act::Rejoin => {
                let run = w.holder.run();
                w.enter("a", Command::Rejoin { cloud: A.clone(), run }, self.mutant);
            }
            Act::Seal => {
                let epoch = w.view.0.services.get(&*SHOP)?.epoch;
                w.seal = Some(Seal { epoch, attempt: w.begun });
                (w.transfer, w.begun) = (Some(w.begun), w.begun + 1);
            }
            Act::AskCancel => w.cancel = Some(w.seal?.attempt),
            Act::AppendTransfer => {
                let attempt = w.transfer.take()?;
                let id = MoveId::from_entropy(attempt.into());
                let positions = BTreeMap::new();
                let command =
                    Command::Transfer { service: SHOP.clone(), epoch: Epoch(1), to: B.clone(), id, attempt, positions };
                w.enter("a", command, self.mutant);
            }
            Act::AppendCancel => {
                let attempt = w.cancel.take()?;
                let id = MoveId::from_entropy(attempt.into());
                w.enter("a", Command::Cancel { service: SHOP.clone(), epoch: Epoch(1), id, attempt }, self.mutant);
            }
            Act::Unseal => w.resumed = w.seal.take(),
        }
        w.forget();
        w.ordered();
        Some(w)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(NO_TWO, |_, w: &World| !w.a_writes() || w.log.owner() == "a"),
            Property::always(OWNED, |_, w: &World| {
                w.log.0.services.get(&*SHOP).is_some_and(|o| w.log.0.clouds.contains_key(&o.owner))
            }),
            Property::always(ONLY_CANCEL, |_, w: &World| {
                let of_log = |seal: Seal| {
                    w.log.0.services.get(&*SHOP).map_or(0, |o| if o.epoch == seal.epoch { o.attempt } else { u32::MAX })
                };
                w.resumed.is_none_or(|seal| of_log(seal) > seal.attempt)
            }),
            Property::sometimes("a writes", |_, w: &World| w.a_writes()),
        ];
        if self.ticks >= 3 {
            all.push(Property::sometimes("b takes over", |_, w: &World| w.log.owner() == "b" && w.begun == 0));
        }
        if self.handovers > 0 {
            all.push(Property::sometimes("b is handed it", |_, w: &World| w.log.owner() == "b" && w.tick == 0));
            all.push(Property::sometimes("a resumes and writes", |_, w: &World| w.resumed.is_some() && w.a_writes()));
        }
        all
    }
}

const LEASE: Bounds = Bounds { ticks: 4, sends: 2, lowers: true, handovers: 0, reboots: 0, mutant: None };
const REBOOT: Bounds = Bounds { ticks: 3, sends: 2, lowers: false, handovers: 0, reboots: 1, mutant: None };
const HANDOVER: Bounds = Bounds { ticks: 3, sends: 1, lowers: false, handovers: 2, reboots: 1, mutant: None };

fn exhaust(what: &str, bounds: Bounds) {
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    eprintln!("{what}: {} states, {} deep", checker.unique_state_count(), checker.max_depth());
    assert!(checker.is_done(), "{what} was not exhausted");
    checker.assert_properties();
}

#[test]
fn nothing_that_can_happen_to_a_lease_lets_two_clouds_write() {
    exhaust("lease", LEASE);
}

#[test]
fn nothing_that_can_happen_around_a_reboot_lets_two_clouds_write() {
    exhaust("reboot", REBOOT);
}

#[test]
fn nothing_that_can_happen_to_a_handover_lets_two_clouds_write() {
    exhaust("handover", HANDOVER);
}

/// The shortest story in which the planted fault breaks the property.
fn finds(mutant: Mutant, bounds: Bounds, property: &'static str) {
    let planted = Bounds { mutant: Some(mutant), ..bounds };
    let found = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = planted.checker().threads(2).finish_when(found).timeout(Duration::from_secs(60)).spawn_bfs().join();
    let path = checker
        .discovery(property)
        .unwrap_or_else(|| panic!("{mutant:?} was not found in {} states", checker.unique_state_count()));
    let acts: Vec<_> = path.into_actions().iter().map(|a| format!("{a:?}")).collect();
    eprintln!("{mutant:?}: {} states, {}", checker.unique_state_count(), acts.join(" "));
}

#[test]
fn a_taker_that_waits_too_short_is_found() {
    finds(Mutant::TakerWaitsTooShort, LEASE, NO_TWO);
}

#[test]
fn a_loss_that_forgets_the_last_renewal_is_found() {
    finds(Mutant::LostWithoutSeq, LEASE, NO_TWO);
}

#[test]
fn a_holder_that_counts_from_the_answer_is_found() {
    finds(Mutant::HolderCountsFromAnswer, LEASE, NO_TWO);
}

#[test]
fn a_lowered_ttl_that_binds_only_from_the_answer_is_found() {
    finds(Mutant::LoweredTtlCountsFromAnswer, LEASE, NO_TWO);
}

#[test]
fn a_taker_that_uses_its_own_ttl_is_found() {
    finds(Mutant::TakerUsesItsOwnTtl, LEASE, NO_TWO);
}

#[test]
fn a_cancel_that_is_forgotten_is_found() {
    finds(Mutant::CancelForgotten, HANDOVER, NO_TWO);
}
