//! The journey under every answer that peers can give, in every order: it ends, and what was asked for is let go or lived to its end.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pumasi_journey::record::{Outcome, PartState, Phase, TryState};
use pumasi_journey::{Act, Event, Facts, Journey, PartFacts, adopt, apply, cancel, renewals, step, tick};
use pumasi_judge::{Cause, Verdict};
use pumasi_lease::message::{Emptiness, LeaseStatus, ReservationGrant};
use pumasi_lease::record::EndedBy;
use pumasi_lease::{LentState, Usage};
use pumasi_plan::document::{Borrow, Candidate, PLAN_VERSION, Part as PlanPart, Plan, Switchover};
use pumasi_terms::offer::Requirement;
use pumasi_terms::service::{AutomationMode, Platform, RouteMode};
use pumasi_terms::*;

fn acts(journey: &Journey, generation: u64) -> Vec<Act> {
    pumasi_journey::acts(journey, generation, None)
}

fn open(id: JourneyId, plan: &Plan, now: Now) -> (Journey, Vec<pumasi_journey::Told>) {
    pumasi_journey::open(id, plan, Vec::new(), now)
}

fn at(ms: u64) -> Now {
    Now { boot: BootMs(1_000_000 + ms), wall: WallMs(1_000_000 + ms as i64) }
}

fn service() -> ServiceName {
    ServiceName::parse("notes").unwrap()
}

fn candidate(n: u8) -> Candidate {
    Candidate {
        cloud: CloudName::parse(format!("city-{n}")).unwrap(),
        reservation: ReservationId::from_entropy(n.into()),
        lease: LeaseId::from_entropy(n.into()),
        price_per_instance_hour: Money(10_000),
        rtt_us: 5_000,
        score: u64::from(n),
        why: "near".into(),
        standby_percent: None,
    }
}

fn plan(number: u64, cause: Cause, borrow: bool, parts: Vec<PlanPart>, mode: AutomationMode) -> Plan {
    let requirement = Requirement {
        service: service(),
        platform: Platform::default(),
        resources: Resources { cpu_millis: 100, memory_mib: 64 },
        instances: 3,
        instances_min: 1,
        storage_bytes: 1 << 20,
        price_per_instance_hour_max: Money(20_000),
        egress: Vec::new(),
        standby: None,
    };
    Plan {
        version: PLAN_VERSION,
        id: PlanId::from_entropy(number.into()),
        journey: JourneyId::from_entropy(1),
        number,
        parent: (number > 1).then(|| PlanId::from_entropy(u128::from(number) - 1)),
        service: service(),
        epoch: Epoch(1),
        created_at: WallMs(0),
        verdict: Verdict { service: service(), cause, at: WallMs(0), borrowed_wanted: 3, reasons: Vec::new() },
        mode,
        borrow: borrow.then(|| Borrow {
            requirement,
            candidates: (1..=3).map(candidate).collect(),
            hold_ttl_ms: 5_000,
            lease_ttl_ms: 6_000,
            answer_timeout_ms: 800,
        }),
        parts,
        application: Digest([7; 32]),
        datasets: Vec::new(),
        route: Switchover { mode: RouteMode::Proxy, start: Ppm(400_000), step: Ppm(200_000), step_ms: 100 },
        cost_per_hour_max: Money(60_000),
        bytes_max: 1 << 20,
    }
}

fn grant(n: u8, instances: u32) -> ReservationGrant {
    ReservationGrant {
        id: ReservationId::from_entropy(n.into()),
        instances,
        price_per_instance_hour: Money(10_000),
        expires_in_ms: 5_000,
        lease_ttl_ms_max: 30_000,
        recall_notice_ms: 4_000,
        estimated_start_ms: 100,
        standby_percent: None,
    }
}

fn status(lease: &LeaseId, state: Option<LentState>, ready: u32) -> LeaseStatus {
    LeaseStatus {
        lease: lease.clone(),
        recall_in_ms: matches!(state, Some(LentState::Recalled { .. })).then_some(4_000),
        state,
        expires_in_ms: 6_000,
        instances_ready: ready,
        instances_starting: 0,
        trouble: None,
        last_line: String::new(),
        generation: 1,
        usage: Usage::default(),
        standby: false,
    }
}

