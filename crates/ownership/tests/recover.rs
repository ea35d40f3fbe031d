//! Plans of recovery: what must hold of each, and how near they are to the best.

#![allow(clippy::unwrap_used)] // a test helper fails loudly

mod kit;

use kit::*;
use proptest::prelude::*;
use pumasi_ownership::command::{Command, How, Progress};
use pumasi_ownership::recover::{GivesWay, Outcome, Policy, Report, Wait};
use pumasi_ownership::state::{Class, Mode, StandbyAt, Takeover};
use pumasi_ownership::*;
use pumasi_terms::pact::GiveWay;
use pumasi_terms::{CloudName, Epoch, Generation, LeaseId, Position, Resources, ServiceName};
use std::collections::BTreeMap;

const LATER: Policy = Policy { deferred: true };
const NOW: Policy = Policy { deferred: false };

fn report(free: Resources) -> Report {
    Report { free, ..Report::default() }
}

/// Everybody has a copy of every service of `a`, as fresh as the others'.
fn reports(state: &State, free: &[(&str, u32)]) -> BTreeMap<CloudName, Report> {
    let copies: BTreeMap<_, _> =
        state.services.keys().map(|id| (id.clone(), Position::new(Generation(1), 9))).collect();
    free.iter()
        .map(|(name, n)| (cloud(name), Report { copies: copies.clone(), ..report(room(n * 100, n * 100)) }))
        .collect()
}

fn story(recovery: &Recovery) -> Vec<String> {
    let one = |v: &recover::Verdict| match &v.outcome {
        Outcome::Full { to, instances } => format!("{} {to} {instances}", v.name),
        Outcome::Degraded { to, have, want, grows, .. } => format!("{} {to} {have}/{want} +{}", v.name, grows.len()),
        Outcome::Waiting { place, .. } => format!("{} waits {place}", v.name),
        Outcome::Impossible { .. } => format!("{} impossible", v.name),
    };
    recovery.items.iter().map(one).collect()
}

fn three() -> Register {
    let mut r = Register::new(&["a", "b", "c", "d"]);
    r.protects("a", 1, &agreed("bank", Class::Guaranteed, 9, (1, 3), &["b", "c"]));
    r.protects("a", 2, &agreed("mail", Class::Early, 5, (1, 3), &["b", "c"]));
    r.protects("a", 3, &agreed("wiki", Class::Deferred, 5, (1, 1), &["c"]));
    r
}

#[test]
fn guaranteed_is_whole_early_begins_small_and_grows_deferred_waits_its_time() {
    let r = three();
    let free = reports(&r.state, &[("b", 3), ("c", 3)]);
    let now = recover(&r.state, &free, &cloud("a"), NOW);
    assert_eq!(story(&now), ["bank b 3", "mail c 3", "wiki waits 1"]);
    assert!(matches!(now.items[2].outcome, Outcome::Waiting { why: Wait::NotYet, .. }));
    let later = recover(&r.state, &reports(&r.state, &[("b", 3), ("c", 4)]), &cloud("a"), LATER);
    assert_eq!(story(&later), ["bank b 3", "mail c 3", "wiki c 1"]);
    let short = recover(&r.state, &reports(&r.state, &[("b", 2), ("c", 1)]), &cloud("a"), LATER);
    assert_eq!(story(&short), ["bank b 2/3 +0", "mail c 1/3 +0", "wiki waits 1"], "most of it at the largest");
    let Outcome::Waiting { why: Wait::Room { at, needs }, .. } = &short.items[2].outcome else { panic!("{short:?}") };
    assert_eq!((at, *needs), (&cloud("c"), room(100, 100)));
}

#[test]
fn the_plan_is_what_the_register_then_does() {
    let mut r = three();
    let recovery = recover(&r.state, &reports(&r.state, &[("b", 3), ("c", 3)]), &cloud("a"), NOW);
    let lost = r.lost("a", &["b", "c"], recovery.plan());
    r.does("b", Command::Lost(Box::new(lost)));
    assert_eq!(
        (r.refused(), r.owner(1), r.owner(2), r.owner(3)),
        (None, ("b".into(), 2), ("c".into(), 2), ("a".into(), 1))
    );
}

