//! How long a plan for 1,000 services over three unequal clouds takes, and how near it is to the best: `cargo run --release -p pumasi-ownership --example recovery`.
//!
//! The best is bounded from above without a solver: for each kind of resource, services may be cut into any pieces (then it is a flow from services
//! to their heirs' clouds, and its greatest is its least cut over the eight sets of clouds). No real placement can be above it.

#![allow(clippy::unwrap_used, clippy::disallowed_types)] // a tool, and it measures time

use pumasi_ownership::recover::{Outcome, Policy, Report};
use pumasi_ownership::state::{Class, Cloud, Health, Mode, Pace, Phase, Role, StandbyAt, Standing, Takeover};
use pumasi_ownership::timers::Profile;
use pumasi_ownership::{Agreed, Owned, State, Voting, recover};
use pumasi_terms::{
    CloudName, Digest, Epoch, Generation, LeaseId, PactId, Position, Resources, Serial, ServiceId, ServiceName,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

const SERVICES: u32 = 1_000;
const HEIRS: [&str; 3] = ["b", "c", "d"];
/// What each of the three has of all that is needed, in percent of `percent`.
const UNEQUAL: [u64; 3] = [50, 30, 20];

/// xorshift64*: the same plan each time.
struct Chance(u64);
impl Chance {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        u32::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40).unwrap() % n
    }
}

fn cloud(name: &str) -> CloudName {
    CloudName::parse(name).unwrap()
}

fn service(n: u32, chance: &mut Chance, class: Class) -> Owned {
    let mut heirs: Vec<&str> = HEIRS.to_vec();
    heirs.swap(0, chance.below(3) as usize);
    heirs.swap(1, 1 + chance.below(2) as usize);
    let two = 2 + usize::from(chance.below(4) == 0);
    let standby = |c: &str| StandbyAt { cloud: cloud(c), lease: LeaseId::from_entropy(1), warm: 0 };
    let full = 1 + chance.below(4);
    let agreed = Agreed {
        name: ServiceName::parse(format!("s{n}")).unwrap(),
        hosts: BTreeSet::from([format!("s{n}.example")]),
        class,
        priority: chance.below(10),
        unit: Resources { cpu_millis: 100 + 50 * chance.below(19), memory_mib: 64 + 32 * chance.below(31) },
        full,
        least: full.min(1 + chance.below(2)),
        mode: Mode::Async,
        standbys: heirs.iter().take(two).map(|c| standby(c)).collect(),
        agreement: Digest([0; 32]),
        takeover: Takeover::Automatic,
    };
    Owned {
        owner: cloud("a"),
        epoch: Epoch(1),
        since_rev: 0,
        phase: Phase::Serving,
        agreed,
        in_sync: BTreeSet::new(),
        sync_count: 0,
        base: BTreeMap::new(),
        keys: BTreeMap::new(),
        attempt: 0,
    }
}

fn world(seed: u64, percent: u64, class: impl Fn(u32) -> Class) -> (State, BTreeMap<CloudName, Report>) {
    let mut chance = Chance(seed);
    let services: BTreeMap<_, _> =
        (0..SERVICES).map(|n| (ServiceId::from_entropy(n.into()), service(n, &mut chance, class(n)))).collect();
    let all = ["a", "b", "c", "d"];
    let known = Cloud {
        run: 1,
        seq: 1,
        ttl_ms: 2_200,
        standing: Standing::Alive,
        free: Resources::default(),
        health: Health::Well,
        probation_ms: 30_000,
        lost_at_ms: None,
    };
    let voting = Voting {
        serial: Serial(1),
        digest: Digest([0; 32]),
        members: all.iter().map(|c| (cloud(c), Role::Cloud)).collect(),
        voters: BTreeMap::new(),
        timers: Profile::Default.timers(),
        pace: Pace::default(),
    };
    let need = |of: fn(Resources) -> u32| -> u64 {
        services.values().map(|o| u64::from(of(o.agreed.unit.times(o.agreed.full)))).sum()
    };
    let (cpu, memory) = (need(|r| r.cpu_millis), need(|r| r.memory_mib));
    let copies: BTreeMap<_, _> =
        services.keys().map(|id| (id.clone(), Position::new(Generation(1), chance.below(40).into()))).collect();
    let part = |whole: u64, of: u64| u32::try_from(whole * percent * of / 10_000).unwrap();
    let reports = HEIRS.iter().zip(UNEQUAL).map(|(c, of)| {
        let free = Resources { cpu_millis: part(cpu, of), memory_mib: part(memory, of) };
        (cloud(c), Report { free, copies: copies.clone(), ..Report::default() })
    });
    let state = State {
        version: 1,
        pact: PactId::from_entropy(1),
        revision: 1,
        elapsed_ms: 0,
        voting,
        clouds: all.iter().map(|c| (cloud(c), known.clone())).collect(),
        services: services.clone(),
        ended: BTreeMap::new(),
        recovery: BTreeMap::new(),
        moved: VecDeque::new(),
        losses: VecDeque::new(),
    };
    (state, reports.collect())
}