fn facts(journey: &Journey, drained: bool) -> Facts {
    let part = |p: &pumasi_journey::Part| (p.lease.clone(), PartFacts { drained, healthy: true });
    Facts { home_ready: 1, parts: journey.parts.iter().map(part).collect() }
}

fn begun() -> (Journey, Plan) {
    let plan = plan(1, Cause::Overload, true, Vec::new(), AutomationMode::Automatic);
    (open(plan.journey.clone(), &plan, at(0)).0, plan)
}

/// Of the grants the best is taken, signed, sent to, and gets ready.
fn made_ready(j: &Journey, plan: &Plan, ready: u32) -> (Journey, LeaseId) {
    let mut j = tick(j, plan, &facts(j, false), at(20)).0;
    let lease = j.parts[0].lease.clone();
    for event in [
        Event::Signed { lease: lease.clone() },
        Event::Sent { lease: lease.clone(), generation: 1 },
        Event::Heard { status: status(&lease, Some(LentState::Active), ready), sent_at: at(50).boot },
    ] {
        j = apply(&j, plan, event, at(60)).0;
    }
    (tick(&j, plan, &facts(&j, false), at(70)).0, lease)
}

/// One lender grants, signs, takes the application and gets ready.
fn serving() -> (Journey, Plan, LeaseId) {
    let (mut j, plan) = begun();
    for n in 1..=3 {
        let event = match n {
            2 => Event::Granted { reservation: ReservationId::from_entropy(2), grant: grant(2, 3) },
            _ => Event::NotGranted { reservation: ReservationId::from_entropy(n), why: "no room".into() },
        };
        j = apply(&j, &plan, event, at(10)).0;
    }
    let (j, lease) = made_ready(&j, &plan, 3);
    (j, plan, lease)
}

#[test]
fn the_usual_way_there_and_back() {
    let (mut j, _, lease) = serving();
    assert_eq!(j.parts[0].state, PartState::Serving);
    assert_eq!((j.serving(), j.coming()), (3, 0));
    assert!(j.parts[0].weight > Ppm(0), "new users go there");
    let back = plan(
        2,
        Cause::Recovery,
        false,
        vec![PlanPart {
            lease: lease.clone(),
            cloud: j.parts[0].lender.clone(),
            instances: 0,
            role: Default::default(),
        }],
        AutomationMode::Automatic,
    );
    j = adopt(&j, &back, at(1_000)).0;
    assert_eq!(j.parts[0].weight, Ppm(0), "nobody new goes there from now on");
    assert_eq!(renewals(&j, &j.parts[0].lender)[0].instances, 3, "while it drains its instances stay");
    j = tick(&j, &back, &facts(&j, true), at(1_100)).0;
    assert_eq!(renewals(&j, &j.parts[0].lender)[0].instances, 0, "drained: none is wanted");
    j = apply(
        &j,
        &back,
        Event::Heard { status: status(&lease, Some(LentState::Active), 0), sent_at: at(1_150).boot },
        at(1_200),
    )
    .0;
    j = tick(&j, &back, &facts(&j, true), at(1_210)).0;
    assert_eq!(acts(&j, 1), [Act::Return { lease: lease.clone() }]);
    j = apply(&j, &back, Event::Returned { lease: lease.clone() }, at(1_220)).0;
    j = tick(&j, &back, &facts(&j, true), at(1_230)).0;
    assert_eq!(acts(&j, 1), [Act::Release { lease: lease.clone() }]);
    let left = Emptiness { processes: 1, ..Emptiness::default() };
    j = apply(&j, &back, Event::Emptied { lease: lease.clone(), left, usage: Usage::default() }, at(1_240)).0;
    j = tick(&j, &back, &facts(&j, true), at(1_250)).0;
    assert_eq!(acts(&j, 1), [Act::Release { lease: lease.clone() }], "asked again until nothing is left");
    j = apply(
        &j,
        &back,
        Event::Emptied { lease: lease.clone(), left: Emptiness::default(), usage: Usage::default() },
        at(1_260),
    )
    .0;
    j = tick(&j, &back, &facts(&j, true), at(1_270)).0;
    assert_eq!(acts(&j, 1), [Act::Settle { lease: lease.clone() }]);
    j = apply(&j, &back, Event::Settled { lease, agreed: true }, at(1_280)).0;
    j = tick(&j, &back, &facts(&j, true), at(1_290)).0;
    assert!(matches!(j.phase, Phase::Closed { outcome: Outcome::Returned, .. }));
    assert!(acts(&j, 2).is_empty());
}