#[test]
fn what_an_owner_gives_up_goes_to_another_standby_and_nothing_else_does() {
    let mut r = three();
    r.does("a", Command::Yield { service: service(3), epoch: Epoch(1), why: "its disk takes no write".into() });
    r.does("a", Command::Yield { service: service(1), epoch: Epoch(1), why: "its disk takes no write".into() });
    let free = reports(&r.state, &[("b", 3), ("c", 3)]);
    let relief = recover::relieve(&r.state, &free, &cloud("a"));
    assert_eq!(story(&relief), ["bank b 3", "wiki c 1"], "also a deferred one: nobody serves it");
    for item in relief.plan() {
        r.does("b", Command::Relieve { item });
        assert_eq!(r.refused(), None);
    }
    assert_eq!((r.owner(1), r.owner(2), r.owner(3)), (("b".into(), 2), ("a".into(), 1), ("c".into(), 2)));
    // It writes again, says so first, and nobody relieves it.
    r.does("a", Command::Yield { service: service(2), epoch: Epoch(1), why: String::new() });
    let late = recover::relieve(&r.state, &free, &cloud("a")).plan();
    let items = vec![Progress {
        service: service(2),
        epoch: Epoch(1),
        how: How::Degraded { have: 0, want: 3 },
        base: BTreeMap::new(),
    }];
    r.does("a", Command::Serving { items });
    r.does("b", Command::Relieve { item: late[0].clone() });
    assert!(r.refused().is_some() && r.owner(2) == ("a".into(), 1));
}

#[test]
fn an_earlier_one_moves_over_where_that_makes_room() {
    let mut r = Register::new(&["a", "b", "c"]);
    r.protects("a", 1, &agreed("first", Class::Guaranteed, 9, (1, 2), &["b", "c"]));
    r.protects("a", 2, &agreed("second", Class::Guaranteed, 5, (1, 2), &["b"]));
    let recovery = recover(&r.state, &reports(&r.state, &[("b", 2), ("c", 2)]), &cloud("a"), NOW);
    assert_eq!(story(&recovery), ["first c 2", "second b 2"]);
}

#[test]
fn the_freshest_copy_is_preferred_and_a_synchronous_one_must_be_complete() {
    let mut r = three();
    let mut free = reports(&r.state, &[("b", 9), ("c", 9)]);
    free.get_mut(&cloud("c")).unwrap().copies.insert(service(1), Position::new(Generation(1), 10));
    assert_eq!(story(&recover(&r.state, &free, &cloud("a"), NOW))[0], "bank c 3");
    r.protects("a", 1, &Agreed { mode: Mode::Sync, ..agreed("bank", Class::Guaranteed, 9, (1, 3), &["b", "c"]) });
    let none = recover(&r.state, &free, &cloud("a"), NOW);
    assert_eq!(story(&none)[0], "bank impossible");
    let Outcome::Impossible { why, mend } = &none.items[0].outcome else { panic!() };
    assert!(why.contains("synchronous") && mend.contains("back"), "{why} {mend}");
    r.does("a", Command::InSync { service: service(1), epoch: Epoch(1), set: [cloud("b")].into(), after: None });
    assert_eq!(
        story(&recover(&r.state, &free, &cloud("a"), NOW))[0],
        "bank b 3",
        "though its position is the older one"
    );
}

#[test]
fn what_gives_way_is_named_with_its_time_and_counted_once() {
    let r = three();
    let mut free = reports(&r.state, &[("b", 1), ("c", 0)]);
    let gives = |name: &str, in_ms| GivesWay {
        what: ServiceName::parse(name).unwrap(),
        rented_to: None,
        room: room(100, 100),
        in_ms,
    };
    free.get_mut(&cloud("b")).unwrap().gives_way =
        vec![gives("late", 9_000), gives("soon", 1_000), gives("mid", 5_000)];
    let recovery = recover(&r.state, &free, &cloud("a"), NOW);
    assert_eq!(story(&recovery), ["bank b 1/3 +2", "mail b 0/3 +1", "wiki waits 1"]);
    let Outcome::Degraded { grows, grows_to, .. } = &recovery.items[0].outcome else { panic!() };
    assert_eq!(*grows_to, 3);
    assert_eq!(grows.iter().map(|g| g.in_ms).collect::<Vec<_>>(), [1_000, 5_000]);
}