/// The least cut: for each set of clouds, their room and all that may live outside of it.
fn bound(state: &State, reports: &BTreeMap<CloudName, Report>, of: fn(Resources) -> u32) -> u64 {
    let inside = |set: u32, c: &str| HEIRS.iter().position(|h| *h == c).is_some_and(|i| set & (1 << i) > 0);
    let cut = |set: u32| {
        let room: u64 =
            reports.iter().filter(|(c, _)| inside(set, c.as_str())).map(|(_, r)| u64::from(of(r.free))).sum();
        let beyond =
            state.services.values().filter(|o| o.agreed.standbys.iter().any(|s| !inside(set, s.cloud.as_str())));
        room + beyond.map(|o| u64::from(of(o.agreed.unit.times(o.agreed.full)))).sum::<u64>()
    };
    (0..8).map(cut).min().unwrap()
}

fn main() {
    println!("{SERVICES} services over three clouds of {UNEQUAL:?} %; room in percent of the need; medians of 5 seeds");
    println!(
        "{:>12} {:>6} {:>9} {:>9} {:>7} {:>9} {:>8}",
        "classes", "room", "plan ms", "of bound", "whole", "degraded", "waiting"
    );
    for (what, class) in [
        ("guaranteed", (|_| Class::Guaranteed) as fn(u32) -> Class),
        ("mixed", |n| [Class::Guaranteed, Class::Early, Class::Deferred][n as usize % 3]),
    ] {
        for percent in [150, 102, 100, 90, 60] {
            let mut rows: Vec<_> = (1..=5u64).map(|seed| row(seed * 7_919, percent, class)).collect();
            rows.sort_by_key(|r| r.0);
            let (slowest, median) = (rows[4].0, rows[2].0);
            rows.sort_by_key(|r| r.1);
            let (_, share, [whole, degraded, waiting]) = rows[2];
            let (ms, share) =
                (format!("{:.1}<{:.1}", f64::from(median) / 1e3, f64::from(slowest) / 1e3), f64::from(share) / 1e4);
            println!("{what:>12} {percent:>6} {ms:>9} {share:>8.2}% {whole:>7} {degraded:>9} {waiting:>8}");
        }
    }
}

/// Microseconds, parts per million of the bound (of the scarcer resource), and how the services ended.
fn row(seed: u64, percent: u64, class: fn(u32) -> Class) -> (u32, u32, [u32; 3]) {
    let (state, reports) = world(seed, percent, class);
    let begun = Instant::now();
    let recovery = recover(&state, &reports, &cloud("a"), Policy { deferred: true });
    let took = begun.elapsed();
    let (mut placed, mut ends) = (Resources::default(), [0u32; 3]);
    for v in &recovery.items {
        let (have, end) = match &v.outcome {
            Outcome::Full { instances, .. } => (*instances, 0),
            Outcome::Degraded { have, .. } => (*have, 1),
            Outcome::Waiting { .. } | Outcome::Impossible { .. } => (0, 2),
        };
        placed = placed.plus(state.services[&v.service].agreed.unit.times(have));
        ends[end] += 1;
    }
    let share =
        |placed: u32, of: fn(Resources) -> u32| u64::from(placed) * 1_000_000 / bound(&state, &reports, of).max(1);
    let best = share(placed.cpu_millis, |r| r.cpu_millis).max(share(placed.memory_mib, |r| r.memory_mib));
    (u32::try_from(took.as_micros()).unwrap(), u32::try_from(best).unwrap(), ends)
}