#[test]
fn the_best_grant_is_taken_and_the_others_are_let_go() {
    let (mut j, plan) = begun();
    assert_eq!(acts(&j, 1).len(), 3);
    for n in [3, 1] {
        j = apply(
            &j,
            &plan,
            Event::Granted { reservation: ReservationId::from_entropy(n.into()), grant: grant(n, 3) },
            at(10),
        )
        .0;
    }
    assert!(j.parts.is_empty(), "one has not answered yet");
    j = tick(&j, &plan, &facts(&j, false), at(800)).0;
    assert_eq!(j.parts[0].lender, candidate(1).cloud);
    let let_go: Vec<Act> = acts(&j, 1).into_iter().filter(|a| matches!(a, Act::LetGo { .. })).collect();
    assert_eq!(let_go.len(), 2, "the loser and the silent one: {let_go:?}");
}

/// One lender grants, signs, takes the application and gets ready; nobody is sent there.
fn rehearsed() -> (Journey, Plan, LeaseId) {
    let first = plan(1, Cause::Rehearsal, true, Vec::new(), AutomationMode::Automatic);
    let mut j = step::rehearse(first.journey.clone(), &first, "/healthz".into(), at(0)).0;
    for n in 1..=3u8 {
        let event = Event::Granted { reservation: ReservationId::from_entropy(n.into()), grant: grant(n, 1) };
        j = apply(&j, &first, event, at(10)).0;
    }
    let (j, lease) = made_ready(&j, &first, 1);
    (j, first, lease)
}

#[test]
fn a_rehearsal_asks_once_and_gives_back() {
    let (j, plan, lease) = rehearsed();
    assert_eq!(j.parts[0].state, PartState::Serving);
    assert_eq!((j.serving(), j.coming(), j.parts[0].weight), (0, 0, Ppm(0)), "nobody counts on it");
    assert!(acts(&j, 1).contains(&Act::Ask { lease: lease.clone() }));
    // Its gateway does not know the lease yet: asked again.
    let none = Event::Asked { lease: lease.clone(), answer: Err("no-such-lease".into()) };
    let j = apply(&j, &plan, none, at(80)).0;
    assert!(acts(&j, 1).contains(&Act::Ask { lease: lease.clone() }));
    let answer = pumasi_journey::Answer { status: 200, body_bytes: 7, took_ms: 3 };
    let (j, told) = apply(&j, &plan, Event::Asked { lease: lease.clone(), answer: Ok(answer.clone()) }, at(90));
    assert!(matches!(j.parts[0].state, PartState::Ending { .. }));
    assert!(told.iter().any(|t| t.action == "rehearsal_answered"));
    assert_eq!((j.parts[0].usage.requests, j.parts[0].usage.bytes_out), (1, 7), "both ledgers have it");
    let found = j.rehearsal.clone().unwrap();
    assert_eq!((found.answer, found.trouble, found.took_ms), (Some(answer), None, Some(90)));
    assert!(!acts(&j, 1).contains(&Act::Ask { lease }), "once");
    assert_eq!(serde_json::from_str::<Journey>(&serde_json::to_string(&j).unwrap()).unwrap(), j);
}

#[test]
fn a_rehearsal_without_an_answer_ends_too() {
    let (mut j, plan, lease) = rehearsed();
    let none = Event::Asked { lease: lease.clone(), answer: Err("503".into()) };
    j = apply(&j, &plan, none, at(80)).0;
    let mut ms = 70;
    while matches!(j.parts[0].state, PartState::Serving) {
        ms += 1_000;
        assert!(ms < 30_000, "it waits for ever");
        let beat = Event::Heard { status: status(&lease, Some(LentState::Active), 1), sent_at: at(ms).boot };
        j = apply(&j, &plan, beat, at(ms)).0;
        j = tick(&j, &plan, &facts(&j, false), at(ms)).0;
    }
    assert!(ms >= 20_000, "it was given up after {ms} ms");
    let PartState::Ending { why, .. } = &j.parts[0].state else { panic!("{:?}", j.parts[0].state) };
    assert!(why.contains("503"), "{why}");
}