#[test]
fn a_cloud_settles_as_the_plan_said() {
    let r = three();
    let own = |name: &str, priority, count| room::Own {
        service: ServiceName::parse(name).unwrap(),
        priority,
        unit: room(100, 100),
        count,
        in_ms: 9_000,
    };
    for free in 0..6 {
        let ways = room::ways(GiveWay::OwnDeferred, &[own("late", 1, 2), own("soon", 2, 1)], &[]);
        let mut reports = reports(&r.state, &[("b", free), ("c", 0)]);
        reports.get_mut(&cloud("b")).unwrap().gives_way = ways.iter().map(|w| w.gives.clone()).collect();
        let plan = recover(&r.state, &reports, &cloud("a"), NOW);
        let (mut planned, mut given) = (Vec::new(), 0);
        for v in &plan.items {
            match &v.outcome {
                Outcome::Full { instances, .. } => planned.push(*instances),
                Outcome::Degraded { grows, grows_to, .. } => {
                    planned.push(*grows_to);
                    given += grows.len();
                }
                _ => planned.push(0),
            }
        }
        let guest = |n: u128, class, priority| room::Guest {
            id: service(n),
            class,
            priority,
            unit: room(100, 100),
            full: 3,
            least: 1,
        };
        let guests = [guest(1, Class::Guaranteed, 9), guest(2, Class::Early, 5)];
        let settled = room::settle(room(free * 100, free * 100), &guests, &ways);
        assert_eq!((settled.counts, settled.given.len()), (planned[..2].to_vec(), given), "free for {free}");
    }
}

#[test]
fn who_may_not_take_is_not_asked_and_each_impossibility_has_a_mend() {
    let mut r = three();
    r.protects("a", 4, &agreed("lone", Class::Guaranteed, 1, (1, 1), &[]));
    r.protects("a", 5, &agreed("huge", Class::Guaranteed, 1, (50, 50), &["b"]));
    r.protects("a", 6, &Agreed { takeover: Takeover::Ask, ..agreed("asks", Class::Guaranteed, 1, (1, 1), &["b"]) });
    r.protects("a", 7, &agreed("vast", Class::Early, 1, (30, 30), &["b"]));
    let mut free = reports(&r.state, &[("b", 9), ("c", 9)]);
    free.get_mut(&cloud("b")).unwrap().whole = Some(room(2_000, 2_000));
    free.get_mut(&cloud("c")).unwrap().stopped = true;
    let recovery = recover(&r.state, &free, &cloud("a"), LATER);
    assert_eq!(
        story(&recovery),
        [
            "bank b 3",
            "lone impossible",
            "huge b 6/50 +0",
            "asks waits 1",
            "mail waits 2",
            "vast impossible",
            "wiki impossible"
        ]
    );
    for item in &recovery.items {
        if let Outcome::Impossible { why, mend } = &item.outcome {
            assert!(why.contains(item.name.as_str()) && !mend.is_empty(), "{why}");
        }
    }
    let lost = r.lost("c", &["b", "a"], vec![]);
    r.does("b", Command::Lost(Box::new(lost)));
    r.does("c", Command::Rejoin { cloud: cloud("c"), run: 2 });
    let all = reports(&r.state, &[("b", 0), ("c", 90)]);
    assert!(
        story(&recover(&r.state, &all, &cloud("a"), LATER)).iter().all(|s| !s.contains(" c ")),
        "it is on probation"
    );
}

/// A service of some class, priority, size, and set of heirs among b, c, d.
type Spec = (u8, u32, u32, u32, u8);

fn world(specs: &[Spec], rooms: [(u32, u32); 3]) -> (State, BTreeMap<CloudName, Report>) {
    let mut r = Register::new(&["a", "b", "c", "d"]);
    for (n, (class, priority, least, more, heirs)) in (0u32..).zip(specs) {
        let class = [Class::Guaranteed, Class::Early, Class::Deferred][usize::from(class % 3)];
        let named: Vec<_> =
            (0..3).filter(|bit| heirs & (1 << bit) > 0).map(|bit| ["b", "c", "d"][bit as usize]).collect();
        let mut one = agreed(&format!("s{n}"), class, *priority, (*least, least + more), &named);
        one.unit = room(50 + 25 * (n % 3), 40 + 30 * (n % 4));
        r.protects("a", n.into(), &one);
        assert_eq!(r.refused(), None);
    }
    let mut free = reports(&r.state, &[("b", 0), ("c", 0), ("d", 0)]);
    for (report, (cpu, memory)) in free.values_mut().zip(rooms) {
        report.free = room(cpu, memory);
    }
    (r.state, free)
}