#[test]
fn load_that_comes_while_it_is_rehearsed_keeps_what_is_rented() {
    let (j, _, lease) = rehearsed();
    let wanted =
        PlanPart { lease: lease.clone(), cloud: j.parts[0].lender.clone(), instances: 1, role: Default::default() };
    let earnest = plan(2, Cause::Overload, true, vec![wanted], AutomationMode::Automatic);
    let j = adopt(&j, &earnest, at(100)).0;
    assert_eq!((j.cause, &j.rehearsal), (Cause::Overload, &None));
    let j = tick(&j, &earnest, &facts(&j, false), at(200)).0;
    assert_eq!(j.serving(), 1);
    assert!(j.parts[0].weight > Ppm(0), "users go there now");
    assert!(!acts(&j, 1).contains(&Act::Ask { lease }));
}

#[test]
fn a_lie_is_not_believed() {
    let (mut j, plan) = begun();
    j = apply(&j, &plan, Event::Granted { reservation: ReservationId::from_entropy(1), grant: grant(1, 30) }, at(10)).0;
    assert!(matches!(j.seeking.unwrap().tries[0].state, TryState::Refused { .. }));
}

#[test]
fn a_recalled_part_serves_until_another_does_or_its_notice_is_nearly_over() {
    let (mut j, plan1, lease) = serving();
    let recalled = LentState::Recalled { deadline: BootMs(0), why: "own need".into() };
    j = apply(
        &j,
        &plan1,
        Event::Heard { status: status(&lease, Some(recalled), 3), sent_at: at(1_000).boot },
        at(1_010),
    )
    .0;
    assert_eq!(j.serving(), 0, "it is not counted on any more");
    let elsewhere = plan(
        2,
        Cause::Recall,
        true,
        vec![PlanPart {
            lease: lease.clone(),
            cloud: j.parts[0].lender.clone(),
            instances: 0,
            role: Default::default(),
        }],
        AutomationMode::Automatic,
    );
    j = adopt(&j, &elsewhere, at(1_020)).0;
    j = tick(&j, &elsewhere, &facts(&j, false), at(1_030)).0;
    assert_eq!(j.part(&lease).unwrap().state, PartState::Serving, "nobody else serves yet");
    j = tick(&j, &elsewhere, &facts(&j, false), at(3_100)).0;
    assert!(
        matches!(j.part(&lease).unwrap().state, PartState::Ending { .. }),
        "half of the notice is kept for leaving"
    );
}

#[test]
fn after_a_reboot_what_was_rented_is_given_back() {
    let (j, plan, lease) = serving();
    // The new boot's clock is far behind the old one's.
    let early = Now { boot: BootMs(500), wall: WallMs(9_000_000) };
    let next = step::after_reboot(&j, early);
    let (next, _) = tick(&next, &plan, &facts(&next, false), early);
    assert!(matches!(next.part(&lease).unwrap().state, PartState::Ending { .. }));
    assert_eq!(next.part(&lease).unwrap().weight, Ppm(0));
}

#[test]
fn a_plan_that_waits_does_nothing() {
    let plan = plan(1, Cause::Overload, true, Vec::new(), AutomationMode::Ask);
    let (j, _) = open(plan.journey.clone(), &plan, at(0));
    assert_eq!(j.phase, Phase::Waiting);
    assert!(acts(&j, 1).is_empty());
    let (closed, _) = cancel(&j, "refused", at(5));
    assert!(matches!(closed.phase, Phase::Closed { outcome: Outcome::NotBegun, .. }));
}

#[test]
fn a_journey_of_version_1_is_read_and_written_as_it_was() {
    let golden = include_str!("golden/journey-v1.json");
    let (j, _, _) = serving();
    assert_eq!(serde_json::from_str::<Journey>(golden).unwrap(), j, "stored journeys must keep being read");
    assert_eq!(serde_json::to_string_pretty(&j).unwrap(), golden.trim_end());
}

/// Any answer about any of the three, sensible or not.
fn any_event() -> impl Strategy<Value = Event> {
    let n = || 1u8..=3;
    let lease = |n: u8| LeaseId::from_entropy(n.into());
    let hold = |n: u8| ReservationId::from_entropy(n.into());
    prop_oneof![
        (n(), 0u32..5).prop_map(move |(n, i)| Event::Granted { reservation: hold(n), grant: grant(n, i) }),
        n().prop_map(move |n| Event::NotGranted { reservation: hold(n), why: "no".into() }),
        n().prop_map(move |n| Event::LetGo { reservation: hold(n) }),
        n().prop_map(move |n| Event::Signed { lease: lease(n) }),
        n().prop_map(move |n| Event::NotSigned { lease: lease(n), why: "no".into() }),
        (n(), 1u64..3).prop_map(move |(n, generation)| Event::Sent { lease: lease(n), generation }),
        (n(), any::<bool>()).prop_map(move |(n, fatal)| Event::NotSent { lease: lease(n), why: "no".into(), fatal }),
        (n(), 0u8..5, 0u32..4, 0u64..60_000).prop_map(move |(n, state, ready, ms)| {
            let state = match state {
                0 => None,
                1 => Some(LentState::Recalled { deadline: BootMs(0), why: "need".into() }),
                2 => Some(LentState::Ended { why: EndedBy::Expiry, at: WallMs(0) }),
                _ => Some(LentState::Active),
            };
            Event::Heard { status: status(&lease(n), state, ready), sent_at: at(ms).boot }
        }),
        n().prop_map(move |n| Event::Returned { lease: lease(n) }),
        (n(), any::<bool>()).prop_map(move |(n, empty)| {
            let left = Emptiness { files: u64::from(!empty), ..Emptiness::default() };
            Event::Emptied { lease: lease(n), left, usage: Usage::default() }
        }),
        n().prop_map(move |n| Event::Unknown { lease: lease(n) }),
        n().prop_map(move |n| Event::Settled { lease: lease(n), agreed: true }),
    ]
}

fn rank(state: &PartState) -> u8 {
    match state {
        PartState::Signing => 0,
        PartState::Sending => 1,
        PartState::Starting => 2,
        PartState::Serving => 3,
        // Standbys have tests of their own: they go from being kept to serving, and back.
        PartState::Resting | PartState::Kept => unreachable!("nothing here is a standby"),
        PartState::Ending { .. } => 4,
        PartState::Ended { .. } => 5,
    }
}

fn check(before: &Journey, after: &Journey) -> Result<(), TestCaseError> {
    for part in &after.parts {
        let old = before.part(&part.lease).map_or(0, |p| rank(&p.state));
        prop_assert!(rank(&part.state) >= old, "{:?} went back", part.lease);
        prop_assert!(part.weight == Ppm(0) || part.state == PartState::Serving, "users are sent to {:?}", part.state);
        prop_assert!(part.wanted <= part.granted && part.ready <= part.granted);
    }
    prop_assert!(after.parts.len() <= 1, "one plan borrows once");
    let chosen = after.seeking.iter().flat_map(|s| &s.tries).filter(|t| t.state == TryState::Chosen).count();
    prop_assert!(chosen <= 1);
    if !after.is_open() {
        prop_assert!(acts(after, 9).is_empty() && after.parts.iter().all(|p| p.is_over()) && after.seeking.is_none());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn whatever_peers_answer_it_ends_and_nothing_is_forgotten(
        steps in prop::collection::vec((any_event(), 0u64..3_000, any::<bool>()), 0..60),
        cancelled in any::<bool>(),
    ) {
        let (mut j, plan) = begun();
        let mut now_ms = 0;
        for (event, ms, drained) in steps {
            now_ms += ms;
            let next = apply(&j, &plan, event, at(now_ms)).0;
            check(&j, &next)?;
            j = tick(&next, &plan, &facts(&next, drained), at(now_ms)).0;
            check(&next, &j)?;
        }
        if cancelled {
            j = cancel(&j, "asked", at(now_ms)).0;
        }
        // From now on nobody answers at all: holds and leases run out by themselves.
        for _ in 0..12 {
            now_ms += 700_000;
            let next = tick(&j, &plan, &facts(&j, false), at(now_ms)).0;
            check(&j, &next)?;
            j = next;
        }
        prop_assert!(!j.is_open(), "{:#?}", j);
    }
}