fn specs(max: usize) -> impl Strategy<Value = Vec<Spec>> {
    prop::collection::vec((0u8..3, 0u32..4, 1u32..4, 0u32..4, 0u8..8), 1..max)
}

fn rooms() -> impl Strategy<Value = [(u32, u32); 3]> {
    [(0u32..1_500, 0u32..1_500), (0u32..1_500, 0u32..1_500), (0u32..1_500, 0u32..1_500)]
}

fn placed(v: &recover::Verdict) -> Option<(&CloudName, u32)> {
    match &v.outcome {
        Outcome::Full { to, instances } => Some((to, *instances)),
        Outcome::Degraded { to, have, .. } => Some((to, *have)),
        Outcome::Waiting { .. } | Outcome::Impossible { .. } => None,
    }
}

fn keeps_the_rules(specs: &[Spec], rooms: [(u32, u32); 3], deferred: bool) -> Result<(), TestCaseError> {
    let (state, free) = world(specs, rooms);
    let policy = Policy { deferred };
    let recovery = recover(&state, &free, &cloud("a"), policy);
    prop_assert_eq!(&recovery, &recover(&state, &free, &cloud("a"), policy), "the same again");
    prop_assert_eq!(recovery.items.len(), state.services.len(), "each service ends once");
    let mut left: BTreeMap<_, _> = free.iter().map(|(c, r)| (c.clone(), r.free)).collect();
    for v in &recovery.items {
        let owned = &state.services[&v.service];
        let Some((to, have)) = placed(v) else { continue };
        prop_assert!(owned.may_live_at(to));
        prop_assert!(v.class != Class::Deferred || deferred);
        let need = owned.agreed.unit.times(have);
        prop_assert!(need.fits_in(left[to]), "{} is overcommitted by {}", to, v.name);
        left.insert(to.clone(), left[to].minus(need));
        prop_assert!(have >= 1 && (v.class == Class::Guaranteed || have >= owned.agreed.least));
    }
    // Nobody lacks its place because of one that counts less in its class.
    for high in recovery.items.iter().filter(|v| placed(v).is_none()) {
        let one = &state.services[&high.service];
        let least = if high.class == Class::Guaranteed { 1 } else { one.agreed.least };
        for low in recovery.items.iter().filter(|v| v.class == high.class && v.priority < high.priority) {
            let Some((to, have)) = placed(low) else { continue };
            let gained = left[to].plus(state.services[&low.service].agreed.unit.times(have));
            let would = one.may_live_at(to) && one.agreed.unit.times(least).fits_in(gained);
            prop_assert!(
                !would || (high.class == Class::Deferred && !deferred),
                "{} stands back behind {}",
                high.name,
                low.name
            );
        }
    }
    Ok(())
}

/// Found by chance before: who could only have a part, who was behind a lower one, who got room that became free late, who
/// was behind a lower one after others had moved.
#[test]
fn what_went_wrong_once_does_not_again() {
    let rules = |specs: &[Spec], rooms| keeps_the_rules(specs, rooms, false).unwrap();
    rules(&[(0, 0, 3, 0, 5), (0, 1, 1, 1, 1), (0, 0, 1, 0, 2), (0, 1, 2, 2, 1)], [(300, 270), (0, 0), (0, 0)]);
    rules(&[(0, 3, 1, 0, 3), (0, 0, 1, 0, 0), (0, 1, 1, 1, 1), (0, 0, 2, 0, 1)], [(100, 260), (50, 40), (0, 0)]);
    let late = [(0, 0, 1, 0, 6), (0, 0, 1, 0, 0), (1, 0, 1, 1, 3), (2, 0, 1, 0, 0), (1, 0, 2, 1, 3), (1, 0, 2, 0, 1)];
    rules(&late, [(250, 180), (475, 360), (0, 0)]);
    let moved = [
        (0, 0, 1, 0, 3),
        (1, 0, 1, 0, 0),
        (0, 0, 1, 0, 3),
        (0, 0, 1, 0, 0),
        (1, 1, 2, 0, 6),
        (1, 0, 1, 1, 2),
        (0, 0, 1, 0, 0),
        (1, 1, 1, 0, 2),
        (0, 0, 1, 1, 6),
    ];
    rules(&moved, [(150, 140), (350, 160), (350, 160)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_keeps_the_rules(specs in specs(14), rooms in rooms(), deferred in any::<bool>()) {
        keeps_the_rules(&specs, rooms, deferred)?;
    }

    /// Against every placement there is: how many guaranteed services are whole, all of one priority and one size.
    #[test]
    fn few_services_of_one_size_are_placed_as_well_as_they_can_be(heirs in prop::collection::vec(1u8..8, 1..8), rooms in [0u32..5, 0u32..5, 0u32..5]) {
        let mut r = Register::new(&["a", "b", "c", "d"]);
        for (n, heirs) in (0u32..).zip(&heirs) {
            let named: Vec<_> = (0..3).filter(|bit| heirs & (1 << bit) > 0).map(|bit| ["b", "c", "d"][bit as usize]).collect();
            r.protects("a", n.into(), &agreed(&format!("s{n}"), Class::Guaranteed, 1, (1, 1), &named));
        }
        let free = reports(&r.state, &[("b", rooms[0]), ("c", rooms[1]), ("d", rooms[2])]);
        let recovery = recover(&r.state, &free, &cloud("a"), NOW);
        let found = recovery.items.iter().filter(|v| matches!(v.outcome, Outcome::Full { .. })).count();
        let best = most(&heirs, rooms);
        // One relocation, not a chain of them: it may miss by one where only a chain helps.
        prop_assert!(found + 1 >= best, "{found} of {best}");
    }
}

/// The most that any placement places.
fn most(heirs: &[u8], rooms: [u32; 3]) -> usize {
    let Some((first, rest)) = heirs.split_first() else { return 0 };
    let without = most(rest, rooms);
    (0..3)
        .filter(|i| first & (1 << i) > 0 && rooms[*i] > 0)
        .map(|i| {
            let mut left = rooms;
            left[i] -= 1;
            1 + most(rest, left)
        })
        .fold(without, usize::max)
}

#[test]
fn a_thousand_services_are_planned_and_fit_one_entry_of_the_log() {
    let mut r = Register::new(&["a", "b", "c", "d"]);
    let mut one = agreed("s", Class::Early, 1, (1, 2), &[]);
    for n in 0..1_000u32 {
        one.name = ServiceName::parse(format!("s{n}")).unwrap();
        one.hosts = [format!("s{n}.example")].into();
        one.standbys = [["b", "c"], ["c", "d"], ["b", "d"]][n as usize % 3]
            .map(|c| StandbyAt { cloud: cloud(c), lease: LeaseId::from_entropy(1), warm: 0 })
            .to_vec();
        let owned = Owned {
            owner: cloud("a"),
            epoch: Epoch(1),
            since_rev: 1,
            phase: state::Phase::Serving,
            agreed: one.clone(),
            in_sync: Default::default(),
            sync_count: 0,
            base: Default::default(),
            keys: Default::default(),
            attempt: 0,
        };
        r.state.services.insert(service(n.into()), owned);
    }
    let recovery = recover(&r.state, &reports(&r.state, &[("b", 500), ("c", 500), ("d", 500)]), &cloud("a"), NOW);
    let lost = Entry::new(cloud("b"), Command::Lost(Box::new(r.lost("a", &["b", "c"], recovery.plan()))));
    let bytes = lost.to_bytes().unwrap().len();
    assert!(bytes <= 150_000, "{bytes} bytes");
    let (after, _) = apply(r.state.clone(), r.state.revision + 1, &lost, rules());
    after.check().unwrap();
    assert_eq!(after.owned_by(&cloud("a")).count(), 0);
    let snapshot = after.to_json().unwrap();
    assert!(snapshot.len() < 800_000, "{} bytes", snapshot.len());
    assert_eq!(State::from_json(&snapshot).unwrap(), after);
}
